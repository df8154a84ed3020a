//! The port over loopback, at the level of bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::Instant;

use prometheus::{IntGaugeVec, Opts};

use super::*;

/// How long a test waits for what has to happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A port that serves on a thread of its own.
struct Served {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    readiness: Readiness,
    thread: JoinHandle<io::Result<()>>,
}

fn serve() -> Served {
    serve_with(LIMITS, Registry::new())
}

fn serve_with(limits: Limits, registry: Registry) -> Served {
    let mut port = AdminPort::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    port.limits = limits;
    let address = port.address().expect("it is bound");
    let (shutdown, stop) = watch::channel(false);
    let readiness = Readiness::new();
    let handle = readiness.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(port.serve(registry, handle, FrontSeat::default(), stop))
    });
    Served {
        address,
        shutdown,
        readiness,
        thread,
    }
}

impl Served {
    fn connect(&self) -> Peer {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a time above zero");
        Peer(stream)
    }

    /// Ends it; it has to end.
    fn stop(self) {
        self.shutdown.send_replace(true);
        let begun = Instant::now();
        while !self.thread.is_finished() {
            assert!(begun.elapsed() < DEADLINE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let served = self.thread.join().expect("no panic");
        served.expect("a socket of this system");
    }
}

struct Peer(TcpStream);

impl Peer {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("it reads");
    }

    /// Status and head of an answer, without what follows.
    fn head(&mut self) -> (u16, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let count = self.0.read(&mut byte).expect("an answer in time");
            assert_eq!(count, 1, "the end after {}", head.escape_ascii());
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.expect("a status"), head)
    }

    /// Status and body of an answer.
    fn answer(&mut self) -> (u16, String) {
        let (status, head) = self.head();
        let mut body = vec![0; content_length(&head)];
        self.0.read_exact(&mut body).expect("the whole body");
        (status, String::from_utf8(body).expect("text"))
    }

    fn get(&mut self, path: &str) -> (u16, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        self.answer()
    }

    /// Everything up to the end of the connection, be it a reset.
    fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let read = self.0.read_to_end(&mut rest);
        let late = read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(!late, "no end within {DEADLINE:?}");
        String::from_utf8(rest).expect("text")
    }
}

fn content_length(head: &str) -> usize {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    line.and_then(|length| length.parse().ok())
        .expect("a length")
}

#[test]
fn a_connection_serves_many_requests() {
    let served = serve();
    let mut peer = served.connect();
    assert_eq!(peer.get("/health"), (200, "ok\n".to_owned()));
    assert_eq!(peer.get("/ready?verbose=1").0, 503);
    served.readiness.set_ready();
    assert_eq!(peer.get("/ready"), (200, "ready\n".to_owned()));
    assert_eq!(peer.get("/nothing").0, 404);
    assert_eq!(peer.get("/metrics").0, 200);
    served.stop();
}

#[test]
fn head_has_the_head_of_get() {
    let served = serve();
    let mut peer = served.connect();
    peer.send("HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n");
    let (status, head) = peer.head();
    assert_eq!((status, content_length(&head)), (200, 3));
    assert_eq!(peer.get("/health"), (200, "ok\n".to_owned()));
    served.stop();
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let served = serve();
    let mut peer = served.connect();
    peer.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(peer.answer(), (200, "ok\n".to_owned()));
    assert_eq!(peer.rest(), "");
    served.stop();
}

#[test]
fn other_methods_are_refused_whatever_they_carry() {
    let served = serve();
    let mut peer = served.connect();
    peer.send("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nbegin");
    let (status, head) = peer.head();
    assert_eq!(status, 405);
    assert!(head.contains("\r\nallow: get, head\r\n"), "{head}");
    served.stop();
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let served = serve();
    let long = "x".repeat(MAX_HEAD);
    let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
    for lines in [format!("a: {long}\r\n"), many] {
        let mut peer = served.connect();
        peer.send(format!("GET / HTTP/1.1\r\n{lines}\r\n"));
        assert_eq!(peer.head().0, 431);
    }
    served.stop();
}

#[test]
fn what_is_not_http_is_refused() {
    let served = serve();
    let ssl_request = b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice();
    for bytes in [ssl_request, b"GET  / HTTP/1.1\r\n\r\n", b"\r\nx\r\n\r\n"] {
        let mut peer = served.connect();
        peer.send(bytes);
        peer.0.shutdown(Shutdown::Write).expect("it is connected");
        let rest = peer.rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "));
    }
    assert_eq!(served.connect().get("/health").0, 200);
    served.stop();
}

