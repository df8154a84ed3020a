//! One connection to a node.
//!
//! It is driven by whoever uses it: the request's task polls it together with
//! the answer, so that there is no second task, no hand-over between tasks,
//! and when the request is dropped its connection is closed. Between requests
//! nobody polls it; whether it is still open is asked of the kernel before it
//! is used again.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::upload::Upload;
use crate::system_calls::tcp_state;

/// Bytes of a node's answer that hyper holds at most: what is read at once.
const BUFFER_MAX: usize = 2 * ANSWER_HEAD_MAX;

/// How long after its last answer a connection is taken for open without
/// asking the kernel.
const FRESH: Duration = Duration::from_millis(10);

/// How long the reset is waited for that shows that a node which has closed a
/// connection never took the request: some round trips.
const FAREWELL: Duration = Duration::from_millis(100);

/// How often is looked meanwhile.
const FAREWELL_GLANCE: Duration = Duration::from_millis(5);

/// How often is looked whether an answer is still to be waited for. Deadlines
/// are kept to this.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);

/// Largest answer head in bytes.
const ANSWER_HEAD_MAX: usize = 64 * 1024;

/// A connection that speaks HTTP/1.1 to a node.
#[derive(Debug)]
pub(crate) struct NodeConnection {
    sender: SendRequest<Upload>,
    /// None once the connection is closed.
    driver: Option<Pin<Box<Driver>>>,
    /// It is asked to leave HTTP: its socket outlives that.
    may_switch: bool,
    /// Its socket and what was read behind the last answer, once HTTP has
    /// ended on a connection that may leave it.
    socket: Option<(TcpStream, Bytes)>,
    facts: Arc<Facts>,
    /// For [`NodeConnection::send`].
    glance: Option<Pin<Box<Sleep>>>,
    /// Since when it lies idle.
    idle_since: Instant,
    /// Whether it has carried a request.
    used: bool,
}

/// What has to be polled for anything to happen.
type Driver = Connection<TokioIo<NodeIo>, Upload>;

/// Why a request brought no answer.
#[derive(Debug)]
pub(crate) struct SendFailed {
    /// hyper's account.
    pub(crate) error: hyper::Error,
    /// Whether the kernel took any byte of the request.
    pub(crate) sent: bool,
    /// Whether it is proven that the node's kernel took none of it: see
    /// [`NodeIo::poll_farewell`].
    pub(crate) not_acknowledged: bool,
    /// The request's body, if it was not given away.
    pub(crate) body: Option<Upload>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NotSent<T> {
    /// None came.
    Failed(SendFailed),
    /// It is not waited for any more, for this reason.
    Ended(T),
}

/// What the socket knows and hyper does not say.
#[derive(Debug, Default)]
struct Facts {
    /// Bytes the kernel took.
    written: AtomicU64,
    /// Of those, what belongs to requests before the last one.
    written_before: AtomicU64,
    /// The next read first asks the kernel whether the connection is open.
    verify: AtomicBool,
    /// The node's kernel took nothing of the last request.
    not_acknowledged: AtomicBool,
}

impl NodeConnection {
    /// Speaks HTTP on a fresh connection. Nothing is sent yet.
    ///
    /// # Errors
    /// hyper's.
    pub(crate) async fn open(stream: TcpStream) -> hyper::Result<NodeConnection> {
        let facts = Arc::new(Facts::default());
        let io = NodeIo {
            // Without it nothing can be proven.
            acknowledged_before: tcp_state(&stream).ok().map(|it| it.acknowledged),
            stream,
            facts: Arc::clone(&facts),
            farewell: None,
        };
        let (sender, driver) = Builder::new()
            .max_header_size(ANSWER_HEAD_MAX)
            .max_buf_size(BUFFER_MAX)
            .handshake(TokioIo::new(io))
            .await?;
        Ok(NodeConnection {
            sender,
            driver: Some(Box::pin(driver)),
            may_switch: false,
            socket: None,
            facts,
            glance: None,
            idle_since: Instant::now(),
            used: false,
        })
    }

    /// Whether it has carried a request before.
    pub(crate) fn is_used(&self) -> bool {
        self.used
    }

