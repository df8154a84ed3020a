//! The flow, for any bytes of a client and its server, in any pieces.
//!
//! An input is a mode, a seed for the pieces, and blocks: a byte whose lowest
//! bit says who speaks, a length of two bytes, and what is said.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{ClientFault, Event, Flow, Outcome, Rules, Seen, ServerFault, Stop, Surroundings};
use crate::gateway::mentions_statements;
use crate::server::Exchange;
use crate::server::answers::Meter;
use crate::server::statements::Dictionary;
use crate::stats::Micros;
use crate::wire::frame::LARGE_MESSAGE_LIMIT;
use crate::wire::fuzz::{Input, messages, pieces};
use crate::wire::{Splice, backend, frontend};

/// A Bind grows by its statement's new name, and PostgreSQL has its limit.
const MAX_MESSAGE: u32 = LARGE_MESSAGE_LIMIT - 1024;

/// Surroundings that remember what they are told.
#[derive(Debug, Default)]
struct Ledger {
    dictionary: Dictionary,
    limit: usize,
    refuses_blocks: bool,
    keeps_server: bool,
    finished: Vec<(Meter, u64, bool)>,
    parameters: Vec<(String, String)>,
    events: Vec<Event>,
    /// A text was seen that names prepared statements.
    scripted: bool,
}

impl Surroundings for Ledger {
    fn observe(&mut self, text: &[u8]) -> Seen {
        assert!(!text.contains(&0));
        let mentions = mentions_statements(text);
        self.scripted |= mentions;
        Seen { slot: 0, mentions }
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
        self.refuses_blocks
    }
    fn keeps_server(&self) -> bool {
        self.keeps_server
    }
    fn finished(&mut self, meter: Meter, outcome: Outcome) {
        let failed = outcome.error.is_some();
        self.finished.push((meter, outcome.rows, failed));
    }
    fn parameter(&mut self, name: &str, value: &str) {
        self.parameters.push((name.into(), value.into()));
    }
    fn count(&mut self, event: Event) {
        self.events.push(event);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Client(ClientFault),
    Terminate,
    Server(ServerFault),
    /// A transaction where none may be, or the server's farewell.
    Parted,
}

/// One client and one server, linked for as long as they last.
#[derive(Debug)]
struct Link {
    flow: Flow,
    around: Ledger,
    exchange: Exchange,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    /// The client's next message waits for answers.
    holds: bool,
    /// A batch has been sent again.
    resent: bool,
    end: Option<End>,
}

impl Link {
    fn new(mode: u8) -> Link {
        let around = Ledger {
            limit: [0, 1, 2, 100][usize::from(mode & 3)],
            refuses_blocks: mode & 4 != 0,
            keeps_server: mode & 8 != 0,
            ..Ledger::default()
        };
        Link {
            flow: Flow::new(Rules {
                max_message: if mode & 16 != 0 { 64 } else { MAX_MESSAGE },
                simple_query: mode & 32 == 0,
            }),
            around,
            exchange: Exchange::default(),
            from_client: Vec::new(),
            from_server: Vec::new(),
            to_client: Vec::new(),
            to_server: Vec::new(),
            holds: false,
            resent: false,
            end: None,
        }
    }

    fn hear_client(&mut self, chunk: &[u8]) {
        if self.end.is_some() {
            return;
        }
        self.from_client.extend_from_slice(chunk);
        if !self.holds {
            self.walk();
        }
    }

    /// The server's answers may be what the client's next message waits for.
    fn go_on(&mut self) {
        let answers = &self.exchange.answers;
        let come = answers.is_empty() || answers.is_copying_in();
        if self.end.is_none() && self.holds && come {
            self.walk();
        }
    }

    fn walk(&mut self) {
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(&self.from_client, &mut scratch);
        let (exchange, around) = (&mut self.exchange, &mut self.around);
        let walked = self.flow.client_chunk(
            &self.from_client,
            exchange,
            around,
            &mut out,
            &mut self.to_client,
        );
        self.to_server.extend_from_slice(out.output());
        match walked {
            Ok((taken, stop)) => {
                self.from_client.drain(..taken);
                self.holds = stop == Stop::NeedAnswers;
                match stop {
                    Stop::End => {}
                    Stop::NeedAnswers => {
                        assert!(!self.exchange.answers.is_empty(), "nothing to wait for");
                    }
                    Stop::Terminate => self.end = Some(End::Terminate),
                    Stop::NeedServer => panic!("it has one"),
                }
            }
            Err(fault) => self.end = Some(End::Client(fault)),
        }
        self.check();
    }

    fn hear_server(&mut self, chunk: &[u8]) {
        if self.end.is_some() {
            return;
        }
        self.from_server.extend_from_slice(chunk);
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(&self.from_server, &mut scratch);
        let (exchange, around) = (&mut self.exchange, &mut self.around);
        let arrived = self
            .flow
            .server_chunk(&self.from_server, exchange, around, &mut out);
        self.to_client.extend_from_slice(out.output());
        match arrived {
            Ok(arrived) => {
                assert!(!arrived.internal_failed, "nothing was asked");
                self.from_server.drain(..arrived.taken);
                if arrived.resend {
                    let again = self.exchange.replay.bytes();
                    self.to_server.extend_from_slice(again);
                    self.resent = true;
                }
                if arrived.farewell || arrived.block_refused {
                    self.end = Some(End::Parted);
                }
            }
            Err(fault) => self.end = Some(End::Server(fault)),
        }
        self.check();
    }

