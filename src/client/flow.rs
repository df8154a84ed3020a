//! What happens to each message between a client and its server, decided
//! without I/O: pass, rewrite, swallow, answer, discard.
//!
//! Bodies stream through and are never assembled unless something in them
//! must be read: named Parse, Bind, Describe and Close where names are
//! rewritten, and on the server's side the few short messages that end
//! things. Pool modes are told apart by whoever asks [`Server::is_reusable`]
//! after each chunk, not here.
//!
//! [`Server::is_reusable`]: crate::server::Server::is_reusable

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::server::Exchange;
use crate::server::answers::{Meter, Owed};
use crate::server::seeded::{Bug, planted};
use crate::server::statements::Statement;
use crate::wire::frame::{HEADER_LEN, bad_header};
use crate::wire::{Header, Splice, backend, frontend};

pub use answered::{Arrived, ServerFault};
pub use surroundings::{Event, NO_SLOT, Outcome, Seen, Surroundings};

use script::Scripts;
use statements::Names;
use step::{Fate, Step, observe};

mod answered;
mod foreign;
mod script;
mod statements;
mod step;
mod surroundings;

/// Where the walk through a client's chunk stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At its end, or at a message that has not arrived whole.
    End,
    /// At a message that needs a server.
    NeedServer,
    /// At a message that has to wait until the server owes nothing, or until
    /// it wants data for a COPY.
    NeedAnswers,
    /// At Terminate.
    Terminate,
}

/// A client's message that ends its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFault {
    /// A type that no client may send after login.
    UnknownType(u8),
    /// A length no message of its type has.
    BadLength([u8; HEADER_LEN]),
    /// A body that does not fit its type.
    Broken,
    /// This statement name is taken.
    NameInUse(Box<[u8]>),
    /// A statement name nobody has prepared.
    NoSuchStatement,
    /// A statement too long to be tracked.
    TooLong,
    /// A text that names too many statements.
    TooManyNames,
    /// A simple query where only the extended protocol is allowed.
    SimpleQuery,
}

impl ClientFault {
    /// PgBouncer's text for the client.
    pub fn message(&self) -> Cow<'static, str> {
        let text = match self {
            ClientFault::UnknownType(_) => "unknown pkt",
            ClientFault::BadLength(head) => return bad_header(head).into(),
            ClientFault::Broken => "failed to parse packet",
            ClientFault::NameInUse(_) => "prepared statement name is already in use",
            ClientFault::NoSuchStatement => "prepared statement did not exist",
            ClientFault::TooLong => "prepared statement is too long",
            ClientFault::TooManyNames => "too many prepared statements in one query",
            ClientFault::SimpleQuery => "PQexec disallowed",
        };
        text.into()
    }
}

/// What the configuration says about a client's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `max_packet_size`: the longest message, in bytes.
    pub max_message: u32,
    /// Query may be used (`disable_pqexec = 0`).
    pub simple_query: bool,
}

/// The state of one client's messages.
#[derive(Debug)]
pub struct Flow {
    rules: Rules,
    /// Bytes of a discarded message that are still to come.
    discarding: usize,
    /// The next message has had its answer: what the pooler asked ahead of it
    /// was refused.
    refused: bool,
    /// A text may be on its way that changes what names mean.
    renaming: bool,
    statements: Option<Box<Names>>,
    unnamed_slot: u32,
    bound_slot: u32,
    /// Most clients have none.
    scripts: Option<Box<Scripts>>,
    outcome: Outcome,
}

impl Flow {
    /// No message has come yet.
    pub fn new(rules: Rules) -> Flow {
        Flow {
            rules,
            discarding: 0,
            refused: false,
            renaming: false,
            statements: None,
            unnamed_slot: NO_SLOT,
            bound_slot: NO_SLOT,
            scripts: None,
            outcome: Outcome::default(),
        }
    }

    /// Notes how long the client waited for its server: the next request to
    /// be answered is told so.
    pub fn waited(&mut self, time: Duration) {
        self.outcome.waited = time;
    }

