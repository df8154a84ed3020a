//! One node: where it is, and the connections to it that lie idle.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use tokio::net::TcpStream;

use super::connection::NodeConnection;

/// A node of the application.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// The Host of requests that have none.
    pub(crate) host: HeaderValue,
    /// Its address in the configuration.
    pub(crate) address: String,
    addresses: Vec<SocketAddr>,
    connect_timeout: Duration,
    keepalive_timeout: Duration,
    /// The most recently used last.
    idle: Mutex<Vec<NodeConnection>>,
    idle_max: usize,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFailed {
    /// The node's machine answers, the node does not listen.
    Refused,
    /// Nothing answered in time.
    Timeout,
    /// The network or the system of the node says no.
    Unreachable,
    /// This process has no socket left: nothing is known of the node.
    NoSocket,
}

/// How connections to nodes are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeping {
    /// Time to connect.
    pub(crate) connect_timeout: Duration,
    /// Longest idle time.
    pub(crate) keepalive_timeout: Duration,
    /// Idle connections per node.
    pub(crate) idle_max: usize,
}

impl Node {
    /// Looks up the address, `HOST:PORT`. Blocks; done once at the start.
    ///
    /// # Errors
    /// It cannot be looked up, or is no host name.
    pub(crate) fn new(name: &str, address: &str, keeping: Keeping) -> io::Result<Node> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        let host = HeaderValue::from_str(address)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Node {
            name: name.to_owned(),
            host,
            address: address.to_owned(),
            addresses,
            connect_timeout: keeping.connect_timeout,
            keepalive_timeout: keeping.keepalive_timeout,
            idle: Mutex::default(),
            idle_max: keeping.idle_max,
        })
    }

    /// A new connection, within `connect_timeout`.
    ///
    /// # Errors
    /// None of the node's addresses could be reached.
    pub(crate) async fn connect(&self) -> Result<NodeConnection, ConnectFailed> {
        let stream = tokio::time::timeout(self.connect_timeout, self.dial())
            .await
            .map_err(|_elapsed| ConnectFailed::Timeout)?
            .map_err(|error| ConnectFailed::of(&error))?;
        // Without it a second small write waits for the first one's ACK.
        let _refused = stream.set_nodelay(true);
        let opened = NodeConnection::open(stream).await;
        opened.map_err(|_| ConnectFailed::Unreachable)
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let mut failure = None;
        for address in &self.addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("a node has an address"))
    }

    /// The idle connection used last, if one is still open.
    pub(crate) async fn reuse(&self) -> Option<NodeConnection> {
        loop {
            let mut connection = self.idle().pop()?;
            if connection.idle_since().elapsed() < self.keepalive_timeout
                && connection.verify().await
            {
                return Some(connection);
            }
        }
    }

    /// Connections that lie idle.
    pub(crate) fn idle_count(&self) -> usize {
        self.idle().len()
    }

    /// Keeps a connection for the next request.
    pub(crate) fn keep(&self, connection: NodeConnection) {
        let mut idle = self.idle();
        if idle.len() < self.idle_max {
            idle.push(connection);
        }
    }

    /// Closes idle connections: all, or those that lay idle for too long.
    pub(crate) fn close_idle(&self, all: bool, now: Instant) {
        let limit = self.keepalive_timeout;
        let mut idle = self.idle();
        let old = |it: &NodeConnection| now.saturating_duration_since(it.idle_since()) >= limit;
        // The oldest lie first.
        let end = idle
            .iter()
            .position(|it| !all && !old(it))
            .unwrap_or(idle.len());
        let closed: Vec<_> = idle.drain(..end).collect();
        drop(idle);
        drop(closed);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<NodeConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectFailed {
    fn of(error: &io::Error) -> ConnectFailed {
        use rustix::io::Errno;
        match Errno::from_io_error(error) {
            Some(
                Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL,
            ) => ConnectFailed::NoSocket,
            Some(Errno::CONNREFUSED) => ConnectFailed::Refused,
            Some(Errno::TIMEDOUT) => ConnectFailed::Timeout,
            _ => ConnectFailed::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SECOND: Duration = Duration::from_secs(1);

    fn node(address: SocketAddr, keepalive_timeout: Duration) -> Node {
        let keeping = Keeping {
            connect_timeout: SECOND,
            keepalive_timeout,
            idle_max: 2,
        };
        Node::new("a", &address.to_string(), keeping).expect("an address")
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_refuses() {
        let (listener, address) = listener().await;
        drop(listener);
        let failed = node(address, SECOND).connect().await.err();
        assert_eq!(failed, Some(ConnectFailed::Refused));
    }

    #[tokio::test]
    async fn the_connection_used_last_is_reused_first_and_too_many_are_not_kept() {
        let (_listener, address) = listener().await;
        let node = node(address, 60 * SECOND);
        let mut kept = Vec::new();
        for _ in 0..3 {
            let connection = node.connect().await.expect("a listener");
            kept.push(connection.idle_since());
            node.keep(connection);
        }
        let mut reused = Vec::new();
        while let Some(connection) = node.reuse().await {
            reused.push(connection.idle_since());
        }
        assert_eq!(reused, [kept[1], kept[0]]);
    }

    #[tokio::test]
    async fn a_connection_that_the_node_closed_is_not_reused() {
        let (listener, address) = listener().await;
        let node = node(address, 60 * SECOND);
        let connection = node.connect().await.expect("a listener");
        node.keep(connection);
        drop(listener.accept().await.expect("it is there"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(node.reuse().await.is_none());
    }

    #[tokio::test]
    async fn idle_connections_are_closed_when_their_time_is_over() {
        let (_listener, address) = listener().await;
        let node = node(address, 60 * SECOND);
        let connection = node.connect().await.expect("a listener");
        node.keep(connection);
        let now = Instant::now();
        node.close_idle(false, now + 59 * SECOND);
        assert_eq!(node.idle().len(), 1);
        node.close_idle(false, now + 61 * SECOND);
        assert_eq!(node.idle().len(), 0);
    }
}
