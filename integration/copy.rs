//! COPY in both directions and both protocols, and every way it can end.

use crate::harness::backend::Message;
use crate::harness::becomes;
use crate::harness::frontend::{
    bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync, terminate,
};
use crate::harness::only_pgweir;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::Wire;

/// Which protocol starts the COPY.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    Simple,
    Extended,
    Prepared,
}

use Protocol::{Extended, Prepared, Simple};

const PROTOCOLS: [Protocol; 3] = [Simple, Extended, Prepared];

impl Protocol {
    /// Asks for the COPY; the answer comes without Sync.
    fn start(self, sql: &str) -> Vec<u8> {
        match self {
            Simple => query(sql),
            Extended => [parse("", sql), bind("", "", &[]), execute("", 0), flush()].concat(),
            Prepared => [parse(sql, sql), bind("", sql, &[]), execute("", 0), flush()].concat(),
        }
    }

    /// What has to follow for ReadyForQuery.
    fn end(self) -> Vec<u8> {
        if self == Simple { Vec::new() } else { sync() }
    }

    /// Letters of the answers that come before the COPY itself.
    fn prefix(self) -> &'static str {
        if self == Simple { "" } else { "12" }
    }
}

const COPY_IN: &str = "copy t from stdin";

/// A pooler of one server, with a table `t` of one integer column, empty; and
/// the server's pid.
fn pooler() -> (Pooler<'static>, i32) {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("create table t (x int not null)");
    let pid = client.backend_pid();
    (pooler, pid)
}

/// A client whose COPY has begun.
fn copying(pooler: &Pooler<'_>, protocol: Protocol) -> Wire {
    let mut client = pooler.client();
    client.send(protocol.start(COPY_IN));
    for _ in protocol.prefix().chars() {
        client.recv();
    }
    assert_eq!(client.recv(), Message::CopyInResponse);
    client
}

fn count(pooler: &Pooler<'_>) -> String {
    pooler.client().value("select count(*) from t")
}

/// The server was neither lost nor handed on in a bad state.
fn assert_kept(pooler: &Pooler<'_>, pid: i32) {
    let mut next = pooler.client();
    assert_eq!(next.backend_pid(), pid, "the server is kept");
    assert_eq!(next.query("select 'clean'").status, 'I');
}

#[test]
fn copy_in_takes_the_data() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        for _ in 0..10 {
            client.send(copy_data("1\n2\n3\n"));
        }
        let reply = client.ask([copy_done(), protocol.end()].concat());
        assert_eq!(reply.succeeded().tags(), ["COPY 30"], "{protocol:?}");
        assert_eq!(count(&pooler), "30");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn copy_in_may_come_in_one_write() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        let start = protocol.start(COPY_IN);
        client.send(
            [
                start,
                copy_data("1\n"),
                copy_data("2\n"),
                copy_done(),
                protocol.end(),
            ]
            .concat(),
        );
        assert_eq!(client.reply().succeeded().tags(), ["COPY 2"]);
        assert_kept(&pooler, pid);
    }
}

#[test]
fn a_query_may_follow_copy_in_in_one_write() {
    if only_pgweir("PgBouncer gives the server back too early") {
        return;
    }
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        let copy = [
            protocol.start(COPY_IN),
            copy_data("1\n"),
            copy_done(),
            protocol.end(),
        ]
        .concat();
        client.send([copy, query("select 'next'")].concat());
        assert_eq!(client.reply().succeeded().tags(), ["COPY 1"]);
        assert_eq!(client.reply().value(), "next");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn copy_in_may_be_large_and_cut_anywhere() {
    let (pooler, pid) = pooler();
    for protocol in PROTOCOLS {
        let mut client = copying(&pooler, protocol);
        let data = (0..40_000).fold(String::new(), |data, x| data + &format!("{x}\n"));
        let bytes = [
            copy_data(&data),
            copy_data("7\n"),
            copy_done(),
            protocol.end(),
        ]
        .concat();
        client.send_in_pieces(bytes, 999);
        assert_eq!(client.reply().succeeded().tags(), ["COPY 40001"]);
    }
    assert_kept(&pooler, pid);
}

#[test]
fn a_server_is_kept_during_copy_in() {
    let (pooler, _) = pooler();
    for protocol in PROTOCOLS {
        let mut client = copying(&pooler, protocol);
        let mut other = pooler.client();
        other.send(query("select 'then me'"));
        pooler.wait_pool("cl_waiting", 1);
        client.send(copy_data("1\n"));
        assert_eq!(pooler.pool("cl_waiting"), 1);
        client
            .ask([copy_done(), protocol.end()].concat())
            .succeeded();
        assert_eq!(other.reply().value(), "then me");
    }
}

#[test]
fn copy_out_gives_the_data() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        let start = protocol.start("copy (select generate_series(1, 3)) to stdout");
        let reply = client.ask([start, protocol.end()].concat());
        assert_eq!(reply.shape(), format!("{}HdddcC", protocol.prefix()));
        assert_eq!(reply.tags(), ["COPY 3"]);
        assert_kept(&pooler, pid);
    }
}

