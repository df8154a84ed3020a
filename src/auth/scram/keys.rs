//! The keys of SCRAM and what is computed with them (RFC 5802 section 3).

use super::MAX_ITERATIONS;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;
use subtle::ConstantTimeEq;

type Key = [u8; 32];

/// ClientKey and ServerKey: enough to log in wherever the same verifier is
/// stored, without the password. Compared in constant time, never printed.
#[derive(Clone)]
pub struct ScramKeys {
    client_key: Key,
    server_key: Key,
}

impl ScramKeys {
    /// Derives the keys from a password: PBKDF2, 0.2 to 1 µs for each
    /// iteration. `iterations` is kept within 1 and [`MAX_ITERATIONS`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let rounds = iterations.clamp(1, MAX_ITERATIONS);
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(&prepared(password), salt, rounds, &mut salted);
        ScramKeys {
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// The keys that another process knew, ClientKey first. Never logged.
    pub fn of(client_key: [u8; 32], server_key: [u8; 32]) -> Self {
        ScramKeys {
            client_key,
            server_key,
        }
    }

    /// ClientKey, for the next process. Do not log it.
    pub fn client_key(&self) -> &[u8; 32] {
        &self.client_key
    }

    /// ServerKey, for the next process. Do not log it.
    pub fn server_key(&self) -> &[u8; 32] {
        &self.server_key
    }

    /// What a server stores for the password these keys were derived from.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> Verifier {
        Verifier {
            iterations,
            salt: salt.into(),
            stored_key: Sha256::digest(self.client_key).into(),
            server_key: self.server_key,
        }
    }

    /// ClientProof.
    pub(in crate::auth) fn proof(&self, transcript: &Transcript<'_>) -> Key {
        let stored_key: Key = Sha256::digest(self.client_key).into();
        xor(&self.client_key, &transcript.signature(&stored_key))
    }

    /// ServerSignature.
    pub(in crate::auth) fn server_signature(&self, transcript: &Transcript<'_>) -> Key {
        transcript.signature(&self.server_key)
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        (self.client_key.ct_eq(&other.client_key) & self.server_key.ct_eq(&other.server_key)).into()
    }
}

impl Eq for ScramKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a server stores: `SCRAM-SHA-256$iterations:salt$storedkey:serverkey`,
/// the last three in base64. Compared in constant time, never printed.
#[derive(Clone)]
pub struct Verifier {
    pub(in crate::auth) iterations: u32,
    pub(in crate::auth) salt: Box<[u8]>,
    pub(in crate::auth) stored_key: Key,
    pub(in crate::auth) server_key: Key,
}

impl Verifier {
    /// Reads the stored form; `None` if `text` is anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = super::messages::decimal(iterations.as_bytes())?;
        let salt = STANDARD.decode(salt).ok()?.into_boxed_slice();
        if iterations == 0 || iterations > i32::MAX as u32 || salt.is_empty() {
            return None;
        }
        Some(Verifier {
            iterations,
            salt,
            stored_key: STANDARD.decode(stored_key).ok()?.try_into().ok()?,
            server_key: STANDARD.decode(server_key).ok()?.try_into().ok()?,
        })
    }

    /// The stored form. It is a secret: do not log it.
    pub fn to_stored(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }

    /// Checks a ClientProof. The keys it reveals, if it is right.
    pub(in crate::auth) fn check(
        &self,
        proof: &Key,
        transcript: &Transcript<'_>,
    ) -> Option<ScramKeys> {
        let client_key = xor(proof, &transcript.signature(&self.stored_key));
        let stored_key: Key = Sha256::digest(client_key).into();
        let is_right: bool = stored_key.ct_eq(&self.stored_key).into();
        is_right.then_some(ScramKeys {
            client_key,
            server_key: self.server_key,
        })
    }

    /// True if these keys are of the password behind this verifier.
    pub(in crate::auth) fn matches(&self, keys: &ScramKeys) -> bool {
        keys.server_key.ct_eq(&self.server_key).into()
    }

    /// ServerSignature.
    pub(in crate::auth) fn server_signature(&self, transcript: &Transcript<'_>) -> Key {
        transcript.signature(&self.server_key)
    }
}

impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        let public = self.iterations == other.iterations && self.salt == other.salt;
        let keys =
            self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        bool::from(keys) && public
    }
}

impl Eq for Verifier {}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SCRAM-SHA-256***")
    }
}

/// AuthMessage in its three parts: what both signatures sign.
pub(in crate::auth) struct Transcript<'a> {
    pub(in crate::auth) client_first_bare: &'a [u8],
    pub(in crate::auth) server_first: &'a [u8],
    pub(in crate::auth) client_final_without_proof: &'a [u8],
}