fn short() -> Limits {
    Limits {
        idle: Duration::from_millis(50),
        kept_idle: Duration::from_millis(50),
        ..LIMITS
    }
}

#[test]
fn a_client_that_does_not_ask_is_let_go() {
    let served = serve_with(short(), Registry::new());
    for text in ["", "GET /hea", "GET /health HTTP/1.1\r\na: "] {
        let mut peer = served.connect();
        peer.send(text);
        assert_eq!(peer.rest(), "", "after {text:?}");
    }
    served.stop();
}

#[test]
fn only_so_many_connections_are_kept_while_idle() {
    let limits = Limits {
        kept: 1,
        kept_idle: DEADLINE * 10,
        idle: Duration::from_millis(50),
        ..LIMITS
    };
    let served = serve_with(limits, Registry::new());
    let mut first = served.connect();
    assert_eq!(first.get("/health").0, 200);
    let mut second = served.connect();
    assert_eq!(second.get("/health").0, 200);
    assert_eq!(second.rest(), "");
    assert_eq!(first.get("/health").0, 200);
    served.stop();
}

#[test]
fn a_connection_too_many_waits_for_a_place() {
    let limits = Limits {
        connections: 1,
        ..LIMITS
    };
    let served = serve_with(limits, Registry::new());
    let mut first = served.connect();
    assert_eq!(first.get("/health").0, 200);
    let mut second = served.connect();
    second.send("GET /health HTTP/1.1\r\nhost: x\r\n\r\n");
    let soon = Some(Duration::from_millis(100));
    second.0.set_read_timeout(soon).expect("above zero");
    let early = second.0.read(&mut [0]).expect_err("nothing yet");
    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    second
        .0
        .set_read_timeout(Some(DEADLINE))
        .expect("above zero");
    assert_eq!(second.answer(), (200, "ok\n".to_owned()));
    served.stop();
}

#[test]
fn a_connection_that_is_old_is_closed_after_an_answer() {
    let limits = Limits {
        age: Duration::from_millis(50),
        ..LIMITS
    };
    let served = serve_with(limits, Registry::new());
    let mut peer = served.connect();
    assert_eq!(peer.rest(), "");
    served.stop();
}

/// More than the buffers of two sockets hold.
fn long_page() -> Registry {
    let labels = &["text"];
    let opts = Opts::new("long", "Long.");
    let gauges = IntGaugeVec::new(opts, labels).expect("valid names");
    for letter in 'a'..='p' {
        let text = String::from(letter).repeat(1 << 20);
        gauges.with_label_values(&[text]).set(1);
    }
    let registry = Registry::new();
    registry.register(Box::new(gauges)).expect("once");
    registry
}

#[test]
fn a_long_page_arrives_whole() {
    let served = serve_with(LIMITS, long_page());
    let (status, page) = served.connect().get("/metrics");
    assert_eq!(status, 200);
    assert!(page.len() > 16 << 20 && page.ends_with("\"} 1\n"));
    served.stop();
}

#[test]
fn a_client_that_takes_nothing_is_let_go() {
    let limits = Limits {
        connections: 1,
        stalled: Duration::from_millis(200),
        ..LIMITS
    };
    let served = serve_with(limits, long_page());
    let mut stalled = served.connect();
    stalled.send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    // There is one place: whoever is answered after it has got it.
    assert_eq!(served.connect().get("/health").0, 200);
    drop(stalled);
    served.stop();
}

#[test]
fn a_shutdown_ends_idle_connections_and_listens_no_more() {
    let served = serve();
    let mut idle = served.connect();
    assert_eq!(idle.get("/health").0, 200);
    let mut silent = served.connect();
    let address = served.address;
    served.stop();
    assert_eq!(idle.rest(), "");
    silent.rest();
    TcpStream::connect(address).expect_err("nobody listens");
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let port = AdminPort::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    let taken = port.address().expect("it is bound");
    let error = AdminPort::bind(taken).expect_err("taken").to_string();
    let begin = format!("[metrics] listen: cannot listen on {taken}: ");
    assert!(error.starts_with(&begin), "{error}");
}
