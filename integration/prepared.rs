//! Named prepared statements in transaction mode: the same name on any server,
//! the same statement once on each.

use crate::harness::frontend::{
    bind, close_statement, describe_statement, execute, message, parse, parse_typed, query,
    run_prepared, sync,
};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::{Lost, Wire};
use crate::harness::{Random, becomes, only_pgweir, together};
use std::collections::BTreeSet;

/// Prepares; the statement has to be accepted.
fn prepare(client: &mut Wire, name: &str, sql: &str) {
    assert_eq!(
        client
            .ask([parse(name, sql), sync()].concat())
            .succeeded()
            .shape(),
        "1"
    );
}

/// Runs a statement without parameters.
fn run(client: &mut Wire, name: &str) -> String {
    client
        .ask([run_prepared(name, &[]), sync()].concat())
        .succeeded()
        .value()
}

/// Server-side names of the statements on the server this client gets next.
fn on_server(client: &mut Wire) -> BTreeSet<String> {
    let names = client
        .query("select name from pg_prepared_statements")
        .rows();
    names.into_iter().flatten().flatten().collect()
}

/// A client in a transaction on one of two servers, so that others get the other.
fn holder(pooler: &Pooler<'_>) -> Wire {
    let mut holder = pooler.client();
    holder.run("begin");
    holder
}

#[test]
fn a_statement_works_on_every_server() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    let mut client = pooler.client();
    prepare(&mut client, "s", "select pg_backend_pid()");
    let first = run(&mut client, "s");
    let mut holder = holder(&pooler);
    assert_eq!(
        holder.backend_pid().to_string(),
        first,
        "the newest server is taken first"
    );
    let second = run(&mut client, "s");
    assert_ne!(first, second);
    holder.run("commit");
    assert!([first, second].contains(&run(&mut client, "s")));
}

#[test]
fn a_statement_is_described_on_every_server() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    let mut client = pooler.client();
    prepare(&mut client, "s", "select $1::int, 'two'");
    let _holder = holder(&pooler);
    for _ in 0..2 {
        let reply = client.ask([describe_statement("s"), sync()].concat());
        assert_eq!(reply.shape(), "tT");
    }
}

#[test]
fn one_name_means_another_statement_to_each_client() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    prepare(&mut first, "s", "select 'first'");
    prepare(&mut second, "s", "select 'second'");
    for _ in 0..3 {
        assert_eq!(run(&mut first, "s"), "first");
        assert_eq!(run(&mut second, "s"), "second");
    }
}

#[test]
fn one_statement_is_prepared_once_on_a_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut clients: Vec<Wire> = (0..5).map(|_| pooler.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        prepare(client, &format!("name {number}"), "select 'shared'");
        assert_eq!(run(client, &format!("name {number}")), "shared");
    }
    assert_eq!(
        on_server(&mut clients[0]),
        BTreeSet::from(["PGBOUNCER_1".to_owned()])
    );
}

#[test]
fn the_same_text_with_other_types_is_another_statement() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let sql = "select pg_typeof($1)";
    for (name, kind, expected) in [("a", 23, "integer"), ("b", 25, "text"), ("c", 20, "bigint")] {
        client
            .ask([parse_typed(name, sql, &[kind]), sync()].concat())
            .succeeded();
        let reply = client.ask([run_prepared(name, &["1"]), sync()].concat());
        assert_eq!(reply.value(), expected);
    }
    assert_eq!(on_server(&mut client).len(), 3);
}

#[test]
fn a_statement_of_a_client_that_left_stays_for_others() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    prepare(&mut first, "s", "select 'shared'");
    first.leave();
    let mut second = pooler.client();
    prepare(&mut second, "t", "select 'shared'");
    assert_eq!(run(&mut second, "t"), "shared");
}

