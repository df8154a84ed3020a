//! A socket with the few bytes that could not be dealt with at once.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::Stream;
use crate::wire::Header;

/// Bytes read from a socket at once. 32 KiB moves a long result with the
/// least CPU; measured in `benches/README.md`.
pub const CHUNK_LEN: usize = 32 * 1024;

thread_local! {
    /// One for all connections of a thread, lent for the time between a read
    /// and its write, never across an await: an idle connection holds nothing.
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        chunk: vec![0; CHUNK_LEN].into(),
        scratch: BytesMut::new(),
    });
}

struct Buffers {
    chunk: Box<[u8]>,
    scratch: BytesMut,
}

/// Bytes taken at once from a connection that is not on the forwarding path:
/// whatever a login sends arrives with one system call.
const READ_AHEAD: usize = 4 * 1024;

/// Capacity of the scratch buffer that a thread keeps.
const SCRATCH_KEPT: usize = 4 * CHUNK_LEN;

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<R> {
    /// Bytes came, and this was made of them.
    Chunk(R),
    /// The other side has ended its stream.
    End,
}

impl<R> Received<R> {
    /// Changes what was made of the bytes.
    pub fn map<T>(self, change: impl FnOnce(R) -> T) -> Received<T> {
        match self {
            Received::Chunk(made) => Received::Chunk(change(made)),
            Received::End => Received::End,
        }
    }
}

/// A socket, bytes that came but were not taken yet (a message that has not
/// arrived whole), and bytes that are still to leave after a short write.
#[derive(Debug)]
pub struct Channel {
    /// The socket.
    pub stream: Stream,
    carry: BytesMut,
    outbox: BytesMut,
}

impl Channel {
    /// Nothing carried, nothing to send.
    pub fn new(stream: Stream) -> Channel {
        Channel {
            stream,
            carry: BytesMut::new(),
            outbox: BytesMut::new(),
        }
    }

    /// Moves the socket to the reactor of the calling thread.
    ///
    /// # Errors
    /// The reactor's; the socket is closed then.
    pub fn rehome(self) -> io::Result<Channel> {
        let stream = self.stream.rehome()?;
        Ok(Channel { stream, ..self })
    }

    /// Neither part of a message has arrived nor is part of one to be sent.
    pub fn is_clean(&self) -> bool {
        self.carry.is_empty() && self.is_drained()
    }

    /// Everything sent has left. While false, the side the bytes come from
    /// is not read: the back-pressure is TCP's.
    pub fn is_drained(&self) -> bool {
        self.outbox.is_empty() && self.stream.is_drained()
    }

    /// Bytes that came and were not taken.
    pub fn carried(&self) -> usize {
        self.carry.len()
    }

