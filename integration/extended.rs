//! The extended query protocol: pipelines, errors in their midst, portals,
//! odd delivery.

use crate::harness::backend::Message;
use crate::harness::fault::{Fault, FaultProxy};
use crate::harness::frontend::{
    bind, close_portal, close_statement, describe_portal, describe_statement, execute, extended,
    flush, message, parse, parse_typed, query, run_prepared, sync, terminate,
};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::Postgres;
use crate::harness::wire::{Login, Reply, Wire};
use crate::harness::{Random, becomes, only_pgweir, together};
use std::time::Duration;

/// One pooler of each kind in which the protocol has to be transparent.
fn each_kind(part: impl Fn(&Pooler<'_>)) {
    for ini in [
        Ini::session(),
        Ini::transaction(),
        Ini::statement(),
        Ini::transaction().set("max_prepared_statements", 0),
    ] {
        part(&ini.one_server().start());
    }
}

#[test]
fn an_unnamed_statement_is_answered_in_full() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let reply = client.ask(extended("select $1::text, $2::int + 1", &["hello", "41"]));
        assert_eq!(reply.shape(), "12TDC");
        assert_eq!(
            reply.rows(),
            [[Some("hello".to_owned()), Some("42".to_owned())]]
        );
    });
}

#[test]
fn describe_tells_parameters_and_columns() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse("", "select $1::int8 as big, $2::text"),
            describe_statement(""),
            sync(),
        ]
        .concat();
        let reply = client.ask(batch);
        assert_eq!(reply.shape(), "1tT");
        assert_eq!(
            reply.messages[1],
            Message::ParameterDescription(vec![20, 25])
        );
        let Message::RowDescription(columns) = &reply.messages[2] else {
            panic!("{reply:?}")
        };
        assert_eq!((columns[0].name.as_str(), columns[0].kind), ("big", 20));
        let batch = [
            parse("", "set work_mem = '5MB'"),
            describe_statement(""),
            sync(),
        ]
        .concat();
        assert_eq!(client.ask(batch).shape(), "1tn");
    });
}

#[test]
fn portals_can_have_names() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse("", "select $1"),
            bind("a", "", &["first"]),
            bind("b", "", &["second"]),
            execute("b", 0),
            describe_portal("a"),
            execute("a", 0),
            close_portal("a"),
            close_portal("b"),
            sync(),
        ];
        let reply = client.ask(batch.concat());
        assert_eq!(reply.shape(), "122DCTDC33");
        assert_eq!(
            reply.rows(),
            [[Some("second".to_owned())], [Some("first".to_owned())]]
        );
    });
}

#[test]
fn an_empty_statement_is_answered_as_such() {
    each_kind(|pooler| assert_eq!(pooler.client().ask(extended("", &[])).shape(), "12nI"));
}

#[test]
fn sync_alone_is_answered() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        assert_eq!(client.ask(sync()).shape(), "");
        client.leave();
        assert_eq!(pooler.client().value("select 1"), "1");
    });
}

#[test]
fn many_syncs_in_one_write_are_answered_one_by_one() {
    let pooler = Ini::transaction().one_server().start();
    together(2, |who| {
        let mut client = pooler.client();
        for batches in [2, 3, 10, 50, 200] {
            let token = |batch: usize| format!("client {who} batch {batch} of {batches}");
            let bytes: Vec<u8> = (0..batches)
                .flat_map(|batch| extended("select $1", &[&token(batch)]))
                .collect();
            client.send(bytes);
            for batch in 0..batches {
                assert_eq!(client.reply().value(), token(batch));
            }
        }
    });
}

#[test]
fn answers_of_different_sizes_keep_their_order() {
    let pooler = Ini::transaction().one_server().start();
    together(2, |who| {
        let mut client = pooler.client();
        let sizes = [1, 100_000, 2, 5_000, 3, 1_000_000, 4, 8_192, 8_191, 5];
        let sql = |size: usize| format!("select repeat('{who}', {size})");
        client.send(sizes.map(|size| extended(&sql(size), &[])).concat());
        for size in sizes {
            assert_eq!(client.reply().value(), who.to_string().repeat(size));
        }
    });
}

