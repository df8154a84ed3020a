//! An answer's body on its way to the client.
//!
//! It takes the node's connection along and drives it, as fast as the client
//! reads. When the body has ended, the connection goes back to its node and
//! the request is accounted. When it is cut, the error makes hyper abort the
//! client's connection: a client never takes half an answer for a whole one.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::client::Client;
use super::connection::NodeConnection;
use super::exchange::Exchange;
use super::metrics::CutBy;
use super::nodes::Permit;
use super::timer::IdleTimer;
use super::tunnel::Tunnel;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// A body for the client.
#[derive(Debug)]
pub(crate) enum Download {
    /// The balancer's own, or none.
    Own(Bytes),
    /// A node's.
    Node(Box<FromNode>),
    /// None: the connection goes on as a tunnel, which is taken from here.
    Tunnel(Option<Box<Tunnel>>),
}

/// A node's body.
#[derive(Debug)]
pub(crate) struct FromNode {
    incoming: Incoming,
    idle: IdleTimer,
    deadline: Instant,
    /// Why it was cut, if the client has not been told.
    cut: Option<Cut>,
    /// None once the body has ended.
    source: Option<Source>,
}

/// What is given back when a body has ended.
#[derive(Debug)]
struct Source {
    connection: NodeConnection,
    permit: Permit,
    exchange: Exchange,
    /// A client that would not see otherwise that its answer is cut.
    reset: Option<Arc<Client>>,
}

/// The node's body did not end as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The node's connection broke.
    Truncated,
    /// Nothing came for too long.
    Idle,
    /// The request's deadline passed.
    Deadline,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Cut {}

impl Cut {
    /// The word for logs.
    fn label(self) -> &'static str {
        match self {
            Cut::Truncated => "truncated",
            Cut::Idle => "body_idle",
            Cut::Deadline => "body_deadline",
        }
    }
}

impl Download {
    /// The body of a node's answer whose head has come on this connection.
    /// Nothing may come for `idle` at most, and all of it before `deadline`.
    /// `reset` is the client, if the end of the connection would look to it
    /// like the end of the body.
    pub(crate) fn from_node(
        incoming: Incoming,
        connection: NodeConnection,
        permit: Permit,
        exchange: Exchange,
        (idle, deadline): (Duration, Instant),
        reset: Option<Arc<Client>>,
    ) -> Download {
        let source = Source {
            connection,
            permit,
            exchange,
            reset,
        };
        if incoming.is_end_stream() {
            // Nobody will ask for the next piece.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            source.complete(&mut cx);
            return Download::Own(Bytes::new());
        }
        Download::Node(Box::new(FromNode {
            incoming,
            idle: IdleTimer::new(idle),
            deadline,
            cut: None,
            source: Some(source),
        }))
    }
}

impl FromNode {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let now = Instant::now();
        let Some(source) = &mut self.source else {
            return Poll::Ready(self.cut.take().map(Err));
        };
        if now >= self.deadline {
            return self.cut(Cut::Deadline, cx);
        }
        loop {
            source.connection.poll_drive(cx);
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.idle.progress();
                    // Trailers end here.
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    source.exchange.sent(piece.len() as u64);
                    if self.incoming.is_end_stream() {
                        self.complete(cx);
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Err(_))) => return self.cut(Cut::Truncated, cx),
                Poll::Ready(None) => {
                    self.complete(cx);
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        match self.idle.poll_expired(Some(self.deadline), now, cx) {
            Poll::Ready(()) if now >= self.deadline => self.cut(Cut::Deadline, cx),
            Poll::Ready(()) => self.cut(Cut::Idle, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    fn complete(&mut self, cx: &mut Context<'_>) {
        if let Some(source) = self.source.take() {
            source.complete(cx);
        }
    }

    /// The error is given on the next call: hyper drops what it has buffered
    /// at an error, and writes it out while it waits.
    fn cut(&mut self, cut: Cut, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if let Some(mut source) = self.source.take() {
            source.exchange.cut(CutBy::Node, cut.label());
            if let Some(client) = &source.reset {
                client.reset();
            }
        }
        self.cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Source {
    fn complete(mut self, cx: &mut Context<'_>) {
        if self.connection.rest(cx) {
            self.permit.get().keep(self.connection);
        }
    }
}

impl Drop for FromNode {
    /// Before its end: hyper has nobody to write to any more.
    fn drop(&mut self) {
        if let Some(source) = &mut self.source {
            source.exchange.cut(CutBy::Client, "client_left");
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Download::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Download::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Download::Node(node) => node.poll_piece(cx).map_ok(Frame::data),
            Download::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Download::Own(bytes) => bytes.is_empty(),
            Download::Node(node) => node.source.is_none() && node.cut.is_none(),
            Download::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Download::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Download::Node(node) => node.incoming.size_hint(),
            Download::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
