//! Cancel requests towards a server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::record::Cancel;
use crate::net::{self, Address, Names, SocketOptions, Stream};
use crate::wire::frontend;

impl Cancel {
    /// Asks the server to cancel what the backend runs, and waits until it has
    /// closed the request's connection: then the signal has been sent, and
    /// nothing the backend gets later can be hit by it.
    ///
    /// # Errors
    /// The socket's; `TimedOut` after `limit`. If the request may still be on
    /// its way by then, the backend serves nobody after its present client.
    pub async fn send(mut self, names: &Arc<Names>, limit: Duration) -> io::Result<()> {
        tokio::time::timeout(limit, self.attempt(names))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn attempt(&mut self, names: &Arc<Names>) -> io::Result<()> {
        let mut stream = self.connect(names).await?;
        let record = self.record();
        let mut request = BytesMut::with_capacity(12 + record.secret.len());
        frontend::put_cancel(&mut request, &record.pid.to_be_bytes(), &record.secret);
        self.set_under_way(true);
        stream.write_all(&request).await?;
        let mut byte = [0];
        // It answers nothing but the end of the stream.
        while stream.read(&mut byte).await? > 0 {}
        self.set_under_way(false);
        Ok(())
    }

    /// Connects to the very address of the backend: its host name may stand
    /// for several servers.
    async fn connect(&self, names: &Arc<Names>) -> io::Result<Stream> {
        let record = self.record();
        if let Address::Tcp(address) = record.address {
            let stream = tokio::net::TcpStream::connect(address).await?;
            return Ok(stream.into());
        }
        let (host, port) = &record.host;
        Ok(net::connect(host, *port, names, &SocketOptions::default()).await?)
    }
}

/// Passes a cancel request on to a peer, which looks the key up among its own
/// clients, and waits until it has closed the connection. The caller sets the
/// deadline.
///
/// # Errors
/// The socket's.
pub async fn forward_cancel(mut stream: Stream, key: &[u8]) -> io::Result<()> {
    let mut request = BytesMut::with_capacity(8 + key.len());
    frontend::put_cancel(&mut request, key, &[]);
    stream.write_all(&request).await?;
    let mut byte = [0];
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}
