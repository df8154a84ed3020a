//! Long pipelines of several clients over few servers.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::pooler::{Calm, Client, Pool, Server, Wrong};
use super::postgres::{COPY, Postgres, ROWS, TWICE};
use super::random::Random;
use super::script::{bind, message, query, target};

/// Syncs of the longest pipeline.
const MAX_SYNCS: usize = 200;

/// More steps than any pipeline takes.
const ENDLESS: usize = 1_000_000;

/// Different statements the clients prepare.
const TEXTS: usize = 6;

/// What a client asks for between two Syncs. The numbers choose statements.
#[derive(Debug, Clone)]
pub(super) enum Unit {
    Simple,
    SimpleFails,
    /// Unnamed; the row at which it fails, 0 is none.
    Unnamed(u8),
    /// Prepares it if the client has not, runs it.
    Named(usize, u8),
    /// Closes it if the client has it.
    Close(usize),
    Describe(usize),
    /// PREPARE if the client has not, then EXECUTE, by Query.
    SqlExecute(usize),
    /// PREPARE, whether the name is free or not.
    SqlPrepare(usize),
    /// DEALLOCATE, whether there is one or not: of SQL, or of the protocol.
    SqlDeallocate(usize, bool),
    /// All of it in one text, and whether it ends well.
    SqlScript(usize, bool),
    /// EXECUTE in a transaction that has failed, or not.
    SqlBlock(usize, bool),
    /// A Parse that fails, and more behind it that is discarded.
    Broken,
    CommitFails,
    /// COPY, and whether it ends well.
    Copy(bool),
    SimpleCopy(bool),
    Block,
    Nothing,
}

fn unit() -> impl Strategy<Value = Unit> {
    let fails = prop_oneof![5 => Just(0_u8), 1 => 1..=2_u8];
    prop_oneof![
        2 => Just(Unit::Simple),
        1 => Just(Unit::SimpleFails),
        2 => fails.clone().prop_map(Unit::Unnamed),
        6 => (0..TEXTS, fails).prop_map(|(text, fails)| Unit::Named(text, fails)),
        2 => (0..TEXTS).prop_map(Unit::Close),
        2 => (0..TEXTS).prop_map(Unit::Describe),
        5 => (0..TEXTS).prop_map(Unit::SqlExecute),
        1 => (0..TEXTS).prop_map(Unit::SqlPrepare),
        2 => (0..TEXTS, any::<bool>()).prop_map(|(text, sql)| Unit::SqlDeallocate(text, sql)),
        1 => (0..TEXTS, any::<bool>()).prop_map(|(text, good)| Unit::SqlScript(text, good)),
        1 => (0..TEXTS, any::<bool>()).prop_map(|(text, good)| Unit::SqlBlock(text, good)),
        1 => Just(Unit::Broken),
        1 => Just(Unit::CommitFails),
        1 => any::<bool>().prop_map(Unit::Copy),
        1 => any::<bool>().prop_map(Unit::SimpleCopy),
        1 => Just(Unit::Block),
        1 => Just(Unit::Nothing),
    ]
}

/// Some clients, each with its units, the servers they share, how many
/// statements a server keeps, and the seed of what happens when.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    clients: Vec<Vec<(Unit, bool)>>,
    servers: usize,
    limit: usize,
    seed: u64,
}

/// Scenes with up to so many Syncs of each client.
pub(super) fn scene(syncs: usize) -> impl Strategy<Value = Scene> {
    let client = prop::collection::vec((unit(), any::<bool>()), 0..=syncs);
    (
        prop::collection::vec(client, 1..=3),
        1..=2_usize,
        1..=TEXTS,
        any::<u64>(),
    )
        .prop_map(|(clients, servers, limit, seed)| Scene {
            clients,
            servers,
            limit,
            seed,
        })
}

/// Writes the pipeline of one client.
struct Author {
    whose: char,
    tokens: usize,
    /// Which statements it has; each is prepared in a batch that succeeds, so
    /// that this is known whatever happens.
    has: [bool; TEXTS],
    /// The same of those of SQL.
    has_sql: [bool; TEXTS],
}

impl Author {
    fn token(&mut self) -> String {
        self.tokens += 1;
        format!("{}{}", self.whose, self.tokens)
    }

