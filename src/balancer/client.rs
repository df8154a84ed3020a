//! One client connection, as its socket, its requests and its watchdog see it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{At, Scanner};
use super::refusal::Refusal;
use super::site::Site;
use super::tunnel::Tunnel;

/// Time between telling a client that its connection ends and ending it, for
/// what is on the way.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client that still sends is listened to
/// after its answer, so that the answer is not lost in a reset.
const LINGER: (Duration, u64) = (Duration::from_secs(2), 1024 * 1024);

/// Requests that a client may leave at once, on one connection.
const LEAVES_MAX: f64 = 200.0;

/// Requests that it may leave each second, for ever.
const LEAVES_PER_SECOND: f64 = 20.0;

/// What is known of a client connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    /// The site it reached over TLS; none in clear.
    site: Option<Arc<Site>>,
    /// The next answer is to say that it is the last.
    is_seen_off: AtomicBool,
    /// It is a proxy, and what it says of its clients is believed.
    is_trusted: bool,
    /// It asked for a host of ours in its handshake.
    is_held_to_hosts: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    scanner: Scanner,
    /// Requests handed to the service.
    requests: u64,
    /// Requests being served.
    serving: u32,
    /// When the last request ended; at first, when the client came.
    rests_since: Instant,
    /// When the head that is being received began.
    head_since: Option<Instant>,
    /// Since when the socket takes no more bytes.
    blocked_since: Option<Instant>,
    /// When it was told that the connection ends.
    dismissed: Option<Dismissed>,
    /// Requests it left, each forgotten after a while, and as of when.
    leaves: (f64, Instant),
    /// The end of the connection has to look like an accident.
    reset: bool,
    /// It and a node have agreed to leave HTTP, as soon as it has the answer.
    /// A tunnel has its client: it must not stay here.
    tunnel: Option<Box<Tunnel>>,
}

#[derive(Debug, Clone, Copy)]
struct Dismissed {
    since: Instant,
    /// Whether its requests may end before.
    kindly: bool,
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a TLS handshake; for a head, once it began, and for the first one.
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
    /// To wait for the answers it asked for: it leaves too many.
    Leave,
    /// To go, after it was told to.
    Goodbye,
}

impl Client {
    /// A client that came at `now`.
    pub(crate) fn new(address: SocketAddr, site: Option<Arc<Site>>, now: Instant) -> Client {
        Client {
            address,
            site,
            is_seen_off: AtomicBool::new(false),
            is_trusted: false,
            is_held_to_hosts: false,
            inner: Mutex::new(Inner {
                scanner: Scanner::default(),
                requests: 0,
                serving: 0,
                rests_since: now,
                head_since: None,
                blocked_since: None,
                dismissed: None,
                leaves: (0.0, now),
                reset: false,
                tunnel: None,
            }),
        }
    }

    /// The same client, which is a proxy to be believed, or not.
    pub(crate) fn trusted(self, is_trusted: bool) -> Client {
        Client { is_trusted, ..self }
    }

    /// The same client, which asked for this host in its handshake (SNI).
    pub(crate) fn asking_for(self, host: Option<&str>) -> Client {
        let is_ours = |site: &Site| host.is_some_and(|it| site.is_named(it));
        Client {
            is_held_to_hosts: self.site().is_some_and(is_ours),
            ..self
        }
    }

