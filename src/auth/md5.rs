//! PostgreSQL's MD5 passwords.
//!
//! Stored: `md5` + hex(MD5(password + user)). Sent for a challenge with a
//! 4-byte salt: `md5` + hex(MD5(hex part of the stored hash + salt)).

use md5::{Digest, Md5};
use std::fmt;
use subtle::ConstantTimeEq;

const PREFIX: &[u8; 3] = b"md5";

/// The hex part of an MD5 password: 32 lower-case digits. Never printed: it is
/// as good as the password where a server asks for MD5.
#[derive(Clone, Copy)]
pub struct Md5Hash([u8; 32]);

impl Md5Hash {
    /// The hash PostgreSQL stores for `password` of `user`.
    pub fn of(password: &[u8], user: &str) -> Self {
        Md5Hash(hex_md5(password, user.as_bytes()))
    }

    /// Reads `md5` and 32 lower-case hex digits; anything else is no MD5 hash.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let digits: [u8; 32] = text.strip_prefix(PREFIX)?.try_into().ok()?;
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        digits.iter().all(is_hex).then_some(Md5Hash(digits))
    }

    /// The answer to an AuthenticationMD5Password with this `salt`, without
    /// the terminating zero byte.
    pub fn answer(&self, salt: [u8; 4]) -> [u8; 35] {
        with_prefix(&hex_md5(&self.0, &salt))
    }

    /// The stored form, `md5` and 32 digits.
    pub fn to_stored(self) -> [u8; 35] {
        with_prefix(&self.0)
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Md5Hash {}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("md5***")
    }
}

fn with_prefix(digits: &[u8; 32]) -> [u8; 35] {
    let mut text = [0; 35];
    text[..3].copy_from_slice(PREFIX);
    text[3..].copy_from_slice(digits);
    text
}

/// hex(MD5(head + tail)), lower case.
fn hex_md5(head: &[u8], tail: &[u8]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let sum = Md5::new().chain_update(head).chain_update(tail).finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(sum) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_postgresqls() {
        // select 'md5' || md5('foo' || 'muser1')
        let stored = b"md5ab8b744ff66bee42dc47bae34ca17959";
        assert_eq!(&Md5Hash::of(b"foo", "muser1").to_stored(), stored);
        assert_eq!(Md5Hash::parse(stored), Some(Md5Hash::of(b"foo", "muser1")));
    }

    #[test]
    fn answer_hashes_the_hex_digits_and_the_salt() {
        // select 'md5' || md5(convert_to('ab8b744ff66bee42dc47bae34ca17959', 'UTF8') || '\x01020304')
        let hash = Md5Hash::of(b"foo", "muser1");
        assert_eq!(
            &hash.answer([1, 2, 3, 4]),
            b"md5cbed5d7df5ce72a10b51fdf89c0cdc6b"
        );
    }

    #[test]
    fn other_texts_are_no_hash() {
        let cases: [&[u8]; 6] = [
            b"",
            b"md5",
            b"md5ab8b744ff66bee42dc47bae34ca1795",
            b"md5ab8b744ff66bee42dc47bae34ca179590",
            b"md5AB8B744FF66BEE42DC47BAE34CA17959",
            b"MD5ab8b744ff66bee42dc47bae34ca17959",
        ];
        for text in cases {
            assert_eq!(Md5Hash::parse(text), None);
        }
    }

    #[test]
    fn debug_hides_the_hash() {
        assert_eq!(format!("{:?}", Md5Hash::of(b"foo", "muser1")), "md5***");
    }
}
