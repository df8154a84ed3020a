//! Prepared statements of SQL in transaction mode: PREPARE, EXECUTE and
//! DEALLOCATE on any server, beside those of the protocol.

use crate::harness::frontend::{
    bind, close_statement, describe_portal, describe_statement, execute, extended, flush, parse,
    query, run_prepared, sync,
};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::client_program;
use crate::harness::wire::Wire;
use crate::harness::{Random, becomes, only_pgweir, together};
use std::collections::BTreeSet;

/// A pooler with so many servers, if it is one that can do this.
fn pooler_of(servers: usize) -> Option<Pooler<'static>> {
    pooler(Ini::transaction().set("default_pool_size", servers))
}

fn pooler(ini: Ini) -> Option<Pooler<'static>> {
    (!only_pgweir("PgBouncer does not follow SQL's PREPARE")).then(|| ini.start())
}

/// Server-side names of the statements on the server this client gets next.
fn on_server(client: &mut Wire) -> BTreeSet<String> {
    let names = client
        .query("select name from pg_prepared_statements")
        .rows();
    names.into_iter().flatten().flatten().collect()
}

fn message_of(client: &mut Wire, sql: &str) -> (String, String) {
    let reply = client.query(sql);
    let error = reply.error().expect("an error");
    (error.code().to_owned(), error.text().to_owned())
}

#[test]
fn a_statement_works_on_every_server() {
    let Some(pooler) = pooler_of(3) else { return };
    let mut client = pooler.client();
    client.run("prepare p (int) as select $1 + 1, pg_backend_pid()");
    let mut seen = BTreeSet::new();
    let mut holders = Vec::new();
    for number in 0..3 {
        let rows = client
            .query(&format!("execute p({number})"))
            .succeeded()
            .rows();
        assert_eq!(rows[0][0].as_deref(), Some(&*(number + 1).to_string()));
        seen.insert(rows[0][1].clone());
        let mut holder = pooler.client();
        holder.run("begin");
        holders.push(holder);
        if number == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 3, "each holder takes the server just used");
}

#[test]
fn one_name_means_another_statement_to_each_client() {
    let Some(pooler) = pooler_of(1) else { return };
    let (mut first, mut second) = (pooler.client(), pooler.client());
    first.run("prepare p as select 'first'");
    second.run("prepare p as select 'second'");
    for _ in 0..3 {
        assert_eq!(first.value("execute p"), "first");
        assert_eq!(second.value("execute p"), "second");
    }
    second.run("deallocate p");
    assert_eq!(first.value("execute p"), "first");
    assert_eq!(second.query("execute p").code(), "26000");
}

#[test]
fn one_text_is_prepared_once_on_a_server() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut clients: Vec<Wire> = (0..4).map(|_| pooler.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.query(&format!("prepare name_{number} as select 'shared'"));
        assert_eq!(reply.succeeded().tags(), ["PREPARE"]);
        assert_eq!(client.value(&format!("execute name_{number}")), "shared");
    }
    assert_eq!(on_server(&mut clients[0]).len(), 1);
}

#[test]
fn a_text_of_several_statements_is_followed_in_order() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    for _ in 0..3 {
        let reply = client.query(
            "prepare a as select 'a'; execute a; deallocate a; prepare a as select 'a'; \
             prepare b as select 'a'; execute b; deallocate prepare a; execute b; deallocate b",
        );
        assert_eq!(
            reply.succeeded().tags(),
            [
                "PREPARE",
                "SELECT 1",
                "DEALLOCATE",
                "PREPARE",
                "PREPARE",
                "SELECT 1",
                "DEALLOCATE",
                "SELECT 1",
                "DEALLOCATE"
            ]
        );
        assert_eq!(client.query("execute a").code(), "26000");
    }
}

#[test]
fn names_are_quoted_folded_and_commented_as_in_postgres() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("/* x */ PREPARE \"My Name\" AS SELECT 'quoted'");
    client.run("PrePare/**/Folded as select $q$ execute ; $q$ -- execute nothing\n;");
    client.run("prepare \"a\"\"b\" as select 'inside'");
    assert_eq!(client.value("execute -- x\n\"My Name\""), "quoted");
    assert_eq!(client.value("EXECUTE FOLDED"), " execute ; ");
    assert_eq!(client.value("execute \"folded\";"), " execute ; ");
    assert_eq!(client.value("execute\"a\"\"b\""), "inside");
    assert_eq!(client.query("execute \"Folded\"").code(), "26000");
    assert_eq!(client.query("execute my_name").code(), "26000");
    assert_eq!(
        client.value("select 'execute p; deallocate p'"),
        "execute p; deallocate p"
    );
}

