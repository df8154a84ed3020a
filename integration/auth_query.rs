//! Users who are not in `auth_file`: their secrets come from a query.

use crate::harness::backend::Fields;
use crate::harness::frontend;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::password_of;
use crate::harness::wire::{Login, Wire};
use crate::harness::{becomes, only_pgweir, together};
use std::time::Duration;

/// Every error that the pooler makes itself.
#[track_caller]
fn assert_refused(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

/// Only the console's admin and the user who asks are in `auth_file`.
fn asking() -> Ini {
    let mut ini = Ini::transaction()
        .set("auth_type", "plain")
        .set("auth_user", "postgres");
    ini.userlist.retain(|(user, _)| user == "admin");
    ini.secret("postgres", "unused")
}

/// Asks this instead of the catalogue.
fn asking_for(query: &str) -> Ini {
    asking().set("auth_query", query)
}

fn login(user: &str, password: &str) -> Login {
    Login::new(user, "db").password(password)
}

fn client(pooler: &Pooler<'_>, user: &str, password: &str) -> Wire {
    login(user, password)
        .at(pooler.address())
        .unwrap_or_else(|error| panic!("{user} logs in: {error:?}"))
}

#[test]
fn the_servers_own_users_log_in_with_their_passwords() {
    for (method, user) in [
        ("plain", "md5_user"),
        ("plain", "scram_user"),
        ("md5", "md5_user"),
        ("md5", "scram_user"),
        ("scram-sha-256", "scram_user"),
    ] {
        let pooler = asking().set("auth_type", method).start();
        let name = client(&pooler, user, &password_of(user)).value("select current_user");
        assert_eq!(name, user, "{user} by {method}");
    }
}

#[test]
fn keys_of_a_scram_login_open_further_servers() {
    let pooler = asking().set("auth_type", "scram-sha-256").start();
    for _ in 0..3 {
        let mut client = client(&pooler, "scram_user", &password_of("scram_user"));
        assert_eq!(client.value("select current_user"), "scram_user");
        pooler.console("RECONNECT");
    }
}

#[test]
fn a_client_that_leaves_while_its_user_is_looked_up_is_gone_at_once() {
    let pooler = asking_for("SELECT $1::text, pg_sleep(600)::text")
        .set("client_login_timeout", 600)
        .start();
    pooler.assert_notices_that_a_login_leaves(|client| {
        client.send(login("scram_user", "").packet());
        becomes("queries", 1, || pooler.backends().len());
    });
}

#[test]
fn a_wrong_password_is_refused() {
    for (method, text) in [
        ("plain", "password authentication failed"),
        ("md5", "SASL authentication failed"),
        ("scram-sha-256", "SASL authentication failed"),
    ] {
        let pooler = asking().set("auth_type", method).start();
        let error = login("scram_user", "wrong").refused_at(pooler.address());
        assert_refused(&error, text);
    }
}

#[test]
fn a_user_whom_the_server_does_not_know_is_told_so() {
    for method in ["trust", "plain", "md5", "scram-sha-256"] {
        let pooler = asking().set("auth_type", method).start();
        for password in ["", "x", "unused"] {
            let error = login("nobody", password).refused_at(pooler.address());
            assert_refused(&error, "no such user");
        }
        assert_eq!(pooler.console("SHOW CLIENTS").rows.len(), 1);
    }
}

#[test]
fn trust_admits_whom_the_server_knows() {
    let pooler = asking().set("auth_type", "trust").start();
    let mut client = client(&pooler, "alice", "");
    assert_eq!(client.value("select current_user"), "alice");
}

#[test]
fn a_role_that_may_not_log_in_is_no_user() {
    let pooler = asking().start();
    let mut session = pooler.database.session();
    session.run("drop role if exists grounded; create role grounded nologin password 'x'");
    let error = login("grounded", "x").refused_at(pooler.address());
    session.run("drop role grounded");
    assert_refused(&error, "no such user");
}

#[test]
fn a_changed_password_holds_at_once() {
    let pooler = asking_for("select name, secret from secrets where name = $1").start();
    let mut session = pooler.database.session();
    session.run("create table secrets (name text, secret text)");
    session.run("insert into secrets values ('alice', 'old')");
    client(&pooler, "alice", "old").run("select 1");
    session.run("update secrets set secret = 'new'");
    let error = login("alice", "old").refused_at(pooler.address());
    assert_refused(&error, "password authentication failed");
    client(&pooler, "alice", "new").run("select 1");
}

#[test]
fn an_answer_without_a_good_secret_admits_nobody() {
    for query in [
        "select $1::text, null::text",
        "select $1::text, ''::text",
        "select $1::text, 'SCRAM-SHA-256$4096:bad'::text where false",
    ] {
        let pooler = asking_for(query).start();
        for password in ["x", "null"] {
            let error = login("alice", password).refused_at(pooler.address());
            assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
        }
    }
}

#[test]
fn an_answer_of_another_shape_is_a_configuration_error() {
    for (query, log) in [
        (
            "select $1::text",
            "expected 2 columns from auth_query, not 1",
        ),
        (
            "select $1::text, 'x', 'y'",
            "expected 2 columns from auth_query, not 3",
        ),
        (
            "select null::text, $1::text",
            "auth_query response contained null user name",
        ),
        (
            "select $1::text, 1 / 0",
            "error in auth_query: ERROR: division by zero",
        ),
        (
            "select 1, 2",
            "error in auth_query: ERROR: bind message supplies 1 parameters",
        ),
        ("selec $1", "error in auth_query: ERROR: syntax error"),
    ] {
        let pooler = asking_for(query).start();
        for _ in 0..2 {
            let error = login("alice", "x").refused_at(pooler.address());
            assert_refused(&error, "bouncer config error");
        }
        pooler.wait_log(log);
        pooler.assert_serves_console();
    }
}

#[test]
fn rows_that_contradict_each_other_admit_nobody() {
    if only_pgweir("PgBouncer takes the last row") {
        return;
    }
    let pooler =
        asking_for("select $1::text, secret from (values ('a'), ('b')) s (secret)").start();
    for password in ["a", "b"] {
        let error = login("alice", password).refused_at(pooler.address());
        assert_refused(&error, "bouncer config error");
    }
}

#[test]
fn rows_that_are_equal_are_one() {
    let pooler = asking_for("select $1::text, 'a' from generate_series(1, 3)").start();
    client(&pooler, "alice", "a").run("select 1");
}

#[test]
fn the_name_in_the_answer_is_the_login_name() {
    let pooler = asking_for("select lower($1), 'x'").start();
    let mut client = client(&pooler, "ALICE", "x");
    assert_eq!(client.value("select current_user"), "alice");
    pooler.console("SHOW CLIENTS").row(&[("user", "alice")]);
}

#[test]
fn a_name_is_a_value_and_never_a_part_of_the_query() {
    let pooler =
        asking_for("select name, 'x' from (values ('alice')) u (name) where name = $1").start();
    for user in ["' or true --", "alice'--", "$1", "alice\\"] {
        let error = login(user, "x").refused_at(pooler.address());
        assert_refused(&error, "no such user");
    }
}

#[test]
fn a_databases_own_query_goes_before_the_global_one() {
    let pooler = asking_for("select $1::text, 'global'")
        .db("")
        .database(
            "own",
            "host=127.0.0.1 port=PORT dbname=DBNAME auth_query='select $1::text, ''own'''",
        )
        .start();
    client(&pooler, "alice", "global").run("select 1");
    let own = Login::new("alice", "own");
    own.clone()
        .password("own")
        .at(pooler.address())
        .expect("its own");
    let error = own.password("global").refused_at(pooler.address());
    assert_refused(&error, "password authentication failed");
}

#[test]
fn the_query_runs_in_auth_dbname() {
    let entry = "host=127.0.0.1 port=PORT dbname";
    let pooler = asking_for("select $1::text, current_database()::text")
        .db("")
        .database("other", &format!("{entry}=template1"))
        .database("own", &format!("{entry}=DBNAME auth_dbname=other"))
        .database("pg", &format!("{entry}=postgres"))
        .set("auth_dbname", "pg")
        .start();
    client(&pooler, "alice", "postgres").run("select 1");
    let own = Login::new("alice", "own").password("template1");
    own.at(pooler.address())
        .expect("the entry's own auth_dbname");
}

#[test]
fn an_auth_dbname_that_is_of_no_use_is_told() {
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME auth_dbname";
    let pooler = asking()
        .db("")
        .database("missing", &format!("{entry}=nowhere"))
        .database("reserved", &format!("{entry}=pgbouncer"))
        .database("disabled", &format!("{entry}=db"))
        .start();
    pooler.console("DISABLE db");
    let at = |database: &str| {
        let login = Login::new("alice", database).password("x");
        login.refused_at(pooler.address())
    };
    assert_refused(&at("missing"), "bouncer config error");
    pooler.wait_log("authentication database \"nowhere\" is not configured.");
    assert_refused(&at("reserved"), "bouncer config error");
    pooler.wait_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
    assert_refused(
        &at("disabled"),
        "authentication database \"db\" is disabled",
    );
}

#[test]
fn nobody_is_asked_about_users_of_a_database_that_does_not_exist() {
    let pooler = asking().start();
    let nowhere = Login::new("alice", "nowhere").password("x");
    let error = nowhere.refused_at(pooler.address());
    assert_refused(&error, "password authentication failed");
}

#[test]
fn the_fallback_entry_asks_in_the_database_that_is_asked_for() {
    let pooler = asking_for("select $1::text, current_database()::text")
        .database("*", "host=127.0.0.1 port=PORT")
        .start();
    let login = Login::new("alice", &pooler.database.name);
    let login = login.password(&pooler.database.name);
    let mut client = login.at(pooler.address()).expect("its own name");
    assert_eq!(client.value("select current_user"), "alice");
}

#[test]
fn the_one_who_asks_has_its_password_from_auth_file() {
    let ini = || asking_for("select $1::text, current_user::text").set("auth_user", "scram_user");
    let pooler = ini()
        .secret("scram_user", &password_of("scram_user"))
        .start();
    client(&pooler, "alice", "scram_user").run("select 1");
    let without = ini().start();
    let error = login("alice", "scram_user").refused_at(without.address());
    assert_eq!(error.code(), "28P01", "{error:?}");
}

#[test]
fn a_databases_auth_user_goes_before_the_global_one() {
    let pooler = asking_for("select $1::text, current_user::text")
        .db("auth_user=bob")
        .start();
    client(&pooler, "alice", "bob").run("select 1");
}

#[test]
fn the_user_a_database_forces_does_not_ask() {
    let pooler = asking_for("select $1::text, current_user::text")
        .db("user=carol password=wrong")
        .start();
    let mut client = client(&pooler, "alice", "postgres");
    assert_eq!(client.value("select current_user"), "carol");
}

#[test]
fn listed_users_are_not_asked_about() {
    let pooler = asking_for("select $1::text, 'the server'")
        .secret("alice", "the file")
        .start();
    let error = login("alice", "the server").refused_at(pooler.address());
    assert_refused(&error, "password authentication failed");
    client(&pooler, "alice", "the file").run("select 1");
}

#[test]
fn users_with_settings_but_no_secret_are_asked_about() {
    let pooler = asking_for("select $1::text, 'x'")
        .user("alice", "pool_mode=statement")
        .start();
    let mut client = client(&pooler, "alice", "x");
    client.send(frontend::query("begin"));
    assert!(
        client.try_reply().is_err(),
        "no blocks in statement pooling"
    );
    pooler.wait_log("transaction blocks not allowed in statement pooling mode");
}

#[test]
fn limits_of_a_user_hold_for_one_who_is_asked_about() {
    let pooler = asking_for("select $1::text, 'x'")
        .user("alice", "max_user_client_connections=1")
        .set("max_user_connections", 2)
        .start();
    let _first = client(&pooler, "alice", "x");
    let error = login("alice", "x").refused_at(pooler.address());
    assert_refused(
        &error,
        "client connections exceeded (max_user_client_connections)",
    );
    let open = |_| {
        let mut client = client(&pooler, "bob", "x");
        client.run("begin");
        client
    };
    let mut busy: Vec<Wire> = (0..2).map(open).collect();
    let mut third = client(&pooler, "bob", "x");
    third.send(frontend::query("select 'served'"));
    third.expect_silence(Duration::from_millis(300));
    busy.pop().expect("two").run("commit");
    assert_eq!(third.reply().value(), "served");
}

#[test]
fn one_user_may_have_other_secrets_in_other_databases() {
    let entry = |secret: &str| {
        format!("host=127.0.0.1 port=PORT dbname=DBNAME auth_query='select $1::text, ''{secret}'''")
    };
    let right = password_of("md5_user");
    let pooler = asking()
        .database("right", &entry(&right))
        .database("wrong", &entry("wrong"))
        .start();
    let enters = |database: &str, password: &str| {
        let login = Login::new("md5_user", database).password(password);
        login.at(pooler.address()).map(drop)
    };
    for _ in 0..2 {
        // The server does not take the one that the pooler takes.
        assert_eq!(enters("wrong", "wrong").expect_err("wrong").code(), "28P01");
        enters("right", &right).expect("the server's own");
        pooler.console("RECONNECT");
    }
}

#[test]
fn what_a_client_sets_at_login_does_not_reach_the_query() {
    let ini = asking_for("select $1::text, current_setting('search_path')");
    let pooler = ini.set("track_extra_parameters", "search_path").start();
    let path = "\"$user\", public";
    for (name, value) in [("search_path", "evil"), ("options", "-c search_path=evil")] {
        let evil = login("alice", path).parameter(name, value);
        let mut client = evil.at(pooler.address()).expect("the path is the server's");
        client.run("select 1");
    }
}

#[test]
fn what_a_session_of_the_asking_user_left_does_not_reach_the_query() {
    if only_pgweir("PgBouncer asks on the server as it is") {
        return;
    }
    let ini = asking_for("select $1::text, current_setting('search_path')");
    let pooler = ini.one_server().start();
    let mut own = client(&pooler, "postgres", "unused");
    own.run("set search_path to evil");
    client(&pooler, "alice", "\"$user\", public").run("select 1");
    assert_eq!(own.value("show search_path"), "evil");
}

#[test]
fn operators_and_tables_of_an_attacker_are_not_used() {
    let pooler = asking().set("auth_type", "scram-sha-256").start();
    let mut session = pooler.database.session();
    session.run("drop schema if exists evil cascade; create schema evil");
    session.run("grant all on schema evil to public");
    session.run("create table evil.pg_authid (rolname text, rolpassword text, rolvaliduntil timestamptz, rolcanlogin bool)");
    session.run("insert into evil.pg_authid values ('alice', 'evil', null, true)");
    for name in ["search_path", "options"] {
        let value = match name {
            "options" => "-c search_path=evil,pg_catalog",
            _ => "evil,pg_catalog",
        };
        let evil = login("alice", "evil").parameter(name, value);
        assert!(evil.at(pooler.address()).is_err());
    }
}

/// Counts how often the query runs.
const COUNTING: &str = "select $1::text, 'x' from (select nextval('asked'), pg_sleep(0.2)) a";

#[test]
fn an_operator_of_an_attacker_is_not_called() {
    let ini = asking().set("auth_type", "scram-sha-256");
    let pooler = ini.set("track_extra_parameters", "search_path").start();
    let mut session = pooler.database.session();
    session.run("drop schema if exists evil cascade; create schema evil");
    session.run("create table evil.calls (n int)");
    for (operator, kind) in [("=", "name"), ("<", "timestamptz")] {
        session.run(&format!(
            "create function evil.hear({kind}, {kind}) returns bool language plpgsql \
             as 'begin insert into evil.calls values (1); return true; end'"
        ));
        session.run(&format!(
            "create operator evil.{operator} \
             (leftarg = {kind}, rightarg = {kind}, function = evil.hear)"
        ));
    }
    let path = "evil,pg_catalog";
    session.run(&format!("set search_path = {path}"));
    let calls = "select count(*) > 0 from evil.calls";
    session.run("select from pg_authid where rolname = 'alice'");
    assert_eq!(session.value(calls), "t", "it would be called");
    session.run("truncate evil.calls");
    let options = format!("-c search_path={path}");
    for (name, value) in [("search_path", path), ("options", &options)] {
        for password in ["wrong".to_owned(), password_of("scram_user")] {
            let evil = login("scram_user", &password).parameter(name, value);
            let entered = evil.at(pooler.address()).is_ok();
            assert_eq!(entered, password != "wrong");
        }
    }
    assert_eq!(session.value(calls), "f");
}

fn asked(pooler: &Pooler<'_>) -> i64 {
    let mut session = pooler.database.session();
    let count = session.value("select case when is_called then last_value else 0 end from asked");
    count.parse().expect("a number")
}

#[test]
fn a_storm_of_logins_of_one_user_is_a_handful_of_queries() {
    if only_pgweir("PgBouncer asks for each client") {
        return;
    }
    let pooler = asking_for(COUNTING).start();
    pooler.database.session().run("create sequence asked");
    client(&pooler, "alice", "x").leave();
    together(40, |_| client(&pooler, "alice", "x").run("select 1"));
    let asked = asked(&pooler);
    assert!((2..20).contains(&asked), "{asked} queries for 41 logins");
}

#[test]
fn that_there_is_no_such_user_is_remembered_for_a_moment() {
    if only_pgweir("PgBouncer asks every time") {
        return;
    }
    let query = "select $1::text, 'x' from (select nextval('asked') n) a where n < 0";
    for (seconds, expected) in [("60", 1), ("0", 3)] {
        let pooler = asking_for(query)
            .pgweir("auth_query_negative_ttl", seconds)
            .start();
        pooler.database.session().run("create sequence asked");
        for _ in 0..3 {
            let error = login("nobody", "x").refused_at(pooler.address());
            assert_refused(&error, "no such user");
        }
        assert_eq!(asked(&pooler), expected, "remembered for {seconds} s");
    }
}

#[test]
fn a_query_that_hangs_ends_with_the_clients_login_time() {
    let query =
        "select $1::text, 'x' from (select pg_sleep(case $1 when 'bob' then 60 else 0 end)) s";
    let pooler = asking_for(query)
        .one_server()
        .set("client_login_timeout", 2)
        .start();
    let error = login("bob", "x").refused_at(pooler.address());
    assert!(
        error.text().starts_with("client_login_timeout"),
        "{error:?}"
    );
    client(&pooler, "alice", "x").run("select 1");
    becomes("the query is gone", 0, || {
        pooler.database.backends_in("active")
    });
}

#[test]
fn a_client_that_leaves_while_it_is_asked_about_harms_nobody() {
    let query = "select $1::text, 'x' from (select pg_sleep(0.3)) s";
    let pooler = asking_for(query).one_server().start();
    for _ in 0..5 {
        let mut wire = Wire::connect(pooler.address());
        wire.send(login("alice", "x").packet());
        wire.reset();
    }
    client(&pooler, "alice", "x").run("select 1");
}

#[test]
fn a_server_that_cannot_be_asked_is_told_of_in_its_own_words() {
    let pooler = asking()
        .database("db", "host=127.0.0.1 port=PORT dbname=nowhere")
        .start();
    let error = login("alice", "x").refused_at(pooler.address());
    assert_eq!(
        (error.code(), error.text()),
        ("3D000", "database \"nowhere\" does not exist")
    );
    pooler.wait_log("closing because: database \"nowhere\" does not exist (age=");
}

#[test]
fn the_console_asks_in_the_global_auth_dbname() {
    let ini = || asking_for("select $1::text, 'x'");
    let console = |pooler: &Pooler<'_>| {
        let login = Login::new("stats", "pgbouncer").password("x");
        login.at(pooler.address())
    };
    let pooler = ini().set("auth_dbname", "db").start();
    let mut session = console(&pooler).expect("a stats user");
    session.query("SHOW POOLS").succeeded();
    let without = ini().start();
    let error = console(&without).expect_err("nowhere to ask");
    assert_refused(&error, "bouncer config error");
    without.wait_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
}

