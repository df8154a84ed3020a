//! A node of the application, and who restarts it when it dies.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::child::{Account, Namespace, Process};
use super::journal::Journal;
use super::postgres::{PASSWORD, USER};
use crate::load::{Ask, Endpoint, Site};
use crate::problem::{During, Problem};

/// Time from a node's death to its next start, as a supervisor would have it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How often the supervisor looks.
pub(crate) const WATCH: Duration = Duration::from_millis(20);

/// How long a node may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two pings of the watchdog, and how long one may take.
const PING: Duration = Duration::from_secs(1);

/// Bad pings in a row after which the watchdog kills.
const PINGS: u32 = 3;

/// Nobody listens there: the start-up call fails at once.
const STARTUP_URL: &str = "http://127.0.0.1:1/";

/// The student, whom the tester asks for by `/config`.
pub(crate) const EMAIL: &str = "student@acceptance.example";

/// What a node is started with.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Also the host name in its answers and the name of its folder.
    pub(crate) name: String,
    pub(crate) account: Account,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    /// Where it is reached; it listens on all addresses.
    pub(crate) address: SocketAddr,
    /// The network it is in, if that is not this machine's.
    pub(crate) namespace: Option<Namespace>,
    /// Where its database is.
    pub(crate) pooler: SocketAddr,
    pub(crate) database: String,
    /// Where it notes what it is about to do.
    pub(crate) ledger: PathBuf,
    /// Further variables, without `BINGO_SIM_`.
    pub(crate) switches: BTreeMap<&'static str, String>,
}

impl Spec {
    /// Where seeding and a node read it: the database behind `pooler`.
    pub(crate) fn config(pooler: SocketAddr, database: &str) -> String {
        let (address, port) = (pooler.ip(), pooler.port());
        format!(
            "student_email: {EMAIL}\npostgres_cluster:\n  hosts:\n  - address: {address}\n    port: {port}\n  \
             user: {USER}\n  password: {PASSWORD}\n  db_name: {database}\n  ssl_mode: disable\n  \
             use_closest_node: false\n"
        )
    }

    pub(crate) fn start(&self) -> Result<Process, Problem> {
        let config = self.folder.join("config.yaml");
        let text = Spec::config(self.pooler, &self.database);
        self.account.write(&config, &text)?;
        let mut command = self
            .account
            .command_in(self.namespace, &self.program, "KILL");
        command
            .arg("run_server")
            .current_dir(&self.folder)
            .env("BINGO_SIM_CONFIG", &config)
            .env("BINGO_SIM_LOG_DIR", &self.folder)
            .env("BINGO_SIM_PORT", self.address.port().to_string())
            .env("BINGO_SIM_HOSTNAME", &self.name)
            .env("BINGO_SIM_STARTUP_URL", STARTUP_URL)
            .env("BINGO_SIM_LEDGER", &self.ledger)
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

/// What the supervisor does, and what it saw.
#[derive(Debug)]
struct Care {
    /// What it waits before the next restart.
    pause: Duration,
    /// Resident bytes at which it kills, as the kernel would.
    memory_max: Option<u64>,
    /// Whether it kills a node that does not answer `pong`.
    pings: bool,
    /// When it found the node dead.
    deaths: Vec<Instant>,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    spec: Spec,
    current: Arc<Mutex<Process>>,
    care: Arc<Mutex<Care>>,
    supervisors: JoinSet<()>,
}

impl Node {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(spec: Spec) -> Result<Node, Problem> {
        spec.account.make_folder(&spec.folder)?;
        let current = Arc::new(Mutex::new(spec.start()?));
        let care = Arc::new(Mutex::new(Care {
            pause: RESTART_PAUSE,
            memory_max: None,
            pings: false,
            deaths: Vec::new(),
        }));
        let mut supervisors = JoinSet::new();
        supervisors.spawn(supervise(spec.clone(), current.clone(), care.clone()));
        supervisors.spawn(watch(spec.address, current.clone(), care.clone()));
        let node = Node {
            spec,
            current,
            care,
            supervisors,
        };
        node.serves().await?;
        Ok(node)
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.spec.address
    }

    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(crate) fn journal(&self) -> Journal {
        Journal {
            path: self.spec.folder.join("main.log"),
        }
    }

    /// The process that runs now.
    pub(crate) fn id(&self) -> u32 {
        lock(&self.current).id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        lock(&self.current).signal(signal);
    }

    /// Kills it; it is started again after `down`.
    pub(crate) fn kill(&self, down: Duration) {
        self.stay_down(down);
        self.signal(Signal::KILL);
    }

    /// When it dies next, it is started again after so long.
    pub(crate) fn stay_down(&self, down: Duration) {
        lock(&self.care).pause = down;
    }

    /// From how many resident bytes on it is killed.
    pub(crate) fn bound_memory(&self, bytes: Option<u64>) {
        lock(&self.care).memory_max = bytes;
    }

    /// Whether it is killed when it does not answer `pong`.
    pub(crate) fn watch_pings(&self, pings: bool) {
        lock(&self.care).pings = pings;
    }

    /// When it died, so far.
    pub(crate) fn deaths(&self) -> Vec<Instant> {
        lock(&self.care).deaths.clone()
    }

    /// Asks the node itself, past the balancer.
    pub(crate) fn site(&self) -> Site {
        Site::at(self.spec.address)
    }

    /// Waits until it accepts connections.
    pub(crate) async fn serves(&self) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            match tokio::net::TcpStream::connect(self.spec.address).await {
                Ok(_) => return Ok(()),
                Err(_) if begun.elapsed() < PATIENCE => sleep(WATCH).await,
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
        self.supervisors.abort_all();
        lock(&self.current).stop();
    }
}

/// Starts the node again whenever it has ended, and ends it when it is too
/// large.
async fn supervise(spec: Spec, current: Arc<Mutex<Process>>, care: Arc<Mutex<Care>>) {
    loop {
        sleep(WATCH).await;
        if let Some(most) = lock(&care).memory_max {
            let process = lock(&current);
            if process.memory() > most {
                process.signal(Signal::KILL);
            }
        }
        if lock(&current).ended().is_none() {
            continue;
        }
        let pause = {
            let mut care = lock(&care);
            care.deaths.push(Instant::now());
            std::mem::replace(&mut care.pause, RESTART_PAUSE)
        };
        sleep(pause).await;
        // A failed start is tried again; whoever waits for the node says so.
        if let Ok(process) = spec.start() {
            *lock(&current) = process;
        }
    }
}

/// Ends the node when its pings are bad, as a watchdog would.
async fn watch(address: SocketAddr, current: Arc<Mutex<Process>>, care: Arc<Mutex<Care>>) {
    let mut bad = 0;
    loop {
        sleep(PING).await;
        if !lock(&care).pings {
            bad = 0;
            continue;
        }
        let site = Site::at(address);
        let ping = Ask::of(Endpoint::Ping);
        let answer = tokio::time::timeout(PING, site.send(&ping)).await;
        let good = matches!(answer, Ok(Ok(reply)) if &reply.body[..] == b"pong");
        bad = if good { 0 } else { bad + 1 };
        if bad == PINGS {
            bad = 0;
            lock(&current).signal(Signal::KILL);
        }
    }
}

/// The address of a port of this machine.
pub(crate) fn here(port: u16) -> SocketAddr {
    (IpAddr::from([127, 0, 0, 1]), port).into()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