#[test]
fn explain_and_create_table_execute_too() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("prepare p (int) as select $1 as x");
    client.run("explain execute p(1)");
    client.run("explain (analyze, costs off) execute p(1)");
    client.run("explain analyze verbose execute p(1)");
    client.run("create temp table made as execute p(7)");
    client.run("begin; create temp table made_too (y) as execute p(8)");
    assert_eq!(client.value("select y from made_too"), "8");
    client.run("rollback");
}

#[test]
fn a_failing_prepare_leaves_no_name() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    for _ in 0..2 {
        assert_eq!(
            client.query("prepare p as select * from nowhere").code(),
            "42P01"
        );
        assert_eq!(client.query("execute p").code(), "26000");
    }
    assert_eq!(
        client.query("select 1/0; prepare p as select 1").code(),
        "22012"
    );
    assert_eq!(client.query("execute p").code(), "26000");
    client.run("prepare p as select 'good'");
    assert_eq!(client.value("execute p"), "good");
    assert_eq!(
        client.query("prepare q as select 1; select 1/0").code(),
        "22012"
    );
    client.run("execute q");
}

#[test]
fn errors_are_postgres_own_and_in_the_clients_words() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    let mut direct = pooler.database.session();
    for sql in [
        "execute Nobody",
        "deallocate \"No Body\"",
        "prepare p (int) as select $1",
        "prepare p (int) as select $1",
        "prepare p as selct",
        "execute p",
        "execute p(1, 2)",
        "execute p('x')",
        "execute p(1), x",
        "select 1; execute p(nope); select 2",
        "/* \u{fc} */ execute p(1); execute p(nope(2))",
        "deallocate p",
        "deallocate p",
        "execute p(1)",
        "execute \"PGBOUNCER_1\"",
        "deallocate \"PGBOUNCER_1\"",
    ] {
        let outcome = |wire: &mut Wire| {
            let reply = wire.query(sql);
            let error = reply.error().map(|error| {
                let field = |kind| error.field(kind).map(str::to_owned);
                (field(b'C'), field(b'M'), field(b'P'), field(b'D'))
            });
            (error, reply.tags().join(" "), reply.status)
        };
        assert_eq!(outcome(&mut client), outcome(&mut direct), "{sql}");
    }
}

#[test]
fn what_cannot_be_prepared_on_another_server_is_answered_with_the_reason() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = pooler.client();
    client.run("create table gone_later (x int)");
    client.run("prepare p as select * from gone_later");
    client.run("execute p");
    let mut holder = pooler.client();
    holder.run("begin");
    pooler.database.session().run("drop table gone_later");
    for _ in 0..2 {
        let (code, text) = message_of(&mut client, "execute p");
        assert_eq!(
            (&*code, &*text),
            ("42P01", "relation \"gone_later\" does not exist")
        );
        assert_eq!(client.value("select 'goes on'"), "goes on");
    }
    client.send([query("execute p"), query("select 'behind'")].concat());
    assert_eq!(client.reply().code(), "42P01");
    assert_eq!(client.reply().value(), "behind");
    client.run("begin");
    assert_eq!(client.query("execute p").code(), "42P01");
    assert_eq!(
        client.query("execute p").code(),
        "25P02",
        "the transaction is aborted"
    );
    assert_eq!(client.query("deallocate p").code(), "25P02");
    client.run("rollback");
    client.run("deallocate p");
}

#[test]
fn in_an_aborted_transaction_nothing_is_prepared() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = pooler.client();
    client.run("prepare p as select 'p'");
    let mut holder = pooler.client();
    holder.run("begin");
    client.run("begin");
    client.query("select 1/0").code();
    for sql in [
        "execute p",
        "prepare q as select 1",
        "deallocate p",
        "execute nobody",
    ] {
        assert_eq!(client.query(sql).code(), "25P02", "{sql}");
    }
    client.run("rollback; deallocate p");
    assert_eq!(client.query("execute p").code(), "26000");
    assert_eq!(on_server(&mut client), BTreeSet::new());
}

