//! A client's text that names prepared statements, while it is on its way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::statements::Statement;
use crate::wire::backend;
use crate::wire::frame::cstr;

/// What a text does with prepared statements, and what the pooler has changed
/// in it.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// What each PREPARE and each DEALLOCATE of a name does, in their order.
    pub effects: VecDeque<Effect>,
    /// The names that were replaced, in their order.
    pub renames: Vec<Rename>,
    /// The statements it executes: the server has to have them.
    pub needs: Vec<Arc<Statement>>,
    /// The statements it prepares: the server must not have them.
    pub prepares: Vec<Arc<Statement>>,
    /// How many statements the server has to be given that only stand for a
    /// name: to be deallocated, or to be in the way of a PREPARE.
    pub stand_ins: usize,
    /// A Query with it commits more than its last statement, which is a
    /// PREPARE or DEALLOCATE: that may be run and have no tag, if the commit
    /// fails.
    pub commits_last: bool,
}

/// What a statement has done once its tag says that it is done.
#[derive(Debug, Clone)]
pub enum Effect {
    /// The client has this statement under this name.
    Prepared(Box<[u8]>, Arc<Statement>),
    /// The client's name is free.
    Dropped(Box<[u8]>),
    /// All of the client's names are free.
    AllDropped,
    /// Nothing that the pooler follows.
    Nothing,
    /// The server has a statement that nobody knows of.
    Unknown,
}

/// A name of the client's that was replaced. Places are in characters, as the
/// server counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Where it stood in the client's text.
    pub at: usize,
    /// How long it was there.
    pub client_length: usize,
    /// How long the server's name is.
    pub server_length: usize,
    /// The client's name.
    pub client: Box<[u8]>,
    /// The server's name.
    pub server: Box<[u8]>,
}

impl Script {
    /// Whether an error may hide what the last statement has done.
    pub fn hides_last(&self) -> bool {
        // More effects are of statements before it, which have failed then.
        self.commits_last && self.effects.len() <= 1
    }

    /// The body of an ErrorResponse about the text as the client would have
    /// got it for its own, as a whole message.
    pub fn reword(&self, body: &[u8]) -> Vec<u8> {
        rewritten(body, |kind, value| match kind {
            b'M' => Some(self.with_client_names(value)),
            b'P' => Some(self.client_position(value)),
            _ => Some(value.to_vec()),
        })
    }

    fn with_client_names(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for rename in &self.renames {
            if let Some(at) = find_name(&text, &rename.server) {
                text.splice(at..at + rename.server.len(), rename.client.iter().copied());
                break;
            }
        }
        text
    }

    fn client_position(&self, value: &[u8]) -> Vec<u8> {
        // No text is longer than PostgreSQL's int.
        let number = str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        let Some(position) = number.and_then(|n: u32| n.checked_sub(1)) else {
            return value.to_vec();
        };
        let position = position as usize;
        // How much further to the right the server's text has come.
        let (mut longer, mut shorter) = (0, 0);
        for rename in &self.renames {
            let start = rename.at + longer - shorter;
            if position < start {
                break;
            }
            if position < start + rename.server_length {
                return (rename.at + 1).to_string().into_bytes();
            }
            longer += rename.server_length;
            shorter += rename.client_length;
        }
        (position + shorter - longer + 1).to_string().into_bytes()
    }
}

/// The message of an ErrorResponse without the place of the error: it is in a
/// text that the client has not just sent.
pub fn without_position(body: &[u8]) -> Vec<u8> {
    rewritten(body, |kind, value| (kind != b'P').then(|| value.to_vec()))
}

/// A message of an ErrorResponse whose fields have been changed.
fn rewritten(mut body: &[u8], change: impl Fn(u8, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut message = vec![backend::ERROR_RESPONSE, 0, 0, 0, 0];
    while let Some((&kind, rest)) = body.split_first() {
        let Some((value, rest)) = cstr(rest) else {
            break;
        };
        if let Some(value) = change(kind, value) {
            message.push(kind);
            message.extend_from_slice(&value);
            message.push(0);
        }
        body = rest;
    }
    message.push(0);
    let length = u32::try_from(message.len() - 1).expect("a server's short message");
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message
}

/// Where a server's name stands that is not the front of a longer one.
fn find_name(text: &[u8], name: &[u8]) -> Option<usize> {
    let ends = |at: usize| {
        !text
            .get(at + name.len())
            .is_some_and(u8::is_ascii_alphanumeric)
    };
    memchr::memmem::find_iter(text, name).find(|&at| ends(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rename(at: usize, client: &str, server: &str) -> Rename {
        Rename {
            at,
            client_length: client.len(),
            server_length: server.len() + 2,
            client: client.as_bytes().into(),
            server: server.as_bytes().into(),
        }
    }

    fn script() -> Script {
        // execute p; execute qq; x
        Script {
            renames: vec![
                rename(8, "p", "PGBOUNCER_7"),
                rename(19, "qq", "PGBOUNCER_70"),
            ],
            ..Script::default()
        }
    }

    #[test]
    fn a_place_behind_a_replaced_name_is_the_clients() {
        let place = |server: &str| {
            let client = script().client_position(server.as_bytes());
            String::from_utf8(client).expect("digits")
        };
        assert_eq!(place("1"), "1");
        assert_eq!(place("9"), "9", "at the first name");
        assert_eq!(place("12"), "9", "inside the first name");
        assert_eq!(place("22"), "10", "the semicolon");
        assert_eq!(place("32"), "20", "at the second name");
        assert_eq!(place("46"), "22");
        assert_eq!(place("no"), "no");
        let longest = usize::MAX.to_string();
        assert_eq!(place(&longest), longest, "no place in any text");
    }

    #[test]
    fn an_error_speaks_of_the_clients_names() {
        let body = b"SERROR\0C26000\0Mprepared statement \"PGBOUNCER_70\" is gone\0P9\0\0";
        let message = script().reword(body);
        let expected = b"SERROR\0C26000\0Mprepared statement \"qq\" is gone\0P9\0\0";
        assert_eq!(&message[5..], expected);
        assert_eq!(message[1..5], (message.len() as u32 - 1).to_be_bytes());
        assert_eq!(
            &without_position(body)[5..],
            &[&body[..body.len() - 4], b"\0"].concat()[..]
        );
    }
}
