//! Replication connections: each has a server of its own.

use crate::harness::backend::Fields;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{Postgres, client_program};
use crate::harness::wire::{Login, Wire};
use crate::harness::{becomes, eventually};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A pooler that lets the superuser in, whose role may replicate.
fn with_superuser(ini: Ini) -> Ini {
    ini.secret("postgres", "")
}

fn transaction() -> Ini {
    with_superuser(Ini::transaction())
}

/// The superuser's login that asks for this kind of replication.
fn login(kind: &str) -> Login {
    Login::new("postgres", "db").parameter("replication", kind)
}

fn replicating(pooler: &Pooler<'_>, kind: &str) -> Wire {
    login(kind)
        .at(pooler.address())
        .unwrap_or_else(|error| panic!("replication={kind}: {error:?}\n{}", pooler.log()))
}

fn ordinary(pooler: &Pooler<'_>) -> Wire {
    let login = Login::new("postgres", "db");
    login.at(pooler.address()).expect("the superuser logs in")
}

/// A number in SHOW POOLS, of the superuser's pool.
fn pool(pooler: &Pooler<'_>, column: &str) -> i64 {
    let pools = pooler.console("SHOW POOLS");
    let row = pools.find(&[("database", "db"), ("user", "postgres")]);
    row.map_or(0, |row| row.number(column))
}

#[track_caller]
fn assert_fatal(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

#[test]
fn a_logical_client_has_what_it_asked_for_from_its_first_query_on() {
    let pooler = transaction().start();
    let mut client = login("database")
        .parameter("application_name", "abc")
        .parameter("options", "-c enable_seqscan=off -c datestyle=German")
        .at(pooler.address())
        .expect("the superuser may replicate");
    assert_eq!(client.parameters["application_name"], "abc");
    assert!(client.parameters["DateStyle"].starts_with("German"));
    assert_eq!(client.value("show application_name"), "abc");
    assert_eq!(client.value("show enable_seqscan"), "off");
    assert_eq!(client.query("IDENTIFY_SYSTEM").rows().len(), 1);
}

#[test]
fn a_physical_client_has_replication_commands_alone() {
    let pooler = transaction().start();
    let mut client = replicating(&pooler, "yes");
    assert_eq!(client.query("select 1").code(), "0A000");
    assert_eq!(client.query("IDENTIFY_SYSTEM").rows().len(), 1);
    assert_eq!(client.value("SHOW server_version_num").len(), 6);
}

#[test]
fn its_server_is_nobody_elses_before_and_after() {
    for ini in [Ini::session(), Ini::transaction(), Ini::statement()] {
        let pooler = with_superuser(ini).start();
        let mut other = ordinary(&pooler);
        let shared = other.backend_pid();
        let mut client = replicating(&pooler, "database");
        let own = client.backend_pid();
        assert_ne!(own, shared);
        assert_eq!(client.backend_pid(), own, "linked for the whole session");
        client.run("begin");
        client.run("commit");
        client.leave();
        becomes("its server is closed", true, || {
            pooler.backends().iter().all(|backend| backend.pid != own)
        });
        assert_eq!(other.backend_pid(), shared);
    }
}

#[test]
fn the_console_shows_what_they_are() {
    let pooler = transaction().start();
    let _logical = replicating(&pooler, "database");
    let _physical = replicating(&pooler, "true");
    let _ordinary = ordinary(&pooler);
    for (what, none) in [("SHOW CLIENTS", 2), ("SHOW SERVERS", 0)] {
        let mut kinds = pooler.console(what).column("replication");
        kinds.sort();
        let (own, others): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| *kind != "none");
        assert_eq!(own, ["logical", "physical"], "{what}");
        assert!(others.len() >= none, "{what}");
    }
    assert_eq!(pool(&pooler, "sv_active"), 2);
    pooler.wait_log("tls=no replication=database");
    pooler.wait_log("tls=no replication=yes");
    pooler.wait_log("tls=no replication=no");
}

