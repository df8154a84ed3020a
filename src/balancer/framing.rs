//! Where the messages of a client's byte stream begin and end.
//!
//! hyper reads the messages; this looks on. It sees what hyper no longer shows
//! (a Content-Length beside a Transfer-Encoding, lines that end in a bare line
//! feed) and what hyper takes but another parser down the road may take
//! differently. Every head and every chunk header has to be of the one form
//! that all parsers read alike (RFC 9112); the rest is refused.
//!
//! It also says when a head is being received, which is what the deadline for
//! heads needs.

use memchr::memchr;

use super::refusal::Refusal;

/// Longest head, from the request line to the empty line, in bytes.
pub(crate) const HEAD_MAX: usize = 32 * 1024;

/// Longest chunk header, with its extensions, in bytes.
const CHUNK_HEADER_MAX: usize = 4 * 1024;

/// Longest trailer section in bytes.
const TRAILERS_MAX: usize = 16 * 1024;

/// Which part of a message comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing of a next message has come.
    Gap,
    /// Inside a head.
    Head,
    /// Inside a body.
    Body,
}

/// Follows one client's bytes.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// Heads that were complete and in order.
    heads: u64,
    refused: Option<Refusal>,
    /// A head that did not come in one piece; at most [`HEAD_MAX`] bytes.
    head: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Gap,
    /// A carriage return before a head: an empty line is let pass
    /// (RFC 9112, 2.2).
    GapLineFeed,
    Head,
    Sized(u64),
    ChunkHeader(ChunkHeader),
    ChunkData(u64),
    ChunkEnd,
    ChunkEndLineFeed,
    Trailers(Trailers),
    /// Not followed any more: what comes is not served.
    Refused,
}

/// A byte that may not be where it is.
struct Broken;

/// How far a chunk header was read.
#[derive(Debug, Clone, Copy, Default)]
struct ChunkHeader {
    size: u64,
    digits: u8,
    length: usize,
    extension: bool,
    carriage_return: bool,
}

/// How far a trailer section was read.
#[derive(Debug, Clone, Copy, Default)]
struct Trailers {
    length: usize,
    line: usize,
    carriage_return: bool,
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Sized(u64),
    Chunked,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            state: State::Gap,
            heads: 0,
            refused: None,
            head: Vec::new(),
        }
    }
}

impl Scanner {
    /// Which part comes next.
    pub(crate) fn at(&self) -> At {
        match self.state {
            State::Gap | State::GapLineFeed | State::Refused => At::Gap,
            State::Head => At::Head,
            _ => At::Body,
        }
    }

    /// Heads that were complete and in order.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// What was wrong with the head after the last good one.
    pub(crate) fn refused(&self) -> Option<Refusal> {
        self.refused
    }

    /// Looks at the next bytes of the stream. Nothing that follows a refused
    /// head is looked at.
    ///
    /// # Errors
    /// The framing of a body is broken; the number of bytes before the one
    /// that breaks it. Nothing may be fed after that.
    pub(crate) fn feed(&mut self, stream: &[u8]) -> Result<(), usize> {
        let mut done = 0;
        while let bytes @ [first, ..] = &stream[done..] {
            done += match self.state {
                State::Refused => return Ok(()),
                State::Gap | State::GapLineFeed => self.gap(*first),
                State::Head => self.head(bytes),
                State::Sized(left) => {
                    let used = at_most(left, bytes);
                    self.state = sized(left - used as u64);
                    used
                }
                State::ChunkData(left) => {
                    let used = at_most(left, bytes);
                    self.state = match left - used as u64 {
                        0 => State::ChunkEnd,
                        left => State::ChunkData(left),
                    };
                    used
                }
                _ => {
                    self.state = self.chunk_framing(*first).map_err(|Broken| done)?;
                    1
                }
            };
        }
        Ok(())
    }

    fn gap(&mut self, byte: u8) -> usize {
        self.state = match (self.state, byte) {
            (State::Gap, b'\r') => State::GapLineFeed,
            (State::GapLineFeed, b'\n') => State::Gap,
            (State::Gap, b'\n') | (State::GapLineFeed, _) => {
                self.refused = Some(Refusal::BareLineFeed);
                State::Refused
            }
            _ => {
                self.state = State::Head;
                return 0;
            }
        };
        1
    }

