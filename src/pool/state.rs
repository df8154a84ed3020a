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
    counts: Counts,
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
            counts: Counts::default(),
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

    /// A waiting client has gone. False if it was not waiting any more: then
    /// it has been granted a server or told of a failure.
    pub fn leave(&mut self, client: &W) -> bool {
        let at = self.waiting.iter().position(|w| w.client == *client);
        at.and_then(|at| self.waiting.remove(at)).is_some()
    }

    /// How many logins to begin now. Each must be followed by
    /// [`State::login_begun`].
    pub fn logins_wanted(&self, now: Micros) -> u32 {
        if self.paused {
            return 0;
        }
        let concurrency = match &self.failing {
            Some(failing) if now < failing.retry_at => return 0,
            Some(_) => 1,
            None if self.limits.probes && !self.proven => 1,
            None if self.limits.login_concurrency == 0 => u32::MAX,
            None => self.limits.login_concurrency,
        };
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let for_waiters = waiting.saturating_sub(self.counts.login);
        let missing = self.limits.min_pool_size.min(self.size());
        let for_minimum = missing.saturating_sub(self.counts.total()).min(1);
        let wanted = for_waiters.max(for_minimum);
        wanted
            .min(self.room(now))
            .min(concurrency.saturating_sub(self.counts.login))
    }

    /// A login has begun.
    pub fn login_begun(&mut self) {
        self.counts.login += 1;
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
        self.waiting.len()
    }

    /// Since when the longest waiting client waits.
    pub fn waiting_since(&self) -> Option<Micros> {
        self.waiting.front().map(|w| w.since)
    }

    /// Takes all waiting clients out of the queue.
    pub fn dismiss_waiting(&mut self) -> Vec<W> {
        self.waiting.drain(..).map(|w| w.client).collect()
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
        if self.paused || self.counts.total() >= self.most() {
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
mod tests {
    use super::*;

    type Pool = State<u32, u32>;

    fn pool(pool_size: u32) -> Pool {
        State::new(Limits {
            pool_size,
            server_login_retry: Duration::from_secs(15),
            ..Limits::default()
        })
    }

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    fn open(pool: &mut Pool, server: u32) -> Returned<u32, u32> {
        pool.login_begun();
        pool.login_succeeded(server, 0, at(0))
    }

    fn refusal() -> LoginFailure {
        LoginFailure {
            sqlstate: "28P01".into(),
            message: "no".into(),
            refused: true,
        }
    }

    #[test]
    fn a_flood_opens_as_many_servers_as_wait_up_to_the_size() {
        let mut pool = pool(3);
        for client in 0..2 {
            assert_eq!(pool.checkout(&client, 0, at(0)), Checkout::Queued);
        }
        assert_eq!(pool.logins_wanted(at(0)), 2);
        for client in 2..10 {
            pool.checkout(&client, 0, at(0));
        }
        assert_eq!(pool.logins_wanted(at(0)), 3);
        (0..3).for_each(|_| pool.login_begun());
        assert_eq!(pool.logins_wanted(at(0)), 0);
    }

    #[test]
    fn servers_go_to_the_longest_waiting() {
        let mut pool = pool(1);
        pool.checkout(&7, 0, at(0));
        pool.checkout(&8, 0, at(1));
        assert_eq!(open(&mut pool, 100), Returned::Granted(7, 100));
        assert_eq!(pool.release(100, 0, at(2)), Returned::Granted(8, 100));
        assert_eq!(pool.release(100, 0, at(3)), Returned::Kept);
        assert_eq!(pool.checkout(&9, 0, at(4)), Checkout::Ready(100));
    }

    #[test]
    fn a_server_stays_with_its_worker_while_the_queues_go_on_alike() {
        let mut pool = pool(1);
        pool.checkout(&7, 1, Micros(0));
        pool.checkout(&8, 0, Micros(2_000));
        assert_eq!(open(&mut pool, 100), Returned::Granted(8, 100));
        pool.checkout(&9, 0, Micros(2_001));
        let returned = pool.release(100, 0, Micros(2_002));
        assert_eq!(returned, Returned::Granted(7, 100));
    }

    #[test]
    fn only_the_front_of_a_long_queue_is_looked_through() {
        let mut pool = pool(1);
        for client in 0..40 {
            pool.checkout(&client, usize::from(client < 39), at(0));
        }
        assert_eq!(open(&mut pool, 100), Returned::Granted(0, 100));
    }

    #[test]
    fn the_newest_idle_server_of_the_own_worker_is_taken_first() {
        let mut pool = pool(3);
        for (server, home) in [(1, 0), (2, 0), (3, 1)] {
            pool.login_begun();
            pool.login_succeeded(server, home, at(0));
        }
        assert_eq!(pool.take_idle(0), Some(2));
        assert_eq!(pool.take_idle(0), Some(1));
        assert_eq!(pool.take_idle(0), Some(3));
        assert_eq!(pool.take_idle(0), None);
    }

    #[test]
    fn a_client_that_left_gets_nothing() {
        let mut pool = pool(1);
        pool.checkout(&7, 0, at(0));
        assert!(pool.leave(&7));
        assert!(!pool.leave(&7));
        assert_eq!(open(&mut pool, 100), Returned::Kept);
    }

    #[test]
    fn after_a_failure_one_login_at_a_time_with_growing_pauses() {
        let mut pool = pool(5);
        (0..5).for_each(|client| {
            pool.checkout(&client, 0, at(0));
        });
        pool.login_begun();
        let failure = LoginFailure {
            refused: false,
            ..refusal()
        };
        assert_eq!(pool.login_failed(failure.clone(), at(0)), [0u32; 0]);
        assert_eq!(pool.logins_wanted(at(0)), 0);
        assert_eq!(pool.logins_wanted(Micros(100_000)), 1);
        pool.login_begun();
        pool.login_failed(failure, Micros(100_000));
        assert_eq!(pool.logins_wanted(Micros(299_999)), 0);
        assert_eq!(pool.logins_wanted(Micros(300_000)), 1);
        assert_eq!(open(&mut pool, 1), Returned::Granted(0, 1));
        assert_eq!(pool.logins_wanted(at(1)), 4);
    }

    #[test]
    fn a_refusal_is_told_to_all_who_wait_and_to_newcomers() {
        let mut pool = pool(5);
        pool.checkout(&1, 0, at(0));
        pool.checkout(&2, 0, at(0));
        pool.login_begun();
        assert_eq!(pool.login_failed(refusal(), at(0)), [1, 2]);
        assert!(matches!(pool.checkout(&3, 0, at(0)), Checkout::Failing(_)));
    }

    #[test]
    fn after_the_pause_a_newcomer_waits_for_a_new_attempt() {
        let mut pool = pool(5);
        pool.checkout(&1, 0, at(0));
        pool.login_begun();
        pool.login_failed(refusal(), at(0));
        assert_eq!(pool.checkout(&2, 0, at(1)), Checkout::Queued);
        assert_eq!(pool.logins_wanted(at(1)), 1);
    }

    #[test]
    fn a_forgotten_failure_neither_answers_nor_delays() {
        let mut pool = pool(1);
        pool.checkout(&1, 0, at(0));
        pool.login_begun();
        pool.login_failed(refusal(), at(0));
        assert!(matches!(pool.checkout(&2, 0, at(0)), Checkout::Failing(_)));
        pool.forget_failure();
        assert_eq!(pool.checkout(&2, 0, at(0)), Checkout::Queued);
        assert_eq!(pool.logins_wanted(at(0)), 1);
    }

    #[test]
    fn a_failure_beside_a_working_server_lets_clients_wait() {
        let mut pool = pool(2);
        open(&mut pool, 1);
        assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Ready(1));
        pool.checkout(&2, 0, at(0));
        pool.login_begun();
        assert_eq!(pool.login_failed(refusal(), at(0)), [0u32; 0]);
        assert_eq!(pool.checkout(&3, 0, at(0)), Checkout::Queued);
    }

    #[test]
    fn a_failure_beside_servers_that_are_to_be_closed_is_told() {
        let mut pool = pool(3);
        open(&mut pool, 1);
        assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Ready(1));
        pool.set_stale();
        pool.checkout(&2, 0, at(0));
        pool.login_begun();
        assert_eq!(pool.login_failed(refusal(), at(0)), [2]);
        open(&mut pool, 2);
        assert_eq!(pool.checkout(&3, 0, at(0)), Checkout::Ready(2));
        pool.checkout(&4, 0, at(0));
        pool.login_begun();
        assert_eq!(pool.login_failed(refusal(), at(0)), [0u32; 0]);
    }

    #[test]
    fn the_reserve_opens_for_a_client_that_waited_too_long() {
        let mut pool = pool(1);
        pool.set_limits(Limits {
            reserve_pool_size: 1,
            reserve_pool_timeout: Duration::from_secs(5),
            ..pool.limits()
        });
        open(&mut pool, 1);
        pool.take_idle(0);
        pool.checkout(&1, 0, at(0));
        assert_eq!(pool.logins_wanted(at(5)), 0);
        assert_eq!(pool.logins_wanted(at(6)), 1);
    }

    #[test]
    fn the_minimum_is_opened_one_at_a_time_and_never_closed_for_idleness() {
        let mut pool = pool(5);
        pool.set_limits(Limits {
            min_pool_size: 2,
            ..pool.limits()
        });
        assert_eq!(pool.logins_wanted(at(0)), 1);
        (0..3).for_each(|server| {
            open(&mut pool, server);
        });
        assert_eq!(pool.logins_wanted(at(0)), 0);
        assert_eq!(pool.close_idle(|_, _, spare| spare > 0).len(), 1);
    }

    #[test]
    fn a_closing_server_counts_until_it_is_gone() {
        let mut pool = pool(1);
        open(&mut pool, 1);
        pool.take_idle(0);
        pool.checkout(&1, 0, at(0));
        pool.active_closing();
        assert_eq!(pool.logins_wanted(at(0)), 0);
        pool.closed();
        assert_eq!(pool.logins_wanted(at(0)), 1);
    }

    #[test]
    fn a_login_nobody_wants_any_more_makes_room_when_it_is_gone() {
        let mut pool = pool(1);
        pool.checkout(&1, 0, at(0));
        pool.login_begun();
        pool.login_closing();
        assert_eq!(pool.logins_wanted(at(0)), 0);
        pool.closed();
        assert_eq!(pool.logins_wanted(at(0)), 1);
    }

    #[test]
    fn one_login_probes_a_host_that_none_has_succeeded_at() {
        let mut pool = pool(5);
        pool.set_limits(Limits {
            probes: true,
            ..pool.limits()
        });
        for client in 1..=3 {
            pool.enqueue(&client, 0, at(0));
        }
        assert_eq!(pool.logins_wanted(at(0)), 1);
        pool.login_begun();
        assert_eq!(pool.logins_wanted(at(0)), 0);
        assert_eq!(pool.login_succeeded(7, 0, at(0)), Returned::Granted(1, 7));
        assert_eq!(pool.logins_wanted(at(0)), 2);
    }

    #[test]
    fn a_paused_pool_hands_out_nothing_and_keeps_nothing() {
        let mut pool = pool(2);
        open(&mut pool, 1);
        open(&mut pool, 2);
        assert_eq!(pool.take_idle(0), Some(2));
        pool.set_paused(true);
        assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Queued);
        assert_eq!(pool.logins_wanted(at(0)), 0);
        assert_eq!(pool.release(2, 0, at(0)), Returned::Close(2));
        pool.set_paused(false);
        assert_eq!(pool.grant_idle(), [(1, 1)]);
    }

    #[test]
    fn lowered_sizes_close_what_comes_back() {
        let mut pool = pool(2);
        open(&mut pool, 1);
        open(&mut pool, 2);
        pool.take_idle(0);
        pool.set_limits(Limits {
            pool_size: 1,
            ..pool.limits()
        });
        assert_eq!(pool.surplus(), 1);
        assert_eq!(pool.release(2, 0, at(0)), Returned::Close(2));
    }
}