#[test]
fn a_name_in_use_is_refused() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    prepare(&mut client, "s", "select 1");
    client.send([parse("s", "select 2"), sync()].concat());
    let error = client.expect_fatal();
    assert_eq!(
        (error.code(), error.text()),
        ("08P01", "prepared statement name is already in use")
    );
    // What a client is told, the log has been told before.
    let log = pooler.log();
    assert!(log.contains("prepared statement 's' was already prepared"));
    assert!(log.contains("closing because: prepared statement name is already in use"));
    pooler.assert_serves();
}

#[test]
fn an_unknown_name_is_refused() {
    let pooler = Ini::transaction().start();
    for bytes in [bind("", "s", &[]), describe_statement("s")] {
        let mut client = pooler.client();
        client.send([bytes, sync()].concat());
        let error = client.expect_fatal();
        assert_eq!(
            (error.code(), error.text()),
            ("08P01", "prepared statement did not exist")
        );
    }
    pooler.assert_serves();
}

#[test]
fn close_forgets_a_name() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    prepare(&mut client, "s", "select 1");
    assert_eq!(
        client.ask([close_statement("s"), sync()].concat()).shape(),
        "3"
    );
    prepare(&mut client, "s", "select 'again'");
    assert_eq!(run(&mut client, "s"), "again");
    client
        .ask([close_statement("s"), sync()].concat())
        .succeeded();
    client.send([run_prepared("s", &[]), sync()].concat());
    assert_eq!(
        client.expect_fatal().text(),
        "prepared statement did not exist"
    );
}

#[test]
fn closing_an_unknown_name_succeeds() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    assert_eq!(
        client
            .ask([close_statement("never made"), sync()].concat())
            .shape(),
        "3"
    );
}

#[test]
fn close_leaves_the_servers_statement_to_others() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    prepare(&mut first, "s", "select 'shared'");
    prepare(&mut second, "s", "select 'shared'");
    first
        .ask([close_statement("s"), sync()].concat())
        .succeeded();
    assert_eq!(run(&mut second, "s"), "shared");
}

#[test]
fn parse_and_close_in_one_batch_keep_their_order() {
    if only_pgweir("PgBouncer answers Close before Parse") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let mut other = pooler.client();
    let made = |name: &str| parse(name, &format!("select '{name}'"));
    for (batch, shape) in [
        (vec![made("a"), close_statement("a")], "13"),
        (
            vec![
                made("a"),
                close_statement("a"),
                made("a"),
                close_statement("a"),
            ],
            "1313",
        ),
        (
            vec![close_statement("a"), made("a"), close_statement("a")],
            "313",
        ),
        (
            vec![
                made("a"),
                made("b"),
                close_statement("a"),
                run_prepared("b", &[]),
                close_statement("b"),
            ],
            "1132DC3",
        ),
        (
            vec![
                made("a"),
                run_prepared("a", &[]),
                close_statement("a"),
                made("a"),
                run_prepared("a", &[]),
                close_statement("a"),
            ],
            "12DC312DC3",
        ),
        (
            vec![
                parse("", "select 1"),
                made("a"),
                bind("", "", &[]),
                close_statement("a"),
                execute("", 0),
            ],
            "1123DC",
        ),
    ] {
        // Twice: the second time the server has the statements.
        for _ in 0..2 {
            client.send([batch.concat(), sync(), query("select 'next'")].concat());
            assert_eq!(client.reply().succeeded().shape(), shape);
            assert_eq!(client.reply().value(), "next");
            assert_eq!(other.value("select 'other'"), "other");
        }
    }
}

#[test]
fn batches_without_sync_keep_their_order() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.send([parse("a", "select 'a'"), close_statement("a")].concat());
    client.send([parse("a", "select 'b'"), run_prepared("a", &[])].concat());
    client.send([close_statement("a"), sync()].concat());
    let reply = client.reply();
    assert_eq!(
        (reply.shape().as_str(), reply.value().as_str()),
        ("1312DC3", "b")
    );
}