    /// Takes bytes of a head; returns how many.
    fn head(&mut self, bytes: &[u8]) -> usize {
        if self.head.is_empty()
            && let Some(length) = head_length(bytes, 0)
        {
            self.head_is(&bytes[..length]);
            return length;
        }
        let before = self.head.len();
        let room = HEAD_MAX.saturating_sub(before).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        match head_length(&self.head, before) {
            Some(length) => {
                let mut head = std::mem::take(&mut self.head);
                head.truncate(length);
                self.head_is(&head);
                length - before
            }
            None if self.head.len() >= HEAD_MAX => {
                // hyper has the same bound and answers with 431.
                self.head = Vec::new();
                self.state = State::Refused;
                room
            }
            None => room,
        }
    }

    fn head_is(&mut self, head: &[u8]) {
        match framing(head) {
            Ok(framing) => {
                self.heads += 1;
                self.state = match framing {
                    Framing::Sized(length) => sized(length),
                    Framing::Chunked => State::ChunkHeader(ChunkHeader::default()),
                };
            }
            Err(refusal) => {
                self.refused = Some(refusal);
                self.state = State::Refused;
            }
        }
    }

    fn chunk_framing(&self, byte: u8) -> Result<State, Broken> {
        match (self.state, byte) {
            (State::ChunkHeader(header), _) => header.next(byte),
            (State::Trailers(trailers), _) => trailers.next(byte),
            (State::ChunkEnd, b'\r') => Ok(State::ChunkEndLineFeed),
            (State::ChunkEndLineFeed, b'\n') => Ok(State::ChunkHeader(ChunkHeader::default())),
            _ => Err(Broken),
        }
    }
}

impl ChunkHeader {
    fn next(mut self, byte: u8) -> Result<State, Broken> {
        self.length += 1;
        if self.length > CHUNK_HEADER_MAX {
            return Err(Broken);
        }
        match byte {
            b'\n' if self.carriage_return => {
                return Ok(match self.size {
                    0 => State::Trailers(Trailers::default()),
                    size => State::ChunkData(size),
                });
            }
            _ if self.carriage_return => return Err(Broken),
            b'\r' if self.digits > 0 => self.carriage_return = true,
            b';' if self.digits > 0 => self.extension = true,
            b'\t' | 0x20..=0x7e | 0x80.. if self.extension => {}
            _ => self.digit(byte)?,
        }
        Ok(State::ChunkHeader(self))
    }

    fn digit(&mut self, byte: u8) -> Result<(), Broken> {
        const DIGITS_MAX: u8 = 16;
        let digit = char::from(byte).to_digit(16);
        match digit {
            Some(digit) if !self.extension && self.digits < DIGITS_MAX => {
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                Ok(())
            }
            _ => Err(Broken),
        }
    }
}

impl Trailers {
    fn next(mut self, byte: u8) -> Result<State, Broken> {
        self.length += 1;
        if self.length > TRAILERS_MAX {
            return Err(Broken);
        }
        match byte {
            b'\n' if !self.carriage_return => return Err(Broken),
            b'\n' if self.line == 0 => return Ok(State::Gap),
            b'\n' => (self.line, self.carriage_return) = (0, false),
            _ if self.carriage_return => return Err(Broken),
            b'\r' => self.carriage_return = true,
            _ => self.line += 1,
        }
        Ok(State::Trailers(self))
    }
}

fn sized(left: u64) -> State {
    match left {
        0 => State::Gap,
        left => State::Sized(left),
    }
}

