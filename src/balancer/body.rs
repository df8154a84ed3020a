//! A request's body as it comes from the client, whichever protocol carries it.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::h3::QuicBody;
use super::refusal::Refusal;

/// A body that comes.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Over HTTP/1 or HTTP/2.
    Hyper(Incoming),
    /// Over HTTP/3.
    Quic(Box<QuicBody>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        match &mut *self {
            RequestBody::Hyper(incoming) => {
                let frame = Pin::new(incoming).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|error| fault(&error))))
            }
            RequestBody::Quic(body) => {
                let piece = body.poll_piece(cx);
                piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Hyper(incoming) => incoming.is_end_stream(),
            RequestBody::Quic(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Hyper(incoming) => incoming.size_hint(),
            RequestBody::Quic(_) => SizeHint::default(),
        }
    }
}

/// Whether the client left or broke the framing.
fn fault(error: &hyper::Error) -> Refusal {
    let io = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Refusal::BodyMalformed,
        _ => Refusal::BodyAborted,
    }
}
