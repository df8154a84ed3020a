//! Drivers and tools as applications use them, in session and in transaction
//! mode. Those of other languages are under `integration/drivers/`.

use crate::harness::frontend::query;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{client_program, pid_of};
use crate::harness::{DEADLINE, becomes, process};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tokio_postgres::NoTls;

/// A pooler in each mode that drivers can live with; in transaction mode with
/// fewer servers than clients.
fn each_mode(part: impl Fn(&Pooler<'_>, &str)) {
    part(&Ini::session().start(), "session");
    part(
        &Ini::transaction().set("default_pool_size", 2).start(),
        "transaction",
    );
}

fn conninfo(pooler: &Pooler<'_>) -> String {
    format!(
        "host=127.0.0.1 port={} user=alice dbname=db",
        pooler.address().port()
    )
}

/// Standard output of a program that has to succeed.
#[track_caller]
pub(crate) fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let error = text(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {error}\n{}",
        output.status,
        text(&output.stdout)
    );
    text(&output.stdout)
}

/// psql, unaligned and without headers, with this script.
fn psql(pooler: &Pooler<'_>, script: &str) -> Command {
    let file = pooler.folder.write("script.sql", script);
    let mut psql = client_program("psql");
    psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(file);
    psql.arg(conninfo(pooler)).current_dir(pooler.folder.path());
    psql
}

#[test]
fn psql_copies_both_ways() {
    each_mode(|pooler, _| {
        pooler.folder.write("data", "1\tone\n2\ttwo\n");
        let script = "create table copied (x int, y text);\n\
                      \\copy copied from 'data'\n\
                      \\copy (select y from copied order by x desc) to stdout\n\
                      select count(*) from copied;\n\
                      copy copied from stdin;\n3\tthree\n\\.\n\
                      select y from copied where x = 3;\n";
        let output = psql(pooler, script).output().expect("psql runs");
        assert_eq!(succeeded(&output), "two\none\n2\nthree");
    });
}

#[test]
fn psql_fetches_by_cursor() {
    each_mode(|pooler, _| {
        let script = "\\set FETCH_COUNT 7\nselect generate_series(1, 50);\n\
                      begin; declare c cursor for select generate_series(1, 3);\n\
                      fetch 2 from c; fetch all from c; close c; commit;\n";
        let output = psql(pooler, script).output().expect("psql runs");
        let expected: Vec<String> = (1..=50)
            .chain(1..=3)
            .map(|number: i32| number.to_string())
            .collect();
        assert_eq!(succeeded(&output).lines().collect::<Vec<_>>(), expected);
    });
}

#[test]
fn psql_watches() {
    each_mode(|pooler, _| {
        let script = "create table watched (x serial);\n\
                      insert into watched default values returning 'seen ' || x \\watch 0.05\n";
        let mut watching = psql(pooler, script);
        let child = process::spawn({
            watching.stdout(Stdio::piped()).stderr(Stdio::piped());
            watching
        });
        becomes("some rounds", true, || {
            let count = "select coalesce((select last_value from watched_x_seq), 0)";
            let reply = pooler.database.session().query(count);
            reply.error().is_none() && reply.value().parse::<i32>().is_ok_and(|count| count >= 4)
        });
        rustix::process::kill_process(pid_of(&child), rustix::process::Signal::TERM).ok();
        let output = child.wait_with_output().expect("it ends");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("seen 3"),
            "{output:?}"
        );
    });
}

#[test]
fn psql_is_interrupted() {
    each_mode(|pooler, _| {
        // `timeout` hands the signal on to psql.
        let mut interrupted = psql(pooler, "select pg_sleep(60);\nselect 'never';\n");
        interrupted.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process::spawn(interrupted);
        pooler.database.wait_running(1, "pg_sleep");
        rustix::process::kill_process(pid_of(&child), rustix::process::Signal::INT)
            .expect("it runs");
        let output = child.wait_with_output().expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("canceling statement due to user request"),
            "{error}"
        );
        becomes("the query has ended", 0, || {
            pooler.database.backends_in("active")
        });
    });
}

#[test]
fn psql_describes() {
    each_mode(|pooler, _| {
        let script =
            "create table described (x int primary key);\n\\d described\n\\dt\n\\l\n\\du\n";
        let output = psql(pooler, script).output().expect("psql runs");
        assert!(succeeded(&output).contains("x|integer||not null|"));
    });
}

