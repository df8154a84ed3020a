//! Prepared statements whose result has other columns since they were
//! prepared: PostgreSQL says "cached plan must not change result type".

use crate::harness::backend::Message;
use crate::harness::frontend::{
    bind, close_statement, describe_portal, describe_statement, execute, flush, parse, query,
    run_prepared, sync,
};
use crate::harness::only_pgweir;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::Wire;

/// A pooler with so many servers and a table that can change.
fn pooler_of(servers: usize) -> Option<Pooler<'static>> {
    if only_pgweir("PgBouncer passes the error on and keeps the statement") {
        return None;
    }
    let pooler = Ini::transaction().set("default_pool_size", servers).start();
    let setup = "create table t as select 1 as a; grant all on t to public";
    pooler.database.session().run(setup);
    Some(pooler)
}

/// A client that has prepared the table's rows under this name and seen them.
fn client_with(pooler: &Pooler<'_>, name: &str) -> Wire {
    let mut client = pooler.client();
    let prepared = [parse(name, "select * from t"), run_prepared(name, &[])];
    let reply = client.ask([prepared.concat(), sync()].concat());
    assert_eq!(reply.succeeded().value(), "1");
    client
}

fn change(pooler: &Pooler<'_>) {
    let sql = "alter table t add b int default 2";
    pooler.database.session().run(sql);
}

/// Bind, Describe and Execute, as libpq runs a prepared statement.
fn described(name: &str) -> Vec<u8> {
    [bind("", name, &[]), describe_portal(""), execute("", 0)].concat()
}

fn undescribed(name: &str) -> Vec<u8> {
    [run_prepared(name, &[]), sync()].concat()
}

fn both() -> Vec<Option<String>> {
    vec![Some("1".to_owned()), Some("2".to_owned())]
}

#[test]
fn a_batch_that_asks_for_the_columns_does_not_notice() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    for _ in 0..2 {
        let reply = client.ask([described("s"), sync()].concat());
        assert_eq!(reply.succeeded().shape(), "2TDC");
        assert_eq!(reply.rows(), [both()]);
    }
    assert!(client.is_settled());
    pooler.assert_serves();
}

#[test]
fn a_pipeline_of_such_batches_without_a_sync_between_does_not_notice() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    let batch = [
        described("s"),
        parse("u", "select 3"),
        described("u"),
        described("s"),
        sync(),
    ];
    let reply = client.ask(batch.concat());
    assert_eq!(reply.succeeded().shape(), "2TDC12TDC2TDC");
    assert_eq!(reply.rows(), [both(), vec![Some("3".to_owned())], both()]);
    assert!(client.is_settled());
}

#[test]
fn a_batch_that_is_only_flushed_does_not_notice() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    client.send([described("s"), flush()].concat());
    assert_eq!(client.recv(), Message::BindComplete);
    assert!(matches!(client.recv(), Message::RowDescription(columns) if columns.len() == 2));
    assert!(matches!(client.recv(), Message::DataRow(_)));
    assert!(matches!(client.recv(), Message::CommandComplete(_)));
    assert_eq!(client.ask(sync()).status, 'I');
    assert!(client.is_settled());
}

#[test]
fn a_statement_is_described_as_it_is_now() {
    let Some(pooler) = pooler_of(1) else { return };
    let _other = client_with(&pooler, "s");
    change(&pooler);
    let mut client = pooler.client();
    // As drivers prepare: its Parse is answered by the pooler.
    let batch = [
        parse("mine", "select * from t"),
        describe_statement("mine"),
        sync(),
    ];
    let reply = client.ask(batch.concat());
    assert_eq!(reply.succeeded().shape(), "1tT");
    let columns = reply.messages.iter().find_map(|message| match message {
        Message::RowDescription(columns) => Some(columns.len()),
        _ => None,
    });
    assert_eq!(columns, Some(2));
    assert_eq!(client.ask(undescribed("mine")).succeeded().rows(), [both()]);
}