    /// Since when it lies idle.
    pub(crate) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Reads and writes what there is to read and write.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            let driver = self.driver.take().filter(|_| self.may_switch);
            self.socket = driver.map(|driver| {
                let parts = Pin::into_inner(driver).into_parts();
                (parts.io.into_inner().stream, parts.read_buf)
            });
        }
    }

    /// The next request asks to leave HTTP.
    pub(crate) fn may_switch(&mut self) {
        self.may_switch = true;
    }

    /// Its socket, after the node has agreed to leave HTTP, and what it said
    /// behind that.
    pub(crate) async fn into_socket(mut self) -> (TcpStream, Bytes) {
        std::future::poll_fn(|cx| {
            self.poll_drive(cx);
            self.socket.take().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether an idle connection is open, as far as this side can know. One
    /// that was in use a moment ago is taken for open: if it is not, the
    /// request that goes into it can be proven undelivered.
    pub(crate) async fn verify(&mut self) -> bool {
        if self.used && self.idle_since.elapsed() < FRESH {
            return self.is_reusable();
        }
        self.facts.verify.store(true, Ordering::Relaxed);
        std::future::poll_fn(|cx| {
            self.poll_drive(cx);
            Poll::Ready(self.is_reusable())
        })
        .await
    }

    /// Notes that its last answer is complete; whether it can carry another
    /// request.
    pub(crate) fn rest(&mut self, cx: &mut Context<'_>) -> bool {
        self.poll_drive(cx);
        self.idle_since = Instant::now();
        self.is_reusable()
    }

    /// Reads and writes until something else is done.
    pub(crate) async fn drive_while<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            self.poll_drive(cx);
            work.as_mut().poll(cx)
        })
        .await
    }

    fn is_reusable(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer. Each [`GLANCE`]
    /// `look` is asked whether to wait any longer; what it says instead is the
    /// end. Dropping the future leaves the connection unusable.
    ///
    /// # Errors
    /// No answer came.
    pub(crate) async fn send<T>(
        &mut self,
        request: Request<Upload>,
        mut look: impl FnMut(Instant) -> Option<T>,
    ) -> Result<Response<Incoming>, NotSent<T>> {
        self.used = true;
        let facts = &self.facts;
        let written_before = facts.written.load(Ordering::Relaxed);
        facts
            .written_before
            .store(written_before, Ordering::Relaxed);
        let mut answer = pin!(self.sender.try_send_request(request));
        let answered = std::future::poll_fn(|cx| {
            self.poll_drive(cx);
            if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answered));
            }
            // It is kept for the next request, and fires early then: moving it
            // costs more than that.
            let sleep = || Box::pin(tokio::time::sleep(GLANCE));
            let glance = self.glance.get_or_insert_with(sleep);
            loop {
                ready!(glance.as_mut().poll(cx));
                let now = Instant::now();
                if let Some(end) = look(now) {
                    return Poll::Ready(Err(NotSent::Ended(end)));
                }
                glance.as_mut().reset((now + GLANCE).into());
            }
        });
        let answered = answered.await?;
        let facts = &self.facts;
        answered.map_err(|mut failed| {
            NotSent::Failed(SendFailed {
                body: failed.take_message().map(Request::into_body),
                error: failed.into_error(),
                sent: facts.written.load(Ordering::Relaxed) > written_before,
                not_acknowledged: facts.not_acknowledged.load(Ordering::Relaxed),
            })
        })
    }
}

