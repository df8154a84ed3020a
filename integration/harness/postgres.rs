//! A private PostgreSQL on a port of the kernel's choice: one that all tests
//! share, and others for tests that stop, kill or freeze theirs.

use super::process::{self, Folder};
use super::wire::{Login, Wire};
use super::{DEADLINE, becomes, eventually};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, OnceLock};

/// Databases of the shared instance that tests use one at a time.
const LEASABLE: usize = 10;

/// Shown by the tests' own connections, which no test counts.
const OWN_NAME: &str = "harness";

/// The users every instance has, each with the password `NAME_pw`, and the
/// method by which they have to log in over TCP.
const USERS: [(&str, &str); 7] = [
    ("alice", "trust"),
    ("bob", "trust"),
    ("carol", "trust"),
    ("admin", "trust"),
    ("plain_user", "password"),
    ("md5_user", "md5"),
    ("scram_user", "scram-sha-256"),
];

/// The password of one of the users.
pub(crate) fn password_of(user: &str) -> String {
    format!("{user}_pw")
}

/// A running instance.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Mutex<Option<Child>>,
    folder: Folder,
    pub(crate) port: u16,
    /// Which of the leasable databases are taken.
    taken: Mutex<[bool; LEASABLE]>,
    given_back: Condvar,
}

impl Postgres {
    /// The instance that all tests share; nobody may stop it.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::dedicated)
    }

    /// An instance of one's own.
    pub(crate) fn dedicated() -> Self {
        let folder = Folder::for_data("postgres");
        let data = folder.path().join("data");
        let mut copy = process::server_command(Path::new("cp"), "KILL");
        copy.arg("-a").arg(template()).arg(&data);
        let copied = process::spawn(copy).wait().expect("cp ends");
        assert!(copied.success(), "the template is copied");
        let mut postgres = Self {
            child: Mutex::new(None),
            folder,
            port: 0,
            taken: Mutex::new([false; LEASABLE]),
            given_back: Condvar::new(),
        };
        // Another process may take the free port before this one does.
        eventually("PostgreSQL starts", || {
            postgres.port = free_port();
            postgres.try_start()
        });
        postgres
    }

    /// Starts it again, on the same port.
    pub(crate) fn start(&self) {
        eventually("PostgreSQL starts", || self.try_start());
    }

    /// One try; why it ended otherwise.
    fn try_start(&self) -> Result<(), String> {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join("log")).expect("our own folder");
        let mut command = process::server_command(&binary("postgres"), "QUIT");
        command
            .arg("-D")
            .arg(folder.join("data"))
            .arg(format!("--port={}", self.port))
            .arg(format!("--unix_socket_directories={}", folder.display()))
            .args(["--listen_addresses=127.0.0.1", "--max_connections=300"])
            .args(["--shared_buffers=32MB", "--autovacuum=off"])
            .args(["--fsync=off", "--full_page_writes=off"])
            // Inside the data folder, which the cleaner removes.
            .arg("--dynamic_shared_memory_type=mmap")
            .current_dir(folder)
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log);
        let mut child = process::spawn(command);
        let runs = eventually("PostgreSQL answers or ends", || match child.try_wait() {
            Ok(Some(_)) => Ok(false),
            _ if answers(self.address()) => Ok(true),
            _ => Err("it does not answer".to_owned()),
        });
        if !runs {
            return Err(std::fs::read_to_string(folder.join("log")).unwrap_or_default());
        }
        *self.child.lock().expect("nobody panics with it") = Some(child);
        Ok(())
    }

    /// Ends it: `TERM` waits for clients, `INT` ends them, `QUIT` crashes.
    pub(crate) fn stop(&self, signal: rustix::process::Signal) {
        let child = self.child.lock().map_or(None, |mut child| child.take());
        if let Some(mut child) = child {
            rustix::process::kill_process(pid_of(&child), signal).ok();
            child.wait().expect("it is our child");
        }
    }

    /// Where its Unix socket is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A superuser's session that no test counts.
    pub(crate) fn session(&self, database: &str) -> Wire {
        Login::new("postgres", database)
            .parameter("application_name", OWN_NAME)
            .at(self.address())
            .unwrap_or_else(|error| panic!("a session on {database}: {error:?}"))
    }

    /// A database for one test alone: empty, and without any other session.
    /// Waits until one is free.
    pub(crate) fn lease(&self) -> Database<'_> {
        let mut taken = self.taken.lock().expect("nobody panics with it");
        let number = loop {
            match taken.iter().position(|taken| !taken) {
                Some(number) => break number,
                None => taken = self.given_back.wait(taken).expect("nobody panics with it"),
            }
        };
        taken[number] = true;
        drop(taken);
        let database = Database {
            postgres: self,
            number,
            name: format!("p{number}"),
        };
        let mut session = self.session(&database.name);
        let name = &database.name;
        session.run(&format!(
            "alter database {name} connection limit -1;
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = '{name}' and pid <> pg_backend_pid();
             drop schema public cascade; create schema public; grant all on schema public to public"
        ));
        becomes("an unused database has no sessions", 0, || {
            database.backends().len()
        });
        database
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::QUIT);
    }
}

