//! One connected socket, TCP or Unix.
//!
//! The contract is "chunk in, chunk out": a read fills a slice that the
//! caller lends for that call only, a write takes one. Nothing is buffered
//! here and no slice is held across an await, so that another way of doing
//! I/O can serve it later.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with TCP_NODELAY set.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
}

impl Stream {
    /// Reads what is there, at most `buf.len()` bytes; 0 is the end.
    ///
    /// A short read clears the readiness, so that the next call does not cost
    /// a system call to find nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Interest::READABLE, buf.len(), |fd| {
            Ok(recv(fd, &mut *buf, RecvFlags::empty())?.0)
        })
    }

    /// Writes as much of `bytes` as the socket takes.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Interest::WRITABLE, bytes.len(), |fd| {
            Ok(send(fd, bytes, SendFlags::NOSIGNAL)?)
        })
    }

    /// What tokio's own reads and writes do, but by the bare system call: that
    /// of the C library marks the thread as cancellable before and after.
    ///
    /// A transfer of fewer than `len` bytes has emptied or filled the socket.
    /// The reactor reports the next change, so the readiness is cleared.
    fn poll_transfer(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        len: usize,
        mut call: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx, interest))?;
            let mut moved = None;
            let result = self.try_io(interest, |fd| {
                let count = call(fd)?;
                moved = Some(count);
                match 0 < count && count < len {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match (moved, result) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if is_transient(&error) => {}
                (None, result) => return Poll::Ready(result.map(|()| 0)),
            }
        }
    }

    fn poll_ready(&self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match (self, interest.is_readable()) {
            (Stream::Tcp(stream), true) => stream.poll_read_ready(cx),
            (Stream::Tcp(stream), false) => stream.poll_write_ready(cx),
            (Stream::Unix(stream), true) => stream.poll_read_ready(cx),
            (Stream::Unix(stream), false) => stream.poll_write_ready(cx),
        }
    }

    fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Stream::Tcp(stream) => stream.try_io(interest, || call(stream.as_fd())),
            Stream::Unix(stream) => stream.try_io(interest, || call(stream.as_fd())),
        }
    }

    /// Reads, for code that is not on the forwarding path.
    ///
    /// # Errors
    /// The socket's.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes all of it, for code that is not on the forwarding path.
    ///
    /// # Errors
    /// The socket's, and `WriteZero`.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Ends our side of the stream.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        match self {
            Stream::Tcp(stream) => stream.shutdown().await,
            Stream::Unix(stream) => stream.shutdown().await,
        }
    }

    /// Writes what the socket takes at once, for farewells that nobody waits
    /// for.
    pub fn write_now(&mut self, bytes: &[u8]) {
        let written = match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        };
        // The other side may be gone already; it is being left anyway.
        drop(written);
    }

    /// Whether an idle socket is still open and has nothing to say. Costs no
    /// system call unless something has happened to it.
    pub fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_ready(&mut cx, Interest::READABLE).is_pending() {
            return true;
        }
        let mut byte = [0];
        let read = match self {
            Stream::Tcp(stream) => stream.try_read(&mut byte),
            Stream::Unix(stream) => stream.try_read(&mut byte),
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Moves the socket to the reactor of the calling thread.
    ///
    /// # Errors
    /// The reactor's; the socket is closed then.
    pub fn rehome(self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Stream::Tcp),
            Stream::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Stream::Unix),
        }
    }

    /// The other side.
    pub fn peer(&self) -> Address {
        match self {
            Stream::Tcp(stream) => Address::of_tcp(stream.peer_addr()),
            Stream::Unix(stream) => Address::Unix {
                pid: stream.peer_cred().ok().and_then(|cred| cred.pid()),
            },
        }
    }

    /// This side.
    pub fn local(&self) -> Address {
        match self {
            Stream::Tcp(stream) => Address::of_tcp(stream.local_addr()),
            Stream::Unix(_) => Address::Unix { pid: None },
        }
    }

    /// The user id of the process at the other end of a Unix socket.
    pub fn peer_uid(&self) -> Option<u32> {
        match self {
            Stream::Tcp(_) => None,
            Stream::Unix(stream) => stream.peer_cred().ok().map(|cred| cred.uid()),
        }
    }
}

/// The call did nothing and is to be tried again.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Where a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// Address and port.
    Tcp(SocketAddr),
    /// A Unix socket, with the process at the other end if known.
    Unix {
        /// Its process id.
        pid: Option<i32>,
    },
    /// The socket was closed before it could be asked.
    Gone,
}

impl Address {
    fn of_tcp(addr: io::Result<SocketAddr>) -> Address {
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        addr.map_or(Address::Gone, |addr| {
            Address::Tcp(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
        })
    }

    /// The address column of SHOW CLIENTS.
    pub fn host(&self) -> String {
        match self {
            Address::Tcp(addr) => addr.ip().to_string(),
            Address::Unix { .. } => "unix".into(),
            Address::Gone => "gone".into(),
        }
    }

    /// The port column of SHOW CLIENTS; 0 for Unix sockets.
    pub fn port(&self) -> u16 {
        match self {
            Address::Tcp(addr) => addr.port(),
            _ => 0,
        }
    }
}

/// As PgBouncer's log names it: `ADDR:PORT`, `[V6]:PORT`, `unix(PID):PORT`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Unix { pid: Some(pid) } => write!(f, "unix({pid})"),
            Address::Unix { pid: None } => f.write_str("unix"),
            Address::Gone => f.write_str("gone"),
        }
    }
}
