//! QUIC's streams as h3 asks for them.
//!
//! h3 keeps whatever a peer sends as one frame until the frame is whole, and
//! takes frames of any length. So what it may read of a stream is an
//! allowance, which grows with what it gives out again.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;

/// Bytes of a request's stream that h3 may keep: the largest head and a piece
/// of a body.
const REQUEST_ALLOWANCE: usize = 128 * 1024;

/// Bytes that h3 may read, ever, of each stream that only the client writes:
/// settings, priorities, and the table that is not used.
const CONTROL_ALLOWANCE: usize = 1024 * 1024;

/// Bytes read at once.
const PIECE_MAX: usize = 16 * 1024;

/// A stream's allowance, for whoever gives bytes back.
pub(super) type Allowance = Arc<AtomicUsize>;

/// Ready when the client has all of the answer, or does not want it any more.
pub(super) type Left = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// What h3 does not say of a request's stream.
pub(super) struct Facts {
    pub(super) allowance: Allowance,
    pub(super) left: Left,
}

/// Streams whose request h3 has not given out; at most as many as there may be
/// streams.
type Fresh = Arc<Mutex<Vec<(StreamId, Facts)>>>;

type Accepting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send>>;

/// A QUIC connection.
pub(super) struct Connection {
    quic: quinn::Connection,
    both_ways: Accepting<(quinn::SendStream, quinn::RecvStream)>,
    one_way: Accepting<quinn::RecvStream>,
    opening: Option<Accepting<quinn::SendStream>>,
    fresh: Fresh,
    is_closed: Arc<AtomicBool>,
}

/// Hands out what is known of streams.
#[derive(Clone)]
pub(super) struct Streams {
    fresh: Fresh,
    is_closed: Arc<AtomicBool>,
}

impl Streams {
    /// What is known of this one, once.
    pub(super) fn take(&self, id: StreamId) -> Option<Facts> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        let place = fresh.iter().position(|(it, _)| *it == id)?;
        Some(fresh.swap_remove(place).1)
    }

    /// Rejects requests that come from now on, so that the client knows that it
    /// may send them elsewhere. h3 itself would serve one more than its GOAWAY
    /// says, which the client would send again.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection) -> (Connection, Streams) {
        let fresh = Fresh::default();
        let connection = Connection {
            both_ways: accept_both_ways(&quic),
            one_way: accept_one_way(&quic),
            opening: None,
            fresh: Arc::clone(&fresh),
            is_closed: Arc::default(),
            quic,
        };
        let is_closed = Arc::clone(&connection.is_closed);
        (connection, Streams { fresh, is_closed })
    }
}

fn accept_both_ways(quic: &quinn::Connection) -> Accepting<(quinn::SendStream, quinn::RecvStream)> {
    let quic = quic.clone();
    Box::pin(async move { quic.accept_bi().await })
}

fn accept_one_way(quic: &quinn::Connection) -> Accepting<quinn::RecvStream> {
    let quic = quic.clone();
    Box::pin(async move { quic.accept_uni().await })
}

fn reject((mut sending, mut receiving): (quinn::SendStream, quinn::RecvStream)) {
    let code = number(Code::H3_REQUEST_REJECTED.value());
    // The client may have given it up already.
    let _gone = (sending.reset(code), receiving.stop(code));
}

impl<B: Buf> quic::Connection<B> for Connection {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let accepted = ready!(self.one_way.as_mut().poll(cx));
        self.one_way = accept_one_way(&self.quic);
        Poll::Ready(match accepted {
            Ok(stream) => Ok(Receiving::new(stream, CONTROL_ALLOWANCE)),
            Err(error) => Err(of_connection(error)),
        })
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BothWays<B>, ConnectionErrorIncoming>> {
        let (sending, receiving) = loop {
            let accepted = ready!(self.both_ways.as_mut().poll(cx));
            self.both_ways = accept_both_ways(&self.quic);
            match accepted {
                Ok(streams) if self.is_closed.load(Ordering::Relaxed) => reject(streams),
                Ok(streams) => break streams,
                Err(error) => return Poll::Ready(Err(of_connection(error))),
            }
        };
        let receiving = Receiving::new(receiving, REQUEST_ALLOWANCE);
        let stopped = sending.stopped();
        let facts = Facts {
            allowance: Arc::clone(&receiving.allowance),
            left: Box::pin(async move {
                let _stopped_or_lost = stopped.await;
            }),
        };
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of requests that never came.
        fresh.retain(|(_, it)| Arc::strong_count(&it.allowance) > 1);
        fresh.push((id_of(sending.id()), facts));
        Poll::Ready(Ok(BothWays {
            sending: Sending::new(sending),
            receiving,
        }))
    }

