//! What a session does, without sockets: clients, the flow of each, model
//! servers they are lent, and bytes on their way that arrive in any pieces.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::{ClientFault, Event, Flow, Outcome, Rules, Seen, Stop, Surroundings};
use super::postgres::Postgres;
use super::random::Random;
use crate::gateway::mentions_statements;
use crate::server::Exchange;
use crate::server::answers::Meter;
use crate::server::statements::Dictionary;
use crate::stats::Micros;
use crate::wire::{Header, Splice};

/// What must not happen, in words.
pub(super) type Wrong = String;

/// The surroundings of every flow.
#[derive(Debug, Clone, Default)]
pub(super) struct Calm {
    pub(super) dictionary: Arc<Dictionary>,
    /// `max_prepared_statements`.
    pub(super) limit: usize,
}

impl Surroundings for Calm {
    fn observe(&mut self, text: &[u8]) -> Seen {
        Seen {
            slot: 0,
            mentions: mentions_statements(text),
        }
    }
    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }
    fn now(&self) -> Micros {
        Micros::ZERO
    }
    fn statement_limit(&self) -> usize {
        self.limit
    }
    fn refuses_blocks(&self) -> bool {
        false
    }
    fn keeps_server(&self) -> bool {
        false
    }
    fn finished(&mut self, _: Meter, _: Outcome) {}
    fn parameter(&mut self, _: &str, _: &str) {}
    fn count(&mut self, _: Event) {}
}

/// A pooled server, and what is on its way to and from it.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) exchange: Exchange,
    pub(super) postgres: Postgres,
    inbound: Vec<u8>,
    outbound: Vec<u8>,
    /// Bytes of `outbound` that have arrived.
    arrived: usize,
}

/// A client, and what it says and hears.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) flow: Flow,
    says: Vec<u8>,
    /// Bytes of `says` that the pooler has taken.
    taken: usize,
    /// Bytes of `says` that have arrived.
    said: usize,
    pub(super) heard: Vec<u8>,
    pub(super) fault: Option<ClientFault>,
    /// Why its server was called broken.
    pub(super) broken: Option<String>,
    pub(super) server: Option<Server>,
    /// Its next message waits until the server has answered.
    holds: bool,
}

impl Client {
    /// A client that will say this.
    pub(super) fn new(says: Vec<u8>) -> Client {
        Client {
            flow: Flow::new(Rules {
                max_message: u32::MAX,
                simple_query: true,
            }),
            says,
            taken: 0,
            said: 0,
            heard: Vec::new(),
            fault: None,
            broken: None,
            server: None,
            holds: false,
        }
    }

    /// Its connection has ended, by its own fault or with its server.
    pub(super) fn is_over(&self) -> bool {
        let dead = |server: &Server| server.postgres.is_dead() && server.is_silent();
        self.fault.is_some() || self.broken.is_some() || self.server.as_ref().is_some_and(dead)
    }

    /// Its server has answered all it was asked, and is not waited for.
    pub(super) fn waits_for_nothing(&self) -> Result<(), Wrong> {
        match &self.server {
            Some(server)
                if server.is_silent()
                    && server.postgres.is_clean()
                    && (self.holds || !server.exchange.answers.is_empty())
                    && !server.exchange.answers.is_unsynced() =>
            {
                Err(format!("waits for ever: {}", server.state()))
            }
            _ => Ok(()),
        }
    }

    fn may_speak(&self) -> bool {
        self.said < self.says.len() && !self.holds
    }
}

impl Server {
    fn is_silent(&self) -> bool {
        self.inbound.is_empty() && self.arrived == self.outbound.len()
    }

    /// What a failure is understood by.
    pub(super) fn state(&self) -> String {
        format!("{:?}, {:?}", self.exchange.answers, self.postgres)
    }

    /// The backend reads what was sent to it.
    fn work(&mut self) {
        self.postgres.receive(&self.inbound);
        self.inbound.clear();
        self.outbound.append(&mut self.postgres.take_sent());
    }

    /// Whether another client may have it; it has been called settled.
    /// `are_noted` says whether its statements are noted.
    fn check_clean(&mut self, are_noted: bool) -> Result<(), Wrong> {
        self.work();
        if !self.postgres.is_clean() || !self.outbound.is_empty() {
            return Err(format!("dirty hand-over: {}", self.state()));
        }
        // What only stood for a statement may be left where its text failed.
        let tracked = |name: &&[u8]| !name.starts_with(b"PGWEIR");
        let (has, noted) = (
            self.postgres.prepared().filter(tracked).count(),
            self.exchange.prepared.len(),
        );
        if are_noted && has != noted {
            return Err(format!("{noted} statements noted: {}", self.state()));
        }
        Ok(())
    }
}

/// How a server came back from a client that left.
#[derive(Debug)]
pub(super) enum Left {
    /// It had none.
    Nothing,
    /// Proven clean.
    Settled(Box<Server>),
    /// It was closed.
    Closed,
}

/// The servers nobody holds.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) around: Calm,
    pub(super) idle: Vec<Server>,
}

