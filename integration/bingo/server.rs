//! `run_server`: the life of the application from start to end.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::App;
use crate::config::Config;
use crate::db::{Cluster, Habits, Limits};
use crate::failure::Failure;
use crate::faults::{self, Faults, Outcome};
use crate::http;
use crate::identity;
use crate::ledger::Ledger;
use crate::limiter::{self, Limiter, Refills};
use crate::log::{self, Log};
use crate::startup::{self, Call};
use crate::switches::Switches;
use crate::texts;

/// How often the application says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How many heartbeats lie between two assurances that it is fine.
const HEARTBEATS_PER_FINE: u32 = 10;

/// How long to wait before a leaked connection that was lost is opened again.
const DBLEAK_PAUSE: Duration = Duration::from_secs(1);

/// Runs the application that was started at `born` until it is told to stop.
///
/// # Errors
/// It cannot start.
pub(crate) async fn run(
    switches: &Switches,
    config: &Config,
    log: Arc<Log>,
    born: Instant,
) -> Result<(), Failure> {
    log.info(log::PREPARE_APP, &[]);
    log.info(log::INIT_APP, &[]);
    let outcome = faults::of_seed(switches.seed, &switches.death);
    let after = (switches.fault_after > 0).then_some((switches.fault_after, outcome));
    let faults = Arc::new(Faults::new(switches.leak_mbps, after));
    set_off(switches, &faults, outcome, born)?;
    let mut stop = Stop::new()?;
    tokio::select! {
        () = stop.told() => Ok(()),
        app = Box::pin(start(switches, config, log, faults)) => {
            let app = app?;
            let port = switches.port.unwrap_or_else(|| identity::port(&config.student_email));
            let listener = http::listen(port)
                .map_err(|e| Failure::Error(format!("listen tcp :{port}: bind: {e}")))?;
            if let Ok(address) = listener.local_addr() {
                eprintln!("bingo stand-in: listening on {address}");
            }
            app.log.info(log::RUN_SERVER, &[]);
            print(&texts::LAUNCHED.text());
            http::serve(app, listener, async { stop.told().await }).await;
            Ok(())
        }
    }
}

/// Everything before the port opens: the database, the call, the heart.
async fn start(
    switches: &Switches,
    config: &Config,
    log: Arc<Log>,
    faults: Arc<Faults>,
) -> Result<Arc<App>, Failure> {
    log.info(log::CREATE_CORE, &[]);
    log.info(log::INIT_CORE, &[]);
    let ledger = Ledger::open(switches.ledger.as_deref())
        .map_err(|e| Failure::Error(format!("the ledger: {e}")))?;
    let cluster = connect(switches, config, log.clone()).await?;
    for _ in 0..switches.dbleak {
        tokio::spawn(hold_transaction(cluster.clone()));
    }
    log.info(log::STARTUP_REQUEST, &[]);
    match startup::call(&switches.startup_url, switches.startup_timeout).await {
        Call::Answered => {}
        Call::Failed(error) => {
            log.error(log::STARTUP_FAILED, &[("error", error.into())]);
            print(&texts::FAST_START.text());
        }
        Call::TimedOut => log.error(log::STARTUP_FAILED, &[("error", "timeout".into())]),
    }
    log.info(log::CORE_READY, &[]);
    log.info(log::INIT_ROUTES, &[]);
    log.info(log::INIT_MIDDLEWARES, &[]);
    let app = Arc::new(App {
        config: config.to_public_json(),
        cluster,
        limiter: Limiter::new(switches.rps),
        faults,
        log: log.clone(),
        ledger,
        clock: switches.clock,
        hostname: switches.hostname.clone().unwrap_or_else(machine_name),
        budget: switches.budget,
        long_dummy: switches.long_dummy,
        hang: switches.hang,
    });
    tokio::spawn(refill(app.clone(), switches.rps));
    tokio::spawn(heartbeat(log));
    Ok(app)
}

/// Reaches the database as the configuration and the variables say, and keeps
/// an eye on its nodes from then on.
///
/// # Errors
/// No host answers, or `ssl_mode` is unusable.
pub(crate) async fn connect(
    switches: &Switches,
    config: &Config,
    log: Arc<Log>,
) -> Result<Arc<Cluster>, Failure> {
    let limits = Limits {
        max_open: switches.max_open,
        max_idle: switches.max_idle,
    };
    let habits = Habits {
        proto: switches.proto,
        abandon: switches.abandon,
    };
    match Cluster::connect(&config.postgres_cluster, limits, habits, log).await {
        Ok(cluster) => {
            let cluster = Arc::new(cluster);
            let watched = cluster.clone();
            tokio::spawn(async move { watched.watch().await });
            Ok(cluster)
        }
        Err(crate::db::DbError::NoNode) => Err(Failure::Error(
            "failed Init Core: failed NewDatabase: could not connect to any host from the list"
                .into(),
        )),
        Err(error) => Err(Failure::Error(format!(
            "failed Init Core: failed NewDatabase: {error}"
        ))),
    }
}

/// Prepares natural death and the deaths by signal.
fn set_off(
    switches: &Switches,
    faults: &Arc<Faults>,
    outcome: Outcome,
    born: Instant,
) -> Result<(), Failure> {
    if !switches.lifetime.is_zero() {
        let (faults, end) = (faults.clone(), born + switches.lifetime);
        tokio::spawn(async move {
            tokio::time::sleep_until(end.into()).await;
            faults.strike(outcome, "BINGO_SIM_LIFETIME");
        });
    }
    for (kind, outcome, why) in [
        (SignalKind::user_defined1(), Outcome::Sick, "SIGUSR1"),
        (SignalKind::user_defined2(), Outcome::Leak, "SIGUSR2"),
    ] {
        let (mut signals, faults) = (listen_for(kind)?, faults.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                faults.strike(outcome, why);
            }
        });
    }
    Ok(())
}

/// The signals that end the application.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Stop, Failure> {
        Ok(Stop {
            terminate: listen_for(SignalKind::terminate())?,
            interrupt: listen_for(SignalKind::interrupt())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|e| Failure::Error(format!("signal handler: {e}")))
}

async fn refill(app: Arc<App>, rps: u32) {
    if rps == 0 {
        return;
    }
    let mut refills = Refills::new(rps);
    let mut ticks = tokio::time::interval(limiter::REFILL);
    loop {
        ticks.tick().await;
        app.limiter.refill(refills.next());
        app.log.info(log::QUOTA, &[]);
    }
}

async fn heartbeat(log: Arc<Log>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    let mut beats = 0_u32;
    loop {
        ticks.tick().await;
        log.info(log::I_AM_ALIVE, &[]);
        if beats.is_multiple_of(HEARTBEATS_PER_FINE) {
            log.info(log::AM_FINE, &[]);
        }
        beats = beats.wrapping_add(1);
    }
}

/// Keeps one connection in a transaction, whatever happens to it.
async fn hold_transaction(cluster: Arc<Cluster>) {
    loop {
        if let Ok(mut connection) = cluster.connect_aside().await
            && connection.batch("BEGIN; SELECT 1").await.is_ok()
        {
            connection.closed().await;
        }
        tokio::time::sleep(DBLEAK_PAUSE).await;
    }
}

fn machine_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => name.trim().to_owned(),
        Err(_) => "localhost".into(),
    }
}

/// Writes to stdout; nobody reading it is no reason to stop.
fn print(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