#[test]
fn a_statement_prepared_in_a_transaction_that_failed_is_still_there() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("begin; prepare p as select 'kept'");
    client.query("selct").code();
    client.run("rollback");
    assert_eq!(client.value("execute p"), "kept");
}

#[test]
fn a_small_cache_serves_texts_with_more_statements() {
    for size in [1, 2] {
        let ini = Ini::transaction().one_server();
        let Some(pooler) = pooler(ini.set("max_prepared_statements", size)) else {
            return;
        };
        let (mut client, mut other) = (pooler.client(), pooler.client());
        client.run("prepare a as select 'a'; prepare b as select 'b'; prepare c as select 'c'");
        client
            .ask([parse("d", "select 'd'"), sync()].concat())
            .succeeded();
        for _ in 0..3 {
            let reply = client.query("execute a; execute b; execute c; execute d; execute a");
            let rows = reply.succeeded().rows().concat();
            let found: Vec<_> = rows.into_iter().flatten().collect();
            assert_eq!(found, ["a", "b", "c", "d", "a"]);
            assert_eq!(client.value("execute b"), "b");
            let kept = on_server(&mut other);
            assert!(kept.len() <= size.max(4), "{kept:?}");
        }
        other.run("prepare e as select 'e'");
        assert_eq!(on_server(&mut other).len(), size);
    }
}

#[test]
fn statements_survive_the_loss_of_a_server() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("prepare p as select 'still here'");
    let pid = client.backend_pid();
    pooler.console("RECONNECT db");
    becomes("another server", true, || client.backend_pid() != pid);
    assert_eq!(client.value("execute p"), "still here");
}

#[test]
fn deallocate_drops_what_a_driver_has_parsed() {
    let Some(pooler) = pooler_of(2) else { return };
    let (mut client, mut other) = (pooler.client(), pooler.client());
    for wire in [&mut client, &mut other] {
        wire.ask([parse("a1", "select 'parsed'"), sync()].concat())
            .succeeded();
    }
    let mut holder = pooler.client();
    holder.run("begin");
    assert_eq!(
        client.query("DEALLOCATE a1").succeeded().tags(),
        ["DEALLOCATE"]
    );
    assert_eq!(client.query("DEALLOCATE a1").code(), "26000");
    let reply = other.ask([run_prepared("a1", &[]), sync()].concat());
    assert_eq!(reply.value(), "parsed", "another client's is there");
    client
        .ask([parse("a1", "select 'again'"), sync()].concat())
        .succeeded();
    let reply = client.ask([run_prepared("a1", &[]), sync()].concat());
    assert_eq!(reply.value(), "again");
    assert!(
        on_server(&mut client)
            .iter()
            .all(|name| name.starts_with("PGBOUNCER_"))
    );
}

#[test]
fn sql_executes_what_was_parsed_and_the_protocol_what_was_prepared() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = pooler.client();
    client
        .ask([parse("parsed", "select 'of Parse'"), sync()].concat())
        .succeeded();
    client.run("prepare prepared (text) as select 'of ' || $1");
    let mut holder = pooler.client();
    for round in 0..2 {
        assert_eq!(client.value("execute parsed"), "of Parse");
        let batch = [
            bind("", "prepared", &["PREPARE"]),
            describe_portal(""),
            execute("", 0),
            describe_statement("prepared"),
            sync(),
        ];
        let reply = client.ask(batch.concat());
        assert_eq!(reply.succeeded().shape(), "2TDCtT");
        assert_eq!(reply.value(), "of PREPARE");
        if round == 0 {
            // From now on the other server is used.
            holder.run("begin");
        }
    }
    client
        .ask([close_statement("prepared"), sync()].concat())
        .succeeded();
    assert_eq!(client.query("execute prepared('x')").code(), "26000");
}

