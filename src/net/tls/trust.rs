//! Which certificates of the other side are taken.
//!
//! rustls verifies chains. Two kinds of certificates that OpenSSL takes are
//! none to it, and PostgreSQL's users have them: those of version 1, which
//! `openssl x509 -req` makes, and self-signed ones that the CA file holds
//! themselves. They are verified here, and no others: the first against the
//! authority's key, without anything between, the second by being the same.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::certificate::Certificate;

/// The authorities of a CA file.
#[derive(Debug, Clone)]
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Authorities {
    /// Takes what was read from a CA file. Of several certificates, those that
    /// rustls can use count.
    ///
    /// # Errors
    /// Why it can use none.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Authorities, Error> {
        let mut roots = RootCertStore::empty();
        let mut added = Err(Error::NoCertificatesPresented);
        for certificate in &certificates {
            added = roots.add(certificate.clone());
        }
        if roots.is_empty() {
            added?;
        }
        Ok(Authorities {
            roots: Arc::new(roots),
            certificates: certificates.into(),
        })
    }

    /// Whether a certificate is one that rustls does not know how to verify,
    /// and is vouched for.
    ///
    /// # Errors
    /// It is one, and is not.
    fn vouch_for(
        &self,
        der: &CertificateDer<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<bool, CertificateError> {
        let certificate = Certificate::read(der).ok_or(CertificateError::BadEncoding)?;
        let is_one_of_them = self.certificates.iter().any(|known| known == der);
        if !is_one_of_them && !certificate.is_version_1 {
            return Ok(false);
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < certificate.validity.0 {
            return Err(CertificateError::NotValidYet);
        }
        if !certificate.is_valid_at(now) {
            return Err(CertificateError::Expired);
        }
        match is_one_of_them || self.have_signed(&certificate, algorithms) {
            true => Ok(true),
            false => Err(CertificateError::UnknownIssuer),
        }
    }

    fn have_signed(
        &self,
        certificate: &Certificate<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let named = self
            .certificates
            .iter()
            .filter_map(|known| Certificate::read(known));
        let mut issuers = named.filter(|known| known.subject() == certificate.issuer);
        issuers.any(|issuer| {
            let unconstrained = self.roots.roots.iter().any(|root| {
                root.subject.as_ref() == issuer.subject() && root.name_constraints.is_none()
            });
            unconstrained
                && algorithms.all.iter().any(|algorithm| {
                    algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                        && algorithm.public_key_alg_id().as_ref() == issuer.key_algorithm
                        && algorithm
                            .verify_signature(issuer.key, certificate.signed, certificate.signature)
                            .is_ok()
                })
        })
    }

    /// Takes rustls's verdict, or this module's where rustls has none.
    fn judge<T>(
        &self,
        verdict: Result<T, Error>,
        taken: T,
        der: &CertificateDer<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<T, Error> {
        let Err(Error::InvalidCertificate(why)) = verdict else {
            return verdict;
        };
        match self.vouch_for(der, now, algorithms) {
            Ok(true) => Ok(taken),
            Ok(false) => Err(Error::InvalidCertificate(why)),
            Err(why) => Err(Error::InvalidCertificate(why)),
        }
    }
}

/// What is asked of a server's certificate.
#[derive(Debug, Clone)]
pub(super) enum ServerCheck {
    /// Nothing.
    Nothing,
    /// That it is of one of these authorities.
    Chain(Authorities),
    /// And that it names the host.
    ChainAndName(Authorities),
}

/// Verifies the certificates of servers.
pub(super) struct ServerTrust {
    check: ServerCheck,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerTrust {
    pub(super) fn new(check: ServerCheck, provider: &CryptoProvider) -> ServerTrust {
        ServerTrust {
            check,
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTrust").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerTrust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (authorities, by_name) = match &self.check {
            ServerCheck::Nothing => return Ok(ServerCertVerified::assertion()),
            ServerCheck::Chain(authorities) => (authorities, false),
            ServerCheck::ChainAndName(authorities) => (authorities, true),
        };
        let parsed = ParsedCertificate::try_from(end_entity);
        let verdict = parsed.and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &authorities.roots,
                intermediates,
                now,
                self.algorithms.all,
            )
        });
        authorities.judge(verdict, (), end_entity, now, &self.algorithms)?;
        if by_name && !names_host(end_entity, server_name) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies the certificates of clients.
pub(super) struct ClientTrust {
    inner: Arc<dyn ClientCertVerifier>,
    authorities: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientTrust {
    /// Clients without a certificate are let in if it is not `mandatory`.
    ///
    /// # Errors
    /// There is no authority.
    pub(super) fn new(
        authorities: Authorities,
        mandatory: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ClientTrust, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(
            authorities.roots.clone(),
            provider.clone(),
        );
        let builder = match mandatory {
            true => builder,
            false => builder.allow_unauthenticated(),
        };
        Ok(ClientTrust {
            inner: builder.build().map_err(|error| error.to_string())?,
            authorities,
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl fmt::Debug for ClientTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTrust").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = self
            .inner
            .verify_client_cert(end_entity, intermediates, now);
        let taken = ClientCertVerified::assertion();
        self.authorities
            .judge(verdict, taken, end_entity, now, &self.algorithms)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate, if only this module can read it.
fn version_1<'a>(der: &'a CertificateDer<'_>) -> Option<Certificate<'a>> {
    Certificate::read(der).filter(|certificate| certificate.is_version_1)
}

fn signed_tls12(
    message: &[u8],
    der: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let Some(certificate) = version_1(der) else {
        return verify_tls12_signature(message, der, dss, algorithms);
    };
    let mut candidates = algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == dss.scheme)
        .flat_map(|(_, candidates)| candidates.iter());
    let valid = candidates.any(|algorithm| {
        algorithm.public_key_alg_id().as_ref() == certificate.key_algorithm
            && algorithm
                .verify_signature(certificate.key, message, dss.signature())
                .is_ok()
    });
    match valid {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(Error::InvalidCertificate(CertificateError::BadSignature)),
    }
}

fn signed_tls13(
    message: &[u8],
    der: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    match version_1(der) {
        None => verify_tls13_signature(message, der, dss, algorithms),
        Some(certificate) => {
            let key = SubjectPublicKeyInfoDer::from(certificate.key_info);
            verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
        }
    }
}

/// Whether a certificate is for this host: by its other names, or, as with
/// PgBouncer, by its common name.
fn names_host(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let parsed = ParsedCertificate::try_from(der);
    if parsed.is_ok_and(|parsed| verify_server_name(&parsed, host).is_ok()) {
        return true;
    }
    let certificate = Certificate::read(der);
    let Some(common_name) = certificate.and_then(|certificate| certificate.common_name()) else {
        return false;
    };
    match host {
        ServerName::IpAddress(ip) => std::net::IpAddr::from(*ip).to_string() == common_name,
        host => name_matches(common_name, &host.to_str()),
    }
}

/// Whether the name in a certificate is this host's. `*.` stands for one label
/// in front of at least two.
fn name_matches(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(domain), Some((label, rest))) = (name.strip_prefix("*."), host.split_once('.'))
    else {
        return false;
    };
    let has_two_labels = domain
        .split_once('.')
        .is_some_and(|(first, second)| !first.is_empty() && !second.is_empty());
    has_two_labels && !label.is_empty() && domain.eq_ignore_ascii_case(rest)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, AUTHORITY, NOW, OTHER_AUTHORITY, VERSION_1, VERSION_3};
    use super::*;

    fn check(authority: &str, leaf: &str, host: Option<&str>, now: u64) -> Result<(), Error> {
        let authorities = Authorities::new(vec![samples::der(authority)]).expect("an authority");
        let check = match host {
            Some(_) => ServerCheck::ChainAndName(authorities),
            None => ServerCheck::Chain(authorities),
        };
        let provider = rustls::crypto::ring::default_provider();
        let name = ServerName::try_from(host.unwrap_or("any.host")).expect("a name");
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        ServerTrust::new(check, &provider)
            .verify_server_cert(&samples::der(leaf), &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn a_leaf_of_the_authority_is_taken_whatever_its_version() {
        for leaf in [VERSION_1, VERSION_3] {
            assert_eq!(check(AUTHORITY, leaf, None, NOW), Ok(()));
            assert!(check(OTHER_AUTHORITY, leaf, None, NOW).is_err());
        }
    }

    #[test]
    fn a_leaf_out_of_its_time_is_not_taken() {
        for leaf in [VERSION_1, VERSION_3] {
            for now in [0, NOW * 10] {
                assert!(check(AUTHORITY, leaf, None, now).is_err());
            }
        }
    }

    #[test]
    fn a_self_signed_certificate_is_taken_where_the_file_holds_it() {
        assert_eq!(check(AUTHORITY, AUTHORITY, None, NOW), Ok(()));
        assert!(check(OTHER_AUTHORITY, AUTHORITY, None, NOW).is_err());
        assert!(check(AUTHORITY, AUTHORITY, None, 0).is_err());
    }

    #[test]
    fn a_leaf_with_a_changed_byte_is_not_taken() {
        let authorities = Authorities::new(vec![samples::der(AUTHORITY)]).expect("an authority");
        let provider = rustls::crypto::ring::default_provider();
        let trust = ServerTrust::new(ServerCheck::Chain(authorities), &provider);
        let name = ServerName::try_from("any.host").expect("a name");
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
        let leaf = samples::der(VERSION_1).to_vec();
        for at in 0..leaf.len() {
            let mut changed = leaf.clone();
            changed[at] ^= 1;
            let changed = CertificateDer::from(changed);
            let verdict = trust.verify_server_cert(&changed, &[], &name, &[], now);
            assert!(verdict.is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_host_is_found_in_the_other_names_or_the_common_name() {
        let cases = [
            (VERSION_1, "db.example", true),
            (VERSION_1, "DB.Example", true),
            (VERSION_1, "other.example", false),
            (VERSION_1, "127.0.0.1", false),
            (VERSION_3, "one.example", true),
            (VERSION_3, "two.example", true),
            (VERSION_3, "127.0.0.1", true),
            (VERSION_3, "127.0.0.2", false),
            (VERSION_3, "three.example", false),
            (VERSION_3, "common.example", true),
        ];
        for (leaf, host, taken) in cases {
            let verdict = check(AUTHORITY, leaf, Some(host), NOW);
            assert_eq!(verdict.is_ok(), taken, "{host}: {verdict:?}");
        }
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let cases = [
            ("*.db.example", "a.db.example", true),
            ("*.db.example", "a.b.db.example", false),
            ("*.db.example", "db.example", false),
            ("*.db.example", ".db.example", false),
            ("*.example", "a.example", false),
            ("*", "a", false),
            ("*.", "a.", false),
            ("*.db.", "a.db.", false),
            ("a*.db.example", "ab.db.example", false),
        ];
        for (name, host, matches) in cases {
            assert_eq!(name_matches(name, host), matches, "{name} for {host}");
        }
    }
}