#[test]
fn copy_out_may_be_large() {
    let (pooler, pid) = pooler();
    for protocol in PROTOCOLS {
        let mut client = pooler.client();
        let start = protocol
            .start("copy (select repeat('x', 10000) from generate_series(1, 300)) to stdout");
        let reply = client.ask([start, protocol.end()].concat());
        let size: usize = reply
            .messages
            .iter()
            .map(|message| {
                if let Message::CopyData(data) = message {
                    data.len()
                } else {
                    0
                }
            })
            .sum();
        assert_eq!(size, 300 * 10_001);
    }
    assert_kept(&pooler, pid);
}

#[test]
fn an_error_before_copy_in_begins_is_all_there_is() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        let start = protocol.start("copy nowhere from stdin");
        assert_eq!(client.ask([start, protocol.end()].concat()).code(), "42P01");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn an_error_during_copy_out_ends_it() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        let start =
            protocol.start("copy (select 1/(x - 3) from generate_series(1, 5) x) to stdout");
        let reply = client.ask([start, protocol.end()].concat());
        assert_eq!(reply.code(), "22012");
        assert_eq!(reply.shape(), format!("{}HddE", protocol.prefix()));
        assert_kept(&pooler, pid);
    }
}

#[test]
fn copy_fail_ends_copy_in() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        client.send(copy_data("1\n"));
        let reply = client.ask([copy_fail("changed my mind"), protocol.end()].concat());
        assert_eq!(reply.code(), "57014");
        assert!(
            reply
                .error()
                .is_some_and(|error| error.text().contains("changed my mind"))
        );
        assert_eq!(client.value("select 'in order'"), "in order");
        assert_eq!(count(&pooler), "0");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn bad_data_ends_copy_in() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        let reply = client.ask(
            [
                copy_data("1\n"),
                copy_data("bad\n"),
                copy_done(),
                protocol.end(),
            ]
            .concat(),
        );
        assert_eq!(reply.code(), "22P02");
        assert_eq!(client.value("select 'in order'"), "in order");
        assert_eq!(count(&pooler), "0");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn what_was_sent_before_the_error_was_seen_is_discarded() {
    if only_pgweir("PgBouncer gives the server back too early") {
        return;
    }
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        let stray: Vec<u8> = (0..200).flat_map(|_| copy_data("1\n")).collect();
        client.send(
            [
                copy_data("bad\n"),
                stray,
                copy_done(),
                protocol.end(),
                query("select 'next'"),
            ]
            .concat(),
        );
        assert_eq!(client.reply().code(), "22P02");
        assert_eq!(client.reply().value(), "next");
        assert_eq!(count(&pooler), "0");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn copy_messages_long_after_the_error_are_discarded() {
    if only_pgweir("PgBouncer 1.25 gives them a server, which it then leaks") {
        return;
    }
    for protocol in PROTOCOLS {
        for late in [
            vec![copy_data("1\n"), copy_done()],
            vec![copy_fail("late")],
            vec![copy_done()],
            vec![copy_data("1\n")],
        ] {
            let (pooler, pid) = pooler();
            let mut client = copying(&pooler, protocol);
            client.send(copy_data("bad\n"));
            let Message::ErrorResponse(error) = client.recv() else {
                panic!("bad data has to fail")
            };
            assert_eq!(error.code(), "22P02");
            // A simple COPY is over with the error, an extended one with Sync.
            client.send(protocol.end());
            assert_eq!(client.reply().shape(), "");
            pooler.wait_pool("sv_active", 0);
            client.send(late.concat());
            assert_eq!(pooler.client().value("select 'unharmed'"), "unharmed");
            assert_eq!(client.value("select 'in order'"), "in order");
            assert_kept(&pooler, pid);
        }
    }
}

#[test]
fn copy_messages_without_a_copy_are_ignored() {
    if only_pgweir("PgBouncer 1.25 gives them a server, which it then leaks") {
        return;
    }
    let (pooler, pid) = pooler();
    let mut client = pooler.client();
    client.send(
        [
            copy_data("1\n"),
            copy_done(),
            copy_fail("no"),
            query("select 'in order'"),
        ]
        .concat(),
    );
    assert_eq!(client.reply().value(), "in order");
    assert_kept(&pooler, pid);
}

#[test]
fn sync_and_flush_inside_copy_in_are_ignored() {
    for protocol in [Extended, Prepared] {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        client.send([copy_data("1\n"), sync(), flush(), copy_data("2\n"), sync()].concat());
        let reply = client.ask([copy_done(), sync()].concat());
        assert_eq!(reply.succeeded().tags(), ["COPY 2"]);
        assert_eq!(client.value("select 'in order'"), "in order");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn drivers_may_sync_before_they_send_the_data() {
    let (pooler, pid) = pooler();
    let mut client = pooler.client();
    client.send(
        [
            parse("", COPY_IN),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    for expected in [
        Message::ParseComplete,
        Message::BindComplete,
        Message::CopyInResponse,
    ] {
        assert_eq!(client.recv(), expected);
    }
    let reply = client.ask([copy_data("1\n"), copy_done(), sync()].concat());
    assert_eq!(reply.succeeded().tags(), ["COPY 1"]);
    assert_kept(&pooler, pid);
}

#[test]
fn copy_in_inside_a_transaction_keeps_it_open() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = pooler.client();
        client.run("begin");
        client.send(protocol.start(COPY_IN));
        let reply = client.ask([copy_data("1\n"), copy_done(), protocol.end()].concat());
        assert_eq!(reply.succeeded().status, 'T');
        assert_eq!(client.value("select count(*) from t"), "1");
        client.run("rollback");
        assert_eq!(count(&pooler), "0");
        assert_kept(&pooler, pid);
    }
}

#[test]
fn several_copies_in_one_query_are_one_after_the_other() {
    let (pooler, pid) = pooler();
    let mut client = pooler.client();
    client.send(query(
        "copy t from stdin; copy t from stdin; copy t to stdout; select 'end'",
    ));
    assert_eq!(client.recv(), Message::CopyInResponse);
    client.send([copy_data("1\n"), copy_done()].concat());
    assert_eq!(client.recv(), Message::CommandComplete("COPY 1".to_owned()));
    assert_eq!(client.recv(), Message::CopyInResponse);
    client.send([copy_data("2\n"), copy_done()].concat());
    let reply = client.reply();
    assert_eq!(reply.succeeded().tags(), ["COPY 1", "COPY 2", "SELECT 1"]);
    assert_kept(&pooler, pid);
}

#[test]
fn a_client_that_vanishes_during_copy_in_leaves_nothing() {
    for protocol in PROTOCOLS {
        for reset in [false, true] {
            let (pooler, _) = pooler();
            let mut client = copying(&pooler, protocol);
            client.send(copy_data("1\n"));
            // In the midst of a message.
            client.send(&copy_data("23456789\n")[..9]);
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            becomes("no backend copies", 0, || {
                pooler.database.backends_in("active")
            });
            assert_eq!(count(&pooler), "0");
        }
    }
}

#[test]
fn terminate_during_copy_in_leaves_nothing() {
    for protocol in PROTOCOLS {
        let (pooler, _) = pooler();
        let mut client = copying(&pooler, protocol);
        client.send([copy_data("1\n"), terminate()].concat());
        becomes("no backend copies", 0, || {
            pooler.database.backends_in("active")
        });
        assert_eq!(count(&pooler), "0");
    }
}

#[test]
fn a_client_that_vanishes_during_copy_out_leaves_its_server_clean_or_closed() {
    for protocol in PROTOCOLS {
        let (pooler, _) = pooler();
        let mut client = pooler.client();
        client.narrow();
        client.send(
            protocol
                .start("copy (select repeat('x', 10000) from generate_series(1, 3000)) to stdout"),
        );
        client.recv();
        drop(client);
        assert_eq!(pooler.client().value("select 'mine'"), "mine");
        becomes("no backend copies", 0, || {
            pooler.database.backends_in("active")
        });
    }
}

#[test]
fn a_server_killed_during_copy_in_is_told() {
    for protocol in PROTOCOLS {
        let (pooler, pid) = pooler();
        let mut client = copying(&pooler, protocol);
        pooler
            .database
            .session()
            .run(&format!("select pg_terminate_backend({pid})"));
        becomes("the backend is gone", 0, || pooler.backends().len());
        client.send([copy_data("1\n"), copy_done(), protocol.end()].concat());
        let first = client.recv();
        let Message::ErrorResponse(error) = first else {
            panic!("an error has to come, not {first:?}")
        };
        assert_eq!(error.code(), "57P01", "the server's own word: {error:?}");
        assert_eq!(count(&pooler), "0");
    }
}

#[test]
fn statement_mode_copies_too() {
    let pooler = Ini::statement().one_server().start();
    pooler.client().run("create table t (x int)");
    let mut client = pooler.client();
    client.send(query(COPY_IN));
    let reply = client.ask([copy_data("1\n"), copy_done()].concat());
    assert_eq!(reply.succeeded().tags(), ["COPY 1"]);
    assert_eq!(
        client.query("copy t to stdout").succeeded().tags(),
        ["COPY 1"]
    );
}
