//! The hosts of the cluster: which ones live, and which one serves whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::error::DbError;
use super::pool::{Lease, Limits, Pool};
use super::query::Row;
use super::target::{Habits, Target};
use crate::config::PostgresCluster;
use crate::log::{self, Log};
use crate::statements;

/// How often the nodes are looked at.
const UPDATE_EVERY: Duration = Duration::from_secs(5);

/// How long a node has to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The same when the application starts, a login included.
const FIRST_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a request wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Read,
    Write,
}

/// What the last look at a node showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Dead,
    Alive { primary: bool, latency: Duration },
}

/// All hosts.
pub(crate) struct Cluster {
    pools: Vec<Arc<Pool>>,
    use_closest: bool,
    /// One entry for each pool, replaced by every update.
    seen: watch::Sender<Vec<Seen>>,
    log: Arc<Log>,
}

impl Cluster {
    /// Prepares the hosts and looks at each once.
    ///
    /// # Errors
    /// `ssl_mode` is unusable, or no host can be reached. Why it could not be
    /// is in the log.
    pub(crate) async fn connect(
        config: &PostgresCluster,
        limits: Limits,
        habits: Habits,
        log: Arc<Log>,
    ) -> Result<Cluster, DbError> {
        let mut pools = Vec::new();
        for host in &config.hosts {
            pools.push(Arc::new(Pool::new(
                Target::new(host, config, habits)?,
                limits,
            )));
        }
        let seen = watch::Sender::new(vec![Seen::Dead; pools.len()]);
        let cluster = Cluster {
            pools,
            use_closest: config.use_closest_node,
            seen,
            log,
        };
        cluster.update(FIRST_CHECK_TIMEOUT).await;
        let nobody = cluster.seen.borrow().iter().all(|node| *node == Seen::Dead);
        if nobody {
            Err(DbError::NoNode)
        } else {
            Ok(cluster)
        }
    }

    /// Looks at all nodes for ever.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(UPDATE_EVERY).await;
            self.update(CHECK_TIMEOUT).await;
        }
    }

    /// A connection to a node that is fit for `need`. When none is, waits for
    /// the next look at the nodes and no longer.
    pub(crate) async fn lease(&self, need: Need) -> Result<Lease, DbError> {
        let mut seen = self.seen.subscribe();
        let first = choose(&seen.borrow_and_update(), need, self.use_closest);
        let chosen = match first {
            Some(index) => Some(index),
            None if seen.changed().await.is_ok() => choose(&seen.borrow(), need, self.use_closest),
            None => None,
        };
        self.pools[chosen.ok_or(DbError::NoNode)?].lease().await
    }

    /// A connection to the first host, outside its pool.
    pub(crate) async fn connect_aside(&self) -> Result<Connection, DbError> {
        match self.pools.first() {
            Some(pool) => Connection::open(&pool.target).await,
            None => Err(DbError::NoNode),
        }
    }

    async fn update(&self, limit: Duration) {
        self.log.info(log::UPDATING_NODES, &[]);
        let mut checks = JoinSet::new();
        for (index, pool) in self.pools.iter().enumerate() {
            let pool = pool.clone();
            checks.spawn(async move {
                let outcome = tokio::time::timeout(limit, check(&pool)).await;
                (
                    index,
                    outcome.unwrap_or(Err(DbError::Timeout("asking the node its role"))),
                )
            });
        }
        let mut seen = vec![Seen::Dead; self.pools.len()];
        while let Some(Ok((index, outcome))) = checks.join_next().await {
            let node = ("node", Json::from(self.pools[index].target.to_string()));
            match outcome {
                Ok(alive) => {
                    seen[index] = alive;
                    self.log.info(log::NODE_ALIVE, &[node]);
                }
                Err(error) => {
                    let error = ("error", Json::from(error.to_string()));
                    self.log.error(log::NODE_DEAD, &[node, error]);
                }
            }
        }
        self.seen.send_replace(seen);
        self.log.info(log::NOTIFIED, &[]);
    }
}

/// Asks a node whether it is the primary.
async fn check(pool: &Arc<Pool>) -> Result<Seen, DbError> {
    let mut lease = pool.lease().await?;
    let asked = Instant::now();
    let mut primary = false;
    let mut take = |row: Row<'_>| {
        primary = row.text(0)? == Some("t");
        Ok(())
    };
    lease.query(statements::IS_PRIMARY, &[], &mut take).await?;
    Ok(Seen::Alive {
        primary,
        latency: asked.elapsed(),
    })
}

/// The node for `need`: the primary, or for reads the one that answered soonest
/// when that is wanted.
fn choose(nodes: &[Seen], need: Need, use_closest: bool) -> Option<usize> {
    let alive = nodes
        .iter()
        .enumerate()
        .filter_map(|(index, node)| match node {
            Seen::Alive { primary, latency } => Some((index, *primary, *latency)),
            Seen::Dead => None,
        });
    if need == Need::Read && use_closest {
        alive
            .min_by_key(|(_, _, latency)| *latency)
            .map(|(index, ..)| index)
    } else {
        alive
            .into_iter()
            .find(|(_, primary, _)| *primary)
            .map(|(index, ..)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(primary: bool, milliseconds: u64) -> Seen {
        Seen::Alive {
            primary,
            latency: Duration::from_millis(milliseconds),
        }
    }

    #[test]
    fn writes_go_to_the_primary() {
        let nodes = [Seen::Dead, alive(false, 1), alive(true, 9)];
        assert_eq!(choose(&nodes, Need::Write, true), Some(2));
        assert_eq!(choose(&nodes, Need::Write, false), Some(2));
    }

    #[test]
    fn reads_go_to_the_primary_by_default() {
        let nodes = [alive(false, 1), alive(true, 9)];
        assert_eq!(choose(&nodes, Need::Read, false), Some(1));
    }

    #[test]
    fn reads_go_to_the_closest_when_wanted() {
        let nodes = [alive(true, 9), Seen::Dead, alive(false, 1)];
        assert_eq!(choose(&nodes, Need::Read, true), Some(2));
    }

    #[test]
    fn without_a_fit_node_there_is_none() {
        assert_eq!(
            choose(&[alive(false, 1), Seen::Dead], Need::Write, true),
            None
        );
        assert_eq!(choose(&[Seen::Dead], Need::Read, true), None);
    }
}
