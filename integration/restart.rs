//! Online restart: a new process goes on with the connections of the old one.

use crate::drivers::pgbench_of;
use crate::harness::backend::Message;
use crate::harness::frontend::{bind, execute, message, parse, query, sync};
use crate::harness::pooler::{Ini, Pooler, Table};
use crate::harness::postgres::{binary, client_program};
use crate::harness::process;
use crate::harness::scripted::ScriptedServer;
use crate::harness::tls::{Certificates, Opening, Tunnel};
use crate::harness::wire::{Login, Wire, cancel};
use crate::harness::{becomes, eventually, only_pgweir};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program's command line for a restart.
fn reboot(program: &Path) -> impl FnOnce(&Path) -> Command {
    let mut command = process::server_command(program, "KILL");
    move |ini| {
        command.arg("-R").arg(ini);
        command
    }
}

/// The pooler's next process takes over, and the one before it ends.
fn restart(pooler: &mut Pooler<'_>) {
    restart_with(pooler, process::program());
}

fn restart_with(pooler: &mut Pooler<'_>, program: &Path) {
    let mut old = pooler.start_beside(reboot(program));
    let status = ended(&mut old);
    assert_eq!(status, Some(0), "the old process:\n{}", pooler.log());
}

fn ended(child: &mut Child) -> Option<i32> {
    eventually("the old process ends", || match child.try_wait() {
        Ok(Some(status)) => Ok(status.code()),
        _ => Err("it runs".to_owned()),
    })
}

fn pgweir() -> bool {
    only_pgweir("the old and the new process are the one under test")
}

#[test]
fn idle_clients_go_on() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let pid = client.backend_pid();
    restart(&mut pooler);
    assert_eq!(client.backend_pid(), pid, "the server went over too");
    pooler.assert_serves();
    assert_eq!(pooler.backends().len(), 2);
}

#[test]
fn a_transaction_goes_on() {
    if pgweir() {
        return;
    }
    for ini in [Ini::transaction(), Ini::session()] {
        let mut pooler = ini.one_server().start();
        let mut client = pooler.client();
        client.run("begin");
        client.run("create temp table seen (i int) on commit drop");
        restart(&mut pooler);
        client.run("insert into seen values (7)");
        assert_eq!(client.value("select i from seen"), "7");
        client.run("commit");
        assert_eq!(client.value("select 'later'"), "later");
        pooler.wait_pool("sv_active", i64::from(pooler.pool("sv_idle") == 0));
    }
}

#[test]
fn a_running_query_is_answered_by_the_new_process() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.send(query("select 'slept' from pg_sleep(1.5)"));
    pooler.wait_pool("sv_active", 1);
    restart(&mut pooler);
    assert_eq!(client.reply().value(), "slept");
    assert_eq!(client.value("select 'next'"), "next");
    pooler.wait_pool("sv_idle", 1);
}

#[test]
fn a_pipeline_under_way_is_answered_to_its_end() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let batch = |name: &str, sql: &str| {
        [
            parse(name, sql),
            bind("", name, &[]),
            execute("", 0),
            sync(),
        ]
        .concat()
    };
    let batches = [
        batch("a", "select 'one' from pg_sleep(1.5)"),
        batch("b", "select 'two'"),
        batch("", "select 'three'"),
    ];
    client.send(batches.concat());
    pooler.wait_pool("sv_active", 1);
    restart(&mut pooler);
    for wanted in ["one", "two", "three"] {
        assert_eq!(client.reply().value(), wanted);
    }
    let again = [bind("", "b", &[]), execute("", 0), sync()].concat();
    assert_eq!(client.ask(again).value(), "two");
    pooler.wait_pool("sv_idle", 1);
}

#[test]
fn prepared_statements_and_parameters_stay() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().one_server().start();
    let (mut one, mut other) = (pooler.client(), pooler.client());
    for client in [&mut one, &mut other] {
        client.ask([parse("s", "select current_setting('TimeZone')"), sync()].concat());
    }
    one.run("set timezone to 'Asia/Tokyo'");
    for round in 0..3 {
        restart(&mut pooler);
        let run = [bind("", "s", &[]), execute("", 0), sync()].concat();
        assert_eq!(one.ask(&run).value(), "Asia/Tokyo", "round {round}");
        assert_ne!(other.ask(&run).value(), "Asia/Tokyo", "round {round}");
        let name = format!("new{round}");
        let new = [
            parse(&name, "select 'new'"),
            bind("", &name, &[]),
            execute("", 0),
            sync(),
        ];
        assert_eq!(one.ask(new.concat()).value(), "new");
    }
}

