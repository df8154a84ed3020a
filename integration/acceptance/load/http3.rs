//! HTTP/3.

use std::fmt;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes, BytesMut};
use h3::client::SendRequest;
use h3_quinn::OpenStreams;
use hyper::Request;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};

use super::protocol::{Protocol, Trust};
use super::shared::{Carrier, Shared};
use super::site::{Fault, Reply};

/// A few connections from one UDP port.
pub(super) struct Quic {
    config: ClientConfig,
    domain: String,
    endpoint: OnceLock<Endpoint>,
    open: Shared<Visitor>,
}

/// One connection.
#[derive(Clone)]
struct Visitor {
    quic: Connection,
    sender: SendRequest<OpenStreams, Bytes>,
}

impl Carrier for Visitor {
    fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }
}

impl Quic {
    pub(super) fn new(trust: &Trust) -> Quic {
        let tls = QuicClientConfig::try_from(trust.client(Protocol::Http3));
        let tls = tls.expect("the provider has QUIC's first cipher suite");
        Quic {
            config: ClientConfig::new(Arc::new(tls)),
            domain: trust.domain.clone(),
            endpoint: OnceLock::new(),
            open: Shared::new(),
        }
    }

    pub(super) async fn send(
        &self,
        address: SocketAddr,
        request: Request<()>,
        body: Bytes,
    ) -> Result<Reply, Fault> {
        let visitor = self.open.turn(async || self.connect(address).await).await?;
        let mut sender = visitor.sender;
        let mut stream = sender.send_request(request).await.map_err(Fault::broken)?;
        if !body.is_empty() {
            stream.send_data(body).await.map_err(Fault::broken)?;
        }
        stream.finish().await.map_err(Fault::broken)?;
        let (head, ()) = stream
            .recv_response()
            .await
            .map_err(Fault::broken)?
            .into_parts();
        let mut body = BytesMut::new();
        while let Some(piece) = stream.recv_data().await.map_err(Fault::broken)? {
            let mut piece = piece;
            body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.freeze(),
        })
    }

    async fn connect(&self, address: SocketAddr) -> Result<Visitor, Fault> {
        let endpoint = self.endpoint()?;
        let connecting = endpoint.connect_with(self.config.clone(), address, &self.domain);
        let quic = connecting
            .map_err(Fault::connect)?
            .await
            .map_err(Fault::connect)?;
        let shaken = h3::client::new(h3_quinn::Connection::new(quic.clone())).await;
        let (mut driver, sender) = shaken.map_err(Fault::broken)?;
        // Its end shows in the connection.
        tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Visitor { quic, sender })
    }

    fn endpoint(&self) -> Result<&Endpoint, Fault> {
        if let Some(endpoint) = self.endpoint.get() {
            return Ok(endpoint);
        }
        let bound = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into());
        let bound = bound.map_err(Fault::Connect)?;
        Ok(self.endpoint.get_or_init(|| bound))
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quic").finish_non_exhaustive()
    }
}
