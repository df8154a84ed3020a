//! Maintenance, three times a second: what has lasted too long is ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::lending::OBSOLETE;
use super::{Bouncer, Client, ClientState, Database, Pool};
use crate::config::PoolMode;
use crate::stats::Micros;
use crate::wire::startup::Replication;

/// Time between two sweeps, PgBouncer's.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(333);

/// The timeouts of one client, zero for off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Timeouts {
    query: Duration,
    query_wait: Duration,
    idle_transaction: Duration,
    transaction: Duration,
    client_idle: Duration,
}

/// What a client is doing, as far as timeouts go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doing {
    state: ClientState,
    querying: bool,
    /// Start of the running or waiting query, else end of the last answer.
    since: Micros,
    transaction_at: Option<Micros>,
}

impl Timeouts {
    /// The reason to disconnect the client, if one of its timeouts is over.
    fn over(&self, doing: Doing, now: Micros) -> Option<&'static str> {
        let over = |limit| now.exceeds(doing.since, limit);
        match doing.state {
            ClientState::Waiting if over(self.query_wait) => Some("query_wait_timeout"),
            ClientState::Waiting if over(self.query) => Some("query_timeout"),
            ClientState::Waiting => None,
            ClientState::Idle => over(self.client_idle).then_some("client_idle_timeout"),
            ClientState::Active if doing.querying && over(self.query) => Some("query timeout"),
            ClientState::Active => {
                let began = doing.transaction_at?;
                if !doing.querying && over(self.idle_transaction) {
                    return Some("idle transaction timeout");
                }
                now.exceeds(began, self.transaction)
                    .then_some("transaction timeout")
            }
        }
    }
}

impl Bouncer {
    /// One sweep.
    pub fn sweep(self: &Arc<Self>) {
        if self.is_suspended() {
            return;
        }
        let now = self.clock.now();
        let notify = u64::try_from(self.config().pgbouncer.query_wait_notify).unwrap_or(0);
        for client in &self.clients {
            if let Some(reason) = self.timeouts(&client).over(doing(&client), now) {
                client.doom(reason);
            }
            // It may stay for ever, so its server is not waited for.
            if client.own.is_some() && self.is_on_marked_server(&client) {
                client.doom(OBSOLETE);
            }
            let waited = now.since(client.requested_at()) / 1_000_000;
            if client.state() == ClientState::Waiting && notify > 0 && waited > notify {
                client.notify_of_wait();
            }
        }
        if self.config().pgbouncer.server_fast_close {
            self.close_sessions_of_marked_servers();
        }
        self.fill_forced_pools();
        self.mark_moved_servers();
        for pool in self.pools() {
            self.sweep_pool(&pool, now);
        }
        self.forget_idle_autodbs(now);
        self.forget_idle_pools(now);
        self.dictionary.sweep();
        self.parameter_sets.sweep();
    }

    /// `server_fast_close`: a session on a server that is to be closed does not
    /// outlast its transaction. In the other pool modes no server does.
    fn close_sessions_of_marked_servers(&self) {
        let pools = self.pools();
        let is_session = |pool: u64| {
            let mut pools = pools.iter();
            pools.any(|it| it.id == pool && it.mode() == PoolMode::Session)
        };
        for client in &self.clients {
            let server = self.servers.get(&client.server());
            if server.is_some_and(|server| server.is_marked() && is_session(server.pool)) {
                client.doom_after_transaction(OBSOLETE);
            }
        }
    }

    fn is_on_marked_server(&self, client: &Client) -> bool {
        let server = self.servers.get(&client.server());
        server.is_some_and(|server| server.is_marked())
    }

    /// The age in force at which a server is closed; zero is after one use.
    pub(super) fn server_lifetime(&self, database: &Database) -> Duration {
        let own = database.settings.load().server_lifetime;
        own.filter(|own| !own.is_zero())
            .unwrap_or(self.config().pgbouncer.server_lifetime)
    }

    /// Pools of databases with a forced user have their minimum of servers
    /// without any client.
    fn fill_forced_pools(self: &Arc<Self>) {
        for database in self.databases() {
            let settings = database.settings.load();
            if let Some(user) = &settings.user {
                let user = self.user(user);
                if self.limits(&database, &user).min_pool_size > 0 && !database.is_paused() {
                    self.pool(&database, &user);
                }
            }
        }
    }

    /// How long a login may wait for a server, and what the client is told
    /// then; none for without limit.
    pub fn login_wait(&self, client: &Client) -> Option<(Duration, &'static str)> {
        let timeouts = self.timeouts(client);
        let limits = [
            (timeouts.query, "query_timeout"),
            (timeouts.query_wait, "query_wait_timeout"),
        ];
        let set = limits.into_iter().filter(|(limit, _)| !limit.is_zero());
        set.min_by_key(|(limit, _)| *limit)
    }

