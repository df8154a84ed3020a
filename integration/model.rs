//! The model of PostgreSQL that the flow is tested against is itself tested
//! against PostgreSQL: the same bytes, the same answers.

#[path = "../src/client/flow/model/postgres.rs"]
#[expect(dead_code, reason = "the tests of the flow ask it more")]
mod postgres;

use crate::harness::Random;
use crate::harness::backend::Message;
use crate::harness::frontend::{
    bind, close_portal, close_statement, copy_data, copy_done, copy_fail, describe_portal,
    describe_statement, execute, flush, message, parse, query, sync,
};
use crate::harness::postgres::Postgres;
use crate::harness::wire::{Lost, Wire};
use postgres::{COPY, DROP_SHELF, ROWS, SHELF, TWICE};

/// What the real server needs before it can be compared.
const SETUP: &str = "create temp table t (x text); \
    create temp table shelf as select generate_series(1, 2) x; \
    create temp table twice (x int unique deferrable initially deferred)";

/// Random sequences of a run.
const SEQUENCES: u64 = 1500;

/// The row by which the end of the answers is known.
const END: &str = "the end";

/// Ends whatever has begun, then asks for the last row.
fn ending() -> Vec<u8> {
    let last = format!("select '{END}'");
    [copy_fail("no"), sync(), query("rollback"), query(&last)].concat()
}

/// A session of the real server.
struct Session {
    wire: Option<Wire>,
}

impl Session {
    fn wire(&mut self) -> &mut Wire {
        self.wire.get_or_insert_with(|| {
            let mut wire = Postgres::shared().session("postgres").lawless();
            wire.run(SETUP);
            wire
        })
    }

    /// What the server answers to this, and to the ending.
    fn answers(&mut self, says: &[u8]) -> Vec<String> {
        let wire = self.wire();
        wire.send([says, &ending()].concat());
        let mut answers = Vec::new();
        loop {
            match wire.try_recv() {
                Ok(message) => {
                    let ended = is_end(&message);
                    answers.push(essence(&message));
                    if ended {
                        break;
                    }
                }
                Err(Lost::Closed) => {
                    self.wire = None;
                    return answers;
                }
                Err(lost) => panic!("{lost:?} after {answers:?}"),
            }
        }
        let wire = self.wire();
        wire.reply();
        wire.run("deallocate all");
        wire.run("drop table if exists shelf");
        wire.run("create temp table shelf as select generate_series(1, 2) x");
        answers
    }
}

/// What the model answers to the same.
fn model_answers(says: &[u8], random: &mut Random) -> Vec<String> {
    let mut model = postgres::Postgres::default();
    let mut bytes = Vec::new();
    for piece in [says, &ending()].concat().chunks(1 + random.below(40)) {
        model.receive(piece);
        if random.chance(10) {
            model.flush();
        }
        bytes.extend(model.take_sent());
    }
    let mut answers = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(head) = rest.first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let message = Message::decode(head[0], &rest[5..=length]).expect("the protocol");
        answers.push(essence(&message));
        if is_end(&message) {
            break;
        }
        rest = &rest[length + 1..];
    }
    answers
}

fn is_end(message: &Message) -> bool {
    matches!(message, Message::DataRow(row) if row[0].as_deref() == Some(END.as_bytes()))
}

/// A message as far as the model has to get it right.
fn essence(message: &Message) -> String {
    match message {
        Message::ErrorResponse(fields) => format!("{} {}", fields.severity(), fields.code()),
        Message::RowDescription(columns) => {
            format!(
                "columns {:?}",
                columns.iter().map(|c| c.kind).collect::<Vec<_>>()
            )
        }
        other => format!("{other:?}"),
    }
}

fn compare(session: &mut Session, says: &[u8], random: &mut Random, what: &str) {
    let (model, real) = (model_answers(says, random), session.answers(says));
    assert_eq!(model, real, "{what}: {}", says.escape_ascii());
}

/// Writes sequences of messages that make sense to some degree.
struct Author {
    random: Random,
    /// What the last Parse or Bind was about.
    last: usize,
}

impl Author {
    const NAMES: [&'static str; 3] = ["", "a", "b"];

    fn name(&mut self) -> &'static str {
        match self.random.chance(70) {
            true => Self::NAMES[self.last],
            false => Self::NAMES[self.random.below(3)],
        }
    }

