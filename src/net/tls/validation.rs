//! The handshake by which an authority sees that a name is ours
//! (TLS-ALPN-01, RFC 8737).

use std::fmt;
use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::VALIDATION;

type Answer = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How those are answered who validate; nobody is, by default.
#[derive(Default)]
pub(super) struct Validation(OnceLock<Answer>);

impl fmt::Debug for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validation").finish_non_exhaustive()
    }
}

impl Validation {
    /// Key authorizations come from there.
    pub(super) fn set(&self, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        let _one_caller = self.0.set(Box::new(answer));
    }

    /// Whether a client wants to validate. It asks for nothing else then.
    pub(super) fn is_wanted(&self, hello: &ClientHello<'_>) -> bool {
        self.0.get().is_some() && hello.alpn().is_some_and(|it| it.eq([VALIDATION]))
    }

    /// The certificate that proves the name ours; none while nobody has asked
    /// for a proof.
    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let answer = self.0.get()?(&name)?;
        proof(name, &answer).map(Arc::new)
    }
}

/// Self-signed, with the hash of the key authorization in it (section 3).
fn proof(name: String, key_authorization: &str) -> Option<CertifiedKey> {
    let hash = Sha256::digest(key_authorization.as_bytes());
    let mut parameters = CertificateParams::new([name]).ok()?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(&hash)];
    let key = KeyPair::generate().ok()?;
    let certificate = parameters.self_signed(&key).ok()?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    let key = ring::sign::any_supported_type(&key).ok()?;
    Some(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::super::certificate::Certificate;
    use super::*;

    #[test]
    fn a_proof_names_the_name_alone_and_holds_the_hash() {
        let validation = Validation::default();
        assert!(validation.certificate("a.example").is_none());
        validation.set(|name| (name == "a.example").then(|| "token.thumb".to_owned()));
        assert!(validation.certificate("b.example").is_none());
        let proof = validation.certificate("A.example").expect("a proof");
        let der = proof.cert.first().expect("a certificate");
        let leaf = Certificate::read(der).expect("a certificate");
        assert_eq!(leaf.dns_names(), ["a.example"]);
        // id-pe-acmeIdentifier, critical, an octet string in an octet string.
        let mut extension = vec![
            0x06, 8, 0x2b, 6, 1, 5, 5, 7, 1, 0x1f, 1, 1, 0xff, 4, 34, 4, 32,
        ];
        extension.extend(Sha256::digest(b"token.thumb"));
        assert!(memchr::memmem::find(der, &extension).is_some(), "{der:?}");
    }
}