/// A database that one test has for itself.
#[derive(Debug)]
pub(crate) struct Database<'a> {
    postgres: &'a Postgres,
    number: usize,
    pub(crate) name: String,
}

/// A session on a database, as pg_stat_activity shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    pub(crate) user: String,
    /// `active`, `idle`, `idle in transaction`...
    pub(crate) state: String,
    /// The query that runs or ran last.
    pub(crate) query: String,
    pub(crate) application: String,
}

impl Database<'_> {
    /// A superuser's session on it.
    pub(crate) fn session(&self) -> Wire {
        self.postgres.session(&self.name)
    }

    /// The sessions on it, without the tests' own.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        let query = format!(
            "select pid, usename, coalesce(state, ''), query, application_name from pg_stat_activity
             where datname = '{}' and backend_type = 'client backend' and application_name <> '{OWN_NAME}'
             order by pid",
            self.name
        );
        let rows = self
            .postgres
            .session("postgres")
            .query(&query)
            .succeeded()
            .rows();
        rows.into_iter()
            .map(|row| {
                let mut cells = row.into_iter().map(Option::unwrap_or_default);
                let mut next = || cells.next().expect("five columns");
                let pid = next().parse().expect("a pid is a number");
                Backend {
                    pid,
                    user: next(),
                    state: next(),
                    query: next(),
                    application: next(),
                }
            })
            .collect()
    }

    /// Sessions in this state.
    pub(crate) fn backends_in(&self, state: &str) -> usize {
        self.backends()
            .iter()
            .filter(|backend| backend.state == state)
            .count()
    }

    /// Waits until this many sessions run a query that holds `text`.
    pub(crate) fn wait_running(&self, count: usize, text: &str) {
        becomes("queries run", count, || {
            let running =
                |backend: &Backend| backend.state == "active" && backend.query.contains(text);
            self.backends()
                .iter()
                .filter(|backend| running(backend))
                .count()
        });
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if let Ok(mut taken) = self.postgres.taken.lock() {
            taken[self.number] = false;
        }
        self.postgres.given_back.notify_one();
    }
}

/// A data folder with users and databases, made once.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<Folder> = OnceLock::new();
    TEMPLATE.get_or_init(make_template).path()
}

fn make_template() -> Folder {
    let folder = Folder::for_data("template");
    let mut initdb = process::server_command(&binary("initdb"), "KILL");
    initdb
        .arg("-D")
        .arg(folder.path())
        .args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "--no-sync",
            "--no-instructions",
        ])
        .args(["--locale=C", "--encoding=UTF8", "--wal-segsize=1"])
        .current_dir(folder.path())
        .stdout(Stdio::null());
    assert!(
        process::spawn(initdb)
            .wait()
            .expect("initdb ends")
            .success(),
        "initdb succeeds"
    );

    let methods: String = USERS
        .iter()
        .map(|(user, method)| format!("host all {user} 127.0.0.1/32 {method}\n"))
        .collect();
    let rules = format!(
        "local all all trust\n{methods}host all all 127.0.0.1/32 trust\n\
         host replication postgres 127.0.0.1/32 trust\n"
    );
    folder.write("pg_hba.conf", &rules);

    let mut sql = String::new();
    for (user, method) in USERS {
        let encryption = if method == "md5" {
            "md5"
        } else {
            "scram-sha-256"
        };
        let password = password_of(user);
        sql += &format!("set password_encryption = '{encryption}';\n");
        sql += &format!("create role {user} login password '{password}';\n");
    }
    for number in 0..LEASABLE {
        sql += &format!("create database p{number};\n");
    }
    run_single_user(folder.path(), &sql);
    folder
}

/// Runs statements, one a line, on a data folder without a server.
fn run_single_user(data: &Path, sql: &str) {
    let mut command = process::server_command(&binary("postgres"), "KILL");
    command
        .args(["--single", "-F", "-D"])
        .arg(data)
        .arg("postgres");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir(data);
    let mut child = process::spawn(command);
    let mut input = child.stdin.take().expect("stdin is piped");
    std::io::Write::write_all(&mut input, sql.as_bytes()).expect("postgres reads");
    drop(input);
    let output = child.wait_with_output().expect("postgres ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !text.contains("ERROR"),
        "single-user postgres: {text}"
    );
}

/// A PostgreSQL program: the newest of Debian's folders, or on the PATH.
pub(crate) fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            let path = entry.path().join("bin").join(name);
            path.exists().then_some((version, path))
        })
        .collect();
    found.sort();
    found
        .pop()
        .map_or_else(|| PathBuf::from(name), |(_, path)| path)
}

/// A server there lets a user in.
fn answers(address: SocketAddr) -> bool {
    let login = Login::new("postgres", "postgres");
    let wire = Wire::try_connect(address);
    wire.is_some_and(|mut wire| {
        wire.send(login.packet());
        matches!(wire.try_finish_login(&login), Ok(Ok(())))
    })
}

/// A port that is free just now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

pub(crate) fn pid_of(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

/// A client program of PostgreSQL's, ended with the run and bounded in time.
pub(crate) fn client_program(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg(DEADLINE.as_secs().to_string())
        .arg(binary(name))
        .stdin(Stdio::null());
    command
        .env_remove("PGPASSWORD")
        .env("PGCONNECT_TIMEOUT", "20");
    command
}