#[test]
fn a_name_whose_parse_failed_can_be_used_again() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    assert_eq!(
        client.ask([parse("s", "selct 1"), sync()].concat()).code(),
        "42601"
    );
    // As after an error of PostgreSQL's own, drivers close first.
    client
        .ask([close_statement("s"), sync()].concat())
        .succeeded();
    prepare(&mut client, "s", "select 'good'");
    assert_eq!(run(&mut client, "s"), "good");
}

#[test]
fn a_statement_that_failed_fails_again_and_is_not_kept() {
    let pooler = Ini::transaction().one_server().start();
    let mut clients = [pooler.client(), pooler.client()];
    for client in &mut clients {
        assert_eq!(
            client
                .ask([parse("s", "select * from later"), sync()].concat())
                .code(),
            "42P01"
        );
    }
    pooler
        .database
        .session()
        .run("create table later as select 'now'; grant all on later to public");
    let mut third = pooler.client();
    prepare(&mut third, "s", "select * from later");
    assert_eq!(run(&mut third, "s"), "now");
}

#[test]
fn statements_behind_an_error_are_not_believed_to_be_prepared() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let batch = [
        parse("a", "select 'a'"),
        parse("bad", "selct"),
        parse("c", "select 'c'"),
        bind("", "c", &[]),
        sync(),
    ];
    assert_eq!(client.ask(batch.concat()).shape(), "1E");
    assert_eq!(run(&mut client, "a"), "a");
    let mut other = pooler.client();
    prepare(&mut other, "mine", "select 'c'");
    assert_eq!(run(&mut other, "mine"), "c");
    assert_eq!(client.value("select 'in order'"), "in order");
}

#[test]
fn deallocate_all_and_discard_all_forget_every_name() {
    let pooler = Ini::transaction().one_server().start();
    for command in [
        "deallocate all",
        "discard all",
        "DEALLOCATE ALL",
        "/* x */ DISCARD ALL",
    ] {
        let mut client = pooler.client();
        prepare(&mut client, "s", "select 1");
        client.run(command);
        assert!(on_server(&mut client).is_empty(), "{command}");
        prepare(&mut client, "s", "select 'again'");
        assert_eq!(run(&mut client, "s"), "again");
        client.run(command);
        client.send([run_prepared("s", &[]), sync()].concat());
        assert_eq!(
            client.expect_fatal().text(),
            "prepared statement did not exist"
        );
    }
}

#[test]
fn discard_all_of_one_client_does_not_disturb_another() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    prepare(&mut first, "s", "select 'kept'");
    prepare(&mut second, "s", "select 'other'");
    second.run("discard all");
    assert_eq!(run(&mut first, "s"), "kept");
}

#[test]
fn sql_prepare_passes_through() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("begin; prepare p as select 'sql'");
    assert_eq!(client.value("execute p"), "sql");
    client.run("deallocate p; commit");
}

#[test]
fn a_cache_smaller_than_a_batch_serves_the_batch() {
    for size in [1, 2, 3] {
        let pooler = Ini::transaction()
            .one_server()
            .set("max_prepared_statements", size)
            .start();
        let mut client = pooler.client();
        let mut other = pooler.client();
        let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
        let prepare: Vec<u8> = names
            .iter()
            .flat_map(|name| parse(name, &format!("select '{name}'")))
            .collect();
        assert_eq!(
            client.ask([prepare, sync()].concat()).succeeded().shape(),
            "1".repeat(10)
        );
        for round in 0..3 {
            let mut order = names.clone();
            order.rotate_left(round * 3);
            let run_all: Vec<u8> = order
                .iter()
                .flat_map(|name| run_prepared(name, &[]))
                .collect();
            let reply = client.ask([run_all, sync()].concat());
            let found: Vec<String> = reply
                .succeeded()
                .rows()
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            assert_eq!(found, order);
            assert_eq!(other.value("select 'other'"), "other");
        }
        let kept = on_server(&mut client).len();
        assert!(
            kept <= size,
            "{kept} statements on the server, {size} allowed"
        );
    }
}

