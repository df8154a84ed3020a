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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::server::answers::{Answer, Meter, Owed, Tracked};
use crate::server::seeded::{Bug, planted};
use crate::server::statements::{Dictionary, Presence, Statement, Undone};
use crate::server::{Answers, Exchange};
use crate::stats::Micros;
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, Splice, TransactionStatus, backend, frontend};

/// The longest named Parse that is assembled, in bytes.
const MAX_TRACKED_PARSE: usize = 64 << 20;

/// The longest pair of names at the front of a Bind.
const MAX_NAMES: usize = 20_000;

/// The longest short message of a server that is read whole.
const MAX_SERVER_FETCH: usize = 64 * 1024;

/// Bytes of a query text that the statistics get at most.
const MAX_OBSERVED: usize = 16 * 1024;

/// The slot of a statement nobody has seen: nothing is counted.
pub const NO_SLOT: u32 = u32::MAX;

/// What the flow of a client's messages needs from outside.
pub trait Surroundings {
    /// The statistics slot of a statement; the text may be cut.
    fn observe(&mut self, text: &[u8]) -> u32;
    /// The prepared statements of all clients.
    fn dictionary(&self) -> &Dictionary;
    /// Now.
    fn now(&self) -> Micros;
    /// `max_prepared_statements` where it applies: 0 passes names through.
    fn statement_limit(&self) -> usize;
    /// Transactions of more than one statement are refused (statement
    /// pooling).
    fn refuses_blocks(&self) -> bool;
    /// The client has its server until it leaves (session pooling).
    fn keeps_server(&self) -> bool;
    /// A request of a server has been answered.
    fn finished(&mut self, meter: Meter, outcome: Outcome);
    /// A tracked parameter may have changed: the server reports it.
    fn parameter(&mut self, name: &str, value: &str);
    /// Counts for SHOW STATS.
    fn count(&mut self, event: Event);
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rows told in the command's tag.
    pub rows: u64,
    /// SQLSTATE of its error.
    pub error: Option<[u8; 5]>,
    /// How long its client waited for a server.
    pub waited: Duration,
}

/// Something SHOW STATS counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client sent Parse for a tracked statement.
    ClientParse,
    /// A server was sent Parse for a tracked statement.
    ServerParse,
    /// A client sent Bind for a tracked statement.
    Bind,
}

/// Where the walk through a client's chunk stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// At its end, or at a message that has not arrived whole.
    End,
    /// At a message that needs a server.
    NeedServer,
    /// At Terminate.
    Terminate,
}

/// A client's message that ends its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFault {
    /// A type that no client may send after login.
    UnknownType(u8),
    /// A length no message of its type has.
    BadLength,
    /// A body that does not fit its type.
    Broken(&'static str),
    /// This statement name is taken.
    NameInUse(Box<[u8]>),
    /// A statement name nobody has prepared.
    NoSuchStatement,
    /// A statement too long to be tracked.
    TooLong,
    /// A simple query where only the extended protocol is allowed.
    SimpleQuery,
}

impl ClientFault {
    /// PgBouncer's text for the client.
    pub fn message(&self) -> &'static str {
        match self {
            ClientFault::UnknownType(_) => "unknown pkt",
            ClientFault::BadLength => "bad pkt header",
            ClientFault::Broken(text) => text,
            ClientFault::NameInUse(_) => "prepared statement name is already in use",
            ClientFault::NoSuchStatement => "prepared statement did not exist",
            ClientFault::TooLong => "prepared statement is too long",
            ClientFault::SimpleQuery => "PQexec disallowed",
        }
    }
}

/// A message of the server that cannot be: the connection is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerFault(pub u8);

/// What a chunk of the server brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arrived {
    /// Bytes taken from the chunk.
    pub taken: usize,
    /// A ReadyForQuery was among it.
    pub ready: bool,
    /// The pooler's own query failed.
    pub internal_failed: bool,
    /// A transaction is open where none is allowed.
    pub block_refused: bool,
    /// Behind the last answer the server says that it goes. That is not for
    /// the client, which is done with it.
    pub farewell: bool,
}