    /// Whether what it says of its clients is believed.
    pub(crate) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Whether it asks for another host than the site's, after it asked for
    /// one of the site's in its handshake (RFC 9110, 7.4).
    pub(crate) fn is_misdirected(&self, host: Option<&HeaderValue>) -> bool {
        self.is_held_to_hosts
            && host
                .zip(self.site())
                .is_some_and(|(host, site)| !site.serves(host))
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The site it reached over TLS; none in clear.
    pub(crate) fn site(&self) -> Option<&Site> {
        self.site.as_deref()
    }

    /// The next request is being served. What is wrong with its bytes, if
    /// something is.
    pub(crate) fn begin(&self) -> Option<Refusal> {
        let mut inner = self.inner();
        let number = inner.requests;
        inner.requests += 1;
        inner.serving += 1;
        match number == inner.scanner.heads() {
            true => inner.scanner.refused(),
            false => None,
        }
    }

    /// An answer has ended; `left` says that the client did not wait for that.
    pub(crate) fn end(&self, now: Instant, left: bool) {
        let mut inner = self.inner();
        inner.serving -= 1;
        inner.rests_since = now;
        if left {
            let (count, since) = inner.leaves;
            let forgotten = (now - since).as_secs_f64() * LEAVES_PER_SECOND;
            inner.leaves = ((count - forgotten).max(0.0) + 1.0, now);
        }
    }

    /// The client is told that the connection ends. With `kindly`, its requests
    /// are served to their ends.
    pub(crate) fn dismiss(&self, now: Instant, kindly: bool) {
        let since = now;
        self.inner().dismissed = Some(Dismissed { since, kindly });
    }

    /// The next answer is to say that it is the last, as HTTP/1 has it.
    pub(crate) fn see_off(&self) {
        self.is_seen_off.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer is to say that it is the last.
    pub(crate) fn is_seen_off(&self) -> bool {
        self.is_seen_off.load(Ordering::Relaxed)
    }

    /// The connection is to be reset, so that the client sees that its answer
    /// is cut.
    pub(crate) fn reset(&self) {
        self.inner().reset = true;
    }

    /// It leaves HTTP when it has the answer to its last request.
    pub(crate) fn leaves_http(&self, tunnel: Box<Tunnel>) {
        self.inner().tunnel = Some(tunnel);
    }

    /// What it leaves HTTP for, once.
    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.inner().tunnel.take()
    }

    /// Whether a request of it has been served.
    pub(crate) fn has_asked(&self) -> bool {
        self.inner().requests > 0
    }

    /// Whether there are bytes of a request that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        let inner = self.inner();
        inner.scanner.at() != At::Gap || inner.scanner.refused().is_some()
    }

    /// Whether its socket takes no more bytes.
    pub(crate) fn is_blocked(&self) -> bool {
        self.inner().blocked_since.is_some()
    }

