//! One connected socket, TCP or Unix, with or without TLS.
//!
//! The contract is "chunk in, chunk out": a read fills a slice that the
//! caller lends for that call only, a write takes one. No slice is held across
//! an await, so that another way of doing I/O can serve it later. Nothing is
//! buffered here, but under TLS a write may leave sealed bytes behind
//! ([`Stream::is_drained`]) and a read may find more than was asked for, which
//! the next one gets.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::task::{Context, Poll, Waker, ready};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, recv, send, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::rights;
use super::tls::{Cipher, HandshakeError, Offer, ServerTarget, Session};

/// A connection.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    /// Boxed: plain connections carry no more than the question.
    pub(super) tls: Option<Box<Session>>,
}

impl From<TcpStream> for Stream {
    /// A TCP connection, with TCP_NODELAY set.
    fn from(stream: TcpStream) -> Stream {
        Stream::plain(Socket::Tcp(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream::plain(Socket::Unix(stream))
    }
}

impl Stream {
    fn plain(socket: Socket) -> Stream {
        Stream { socket, tls: None }
    }

    /// Reads what is there, at most `buf.len()` bytes; 0 is the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_recv(cx, buf),
            Some(tls) => tls.poll_read(&self.socket, cx, buf),
        }
    }

    /// Takes as much of `bytes` as the socket does. Under TLS some of what was
    /// taken may wait for [`Stream::poll_flush`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.tls {
            None => self.socket.poll_send(cx, bytes),
            Some(tls) => tls.poll_write(&self.socket, cx, bytes),
        }
    }

    /// Nothing that was taken waits to be sent.
    pub fn is_drained(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_drained())
    }

    /// Sends what was taken and waits.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.poll_flush(&self.socket, cx),
        }
    }

    /// Makes it a TLS connection whose client is the other side. `received` is
    /// what was read of its first messages already.
    ///
    /// # Errors
    /// Why the handshake failed. Nothing can be said on the connection then.
    pub async fn accept_tls(
        &mut self,
        offer: Offer,
        received: &[u8],
    ) -> Result<(), HandshakeError> {
        let session = self.tls.insert(Box::new(Session::accept(offer)?));
        session.begin(received)?;
        self.shake_hands().await
    }

    /// Makes it a TLS connection whose server is the other side.
    ///
    /// # Errors
    /// As of [`Stream::accept_tls`].
    pub async fn connect_tls(&mut self, target: ServerTarget) -> Result<(), HandshakeError> {
        let session = self.tls.insert(Box::new(Session::connect(target)?));
        session.begin(&[])?;
        self.shake_hands().await
    }

    async fn shake_hands(&mut self) -> Result<(), HandshakeError> {
        std::future::poll_fn(|cx| match &mut self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.poll_handshake(&self.socket, cx),
        })
        .await
    }

    /// What protects it, if anything does.
    pub fn cipher(&self) -> Option<Cipher> {
        self.tls.as_ref()?.cipher()
    }

    /// The protocol that both sides named in the TLS handshake (ALPN).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.alpn()
    }

    /// What a login over it can be bound to, so that nobody between passes it
    /// on: the hash of the server's certificate (RFC 5929,
    /// `tls-server-end-point`).
    pub fn end_point(&self) -> Option<Box<[u8]>> {
        self.tls.as_ref()?.end_point()
    }

    /// The certificate of the other side, in DER. It has been verified.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.peer_certificate()
    }

    /// Reads, for code that is not on the forwarding path.
    ///
    /// # Errors
    /// The socket's.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Sends all of it, for code that is not on the forwarding path.
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
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends our side of the stream.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        if let Some(tls) = &mut self.tls {
            tls.queue_close();
            std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
        }
        match &mut self.socket {
            Socket::Tcp(stream) => stream.shutdown().await,
            Socket::Unix(stream) => stream.shutdown().await,
        }
    }

    /// Throws away whatever still comes until the other side has ended its
    /// stream: unread bytes would reset the connection before it has read what
    /// it was sent.
    ///
    /// # Errors
    /// The socket's.
    pub async fn skip_to_end(&mut self) -> io::Result<()> {
        let mut unread = [0; 1024];
        while std::future::poll_fn(|cx| self.socket.poll_recv(cx, &mut unread)).await? > 0 {}
        Ok(())
    }

    /// Writes what the socket takes at once, for farewells that nobody waits
    /// for.
    pub fn write_now(&mut self, bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        // The other side may be gone already; it is being left anyway.
        drop(self.poll_write(&mut cx, bytes));
    }

    /// Says that it is about to be closed, where the other side expects that
    /// to be said.
    pub fn write_end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.queue_close();
            let mut cx = Context::from_waker(Waker::noop());
            drop(tls.poll_flush(&self.socket, &mut cx));
        }
    }

    /// Whether an idle connection is still open and has nothing to say. Costs
    /// no system call unless something has happened to it.
    pub fn is_quiet(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_quiet()) && self.socket.is_quiet()
    }

    /// Moves the connection to the reactor of the calling thread.
    ///
    /// # Errors
    /// The reactor's; the socket is closed then.
    pub fn rehome(self) -> io::Result<Stream> {
        let socket = match self.socket {
            Socket::Tcp(stream) => TcpStream::from_std(stream.into_std()?).map(Socket::Tcp),
            Socket::Unix(stream) => UnixStream::from_std(stream.into_std()?).map(Socket::Unix),
        };
        Ok(Stream {
            socket: socket?,
            tls: self.tls,
        })
    }

    /// A connected socket that another process has opened, on the reactor of
    /// the calling thread.
    ///
    /// # Errors
    /// It is none, or the reactor's.
    pub fn take_over(socket: OwnedFd) -> io::Result<Stream> {
        let stream = match sockopt::socket_domain(&socket)? {
            AddressFamily::UNIX => {
                let stream = std::os::unix::net::UnixStream::from(socket);
                stream.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(stream)?)
            }
            _ => {
                let stream = std::net::TcpStream::from(socket);
                stream.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(stream)?)
            }
        };
        Ok(Stream::plain(stream))
    }

    /// The number of its descriptor.
    pub fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Another descriptor of the same socket, for another process.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }

    /// Sends bytes with a descriptor. All of them or none go at once if they
    /// are few.
    ///
    /// # Errors
    /// The socket's, and `Unsupported` where descriptors cannot pass.
    pub async fn send_with(&mut self, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match (&self.socket, &self.tls) {
            (Socket::Unix(stream), None) => loop {
                stream.writable().await?;
                let sent = stream.try_io(Interest::WRITABLE, || {
                    rights::send(stream.as_fd(), bytes, descriptor)
                });
                match sent {
                    Ok(sent) if sent == bytes.len() => return Ok(()),
                    Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                    Err(error) if is_transient(&error) => {}
                    Err(error) => return Err(error),
                }
            },
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.socket, Socket::Unix(_))
    }

    /// The other side.
    pub fn peer(&self) -> Address {
        match &self.socket {
            Socket::Tcp(stream) => Address::of_tcp(stream.peer_addr()),
            Socket::Unix(stream) => Address::Unix {
                pid: stream.peer_cred().ok().and_then(|cred| cred.pid()),
            },
        }
    }

    /// This side.
    pub fn local(&self) -> Address {
        match &self.socket {
            Socket::Tcp(stream) => Address::of_tcp(stream.local_addr()),
            Socket::Unix(_) => Address::Unix { pid: None },
        }
    }

    /// The user id of the process at the other end of a Unix socket.
    pub fn peer_uid(&self) -> Option<u32> {
        match &self.socket {
            Socket::Tcp(_) => None,
            Socket::Unix(stream) => stream.peer_cred().ok().map(|cred| cred.uid()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connected socket: what is below TLS.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Reads what is there, at most `buf.len()` bytes; 0 is the end.
    ///
    /// A short read clears the readiness, so that the next call does not cost
    /// a system call to find nothing.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_transfer(cx, Interest::READABLE, buf.len(), |fd| {
            Ok(recv(fd, &mut *buf, RecvFlags::empty())?.0)
        })
    }

    /// Writes as much of `bytes` as the socket takes.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
            (Socket::Tcp(stream), true) => stream.poll_read_ready(cx),
            (Socket::Tcp(stream), false) => stream.poll_write_ready(cx),
            (Socket::Unix(stream), true) => stream.poll_read_ready(cx),
            (Socket::Unix(stream), false) => stream.poll_write_ready(cx),
        }
    }

    fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        match self {
            Socket::Tcp(stream) => stream.try_io(interest, || call(stream.as_fd())),
            Socket::Unix(stream) => stream.try_io(interest, || call(stream.as_fd())),
        }
    }

    /// Whether nothing has come and the other side has not gone.
    fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_ready(&mut cx, Interest::READABLE).is_pending() {
            return true;
        }
        let mut byte = [0];
        let seen = self.try_io(Interest::READABLE, |fd| {
            Ok(recv(fd, &mut byte, RecvFlags::PEEK)?.0)
        });
        matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
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