/// pgbench with four clients and these arguments; the number of transactions
/// it reports.
fn pgbench(pooler: &Pooler<'_>, arguments: &[&str]) -> String {
    let four = ["-c", "4", "-j", "2", "-t", "50"];
    pgbench_of(pooler, &[&four, arguments].concat())
}

/// pgbench with these arguments; the number of transactions it reports.
pub(crate) fn pgbench_of(pooler: &Pooler<'_>, arguments: &[&str]) -> String {
    let mut pgbench = client_program("pgbench");
    pgbench.arg("-n").args(arguments).arg(conninfo(pooler));
    let output = pgbench.output().expect("pgbench runs");
    let text = succeeded(&output);
    let done = text
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    done.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn pgbench_runs_in_every_protocol() {
    each_mode(|pooler, mode| {
        let mut filling = client_program("pgbench");
        let output = filling
            .args(["-i", "-q", "-s", "1"])
            .arg(conninfo(pooler))
            .output();
        succeeded(&output.expect("pgbench runs"));
        for protocol in ["simple", "extended", "prepared"] {
            for script in ["select-only", "tpcb-like"] {
                let done = pgbench(pooler, &["-M", protocol, "-b", script]);
                assert_eq!(done, "200/200", "{script}, {protocol}, {mode}");
            }
        }
        let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
        assert_eq!(pooler.client().value(sums), "t");
    });
}

#[test]
fn pgbench_reconnects() {
    each_mode(|pooler, _| {
        let script = pooler.folder.write("one.sql", "select 1;\n");
        let script = script.to_str().expect("our own name");
        assert_eq!(pgbench(pooler, &["-C", "-f", script]), "200/200");
    });
}

#[test]
fn pgbench_pipelines() {
    each_mode(|pooler, _| {
        let pipeline = "\\startpipeline\nselect 1;\nselect 2;\nselect 3;\n\\endpipeline\n";
        let script = pooler.folder.write("pipeline.sql", pipeline);
        let script = script.to_str().expect("our own name");
        assert_eq!(
            pgbench(pooler, &["-M", "extended", "-f", script]),
            "200/200"
        );
        assert_eq!(
            pgbench(pooler, &["-M", "prepared", "-f", script]),
            "200/200"
        );
    });
}

/// Where the drivers of other languages are installed.
fn installed(name: &str, needs: &[&str], install: impl Fn(&Path)) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/drivers");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("drivers")
        .join(name);
    let wanted: String = needs
        .iter()
        .map(|file| std::fs::read_to_string(sources.join(file)).expect("a file of this package"))
        .collect();
    let stamp = folder.join("installed");
    if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the build folder is ours");
        for file in needs {
            let name = Path::new(file).file_name().expect("a file name");
            std::fs::copy(sources.join(file), folder.join(name)).expect("the build folder is ours");
        }
        install(&folder);
        std::fs::write(stamp, wanted).expect("the build folder is ours");
    }
    folder
}

fn installer(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300").arg(program).stdin(Stdio::null());
    command
}

/// The Python of an environment with the drivers in it.
pub(crate) fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = installed("python", &["requirements.txt"], |folder| {
            let venv = folder.join("venv");
            let made = installer("python3")
                .args(["-m", "venv"])
                .arg(&venv)
                .output();
            succeeded(&made.expect("python3 runs"));
            let mut pip = installer(venv.join("bin/pip"));
            pip.args(["install", "-q", "-r"])
                .arg(folder.join("requirements.txt"));
            succeeded(&pip.output().expect("pip runs"));
        });
        folder.join("venv/bin/python")
    })
}

fn node_modules() -> &'static Path {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    MODULES.get_or_init(|| {
        let folder = installed(
            "node",
            &["node/package.json", "node/package-lock.json"],
            |folder| {
                let mut npm = installer("npm");
                npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                    .current_dir(folder);
                succeeded(&npm.output().expect("npm runs"));
            },
        );
        folder.join("node_modules")
    })
}