#[test]
fn the_extended_protocol_may_say_it_too() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = pooler.client();
    let reply = client.ask(extended("prepare p (int) as select $1 + 1", &[]));
    assert_eq!(reply.succeeded().tags(), ["PREPARE"]);
    let mut holder = pooler.client();
    for round in 0..2 {
        let reply = client.ask(extended("execute p(41)", &[]));
        assert_eq!(
            (reply.shape(), reply.value()),
            ("12TDC".to_owned(), "42".to_owned())
        );
        if round == 0 {
            holder.run("begin");
        }
    }
    let reply = client.ask(extended("prepare p as select 1", &[]));
    let error = reply.error().expect("the name is taken");
    assert_eq!(error.text(), "prepared statement \"p\" already exists");
    // Parsed by name, as drivers do that prepare everything.
    client
        .ask([parse("named", "execute p(1)"), sync()].concat())
        .succeeded();
    for _ in 0..2 {
        let reply = client.ask([run_prepared("named", &[]), sync()].concat());
        assert_eq!(reply.value(), "2");
    }
    let reply = client.ask(extended("deallocate p", &[]));
    assert_eq!(reply.succeeded().tags(), ["DEALLOCATE"]);
    assert_eq!(client.query("execute p(1)").code(), "26000");
    let reply = client.ask(extended("deallocate p", &[]));
    assert_eq!(
        reply.error().expect("it is gone").text(),
        "prepared statement \"p\" does not exist"
    );
    client.run("prepare q as select 1");
    client.ask(extended("deallocate all", &[])).succeeded();
    assert_eq!(client.query("execute q").code(), "26000");
}

#[test]
fn in_a_batch_behind_begin_statements_are_executed_too() {
    let Some(pooler) = pooler_of(2) else { return };
    let mut client = pooler.client();
    client.run("prepare p as select 'p'");
    let mut holder = pooler.client();
    holder.run("begin");
    let batch = [
        parse("", "begin"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "execute p"),
        bind("", "", &[]),
        describe_portal(""),
        execute("", 0),
        sync(),
    ];
    let reply = client.ask(batch.concat());
    assert_eq!((reply.shape().as_str(), reply.status), ("12C12TDC", 'T'));
    assert_eq!(reply.value(), "p");
    client.run("commit");
}

#[test]
fn pipelined_texts_are_answered_in_order() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.send(
        [
            query("prepare p as select 'p'"),
            query("execute p"),
            parse("s", "select 's'"),
            run_prepared("s", &[]),
            sync(),
            query("execute s; execute p"),
            query("deallocate p"),
            parse("p", "select 'parsed'"),
            run_prepared("p", &[]),
            sync(),
            query("deallocate p"),
            query("execute p"),
            query("select 'end'"),
        ]
        .concat(),
    );
    assert_eq!(client.reply().succeeded().tags(), ["PREPARE"]);
    assert_eq!(client.reply().value(), "p");
    assert_eq!(client.reply().value(), "s");
    assert_eq!(client.reply().succeeded().tags(), ["SELECT 1", "SELECT 1"]);
    assert_eq!(client.reply().succeeded().tags(), ["DEALLOCATE"]);
    assert_eq!(client.reply().value(), "parsed");
    assert_eq!(client.reply().succeeded().tags(), ["DEALLOCATE"]);
    assert_eq!(client.reply().code(), "26000");
    assert_eq!(client.reply().value(), "end");
    assert!(client.is_settled());
}

#[test]
fn a_text_behind_messages_without_a_sync_waits_for_nothing() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("prepare p as select 'p'");
    client.send([parse("", "select 1"), bind("", "", &[]), flush()].concat());
    client.recv();
    client.send([execute("", 0), query("execute p")].concat());
    let reply = client.reply();
    assert_eq!(
        reply.rows().concat(),
        [Some("1".to_owned()), Some("p".to_owned())]
    );
    assert!(client.is_settled());
}

#[test]
fn deallocate_all_forgets_every_name() {
    let Some(pooler) = pooler_of(1) else { return };
    for command in ["deallocate all", "deallocate prepare all", "discard all"] {
        let mut client = pooler.client();
        client.run("prepare p as select 1");
        client.run(command);
        assert_eq!(client.query("execute p").code(), "26000", "{command}");
        assert!(on_server(&mut client).is_empty(), "{command}");
        client.run("prepare p as select 1; deallocate all; prepare p as select 1");
        client.run("execute p");
    }
}

#[test]
fn two_phase_commit_is_no_prepared_statement() {
    let Some(pooler) = pooler_of(1) else { return };
    let mut client = pooler.client();
    client.run("prepare transaction_1 as select 1");
    client.run("begin");
    // Not enabled here; what matters is that the server sees it as it is.
    assert_eq!(client.query("prepare transaction 'x'").code(), "55000");
    client.run("rollback");
}

