//! Pools: SHOW POOLS.

use std::collections::HashMap;

use super::clients::Clients;
use super::family::{Family, Label, Row, gauge, label};
use super::more_of_pool::MoreOfPool;
use crate::pool::state::Counts;
use crate::pool::{Bouncer, CONSOLE, ClientState};
use crate::server::ServerState;

/// A pool at the moment of a scrape.
#[derive(Debug, Default)]
pub(super) struct PoolNow {
    database: String,
    user: String,
    pub counts: Counts,
    /// Clients in the queue.
    waiting: u32,
    /// Microseconds the first of them has waited.
    longest_wait: u64,
    pub clients: ClientTally,
    pub servers: ServerTally,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClientTally {
    /// Idle and active, not waiting.
    served: u32,
    /// Prepared statements.
    pub prepared: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServerTally {
    /// With a cancel request in flight to it.
    canceling: u32,
    /// Released, but waiting for that.
    being_canceled: u32,
    /// Prepared statements.
    pub prepared: u64,
}

impl Row for PoolNow {
    const LABELS: &'static [Label<Self>] = &[
        label("database", |now| now.database.as_str().into()),
        label("user", |now| now.user.as_str().into()),
    ];
    const FAMILIES: &'static [Family<Self>] = &[
        gauge(
            "pgbouncer_pools_client_active_connections",
            "Logged-in clients that do not wait for a server, idle ones included (cl_active).",
            |now| now.clients.served.into(),
        ),
        gauge(
            "pgbouncer_pools_client_waiting_connections",
            "Clients that wait for a server (cl_waiting).",
            |now| now.waiting.into(),
        ),
        gauge(
            "pgbouncer_pools_client_active_cancel_connections",
            "Cancel requests on their way to a server, one counted for each server (cl_active_cancel_req).",
            |now| now.servers.canceling.into(),
        ),
        gauge(
            "pgbouncer_pools_client_waiting_cancel_connections",
            "Always 0: cancel requests do not wait for a place in the pool (cl_waiting_cancel_req).",
            |_| 0.0,
        ),
        gauge(
            "pgbouncer_pools_server_active_connections",
            "Servers linked to a client (sv_active).",
            |now| now.counts.active.into(),
        ),
        gauge(
            "pgbouncer_pools_server_active_cancel_connections",
            "Servers that a cancel request is in flight to (sv_active_cancel).",
            |now| now.servers.canceling.into(),
        ),
        gauge(
            "pgbouncer_pools_server_being_canceled_connections",
            "Released servers that wait until the cancel requests to them are done (sv_being_canceled).",
            |now| now.servers.being_canceled.into(),
        ),
        gauge(
            "pgbouncer_pools_server_idle_connections",
            "Servers ready for a client (sv_idle).",
            |now| now.counts.idle.into(),
        ),
        gauge(
            "pgbouncer_pools_server_used_connections",
            "Always 0: an idle server is looked at when it is handed out, not set aside for a check before (sv_used).",
            |_| 0.0,
        ),
        gauge(
            "pgbouncer_pools_server_testing_connections",
            "Servers that run the reset query (sv_tested).",
            |now| {
                let tested = now.counts.tested;
                tested.saturating_sub(now.servers.being_canceled).into()
            },
        ),
        gauge(
            "pgbouncer_pools_server_login_connections",
            "Servers being connected or logged in (sv_login).",
            |now| now.counts.login.into(),
        ),
        gauge(
            "pgbouncer_pools_client_maxwait_seconds",
            "How long the longest waiting client has waited, with fractions (maxwait, maxwait_us).",
            |now| seconds(now.longest_wait),
        ),
    ];
}

/// Microseconds as seconds.
pub(super) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// What a scrape reads of the pools.
#[derive(Debug)]
pub(super) struct Pools {
    /// Each, and the console's.
    pub all: Vec<PoolNow>,
    /// More of each but the console's; by database and user.
    pub more: Vec<MoreOfPool>,
}

impl Pools {
    /// Reads them.
    pub(super) fn read(bouncer: &Bouncer, clients: &[Clients]) -> Pools {
        let clients = clients_by_pool(clients);
        let servers = servers_by_pool(bouncer);
        let now = bouncer.clock.now();
        let mut pools = Pools {
            all: vec![console(bouncer)],
            more: Vec::new(),
        };
        for pool in bouncer.pools() {
            let key = (pool.database.name.clone(), pool.user.name.clone());
            let (counts, waiting, waiting_since) = pool.numbers();
            let read = PoolNow {
                clients: clients.get(&key).copied().unwrap_or_default(),
                servers: servers.get(&pool.id).copied().unwrap_or_default(),
                database: key.0,
                user: key.1,
                counts,
                waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
                longest_wait: waiting_since.map_or(0, |since| now.since(since)),
            };
            pools.more.push(MoreOfPool::read(pool, &read));
            pools.all.push(read);
        }
        pools
    }
}

/// The console's clients are in no pool, and need no server.
fn console(bouncer: &Bouncer) -> PoolNow {
    PoolNow {
        database: CONSOLE.to_owned(),
        user: CONSOLE.to_owned(),
        clients: ClientTally {
            served: u32::try_from(bouncer.consoles.len()).unwrap_or(u32::MAX),
            prepared: 0,
        },
        ..PoolNow::default()
    }
}

/// By database and server user: the user that the database forces, or their
/// own.
fn clients_by_pool(clients: &[Clients]) -> HashMap<(String, String), ClientTally> {
    let mut tallies: HashMap<_, ClientTally> = HashMap::new();
    for group in clients {
        let forced = group.database.settings.load().user.clone();
        let user = forced.unwrap_or_else(|| group.user.name.clone());
        let tally = tallies
            .entry((group.database.name.clone(), user))
            .or_default();
        if group.state != ClientState::Waiting {
            tally.served += group.count;
        }
        tally.prepared += group.prepared;
    }
    tallies
}

fn servers_by_pool(bouncer: &Bouncer) -> HashMap<u64, ServerTally> {
    let mut tallies: HashMap<u64, ServerTally> = HashMap::new();
    for server in &bouncer.servers {
        let tally = tallies.entry(server.pool).or_default();
        tally.canceling += u32::from(server.is_being_canceled());
        tally.being_canceled += u32::from(server.state() == ServerState::BeingCanceled);
        tally.prepared += u64::from(server.prepared());
    }
    tallies
}
