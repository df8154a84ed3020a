//! One pool: the servers of one database entry for one server user.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::client::{Client, Grant};
use super::state::{Checkout, Counts, LoginFailure, Returned, State, Wanted};
use super::{Bouncer, Counters, Database, Lease, Totals, User, Welcome};
use crate::auth::Credential;
use crate::config::PoolMode;
use crate::net::Host;
use crate::server::{self, LoginError, Retired, Server, ServerState, Target};
use crate::stats::Micros;
use crate::wire::backend;
use crate::wire::startup::Replication;

/// PgBouncer's words for a server that was made by other settings, and for who
/// is on it.
pub(super) const OBSOLETE: &str = "database configuration changed";

/// PgBouncer's words for the end of a server that was for one client alone.
const OWNER_GONE: &str = "replication client was closed";

/// PgBouncer's words for a server that was for one client alone and let nobody
/// in.
const OWN_REFUSED: &str = "login failed";

/// PgBouncer's words for a server that makes place for another.
pub(super) const EVICTED: &str = "evicted";

/// How long a reset query may take before its server is given up.
const RESET_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may go on with a query whose client has gone, after it
/// was asked to cancel it.
const RETIRE_LIMIT: Duration = Duration::from_secs(1);

/// How many bytes of an abandoned answer are read before the server is given
/// up instead.
const RETIRE_BYTES: usize = 1 << 20;

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// The database entry.
    pub database: Arc<Database>,
    /// The user servers are logged in as.
    pub user: Arc<User>,
    /// Number of the pool, unique in the process.
    pub id: u64,
    /// Counters, one set for each worker.
    pub counters: Box<[Counters]>,
    /// What its clients have proven themselves with, if the configuration has
    /// no secret of the user. It may be another one in another database.
    pub credential: ArcSwapOption<Credential>,
    pub(super) welcome: ArcSwapOption<Welcome>,
    state: Mutex<State<Box<Server>, Arc<Client>>>,
    mode: AtomicU8,
    statement_limit: AtomicUsize,
    reset_always: AtomicBool,
    /// `server_lifetime` is 0: a server is closed after one use.
    single_use: AtomicBool,
    /// `server_check_delay` in microseconds, above any time that can pass
    /// where `server_check_query` is off.
    check_delay: AtomicU64,
    /// `max_db_connections` or `max_user_connections` holds.
    shares_limit: AtomicBool,
    removed: AtomicBool,
    /// Raised by every [`Pool::mark_servers`].
    generation: AtomicU64,
    last_expiry: AtomicU64,
    /// Servers of other pools that are being closed for its clients.
    pub(super) places_coming: AtomicU32,
    /// When a sweep last found it used, or when it was made.
    pub(super) last_used: AtomicU64,
    /// Counts the hosts left for the next one with `load_balance_hosts =
    /// disable`.
    turn: AtomicUsize,
    bouncer: Weak<Bouncer>,
}

impl Pool {
    /// A pool without servers.
    pub fn new(
        bouncer: &Arc<Bouncer>,
        database: Arc<Database>,
        user: Arc<User>,
        workers: usize,
    ) -> Arc<Pool> {
        let pool = Arc::new(Pool {
            state: Mutex::new(State::new(bouncer.limits(&database, &user))),
            id: bouncer.next_pool_id(),
            database,
            user,
            counters: (0..workers.max(1)).map(|_| Counters::default()).collect(),
            credential: ArcSwapOption::empty(),
            welcome: ArcSwapOption::empty(),
            mode: AtomicU8::new(0),
            statement_limit: AtomicUsize::new(0),
            reset_always: AtomicBool::new(false),
            single_use: AtomicBool::new(false),
            check_delay: AtomicU64::new(u64::MAX),
            shares_limit: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            last_expiry: AtomicU64::new(0),
            places_coming: AtomicU32::new(0),
            last_used: AtomicU64::new(bouncer.clock.now().0),
            turn: AtomicUsize::new(0),
            bouncer: Arc::downgrade(bouncer),
        });
        pool.apply_settings(bouncer);
        pool
    }

