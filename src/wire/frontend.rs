//! Messages a frontend sends: their type bytes, and the parts of them that
//! the pooler reads or writes itself.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use bytes::{BufMut, BytesMut};

use super::frame::{SMALL_MESSAGE_LIMIT, cstr};

/// Bind.
pub const BIND: u8 = b'B';
/// Close.
pub const CLOSE: u8 = b'C';
/// CopyData, both ways.
pub const COPY_DATA: u8 = b'd';
/// CopyDone, both ways.
pub const COPY_DONE: u8 = b'c';
/// CopyFail.
pub const COPY_FAIL: u8 = b'f';
/// Describe.
pub const DESCRIBE: u8 = b'D';
/// Execute.
pub const EXECUTE: u8 = b'E';
/// Flush.
pub const FLUSH: u8 = b'H';
/// FunctionCall.
pub const FUNCTION_CALL: u8 = b'F';
/// Parse.
pub const PARSE: u8 = b'P';
/// PasswordMessage and the SASL responses.
pub const PASSWORD: u8 = b'p';
/// Query.
pub const QUERY: u8 = b'Q';
/// Sync.
pub const SYNC: u8 = b'S';
/// Terminate.
pub const TERMINATE: u8 = b'X';

/// The longest message that is a name and little else. PostgreSQL takes
/// 10,000 bytes; a statement's name is replaced by a short one on its way.
const NAMED_MESSAGE_LIMIT: u32 = 20_000;

/// The length word of a message without a body.
const EMPTY_MESSAGE: u32 = 4;

/// A whole Terminate message.
pub const TERMINATE_MESSAGE: &[u8] = b"X\0\0\0\x04";

/// The limit PostgreSQL has for the length word of this message type, or
/// `None` for a type that may not be sent after login.
pub fn length_limit(tag: u8) -> Option<u32> {
    match tag {
        QUERY | PARSE | BIND | FUNCTION_CALL | COPY_DATA => Some(super::frame::LARGE_MESSAGE_LIMIT),
        EXECUTE | CLOSE | DESCRIBE => Some(NAMED_MESSAGE_LIMIT),
        // PostgreSQL answers one with a body with an error that nobody waits for.
        FLUSH => Some(EMPTY_MESSAGE),
        SYNC | TERMINATE | COPY_DONE | COPY_FAIL => Some(SMALL_MESSAGE_LIMIT),
        _ => None,
    }
}

/// The body of Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Statement name; empty is the unnamed statement.
    pub name: &'a [u8],
    /// Query text with its terminator, number of types, types: what makes two
    /// statements the same.
    pub definition: &'a [u8],
    /// Query text.
    pub query: &'a [u8],
}

/// Reads a Parse body.
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let (name, definition) = cstr(body)?;
    let (query, types) = cstr(definition)?;
    let count = types.first_chunk::<2>()?;
    let count = u16::from_be_bytes(*count) as usize;
    (types.len() == 2 + 4 * count).then_some(Parse {
        name,
        definition,
        query,
    })
}

/// The names at the front of a Bind body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindNames<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Statement name.
    pub statement: &'a [u8],
    /// Bytes of the body that follow the names and are in `body`.
    pub rest: &'a [u8],
}

/// Reads the two names of a Bind body of which at least these are there.
pub fn bind_names(body: &[u8]) -> Option<BindNames<'_>> {
    let (portal, rest) = cstr(body)?;
    let (statement, rest) = cstr(rest)?;
    Some(BindNames {
        portal,
        statement,
        rest,
    })
}

/// Reads the kind byte (`S` or `P`) and the name of a Describe or Close body.
pub fn target(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&kind, rest) = body.split_first()?;
    let (name, rest) = cstr(rest)?;
    (rest.is_empty() && matches!(kind, b'S' | b'P')).then_some((kind, name))
}

/// Writes Parse.
pub fn put_parse(buf: &mut BytesMut, name: &[u8], definition: &[u8]) {
    put_head(buf, PARSE, name.len() + 1 + definition.len());
    put_cstr(buf, name);
    buf.put_slice(definition);
}

/// Writes the front of a Bind whose statement is renamed: header and names.
/// `rest` bytes of the body must follow.
pub fn put_bind_front(buf: &mut BytesMut, portal: &[u8], statement: &[u8], rest: usize) {
    put_head(buf, BIND, portal.len() + 1 + statement.len() + 1 + rest);
    put_cstr(buf, portal);
    put_cstr(buf, statement);
}

/// Writes Describe or Close (`tag`) of a statement.
pub fn put_statement_target(buf: &mut BytesMut, tag: u8, name: &[u8]) {
    put_head(buf, tag, 1 + name.len() + 1);
    buf.put_u8(b'S');
    put_cstr(buf, name);
}

/// Writes Close of a portal.
pub fn put_close_portal(buf: &mut BytesMut, name: &[u8]) {
    put_head(buf, CLOSE, 1 + name.len() + 1);
    buf.put_u8(b'P');
    put_cstr(buf, name);
}

