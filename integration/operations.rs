//! Operating a running pooler: pause, resume, reload, kill, shut down, signals.

use crate::harness::backend::{Fields, Message};
use crate::harness::frontend::{query, startup};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::{Lost, Wire, cancel};
use crate::harness::{becomes, eventually, only_pgweir};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[track_caller]
fn assert_error(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("ERROR", "08P01", text)
    );
}

/// A console session that has sent a command and waits for its end.
fn started(pooler: &Pooler<'_>, command: &str) -> Wire {
    let mut console = pooler.console_of("admin");
    console.send(query(command));
    console
}

fn tag(console: &mut Wire) -> String {
    console.reply().succeeded().tags().concat()
}

#[test]
fn pause_waits_for_servers_and_holds_clients() {
    let pooler = Ini::transaction().start();
    let mut busy = pooler.client();
    let mut other = pooler.client();
    other.run("select 1");
    busy.run("begin");
    let mut pausing = started(&pooler, "PAUSE");
    becomes("one server is left", 1, || pooler.backends().len());
    busy.run("select 'goes on'");
    busy.run("commit");
    assert_eq!(tag(&mut pausing), "PAUSE");
    assert_eq!(pooler.backends().len(), 0);
    other.send(query("select 'after the pause'"));
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(pooler.console("RESUME").tag, "RESUME");
    assert_eq!(other.reply().value(), "after the pause");
}

#[test]
fn pause_of_one_database_spares_the_others() {
    let ini = Ini::transaction()
        .db("")
        .database("other", "host=127.0.0.1 port=PORT dbname=DBNAME");
    let pooler = ini.start();
    let mut client = pooler.client();
    client.run("select 1");
    assert_eq!(pooler.console("PAUSE db").tag, "PAUSE");
    assert_eq!(
        pooler
            .console("SHOW DATABASES")
            .row(&[("name", "db")])
            .text("paused"),
        "1"
    );
    let login = crate::harness::wire::Login::new("alice", "other");
    assert_eq!(
        login.at(pooler.address()).expect("in").value("select 1"),
        "1"
    );
    client.send(query("select 'resumed'"));
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(pooler.console("RESUME db").tag, "RESUME");
    assert_eq!(client.reply().value(), "resumed");
}

#[test]
fn pause_and_resume_complain_when_out_of_turn() {
    let pooler = Ini::transaction().start();
    assert_error(
        &pooler.console_error("RESUME"),
        "pooler is not paused/suspended",
    );
    assert_error(
        &pooler.console_error("RESUME db"),
        "database db is not paused",
    );
    assert_error(
        &pooler.console_error("RESUME nowhere"),
        "no such database: nowhere",
    );
    assert_error(
        &pooler.console_error("PAUSE nowhere"),
        "no such database: nowhere",
    );
    assert_error(
        &pooler.console_error("PAUSE pgbouncer"),
        "cannot pause admin db: pgbouncer",
    );
    pooler.console("PAUSE");
    assert_error(&pooler.console_error("PAUSE"), "already suspended/paused");
    pooler.console("RESUME");
    pooler.console("PAUSE db");
    assert_error(
        &pooler.console_error("SUSPEND"),
        "cannot suspend with paused databases",
    );
}

#[test]
fn a_paused_pool_still_lets_clients_in() {
    let pooler = Ini::transaction().start();
    pooler.client().run("select 1");
    pooler.console("PAUSE");
    let mut late = pooler.client();
    late.send(query("select 'served'"));
    pooler.wait_pool("cl_waiting", 1);
    pooler.console("RESUME");
    assert_eq!(late.reply().value(), "served");
}

#[test]
fn cancelling_a_pause_resumes() {
    let pooler = Ini::transaction().start();
    let mut busy = pooler.client();
    busy.run("begin");
    let pausing = started(&pooler, "PAUSE");
    let state = |key: &str| {
        pooler
            .console("SHOW STATE")
            .row(&[("key", key)])
            .text("value")
    };
    becomes("paused", "yes".to_owned(), || state("paused"));
    cancel(pooler.address(), &pausing.key);
    becomes("active", "yes".to_owned(), || state("active"));
    pooler.assert_serves();
    busy.run("commit");
}

