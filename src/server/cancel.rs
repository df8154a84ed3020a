//! Cancel requests towards a server.

use std::io;
use std::time::Duration;

use bytes::BytesMut;

use super::Record;
use crate::net::{self, Address, SocketOptions, Stream};
use crate::wire::frontend;

/// Asks the server to cancel what the backend of `record` runs, and waits
/// until it has closed the request's connection: then the signal has been
/// sent, and nothing the backend gets later can be hit by it.
///
/// # Errors
/// The socket's; `TimedOut` after `limit`.
pub async fn send_cancel(record: &Record, limit: Duration) -> io::Result<()> {
    let attempt = async {
        let mut stream = connect(record).await?;
        let mut request = BytesMut::with_capacity(16);
        frontend::put_cancel(&mut request, record.pid, &record.secret);
        stream.write_all(&request).await?;
        let mut byte = [0];
        // It answers nothing but the end of the stream.
        while stream.read(&mut byte).await? > 0 {}
        Ok(())
    };
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Connects to the very address of the backend: its host name may stand for
/// several servers.
async fn connect(record: &Record) -> io::Result<Stream> {
    if let Address::Tcp(address) = record.address {
        let stream = tokio::net::TcpStream::connect(address).await?;
        return Ok(stream.into());
    }
    let (host, port) = &record.host;
    net::connect(host, *port, 0, &SocketOptions::default()).await
}
