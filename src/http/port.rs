//! The admin port's connections.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::pages::Pages;
use super::{FrontSeat, Readiness};
use crate::net::{ListenError, SocketOptions, tcp_listener};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 128;

/// Bytes of a request's head, and of what hyper reads ahead of it.
const MAX_HEAD: usize = 16 * 1024;

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// Pause after accept() failed, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How many connections there may be, and how long they may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections; more wait in the kernel.
    connections: u32,
    /// So many of them may stay open between requests.
    kept: u32,
    /// How long those may, the head of the next request included: longer than
    /// the usual scrape intervals.
    kept_idle: Duration,
    /// How long the others may.
    idle: Duration,
    /// How long a client may take nothing of what it asked for.
    stalled: Duration,
    /// After this a connection is closed when its request is answered.
    age: Duration,
    /// How long that request may take then.
    last: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    kept: 32,
    kept_idle: Duration::from_secs(75),
    idle: Duration::from_secs(5),
    stalled: Duration::from_secs(10),
    age: Duration::from_secs(600),
    last: Duration::from_secs(2),
};

/// Why the admin port could not be opened.
#[derive(Debug)]
pub struct BindError(ListenError);

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = &self.0;
        write!(
            f,
            "[metrics] listen: {error}; choose another address, or leave the setting empty for no admin port"
        )
    }
}

impl std::error::Error for BindError {}

/// The admin port, open.
#[derive(Debug)]
pub struct AdminPort {
    listener: std::net::TcpListener,
    limits: Limits,
}

impl AdminPort {
    /// Listens on the address of `[metrics] listen`. Connections wait until
    /// [`AdminPort::serve`].
    ///
    /// # Errors
    /// Names the setting, the address and the system's reason.
    pub fn bind(address: SocketAddr) -> Result<AdminPort, BindError> {
        let listener = tcp_listener(address, BACKLOG, false).map_err(BindError)?;
        Ok(AdminPort {
            listener,
            limits: LIMITS,
        })
    }

    /// Where it listens: with port 0 in the setting, the port that was free.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is true; then requests that are being answered
    /// may end within 2 s.
    ///
    /// # Errors
    /// The runtime cannot take over the socket.
    pub async fn serve(
        self,
        registry: Registry,
        readiness: Readiness,
        front: FrontSeat,
        mut shutdown: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let server = Server {
            pages: Arc::new(Pages::new(registry, readiness, front)),
            places: Arc::new(Semaphore::new(self.limits.connections as usize)),
            limits: self.limits,
            shutdown: shutdown.clone(),
        };
        tokio::select! {
            never = server.accept(&listener) => match never {},
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
        drop(listener);
        server.closed().await;
        Ok(())
    }
}

struct Server {
    pages: Arc<Pages>,
    /// One for each connection.
    places: Arc<Semaphore>,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
}

impl Server {
    async fn accept(&self, listener: &TcpListener) -> Infallible {
        loop {
            let place = self.places.clone().acquire_owned().await;
            let place = place.expect("the places are never closed");
            match listener.accept().await {
                Ok((stream, _)) => self.begin(stream, place),
                Err(error) => {
                    tracing::warn!("admin port: accept() failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn begin(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let options = SocketOptions {
            user_timeout: self.limits.stalled,
            ..SocketOptions::default()
        };
        options.apply(&stream);
        let free = self.places.available_permits();
        let taken = (self.limits.connections as usize).saturating_sub(free);
        let idle = if taken > self.limits.kept as usize {
            self.limits.idle
        } else {
            self.limits.kept_idle
        };
        let connection = Connection {
            pages: self.pages.clone(),
            limits: self.limits,
            idle,
            shutdown: self.shutdown.clone(),
        };
        tokio::spawn(async move {
            connection.serve(stream).await;
            drop(place);
        });
    }

    /// Waits until all connections have ended. Each has a deadline.
    async fn closed(&self) {
        let all = self.places.acquire_many(self.limits.connections).await;
        drop(all.expect("the places are never closed"));
    }
}

struct Connection {
    pages: Arc<Pages>,
    limits: Limits,
    idle: Duration,
    shutdown: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        let pages = &self.pages;
        // What a body holds is of no interest; hyper closes the connection
        // when one comes.
        let service = service_fn(
            |request: hyper::Request<hyper::body::Incoming>| async move {
                let (head, _) = request.into_parts();
                Ok::<_, Infallible>(pages.answer(&head).await)
            },
        );
        let mut serving = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.idle)
                .max_headers(MAX_HEADERS)
                .max_header_size(MAX_HEAD)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
        );
        let ended = tokio::select! {
            ended = serving.as_mut() => Some(ended),
            _ = self.shutdown.wait_for(|shutdown| *shutdown) => None,
            () = tokio::time::sleep(self.limits.age) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                serving.as_mut().graceful_shutdown();
                let last = tokio::time::timeout(self.limits.last, serving).await;
                last.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!("admin port: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
