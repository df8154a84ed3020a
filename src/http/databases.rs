//! Database entries: SHOW DATABASES.

use std::collections::HashSet;
use std::sync::Arc;

use super::family::{Family, Label, Row, gauge, label};
use crate::config::{self, PoolMode};
use crate::pool::state::Limits;
use crate::pool::{Bouncer, CONSOLE, Database, HasBudget, User};

/// Pool size of the console's entry, as PgBouncer shows it.
const CONSOLE_POOL_SIZE: u32 = 2;

/// An entry at the moment of a scrape.
#[derive(Debug)]
pub(super) struct DatabaseNow {
    database: Arc<Database>,
    pub settings: Arc<config::Database>,
    limits: Limits,
    max_connections: u32,
}

impl Row for DatabaseNow {
    const LABELS: &'static [Label<Self>] = &[
        label("name", |now| now.database.name.as_str().into()),
        label("host", |now| text(&now.settings.host).into()),
        label("port", |now| now.settings.port.to_string().into()),
        label("database", |now| now.database.server_name().into()),
        label("force_user", |now| text(&now.settings.user).into()),
        label("pool_mode", |now| {
            now.settings.pool_mode.map_or("", PoolMode::as_str).into()
        }),
    ];
    const FAMILIES: &'static [Family<Self>] = &[
        gauge(
            "pgbouncer_databases_pool_size",
            "Servers a pool of the database may have; 0 is without limit.",
            |now| now.limits.pool_size.into(),
        ),
        gauge(
            "pgbouncer_databases_reserve_pool",
            "Servers a pool of the database may have beyond pool_size.",
            |now| now.limits.reserve_pool_size.into(),
        ),
        gauge(
            "pgbouncer_databases_max_connections",
            "Servers all pools of the database may have together; 0 is without limit.",
            |now| now.max_connections.into(),
        ),
        gauge(
            "pgbouncer_databases_current_connections",
            "Servers of the database, those logging in included.",
            |now| now.database.servers.used().into(),
        ),
        gauge(
            "pgbouncer_databases_paused",
            "1 after PAUSE of the database, else 0.",
            |now| f64::from(now.database.is_paused()),
        ),
        gauge(
            "pgbouncer_databases_disabled",
            "1 after DISABLE of the database, else 0.",
            |now| f64::from(now.database.is_disabled()),
        ),
    ];
}

fn text(setting: &Option<String>) -> &str {
    setting.as_deref().unwrap_or_default()
}

/// All entries but the automatic ones that nobody uses; the console's is last.
pub(super) fn databases(bouncer: &Bouncer) -> Vec<DatabaseNow> {
    // The sizes of users that have none of their own.
    let nobody = User::new("", config::User::default());
    let read = |database: Arc<Database>| DatabaseNow {
        settings: database.settings.load_full(),
        limits: bouncer.limits(&database, &nobody),
        max_connections: bouncer.max_db_connections(&database),
        database,
    };
    let with_pools: HashSet<_> = bouncer
        .pools()
        .iter()
        .map(|pool| Arc::as_ptr(&pool.database))
        .collect();
    // Whoever asks for a name has an automatic entry made, be it let in or not.
    let is_used = |database: &Arc<Database>| {
        with_pools.contains(&Arc::as_ptr(database)) || database.clients().used() > 0
    };
    let mut shown = bouncer.databases();
    shown.retain(|it| !it.auto || it.is_paused() || it.is_disabled() || is_used(it));
    shown.push(Arc::new(console(bouncer)));
    shown.into_iter().map(read).collect()
}

/// The console's entry, which is in no configuration. Its values are
/// PgBouncer's.
fn console(bouncer: &Bouncer) -> Database {
    let settings = config::Database {
        port: u16::try_from(bouncer.config().pgbouncer.listen_port).unwrap_or_default(),
        user: Some(CONSOLE.to_owned()),
        pool_mode: Some(PoolMode::Statement),
        pool_size: Some(CONSOLE_POOL_SIZE),
        ..config::Database::default()
    };
    Database::new(CONSOLE, false, settings)
}