#[test]
fn cancel_keys_stay() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let key = client.key.clone();
    client.send(query("select pg_sleep(30)"));
    pooler.wait_pool("sv_active", 1);
    restart(&mut pooler);
    cancel(pooler.address(), &key);
    let reply = client.reply();
    assert_eq!(reply.error().expect("canceled").code(), "57014");
    assert_eq!(client.value("select 'on'"), "on");
}

#[test]
fn long_cancel_keys_stay() {
    if pgweir() {
        return;
    }
    let key = [&[0, 0, 0, 77][..], &[9; 256]].concat();
    let server = ScriptedServer::cancelable(&key);
    let mut pooler = Ini::transaction().server(server.address()).start();
    let client = pooler.login("alice").minor(2).at(pooler.address());
    let mut client = client.expect("protocol 3.2 is spoken");
    server.report();
    client.send(query("select 1"));
    server.report();
    restart(&mut pooler);
    cancel(pooler.address(), &client.key[..8]);
    cancel(pooler.address(), &client.key);
    assert!(server.report()[4..] == key);
    server.go_on();
    assert_eq!(client.reply().value(), "canceled");
}

#[test]
fn scram_clients_logged_in_before_serve_for_new_servers() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().set("auth_type", "scram-sha-256").start();
    let mut client = pooler.client();
    client.run("select 1");
    restart(&mut pooler);
    pooler.console("RECONNECT");
    assert_eq!(client.value("select 'on'"), "on");
}

#[test]
fn newcomers_meanwhile_are_let_in_by_the_new_process() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().start();
    pooler.client().run("select 1");
    let (address, login) = (pooler.address(), pooler.login("alice"));
    let end = Instant::now() + Duration::from_secs(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let mut client = login.at(address).expect("let in");
                    assert_eq!(client.value("select 'in'"), "in");
                }
            });
        }
        while Instant::now() < end {
            restart(&mut pooler);
        }
    });
}

#[test]
fn waiting_clients_are_served() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().one_server().start();
    let (mut holder, mut waiting) = (pooler.client(), pooler.client());
    holder.send(query("select pg_sleep(0.7)"));
    pooler.wait_pool("sv_active", 1);
    waiting.send(query("select 'served'"));
    pooler.wait_pool("cl_waiting", 1);
    restart(&mut pooler);
    holder.reply().succeeded();
    assert_eq!(waiting.reply().value(), "served");
}

#[test]
fn the_pid_file_and_the_socket_file_go_over() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let pid_file = pooler.folder.path().join("pid");
    pooler.ini.change("pidfile", pid_file.display());
    pooler.write_config();
    restart(&mut pooler);
    for _ in 0..2 {
        restart(&mut pooler);
        // The new process writes it once the old one has removed its own.
        let expected = format!("{}\n", pooler.pid());
        eventually(
            "the new process writes the pid file",
            || match std::fs::read_to_string(&pid_file) {
                Ok(pid) if pid == expected => Ok(()),
                found => Err(format!("{found:?} instead of {expected:?}")),
            },
        );
        assert!(socket_file(&pooler).exists());
    }
    pooler.signal(Signal::INT);
    assert_eq!(pooler.wait_end().code(), Some(0));
    assert!(!pid_file.exists() && !socket_file(&pooler).exists());
}

fn socket_file(pooler: &Pooler<'_>) -> PathBuf {
    let name = format!(".s.PGSQL.{}", pooler.address().port());
    pooler.folder.path().join(name)
}

