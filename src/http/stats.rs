//! Counters by database: SHOW STATS_TOTALS.

use std::sync::Arc;

use super::family::{Family, Label, Row, counter, label};
use super::more_of_pool::MoreOfPool;
use super::pools::seconds;
use crate::pool::{Database, Totals};

/// The counters of all pools of a database.
#[derive(Debug)]
pub(super) struct Stats {
    database: Arc<Database>,
    totals: Totals,
}

/// A counter under both names: the exporter took it from SHOW STATS_TOTALS
/// since 0.11, from SHOW STATS before, and dashboards of both times exist.
macro_rules! stat {
    ($name:literal, $help:literal, $value:expr) => {
        Family {
            older_name: Some(concat!("pgbouncer_stats_", $name)),
            ..counter(concat!("pgbouncer_stats_totals_", $name), $help, $value)
        }
    };
}

impl Row for Stats {
    const LABELS: &'static [Label<Self>] = &[label("database", |stats| {
        stats.database.name.as_str().into()
    })];
    const FAMILIES: &'static [Family<Self>] = &[
        stat!(
            "queries_pooled_total",
            "Queries that have ended; a pipeline is one.",
            |stats| stats.totals.queries as f64
        ),
        stat!(
            "queries_duration_seconds_total",
            "Time in queries.",
            |stats| seconds(stats.totals.query_time)
        ),
        stat!(
            "received_bytes_total",
            "Bytes of messages from clients.",
            |stats| stats.totals.received as f64
        ),
        stat!(
            "sent_bytes_total",
            "Bytes of messages from servers.",
            |stats| stats.totals.sent as f64
        ),
        stat!(
            "queries_total",
            "The same as queries_pooled_total.",
            |stats| stats.totals.queries as f64
        ),
        stat!(
            "client_wait_seconds_total",
            "Time that clients waited for a server.",
            |stats| seconds(stats.totals.wait_time)
        ),
        stat!(
            "sql_transactions_pooled_total",
            "Transactions that have ended.",
            |stats| stats.totals.transactions as f64
        ),
        stat!(
            "server_in_transaction_seconds_total",
            "Time in transactions, idle or in a query.",
            |stats| seconds(stats.totals.transaction_time)
        ),
        stat!(
            "client_parses_total",
            "Parse messages of clients, where prepared statements are tracked.",
            |stats| stats.totals.client_parses as f64
        ),
        stat!(
            "server_parses_total",
            "Parse messages sent to servers, where prepared statements are tracked.",
            |stats| stats.totals.server_parses as f64
        ),
        stat!(
            "binds_total",
            "Bind messages, where prepared statements are tracked.",
            |stats| stats.totals.binds as f64
        ),
        stat!(
            "server_assignments_total",
            "Times a client was given a server.",
            |stats| stats.totals.server_assignments as f64
        ),
    ];
}

/// One for each database that has a pool. The pools are sorted by database.
pub(super) fn stats(pools: &[MoreOfPool]) -> Vec<Stats> {
    let same = |a: &MoreOfPool, b: &MoreOfPool| a.pool.database.name == b.pool.database.name;
    pools.chunk_by(same).map(sum).collect()
}

fn sum(pools: &[MoreOfPool]) -> Stats {
    let add = |sum: Totals, pool: &MoreOfPool| sum.combine(&pool.totals, |a, b| a.wrapping_add(b));
    Stats {
        database: pools[0].pool.database.clone(),
        totals: pools.iter().fold(Totals::default(), add),
    }
}
