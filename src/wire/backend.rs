//! Messages a backend sends: their type bytes, the parts the pooler reads,
//! and the messages it makes itself.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use bytes::{BufMut, Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};

use super::frame::cstr;
use super::startup::SECRET_BYTES;

/// AuthenticationXxx.
pub const AUTHENTICATION: u8 = b'R';
/// BackendKeyData.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// CommandComplete.
pub const COMMAND_COMPLETE: u8 = b'C';
/// CopyBothResponse.
pub const COPY_BOTH_RESPONSE: u8 = b'W';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// CopyDone.
pub const COPY_DONE: u8 = b'c';
/// CopyInResponse.
pub const COPY_IN_RESPONSE: u8 = b'G';
/// CopyOutResponse.
pub const COPY_OUT_RESPONSE: u8 = b'H';
/// DataRow.
pub const DATA_ROW: u8 = b'D';
/// EmptyQueryResponse.
pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
/// ErrorResponse.
pub const ERROR_RESPONSE: u8 = b'E';
/// FunctionCallResponse.
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
/// NegotiateProtocolVersion.
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
/// NoData.
pub const NO_DATA: u8 = b'n';
/// NoticeResponse.
pub const NOTICE_RESPONSE: u8 = b'N';
/// NotificationResponse.
pub const NOTIFICATION_RESPONSE: u8 = b'A';
/// ParameterDescription.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// ParameterStatus.
pub const PARAMETER_STATUS: u8 = b'S';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// PortalSuspended.
pub const PORTAL_SUSPENDED: u8 = b's';
/// ReadyForQuery.
pub const READY_FOR_QUERY: u8 = b'Z';
/// RowDescription.
pub const ROW_DESCRIPTION: u8 = b'T';

/// A whole ParseComplete message.
pub const PARSE_COMPLETE_MESSAGE: &[u8] = b"1\0\0\0\x04";
/// A whole CloseComplete message.
pub const CLOSE_COMPLETE_MESSAGE: &[u8] = b"3\0\0\0\x04";

/// A whole ReadyForQuery message with status `I`.
pub const READY_MESSAGE: &[u8] = b"Z\0\0\0\x05I";

/// PgBouncer's SQLSTATE for errors of its own: protocol_violation.
pub const PROTOCOL_VIOLATION: &str = "08P01";

/// The fields of an ErrorResponse or NoticeResponse that the pooler uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    /// `S`, as the server wrote it.
    pub severity: String,
    /// `C`; empty when the server left it out.
    pub sqlstate: String,
    /// `M`.
    pub message: String,
}

/// Reads an ErrorResponse body as far as it is well formed: a hostile server
/// may leave out any field or terminator.
pub fn error_fields(mut body: &[u8]) -> ErrorFields {
    let mut fields = ErrorFields::default();
    while let Some((&kind, rest)) = body.split_first() {
        let Some((value, rest)) = cstr(rest) else {
            break;
        };
        let value = || String::from_utf8_lossy(value).into_owned();
        match kind {
            b'S' => fields.severity = value(),
            b'C' => fields.sqlstate = value(),
            b'M' => fields.message = value(),
            _ => {}
        }
        body = rest;
    }
    fields
}

/// The SQLSTATE of an ErrorResponse body, if it is there.
pub fn sqlstate(mut body: &[u8]) -> Option<[u8; 5]> {
    while let Some((&kind, rest)) = body.split_first() {
        let (value, rest) = cstr(rest)?;
        if kind == b'C' {
            return value.try_into().ok();
        }
        body = rest;
    }
    None
}

/// Whether an ErrorResponse body says that a prepared statement can no longer
/// be run because its result would have other columns.
pub fn is_outdated_plan(mut body: &[u8]) -> bool {
    if sqlstate(body) != Some(*b"0A000") {
        return false;
    }
    while let Some((&kind, rest)) = body.split_first() {
        let Some((value, rest)) = cstr(rest) else {
            break;
        };
        if kind == b'R' {
            return value == b"RevalidateCachedQuery";
        }
        body = rest;
    }
    false
}