/// Writes Bind of a portal with its statement's name, without parameters.
pub fn put_bind(buf: &mut BytesMut, name: &[u8]) {
    const NO_FORMATS_NO_VALUES: &[u8] = &[0; 6];
    put_bind_front(buf, name, name, NO_FORMATS_NO_VALUES.len());
    buf.put_slice(NO_FORMATS_NO_VALUES);
}

/// Writes Execute of all of a portal.
pub fn put_execute(buf: &mut BytesMut, portal: &[u8]) {
    put_head(buf, EXECUTE, portal.len() + 1 + 4);
    put_cstr(buf, portal);
    buf.put_u32(0);
}

/// Writes Query.
pub fn put_query(buf: &mut BytesMut, query: &[u8]) {
    put_head(buf, QUERY, query.len() + 1);
    put_cstr(buf, query);
}

/// A whole Sync message.
pub const SYNC_MESSAGE: &[u8] = b"S\0\0\0\x04";

/// Writes SSLRequest.
pub fn put_ssl_request(buf: &mut BytesMut) {
    buf.put_u32(8);
    buf.put_u32(super::startup::SSL_REQUEST);
}

/// Writes Parse, Bind, Describe and Execute of a query with text parameters,
/// everything unnamed. A Sync must follow.
pub fn put_execution(buf: &mut BytesMut, query: &str, parameters: &[&str]) {
    put_parse(buf, b"", &[query.as_bytes(), b"\0\0\0"].concat());
    let values: usize = parameters.iter().map(|value| 4 + value.len()).sum();
    put_bind_front(buf, b"", b"", 2 + 2 + values + 2);
    let count = u16::try_from(parameters.len()).expect("the pooler's own queries have few");
    // All parameters and all columns are text.
    buf.put_u16(0);
    buf.put_u16(count);
    for value in parameters {
        buf.put_u32(u32::try_from(value.len()).expect("it came in a message"));
        buf.put_slice(value.as_bytes());
    }
    buf.put_u16(0);
    buf.put_slice(b"D\0\0\0\x06P\0");
    buf.put_slice(b"E\0\0\0\x09\0\0\0\0\0");
}

/// Writes CancelRequest of this process id and secret, in two pieces.
pub fn put_cancel(buf: &mut BytesMut, first: &[u8], rest: &[u8]) {
    let length = u32::try_from(8 + first.len() + rest.len()).expect("keys are short");
    buf.put_u32(length);
    buf.put_u32(super::startup::CANCEL_REQUEST);
    buf.put_slice(first);
    buf.put_slice(rest);
}

fn put_head(buf: &mut BytesMut, tag: u8, body: usize) {
    let len = u32::try_from(body + 4).expect("a message is made of parts of smaller messages");
    buf.put_u8(tag);
    buf.put_u32(len);
}

fn put_cstr(buf: &mut BytesMut, text: &[u8]) {
    buf.put_slice(text);
    buf.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_is_read_and_written_alike() {
        let mut buf = BytesMut::new();
        put_parse(&mut buf, b"s1", b"select $1\0\0\x01\0\0\0\x17");
        let read = parse(&buf[5..]).expect("a Parse");
        assert_eq!(read.name, b"s1");
        assert_eq!(read.query, b"select $1");
        assert_eq!(buf[0], PARSE);
        assert_eq!(buf[1..5], (buf.len() as u32 - 1).to_be_bytes());
    }

    #[test]
    fn a_parse_with_fewer_types_than_it_says_is_refused() {
        assert_eq!(parse(b"s\0select 1\0\0\x02\0\0\0\x17"), None);
        assert_eq!(parse(b"s\0select 1"), None);
    }

    #[test]
    fn bind_names_need_only_the_front() {
        let names = bind_names(b"p\0s\0\0\0rest").expect("names");
        assert_eq!((names.portal, names.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(bind_names(b"p\0s"), None);
    }

    #[test]
    fn a_target_is_a_statement_or_a_portal() {
        assert_eq!(target(b"Sname\0"), Some((b'S', &b"name"[..])));
        assert_eq!(target(b"Xname\0"), None);
        assert_eq!(target(b"Sname\0trailing"), None);
    }

    #[test]
    fn a_request_for_tls_is_its_code_alone() {
        let mut buf = BytesMut::new();
        put_ssl_request(&mut buf);
        assert_eq!(&buf[..], b"\0\0\0\x08\x04\xd2\x16\x2f");
    }

    #[test]
    fn an_execution_is_four_messages_with_its_values_as_text() {
        let mut buf = BytesMut::new();
        put_execution(&mut buf, "select $1", &["ann"]);
        assert_eq!(
            &buf[..],
            b"P\0\0\0\x11\0select $1\0\0\0\
              B\0\0\0\x13\0\0\0\0\0\x01\0\0\0\x03ann\0\0\
              D\0\0\0\x06P\0\
              E\0\0\0\x09\0\0\0\0\0"
        );
    }

    #[test]
    fn a_cancel_request_is_sixteen_bytes_with_a_short_key() {
        let mut buf = BytesMut::new();
        put_cancel(&mut buf, &[0, 0, 0, 7], &[1, 2, 3, 4]);
        assert_eq!(
            &buf[..],
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04"
        );
    }
}
