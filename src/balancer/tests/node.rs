//! A node that does what it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::client::Reader;

/// A request as a node received it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// Request line and headers.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|it| it.split_once(": "));
        lines
            .find(|it| it.0.eq_ignore_ascii_case(name))
            .map(|it| it.1)
    }
}

/// What a node does with a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// Writes these bytes and goes on.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes the connection.
    BytesAndClose(Vec<u8>),
    /// Writes these bytes after a while and goes on.
    Late(Duration, Vec<u8>),
    /// Closes the connection.
    Close,
    /// Does nothing.
    Hang,
}

/// A plain answer.
pub(super) fn answer(status: u16, body: &str) -> Reply {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
    Reply::Bytes(answer.into_bytes())
}

type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    /// Requests that were received, without checks.
    ledger: Mutex<Vec<Received>>,
    /// Answers everything with a 500.
    sick: AtomicBool,
    /// Answers nothing.
    stuck: AtomicBool,
    checks: AtomicUsize,
}

/// A node; it dies when dropped.
pub(super) struct Node {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Node {
    /// A node that answers checks and treats all else by its script.
    pub(super) async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let node = Node {
            address: listener.local_addr().expect("bound"),
            shared: Arc::new(Shared {
                script: Mutex::new(Arc::new(script)),
                ledger: Mutex::default(),
                sick: AtomicBool::new(false),
                stuck: AtomicBool::new(false),
                checks: AtomicUsize::new(0),
            }),
            tasks: Mutex::new(None),
        };
        node.listen(listener);
        node
    }

    /// A node that says its name to everything.
    pub(super) async fn named(name: &'static str) -> Node {
        Node::start(move |_| answer(200, name)).await
    }

    fn listen(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    Some(_) = connections.join_next() => continue,
                };
                let (stream, _) = accepted.expect("descriptors");
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        *self.tasks.lock().expect("no panic") = Some(tasks);
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, this.
    pub(super) fn does(&self, script: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no panic") = Arc::new(script);
    }

    /// Nobody listens any more, and all connections are closed.
    pub(super) async fn kill(&self) {
        let tasks = self.tasks.lock().expect("no panic").take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    /// Listens again where it listened.
    pub(super) async fn restart(&self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("its port is free");
        self.listen(listener);
    }

    pub(super) fn set_sick(&self, sick: bool) {
        self.shared.sick.store(sick, Ordering::Relaxed);
    }

    /// Accepts and reads, and answers nothing, as a stopped process does.
    pub(super) fn set_stuck(&self, stuck: bool) {
        self.shared.stuck.store(stuck, Ordering::Relaxed);
    }

    /// All it received, without checks.
    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.ledger.lock().expect("no panic").clone()
    }

    pub(super) fn checks(&self) -> usize {
        self.shared.checks.load(Ordering::Relaxed)
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut reader = Reader::default();
    while let Some(request) = reader.request(&mut stream).await {
        let reply = shared.reply(request);
        let (bytes, then_close) = match reply {
            Reply::Bytes(bytes) => (bytes, false),
            Reply::Late(pause, bytes) => {
                tokio::time::sleep(pause).await;
                (bytes, false)
            }
            Reply::BytesAndClose(bytes) => (bytes, true),
            Reply::Close => return,
            Reply::Hang => return std::future::pending().await,
        };
        if stream.write_all(&bytes).await.is_err() || then_close {
            // What is still to come is read, so that closing is no reset.
            let _shut = stream.shutdown().await;
            let _end = stream.read(&mut [0]).await;
            return;
        }
    }
}

impl Shared {
    fn reply(&self, request: Received) -> Reply {
        let check = request.line() == "GET /ping HTTP/1.1";
        match check {
            true => drop(self.checks.fetch_add(1, Ordering::Relaxed)),
            false => self.ledger.lock().expect("no panic").push(request.clone()),
        }
        if self.stuck.load(Ordering::Relaxed) {
            return Reply::Hang;
        }
        if self.sick.load(Ordering::Relaxed) {
            return answer(500, "I feel bad");
        }
        if check {
            return answer(200, "pong");
        }
        let script = Arc::clone(&self.script.lock().expect("no panic"));
        script(&request)
    }
}
