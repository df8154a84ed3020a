//! Pool modes: how long a client keeps its server, and in what state the next
//! client finds it.

use crate::harness::backend::{Fields, Message};
use crate::harness::becomes;
use crate::harness::frontend;
use crate::harness::pooler::Ini;
use std::collections::BTreeSet;

#[track_caller]
fn assert_fatal(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

#[test]
fn a_session_keeps_its_server() {
    let pooler = Ini::session().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    let (mine, other) = (first.backend_pid(), second.backend_pid());
    assert_ne!(mine, other);
    for _ in 0..5 {
        assert_eq!((first.backend_pid(), second.backend_pid()), (mine, other));
    }
}

#[test]
fn a_session_holds_its_server_until_it_leaves() {
    let pooler = Ini::session().one_server().start();
    let mut first = pooler.client();
    let pid = first.backend_pid();
    let mut second = pooler.client();
    second.send(frontend::query("select pg_backend_pid()"));
    pooler.wait_pool("cl_waiting", 1);
    first.leave();
    assert_eq!(second.reply().value(), pid.to_string());
}

#[test]
fn a_session_starts_from_a_clean_server() {
    let pooler = Ini::session().one_server().start();
    let mut first = pooler.client();
    let pid = first.backend_pid();
    first.run("set work_mem = '7MB'; set search_path = nowhere; create temp table mine (x int)");
    first.run("prepare p as select 1; listen c; select pg_advisory_lock(7)");
    first.run("declare kept cursor with hold for select 1");
    first.leave();
    let mut second = pooler.client();
    assert_eq!(second.backend_pid(), pid, "the same server");
    assert_ne!(second.value("show work_mem"), "7MB");
    assert_ne!(second.value("show search_path"), "nowhere");
    for query in [
        "select count(*) from pg_class where relname = 'mine'",
        "select count(*) from pg_prepared_statements",
        "select count(*) from pg_listening_channels()",
        "select count(*) from pg_cursors where name = 'kept'",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ] {
        assert_eq!(second.value(query), "0", "{query}");
    }
}

#[test]
fn another_reset_query_takes_the_place_of_discard_all() {
    let pooler = Ini::session()
        .one_server()
        .set("server_reset_query", "set work_mem = '9MB'")
        .start();
    let mut first = pooler.client();
    first.run("set search_path = kept");
    first.leave();
    let mut second = pooler.client();
    assert_eq!(second.value("show work_mem"), "9MB");
    assert_eq!(second.value("show search_path"), "kept");
}

#[test]
fn an_empty_reset_query_resets_nothing() {
    let pooler = Ini::session()
        .one_server()
        .set("server_reset_query", "")
        .start();
    let mut first = pooler.client();
    first.run("set work_mem = '9MB'");
    first.leave();
    assert_eq!(pooler.client().value("show work_mem"), "9MB");
}

#[test]
fn clients_share_a_server_between_transactions() {
    let pooler = Ini::transaction().one_server().start();
    let mut clients = [pooler.client(), pooler.client(), pooler.client()];
    let mut pids = BTreeSet::new();
    for _ in 0..3 {
        for client in &mut clients {
            pids.insert(client.backend_pid());
        }
    }
    assert_eq!(pids.len(), 1);
}

#[test]
fn a_transaction_keeps_its_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    assert_eq!(first.query("begin").status, 'T');
    second.send(frontend::query("select 'mine'"));
    pooler.wait_pool("cl_waiting", 1);
    for _ in 0..3 {
        assert_eq!(
            first.query("select 'in transaction'").value(),
            "in transaction"
        );
    }
    assert_eq!(pooler.pool("cl_waiting"), 1, "the other one still waits");
    assert_eq!(first.query("commit").status, 'I');
    assert_eq!(second.reply().value(), "mine");
}

