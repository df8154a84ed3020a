//! Messages over one socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::error::DbError;

/// The longest message taken from a server.
const MAX_MESSAGE: usize = 16 << 20;

/// How much is read at once.
const READ: usize = 16 << 10;

/// A socket, encrypted or not.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for T {}

/// A socket with what was read ahead and what is to be sent.
pub(super) struct Wire {
    socket: Box<dyn Socket>,
    incoming: BytesMut,
    /// Messages are written here, then [`Wire::send`] takes them away.
    pub(super) outgoing: BytesMut,
}

impl Wire {
    pub(super) fn new(socket: Box<dyn Socket>) -> Wire {
        Wire {
            socket,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
        }
    }

    /// Sends what is in `outgoing`.
    pub(super) async fn send(&mut self) -> Result<(), DbError> {
        self.socket.write_all_buf(&mut self.outgoing).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// The next message that belongs to the conversation: notices, parameters
    /// and notifications are passed over.
    pub(super) async fn receive(&mut self) -> Result<Message, DbError> {
        loop {
            match self.buffered()? {
                Some(
                    Message::NoticeResponse(_)
                    | Message::ParameterStatus(_)
                    | Message::NotificationResponse(_),
                ) => {}
                Some(message) => return Ok(message),
                None => {
                    self.incoming.reserve(READ);
                    if self.socket.read_buf(&mut self.incoming).await? == 0 {
                        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                    }
                }
            }
        }
    }

    /// A message that has arrived in full, if any.
    fn buffered(&mut self) -> Result<Option<Message>, DbError> {
        let Some(header) = Header::parse(&self.incoming)? else {
            return Ok(None);
        };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(DbError::Protocol(format!("a message of {length} bytes")));
        }
        if self.incoming.len() <= length {
            return Ok(None);
        }
        Ok(Message::parse(&mut self.incoming)?)
    }

    /// Whether the peer has neither closed nor said anything unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut space = [0];
        let mut space = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(Waker::noop());
        self.incoming.is_empty()
            && Pin::new(&mut self.socket)
                .poll_read(&mut context, &mut space)
                .is_pending()
    }

    /// Closes the sending side in good order.
    pub(super) async fn shutdown(&mut self) {
        let _ = self.socket.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> (Wire, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(4096);
        (Wire::new(Box::new(ours)), theirs)
    }

    #[tokio::test]
    async fn notices_are_passed_over() {
        let (mut wire, mut server) = wire();
        server
            .write_all(b"N\0\0\0\x05\0S\0\0\0\x08a\0b\0Z\0\0\0\x05I")
            .await
            .expect("valid");
        assert!(matches!(
            wire.receive().await,
            Ok(Message::ReadyForQuery(_))
        ));
    }

    #[tokio::test]
    async fn a_message_may_come_in_pieces() {
        let (mut wire, mut server) = wire();
        let pieces = async {
            for byte in b"Z\0\0\0\x05I" {
                server
                    .write_all(&[*byte])
                    .await
                    .expect("the other end is there");
                tokio::task::yield_now().await;
            }
        };
        let (message, ()) = tokio::join!(wire.receive(), pieces);
        assert!(matches!(message, Ok(Message::ReadyForQuery(_))));
    }

    #[tokio::test]
    async fn a_monstrous_length_is_refused() {
        let (mut wire, mut server) = wire();
        server
            .write_all(b"D\x7f\xff\xff\xff")
            .await
            .expect("the other end is there");
        assert!(matches!(wire.receive().await, Err(DbError::Protocol(_))));
    }

    #[tokio::test]
    async fn a_closed_socket_is_not_quiet() {
        let (mut wire, server) = wire();
        assert!(wire.is_quiet());
        drop(server);
        assert!(!wire.is_quiet());
    }

    #[tokio::test]
    async fn an_unasked_word_is_not_quiet() {
        let (mut wire, mut server) = wire();
        server
            .write_all(b"E")
            .await
            .expect("the other end is there");
        assert!(!wire.is_quiet());
    }
}
