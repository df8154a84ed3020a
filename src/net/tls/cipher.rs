//! What protects a connection, in OpenSSL's words.

use std::fmt;

use rustls::{CipherSuite, NamedGroup, ProtocolVersion};

/// The cipher suites there are, as OpenSSL calls them, the preferred first.
pub(super) const NAMES: [(CipherSuite, &str); 9] = [
    (
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        "TLS_AES_256_GCM_SHA384",
    ),
    (
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        "TLS_CHACHA20_POLY1305_SHA256",
    ),
    (
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        "TLS_AES_128_GCM_SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
];

/// What a handshake agreed on. Displays as PgBouncer's log and `SHOW` name it:
/// `TLSv1.3/TLS_AES_256_GCM_SHA384`, and with the curve for TLS 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cipher {
    suite: CipherSuite,
    /// The curve, where the suite does not stand for TLS 1.3.
    group: Option<NamedGroup>,
}

impl Cipher {
    pub(super) fn new(
        version: ProtocolVersion,
        suite: CipherSuite,
        group: Option<NamedGroup>,
    ) -> Cipher {
        let old = version != ProtocolVersion::TLSv1_3;
        Cipher {
            suite,
            group: group.filter(|_| old),
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = NAMES.iter().find(|(suite, _)| *suite == self.suite);
        let name = known.map_or("unknown", |(_, name)| *name);
        match self.group {
            None if name.starts_with("TLS_") => write!(f, "TLSv1.3/{name}"),
            None => write!(f, "TLSv1.2/{name}"),
            Some(group) => write!(f, "TLSv1.2/{name}/ECDH={}", curve(group)),
        }
    }
}

fn curve(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cipher_is_named_as_by_openssl() {
        let group = Some(NamedGroup::secp256r1);
        let new = Cipher::new(
            ProtocolVersion::TLSv1_3,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            group,
        );
        let old = Cipher::new(
            ProtocolVersion::TLSv1_2,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            group,
        );
        assert_eq!(new.to_string(), "TLSv1.3/TLS_AES_256_GCM_SHA384");
        assert_eq!(
            old.to_string(),
            "TLSv1.2/ECDHE-RSA-AES128-GCM-SHA256/ECDH=prime256v1"
        );
    }
}