#[test]
fn disable_refuses_new_clients_and_keeps_the_old() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    assert_eq!(pooler.console("DISABLE db").tag, "DISABLE");
    let refused = pooler.login("bob").refused_at(pooler.address());
    assert_eq!(
        (refused.code(), refused.text()),
        ("08P01", "database \"db\" is disabled")
    );
    assert_eq!(client.value("select 'kept'"), "kept");
    assert_eq!(
        pooler
            .console("SHOW DATABASES")
            .row(&[("name", "db")])
            .text("disabled"),
        "1"
    );
    assert_eq!(pooler.console("ENABLE db").tag, "ENABLE");
    pooler.assert_serves();
}

#[test]
fn disable_and_enable_need_a_database_of_the_file() {
    let pooler = Ini::transaction().start();
    for command in ["DISABLE", "ENABLE"] {
        assert_error(&pooler.console_error(command), "a database is required");
        let unknown = pooler.console_error(&format!("{command} nowhere"));
        assert_error(&unknown, "no such database: nowhere");
    }
    assert_error(
        &pooler.console_error("DISABLE pgbouncer"),
        "cannot disable admin db: pgbouncer",
    );
}

#[test]
fn reconnect_replaces_servers_as_they_come_free() {
    let pooler = Ini::transaction().start();
    let mut idle = pooler.client();
    let mut busy = pooler.client();
    busy.run("begin");
    let first = busy.backend_pid();
    let second = idle.backend_pid();
    assert_eq!(pooler.console("RECONNECT").tag, "RECONNECT");
    assert_eq!(busy.backend_pid(), first, "a transaction keeps its server");
    busy.run("commit");
    becomes("new servers", true, || {
        ![first, second].contains(&idle.backend_pid())
    });
    assert_error(
        &pooler.console_error("RECONNECT pgbouncer"),
        "cannot reconnect admin db: pgbouncer",
    );
}

#[test]
fn server_fast_close_ends_sessions_between_their_transactions() {
    let pooler = Ini::session().set("server_fast_close", 1).start();
    let (mut idle, mut busy) = (pooler.client(), pooler.client());
    idle.run("select 1");
    busy.run("begin");
    pooler.console("RECONNECT");
    let text = "database configuration changed";
    assert_eq!(idle.expect_fatal().text(), text);
    busy.run("select 'goes on'");
    assert_eq!(busy.query("commit").succeeded().status, 'I');
    assert_eq!(busy.expect_fatal().text(), text);
}

#[test]
fn server_fast_close_leaves_clients_of_other_modes_alone() {
    let pooler = Ini::transaction().set("server_fast_close", 1).start();
    let mut client = pooler.client();
    client.run("begin");
    let pid = client.backend_pid();
    pooler.console("RECONNECT");
    std::thread::sleep(Duration::from_millis(700));
    client.run("commit");
    assert_ne!(client.backend_pid(), pid);
}

#[test]
fn wait_close_waits_for_marked_servers() {
    let pooler = Ini::transaction().start();
    let mut busy = pooler.client();
    busy.run("begin");
    assert_eq!(
        pooler.console("WAIT_CLOSE").tag,
        "WAIT_CLOSE",
        "nothing is marked"
    );
    pooler.console("RECONNECT db");
    let mut waiting = started(&pooler, "WAIT_CLOSE db");
    busy.run("select 1");
    busy.run("commit");
    assert_eq!(tag(&mut waiting), "WAIT_CLOSE");
    assert_error(
        &pooler.console_error("WAIT_CLOSE pgbouncer"),
        "cannot wait in admin db: pgbouncer",
    );
}

#[test]
fn kill_drops_clients_and_servers_and_pauses() {
    let pooler = Ini::transaction().start();
    let mut idle = pooler.client();
    let mut busy = pooler.client();
    idle.run("select 1");
    busy.run("begin");
    assert_eq!(pooler.console("KILL db").tag, "KILL");
    for client in [&mut idle, &mut busy] {
        let error = client.expect_fatal();
        assert_eq!((error.code(), error.text()), ("08P01", "database removed"));
    }
    becomes("no server is left", 0, || pooler.backends().len());
    assert_eq!(
        pooler
            .console("SHOW DATABASES")
            .row(&[("name", "db")])
            .text("paused"),
        "1"
    );
    assert_eq!(pooler.console("RESUME db").tag, "RESUME");
    pooler.assert_serves();
    assert_error(
        &pooler.console_error("KILL pgbouncer"),
        "cannot kill admin db: pgbouncer",
    );
}