    /// Takes over what the configuration says now.
    pub fn apply_settings(&self, bouncer: &Bouncer) {
        let mode = bouncer.pool_mode(&self.database, &self.user);
        self.mode.store(mode as u8, Ordering::Relaxed);
        let limit = match mode {
            PoolMode::Session => 0,
            _ => usize::try_from(bouncer.config().pgbouncer.max_prepared_statements).unwrap_or(0),
        };
        self.statement_limit.store(limit, Ordering::Relaxed);
        let always = bouncer.config().pgbouncer.server_reset_query_always;
        self.reset_always.store(always, Ordering::Relaxed);
        let shares = bouncer.max_db_connections(&self.database) > 0
            || bouncer.max_user_connections(&self.user) > 0;
        self.shares_limit.store(shares, Ordering::Relaxed);
        let single_use = bouncer.server_lifetime(&self.database).is_zero();
        self.single_use.store(single_use, Ordering::Relaxed);
        self.check_delay
            .store(check_delay(bouncer), Ordering::Relaxed);
        let mut state = self.state();
        state.set_limits(bouncer.limits(&self.database, &self.user));
        state.set_paused(bouncer.is_paused() || self.database.is_paused());
    }

    /// The pool mode in force now.
    pub fn mode(&self) -> PoolMode {
        match self.mode.load(Ordering::Relaxed) {
            mode if mode == PoolMode::Transaction as u8 => PoolMode::Transaction,
            mode if mode == PoolMode::Statement as u8 => PoolMode::Statement,
            _ => PoolMode::Session,
        }
    }

    /// Prepared statements tracked per server; 0 where names pass through.
    pub fn statement_limit(&self) -> usize {
        self.statement_limit.load(Ordering::Relaxed)
    }

    /// What clients are greeted with, once a server has logged in.
    pub fn welcome(&self) -> Option<Arc<Welcome>> {
        self.welcome.load_full()
    }

    /// Whether `server_check_query` is to run on an idle server before it is
    /// used. One that comes straight from another client has just answered.
    pub fn is_check_due(&self, server: &Server, now: Micros) -> bool {
        now.since(server.record.requested_at()) >= self.check_delay.load(Ordering::Relaxed)
    }

    /// Asks for a server. When the answer is `Queued`, a [`Grant`] comes to
    /// the client, or the client leaves with [`Pool::leave`].
    pub fn checkout(
        self: &Arc<Self>,
        client: &Arc<Client>,
        home: usize,
        now: Micros,
    ) -> Checkout<Lease> {
        loop {
            let mut state = self.state();
            let answer = state.checkout(client, home, now);
            let launch = state.logins_wanted(now) > 0;
            drop(state);
            match answer {
                Checkout::Ready(server) if is_fit(&server) => {
                    return Checkout::Ready(Lease::new(server, self.clone()));
                }
                Checkout::Ready(server) => {
                    self.state().active_closing();
                    self.close_counted(server, "server conn crashed or got dirty");
                    continue;
                }
                Checkout::Failing(failure) => return Checkout::Failing(failure),
                Checkout::Queued => {}
            }
            if launch {
                self.launch(home);
            }
            if self.is_removed() {
                self.dismiss_waiting();
            }
            return Checkout::Queued;
        }
    }

    /// As [`Pool::checkout`], for a client that logs in: it waits for a server
    /// that cannot be reached, and is told only what a server has refused.
    pub fn checkout_first(
        self: &Arc<Self>,
        client: &Arc<Client>,
        home: usize,
        now: Micros,
    ) -> Checkout<Lease> {
        match self.checkout(client, home, now) {
            // One that another process has logged in, so that its greeting is
            // not known: its place is for one that is.
            Checkout::Ready(lease) if self.welcome().is_none() => {
                self.state().enqueue(client, home, now);
                lease.discard("its greeting is not known");
                self.launch(home);
                if self.is_removed() {
                    self.dismiss_waiting();
                }
                Checkout::Queued
            }
            Checkout::Failing(failure) if !failure.refused => {
                self.state().enqueue(client, home, now);
                self.launch(home);
                if self.is_removed() {
                    self.dismiss_waiting();
                }
                Checkout::Queued
            }
            answer => answer,
        }
    }

