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
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::upload::Upload;

/// Largest answer head in bytes.
const ANSWER_HEAD_MAX: usize = 64 * 1024;

/// A connection that speaks HTTP/1.1 to a node.
#[derive(Debug)]
pub(crate) struct NodeConnection {
    sender: SendRequest<Upload>,
    driver: Box<Driver>,
    /// HTTP has ended on it.
    is_done: bool,
    facts: Arc<Facts>,
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
    /// The request's body, if it was not given away.
    pub(crate) body: Option<Upload>,
}

/// What the socket knows and hyper does not say.
#[derive(Debug, Default)]
struct Facts {
    /// Bytes the kernel took.
    written: AtomicU64,
    /// The next read first asks the kernel whether the connection is open.
    verify: AtomicBool,
}

impl NodeConnection {
    /// Speaks HTTP on a fresh connection. Nothing is sent yet.
    ///
    /// # Errors
    /// hyper's.
    pub(crate) async fn open(stream: TcpStream) -> hyper::Result<NodeConnection> {
        let facts = Arc::new(Facts::default());
        let io = NodeIo {
            stream,
            facts: Arc::clone(&facts),
        };
        let (sender, driver) = Builder::new()
            .max_header_size(ANSWER_HEAD_MAX)
            .handshake(TokioIo::new(io))
            .await?;
        Ok(NodeConnection {
            sender,
            driver: Box::new(driver),
            is_done: false,
            facts,
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
        if !self.is_done {
            self.is_done = Pin::new(&mut *self.driver).poll(cx).is_ready();
        }
    }

    /// Its socket, after the node has agreed to leave HTTP, and what it said
    /// behind that.
    pub(crate) async fn into_socket(mut self) -> (TcpStream, Bytes) {
        std::future::poll_fn(|cx| {
            self.poll_drive(cx);
            match self.is_done {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        let parts = self.driver.into_parts();
        (parts.io.into_inner().stream, parts.read_buf)
    }

    /// Whether an idle connection is open, as far as this side can know.
    pub(crate) async fn verify(&mut self) -> bool {
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
        !self.is_done && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer. Dropping the
    /// future leaves the connection unusable.
    ///
    /// # Errors
    /// No answer came.
    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, SendFailed> {
        self.used = true;
        let written_before = self.facts.written.load(Ordering::Relaxed);
        let answer = self.sender.try_send_request(request);
        self.drive_while(answer)
            .await
            .map_err(|mut failed| SendFailed {
                body: failed.take_message().map(Request::into_body),
                error: failed.into_error(),
                sent: self.facts.written.load(Ordering::Relaxed) > written_before,
            })
    }
}

/// The socket under hyper.
#[derive(Debug)]
struct NodeIo {
    stream: TcpStream,
    facts: Arc<Facts>,
}

impl NodeIo {
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
        assert!(!connection.verify().await);
        let failed = connection.send(post()).await.expect_err("nobody is there");
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
        let failed = connection.send(post()).await.expect_err("no answer");
        assert!(failed.sent && failed.body.is_none());
        assert!(read.await.expect("no panic") > 0);
    }

    #[tokio::test]
    async fn bytes_that_nobody_asked_for_end_a_connection() {
        let (mut connection, mut node) = pair().await;
        assert!(connection.verify().await);
        node.write_all(b"H").await.expect("it is open");
        assert!(!connection.verify().await);
    }
}