    fn write(&mut self, unit: &Unit, flush: bool) -> Vec<u8> {
        let token = self.token();
        let mut says = match unit {
            Unit::Simple => return query(&format!("select '{token}'")),
            Unit::SimpleFails => return query(&format!("select '{token}'; select 1/0")),
            Unit::SimpleCopy(true) => {
                let copy = query(&format!("{COPY}; select '{token}'"));
                return [copy, message(b'd', b"1\n2\n"), message(b'c', b"")].concat();
            }
            Unit::SimpleCopy(false) => {
                return [query(COPY), message(b'f', b"no\0")].concat();
            }
            Unit::Block => {
                let inside = query(&format!("select '{token}'"));
                return [query("begin"), inside, query("commit")].concat();
            }
            Unit::SqlExecute(text) => {
                let executed = query(&format!("execute q{text}"));
                return [self.prepare_sql(*text), executed].concat();
            }
            Unit::SqlPrepare(text) => {
                self.has_sql[*text] = true;
                return sql_prepare(*text);
            }
            Unit::SqlDeallocate(text, true) => {
                self.has_sql[*text] = false;
                return query(&format!("deallocate q{text}"));
            }
            Unit::SqlDeallocate(text, false) => {
                self.has[*text] = false;
                return query(&format!("deallocate s{text}"));
            }
            Unit::SqlScript(text, good) => {
                let made = self.prepare_sql(*text);
                let end = if *good {
                    "deallocate own"
                } else {
                    "select 1/0"
                };
                let used =
                    format!("prepare own as select '{token}'; execute own; execute q{text}; {end}");
                let dropped = match good {
                    true => Vec::new(),
                    false => query("deallocate own"),
                };
                return [made, query(&used), dropped].concat();
            }
            Unit::SqlBlock(text, good) => {
                let made = self.prepare_sql(*text);
                let first = if *good { "begin" } else { "begin; select 1/0" };
                let inside = query(&format!("execute q{text}"));
                return [made, query(first), inside, query("rollback")].concat();
            }
            Unit::Unnamed(fails) => {
                let parsed = parse("", ROWS);
                [parsed, run("", &[&token, &fails.to_string()])].concat()
            }
            Unit::Named(text, fails) => {
                let name = format!("s{text}");
                let parsed = self.prepare(*text);
                [parsed, run(&name, &[&token, &fails.to_string()])].concat()
            }
            Unit::Describe(text) => {
                let parsed = self.prepare(*text);
                [parsed, target(b'D', 'S', &format!("s{text}"))].concat()
            }
            Unit::Close(text) => {
                self.has[*text] = false;
                target(b'C', 'S', &format!("s{text}"))
            }
            Unit::Broken => [parse("", "selct"), run("", &[&token, "0"])].concat(),
            Unit::CommitFails => [parse("", TWICE), run("", &[])].concat(),
            Unit::Copy(good) => {
                let copy = [parse("", COPY), run("", &[])].concat();
                let line: &[u8] = if *good { b"1\n" } else { b"one\ttoo many\n" };
                [copy, message(b'd', line), message(b'c', b"")].concat()
            }
            Unit::Nothing => Vec::new(),
        };
        if flush {
            says.extend(message(b'H', b""));
        }
        says.extend(message(b'S', b""));
        says
    }

    fn prepare_sql(&mut self, text: usize) -> Vec<u8> {
        match std::mem::replace(&mut self.has_sql[text], true) {
            true => Vec::new(),
            false => sql_prepare(text),
        }
    }

    /// In a batch of its own: what follows may fail.
    fn prepare(&mut self, text: usize) -> Vec<u8> {
        if std::mem::replace(&mut self.has[text], true) {
            return Vec::new();
        }
        let sql = format!("/*{text}*/ {ROWS}");
        [parse(&format!("s{text}"), &sql), message(b'S', b"")].concat()
    }
}

fn sql_prepare(text: usize) -> Vec<u8> {
    query(&format!("prepare q{text} as select 'shared {text}'"))
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Bind and Execute.
fn run(name: &str, values: &[&str]) -> Vec<u8> {
    [bind(name, values), message(b'E', b"\0\0\0\0\0")].concat()
}

/// Plays a scene: every client hears what it would have heard alone, and all
/// servers come back.
pub(super) fn play(scene: &Scene) -> Result<(), Wrong> {
    let mut pool = Pool {
        around: Calm {
            limit: scene.limit,
            ..Calm::default()
        },
        idle: (0..scene.servers).map(|_| Server::default()).collect(),
    };
    let says = scene.clients.iter().zip('A'..).map(|(units, whose)| {
        let mut author = Author {
            whose,
            tokens: 0,
            has: [false; TEXTS],
            has_sql: [false; TEXTS],
        };
        let says = units.iter().map(|(unit, flush)| author.write(unit, *flush));
        says.collect::<Vec<_>>().concat()
    });
    let says: Vec<_> = says.collect();
    let mut clients: Vec<_> = says.iter().cloned().map(Client::new).collect();
    pool.run(&mut clients, &mut Random::new(scene.seed), ENDLESS)?;
    for (client, says) in clients.iter().zip(says) {
        let mut direct = Postgres::default();
        direct.receive(&says);
        let expected = direct.take_sent();
        if client.heard != expected || client.fault.is_some() || client.broken.is_some() {
            return Err(format!(
                "says {}\nhears {}\n  not {}\n{:?} {:?}",
                says.escape_ascii(),
                client.heard.escape_ascii(),
                expected.escape_ascii(),
                client.fault,
                client.broken,
            ));
        }
    }
    match pool.idle.len() == scene.servers {
        true => Ok(()),
        false => Err("a server did not come back".to_owned()),
    }
}

/// Plays random scenes; the smallest that goes wrong otherwise.
pub(super) fn play_some(cases: u32, syncs: usize) -> Result<(), Wrong> {
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let played = TestRunner::new(config).run(&scene(syncs), |scene| {
        play(&scene).map_err(TestCaseError::fail)
    });
    played.map_err(|error| error.to_string())
}

#[test]
fn pipelines_are_answered_as_by_a_server_of_their_own() {
    if let Err(wrong) = play_some(500, 12).and_then(|()| play_some(50, MAX_SYNCS)) {
        panic!("{wrong}");
    }
}
