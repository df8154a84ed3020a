//! An answer's body on its way to the client.
//!
//! It takes the node's connection along and drives it, as fast as the client
//! reads. When the body has ended, the connection goes back to its node and
//! the request is accounted. When it is cut, the error makes hyper abort the
//! client's connection: a client never takes half an answer for a whole one.
//!
//! A client that does not read its answer keeps a node's place. While others
//! wait for that, such answers are cut, see [`Passages`].

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::client::Client;
use super::connection::NodeConnection;
use super::exchange::Exchange;
use super::metrics::CutBy;
use super::nodes::Permit;
use super::timer::IdleTimer;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// How long an answer is watched before it is cut as unread.
const UNREAD_AFTER: Duration = Duration::from_secs(1);

/// Bytes a second that a client has to read, while others wait.
const UNREAD_RATE: f64 = 4096.0;

/// A body for the client.
#[derive(Debug)]
pub(crate) enum Download {
    /// The balancer's own, or none.
    Own(Bytes),
    /// A node's.
    Node(FromNode),
}

/// A node's body.
#[derive(Debug)]
pub(crate) struct FromNode {
    incoming: Incoming,
    idle: IdleTimer,
    deadline: Instant,
    /// Why it was cut, if the client has not been told.
    cut: Option<Cut>,
    passage: Arc<Passage>,
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

/// The node's body did not end as it should, or the client did not take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The node's connection broke.
    Truncated,
    /// Nothing came for too long.
    Idle,
    /// The request's deadline passed.
    Deadline,
    /// The client did not read, and others waited for the node.
    Unread,
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
            Cut::Unread => "unread",
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
        Download::Node(FromNode {
            incoming,
            idle: IdleTimer::new(idle),
            deadline,
            cut: None,
            passage: Passage::begin(source),
        })
    }
}

impl FromNode {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let now = Instant::now();
        let passage = Arc::clone(&self.passage);
        let mut under_way = passage.under_way();
        let Some(source) = &mut under_way.source else {
            let cut = self.cut.take().or(under_way.cut.take());
            return Poll::Ready(cut.map(Err));
        };
        if now >= self.deadline {
            return self.cut(under_way, Cut::Deadline, cx);
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
                    source.exchange.sent(piece.len());
                    under_way.passed += piece.len() as u64;
                    under_way.waits_for_node = false;
                    if self.incoming.is_end_stream() {
                        under_way.complete(cx);
                    }
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Err(_))) => return self.cut(under_way, Cut::Truncated, cx),
                Poll::Ready(None) => {
                    under_way.complete(cx);
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        under_way.waits_for_node = true;
        match self.idle.poll_expired(Some(self.deadline), now, cx) {
            Poll::Ready(()) if now >= self.deadline => self.cut(under_way, Cut::Deadline, cx),
            Poll::Ready(()) => self.cut(under_way, Cut::Idle, cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The error is given on the next call: hyper drops what it has buffered
    /// at an error, and writes it out while it waits.
    fn cut<T>(
        &mut self,
        mut under_way: MutexGuard<'_, UnderWay>,
        cut: Cut,
        cx: &mut Context<'_>,
    ) -> Poll<T> {
        under_way.end(CutBy::Node, cut);
        self.cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// An answer on its way: what its end gives back, for its client's connection
/// and for those who wait for its node.
#[derive(Debug)]
struct Passage(Mutex<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    /// None once the body has ended.
    source: Option<Source>,
    /// Why it was taken away, if the client has not been told.
    cut: Option<Cut>,
    /// Bytes that the client's connection took.
    passed: u64,
    /// The client's connection has room for more than has come.
    waits_for_node: bool,
    /// When it was looked at, and what had passed then.
    looked_at: Option<(Instant, u64)>,
}

impl Passage {
    fn begin(source: Source) -> Arc<Passage> {
        let nodes = Arc::clone(source.permit.nodes());
        let passage = Arc::new(Passage(Mutex::new(UnderWay {
            source: Some(source),
            cut: None,
            passed: 0,
            waits_for_node: false,
            looked_at: None,
        })));
        nodes.passages().note(&passage);
        passage
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn complete(&mut self, cx: &mut Context<'_>) {
        if let Some(source) = self.source.take() {
            source.complete(cx);
        }
    }

    fn end(&mut self, by: CutBy, cut: Cut) {
        if let Some(mut source) = self.source.take() {
            source.exchange.cut(by, cut.label());
            if let Some(client) = &source.reset {
                client.reset();
            }
        }
    }

    /// Whether its client reads too slowly to keep others waiting, as far as
    /// is known since it was looked at the last time.
    fn is_unread(&mut self, now: Instant) -> bool {
        if self.waits_for_node {
            self.looked_at = None;
            return false;
        }
        let (since, before) = *self.looked_at.get_or_insert((now, self.passed));
        let time = now.saturating_duration_since(since);
        if time < UNREAD_AFTER {
            return false;
        }
        self.looked_at = Some((now, self.passed));
        ((self.passed - before) as f64) < UNREAD_RATE * time.as_secs_f64()
    }
}

/// The answers that are on their way from some nodes.
#[derive(Debug, Default)]
pub(crate) struct Passages(Mutex<Vec<Weak<Passage>>>);

impl Passages {
    fn note(&self, passage: &Arc<Passage>) {
        let mut all = self.all();
        if all.len() == all.capacity() {
            all.retain(|it| it.strong_count() > 0);
        }
        all.push(Arc::downgrade(passage));
    }

    /// Cuts the answers whose clients do not read them. To be asked over and
    /// over while requests wait for a node.
    pub(crate) fn cut_unread(&self, now: Instant) {
        let mut all = self.all();
        all.retain(|it| it.strong_count() > 0);
        let passages: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
        drop(all);
        for passage in passages {
            let mut under_way = passage.under_way();
            if under_way.source.is_some() && under_way.is_unread(now) {
                under_way.end(CutBy::Client, Cut::Unread);
                under_way.cut = Some(Cut::Unread);
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Passage>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut under_way = self.passage.under_way();
        if let Some(mut source) = under_way.source.take() {
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Download::Own(bytes) => bytes.is_empty(),
            Download::Node(node) => {
                let under_way = node.passage.under_way();
                under_way.source.is_none() && under_way.cut.is_none() && node.cut.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Download::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Download::Node(node) => node.incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_unread_if_too_little_passes_while_the_node_has_more() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut under_way = UnderWay {
            source: None,
            cut: None,
            passed: 0,
            waits_for_node: false,
            looked_at: None,
        };
        assert!(!under_way.is_unread(start), "it was not watched before");
        assert!(!under_way.is_unread(start + second / 2));
        under_way.passed = 4096;
        assert!(!under_way.is_unread(start + second), "it is read");
        under_way.passed += 4095;
        assert!(under_way.is_unread(start + 2 * second), "hardly");
        under_way.waits_for_node = true;
        assert!(!under_way.is_unread(start + 9 * second));
        under_way.waits_for_node = false;
        assert!(!under_way.is_unread(start + 9 * second), "from now on");
        assert!(under_way.is_unread(start + 10 * second));
    }
}
