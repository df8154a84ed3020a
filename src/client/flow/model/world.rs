//! Where a sequence begins: what the pooler, its server and the client's
//! statements have been through before.

use std::sync::Arc;

use super::oracle::Direct;
use super::pooler::{Calm, Client, Pool, Server};
use super::postgres::{DROP_SHELF, Postgres};
use super::random::Random;
use super::script::{Author, Letter, Luck, NAMES, bind, definition, message, query};
use crate::server::statements::{Kind, Prepared, Statement};

/// Whether the server has a client's statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// It has them all.
    Cached,
    /// It has none, and but for the first nobody has prepared them before.
    Missing,
    /// It has room for one, which is another client's.
    Evicted,
}

/// All of them.
pub(super) const CACHES: [Cache; 3] = [Cache::Cached, Cache::Missing, Cache::Evicted];

/// What the statements do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    /// They return rows.
    Read,
    /// Some are COPY.
    Copied,
    /// As `Read`, but the first one's table is gone since it was prepared.
    Gone,
}

/// A beginning.
#[derive(Debug)]
pub(super) struct World {
    pub(super) around: Calm,
    /// What the next client says, and hears.
    pub(super) short_test: (Vec<u8>, Vec<u8>),
    pub(super) long_test: (Vec<u8>, Vec<u8>),
    copies: bool,
    first: Arc<Statement>,
    prepared: Prepared,
    postgres: Postgres,
    direct: Postgres,
    /// Kept by other clients.
    _known: Vec<Arc<Statement>>,
}

impl World {
    pub(super) fn new(cache: Cache, tables: Tables) -> World {
        let copies = tables == Tables::Copied;
        let limit = if cache == Cache::Evicted { 1 } else { 10 };
        let around = Calm {
            limit,
            ..Calm::default()
        };
        let known = match cache {
            Cache::Missing => 1,
            _ => NAMES.len(),
        };
        let intern = |index| {
            let statement = around
                .dictionary
                .intern(Kind::Parse, &definition(copies, index), 0);
            statement.prove();
            statement
        };
        let known: Vec<_> = (0..known).map(intern).collect();
        let mut server = match cache {
            Cache::Cached => served(&around, &[0, 1, 2].map(|index| definition(copies, index))),
            Cache::Missing => Server::default(),
            Cache::Evicted => served(&around, &[b"select 'other'\0\0\0".to_vec()]),
        };
        let mut direct = Postgres::default();
        direct.receive(&parse(NAMES[0], &definition(copies, 0)));
        direct.receive(&message(b'S', b""));
        if tables == Tables::Gone {
            direct.receive(&query(DROP_SHELF));
            server.postgres.receive(&query(DROP_SHELF));
            server.postgres.take_sent();
        }
        direct.take_sent();
        let mut world = World {
            around,
            short_test: Default::default(),
            long_test: Default::default(),
            copies,
            first: known[0].clone(),
            prepared: server.exchange.prepared.clone(),
            postgres: server.postgres,
            direct,
            _known: known,
        };
        world.short_test = world.test(&[Letter::Query, Letter::Query]);
        world.long_test = world.test(match copies {
            true => &[
                Letter::Bind,
                Letter::Execute,
                Letter::CopyData,
                Letter::CopyDone,
                Letter::Sync,
            ],
            false => &[
                Letter::Query,
                Letter::Bind,
                Letter::Describe,
                Letter::Execute,
                Letter::Sync,
            ],
        });
        world
    }

    fn test(&self, letters: &[Letter]) -> (Vec<u8>, Vec<u8>) {
        let author = Author::new(self.copies, 'B');
        let mut direct = Direct::new(self.direct.clone(), author);
        // Of the queries of a script with copies every other one is none.
        let letters = match self.copies && letters[0] == Letter::Query {
            true => &[Letter::Query, Letter::CopyDone, Letter::Query][..],
            false => letters,
        };
        for letter in letters {
            direct = direct.and(*letter, Luck::Good);
        }
        (direct.says, direct.heard)
    }

    /// A client's own server, before it says anything.
    pub(super) fn direct(&self) -> Direct {
        Direct::new(self.direct.clone(), Author::new(self.copies, 'A'))
    }

    /// The pooled server.
    pub(super) fn server(&self) -> Server {
        let mut server = Server::default();
        server.exchange.prepared = self.prepared.clone();
        server.postgres = self.postgres.clone();
        server
    }

    /// A client that has the first statement and will say this.
    pub(super) fn client(&self, says: Vec<u8>) -> Client {
        let mut client = Client::new(says);
        client
            .flow
            .remember(NAMES[0].as_bytes(), self.first.clone());
        client
    }
}

/// A server that has these statements.
fn served(around: &Calm, definitions: &[Vec<u8>]) -> Server {
    let mut says = Vec::new();
    for (index, definition) in definitions.iter().enumerate() {
        says.extend(parse(&format!("other{index}"), definition));
        // Else they are answered without a server.
        says.extend(bind(&format!("other{index}"), &[]));
        says.extend(message(b'S', b""));
    }
    let mut pool = Pool {
        around: around.clone(),
        idle: vec![Server::default()],
    };
    let mut client = [Client::new(says)];
    let served = pool.run(&mut client, &mut Random::new(0), usize::MAX);
    served.expect("it is prepared");
    pool.idle.pop().expect("it is free again")
}

fn parse(name: &str, definition: &[u8]) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", definition].concat())
}