impl Pool {
    /// Lets things happen in a random order and in random pieces until
    /// nothing can happen any more, or `steps` have been made.
    pub(super) fn run(
        &mut self,
        clients: &mut [Client],
        random: &mut Random,
        steps: usize,
    ) -> Result<(), Wrong> {
        let piece = *random.choose(&[usize::MAX, usize::MAX, usize::MAX, 90, 20]);
        for _ in 0..steps {
            let count = clients.len();
            let start = random.below(count);
            let mut moved = false;
            for index in 0..count {
                let client = &mut clients[(start + index) % count];
                if self.step(client, random, piece)? {
                    moved = true;
                    break;
                }
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// One random thing that concerns this client; false if nothing can
    /// happen.
    fn step(
        &mut self,
        client: &mut Client,
        random: &mut Random,
        piece: usize,
    ) -> Result<bool, Wrong> {
        if client.is_over() {
            return Ok(false);
        }
        let mut bytes = || match piece {
            usize::MAX => piece,
            _ => 1 + random.below(piece),
        };
        let count = bytes();
        let choice = random.below(3);
        for turn in 0..3 {
            match (choice + turn) % 3 {
                0 if client.may_speak() => {
                    self.hear_client(client, count);
                    self.settle(client)?;
                    return Ok(true);
                }
                1 => {
                    if let Some(server) = &mut client.server
                        && !server.inbound.is_empty()
                    {
                        server.work();
                        if random.chance(4) {
                            server.postgres.flush();
                            server.work();
                        }
                        return Ok(true);
                    }
                }
                2 => {
                    if let Some(server) = &client.server
                        && server.arrived < server.outbound.len()
                    {
                        self.hear_server(client, count);
                        self.settle(client)?;
                        return Ok(true);
                    }
                }
                _ => {}
            }
        }
        // Nobody's bytes move, but a server may have become free.
        let waits = client.server.is_none() && client.taken < client.said;
        if waits && !self.idle.is_empty() {
            let before = client.taken;
            self.hear_client(client, 0);
            self.settle(client)?;
            return Ok(client.taken > before || client.server.is_some());
        }
        Ok(false)
    }

    /// `count` more bytes of the client arrive.
    fn hear_client(&mut self, client: &mut Client, count: usize) {
        client.said = client.said.saturating_add(count).min(client.says.len());
        if client.server.is_none() {
            let chunk = &client.says[client.taken..client.said];
            let walked = client
                .flow
                .unlinked(chunk, &mut self.around, &mut client.heard);
            match walked {
                Err(fault) => return client.fault = Some(fault),
                Ok((taken, stop)) => {
                    client.taken += taken;
                    if stop != Stop::NeedServer {
                        return;
                    }
                }
            }
            client.server = self.idle.pop();
        }
        let Some(server) = &mut client.server else {
            return;
        };
        let chunk = &client.says[client.taken..client.said];
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(chunk, &mut scratch);
        let (exchange, back) = (&mut server.exchange, &mut client.heard);
        let around = &mut self.around;
        let walked = client
            .flow
            .client_chunk(chunk, exchange, around, &mut out, back);
        server.inbound.extend_from_slice(out.output());
        match walked {
            Err(fault) => client.fault = Some(fault),
            Ok((taken, stop)) => {
                client.taken += taken;
                client.holds = stop == Stop::NeedAnswers;
            }
        }
    }

    /// `count` more bytes of the server arrive.
    fn hear_server(&mut self, client: &mut Client, count: usize) {
        let Some(server) = &mut client.server else {
            return;
        };
        let all = server.outbound.len();
        server.arrived = server.arrived.saturating_add(count).min(all);
        let chunk = &server.outbound[..server.arrived];
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(chunk, &mut scratch);
        let exchange = &mut server.exchange;
        let arrived = client
            .flow
            .server_chunk(chunk, exchange, &mut self.around, &mut out);
        client.heard.extend_from_slice(out.output());
        match arrived {
            Ok(arrived) => {
                if arrived.resend {
                    let again = server.exchange.replay.bytes();
                    server.inbound.extend_from_slice(again);
                }
                server.outbound.drain(..arrived.taken);
                server.arrived -= arrived.taken;
                let answers = &server.exchange.answers;
                if client.holds && (answers.is_empty() || answers.is_copying_in()) {
                    self.hear_client(client, 0);
                }
            }
            Err(fault) => {
                let rest = server.outbound.escape_ascii();
                client.broken = Some(format!("{fault:?} of {rest}, {}", server.state()));
                client.server = None;
            }
        }
    }

    /// Takes the server from the client as soon as that is called safe.
    fn settle(&mut self, client: &mut Client) -> Result<(), Wrong> {
        let settled = |server: &mut Server| server.exchange.is_settled() && server.arrived == 0;
        if client.fault.is_none()
            && !client.holds
            && let Some(mut server) = client.server.take_if(settled)
        {
            // One that is condemned is closed, and another opened.
            match server.exchange.answers.is_condemned() {
                true => self.idle.push(Server::default()),
                false => {
                    server.check_clean(self.around.limit > 0)?;
                    self.idle.push(server);
                }
            }
        }
        Ok(())
    }

    /// The client has gone: its server comes back settled, or is closed.
    pub(super) fn leave(&self, client: Client) -> Result<Left, Wrong> {
        let Some(mut server) = client.server else {
            return Ok(match client.broken {
                Some(_) => Left::Closed,
                None => Left::Nothing,
            });
        };
        server.work();
        while !server.exchange.answers.is_empty() || server.exchange.incoming > 0 {
            let skipped = server.exchange.incoming.min(server.outbound.len());
            if skipped > 0 {
                server.exchange.incoming -= skipped;
                server.outbound.drain(..skipped);
                continue;
            }
            let Some(Ok(header)) = Header::read(&server.outbound) else {
                return Ok(Left::Closed);
            };
            let message: Vec<u8> = server.outbound.drain(..header.total()).collect();
            if server.exchange.account(header.tag, &message[5..]).is_err() {
                return Ok(Left::Closed);
            }
        }
        let exchange = &server.exchange;
        if !exchange.is_settled() || exchange.answers.is_condemned() || !server.outbound.is_empty()
        {
            return Ok(Left::Closed);
        }
        server.check_clean(self.around.limit > 0)?;
        Ok(Left::Settled(Box::new(server)))
    }
}