    fn timeouts(&self, client: &Client) -> Timeouts {
        let config = self.config();
        let global = &config.pgbouncer;
        let (user, database) = (client.user.settings.load(), client.database.settings.load());
        let set = |own: Option<Duration>, global| own.filter(|d| !d.is_zero()).unwrap_or(global);
        let query_wait = user.query_wait_timeout.or(database.query_wait_timeout);
        Timeouts {
            query: set(user.query_timeout, global.query_timeout),
            query_wait: query_wait.unwrap_or(global.query_wait_timeout),
            idle_transaction: set(
                user.idle_transaction_timeout,
                global.idle_transaction_timeout,
            ),
            transaction: set(user.transaction_timeout, global.transaction_timeout),
            client_idle: set(user.client_idle_timeout, global.client_idle_timeout),
        }
    }

    fn sweep_pool(self: &Arc<Self>, pool: &Arc<Pool>, now: Micros) {
        let config = self.config();
        let settings = &config.pgbouncer;
        let lifetime = self.server_lifetime(&pool.database);
        self.expire_servers(pool, lifetime, now);
        let mut surplus = pool.surplus();
        pool.close_idle(|server, since, spare| {
            if server.record.is_marked() {
                let old = lifetime.is_zero() || now.exceeds(server.record.connected_at, lifetime);
                return Some(if old {
                    "server lifetime over"
                } else {
                    OBSOLETE
                });
            }
            if !server.channel.stream.is_quiet() {
                return Some("server conn crashed or got dirty");
            }
            if surplus > 0 {
                surplus -= 1;
                return Some("too many servers in the pool");
            }
            (spare > 0 && now.exceeds(since, settings.server_idle_timeout))
                .then_some("server idle timeout")
        });
        pool.launch(self.control_home());
    }

    /// Marks the servers that are too old, at least lifetime / pool_size
    /// apart, so that a pool is not replaced all at once.
    fn expire_servers(&self, pool: &Pool, lifetime: Duration, now: Micros) {
        let spacing = lifetime / pool.limits().pool_size.max(1);
        if !now.exceeds(pool.last_expiry(), spacing) {
            return;
        }
        let oldest = self
            .servers
            .iter()
            .filter(|record| record.pool == pool.id && !record.is_marked())
            .filter(|record| record.replication == Replication::No)
            .filter(|record| lifetime.is_zero() || now.exceeds(record.connected_at, lifetime))
            .min_by_key(|record| record.connected_at)
            .map(|record| record.value().clone());
        if let Some(record) = oldest {
            record.mark();
            pool.set_last_expiry(now);
        }
    }
}

impl Pool {
    /// Whether it is unused and has been for longer than `limit`, as far as
    /// earlier calls know.
    pub(super) fn is_idle(&self, is_used: bool, limit: Duration, now: Micros) -> bool {
        if is_used {
            self.last_used.store(now.0, Ordering::Relaxed);
            return false;
        }
        let last_used = Micros(self.last_used.load(Ordering::Relaxed));
        let is_idle = now.exceeds(last_used, limit);
        if is_idle {
            tracing::info!(
                "cleaning up idle pool for user {} on db {} because: pool idle timeout (age={}s)",
                self.user.name,
                self.database.name,
                now.since(last_used) / 1_000_000
            );
        }
        is_idle
    }
}

fn doing(client: &Client) -> Doing {
    Doing {
        state: client.state(),
        querying: client.is_querying(),
        since: client.requested_at(),
        transaction_at: client.transaction_at(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn doing(state: ClientState) -> Doing {
        Doing {
            state,
            querying: false,
            since: Micros(10_000_000),
            transaction_at: None,
        }
    }

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    #[test]
    fn nothing_is_over_when_all_are_off() {
        for state in [ClientState::Idle, ClientState::Active, ClientState::Waiting] {
            assert_eq!(Timeouts::default().over(doing(state), at(1_000_000)), None);
        }
    }

    #[test]
    fn a_wait_is_over_after_its_timeout_and_not_before() {
        let timeouts = Timeouts {
            query_wait: SECOND,
            ..Timeouts::default()
        };
        let waiting = doing(ClientState::Waiting);
        assert_eq!(timeouts.over(waiting, at(11)), None);
        assert_eq!(timeouts.over(waiting, at(12)), Some("query_wait_timeout"));
        assert_eq!(timeouts.over(doing(ClientState::Idle), at(12)), None);
    }

    #[test]
    fn query_timeout_is_for_a_running_query_only() {
        let timeouts = Timeouts {
            query: SECOND,
            ..Timeouts::default()
        };
        let mut active = doing(ClientState::Active);
        active.transaction_at = Some(at(1));
        assert_eq!(timeouts.over(active, at(12)), None);
        active.querying = true;
        assert_eq!(timeouts.over(active, at(12)), Some("query timeout"));
    }

    #[test]
    fn an_idle_transaction_and_a_long_one_are_told_apart() {
        let timeouts = Timeouts {
            idle_transaction: 5 * SECOND,
            transaction: 8 * SECOND,
            ..Timeouts::default()
        };
        let mut active = doing(ClientState::Active);
        active.transaction_at = Some(at(9));
        assert_eq!(timeouts.over(active, at(14)), None);
        assert_eq!(
            timeouts.over(active, at(16)),
            Some("idle transaction timeout")
        );
        active.querying = true;
        assert_eq!(timeouts.over(active, at(16)), None);
        assert_eq!(timeouts.over(active, at(18)), Some("transaction timeout"));
    }
}
