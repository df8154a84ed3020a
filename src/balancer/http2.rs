//! HTTP/2 with a client.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::body::RequestBody;
use super::client::{Client, ClientIo, Transport};
use super::core::Core;
use super::drive::{End, Farewell, drive};
use super::framing::HEAD_MAX;
use super::server::Phase;
use super::service;

/// What an HTTP/2 client says first (RFC 9113, 3.4). No HTTP/1 parser takes it
/// for a request.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one connection that are served at once; in HTTP/3 as well.
pub(crate) const STREAMS_MAX: u32 = 100;

/// Streams a client may have reset before they were looked at (the rapid reset
/// attack), and streams that had to be reset because of what it sent.
const RESETS_MAX: (usize, usize) = (20, 1024);

/// Bytes a client may send before they are taken: of a stream, of all.
const WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// Bytes of one stream that wait to be sent.
const SEND_BUFFER: usize = 64 * 1024;

/// Time between two pings, and for the answer to one. A client that sends its
/// head in pieces for ever cannot answer in between.
const PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(15));

/// Serves one client to its end, after `early` was read.
pub(crate) async fn serve<T: Transport>(
    stream: T,
    early: Vec<u8>,
    client: &Arc<Client>,
    core: &Arc<Core>,
    mut phase: watch::Receiver<Phase>,
) {
    let service = service_fn({
        let (core, client) = (Arc::clone(core), Arc::clone(client));
        move |request: Request<Incoming>| {
            let request = request.map(RequestBody::Hyper);
            service::serve(Arc::clone(&core), Arc::clone(&client), request)
        }
    });
    let io = TokioIo::new(ClientIo::frames(stream, Arc::clone(client), early));
    let mut connection = http2::Builder::new(Streams(core.stream_timeout))
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_MAX as u32)
        .max_pending_accept_reset_streams(RESETS_MAX.0)
        .max_local_error_reset_streams(RESETS_MAX.1)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .serve_connection(io, service);
    let manner = (core.patience, Farewell::Said);
    let end = drive(&mut connection, client, manner, &core.metrics, &mut phase).await;
    if matches!(end, End::Failed(_)) && !client.has_asked() {
        core.metrics.unread().inc();
    }
}

/// Runs the streams of a connection, none longer than this. A client that has
/// no room for its answer holds a node's connection otherwise for as long as
/// it likes: nobody asks for the next piece of a body that cannot be sent.
#[derive(Debug, Clone, Copy)]
struct Streams(Duration);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(tokio::time::timeout(self.0, stream));
    }
}
