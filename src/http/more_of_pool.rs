//! Pools: what only pgweir tells.

use std::sync::Arc;

use super::family::{Family, Label, Row, counter, gauge, label};
use super::pools::{PoolNow, seconds};
use crate::pool::state::Limits;
use crate::pool::{Pool, Totals};

/// A pool at the moment of a scrape.
#[derive(Debug)]
pub(super) struct MoreOfPool {
    pub pool: Arc<Pool>,
    pub totals: Totals,
    limits: Limits,
    closing: u32,
    client_prepared: u64,
    server_prepared: u64,
}

impl MoreOfPool {
    /// Reads the rest of `pool`.
    pub(super) fn read(pool: Arc<Pool>, now: &PoolNow) -> MoreOfPool {
        MoreOfPool {
            totals: pool.totals(),
            limits: pool.limits(),
            closing: now.counts.closing,
            client_prepared: now.clients.prepared,
            server_prepared: now.servers.prepared,
            pool,
        }
    }
}

impl Row for MoreOfPool {
    const LABELS: &'static [Label<Self>] = &[
        label("database", |more| more.pool.database.name.as_str().into()),
        label("user", |more| more.pool.user.name.as_str().into()),
    ];
    const FAMILIES: &'static [Family<Self>] = &[
        gauge(
            "pgweir_pool_size",
            "Servers the pool may have without its reserve; 0 is without limit.",
            |more| more.limits.pool_size.into(),
        ),
        gauge(
            "pgweir_pool_reserve_size",
            "Servers the pool may have beyond its size when a client waits for too long.",
            |more| more.limits.reserve_pool_size.into(),
        ),
        gauge(
            "pgweir_pool_closing_servers",
            "Servers being closed; their place is not free yet.",
            |more| more.closing.into(),
        ),
        gauge(
            "pgweir_pool_client_prepared_statements",
            "Prepared statements that clients of the pool have.",
            |more| more.client_prepared as f64,
        ),
        gauge(
            "pgweir_pool_server_prepared_statements",
            "Prepared statements that servers of the pool have.",
            |more| more.server_prepared as f64,
        ),
        counter(
            "pgweir_pool_client_logins_total",
            "Clients that have logged in.",
            |more| more.totals.client_logins as f64,
        ),
        counter(
            "pgweir_pool_server_assignments_total",
            "Times a client was given a server.",
            |more| more.totals.server_assignments as f64,
        ),
        counter(
            "pgweir_pool_transactions_total",
            "Transactions that have ended.",
            |more| more.totals.transactions as f64,
        ),
        counter(
            "pgweir_pool_transaction_seconds_total",
            "Time in transactions.",
            |more| seconds(more.totals.transaction_time),
        ),
        counter(
            "pgweir_pool_queries_total",
            "Queries that have ended; a pipeline is one.",
            |more| more.totals.queries as f64,
        ),
        counter(
            "pgweir_pool_query_seconds_total",
            "Time in queries.",
            |more| seconds(more.totals.query_time),
        ),
        counter(
            "pgweir_pool_wait_seconds_total",
            "Time that clients waited for a server.",
            |more| seconds(more.totals.wait_time),
        ),
    ];
}