impl Transcript<'_> {
    fn signature(&self, key: &Key) -> Key {
        let (first, second, third) = (
            self.client_first_bare,
            self.server_first,
            self.client_final_without_proof,
        );
        hmac(key, &[first, b",", second, b",", third])
    }
}

/// HMAC-SHA-256 of the parts one after the other.
pub(in crate::auth) fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|index| left[index] ^ right[index])
}

/// SASLprep (RFC 4013), or the password as it is where that fails or leaves
/// nothing, as PostgreSQL does.
fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
        _ => Cow::Borrowed(password),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677 section 3.
    const RFC_TRANSCRIPT: Transcript<'_> = Transcript {
        client_first_bare: b"n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_first: b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_final_without_proof: b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    };

    fn rfc_keys() -> (ScramKeys, Verifier) {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let keys = ScramKeys::derive(b"pencil", &salt, 4096);
        let verifier = keys.verifier(&salt, 4096);
        (keys, verifier)
    }

    #[test]
    fn proof_and_signature_are_the_rfcs() {
        let (keys, verifier) = rfc_keys();
        let proof = keys.proof(&RFC_TRANSCRIPT);
        assert_eq!(
            STANDARD.encode(proof),
            "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let signature = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(
            STANDARD.encode(keys.server_signature(&RFC_TRANSCRIPT)),
            signature
        );
        assert_eq!(
            STANDARD.encode(verifier.server_signature(&RFC_TRANSCRIPT)),
            signature
        );
    }

    #[test]
    fn a_right_proof_reveals_the_keys() {
        let (keys, verifier) = rfc_keys();
        let proof = keys.proof(&RFC_TRANSCRIPT);
        assert_eq!(verifier.check(&proof, &RFC_TRANSCRIPT), Some(keys));
    }

    #[test]
    fn a_proof_with_any_bit_changed_is_wrong() {
        let (keys, verifier) = rfc_keys();
        let proof = keys.proof(&RFC_TRANSCRIPT);
        for bit in 0..256 {
            let mut changed = proof;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verifier.check(&changed, &RFC_TRANSCRIPT), None);
        }
    }

    #[test]
    fn stored_form_is_postgresqls() {
        let text = "SCRAM-SHA-256$4096:D76gvGUVj9Z4DNiGoabOBg==$RukL0Xo3Ql/2F9FsD7mcQ3GATG2fD3PA71qY1JagGDs=:BhKUwyyivFm7Tq2jDJVXSVRbRDgTWyBilZKgg6DDuYU=";
        let verifier = Verifier::parse(text.as_bytes()).expect("a verifier");
        assert_eq!(verifier.to_stored(), text);
        let keys = ScramKeys::derive(b"foo", &verifier.salt, verifier.iterations);
        assert_eq!(keys.verifier(&verifier.salt, verifier.iterations), verifier);
        assert!(verifier.matches(&keys));
        assert!(!verifier.matches(&ScramKeys::derive(
            b"bar",
            &verifier.salt,
            verifier.iterations
        )));
    }

    #[test]
    fn other_texts_are_no_verifier() {
        let key = STANDARD.encode([0; 32]);
        let good = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
        assert!(Verifier::parse(good.as_bytes()).is_some());
        let bad = [
            String::new(),
            "SCRAM-SHA-256".into(),
            format!("SCRAM-SHA-1$4096:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$-1:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$+1:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$2147483648:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$99999999999999999999:c2FsdA==${key}:{key}"),
            format!("SCRAM-SHA-256$4096:${key}:{key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA=${key}:{key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${key}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:{key}"),
            format!("{good}="),
            format!("{good} "),
        ];
        for text in bad {
            assert_eq!(Verifier::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        // RFC 4013 section 3: soft hyphen is dropped, ª becomes a.
        assert_eq!(&*prepared("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(&*prepared("\u{aa}".as_bytes()), b"a");
        assert_eq!(&*prepared("\u{a0}x".as_bytes()), b" x");
    }

    #[test]
    fn passwords_that_cannot_be_prepared_stay_as_they_are() {
        let raw: [&[u8]; 4] = [
            b"tab\there",
            b"latin\xe9",
            "\u{627}1".as_bytes(),
            "\u{ad}".as_bytes(),
        ];
        for password in raw {
            assert_eq!(&*prepared(password), password);
        }
    }

    #[test]
    fn debug_hides_keys() {
        let (keys, verifier) = rfc_keys();
        assert_eq!(format!("{keys:?} {verifier:?}"), "*** SCRAM-SHA-256***");
    }
}
