//! One message of a client, and what is done with it.

use std::sync::Arc;

use super::surroundings::Seen;
use super::{Event, Surroundings};
use crate::server::answers::{Answer, Owed, Tracked};
use crate::server::script::Script;
use crate::server::statements::{Kind, Presence, Statement};
use crate::server::{Answers, Exchange};
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, Splice, TransactionStatus, frontend};

/// Bytes of a query text that the statistics get at most.
const MAX_OBSERVED: usize = 16 * 1024;

/// The statement and portal by which the pooler runs a PREPARE of its own.
const RUNNER: &[u8] = b"PGWEIR";

/// What ends the definition of a Parse without parameter types; alone, the
/// definition of the empty statement.
const EMPTY_DEFINITION: &[u8] = b"\0\0\0";

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
    /// It has to wait until the server owes nothing.
    Hold,
}

/// One message of a client and what handling it touches.
pub(super) struct Step<'s, 'o, A> {
    /// What has come of it, from its type byte on.
    pub(super) message: &'s [u8],
    pub(super) header: Header,
    /// The chunk found the server settled.
    pub(super) fresh: bool,
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

    /// Enough of a Query or Parse is here to see which statements it names.
    pub(super) fn is_legible(&self) -> bool {
        self.is_whole()
            || self.message.len() >= HEADER_LEN + MAX_OBSERVED
            || self.around.statement_limit() == 0
    }

    /// What the server has can be known only when it has answered, and it
    /// will answer.
    pub(super) fn has_to_hold(&self) -> bool {
        let answers = &self.server.answers;
        !answers.is_empty() && !answers.is_unsynced() && !answers.is_copying_in()
    }

    /// A message that uses a statement is about to be sent: if it is the first
    /// of a transaction, its batch can be sent again.
    pub(super) fn keep_batch(&mut self) {
        if self.fresh && self.server.answers.owes_only_fakes() {
            self.server.replay.begin();
        }
    }

    /// Makes sure that the server has the statement, and those it executes.
    pub(super) fn prepare(&mut self, statement: &Arc<Statement>, limit: usize) {
        let mark = self.server.prepared.clock();
        if let Some(script) = &statement.script {
            self.provide(&script.needs, limit, mark);
        }
        self.provide(std::slice::from_ref(statement), limit, mark);
    }

    /// Makes sure that the server has all of these; what it has used since
    /// `mark` stays there.
    pub(super) fn provide(&mut self, statements: &[Arc<Statement>], limit: usize, mark: u64) {
        for statement in statements {
            match (self.presence(statement), statement.kind) {
                (Presence::Present, _) => {}
                (presence, Kind::Parse) => {
                    self.send_parse(statement, presence, limit, mark);
                    self.push(Owed::Parse(Answer::Swallow, Some(own(statement))));
                }
                (presence, Kind::Sql) => self.send_prepare(statement, presence, limit, mark),
            }
        }
    }

    /// Asks for all of these ahead of the client's message; false if there is
    /// nothing to ask for.
    pub(super) fn ask_for(
        &mut self,
        statements: &[Arc<Statement>],
        limit: usize,
        mark: u64,
    ) -> bool {
        let answers = &self.server.answers;
        let possible = !answers.is_unsynced() && answers.status() != TransactionStatus::Failed;
        // All are looked at, so that all are in use.
        let lacking = statements
            .iter()
            .filter(|statement| self.presence(statement) != Presence::Present)
            .count();
        if !possible || lacking == 0 {
            return false;
        }
        self.provide(statements, limit, mark);
        self.out.insert().extend_from_slice(frontend::SYNC_MESSAGE);
        self.push(Owed::OwnSync { forward: false });
        true
    }

    /// Makes room on the server for what a text is about to do; what it has
    /// used since `mark`, for the same text, stays there.
    pub(super) fn make_way(&mut self, script: &Script, limit: usize, mark: u64) {
        for (index, statement) in script.prepares.iter().enumerate() {
            if self.presence(statement) == Presence::Absent {
                self.make_room(limit.saturating_sub(index), mark);
            }
            self.close(statement);
        }
        for number in 0..script.stand_ins {
            let name = stand_in(number);
            self.close_own(&name);
            frontend::put_parse(self.out.insert(), &name, EMPTY_DEFINITION);
            self.push(Owed::Parse(Answer::Swallow, None));
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
        mark: u64,
    ) {
        if presence == Presence::Doubtful {
            self.close(statement);
        } else {
            self.make_room(limit, mark);
        }
        frontend::put_parse(self.out.insert(), &statement.name, &statement.definition);
        self.server.prepared.sent(statement);
        self.around.count(Event::ServerParse);
    }

    /// Runs the PREPARE of a statement, in the midst of whatever the client
    /// does with its unnamed statement and portal.
    fn send_prepare(
        &mut self,
        statement: &Arc<Statement>,
        presence: Presence,
        limit: usize,
        mark: u64,
    ) {
        if presence == Presence::Absent {
            self.make_room(limit, mark);
        }
        // Where a commit failed it may be there, unknown to the pooler.
        self.close(statement);
        self.close_own(RUNNER);
        let head = [b"PREPARE \"", &statement.name[..], b"\""].concat();
        let definition = [&head, &statement.definition[..], EMPTY_DEFINITION].concat();
        let out = self.out.insert();
        frontend::put_parse(out, RUNNER, &definition);
        frontend::put_bind(out, RUNNER);
        frontend::put_execute(out, RUNNER);
        self.push(Owed::Prepare(own(statement)));
        frontend::put_close_portal(self.out.insert(), RUNNER);
        self.push(Owed::Close(Answer::Swallow, None));
        self.close_own(RUNNER);
        self.server.prepared.sent(statement);
        self.around.count(Event::ServerParse);
    }

    /// Closes the least recently used statements of a full server.
    fn make_room(&mut self, limit: usize, mark: u64) {
        while let Some(old) = self.server.prepared.evict(limit, mark) {
            self.close(&old);
        }
    }

    /// Closes a statement on the server, where it need not be.
    fn close(&mut self, statement: &Arc<Statement>) {
        frontend::put_statement_target(self.out.insert(), frontend::CLOSE, &statement.name);
        self.push(Owed::Close(Answer::Swallow, Some(own(statement))));
    }

    /// Closes a statement that no client has.
    fn close_own(&mut self, name: &[u8]) {
        frontend::put_statement_target(self.out.insert(), frontend::CLOSE, name);
        self.push(Owed::Close(Answer::Swallow, None));
    }
}

/// The name of a statement that only stands for another.
pub(super) fn stand_in(number: usize) -> Vec<u8> {
    [RUNNER, format!("_{number}").as_bytes()].concat()
}

/// A statement that the pooler itself prepares or closes.
pub(super) fn own(statement: &Arc<Statement>) -> Box<Tracked> {
    Box::new(Tracked {
        statement: statement.clone(),
        client_name: None,
        before: None,
    })
}

/// What is known at sight of a query text at the front of `text`, which may be
/// cut or have its types behind it.
pub(super) fn observe(step: &mut Step<'_, '_, impl Surroundings>, text: &[u8]) -> Seen {
    let text = &text[..text.len().min(MAX_OBSERVED)];
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    step.around.observe(&text[..end])
}
