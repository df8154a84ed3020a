//! The server's messages: which the client gets, and what they say about
//! requests and statements.

use std::sync::Arc;

use bytes::BytesMut;

use super::foreign::foreign_chunk;
use super::step::own;
use super::{Event, Flow, Outcome, Surroundings};
use crate::server::answers::{Answer, Owed};
use crate::server::script::Effect;
use crate::server::statements::{Kind, Presence, Undone};
use crate::server::{Answers, Exchange};
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, Splice, TransactionStatus, backend, frontend};

/// The longest short message of a server that is read whole.
pub(super) const MAX_SERVER_FETCH: usize = 64 * 1024;

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
    /// The server is to be sent what [`Replay::bytes`] holds.
    ///
    /// [`Replay::bytes`]: crate::server::Replay::bytes
    pub resend: bool,
    /// Behind the last answer the server says that it goes. That is not for
    /// the client, which is done with it.
    pub farewell: bool,
    /// The server is to be asked what it owes.
    pub ask: bool,
}

impl Flow {
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
            if server.foreign.is_some() {
                match foreign_chunk(chunk, at, server, around, out, &mut arrived)? {
                    Some(known) => at = known,
                    None => return Ok(arrived),
                }
            }
            let from = at;
            let header = loop {
                let pass = server.incoming.min(chunk.len() - at);
                server.incoming -= pass;
                at += pass;
                match Header::read(&chunk[at..]) {
                    Some(Ok(header)) if server.answers.passes(header.tag) => {
                        server.incoming = header.total();
                    }
                    header => break header,
                }
            };
            out.pass(from, at);
            arrived.taken = at;
            if server.incoming == 0 {
                // At once: after a Flush nothing else may come.
                while let Some(fake) = server.answers.next_fake() {
                    out.insert().extend_from_slice(fake);
                }
            }
            let header = match header {
                None => return Ok(arrived),
                Some(Err(_)) => return Err(ServerFault(chunk[at])),
                Some(Ok(header)) => header,
            };
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
            if header.tag == backend::PARAMETER_DESCRIPTION && server.replay.is_on() {
                match follows(chunk.get(at + header.total()..)) {
                    Follows::NotHere if header.total() <= MAX_SERVER_FETCH => return Ok(arrived),
                    // The parameters may be others too, once it is made anew.
                    Follows::Outdated => {
                        at += header.total();
                        continue;
                    }
                    _ => {}
                }
            }
            let end = chunk.len().min(at + header.total());
            let body = &chunk[at + HEADER_LEN..end];
            let instead = match header.tag {
                backend::ERROR_RESPONSE if whole => server.answers.reword(body),
                _ => None,
            };
            let forward = self.answer(header, body, server, around, &mut arrived)?;
            if arrived.block_refused {
                return Ok(arrived);
            }
            if let (true, Some(instead)) = (forward, instead) {
                out.insert().extend_from_slice(&instead);
                at += header.total();
            } else if forward {
                server.incoming = header.total();
            } else if whole {
                at += header.total();
            } else {
                // Nothing longer than a chunk is ever swallowed.
                return Err(ServerFault(header.tag));
            }
        }
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
        if server.replay.is_on() && !is_aside(header.tag) {
            let whole_error =
                header.tag == backend::ERROR_RESPONSE && body.len() + HEADER_LEN == header.total();
            if whole_error && self.repair(body, server, around) {
                arrived.resend = true;
                return Ok(false);
            }
            server.replay.stop();
        }
        let fault = ServerFault(header.tag);
        let status = body.first().copied().and_then(TransactionStatus::read);
        match header.tag {
            backend::COMMAND_COMPLETE => self.on_tag(body, server, around),
            backend::ERROR_RESPONSE => {
                self.outcome.error = Some(backend::sqlstate(body).unwrap_or(*b"XX000"));
                if backend::is_outdated_plan(body) {
                    let used = server.answers.used().iter();
                    used.for_each(|statement| server.prepared.outdated(statement));
                }
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
        let mut lost = false;
        let discard = |owed| {
            lost |= matches!(owed, Owed::Parse(_, None));
            undone.extend(Undone::of(owed));
        };
        let step = answers.on_message(header.tag, status, discard);
        let step = step.map_err(|_| fault)?;
        if !undone.is_empty() {
            self.take_back(undone, answers);
        }
        if lost {
            self.lose_unnamed(answers);
        }
        prepared.note(&step, answers);
        if let Some(meter) = step.finished {
            around.finished(meter, std::mem::take(&mut self.outcome));
        }
        if step.ready {
            self.outcome = Outcome::default();
        }
        self.refused |= step.refused;
        arrived.ready |= step.ready;
        arrived.block_refused =
            step.ready && status != Some(TransactionStatus::Idle) && around.refuses_blocks();
        arrived.internal_failed |= step.internal_failed;
        Ok(step.forward)
    }

    /// If this error, the first answer to a transaction's first batch, says that
    /// a statement is out of date, the batch is to be sent again with one made
    /// anew, which the client's names mean from then on. Not where the client
    /// has been told the columns in an earlier batch: it would take the new
    /// ones for those, and the error is what protects it.
    fn repair(
        &mut self,
        body: &[u8],
        server: &mut Exchange,
        around: &mut impl Surroundings,
    ) -> bool {
        if server.outgoing > 0 || !backend::is_outdated_plan(body) {
            return false;
        }
        let Exchange {
            answers,
            prepared,
            replay,
            ..
        } = server;
        let Some(old) = answers.described().cloned() else {
            return false;
        };
        if old.kind != Kind::Parse || old.script.is_some() {
            return false;
        }
        prepared.outdated(&old);
        let new = around
            .dictionary()
            .intern(old.kind, &old.definition, old.slot);
        let (mut front, mut owed) = (BytesMut::new(), Vec::new());
        if !replay.is_closed() {
            front.extend_from_slice(frontend::SYNC_MESSAGE);
        }
        let mark = prepared.clock();
        if prepared.touch(&new, answers) != Presence::Present {
            while let Some(full) = prepared.evict(around.statement_limit(), mark) {
                frontend::put_statement_target(&mut front, frontend::CLOSE, &full.name);
                owed.push(Owed::Close(Answer::Swallow, Some(own(&full))));
            }
            frontend::put_parse(&mut front, &new.name, &new.definition);
            owed.push(Owed::Parse(Answer::Swallow, Some(own(&new))));
            prepared.sent(&new);
            around.count(Event::ServerParse);
        }
        replay.again(front, &old.name, &new.name);
        answers.repeat(owed);
        let names = self.statements.iter_mut().flat_map(|all| all.values_mut());
        names
            .filter(|statement| Arc::ptr_eq(statement, &old))
            .for_each(|statement| *statement = new.clone());
        true
    }

    /// What the server has discarded has not happened.
    fn take_back(&mut self, undone: Vec<Undone>, answers: &mut Answers) {
        for undone in undone {
            if let Some(undone) = answers.put_off(undone) {
                self.undo(undone);
            }
        }
    }

    fn on_tag(&mut self, body: &[u8], server: &mut Exchange, around: &impl Surroundings) {
        match server.note_tag(body) {
            Effect::Prepared(name, statement) => self.remember(&name, statement),
            Effect::Dropped(name) => self.forget(&name),
            Effect::AllDropped => self.statements = None,
            Effect::Unknown if around.statement_limit() > 0 => server.answers.condemn(),
            Effect::Nothing | Effect::Unknown => {}
        }
        let rows = backend::tag_rows(body.strip_suffix(b"\0").unwrap_or(body));
        self.outcome.rows = self.outcome.rows.saturating_add(rows);
    }
}

/// Messages that come unasked, between answers.
fn is_aside(tag: u8) -> bool {
    matches!(
        tag,
        backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS | backend::NOTIFICATION_RESPONSE
    )
}

/// What comes behind a ParameterDescription.
enum Follows {
    /// It has not arrived.
    NotHere,
    /// The error that the statement is out of date.
    Outdated,
    /// Something else.
    Other,
}

/// What stands at the front of these bytes, if there are any.
fn follows(rest: Option<&[u8]>) -> Follows {
    let Some(rest) = rest else {
        return Follows::NotHere;
    };
    match Header::read(rest) {
        None => Follows::NotHere,
        Some(Ok(header)) if header.tag == backend::ERROR_RESPONSE => {
            match rest.get(HEADER_LEN..header.total()) {
                Some(body) if backend::is_outdated_plan(body) => Follows::Outdated,
                None if header.total() <= MAX_SERVER_FETCH => Follows::NotHere,
                _ => Follows::Other,
            }
        }
        Some(_) => Follows::Other,
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
