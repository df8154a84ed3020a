//! A request's body on its way to a node.
//!
//! Small bodies are collected before anything is sent: they can be sent again
//! if the first node provably never got them, and a slow client does not
//! occupy a node while it uploads. Larger ones stream through, as fast as the
//! node takes them, and are gone once the first piece was taken.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};

use super::body::RequestBody;
use super::policy::Length;
use super::refusal::Refusal;
use super::timer::IdleTimer;

/// Largest body, in bytes, that is collected and can be sent again.
pub(crate) const REPLAY_BODY_MAX: usize = 64 * 1024;

/// What a client may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Largest body in bytes.
    pub(crate) max_body: u64,
    /// Longest pause between two pieces of it.
    pub(crate) idle: Duration,
}

/// What became of a body, for those who no longer hold it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    bytes: AtomicU64,
    begun: AtomicBool,
    refusal: OnceLock<Refusal>,
}

impl Received {
    /// Bytes that came from the client.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The client's fault that ended the body, if it was one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.get().copied()
    }

    /// More bytes came from the client.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count(&self, piece: &Bytes) -> u64 {
        let piece = piece.len() as u64;
        self.bytes.fetch_add(piece, Ordering::Relaxed) + piece
    }
}

/// A request's body.
#[derive(Debug)]
pub(crate) enum Upload {
    /// None, or all of it.
    Whole(Bytes),
    /// As it comes.
    Stream(Box<Stream>),
}

/// A body that is too large to keep.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What was collected before it proved too large.
    collected: Bytes,
    incoming: RequestBody,
    /// Its length, if the head said it.
    length: Option<u64>,
    limits: Limits,
    idle: IdleTimer,
    received: Arc<Received>,
}

/// The client's body failed; the reason is in [`Received`].
#[derive(Debug)]
pub(crate) struct UploadFailed(Refusal);

impl fmt::Display for UploadFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.notice().text)
    }
}

impl std::error::Error for UploadFailed {}

impl Upload {
    /// Takes a request's body: all of a small one, the beginning of a large
    /// one. Waits `limits.idle` at most for each piece.
    ///
    /// # Errors
    /// The client's fault.
    pub(crate) async fn take(
        mut incoming: RequestBody,
        length: Length,
        limits: Limits,
        received: &Arc<Received>,
    ) -> Result<Upload, Refusal> {
        let stream = |collected, incoming, length| {
            let stream = Stream::new(collected, incoming, length, limits, received);
            Ok(Upload::Stream(Box::new(stream)))
        };
        let (expected, length) = match length {
            Length::Empty => return Ok(Upload::Whole(Bytes::new())),
            Length::Known(length) if length > REPLAY_BODY_MAX as u64 => {
                return stream(Bytes::new(), incoming, Some(length));
            }
            Length::Known(length) => (length as usize, Some(length)),
            Length::Unknown if incoming.is_end_stream() => return Ok(Upload::Whole(Bytes::new())),
            Length::Unknown => (0, None),
        };
        // A length up to the bound is no reason to allocate it at once.
        let mut collected = BytesMut::with_capacity(expected.min(4096));
        while let Some(piece) = next_piece(&mut incoming, limits.idle).await? {
            check(received.count(&piece), length, limits.max_body)?;
            if collected.is_empty() && piece.len() == expected && incoming.is_end_stream() {
                return Ok(Upload::Whole(piece));
            }
            collected.extend_from_slice(&piece);
            if collected.len() > REPLAY_BODY_MAX {
                return stream(collected.freeze(), incoming, None);
            }
        }
        match length {
            Some(length) if length != collected.len() as u64 => Err(Refusal::BodyMalformed),
            _ => Ok(Upload::Whole(collected.freeze())),
        }
    }

    /// The same body once more, if it can be sent once more.
    pub(crate) fn again(&self) -> Option<Upload> {
        match self {
            Upload::Whole(bytes) => Some(Upload::Whole(bytes.clone())),
            Upload::Stream(_) => None,
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Upload::Whole(bytes) if bytes.is_empty())
    }

    /// Whether nobody has taken anything from it.
    pub(crate) fn untouched(&self) -> bool {
        match self {
            Upload::Whole(_) => true,
            Upload::Stream(stream) => !stream.received.begun.load(Ordering::Relaxed),
        }
    }

    /// Whether its length is unknown until it ends.
    pub(crate) fn is_chunked(&self) -> bool {
        self.size_hint().exact().is_none()
    }
}

/// Whether a body of which so much came may go on.
fn check(came: u64, length: Option<u64>, max_body: u64) -> Result<(), Refusal> {
    match length {
        Some(length) if came > length => Err(Refusal::BodyMalformed),
        _ if came > max_body => Err(Refusal::BodyTooLarge),
        _ => Ok(()),
    }
}

/// The next piece of a body that is being collected.
async fn next_piece(incoming: &mut RequestBody, idle: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = match tokio::time::timeout(idle, incoming.frame()).await {
            Err(_elapsed) => return Err(Refusal::BodyTimeout),
            Ok(None) => return Ok(None),
            Ok(Some(Err(refusal))) => return Err(refusal),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers end here: no route needs them.
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

impl Stream {
    fn new(
        collected: Bytes,
        incoming: RequestBody,
        length: Option<u64>,
        limits: Limits,
        received: &Arc<Received>,
    ) -> Stream {
        Stream {
            collected,
            incoming,
            length,
            limits,
            idle: IdleTimer::new(limits.idle),
            received: Arc::clone(received),
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        self.received.begun.store(true, Ordering::Relaxed);
        if !self.collected.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.collected))));
        }
        loop {
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(None) => {
                    let cut = self.length.is_some_and(|it| it != self.received.bytes());
                    return Poll::Ready(cut.then_some(Err(Refusal::BodyMalformed)));
                }
                Poll::Ready(Some(Err(refusal))) => return Poll::Ready(Some(Err(refusal))),
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.progress();
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    let came = self.received.count(&piece);
                    let checked = check(came, self.length, self.limits.max_body);
                    return Poll::Ready(Some(checked.map(|()| piece)));
                }
                Poll::Pending => {
                    let expired = self.idle.poll_expired(None, Instant::now(), cx);
                    return expired.map(|()| Some(Err(Refusal::BodyTimeout)));
                }
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadFailed>>> {
        match &mut *self {
            Upload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Upload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Upload::Stream(stream) => stream.poll_piece(cx).map(|piece| {
                piece.map(|piece| match piece {
                    Ok(piece) => Ok(Frame::data(piece)),
                    Err(refusal) => Err(UploadFailed(
                        *stream.received.refusal.get_or_init(|| refusal),
                    )),
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Whole(bytes) => bytes.is_empty(),
            Upload::Stream(stream) => {
                stream.collected.is_empty() && stream.incoming.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Upload::Stream(stream) => match stream.length {
                Some(length) => SizeHint::with_exact(length - stream.received.bytes().min(length)),
                None => SizeHint::default(),
            },
        }
    }
}
