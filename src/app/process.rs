//! What signals and the console do to the whole process.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::hba;
use super::life::{load_user_list, verbosity};
use super::log::{self, Verbosity};
use crate::admin::{self, ShutdownMode};
use crate::balancer::{Observer, Renewal};
use crate::config::{self, Config};
use crate::http::Reloads;
use crate::net::tls::{Tls, TlsFault};
use crate::pool::Bouncer;
use crate::process::{LogQueue, Notifier};

/// Something the main loop is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// End.
    ShutDown(ShutdownMode),
}

/// The handle on the whole process.
#[derive(Debug)]
pub struct Process {
    bouncer: Arc<Bouncer>,
    actions: mpsc::UnboundedSender<Action>,
    reloads: Reloads,
    log: Option<Logging>,
    /// Requests are served by way of the pooler, which has to outlast them.
    has_balancer: bool,
    /// The balancer, once it runs.
    balancer: OnceLock<Observer>,
    /// The service manager.
    pub(super) manager: Notifier,
}

/// The log, and what the command line says about it.
#[derive(Debug)]
pub struct Logging {
    /// How much is logged.
    pub verbosity: Verbosity,
    /// `-v`, counted.
    pub verbose: u8,
    /// `-q` or `-d`.
    pub quiet: bool,
    /// Where lines go in.
    pub queue: Arc<LogQueue>,
}

impl admin::Process for Process {
    fn reload(&self) -> Result<(), String> {
        self.reload_config()
    }

    fn settings_changed(&self) {
        // Rules that are in force stay until a reload.
        if self.bouncer.hba_rules().is_empty()
            && let Some(rules) = hba::load(&self.bouncer.config())
        {
            self.bouncer.set_hba_rules(rules);
        }
        self.apply_settings();
    }

    fn tls_changed(&self) -> bool {
        let applied = self.apply_tls();
        applied
            .inspect_err(|fault| tracing::error!("{fault}"))
            .is_ok()
    }

    fn shut_down(&self, mode: ShutdownMode) {
        // Whoever has read the answer may count on it.
        if mode != ShutdownMode::Immediate && !self.has_balancer && !self.bouncer.is_suspended() {
            self.begin_shutdown(mode);
        }
        if self.actions.send(Action::ShutDown(mode)).is_err() {
            tracing::debug!("shutting down already");
        }
    }
}

impl Process {
    /// A handle whose shutdowns go to `actions` and whose reloads are noted in
    /// `reloads`.
    pub fn new(
        bouncer: Arc<Bouncer>,
        actions: mpsc::UnboundedSender<Action>,
        reloads: Reloads,
    ) -> Process {
        Process {
            bouncer,
            actions,
            reloads,
            log: None,
            has_balancer: false,
            balancer: OnceLock::new(),
            manager: Notifier::from_environment(),
        }
    }

    /// The settings of the log act on this one.
    pub fn logging(self, log: Logging) -> Process {
        let log = Some(log);
        Process { log, ..self }
    }

    /// With a balancer in front, a waiting shutdown begins when its requests are
    /// through.
    pub fn behind_balancer(self, has_balancer: bool) -> Process {
        Process {
            has_balancer,
            ..self
        }
    }

