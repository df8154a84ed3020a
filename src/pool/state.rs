//! Who gets which server: the decisions of one pool, without I/O.
//!
//! `S` is a server, `W` a waiting client. Time is an argument. Every server
//! is counted in exactly one place from the moment its login begins until its
//! connection is gone, so the pool never has more than it may.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::stats::Micros;
use crate::wire::backend;

/// The first pause after a failed login; it doubles up to
/// `server_login_retry`.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How much later a client may have come than one of another worker that it
/// is served before. A server that goes to another worker has to move to its
/// reactor, so as long as both queues go on alike it stays where it is.
const OVERTAKING: Duration = Duration::from_millis(2);

/// How many of the longest waiting are looked through for one of the own
/// worker.
const OVERTAKEN: usize = 32;

/// Sizes of a pool, as the configuration has them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// `pool_size`; 0 is unlimited.
    pub pool_size: u32,
    /// `min_pool_size`.
    pub min_pool_size: u32,
    /// `reserve_pool_size`.
    pub reserve_pool_size: u32,
    /// `reserve_pool_timeout`; zero disables the reserve.
    pub reserve_pool_timeout: Duration,
    /// `server_login_retry`: the longest pause after a failed login.
    pub server_login_retry: Duration,
    /// `server_login_concurrency`; 0 is as many as clients wait.
    pub login_concurrency: u32,
    /// `server_round_robin`: reuse the oldest idle server, not the newest.
    pub round_robin: bool,
    /// Logins stay with one of several hosts: until one has succeeded there
    /// is one at a time, so that a host that is away costs one attempt.
    pub probes: bool,
}

/// How many servers are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Linked to a client.
    pub active: u32,
    /// Ready.
    pub idle: u32,
    /// Running a reset query, or waiting for a cancel request to be done.
    pub tested: u32,
    /// Connecting or logging in.
    pub login: u32,
    /// Being closed; the backend may still exist.
    pub closing: u32,
}

impl Counts {
    /// All of them.
    pub fn total(self) -> u32 {
        self.active + self.idle + self.tested + self.login + self.closing
    }
}

/// Why servers cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFailure {
    /// SQLSTATE for the client.
    pub sqlstate: String,
    /// Text for the client.
    pub message: String,
    /// The server itself refused, so waiting clients are told at once;
    /// otherwise they go on waiting.
    pub refused: bool,
}

impl LoginFailure {
    /// None in time: the client is told so, as PgBouncer does.
    pub fn waited(message: &str) -> LoginFailure {
        LoginFailure {
            sqlstate: backend::PROTOCOL_VIOLATION.to_owned(),
            message: message.to_owned(),
            refused: true,
        }
    }
}

/// The answer to a client that asks for a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout<S> {
    /// Here it is.
    Ready(S),
    /// None is free; the client is in the queue.
    Queued,
    /// Logins have been failing and there is no server.
    Failing(Arc<LoginFailure>),
}

/// Where a server goes that a client has given back or a login has made.
#[derive(Debug, PartialEq, Eq)]
pub enum Returned<S, W> {
    /// To this client: the longest waiting, but for [`OVERTAKING`].
    Granted(W, S),
    /// It stays in the pool.
    Kept,
    /// It must be closed, and [`State::closed`] told when it is.
    Close(S),
}

#[derive(Debug)]
struct Idle<S> {
    server: S,
    home: usize,
    since: Micros,
}

#[derive(Debug)]
struct Waiting<W> {
    client: W,
    home: usize,
    since: Micros,
}

/// Waits for a server that is opened for it alone.
#[derive(Debug)]
struct Apart<W> {
    client: W,
    since: Micros,
    /// The login of its server goes on.
    begun: bool,
}

/// A login that is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Of a server for whoever comes.
    Shared,
    /// Of a server for one client alone.
    Own,
}

#[derive(Debug)]
struct Failing {
    failure: Arc<LoginFailure>,
    retry_at: Micros,
    pause: Duration,
}