#[test]
fn the_least_recently_used_statement_is_evicted() {
    let pooler = Ini::transaction()
        .one_server()
        .set("max_prepared_statements", 2)
        .start();
    let mut client = pooler.client();
    for name in ["a", "b"] {
        prepare(&mut client, name, &format!("select '{name}'"));
    }
    run(&mut client, "a");
    prepare(&mut client, "c", "select 'c'");
    let texts = client
        .query("select statement from pg_prepared_statements order by 1")
        .rows()
        .concat();
    assert_eq!(
        texts,
        [Some("select 'a'".to_owned()), Some("select 'c'".to_owned())]
    );
    assert_eq!(run(&mut client, "b"), "b");
}

#[test]
fn an_error_in_a_batch_that_evicts_leaves_the_cache_right() {
    for size in [1, 2] {
        let pooler = Ini::transaction()
            .one_server()
            .set("max_prepared_statements", size)
            .start();
        let mut client = pooler.client();
        for name in ["a", "b", "c"] {
            prepare(
                &mut client,
                name,
                &format!("select '{name}' where $1 <> ''"),
            );
        }
        for _ in 0..3 {
            let batch = [
                run_prepared("a", &["x"]),
                parse("bad", "selct"),
                run_prepared("b", &["x"]),
                run_prepared("c", &["x"]),
                close_statement("bad"),
                sync(),
            ];
            assert_eq!(client.ask(batch.concat()).code(), "42601");
            client
                .ask([close_statement("bad"), sync()].concat())
                .succeeded();
            for name in ["c", "a", "b"] {
                let reply = client.ask([run_prepared(name, &["x"]), sync()].concat());
                assert_eq!(reply.succeeded().value(), name);
            }
        }
        assert!(on_server(&mut client).len() <= size);
    }
}

#[test]
fn an_empty_cache_passes_names_through() {
    let pooler = Ini::transaction()
        .one_server()
        .set("max_prepared_statements", 0)
        .start();
    let mut client = pooler.client();
    prepare(&mut client, "my name", "select 'plain'");
    assert_eq!(
        on_server(&mut client),
        BTreeSet::from(["my name".to_owned()])
    );
    assert_eq!(
        client
            .ask([parse("my name", "select 2"), sync()].concat())
            .code(),
        "42P05"
    );
    assert_eq!(
        client
            .ask([run_prepared("unknown", &[]), sync()].concat())
            .code(),
        "26000"
    );
}

#[test]
fn session_mode_passes_names_through() {
    let pooler = Ini::session().one_server().start();
    let mut client = pooler.client();
    prepare(&mut client, "my name", "select 'plain'");
    assert_eq!(
        on_server(&mut client),
        BTreeSet::from(["my name".to_owned()])
    );
    assert_eq!(
        client
            .ask([parse("my name", "select 2"), sync()].concat())
            .code(),
        "42P05"
    );
    assert_eq!(
        client
            .ask([close_statement("my name"), sync()].concat())
            .shape(),
        "3"
    );
    assert_eq!(
        client
            .ask([run_prepared("my name", &[]), sync()].concat())
            .code(),
        "26000"
    );
}

#[test]
fn statement_mode_knows_names_too() {
    let pooler = Ini::statement().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    prepare(&mut first, "s", "select 'first'");
    prepare(&mut second, "s", "select 'second'");
    assert_eq!(run(&mut first, "s"), "first");
    assert_eq!(run(&mut second, "s"), "second");
}

#[test]
fn names_of_any_length_work() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    for name in [
        "x".to_owned(),
        "y".repeat(63),
        "z".repeat(64),
        "n".repeat(10_000),
        "ü \" ' \n".to_owned(),
    ] {
        prepare(&mut client, &name, "select 'named'");
        assert_eq!(run(&mut client, &name), "named");
        assert_eq!(
            client
                .ask([close_statement(&name), sync()].concat())
                .shape(),
            "3"
        );
    }
}