    /// The client's names for statements, for the next process; none if they
    /// mean more than can be told.
    pub fn hand_over(&self) -> Option<Vec<(Vec<u8>, Arc<Statement>)>> {
        let names = self.statements.iter().flat_map(|all| all.iter());
        let told: Vec<_> = names
            .map(|(name, statement)| (name.to_vec(), statement.clone()))
            .collect();
        let simple = self.scripts.is_none() && told.iter().all(|(_, it)| it.script.is_none());
        simple.then_some(told)
    }

    /// Names that the client has had in another process.
    pub fn take_over(&mut self, names: impl IntoIterator<Item = (Vec<u8>, Arc<Statement>)>) {
        for (name, statement) in names {
            self.remember(&name, statement);
        }
    }

    /// Nothing of the client's next message is known yet.
    pub fn is_between_messages(&self) -> bool {
        self.discarding == 0 && !self.refused
    }

    /// How many prepared statements the client has.
    pub fn prepared(&self) -> usize {
        self.statements.as_ref().map_or(0, |all| all.len())
    }

    /// Walks through what a client without a server has sent; `back` goes to
    /// the client. Answers how far it got and why it stopped.
    ///
    /// What needs no server is answered here: a Parse of a statement that some
    /// server has accepted before, a Close of a statement, a lone Sync. So a
    /// client can prepare while every server is held by others, and drivers
    /// that prepare one statement at a time do not lock each other out.
    ///
    /// # Errors
    /// The message is not one a client may send.
    pub fn unlinked(
        &mut self,
        chunk: &[u8],
        around: &mut impl Surroundings,
        back: &mut Vec<u8>,
    ) -> Result<(usize, Stop), ClientFault> {
        let mut at = self.skip_discarded(chunk);
        while let Some(header) = self.client_header(&chunk[at..])? {
            let body = chunk.get(at + HEADER_LEN..at + header.total());
            match header.tag {
                frontend::TERMINATE => return Ok((at, Stop::Terminate)),
                // Stragglers of a failed copy, and nothing to flush.
                frontend::COPY_DATA
                | frontend::COPY_DONE
                | frontend::COPY_FAIL
                | frontend::FLUSH => {}
                frontend::SYNC => back.extend_from_slice(backend::READY_MESSAGE),
                frontend::PARSE if self.parse_unlinked(body, around) => {
                    back.extend_from_slice(backend::PARSE_COMPLETE_MESSAGE);
                }
                frontend::CLOSE if self.close_unlinked(body, around) => {
                    back.extend_from_slice(backend::CLOSE_COMPLETE_MESSAGE);
                }
                _ => return Ok((at, Stop::NeedServer)),
            }
            self.discarding = header.total();
            at += self.skip_discarded(&chunk[at..]);
        }
        Ok((at, Stop::End))
    }

    /// Walks through what a linked client has sent; `out` goes to the server,
    /// `back` to the client.
    ///
    /// # Errors
    /// The message is not one a client may send. What was passed before it
    /// stands.
    pub fn client_chunk(
        &mut self,
        chunk: &[u8],
        server: &mut Exchange,
        around: &mut impl Surroundings,
        out: &mut Splice<'_>,
        back: &mut Vec<u8>,
    ) -> Result<(usize, Stop), ClientFault> {
        let walked = self.walk(chunk, server, around, out, back);
        if server.replay.is_on() {
            server.replay.keep(out.output());
        }
        walked
    }