/// One pool.
#[derive(Debug)]
pub struct State<S, W> {
    limits: Limits,
    /// Oldest first.
    idle: VecDeque<Idle<S>>,
    /// Longest waiting first.
    waiting: VecDeque<Waiting<W>>,
    /// Those that no server there is can serve, longest waiting first.
    apart: VecDeque<Apart<W>>,
    counts: Counts,
    /// So many of `counts.login` are for one client alone.
    own_logins: u32,
    failing: Option<Failing>,
    /// Its servers are to be closed as they become free, and none has logged
    /// in since: those it has are no help to who waits.
    stale: bool,
    paused: bool,
    /// A login has succeeded.
    proven: bool,
}

impl<S, W: PartialEq + Clone> State<S, W> {
    /// An empty pool.
    pub fn new(limits: Limits) -> State<S, W> {
        State {
            limits,
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            apart: VecDeque::new(),
            counts: Counts::default(),
            own_logins: 0,
            failing: None,
            stale: false,
            paused: false,
            proven: false,
        }
    }

    /// Takes an idle server without queueing: the newest of the worker `home`
    /// first, then of any. None while others wait, or when paused.
    pub fn take_idle(&mut self, home: usize) -> Option<S> {
        if self.paused || !self.waiting.is_empty() {
            return None;
        }
        let at = if self.limits.round_robin {
            (!self.idle.is_empty()).then_some(0)?
        } else {
            let own = self.idle.iter().rposition(|idle| idle.home == home);
            own.or(self.idle.len().checked_sub(1))?
        };
        self.counts.idle -= 1;
        self.counts.active += 1;
        self.idle.remove(at).map(|idle| idle.server)
    }

    /// A client asks for a server.
    pub fn checkout(&mut self, client: &W, home: usize, now: Micros) -> Checkout<S> {
        if let Some(server) = self.take_idle(home) {
            return Checkout::Ready(server);
        }
        if let Some(failing) = &self.failing
            && now < failing.retry_at
            && self.usable() == 0
            && !self.paused
        {
            return Checkout::Failing(failing.failure.clone());
        }
        self.enqueue(client, home, now);
        Checkout::Queued
    }

    /// Puts a client into the queue, whatever has failed so far.
    pub fn enqueue(&mut self, client: &W, home: usize, now: Micros) {
        self.waiting.push_back(Waiting {
            client: client.clone(),
            home,
            since: now,
        });
    }

    /// Puts a client into the queue that is to have a server of its own.
    pub fn enqueue_apart(&mut self, client: &W, now: Micros) {
        self.apart.push_back(Apart {
            client: client.clone(),
            since: now,
            begun: false,
        });
    }

    /// A waiting client has gone. False if it was not waiting any more: then
    /// it has been granted a server or told of a failure.
    pub fn leave(&mut self, client: &W) -> bool {
        let at = self.waiting.iter().position(|w| w.client == *client);
        at.and_then(|at| self.waiting.remove(at)).is_some() || self.leave_apart(client)
    }

    fn leave_apart(&mut self, client: &W) -> bool {
        let at = self.apart.iter().position(|w| w.client == *client);
        at.and_then(|at| self.apart.remove(at)).is_some()
    }

    /// Which login to begin now. It must be followed by
    /// [`State::login_begun`] or [`State::own_login_begun`].
    pub fn next_login(&self, now: Micros) -> Option<Wanted> {
        if self.first_apart().is_some() && self.room(now) > 0 && self.logins_allowed(now) > 0 {
            return Some(Wanted::Own);
        }
        (self.logins_wanted(now) > 0).then_some(Wanted::Shared)
    }

    /// How many logins of servers for whoever comes to begin now.
    pub fn logins_wanted(&self, now: Micros) -> u32 {
        let allowed = self.logins_allowed(now);
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let shared_logins = self.counts.login - self.own_logins;
        let for_waiters = waiting.saturating_sub(shared_logins);
        let missing = self.limits.min_pool_size.min(self.size());
        let for_minimum = missing.saturating_sub(self.counts.total()).min(1);
        let wanted = for_waiters.max(for_minimum);
        wanted.min(self.room(now)).min(allowed)
    }

