//! What a command waits for before it is answered.

use std::sync::Arc;

use super::console::Console;
use super::fault::Fault;
use crate::pool::{Database, Pool};
use crate::stats::Micros;

/// The end of a command that takes time.
#[derive(Debug)]
pub enum Wait {
    /// PAUSE: no server left (of one database).
    Paused(Option<Arc<Database>>),
    /// SUSPEND: all clients rest.
    Suspended {
        /// When those that do not are disconnected, if ever.
        deadline: Option<Micros>,
    },
    /// WAIT_CLOSE: no server left that is marked (of one database).
    Unmarked(Option<Arc<Database>>),
    /// KILL: these pools' servers and these databases' clients are gone, or it
    /// has taken until the deadline.
    Killed {
        /// The pools, which nobody else has any more.
        pools: Vec<Arc<Pool>>,
        /// The databases.
        databases: Vec<Arc<Database>>,
        /// When to wait no longer.
        deadline: Micros,
    },
    /// KILL_CLIENT: this client is gone, or it has taken until the deadline.
    Gone {
        /// Its id.
        client: u64,
        /// When to wait no longer.
        deadline: Micros,
    },
}

impl Wait {
    /// Whether it is over, and how; none while it is not.
    pub fn progress(&self, console: &Console) -> Option<Result<(), Fault>> {
        let bouncer = &console.bouncer;
        let late = |deadline: &Micros| console.now() >= *deadline;
        let over = match self {
            Wait::Paused(database) => {
                if let Some(fault) = resumed(console, database.as_deref()) {
                    return Some(Err(fault));
                }
                bouncer
                    .pools()
                    .iter()
                    .filter(|pool| is_of(pool, database.as_ref()))
                    .all(has_no_server)
            }
            Wait::Suspended { .. } if !bouncer.is_suspended() => {
                return Some(Err(NOT_PAUSED.into()));
            }
            Wait::Suspended { deadline } if deadline.as_ref().is_some_and(late) => {
                bouncer.drop_restless();
                bouncer.come_to_rest(true)
            }
            Wait::Suspended { .. } => bouncer.come_to_rest(false),
            Wait::Unmarked(database) => !is_any_marked(console, database.as_ref()),
            Wait::Killed {
                pools,
                databases,
                deadline,
            } => {
                let killed = |database: &Arc<Database>| {
                    databases.iter().any(|killed| Arc::ptr_eq(killed, database))
                };
                let gone = pools.iter().all(has_no_server)
                    && !bouncer.clients.iter().any(|it| killed(&it.database));
                gone || late(deadline)
            }
            Wait::Gone { client, deadline } => {
                let here = console.visitors.contains_key(client)
                    || bouncer.clients.iter().any(|it| it.id == *client);
                !here || late(deadline)
            }
        };
        over.then_some(Ok(()))
    }

    /// A cancel request came: PAUSE and SUSPEND are undone, the others just
    /// end.
    pub fn cancel(&self, console: &Console) {
        match self {
            Wait::Paused(database) => console.bouncer.set_paused(database.as_deref(), false),
            Wait::Suspended { .. } => console.bouncer.resume_suspended(),
            _ => {}
        }
    }
}

/// Somebody else has undone the pause.
fn resumed(console: &Console, database: Option<&Database>) -> Option<Fault> {
    match database {
        None => (!console.bouncer.is_paused()).then(|| Fault::from(NOT_PAUSED)),
        Some(database) => (!database.is_paused()).then(|| not_paused(&database.name)),
    }
}

/// RESUME without a PAUSE.
pub const NOT_PAUSED: &str = "pooler is not paused/suspended";

/// RESUME db without a PAUSE db.
pub fn not_paused(database: &str) -> Fault {
    Fault::Refused(format!("database {database} is not paused"))
}

fn is_of(pool: &Pool, database: Option<&Arc<Database>>) -> bool {
    database.is_none_or(|database| Arc::ptr_eq(&pool.database, database))
}

fn has_no_server(pool: &Arc<Pool>) -> bool {
    pool.numbers().0.total() == 0
}

fn is_any_marked(console: &Console, database: Option<&Arc<Database>>) -> bool {
    let pools = console.bouncer.pools();
    let marked = |pool: u64| pools.iter().any(|it| it.id == pool && is_of(it, database));
    let mut servers = console.bouncer.servers.iter();
    servers.any(|server| server.is_marked() && marked(server.pool))
}
