//! HTTP/2 over TLS.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::protocol::{Protocol, Trust};
use super::shared::{Carrier, Shared};
use super::site::{Fault, Reply, connect};

/// A few connections.
pub(super) struct Tabs {
    tls: TlsConnector,
    name: ServerName<'static>,
    open: Shared<SendRequest<Full<Bytes>>>,
}

impl Carrier for SendRequest<Full<Bytes>> {
    fn is_closed(&self) -> bool {
        SendRequest::is_closed(self)
    }
}

impl Tabs {
    pub(super) fn new(trust: &Trust) -> Tabs {
        Tabs {
            tls: TlsConnector::from(Arc::new(trust.client(Protocol::Http2))),
            name: trust.name(),
            open: Shared::new(),
        }
    }

    pub(super) async fn send(
        &self,
        address: SocketAddr,
        request: Request<()>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let mut sender = self.open.turn(async || self.connect(address).await).await?;
        let response = sender.send_request(request.map(|()| Full::new(body))).await;
        let (head, body) = response.map_err(Fault::broken)?.into_parts();
        let body = body.collect().await.map_err(Fault::broken)?.to_bytes();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    async fn connect(&self, address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Fault> {
        let stream = connect(address).await?;
        let stream = self.tls.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(Fault::Connect)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Fault::connect("the server does not speak HTTP/2"));
        }
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(Fault::broken)?;
        // Its end shows in the sender.
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl fmt::Debug for Tabs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tabs").finish_non_exhaustive()
    }
}
