//! From the command line to the exit code.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::hba;
use super::http::{self, HttpFront};
use super::log::{self, Format, LogGuard};
use super::memory;
use super::monitoring::Monitoring;
use super::pooler::{Listeners, Pooler, worker_count};
use super::process::{Action, Logging, Process};
use super::takeover::{self, Inheritance};
use crate::admin::{Console, ShutdownMode, VERSION};
use crate::auth::{self, ScramSettings, UserList};
use crate::balancer::{Balancer, Inherited, Order, Pressure};
use crate::client::{self, LoginPolicy, OnConsole};
use crate::config::{self, Config};
use crate::gateway::{Queries, QueryCollector};
use crate::http::{PoolerCollector, ProcessCollector, ProgramCollector};
use crate::net::tls::{Tls, TlsFault};
use crate::pool::{Bouncer, SWEEP_INTERVAL};
use crate::prepare;
use crate::process::{self, LogQueue, OldProcess, PidFile, Signal, Signals, log_limit};

/// How long `pgweir run` lets clients finish their transactions when it is
/// told to stop. PgBouncer, and pgweir called as PgBouncer, wait for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long the admin port may stay with the process before this one.
const ADMIN_PORT_LIMIT: Duration = Duration::from_secs(5);

/// Time between two tries to open it.
const ADMIN_PORT_PAUSE: Duration = Duration::from_millis(20);

/// How often the balancer is told how busy the pooler is.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the next process waits for its nodes to be checked and for the
/// answers that are kept, before it takes over without.
const WARM_LIMIT: Duration = Duration::from_secs(60);

/// How long clients may take to go that are handed over.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Time between two looks at it.
const LEAVE_PAUSE: Duration = Duration::from_millis(1);

/// What the command line asked for.
#[derive(Debug, Default)]
pub struct Start {
    /// The configuration file.
    pub config: PathBuf,
    /// `-v`, counted.
    pub verbose: u8,
    /// `-q`.
    pub quiet: bool,
    /// `-d`.
    pub daemon: bool,
    /// `-u`.
    pub user: Option<String>,
    /// `-R`.
    pub reboot: bool,
    /// Everything the file configures, not the pooler alone.
    pub whole: bool,
}

impl Start {
    /// Nothing is to be written to standard error.
    fn is_silent(&self) -> bool {
        self.quiet || self.daemon
    }
}