#[test]
fn tls_clients_are_served_by_the_old_process_until_they_leave() {
    if pgweir() {
        return;
    }
    let certificates = Certificates::shared();
    let ini = Ini::transaction()
        .set("client_tls_sslmode", "allow")
        .set("client_tls_key_file", certificates.name("localhost.key"))
        .set("client_tls_cert_file", certificates.name("localhost.crt"));
    let mut pooler = ini.start();
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let login = pooler.login("alice");
    let mut secure = login.at(tunnel.address()).expect("let in");
    secure.run("begin");
    let mut plain = pooler.client();
    plain.run("select 1");
    let mut old = pooler.start_beside(reboot(process::program()));
    pooler.wait_log("1 clients could not be handed over");
    secure.run("select 'still inside'");
    secure.run("commit");
    assert_eq!(secure.value("select 'another'"), "another");
    assert_eq!(plain.value("select 'plain'"), "plain");
    pooler.assert_serves();
    secure.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &secure.key);
    assert_eq!(secure.reply().code(), "57014");
    assert!(
        matches!(old.try_wait(), Ok(None)),
        "it serves the TLS client"
    );
    secure.leave();
    assert_eq!(ended(&mut old), Some(0));
    pooler.assert_serves();
}

#[test]
fn replication_clients_are_served_by_the_old_process_until_they_leave() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().secret("postgres", "").start();
    let login = Login::new("postgres", "db").parameter("replication", "database");
    let mut client = login.at(pooler.address()).expect("let in");
    let pid = client.backend_pid();
    let mut old = pooler.start_beside(reboot(process::program()));
    pooler.wait_log("1 clients could not be handed over");
    assert_eq!(client.backend_pid(), pid);
    client.leave();
    assert_eq!(ended(&mut old), Some(0));
    pooler.assert_serves();
}

#[test]
fn an_old_process_that_serves_tls_clients_opens_no_minimum_of_servers() {
    if pgweir() {
        return;
    }
    let certificates = Certificates::shared();
    let ini = Ini::transaction()
        .set("min_pool_size", 4)
        .set("client_tls_sslmode", "allow")
        .set("client_tls_key_file", certificates.name("localhost.key"))
        .set("client_tls_cert_file", certificates.name("localhost.crt"));
    let mut pooler = ini.start();
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let login = pooler.login("alice");
    let mut secure = login.at(tunnel.address()).expect("let in");
    let mut plain = pooler.client();
    plain.run("select 1");
    pooler.wait_pool("sv_idle", 4);
    let mut old = pooler.start_beside(reboot(process::program()));
    pooler.wait_log("1 clients could not be handed over");
    assert_eq!(secure.value("select 'secure'"), "secure");
    pooler.wait_pool("sv_idle", 4);
    // It would open one with each sweep.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(pooler.backends().len(), 4 + 1, "{}", pooler.log());
    secure.leave();
    assert_eq!(ended(&mut old), Some(0));
}

#[test]
fn without_an_old_process_it_just_starts() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().start();
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    pooler.start_again(reboot(process::program()));
    becomes("it serves", true, || {
        Wire::try_connect(pooler.address()).is_some()
    });
    pooler.wait_log("old process not found, try to continue normally");
}

#[test]
fn if_the_new_process_dies_in_between_the_old_one_goes_on() {
    if pgweir() {
        return;
    }
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("begin");
    let pid = client.backend_pid();
    for command in ["suspend", "show fds"] {
        let mut psql = process::server_command(Path::new("psql"), "KILL");
        psql.args(["-X", "-h"]).arg(pooler.folder.path());
        psql.args(["-p", &pooler.address().port().to_string()]);
        psql.args([
            "-U",
            "pgbouncer",
            "pgbouncer",
            "-c",
            "suspend",
            "-c",
            command,
        ]);
        psql.output().expect("psql runs");
    }
    assert_eq!(client.backend_pid(), pid);
    client.run("commit");
    pooler.assert_serves();
}

