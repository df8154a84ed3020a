//! Client connections: accepting them, speaking HTTP/1 on them, and letting
//! them go.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use super::client::{Client, ClientIo, Patience, Waits};
use super::core::Core;
use super::download::Download;
use super::framing::HEAD_MAX;
use super::service::serve;
use super::timer::poll_deadline;

/// Client connections there may be. More wait in the kernel.
pub(crate) const CLIENTS_MAX: u32 = 16_384;

/// Bytes of a client's stream that hyper holds at most.
const BUFFER_MAX: usize = 2 * HEAD_MAX;

/// Pause after the system had no file descriptor for a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long, and for how many bytes, a client that still sends is listened to
/// after its answer, so that the answer is not lost in a reset.
const LINGER: (Duration, u64) = (Duration::from_secs(2), 1024 * 1024);

/// What connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serve.
    Serving,
    /// Finish the request that is being served, and close.
    Draining,
    /// Close.
    Closing,
}

/// Accepts clients until the phase changes.
pub(crate) async fn accept(
    listener: TcpListener,
    core: Arc<Core>,
    slots: Arc<Semaphore>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut complained = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.changed() => return,
            accepted = next_client(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, client, slot)) => {
                let open = Open::new(Arc::clone(&core), slot);
                tokio::spawn(serve_client(stream, client, open, phase.clone()));
            }
            Err(error) => {
                let now = Instant::now();
                let lately = |it: Instant| now - it < Duration::from_secs(10);
                if !complained.is_some_and(lately) {
                    tracing::warn!(%error, "cannot accept HTTP clients");
                    complained = Some(now);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn next_client(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Client, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.expect("the slots are never closed");
    let (stream, address) = listener.accept().await?;
    Ok((stream, Client::new(address, Instant::now()), slot))
}

/// Serves one client to its end. One that shuts down its sending side has
/// left: what it asked for is dropped, as nginx does.
async fn serve_client(
    stream: TcpStream,
    client: Client,
    open: Open,
    phase: watch::Receiver<Phase>,
) {
    let core = &open.core;
    // Without it a second small write waits for the first one's ACK.
    let _refused = stream.set_nodelay(true);
    let client = Arc::new(client);
    let service = service_fn(|request| {
        let serving = serve(Arc::clone(core), Arc::clone(&client), request);
        async { Ok::<_, Infallible>(serving.await) }
    });
    let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client)));
    let mut connection = http1::Builder::new()
        .half_close(false)
        .max_header_size(HEAD_MAX)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(io, service);
    let end = drive(&mut connection, &client, core.patience, phase).await;
    if matches!(end, End::Unreadable | End::HeadTimeout) {
        core.metrics.unread().inc();
    }
    match end {
        End::Abandoned => {}
        End::Finished | End::Unreadable => {
            if client.has_unread() {
                linger(connection.into_parts().io.into_inner()).await;
            }
        }
        End::HeadTimeout => send_away(connection.into_parts().io.into_inner()).await,
    }
}

/// How a connection ended.
enum End {
    /// By itself, in order.
    Finished,
    /// What came was no HTTP.
    Unreadable,
    /// A head took too long.
    HeadTimeout,
    /// It is to be closed as it is.
    Abandoned,
}

/// Drives a connection until it ends, or has to end.
async fn drive<S>(
    connection: &mut http1::Connection<TokioIo<ClientIo>, S>,
    client: &Client,
    patience: Patience,
    mut phase: watch::Receiver<Phase>,
) -> End
where
    S: Service<Request<Incoming>, Response = Response<Download>, Error = Infallible>,
{
    let mut connection = Pin::new(connection);
    let mut watchdog = Watchdog::new(patience);
    let mut dismissed = false;
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => return match result {
                Err(error) if error.is_parse() => End::Unreadable,
                _ => End::Finished,
            },
            changed = phase.changed() => match (changed, *phase.borrow()) {
                (Ok(()), Phase::Serving) => {}
                (Ok(()), Phase::Draining) => connection.as_mut().graceful_shutdown(),
                (Ok(()), Phase::Closing) | (Err(_), _) => return End::Abandoned,
            },
            waits = watchdog.expired(client) => match waits {
                Waits::Idle if dismissed => return End::Abandoned,
                Waits::Idle => {
                    dismissed = true;
                    connection.as_mut().graceful_shutdown();
                }
                Waits::Head => return End::HeadTimeout,
                Waits::Write => {
                    client.reset();
                    return End::Abandoned;
                }
            },
        }
    }
}

/// An open connection. Its slot is free only when it holds nothing else.
struct Open {
    core: Arc<Core>,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    fn new(core: Arc<Core>, slot: OwnedSemaphorePermit) -> Open {
        core.metrics.clients().inc();
        Open { core, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.metrics.clients().dec();
    }
}

/// Tells a client that its head took too long.
async fn send_away(mut io: ClientIo) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    // The socket's buffer is empty, or the client does not read anyway.
    if io.stream().try_write(ANSWER).is_ok() {
        linger(io).await;
    }
}

/// Reads what a client still sends, so that closing the connection is no reset
/// that takes the answer with it (RFC 9112, 9.6).
async fn linger(mut io: ClientIo) {
    let (time, bytes) = LINGER;
    let stream = io.stream();
    let _closed = stream.shutdown().await;
    let mut rest = stream.take(bytes);
    let _timeout =
        tokio::time::timeout(time, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// Waits for what a client fails to do.
struct Watchdog {
    patience: Patience,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    fn new(patience: Patience) -> Watchdog {
        Watchdog {
            patience,
            sleep: None,
        }
    }

    /// Returns when the client was waited for too long. What it is waited for
    /// changes only while its connection is polled; polled after it, this sees
    /// every change.
    async fn expired(&mut self, client: &Client) -> Waits {
        std::future::poll_fn(|cx| self.poll_expired(client, cx)).await
    }

    fn poll_expired(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<Waits> {
        let Some((waits, deadline)) = client.waits(self.patience) else {
            return Poll::Pending;
        };
        poll_deadline(&mut self.sleep, deadline, Instant::now(), cx).map(|()| waits)
    }
}
