//! A node of the application, and who restarts it when it dies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinHandle;

use super::child::{Account, Process};
use super::journal::Journal;
use super::postgres::{PASSWORD, USER};
use crate::problem::{During, Problem};

/// Time from a node's death to its next start, as a supervisor would have it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How often the supervisor looks.
const WATCH: Duration = Duration::from_millis(20);

/// How long a node may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody listens there: the start-up call fails at once.
const STARTUP_URL: &str = "http://127.0.0.1:1/";

/// What a node is started with.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Also the host name in its answers and the name of its folder.
    pub(crate) name: String,
    pub(crate) account: Account,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// Where its database is.
    pub(crate) pooler_port: u16,
    pub(crate) database: String,
    /// Further variables, without `BINGO_SIM_`.
    pub(crate) switches: BTreeMap<&'static str, String>,
}

impl Spec {
    /// The address of the student, whom the tester would ask for by `/config`.
    pub(crate) fn email(&self) -> String {
        format!("{}@acceptance.example", self.name)
    }

    /// Where seeding and a node read it: the database on `port`.
    pub(crate) fn config(email: &str, port: u16, database: &str) -> String {
        format!(
            "student_email: {email}\npostgres_cluster:\n  hosts:\n  - address: 127.0.0.1\n    port: {port}\n  \
             user: {USER}\n  password: {PASSWORD}\n  db_name: {database}\n  ssl_mode: disable\n  \
             use_closest_node: false\n"
        )
    }

    fn start(&self) -> Result<Process, Problem> {
        let config = self.folder.join("config.yaml");
        let text = Spec::config(&self.email(), self.pooler_port, &self.database);
        self.account.write(&config, &text)?;
        let mut command = self.account.command(&self.program, "KILL");
        command
            .arg("run_server")
            .current_dir(&self.folder)
            .env("BINGO_SIM_CONFIG", &config)
            .env("BINGO_SIM_LOG_DIR", &self.folder)
            .env("BINGO_SIM_PORT", self.port.to_string())
            .env("BINGO_SIM_HOSTNAME", &self.name)
            .env("BINGO_SIM_STARTUP_URL", STARTUP_URL)
            .env("BINGO_SIM_LOG_ENV", "0");
        for (name, value) in &self.switches {
            command.env(format!("BINGO_SIM_{name}"), value);
        }
        Process::start(
            &self.name,
            command,
            Signal::KILL,
            &self.folder.join("output.log"),
        )
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    spec: Spec,
    current: Arc<Mutex<Process>>,
    /// What the supervisor waits before a restart, in milliseconds.
    pause: Arc<AtomicU64>,
    supervisor: JoinHandle<()>,
}

impl Node {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(spec: Spec) -> Result<Node, Problem> {
        spec.account.make_folder(&spec.folder)?;
        let current = Arc::new(Mutex::new(spec.start()?));
        let pause = Arc::new(AtomicU64::new(milliseconds(RESTART_PAUSE)));
        let supervisor = tokio::spawn(supervise(spec.clone(), current.clone(), pause.clone()));
        let node = Node {
            spec,
            current,
            pause,
            supervisor,
        };
        node.serves().await?;
        Ok(node)
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn port(&self) -> u16 {
        self.spec.port
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal {
            path: self.spec.folder.join("main.log"),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        lock(&self.current).signal(signal);
    }

    /// Kills it; it is started again after `down`.
    pub(crate) fn kill(&self, down: Duration) {
        self.pause.store(milliseconds(down), Ordering::Relaxed);
        self.signal(Signal::KILL);
    }

    /// Waits until it accepts connections.
    pub(crate) async fn serves(&self) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            match tokio::net::TcpStream::connect(("127.0.0.1", self.spec.port)).await {
                Ok(_) => return Ok(()),
                Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(WATCH).await,
                Err(error) => {
                    let words = lock(&self.current).last_words();
                    return Err(error)
                        .during(format!("{} does not start: {words}", self.spec.name));
                }
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.supervisor.abort();
        lock(&self.current).stop();
    }
}

/// Starts the node again whenever it has ended.
async fn supervise(spec: Spec, current: Arc<Mutex<Process>>, pause: Arc<AtomicU64>) {
    loop {
        tokio::time::sleep(WATCH).await;
        if lock(&current).ended().is_none() {
            continue;
        }
        let usual = milliseconds(RESTART_PAUSE);
        let down = pause.swap(usual, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(down)).await;
        // A failed start is tried again; whoever waits for the node says so.
        if let Ok(process) = spec.start() {
            *lock(&current) = process;
        }
    }
}

fn lock(current: &Mutex<Process>) -> MutexGuard<'_, Process> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