    /// Opens the log anew: its file may have been renamed, or be another one
    /// from now on. If it cannot be opened, lines go where they went.
    fn reopen_log(&self) {
        let Some(log) = &self.log else {
            return;
        };
        let destination = log::destination(&self.bouncer.config(), log.quiet);
        match destination.open().map(|target| log.queue.redirect(target)) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the log is stuck, it was not opened anew"),
            Err(error) => tracing::error!("could not open the log anew: {error}"),
        }
    }

    /// Reads the configuration again and takes it over. On an error the
    /// running one stays.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn reload_config(&self) -> Result<(), String> {
        let result = self.take_over_config();
        match result {
            Ok(()) => self.reloads.succeeded(SystemTime::now()),
            Err(_) => self.reloads.failed(),
        }
        result
    }

    fn take_over_config(&self) -> Result<(), String> {
        let running = Config::clone(&self.bouncer.config());
        let path = running.pgbouncer.conffile.clone();
        let path = path.map_or(running.path.clone(), Into::into);
        let loaded = Config::load(&path).map_err(|error| {
            for message in error.pgbouncer_messages() {
                tracing::error!("{message}");
            }
            tracing::warn!("config file loading failed");
            error.to_string()
        })?;
        hba::check(&loaded).map_err(|fault| {
            tracing::error!("{}: {}. {}", fault.place, fault.what, fault.remedy);
            tracing::warn!("config file loading failed");
            fault.to_string()
        })?;
        let reloaded = loaded.reload(&running);
        for warning in &reloaded.warnings {
            tracing::warn!("{warning}");
        }
        for name in &reloaded.ignored {
            tracing::warn!("{name} cannot be changed while running, keeping the old value");
        }
        let renewal = self.renew_balancer(&reloaded)?;
        let users = load_user_list(&reloaded.config, Some(&self.bouncer.user_list()));
        let rules = hba::load(&reloaded.config);
        self.bouncer.reload(reloaded.config, users);
        if let Some(rules) = rules {
            self.bouncer.set_hba_rules(rules);
        }
        if let Some(renewal) = renewal {
            renewal.commit();
        }
        self.apply_settings();
        self.reopen_log();
        self.apply_tls().map_err(|fault| {
            tracing::error!("{fault}");
            String::from("TLS configuration could not be reloaded, keeping old configuration")
        })
    }

    /// What the balancer goes on with under these settings; none without one.
    ///
    /// # Errors
    /// What cannot be had, with its place in the file.
    fn renew_balancer(&self, reloaded: &config::Reloaded) -> Result<Option<Renewal>, String> {
        let settings = reloaded.config.balancer.as_ref();
        let (Some(balancer), Some(settings)) = (self.balancer.get(), settings) else {
            return Ok(None);
        };
        let renewal = balancer.renew(settings).map_err(|error| {
            let error = error.to_string();
            let setting = error.split(": ").next().unwrap_or_default();
            format!("{}: {error}", reloaded.place_of(setting))
        })?;
        Ok(Some(renewal))
    }

    /// The balancer runs; reloads concern it too.
    pub fn set_balancer(&self, balancer: Observer) {
        // A process has one.
        let _set = self.balancer.set(balancer);
    }

    /// Reads the files of the TLS settings in force and takes them over. On an
    /// error what was in force stays.
    ///
    /// # Errors
    /// What is wrong with them.
    fn apply_tls(&self) -> Result<(), TlsFault> {
        let (tls, notes) = Tls::load(&self.bouncer.config().pgbouncer)?;
        for note in notes {
            tracing::warn!("{note}. {}", note.remedy);
        }
        self.bouncer.set_tls(tls);
        Ok(())
    }

    /// Settings of what is not asked for them each time.
    fn apply_settings(&self) {
        self.bouncer.tune_accept();
        if let Some(log) = &self.log {
            let verbose = verbosity(log.verbose, &self.bouncer.config());
            log.verbosity.set(verbose);
        }
    }

    /// The pooler.
    pub fn bouncer(&self) -> &Arc<Bouncer> {
        &self.bouncer
    }

    /// SIGUSR1.
    pub fn pause(&self) {
        if self.bouncer.is_paused() || self.bouncer.is_suspended() {
            return tracing::info!("got SIGUSR1, but already paused/suspended");
        }
        tracing::info!("got SIGUSR1, pausing all activity");
        self.bouncer.set_paused(None, true);
    }

    /// SIGUSR2.
    pub fn resume(&self, ending: bool) {
        if ending {
            return tracing::info!("got SIGUSR2 while shutting down, ignoring");
        }
        if self.bouncer.is_suspended() {
            tracing::info!("got SIGUSR2, continuing from SUSPEND");
            return self.bouncer.resume_suspended();
        }
        if !self.bouncer.is_paused() {
            return tracing::info!("got SIGUSR2, but not paused/suspended");
        }
        tracing::info!("got SIGUSR2, continuing from PAUSE");
        self.bouncer.set_paused(None, false);
    }

    /// No new logins; with `WaitForServers` no client gets a server any more.
    pub fn begin_shutdown(&self, mode: ShutdownMode) {
        self.bouncer.set_shutting_down();
        if mode == ShutdownMode::WaitForServers {
            self.bouncer.set_paused(None, true);
        }
    }

    /// Sends away the clients that are between transactions.
    pub fn drain(&self) {
        for client in &self.bouncer.clients {
            if client.state() == crate::pool::ClientState::Idle {
                client.doom("server shutting down");
            }
        }
    }

    /// No server is linked or being logged in; who waits for one is sent
    /// away.
    pub fn servers_are_gone(&self) -> bool {
        let mut is_anybody_told = false;
        for client in &self.bouncer.clients {
            if client.state() == crate::pool::ClientState::Waiting {
                client.doom("server shutting down");
                is_anybody_told = true;
            }
        }
        let pools = self.bouncer.pools();
        // Whoever is told so should be able to hear it.
        !is_anybody_told && pools.iter().all(|pool| pool.numbers().0.total() == 0)
    }
}