#[test]
fn simple_queries_may_be_pipelined() {
    let pooler = Ini::transaction().one_server().start();
    together(2, |who| {
        let mut client = pooler.client();
        let sql = |number: usize| format!("select 'query {number} of {who}'");
        client.send(
            (0..100)
                .flat_map(|number| query(&sql(number)))
                .collect::<Vec<_>>(),
        );
        for number in 0..100 {
            assert_eq!(client.reply().value(), format!("query {number} of {who}"));
        }
    });
}

#[test]
fn simple_and_extended_may_be_mixed_in_one_write() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        client.send(
            [
                query("select 1"),
                extended("select 2", &[]),
                query("selct"),
                sync(),
                extended("select 3", &[]),
                query("select 4"),
            ]
            .concat(),
        );
        assert_eq!(client.reply().value(), "1");
        assert_eq!(client.reply().value(), "2");
        assert_eq!(client.reply().code(), "42601");
        assert_eq!(client.reply().shape(), "");
        assert_eq!(client.reply().value(), "3");
        assert_eq!(client.reply().value(), "4");
    });
}

#[test]
fn a_pipeline_inside_a_transaction_stays_on_its_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut other = pooler.client();
    let mut client = pooler.client();
    client.send(
        [
            query("begin"),
            extended("select pg_backend_pid()", &[]),
            extended("select txid_current()", &[]),
        ]
        .concat(),
    );
    assert_eq!(client.reply().status, 'T');
    client.reply().value();
    let transaction = client.reply().value();
    other.send(query("select 'then me'"));
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(
        client.ask(extended("select txid_current()", &[])).value(),
        transaction
    );
    assert_eq!(client.ask(extended("commit", &[])).status, 'I');
    assert_eq!(other.reply().value(), "then me");
}

#[test]
fn an_error_ends_its_batch_and_no_other() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let bad = extended("select 1/$1::int", &["0"]);
        client.send(
            [
                extended("select 'a'", &[]),
                bad.clone(),
                extended("select 'b'", &[]),
                bad,
                extended("select 'c'", &[]),
            ]
            .concat(),
        );
        assert_eq!(client.reply().value(), "a");
        assert_eq!(client.reply().code(), "22012");
        assert_eq!(client.reply().value(), "b");
        assert_eq!(client.reply().code(), "22012");
        assert_eq!(client.reply().value(), "c");
        client.leave();
        assert_eq!(pooler.client().value("select 'clean'"), "clean");
    });
}

#[test]
fn everything_after_an_error_is_discarded_until_sync() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse("", "selct"),
            bind("", "", &[]),
            query("select 'discarded'"),
            execute("", 0),
            query("select 'discarded too'"),
            close_portal(""),
            sync(),
            query("select 'answered'"),
        ];
        client.send(batch.concat());
        let reply = client.reply();
        assert_eq!((reply.code(), reply.shape().as_str()), ("42601", "E"));
        assert_eq!(client.reply().value(), "answered");
        assert!(client.is_settled());
        client.leave();
        assert_eq!(pooler.client().value("select 'clean'"), "clean");
    });
}

#[test]
fn what_comes_after_an_error_was_seen_is_discarded_too() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        client.send([parse("", "selct"), flush()].concat());
        assert!(matches!(client.recv(), Message::ErrorResponse(_)));
        client.send([query("select 'discarded'"), parse("", "select 1")].concat());
        client.expect_silence(Duration::from_millis(100));
        client.send([sync(), query("select 'answered'")].concat());
        assert_eq!(client.reply().shape(), "");
        assert_eq!(client.reply().value(), "answered");
    });
}

