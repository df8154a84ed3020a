//! A connection that is not HTTP any more: what both sides say after they
//! agreed on another protocol (`Upgrade`, RFC 9110, 7.8).
//!
//! Only the node's `101 Switching Protocols` makes one, to a request that asked
//! for a protocol its route allows. Until then nothing but that request goes to
//! the node, and what its client sends early waits.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::http::request::Parts;
use hyper::http::response;
use hyper::{Method, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::attempt::Answered;
use super::client::Transport;
use super::exchange::Exchange;
use super::failure::Failure;
use super::metrics::CutBy;
use super::nodes::Permit;
use super::policy::Length;
use super::retry::Progress;
use super::server::Phase;

/// Bytes of each direction that are on their way.
const BUFFER: usize = 16 * 1024;

/// What `Connection` says of an upgrade.
const IS_UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// The protocol that a request asks for, if it is one of those allowed. Only a
/// GET without a body asks for one, and for one at a time; only HTTP/1.1 can.
pub(crate) fn wanted(allowed: &[HeaderValue], head: &Parts, length: Length) -> Option<HeaderValue> {
    if allowed.is_empty()
        || head.version != Version::HTTP_11
        || head.method != Method::GET
        || length != Length::Empty
    {
        return None;
    }
    let named = named(&head.headers)?;
    let same = |it: &&HeaderValue| it.as_bytes().eq_ignore_ascii_case(named);
    allowed.iter().find(same).cloned()
}

/// Asks a node for this protocol, or tells a client that it is agreed.
pub(crate) fn ask(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.insert(CONNECTION, IS_UPGRADE);
    headers.insert(UPGRADE, protocol.clone());
}

/// Whether this answer is what was asked for.
pub(crate) fn is_agreed(protocol: Option<&HeaderValue>, head: &Response<impl Sized>) -> bool {
    let Some(protocol) = protocol else {
        return false;
    };
    let named = named(head.headers());
    head.status() == StatusCode::SWITCHING_PROTOCOLS
        && named.is_some_and(|it| it.eq_ignore_ascii_case(protocol.as_bytes()))
}

/// The one protocol that a head names for this hop.
fn named(headers: &HeaderMap) -> Option<&[u8]> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let (Some(only), None) = (protocols.next(), protocols.next()) else {
        return None;
    };
    let mut words = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|it| it.as_bytes().split(|byte| *byte == b','));
    let is_said = words.any(|it| it.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    is_said.then(|| only.as_bytes().trim_ascii())
}

/// A node that has agreed: its socket, and what it said behind its answer.
pub(crate) struct Node {
    /// The head of its answer.
    pub(crate) head: response::Parts,
    stream: TcpStream,
    early: Bytes,
    permit: Permit,
}

impl Node {
    /// The node that gave this answer.
    ///
    /// # Errors
    /// Its connection does not leave HTTP.
    pub(crate) async fn switched(answered: Answered, deadline: Instant) -> Result<Node, Failure> {
        let (head, _no_body) = answered.response.into_parts();
        let socket = answered.connection.into_socket();
        let socket = tokio::time::timeout_at(deadline.into(), socket).await;
        let (stream, early) = socket.map_err(|_elapsed| Failure::Deadline(Progress::Ambiguous))?;
        Ok(Node {
            head,
            stream,
            early,
            permit: answered.permit,
        })
    }
}

/// Both sides, once the client is told.
#[derive(Debug)]
pub(crate) struct Tunnel {
    node: TcpStream,
    early: Bytes,
    /// The node's; it is one of its requests.
    _permit: Permit,
    exchange: Exchange,
    /// Longest time in which nobody says anything.
    idle: Duration,
    /// The client was told.
    is_open: bool,
}

impl Tunnel {
    /// To a node that has agreed. The client is told next, see
    /// [`super::client::Client::leaves_http`].
    pub(crate) fn new(node: Node, mut exchange: Exchange, idle: Duration) -> Tunnel {
        exchange.switched();
        Tunnel {
            node: node.stream,
            early: node.early,
            _permit: node.permit,
            exchange,
            idle,
            is_open: false,
        }
    }

