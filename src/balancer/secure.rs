//! TLS under HTTP/1 and HTTP/2.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::net::Stream;
#[cfg(feature = "acme")]
use crate::net::tls::ServerTarget;
use crate::net::tls::{HandshakeError, Offer, VALIDATION};

/// The protocols served over TCP, as TLS names them (ALPN), the best first.
/// Who offers none of them is refused (RFC 7301, section 3.2).
pub(crate) const PROTOCOLS: [&[u8]; 3] = [HTTP_2, b"http/1.1", b"http/1.0"];

const HTTP_2: &[u8] = b"h2";

/// Plain bytes that are read or written at once at most.
const PIECE_MAX: usize = 16 * 1024;

/// A client's connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct TlsIo {
    stream: Stream,
    /// Our last words are said.
    is_closing: bool,
}

impl TlsIo {
    /// Shakes hands. `received` is what was read already.
    ///
    /// # Errors
    /// Why that failed.
    pub(crate) async fn accept(
        stream: TcpStream,
        offer: Offer,
        received: &[u8],
    ) -> Result<TlsIo, HandshakeError> {
        let mut stream = Stream::from(stream);
        stream.accept_tls(offer, received).await?;
        Ok(TlsIo {
            stream,
            is_closing: false,
        })
    }

    /// Shakes hands with a server.
    ///
    /// # Errors
    /// Why that failed.
    #[cfg(feature = "acme")]
    pub(crate) async fn connect(
        stream: TcpStream,
        target: ServerTarget,
    ) -> Result<TlsIo, HandshakeError> {
        let mut stream = Stream::from(stream);
        stream.connect_tls(target).await?;
        Ok(TlsIo {
            stream,
            is_closing: false,
        })
    }

    /// Whether the handshake was all the client came for.
    pub(crate) fn is_validation(&self) -> bool {
        self.stream.alpn() == Some(VALIDATION)
    }

    /// Whether both sides agreed on HTTP/2.
    pub(crate) fn speaks_http_2(&self) -> bool {
        self.stream.alpn() == Some(HTTP_2)
    }
}

impl AsFd for TlsIo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(PIECE_MAX);
        let read = ready!(self.stream.poll_read(cx, buf.initialize_unfilled_to(room)))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(PIECE_MAX)];
        self.stream.poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closing {
            self.is_closing = true;
            self.stream.write_end();
        }
        ready!(self.stream.poll_flush(cx))?;
        rustix::net::shutdown(&self.stream, Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}