#[test]
fn a_failed_transaction_keeps_its_server_until_rollback() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    first.run("begin");
    assert_eq!(first.query("selct").status, 'E');
    second.send(frontend::query("select 'mine'"));
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(first.query("select 1").code(), "25P02");
    assert_eq!(first.query("rollback").status, 'I');
    assert_eq!(second.reply().value(), "mine");
}

#[test]
fn an_error_outside_a_transaction_frees_the_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    for _ in 0..3 {
        assert_eq!(first.query("selct").code(), "42601");
        assert_eq!(second.value("select 'mine'"), "mine");
    }
}

#[test]
fn a_savepoint_does_not_end_a_transaction() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    first.run("begin; savepoint s");
    first.query("selct").code();
    second.send(frontend::query("select 'mine'"));
    assert_eq!(first.query("rollback to s").status, 'T');
    pooler.wait_pool("cl_waiting", 1);
    first.run("release s; commit");
    assert_eq!(second.reply().value(), "mine");
}

#[test]
fn a_transaction_that_its_client_leaves_is_rolled_back() {
    let pooler = Ini::transaction().one_server().start();
    pooler.client().run("create table t (x int)");
    for broken in [false, true] {
        let mut first = pooler.client();
        first.run("begin; insert into t values (1)");
        if broken {
            first.query("selct").code();
        }
        first.leave();
        let mut second = pooler.client();
        let reply = second.query("select count(*) from t");
        assert_eq!((reply.status, reply.value()), ('I', "0".to_owned()));
    }
}

#[test]
fn several_statements_in_one_query_are_one_transaction() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let reply = client.query("select 1; select 2; select 3");
    assert_eq!(reply.tags(), ["SELECT 1"; 3]);
    assert_eq!(client.query("begin; select 1; commit; begin").status, 'T');
    assert_eq!(client.query("commit").status, 'I');
}

#[test]
fn the_reset_query_runs_after_transactions_only_on_request() {
    for (always, kept) in [(0, "1"), (1, "0")] {
        let pooler = Ini::transaction()
            .one_server()
            .set("server_reset_query_always", always)
            .start();
        let mut client = pooler.client();
        let pid = client.backend_pid();
        client.run("select pg_advisory_lock(1)");
        assert_eq!(client.backend_pid(), pid);
        let locks =
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
        assert_eq!(client.value(locks), kept);
    }
}

#[test]
fn clients_share_a_server_between_statements() {
    let pooler = Ini::statement().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    let pid = first.backend_pid();
    assert_eq!((second.backend_pid(), first.backend_pid()), (pid, pid));
}

#[test]
fn statement_mode_refuses_transaction_blocks() {
    let pooler = Ini::statement().one_server().start();
    for sql in ["begin", "start transaction", "begin; select 1"] {
        let mut client = pooler.client();
        client.send(frontend::query(sql));
        let reply = client.try_reply();
        assert!(reply.is_err(), "{sql}: {reply:?}");
        pooler.wait_log("transaction blocks not allowed in statement pooling mode");
        becomes("no transaction is left open", 0, || {
            pooler.database.backends_in("idle in transaction")
        });
    }
    pooler.assert_serves();
}

#[test]
fn statement_mode_says_why_it_refuses() {
    let pooler = Ini::statement().start();
    let mut client = pooler.client();
    client.send(frontend::query("begin"));
    let error = loop {
        match client.recv() {
            Message::ErrorResponse(error) => break error,
            other => assert_eq!(other, Message::CommandComplete("BEGIN".to_owned())),
        }
    };
    assert_fatal(
        &error,
        "transaction blocks not allowed in statement pooling mode",
    );
    client.expect_closed();
}

#[test]
fn statement_mode_allows_a_transaction_inside_one_query() {
    let pooler = Ini::statement().start();
    let mut client = pooler.client();
    assert_eq!(client.query("begin; select 1; commit").status, 'I');
    assert_eq!(client.value("select 2"), "2");
}

