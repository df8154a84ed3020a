//! The flow against the model, for any messages of clients.
//!
//! An input is `max_prepared_statements`, a number of servers, a seed of two
//! bytes for the order in which things happen, and a script: one byte for the
//! kind of a message, and what it needs.

use super::pooler::{Calm, Client, Left, Pool, Server};
use super::postgres::{COPY, DROP_SHELF, Postgres, ROWS, SHELF, TWICE};
use super::random::Random;
use crate::wire::fuzz::Input;

/// More steps than any script takes.
const ENDLESS: usize = 100_000;

/// Messages of a script.
const LENGTH: usize = 40;

const TEXTS: [&str; 32] = [
    "select 'a'",
    "select 'b'",
    ROWS,
    SHELF,
    COPY,
    TWICE,
    DROP_SHELF,
    "select 1/0",
    "deallocate all",
    "begin",
    "commit",
    "rollback",
    "select 'a'; select 'b'",
    "copy t from stdin; copy t from stdin",
    "begin; select 1/0",
    "nonsense",
    "prepare a as select 'a'",
    "prepare b as select 'b'",
    "prepare a as select 1/0",
    "prepare A as select 'c'; execute a",
    "prepare c as nonsense",
    "execute a",
    "execute b",
    "execute \"c\"",
    "execute a; execute b",
    "select 'a'; execute a; select 1/0",
    "deallocate a",
    "deallocate prepare b",
    "deallocate a; prepare a as select 'd'; execute a",
    "begin; prepare b as select 'e'",
    "execute a; copy t from stdin",
    "deallocate all; execute a",
];

const NAMES: [&str; 4] = ["", "a", "b", "c"];

/// What the last client says, and hears.
const PROBE: &[u8] = b"Q\0\0\0\x12select 'mine'\0";

/// Whatever clients say, and in whatever order it arrives: who gets a server
/// after them hears what it asked for, and nobody waits for an answer that
/// does not come.
pub fn model(data: &[u8]) {
    let mut input = Input::new(data);
    let limit = [0, 1, 2, 10][usize::from(input.byte() % 4)];
    let servers = 1 + usize::from(input.byte() % 2);
    let seed = u64::from_be_bytes([0, 0, 0, 0, 0, 0, input.byte(), input.byte()]);
    let mut random = Random::new(seed);
    let mut scripts = [Script::default(), Script::default()];
    for _ in 0..LENGTH {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        scripts[usize::from(kind >> 7)].say(kind & 0x7f, &mut input);
    }
    let copies = scripts.iter().any(|script| script.copies);
    let mut clients = scripts.map(|script| Client::new(script.says));
    let mut pool = Pool {
        around: Calm {
            limit,
            ..Calm::default()
        },
        idle: (0..servers).map(|_| Server::default()).collect(),
    };
    let check = |result: Result<(), String>| result.unwrap_or_else(|wrong| panic!("{wrong}"));
    check(pool.run(&mut clients, &mut random, ENDLESS));
    for client in clients {
        if !copies && !client.is_over() {
            check(client.waits_for_nothing());
        }
        match pool.leave(client) {
            Ok(Left::Settled(server)) => pool.idle.push(*server),
            Ok(Left::Nothing | Left::Closed) => {}
            Err(wrong) => panic!("{wrong}"),
        }
    }
    let mut direct = Postgres::default();
    direct.receive(PROBE);
    let expected = direct.take_sent();
    for server in std::mem::take(&mut pool.idle) {
        pool.idle = vec![server];
        let mut probe = [Client::new(PROBE.to_vec())];
        check(pool.run(&mut probe, &mut random, ENDLESS));
        let [probe] = probe;
        assert!(
            probe.heard == expected && probe.server.is_none(),
            "{probe:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Script {
    says: Vec<u8>,
    copies: bool,
}

impl Script {
    fn say(&mut self, kind: u8, input: &mut Input<'_>) {
        let name = |byte: u8| NAMES[usize::from(byte % 4)].as_bytes();
        let (tag, body) = match kind % 13 {
            0 => {
                let (own, text) = (name(input.byte()), self.text(input));
                (b'P', [own, b"\0", text, b"\0\0\0"].concat())
            }
            1 => {
                let names = input.byte();
                let (portal, own) = (name(names >> 2), name(names));
                let values: &[u8] = match input.byte() % 4 {
                    0 => b"\0\0",
                    1 => b"\0\x02\0\0\0\x01t\0\0\0\x010",
                    2 => b"\0\x02\0\0\0\x01t\0\0\0\x012",
                    _ => b"\0\x02\0\0\0\x01t\0\0\0\x01x",
                };
                (
                    b'B',
                    [portal, b"\0", own, b"\0\0\0", values, b"\0\0"].concat(),
                )
            }
            2 => (b'D', target(b'S', name(input.byte()))),
            3 => (b'D', target(b'P', name(input.byte()))),
            4 => {
                let limit = [0, 0, 0, input.byte() % 3];
                (b'E', [name(input.byte()), b"\0", &limit].concat())
            }
            5 => (b'C', target(b'S', name(input.byte()))),
            6 => (b'C', target(b'P', name(input.byte()))),
            7 => (b'S', Vec::new()),
            8 => (b'H', Vec::new()),
            9 => (b'Q', [self.text(input), b"\0"].concat()),
            10 => match input.byte() % 4 {
                0 => (b'c', Vec::new()),
                1 => (b'f', b"no\0".to_vec()),
                2 => (b'd', b"x\n".to_vec()),
                _ => (b'd', b"x\ty\n".to_vec()),
            },
            11 => (b'F', input.take(2).to_vec()),
            // Any body for any type.
            _ => {
                let tag = b"PBDECSHQdcfF"[usize::from(input.byte() % 12)];
                let length = input.byte() % 16;
                (tag, input.take(length.into()).to_vec())
            }
        };
        self.says.push(tag);
        let length = body.len() as u32 + 4;
        self.says.extend_from_slice(&length.to_be_bytes());
        self.says.extend_from_slice(&body);
    }

    fn text(&mut self, input: &mut Input<'_>) -> &'static [u8] {
        let text = TEXTS[usize::from(input.byte() % 32)];
        self.copies |= text.contains("copy");
        text.as_bytes()
    }
}

fn target(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], name, b"\0"].concat()
}