#[test]
fn a_simple_query_behind_unsynced_messages_is_answered() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        client.send(
            [
                parse("", "select 'a'"),
                bind("", "", &[]),
                execute("", 0),
                query("select 'b'"),
            ]
            .concat(),
        );
        let reply = client.reply();
        assert_eq!(reply.shape(), "12DCTDC");
        assert_eq!(client.ask(sync()).shape(), "");
        assert_eq!(client.value("select 'c'"), "c");
    });
}

#[test]
fn a_server_is_kept_until_sync() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let mut other = pooler.client();
    client.send(
        [
            parse("", "select 'mine'"),
            bind("", "", &[]),
            execute("", 0),
            flush(),
        ]
        .concat(),
    );
    let shape: Vec<Message> = (0..4).map(|_| client.recv()).collect();
    assert!(matches!(
        shape[..],
        [
            Message::ParseComplete,
            Message::BindComplete,
            Message::DataRow(_),
            Message::CommandComplete(_)
        ]
    ));
    other.send(query("select 'then me'"));
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(client.ask(sync()).status, 'I');
    assert_eq!(other.reply().value(), "then me");
}

#[test]
fn flush_brings_each_answer_without_sync() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let mut step = |bytes: Vec<u8>| {
            client.send([bytes, flush()].concat());
            client.recv()
        };
        assert_eq!(
            step(parse("", "select generate_series(1, 2)")),
            Message::ParseComplete
        );
        assert_eq!(step(bind("", "", &[])), Message::BindComplete);
        assert!(matches!(
            step(describe_portal("")),
            Message::RowDescription(_)
        ));
        assert!(matches!(step(execute("", 1)), Message::DataRow(_)));
        assert_eq!(client.recv(), Message::PortalSuspended);
        assert_eq!(client.ask(sync()).shape(), "");
    });
}

#[test]
fn a_suspended_portal_goes_on_where_it_stopped() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let mut other = pooler.client();
    client.run("begin");
    client.send(
        [
            parse("", "select generate_series(1, 5)"),
            bind("p", "", &[]),
            execute("p", 2),
            sync(),
        ]
        .concat(),
    );
    assert_eq!(client.reply().shape(), "12DDs");
    other.send(query("select 'then me'"));
    pooler.wait_pool("cl_waiting", 1);
    let reply = client.ask([execute("p", 2), flush(), execute("p", 2), sync()].concat());
    assert_eq!((reply.shape().as_str(), reply.status), ("DDsDC", 'T'));
    assert_eq!(
        reply.rows().concat(),
        [
            Some("3".to_owned()),
            Some("4".to_owned()),
            Some("5".to_owned())
        ]
    );
    client.run("commit");
    assert_eq!(other.reply().value(), "then me");
}

#[test]
fn a_suspended_portal_ends_at_sync_outside_a_transaction() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse("", "select generate_series(1, 5)"),
            bind("p", "", &[]),
            execute("p", 2),
            execute("p", 1),
            sync(),
        ];
        assert_eq!(client.ask(batch.concat()).shape(), "12DDsDs");
        assert_eq!(
            client.ask([execute("p", 2), sync()].concat()).code(),
            "34000"
        );
        client.leave();
        assert_eq!(pooler.client().value("select 'clean'"), "clean");
    });
}

#[test]
fn a_batch_may_come_byte_by_byte() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse("", "select $1::text"),
            bind("", "", &["slow"]),
            describe_portal(""),
            execute("", 0),
            sync(),
            query("select 'too'"),
        ];
        client.send_in_pieces(batch.concat(), 1);
        assert_eq!(client.reply().value(), "slow");
        assert_eq!(client.reply().value(), "too");
    });
}

#[test]
fn a_batch_may_be_cut_anywhere() {
    let pooler = Ini::transaction().one_server().start();
    let batch = [
        parse("cut", "select $1::text || $2"),
        describe_statement("cut"),
        bind("", "cut", &["a", "b"]),
        execute("", 0),
        close_statement("cut"),
        sync(),
    ];
    let batch = batch.concat();
    let mut client = pooler.client();
    for cut in 1..batch.len() {
        client.send(&batch[..cut]);
        client.send(&batch[cut..]);
        let reply = client.reply();
        assert_eq!(
            (reply.shape().as_str(), reply.value().as_str()),
            ("1tT2DC3", "ab")
        );
    }
}

