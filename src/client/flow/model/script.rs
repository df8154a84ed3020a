//! What clients of the model say: letters that become messages, each with
//! words of its own, so that an answer tells whose it is.

use super::postgres::{COPY, ROWS, SHELF, TWICE};

/// One message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letter {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Flush,
    Sync,
    Query,
    CopyData,
    CopyDone,
    CopyFail,
}

use Letter::{
    Bind, Close, CopyData, CopyDone, CopyFail, Describe, Execute, Flush, Parse, Query, Sync,
};

/// All of them.
pub(super) const LETTERS: [Letter; 11] = [
    Parse, Bind, Describe, Execute, Close, Flush, Sync, Query, CopyData, CopyDone, CopyFail,
];

/// Whether a message succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Luck {
    Good,
    /// The server answers it with an error.
    Fails,
    /// The server accepts it, but what it prepares will fail half way.
    FailsLater,
}

impl Letter {
    /// It asks for an answer of its own.
    pub(super) fn is_request(self) -> bool {
        !matches!(self, Flush | Sync | CopyData | CopyDone | CopyFail)
    }

    /// The ways it can go wrong.
    pub(super) fn mishaps(self) -> &'static [Luck] {
        match self {
            Parse | Bind => &[Luck::Fails, Luck::FailsLater],
            Describe | Execute | Query | CopyData => &[Luck::Fails],
            _ => &[],
        }
    }
}

/// What a statement of a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rows,
    Copy,
    Twice,
}

/// The names of a client's statements. It has the first from the beginning.
pub(super) const NAMES: [&str; 3] = ["s0", "s1", "s2"];

/// Definitions of statements, as a Parse carries them: one for each name, in
/// a script without copies and in one with.
pub(super) fn definition(copies: bool, index: usize) -> Vec<u8> {
    let text = match (copies, index) {
        (false, 0) => SHELF,
        (true, 0 | 1) => COPY,
        _ => ROWS,
    };
    format!("/*{index}*/ {text}\0\0\0").into_bytes()
}

/// Writes what one client says.
#[derive(Debug, Clone)]
pub(super) struct Author {
    /// Its statements and every other Query are COPY.
    copies: bool,
    kinds: [Kind; 3],
    /// Which statements it believes to have.
    believes: [bool; 3],
    current: usize,
    parses: usize,
    queries: usize,
    messages: usize,
    last: Option<Letter>,
    whose: char,
}

impl Author {
    pub(super) fn new(copies: bool, whose: char) -> Author {
        let first = if copies { Kind::Copy } else { Kind::Rows };
        Author {
            copies,
            kinds: [first, Kind::Rows, Kind::Rows],
            believes: [true, false, false],
            current: 0,
            parses: 0,
            queries: 0,
            messages: 0,
            last: None,
            whose,
        }
    }

    /// The name the next message of this kind is about.
    pub(super) fn name(&self, letter: Letter) -> Option<&'static str> {
        match letter {
            Parse => Some(NAMES[1 + self.parses % 2]),
            Describe if self.last == Some(Bind) => None,
            Bind | Describe | Close => Some(NAMES[self.current]),
            _ => None,
        }
    }

    /// Whether the client, hearing nothing, believes that it has it.
    pub(super) fn believes(&self, name: &str) -> bool {
        let index = NAMES.iter().position(|own| *own == name);
        index.is_some_and(|index| self.believes[index])
    }

    /// The bytes of the next message.
    pub(super) fn say(&mut self, letter: Letter, luck: Luck) -> Vec<u8> {
        self.messages += 1;
        let name = self.name(letter).unwrap_or_default();
        let token = format!("{}{}", self.whose, self.messages);
        let bytes = match letter {
            Parse => self.parse(name, luck),
            Bind => self.bind(name, &token, luck),
            Describe if self.last == Some(Bind) && luck == Luck::Good => target(b'D', 'P', ""),
            Describe if luck == Luck::Good => target(b'D', 'S', name),
            Describe => target(b'D', 'P', "none"),
            Execute => {
                let portal = if luck == Luck::Good { "" } else { "none" };
                message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
            }
            Close => self.close(name),
            Flush => message(b'H', b""),
            Sync => message(b'S', b""),
            Query => self.query(&token, luck),
            CopyData if luck == Luck::Good => message(b'd', format!("{token}\n").as_bytes()),
            CopyData => message(b'd', b"one\ttoo many\n"),
            CopyDone => message(b'c', b""),
            CopyFail => message(b'f', b"no\0"),
        };
        self.last = Some(letter);
        bytes
    }

    fn parse(&mut self, name: &str, luck: Luck) -> Vec<u8> {
        self.current = 1 + self.parses % 2;
        self.parses += 1;
        self.believes[self.current] = true;
        let rest = match luck {
            Luck::Good => definition(self.copies, self.current),
            Luck::Fails => b"selct\0\0\0".to_vec(),
            Luck::FailsLater => format!("{TWICE}\0\0\0").into_bytes(),
        };
        self.kinds[self.current] = match luck {
            Luck::FailsLater => Kind::Twice,
            _ if self.copies && self.current == 1 => Kind::Copy,
            _ => Kind::Rows,
        };
        message(b'P', &[name.as_bytes(), b"\0", &rest].concat())
    }

    fn bind(&self, name: &str, token: &str, luck: Luck) -> Vec<u8> {
        let values: &[&str] = match (self.kinds[self.current], luck) {
            (Kind::Rows, Luck::Good) => &[token, "0"],
            (Kind::Rows, Luck::Fails) => &[token, "bad"],
            (Kind::Rows, Luck::FailsLater) => &[token, "2"],
            (_, Luck::Good) => &[],
            (_, _) => &["one too many"],
        };
        bind(name, values)
    }

    /// Afterwards the client goes on with another statement.
    fn close(&mut self, name: &str) -> Vec<u8> {
        self.believes[self.current] = false;
        self.current = 0;
        target(b'C', 'S', name)
    }

    fn query(&mut self, token: &str, luck: Luck) -> Vec<u8> {
        self.queries += 1;
        let copy = self.copies && self.queries % 2 == 1;
        query(&match luck {
            Luck::Good if copy => COPY.to_owned(),
            Luck::Good => format!("select '{token}'"),
            _ => format!("select '{token}'; select 1/0; select '{token}'"),
        })
    }
}

/// A message of any type and body.
pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// A Query.
pub(super) fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

/// Bind of the unnamed portal, values in text format.
pub(super) fn bind(name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("\0{name}\0\0\0").into_bytes();
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Describe or Close (`tag`) of a statement or portal (`kind`).
pub(super) fn target(tag: u8, kind: char, name: &str) -> Vec<u8> {
    message(tag, format!("{kind}{name}\0").as_bytes())
}