    /// Asks for a server that is opened for the client alone. It comes as a
    /// [`Grant`], or the client leaves with [`Pool::leave`].
    pub fn ask_for_own(self: &Arc<Self>, client: &Arc<Client>, home: usize, now: Micros) {
        self.state().enqueue_apart(client, now);
        self.launch(home);
        if self.is_removed() {
            self.dismiss_waiting();
        }
    }

    /// A queued client goes. A server that was just granted to it is passed
    /// on.
    pub fn leave(self: &Arc<Self>, client: &Arc<Client>, now: Micros) {
        if self.state().leave(client) {
            return;
        }
        match client.take_grant() {
            Some(Grant::Server(server)) => self.give_back(server, now),
            Some(Grant::Own(own)) => self.discard(own.0, OWNER_GONE),
            Some(Grant::Failed(_)) | None => {}
        }
    }

    /// Takes back a server that was not used.
    pub fn give_back(self: &Arc<Self>, server: Box<Server>, now: Micros) {
        server.record.unlink();
        if server.record.replication != Replication::No {
            return self.discard(server, OWNER_GONE);
        }
        if server.record.is_marked() || self.is_removed() {
            self.state().active_closing();
            return self.close_counted(server, OBSOLETE);
        }
        server.record.set_state(ServerState::Idle);
        let home = server.home;
        self.settle(|state| state.release(server, home, now));
        self.offer_place(home);
    }

    /// Takes back a server that its client is done with. One that is not
    /// clean is never given to anybody else.
    pub fn release(self: &Arc<Self>, server: Box<Server>, now: Micros) {
        server.record.unlink();
        if !server.is_reusable() {
            if server.record.is_being_canceled() {
                return self.after_cancels(server);
            }
            return self.retire(server);
        }
        if self.single_use.load(Ordering::Relaxed) {
            server.record.mark();
        }
        let used_up = server.record.is_marked() || self.is_removed();
        if !used_up && self.resets_on_release() {
            return self.reset(server);
        }
        self.give_back(server, now);
    }

    /// Closes a linked server that must not be reused.
    pub fn discard(self: &Arc<Self>, server: Box<Server>, reason: &'static str) {
        server.record.unlink();
        self.state().active_closing();
        self.close_counted(server, reason);
    }

    /// A linked server has been lost without a farewell.
    pub fn lost(self: &Arc<Self>, id: u64, home: usize) {
        let Some(bouncer) = self.bouncer.upgrade() else {
            return;
        };
        bouncer.servers.remove(&id);
        let mut state = self.state();
        state.active_closing();
        state.closed();
        drop(state);
        bouncer.give_server_place(&self.database, &self.user);
        self.refill(home);
    }

    /// Takes back a server whose client has gone in the middle of something:
    /// cancels what it runs, reads what it still owes, and closes it unless
    /// it turns out clean.
    pub fn retire(self: &Arc<Self>, mut server: Box<Server>) {
        server.record.unlink();
        server.record.set_state(ServerState::BeingCanceled);
        self.state().test_begun();
        let pool = self.clone();
        spawn(async move {
            let whole = server.channel.is_drained()
                && server.exchange.outgoing == 0
                && !server.exchange.answers.is_unsynced()
                && !server.exchange.answers.is_copying_in();
            let (record, running) = (server.record.clone(), !server.exchange.is_answered());
            let cancel = async {
                if running
                    && let Some(cancel) = record.begin_cancel()
                    && let Some(bouncer) = pool.bouncer.upgrade()
                    && let Err(error) = cancel.send(&bouncer.names, RETIRE_LIMIT).await
                {
                    tracing::debug!(%error, "cancel request of an abandoned query failed");
                }
                record.cancels_done().await;
            };
            let drain = async {
                match whole {
                    true => server.drain(RETIRE_LIMIT, RETIRE_BYTES).await,
                    false => Retired::Unsettled,
                }
            };
            // Both at once: the server is to be free again within a second.
            let ((), retired) = tokio::join!(cancel, drain);
            if retired == Retired::Settled && server.is_reusable() {
                pool.reset_tested(server).await;
            } else {
                pool.state().tested_closing();
                let reason = match server.record.replication {
                    Replication::No => "client disconnected with query in progress",
                    _ => "client disconnect while server was not ready",
                };
                pool.close_and_count(server, reason).await;
            }
        });
    }