#[test]
fn answers_may_come_byte_by_byte() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.spoil(
        Fault::default(),
        Fault {
            slice: 1,
            ..Fault::default()
        },
    );
    let pooler = Ini::transaction()
        .one_server()
        .server(proxy.address())
        .start();
    let mut client = pooler.client();
    for _ in 0..3 {
        client.send(
            [
                extended("select $1", &["slow"]),
                query("selct"),
                extended("select repeat('x', 3000)", &[]),
            ]
            .concat(),
        );
        assert_eq!(client.reply().value(), "slow");
        assert_eq!(client.reply().code(), "42601");
        assert_eq!(client.reply().value(), "x".repeat(3000));
    }
    assert_eq!(pooler.client().value("select 'clean'"), "clean");
}

#[test]
fn messages_larger_than_every_buffer_pass() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let long = "0123456789".repeat(200_000);
    let sql = format!("select $1::text, '{long}'");
    let expected = vec![vec![Some(long.clone()), Some(long.clone())]];
    assert_eq!(client.ask(extended(&sql, &[&long])).rows(), expected);
    client
        .ask([parse("large", &sql), sync()].concat())
        .succeeded();
    let reply = client.ask([run_prepared("large", &[&long]), sync()].concat());
    assert_eq!(reply.rows(), expected);
    let error = client.ask([run_prepared("large", &[&long, "one too many"]), sync()].concat());
    assert_eq!(error.code(), "08P01");
    assert_eq!(pooler.client().value("select 'clean'"), "clean");
}

#[test]
fn terminate_behind_a_query_does_not_cost_its_answer() {
    if only_pgweir("PgBouncer drops the answer, and the server") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    let pid = pooler.client().backend_pid();
    pooler.client().run("create table t (x int)");
    for batch in [
        query("insert into t values (1) returning 'in'"),
        extended("insert into t values (1) returning 'in'", &[]),
    ] {
        let mut client = pooler.client();
        client.send([batch, terminate()].concat());
        assert_eq!(client.reply().value(), "in");
        client.expect_closed();
    }
    let mut next = pooler.client();
    assert_eq!(next.value("select count(*) from t"), "2");
    assert_eq!(next.backend_pid(), pid, "and the server is kept");
}

#[test]
fn a_client_that_stops_sending_still_gets_its_answer() {
    if only_pgweir("PgBouncer drops the answer, and the server") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    for batch in [
        query("select 'in' from pg_sleep(0.05)"),
        extended("select 'in' from pg_sleep(0.05)", &[]),
    ] {
        let mut client = pooler.client();
        client.send(batch);
        client.half_close();
        assert_eq!(client.reply().value(), "in");
        client.expect_closed();
    }
    pooler.assert_serves();
}

#[test]
fn terminate_behind_answered_queries_is_quiet() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let pid = client.backend_pid();
        client.leave();
        assert!(!pooler.log().contains("unexpected eof"));
        assert_eq!(pooler.client().backend_pid(), pid);
    });
}

#[test]
fn an_unknown_message_type_costs_only_its_sender() {
    each_kind(|pooler| {
        for kind in [b'z', b'1', b'Z', b'R', 0x80, 0xff] {
            let mut client = pooler.client().lawless();
            client.send(message(kind, b"whatever"));
            assert_eq!(client.expect_fatal().text(), "unknown pkt");
        }
        pooler.client().run("select 1");
    });
}

#[test]
fn a_length_that_cannot_be_costs_only_its_sender() {
    each_kind(|pooler| {
        for length in [0_u32, 1, 3, 0x8000_0000, u32::MAX] {
            let mut client = pooler.client().lawless();
            client.send([&[b'Q'][..], &length.to_be_bytes(), b"select 1\0"].concat());
            let error = client.expect_fatal();
            assert_eq!(error.code(), "08P01", "{error:?}");
        }
        pooler.client().run("select 1");
    });
}

