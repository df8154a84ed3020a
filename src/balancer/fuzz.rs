//! Streams of HTTP clients: the scanner and hyper have to see the same
//! requests, and what goes on to a node has to be clean. And what proxies say
//! before them.
//!
//! An input is a seed for the pieces and a stream.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};

use super::framing::{At, HEAD_MAX, Scanner};
pub use super::h3::fuzz::quic;
use super::hygiene::{self, Origin, X_REQUEST_ID};
use super::policy::{self, Length, TARGET_MAX};
use super::proxy;
use super::route::Routes;
use crate::config;
use crate::wire::fuzz::{Input, pieces};

/// Polls that hyper may need for one stream.
const POLLS: usize = 10_000;

const MAX_BODY: u64 = 1 << 20;

/// A message as the scanner sees it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    head: Vec<u8>,
    body: Vec<u8>,
}

/// What a proxy says of a connection is the same in any pieces, and within its
/// bounds; what came of it can be said again.
pub fn proxy(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let stream = input.rest();
    let mut came = 0;
    let mut told = proxy::header(&[]);
    for piece in pieces(stream, seed) {
        let decided = told != Ok(None);
        let before = told;
        came += piece.len();
        told = proxy::header(&stream[..came]);
        assert!(!decided || told == before, "it is decided once");
    }
    assert_eq!(told, proxy::header(stream));
    match told {
        Ok(None) => assert!(stream.len() < proxy::FIXED + proxy::REST_MAX),
        Ok(Some(header)) => {
            assert!(header.length <= stream.len());
            let is_line = stream.starts_with(b"PROXY ");
            let most = if is_line {
                proxy::LINE_MAX
            } else {
                proxy::FIXED + proxy::REST_MAX
            };
            assert!(header.length <= most);
            assert_eq!(proxy::header(&stream[..header.length]), told);
            if let Some(client) = header.client {
                let (address, port) = (client.ip(), client.port());
                let family = if address.is_ipv4() { "TCP4" } else { "TCP6" };
                let line = format!("PROXY {family} {address} {address} {port} 1\r\n");
                let again = proxy::header(line.as_bytes()).expect("a header");
                assert_eq!(again.expect("all of it").client, Some(client));
            }
        }
        Err(proxy::Malformed) => {
            assert!(!stream.starts_with(b"PROXY UNKNOWN\r\n"));
        }
    }
}

/// Streams are cut into the same requests by the scanner and by hyper.
pub fn http(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let stream = input.rest();
    let seen = scan(stream, seed);
    let served = Rc::new(RefCell::new(Vec::new()));
    serve(stream, seed, &served);
    for (index, (head, body)) in served.take().into_iter().enumerate() {
        let number = seen.len();
        assert!(index < number, "request {index} was not seen: {head:?}");
        compare(&seen[index], &head, body);
        judge(head);
    }
}

/// What the scanner sees of a stream that comes byte by byte; in pieces it
/// sees the same.
fn scan(stream: &[u8], seed: u8) -> Vec<Seen> {
    let mut scanner = Scanner::default();
    let mut seen: Vec<Seen> = Vec::new();
    let mut head = Vec::new();
    let mut good = stream.len();
    for (index, &byte) in stream.iter().enumerate() {
        let (before, heads) = (scanner.at(), scanner.heads());
        if scanner.feed(&[byte]).is_err() {
            good = index;
            break;
        }
        if scanner.heads() > heads || scanner.at() == At::Head {
            head.push(byte);
        }
        if scanner.heads() > heads {
            let head = std::mem::take(&mut head);
            let body = Vec::new();
            seen.push(Seen { head, body });
        } else if before == At::Body {
            seen.last_mut().expect("a head").body.push(byte);
        }
    }
    let mut other = Scanner::default();
    let mut taken = 0;
    for piece in pieces(stream, seed) {
        match other.feed(piece) {
            Ok(()) => taken += piece.len(),
            Err(before) => {
                taken += before;
                break;
            }
        }
    }
    assert_eq!(taken, good);
    assert_eq!(other.heads(), scanner.heads());
    assert_eq!(other.refused(), scanner.refused());
    assert_eq!(other.at(), scanner.at());
    assert_eq!(seen.len() as u64, scanner.heads());
    seen
}

/// The client's side of a connection: all has been sent already.
struct Sent<'a> {
    pieces: Box<dyn Iterator<Item = &'a [u8]> + 'a>,
    rest: &'a [u8],
    scanner: Rc<RefCell<Scanner>>,
    broken: bool,
}

