//! HTTP/1 with a client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::body::RequestBody;
use super::client::{Client, ClientIo, Transport, linger};
use super::core::Core;
use super::drive::{End, Farewell, drive};
use super::framing::HEAD_MAX;
use super::server::Phase;
use super::service;

/// Bytes of a client's stream that hyper holds at most.
const BUFFER_MAX: usize = 2 * HEAD_MAX;

/// Serves one client to its end, after `early` was read. One that shuts down
/// its sending side has left: what it asked for is dropped, as nginx does.
pub(crate) async fn serve<T: Transport>(
    stream: T,
    early: Vec<u8>,
    client: &Arc<Client>,
    core: &Arc<Core>,
    mut phase: watch::Receiver<Phase>,
) {
    let left = Left(client);
    let service = service_fn(|request| {
        let request = hyper::Request::map(request, RequestBody::Hyper);
        service::serve(Arc::clone(core), Arc::clone(client), request)
    });
    let io = TokioIo::new(ClientIo::messages(stream, Arc::clone(client), early));
    let mut connection = http1::Builder::new()
        .half_close(false)
        .max_header_size(HEAD_MAX)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(io, service);
    let manner = (core.patience, Farewell::WithAnAnswer);
    let end = drive(&mut connection, client, manner, &core.metrics, &mut phase).await;
    let is_unreadable = matches!(&end, End::Failed(error) if error.is_parse());
    if is_unreadable || matches!(end, End::HeadTimeout) {
        core.metrics.unread().inc();
    }
    match end {
        End::Abandoned => {}
        End::Finished | End::Failed(_) => {
            let tunnel = left.0.take_tunnel();
            let is_finished = matches!(end, End::Finished);
            if let Some(tunnel) = tunnel.filter(|_| is_finished) {
                let Parts { io, read_buf, .. } = connection.into_parts();
                let mut io = io.into_inner();
                // What the client said early is no HTTP, and may have looked
                // like a bad one; and hyper leaves without what the socket did
                // not take of the answer.
                match io.is_broken() || client.is_blocked() {
                    true => client.reset(),
                    false => Box::pin(tunnel.run(io.stream(), read_buf, &mut phase)).await,
                }
            } else if client.has_unread() {
                linger(connection.into_parts().io.into_inner().stream()).await;
            }
        }
        End::HeadTimeout => send_away(connection.into_parts().io.into_inner().stream()).await,
    }
}

/// A client whose connection ends: a tunnel that it did not come to is dropped.
struct Left<'a>(&'a Client);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        drop(self.0.take_tunnel());
    }
}

/// Tells a client that its head took too long.
pub(crate) async fn send_away(stream: &mut impl Transport) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // The socket's buffer is empty, or the client does not read anyway.
    let written = std::future::poll_fn(|cx| {
        let mut stream = Pin::new(&mut *stream);
        let written = stream.as_mut().poll_write(cx, ANSWER);
        Poll::Ready(matches!(written, Poll::Ready(Ok(_))))
    });
    if written.await {
        linger(stream).await;
    }
}