    /// How many logins may begin now, whatever they are for.
    fn logins_allowed(&self, now: Micros) -> u32 {
        let concurrency = match &self.failing {
            _ if self.paused => 0,
            Some(failing) if now < failing.retry_at => 0,
            Some(_) => 1,
            None if self.limits.probes && !self.proven => 1,
            None if self.limits.login_concurrency == 0 => u32::MAX,
            None => self.limits.login_concurrency,
        };
        concurrency.saturating_sub(self.counts.login)
    }

    /// The first client that waits for the login of its own server to begin.
    fn first_apart(&self) -> Option<&Apart<W>> {
        self.apart.iter().find(|apart| !apart.begun)
    }

    /// Takes out the longest unused idle server where the place of one is
    /// needed for a client that is to have its own.
    pub fn make_place(&mut self, now: Micros) -> Option<S> {
        if !self.lacks_place(now) || self.room(now) > 0 {
            return None;
        }
        self.evict_idle()
    }

    /// Takes out the longest unused idle server for a client that is to have
    /// its own, when not the pool but its database or user is full.
    pub fn make_shared_place(&mut self, now: Micros) -> Option<S> {
        if !self.lacks_place(now) {
            return None;
        }
        self.evict_idle()
    }

    /// More clients are to have a server of their own than places are about
    /// to be free.
    fn lacks_place(&self, now: Micros) -> bool {
        let waiting = self.apart.iter().filter(|apart| !apart.begun).count();
        waiting > self.counts.closing as usize && self.logins_allowed(now) > 0
    }

    /// A login has begun.
    pub fn login_begun(&mut self) {
        self.counts.login += 1;
    }

    /// The login of a server has begun that is for one client alone: this one.
    pub fn own_login_begun(&mut self) -> Option<W> {
        let first = self.apart.iter_mut().find(|apart| !apart.begun)?;
        first.begun = true;
        self.counts.login += 1;
        self.own_logins += 1;
        Some(first.client.clone())
    }

    /// The server of this client has logged in. False if nobody waits for it
    /// any more, or it is not to be used now: it is being closed.
    pub fn own_login_succeeded(&mut self, client: &W) -> bool {
        if self.paused {
            self.own_login_closing(client);
            return false;
        }
        self.failing = None;
        self.proven = true;
        self.own_logins -= 1;
        self.counts.login -= 1;
        let is_waiting = self.leave_apart(client);
        match is_waiting {
            true => self.counts.active += 1,
            false => self.counts.closing += 1,
        }
        is_waiting
    }

    /// The server of this client has logged in, but is being closed: the
    /// client needs another one.
    pub fn own_login_closing(&mut self, client: &W) {
        self.own_login_over(client);
        self.login_closing();
    }

    /// The server of this client has said no, which is nobody else's matter.
    /// False if the client does not wait any more.
    pub fn own_login_refused(&mut self, client: &W) -> bool {
        self.own_logins -= 1;
        self.counts.login -= 1;
        self.leave_apart(client)
    }

    /// The server of this client could not be reached: it goes on waiting.
    pub fn own_login_failed(&mut self, client: &W, failure: LoginFailure, now: Micros) -> Vec<W> {
        self.own_login_over(client);
        self.login_failed(failure, now)
    }

    fn own_login_over(&mut self, client: &W) {
        self.own_logins -= 1;
        let mut apart = self.apart.iter_mut();
        if let Some(apart) = apart.find(|apart| apart.client == *client) {
            apart.begun = false;
        }
    }

    /// A login has succeeded.
    pub fn login_succeeded(&mut self, server: S, home: usize, now: Micros) -> Returned<S, W> {
        self.failing = None;
        self.proven = true;
        self.stale = false;
        self.counts.login -= 1;
        self.place(server, home, now)
    }

    /// A login has succeeded, but nobody wants its server any more: it is
    /// being closed.
    pub fn login_closing(&mut self) {
        self.failing = None;
        self.proven = true;
        self.counts.login -= 1;
        self.counts.closing += 1;
    }

