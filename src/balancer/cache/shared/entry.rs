//! A kept answer as it lies in the shared cache.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, [`VERSION`] |
//! | 8 | when it was born, in milliseconds since 1970 by its writer's clock |
//! | 8 | its life, in milliseconds |
//! | 4 | how long fetching it took, in milliseconds |
//! | 2 | status |
//! | 2 + n | the target, a path with its query |
//! | 2 | headers; of each 2 + n of its name, 2 + n of its value |
//! | 4 + n | the body |
//! | 8 | XXH3 of all before it |
//!
//! Numbers have their highest byte first. Anybody may have written what is
//! there: what is not exactly this is nothing.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use twox_hash::XxHash3_64;

use super::super::fill::BODY_MAX;
use super::super::store::Stored;

/// The first byte. What begins otherwise was written by another version.
const VERSION: u8 = 1;

/// Bytes of everything but the body, at most.
const HEAD_MAX: usize = 64 * 1024;

/// Bytes of an entry, at most.
pub(super) const ENTRY_MAX: usize = HEAD_MAX + BODY_MAX;

/// Headers of an answer, at most.
const HEADERS_MAX: usize = 128;

/// Bytes of the checksum.
const SUM: usize = 8;

/// An answer, and what is known of its age.
#[derive(Debug)]
pub(super) struct Entry<S> {
    /// When it was born: asked for at a node, less its age then. In
    /// milliseconds since 1970.
    pub(super) born: u64,
    /// How old it may become.
    pub(super) life: Duration,
    /// How long the node took.
    pub(super) took: Duration,
    /// The answer.
    pub(super) stored: S,
}

/// An entry for this target; none if it is too large.
pub(super) fn encode(target: &str, entry: &Entry<&Stored>) -> Option<Vec<u8>> {
    let stored = entry.stored;
    let fields = &stored.headers;
    if fields.len() > HEADERS_MAX || stored.body.len() > BODY_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(stored.size() + target.len() + HEAD_MAX / 64);
    bytes.put_u8(VERSION);
    bytes.put_u64(entry.born);
    bytes.put_u64(millis(entry.life));
    bytes.put_u32(u32::try_from(entry.took.as_millis()).unwrap_or(u32::MAX));
    bytes.put_u16(stored.status.as_u16());
    put(&mut bytes, target.as_bytes())?;
    bytes.put_u16(u16::try_from(fields.len()).ok()?);
    for (name, value) in fields {
        put(&mut bytes, name.as_str().as_bytes())?;
        put(&mut bytes, value.as_bytes())?;
    }
    if bytes.len() + SUM + 4 > HEAD_MAX {
        return None;
    }
    bytes.put_u32(u32::try_from(stored.body.len()).ok()?);
    bytes.extend_from_slice(&stored.body);
    bytes.put_u64(XxHash3_64::oneshot(&bytes));
    Some(bytes)
}

/// Reads an entry for this target; none if it is anything else.
pub(super) fn decode(mut bytes: Bytes, target: &str) -> Option<Entry<Stored>> {
    if bytes.len() > ENTRY_MAX || bytes.first() != Some(&VERSION) {
        return None;
    }
    let sum = bytes.split_off(bytes.len().checked_sub(SUM)?);
    if XxHash3_64::oneshot(&bytes) != sum.as_ref().try_get_u64().ok()? {
        return None;
    }
    bytes.advance(1);
    let born = bytes.try_get_u64().ok()?;
    let life = Duration::from_millis(bytes.try_get_u64().ok()?);
    let took = Duration::from_millis(bytes.try_get_u32().ok()?.into());
    let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
    if status.is_informational() || take(&mut bytes)? != target {
        return None;
    }
    let fields = usize::from(bytes.try_get_u16().ok()?);
    if fields > HEADERS_MAX {
        return None;
    }
    let mut headers = HeaderMap::new();
    for _ in 0..fields {
        let name = HeaderName::from_bytes(&take(&mut bytes)?).ok()?;
        let value = HeaderValue::from_maybe_shared(take(&mut bytes)?).ok()?;
        headers.append(name, value);
    }
    let length = bytes.try_get_u32().ok()?;
    // Nothing follows; and what the headers say of the body is so.
    if usize::try_from(length).ok()? != bytes.len() || bytes.len() > BODY_MAX {
        return None;
    }
    let framing = [CONNECTION, TRANSFER_ENCODING, UPGRADE];
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let is_its = |it: &HeaderValue| *it == HeaderValue::from(length);
    let is_framed = lengths == 1 && headers.get(CONTENT_LENGTH).is_some_and(is_its);
    if !is_framed || framing.iter().any(|it| headers.contains_key(it)) {
        return None;
    }
    let stored = Stored {
        status,
        headers,
        body: bytes,
    };
    Some(Entry {
        born,
        life,
        took,
        stored,
    })
}

/// Whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A piece of 64 KiB at most, and its length before it; none if it is longer.
fn put(bytes: &mut Vec<u8>, piece: &[u8]) -> Option<()> {
    bytes.put_u16(u16::try_from(piece.len()).ok()?);
    bytes.extend_from_slice(piece);
    Some(())
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(bytes.try_get_u16().ok()?);
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::ETAG;
    use proptest::prelude::*;

    fn stored(body: &[u8]) -> Stored {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(ETAG, HeaderValue::from_static("\"a\""));
        Stored {
            status: StatusCode::OK,
            headers,
            body: Bytes::copy_from_slice(body),
        }
    }

    fn encoded(target: &str, stored: &Stored) -> Option<Vec<u8>> {
        let entry = Entry {
            born: 1_700_000_000_123,
            life: Duration::from_millis(60_000),
            took: Duration::from_millis(250),
            stored,
        };
        encode(target, &entry)
    }

    /// With a checksum that is right.
    fn summed(mut bytes: Vec<u8>) -> Bytes {
        bytes.put_u64(XxHash3_64::oneshot(&bytes));
        bytes.into()
    }

    #[test]
    fn an_entry_is_these_bytes() {
        let mut stored = stored(b"hi");
        stored.headers.remove(ETAG);
        let bytes = encoded("/a?b", &stored).expect("small");
        let (all, sum) = bytes.split_at(bytes.len() - SUM);
        let expected = b"\x01\0\0\x01\x8b\xcf\xe5\x68\x7b\0\0\0\0\0\0\xea\x60\0\0\0\xfa\
            \0\xc8\0\x04/a?b\0\x01\0\x0econtent-length\0\x012\0\0\0\x02hi";
        assert_eq!(all, expected);
        assert_eq!(sum, XxHash3_64::oneshot(expected).to_be_bytes());
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = encoded("/a", &stored(b"body")).expect("small");
        let entry = decode(bytes.into(), "/a").expect("an entry");
        assert_eq!(entry.born, 1_700_000_000_123);
        assert_eq!(entry.life, Duration::from_secs(60));
        assert_eq!(entry.took, Duration::from_millis(250));
        assert_eq!(entry.stored.status, StatusCode::OK);
        assert_eq!(entry.stored.headers, stored(b"body").headers);
        assert_eq!(entry.stored.body, "body");
    }

    #[test]
    fn the_largest_body_fits_and_a_larger_one_does_not() {
        let largest = stored(&vec![b'x'; BODY_MAX]);
        let bytes = encoded("/a", &largest).expect("it fits");
        assert!(bytes.len() <= ENTRY_MAX);
        assert!(decode(bytes.into(), "/a").is_some());
        assert!(encoded("/a", &stored(&vec![b'x'; BODY_MAX + 1])).is_none());
        let mut wide = stored(b"");
        let value = HeaderValue::from_bytes(&vec![b'x'; HEAD_MAX - 1]).expect("a value");
        wide.headers.insert(ETAG, value);
        assert!(encoded("/a", &wide).is_none());
    }

    #[test]
    fn an_answer_to_something_else_is_nothing() {
        let bytes = Bytes::from(encoded("/a", &stored(b"body")).expect("small"));
        assert!(decode(bytes, "/b").is_none());
    }

    #[test]
    fn headers_that_frame_otherwise_than_the_body_are_nothing() {
        for (name, value) in [
            (CONTENT_LENGTH, "5"),
            (CONTENT_LENGTH, "04"),
            (TRANSFER_ENCODING, "chunked"),
            (CONNECTION, "close"),
            (UPGRADE, "websocket"),
        ] {
            let mut stored = stored(b"body");
            stored
                .headers
                .insert(&name, HeaderValue::from_static(value));
            let bytes = encoded("/a", &stored).expect("small");
            assert!(decode(bytes.into(), "/a").is_none(), "{name}: {value}");
        }
        let mut twice = stored(b"body");
        twice.headers.append(CONTENT_LENGTH, HeaderValue::from(5));
        let bytes = encoded("/a", &twice).expect("small");
        assert!(decode(bytes.into(), "/a").is_none());
    }

    #[test]
    fn another_version_is_nothing() {
        let mut bytes = encoded("/a", &stored(b"body")).expect("small");
        bytes.truncate(bytes.len() - SUM);
        bytes[0] = 2;
        assert!(decode(summed(bytes), "/a").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_nothing(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            is_first in any::<bool>(),
            is_summed in any::<bool>(),
        ) {
            if let (true, Some(first)) = (is_first, bytes.first_mut()) {
                *first = VERSION;
            }
            let bytes = if is_summed { summed(bytes) } else { bytes.into() };
            decode(bytes, "/a");
        }

        /// Also where the checksum was made anew.
        #[test]
        fn a_damaged_entry_is_nothing_or_one_of_its_size(
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = encoded("/a", &stored(b"body")).expect("small");
            let mut flipped = whole.clone();
            let at = at.index(flipped.len());
            flipped[at] ^= 1u8 << bit;
            prop_assert!(decode(flipped.clone().into(), "/a").is_none());
            flipped.truncate(flipped.len() - SUM);
            let read = decode(summed(flipped), "/a");
            prop_assert!(read.is_none_or(|it| it.stored.body.len() == 4));
            let mut short = whole;
            short.truncate(cut.index(short.len()));
            prop_assert!(decode(short.clone().into(), "/a").is_none());
            short.truncate(short.len().saturating_sub(SUM));
            prop_assert!(decode(summed(short), "/a").is_none());
        }
    }
}