#[test]
fn descriptors_have_pgbouncers_columns() {
    let pooler = Ini::transaction().start();
    let (mut idle, mut busy) = (pooler.client(), pooler.client());
    idle.run("select 1");
    busy.run("begin");
    let table = pooler.console("SHOW FDS");
    let types: Vec<_> = table
        .columns
        .iter()
        .map(|(name, kind)| format!("{name} {kind}"))
        .collect();
    assert_eq!(
        types.join(", "),
        "fd 23, task 25, user 25, database 25, addr 25, port 23, cancel 20, link 23, \
         client_encoding 25, std_strings 25, datestyle 25, timezone 25, password 25, \
         scram_client_key 17, scram_server_key 17"
    );
    assert_eq!(table.tag, "SHOW");
    assert_eq!(tasks(&table, "pooler"), 2);
    assert_eq!(tasks(&table, "client"), 2);
    assert!(tasks(&table, "server") >= 1);
    let linked: Vec<_> = table
        .rows
        .iter()
        .filter(|row| row.text("link") != "0")
        .collect();
    let numbers = |task: &str| {
        let row = linked.iter().find(|row| row.text("task") == task);
        let row = row.unwrap_or_else(|| panic!("{linked:?}"));
        (row.number("fd"), row.number("link"))
    };
    let ((client, server), (its_server, its_client)) = (numbers("client"), numbers("server"));
    assert_eq!((client, server), (its_client, its_server));
    let key = u64::from_be_bytes(busy.key.as_slice().try_into().expect("eight bytes"));
    let row = table.row(&[("task", "client"), ("link", &server.to_string())]);
    assert_eq!(row.text("cancel"), key.to_string());
    assert_eq!(
        (row.text("user"), row.text("database")),
        ("alice".into(), "db".into())
    );
    assert_eq!(row.text("std_strings"), "on");
    let error = pooler.console_of("stats").query("SHOW FDS");
    assert_eq!(
        error.error().expect("refused").text(),
        "admin access needed"
    );
}

fn tasks(table: &Table, task: &str) -> usize {
    table.column("task").iter().filter(|it| *it == task).count()
}

#[test]
fn the_rest_is_told_to_the_same_user_alone() {
    if pgweir() {
        return;
    }
    let pooler = Ini::transaction().start();
    let error = pooler.console_error("SHOW HANDOVER");
    assert_eq!(
        error.text(),
        "only another process of the same user is told"
    );
}

/// How often a load has to live through a restart: `PGWEIR_RESTARTS`, or this.
fn rounds(few: usize) -> usize {
    let named = std::env::var("PGWEIR_RESTARTS").ok();
    named.map_or(few, |named| named.parse().expect("a number"))
}

/// A pgbench that runs until it is stopped.
struct Load {
    child: Child,
    report: PathBuf,
}

impl Load {
    fn start(pooler: &Pooler<'_>, host: &str, arguments: &[&str]) -> Load {
        let report = pooler.folder.path().join("pgbench");
        let mut pgbench = process::server_command(&binary("pgbench"), "KILL");
        pgbench
            .args(["-n", "-P", "1", "-T", "100000"])
            .args(arguments)
            .arg(pooler.bench_conninfo_at(host))
            .env("PGCONNECT_TIMEOUT", "20")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&report).expect("our own folder"));
        let load = Load {
            child: process::spawn(pgbench),
            report,
        };
        load.wait_busy();
        load
    }

    fn report(&self) -> String {
        std::fs::read_to_string(&self.report).expect("our own file")
    }

    /// Transactions are done from now on.
    fn wait_busy(&self) {
        let reported = |text: &str| text.lines().filter(|it| it.contains(" tps, ")).count();
        let before = reported(&self.report());
        // The second that is reported next may have begun before.
        eventually("the load goes on", || {
            let report = self.report();
            let mut lines = report.lines().filter(|it| it.contains(" tps, "));
            match lines.nth(before + 1) {
                Some(line) if !line.contains(" 0.0 tps, ") => Ok(()),
                _ => Err(report),
            }
        });
    }

    /// Nothing failed, and all clients are still there.
    fn stop(mut self) {
        self.wait_busy();
        assert!(
            matches!(self.child.try_wait(), Ok(None)),
            "{}",
            self.report()
        );
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
        let report = self.report();
        for line in report.lines() {
            let good = line.starts_with("pgbench (") || line.ends_with(" 0 failed");
            assert!(good, "{line}\n{report}");
        }
    }
}