    /// A login has failed. Returns the clients that are to be told now.
    pub fn login_failed(&mut self, failure: LoginFailure, now: Micros) -> Vec<W> {
        self.counts.login -= 1;
        let most = self.limits.server_login_retry;
        let pause = match &self.failing {
            Some(failing) => (failing.pause * 2).min(most),
            None => FIRST_RETRY_PAUSE.min(most),
        };
        let tell = failure.refused && (self.usable() == 0 || self.stale);
        self.failing = Some(Failing {
            failure: Arc::new(failure),
            retry_at: now + pause,
            pause,
        });
        if !tell {
            return Vec::new();
        }
        self.waiting.drain(..).map(|w| w.client).collect()
    }

    /// The servers it has now are to be closed as they become free.
    pub fn set_stale(&mut self) {
        self.stale = true;
        self.proven = false;
    }

    /// Why logins have been failing, if they have.
    pub fn failure(&self) -> Option<Arc<LoginFailure>> {
        self.failing.as_ref().map(|f| f.failure.clone())
    }

    /// What has failed says nothing about the next login any more.
    pub fn forget_failure(&mut self) {
        self.failing = None;
    }

    /// `pool_size` is reached: what is opened now is from the reserve.
    pub fn is_full(&self) -> bool {
        self.counts.total() >= self.size()
    }

    /// How long until the next login may be tried.
    pub fn retry_pause(&self, now: Micros) -> Duration {
        let retry_at = self.failing.as_ref().map_or(now, |f| f.retry_at);
        Duration::from_micros(retry_at.since(now))
    }

    /// A client gives back a clean server.
    pub fn release(&mut self, server: S, home: usize, now: Micros) -> Returned<S, W> {
        self.counts.active -= 1;
        self.place(server, home, now)
    }

    /// A client gives back a server that needs a reset or has a cancel
    /// request in flight.
    pub fn test_begun(&mut self) {
        self.counts.active -= 1;
        self.counts.tested += 1;
    }

    /// The test has ended well.
    pub fn test_ended(&mut self, server: S, home: usize, now: Micros) -> Returned<S, W> {
        self.counts.tested -= 1;
        self.place(server, home, now)
    }

    /// A linked server is being closed.
    pub fn active_closing(&mut self) {
        self.counts.active -= 1;
        self.counts.closing += 1;
    }

    /// A tested server is being closed.
    pub fn tested_closing(&mut self) {
        self.counts.tested -= 1;
        self.counts.closing += 1;
    }

    /// An idle server that another process has logged in.
    pub fn taken_over_idle(&mut self, server: S, now: Micros) {
        self.counts.idle += 1;
        self.idle.push_back(Idle {
            server,
            home: 0,
            since: now,
        });
    }

    /// A linked server that another process has logged in.
    pub fn taken_over_active(&mut self) {
        self.counts.active += 1;
    }

    /// A server that was being closed counts as linked again.
    pub fn reactivated(&mut self) {
        self.counts.closing -= 1;
        self.counts.active += 1;
    }

    /// A server that was being closed is gone.
    pub fn closed(&mut self) {
        self.counts.closing -= 1;
    }

    /// Takes out the idle servers for which `close` is true; it gets the
    /// server, since when it is idle, and how many idle ones may still go
    /// without falling below `min_pool_size`.
    pub fn close_idle(&mut self, mut close: impl FnMut(&S, Micros, u32) -> bool) -> Vec<S> {
        let mut closing = Vec::new();
        let mut kept = VecDeque::with_capacity(self.idle.len());
        for idle in self.idle.drain(..) {
            let total = self.counts.total() - self.counts.closing;
            let spare = total.saturating_sub(self.limits.min_pool_size);
            if close(&idle.server, idle.since, spare) {
                self.counts.idle -= 1;
                self.counts.closing += 1;
                closing.push(idle.server);
            } else {
                kept.push_back(idle);
            }
        }
        self.idle = kept;
        closing
    }

    /// Takes out the longest unused idle server, to make room in another
    /// pool.
    pub fn evict(&mut self) -> Option<S> {
        if !self.waiting.is_empty() {
            return None;
        }
        self.evict_idle()
    }

    fn evict_idle(&mut self) -> Option<S> {
        let idle = self.idle.pop_front()?;
        self.counts.idle -= 1;
        self.counts.closing += 1;
        Some(idle.server)
    }

