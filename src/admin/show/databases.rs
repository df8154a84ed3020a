//! DATABASES, USERS and PEERS.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::result::{Cell, Columns, Rows, Type, columns};
use crate::admin::console::Console;
use crate::config::{self, PoolMode};
use crate::pool::{CONSOLE, Database, HasBudget, User};

/// Servers the console's database may have by PgBouncer's book. It has none.
const CONSOLE_POOL_SIZE: u32 = 2;

/// Columns of DATABASES.
pub const DATABASES: Columns = &[
    &columns(Type::Text, ["name", "host"]),
    &columns(Type::Int, ["port"]),
    &columns(Type::Text, ["database", "force_user"]),
    &columns(
        Type::Int,
        [
            "pool_size",
            "min_pool_size",
            "reserve_pool_size",
            "server_lifetime",
        ],
    ),
    &columns(Type::Text, ["pool_mode", "load_balance_hosts"]),
    &columns(
        Type::Int,
        [
            "max_connections",
            "current_connections",
            "max_client_connections",
            "current_client_connections",
            "paused",
            "disabled",
        ],
    ),
];

/// Columns of USERS.
pub const USERS: Columns = &[
    &columns(
        Type::Text,
        ["name", "pool_size", "reserve_pool_size", "pool_mode"],
    ),
    &columns(
        Type::Int,
        [
            "max_user_connections",
            "current_connections",
            "max_user_client_connections",
            "current_client_connections",
        ],
    ),
];

/// Columns of PEERS.
pub const PEERS: Columns = &[
    &columns(Type::Int, ["peer_id"]),
    &columns(Type::Text, ["host"]),
    &columns(Type::Int, ["port", "pool_size"]),
];

/// SHOW DATABASES.
pub fn databases(console: &Console, rows: &mut Rows<'_>) {
    let mut console_is_put = false;
    for database in shown(console) {
        if !console_is_put && database.name.as_str() > CONSOLE {
            put_console(console, rows);
            console_is_put = true;
        }
        put_database(console, &database, rows);
    }
    if !console_is_put {
        put_console(console, rows);
    }
}

/// Every entry but the console's, and but the automatic ones nobody uses.
pub fn shown(console: &Console) -> Vec<Arc<Database>> {
    let mut all = console.bouncer.databases();
    all.retain(|it| !it.auto || it.is_paused() || it.is_disabled() || !it.is_idle());
    all
}

fn put_database(console: &Console, database: &Arc<Database>, rows: &mut Rows<'_>) {
    let bouncer = &console.bouncer;
    let settings = database.settings.load();
    let config = bouncer.config();
    let global = &config.pgbouncer;
    let own = |own: Option<u32>, global: i32| own.map_or(Cell::from(global), Cell::from);
    let lifetime = settings.server_lifetime.unwrap_or(global.server_lifetime);
    rows.put(&[
        database.name.as_str().into(),
        settings.host.as_deref().into(),
        settings.port.into(),
        database.server_name().into(),
        settings.user.as_deref().into(),
        own(settings.pool_size, global.default_pool_size),
        own(settings.min_pool_size, global.min_pool_size),
        own(settings.reserve_pool_size, global.reserve_pool_size),
        lifetime.as_secs().into(),
        settings.pool_mode.map(PoolMode::as_str).into(),
        load_balance_hosts(&settings).into(),
        bouncer.max_db_connections(database).into(),
        database.servers.used().into(),
        bouncer.max_db_client_connections(database).into(),
        database.clients().used().into(),
        database.is_paused().into(),
        database.is_disabled().into(),
    ]);
}

fn put_console(console: &Console, rows: &mut Rows<'_>) {
    let config = console.bouncer.config();
    let global = &config.pgbouncer;
    rows.put(&[
        CONSOLE.into(),
        Cell::Null,
        global.listen_port.into(),
        CONSOLE.into(),
        CONSOLE.into(),
        CONSOLE_POOL_SIZE.into(),
        global.min_pool_size.into(),
        global.reserve_pool_size.into(),
        global.server_lifetime.as_secs().into(),
        PoolMode::Statement.as_str().into(),
        Cell::Null,
        global.max_db_connections.into(),
        Cell::Number(0),
        global.max_db_client_connections.into(),
        console.visitors.len().into(),
        Cell::Number(0),
        Cell::Number(0),
    ]);
}

/// How a list of hosts is walked; none where there is no list.
pub fn load_balance_hosts(settings: &config::Database) -> Option<String> {
    let is_list = settings.host.as_ref().is_some_and(|it| it.contains(','));
    let mode = settings.load_balance_hosts.as_deref();
    is_list.then(|| mode.unwrap_or("round-robin").to_owned())
}

/// SHOW USERS.
pub fn users(console: &Console, rows: &mut Rows<'_>) {
    let bouncer = &console.bouncer;
    for name in user_names(console) {
        let known = bouncer.known_user(&name);
        let clients = known.as_ref().map(|it| it.clients().used() as usize);
        // Such as who comes by the Unix socket as the pooler itself.
        let here = || console.visitors.iter().filter(|it| it.user == name).count();
        let user = known.unwrap_or_else(|| {
            let settings = bouncer.config().users.get(&name).cloned();
            Arc::new(User::new(&name, settings.unwrap_or_default()))
        });
        let settings = user.settings.load();
        let pool_mode = settings.pool_mode.map(PoolMode::as_str);
        rows.put(&[
            name.as_str().into(),
            size(settings.pool_size).into(),
            size(settings.reserve_pool_size).into(),
            pool_mode.into(),
            bouncer.max_user_connections(&user).into(),
            user.servers.used().into(),
            bouncer.max_user_client_connections(&user).into(),
            clients.unwrap_or_else(here).into(),
        ]);
    }
}

/// PgBouncer's way of showing a size that may be unset.
fn size(size: Option<u32>) -> String {
    size.map_or(String::new(), |size| format!("{size:9}"))
}

/// Everybody in `auth_file`, in `[users]`, forced by a database, asking
/// `auth_query`, or seen; by name.
pub fn user_names(console: &Console) -> BTreeSet<String> {
    let config = console.bouncer.config();
    let known = console.bouncer.users();
    let mut names: BTreeSet<String> = known.iter().map(|user| user.name.clone()).collect();
    names.insert(CONSOLE.to_owned());
    names.extend(config.pgbouncer.auth_user.clone());
    for database in console.bouncer.databases() {
        let settings = database.settings.load();
        names.extend(settings.user.clone());
        names.extend(settings.auth_user.clone());
    }
    names
}

/// SHOW PEERS.
pub fn peers(console: &Console, rows: &mut Rows<'_>) {
    let config = console.bouncer.config();
    for (id, peer) in &config.peers {
        let size = peer.pool_size.map(Cell::from);
        rows.put(&[
            (*id).into(),
            peer.host.as_str().into(),
            peer.port.into(),
            size.unwrap_or(config.pgbouncer.default_pool_size.into()),
        ]);
    }
}
