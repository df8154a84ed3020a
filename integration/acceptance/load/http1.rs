//! Connections that carry one request at a time.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::protocol::{Protocol, Trust};
use super::site::{Fault, Reply, connect};

/// Kept connections that are idle at any time: a population of browsers, each
/// of which comes back after a while over the connection it has.
const POPULATION: usize = 32;

/// Requests go out over the connection that has been idle longest, so that all
/// of them are used in turn.
pub(super) struct Browsers {
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Mutex<VecDeque<SendRequest<Full<Bytes>>>>,
}

impl Browsers {
    /// In clear, or over TLS.
    pub(super) fn new(trust: Option<&Trust>) -> Browsers {
        let tls = trust.map(|trust| {
            let config = Arc::new(trust.client(Protocol::Tls));
            (TlsConnector::from(config), trust.name())
        });
        Browsers {
            tls,
            idle: Mutex::default(),
        }
    }

    pub(super) async fn send(
        &self,
        address: SocketAddr,
        request: Request<()>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let mut connection = match self.kept() {
            Some(connection) => connection,
            None => self.connect(address).await?,
        };
        let request = with_host(request).map(|()| Full::new(body));
        let response = connection.send_request(request).await;
        let (head, body) = response.map_err(Fault::broken)?.into_parts();
        let body = body.collect().await.map_err(Fault::broken)?.to_bytes();
        if connection.ready().await.is_ok() {
            self.lock().push_back(connection);
        }
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
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

    fn lock(&self) -> MutexGuard<'_, VecDeque<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = connect(address).await?;
        match &self.tls {
            None => shake(stream).await,
            Some((tls, name)) => {
                let stream = tls.connect(name.clone(), stream).await;
                shake(stream.map_err(Fault::Connect)?).await
            }
        }
    }
}

async fn shake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, Fault> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(Fault::broken)?;
    // Its end shows in the sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// The target is a path, the authority a field.
fn with_host(request: Request<()>) -> Request<()> {
    let (mut head, ()) = request.into_parts();
    let host = head.uri.authority().map_or("", |it| it.as_str());
    let host = HeaderValue::from_str(host).expect("authorities are plain");
    head.headers.insert(HOST, host);
    head.uri = head
        .uri
        .path_and_query()
        .cloned()
        .map_or_else(Uri::default, Uri::from);
    Request::from_parts(head, ())
}

impl fmt::Debug for Browsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browsers").finish_non_exhaustive()
    }
}