/// Reads name and value of a ParameterStatus body.
pub fn parameter(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = cstr(body)?;
    let (value, rest) = cstr(rest)?;
    let (name, value) = (str::from_utf8(name).ok()?, str::from_utf8(value).ok()?);
    rest.is_empty().then_some((name, value))
}

/// Reads process id and secret of a BackendKeyData body.
pub fn backend_key(body: &Bytes) -> Option<(i32, Bytes)> {
    let (pid, secret) = body.split_first_chunk()?;
    let is_good = SECRET_BYTES.contains(&secret.len());
    is_good.then(|| (i32::from_be_bytes(*pid), body.slice(4..)))
}

/// Reads the version of a NegotiateProtocolVersion body, and how many protocol
/// options were not understood.
pub fn negotiated(body: &[u8]) -> Option<(u32, u32)> {
    let (version, rest) = body.split_first_chunk()?;
    let count = rest.first_chunk()?;
    Some((u32::from_be_bytes(*version), u32::from_be_bytes(*count)))
}

/// Reads the number of columns of a RowDescription or DataRow body.
pub fn column_count(body: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*body.first_chunk()?))
}

/// Reads the values of a DataRow body; `None` in it is NULL.
pub fn row_values(body: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let length = i32::from_be_bytes(*length);
        if length == -1 {
            values.push(None);
            rest = after;
            continue;
        }
        let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        values.push(Some(value));
        rest = after;
    }
    rest.is_empty().then_some(values)
}

/// Number of rows a CommandComplete tag tells (`SELECT 5`, `INSERT 0 2`).
pub fn tag_rows(tag: &[u8]) -> u64 {
    tag.rsplit(|&b| b == b' ')
        .next()
        .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok())
        .unwrap_or(0)
}

/// Writes an ErrorResponse with the three fields PgBouncer sends.
pub fn put_error(buf: &mut BytesMut, severity: &str, sqlstate: &str, message: &str) {
    put(
        buf,
        &ErrorResponse::new(fields(severity, sqlstate, message)),
    );
}

/// Writes a NoticeResponse; `detail` may be empty.
pub fn put_notice(buf: &mut BytesMut, message: &str, detail: &str) {
    let mut fields = fields("NOTICE", "00000", message);
    if !detail.is_empty() {
        fields.push((b'D', detail.to_owned()));
    }
    put(buf, &NoticeResponse::new(fields));
}

/// Writes CommandComplete.
pub fn put_command_complete(buf: &mut BytesMut, tag: &str) {
    put(buf, &CommandComplete::new(tag.to_owned()));
}

/// Writes ReadyForQuery with status `I`.
pub fn put_ready(buf: &mut BytesMut) {
    put(buf, &ReadyForQuery::new(TransactionStatus::Idle));
}

/// Writes ParameterStatus. By hand: a greeting has a dozen of them, and
/// pgwire wants strings of its own for each.
pub fn put_parameter_status(buf: &mut BytesMut, name: &str, value: &str) {
    let length = 4 + name.len() + 1 + value.len() + 1;
    // Both come from a message of at most a few kilobytes.
    let length = u32::try_from(length).expect("names and values are short");
    buf.put_u8(PARAMETER_STATUS);
    buf.put_u32(length);
    buf.put_slice(name.as_bytes());
    buf.put_u8(0);
    buf.put_slice(value.as_bytes());
    buf.put_u8(0);
}

/// Writes BackendKeyData of this process id and secret, in two pieces.
pub fn put_backend_key(buf: &mut BytesMut, first: &[u8], rest: &[u8]) {
    let length = u32::try_from(4 + first.len() + rest.len()).expect("keys are short");
    buf.put_u8(BACKEND_KEY_DATA);
    buf.put_u32(length);
    buf.put_slice(first);
    buf.put_slice(rest);
}

