//! Message framing: one type byte, a length that counts itself, a body.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-overview.html>

/// Bytes before the body of a message: its type and its length.
pub const HEADER_LEN: usize = 5;

/// The largest message PostgreSQL itself accepts, length word included
/// (`PQ_LARGE_MESSAGE_LIMIT`, `MaxAllocSize - 1`).
pub const LARGE_MESSAGE_LIMIT: u32 = 0x3fff_fffe;

/// The largest message of the kinds that are always small
/// (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL_MESSAGE_LIMIT: u32 = 10_000;

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type byte.
    pub tag: u8,
    /// The length word: body and the word itself, at least 4.
    pub len: u32,
}

/// A length word below 4, or above the limit for its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLength;

impl Header {
    /// Reads a header from the front of `bytes`; `None` when fewer than five
    /// bytes are there.
    pub fn read(bytes: &[u8]) -> Option<Result<Header, BadLength>> {
        let head = bytes.first_chunk::<HEADER_LEN>()?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if !(4..=LARGE_MESSAGE_LIMIT).contains(&len) {
            return Some(Err(BadLength));
        }
        Some(Ok(Header { tag: head[0], len }))
    }

    /// Length of the whole message, type byte included.
    pub fn total(self) -> usize {
        self.len as usize + 1
    }
}

/// The status byte of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransactionStatus {
    /// `I`: not in a transaction.
    #[default]
    Idle,
    /// `T`: in a transaction.
    Active,
    /// `E`: in a failed transaction.
    Failed,
}

impl TransactionStatus {
    /// Reads the status byte; `None` for any other byte.
    pub fn read(byte: u8) -> Option<TransactionStatus> {
        match byte {
            b'I' => Some(TransactionStatus::Idle),
            b'T' => Some(TransactionStatus::Active),
            b'E' => Some(TransactionStatus::Failed),
            _ => None,
        }
    }

    /// The status byte.
    pub fn letter(self) -> char {
        match self {
            TransactionStatus::Idle => 'I',
            TransactionStatus::Active => 'T',
            TransactionStatus::Failed => 'E',
        }
    }
}

/// Splits a zero-terminated string off the front of `body`; `None` when the
/// terminator is not inside.
pub fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// PgBouncer's words for a header that cannot be.
pub fn bad_header(head: &[u8]) -> String {
    let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bad packet header: '{hex}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes() {
        assert_eq!(Header::read(b"Z\0\0\0"), None);
        assert_eq!(
            Header::read(b"Z\0\0\0\x05I"),
            Some(Ok(Header { tag: b'Z', len: 5 }))
        );
    }

    #[test]
    fn a_length_that_does_not_count_itself_is_refused() {
        assert_eq!(Header::read(b"Z\0\0\0\x03"), Some(Err(BadLength)));
    }

    #[test]
    fn a_length_above_postgres_own_limit_is_refused() {
        assert_eq!(Header::read(b"D\xff\xff\xff\xff"), Some(Err(BadLength)));
        assert_eq!(Header::read(b"D\x3f\xff\xff\xff"), Some(Err(BadLength)));
        assert!(matches!(Header::read(b"D\x3f\xff\xff\xfe"), Some(Ok(_))));
    }

    #[test]
    fn a_string_without_terminator_is_none() {
        assert_eq!(cstr(b"abc"), None);
        assert_eq!(cstr(b"abc\0d"), Some((&b"abc"[..], &b"d"[..])));
    }
}
