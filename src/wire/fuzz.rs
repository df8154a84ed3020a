//! The readers of messages and packets, for any bytes.

use bytes::BytesMut;

use super::backend::{self, ErrorFields};
use super::frame::{HEADER_LEN, LARGE_MESSAGE_LIMIT, cstr};
use super::startup::{self, First};
use super::{Header, Splice, frontend};

/// An input that is taken apart from its front. It never ends: behind it are
/// zeros.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// `count` bytes, or what is left.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// As many bytes as the next two say, or what is left.
    pub(crate) fn block(&mut self) -> &'a [u8] {
        let length = u16::from_be_bytes([self.byte(), self.byte()]);
        self.take(length.into())
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts bytes into pieces, as a network does. With seed 0 every byte comes
/// alone.
pub(crate) fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let (mut rest, mut state) = (bytes, u32::from(seed));
    std::iter::from_fn(move || {
        state = state.wrapping_mul(0x9e37_79b1) ^ (state >> 13);
        let length = match seed {
            0 => 1,
            _ => 1 + (state >> 20) as usize % (1 + usize::from(seed)),
        };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The whole messages at the front of a stream, and how many bytes the one
/// behind them lacks; none if its head is not there.
///
/// # Panics
/// If a length is impossible.
pub(crate) fn messages(mut stream: &[u8]) -> (Vec<&[u8]>, Option<usize>) {
    let mut whole = Vec::new();
    while let Some(header) = Header::read(stream) {
        let total = header.expect("a possible length").total();
        let Some((message, rest)) = stream.split_at_checked(total) else {
            return (whole, Some(total - stream.len()));
        };
        whole.push(message);
        stream = rest;
    }
    (whole, stream.is_empty().then_some(0))
}

/// Messages of either side, and the packet that opens a connection.
pub fn wire(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, seed) = (input.byte(), input.byte());
    let bytes = input.rest();
    match kind % 4 {
        0 => stream(bytes, seed),
        1 => packet(bytes),
        2 => options(bytes),
        _ => splice(bytes, seed),
    }
}

/// Messages are found where they are, however they arrive.
fn stream(bytes: &[u8], seed: u8) {
    let at_once = walk(&mut std::iter::once(bytes));
    assert_eq!(at_once, walk(&mut pieces(bytes, seed)));
    for (header, message) in at_once.0 {
        assert_eq!(header.total(), message.len());
        assert!((4..=LARGE_MESSAGE_LIMIT).contains(&header.len));
        let body = &message[HEADER_LEN..];
        frontend_body(header.tag, body);
        backend_body(body);
    }
}

type Walked = (Vec<(Header, Vec<u8>)>, bool, Vec<u8>);

/// Messages, whether the stream is broken behind them, and what is left.
fn walk(chunks: &mut dyn Iterator<Item = &[u8]>) -> Walked {
    let (mut carry, mut found) = (Vec::new(), Vec::new());
    let mut broken = false;
    for chunk in chunks {
        carry.extend_from_slice(chunk);
        while !broken && let Some(header) = Header::read(&carry) {
            match header {
                Ok(header) if carry.len() >= header.total() => {
                    found.push((header, carry.drain(..header.total()).collect()));
                }
                Ok(_) => break,
                Err(_) => broken = true,
            }
        }
    }
    (found, broken, carry)
}

fn frontend_body(tag: u8, body: &[u8]) {
    if let Some(limit) = frontend::length_limit(tag) {
        assert!(limit <= LARGE_MESSAGE_LIMIT);
    }
    if let Some((text, rest)) = cstr(body) {
        assert_eq!([text, b"\0", rest].concat(), body);
        assert!(!text.contains(&0));
    }
    let mut again = BytesMut::new();
    if let Some(parse) = frontend::parse(body) {
        assert!(parse.definition.starts_with(parse.query));
        frontend::put_parse(&mut again, parse.name, parse.definition);
        assert_eq!(&again[HEADER_LEN..], body);
        assert_eq!(messages(&again).1, Some(0));
    }
    again.clear();
    if let Some(names) = frontend::bind_names(body) {
        frontend::put_bind_front(&mut again, names.portal, names.statement, names.rest.len());
        again.extend_from_slice(names.rest);
        assert_eq!(&again[HEADER_LEN..], body);
        assert_eq!(messages(&again).1, Some(0));
        // They are the same with less behind them.
        let front = &body[..body.len() - names.rest.len()];
        let cut = frontend::bind_names(front).expect("the names are there");
        assert_eq!((cut.portal, cut.statement), (names.portal, names.statement));
        assert_eq!(frontend::bind_names(&front[..front.len() - 1]), None);
    }
    again.clear();
    if let Some((kind, name)) = frontend::target(body) {
        assert!(matches!(kind, b'S' | b'P'));
        if kind == b'S' {
            frontend::put_statement_target(&mut again, tag, name);
            assert_eq!(&again[HEADER_LEN..], body);
        }
    }
}

fn backend_body(body: &[u8]) {
    let fields = backend::error_fields(body);
    if let Some(code) = backend::sqlstate(body) {
        // Of several codes the lossy reader shows the last.
        let only = body.iter().filter(|&&byte| byte == b'C').count() == 1;
        assert!(!only || fields.sqlstate == String::from_utf8_lossy(&code));
    }
    let text = |text: &str| text.replace('\0', "");
    let ErrorFields {
        severity,
        sqlstate,
        message,
    } = &fields;
    let mut again = BytesMut::new();
    backend::put_error(&mut again, &text(severity), &text(sqlstate), &text(message));
    assert_eq!(backend::error_fields(&again[HEADER_LEN..]), fields);
    again.clear();
    if let Some((name, value)) = backend::parameter(body) {
        backend::put_parameter_status(&mut again, name, value);
        assert_eq!(&again[HEADER_LEN..], body);
        assert_eq!(messages(&again).1, Some(0));
    }
    if let Some(values) = backend::row_values(body) {
        assert_eq!(
            backend::column_count(body),
            u16::try_from(values.len()).ok()
        );
        let mut row = body[..2].to_vec();
        for value in values {
            let length = value.map_or(-1, |value| value.len() as i32);
            row.extend_from_slice(&length.to_be_bytes());
            row.extend_from_slice(value.unwrap_or_default());
        }
        assert_eq!(row, body);
    }
    let rows = backend::tag_rows(body);
    let tag = format!("SELECT {rows}");
    assert_eq!(backend::tag_rows(tag.as_bytes()), rows);
}

/// What opens a connection is what it was made from.
fn packet(bytes: &[u8]) {
    let Some(Ok(length)) = startup::packet_len(bytes) else {
        return;
    };
    let Some(packet) = bytes.get(..length) else {
        return;
    };
    let same = |code: u32| packet == [8_u32.to_be_bytes(), code.to_be_bytes()].concat();
    let ssl = matches!(startup::read(packet), Ok(First::SslRequest));
    assert_eq!(ssl, same(startup::SSL_REQUEST));
    let gss = matches!(startup::read(packet), Ok(First::GssEncRequest));
    assert_eq!(gss, same(startup::GSSENC_REQUEST));
    match startup::read(packet) {
        Ok(First::Cancel { key }) => {
            let mut again = BytesMut::new();
            frontend::put_cancel(&mut again, key, &[]);
            assert_eq!(&again[..], packet);
        }
        Ok(First::Startup { minor, parameters }) => {
            let mut again = packet[..4].to_vec();
            again.extend_from_slice(&(startup::PROTOCOL_3_0 | u32::from(minor)).to_be_bytes());
            for (name, value) in parameters.iter() {
                assert!(!name.is_empty());
                again.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
            }
            again.push(0);
            assert_eq!(again, packet);
            for (_, value) in parameters.iter().filter(|(name, _)| *name == "options") {
                options(value.as_bytes());
            }
        }
        _ => {}
    }
}

/// What is read of `options` is read again when it is written plainly.
fn options(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let Ok(pairs) = startup::options(text) else {
        return;
    };
    let escaped = |word: &str| {
        let escape = |c: char| match c == '\\' || c.is_ascii_whitespace() {
            true => vec!['\\', c],
            false => vec![c],
        };
        word.chars().flat_map(escape).collect::<String>()
    };
    let words = pairs
        .iter()
        .map(|(name, value)| format!("-c {}={}", escaped(name), escaped(value)));
    let plain = words.collect::<Vec<_>>().join(" ");
    assert_eq!(startup::options(&plain), Ok(pairs), "{plain}");
}

/// A splice sends what it was told to, in that order.
fn splice(bytes: &[u8], seed: u8) {
    let mut expected = Vec::new();
    let mut scratch = BytesMut::from(&b"left over"[..]);
    let mut out = Splice::new(bytes, &mut scratch);
    let mut at = 0;
    for piece in pieces(bytes, seed) {
        let end = at + piece.len();
        match piece[0] % 4 {
            0 => {}
            1 => {
                out.insert().extend_from_slice(b"own");
                expected.extend_from_slice(b"own");
            }
            _ => {
                out.pass(at, end);
                expected.extend_from_slice(piece);
            }
        }
        at = end;
    }
    assert_eq!(out.output(), expected);
}