/// A driver's script, with time to end.
pub(crate) fn script(program: impl AsRef<std::ffi::OsStr>, file: &str) -> Command {
    let mut command = Command::new("timeout");
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("integration/drivers")
        .join(file);
    command
        .arg((4 * DEADLINE.as_secs()).to_string())
        .arg(program)
        .arg(file)
        .stdin(Stdio::null());
    command
}

#[test]
fn psycopg_works() {
    each_mode(|pooler, mode| {
        let mut driver = script(python(), "psycopg_driver.py");
        let output = driver
            .arg(conninfo(pooler))
            .arg(mode)
            .output()
            .expect("python runs");
        assert!(succeeded(&output).ends_with(" checks"));
    });
}

#[test]
fn asyncpg_works() {
    each_mode(|pooler, mode| {
        let mut driver = script(python(), "asyncpg_driver.py");
        let port = pooler.address().port().to_string();
        let output = driver
            .args(["127.0.0.1", &port, "alice", "db", mode])
            .output();
        assert!(succeeded(&output.expect("python runs")).ends_with(" checks"));
    });
}

#[test]
fn node_postgres_works() {
    each_mode(|pooler, mode| {
        let mut driver = script("node", "node/driver.js");
        let port = pooler.address().port().to_string();
        driver
            .env("NODE_PATH", node_modules())
            .args(["127.0.0.1", &port, "alice", "db", mode]);
        assert!(succeeded(&driver.output().expect("node runs")).ends_with(" checks"));
    });
}

/// A tokio-postgres client, with its connection running.
async fn connect(conninfo: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(conninfo, NoTls)
        .await
        .expect("it connects");
    tokio::spawn(connection);
    client
}

fn with_tokio_postgres<F: Future<Output = ()>>(part: impl Fn(String) -> F) {
    each_mode(|pooler, _| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let part = part(conninfo(pooler));
        runtime.expect("a runtime").block_on(async {
            tokio::time::timeout(DEADLINE, part)
                .await
                .expect("it ends in time");
        });
        pooler.client().run("select 1");
    });
}

#[test]
fn tokio_postgres_prepares() {
    with_tokio_postgres(|conninfo| async move {
        let clients = [
            connect(&conninfo).await,
            connect(&conninfo).await,
            connect(&conninfo).await,
        ];
        let mut statements = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let sql = format!("select $1::text || ' of {number}'");
            statements.push(client.prepare(&sql).await.expect("it prepares"));
        }
        for turn in 0..10 {
            for (number, client) in clients.iter().enumerate() {
                let row = client
                    .query_one(&statements[number], &[&turn.to_string()])
                    .await
                    .expect("one row");
                assert_eq!(row.get::<_, String>(0), format!("{turn} of {number}"));
            }
        }
        // Each drop sends a Close behind the driver's back.
        drop(statements);
        for client in &clients {
            client.query_one("select 1", &[]).await.expect("it goes on");
        }
    });
}

#[test]
fn tokio_postgres_pipelines() {
    with_tokio_postgres(|conninfo| async move {
        let client = connect(&conninfo).await;
        let numbers: Vec<i32> = (0..100).collect();
        let queries = numbers.iter().map(|number| async {
            let row = client
                .query_one("select $1::int4", &[number])
                .await
                .expect("one row");
            row.get::<_, i32>(0)
        });
        let found = futures_util::future::join_all(queries).await;
        assert_eq!(found, numbers);
    });
}

#[test]
fn tokio_postgres_rolls_back() {
    with_tokio_postgres(|conninfo| async move {
        let mut client = connect(&conninfo).await;
        client
            .batch_execute("create table kept (x int)")
            .await
            .expect("a table");
        let transaction = client.transaction().await.expect("a transaction");
        transaction
            .execute("insert into kept values (1)", &[])
            .await
            .expect("a row");
        assert!(transaction.query("select 1/0", &[]).await.is_err());
        transaction.rollback().await.expect("rolled back");
        let transaction = client.transaction().await.expect("a transaction");
        transaction
            .execute("insert into kept values (2)", &[])
            .await
            .expect("a row");
        transaction.commit().await.expect("committed");
        let row = client
            .query_one("select sum(x) from kept", &[])
            .await
            .expect("one row");
        assert_eq!(row.get::<_, i64>(0), 2);
    });
}

