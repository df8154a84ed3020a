//! POOLS, LISTS and PEER_POOLS.

use super::databases;
use super::result::{Cell, Columns, Rows, Type, columns};
use crate::admin::census::Census;
use crate::admin::console::Console;
use crate::config::PoolMode;
use crate::pool::{CONSOLE, ClientState, Pool};
use crate::server::ServerState;
use crate::stats::Micros;

/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// Columns of POOLS.
pub const POOLS: Columns = &[
    &columns(Type::Text, ["database", "user"]),
    &columns(
        Type::Int,
        [
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
            "maxwait",
            "maxwait_us",
        ],
    ),
    &columns(Type::Text, ["pool_mode", "load_balance_hosts"]),
];

/// Columns of PEER_POOLS.
pub const PEER_POOLS: Columns = &[&columns(
    Type::Int,
    [
        "peer_id",
        "cl_active_cancel_req",
        "cl_waiting_cancel_req",
        "sv_active_cancel",
        "sv_login",
    ],
)];

/// Columns of LISTS.
pub const LISTS: Columns = &[
    &columns(Type::Text, ["list"]),
    &columns(Type::Int, ["items"]),
];

/// What the pool itself does not count.
#[derive(Debug, Clone, Copy, Default)]
struct Extra {
    /// Logged-in clients that do not wait.
    active_clients: u32,
    /// Servers that a cancel request is on its way to.
    canceling: u32,
    /// Servers held back because of one.
    held_back: u32,
}

/// SHOW POOLS.
pub fn pools(console: &Console, rows: &mut Rows<'_>) {
    let census = Census::new(&console.bouncer);
    let extras = extras(console, &census);
    let now = console.now();
    for (index, (pool, extra)) in census.pools.iter().zip(extras).enumerate() {
        if index == census.before_console() {
            put_console(console, rows);
        }
        put_pool(pool, extra, now, rows);
    }
    if census.before_console() == census.pools.len() {
        put_console(console, rows);
    }
}

fn extras(console: &Console, census: &Census) -> Vec<Extra> {
    let mut extras = vec![Extra::default(); census.pools.len()];
    for client in &console.bouncer.clients {
        if client.state() != ClientState::Waiting
            && let Some(pool) = census.pool_of_client(&client)
        {
            extras[pool].active_clients += 1;
        }
    }
    for server in &console.bouncer.servers {
        if let Some(pool) = census.pool_of_server(&server) {
            extras[pool].canceling += u32::from(server.is_being_canceled());
            extras[pool].held_back += u32::from(server.state() == ServerState::BeingCanceled);
        }
    }
    extras
}

fn put_pool(pool: &Pool, extra: Extra, now: Micros, rows: &mut Rows<'_>) {
    let (servers, waiting, since) = pool.numbers();
    let longest = since.map_or(0, |since| now.since(since));
    // The pool counts those held back as tested.
    let tested = servers.tested.saturating_sub(extra.held_back);
    rows.put(&[
        pool.database.name.as_str().into(),
        pool.user.name.as_str().into(),
        extra.active_clients.into(),
        waiting.into(),
        extra.canceling.into(),
        Cell::Number(0),
        servers.active.into(),
        extra.canceling.into(),
        extra.held_back.into(),
        servers.idle.into(),
        Cell::Number(0),
        tested.into(),
        servers.login.into(),
        (longest / SECOND).into(),
        (longest % SECOND).into(),
        pool.mode().as_str().into(),
        databases::load_balance_hosts(&pool.database.settings.load()).into(),
    ]);
}

/// Its clients need no server.
fn put_console(console: &Console, rows: &mut Rows<'_>) {
    const NONE: [Cell<'_>; 12] = [const { Cell::Number(0) }; 12];
    let mut cells = vec![CONSOLE.into(), CONSOLE.into()];
    cells.push(console.visitors.len().into());
    cells.extend(NONE);
    cells.extend([PoolMode::Statement.as_str().into(), Cell::Null]);
    rows.put(&cells);
}

/// SHOW PEER_POOLS.
pub fn peer_pools(console: &Console, rows: &mut Rows<'_>) {
    for (id, pool) in console.bouncer.peer_pools() {
        let numbers = pool.numbers();
        rows.put(&[
            id.into(),
            numbers.sent.into(),
            numbers.waiting.into(),
            numbers.sent.into(),
            numbers.connecting.into(),
        ]);
    }
}

/// SHOW LISTS.
pub fn lists(console: &Console, rows: &mut Rows<'_>) {
    let bouncer = &console.bouncer;
    let pools = bouncer.pools();
    let sockets = bouncer.client_sockets.used() as usize;
    let logged_in = bouncer.clients.len() + console.visitors.len();
    let servers: u32 = pools.iter().map(|pool| pool.numbers().0.total()).sum();
    for (list, items) in [
        ("databases", databases::shown(console).len() + 1),
        ("users", databases::user_names(console).len()),
        ("peers", bouncer.config().peers.len()),
        ("pools", pools.len() + 1),
        ("peer_pools", bouncer.peer_pools().len()),
        ("free_clients", 0),
        ("used_clients", sockets.max(logged_in)),
        ("login_clients", sockets.saturating_sub(logged_in)),
        ("free_servers", 0),
        ("used_servers", servers as usize),
        ("dns_names", bouncer.names.names().len()),
        ("dns_zones", bouncer.names.zones().len()),
        ("dns_queries", bouncer.names.lookups()),
        ("dns_pending", 0),
    ] {
        rows.put(&[list.into(), items.into()]);
    }
}
