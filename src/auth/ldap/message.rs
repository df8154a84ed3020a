//! The few messages of LDAP that a login needs (RFC 4511), in BER.

use super::filter::Filter;
use super::{Scope, Search};

/// The longest message taken from a directory.
const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes of a message that tell its length; every message has as many.
pub const HEAD: usize = 6;

/// The request that begins TLS.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// "No attributes": only the names of entries are of interest.
const NO_ATTRIBUTES: &[u8] = b"1.1";

/// Entries that a search may find: one too many tells that there are several.
const MOST_ENTRIES: u8 = 2;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const SEQUENCE: u8 = 0x30;
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const UNBIND: u8 = 0x42;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const SEARCH_REFERENCE: u8 = 0x73;
const EXTENDED: u8 = 0x77;
const EXTENDED_RESPONSE: u8 = 0x78;

/// What a directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The end of what was asked for.
    Done(Outcome),
    /// An entry that was found: its name.
    Entry(String),
    /// Something that does not matter here.
    Other,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// 0 for well.
    pub code: u8,
    /// What the directory says about it.
    pub text: String,
}

/// Asks to go on as this entry, with this password.
pub fn bind(id: u8, name: &str, password: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body, INTEGER, &[3]);
    put(&mut body, OCTETS, name.as_bytes());
    // Simple authentication.
    put(&mut body, 0x80, password);
    message(id, BIND, &body)
}

/// Asks for TLS.
pub fn start_tls(id: u8) -> Vec<u8> {
    let mut body = Vec::new();
    put(&mut body, 0x80, START_TLS);
    message(id, EXTENDED, &body)
}

/// Says farewell.
pub fn unbind(id: u8) -> Vec<u8> {
    message(id, UNBIND, &[])
}

/// Asks for the entries that a filter lets through.
pub fn search(id: u8, search: &Search, filter: &Filter) -> Vec<u8> {
    let scope = match search.scope {
        Scope::Base => 0,
        Scope::One => 1,
        Scope::Subtree => 2,
    };
    let mut body = Vec::new();
    put(&mut body, OCTETS, search.base.as_bytes());
    put(&mut body, ENUMERATED, &[scope]);
    // Aliases are not followed; no limit of time.
    put(&mut body, ENUMERATED, &[0]);
    put(&mut body, INTEGER, &[MOST_ENTRIES]);
    put(&mut body, INTEGER, &[0]);
    put(&mut body, BOOLEAN, &[0]);
    body.extend_from_slice(filter.as_bytes());
    let mut attributes = Vec::new();
    put(&mut attributes, OCTETS, NO_ATTRIBUTES);
    put(&mut body, SEQUENCE, &attributes);
    message(id, SEARCH, &body)
}

/// The length of the message that begins so; none if it is none, or longer
/// than one may be.
pub fn length(head: &[u8; HEAD]) -> Option<usize> {
    let (&first, rest) = head.split_first()?;
    let (length, begins) = read_length(rest)?;
    let length = length + 1 + begins;
    (first == SEQUENCE && (HEAD..=MAX_MESSAGE).contains(&length)).then_some(length)
}

/// Reads a whole message that answers request `id`; none if it is not one.
pub fn read(message: &[u8], id: u8) -> Option<Reply> {
    let (tag, body, _) = next(message)?;
    let (_, number, rest) = next(body).filter(|(kind, ..)| *kind == INTEGER)?;
    if tag != SEQUENCE || number != [id] {
        return None;
    }
    let (kind, body, _) = next(rest)?;
    Some(match kind {
        BIND_RESPONSE | SEARCH_DONE | EXTENDED_RESPONSE => {
            let (_, code, rest) = next(body).filter(|(kind, ..)| *kind == ENUMERATED)?;
            let (_, _matched, rest) = next(rest)?;
            let (_, text, _) = next(rest)?;
            Reply::Done(Outcome {
                code: match code {
                    [code] => *code,
                    // Above what a byte holds: not well, in any case.
                    _ => u8::MAX,
                },
                text: String::from_utf8_lossy(text).into_owned(),
            })
        }
        SEARCH_ENTRY => {
            let (_, name, _) = next(body)?;
            Reply::Entry(String::from_utf8(name.to_vec()).ok()?)
        }
        SEARCH_REFERENCE => Reply::Other,
        _ => return None,
    })
}

/// Appends one element.
pub(super) fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    match content.len() {
        length @ 0..0x80 => out.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            out.push(0x80 | (bytes.len() - zeros) as u8);
            out.extend_from_slice(&bytes[zeros..]);
        }
    }
    out.extend_from_slice(content);
}

fn message(id: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(body.len() + 16);
    put(&mut content, INTEGER, &[id]);
    put(&mut content, kind, body);
    let mut whole = Vec::with_capacity(content.len() + 8);
    put(&mut whole, SEQUENCE, &content);
    whole
}

/// The first element: its tag, its content, and what follows it.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (length, begins) = read_length(rest)?;
    let content = rest.get(begins..begins.checked_add(length)?)?;
    Some((tag, content, &rest[begins + length..]))
}

/// A length, and how many bytes tell it.
fn read_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        return Some((first.into(), 1));
    }
    let count = usize::from(first & 0x7f);
    let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
    let length = digits
        .iter()
        .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
    Some((length, 1 + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_a_message() {
        let bytes = bind(1, "cn=a", b"pw");
        assert_eq!(
            bytes,
            b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04cn=a\x80\x02pw"
        );
        assert_eq!(unbind(2), b"\x30\x05\x02\x01\x02\x42\x00");
    }

    #[test]
    fn a_long_password_has_a_long_length() {
        let bytes = bind(1, "", &[b'x'; 300]);
        assert_eq!(bytes[..4], [0x30, 0x82, 0x01, 0x3c]);
        let head = bytes[..HEAD].try_into().expect("as long");
        assert_eq!(length(head), Some(bytes.len()));
    }

    #[test]
    fn the_end_of_a_request_is_read() {
        let bytes = b"\x30\x0f\x02\x01\x01\x61\x0a\x0a\x01\x31\x04\x00\x04\x03bad";
        let outcome = Outcome {
            code: 49,
            text: "bad".to_owned(),
        };
        assert_eq!(read(bytes, 1), Some(Reply::Done(outcome)));
        assert_eq!(read(bytes, 2), None);
        assert_eq!(length(b"\x30\x0f\x02\x01\x01\x61"), Some(17));
    }

    #[test]
    fn the_name_of_an_entry_is_read() {
        let bytes = b"\x30\x0d\x02\x01\x02\x64\x08\x04\x04cn=a\x30\x00";
        assert_eq!(read(bytes, 2), Some(Reply::Entry("cn=a".to_owned())));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for head in [
            b"HTTP/1",
            b"\x30\x80\0\0\0\0",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x01\x02\x01\x01\x42",
        ] {
            assert_eq!(length(head), None, "{head:?}");
        }
        let whole = b"\x30\x0f\x02\x01\x01\x61\x0a\x0a\x01\x31\x04\x00\x04\x03bad";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut], 1), None, "{cut}");
        }
    }
}