/// A client's statements by its own names for them.
type Names = HashMap<Box<[u8]>, Arc<Statement>>;

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
    statements: Option<Box<Names>>,
    unnamed_slot: u32,
    bound_slot: u32,
    outcome: Outcome,
}

impl Flow {
    /// No message has come yet.
    pub fn new(rules: Rules) -> Flow {
        Flow {
            rules,
            discarding: 0,
            statements: None,
            unnamed_slot: NO_SLOT,
            bound_slot: NO_SLOT,
            outcome: Outcome::default(),
        }
    }

    /// Notes how long the client waited for its server: the next request to
    /// be answered is told so.
    pub fn waited(&mut self, time: Duration) {
        self.outcome.waited = time;
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

    /// Prepares a statement that is known to be good under a new name.
    fn parse_unlinked(&mut self, body: Option<&[u8]>, around: &mut impl Surroundings) -> bool {
        if around.statement_limit() == 0 {
            return false;
        }
        let Some(parse) = body.and_then(frontend::parse) else {
            return false;
        };
        if parse.name.is_empty() || self.lookup(parse.name).is_some() {
            return false;
        }
        let Some(statement) = around.dictionary().proven(parse.definition) else {
            return false;
        };
        around.count(Event::ClientParse);
        self.remember(parse.name, statement);
        true
    }

    fn close_unlinked(&mut self, body: Option<&[u8]>, around: &mut impl Surroundings) -> bool {
        match body.and_then(frontend::target) {
            Some((b'S', name)) if !name.is_empty() && around.statement_limit() > 0 => {
                if let Some(all) = &mut self.statements {
                    all.remove(name);
                }
                true
            }
            _ => false,
        }
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
        let mut at = self.skip_discarded(chunk);
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
                message: &chunk[at..],
                header,
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
            }
        }
    }

    /// Walks through what the server has sent; `out` goes to the client.
    ///
    /// # Errors
    /// The server sent what it cannot; what was passed before stands.
    pub fn server_chunk(
        &mut self,
        chunk: &[u8],
        server: &mut Exchange,
        around: &mut impl Surroundings,
        out: &mut Splice<'_>,
    ) -> Result<Arrived, ServerFault> {
        let mut arrived = Arrived::default();
        let mut at = 0;
        loop {
            let pass = server.incoming.min(chunk.len() - at);
            out.pass(at, at + pass);
            server.incoming -= pass;
            at += pass;
            arrived.taken = at;
            if server.incoming == 0 {
                // At once: after a Flush nothing else may come.
                while let Some(fake) = server.answers.next_fake() {
                    out.insert().extend_from_slice(fake);
                }
            }
            let header = match Header::read(&chunk[at..]) {
                None => return Ok(arrived),
                Some(Err(_)) => return Err(ServerFault(chunk[at])),
                Some(Ok(header)) => header,
            };
            if server.answers.is_row(header.tag) {
                server.incoming = header.total();
                continue;
            }
            if header.tag == backend::ERROR_RESPONSE
                && server.is_settled()
                && !around.keeps_server()
            {
                arrived.farewell = true;
                return Ok(arrived);
            }
            let whole = chunk.len() - at >= header.total();
            if !whole && needed_whole(header, &server.answers)? {
                return Ok(arrived);
            }
            let end = chunk.len().min(at + header.total());
            let body = &chunk[at + HEADER_LEN..end];
            let forward = self.answer(header, body, server, around, &mut arrived)?;
            if arrived.block_refused {
                return Ok(arrived);
            }
            if forward {
                server.incoming = header.total();
            } else if whole {
                at += header.total();
            } else {
                // Nothing longer than a chunk is ever swallowed.
                return Err(ServerFault(header.tag));
            }
        }
    }

    fn request(&mut self, step: &mut Step<'_, '_, impl Surroundings>) -> Result<Fate, ClientFault> {
        let tag = step.header.tag;
        if step.server.answers.is_skipping() && tag != frontend::SYNC {
            return Ok(Fate::Discard);
        }
        let now = step.around.now();
        match tag {
            frontend::QUERY if !self.rules.simple_query => return Err(ClientFault::SimpleQuery),
            frontend::QUERY => {
                let slot = observe(step, step.message.get(HEADER_LEN..).unwrap_or_default());
                step.push(Owed::Query(Meter { slot, start: now }));
            }
            frontend::SYNC => step.server.answers.push_sync(),
            frontend::FUNCTION_CALL => step.push(Owed::FunctionCall),
            frontend::EXECUTE => {
                let slot = self.bound_slot;
                step.push(Owed::Execute(Meter { slot, start: now }));
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

    fn parse(&mut self, step: &mut Step<'_, '_, impl Surroundings>) -> Result<Fate, ClientFault> {
        let Some(&first) = step.message.get(HEADER_LEN) else {
            return Ok(wait(step.header));
        };
        let limit = step.around.statement_limit();
        if first == 0 || limit == 0 {
            return self.untracked_parse(step);
        }
        if step.header.total() > MAX_TRACKED_PARSE {
            return Err(ClientFault::TooLong);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let parse = frontend::parse(body).ok_or(ClientFault::Broken("broken Parse packet"))?;
        if self.lookup(parse.name).is_some() {
            return Err(ClientFault::NameInUse(parse.name.into()));
        }
        let slot = observe(step, parse.query);
        let statement = step.around.dictionary().intern(parse.definition, slot);
        step.around.count(Event::ClientParse);
        self.remember(parse.name, statement.clone());
        let tracked = Some(Box::new(Tracked {
            statement: statement.clone(),
            client_name: Some(parse.name.into()),
            before: None,
        }));
        match step.presence(&statement) {
            Presence::Present => step.push(Owed::Parse(Answer::Fake, tracked)),
            presence => {
                step.send_parse(&statement, presence, limit);
                step.push(Owed::Parse(Answer::Forward, tracked));
            }
        }
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    /// A Parse that is passed on as it is: unnamed, or names are not tracked.
    fn untracked_parse(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        let body = &step.message[HEADER_LEN..];
        let Some((name, query)) = crate::wire::frame::cstr(body) else {
            if !step.is_whole() && body.len() <= MAX_NAMES {
                return Ok(Fate::Wait);
            }
            // What is wrong with it is the server's to say.
            step.push(Owed::Parse(Answer::Forward, None));
            return Ok(Fate::Pass);
        };
        let slot = observe(step, query);
        if name.is_empty() {
            self.unnamed_slot = slot;
        }
        step.push(Owed::Parse(Answer::Forward, None));
        Ok(Fate::Pass)
    }

    fn bind(&mut self, step: &mut Step<'_, '_, impl Surroundings>) -> Result<Fate, ClientFault> {
        const BROKEN: ClientFault = ClientFault::Broken("broken Bind packet");
        let end = step.message.len().min(step.header.total());
        let body = step.message.get(HEADER_LEN..end).unwrap_or_default();
        let limit = step.around.statement_limit();
        let Some(names) = frontend::bind_names(body) else {
            if !step.is_whole() && body.len() <= MAX_NAMES {
                return Ok(Fate::Wait);
            }
            if limit > 0 {
                return Err(BROKEN);
            }
            step.push(Owed::Bind);
            return Ok(Fate::Pass);
        };
        if names.statement.is_empty() || limit == 0 {
            self.bound_slot = match names.statement.is_empty() {
                true => self.unnamed_slot,
                false => NO_SLOT,
            };
            step.push(Owed::Bind);
            return Ok(Fate::Pass);
        }
        let statement = self.lookup(names.statement);
        let statement = statement.ok_or(ClientFault::NoSuchStatement)?.clone();
        step.around.count(Event::Bind);
        self.bound_slot = statement.slot;
        step.prepare(&statement, limit);
        let front = HEADER_LEN + body.len() - names.rest.len();
        let rest = step.header.total() - front;
        frontend::put_bind_front(step.out.insert(), names.portal, &statement.name, rest);
        step.push(Owed::Bind);
        Ok(Fate::Rewritten { front })
    }

    fn describe(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        if step.around.statement_limit() == 0 {
            step.push(Owed::Describe);
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let broken = ClientFault::Broken("broken Describe packet");
        let (kind, name) = frontend::target(body).ok_or(broken)?;
        let limit = step.around.statement_limit();
        if kind == b'P' || name.is_empty() {
            step.push(Owed::Describe);
            return Ok(Fate::Pass);
        }
        let statement = self
            .lookup(name)
            .ok_or(ClientFault::NoSuchStatement)?
            .clone();
        step.prepare(&statement, limit);
        frontend::put_statement_target(step.out.insert(), frontend::DESCRIBE, &statement.name);
        step.push(Owed::Describe);
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    fn close(&mut self, step: &mut Step<'_, '_, impl Surroundings>) -> Result<Fate, ClientFault> {
        if step.around.statement_limit() == 0 {
            step.push(Owed::Close(Answer::Forward, None));
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let broken = ClientFault::Broken("broken Close packet");
        let (kind, name) = frontend::target(body).ok_or(broken)?;
        if kind == b'P' || name.is_empty() {
            step.push(Owed::Close(Answer::Forward, None));
            return Ok(Fate::Pass);
        }
        let before = self.statements.as_mut().and_then(|all| all.remove(name));
        // A Close on its way may yet be discarded, this one not.
        let closed = before
            .clone()
            .or_else(|| step.answers().about(name).cloned());
        let tracked = closed.map(|statement| {
            Box::new(Tracked {
                statement,
                client_name: Some(name.into()),
                before,
            })
        });
        step.push(Owed::Close(Answer::Fake, tracked));
        Ok(Fate::Discard)
    }

    /// Accounts for one message of the server; answers whether the client
    /// gets it.
    fn answer(
        &mut self,
        header: Header,
        body: &[u8],
        server: &mut Exchange,
        around: &mut impl Surroundings,
        arrived: &mut Arrived,
    ) -> Result<bool, ServerFault> {
        let fault = ServerFault(header.tag);
        let status = body.first().copied().and_then(TransactionStatus::read);
        match header.tag {
            backend::COMMAND_COMPLETE => self.on_tag(body, server),
            backend::ERROR_RESPONSE => {
                self.outcome.error = Some(backend::sqlstate(body).unwrap_or(*b"XX000"));
            }
            backend::PARAMETER_STATUS => {
                let (name, value) = backend::parameter(body).ok_or(fault)?;
                around.parameter(name, value);
            }
            backend::READY_FOR_QUERY if header.len != 5 => return Err(fault),
            _ => {}
        }
        let Exchange {
            answers, prepared, ..
        } = server;
        let mut undone = Vec::new();
        let discard = |owed| undone.extend(Undone::of(owed));
        let step = answers.on_message(header.tag, status, discard);
        let step = step.map_err(|_| fault)?;
        for undone in undone {
            if let Some(undone) = answers.put_off(undone) {
                self.undo(undone);
            }
        }
        prepared.note(&step, answers);
        if let Some(meter) = step.finished {
            around.finished(meter, std::mem::take(&mut self.outcome));
        }
        if step.ready {
            self.outcome = Outcome::default();
        }
        arrived.ready |= step.ready;
        arrived.block_refused =
            step.ready && status != Some(TransactionStatus::Idle) && around.refuses_blocks();
        arrived.internal_failed |= step.internal_failed;
        Ok(step.forward)
    }

    fn on_tag(&mut self, body: &[u8], server: &mut Exchange) {
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        if tag == b"DEALLOCATE ALL" || tag == b"DISCARD ALL" {
            server.prepared.clear(&server.answers);
            self.statements = None;
        }
        self.outcome.rows += backend::tag_rows(tag);
    }

    fn undo(&mut self, undone: Undone) {
        match undone.before {
            Some(statement) => self.remember(&undone.name, statement),
            None if planted(Bug::FailedParseKeepsName) => {}
            None => {
                if let Some(all) = &mut self.statements {
                    all.remove(&undone.name);
                }
            }
        }
    }

    fn lookup(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.statements.as_ref()?.get(name)
    }

    fn remember(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.statements
            .get_or_insert_default()
            .insert(name.into(), statement);
    }

    fn client_header(&self, bytes: &[u8]) -> Result<Option<Header>, ClientFault> {
        let Some(header) = Header::read(bytes) else {
            return Ok(None);
        };
        let limit = frontend::length_limit(bytes[0]).ok_or(ClientFault::UnknownType(bytes[0]))?;
        match header {
            Ok(header) if header.len <= limit.min(self.rules.max_message) => Ok(Some(header)),
            _ => Err(ClientFault::BadLength),
        }
    }

    fn skip_discarded(&mut self, chunk: &[u8]) -> usize {
        let skip = self.discarding.min(chunk.len());
        self.discarding -= skip;
        skip
    }
}

/// What becomes of a client's message.
enum Fate {
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
struct Step<'s, 'o, A> {
    /// The rest of the chunk, from the message's type byte on.
    message: &'s [u8],
    header: Header,
    server: &'s mut Exchange,
    around: &'s mut A,
    out: &'s mut Splice<'o>,
    back: &'s mut Vec<u8>,
}

impl<'s, A: Surroundings> Step<'s, '_, A> {
    fn push(&mut self, owed: Owed) {
        self.answers().push(owed);
    }

    fn answers(&mut self) -> &mut Answers {
        &mut self.server.answers
    }

    fn is_whole(&self) -> bool {
        self.message.len() >= self.header.total()
    }

    fn whole_body(&self) -> Option<&'s [u8]> {
        self.message.get(HEADER_LEN..self.header.total())
    }

    /// Makes sure that the server has the statement.
    fn prepare(&mut self, statement: &Arc<Statement>, limit: usize) {
        let presence = self.presence(statement);
        if presence != Presence::Present {
            self.send_parse(statement, presence, limit);
            self.push(Owed::Parse(Answer::Swallow, Some(own(statement))));
        }
    }

    fn presence(&mut self, statement: &Arc<Statement>) -> Presence {
        let Exchange {
            answers, prepared, ..
        } = &mut *self.server;
        prepared.touch(statement, answers)
    }

    fn send_parse(&mut self, statement: &Arc<Statement>, presence: Presence, limit: usize) {
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
fn observe(step: &mut Step<'_, '_, impl Surroundings>, text: &[u8]) -> u32 {
    let text = &text[..text.len().min(MAX_OBSERVED)];
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    step.around.observe(&text[..end])
}

/// A message whose body has not begun to arrive: wait, unless it has none.
fn wait(header: Header) -> Fate {
    match header.total() > HEADER_LEN {
        true => Fate::Wait,
        false => Fate::Pass,
    }
}

/// Messages of a server that are read whole before they are passed on.
fn needed_whole(header: Header, answers: &Answers) -> Result<bool, ServerFault> {
    let needed = match header.tag {
        backend::COMMAND_COMPLETE | backend::PARAMETER_STATUS | backend::READY_FOR_QUERY => true,
        backend::PARSE_COMPLETE | backend::CLOSE_COMPLETE => true,
        // Of a long error only the class goes uncounted.
        backend::ERROR_RESPONSE => header.total() <= MAX_SERVER_FETCH,
        _ => answers.is_internal(),
    };
    if needed && header.total() > MAX_SERVER_FETCH {
        return Err(ServerFault(header.tag));
    }
    Ok(needed)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
