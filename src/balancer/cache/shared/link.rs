//! What is said to the Redis Cluster. The only file that knows its client.
//!
//! Values are read by `GETRANGE`: however large the one is that somebody has
//! put there, no more of it comes than an entry may have.

use std::fmt;
use std::time::Duration;

use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{ConnectionAddr, ProtocolVersion, RedisError};

use super::Fault;
use super::plan::Plan;

/// How often a question that was asked in the wrong place, or too early, is
/// asked again; its deadline holds for all.
const RETRIES: u32 = 3;

/// Longest pause between two of these, in milliseconds.
const RETRY_PAUSE: u64 = 10;

/// Longest time for a connection to a node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections to the nodes of a cluster.
#[derive(Clone)]
pub(super) struct Connection(ClusterConnection);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to all nodes there are.
    ///
    /// # Errors
    /// No node could be reached, or will not have it.
    pub(super) async fn open(plan: &Plan) -> Result<Connection, Fault> {
        let nodes = plan.nodes.iter();
        let nodes = nodes.map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
        let mut builder = ClusterClientBuilder::new(nodes)
            .use_protocol(ProtocolVersion::RESP2)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(plan.timeout)
            .retries(RETRIES)
            .min_retry_wait(1)
            .max_retry_wait(RETRY_PAUSE);
        if let Some(password) = &plan.password {
            builder = builder.password(&password.0);
        }
        if let Some(user) = &plan.user {
            builder = builder.username(user);
        }
        let client = builder.build()?;
        let connection = client.get_async_connection().await?;
        Ok(Connection(connection))
    }

    /// How many milliseconds a value has left, and its first bytes; none of
    /// them if there is no value.
    ///
    /// # Errors
    /// Nothing useful was answered.
    pub(super) async fn look(&self, key: &str, most: usize) -> Result<(i64, Vec<u8>), Fault> {
        // If another value is written meanwhile, the shorter time is its own or
        // that of the one before it: never too long. A transaction would say
        // it better, but a Redis that is full begins none.
        let mut all = redis::pipe();
        all.cmd("PTTL").arg(key);
        all.cmd("GETRANGE").arg(key).arg(0).arg(most - 1);
        all.cmd("PTTL").arg(key);
        let answers = all.query_async(&mut self.0.clone()).await?;
        let (before, bytes, after): (i64, Vec<u8>, i64) = answers;
        Ok((before.min(after), bytes))
    }

    /// Takes a lease, if nobody has it.
    ///
    /// # Errors
    /// Nothing useful was answered.
    pub(super) async fn lease(&self, key: &str, time: u64) -> Result<bool, Fault> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(1).arg("NX").arg("PX").arg(time);
        let taken: Option<String> = set.query_async(&mut self.0.clone()).await?;
        Ok(taken.is_some())
    }

    /// Writes a value that is dropped after so many milliseconds.
    ///
    /// # Errors
    /// It may not have been written.
    pub(super) async fn put(&self, key: &str, value: &[u8], time: u64) -> Result<(), Fault> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(time);
        Ok(set.query_async(&mut self.0.clone()).await?)
    }

    /// Drops a value.
    ///
    /// # Errors
    /// It may be there yet.
    pub(super) async fn remove(&self, key: &str) -> Result<(), Fault> {
        let mut remove = redis::cmd("DEL");
        remove.arg(key);
        Ok(remove.query_async(&mut self.0.clone()).await?)
    }
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Fault {
        Fault {
            code: error.code().map(str::to_owned),
            text: error.to_string(),
        }
    }
}
