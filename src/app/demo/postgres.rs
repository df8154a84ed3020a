//! The private PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::account::Account;
use super::place::{Place, cannot};
use super::programs::Programs;
use super::scale::Scale;
use super::secrets::Secrets;
use super::service::{self, Farewell, Service};
use super::tuning;

/// Recovery after a crash at full scale, on a slow disk.
pub const START_LIMIT: Duration = Duration::from_secs(180);

/// What is left of an earlier run is gone by then, or is ended.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Fast shutdown, then immediate.
const FAREWELL: Farewell = &[
    (Signal::INT, Duration::from_secs(30)),
    (Signal::QUIT, Duration::from_secs(6)),
];

/// One database cluster of the demo.
#[derive(Debug)]
pub struct Postgres<'a> {
    pub place: &'a Place,
    pub account: &'a Account,
    pub programs: &'a Programs,
    pub scale: Scale,
    pub port: u16,
}

impl Postgres<'_> {
    fn data(&self) -> PathBuf {
        let name = format!("postgres/{}-{}", self.programs.major(), self.scale);
        self.place.path(&name)
    }

    /// Whether its folder was made before.
    pub fn is_there(&self) -> bool {
        self.data().exists()
    }

    /// Makes its folder. One that was half made is made again.
    ///
    /// # Errors
    /// initdb failed, and why.
    pub async fn init(&self, secrets: &Secrets) -> Result<(), String> {
        self.place.private_folder("postgres")?;
        let (data, new) = (self.data(), self.data().with_extension("new"));
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|error| cannot("remove", &new, &error))?;
        }
        self.place
            .write("initdb.password", &format!("{}\n", secrets.postgres()))?;
        let password = self.place.path("initdb.password");
        let mut initdb =
            self.account
                .command(&self.programs.path("initdb"), self.place.root(), "KILL");
        initdb
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&new);
        let made = service::run("initdb", initdb, &self.place.path("log/initdb.log")).await;
        fs::remove_file(&password).map_err(|error| cannot("remove", &password, &error))?;
        made?;
        fs::rename(&new, &data).map_err(|error| cannot("rename", &new, &error))
    }

    /// Makes sure that nothing of an earlier run is at work in the folder.
    ///
    /// # Errors
    /// The system's.
    pub async fn clear(&self) -> Result<(), String> {
        let lock = self.data().join("postmaster.pid");
        let begun = Instant::now();
        while let Some(pid) = postmaster(&lock, &self.data()) {
            if begun.elapsed() > LEFTOVER_LIMIT {
                // It is ours by its command line, and had its time to end.
                let _ = kill_process(pid, Signal::QUIT);
            }
            sleep(Duration::from_millis(200)).await;
        }
        // The number in it may be another process's by now, which PostgreSQL
        // would take for itself.
        match lock.exists() {
            true => fs::remove_file(&lock).map_err(|error| cannot("remove", &lock, &error)),
            false => Ok(()),
        }
    }

    /// The server.
    ///
    /// # Errors
    /// Its configuration cannot be written.
    pub fn service(&self) -> Result<Service, String> {
        let data = self.data();
        let rules = "host all all 127.0.0.1/32 scram-sha-256\n";
        self.place.write("pg_hba.conf", rules)?;
        self.place.write(
            "postgresql.conf",
            &tuning::configuration(self.port, &self.place.path("pg_hba.conf")),
        )?;
        let program = self.programs.path("postgres");
        let (account, root) = (self.account.clone(), self.place.root().to_owned());
        let configuration = format!(
            "config_file={}",
            self.place.path("postgresql.conf").display()
        );
        Ok(Service {
            name: "PostgreSQL".to_owned(),
            // QUIT takes its children along, KILL would leave them at work.
            command: Box::new(move |_| {
                let mut command = account.command(&program, &root, "QUIT");
                command.arg("-D").arg(&data).args(["-c", &configuration]);
                command
            }),
            log: self.place.path("log/postgres.log"),
            // Last: the others use it.
            turn: 3,
            farewell: FAREWELL,
            watch: None,
        })
    }

    /// Whether it lets the superuser in.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn answers(&self, secrets: &Secrets) -> Result<(), String> {
        connect(self.port, "postgres", secrets.postgres(), "postgres")
            .await
            .map(drop)
    }

    /// Makes the application's user and database, unless they are there.
    ///
    /// # Errors
    /// The server's.
    pub async fn provide(&self, secrets: &Secrets) -> Result<(), String> {
        let client = connect(self.port, "postgres", secrets.postgres(), "postgres").await?;
        let words = [
            (
                "SELECT FROM pg_roles WHERE rolname = 'bingo'",
                "CREATE ROLE bingo",
            ),
            (
                "SELECT FROM pg_database WHERE datname = 'bingo'",
                "CREATE DATABASE bingo OWNER bingo",
            ),
        ];
        for (is_there, make) in words {
            let rows = client
                .query(is_there, &[])
                .await
                .map_err(|error| in_full(&error))?;
            if rows.is_empty() {
                client
                    .batch_execute(make)
                    .await
                    .map_err(|error| in_full(&error))?;
            }
        }
        let password = format!("ALTER ROLE bingo LOGIN PASSWORD '{}'", secrets.bingo());
        client
            .batch_execute(&password)
            .await
            .map_err(|error| in_full(&error))
    }
}

/// The server that `postmaster.pid` names, if it runs on `data`.
fn postmaster(lock: &Path, data: &Path) -> Option<Pid> {
    use std::os::unix::ffi::OsStrExt;
    let text = fs::read_to_string(lock).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let is_ours = words
        .split(|&b| b == 0)
        .any(|word| word == data.as_os_str().as_bytes());
    is_ours.then(|| Pid::from_raw(pid)).flatten()
}

/// Logs in on this machine.
///
/// # Errors
/// Why not.
pub async fn connect(
    port: u16,
    user: &str,
    password: &str,
    database: &str,
) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(user)
        .password(password)
        .dbname(database)
        .application_name("pgweir demo")
        .connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(|error| in_full(&error))?;
    // Ends by itself when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}

/// An error with what is behind it.
fn in_full(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_is_no_postmaster() {
        let lock = std::env::temp_dir().join(format!("pgweir-lock-{}.pid", std::process::id()));
        fs::write(&lock, format!("{}\n/data\n", std::process::id())).expect("writable");
        let found = postmaster(&lock, Path::new("/data"));
        fs::remove_file(&lock).expect("there");
        assert_eq!(found, None);
    }
}