#[test]
fn broken_messages_cost_only_their_sender() {
    let pooler = Ini::transaction().start();
    for (kind, text) in [
        (b'P', "Parse"),
        (b'B', "Bind"),
        (b'D', "Describe"),
        (b'C', "Close"),
    ] {
        let mut client = pooler.client().lawless();
        client.send([message(kind, b"S without an end"), sync()].concat());
        let error = client.expect_fatal();
        assert_eq!(error.code(), "08P01");
        let known = [
            format!("broken {text} packet"),
            "failed to parse packet".to_owned(),
        ];
        assert!(known.iter().any(|known| known == error.text()), "{error:?}");
    }
    pooler.assert_serves();
}

#[test]
fn a_client_that_vanishes_inside_a_parse_leaves_no_phantom() {
    let pooler = Ini::transaction().one_server().start();
    let whole = [parse("s", "select 'whole'"), sync()].concat();
    for end in 1..whole.len() {
        let mut client = pooler.client();
        client.send(&whole[..end]);
        if end % 2 == 0 {
            client.reset();
        }
    }
    let mut client = pooler.client();
    prepare(&mut client, "s", "select 'whole'");
    assert_eq!(run(&mut client, "s"), "whole");
}

#[test]
fn many_clients_thrash_a_small_cache_and_get_their_own_rows() {
    let pooler = Ini::transaction()
        .set("default_pool_size", 2)
        .set("max_prepared_statements", 2)
        .start();
    together(8, |who| {
        let mut random = Random::new(who as u64 + 1);
        let mut client = pooler.client();
        for number in 0..6 {
            // Some texts are shared between clients, some are not.
            let owner = if number % 2 == 0 {
                "all".to_owned()
            } else {
                who.to_string()
            };
            prepare(
                &mut client,
                &format!("s{number}"),
                &format!("select $1 || ' {number} of {owner}'"),
            );
        }
        for round in 0..60 {
            let token = format!("{who}.{round}");
            let picks: Vec<usize> = (0..1 + random.below(5)).map(|_| random.below(6)).collect();
            let batch: Vec<u8> = picks
                .iter()
                .flat_map(|number| run_prepared(&format!("s{number}"), &[&token]))
                .collect();
            let rows = client.ask([batch, sync()].concat()).succeeded().rows();
            for (number, row) in picks.iter().zip(rows) {
                let owner = if number % 2 == 0 {
                    "all".to_owned()
                } else {
                    who.to_string()
                };
                assert_eq!(row, [Some(format!("{token} {number} of {owner}"))]);
            }
        }
    });
    becomes("all is idle", 0, || pooler.pool("sv_active"));
}

#[test]
fn statements_survive_the_loss_of_a_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    prepare(&mut client, "s", "select 'still here'");
    let pid = client.backend_pid();
    pooler.console("RECONNECT db");
    becomes("another server", true, || client.backend_pid() != pid);
    assert_eq!(run(&mut client, "s"), "still here");
}

#[test]
fn a_statement_prepared_in_a_transaction_that_failed_is_still_there() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("begin");
    prepare(&mut client, "s", "select 'kept'");
    client.query("selct").code();
    client.run("rollback");
    assert_eq!(run(&mut client, "s"), "kept");
}

#[test]
fn an_answer_is_not_owed_to_a_client_that_is_closed() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    // The FATAL error comes in the midst of a pipeline.
    client.send(
        [
            parse("a", "select 1"),
            run_prepared("a", &[]),
            bind("", "unknown", &[]),
            sync(),
            query("select 2"),
        ]
        .concat(),
    );
    let end = loop {
        match client.try_recv() {
            Ok(_) => {}
            Err(lost) => break lost,
        }
    };
    assert_eq!(end, Lost::Closed);
    assert_eq!(pooler.client().value("select 'clean'"), "clean");
}
