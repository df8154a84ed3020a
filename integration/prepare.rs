//! Seeding and migrations against a real PostgreSQL.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgweir::config::Prepare;
use pgweir::prepare::{self, Error, Event, Plan, Progress, Report, Seed, Status};
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};

/// Longest any single thing here may take. Only a hang gets there.
const PATIENCE: Duration = Duration::from_secs(60);

// To be replaced by `harness::postgres`.
fn postgres() -> Dsn {
    let folder = Folder::new("pg");
    let port = free_port();
    let data = folder.0.join("data");
    let made = unprivileged("initdb", &folder)
        .args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--locale=C",
            "--encoding=UTF8",
            "-D",
        ])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .expect("initdb is installed");
    assert!(made.success());
    Dsn {
        port,
        server: Some(start(&folder, port)),
        folder,
    }
}

/// A port that nobody listens on. Another process may take it, though.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("it is bound").port()
}

fn start(folder: &Folder, port: u16) -> Child {
    let mut server = unprivileged("postgres", folder);
    server
        .arg("-D")
        .arg(folder.0.join("data"))
        .arg("-k")
        .arg(&folder.0);
    for setting in [
        "fsync=off",
        "listen_addresses=127.0.0.1",
        "max_connections=50",
    ] {
        server.args(["-c", setting]);
    }
    server.args(["-p", &port.to_string()]);
    let log = fs::File::create(folder.0.join("log")).expect("our own folder");
    server
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("postgres is installed")
}

fn unprivileged(program: &str, folder: &Folder) -> Command {
    const NOBODY: u32 = 65534;
    let mut command = Command::new(binary(program));
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
        std::os::unix::fs::chown(&folder.0, Some(NOBODY), Some(NOBODY)).expect("root may do that");
    }
    command.current_dir(&folder.0);
    command
}

fn binary(program: &str) -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut found: Vec<PathBuf> = installed
        .filter_map(|v| Some(v.ok()?.path().join("bin").join(program)))
        .filter(|p| p.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| program.into())
}

/// A private server, stopped with this value.
struct Dsn {
    port: u16,
    server: Option<Child>,
    folder: Folder,
}

impl Dsn {
    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_child(&server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        let _ = server.wait();
    }

    /// Settings for this server, with nothing to do.
    fn prepare(&self) -> Prepare {
        Prepare {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            dbname: "postgres".to_owned(),
            user: "postgres".to_owned(),
            password: None,
            seed: Vec::new(),
            seed_env: BTreeMap::new(),
            unless: None,
            migrations: None,
            wait_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_millis(800),
            lock_retries: 5,
            serve_early: false,
        }
    }

    /// [`Dsn::prepare`] with a folder of migrations.
    fn migrations(&self, folder: &Folder) -> Prepare {
        Prepare {
            migrations: Some(folder.0.clone()),
            ..self.prepare()
        }
    }

    /// [`Dsn::prepare`] with a shell script for seeding, in which `sql TEXT`
    /// runs SQL on this server.
    fn seed(&self, script: &str) -> Prepare {
        let script = format!("sql() {{ psql -X -q -v ON_ERROR_STOP=1 -c \"$1\"; }}\n{script}");
        let environment = [
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGDATABASE", "postgres".to_owned()),
        ];
        Prepare {
            seed: vec!["sh".to_owned(), "-ec".to_owned(), script],
            seed_env: environment
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            ..self.prepare()
        }
    }

    async fn connect(&self) -> Client {
        self.connect_as("postgres", "postgres")
            .await
            .expect("our own server")
    }