    fn text(&mut self) -> &'static str {
        const TEXTS: [&str; 10] = [
            ROWS,
            ROWS,
            SHELF,
            COPY,
            COPY,
            TWICE,
            "selct",
            "select 'literal'",
            "select 1/0",
            "select 'one'; select 'two'",
        ];
        TEXTS[self.random.below(TEXTS.len())]
    }

    fn bind(&mut self) -> Vec<u8> {
        let (portal, name) = (if self.random.chance(10) { "p" } else { "" }, self.name());
        let token = format!("{}", self.random.below(1000));
        let at = ["0", "0", "1", "2", "bad"][self.random.below(5)];
        match self.random.chance(50) {
            true => bind(portal, name, &[&token, at]),
            false => bind(portal, name, &[]),
        }
    }

    fn message(&mut self) -> Vec<u8> {
        match self.random.below(22) {
            0..=3 => {
                self.last = self.random.below(3);
                parse(Self::NAMES[self.last], self.text())
            }
            4..=7 => self.bind(),
            8 => describe_statement(self.name()),
            9 => describe_portal(if self.random.chance(20) { "p" } else { "" }),
            10..=12 => {
                let portal = if self.random.chance(10) { "p" } else { "" };
                execute(portal, [0, 0, 1][self.random.below(3)])
            }
            13 => match self.random.chance(70) {
                true => close_statement(self.name()),
                false => close_portal(""),
            },
            14 => flush(),
            15 | 16 => sync(),
            17 => self.query(),
            18 => copy_data("line\n"),
            19 => copy_data(["line\nline\n", "one\ttoo many\n"][self.random.below(2)]),
            20 => copy_done(),
            _ => copy_fail("no"),
        }
    }

    fn query(&mut self) -> Vec<u8> {
        const QUERIES: [&str; 7] = [
            "select 'simple'",
            "select 'simple'; select 1/0; select 'never'",
            "selct",
            COPY,
            "copy t from stdin; copy t from stdin; select 'then'",
            "deallocate all",
            DROP_SHELF,
        ];
        query(QUERIES[self.random.below(QUERIES.len())])
    }
}

#[test]
fn the_model_answers_as_postgres_does() {
    let mut session = Session { wire: None };
    for seed in 0..SEQUENCES {
        let mut random = Random::new(seed);
        let length = 1 + random.below(14);
        let mut author = Author { random, last: 0 };
        let mut says = Vec::new();
        let mut dropped = false;
        for _ in 0..length {
            let message = author.message();
            // A second DROP TABLE would be an error of its own kind.
            let drops = message == query(DROP_SHELF);
            if !(drops && dropped) {
                says.extend(message);
            }
            dropped |= drops;
        }
        let what = format!("seed {seed}");
        compare(&mut session, &says, &mut author.random, &what);
    }
}

#[test]
fn the_model_knows_transaction_blocks() {
    let (mut session, mut random) = (Session { wire: None }, Random::new(0));
    let run = |name, values: &[&str]| [bind("", name, values), execute("", 0)].concat();
    let sequences = [
        vec![query("begin"), query("select 'in'"), query("commit")],
        vec![
            query("begin"),
            query("selct"),
            query("select 'no'"),
            query("rollback"),
        ],
        vec![query("begin"), query("select 1/0"), query("commit")],
        vec![
            query("begin"),
            parse("a", ROWS),
            run("a", &["x", "0"]),
            sync(),
            query("commit"),
        ],
        vec![
            query("begin"),
            parse("a", ROWS),
            run("a", &["x", "2"]),
            sync(),
            parse("b", ROWS),
        ],
        vec![
            parse("a", TWICE),
            run("a", &[]),
            sync(),
            query("select 'after'"),
        ],
        vec![
            parse("a", TWICE),
            run("a", &[]),
            query("select 'before'"),
            sync(),
        ],
        vec![
            parse("a", "begin"),
            run("a", &[]),
            sync(),
            query("rollback"),
        ],
    ];
    for sequence in sequences {
        compare(&mut session, &sequence.concat(), &mut random, "a block");
    }
}

#[test]
fn the_model_loses_its_place_where_postgres_does() {
    let (mut session, mut random) = (Session { wire: None }, Random::new(0));
    let copying = [parse("a", COPY), bind("", "a", &[]), execute("", 0)].concat();
    let intruders = [
        query("select 1"),
        parse("", "select 'x'"),
        bind("", "a", &[]),
        describe_statement("a"),
        execute("", 0),
        close_statement("a"),
        message(b'S', b""),
        message(b'H', b""),
    ];
    for intruder in intruders {
        for start in [query(COPY), copying.clone()] {
            let says = [start, copy_data("line\n"), intruder.clone(), copy_done()].concat();
            compare(&mut session, &says, &mut random, "an intruder");
        }
    }
}

#[test]
fn the_model_refuses_what_postgres_refuses() {
    let (mut session, mut random) = (Session { wire: None }, Random::new(0));
    let malformed: [(u8, &[u8]); 22] = [
        (b'P', b""),
        (b'P', b"a"),
        (b'P', b"a\0select 'x'"),
        (b'P', b"a\0select 'x'\0"),
        (b'P', b"a\0select 'x'\0\0\x01"),
        (b'P', b"a\0select 'x'\0\0\0x"),
        (b'B', b""),
        (b'B', b"\0"),
        (b'B', b"\0a\0"),
        (b'B', b"\0a\0\0\0\0"),
        (b'D', b""),
        (b'D', b"S"),
        (b'D', b"Xa\0"),
        (b'D', b"Sa\0x"),
        (b'E', b""),
        (b'E', b"\0\0"),
        (b'C', b""),
        (b'C', b"Sa"),
        (b'H', b"x"),
        (b'S', b"x"),
        (b'Q', b""),
        (b'Q', b"select 'x'"),
    ];
    for (tag, body) in malformed {
        let says = [
            parse("a", "select 'a'"),
            message(tag, body),
            query("select 'skipped'"),
            sync(),
            query("select 'after'"),
        ];
        let what = format!("{} {}", char::from(tag), body.escape_ascii());
        compare(&mut session, &says.concat(), &mut random, &what);
    }
}