/// Writes any message pgwire knows.
pub fn put(buf: &mut BytesMut, message: &impl Message) {
    let before = buf.len();
    if message.encode(buf).is_err() {
        // Only a text over pgwire's own size limit gets here.
        buf.truncate(before);
    }
}

fn fields(severity: &str, sqlstate: &str, message: &str) -> Vec<(u8, String)> {
    vec![
        (b'S', severity.to_owned()),
        (b'C', sqlstate.to_owned()),
        (b'M', message.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_pgbouncer_writes_it() {
        let mut buf = BytesMut::new();
        put_error(&mut buf, "FATAL", PROTOCOL_VIOLATION, "no such user");
        assert_eq!(&buf[..], b"E\0\0\0\x21SFATAL\0C08P01\0Mno such user\0\0");
    }

    #[test]
    fn an_error_without_fields_or_terminator_is_read_as_far_as_it_goes() {
        assert_eq!(error_fields(b""), ErrorFields::default());
        assert_eq!(error_fields(b"SFATAL\0Mhalf").severity, "FATAL");
        assert_eq!(sqlstate(b"SFATAL\0\0"), None);
        assert_eq!(sqlstate(b"SFATAL\0C57P01\0\0"), Some(*b"57P01"));
    }

    #[test]
    fn keys_are_read_up_to_the_protocols_bound() {
        for (secret, is_good) in [(0, false), (3, false), (4, true), (32, true), (256, true)] {
            let mut buf = BytesMut::new();
            put_backend_key(&mut buf, &[0, 0, 0, 7], &vec![9; secret]);
            assert_eq!(
                buf[..5],
                [b'K', 0, 0, ((8 + secret) >> 8) as u8, (8 + secret) as u8]
            );
            let key = backend_key(&buf.freeze().slice(5..));
            assert_eq!(key, is_good.then(|| (7, vec![9; secret].into())));
        }
        assert_eq!(backend_key(&vec![0; 4 + 257].into()), None);
        assert_eq!(backend_key(&vec![0; 3].into()), None);
    }

    #[test]
    fn a_negotiation_is_read() {
        let body = b"\0\x03\0\0\0\0\0\x01_pq_.x\0";
        assert_eq!(negotiated(body), Some((0x0003_0000, 1)));
        assert_eq!(negotiated(&body[..7]), None);
    }

    #[test]
    fn a_parameter_status_is_read_as_it_was_written() {
        let mut buf = BytesMut::new();
        put_parameter_status(&mut buf, "TimeZone", "UTC");
        assert_eq!(&buf[..5], b"S\0\0\0\x11");
        assert_eq!(parameter(&buf[5..]), Some(("TimeZone", "UTC")));
    }

    #[test]
    fn the_values_of_a_row_are_read_with_their_nulls() {
        let row = b"\0\x02\0\0\0\x03ann\xff\xff\xff\xff";
        assert_eq!(column_count(row), Some(2));
        assert_eq!(row_values(row), Some(vec![Some(&b"ann"[..]), None]));
    }

    #[test]
    fn a_row_that_lies_about_its_lengths_is_refused() {
        for length in 0..13 {
            let row = b"\0\x02\0\0\0\x03ann\xff\xff\xff\xff";
            assert_eq!(row_values(&row[..length]), None, "{length} bytes");
        }
        for length in [-2, i32::MIN, i32::MAX, 4] {
            let row = [b"\0\x01", &length.to_be_bytes()[..], b"ann"].concat();
            assert_eq!(row_values(&row), None, "{length}");
        }
        assert_eq!(row_values(b"\0\0more"), None);
    }

    #[test]
    fn rows_are_read_from_the_tag() {
        assert_eq!(tag_rows(b"SELECT 12"), 12);
        assert_eq!(tag_rows(b"INSERT 0 3"), 3);
        assert_eq!(tag_rows(b"BEGIN"), 0);
    }

    #[test]
    fn ready_for_query_is_six_bytes() {
        let mut buf = BytesMut::new();
        put_ready(&mut buf);
        assert_eq!(&buf[..], b"Z\0\0\0\x05I");
    }
}