    async fn connect_as(&self, user: &str, dbname: &str) -> Result<Client, tokio_postgres::Error> {
        let to = format!(
            "host=127.0.0.1 port={} user={user} dbname={dbname}",
            self.port
        );
        let started = Instant::now();
        loop {
            match tokio_postgres::connect(&to, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                // Still starting.
                Err(error)
                    if error.code().is_none_or(|c| c.code() == "57P03")
                        && started.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Dsn {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A temporary folder, removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(purpose: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgweir-prepare-{purpose}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    fn with(files: &[(&str, &str)]) -> Folder {
        let folder = Folder::new("migrations");
        files.iter().for_each(|(name, sql)| folder.write(name, sql));
        folder
    }

    fn write(&self, name: &str, sql: &str) {
        fs::write(self.0.join(name), sql).expect("our own folder");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything that was told.
#[derive(Default)]
struct Heard {
    events: Mutex<Vec<Event>>,
    more: tokio::sync::Notify,
}

impl Progress for Heard {
    fn tell(&self, event: &Event) {
        self.events
            .lock()
            .expect("nobody panics with it")
            .push(event.clone());
        self.more.notify_waiters();
    }
}

impl Heard {
    fn any(&self, matches: impl Fn(&Event) -> bool) -> bool {
        self.events
            .lock()
            .expect("nobody panics with it")
            .iter()
            .any(matches)
    }

    /// Prepares, listening.
    async fn prepared(&self, config: &Prepare) -> Report {
        soon(prepare::run(config, self))
            .await
            .expect("it can be prepared")
    }

    fn said(&self, text: &str) -> bool {
        self.any(|event| event.to_string().contains(text))
    }

    /// Waits until such an event was told.
    async fn wait(&self, matches: impl Fn(&Event) -> bool) {
        let heard = async {
            loop {
                let more = self.more.notified();
                if self.any(&matches) {
                    return;
                }
                more.await;
            }
        };
        soon(heard).await;
    }
}

/// Ends a hang.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("no end within PATIENCE")
}

async fn run(config: &Prepare) -> Result<Report, Error> {
    soon(prepare::run(config, &Heard::default())).await
}

async fn prepared(config: &Prepare) -> Report {
    run(config).await.expect("it can be prepared")
}

async fn refused(config: &Prepare) -> Error {
    run(config).await.expect_err("it cannot be prepared")
}

async fn plan(config: &Prepare) -> Plan {
    soon(prepare::plan(config, &Heard::default()))
        .await
        .expect("it can be planned")
}

/// Runs a test's own SQL.
async fn sql(client: &Client, sql: &str) {
    client.batch_execute(sql).await.expect("the test's own SQL");
}

/// The one value the query gives.
async fn value<T: FromSqlOwned>(client: &Client, sql: &str) -> T {
    client
        .query_one(sql, &[])
        .await
        .expect("the test's own SQL")
        .get(0)
}

async fn number(client: &Client, sql: &str) -> i64 {
    value(client, sql).await
}

async fn text(client: &Client, sql: &str) -> String {
    value(client, sql).await
}

/// Waits until the query gives true.
async fn until(client: &Client, sql: &str) {
    let true_now = async {
        while !value::<bool>(client, sql).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(true_now).await;
}

/// `name state` of every ledger row, by name.
async fn ledger(client: &Client) -> Vec<String> {
    let sql = "SELECT name || ' ' || state FROM pgweir.migrations ORDER BY name";
    client
        .query(sql, &[])
        .await
        .expect("there is a ledger")
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn files_are_applied_once_in_order_with_their_ledger_rows() {
    let server = postgres();
    let folder = Folder::with(&[
        ("002_b.sql", "INSERT INTO a VALUES (2);"),
        (
            "001_a.sql",
            "CREATE TABLE a (n int); INSERT INTO a VALUES (1);",
        ),
        ("README.md", "not SQL"),
    ]);
    let config = server.migrations(&folder);
    assert_eq!(prepared(&config).await.applied, ["001_a", "002_b"]);
    let client = server.connect().await;
    assert_eq!(ledger(&client).await, ["001_a finished", "002_b finished"]);
    assert_eq!(number(&client, "SELECT sum(n)::int8 FROM a").await, 3);
    assert!(
        text(&client, "SELECT who FROM pgweir.migrations LIMIT 1")
            .await
            .contains(", pgweir ")
    );
    let whole =
        "SELECT count(*) FROM pgweir.migrations WHERE length(checksum) = 64 AND duration >= '0'";
    assert_eq!(number(&client, whole).await, 2);

    assert!(prepared(&config).await.applied.is_empty());
    assert_eq!(number(&client, "SELECT sum(n)::int8 FROM a").await, 3);
}

#[tokio::test]
async fn two_instances_at_once_do_the_work_once() {
    let server = postgres();
    let folder = Folder::with(&[
        (
            "001_i.sql",
            "-- pgweir: no-transaction\nCREATE INDEX CONCURRENTLY i ON t (n);",
        ),
        ("002_n.sql", "INSERT INTO t VALUES (2);"),
    ]);
    let mut config =
        server.seed("sleep 1; sql 'CREATE TABLE t (n int)'; sql 'INSERT INTO t VALUES (1)'");
    config.migrations = Some(folder.0.clone());
    let (one, two) = (Heard::default(), Heard::default());
    let both = async { tokio::join!(prepare::run(&config, &one), prepare::run(&config, &two)) };
    let (first, second) = soon(Box::pin(both)).await;
    let (first, second) = (first.expect("the first"), second.expect("the second"));

    let client = server.connect().await;
    assert_eq!(number(&client, "SELECT sum(n)::int8 FROM t").await, 3);
    assert_eq!(
        ledger(&client).await,
        ["001_i finished", "002_n finished", "seed finished"]
    );
    assert_eq!(first.applied.len() + second.applied.len(), 2);
    assert!(first.seeded.is_some() != second.seeded.is_some());
    let waited = |heard: &Heard| heard.any(|e| matches!(e, Event::WaitingForOther { .. }));
    assert!(waited(&one) != waited(&two));
}

#[tokio::test]
async fn dropping_the_future_kills_the_seeding_and_the_next_start_says_so() {
    let server = postgres();
    let client = server.connect().await;
    sql(&client, "CREATE TABLE runs (n int)").await;
    let mark = format!("600.{}", server.port);
    let cut_short = server.seed(&format!(
        "sql 'INSERT INTO runs VALUES (1)'; sleep {mark} & echo half; sleep {mark}"
    ));
    let heard = Heard::default();
    tokio::select! {
        _ = prepare::run(&cut_short, &heard) => panic!("it sleeps"),
        () = heard.wait(|e| e.to_string().contains("half")) => {}
    }
    assert_eq!(ledger(&client).await, ["seed running"]);
    gone(&mark).await;

    // What the first half left makes `unless` true; it must not count.
    let mut again = server.seed("sql 'INSERT INTO runs VALUES (2)'");
    again.unless = Some("SELECT count(*) > 0 FROM runs".to_owned());
    assert!(matches!(plan(&again).await.seed, Some(Seed::Again { .. })));
    let heard = Heard::default();
    let report = heard.prepared(&again).await;
    assert!(report.seeded.is_some() && heard.said("was cut short"));
    assert_eq!(ledger(&client).await, ["seed finished"]);

    assert_eq!(prepared(&again).await.seeded, None);
    assert_eq!(number(&client, "SELECT sum(n)::int8 FROM runs").await, 3);
}

/// Waits until no process with `mark` among its arguments is left.
async fn gone(mark: &str) {
    let gone = async {
        while runs(mark) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(gone).await;
}

/// Whether such a process runs. One that only waits to be reaped has no
/// arguments any more.
fn runs(mark: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("Linux has it");
    let mut arguments =
        processes.filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok());
    arguments.any(|arguments| arguments.contains(mark))
}

#[tokio::test]
async fn a_failed_seeding_shows_its_last_words_and_stops_everything() {
    let server = postgres();
    let folder = Folder::with(&[("001_a.sql", "CREATE TABLE a (n int)")]);
    let mark = format!("600.{}", server.port);
    let mut config = server.seed(&format!("sleep {mark} & echo no space left >&2; exit 3"));
    config.migrations = Some(folder.0.clone());
    let error = refused(&config).await;
    let shown = error.to_string();
    assert!(matches!(error, Error::Seed { .. }), "{shown}");
    assert!(
        shown.contains("status 3") && shown.contains("no space left"),
        "{shown}"
    );
    let client = server.connect().await;
    assert_eq!(ledger(&client).await, ["seed failed"]);
    gone(&mark).await;
}

#[tokio::test]
async fn a_seed_command_that_is_not_there_is_named() {
    let server = postgres();
    let mut config = server.prepare();
    config.seed = vec!["/no/such/program".to_owned()];
    let shown = refused(&config).await.to_string();
    assert!(
        shown.contains("/no/such/program: cannot be started"),
        "{shown}"
    );
}

#[tokio::test]
async fn seeding_progress_is_a_percentage() {
    let server = postgres();
    let config = server.seed(r#"echo '{"msg":"Session inserted","i":1000,"total":4000}'"#);
    let heard = Heard::default();
    heard.prepared(&config).await;
    assert!(heard.any(|e| matches!(
        e,
        Event::Seed {
            done: 1000,
            total: 4000,
            ..
        }
    )));
}

#[tokio::test]
async fn unless_decides_about_a_seeding_that_never_ran() {
    let server = postgres();
    let mut config = server.seed("sql 'CREATE TABLE t AS SELECT 1 AS n'");
    config.unless = Some("SELECT count(*) = 1 FROM t".to_owned());
    assert!(
        matches!(plan(&config).await.seed, Some(Seed::Run { .. })),
        "no table is no reason to skip"
    );
    let client = server.connect().await;
    sql(&client, "CREATE TABLE t AS SELECT 1 AS n").await;
    assert_eq!(plan(&config).await.seed, Some(Seed::Unneeded));
    assert_eq!(prepared(&config).await.seeded, None);
    sql(&client, "DROP TABLE t").await;
    assert!(prepared(&config).await.seeded.is_some());
}

#[tokio::test]
async fn unless_cannot_change_anything() {
    let server = postgres();
    let mut config = server.seed("true");
    let client = server.connect().await;
    sql(&client, "CREATE TABLE t (n int)").await;
    config.unless = Some("INSERT INTO t VALUES (1) RETURNING true".to_owned());
    let error = refused(&config).await;
    assert!(
        matches!(error, Error::Setting { name: "unless", .. }),
        "{error}"
    );
    config.unless = Some("SELECT 1".to_owned());
    let shown = refused(&config).await.to_string();
    assert!(shown.contains("one boolean"), "{shown}");
}

#[tokio::test]
async fn the_seeding_of_a_start_that_was_killed_is_waited_for() {
    let server = postgres();
    let client = server.connect().await;
    prepared(&server.seed("true")).await;
    let mut orphan = Command::new("sleep")
        .arg("600")
        .spawn()
        .expect("sleep is installed");
    let stat = fs::read_to_string(format!("/proc/{}/stat", orphan.id())).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("the name ends");
    let start = fields.split_whitespace().nth(19).expect("field 22");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has it");
    let child = format!("{}:{start}:{}", orphan.id(), boot.trim());
    let mark = "UPDATE pgweir.migrations SET state = 'running', child = $1";
    client
        .execute(mark, &[&child])
        .await
        .expect("the test's own SQL");

    let (config, heard) = (server.seed("true"), Heard::default());
    let mut running = std::pin::pin!(prepare::run(&config, &heard));
    tokio::select! {
        _ = &mut running => panic!("two seedings at once"),
        () = heard.wait(|e| matches!(e, Event::WaitingForSeed { .. })) => {}
    }
    assert!(!heard.any(|e| matches!(e, Event::Seeding { .. })));
    orphan.kill().expect("it runs");
    orphan.wait().expect("it is our child");
    assert!(
        soon(running)
            .await
            .expect("it can be prepared")
            .seeded
            .is_some()
    );
}

#[tokio::test]
async fn the_death_of_the_lock_ends_the_seeding_and_lets_the_next_one_in() {
    let server = postgres();
    let client = server.connect().await;
    let (config, heard) = (server.seed("echo begun; sleep 600"), Heard::default());
    let mut running = std::pin::pin!(prepare::run(&config, &heard));
    tokio::select! {
        _ = &mut running => panic!("it sleeps"),
        () = heard.wait(|e| e.to_string().contains("begun")) => {}
    }
    let holder = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
         WHERE locktype = 'advisory' AND granted AND (classid::int8 << 32) + objid::int8 = {}",
        prepare::LOCK_KEY
    );
    assert_eq!(number(&client, &holder).await, 1);
    let error = soon(running).await.expect_err("the lock is lost");
    assert!(
        matches!(
            error,
            Error::Lost {
                during: "seeding",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(ledger(&client).await, ["seed running"]);
    assert!(prepared(&server.seed("true")).await.seeded.is_some());
}

#[tokio::test]
async fn an_edited_file_stops_everything_and_names_both_checksums() {
    let server = postgres();
    let folder = Folder::with(&[("001_a.sql", "CREATE TABLE a (n int)")]);
    let config = server.migrations(&folder);
    prepared(&config).await;
    folder.write("001_a.sql", "CREATE TABLE a (n int8)");
    folder.write("002_b.sql", "CREATE TABLE b (n int)");
    let planned = plan(&config).await;
    assert!(
        matches!(planned.migrations[0].status, Status::Edited { .. }),
        "{planned}"
    );

    let error = refused(&config).await;
    let shown = error.to_string();
    let Error::Edited { applied, found, .. } = error else {
        panic!("{shown}")
    };
    assert!(
        shown.contains("001_a.sql") && shown.contains(&applied) && shown.contains(&found),
        "{shown}"
    );
    assert_ne!(applied, found);
    assert_eq!(ledger(&server.connect().await).await, ["001_a finished"]);
}

#[tokio::test]
async fn a_row_without_its_file_is_a_warning() {
    let server = postgres();
    let folder = Folder::with(&[("001_a.sql", "SELECT 1"), ("002_b.sql", "SELECT 1")]);
    let config = server.migrations(&folder);
    prepared(&config).await;
    fs::remove_file(folder.0.join("001_a.sql")).expect("it was written");
    let heard = Heard::default();
    heard.prepared(&config).await;
    assert!(heard.any(|e| e.is_warning() && e.to_string().contains("001_a.sql")));
}

#[tokio::test]
async fn two_files_with_one_number_are_refused_before_anything_else() {
    let folder = Folder::with(&[("001_a.sql", ""), ("001_b.sql", "")]);
    let nowhere = Dsn {
        port: 1,
        server: None,
        folder: Folder::new("none"),
    };
    let error = refused(&nowhere.migrations(&folder)).await;
    assert!(matches!(error, Error::File { .. }), "{error}");
}

#[tokio::test]
async fn a_failing_file_leaves_nothing_but_its_error() {
    let server = postgres();
    let folder = Folder::with(&[(
        "001_a.sql",
        "CREATE TABLE a (n int);\nSELECT 1,\n  nonsense;",
    )]);
    let config = server.migrations(&folder);
    let shown = refused(&config).await.to_string();
    assert!(
        shown.contains("001_a.sql:3: column \"nonsense\" does not exist"),
        "{shown}"
    );
    let client = server.connect().await;
    assert_eq!(
        text(&client, "SELECT COALESCE(to_regclass('a')::text, 'none')").await,
        "none"
    );
    let noted = text(
        &client,
        "SELECT error FROM pgweir.migrations WHERE state = 'failed'",
    )
    .await;
    assert!(noted.contains("nonsense"), "{noted}");

    folder.write("001_a.sql", "CREATE TABLE a (n int)");
    assert_eq!(prepared(&config).await.applied, ["001_a"]);
}

#[tokio::test]
async fn a_file_without_a_transaction_goes_on_where_it_failed() {
    let server = postgres();
    let client = server.connect().await;
    sql(&client, "CREATE TABLE t (n int)").await;
    let head = "-- pgweir: no-transaction\nINSERT INTO t VALUES (1);\nVACUUM t;\n";
    let folder = Folder::with(&[("001_a.sql", &format!("{head}INSERT INTO t VALUES (1/0);"))]);
    let config = server.migrations(&folder);
    let shown = refused(&config).await.to_string();
    assert!(shown.contains("001_a.sql:4: division by zero"), "{shown}");
    assert_eq!(
        plan(&config).await.migrations[0].to_string(),
        "001_a: pending, 2 of 3 statements done"
    );

    folder.write("001_a.sql", &format!("{head}INSERT INTO t VALUES (2);"));
    prepared(&config).await;
    assert_eq!(number(&client, "SELECT sum(n)::int8 FROM t").await, 3);
}

#[tokio::test]
async fn every_kind_of_statement_survives_the_cut() {
    let server = postgres();
    let folder = Folder::with(&[(
        "001_all.sql",
        r#"-- pgweir: no-transaction
        CREATE TABLE "a;b" (n int, t text); /* ; /* nested; */ ' */
        CREATE FUNCTION one() RETURNS int LANGUAGE sql BEGIN ATOMIC; SELECT CASE WHEN true THEN 1 END; END;
        CREATE FUNCTION two() RETURNS int LANGUAGE plpgsql AS $fn$ BEGIN RETURN 2; END; $fn$;
        CREATE RULE r AS ON DELETE TO "a;b" DO INSTEAD (SELECT 1; SELECT 2);
        DO $$ BEGIN PERFORM 1; PERFORM $x$;$x$; END $$;
        INSERT INTO "a;b" VALUES (one() + two(), 'it''s;' || E'\';' || E'x'
            '\';' || U&'d\0061t;'); -- the end;"#,
    )]);
    prepared(&server.migrations(&folder)).await;
    let client = server.connect().await;
    assert_eq!(
        text(&client, r#"SELECT n || t FROM "a;b""#).await,
        "3it's;';x';dat;"
    );
    assert_eq!(
        number(&client, "SELECT statements::int8 FROM pgweir.migrations").await,
        6
    );
}

/// A table of `n` from 1 to 1000.
async fn thousand(client: &Client) {
    sql(
        client,
        "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n",
    )
    .await;
}

const CONCURRENT: &str =
    "-- pgweir: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n);";
const INDEX_IS_VALID: &str = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')";

#[tokio::test]
async fn an_invalid_index_does_not_count_as_built() {
    let server = postgres();
    let client = server.connect().await;
    thousand(&client).await;
    sql(&client, "INSERT INTO t VALUES (1)").await;
    let built = client
        .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)")
        .await;
    assert!(built.is_err());
    sql(
        &client,
        "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)",
    )
    .await;
    assert!(!value::<bool>(&client, INDEX_IS_VALID).await);

    let folder = Folder::with(&[("001_i.sql", CONCURRENT)]);
    let config = server.migrations(&folder);
    assert_eq!(
        plan(&config).await.migrations[0].to_string(),
        "001_i: pending, would repair index public.i"
    );
    assert_eq!(prepared(&config).await.repaired, ["public.i"]);
    assert!(value::<bool>(&client, INDEX_IS_VALID).await);
}

#[tokio::test]
async fn an_index_that_turned_invalid_later_is_built_again() {
    let server = postgres();
    let client = server.connect().await;
    thousand(&client).await;
    for script in [CONCURRENT, "CREATE INDEX i ON t (n)"] {
        let folder = Folder::with(&[("001_i.sql", script)]);
        let config = server.migrations(&folder);
        prepared(&config).await;
        let spoil = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass";
        sql(&client, spoil).await;
        assert_eq!(
            plan(&config).await.migrations[0].to_string(),
            "001_i: applied, would repair index public.i"
        );
        let report = prepared(&config).await;
        assert_eq!(
            (report.repaired, report.applied),
            (vec!["public.i".to_owned()], vec![])
        );
        assert!(value::<bool>(&client, INDEX_IS_VALID).await);
        sql(&client, "DROP TABLE t; DELETE FROM pgweir.migrations").await;
        thousand(&client).await;
    }
}

#[tokio::test]
async fn a_failed_concurrent_build_leaves_no_index_behind() {
    let server = postgres();
    let client = server.connect().await;
    thousand(&client).await;
    sql(&client, "INSERT INTO t VALUES (1)").await;
    let folder = Folder::with(&[("001_i.sql", CONCURRENT)]);
    let shown = refused(&server.migrations(&folder)).await.to_string();
    assert!(
        shown.contains("001_i.sql:2: ") && shown.contains("(n)=(1) is duplicated"),
        "{shown}"
    );
    assert_eq!(
        text(&client, "SELECT COALESCE(to_regclass('i')::text, 'none')").await,
        "none"
    );
}

#[tokio::test]
async fn a_build_cut_short_is_told_and_finished_by_the_next_start() {
    let server = postgres();
    let (client, writer) = (server.connect().await, server.connect().await);
    thousand(&client).await;
    // The build waits for this transaction.
    sql(&writer, "BEGIN; INSERT INTO t VALUES (1001)").await;
    let folder = Folder::with(&[("001_i.sql", CONCURRENT)]);
    let (config, heard) = (server.migrations(&folder), Heard::default());
    tokio::select! {
        _ = prepare::run(&config, &heard) => panic!("it waits for the writer"),
        () = heard.wait(|e| e.to_string().contains("waiting for writers before build")) => {}
    }
    assert_eq!(ledger(&client).await, ["001_i running"]);
    assert!(!value::<bool>(&client, INDEX_IS_VALID).await);
    // The server notices that its client is gone, although it only waits.
    until(
        &client,
        "SELECT count(*) = 0 FROM pg_stat_progress_create_index",
    )
    .await;
    sql(&writer, "COMMIT").await;
    assert_eq!(prepared(&config).await.repaired, ["public.i"]);
    assert!(value::<bool>(&client, INDEX_IS_VALID).await);
}

#[tokio::test]
async fn an_index_finished_after_its_client_died_is_taken_over() {
    let server = postgres();
    let client = server.connect().await;
    thousand(&client).await;
    let script = "-- pgweir: no-transaction\nCREATE INDEX CONCURRENTLY i ON t (n);";
    let folder = Folder::with(&[("001_i.sql", script)]);
    let config = server.migrations(&folder);
    prepared(&config).await;
    let unrecorded =
        "UPDATE pgweir.migrations SET state = 'running', statements = 0, applied = NULL";
    sql(&client, unrecorded).await;
    assert_eq!(prepared(&config).await.applied, ["001_i"]);

    // But an index that somebody else made is no proof of our work.
    sql(&client, "DELETE FROM pgweir.migrations").await;
    let shown = refused(&config).await.to_string();
    assert!(shown.contains("already exists"), "{shown}");
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let server = postgres();
    let client = server.connect().await;
    thousand(&client).await;
    let folder = Folder::with(&[
        ("001_i.sql", CONCURRENT),
        ("002_a.sql", "CREATE TABLE a (n int)"),
    ]);
    let mut config = server.seed("sql 'CREATE TABLE seeded (n int)'");
    config.migrations = Some(folder.0.clone());
    let objects = "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_namespace)";
    let before = number(&client, objects).await;
    let shown = plan(&config).await.to_string();
    assert_eq!(
        shown,
        "seed: would run sh\n001_i: pending\n002_a: pending\n"
    );
    assert_eq!(number(&client, objects).await, before);
}

#[tokio::test]
async fn a_migration_that_finds_its_table_in_use_steps_back_and_tries_again() {
    let server = postgres();
    let (client, reader) = (server.connect().await, server.connect().await);
    thousand(&client).await;
    sql(&reader, "BEGIN; SELECT 1 FROM t").await;
    let folder = Folder::with(&[("001_a.sql", "ALTER TABLE t ADD COLUMN x int")]);
    let (mut config, heard) = (server.migrations(&folder), Heard::default());
    config.lock_timeout = Duration::from_millis(100);
    let mut running = std::pin::pin!(prepare::run(&config, &heard));
    tokio::select! {
        _ = &mut running => panic!("the reader has the table"),
        () = heard.wait(|e| matches!(e, Event::Retrying { .. })) => {}
    }
    // Between two tries nothing waits in front of other readers.
    let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    assert_eq!(number(&client, waiting).await, 0);
    sql(&reader, "COMMIT").await;
    assert_eq!(
        soon(running).await.expect("it can be prepared").applied,
        ["001_a"]
    );
}

#[tokio::test]
async fn tries_end_with_the_setting_and_the_file_named() {
    let server = postgres();
    let (client, reader) = (server.connect().await, server.connect().await);
    thousand(&client).await;
    sql(&reader, "BEGIN; SELECT 1 FROM t").await;
    let folder = Folder::with(&[("001_a.sql", "ALTER TABLE t ADD COLUMN x int")]);
    let mut config = server.migrations(&folder);
    (config.lock_timeout, config.lock_retries) = (Duration::from_millis(50), 1);
    let error = refused(&config).await;
    let shown = error.to_string();
    assert!(matches!(error, Error::Locked { tries: 2, .. }), "{shown}");
    assert!(
        shown.contains("001_a.sql:1: ") && shown.contains("lock_retries"),
        "{shown}"
    );
    config.lock_timeout = Duration::ZERO;
    let error = refused(&config).await;
    assert!(
        matches!(
            error,
            Error::Setting {
                name: "lock_timeout",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_autovacuum_is_sent_away_within_lock_timeout() {
    let (server, client) = operated().await;
    let slow_vacuum = "
        CREATE TABLE t WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0,
                             autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100)
            AS SELECT n FROM generate_series(1, 100000) n;
        ALTER TABLE t OWNER TO app; DELETE FROM t WHERE n % 2 = 0";
    sql(&client, slow_vacuum).await;
    sql(&client, "ALTER SYSTEM SET autovacuum_naptime = '1s'").await;
    sql(&client, "SELECT pg_reload_conf()").await;
    let at_work = "SELECT count(*) > 0 FROM pg_stat_progress_vacuum WHERE relid = 't'::regclass";
    until(&client, at_work).await;
    let folder = Folder::with(&[("001_i.sql", "CREATE INDEX i ON t (n)")]);
    let mut config = server.migrations(&folder);
    (config.user, config.lock_retries) = ("pgweir_prepare".to_owned(), 0);
    prepared(&config).await;
}

/// bingo's tables with a few rows.
async fn bingo(client: &Client) {
    const TABLES: &str = "
        CREATE TABLE customers (id int4 NOT NULL, name varchar(80) NOT NULL, surname varchar(80) NOT NULL,
                                birthday date NOT NULL, email varchar(256) NOT NULL);
        CREATE TABLE movies (id int4 NOT NULL, name varchar NOT NULL, year int4 NOT NULL, duration int4 NOT NULL);
        CREATE TABLE sessions (id int8 NOT NULL, start_time timestamp NOT NULL, customer_id int4 NOT NULL,
                               movie_id int4 NOT NULL);
        INSERT INTO customers SELECT n, 'n' || n, 's' || n, '2000-01-01', 'e' FROM generate_series(1, 500) n;
        INSERT INTO movies SELECT n, 'm' || n, 1900 + n, 90 FROM generate_series(1, 29) n;
        INSERT INTO sessions SELECT n, '2020-01-01', n % 500, n % 29 FROM generate_series(1, 5000) n";
    sql(client, TABLES).await;
}

fn bingo_migrations() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")
}

#[tokio::test]
async fn the_index_migrations_need_no_lock_a_reader_would_wait_for() {
    let server = postgres();
    let (client, reader) = (server.connect().await, server.connect().await);
    bingo(&client).await;
    // Whatever blocks readers would have to wait for this one, for ever.
    let reading = "BEGIN; LOCK TABLE movies, customers, sessions IN ACCESS SHARE MODE";
    sql(&reader, reading).await;
    let mut config = server.prepare();
    (config.migrations, config.lock_retries) = (Some(bingo_migrations()), 0);
    prepared(&config).await;
    let indexes = "SELECT string_agg(indexdef, E'\\n' ORDER BY indexname) FROM pg_indexes WHERE schemaname = 'public'";
    let wanted = "\
        CREATE UNIQUE INDEX customers_id ON public.customers USING btree (id)\n\
        CREATE INDEX customers_surname_name ON public.customers USING btree (surname, name, birthday DESC, id DESC)\n\
        CREATE UNIQUE INDEX movies_id ON public.movies USING btree (id)\n\
        CREATE INDEX movies_year_name ON public.movies USING btree (year DESC, name, id DESC)\n\
        CREATE UNIQUE INDEX sessions_id ON public.sessions USING btree (id)\n\
        CREATE INDEX sessions_movie ON public.sessions USING btree (movie_id)";
    assert_eq!(text(&client, indexes).await, wanted);
    let analyzed = "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'public'";
    assert_eq!(number(&client, analyzed).await, 3);
}

#[tokio::test]
async fn a_prepared_database_is_left_alone() {
    let server = postgres();
    let (client, other) = (server.connect().await, server.connect().await);
    bingo(&client).await;
    let mut config = server.seed("true");
    config.migrations = Some(bingo_migrations());
    prepared(&config).await;
    // Any lock on a table, and the lock between instances, would be waited for.
    let everything = format!(
        "BEGIN; LOCK TABLE movies, customers, sessions IN ACCESS EXCLUSIVE MODE;
         LOCK TABLE pgweir.migrations IN EXCLUSIVE MODE; SELECT pg_advisory_lock({})",
        prepare::LOCK_KEY
    );
    sql(&other, &everything).await;
    let report = prepared(&config).await;
    assert_eq!((report.seeded, report.applied.len()), (None, 0));
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let mut server = postgres();
    drop(server.connect().await);
    server.stop();
    let (config, heard) = (server.prepare(), Heard::default());
    let mut running = std::pin::pin!(prepare::run(&config, &heard));
    tokio::select! {
        _ = &mut running => panic!("nobody listens"),
        () = heard.wait(|e| matches!(e, Event::WaitingForServer { .. })) => {}
    }
    server.server = Some(start(&server.folder, server.port));
    soon(running).await.expect("it can be prepared");
}

#[tokio::test]
async fn a_server_that_never_comes_is_named_with_the_setting() {
    let port = free_port();
    let nowhere = Dsn {
        port,
        server: None,
        folder: Folder::new("none"),
    };
    let mut config = nowhere.prepare();
    config.wait_timeout = Duration::from_millis(300);
    let error = refused(&config).await;
    let shown = error.to_string();
    assert!(matches!(error, Error::Unreachable { .. }), "{shown}");
    assert!(
        shown.contains(&format!("127.0.0.1:{port}")) && shown.contains("wait_timeout"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_wrong_name_is_no_reason_to_wait() {
    let server = postgres();
    drop(server.connect().await);
    for (user, dbname) in [("nobody", "postgres"), ("postgres", "nowhere")] {
        let config = Prepare {
            user: user.to_owned(),
            dbname: dbname.to_owned(),
            ..server.prepare()
        };
        let error = refused(&config).await;
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}

/// Runs a file of `sql/` as an operator does; gives what psql complained of.
fn psql(server: &Dsn, file: &str, variables: &[&str]) -> Result<(), String> {
    let mut psql = Command::new("psql");
    psql.args([
        "-X",
        "-q",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-d",
        "postgres",
        "-p",
    ]);
    psql.arg(server.port.to_string());
    psql.args(variables.iter().flat_map(|variable| ["-v", variable]));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(file);
    let ran = psql
        .arg("-f")
        .arg(path)
        .output()
        .expect("psql is installed");
    match ran.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
    }
}

/// A server with `sql/` applied twice, and bingo's tables owned by `app`.
async fn operated() -> (Dsn, Client) {
    let server = postgres();
    let client = server.connect().await;
    sql(
        &client,
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE app LOGIN PASSWORD 'app_pw'",
    )
    .await;
    for _ in 0..2 {
        psql(&server, "roles.sql", &[]).expect("it runs");
        psql(&server, "auth_query.sql", &[]).expect("it runs");
        psql(&server, "grants.sql", &["app_owner=app"]).expect("it runs");
    }
    bingo(&client).await;
    let owned = "ALTER TABLE customers OWNER TO app; ALTER TABLE movies OWNER TO app;
                 ALTER TABLE sessions OWNER TO app; GRANT CREATE ON SCHEMA public TO app";
    sql(&client, owned).await;
    (server, client)
}

/// Whether the server says "permission denied".
async fn denied(client: &Client, sql: &str) -> bool {
    let answered = client.batch_execute(sql).await;
    answered.is_err_and(|error| error.code().is_some_and(|code| code.code() == "42501"))
}

#[tokio::test]
async fn the_auth_query_role_reads_the_secret_it_asks_for_and_nothing_else() {
    let (server, client) = operated().await;
    let lookup = server
        .connect_as("pgweir_auth", "postgres")
        .await
        .expect("it may log in");
    let found = async |login: &str| {
        let asked = "SELECT name, secret FROM pgweir_auth.lookup($1)";
        let row = lookup
            .query_opt(asked, &[&login])
            .await
            .expect("it may ask");
        row.map(|row| (row.get::<_, String>(0), row.get::<_, Option<String>>(1)))
    };
    let (name, secret) = found("app").await.expect("it exists");
    assert_eq!(name, "app");
    assert!(
        secret
            .expect("it has a password")
            .starts_with("SCRAM-SHA-256$")
    );
    assert_eq!(found("nobody").await, None);
    assert_eq!(found("postgres").await, None, "a superuser");
    sql(&client, "ALTER ROLE app VALID UNTIL '2001-01-01'").await;
    assert_eq!(
        found("app").await,
        Some(("app".to_owned(), None)),
        "expired"
    );

    assert!(denied(&lookup, "SELECT rolpassword FROM pg_authid").await);
    assert!(denied(&lookup, "SELECT * FROM customers").await);
    let app = server
        .connect_as("app", "postgres")
        .await
        .expect("it may log in");
    assert!(denied(&app, "SELECT pgweir_auth.lookup('app')").await);
    assert!(denied(&app, "SELECT * FROM pg_catalog.pg_authid").await);
}

#[tokio::test]
async fn the_prepare_role_needs_no_more_than_its_grants() {
    let (server, client) = operated().await;
    let mut config = server.prepare();
    (config.user, config.migrations) = ("pgweir_prepare".to_owned(), Some(bingo_migrations()));
    assert_eq!(prepared(&config).await.applied.len(), 7);
    assert!(prepared(&config).await.applied.is_empty());
    let prepare = server
        .connect_as("pgweir_prepare", "postgres")
        .await
        .expect("it may log in");
    assert!(denied(&prepare, "CREATE SCHEMA other").await);
    assert!(denied(&prepare, "SELECT * FROM pg_authid").await);
    assert!(denied(&prepare, "SELECT pgweir_auth.lookup('app')").await);

    let monitor = server
        .connect_as("pgweir_monitor", "postgres")
        .await
        .expect("it may log in");
    assert_eq!(
        number(&monitor, "SELECT count(*) FROM pgweir.migrations").await,
        7
    );
    sql(&client, "SELECT 'seen'").await;
    let seen = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'postgres' AND query LIKE 'SELECT ''seen%'";
    assert_eq!(number(&monitor, seen).await, 1);
    assert!(denied(&monitor, "SELECT * FROM customers").await);
    sql(&monitor, "SET default_transaction_read_only = off").await;
    assert!(denied(&monitor, "DELETE FROM pgweir.migrations").await);
}

#[tokio::test]
async fn grants_without_an_owner_change_nothing() {
    let server = postgres();
    let client = server.connect().await;
    psql(&server, "roles.sql", &[]).expect("it runs");
    let complaint = psql(&server, "grants.sql", &[]).expect_err("no owner");
    assert!(complaint.contains("app_owner=ROLE"), "{complaint}");
    assert_eq!(
        text(
            &client,
            "SELECT COALESCE(to_regnamespace('pgweir')::text, 'none')"
        )
        .await,
        "none"
    );
}