    /// Carries bytes until one side has ended and the other too, or is silent,
    /// or the balancer closes. `said` is what the client said early.
    pub(crate) async fn run(
        mut self,
        client: &mut impl Transport,
        said: Bytes,
        phase: &mut watch::Receiver<Phase>,
    ) {
        self.is_open = true;
        let _open = self.exchange.tunnel_opens();
        let traffic = Traffic::new();
        let mut client = Side::new(client, said, &traffic, &traffic.from_client);
        let early = std::mem::take(&mut self.early);
        let mut node = Side::new(&mut self.node, early, &traffic, &traffic.from_node);
        let end = {
            let copied = copy_bidirectional_with_sizes(&mut client, &mut node, BUFFER, BUFFER);
            tokio::select! {
                biased;
                copied = copied => match copied {
                    Ok(_) => None,
                    Err(_) => Some("tunnel_broken"),
                },
                () = traffic.ceases(self.idle) => Some("tunnel_timeout"),
                _ = phase.wait_for(|it| *it == Phase::Closing) => Some("shutdown"),
            }
        };
        let [from_client, from_node] = [&traffic.from_client, &traffic.from_node];
        self.exchange
            .received()
            .add(from_client.load(Ordering::Relaxed));
        self.exchange
            .sent(from_node.load(Ordering::Relaxed) as usize);
        if let Some(end) = end {
            self.exchange.ended(end);
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.is_open {
            self.exchange.cut(CutBy::Client, "client_left");
        }
    }
}

/// What was carried.
struct Traffic {
    began: Instant,
    /// When the last byte came, in milliseconds since then.
    last: AtomicU64,
    from_client: AtomicU64,
    from_node: AtomicU64,
}

impl Traffic {
    fn new() -> Traffic {
        Traffic {
            began: Instant::now(),
            last: AtomicU64::new(0),
            from_client: AtomicU64::new(0),
            from_node: AtomicU64::new(0),
        }
    }

    fn came(&self, bytes: usize, count: &AtomicU64) {
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = self.began.elapsed().as_millis();
        self.last.store(now as u64, Ordering::Relaxed);
    }

    /// Returns when nothing came for so long.
    async fn ceases(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let until = self.began + last + idle;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// A side of a tunnel, as its other side hears it.
struct Side<'a, T> {
    stream: &'a mut T,
    /// What it said before.
    early: Bytes,
    traffic: &'a Traffic,
    count: &'a AtomicU64,
}

impl<'a, T> Side<'a, T> {
    fn new(
        stream: &'a mut T,
        early: Bytes,
        traffic: &'a Traffic,
        count: &'a AtomicU64,
    ) -> Side<'a, T> {
        Side {
            stream,
            early,
            traffic,
            count,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.early.is_empty() {
            ready!(Pin::new(&mut *self.stream).poll_read(cx, buf))?;
        } else {
            let now = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..now]);
            self.early.advance(now);
        }
        let came = buf.filled().len() - before;
        self.traffic.came(came, self.count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn asked(version: Version, method: &str, rows: &[(&str, &str)]) -> Option<HeaderValue> {
        let mut request = Request::builder().method(method).version(version);
        for (name, value) in rows {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let allowed = ["websocket", "chat"].map(HeaderValue::from_static);
        assert_eq!(wanted(&[], &head, Length::Empty), None);
        assert_eq!(wanted(&allowed, &head, Length::Unknown), None);
        assert_eq!(wanted(&allowed, &head, Length::Known(1)), None);
        wanted(&allowed, &head, Length::Empty)
    }

    #[test]
    fn a_protocol_is_asked_for_alone_and_for_this_hop() {
        let (http_11, get) = (Version::HTTP_11, "GET");
        let upgrade = ("connection", "keep-alive, Upgrade");
        let websocket = ("upgrade", "WebSocket");
        let rows = [upgrade, websocket];
        assert_eq!(
            asked(http_11, get, &rows).expect("it is allowed"),
            "websocket"
        );
        assert_eq!(asked(Version::HTTP_10, get, &rows), None);
        assert_eq!(asked(http_11, "POST", &rows), None);
        for rows in [
            &[websocket][..],
            &[upgrade],
            &[("connection", "close"), websocket],
            &[upgrade, websocket, websocket],
            &[upgrade, ("upgrade", "websocket, chat")],
            &[upgrade, ("upgrade", "h2c")],
        ] {
            assert_eq!(asked(http_11, get, rows), None, "{rows:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_agreed_on() {
        let websocket = HeaderValue::from_static("websocket");
        let head = |status: u16, protocol: &str| {
            let head = Response::builder().status(status);
            let head = head.header("connection", "Upgrade");
            head.header("upgrade", protocol).body(()).expect("a head")
        };
        assert!(is_agreed(Some(&websocket), &head(101, "WebSocket")));
        assert!(!is_agreed(None, &head(101, "websocket")));
        assert!(!is_agreed(Some(&websocket), &head(101, "chat")));
        assert!(!is_agreed(Some(&websocket), &head(200, "websocket")));
        let bare = Response::builder().status(101).body(()).expect("a head");
        assert!(!is_agreed(Some(&websocket), &bare));
    }
}