    /// Opens the servers that are wanted now. `home` is the worker that calls.
    pub fn launch(self: &Arc<Self>, home: usize) {
        let Some(bouncer) = self.bouncer.upgrade() else {
            return;
        };
        if self.is_removed() {
            return;
        }
        let now = bouncer.clock.now();
        loop {
            let mut state = self.state();
            if let Some(idle) = state.make_place(now) {
                drop(state);
                // Its end launches again.
                self.close_counted(idle, EVICTED);
                continue;
            }
            let Some(wanted) = state.next_login(now) else {
                return;
            };
            if !bouncer.take_server_place(&self.database, &self.user) {
                let wanted = match state.is_wanted() {
                    true => state.logins_wanted(now).max(1),
                    false => 0,
                };
                let idle = state.make_shared_place(now);
                drop(state);
                // Somebody's idle server makes room for a client, though not
                // for a minimum; its end launches again.
                if let Some(idle) = idle {
                    self.close_counted(idle, EVICTED);
                } else {
                    bouncer.evict_for(self, wanted);
                }
                return;
            }
            if state.is_full() {
                tracing::warn!(
                    "{}/{}: taking connection from reserve_pool",
                    self.database.name,
                    self.user.name
                );
            }
            let (pool, bouncer) = (self.clone(), bouncer.clone());
            let client = match wanted {
                Wanted::Own => state.own_login_begun(),
                Wanted::Shared => {
                    state.login_begun();
                    None
                }
            };
            drop(state);
            spawn(async move {
                match client {
                    Some(client) => pool.log_in_for(&bouncer, client, home).await,
                    None => pool.log_in(&bouncer, home).await,
                }
            });
        }
    }

    /// Closes the idle servers for which `reason` gives one.
    pub fn close_idle(
        self: &Arc<Self>,
        mut reason: impl FnMut(&Server, Micros, u32) -> Option<&'static str>,
    ) {
        let mut why = Vec::new();
        let servers = self.state().close_idle(|server, since, spare| {
            let reason = reason(server, since, spare);
            why.extend(reason);
            reason.is_some()
        });
        for (server, reason) in servers.into_iter().zip(why) {
            self.close_counted(server, reason);
        }
    }

    /// Stops handing out servers and closes the idle ones, or goes on.
    pub fn set_paused(self: &Arc<Self>, paused: bool) {
        self.state().set_paused(paused);
        if paused {
            self.close_idle(|_, _, _| Some("pause mode"));
        } else if let Some(bouncer) = self.bouncer.upgrade() {
            let mut state = self.state();
            let granted = state.grant_idle().into_iter();
            // Still locked, as in `settle`.
            let clients: Vec<_> = granted
                .map(|(client, server)| {
                    client.put_grant(Grant::Server(server));
                    client
                })
                .collect();
            drop(state);
            clients.iter().for_each(|client| client.wake());
            self.launch(bouncer.control_home());
        }
    }

    /// Marks every server: it is closed when it is next free, or when its
    /// login has ended.
    pub fn mark_servers(self: &Arc<Self>) {
        let Some(bouncer) = self.bouncer.upgrade() else {
            return;
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
        for record in &bouncer.servers {
            if record.pool == self.id {
                record.mark();
            }
        }
        self.state().set_stale();
        self.close_idle(|server, _, _| server.record.is_marked().then_some(OBSOLETE));
        // Who waits need not wait for what failed by the old settings.
        self.state().forget_failure();
        self.launch(bouncer.control_home());
    }

    /// No client gets a server of it any more: those that wait are told so,
    /// and what comes back or logs in is closed.
    pub fn remove(self: &Arc<Self>) {
        self.removed.store(true, Ordering::Release);
        self.state().set_paused(true);
        self.close_idle(|_, _, _| Some("database removed"));
        self.dismiss_waiting();
    }

    fn dismiss_waiting(&self) {
        let removed = Arc::new(LoginFailure {
            sqlstate: backend::PROTOCOL_VIOLATION.into(),
            message: "database removed".into(),
            refused: true,
        });
        let waiting = self.state().dismiss_waiting();
        for client in waiting {
            client.grant(Grant::Failed(removed.clone()));
        }
    }

    /// Whether [`Pool::remove`] was called.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Servers by state, waiting clients, and since when the first waits.
    pub fn numbers(&self) -> (Counts, usize, Option<Micros>) {
        let state = self.state();
        (state.counts(), state.waiting(), state.waiting_since())
    }

    /// Whether a client waits for a server.
    pub fn is_waited_for(&self) -> bool {
        self.state().is_wanted()
    }

    /// The counters of all workers together.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.counters
            .iter()
            .for_each(|one| totals.add_counters(one));
        totals
    }