#[test]
fn the_databases_mode_goes_before_the_global_one() {
    let pooler = Ini::session()
        .db("pool_mode=transaction pool_size=1")
        .start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    assert_eq!(first.backend_pid(), second.backend_pid());
}

#[test]
fn the_users_mode_goes_before_the_databases() {
    let ini = Ini::session()
        .db("pool_mode=session pool_size=1")
        .user("alice", "pool_mode=transaction");
    let pooler = ini.start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    assert_eq!(first.backend_pid(), second.backend_pid());
}

#[test]
fn a_mode_changed_by_reload_acts_on_clients_that_are_there() {
    let mut pooler = Ini::session().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    first.run("select 1");
    pooler.reload(|ini| ini.change("pool_mode", "transaction"));
    first.run("select 1");
    assert_eq!(second.value("select 'mine'"), "mine");
    assert_eq!(first.value("select 'mine too'"), "mine too");
}

#[test]
fn a_cursor_lives_as_long_as_its_transaction() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("begin; declare c cursor for select generate_series(1, 3)");
    assert_eq!(client.value("fetch c"), "1");
    assert_eq!(client.value("fetch c"), "2");
    client.run("commit");
    assert_eq!(client.query("fetch c").code(), "34000");
}

#[test]
fn a_function_call_message_is_answered() {
    for ini in [Ini::session(), Ini::transaction(), Ini::statement()] {
        let pooler = ini.one_server().start();
        let function = pooler
            .database
            .session()
            .value("select 'pg_backend_pid()'::regprocedure::oid");
        let mut client = pooler.client();
        let pid = client.backend_pid();
        let reply = client.ask(frontend::function_call(
            function.parse().expect("an oid"),
            &[],
        ));
        let expected = Message::FunctionCallResponse(Some(pid.to_string().into_bytes()));
        assert_eq!(reply.messages, [expected]);
        client.leave();
        pooler.client().run("select 1");
    }
}

#[test]
fn an_empty_query_is_answered_as_such() {
    for ini in [Ini::session(), Ini::transaction(), Ini::statement()] {
        let pooler = ini.one_server().start();
        let mut client = pooler.client();
        assert_eq!(client.query("").shape(), "I");
        assert_eq!(client.query(";").shape(), "I");
        client.leave();
        pooler.client().run("select 1");
    }
}

#[test]
fn notices_reach_the_client_that_caused_them() {
    let pooler = Ini::transaction().one_server().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    first.run("do $$ begin raise notice 'for the first'; end $$");
    second.run("select 1");
    assert_eq!(first.asides.len(), 1);
    assert_eq!(second.asides.len(), 0);
}

#[test]
fn notifications_reach_a_session_that_listens() {
    let pooler = Ini::session().start();
    let mut listener = pooler.client();
    listener.run("listen news");
    pooler.client().run("notify news, 'today'");
    becomes("a notification", true, || {
        listener.run("select 1");
        listener
            .asides
            .iter()
            .any(|aside| matches!(aside, Message::NotificationResponse(_, text) if text == "today"))
    });
}

#[test]
fn a_large_answer_comes_whole() {
    for ini in [Ini::session(), Ini::transaction(), Ini::statement()] {
        let pooler = ini.one_server().start();
        let mut client = pooler.client();
        let value = client.value("select repeat('0123456789', 300000)");
        assert_eq!(value.len(), 3_000_000);
        let rows = client
            .query("select i, repeat('x', i % 50) from generate_series(1, 20000) i")
            .rows();
        assert_eq!(rows.len(), 20_000);
        assert!(rows.iter().zip(1..).all(|(row, i): (_, usize)| {
            row[0].as_deref() == Some(&i.to_string())
                && row[1].as_ref().is_some_and(|x| x.len() == i % 50)
        }));
    }
}

#[test]
fn a_large_query_arrives_whole() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let text = "0123456789".repeat(500_000);
    assert_eq!(client.value(&format!("select length('{text}')")), "5000000");
    assert_eq!(pooler.client().value("select 1"), "1");
}