impl Read for Sent<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if self.rest.is_empty() {
            self.rest = self.pieces.next().unwrap_or_default();
        }
        let (now, later) = self.rest.split_at(self.rest.len().min(buf.remaining()));
        self.rest = later;
        let good = self.scanner.borrow_mut().feed(now);
        let good = good.err().unwrap_or(now.len());
        self.broken = good < now.len();
        if self.broken && good == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        buf.put_slice(&now[..good]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Sent<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request that is not refused for its bytes, and its body if that came.
type Served = (Parts, Option<Bytes>);

/// Has hyper read the stream, with the scanner under it as in `client`.
fn serve(stream: &[u8], seed: u8, served: &Rc<RefCell<Vec<Served>>>) {
    let scanner = Rc::new(RefCell::new(Scanner::default()));
    let io = Sent {
        pieces: Box::new(pieces(stream, seed)),
        rest: b"",
        scanner: Rc::clone(&scanner),
        broken: false,
    };
    let requests = RefCell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        let number = requests.replace_with(|number| *number + 1);
        let (heads, refused) = (scanner.borrow().heads(), scanner.borrow().refused());
        assert!(number <= heads, "hyper is ahead: {number} of {heads}");
        assert!(number < heads || refused.is_some(), "{request:?} passes");
        let is_refused = number == heads;
        let served = Rc::clone(served);
        async move {
            let (head, body) = request.into_parts();
            // As in `failure`.
            let leaves = is_refused || policy::judge(&head, MAX_BODY).is_err();
            let body = body.collect().await.ok();
            if !is_refused {
                let body = body.map(|body| body.to_bytes());
                served.borrow_mut().push((head, body));
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            if leaves {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .half_close(true)
            .max_header_size(HEAD_MAX)
            .max_buf_size(2 * HEAD_MAX)
            .serve_connection(io, service)
    );
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..POLLS {
        if connection.as_mut().poll(&mut cx).is_ready() {
            return;
        }
    }
    panic!("a connection without end");
}

/// Both have read the same request.
fn compare(seen: &Seen, head: &Parts, body: Option<Bytes>) {
    let line = seen.head.split(|&byte| byte == b'\r').next();
    let line = line.expect("a first line");
    let start = format!("{} ", head.method);
    assert!(line.starts_with(start.as_bytes()), "{seen:?}, {head:?}");
    for (name, value) in &head.headers {
        let own = |it: &HeaderValue| {
            seen.head
                .windows(it.len().max(1))
                .any(|w| w == it.as_bytes())
        };
        assert!(value.is_empty() || own(value), "{name:?}: {value:?}");
    }
    let Some(body) = body else {
        return;
    };
    let chunked = head.headers.contains_key("transfer-encoding");
    match chunked {
        false => assert_eq!(body, seen.body),
        true => assert_eq!(body, unchunked(&seen.body)),
    }
}

/// The data of a body in chunks that is well formed.
fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let digits = body.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits = &body[..digits.count()];
        let size = usize::from_str_radix(str::from_utf8(digits).expect("digits"), 16);
        let size = size.expect("a size");
        let line = body.windows(2).position(|pair| pair == b"\r\n");
        body = &body[line.expect("a line") + 2..];
        if size == 0 {
            return data;
        }
        data.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
}

fn routes() -> Routes {
    let route = |path: &str| config::Route {
        path: path.into(),
        ..config::Route::default()
    };
    let routes: BTreeMap<_, _> = [("items", route("/a/{id}")), ("all", route("/a"))]
        .map(|(name, route)| (name.to_owned(), route))
        .into();
    Routes::new(&routes, Duration::from_secs(1)).expect("good routes")
}

/// What is served is asked of a node in one form only.
pub(super) fn judge(mut head: Parts) {
    let Ok(accepted) = policy::judge(&head, MAX_BODY) else {
        return;
    };
    let text = accepted.target.to_string();
    assert!(text.len() <= TARGET_MAX && text.is_ascii());
    assert!(accepted.target.authority().is_none());
    let path = accepted.target.path();
    let plain = path.replace("%2e", ".").replace("%2E", ".");
    assert!(path == "*" || path.starts_with('/'), "{path}");
    assert!(
        !plain.split('/').any(|it| it == "." || it == ".."),
        "{path}"
    );
    let routes = routes();
    routes.get(routes.find(&head.method, path));
    if let Length::Known(length) = accepted.length {
        assert!((1..=MAX_BODY).contains(&length));
    }
    let origin = Origin {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        version: head.version,
        is_secure: false,
        is_trusted: false,
        tells_forwarded: false,
    };
    let id = HeaderValue::from_static("id");
    hygiene::clean_request(&mut head.headers, &accepted, origin, id.clone());
    let all = |name: &str| head.headers.get_all(name).iter().collect::<Vec<_>>();
    for name in [
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "forwarded",
    ] {
        assert!(all(name).is_empty(), "{name}");
    }
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-request-id"), [&id]);
    assert!(all("host").len() <= 1 && all("transfer-encoding").is_empty());
    let own = [
        "x-forwarded-for",
        "x-forwarded-host",
        "x-real-ip",
        "connection",
        "host",
    ];
    for name in head.headers.keys().map(HeaderName::as_str) {
        // As many a gateway names it.
        let gateway = name.replace('_', "-");
        assert!(gateway == name || !own.contains(&&*gateway), "{name}");
    }
    // Judged again it is the same, but for what was added: that is not counted.
    for name in [
        "traceparent",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ] {
        head.headers.remove(name);
    }
    head.uri = accepted.target.clone();
    if let Some(host) = &accepted.host {
        head.headers.insert(HOST, host.clone());
    } else {
        head.version = Version::HTTP_10;
    }
    let again = policy::judge(&head, MAX_BODY).expect("it was good");
    assert_eq!(again.target, accepted.target);
    hygiene::clean_response(
        &mut head.headers,
        StatusCode::OK,
        Version::HTTP_11,
        id.clone(),
    );
    assert_eq!(head.headers.get(X_REQUEST_ID), Some(&id));
}
