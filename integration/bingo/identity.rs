//! What the student's email decides: the port and the log directory.

use sha1::{Digest, Sha1};

/// The lowest port an email can get.
const FIRST_PORT: u16 = 1024;

/// The listening port of `email`: 1024 plus the upper 15 bits of its FNV-1a
/// hash, so 1024..=33791.
pub(crate) fn port(email: &str) -> u16 {
    let upper = fnv1a(email.as_bytes()) >> 17;
    FIRST_PORT + u16::try_from(upper).expect("15 bits fit 16")
}

/// The name of the log directory of `email`: the first ten hexadecimal digits
/// of its SHA-1.
pub(crate) fn log_directory(email: &str) -> String {
    let digest = Sha1::digest(email.as_bytes());
    digest[..5]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// 32-bit FNV-1a.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_ports() {
        assert_eq!(port("test@example.com"), 23777);
        assert_eq!(port("student@example.com"), 1697);
    }

    #[test]
    fn golden_log_directories() {
        assert_eq!(log_directory("test@example.com"), "567159d622");
        assert_eq!(log_directory("student@example.com"), "75702e6be1");
    }

    #[test]
    fn fnv1a_of_published_vectors() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }
}
