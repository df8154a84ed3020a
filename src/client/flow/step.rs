//! One message of a client, and what is done with it.

use std::sync::Arc;

use super::{Event, Surroundings};
use crate::server::answers::{Answer, Owed, Tracked};
use crate::server::statements::{Presence, Statement};
use crate::server::{Answers, Exchange};
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, Splice, frontend};

/// Bytes of a query text that the statistics get at most.
const MAX_OBSERVED: usize = 16 * 1024;

/// What becomes of a client's message.
pub(super) enum Fate {
    /// All of it passes, as it is.
    Pass,
    /// Its first `front` bytes have been replaced; the rest passes.
    Rewritten { front: usize },
    /// It goes nowhere.
    Discard,
    /// Too little of it is here to decide.
    Wait,
}

/// One message of a client and what handling it touches.
pub(super) struct Step<'s, 'o, A> {
    /// The rest of the chunk, from the message's type byte on.
    pub(super) message: &'s [u8],
    pub(super) header: Header,
    pub(super) server: &'s mut Exchange,
    pub(super) around: &'s mut A,
    pub(super) out: &'s mut Splice<'o>,
    pub(super) back: &'s mut Vec<u8>,
}

impl<'s, A: Surroundings> Step<'s, '_, A> {
    pub(super) fn push(&mut self, owed: Owed) {
        self.answers().push(owed);
    }

    pub(super) fn answers(&mut self) -> &mut Answers {
        &mut self.server.answers
    }

    pub(super) fn is_whole(&self) -> bool {
        self.message.len() >= self.header.total()
    }

    pub(super) fn whole_body(&self) -> Option<&'s [u8]> {
        self.message.get(HEADER_LEN..self.header.total())
    }

    /// Makes sure that the server has the statement.
    pub(super) fn prepare(&mut self, statement: &Arc<Statement>, limit: usize) {
        let presence = self.presence(statement);
        if presence != Presence::Present {
            self.send_parse(statement, presence, limit);
            self.push(Owed::Parse(Answer::Swallow, Some(own(statement))));
        }
    }

    pub(super) fn presence(&mut self, statement: &Arc<Statement>) -> Presence {
        let Exchange {
            answers, prepared, ..
        } = &mut *self.server;
        prepared.touch(statement, answers)
    }

    pub(super) fn send_parse(
        &mut self,
        statement: &Arc<Statement>,
        presence: Presence,
        limit: usize,
    ) {
        if presence == Presence::Doubtful {
            // Closing what is not there is no error.
            frontend::put_statement_target(self.out.insert(), frontend::CLOSE, &statement.name);
            self.push(Owed::Close(Answer::Swallow, Some(own(statement))));
        } else {
            self.make_room(limit);
        }
        frontend::put_parse(self.out.insert(), &statement.name, &statement.definition);
        self.server.prepared.sent(statement);
        self.around.count(Event::ServerParse);
    }

    /// Closes the least recently used statements of a full server.
    fn make_room(&mut self, limit: usize) {
        while let Some(old) = self.server.prepared.evict(limit) {
            frontend::put_statement_target(self.out.insert(), frontend::CLOSE, &old.name);
            self.push(Owed::Close(Answer::Swallow, Some(own(&old))));
        }
    }
}

/// A statement that the pooler itself prepares or closes.
fn own(statement: &Arc<Statement>) -> Box<Tracked> {
    Box::new(Tracked {
        statement: statement.clone(),
        client_name: None,
        before: None,
    })
}

/// Slot of a query text at the front of `text`, which may be cut or have more
/// behind it.
pub(super) fn observe(step: &mut Step<'_, '_, impl Surroundings>, text: &[u8]) -> u32 {
    let text = &text[..text.len().min(MAX_OBSERVED)];
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    step.around.observe(&text[..end])
}

/// A message whose body has not begun to arrive: wait, unless it has none.
pub(super) fn wait(header: Header) -> Fate {
    match header.total() > HEADER_LEN {
        true => Fate::Wait,
        false => Fate::Pass,
    }
}