/// The socket under hyper.
#[derive(Debug)]
struct NodeIo {
    stream: TcpStream,
    facts: Arc<Facts>,
    /// Bytes the node's kernel had acknowledged before the first request.
    acknowledged_before: Option<u64>,
    /// The node has closed its side, and it is waited for what it does with
    /// the request: until when, and when is looked next.
    farewell: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl NodeIo {
    /// The node has closed its side before it answered. If its kernel then
    /// resets the connection and has acknowledged nothing of the request, that
    /// came after the node had closed: nobody can have acted on it.
    ///
    /// A reset alone proves nothing: it goes out also when a node dies with a
    /// part of the request unread, and what it acknowledges is not counted.
    /// Neither does silence.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.has_taken_nothing() {
                Some(true) => {
                    self.facts.not_acknowledged.store(true, Ordering::Relaxed);
                    return Poll::Ready(());
                }
                Some(false) => return Poll::Ready(()),
                None => {}
            }
            let now = Instant::now();
            let (until, sleep) = self.farewell.get_or_insert_with(|| {
                (
                    now + FAREWELL,
                    Box::pin(tokio::time::sleep(FAREWELL_GLANCE)),
                )
            });
            if now >= *until {
                return Poll::Ready(());
            }
            ready!(sleep.as_mut().poll(cx));
            sleep.as_mut().reset((now + FAREWELL_GLANCE).into());
        }
    }

    /// Whether the node's kernel has taken nothing of the last request, and
    /// never will; none as long as it may.
    fn has_taken_nothing(&self) -> Option<bool> {
        let written_before = self.facts.written_before.load(Ordering::Relaxed);
        if self.facts.written.load(Ordering::Relaxed) == written_before {
            return Some(false);
        }
        let (Some(at_first), Ok(state)) = (self.acknowledged_before, tcp_state(&self.stream))
        else {
            return Some(false);
        };
        if state.acknowledged.saturating_sub(at_first) > written_before {
            return Some(false);
        }
        if !state.is_closed {
            return None;
        }
        // A connection that the kernel gave up is closed too.
        let error = self.stream.take_error().ok().flatten();
        let reset = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        Some(error.is_some_and(|it| reset.contains(&it.kind())))
    }

    /// Asks the kernel whether an idle connection has ended. The runtime may
    /// not have seen its end yet.
    fn has_ended(&self) -> io::Result<bool> {
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.stream, &mut byte, flags) {
            Ok((_, 0)) => Ok(true),
            Ok(_) => Err(io::Error::other("bytes that belong to no answer")),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsyncRead for NodeIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let verify = &self.facts.verify;
        if verify.load(Ordering::Relaxed) && verify.swap(false, Ordering::Relaxed) {
            match self.has_ended() {
                Ok(false) => {}
                Ok(true) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.farewell.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_farewell(cx).map(Ok)
    }
}

impl AsyncWrite for NodeIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.count(written)
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

impl NodeIo {
    fn count(&self, written: usize) -> Poll<io::Result<usize>> {
        self.facts
            .written
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::net::Shutdown;
    use std::task::Waker;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (NodeConnection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("it listens");
        let (node, _) = listener.accept().await.expect("it is there");
        let connection = NodeConnection::open(stream).await.expect("nothing is sent");
        (connection, node)
    }

    fn post() -> Request<Upload> {
        let mut request = Request::new(Upload::Whole(Bytes::from_static(b"poison")));
        *request.method_mut() = hyper::Method::POST;
        request
    }

    #[tokio::test]
    async fn a_request_is_given_back_by_a_connection_that_had_ended() {
        let (mut connection, node) = pair().await;
        drop(node);
        tokio::time::sleep(FRESH).await;
        assert!(!connection.verify().await);
        let failed = send(&mut connection).await.expect_err("nobody is there");
        assert!(!failed.sent);
        assert!(matches!(failed.body, Some(Upload::Whole(body)) if body == "poison"));
    }

    #[tokio::test]
    async fn a_request_that_was_read_and_not_answered_was_sent() {
        let (mut connection, mut node) = pair().await;
        let read = tokio::spawn(async move {
            let mut request = [0; 1024];
            node.read(&mut request).await.expect("a request")
        });
        let failed = send(&mut connection).await.expect_err("no answer");
        assert!(failed.sent && failed.body.is_none());
        assert!(read.await.expect("no panic") > 0);
    }

    async fn send(connection: &mut NodeConnection) -> Result<Response<Incoming>, SendFailed> {
        let sent = connection.send(post(), |_| None::<()>).await;
        sent.map_err(|why| match why {
            NotSent::Failed(failed) => failed,
            NotSent::Ended(()) => unreachable!("it is waited for"),
        })
    }

    /// Has one request answered, so that the connection is in use.
    async fn converse(connection: &mut NodeConnection, node: &mut TcpStream) {
        let answer = async {
            let mut request = [0; 1024];
            assert!(node.read(&mut request).await.expect("a request") > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            node.write_all(answer).await.expect("it is open");
        };
        let (answered, ()) = tokio::join!(send(connection), answer);
        assert_eq!(answered.expect("an answer").status(), 200);
        assert!(connection.rest(&mut Context::from_waker(Waker::noop())));
    }

    #[tokio::test]
    async fn a_request_that_the_closed_node_never_took_is_known_as_such() {
        let (mut connection, mut node) = pair().await;
        converse(&mut connection, &mut node).await;
        drop(node);
        // Nobody has looked at the sockets since.
        let failed = send(&mut connection).await.expect_err("nobody is there");
        assert!(failed.sent && failed.not_acknowledged);
    }

    #[tokio::test]
    async fn what_a_node_took_after_it_closed_its_side_is_not_known_as_untaken() {
        let (mut connection, mut node) = pair().await;
        converse(&mut connection, &mut node).await;
        SockRef::from(&node)
            .shutdown(Shutdown::Write)
            .expect("open");
        let failed = send(&mut connection).await.expect_err("no answer");
        assert!(failed.sent && !failed.not_acknowledged);
        let mut request = [0; 1024];
        assert!(node.read(&mut request).await.expect("a request") > 0);
    }

    #[tokio::test]
    async fn a_reset_alone_proves_nothing() {
        let (mut connection, mut node) = pair().await;
        converse(&mut connection, &mut node).await;
        let reset = async {
            node.readable().await.expect("a request");
            SockRef::from(&node)
                .set_linger(Some(Duration::ZERO))
                .expect("open");
            drop(node);
        };
        let (failed, ()) = tokio::join!(send(&mut connection), reset);
        let failed = failed.expect_err("no answer");
        assert!(failed.sent && !failed.not_acknowledged);
    }

    #[tokio::test]
    async fn bytes_that_nobody_asked_for_end_a_connection() {
        let (mut connection, mut node) = pair().await;
        tokio::time::sleep(FRESH).await;
        assert!(connection.verify().await);
        node.write_all(b"H").await.expect("it is open");
        assert!(!connection.verify().await);
    }
}