fn at_most(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

/// Length of the head these bytes begin with, with its empty line; none while
/// it is incomplete. No end lies in the first `seen` bytes.
fn head_length(bytes: &[u8], seen: usize) -> Option<usize> {
    // An empty line may have begun in the bytes seen before.
    let mut from = seen.saturating_sub(2);
    while let Some(feed) = memchr(b'\n', &bytes[from..]) {
        let next = from + feed + 1;
        match bytes.get(next..) {
            Some([b'\n', ..]) => return Some(next + 1),
            Some([b'\r', b'\n', ..]) => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

/// How the body behind this head is framed.
fn framing(head: &[u8]) -> Result<Framing, Refusal> {
    let mut length = None;
    let mut chunked = false;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n").ok_or(Refusal::BareLineFeed)?;
        let Some(colon) = memchr(b':', line) else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            // What is no number, hyper refuses.
            let number = std::str::from_utf8(value)
                .ok()
                .and_then(|it| it.parse().ok());
            length = Some(number.unwrap_or(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::TransferEncoding);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refusal::LengthAndEncoding),
        (_, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Sized(length.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> (Scanner, Result<(), usize>) {
        let mut scanner = Scanner::default();
        let result = scanner.feed(bytes);
        (scanner, result)
    }

    #[test]
    fn messages_are_counted_and_bodies_are_no_heads() {
        let stream = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
            POST / HTTP/1.1\r\nContent-Length: 9\r\ncontent-length: 9\r\n\r\n\r\n\r\n\n\n\r\nx\
            \r\nPOST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
            a;x=\"y\"\r\n0\r\n\r\n\n\n\n\n\n\r\n000\r\nX: y\r\n\r\n\
            GET / HTTP/1.0\r\n\r\n";
        let (scanner, result) = scan(stream);
        assert_eq!(result, Ok(()));
        assert_eq!(scanner.refused(), None);
        assert_eq!((scanner.heads(), scanner.at()), (4, At::Gap));
    }

    #[test]
    fn it_knows_which_part_of_a_message_comes_next() {
        let mut scanner = Scanner::default();
        for (bytes, at) in [
            (&b"\r\n"[..], At::Gap),
            (b"POST / HTTP/1.1\r\nContent-Le", At::Head),
            (b"ngth: 2\r\n\r", At::Head),
            (b"\n", At::Body),
            (b"a", At::Body),
            (b"b", At::Gap),
            (b"P", At::Head),
        ] {
            assert_eq!(scanner.feed(bytes), Ok(()));
            assert_eq!(scanner.at(), at, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn heads_that_parsers_disagree_on_are_refused() {
        use Refusal::*;
        let rows: [(&[u8], Refusal); 9] = [
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndEncoding),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n", LengthAndEncoding),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n", TransferEncoding),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", TransferEncoding),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", TransferEncoding),
            (b"GET / HTTP/1.1\nHost: a\n\n", BareLineFeed),
            (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BareLineFeed),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\n", BareLineFeed),
            (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BareLineFeed),
        ];
        for (head, refusal) in rows {
            let (scanner, result) = scan(head);
            assert_eq!(result, Ok(()));
            assert_eq!(scanner.refused(), Some(refusal), "{}", head.escape_ascii());
            assert_eq!(scanner.heads(), 0);
        }
    }

    #[test]
    fn chunks_that_parsers_disagree_on_are_an_error() {
        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let rows: [(&[u8], usize); 14] = [
            (b"1\nx\r\n", 1),
            (b"1;a\nx\r\n", 3),
            (b"1;a\rx\r\n", 4),
            (b"0x1\r\nx\r\n", 1),
            (b"+1\r\nx\r\n", 0),
            (b" 1\r\nx\r\n", 0),
            (b"1 \r\nx\r\n", 1),
            (b"\r\n", 0),
            (b";a\r\n", 0),
            (b"00000000000000001\r\nx\r\n", 16),
            (b"1\r\nx\n", 4),
            (b"1\r\nxy\r\n", 4),
            (b"0\r\nX: y\n\r\n", 7),
            (b"0\r\nX: y\rz\r\n", 8),
        ];
        for (body, at) in rows {
            let (_, result) = scan(&[&head[..], body].concat());
            assert_eq!(result, Err(head.len() + at), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn endless_heads_chunk_headers_and_trailers_come_to_an_end() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.feed(b"GET / HTTP/1.1\r\n"), Ok(()));
        for _ in 0..HEAD_MAX {
            assert_eq!(scanner.feed(b"X: y\r\n"), Ok(()));
            assert!(scanner.head.len() <= HEAD_MAX);
        }
        assert_eq!((scanner.heads(), scanner.at()), (0, At::Gap));

        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (start, more, bound) in [
            (&b"1;"[..], &b"x"[..], CHUNK_HEADER_MAX),
            (b"0\r\n", b"X: y\r\n", TRAILERS_MAX),
        ] {
            let (mut scanner, _) = scan(&[&head[..], start].concat());
            let end = (0..=bound).find_map(|_| scanner.feed(more).err());
            assert!(end.is_some());
        }
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b"3\r\nabc\r\n",
            b"0\r\n",
            b"abc",
            b"X: y\r\n",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(stream in stream(), cuts in prop::collection::vec(1..9usize, 1..40)) {
            let (whole, result) = scan(&stream);
            let mut scanner = Scanner::default();
            let mut rest = &stream[..];
            let mut cut_result = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || cut_result.is_err() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                cut_result = scanner.feed(piece);
                rest = behind;
            }
            prop_assert_eq!(cut_result.is_err(), result.is_err());
            prop_assert_eq!(scanner.heads(), whole.heads());
            prop_assert_eq!(scanner.refused(), whole.refused());
            prop_assert_eq!(scanner.at(), whole.at());
        }

        #[test]
        fn no_bytes_panic(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&stream);
        }
    }
}