#[test]
fn messages_that_are_always_small_are_held_to_it() {
    if only_pgweir("PgBouncer takes them at any length") {
        return;
    }
    let pooler = Ini::transaction().start();
    for kind in *b"SXcf" {
        let mut client = pooler.client().lawless();
        client.send(message(kind, &[0; 10_000]));
        assert_eq!(client.expect_fatal().code(), "08P01");
    }
    pooler.client().run("select 1");
}

#[test]
fn a_length_that_is_only_announced_takes_no_memory() {
    let pooler = Ini::transaction().start();
    pooler.client().run("select 1");
    let before = pooler.memory();
    let announced = 0x3fff_fffe_u32.to_be_bytes();
    let clients: Vec<Wire> = b"QPBDECFd"
        .repeat(10)
        .into_iter()
        .map(|kind| {
            let mut client = pooler.client().lawless();
            client.send([&[kind][..], &announced, &[b'x'; 1000]].concat());
            client
        })
        .collect();
    let strangers: Vec<Wire> = (0..80)
        .map(|_| {
            let mut wire = Wire::connect(pooler.address());
            wire.send([&[0, 0, 0x27, 0x10, 0, 3, 0, 0][..], b"user"].concat());
            wire
        })
        .collect();
    pooler.client().run("select 1");
    let grown = pooler.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    drop((clients, strangers));
    pooler.client().run("select 1");
}

#[test]
fn a_message_longer_than_max_packet_size_costs_only_its_sender() {
    let pooler = Ini::transaction().set("max_packet_size", 10_000).start();
    let mut client = pooler.client().lawless();
    client.send(query(&format!("select '{}'", "x".repeat(10_000))));
    assert_eq!(client.expect_fatal().code(), "08P01");
    let mut client = pooler.client();
    assert_eq!(
        client.value(&format!("select length('{}')", "x".repeat(9_000))),
        "9000"
    );
}

#[test]
fn a_statement_that_is_no_protocol_is_the_servers_to_refuse() {
    let pooler = Ini::transaction().set("max_prepared_statements", 0).start();
    let mut client = pooler.client().lawless();
    client.send([message(b'B', b"no end"), sync()].concat());
    assert_eq!(client.reply().code(), "08P01");
    assert_eq!(client.value("select 1"), "1");
}

#[test]
fn disable_pqexec_leaves_only_the_extended_protocol() {
    let pooler = Ini::transaction().set("disable_pqexec", 1).start();
    assert_eq!(
        pooler.client().ask(extended("select 'fine'", &[])).value(),
        "fine"
    );
    let mut client = pooler.client();
    client.send(query("select 1"));
    assert_eq!(client.expect_fatal().text(), "PQexec disallowed");
}

#[test]
fn statement_mode_refuses_a_transaction_in_the_extended_protocol_too() {
    let pooler = Ini::statement().one_server().start();
    let mut client = pooler.client();
    client.send(extended("begin", &[]));
    assert!(client.try_reply().is_err());
    becomes("no transaction is left open", 0, || {
        pooler.database.backends_in("idle in transaction")
    });
    pooler.assert_serves();
}

/// Batches of random messages, with the errors that matter.
struct Batches {
    random: Random,
    /// Names that a Parse has surely made.
    known: Vec<String>,
    /// Names made in the batch so far.
    fresh: usize,
}

impl Batches {
    fn next_batch(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut has_failed = false;
        for _ in 0..1 + self.random.below(7) {
            let (message, fails) = self.next_message(has_failed);
            bytes.extend(message);
            has_failed |= fails;
        }
        bytes.extend(sync());
        bytes
    }

