//! One address and the connections to it.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::ask::Ask;
use crate::problem::chain;

/// Kept connections that are idle at any time: a population of browsers, each
/// of which comes back after a while over the connection it has.
const POPULATION: usize = 32;

/// A server and who visits it. Requests go out over the connection that has
/// been idle longest, so that all of them are used in turn.
#[derive(Debug)]
pub(crate) struct Site {
    address: SocketAddr,
    idle: Mutex<VecDeque<SendRequest<Full<Bytes>>>>,
}

/// An answer that came to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Fault {
    Connect(std::io::Error),
    /// The connection broke, or what came was not HTTP.
    Broken(hyper::Error),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(error) => write!(f, "connect: {error}"),
            Fault::Broken(error) => f.write_str(&chain(error)),
        }
    }
}

impl Site {
    /// A site on this machine.
    pub(crate) fn new(port: u16) -> Site {
        Site {
            address: ([127, 0, 0, 1], port).into(),
            idle: Mutex::default(),
        }
    }

    /// Sends a request and reads all of the answer.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Reply, Fault> {
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = connection.send_request(self.request(ask)).await;
        let response = response.map_err(Fault::Broken)?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(Fault::Broken)?.to_bytes();
        if connection.ready().await.is_ok() {
            self.lock().push_back(connection);
        }
        Ok(Reply { status, body })
    }

    /// The connection that was idle longest, if there are enough.
    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.lock();
        idle.retain(|connection| !connection.is_closed());
        match idle.len() {
            0..POPULATION => None,
            _ => idle.pop_front(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = TcpStream::connect(self.address).await;
        let stream = stream.map_err(Fault::Connect)?;
        stream.set_nodelay(true).map_err(Fault::Connect)?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(Fault::Broken)?;
        // Its end shows in the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, ask: &Ask) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(HOST, self.address.to_string());
        if ask.method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(ask.body.clone()));
        request
            .body(body)
            .expect("paths are made of plain words and numbers")
    }
}
