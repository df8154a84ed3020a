//! What there is one of: SHOW LISTS, SHOW CONFIG, SHOW STATE, SHOW VERSION.

use std::collections::HashSet;

use super::databases::DatabaseNow;
use super::family::{Family, Label, Row, gauge, label};
use super::pools::PoolNow;
use crate::pool::Bouncer;

/// The whole pooler at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Whole {
    databases: usize,
    users: usize,
    pools: usize,
    client_sockets: usize,
    /// Logged in, to the console or to a pool.
    clients: usize,
    servers: u32,
    max_client_connections: i32,
    max_user_connections: i32,
    workers: usize,
    dns_names: usize,
    dns_zones: usize,
    dns_lookups: usize,
    paused: bool,
    shutting_down: bool,
}

impl Row for Whole {
    const LABELS: &'static [Label<Self>] = &[];
    const FAMILIES: &'static [Family<Self>] = &[
        gauge(
            "pgbouncer_up",
            "Always 1: the pooler itself answers.",
            |_| 1.0,
        ),
        gauge(
            "pgbouncer_databases",
            "Database entries, the console's included.",
            |whole| whole.databases as f64,
        ),
        gauge(
            "pgbouncer_users",
            "Known users, the console's included.",
            |whole| whole.users as f64,
        ),
        gauge(
            "pgbouncer_pools",
            "Pools, the console's included.",
            |whole| whole.pools as f64,
        ),
        gauge(
            "pgbouncer_free_clients",
            "Always 0: no memory is kept for clients to come.",
            |_| 0.0,
        ),
        gauge(
            "pgbouncer_used_clients",
            "Client connections, those logging in included.",
            |whole| whole.client_sockets.max(whole.clients) as f64,
        ),
        gauge(
            "pgbouncer_login_clients",
            "Client connections that are logging in, or carry a cancel request.",
            |whole| whole.client_sockets.saturating_sub(whole.clients) as f64,
        ),
        gauge(
            "pgbouncer_free_servers",
            "Always 0: no memory is kept for servers to come.",
            |_| 0.0,
        ),
        gauge(
            "pgbouncer_used_servers",
            "Server connections in any state.",
            |whole| whole.servers.into(),
        ),
        gauge(
            "pgbouncer_cached_dns_names",
            "Names of hosts that have been looked up.",
            |whole| whole.dns_names as f64,
        ),
        gauge(
            "pgbouncer_cached_dns_zones",
            "Zones that these names are in.",
            |whole| whole.dns_zones as f64,
        ),
        gauge(
            "pgbouncer_in_flight_dns_queries",
            "Lookups of names under way.",
            |whole| whole.dns_lookups as f64,
        ),
        gauge(
            "pgbouncer_config_max_client_connections",
            "The setting max_client_conn.",
            |whole| whole.max_client_connections.into(),
        ),
        gauge(
            "pgbouncer_config_max_user_connections",
            "The setting max_user_connections; 0 is without limit.",
            |whole| whole.max_user_connections.into(),
        ),
        gauge("pgweir_workers", "Threads that serve clients.", |whole| {
            whole.workers as f64
        }),
        gauge(
            "pgweir_paused",
            "1 after PAUSE of everything, else 0.",
            |whole| f64::from(whole.paused),
        ),
        gauge(
            "pgweir_shutting_down",
            "1 when no new clients are let in because the process is to end, else 0.",
            |whole| f64::from(whole.shutting_down),
        ),
    ];
}

impl Whole {
    /// Reads what the others have not read.
    pub(super) fn read(bouncer: &Bouncer, databases: &[DatabaseNow], pools: &[PoolNow]) -> Whole {
        let config = bouncer.config();
        Whole {
            databases: databases.len(),
            users: user_names(bouncer, databases).len(),
            pools: pools.len(),
            client_sockets: bouncer.client_sockets.used() as usize,
            clients: bouncer.clients.len() + bouncer.consoles.len(),
            servers: pools.iter().map(|now| now.counts.total()).sum(),
            max_client_connections: config.pgbouncer.max_client_conn,
            max_user_connections: config.pgbouncer.max_user_connections,
            workers: bouncer.workers(),
            dns_names: bouncer.names.names().len(),
            dns_zones: bouncer.names.zones().len(),
            dns_lookups: bouncer.names.lookups(),
            paused: bouncer.is_paused(),
            shutting_down: bouncer.is_shutting_down(),
        }
    }
}

/// Everybody known, forced by a database, or asking `auth_query`.
fn user_names(bouncer: &Bouncer, databases: &[DatabaseNow]) -> HashSet<String> {
    let known = bouncer.users();
    let mut names: HashSet<_> = known.iter().map(|user| user.name.clone()).collect();
    names.extend(bouncer.config().pgbouncer.auth_user.clone());
    for now in databases {
        names.extend(now.settings.user.clone());
        names.extend(now.settings.auth_user.clone());
    }
    names
}

/// What SHOW VERSION shows.
#[derive(Debug)]
pub(super) struct Version(String);

impl Version {
    /// As the configuration has it.
    pub(super) fn read(bouncer: &Bouncer) -> Version {
        let config = bouncer.config();
        Version(format!("PgBouncer {}", config.pgweir.pgbouncer_version))
    }
}

impl Row for Version {
    const LABELS: &'static [Label<Self>] = &[label("version", |version| version.0.as_str().into())];
    const FAMILIES: &'static [Family<Self>] = &[gauge(
        "pgbouncer_version_info",
        "The version of PgBouncer that the pooler stands in for.",
        |_| 1.0,
    )];
}
