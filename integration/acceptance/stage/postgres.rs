//! A private PostgreSQL whose data are kept between runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, NoTls};

use super::child::{Account, Process};
use crate::problem::{During, Problem, chain};

/// How long it may take to start: after a crash it recovers first.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long one login may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The superuser, and the user of the application.
pub(crate) const SUPERUSER: &str = "postgres";
pub(crate) const USER: &str = "bingo";

/// The password of both. The server listens on loopback only and is no secret.
pub(crate) const PASSWORD: &str = "acceptance";

const HBA: &str = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// Everything but this is PostgreSQL's default, `fsync = on` among it.
const SETTINGS: [&str; 7] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=512MB",
    "work_mem=64MB",
    "maintenance_work_mem=256MB",
    "max_wal_size=4GB",
];

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    _process: Process,
    pub(crate) port: u16,
}

impl Postgres {
    /// Starts it on `folder`/data, which is made if it is not there.
    pub(crate) async fn start(
        account: &Account,
        folder: &Path,
        port: u16,
    ) -> Result<Postgres, Problem> {
        account.make_folder(folder)?;
        let data = folder.join("data");
        if !data.exists() {
            init(account, folder, &data)?;
        }
        let mut command = account.command(&binary("postgres"), "INT");
        command.arg("-D").arg(&data).current_dir(folder);
        command.arg(format!("--port={port}"));
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let log = folder.join("postgres.log");
        // INT is PostgreSQL's fast shutdown: clients are not waited for.
        let mut process = Process::start("PostgreSQL", command, Signal::INT, &log)?;
        let begun = Instant::now();
        while let Err(problem) = connect(port, SUPERUSER, "postgres").await {
            process.must_run()?;
            if begun.elapsed() > PATIENCE {
                return Err(problem);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Postgres {
            _process: process,
            port,
        })
    }

    /// A superuser's direct session.
    pub(crate) async fn session(&self, database: &str) -> Result<Client, Problem> {
        connect(self.port, SUPERUSER, database).await
    }

    /// Makes the application's user, and a database of it unless it is there.
    pub(crate) async fn make_database(&self, name: &str) -> Result<(), Problem> {
        let session = self.session("postgres").await?;
        if is_missing(&session, "pg_roles WHERE rolname", USER).await? {
            let create = format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'");
            session.batch_execute(&create).await.during(create)?;
        }
        if is_missing(&session, "pg_database WHERE datname", name).await? {
            let create = format!("CREATE DATABASE {name} OWNER {USER}");
            session.batch_execute(&create).await.during(create)?;
        }
        Ok(())
    }

    /// Drops a database with whoever uses it.
    pub(crate) async fn drop_database(&self, name: &str) -> Result<(), Problem> {
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        let session = self.session("postgres").await?;
        session.batch_execute(&drop).await.during(drop)
    }
}

async fn is_missing(session: &Client, place: &str, name: &str) -> Result<bool, Problem> {
    let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {place} = '{name}')");
    let row = session.query_one(&sql, &[]).await.during(&sql)?;
    Ok(row.get(0))
}

/// A connection to a server or pooler, to be driven by somebody.
pub(crate) type Wire = tokio_postgres::Connection<tokio_postgres::Socket, NoTlsStream>;

/// Logs in at a server or pooler on this machine.
///
/// # Errors
/// It does not answer in time, or refuses.
pub(crate) async fn connect(port: u16, user: &str, database: &str) -> Result<Client, Problem> {
    let (client, wire) = login(port, user, database).await?;
    // Its end shows in the client.
    tokio::spawn(wire);
    Ok(client)
}

/// Logs in and leaves it to the caller to drive the connection.
///
/// # Errors
/// It does not answer in time, or refuses.
pub(crate) async fn login(
    port: u16,
    user: &str,
    database: &str,
) -> Result<(Client, Wire), Problem> {
    let place = format!("login as {user} to {database} on port {port}");
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(user)
        .password(PASSWORD)
        .dbname(database);
    let login = tokio::time::timeout(LOGIN_TIMEOUT, config.connect(NoTls));
    let login = login
        .await
        .map_err(|_| Problem::new(format!("{place}: no answer in {LOGIN_TIMEOUT:?}")))?;
    login.map_err(|error| Problem::new(format!("{place}: {}", chain(&error))))
}

/// Makes the data folder, under another name until it is complete.
fn init(account: &Account, folder: &Path, data: &Path) -> Result<(), Problem> {
    let unfinished = folder.join("data.new");
    let secret = folder.join("password");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).during(unfinished.display())?;
    }
    account.write(&secret, PASSWORD)?;
    let mut initdb = account.command(&binary("initdb"), "KILL");
    initdb
        .arg("-D")
        .arg(&unfinished)
        .arg("--pwfile")
        .arg(&secret);
    initdb.args(["-U", SUPERUSER, "-A", "scram-sha-256", "--no-instructions"]);
    initdb.args(["--locale=C", "--encoding=UTF8"]);
    let output = initdb.current_dir(folder).output().during("initdb")?;
    if !output.status.success() {
        return Err(Problem::new(format!(
            "initdb has ended with {}: {}\nThe account it runs under must be able to enter {}; FOLDER names another place",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            folder.display()
        )));
    }
    account.write(&unfinished.join("pg_hba.conf"), HBA)?;
    std::fs::rename(&unfinished, data).during(data.display())
}

/// A program of PostgreSQL: the newest of Debian's folders, or on the PATH.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let newest = versions
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path().join("bin").join(name);
            path.exists().then_some((version, path))
        })
        .max();
    newest.map_or_else(|| PathBuf::from(name), |(_, path)| path)
}
