//! TLS: certificates, and the bytes of a connection.
//!
//! An input is a kind, and for connections a seed for the pieces.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::identity::Identity;
use super::samples::{self, AUTHORITY, KEY, NOW, OTHER_AUTHORITY, VERSION_1, VERSION_3};
use super::session::fuzz::{honest, own_offer, stream};
use super::trust::{Authorities, ServerCheck, ServerTrust};
use super::{ClientSide, Tls};
use crate::wire::fuzz::Input;

/// Nothing that is not signed is trusted, and what is opened was sealed.
pub fn tls(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => certificate(input.rest()),
        1 => changed(input),
        2 => stream(input),
        _ => honest(input),
    }
}

/// What clients of other targets are offered.
pub(crate) fn offer() -> Tls {
    Tls {
        clients: ClientSide::preferring(own_offer()),
        ..Tls::default()
    }
}

/// A site for other targets, and a client that trusts anybody.
pub(crate) fn site(protocol: &[u8]) -> (Arc<Identity>, ClientConfig) {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let key = provider.key_provider.load_private_key(key);
    let chain = vec![samples::der(VERSION_3)];
    let identity = Identity::of(CertifiedKey::new(chain, key.expect("a good key")));
    let trust = ServerTrust::new(ServerCheck::Nothing, &provider);
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    client.alpn_protocols = vec![protocol.to_vec()];
    (identity, client)
}

/// Any bytes, which say names only where rustls sees the same ones.
fn certificate(bytes: &[u8]) {
    let der = CertificateDer::from(bytes);
    let known = [AUTHORITY, VERSION_1, VERSION_3].map(samples::der);
    let Some(own) = Certificate::read(bytes) else {
        assert!(!is_trusted(&der) && !known.contains(&der));
        return;
    };
    for part in [own.signed, own.issuer, own.subject(), own.key_info] {
        assert!(part.is_empty() || bytes.windows(part.len()).any(|it| it == part));
    }
    assert_eq!(Certificate::read(&[bytes, b"\0"].concat()), None);
    assert_eq!(Certificate::read(&bytes[..bytes.len() - 1]), None);
    let names = own.dns_names().into_iter().chain(own.common_name());
    assert!(
        names
            .into_iter()
            .all(|name| !name.is_empty() && !name.contains('\0'))
    );
    if is_trusted(&der) {
        let signed = known.iter().filter_map(|known| Certificate::read(known));
        assert!(signed.into_iter().any(|known| known.signed == own.signed));
    }
    if let Ok(_parsed) = ParsedCertificate::try_from(&der) {
        assert!(!own.is_version_1, "of version 3");
    }
}

/// A true certificate with some bytes changed.
fn changed(mut input: Input<'_>) {
    let which = usize::from(input.byte());
    let samples = [VERSION_1, VERSION_3, AUTHORITY, OTHER_AUTHORITY];
    let mut der = samples::der(samples[which % samples.len()]).to_vec();
    while !input.is_empty() {
        let at = usize::from(u16::from_be_bytes([input.byte(), input.byte()]));
        let length = der.len();
        der[at % length] = input.byte();
    }
    certificate(&der);
}

/// Whether a server that shows this is taken.
fn is_trusted(der: &CertificateDer<'_>) -> bool {
    static TRUST: LazyLock<ServerTrust> = LazyLock::new(|| {
        let authorities = Authorities::new(vec![samples::der(AUTHORITY)]);
        let check = ServerCheck::Chain(authorities.expect("an authority"));
        ServerTrust::new(check, &Arc::new(ring::default_provider()))
    });
    let name = ServerName::try_from("one.example").expect("a name");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    TRUST.verify_server_cert(der, &[], &name, &[], now).is_ok()
}
