//! One client connection, as its socket, its requests and its watchdog see it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{At, Scanner};
use super::refusal::Refusal;

/// What is known of a client connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    scanner: Scanner,
    /// Requests handed to the service.
    requests: u64,
    /// A request is being served.
    busy: bool,
    /// When the last request ended; at first, when the client came.
    rests_since: Instant,
    /// When the head that is being received began.
    head_since: Option<Instant>,
    /// Since when the socket takes no more bytes.
    blocked_since: Option<Instant>,
    /// The end of the connection has to look like an accident.
    reset: bool,
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a head, once it began, and for the first one.
    pub(crate) head: Duration,
    /// For the next request.
    pub(crate) idle: Duration,
    /// For room in the socket.
    pub(crate) write: Duration,
}

/// What a client failed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// To begin another request: a normal end.
    Idle,
    /// To complete a head.
    Head,
    /// To read its answer.
    Write,
}

impl Client {
    /// A client that came at `now`.
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Client {
        Client {
            address,
            inner: Mutex::new(Inner {
                scanner: Scanner::default(),
                requests: 0,
                busy: false,
                rests_since: now,
                head_since: None,
                blocked_since: None,
                reset: false,
            }),
        }
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request is being served. What is wrong with its bytes, if
    /// something is.
    pub(crate) fn begin(&self) -> Option<Refusal> {
        let mut inner = self.inner();
        let number = inner.requests;
        inner.requests += 1;
        inner.busy = true;
        match number == inner.scanner.heads() {
            true => inner.scanner.refused(),
            false => None,
        }
    }

    /// Its answer has ended.
    pub(crate) fn end(&self, now: Instant) {
        let mut inner = self.inner();
        inner.busy = false;
        inner.rests_since = now;
    }

    /// The connection is to be reset, so that the client sees that its answer
    /// is cut.
    pub(crate) fn reset(&self) {
        self.inner().reset = true;
    }

    /// Whether there are bytes of a request that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        let inner = self.inner();
        inner.scanner.at() != At::Gap || inner.scanner.refused().is_some()
    }

    /// What is waited for, and until when.
    pub(crate) fn waits(&self, patience: Patience) -> Option<(Waits, Instant)> {
        let inner = self.inner();
        if let Some(since) = inner.blocked_since {
            return Some((Waits::Write, since + patience.write));
        }
        if inner.busy {
            return None;
        }
        match inner.head_since {
            Some(since) => {
                let since = since.max(inner.rests_since);
                Some((Waits::Head, since + patience.head))
            }
            None if inner.requests == 0 => Some((Waits::Idle, inner.rests_since + patience.head)),
            None => Some((Waits::Idle, inner.rests_since + patience.idle)),
        }
    }

    /// These bytes came. How many of them keep to the framing.
    fn came(&self, bytes: &[u8]) -> usize {
        let mut inner = self.inner();
        let good = inner.scanner.feed(bytes).err().unwrap_or(bytes.len());
        match inner.scanner.at() {
            At::Head if inner.head_since.is_some() => {}
            At::Head => inner.head_since = Some(Instant::now()),
            At::Gap | At::Body => inner.head_since = None,
        }
        good
    }

    fn went<T>(&self, result: &Poll<io::Result<T>>) {
        let mut inner = self.inner();
        match result {
            Poll::Ready(_) => inner.blocked_since = None,
            Poll::Pending if inner.blocked_since.is_some() => {}
            Poll::Pending => inner.blocked_since = Some(Instant::now()),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's socket under hyper: passes everything on and looks on.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: TcpStream,
    client: Arc<Client>,
    /// A body's framing is broken: what follows is not read.
    broken: bool,
}

impl ClientIo {
    pub(crate) fn new(stream: TcpStream, client: Arc<Client>) -> ClientIo {
        ClientIo {
            stream,
            client,
            broken: false,
        }
    }

    /// The socket.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.client.inner().reset {
            let _refused = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(broken_framing()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = buf.filled().len() - before;
        if came == 0 {
            return result;
        }
        let good = self.client.came(&buf.filled()[before..]);
        buf.set_filled(before + good);
        self.broken = good < came;
        match good {
            0 => Poll::Ready(Err(broken_framing())),
            _ => result,
        }
    }
}

fn broken_framing() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "broken framing")
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.client.went(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.client.went(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
    };

    fn client(now: Instant) -> Client {
        Client::new("192.0.2.1:1".parse().expect("an address"), now)
    }

    #[test]
    fn the_request_with_the_odd_bytes_is_refused_and_those_before_it_are_not() {
        let client = client(Instant::now());
        let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(client.came(good), good.len());
        assert_eq!(client.came(good), good.len());
        client.came(b"GET / HTTP/1.1\nHost: a\n\n");
        assert_eq!(client.begin(), None);
        assert_eq!(client.begin(), None);
        assert_eq!(client.begin(), Some(Refusal::BareLineFeed));
    }

    #[test]
    fn a_client_is_waited_for_according_to_what_it_is_doing() {
        let now = Instant::now();
        let client = client(now);
        assert_eq!(
            client.waits(PATIENCE),
            Some((Waits::Idle, now + 10 * SECOND))
        );
        client.came(b"POST / HTTP/1.1\r\nContent-");
        let (waits, deadline) = client.waits(PATIENCE).expect("for the head");
        assert_eq!(waits, Waits::Head);
        assert!(deadline >= now + 10 * SECOND);
        client.came(b"Length: 2\r\n\r\na");
        assert_eq!(client.begin(), None);
        assert_eq!(
            client.waits(PATIENCE),
            None,
            "its body has its own deadline"
        );
        client.came(b"b");
        client.went::<()>(&Poll::Pending);
        assert!(matches!(client.waits(PATIENCE), Some((Waits::Write, _))));
        client.went(&Poll::Ready(Ok(())));
        assert_eq!(client.waits(PATIENCE), None);
        client.end(now + SECOND);
        assert_eq!(
            client.waits(PATIENCE),
            Some((Waits::Idle, now + 61 * SECOND))
        );
    }

    #[test]
    fn the_time_of_a_head_that_came_during_a_request_begins_after_it() {
        let now = Instant::now();
        let client = client(now);
        client.came(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET");
        assert_eq!(client.begin(), None);
        let end = now + 100 * SECOND;
        client.end(end);
        assert_eq!(
            client.waits(PATIENCE),
            Some((Waits::Head, end + 10 * SECOND))
        );
    }
}
