//! A server in the middle of a conversation that PgBouncer has led so far.
//!
//! PgBouncer tells the next process which client works with a server, but not
//! what the server still owes. Until that is known everything is passed both
//! ways as it is. It is known when the server has answered a question of the
//! pooler's own, because servers answer in order: so the question is asked as
//! soon as it can do no harm, which is when the client begins something new,
//! or when the server says that no transaction is open.

use bytes::BytesMut;

use super::Exchange;
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, TransactionStatus, backend, frontend};

/// The statement the question is about. No server has it, and none minds.
const NOBODY: &[u8] = b"PGWEIR_NOBODY";

/// How often the question is asked in one batch: so many answers of this kind
/// in a row, before a ReadyForQuery, no client gets for anything else.
const REPEATED: usize = 9;

/// What is known.
#[derive(Debug, Default)]
pub struct Foreign {
    /// The question has been asked, and so many answers have come that may be
    /// to it.
    asked: Option<usize>,
    /// The client has sent requests that it has not closed with a Sync.
    unsynced: bool,
}

/// What is to be done with a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// More of it has to come first.
    Wait,
    /// It is passed on, behind so many answers that were held back.
    Pass {
        /// So many CloseComplete.
        behind: usize,
    },
    /// It is not passed on.
    Hold,
    /// It ends what was unknown; so many answers that were held back are the
    /// client's.
    Known {
        /// So many CloseComplete.
        behind: usize,
    },
}

impl Foreign {
    /// Whether the question may be asked in front of this message of the
    /// client's.
    pub fn may_ask(&self, tag: u8) -> bool {
        self.asked.is_none() && !self.unsynced && matches!(tag, frontend::QUERY | frontend::PARSE)
    }

    /// Whether the question has been asked.
    pub fn has_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Writes the question.
    pub fn ask(&mut self, buf: &mut BytesMut) {
        self.asked = Some(0);
        for _ in 0..REPEATED {
            frontend::put_statement_target(buf, frontend::CLOSE, NOBODY);
        }
        buf.extend_from_slice(frontend::SYNC_MESSAGE);
    }

    /// Whether a Sync of the client's is missing.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// One of which a Sync may be missing.
    pub fn begun(unsynced: bool) -> Foreign {
        Foreign {
            asked: None,
            unsynced,
        }
    }

    /// Notes a message of the client's that is passed on.
    pub fn sent(&mut self, tag: u8) {
        self.unsynced = match tag {
            frontend::PARSE | frontend::BIND | frontend::DESCRIBE => true,
            frontend::EXECUTE | frontend::CLOSE => true,
            frontend::SYNC | frontend::QUERY | frontend::FUNCTION_CALL => false,
            _ => self.unsynced,
        };
    }

    /// Takes note of a message of the server's, of which `message` is there.
    pub fn on_message(&mut self, header: Header, message: &[u8]) -> Fate {
        let short = matches!(
            header.tag,
            backend::READY_FOR_QUERY | backend::PARAMETER_STATUS
        );
        if short && message.len() < header.total() {
            return Fate::Wait;
        }
        let aside = matches!(
            header.tag,
            backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS | backend::NOTIFICATION_RESPONSE
        );
        match (&mut self.asked, header.tag) {
            (Some(count), backend::CLOSE_COMPLETE) => {
                *count += 1;
                Fate::Hold
            }
            (Some(count), backend::READY_FOR_QUERY) if *count >= REPEATED => Fate::Known {
                behind: *count - REPEATED,
            },
            (Some(count), _) if !aside => Fate::Pass {
                behind: std::mem::take(count),
            },
            _ => Fate::Pass { behind: 0 },
        }
    }
}

impl Exchange {
    /// The server has answered the question: it owes nothing else.
    pub fn become_known(&mut self, ready: &[u8]) {
        let status = ready.get(HEADER_LEN).copied();
        let status = status.and_then(TransactionStatus::read).unwrap_or_default();
        self.answers.set_status(status);
        self.foreign = None;
    }

    /// Nothing is owed; a transaction may be open.
    pub fn is_answered(&self) -> bool {
        self.answers.is_empty() && self.foreign.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(foreign: &mut Foreign, tags: &[u8]) -> Vec<Fate> {
        let message = |tag: u8| match tag {
            b'Z' => vec![b'Z', 0, 0, 0, 5, b'I'],
            tag => vec![tag, 0, 0, 0, 4],
        };
        let fate = |tag: &u8| {
            let message = message(*tag);
            let header = Header::read(&message).expect("whole").expect("legal");
            foreign.on_message(header, &message)
        };
        tags.iter().map(fate).collect()
    }

    fn asked() -> Foreign {
        let mut foreign = Foreign::default();
        foreign.ask(&mut BytesMut::new());
        foreign
    }

    #[test]
    fn what_was_owed_comes_before_the_answer() {
        let mut foreign = asked();
        let pass = || Fate::Pass { behind: 0 };
        assert_eq!(
            fates(&mut foreign, b"TDCZ"),
            [pass(), pass(), pass(), pass()]
        );
        assert!(
            fates(&mut foreign, &[b'3'; REPEATED])
                .iter()
                .all(|it| *it == Fate::Hold)
        );
        assert_eq!(fates(&mut foreign, b"Z"), [Fate::Known { behind: 0 }]);
    }

    #[test]
    fn answers_that_look_alike_are_the_clients_if_they_were_too_few() {
        let mut foreign = asked();
        let fates_of_its = fates(&mut foreign, b"33Z");
        assert_eq!(
            fates_of_its,
            [Fate::Hold, Fate::Hold, Fate::Pass { behind: 2 }]
        );
        fates(&mut foreign, b"3");
        fates(&mut foreign, &[b'3'; REPEATED]);
        assert_eq!(fates(&mut foreign, b"Z"), [Fate::Known { behind: 1 }]);
    }

    #[test]
    fn what_comes_unasked_does_not_come_between() {
        let mut foreign = asked();
        fates(&mut foreign, b"3333N33333");
        assert_eq!(fates(&mut foreign, b"Z"), [Fate::Known { behind: 0 }]);
    }

    #[test]
    fn nothing_is_asked_in_the_middle_of_a_batch_or_a_copy() {
        let mut foreign = Foreign::default();
        assert!(!foreign.may_ask(frontend::COPY_DATA));
        assert!(!foreign.may_ask(frontend::EXECUTE));
        foreign.sent(frontend::EXECUTE);
        assert!(!foreign.may_ask(frontend::PARSE));
        foreign.sent(frontend::SYNC);
        assert!(foreign.may_ask(frontend::PARSE));
    }
}
