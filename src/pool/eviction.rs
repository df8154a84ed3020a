//! Limits that pools share (`max_db_connections`, `max_user_connections`): an
//! idle server of one pool goes for a client that waits in another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lending::{EVICTED, spawn};
use super::{Bouncer, Pool};

/// A place that is being made for a pool, until the server that had it has
/// gone.
struct Coming(Arc<Pool>);

impl Coming {
    /// None if as many as are `wanted` are being made already: otherwise more
    /// servers would go than come.
    fn to(pool: &Arc<Pool>, wanted: u32) -> Option<Coming> {
        pool.places_coming
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |coming| {
                (coming < wanted).then_some(coming + 1)
            })
            .is_ok()
            .then(|| Coming(pool.clone()))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.places_coming.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Bouncer {
    /// Closes an idle server of another pool whose database or user is at its
    /// limit, to make room for one of `pool`, which wants so many.
    pub(super) fn evict_for(&self, pool: &Arc<Pool>, wanted: u32) {
        let Some(coming) = Coming::to(pool, wanted) else {
            return;
        };
        let limit = self.max_db_connections(&pool.database);
        let database_full = limit > 0 && pool.database.servers.used() >= limit;
        for other in self.pools() {
            let related = match database_full {
                true => Arc::ptr_eq(&other.database, &pool.database),
                false => Arc::ptr_eq(&other.user, &pool.user),
            };
            if !related || Arc::ptr_eq(&other, pool) {
                continue;
            }
            // The longest unused one.
            let evicted = other.state().evict();
            if let Some(server) = evicted {
                spawn(async move {
                    let home = server.home;
                    other.end(server, EVICTED).await;
                    drop(coming);
                    other.refill(home);
                });
                return;
            }
        }
    }

    /// Room has come: pools that share a limit with `pool` may open servers.
    pub(super) fn launch_siblings(&self, pool: &Arc<Pool>, home: usize) {
        for other in self.pools() {
            let related = Arc::ptr_eq(&other.database, &pool.database)
                || Arc::ptr_eq(&other.user, &pool.user);
            if related && !Arc::ptr_eq(&other, pool) && other.numbers().1 > 0 {
                other.launch(home);
            }
        }
    }
}