    /// Messages leave whole, or what they lack is known.
    fn check(&self) {
        let (_, lacks) = messages(&self.to_server);
        assert_eq!(lacks, Some(self.exchange.outgoing), "to the server");
        let (_, lacks) = messages(&self.to_client);
        assert_eq!(lacks, Some(self.exchange.incoming), "to the client");
        if self.exchange.is_settled() {
            assert!(self.exchange.answers.is_empty() && lacks == Some(0));
        }
    }

    /// A ParameterDescription is kept back until it is known what follows.
    fn keeps_back(&self) -> bool {
        self.from_server.first() == Some(&backend::PARAMETER_DESCRIPTION)
    }
}

/// Whether two links are told apart by their pieces alone. A batch is kept to
/// be sent again only if its first statement comes in one piece with what is
/// in front of it.
#[derive(Debug, Default)]
struct Apart(bool);

impl Apart {
    fn look(&mut self, whole: &Link, cut: &Link) -> bool {
        let differ = whole.exchange.replay.is_on() != cut.exchange.replay.is_on();
        let shows = whole.keeps_back() || cut.keeps_back() || whole.resent || cut.resent;
        self.0 |= shows;
        differ || self.0
    }
}

/// Whatever is said, and however it arrives: the same is passed on, message by
/// message, and nothing is made up.
pub fn flow(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, seed) = (input.byte(), input.byte());
    let (mut whole, mut cut) = (Link::new(mode), Link::new(mode));
    let (mut client, mut server) = (Vec::new(), Vec::new());
    let mut apart = Apart::default();
    while !input.is_empty() {
        let from_client = input.byte() & 1 == 0;
        let block = input.block();
        // Nobody is called for nothing.
        if block.is_empty() {
            continue;
        }
        if from_client {
            client.extend_from_slice(block);
            whole.hear_client(block);
            pieces(block, seed).for_each(|piece| cut.hear_client(piece));
        } else {
            server.extend_from_slice(block);
            whole.hear_server(block);
            pieces(block, seed).for_each(|piece| cut.hear_server(piece));
            whole.go_on();
            cut.go_on();
        }
        if !apart.look(&whole, &cut) {
            same(&whole, &cut);
        }
    }
    origin(&whole, &client, &server);
    unlinked(mode, seed, &client);
}

fn same(whole: &Link, cut: &Link) {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    assert_eq!(text(&whole.to_server), text(&cut.to_server), "to server");
    assert_eq!(text(&whole.to_client), text(&cut.to_client), "to client");
    assert_eq!(whole.end, cut.end);
    assert_eq!(whole.exchange.is_settled(), cut.exchange.is_settled());
    assert_eq!(whole.flow.prepared(), cut.flow.prepared());
    assert_eq!(whole.around.finished, cut.around.finished);
    assert_eq!(whole.around.parameters, cut.around.parameters);
    assert_eq!(whole.around.events, cut.around.events);
}

/// What is passed on has been said, in that order, or is one of the few
/// messages the flow makes.
fn origin(link: &Link, client: &[u8], server: &[u8]) {
    let (passed, _) = messages(&link.to_server);
    let mut said = parts(client);
    // What is asked ahead of a text, and what is sent again, has Syncs that
    // look like the client's.
    let scripted = link.around.limit > 0 && link.around.scripted;
    let passed = if scripted || link.resent {
        Vec::new()
    } else {
        passed
    };
    for message in passed {
        let own = link.around.limit > 0 && matches!(message[0], b'P' | b'B' | b'D' | b'C');
        assert!(own || comes(&mut said, message), "to the server");
    }
    let (passed, _) = messages(&link.to_client);
    let mut said = parts(server);
    for message in passed {
        let own = [
            backend::PARSE_COMPLETE_MESSAGE,
            backend::CLOSE_COMPLETE_MESSAGE,
        ];
        let reworded = scripted && message[0] == backend::ERROR_RESPONSE;
        assert!(
            reworded || own.contains(&message) || comes(&mut said, message),
            "to the client"
        );
    }
}

/// The messages at the front of a stream, until it makes no sense.
fn parts(mut stream: &[u8]) -> VecDeque<&[u8]> {
    let mut parts = VecDeque::new();
    while let Some(Ok(header)) = crate::wire::Header::read(stream)
        && let Some((message, rest)) = stream.split_at_checked(header.total())
    {
        parts.push_back(message);
        stream = rest;
    }
    parts
}

fn comes(said: &mut VecDeque<&[u8]>, message: &[u8]) -> bool {
    while let Some(next) = said.pop_front() {
        if next == message {
            return true;
        }
    }
    false
}

/// A client without a server is answered the same until it needs one, which it
/// may for a message that has not come whole.
fn unlinked(mode: u8, seed: u8, says: &[u8]) {
    let hear = |chunks: &mut dyn Iterator<Item = &[u8]>| {
        let Link {
            mut flow,
            mut around,
            ..
        } = Link::new(mode);
        let (mut carry, mut heard, mut taken) = (Vec::new(), Vec::new(), 0);
        for chunk in chunks {
            carry.extend_from_slice(chunk);
            match flow.unlinked(&carry, &mut around, &mut heard) {
                Ok((count, stop)) => {
                    taken += count;
                    carry.drain(..count);
                    if stop != Stop::End {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        (heard, taken)
    };
    let (heard, taken) = hear(&mut std::iter::once(says));
    let (early, sooner) = hear(&mut pieces(says, seed));
    assert!(heard.starts_with(&early) && sooner <= taken.max(says.len()));
    // The last may be answered before it has come whole.
    let asked = 1 + parts(says)
        .iter()
        .filter(|message| {
            matches!(
                message[0],
                frontend::SYNC | frontend::CLOSE | frontend::PARSE
            )
        })
        .count();
    assert!(messages(&heard).0.len() <= asked);
}