    /// The sizes in force.
    pub fn limits(&self) -> super::state::Limits {
        self.state().limits()
    }

    /// When a server was last found too old.
    pub(super) fn last_expiry(&self) -> Micros {
        Micros(self.last_expiry.load(Ordering::Relaxed))
    }

    /// Notes that a server was found too old.
    pub(super) fn set_last_expiry(&self, now: Micros) {
        self.last_expiry.store(now.0, Ordering::Relaxed);
    }

    /// Idle servers over the sizes in force.
    pub fn surplus(&self) -> u32 {
        self.state().surplus()
    }

    /// Which of several hosts the next login goes to, counted round and round:
    /// to each in turn, or with `load_balance_hosts = disable` to the same one
    /// until a login fails there.
    fn take_turn(&self) -> usize {
        match self.database.stays_with_host() {
            true => self.turn.load(Ordering::Relaxed),
            false => self.database.turn.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A login of this turn has failed. Of several at once the first one counts.
    fn leave_host(&self, turn: usize) {
        let next = turn.wrapping_add(1);
        let order = Ordering::Relaxed;
        // Another has moved on, or the hosts come in turn.
        let _unchanged = self.turn.compare_exchange(turn, next, order, order);
    }

    async fn log_in(self: &Arc<Self>, bouncer: &Arc<Bouncer>, home: usize) {
        let guard = LoginGuard {
            pool: self,
            client: None,
        };
        let begun = bouncer.clock.now();
        let generation = self.generation.load(Ordering::Acquire);
        let turn = self.take_turn();
        let target = bouncer.target(self, turn);
        let attempt = self.attempt(bouncer, &target, home).await;
        std::mem::forget(guard);
        match attempt {
            Ok((server, welcome)) => {
                self.welcome.store(Some(Arc::new(welcome)));
                if self.generation.load(Ordering::Acquire) != generation {
                    self.state().login_closing();
                    return self.close_counted(server, "connect string changed");
                }
                let now = bouncer.clock.now();
                self.settle(|state| state.login_succeeded(server, home, now));
                self.launch(home);
            }
            Err(error) => {
                self.leave_host(turn);
                self.login_failed(bouncer, (&error, begun), None, home)
                    .await;
            }
        }
    }

    /// Logs in the server that is for this client alone.
    async fn log_in_for(
        self: &Arc<Self>,
        bouncer: &Arc<Bouncer>,
        client: Arc<Client>,
        home: usize,
    ) {
        let guard = LoginGuard {
            pool: self,
            client: Some(&client),
        };
        let begun = bouncer.clock.now();
        let generation = self.generation.load(Ordering::Acquire);
        let turn = self.take_turn();
        let mut target = bouncer.target(self, turn);
        target.own.clone_from(&client.own);
        let attempt = self.attempt(bouncer, &target, home).await;
        std::mem::forget(guard);
        match attempt {
            Ok((server, _)) if self.generation.load(Ordering::Acquire) != generation => {
                self.state().own_login_closing(&client);
                return self.close_counted(server, "connect string changed");
            }
            Ok(own) => {
                let mut state = self.state();
                if !state.own_login_succeeded(&client) {
                    drop(state);
                    return self.close_counted(own.0, OWNER_GONE);
                }
                // Under the lock, so that a client that leaves just now finds it.
                client.grant(Grant::Own(Box::new(own)));
            }
            Err(error) if error.is_personal() => {
                bouncer.log_login_failed(self, &error, OWN_REFUSED, begun);
                bouncer.give_server_place(&self.database, &self.user);
                if self.state().own_login_refused(&client) {
                    client.grant(Grant::Failed(Arc::new(LoginFailure {
                        sqlstate: backend::PROTOCOL_VIOLATION.into(),
                        message: OWN_REFUSED.into(),
                        refused: true,
                    })));
                }
                return self.refill(home);
            }
            Err(error) => {
                self.leave_host(turn);
                let failed = self.login_failed(bouncer, (&error, begun), Some(&client), home);
                return failed.await;
            }
        }
        self.launch(home);
    }

    /// Logs a server in, within `server_connect_timeout`, and enters it in the
    /// books.
    async fn attempt(
        &self,
        bouncer: &Bouncer,
        target: &Target,
        home: usize,
    ) -> Result<(Box<Server>, Welcome), LoginError> {
        let logged_in = server::login(
            target,
            &bouncer.names,
            &bouncer.tracked,
            (self.id, bouncer.next_id()),
            &bouncer.clock,
            bouncer.config().pgbouncer.server_connect_timeout,
        )
        .await?;
        let mut server = Box::new(logged_in.server);
        server.home = home;
        let parameters = std::mem::take(&mut server.parameters);
        server.parameters = bouncer
            .parameter_sets
            .share(Arc::unwrap_or_clone(parameters));
        let welcome = Welcome::new(
            logged_in.parameters,
            server.parameters.clone(),
            &bouncer.tracked,
        );
        bouncer
            .servers
            .insert(server.record.id, server.record.clone());
        server.record.set_state(ServerState::Idle);
        bouncer.log_server_connected(self, &server);
        if let (Host::Name(name), Some(address)) = (&target.host, server.record.ip())
            && !bouncer.names.has(name, address)
        {
            server.record.mark();
        }
        Ok((server, welcome))
    }

    async fn login_failed(
        self: &Arc<Self>,
        bouncer: &Bouncer,
        (error, begun): (&LoginError, Micros),
        client: Option<&Arc<Client>>,
        home: usize,
    ) {
        let message = error.client_text();
        bouncer.log_login_failed(self, error, &message, begun);
        let now = bouncer.clock.now();
        let failure = LoginFailure {
            sqlstate: error.sqlstate().to_owned(),
            message,
            refused: error.is_refusal(),
        };
        let told = match client {
            Some(client) => self.state().own_login_failed(client, failure, now),
            None => self.state().login_failed(failure, now),
        };
        bouncer.give_server_place(&self.database, &self.user);
        let failure = self.state().failure();
        for client in told {
            if let Some(failure) = &failure {
                client.grant(Grant::Failed(failure.clone()));
            }
        }
        let pause = self.state().retry_pause(now);
        tokio::time::sleep(pause).await;
        self.launch(home);
    }

    /// Where servers are limited over several pools, an idle one here may be
    /// what a client waits for there.
    fn offer_place(self: &Arc<Self>, home: usize) {
        if self.shares_limit.load(Ordering::Relaxed)
            && let Some(bouncer) = self.bouncer.upgrade()
        {
            bouncer.launch_siblings(self, home);
        }
    }

    fn resets_on_release(&self) -> bool {
        self.mode() == PoolMode::Session || self.reset_always.load(Ordering::Relaxed)
    }

    fn after_cancels(self: &Arc<Self>, server: Box<Server>) {
        server.record.set_state(ServerState::BeingCanceled);
        self.state().test_begun();
        let pool = self.clone();
        spawn(async move {
            server.record.cancels_done().await;
            if server.is_reusable() {
                pool.reset_tested(server).await;
            } else {
                pool.state().tested_closing();
                pool.close_and_count(server, "client disconnected with query in progress")
                    .await;
            }
        });
    }

    fn reset(self: &Arc<Self>, server: Box<Server>) {
        self.state().test_begun();
        let pool = self.clone();
        spawn(async move { pool.reset_tested(server).await });
    }

    /// Runs the reset query where the mode asks for one, then gives the server
    /// to the next client.
    async fn reset_tested(self: &Arc<Self>, mut server: Box<Server>) {
        let Some(bouncer) = self.bouncer.upgrade() else {
            return;
        };
        let config = bouncer.config();
        let query = config.pgbouncer.server_reset_query.as_str();
        let wanted = self.resets_on_release();
        server.record.set_state(ServerState::Tested);
        let mut failed = false;
        if wanted && !query.is_empty() {
            failed = server.run(query, RESET_LIMIT).await.is_err();
            server.exchange.prepared.clear(&server.exchange.answers);
        }
        if failed || !server.is_reusable() || server.record.is_marked() || self.is_removed() {
            self.state().tested_closing();
            return self.close_and_count(server, "reset query failed").await;
        }
        server.record.set_state(ServerState::Idle);
        let home = server.home;
        let now = bouncer.clock.now();
        self.settle(|state| state.test_ended(server, home, now));
        self.offer_place(home);
    }

    /// Does with a server what the state says.
    fn settle(
        self: &Arc<Self>,
        act: impl FnOnce(&mut State<Box<Server>, Arc<Client>>) -> Returned<Box<Server>, Arc<Client>>,
    ) {
        let mut state = self.state();
        match act(&mut state) {
            Returned::Granted(client, server) => {
                // Still locked: a client that leaves just now finds it.
                client.put_grant(Grant::Server(server));
                drop(state);
                client.wake();
            }
            Returned::Kept => {}
            Returned::Close(server) => {
                drop(state);
                self.close_counted(server, "too many servers in the pool");
            }
        }
    }

    fn close_counted(self: &Arc<Self>, server: Box<Server>, reason: &'static str) {
        let pool = self.clone();
        spawn(async move { pool.close_and_count(server, reason).await });
    }

    async fn close_and_count(self: &Arc<Self>, server: Box<Server>, reason: &'static str) {
        let home = server.home;
        self.end(server, reason).await;
        self.refill(home);
    }

    /// Closes a server and gives its place back.
    pub(super) async fn end(&self, server: Box<Server>, reason: &'static str) {
        let Some(bouncer) = self.bouncer.upgrade() else {
            return;
        };
        bouncer.servers.remove(&server.record.id);
        bouncer.log_server_closing(self, &server, reason);
        server.close().await;
        self.state().closed();
        bouncer.give_server_place(&self.database, &self.user);
    }

    /// Uses the place that a server has left. Clients that wait in other pools
    /// go before the minimum of this one.
    pub(super) fn refill(self: &Arc<Self>, home: usize) {
        let is_wanted = self.state().is_wanted();
        if !is_wanted {
            self.offer_place(home);
        }
        self.launch(home);
        if is_wanted {
            self.offer_place(home);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<Box<Server>, Arc<Client>>> {
        // A panic inside would be a bug of the pure state; its counts are
        // still the best there is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an idle server is still good.
fn is_fit(server: &Server) -> bool {
    server.channel.stream.is_quiet() && !server.record.is_marked()
}

fn check_delay(bouncer: &Bouncer) -> u64 {
    let config = bouncer.config();
    let settings = &config.pgbouncer;
    match settings.server_check_query.is_empty() {
        true => u64::MAX,
        false => u64::try_from(settings.server_check_delay.as_micros()).unwrap_or(u64::MAX),
    }
}

/// Counts a login as failed when its task is dropped.
struct LoginGuard<'a> {
    pool: &'a Arc<Pool>,
    /// It is for this client alone.
    client: Option<&'a Arc<Client>>,
}

impl Drop for LoginGuard<'_> {
    fn drop(&mut self) {
        let failure = LoginFailure {
            sqlstate: "08006".into(),
            message: "server login was interrupted".into(),
            refused: false,
        };
        let pool = self.pool;
        match self.client {
            Some(client) => pool.state().own_login_failed(client, failure, Micros::ZERO),
            None => pool.state().login_failed(failure, Micros::ZERO),
        };
        if let Some(bouncer) = pool.bouncer.upgrade() {
            bouncer.give_server_place(&pool.database, &pool.user);
        }
    }
}

/// Runs `task` on the calling runtime; outside of one (the process is ending)
/// it is dropped, which closes what it holds.
pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}