    /// Idle servers over `pool_size` and reserve, after the sizes were
    /// lowered.
    pub fn surplus(&self) -> u32 {
        let most = self.size().saturating_add(self.limits.reserve_pool_size);
        self.counts.total().saturating_sub(most)
    }

    /// New sizes.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The sizes in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Stops (or goes on) handing out servers.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether servers are handed out.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Servers by state.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of waiting clients.
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.apart.len()
    }

    /// A client waits for a server, or for the login of its own to begin.
    pub fn is_wanted(&self) -> bool {
        !self.waiting.is_empty() || self.first_apart().is_some()
    }

    /// Since when the longest waiting client waits.
    pub fn waiting_since(&self) -> Option<Micros> {
        let first = self.waiting.front().map(|w| w.since);
        let apart = self.apart.front().map(|w| w.since);
        first.into_iter().chain(apart).min()
    }

    /// Takes all waiting clients out of the queue.
    pub fn dismiss_waiting(&mut self) -> Vec<W> {
        let apart = self.apart.drain(..).map(|w| w.client);
        self.waiting
            .drain(..)
            .map(|w| w.client)
            .chain(apart)
            .collect()
    }

    /// The idle servers.
    pub fn idle(&self) -> impl Iterator<Item = &S> {
        self.idle.iter().map(|idle| &idle.server)
    }

    /// Grants idle servers to waiting clients, after a pause has ended.
    pub fn grant_idle(&mut self) -> Vec<(W, S)> {
        let mut granted = Vec::new();
        while !self.paused && !self.waiting.is_empty() {
            let Some(idle) = self.idle.pop_back() else {
                break;
            };
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            self.counts.idle -= 1;
            self.counts.active += 1;
            granted.push((waiting.client, idle.server));
        }
        granted
    }

    fn place(&mut self, server: S, home: usize, since: Micros) -> Returned<S, W> {
        if self.paused || self.counts.total() >= self.most() || self.is_place_needed(since) {
            self.counts.closing += 1;
            return Returned::Close(server);
        }
        if let Some(waiting) = self.next_waiting(home) {
            self.counts.active += 1;
            return Returned::Granted(waiting.client, server);
        }
        self.counts.idle += 1;
        self.idle.push_back(Idle {
            server,
            home,
            since,
        });
        Returned::Kept
    }

    /// Whether a client that is to have a server of its own has waited longer
    /// for the place of a server that is free now than any other for itself.
    fn is_place_needed(&self, now: Micros) -> bool {
        let Some(apart) = self.first_apart() else {
            return false;
        };
        let first = self.waiting.front();
        self.counts.total() + 1 >= self.size()
            && first.is_none_or(|first| apart.since <= first.since)
            && self.lacks_place(now)
    }

    /// Takes out the client that is served next by a server of worker `home`.
    fn next_waiting(&mut self, home: usize) -> Option<Waiting<W>> {
        let first = self.waiting.front()?.since;
        let is_late = |waiting: &Waiting<W>| waiting.since.exceeds(first, OVERTAKING);
        let mut near = self.waiting.iter().take(OVERTAKEN);
        let own = near.position(|waiting| waiting.home == home || is_late(waiting));
        let own = own.filter(|at| !is_late(&self.waiting[*at]));
        self.waiting.remove(own.unwrap_or(0))
    }

    fn most(&self) -> u32 {
        self.size().saturating_add(self.limits.reserve_pool_size)
    }

    fn size(&self) -> u32 {
        match self.limits.pool_size {
            0 => u32::MAX,
            size => size,
        }
    }

    /// Servers that are or will be able to serve.
    fn usable(&self) -> u32 {
        self.counts.active + self.counts.idle + self.counts.tested
    }

    fn room(&self, now: Micros) -> u32 {
        let total = self.counts.total();
        let room = self.size().saturating_sub(total);
        if room == 0
            && let Some(since) = self.waiting_since()
            && now.exceeds(since, self.limits.reserve_pool_timeout)
        {
            return self.most().saturating_sub(total).min(1);
        }
        room
    }
}

#[cfg(test)]
mod tests;