    /// Reads a chunk and gives it, with what was carried in front of it, to
    /// `take`, which answers how many bytes it took and its result. It also
    /// gets a scratch buffer.
    pub fn poll_receive<R>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Context<'_>, &[u8], &mut BytesMut) -> (usize, R),
    ) -> Poll<io::Result<Received<R>>> {
        BUFFERS.with_borrow_mut(|buffers| {
            let Buffers { chunk, scratch } = buffers;
            let read = match self.stream.poll_read(cx, chunk) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Received::End)),
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            let chunk = &chunk[..read];
            let result = if self.carry.is_empty() {
                let (taken, result) = take(cx, chunk, scratch);
                self.carry.extend_from_slice(&chunk[taken..]);
                result
            } else {
                self.carry.extend_from_slice(chunk);
                self.take_carried(scratch, |carry, scratch| take(cx, carry, scratch))
            };
            if scratch.capacity() > SCRATCH_KEPT {
                *scratch = BytesMut::new();
            }
            Poll::Ready(Ok(Received::Chunk(result)))
        })
    }

    /// Gives what was carried to `take` once more, without reading.
    pub fn retake<R>(&mut self, take: impl FnOnce(&[u8], &mut BytesMut) -> (usize, R)) -> R {
        BUFFERS.with_borrow_mut(|buffers| self.take_carried(&mut buffers.scratch, take))
    }

    fn take_carried<R>(
        &mut self,
        scratch: &mut BytesMut,
        take: impl FnOnce(&[u8], &mut BytesMut) -> (usize, R),
    ) -> R {
        let mut carry = std::mem::take(&mut self.carry);
        let (taken, result) = take(&carry, scratch);
        carry.advance(taken);
        if !carry.is_empty() {
            self.carry = carry;
        }
        result
    }

    /// Reads into the carried bytes only, at most up to `limit` of them.
    pub fn poll_carry(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Received<()>>> {
        let room = limit.saturating_sub(self.carry.len()).min(CHUNK_LEN);
        if room == 0 {
            return Poll::Pending;
        }
        BUFFERS.with_borrow_mut(|buffers| {
            match std::task::ready!(self.stream.poll_read(cx, &mut buffers.chunk[..room])) {
                Ok(0) => Poll::Ready(Ok(Received::End)),
                Ok(read) => {
                    self.carry.extend_from_slice(&buffers.chunk[..read]);
                    Poll::Ready(Ok(Received::Chunk(())))
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }

    /// Sends `bytes`, in one write if the socket takes them; what it does not
    /// take leaves with [`Channel::poll_flush`].
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        if self.outbox.is_empty() && !bytes.is_empty() {
            match self.stream.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => written = count,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {}
            }
        }
        self.outbox.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    /// Sends what earlier writes left over.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            match std::task::ready!(self.stream.poll_write(cx, &self.outbox)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.outbox.advance(written),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Give the memory back: it was needed for one slow moment.
        self.outbox = BytesMut::new();
        self.stream.poll_flush(cx)
    }

    /// Sends all of it, after what is still to leave. For code that is not on
    /// the forwarding path; the caller sets the deadline.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await?;
        self.stream.write_all(bytes).await
    }

    /// Sends all of it and closes, letting the other side read it: bytes of
    /// its own that nobody will read must not reset the connection first.
    ///
    /// # Errors
    /// The socket's.
    pub async fn close_with(mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.stream.shutdown().await?;
        self.stream.skip_to_end().await
    }

    /// Reads one whole message of at most `limit` bytes. For code that is not
    /// on the forwarding path; the caller sets the deadline.
    ///
    /// # Errors
    /// The socket's, `UnexpectedEof`, and `InvalidData` for a length that no
    /// message has or that is over `limit`.
    pub async fn read_message(&mut self, limit: usize) -> io::Result<Message> {
        loop {
            if let Some(header) = Header::read(&self.carry) {
                let header = header.map_err(|_| io::ErrorKind::InvalidData)?;
                if header.total() > limit {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                if self.carry.len() >= header.total() {
                    let mut body = self.carry.split_to(header.total()).freeze();
                    body.advance(crate::wire::frame::HEADER_LEN);
                    if self.carry.is_empty() {
                        self.carry = BytesMut::new();
                    }
                    return Ok(Message {
                        tag: header.tag,
                        body,
                    });
                }
            }
            self.read_more(limit).await?;
        }
    }

    /// Reads on until `need` bytes are carried, and shows what is there: more
    /// than that if more has come.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof`.
    pub async fn peek(&mut self, need: usize) -> io::Result<&[u8]> {
        while self.carry.len() < need {
            self.read_more(need.max(READ_AHEAD)).await?;
        }
        Ok(&self.carry)
    }

    /// Takes `count` carried bytes out.
    pub fn take(&mut self, count: usize) -> Bytes {
        let taken = self.carry.split_to(count).freeze();
        if self.carry.is_empty() {
            self.carry = BytesMut::new();
        }
        taken
    }

    async fn read_more(&mut self, limit: usize) -> io::Result<()> {
        let limit = limit.max(self.carry.len() + 1);
        match std::future::poll_fn(|cx| self.poll_carry(cx, limit)).await? {
            Received::Chunk(()) => Ok(()),
            Received::End => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    fn pair() -> (Channel, UnixStream) {
        let (one, other) = UnixStream::pair().expect("a socket pair");
        (Channel::new(Stream::from(one)), other)
    }

    #[tokio::test]
    async fn a_message_may_come_byte_by_byte() {
        let (mut channel, mut other) = pair();
        let writer = tokio::spawn(async move {
            for byte in b"Z\0\0\0\x05IX\0\0\0\x04" {
                other.write_all(&[*byte]).await.expect("room");
            }
            other
        });
        let first = channel.read_message(100).await.expect("a message");
        assert_eq!((first.tag, &first.body[..]), (b'Z', &b"I"[..]));
        assert_eq!(channel.read_message(100).await.expect("another").tag, b'X');
        assert!(channel.is_clean());
        drop(writer.await);
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let (mut channel, mut other) = pair();
        other.write_all(b"D\0\x10\0\0").await.expect("room");
        let error = channel.read_message(100).await.expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn what_is_not_taken_comes_again_in_front() {
        let (mut channel, mut other) = pair();
        other.write_all(b"abc").await.expect("room");
        let received = std::future::poll_fn(|cx| channel.poll_receive(cx, |_, _, _| (1, ()))).await;
        assert_eq!(received.expect("bytes"), Received::Chunk(()));
        other.write_all(b"de").await.expect("room");
        let take = |chunk: &[u8], _: &mut BytesMut| (chunk.len(), chunk.to_vec());
        let mut take = Some(take);
        let received = std::future::poll_fn(|cx| {
            channel.poll_receive(cx, |_, c, s| take.take().expect("one chunk")(c, s))
        })
        .await;
        assert_eq!(received.expect("bytes"), Received::Chunk(b"bcde".to_vec()));
        assert!(channel.is_clean());
    }
}