/// Runs until told to stop.
pub fn run(start: Start) -> ExitCode {
    let ready = match prepare_process(&start) {
        Ok(ready) => ready,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    // The log is closed when this goes, so the reason has to be told before.
    match live(&ready, &start) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// A process that is who it should be, and logs.
struct Ready {
    config: Config,
    tls: Tls,
    pid_file: Arc<Mutex<Option<PidFile>>>,
    /// Last, so that everything before it can still log its end.
    log: LogGuard,
}

fn prepare_process(start: &Start) -> Result<Ready, String> {
    let loaded = Config::load(&start.config).map_err(|error| error.to_string())?;
    hba::check(&loaded).map_err(|fault| fault.to_string())?;
    if start.whole {
        http::check(&loaded).map_err(|fault| fault.to_string())?;
    }
    let (tls, tls_notes) = load_tls(&loaded)?;
    let config = loaded.config;
    let user = start.user.clone().or(config.pgbouncer.user.clone());
    if let Some(user) = user {
        process::switch_user(&user).map_err(|error| error.to_string())?;
    }
    if process::is_root() {
        return Err("PgBouncer should not run as root".into());
    }
    let settings = &config.pgbouncer;
    if start.daemon {
        if settings.pidfile.is_empty() {
            return Err("daemon needs pidfile configured".into());
        }
        process::daemonise().map_err(|error| format!("cannot daemonise: {error}"))?;
    }
    memory::give_back_when_idle();
    let log = log::start(
        &log::destination(&config, start.is_silent()),
        verbosity(start.verbose, &config),
        log_format(start, &config),
    )
    .map_err(|error| format!("could not open logfile '{}': {error}", settings.logfile))?;
    for warning in loaded.warnings.iter().chain(&tls_notes) {
        tracing::warn!("{warning}");
    }
    let pid_file = match pid_file(&config).filter(|_| !start.reboot) {
        None => None,
        Some(path) => Some(PidFile::write(path).map_err(|error| error.to_string())?),
    };
    Ok(Ready {
        config,
        tls,
        pid_file: Arc::new(Mutex::new(pid_file)),
        log,
    })
}

fn pid_file(config: &Config) -> Option<&Path> {
    let path = config.pgbouncer.pidfile.as_str();
    (!path.is_empty()).then(|| Path::new(path))
}

/// Reads the files of the TLS settings. What is wrong with one is told with
/// the place of the setting.
fn load_tls(loaded: &config::Loaded) -> Result<(Tls, Vec<config::Warning>), String> {
    let placed = |fault: TlsFault| config::Warning {
        place: loaded.place(&fault.setting),
        what: match fault.what.contains(&fault.setting) {
            true => fault.what,
            false => format!("{}: {}", fault.setting, fault.what),
        },
        remedy: fault.remedy,
    };
    let (tls, notes) = Tls::load(&loaded.config.pgbouncer).map_err(|f| placed(f).to_string())?;
    Ok((tls, notes.into_iter().map(placed).collect()))
}

/// What `verbose` comes to: the file's line replaces the command line's.
pub(super) fn verbosity(command_line: u8, config: &Config) -> u8 {
    match u8::try_from(config.pgbouncer.verbose) {
        Ok(0) | Err(_) => command_line,
        Ok(level) => level,
    }
}

fn log_format(start: &Start, config: &Config) -> Format {
    use std::io::IsTerminal;
    match config.pgweir.log_format.as_str() {
        "json" => Format::Json,
        "pgbouncer" | "text" => Format::Pgbouncer,
        _ if start.whole && !std::io::stderr().is_terminal() => Format::Json,
        _ => Format::Pgbouncer,
    }
}

fn live(ready: &Ready, start: &Start) -> Result<(), String> {
    let config = ready.config.clone();
    let workers = worker_count(&config, !start.whole);
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let mut signals = {
        let _inside = control.enter();
        Signals::install().map_err(|error| format!("cannot take over signals: {error}"))?
    };
    let user_list = load_user_list(&config, None);
    let bouncer = Bouncer::new(config.clone(), user_list, workers);
    bouncer.set_tls(ready.tls.clone());
    if let Some(rules) = hba::load(&config) {
        bouncer.set_hba_rules(rules);
    }
    let old = match start.reboot {
        true => {
            if !start.whole {
                // PgBouncer's words; its way hands over less.
                tracing::warn!("Online restart is deprecated, use so_reuseport instead");
            }
            takeover::enter(&config)?
        }
        false => None,
    };
    let (listeners, inheritance, early) = match old {
        Some(mut old) => {
            let early = match start.whole {
                true => Early::begin(&config, &control, &mut signals, &mut old)?,
                false => Some(Early::default()),
            };
            let Some(early) = early else { return Ok(()) };
            let mut inheritance = takeover::begin(&mut old, &config, &bouncer)?;
            let sockets = std::mem::take(&mut inheritance.listeners);
            let listeners = Listeners::inherited(&config, workers, sockets)?;
            tracing::info!("sending SHUTDOWN;");
            // From here on nobody else has the connections.
            let ended = old.shut_down(pid_file(&config));
            ended.unwrap_or_else(|error| tracing::error!("{error}"));
            early.front.iter().for_each(HttpFront::serve);
            tracing::info!("old process killed, resuming work");
            (Some(listeners), inheritance, Some(early))
        }
        None => (None, Inheritance::default(), None),
    };
    if start.reboot
        && let Some(path) = pid_file(&config)
    {
        match (PidFile::write(path), &listeners) {
            (Ok(file), _) => *lock(&ready.pid_file) = Some(file),
            (Err(error), None) => return Err(error.to_string()),
            (Err(error), Some(_)) => tracing::error!("{error}"),
        }
    }
    let monitoring = match listeners.is_some() {
        true => open_late(&config, &control),
        false => Monitoring::open(&config, &control)?,
    };
    let (readiness, reloads) = (monitoring.readiness.clone(), monitoring.reloads.clone());
    let log = ready.log.queue().clone();
    let dropped_lines = {
        let log = log.clone();
        Box::new(move || log.dropped_lines())
    };
    monitoring.show(PoolerCollector::new(bouncer.clone()));
    monitoring.show(ProcessCollector::new());
    monitoring.show(ProgramCollector::new(
        readiness,
        reloads.clone(),
        dropped_lines,
    ));
    let (actions, inbox) = mpsc::unbounded_channel();
    let process = Process::new(bouncer.clone(), actions, reloads);
    let process = process.behind_balancer(start.whole && config.balancer.is_some());
    let process = Arc::new(process.logging(Logging {
        verbosity: ready.log.verbosity().clone(),
        verbose: start.verbose,
        quiet: start.is_silent(),
        queue: log.clone(),
    }));
    let life = Life {
        console: Console::new(
            bouncer.clone(),
            process.clone(),
            log.clone(),
            monitoring.front.clone(),
        ),
        monitoring,
        process,
        bouncer,
        log,
        control,
        pid_file: ready.pid_file.clone(),
        whole: start.whole,
    };
    let inherited = (listeners, inheritance, early);
    life.serve(&config, workers, inherited, (signals, inbox))
}

/// What is ready before the old process gives anything up.
#[derive(Default)]
struct Early {
    front: Option<HttpFront>,
}

impl Early {
    /// Prepares the database and gets the balancer ready to serve: it has
    /// looked at its nodes and has what it keeps. None if a signal asked to
    /// stop.
    ///
    /// # Errors
    /// One line that says what cannot be had.
    fn begin(
        config: &Config,
        control: &Runtime,
        signals: &mut Signals,
        old: &mut OldProcess,
    ) -> Result<Option<Early>, String> {
        if let Some(settings) = &config.prepare
            && !prepare_database(settings, control, signals)?
        {
            return Ok(None);
        }
        let inherited = takeover::ask_for_balancer(old)?;
        let Some(balancer) = bind_balancer(config, inherited)? else {
            return Ok(Some(Early::default()));
        };
        let front = start_balancer(balancer, Order::Wait)?;
        let observer = front.observer();
        let warm = async {
            observer.checked().await;
            observer.warmed().await;
        };
        let is_warm = control.block_on(async {
            tokio::select! {
                warm = tokio::time::timeout(WARM_LIMIT, warm) => Some(warm.is_ok()),
                () = stop_signal(signals) => None,
            }
        });
        match is_warm {
            None => return Ok(None),
            Some(true) => {}
            Some(false) => tracing::warn!("not everything is there that the balancer keeps"),
        }
        Ok(Some(Early { front: Some(front) }))
    }
}

fn bind_balancer(config: &Config, inherited: Inherited) -> Result<Option<Balancer>, String> {
    let Some(settings) = &config.balancer else {
        return Ok(None);
    };
    let balancer = Balancer::bind(settings, inherited).map_err(|error| error.to_string())?;
    for place in balancer.places() {
        tracing::info!("balancer listening on {place}");
    }
    Ok(Some(balancer))
}

fn start_balancer(balancer: Balancer, order: Order) -> Result<HttpFront, String> {
    let front = HttpFront::start(balancer, order);
    front.map_err(|error| format!("cannot start the balancer: {error}"))
}

/// The admin port, which the process before this one may still be closing.
/// Clients are more than it: without it they are served too.
fn open_late(config: &Config, control: &Runtime) -> Monitoring {
    let deadline = Instant::now() + ADMIN_PORT_LIMIT;
    loop {
        match Monitoring::open(config, control) {
            Ok(monitoring) => return monitoring,
            Err(error) if Instant::now() >= deadline => {
                tracing::error!("{error}");
                let mut without = config.clone();
                without.metrics.listen = None;
                let monitoring = Monitoring::open(&without, control);
                return monitoring.expect("there is no port to open");
            }
            Err(_) => std::thread::sleep(ADMIN_PORT_PAUSE),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Life {
    bouncer: Arc<Bouncer>,
    process: Arc<Process>,
    console: Arc<Console>,
    monitoring: Monitoring,
    log: Arc<LogQueue>,
    control: Runtime,
    pid_file: Arc<Mutex<Option<PidFile>>>,
    whole: bool,
}

impl Life {
    fn serve(
        self,
        config: &Config,
        workers: usize,
        (inherited, inheritance, early): (Option<Listeners>, Inheritance, Option<Early>),
        (mut signals, inbox): (Signals, mpsc::UnboundedReceiver<Action>),
    ) -> Result<(), String> {
        if self.whole
            && early.is_none()
            && let Some(prepare) = &config.prepare
            && !self.prepare(prepare, &mut signals)?
        {
            return Ok(());
        }
        log_limit(
            config.pgbouncer.max_client_conn,
            self.bouncer.descriptors_expected(),
        );
        let mut passed = process::passed_sockets()
            .map_err(|error| format!("sockets passed from service manager: {error}"))?;
        let (front, balancer) = match early {
            Some(early) => (early.front, None),
            None if self.whole => {
                let inherited = match &config.balancer {
                    Some(settings) => Inherited::passed(settings, &mut passed)?,
                    None => Inherited::default(),
                };
                (None, bind_balancer(config, inherited)?)
            }
            None => (None, None),
        };
        let listeners = match inherited {
            Some(listeners) => listeners,
            None => Listeners::open(config, workers, passed)?,
        };
        for address in listeners.addresses() {
            tracing::info!("listening on {address}");
        }
        let iterations = u32::try_from(config.pgbouncer.scram_iterations).unwrap_or(4096);
        let scram = ScramSettings::new(iterations, auth::os_random);
        let login = Arc::new(LoginPolicy::new(scram));
        let on_console = Arc::new(self.on_console());
        let queries = Some(Queries::new(&config.queries)).filter(|_| config.queries.enabled);
        if let Some(queries) = &queries {
            self.monitoring.show(QueryCollector::new(queries.clone()));
        }
        let pooler = Pooler::start(
            listeners,
            inheritance,
            &self.bouncer,
            &login,
            &on_console,
            &self.log,
            queries.as_ref(),
        )
        .map_err(|error| format!("cannot start workers: {error}"))?;
        self.control
            .spawn(sweep(self.bouncer.clone(), pooler.taken_over()));
        let bouncer = self.bouncer.clone();
        self.control
            .spawn(async move { bouncer.check_zones().await });
        self.control
            .spawn(log_statistics(self.process.clone(), self.console.clone()));
        let front = match balancer {
            Some(balancer) => Some(start_balancer(balancer, Order::Serve)?),
            None => front,
        };
        let observer = front.as_ref().map(HttpFront::observer);
        if let Some(observer) = &observer {
            let registered = observer.register(&self.monitoring.registry);
            registered.map_err(|error| error.to_string())?;
            self.monitoring.front.take(Arc::new(observer.clone()));
            self.monitoring.readiness.set_not_ready("filling the cache");
            self.process.set_balancer(observer.clone());
            let pressure = observer.pressure();
            self.control
                .spawn(watch_pools(self.bouncer.clone(), pressure));
        }
        tracing::info!(
            "process up: {}, pgweir {}, {workers} worker(s)",
            VERSION,
            env!("CARGO_PKG_VERSION")
        );
        let ready = async {
            if let Some(observer) = observer {
                observer.warmed().await;
            }
            self.monitoring.readiness.set_ready();
            self.process.manager.ready();
        };
        let ended =
            self.control
                .block_on(self.wait(signals, inbox, &pooler, front.as_ref(), ready));
        if let Ok(ended) = ended {
            tracing::info!("{ended}");
        }
        pooler.quit();
        self.monitoring.close(&self.control);
        self.control.shutdown_timeout(Duration::from_secs(1));
        ended.map(|_| ()).map_err(Into::into)
    }

    /// Waits for the end; answers why it came.
    ///
    /// # Errors
    /// It came at a time when it cannot be an orderly one.
    async fn wait(
        &self,
        mut signals: Signals,
        mut inbox: mpsc::UnboundedReceiver<Action>,
        pooler: &Pooler,
        front: Option<&HttpFront>,
        ready: impl Future<Output = ()>,
    ) -> Result<&'static str, &'static str> {
        let mut ready = pin!(ready);
        let mut is_ready = false;
        let mut ending: Option<ShutdownMode> = None;
        let mut draining_since: Option<Instant> = None;
        loop {
            let action = tokio::select! {
                biased;
                () = &mut ready, if !is_ready && ending.is_none() => {
                    is_ready = true;
                    None
                }
                signal = signals.next() => self.process.on_signal(signal, ending.is_some()),
                Some(action) = inbox.recv() => Some(action),
                () = tokio::time::sleep(SWEEP_INTERVAL), if ending.is_some() => None,
            };
            if let Some(Action::ShutDown(mode)) = action {
                if mode == ShutdownMode::Immediate && self.bouncer.is_handed_over() {
                    self.hand_over(pooler, front).await;
                    let is_drained = front.is_none_or(HttpFront::is_drained);
                    if self.bouncer.clients.is_empty() && is_drained {
                        return Ok("everything is handed over, exiting");
                    }
                    self.linger();
                    ending = Some(ShutdownMode::WaitForClients);
                    draining_since = Some(Instant::now());
                    continue;
                }
                if mode == ShutdownMode::Immediate {
                    return Ok("exiting");
                }
                if self.bouncer.is_suspended() {
                    return Err("suspend was in progress, going down immediately");
                }
                self.monitoring.readiness.set_not_ready("shutting down");
                self.process.manager.stopping();
                front.inspect(|front| front.drain());
                ending = Some(mode);
            }
            let Some(mode) = ending else { continue };
            // Requests that are still being served need the pooler.
            if front.is_some_and(|front| !front.is_drained()) {
                continue;
            }
            let Some(since) = draining_since else {
                self.process.begin_shutdown(mode);
                pooler.stop_accepting();
                draining_since = Some(Instant::now());
                // Who waits is sent away a sweep later, as by PgBouncer: the
                // command's own answer comes first.
                continue;
            };
            if let Some(ended) = self.ended(mode, since) {
                return Ok(ended);
            }
        }
    }

    /// Gives everything up that another process has been told of.
    async fn hand_over(&self, pooler: &Pooler, front: Option<&HttpFront>) {
        self.monitoring.readiness.set_not_ready("handed over");
        self.monitoring.give_up();
        if let Some(front) = front {
            let left = tokio::time::timeout(LEAVE_LIMIT, front.leave()).await;
            left.unwrap_or_else(|_| tracing::warn!("the balancer may still accept clients"));
        }
        pooler.give_up_sockets();
        self.bouncer.set_shutting_down();
        self.bouncer.let_go();
        let leave = async {
            while self.bouncer.clients.iter().any(|it| it.has_left()) {
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
        };
        if tokio::time::timeout(LEAVE_LIMIT, leave).await.is_err() {
            tracing::warn!("clients that are handed over are still here");
        }
        // What another process waits for.
        drop(lock(&self.pid_file).take());
    }

    /// What could not be handed over, TLS connections above all, is served here
    /// until it ends.
    fn linger(&self) {
        let count = self.bouncer.clients.len();
        if count > 0 {
            tracing::info!(
                "{count} clients could not be handed over and are served until they leave"
            );
        }
        self.bouncer.resume_suspended();
        let bouncer = self.bouncer.clone();
        self.control.spawn(async move {
            let Err(error) = client::serve_younger(bouncer).await;
            tracing::error!("cancel requests do not reach these clients: {error}");
        });
    }

    /// Why the shutdown that began at `since` is complete, if it is.
    fn ended(&self, mode: ShutdownMode, since: Instant) -> Option<&'static str> {
        // Who stays behind after a take-over stays as long as it likes.
        if self.whole && !self.bouncer.is_lingering() {
            self.process.drain();
            if since.elapsed() > DRAIN_LIMIT {
                return Some("clients are still busy, exiting");
            }
        }
        match mode {
            ShutdownMode::WaitForClients if self.bouncer.client_sockets.used() == 0 => {
                Some("client connections dropped, exiting")
            }
            ShutdownMode::WaitForServers if self.process.servers_are_gone() => {
                Some("server connections dropped, exiting")
            }
            _ => None,
        }
    }

    /// Seeds and migrates before anything is served, or beside it with
    /// `serve_early`. False if a signal asked to stop.
    fn prepare(&self, settings: &config::Prepare, signals: &mut Signals) -> Result<bool, String> {
        if !settings.serve_early {
            let readiness = &self.monitoring.readiness;
            readiness.set_not_ready("preparing the database");
        }
        prepare_database(settings, &self.control, signals)
    }

    fn on_console(&self) -> OnConsole {
        let control = self.control.handle().clone();
        let console = self.console.clone();
        Box::new(move |client| {
            control.spawn(console.clone().serve(client));
        })
    }
}

/// Seeds and migrates. False if a signal asked to stop.
fn prepare_database(
    settings: &config::Prepare,
    control: &Runtime,
    signals: &mut Signals,
) -> Result<bool, String> {
    if settings.serve_early {
        let settings = settings.clone();
        control.spawn(async move {
            match prepare::run(&settings, &prepare::Log).await {
                Ok(report) => tracing::info!("{report}"),
                Err(error) => tracing::error!("prepare failed: {error}"),
            }
        });
        return Ok(true);
    }
    control.block_on(async {
        tokio::select! {
            done = prepare::run(settings, &prepare::Log) => match done {
                Ok(report) => {
                    tracing::info!("{report}");
                    Ok(true)
                }
                Err(error) => Err(format!("prepare failed: {error}")),
            },
            () = stop_signal(signals) => {
                tracing::info!("stopped while preparing; the next start goes on from here");
                Ok(false)
            }
        }
    })
}

/// Waits for a signal that ends the process.
async fn stop_signal(signals: &mut Signals) {
    while !matches!(
        signals.next().await,
        Signal::Terminate | Signal::Interrupt | Signal::Quit
    ) {}
}

/// `begin` is waited for: pools that are not filled yet would be filled up.
async fn sweep(bouncer: Arc<Bouncer>, begin: impl Future<Output = ()>) {
    begin.await;
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        bouncer.sweep();
    }
}

/// Tells the balancer how many clients wait for a server.
async fn watch_pools(bouncer: Arc<Bouncer>, pressure: Pressure) {
    let mut tick = tokio::time::interval(PRESSURE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let pools = bouncer.pools();
        pressure.set(pools.iter().map(|pool| pool.numbers().1).sum());
    }
}

/// The statistics line, each `stats_period`; its interval is fixed at start.
async fn log_statistics(process: Arc<Process>, console: Arc<Console>) {
    let bouncer = process.bouncer();
    let period = u64::try_from(bouncer.config().pgbouncer.stats_period).unwrap_or(60);
    let mut tick = tokio::time::interval(Duration::from_secs(period.max(1)));
    tick.tick().await;
    loop {
        tick.tick().await;
        let line = console.end_stats_period();
        if bouncer.config().pgbouncer.log_stats {
            tracing::info!("{line}");
        }
        // PgBouncer writes there what it means by "us".
        process.manager.status(&line.replace(" us", " μs"));
    }
}

/// Reads `auth_file`. What cannot be read leaves the users without passwords.
pub(super) fn load_user_list(config: &Config, old: Option<&UserList>) -> UserList {
    let Some(path) = config
        .pgbouncer
        .auth_file
        .as_deref()
        .filter(|path| !path.is_empty())
    else {
        return UserList::default();
    };
    let text = std::fs::read(path).unwrap_or_else(|error| {
        tracing::error!("could not open auth_file {path}: {error}");
        Vec::new()
    });
    let (list, error) = match old {
        Some(old) => old.reloaded(&text),
        None => UserList::parse(&text),
    };
    if let Some(error) = error {
        tracing::error!("{path}: {error}");
    }
    list
}

/// The signals' meanings are PgBouncer's.
impl Process {
    fn on_signal(&self, signal: Signal, ending: bool) -> Option<Action> {
        match signal {
            Signal::Hangup => {
                tracing::info!("got SIGHUP, re-reading config");
                self.manager.reloading();
                if let Err(error) = self.reload_config() {
                    tracing::error!("{error}");
                }
                self.manager.ready();
                None
            }
            Signal::Terminate if ending => fast_exit("SIGTERM"),
            Signal::Terminate => {
                tracing::info!("got SIGTERM, shutting down, waiting for all clients disconnect");
                Some(Action::ShutDown(ShutdownMode::WaitForClients))
            }
            Signal::Interrupt if ending => fast_exit("SIGINT"),
            Signal::Interrupt => {
                tracing::info!(
                    "got SIGINT, shutting down, waiting for all servers connections to be released"
                );
                Some(Action::ShutDown(ShutdownMode::WaitForServers))
            }
            Signal::Quit => {
                tracing::info!("got SIGQUIT, fast exit");
                Some(Action::ShutDown(ShutdownMode::Immediate))
            }
            Signal::User1 => {
                self.pause();
                None
            }
            Signal::User2 => {
                self.resume(ending);
                None
            }
        }
    }
}

fn fast_exit(signal: &str) -> Option<Action> {
    tracing::info!("got {signal} while shutting down, fast exit");
    Some(Action::ShutDown(ShutdownMode::Immediate))
}
