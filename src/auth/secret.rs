//! What is stored for a user: plain text, an MD5 hash or a SCRAM verifier.

use super::md5::Md5Hash;
use super::same_secret;
use super::scram::Verifier;
use std::fmt;

/// Longest password, in bytes (PgBouncer's `MAX_PASSWORD` less its zero byte).
pub const MAX_PASSWORD_BYTES: usize = 65_530;

/// A password in the clear. Compared in constant time, never printed.
#[derive(Clone, Default)]
pub struct Plaintext(Box<[u8]>);

impl Plaintext {
    /// Keeps `password` as it is; any bytes will do.
    pub fn new(password: impl Into<Box<[u8]>>) -> Self {
        Plaintext(password.into())
    }

    /// The password itself. Do not log it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// An empty password is "no password": it never authenticates.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Plaintext {
    fn eq(&self, other: &Self) -> bool {
        same_secret(&self.0, &other.0)
    }
}

impl Eq for Plaintext {}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A stored secret (auth_file, `password=`, answer of auth_query).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself; empty is "no password".
    Plain(Plaintext),
    /// `md5` and 32 lower-case hex digits.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$iterations:salt$storedkey:serverkey`.
    Scram(Verifier),
}

impl Secret {
    /// Tells the kinds apart as PgBouncer does; what is neither an MD5 hash
    /// nor a SCRAM verifier is plain text.
    pub fn parse(text: &[u8]) -> Self {
        if let Some(hash) = Md5Hash::parse(text) {
            return Secret::Md5(hash);
        }
        if let Some(verifier) = Verifier::parse(text) {
            return Secret::Scram(verifier);
        }
        Secret::Plain(Plaintext::new(text))
    }

    /// As it is stored, for the next process. Do not log it.
    pub fn to_stored(&self) -> Vec<u8> {
        match self {
            Secret::Plain(password) => password.as_bytes().to_vec(),
            Secret::Md5(hash) => hash.to_stored().to_vec(),
            Secret::Scram(verifier) => verifier.to_stored().into_bytes(),
        }
    }

    /// A secret that nothing matches: a blanked user, or NULL from auth_query.
    pub fn none() -> Self {
        Secret::Plain(Plaintext::default())
    }

    /// True for [`Secret::none`], which never authenticates.
    pub fn is_none(&self) -> bool {
        matches!(self, Secret::Plain(password) if password.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let md5 = b"md5ab8b744ff66bee42dc47bae34ca17959";
        assert!(matches!(Secret::parse(md5), Secret::Md5(_)));
        let scram = b"SCRAM-SHA-256$4096:D76gvGUVj9Z4DNiGoabOBg==$RukL0Xo3Ql/2F9FsD7mcQ3GATG2fD3PA71qY1JagGDs=:BhKUwyyivFm7Tq2jDJVXSVRbRDgTWyBilZKgg6DDuYU=";
        assert!(matches!(Secret::parse(scram), Secret::Scram(_)));
        assert!(matches!(Secret::parse(&scram[..100]), Secret::Plain(_)));
        assert!(matches!(Secret::parse(b"md5"), Secret::Plain(_)));
        assert!(matches!(Secret::parse(b"foo"), Secret::Plain(_)));
    }

    #[test]
    fn what_is_stored_is_read_as_the_same_secret() {
        for text in [&b"md5ab8b744ff66bee42dc47bae34ca17959"[..], b"foo"] {
            assert_eq!(Secret::parse(text).to_stored(), text);
        }
    }

    #[test]
    fn the_empty_secret_is_none() {
        assert!(Secret::parse(b"").is_none());
        assert!(Secret::none().is_none());
        assert!(!Secret::parse(b"x").is_none());
        assert!(!Secret::parse(b"md5ab8b744ff66bee42dc47bae34ca17959").is_none());
    }

    #[test]
    fn debug_shows_the_kind_only() {
        assert_eq!(format!("{:?}", Secret::parse(b"hunter2")), "Plain(***)");
        let md5 = Secret::parse(b"md5ab8b744ff66bee42dc47bae34ca17959");
        assert_eq!(format!("{md5:?}"), "Md5(md5***)");
    }
}
