//! STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS.

use std::collections::BTreeMap;

use super::result::{Cell, Columns, Rows, Type, columns};
use crate::admin::console::{CONSOLE_POOL, Console};
use crate::admin::statistics::{Averages, PoolTotals};
use crate::pool::{CONSOLE, Totals};

/// What is counted, in the order of all the tables below.
const COUNTED: [fn(&Totals) -> u64; 12] = [
    |totals| totals.server_assignments,
    |totals| totals.transactions,
    |totals| totals.queries,
    |totals| totals.received,
    |totals| totals.sent,
    |totals| totals.transaction_time,
    |totals| totals.query_time,
    |totals| totals.wait_time,
    |totals| totals.client_parses,
    |totals| totals.server_parses,
    |totals| totals.binds,
    |totals| totals.client_logins,
];

/// Columns of STATS.
pub const STATS: Columns = &[
    &columns(Type::Text, ["database"]),
    &columns(
        Type::Numeric,
        [
            "total_server_assignment_count",
            "total_xact_count",
            "total_query_count",
            "total_received",
            "total_sent",
            "total_xact_time",
            "total_query_time",
            "total_wait_time",
            "total_client_parse_count",
            "total_server_parse_count",
            "total_bind_count",
            "total_client_login_count",
            "avg_server_assignment_count",
            "avg_xact_count",
            "avg_query_count",
            "avg_recv",
            "avg_sent",
            "avg_xact_time",
            "avg_query_time",
            "avg_wait_time",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ],
    ),
];

/// Columns of STATS_TOTALS.
pub const STATS_TOTALS: Columns = &[
    &columns(Type::Text, ["database"]),
    &columns(
        Type::Numeric,
        [
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "client_parse_count",
            "server_parse_count",
            "bind_count",
            "client_login_count",
        ],
    ),
];

/// Columns of STATS_AVERAGES.
pub const STATS_AVERAGES: Columns = &[
    &columns(Type::Text, ["database"]),
    &columns(
        Type::Numeric,
        [
            "server_assignment_count",
            "xact_count",
            "query_count",
            "bytes_received",
            "bytes_sent",
            "xact_time",
            "query_time",
            "wait_time",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ],
    ),
];

/// Columns of TOTALS.
pub const TOTALS: Columns = &[
    &columns(Type::Text, ["name"]),
    &columns(Type::Numeric, ["value"]),
];

/// The names TOTALS has, after `total_` and `avg_`.
const TOTALS_NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// SHOW STATS.
pub fn stats(console: &Console, rows: &mut Rows<'_>) {
    put_databases(console, rows, |totals, averages| {
        cells(totals).chain(cells(&averages.0)).collect()
    });
}

/// SHOW STATS_TOTALS.
pub fn stats_totals(console: &Console, rows: &mut Rows<'_>) {
    put_databases(console, rows, |totals, _| cells(totals).collect());
}

/// SHOW STATS_AVERAGES.
pub fn stats_averages(console: &Console, rows: &mut Rows<'_>) {
    put_databases(console, rows, |_, averages| cells(&averages.0).collect());
}

/// SHOW TOTALS.
pub fn totals(console: &Console, rows: &mut Rows<'_>) {
    let counted = console.totals();
    let Averages(averages) = console.statistics().averages(console.now(), &counted);
    for (prefix, of) in [("total", &sum(&counted)), ("avg", &averages)] {
        for (name, cell) in TOTALS_NAMES.iter().zip(cells(of)) {
            rows.put(&[format!("{prefix}_{name}").into(), cell]);
        }
    }
}

/// A row for each database that has a pool, the console's included.
fn put_databases(
    console: &Console,
    rows: &mut Rows<'_>,
    cells: impl Fn(&Totals, &Averages) -> Vec<Cell<'static>>,
) {
    let now = console.now();
    for (database, counted) in &by_database(console) {
        let averages = console.statistics().averages(now, counted);
        let mut row = vec![database.as_str().into()];
        row.extend(cells(&sum(counted), &averages));
        rows.put(&row);
    }
}

fn by_database(console: &Console) -> BTreeMap<String, PoolTotals> {
    let own = PoolTotals::from([(CONSOLE_POOL, console.own_totals())]);
    let mut databases = BTreeMap::from([(CONSOLE.to_owned(), own)]);
    for pool in console.bouncer.pools() {
        let of_database = databases.entry(pool.database.name.clone()).or_default();
        of_database.insert(pool.id, pool.totals());
    }
    databases
}

fn sum(pools: &PoolTotals) -> Totals {
    let add = |sum: Totals, one: &Totals| sum.combine(one, u64::wrapping_add);
    pools.values().fold(Totals::default(), add)
}

fn cells(of: &Totals) -> impl Iterator<Item = Cell<'static>> {
    COUNTED.iter().map(|count| count(of).into())
}