    /// A message, and whether it fails.
    fn next_message(&mut self, has_failed: bool) -> (Vec<u8>, bool) {
        let token = format!("{}", self.random.below(1_000_000));
        match self.random.below(13) {
            0 => (parse("", "select $1::text"), false),
            1 => {
                self.fresh += 1;
                let name = format!("s{}", self.fresh);
                let sql = format!("select $1::text || '{token}'");
                let message = parse(&name, &sql);
                if !has_failed {
                    self.known.push(name);
                }
                (message, false)
            }
            2 => (parse("", &format!("selct {token}")), true),
            3 => (describe_portal("nowhere"), true),
            4 | 5 if !self.known.is_empty() => {
                let name = &self.known[self.random.below(self.known.len())];
                (
                    [
                        bind("", name, &[&token]),
                        describe_portal(""),
                        execute("", 0),
                    ]
                    .concat(),
                    false,
                )
            }
            4 | 5 => (
                [
                    parse("", "select $1"),
                    bind("", "", &[&token]),
                    execute("", 0),
                ]
                .concat(),
                false,
            ),
            6 if !self.known.is_empty() => (
                describe_statement(&self.known[self.random.below(self.known.len())]),
                false,
            ),
            7 if !self.known.is_empty() && !has_failed => {
                let name = self.known.swap_remove(self.random.below(self.known.len()));
                (close_statement(&name), false)
            }
            8 => (flush(), false),
            9 => (query(&format!("select '{token}'")), false),
            10 => (query("select 1/0"), false),
            11 => (execute("no such portal", 0), true),
            _ => (sync(), false),
        }
    }
}

/// What a client may compare: kinds of messages, rows, codes, status.
fn essence(reply: &Reply) -> String {
    let code = reply.error().map(|error| error.code().to_owned());
    format!(
        "{} {:?} {code:?} {}",
        reply.shape(),
        reply.rows(),
        reply.status
    )
}

/// Sends until Sync is answered; all replies.
fn replies(wire: &mut Wire, batch: &[u8]) -> Vec<String> {
    wire.send(batch);
    let mut replies = Vec::new();
    while !wire.is_settled() {
        replies.push(essence(&wire.reply()));
    }
    replies
}

/// Compares random batches with a direct connection; with `shared`, another
/// client uses the server in between.
fn behaves_like_a_direct_connection(ini: Ini, shared: bool, seed: u64) {
    let pooler = ini.one_server().start();
    let direct = Login::new("alice", &pooler.database.name).at(Postgres::shared().address());
    let mut direct = direct.expect("trust");
    let mut client = pooler.client();
    let mut other = shared.then(|| pooler.client());
    let mut batches = Batches {
        random: Random::new(seed),
        known: Vec::new(),
        fresh: 0,
    };
    for number in 0..200 {
        let batch = batches.next_batch();
        let expected = replies(&mut direct, &batch);
        let found = replies(&mut client, &batch);
        assert_eq!(
            found,
            expected,
            "batch {number} of seed {seed}: {}",
            batch.escape_ascii()
        );
        if let (Some(other), 0) = (&mut other, number % 10) {
            assert_eq!(
                other.value(&format!("select 'other {number}'")),
                format!("other {number}")
            );
        }
    }
}

#[test]
fn random_batches_are_answered_as_by_a_direct_connection_in_session_mode() {
    behaves_like_a_direct_connection(Ini::session(), false, 1);
}

#[test]
fn random_batches_are_answered_as_by_a_direct_connection_in_transaction_mode() {
    behaves_like_a_direct_connection(Ini::transaction(), true, 2);
}

#[test]
fn random_batches_are_answered_as_by_a_direct_connection_with_a_tiny_statement_cache() {
    if only_pgweir("PgBouncer answers Close before Parse") {
        return;
    }
    behaves_like_a_direct_connection(
        Ini::transaction().set("max_prepared_statements", 1),
        true,
        3,
    );
}

#[test]
fn parameter_types_are_kept() {
    each_kind(|pooler| {
        let mut client = pooler.client();
        let batch = [
            parse_typed("", "select pg_typeof($1)", &[23]),
            bind("", "", &["1"]),
            execute("", 0),
            sync(),
        ];
        assert_eq!(client.ask(batch.concat()).value(), "integer");
    });
}
