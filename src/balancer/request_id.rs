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
        HeaderValue::from_bytes(&text).expect("a UUID is printable ASCII")
    }
}

/// The trace a request belongs to (W3C Trace Context): what the client says if
/// it is well-formed; else one of its own, named after the request's id if
/// that is a UUID.
pub(crate) fn trace(given: Option<&HeaderValue>, id: &HeaderValue) -> Option<HeaderValue> {
    if let Some(given) = given.filter(|it| is_traceparent(it.as_bytes())) {
        return Some(given.clone());
    }
    // The request is the first span of its trace.
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let id: &[u8; 36] = id.as_bytes().try_into().ok()?;
    if [8, 13, 18, 23].iter().any(|dash| id[*dash] != b'-') {
        return None;
    }
    let parts = [
        (0..8, 3),
        (9..13, 11),
        (14..18, 15),
        (19..23, 19),
        (24..36, 23),
    ];
    for (part, place) in parts {
        let length = part.len();
        text[place..place + length].copy_from_slice(&id[part]);
    }
    text.copy_within(19..35, 36);
    let is_new = is_traceparent(&text);
    is_new
        .then(|| HeaderValue::from_bytes(&text).ok())
        .flatten()
}

/// Version 00: `00-` 32 digits `-` 16 digits `-` 2 digits, hexadecimal in
/// lower case; the two ids are not zero.
fn is_traceparent(text: &[u8]) -> bool {
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(it))
    };
    let is_zero = |part: &[u8]| part.iter().all(|it| *it == b'0');
    text.len() == 55
        && text.starts_with(b"00-")
        && text[35] == b'-'
        && text[52] == b'-'
        && [&text[3..35], &text[36..52], &text[53..]]
            .into_iter()
            .all(is_hex)
        && !is_zero(&text[3..35])
        && !is_zero(&text[36..52])
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
fn uuid_v7(millis: u64, number: u64, process: u64) -> [u8; 36] {
    // An odd factor makes a permutation of the numbers.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mixed = number.wrapping_mul(SPREAD) ^ process;
    let halves = [
        millis << 16 | 0x7000 | number & 0xfff,
        mixed & (u64::MAX >> 2) | 1 << 63,
    ];
    let mut text = *b"00000000-0000-0000-0000-000000000000";
    let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
    for (digit, place) in places.enumerate() {
        let shift = 60 - 4 * (digit % 16);
        text[place] = DIGITS[(halves[digit / 16] >> shift & 0xf) as usize];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_a_uuid_of_version_7() {
        assert_eq!(
            &uuid_v7(0x0123_4567_89ab, 0x1005, u64::MAX),
            b"01234567-89ab-7005-b14f-076bdbca4396"
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
    fn a_trace_is_passed_on_if_it_is_one_and_named_after_the_request_if_not() {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        let id = value("01234567-89ab-7005-b14f-076bdbca4396");
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        assert_eq!(trace(Some(&value(given)), &id), Some(value(given)));
        let own = "00-0123456789ab7005b14f076bdbca4396-b14f076bdbca4396-01";
        assert_eq!(trace(None, &id), Some(value(own)));
        for odd in [
            "",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-00",
        ] {
            assert_eq!(trace(Some(&value(odd)), &id), Some(value(own)), "{odd}");
        }
        for other in ["mine", "01234567", "01234567x89ab-7005-b14f-076bdbca4396"] {
            assert_eq!(trace(None, &value(other)), None, "{other}");
        }
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