    /// What is waited for, and until when.
    pub(crate) fn waits(&self, patience: Patience) -> Option<(Waits, Instant)> {
        let inner = self.inner();
        if let Some(since) = inner.blocked_since {
            return Some((Waits::Write, since + patience.write));
        }
        match inner.dismissed {
            Some(it) if !(it.kindly && inner.serving > 0) => {
                let since = if it.kindly {
                    it.since.max(inner.rests_since)
                } else {
                    it.since
                };
                return Some((Waits::Goodbye, since + GOODBYE));
            }
            None if inner.leaves.0 > LEAVES_MAX => return Some((Waits::Leave, inner.leaves.1)),
            _ => {}
        }
        if inner.serving > 0 {
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

/// Reads what a client still sends, so that closing the connection is no reset
/// that takes the answer with it (RFC 9112, 9.6).
pub(crate) async fn linger(stream: &mut impl Transport) {
    let (time, bytes) = LINGER;
    let read = async {
        let _closed = stream.shutdown().await;
        let mut rest = stream.take(bytes);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    let _timeout = tokio::time::timeout(time, read).await;
}

/// What a client's bytes come over: TCP, or TLS on it.
pub(crate) trait Transport: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static> Transport for T {}

/// The client's socket under hyper: passes everything on and looks on.
#[derive(Debug)]
pub(crate) struct ClientIo<T: Transport> {
    stream: T,
    client: Arc<Client>,
    /// What was read before hyper reads.
    early: Vec<u8>,
    /// Whether the bytes are HTTP/1 messages, that have to be looked at.
    is_scanned: bool,
    /// A body's framing is broken: what follows is not read.
    broken: bool,
    /// A flush did not come to its end.
    waits_in_tls: bool,
}

impl<T: Transport> ClientIo<T> {
    /// A connection that speaks HTTP/1 and began with these bytes.
    pub(crate) fn messages(stream: T, client: Arc<Client>, early: Vec<u8>) -> ClientIo<T> {
        ClientIo {
            stream,
            client,
            early,
            is_scanned: true,
            broken: false,
            waits_in_tls: false,
        }
    }

    /// A connection that speaks HTTP/2 and began with these bytes.
    pub(crate) fn frames(stream: T, client: Arc<Client>, early: Vec<u8>) -> ClientIo<T> {
        let mut io = ClientIo::messages(stream, client, early);
        io.is_scanned = false;
        io
    }

    /// Whether bytes of it were thrown away.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// The socket.
    pub(crate) fn stream(&mut self) -> &mut T {
        &mut self.stream
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let now = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..now]);
        self.early.drain(..now);
        if self.early.is_empty() {
            self.early = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> Drop for ClientIo<T> {
    fn drop(&mut self) {
        let inner = self.client.inner();
        if inner.reset {
            let _refused = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        } else if !self.is_scanned && inner.dismissed.is_some_and(|it| it.kindly) {
            drop(inner);
            self.see_out();
        }
    }
}

impl<T: Transport> ClientIo<T> {
    /// A client of HTTP/2 that was told to go may be sending its next request:
    /// a connection that is closed at once would be reset, and what it was
    /// told be lost with it. So it is listened to for a while.
    fn see_out(&self) {
        let stream = self.stream.as_fd().try_clone_to_owned();
        let stream = stream.map(std::net::TcpStream::from);
        let Ok(Ok(mut stream)) = stream.map(TcpStream::from_std) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { linger(&mut stream).await });
        }
    }
}

impl<T: Transport> AsyncRead for ClientIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(broken_framing()));
        }
        let before = buf.filled().len();
        ready!(self.poll_bytes(cx, buf))?;
        let came = buf.filled().len() - before;
        if came == 0 || !self.is_scanned {
            return Poll::Ready(Ok(()));
        }
        let good = self.client.came(&buf.filled()[before..]);
        buf.set_filled(before + good);
        self.broken = good < came;
        match good {
            0 => Poll::Ready(Err(broken_framing())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

fn broken_framing() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "broken framing")
}

impl<T: Transport> AsyncWrite for ClientIo<T> {
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
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // Bytes that were taken may wait in TLS; TCP takes none that wait.
        if result.is_pending() || self.waits_in_tls {
            self.waits_in_tls = result.is_pending();
            self.client.went(&result);
        }
        result
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
        Client::new("192.0.2.1:1".parse().expect("an address"), None, now)
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
        client.end(now + SECOND, false);
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
        client.end(end, false);
        assert_eq!(
            client.waits(PATIENCE),
            Some((Waits::Head, end + 10 * SECOND))
        );
    }

    #[test]
    fn a_client_that_leaves_its_requests_over_and_over_is_sent_away() {
        let now = Instant::now();
        let client = client(now);
        let leave = |times: u32, now: Instant| {
            for _ in 0..times {
                client.begin();
                client.end(now, true);
            }
        };
        leave(LEAVES_MAX as u32, now);
        assert!(matches!(client.waits(PATIENCE), Some((Waits::Idle, _))));
        leave(1, now);
        assert_eq!(client.waits(PATIENCE), Some((Waits::Leave, now)));
        // A page that is left now and then is no flood.
        leave(1, now + 60 * SECOND);
        assert!(matches!(client.waits(PATIENCE), Some((Waits::Idle, _))));
    }

    #[test]
    fn who_is_told_to_go_may_finish_unless_it_is_told_for_a_reason() {
        let now = Instant::now();
        let client = client(now);
        client.begin();
        client.dismiss(now, true);
        assert_eq!(client.waits(PATIENCE), None);
        client.end(now + SECOND, false);
        let goodbye = now + SECOND + GOODBYE;
        assert_eq!(client.waits(PATIENCE), Some((Waits::Goodbye, goodbye)));
        client.begin();
        client.dismiss(now, false);
        assert_eq!(
            client.waits(PATIENCE),
            Some((Waits::Goodbye, now + GOODBYE))
        );
    }
}