/// pgbench, over TCP and over the Unix socket, while `event` happens this
/// often.
fn under_load(
    pooler: &mut Pooler<'_>,
    arguments: &[&str],
    times: usize,
    event: impl Fn(&mut Pooler<'_>),
) {
    let directory = pooler.folder.path().display().to_string();
    for host in ["127.0.0.1", &directory] {
        let load = Load::start(pooler, host, arguments);
        for _ in 0..times {
            event(pooler);
            std::thread::sleep(Duration::from_millis(300));
        }
        load.stop();
    }
}

fn filled(pooler: &Pooler<'_>) {
    let mut filling = client_program("pgbench");
    filling
        .args(["-i", "-q"])
        .arg(pooler.bench_conninfo_at("127.0.0.1"));
    let output = filling.output().expect("pgbench runs");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_bench_goes_on_over_restarts() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().set("default_pool_size", 6).start();
    filled(&pooler);
    for protocol in ["simple", "extended", "prepared"] {
        under_load(
            &mut pooler,
            &["-c", "6", "-M", protocol],
            rounds(3),
            restart,
        );
    }
    assert_eq!(
        pgbench_of(&pooler, &["-t", "5", "-b", "select-only"]),
        "5/5"
    );
}

#[test]
fn a_bench_of_more_clients_than_servers_goes_on_over_restarts() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().set("default_pool_size", 3).start();
    filled(&pooler);
    under_load(&mut pooler, &["-c", "12"], rounds(3), restart);
    assert!(pooler.backends().len() <= 3);
}

#[test]
fn several_workers_hand_over_to_several() {
    if pgweir() {
        return;
    }
    let mut pooler = Ini::transaction().pgweir("workers", 2).start();
    filled(&pooler);
    under_load(
        &mut pooler,
        &["-c", "6", "-M", "prepared"],
        rounds(3),
        restart,
    );
}

/// Debian's PgBouncer, and those that `PGBOUNCER_PEERS` names.
fn pgbouncers() -> Vec<PathBuf> {
    let debians = PathBuf::from("/usr/sbin/pgbouncer");
    assert!(debians.exists(), "scripts/setup installs PgBouncer");
    let named = std::env::var_os("PGBOUNCER_PEERS").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
    // They may have been built where the servers' account cannot go.
    let named = named.map(|path| process::runnable(&path));
    std::iter::once(debians).chain(named).collect()
}

#[test]
fn a_bench_goes_on_from_pgbouncer_to_pgweir_and_back() {
    if pgweir() {
        return;
    }
    for pgbouncer in pgbouncers() {
        // What `max_prepared_statements` is PgBouncer 1.18 does not know.
        let mut pooler = Ini::transaction().set("default_pool_size", 8).start();
        filled(&pooler);
        under_load(&mut pooler, &["-c", "4"], rounds(1), |pooler| {
            restart_with(pooler, &pgbouncer);
            std::thread::sleep(Duration::from_millis(300));
            restart(pooler);
        });
        pooler.assert_serves();
    }
}

#[test]
fn clients_of_a_pgbouncer_go_on_in_the_middle_of_things() {
    if pgweir() {
        return;
    }
    for pgbouncer in pgbouncers() {
        let mut pooler = Ini::transaction().set("default_pool_size", 8).start();
        restart_with(&mut pooler, &pgbouncer);
        let [mut idle, mut inside, mut failed, mut asking, mut copying] =
            std::array::from_fn(|_| pooler.client());
        idle.run("select 1");
        inside.run("begin");
        failed.run("begin");
        assert!(failed.query("select 1/0").error().is_some());
        asking.send(query("select 'asked' from pg_sleep(1.5)"));
        copying.run("begin");
        copying.run("create temp table c (t text) on commit drop");
        copying.send(query("copy c from stdin"));
        assert!(matches!(copying.recv(), Message::CopyInResponse));
        std::thread::sleep(Duration::from_millis(300));
        restart(&mut pooler);
        assert_eq!(idle.value("select 'idle'"), "idle");
        assert_eq!(inside.value("select 'inside'"), "inside");
        inside.run("commit");
        assert_eq!(
            failed.query("select 1").error().expect("failed").code(),
            "25P02"
        );
        failed.run("rollback");
        assert_eq!(asking.reply().value(), "asked");
        copying.send(message(b'd', b"row\n"));
        copying.send(message(b'c', b""));
        copying.reply().succeeded();
        assert_eq!(copying.value("select t from c"), "row");
        copying.run("commit");
        let batch = [
            parse("p", "select 'parsed'"),
            bind("", "p", &[]),
            execute("", 0),
            sync(),
        ];
        for client in [
            &mut idle,
            &mut inside,
            &mut failed,
            &mut asking,
            &mut copying,
        ] {
            assert_eq!(client.ask(batch.concat()).value(), "parsed");
        }
        becomes("nobody holds a server", 0, || pooler.pool("sv_active"));
    }
}