#[test]
fn its_ways_do_not_become_those_of_others() {
    let pooler = transaction().start();
    let mut client = login("database")
        .parameter("TimeZone", "Asia/Tokyo")
        .at(pooler.address())
        .expect("the superuser may replicate");
    assert_eq!(client.value("show timezone"), "Asia/Tokyo");
    let mut other = ordinary(&pooler);
    assert_ne!(other.parameters["TimeZone"], "Asia/Tokyo");
    assert_ne!(other.value("show timezone"), "Asia/Tokyo");
}

#[test]
fn who_may_not_replicate_is_told_so_and_nobody_else() {
    let pooler = Ini::transaction().start();
    let mut other = pooler.client();
    for kind in ["database", "yes"] {
        let login = pooler.login("alice").parameter("replication", kind);
        assert_fatal(&login.refused_at(pooler.address()), "login failed");
    }
    assert_eq!(other.value("select 'unharmed'"), "unharmed");
    assert_eq!(pooler.client().value("select 'let in'"), "let in");
    pooler.wait_log("must be superuser or replication role to start walsender");
    pooler.wait_log("no pg_hba.conf entry for replication connection from host");
    becomes("both ends of both have their line", true, || {
        pooler
            .log()
            .matches("closing because: login failed (age=")
            .count()
            == 4
    });
}

#[test]
fn a_cold_pool_is_no_colder_for_it() {
    let pooler = Ini::transaction().start();
    let login = pooler.login("alice").parameter("replication", "database");
    assert_fatal(&login.refused_at(pooler.address()), "login failed");
    assert_eq!(pooler.client().value("select 'at once'"), "at once");
}

#[test]
fn they_count_for_the_pool_and_wait_their_turn() {
    let pooler = transaction().set("default_pool_size", 2).start();
    let first = replicating(&pooler, "database");
    let second = replicating(&pooler, "database");
    let mut third = Wire::connect(pooler.address());
    third.send(login("database").packet());
    becomes("the third waits", 1, || pool(&pooler, "cl_waiting"));
    assert_eq!(pool(&pooler, "sv_active"), 2);
    first.leave();
    third
        .finish_login(&login("database"))
        .expect("a place is free");
    assert_eq!(pool(&pooler, "sv_active"), 2);
    drop((second, third));
    becomes("no server is left", 0, || pooler.backends().len());
}

#[test]
fn an_idle_server_makes_way() {
    for limit in ["default_pool_size", "max_db_connections"] {
        let pooler = transaction().set(limit, 2).start();
        let mut others = [ordinary(&pooler), ordinary(&pooler)];
        others.iter_mut().for_each(|other| other.run("begin"));
        others.iter_mut().for_each(|other| other.run("commit"));
        becomes("two are idle", 2, || pool(&pooler, "sv_idle"));
        let mut client = replicating(&pooler, "database");
        client.run("select 1");
        pooler.wait_log("closing because: evicted (age=");
        assert_eq!(pool(&pooler, "sv_idle"), 1, "{limit}");
    }
}

#[test]
fn a_busy_pool_gives_it_a_place_in_turn() {
    let pooler = transaction().one_server().start();
    let mut busy = ordinary(&pooler);
    busy.run("begin");
    let mut client = Wire::connect(pooler.address());
    client.send(login("database").packet());
    becomes("it waits", 1, || pool(&pooler, "cl_waiting"));
    busy.run("commit");
    client
        .finish_login(&login("database"))
        .expect("the place is free");
    client.run("select 1");
    client.leave();
    assert_eq!(busy.value("select 'its turn'"), "its turn");
}

#[test]
fn one_that_waits_in_vain_leaves_nothing() {
    let pooler = transaction()
        .one_server()
        .set("client_login_timeout", 1)
        .start();
    let mut busy = ordinary(&pooler);
    busy.run("begin");
    let mut client = Wire::connect(pooler.address());
    client.send(login("database").packet());
    becomes("it waits", 1, || pool(&pooler, "cl_waiting"));
    assert_fatal(&client.expect_fatal(), "client_login_timeout (server down)");
    assert_eq!(pool(&pooler, "cl_waiting"), 0);
    busy.run("commit");
    assert_eq!(busy.value("select 'goes on'"), "goes on");
}

