//! What a login over TLS can be bound to: a hash of the server's certificate
//! (RFC 5929, `tls-server-end-point`).

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::certificate::Certificate;

/// 1.2.840.113549.1.1, signatures with RSA.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4, signatures with ECDSA.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
/// 2.16.840.1.101.3.4.2, hashes.
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// A hash that signatures are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash of this certificate, by the hash of its own signature. None if it
/// is not signed by a known hash, or by none of its own (Ed25519).
pub(super) fn end_point(der: &[u8]) -> Option<Box<[u8]>> {
    let certificate = Certificate::read(der)?;
    let (algorithm, parameters) = certificate.signed_by()?;
    Some(match hash_of(algorithm, parameters)? {
        Hash::Sha224 => Sha224::digest(der).as_slice().into(),
        Hash::Sha256 => Sha256::digest(der).as_slice().into(),
        Hash::Sha384 => Sha384::digest(der).as_slice().into(),
        Hash::Sha512 => Sha512::digest(der).as_slice().into(),
    })
}

/// The hash of a signature's algorithm; SHA-256 in the place of MD5 and SHA-1.
fn hash_of(algorithm: &[u8], hash_in_parameters: Option<&[u8]>) -> Option<Hash> {
    if let Some(number) = algorithm.strip_prefix(RSA) {
        return match number {
            [4 | 5 | 11] => Some(Hash::Sha256),
            [10] => sha_2(hash_in_parameters?),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            _ => None,
        };
    }
    match algorithm.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// The hash that parameters of RSASSA-PSS name.
fn sha_2(algorithm: &[u8]) -> Option<Hash> {
    match algorithm.strip_prefix(SHA_2)? {
        [1] => Some(Hash::Sha256),
        [2] => Some(Hash::Sha384),
        [3] => Some(Hash::Sha512),
        [4] => Some(Hash::Sha224),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{self, VERSION_1, VERSION_3};
    use super::*;

    #[test]
    fn a_certificate_is_hashed_whole() {
        for pem in [VERSION_1, VERSION_3] {
            let der = samples::der(pem);
            let expected = Sha256::digest(&der);
            assert_eq!(end_point(&der).as_deref(), Some(expected.as_slice()));
            assert_eq!(end_point(&der[1..]), None);
        }
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let rsa = |number: u8| [RSA, &[number]].concat();
        let ecdsa = |numbers: &[u8]| [ECDSA, numbers].concat();
        let sha_2 = |number: u8| [SHA_2, &[number]].concat();
        for (algorithm, parameters, hash) in [
            (rsa(4), None, Some(Hash::Sha256)),
            (rsa(5), None, Some(Hash::Sha256)),
            (rsa(11), None, Some(Hash::Sha256)),
            (rsa(12), None, Some(Hash::Sha384)),
            (rsa(13), None, Some(Hash::Sha512)),
            (rsa(14), None, Some(Hash::Sha224)),
            (rsa(10), Some(sha_2(1)), Some(Hash::Sha256)),
            (rsa(10), Some(sha_2(2)), Some(Hash::Sha384)),
            (rsa(10), Some(sha_2(3)), Some(Hash::Sha512)),
            (rsa(10), Some(sha_2(9)), None),
            (rsa(10), None, None),
            (rsa(1), None, None),
            (ecdsa(&[1]), None, Some(Hash::Sha256)),
            (ecdsa(&[3, 1]), None, Some(Hash::Sha224)),
            (ecdsa(&[3, 2]), None, Some(Hash::Sha256)),
            (ecdsa(&[3, 3]), None, Some(Hash::Sha384)),
            (ecdsa(&[3, 4]), None, Some(Hash::Sha512)),
            (ecdsa(&[3, 5]), None, None),
            // Ed25519
            (vec![0x2b, 0x65, 0x70], None, None),
        ] {
            let found = hash_of(&algorithm, parameters.as_deref());
            assert_eq!(found, hash, "{algorithm:?}");
        }
    }
}