#[test]
fn who_knows_the_columns_from_before_gets_the_error_until_it_prepares_anew() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = client_with(&pooler, "s");
    // The other server has it too.
    let mut holder = pooler.client();
    holder.run("begin");
    client.ask(undescribed("s")).succeeded();
    holder.run("commit");
    change(&pooler);
    for _ in 0..2 {
        assert_eq!(client.ask(undescribed("s")).code(), "0A000");
    }
    let anew = [close_statement("s"), parse("s", "select * from t"), sync()];
    client.ask(anew.concat()).succeeded();
    // Once for both servers.
    for command in ["begin", "commit"] {
        holder.run(command);
        assert_eq!(client.ask(undescribed("s")).succeeded().rows(), [both()]);
    }
}

#[test]
fn one_client_that_prepares_anew_does_not_take_the_error_from_another() {
    let Some(pooler) = pooler_of(1) else { return };
    let (mut one, mut other) = (client_with(&pooler, "s"), client_with(&pooler, "t"));
    change(&pooler);
    let reply = one.ask([described("s"), sync()].concat());
    assert_eq!(reply.succeeded().rows(), [both()]);
    // It would take two columns for the one it knows.
    assert_eq!(other.ask(undescribed("t")).code(), "0A000");
    let reply = other.ask([described("t"), sync()].concat());
    assert_eq!(reply.succeeded().rows(), [both()]);
    assert_eq!(other.ask(undescribed("t")).succeeded().rows(), [both()]);
}

#[test]
fn a_driver_that_prepares_anew_after_the_error_has_its_way() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    assert_eq!(client.ask(undescribed("s")).code(), "0A000");
    let anew = [
        close_statement("s"),
        parse("s", "select * from t"),
        described("s"),
        sync(),
    ];
    let reply = client.ask(anew.concat());
    assert_eq!(reply.succeeded().shape(), "312TDC");
    assert_eq!(reply.rows(), [both()]);
}

#[test]
fn inside_a_transaction_the_error_is_passed_on() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    client.run("begin");
    let reply = client.ask([described("s"), sync()].concat());
    assert_eq!((reply.code(), reply.status), ("0A000", 'E'));
    client.run("rollback");
    let reply = client.ask([described("s"), sync()].concat());
    assert_eq!(reply.succeeded().rows(), [both()]);
}

#[test]
fn behind_something_done_the_error_is_passed_on() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    client
        .ask([parse("n", "insert into t values (5)"), sync()].concat())
        .succeeded();
    change(&pooler);
    let batch = [described("n"), described("s"), sync()];
    let reply = client.ask(batch.concat());
    assert_eq!((reply.shape().as_str(), reply.code()), ("2nCE", "0A000"));
    assert_eq!(client.value("select count(*) from t"), "1", "rolled back");
}

#[test]
fn with_a_batch_behind_its_sync_the_error_is_passed_on() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    change(&pooler);
    client.send([described("s"), sync(), query("select 'behind'")].concat());
    assert_eq!(client.reply().code(), "0A000");
    assert_eq!(client.reply().value(), "behind");
    let reply = client.ask([described("s"), sync()].concat());
    assert_eq!(reply.succeeded().rows(), [both()]);
}

#[test]
fn what_cannot_be_prepared_anew_is_answered_with_the_reason() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    // The search path leads to another table than the one it was prepared for.
    let sql = "alter table t rename to gone";
    pooler.database.session().run(sql);
    for _ in 0..2 {
        let reply = client.ask([described("s"), sync()].concat());
        assert_eq!((reply.code(), reply.status), ("42P01", 'I'));
    }
    assert_eq!(client.value("select 'goes on'"), "goes on");
}

#[test]
fn a_batch_too_long_to_be_kept_gets_the_error() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = client_with(&pooler, "s");
    client
        .ask([parse("long", "select *, length($1) from t"), sync()].concat())
        .succeeded();
    let long = "x".repeat(20_000);
    let batch = [
        bind("", "long", &[&long]),
        describe_portal(""),
        execute("", 0),
        sync(),
    ];
    client.ask(batch.concat()).succeeded();
    change(&pooler);
    assert_eq!(client.ask(batch.concat()).code(), "0A000");
    let text = "select *, length($1) from t";
    let anew = [close_statement("long"), parse("long", text), batch.concat()];
    client.ask(anew.concat()).succeeded();
}

#[test]
fn execute_of_sql_gets_the_error_once() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("prepare p as select * from t; execute p");
    change(&pooler);
    assert_eq!(client.query("execute p").code(), "0A000");
    assert_eq!(client.query("execute p").succeeded().rows(), [both()]);
}