#[test]
fn tokio_postgres_fetches_by_portal() {
    with_tokio_postgres(|conninfo| async move {
        let mut client = connect(&conninfo).await;
        let transaction = client.transaction().await.expect("a transaction");
        let statement = transaction
            .prepare("select generate_series(1, 10)")
            .await
            .expect("prepared");
        let portal = transaction.bind(&statement, &[]).await.expect("a portal");
        let mut found = Vec::new();
        loop {
            let rows = transaction.query_portal(&portal, 3).await.expect("rows");
            if rows.is_empty() {
                break;
            }
            found.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
        }
        assert_eq!(found, (1..=10).collect::<Vec<_>>());
        drop(portal);
        transaction.commit().await.expect("committed");
    });
}

#[test]
fn tokio_postgres_copies() {
    with_tokio_postgres(|conninfo| async move {
        let client = connect(&conninfo).await;
        client
            .batch_execute("create table copied (x int)")
            .await
            .expect("a table");
        let sink = client
            .copy_in("copy copied from stdin")
            .await
            .expect("copy in");
        let mut sink = std::pin::pin!(sink);
        for number in 0..1000 {
            sink.send(bytes::Bytes::from(format!("{number}\n")))
                .await
                .expect("it takes data");
        }
        assert_eq!(sink.finish().await.expect("copied"), 1000);
        let stream = client
            .copy_out("copy copied to stdout")
            .await
            .expect("copy out");
        let chunks: Vec<bytes::Bytes> = stream.try_collect().await.expect("data");
        assert_eq!(
            chunks
                .concat()
                .iter()
                .filter(|byte| **byte == b'\n')
                .count(),
            1000
        );
        // Dropped before its end: CopyFail.
        drop(
            client
                .copy_in::<_, bytes::Bytes>("copy copied from stdin")
                .await
                .expect("copy in"),
        );
        let row = client
            .query_one("select count(*) from copied", &[])
            .await
            .expect("one row");
        assert_eq!(row.get::<_, i64>(0), 1000);
    });
}

#[test]
fn tokio_postgres_streams_and_abandons() {
    with_tokio_postgres(|conninfo| async move {
        let client = connect(&conninfo).await;
        let none: [i32; 0] = [];
        for _ in 0..3 {
            let rows = client
                .query_raw("select generate_series(1, 10000)", none)
                .await
                .expect("rows");
            let mut rows = std::pin::pin!(rows);
            rows.next().await.expect("a first row").expect("a row");
            // The rest is left for the driver to throw away.
        }
        let row = client
            .query_one("select 'goes on'", &[])
            .await
            .expect("one row");
        assert_eq!(row.get::<_, &str>(0), "goes on");
    });
}

#[test]
fn tokio_postgres_cancels() {
    with_tokio_postgres(|conninfo| async move {
        let client = connect(&conninfo).await;
        let token = client.cancel_token();
        let sleeping = client.query_one("select pg_sleep(60)", &[]);
        let cancelling = async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            token
                .cancel_query(NoTls)
                .await
                .expect("the request is taken");
        };
        let (slept, ()) = tokio::join!(sleeping, cancelling);
        let error = slept.expect_err("it is cancelled");
        assert_eq!(
            error.code().map(tokio_postgres::error::SqlState::code),
            Some("57014")
        );
        client.query_one("select 1", &[]).await.expect("it goes on");
    });
}

#[test]
fn many_kinds_of_clients_share_two_servers() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    std::thread::scope(|scope| {
        let bench = scope.spawn(|| {
            let script = pooler.folder.write("mixed.sql", "select 1;\nselect 2;\n");
            pgbench(
                &pooler,
                &[
                    "-M",
                    "prepared",
                    "-f",
                    script.to_str().expect("our own name"),
                ],
            )
        });
        let python = scope.spawn(|| {
            let mut driver = script(python(), "psycopg_driver.py");
            driver
                .arg(conninfo(&pooler))
                .arg("transaction")
                .output()
                .expect("python runs")
        });
        let mut client = pooler.client();
        for number in 0..200 {
            client.send(query(&format!("select 'raw {number}'")));
            assert_eq!(client.reply().value(), format!("raw {number}"));
        }
        assert_eq!(bench.join().expect("it ends"), "200/200");
        succeeded(&python.join().expect("it ends"));
    });
    assert!(pooler.backends().len() <= 2);
}