    fn walk(
        &mut self,
        chunk: &[u8],
        server: &mut Exchange,
        around: &mut impl Surroundings,
        out: &mut Splice<'_>,
        back: &mut Vec<u8>,
    ) -> Result<(usize, Stop), ClientFault> {
        let fresh = server.is_settled();
        let mut at = self.skip_discarded(chunk);
        if self.refused
            && let Some(header) = self.client_header(&chunk[at..])?
        {
            self.refused = false;
            self.discarding = header.total();
            at += self.skip_discarded(&chunk[at..]);
        }
        loop {
            let pass = server.outgoing.min(chunk.len() - at);
            out.pass(at, at + pass);
            server.outgoing -= pass;
            at += pass;
            let Some(header) = self.client_header(&chunk[at..])? else {
                return Ok((at, Stop::End));
            };
            if header.tag == frontend::TERMINATE {
                return Ok((at, Stop::Terminate));
            }
            let mut step = Step {
                message: &chunk[at..chunk.len().min(at + header.total())],
                header,
                fresh,
                server,
                around,
                out,
                back,
            };
            match self.request(&mut step)? {
                Fate::Pass => server.outgoing = header.total(),
                Fate::Rewritten { front } => {
                    at += front;
                    server.outgoing = header.total() - front;
                }
                Fate::Discard => {
                    self.discarding = header.total();
                    at += self.skip_discarded(&chunk[at..]);
                }
                Fate::Wait => return Ok((at, Stop::End)),
                Fate::Hold => return Ok((at, Stop::NeedAnswers)),
            }
        }
    }

    fn request(&mut self, step: &mut Step<'_, '_, impl Surroundings>) -> Result<Fate, ClientFault> {
        let tag = step.header.tag;
        if let Some(foreign) = &mut step.server.foreign {
            if foreign.may_ask(tag) {
                foreign.ask(step.out.insert());
            }
            if foreign.has_asked() {
                return Ok(Fate::Hold);
            }
            foreign.sent(tag);
            return Ok(Fate::Pass);
        }
        if step.server.answers.is_skipping() && tag != frontend::SYNC {
            return Ok(Fate::Discard);
        }
        if step.server.replay.is_on() {
            step.server.replay.see(tag);
        }
        let now = step.around.now();
        match tag {
            frontend::QUERY if !self.rules.simple_query => return Err(ClientFault::SimpleQuery),
            frontend::QUERY => {
                if !step.is_legible() {
                    return Ok(Fate::Wait);
                }
                let seen = observe(step, step.message.get(HEADER_LEN..).unwrap_or_default());
                let meter = Meter {
                    slot: seen.slot,
                    start: now,
                };
                if seen.mentions && step.around.statement_limit() > 0 {
                    return self.script(step, meter);
                }
                step.push(Owed::Query(meter, None));
            }
            frontend::SYNC => step.server.answers.push_sync(),
            frontend::FUNCTION_CALL => step.push(Owed::FunctionCall),
            frontend::EXECUTE => {
                let slot = self.bound_slot;
                let Some(script) = self.executed(step) else {
                    return Ok(Fate::Wait);
                };
                self.renaming |= script.is_some();
                step.push(Owed::Execute(Meter { slot, start: now }, script));
            }
            frontend::PARSE => return self.parse(step),
            frontend::BIND => return self.bind(step),
            frontend::DESCRIBE => return self.describe(step),
            frontend::CLOSE => return self.close(step),
            frontend::COPY_DONE | frontend::COPY_FAIL => step.server.answers.push_copy_end(),
            // In the middle of an answer they would be taken for a part of it.
            frontend::FLUSH if step.server.incoming == 0 => {
                while let Some(fake) = step.server.answers.next_fake() {
                    if !planted(Bug::FlushLosesFakes) {
                        step.back.extend_from_slice(fake);
                    }
                }
            }
            _ => {}
        }
        Ok(Fate::Pass)
    }

    fn client_header(&self, bytes: &[u8]) -> Result<Option<Header>, ClientFault> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let limit = frontend::length_limit(bytes[0]).ok_or(ClientFault::UnknownType(bytes[0]))?;
        match Header::read(head) {
            Some(Ok(header)) if header.len <= limit.min(self.rules.max_message) => Ok(Some(header)),
            _ => Err(ClientFault::BadLength(*head)),
        }
    }

    fn skip_discarded(&mut self, chunk: &[u8]) -> usize {
        let skip = self.discarding.min(chunk.len());
        self.discarding -= skip;
        skip
    }
}

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
#[cfg(any(fuzzing, test))]
pub(crate) mod model;
#[cfg(test)]
mod tests;