#[test]
fn a_reload_that_names_the_console_as_auth_dbname_is_refused() {
    let mut pooler = asking_for("select $1::text, 'x'").start();
    pooler.ini.change("auth_dbname", "pgbouncer");
    pooler.write_config();
    let error = pooler.console_error("RELOAD");
    assert_eq!(error.code(), "F0000");
    pooler.wait_log("cannot use the reserved \"pgbouncer\" database as an auth_dbname");
    client(&pooler, "alice", "x").run("select 1");
}

#[test]
fn secrets_of_auth_query_are_nowhere_to_be_seen() {
    let pooler = asking_for("select $1::text, 'planted-secret'")
        .set("verbose", 2)
        .start();
    client(&pooler, "alice", "planted-secret").run("select 1");
    login("alice", "planted-guess").refused_at(pooler.address());
    let mut seen = pooler.log();
    let console = pooler.console_of("admin");
    let mut console = console.lawless();
    for what in [
        "CONFIG",
        "USERS",
        "CLIENTS",
        "SERVERS",
        "POOLS",
        "DATABASES",
        "SOCKETS",
    ] {
        seen += &format!("{:?}", console.query(&format!("SHOW {what}")));
    }
    assert!(!seen.contains("planted-guess"));
    // The query itself is a setting; its answer is nowhere else.
    let seen = seen.replace("select $1::text, 'planted-secret'", "");
    assert!(!seen.contains("planted-secret"), "{seen}");
}