#[test]
fn kill_client_drops_one_client() {
    let pooler = Ini::transaction().start();
    let login = pooler
        .login("alice")
        .parameter("application_name", "victim");
    let mut victim = login.at(pooler.address()).expect("in");
    let mut other = pooler.client();
    let id = pooler
        .console("SHOW CLIENTS")
        .row(&[("application_name", "victim")])
        .text("id");
    assert_eq!(
        pooler.console(&format!("KILL_CLIENT {id}")).tag,
        "KILL_CLIENT"
    );
    assert_eq!(victim.expect_fatal().text(), "admin forced disconnect");
    assert_eq!(other.value("select 'spared'"), "spared");
    assert_error(
        &pooler.console_error(&format!("KILL_CLIENT {id}")),
        "client not found",
    );
    assert_error(
        &pooler.console_error("KILL_CLIENT nobody"),
        "invalid client pointer supplied",
    );
}

#[test]
fn reload_takes_new_databases_and_drops_missing_ones() {
    let ini = Ini::transaction()
        .db("")
        .database("old", "host=127.0.0.1 port=PORT dbname=DBNAME");
    let mut pooler = ini.start();
    let login = |name: &str| crate::harness::wire::Login::new("alice", name);
    let mut of_old = login("old").at(pooler.address()).expect("in");
    of_old.run("select 1");
    let mut of_db = pooler.client();
    pooler.reload(|ini| {
        *ini = Ini::transaction()
            .db("")
            .database("new", "host=127.0.0.1 port=PORT dbname=DBNAME");
    });
    assert_eq!(
        login("new")
            .at(pooler.address())
            .expect("in")
            .value("select 1"),
        "1"
    );
    assert_eq!(of_old.expect_fatal().text(), "database removed");
    assert_eq!(
        login("old").refused_at(pooler.address()).text(),
        "no such database: old"
    );
    assert_eq!(of_db.value("select 'kept'"), "kept");
}

#[test]
fn reload_reads_the_user_list_again() {
    let mut pooler = Ini::transaction().set("auth_type", "md5").start();
    let mut client = pooler.client();
    pooler.reload(|ini| *ini = ini.clone().secret("alice", "changed"));
    let login = pooler.login("alice");
    assert_eq!(
        login.refused_at(pooler.address()).text(),
        "password authentication failed"
    );
    login
        .password("changed")
        .at(pooler.address())
        .expect("the new password");
    assert_eq!(client.value("select 'kept'"), "kept");
}

#[test]
fn reload_moves_to_a_changed_server() {
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("select 1");
    pooler.reload(|ini| {
        *ini = ini
            .clone()
            .database("db", "host=127.0.0.1 port=PORT dbname=postgres")
    });
    becomes("the other database", "postgres".to_owned(), || {
        client.value("select current_database()")
    });
}

#[test]
fn a_reload_that_fails_keeps_the_old_databases() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("select 1");
    let file = pooler.folder.path().join("pgbouncer.ini");
    let good = std::fs::read_to_string(&file).expect("the file is there");
    pooler.folder.write(
        "pgbouncer.ini",
        &good.replace("[databases]", "[databases]\nnonsense"),
    );
    let error = pooler.console_error("RELOAD");
    assert_eq!(
        (error.code(), error.text()),
        ("F0000", "RELOAD failed, see logs for additional details")
    );
    pooler.wait_log("pgbouncer.ini");
    assert_eq!(client.value("select 'kept'"), "kept");
    pooler.assert_serves();
    pooler.folder.write("pgbouncer.ini", &good);
    assert_eq!(pooler.console("RELOAD").tag, "RELOAD");
}

#[test]
fn shutdown_ends_at_once_without_a_word() {
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("begin");
    let mut console = started(&pooler, "SHUTDOWN");
    assert_eq!(console.try_reply(), Err(Lost::Closed));
    assert_eq!(client.try_recv(), Err(Lost::Closed));
    assert_eq!(pooler.wait_end().code(), Some(0));
    becomes("no server is left", 0, || pooler.backends().len());
}

