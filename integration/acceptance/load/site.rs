//! One address and the connections to it.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Method, Request, StatusCode};
use tokio::net::TcpStream;

use super::ask::Ask;
use super::http1::Browsers;
use super::http2::Tabs;
use super::http3::Quic;
use super::protocol::{Protocol, Trust};
use crate::problem::chain;

/// A server and who visits it.
#[derive(Debug)]
pub(crate) struct Site {
    address: SocketAddr,
    /// The scheme and the authority of its URLs.
    origin: String,
    visitors: Visitors,
}

/// Connections, by how requests share them.
#[derive(Debug)]
enum Visitors {
    Http1(Browsers),
    Http2(Box<Tabs>),
    Http3(Box<Quic>),
}

/// An answer that came to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Fault {
    Connect(std::io::Error),
    /// The connection broke, or what came was not HTTP.
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl Fault {
    pub(super) fn connect(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault::Connect(std::io::Error::other(error))
    }

    pub(super) fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault::Broken(error.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Connect(error) => write!(f, "connect: {}", chain(error)),
            Fault::Broken(error) => f.write_str(&chain(error.as_ref())),
        }
    }
}

impl Site {
    /// A site on this machine, in clear.
    pub(crate) fn new(port: u16) -> Site {
        Site::at(([127, 0, 0, 1], port).into())
    }

    /// A site in clear.
    pub(crate) fn at(address: SocketAddr) -> Site {
        Site {
            address,
            origin: format!("http://{address}"),
            visitors: Visitors::Http1(Browsers::new(None)),
        }
    }

    /// A site on this machine that shows a certificate. The protocol is an
    /// encrypted one.
    pub(crate) fn secure(port: u16, protocol: Protocol, trust: &Trust) -> Site {
        let visitors = match protocol {
            Protocol::Plain | Protocol::Tls => Visitors::Http1(Browsers::new(Some(trust))),
            Protocol::Http2 => Visitors::Http2(Box::new(Tabs::new(trust))),
            Protocol::Http3 => Visitors::Http3(Box::new(Quic::new(trust))),
        };
        Site {
            address: ([127, 0, 0, 1], port).into(),
            origin: format!("https://{}:{port}", trust.domain),
            visitors,
        }
    }

    /// Sends a request and reads all of the answer.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Reply, Fault> {
        let body = Bytes::from(ask.body.clone());
        let request = self.request(ask);
        match &self.visitors {
            Visitors::Http1(it) => it.send(self.address, request, body).await,
            // What these keep meanwhile is large.
            Visitors::Http2(it) => Box::pin(it.send(self.address, request, body)).await,
            Visitors::Http3(it) => Box::pin(it.send(self.address, request, body)).await,
        }
    }

    fn request(&self, ask: &Ask) -> Request<()> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}", self.origin, ask.path));
        if ask.method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(())
            .expect("paths are made of plain words and numbers")
    }
}

/// A TCP connection that does not wait for more to send.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await.map_err(Fault::Connect)?;
    stream.set_nodelay(true).map_err(Fault::Connect)?;
    Ok(stream)
}
