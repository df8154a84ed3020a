//! The id a request carries through every log (`X-Request-Id`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;

/// Longest id taken over from a client, in bytes.
const LENGTH_MAX: usize = 64;

/// Makes ids that are unique among all that make them this way: UUIDs of
/// version 7 (RFC 9562), sorted by time. They identify; they are no secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    /// Tells one process from another.
    process: u64,
    made: AtomicU64,
}

impl RequestIds {
    /// # Errors
    /// The system has no random bytes.
    pub(crate) fn new() -> io::Result<RequestIds> {
        let process = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(RequestIds {
            process,
            made: AtomicU64::new(0),
        })
    }

    /// A new id, at this time.
    pub(crate) fn make(&self, now: SystemTime) -> HeaderValue {
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        let millis = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let text = uuid_v7(millis, made, self.process);
        HeaderValue::from_str(&text).expect("a UUID is printable ASCII")
    }
}

/// The client's id, if it is one that can be logged as it is.
pub(crate) fn of_client(value: &HeaderValue) -> Option<HeaderValue> {
    let bytes = value.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=LENGTH_MAX).contains(&bytes.len()).then_some(())?;
    bytes.iter().all(plain).then(|| value.clone())
}

/// 48 bits of time, the version, 12 bits of the number, the variant, 62 bits
/// in which number and process are mixed so that no two numbers meet.
fn uuid_v7(millis: u64, number: u64, process: u64) -> String {
    // An odd factor makes a permutation of the numbers.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = number.wrapping_mul(SPREAD) ^ process;
    format!(
        "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
        (millis >> 16) as u32,
        millis as u16,
        number & 0xfff,
        0x8000 | (mixed >> 48 & 0x3fff),
        mixed & 0xffff_ffff_ffff,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_a_uuid_of_version_7() {
        assert_eq!(
            uuid_v7(0x0123_4567_89ab, 0x1005, u64::MAX),
            "01234567-89ab-7005-b14f-076bdbca4396"
        );
    }

    #[test]
    fn ids_of_one_millisecond_differ() {
        let ids = RequestIds::new().expect("random bytes");
        let now = SystemTime::now();
        let many: HashSet<_> = (0..20_000).map(|_| ids.make(now)).collect();
        assert_eq!(many.len(), 20_000);
    }

    #[test]
    fn a_clients_id_is_kept_if_it_is_plain_and_short() {
        let of = |text: &str| of_client(&HeaderValue::from_str(text).expect("a header"));
        assert_eq!(of("a-B_3.x").expect("plain"), "a-B_3.x");
        for odd in ["", "a b", "a\"b", "<x>", "a;b", &"x".repeat(65)] {
            assert_eq!(of(odd), None, "{odd}");
        }
    }
}