#[test]
fn shutdown_wait_for_clients_serves_them_to_the_end() {
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let mut console = started(&pooler, "SHUTDOWN WAIT_FOR_CLIENTS");
    assert_eq!(tag(&mut console), "SHUTDOWN");
    eventually("the listener is closed", || {
        match Wire::try_connect(pooler.address()) {
            None => Ok(()),
            Some(_) => Err("it accepts".to_owned()),
        }
    });
    for _ in 0..3 {
        assert_eq!(client.value("select 'served'"), "served");
    }
    let error = console.query("RESUME");
    assert_eq!(
        error.error().map(Fields::text),
        Some("pooler is shutting down")
    );
    client.leave();
    console.leave();
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn a_waiting_shutdown_leaves_the_unix_socket_to_the_console() {
    let mut pooler = Ini::transaction().start();
    let client = pooler.client();
    pooler.console("SHUTDOWN WAIT_FOR_CLIENTS");
    becomes("the network's listener is closed", true, || {
        Wire::try_connect(pooler.address()).is_none()
    });
    let name = format!(".s.PGSQL.{}", pooler.address().port());
    let path = pooler.folder.path().join(name);
    let says = |user: &str, database: &str| {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        let packet = startup(&[("user", user), ("database", database)]);
        let query = query("SHOW VERSION");
        let terminate = b"X\0\0\0\x04".to_vec();
        let all = [packet, query, terminate].concat();
        stream.write_all(&all).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(says("alice", "db").contains("pooler is shutting down"));
    assert!(says("admin", "pgbouncer").contains("PgBouncer"));
    client.leave();
    assert_eq!(pooler.wait_end().code(), Some(0));
    assert!(UnixStream::connect(&path).is_err());
}

#[test]
fn shutdown_wait_for_servers_ends_transactions_first() {
    let mut pooler = Ini::transaction().start();
    let mut busy = pooler.client();
    let mut idle: Vec<_> = (0..8).map(|_| pooler.client()).collect();
    for client in &mut idle {
        client.run("select 1");
    }
    busy.run("begin");
    let mut console = started(&pooler, "SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(tag(&mut console), "SHUTDOWN");
    for client in &mut idle {
        client.send(query("select 1"));
    }
    for client in &mut idle {
        assert_eq!(client.expect_fatal().text(), "server shutting down");
    }
    busy.run("select 'goes on'");
    assert_eq!(busy.query("commit").succeeded().status, 'I');
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn shutdown_wait_for_servers_tells_those_it_sends_away_before_it_ends() {
    let mut pooler = Ini::transaction().start();
    let mut idle = pooler.client();
    idle.run("select 1");
    let mut console = started(&pooler, "SHUTDOWN WAIT_FOR_SERVERS");
    assert_eq!(tag(&mut console), "SHUTDOWN");
    // No server is busy: it ends with its next look.
    idle.send(query("select 1"));
    assert_eq!(idle.expect_fatal().text(), "server shutting down");
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn sigterm_waits_for_clients_and_a_second_one_does_not() {
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("select 1");
    pooler.signal(Signal::TERM);
    pooler.wait_log("got SIGTERM, shutting down, waiting for all clients disconnect");
    assert_eq!(client.value("select 'served'"), "served");
    pooler.signal(Signal::TERM);
    assert_eq!(pooler.wait_end().code(), Some(0));
    assert_eq!(client.try_recv(), Err(Lost::Closed));
}

#[test]
fn sigint_waits_for_servers() {
    let mut pooler = Ini::transaction().start();
    let mut busy = pooler.client();
    busy.run("begin");
    pooler.signal(Signal::INT);
    pooler.wait_log("got SIGINT, shutting down");
    busy.run("commit");
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn sigquit_ends_at_once() {
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("begin");
    pooler.signal(Signal::QUIT);
    assert_eq!(client.try_recv(), Err(Lost::Closed));
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn sighup_reloads() {
    let mut pooler = Ini::transaction().start();
    pooler.ini.change("query_timeout", 7);
    pooler.write_config();
    pooler.signal(Signal::HUP);
    becomes("the new value", "7".to_owned(), || {
        pooler
            .console("SHOW CONFIG")
            .row(&[("key", "query_timeout")])
            .text("value")
    });
    pooler.wait_log("got SIGHUP, re-reading config");
}

#[test]
fn sigusr1_pauses_and_sigusr2_resumes() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("select 1");
    pooler.signal(Signal::USR1);
    pooler.wait_log("got SIGUSR1, pausing all activity");
    becomes("no server is left", 0, || pooler.backends().len());
    client.send(query("select 'resumed'"));
    pooler.wait_pool("cl_waiting", 1);
    pooler.signal(Signal::USR2);
    assert_eq!(client.reply().value(), "resumed");
    pooler.wait_log("got SIGUSR2, continuing from PAUSE");
}

#[test]
fn commands_are_logged() {
    let pooler = Ini::transaction().start();
    pooler.console("PAUSE db");
    pooler.console("RESUME db");
    pooler.console("RELOAD");
    for line in [
        "PAUSE 'db' command issued",
        "RESUME 'db' command issued",
        "RELOAD command issued",
    ] {
        pooler.wait_log(line);
    }
}

#[test]
fn the_pidfile_lives_as_long_as_the_process() {
    let probe = Ini::transaction().start();
    drop(probe);
    let mut pooler = Ini::transaction().set("pidfile", "pooler.pid").start();
    let file = pooler.folder.path().join("pooler.pid");
    let pid = std::fs::read_to_string(&file).expect("it is written");
    assert_eq!(pid, format!("{}\n", pooler.pid()));
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    assert!(!file.exists());
}

#[test]
fn random_commands_never_hang_the_console() {
    if only_pgweir("PgBouncer forgets consoles that wait in PAUSE") {
        return;
    }
    // A killed database is paused: clients wait at its door.
    let pooler = Ini::transaction()
        .set("default_pool_size", 2)
        .set("client_login_timeout", 1)
        .start();
    let commands = [
        "PAUSE",
        "RESUME",
        "PAUSE db",
        "RESUME db",
        "RECONNECT",
        "RELOAD",
        "KILL db",
        "DISABLE db",
        "ENABLE db",
        "SHOW POOLS",
        "SHOW CLIENTS",
        "SHOW SERVERS",
        "WAIT_CLOSE",
        "SHOW STATS",
    ];
    crate::harness::together(6, |who| {
        let mut random = crate::harness::Random::new(who as u64 + 11);
        for _ in 0..25 {
            if who < 3 {
                let command = commands[random.below(commands.len())];
                let reply = pooler.console_of("admin").query(command);
                assert!(
                    reply
                        .error()
                        .is_none_or(|error| error.severity() == "ERROR"),
                    "{command}: {reply:?}"
                );
            } else {
                // Clients come to grief, but only in words.
                let Ok(mut client) = pooler
                    .login("alice")
                    .parameter("application_name", "c")
                    .at(pooler.address())
                else {
                    continue;
                };
                client.patience(Duration::from_millis(200));
                client.send(query("select 'mine'"));
                match client.try_recv() {
                    Ok(Message::RowDescription(_)) => {
                        assert_eq!(client.try_reply().map(|reply| reply.rows().len()), Ok(1))
                    }
                    Ok(Message::ErrorResponse(error)) => assert_eq!(error.severity(), "FATAL"),
                    Ok(other) => panic!("{other:?}"),
                    Err(lost) => assert!(matches!(lost, Lost::Closed | Lost::Silent), "{lost:?}"),
                }
            }
        }
    });
    for command in ["RESUME", "RESUME db", "ENABLE db"] {
        pooler.console_of("admin").query(command);
    }
    pooler.assert_serves();
}

#[test]
fn small_socket_buffers_do_not_stall() {
    let pooler = Ini::transaction().set("tcp_socket_buffer", 4096).start();
    let mut client = pooler.client();
    let begun = Instant::now();
    let value = client.value("select repeat('x', 8000000)");
    assert_eq!(value.len(), 8_000_000);
    // With stalls it is three minutes, without them two seconds.
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(60), "{taken:?}");
}

#[test]
fn too_small_a_limit_of_open_files_is_warned_of() {
    let pooler = Ini::transaction()
        .set("max_client_conn", 2_000_000_000)
        .set("default_pool_size", 7)
        .start();
    let log = pooler.log();
    assert!(log.contains(" LOG kernel file descriptor limit: "), "{log}");
    let expected = "max_client_conn: 2000000000, max expected fd use: 20000000";
    assert!(log.contains(expected), "{log}");
    assert!(log.contains("too few for 2000000000 clients; remedy: raise the"));
    let pooler = Ini::transaction().set("max_client_conn", 10).start();
    assert!(!pooler.log().contains("too few"));
}