    fn opener(&self) -> Opener {
        Opener(self.quic.clone())
    }
}

impl<B: Buf> quic::OpenStreams<B> for Connection {
    type BidiStream = BothWays<B>;
    type SendStream = Sending<B>;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BothWays<B>, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sending<B>, StreamErrorIncoming>> {
        let opening = self.opening.get_or_insert_with(|| {
            let quic = self.quic.clone();
            Box::pin(async move { quic.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.opening = None;
        Poll::Ready(match opened {
            Ok(stream) => Ok(Sending::new(stream)),
            Err(error) => Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: of_connection(error),
            }),
        })
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(number(code.value()), reason);
    }
}

/// Servers open no streams that clients answer on.
pub(super) struct Opener(quinn::Connection);

impl<B: Buf> quic::OpenStreams<B> for Opener {
    type BidiStream = BothWays<B>;
    type SendStream = Sending<B>;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BothWays<B>, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn poll_open_send(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<Sending<B>, StreamErrorIncoming>> {
        Poll::Ready(Err(never_opened()))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.0.close(number(code.value()), reason);
    }
}

fn never_opened() -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown("servers open no such stream".into())
}

/// A request's stream.
pub(super) struct BothWays<B: Buf> {
    sending: Sending<B>,
    receiving: Receiving,
}

impl<B: Buf> quic::BidiStream<B> for BothWays<B> {
    type SendStream = Sending<B>;
    type RecvStream = Receiving;

    fn split(self) -> (Sending<B>, Receiving) {
        (self.sending, self.receiving)
    }
}

impl<B: Buf> quic::RecvStream for BothWays<B> {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiving.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiving.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiving.recv_id()
    }
}

impl<B: Buf> quic::SendStream<B> for BothWays<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sending.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.sending.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sending.send_id()
    }
}

/// What comes from the client.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    allowance: Allowance,
    buffer: BytesMut,
}

impl Receiving {
    fn new(stream: quinn::RecvStream, allowance: usize) -> Receiving {
        Receiving {
            stream,
            allowance: Arc::new(AtomicUsize::new(allowance)),
            buffer: BytesMut::new(),
        }
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let allowance = self.allowance.load(Ordering::Relaxed);
        if allowance == 0 {
            quic::RecvStream::stop_sending(self, Code::H3_EXCESSIVE_LOAD.value());
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated {
                error_code: Code::H3_EXCESSIVE_LOAD.value(),
            }));
        }
        let room = allowance.min(PIECE_MAX);
        self.buffer.resize(room, 0);
        let mut buf = ReadBuf::new(&mut self.buffer);
        let read = self.stream.poll_read_buf(cx, &mut buf);
        let count = buf.filled().len();
        match read {
            Poll::Pending => {
                // An idle stream keeps nothing.
                self.buffer = BytesMut::new();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(of_reading(error))),
            Poll::Ready(Ok(())) if count == 0 => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(())) => {
                self.allowance.fetch_sub(count, Ordering::Relaxed);
                Poll::Ready(Ok(Some(self.buffer.split_to(count).freeze())))
            }
        }
    }

    fn stop_sending(&mut self, code: u64) {
        // Its end may have come already.
        let _ended = self.stream.stop(number(code));
    }

    fn recv_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

/// What goes to the client.
pub(super) struct Sending<B: Buf> {
    stream: quinn::SendStream,
    unsent: Option<WriteBuf<B>>,
}

impl<B: Buf> Sending<B> {
    fn new(stream: quinn::SendStream) -> Sending<B> {
        Sending {
            stream,
            unsent: None,
        }
    }
}

impl<B: Buf> quic::SendStream<B> for Sending<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(unsent) = self.unsent.as_mut().filter(|it| it.has_remaining()) {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, unsent.chunk())).map_err(of_writing)?;
            unsent.advance(written);
        }
        self.unsent = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.unsent.is_some() {
            return Err(StreamErrorIncoming::Unknown(
                "the stream is not ready".into(),
            ));
        }
        self.unsent = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        // The client may have stopped it already.
        let _stopped = self.stream.reset(number(code));
    }

    fn send_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

fn id_of(id: quinn::StreamId) -> StreamId {
    let number = u64::from(VarInt::from(id));
    StreamId::try_from(number).expect("both are of 62 bits")
}

fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn of_connection(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(closed) => ConnectionErrorIncoming::ApplicationClose {
            error_code: closed.error_code.into_inner(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn of_reading(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => terminated(code),
        ReadError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn of_writing(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => terminated(code),
        WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn terminated(code: VarInt) -> StreamErrorIncoming {
    StreamErrorIncoming::StreamTerminated {
        error_code: code.into_inner(),
    }
}

fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: of_connection(error),
    }
}