#[test]
fn a_pause_keeps_newcomers_waiting() {
    let pooler = transaction().start();
    ordinary(&pooler).run("select 1");
    pooler.console("PAUSE");
    let mut client = Wire::connect(pooler.address());
    client.send(login("database").packet());
    client.expect_silence(Duration::from_millis(500));
    pooler.console("RESUME");
    client
        .finish_login(&login("database"))
        .expect("all goes on");
    client.run("select 1");
}

#[test]
fn reconnect_does_not_wait_for_its_end() {
    let pooler = transaction().start();
    let mut client = replicating(&pooler, "database");
    client.run("begin");
    pooler.console("RECONNECT");
    assert_fatal(&client.expect_fatal(), "database configuration changed");
}

#[test]
fn rules_name_physical_replication_apart() {
    let rules = "host replication postgres all trust\n\
                 host pgbouncer admin all trust\n\
                 host db alice all trust\n";
    let pooler = transaction()
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file("hba.conf", rules)
        .start();
    replicating(&pooler, "yes").run("IDENTIFY_SYSTEM");
    for refused in [login("database"), Login::new("postgres", "db")] {
        let error = refused.refused_at(pooler.address());
        assert_fatal(&error, "no authentication method is found");
    }
}

/// One of PostgreSQL's replication programs, for the superuser at `db`.
fn program(pooler: &Pooler<'_>, name: &str) -> Command {
    let mut command = client_program(name);
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-w"]);
    command.args(["-p", &pooler.address().port().to_string()]);
    command.stderr(Stdio::piped());
    command
}

#[test]
fn a_base_backup_goes_through() {
    // What other tests write would be copied, too.
    let postgres = Postgres::dedicated();
    // The name by which libpq's programs ask, up to PostgreSQL 16.
    let pooler = transaction()
        .db("")
        .database("replication", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start_on(&postgres);
    let target = pooler.folder.path().join("backup");
    let conninfo = format!(
        "host=127.0.0.1 port={} user=postgres dbname=db",
        pooler.address().port()
    );
    let output = client_program("pg_basebackup")
        .args(["--checkpoint=fast", "--no-sync", "--dbname", &conninfo])
        .arg("--pgdata")
        .arg(&target)
        .output()
        .expect("pg_basebackup runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{}", pooler.log());
    assert!(target.join("PG_VERSION").exists());
    std::fs::remove_dir_all(target).expect("our own folder");
    becomes("its servers are closed", 0, || {
        pooler.console("SHOW SERVERS").rows.len()
    });
}

#[test]
fn changes_are_streamed_and_a_stream_can_be_ended() {
    let postgres = Postgres::dedicated();
    let mut session = postgres.session("postgres");
    session.run("alter system set wal_level = logical");
    drop(session);
    postgres.stop(Signal::INT);
    postgres.start();
    let pooler = transaction().start_on(&postgres);
    let mut client = ordinary(&pooler);
    client.run("create table changes (n int)");
    client.run("select pg_create_logical_replication_slot('slot', 'test_decoding')");
    let mut stream = program(&pooler, "pg_recvlogical")
        .args([
            "-d",
            "db",
            "--slot=slot",
            "--file=-",
            "--no-loop",
            "--start",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("pg_recvlogical runs");
    client.run("insert into changes values (7)");
    let output = stream.stdout.take().expect("it is piped");
    // It writes on behind the change, and must not find a closed pipe.
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let change = lines.find(|line| line.contains("INSERT"));
    let change = change.unwrap_or_else(|| panic!("no change came\n{}", pooler.log()));
    assert_eq!(change, "table public.changes: INSERT: n[integer]:7");
    // It says CopyDone and waits for the server's.
    let pid = rustix::process::Pid::from_child(&stream);
    rustix::process::kill_process(pid, Signal::INT).expect("it runs");
    let status = eventually("it ends", || {
        stream
            .try_wait()
            .map_err(|e| e.to_string())?
            .ok_or("it runs".into())
    });
    drop(lines);
    assert!(status.success(), "{status}\n{}", pooler.log());
    becomes("its server is closed", 0, || pool(&pooler, "sv_active"));
    assert_eq!(client.value("select n from changes"), "7");
}