#[test]
fn statement_mode_knows_names_too() {
    let Some(pooler) = pooler(Ini::statement().one_server()) else {
        return;
    };
    let (mut first, mut second) = (pooler.client(), pooler.client());
    first.run("prepare p as select 'first'");
    second.run("prepare p as select 'second'");
    assert_eq!(first.value("execute p"), "first");
    assert_eq!(second.value("execute p"), "second");
}

#[test]
fn where_names_are_not_tracked_texts_pass_as_they_are() {
    for ini in [
        Ini::session().one_server(),
        Ini::transaction()
            .one_server()
            .set("max_prepared_statements", 0),
    ] {
        let pooler = ini.start();
        let mut client = pooler.client();
        client.run("prepare plain as select 'plain'");
        assert_eq!(client.value("execute plain"), "plain");
        assert_eq!(on_server(&mut client), BTreeSet::from(["plain".to_owned()]));
        client.run("deallocate plain");
    }
}

#[test]
fn psql_prepares_executes_and_deallocates() {
    let Some(pooler) = pooler_of(2) else { return };
    let port = pooler.address().port();
    let script = pooler.folder.write(
        "script.sql",
        "prepare p(int) as\n select $1 * 2;\nexecute p(21);\nexplain (costs off) execute p(1);\ndeallocate p;\n",
    );
    let output = client_program("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(script)
        .arg(format!("host=127.0.0.1 port={port} user=alice dbname=db"))
        .output()
        .expect("psql runs");
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("42\n"),
        "{output:?}"
    );
}

#[test]
fn many_clients_thrash_a_small_cache_and_get_their_own_rows() {
    let ini = Ini::transaction().set("default_pool_size", 2);
    let Some(pooler) = pooler(ini.set("max_prepared_statements", 2)) else {
        return;
    };
    together(6, |who| {
        let mut random = Random::new(who as u64 + 1);
        let mut client = pooler.client();
        for number in 0..5 {
            // Some texts are shared between clients, some are not.
            let owner = if number % 2 == 0 {
                "all".to_owned()
            } else {
                who.to_string()
            };
            let text = format!("select $1 || ' {number} of {owner}'");
            match number {
                4 => client.ask([parse("s4", &text), sync()].concat()),
                _ => client.query(&format!("prepare s{number} (text) as {text}")),
            }
            .succeeded();
        }
        for round in 0..40 {
            let token = format!("{who}.{round}");
            let number = random.below(5);
            let owner = if number.is_multiple_of(2) {
                "all".to_owned()
            } else {
                who.to_string()
            };
            let value = match random.below(3) {
                0 => client.ask([run_prepared(&format!("s{number}"), &[&token]), sync()].concat()),
                1 => client.ask(extended(&format!("execute s{number}('{token}')"), &[])),
                _ => client.query(&format!("execute s{number}('{token}')")),
            }
            .succeeded()
            .value();
            assert_eq!(value, format!("{token} {number} of {owner}"));
        }
    });
    becomes("all is idle", 0, || pooler.pool("sv_active"));
}

#[test]
fn a_failed_commit_does_not_hide_what_became_of_statements() {
    let Some(pooler) = pooler_of(1) else { return };
    let (mut client, mut other) = (pooler.client(), pooler.client());
    client.run("create table once (id int unique deferrable initially deferred)");
    other.send([parse("held", "select 'held'"), sync()].concat());
    other.reply().succeeded();
    let twice = "insert into once values (1), (1)";
    let batch = [parse("", twice), run_prepared("", &[])].concat();
    let behind = |text: &str| [batch.clone(), query(text)].concat();
    for request in [
        behind("prepare p as select 1"),
        behind("deallocate all"),
        query(&format!("{twice}; prepare p as select 1")),
        query(&format!("{twice}; deallocate all")),
    ] {
        client.send(request);
        assert_eq!(client.reply().code(), "23505");
        other.send([run_prepared("held", &[]), sync()].concat());
        assert_eq!(other.reply().value(), "held");
        client.run("prepare p as select 'mine'");
        assert_eq!(client.value("execute p"), "mine");
        client.run("deallocate p");
        assert!(!on_server(&mut other).is_empty());
    }
}
