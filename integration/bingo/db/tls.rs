//! TLS to the server by libpq's words and libpq's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// Where the trusted roots are when the user has no `root.crt`.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    Tls,
}

/// How far a certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// libpq's `sslmode` words: the ways to try in order, and the check.
const MODES: &[(&str, &[Way], Check)] = &[
    ("disable", &[Way::Plain], Check::Nothing),
    ("allow", &[Way::Plain, Way::Tls], Check::Nothing),
    ("prefer", &[Way::Tls, Way::Plain], Check::Nothing),
    ("require", &[Way::Tls], Check::Nothing),
    ("verify-ca", &[Way::Tls], Check::Chain),
    ("verify-full", &[Way::Tls], Check::ChainAndName),
];

/// The ways that a word of `ssl_mode` allows, and the TLS settings for them.
///
/// Files are libpq's, in `.postgresql` under `home`: `root.crt`, and
/// `postgresql.crt` with `postgresql.key` for a client certificate.
///
/// # Errors
/// The word is unknown, or a file is missing or unusable; the text names it.
pub(super) fn settings(
    word: &str,
    home: Option<&Path>,
) -> Result<(&'static [Way], Arc<ClientConfig>), String> {
    let (_, ways, check) = MODES
        .iter()
        .find(|(mode, ..)| *mode == word)
        .ok_or_else(|| {
            let words: Vec<_> = MODES.iter().map(|(mode, ..)| *mode).collect();
            format!("ssl_mode {word:?} is none of {}", words.join(", "))
        })?;
    let file = |name: &str| {
        home.map(|home| home.join(".postgresql").join(name))
            .filter(|path| path.exists())
    };
    let root = file("root.crt");
    // As in libpq, a root file at hand makes `require` look at the chain.
    let check = match check {
        Check::Nothing if word == "require" && root.is_some() => Check::Chain,
        check => *check,
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier(check, root, provider)?);
    let config = match (file("postgresql.crt"), file("postgresql.key")) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(certificates(&certificate)?, private_key(&key)?)
            .map_err(|e| format!("{}: {e}", certificate.display()))?,
        _ => builder.with_no_client_auth(),
    };
    Ok((ways, Arc::new(config)))
}

fn verifier(
    check: Check,
    root: Option<PathBuf>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let algorithms = provider.signature_verification_algorithms;
    if check == Check::Nothing {
        return Ok(Arc::new(Verifier {
            chain: None,
            algorithms,
        }));
    }
    let path = root.unwrap_or_else(|| SYSTEM_ROOTS.into());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&path)?);
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(match check {
        Check::ChainAndName => chain,
        _ => Arc::new(Verifier {
            chain: Some(chain),
            algorithms,
        }),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Looks at the chain or at nothing, never at the name.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_libpq_is_known() {
        for word in ["disable", "allow", "prefer", "require"] {
            assert!(settings(word, None).is_ok(), "{word}");
        }
        assert_eq!(
            settings("allow", None).expect("valid").0,
            [Way::Plain, Way::Tls]
        );
        assert_eq!(
            settings("prefer", None).expect("valid").0,
            [Way::Tls, Way::Plain]
        );
    }

    #[test]
    fn another_word_is_refused_with_the_list() {
        let error = settings("sometimes", None).expect_err("refused");
        assert!(
            error.contains("disable, allow, prefer, require, verify-ca, verify-full"),
            "{error}"
        );
    }
}
