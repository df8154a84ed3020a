//! A QUIC client that sends any datagrams, and on its streams any bytes.
//!
//! An input is flags, datagrams, and streams: for each a kind and its bytes.
//! Both ends are quinn's, joined in memory, on a clock that stands still while
//! somebody has something to do: a connection that hangs takes no time.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
    UdpPoller, VarInt,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::streams::{Connection, Streams};
use super::{Lineage, PROTOCOL, Patience, config, receive, send};
use crate::balancer::download::Download;
use crate::balancer::framing::HEAD_MAX;
use crate::balancer::fuzz::judge;
use crate::net::tls::fuzz::site;
use crate::wire::fuzz::Input;

/// Streams that a client opens.
const STREAMS_MAX: usize = 12;

/// Datagrams that are on their way.
const DATAGRAMS_MAX: usize = 1024;

/// How long a client waits before it goes.
const STAY: Duration = Duration::from_secs(2);

/// After this time, which passes at once if nobody does anything, a
/// connection hangs.
const HANGS: Duration = Duration::from_secs(300);

static SIDES: LazyLock<(ServerConfig, ClientConfig)> = LazyLock::new(|| {
    let (identity, client) = site(PROTOCOL);
    let minute = Duration::from_secs(60);
    let patience = Patience {
        head: minute,
        idle: minute,
        write: minute,
    };
    let client = QuicClientConfig::try_from(client).expect("it has what QUIC takes");
    let server = config(&identity, patience, &Lineage::new()).expect("it has what QUIC takes");
    (server, ClientConfig::new(Arc::new(client)))
});

/// Whatever a client sends, its connection comes to an end and its requests
/// are clean.
pub fn quic(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("it takes nothing").block_on(async {
        let conversation = converse(Input::new(data));
        let ended = timeout(HANGS, conversation).await;
        assert!(ended.is_ok(), "it hangs");
    });
}

async fn converse(mut input: Input<'_>) {
    let flags = input.byte();
    let [server, client] = wire();
    let inbox = Arc::clone(&server.own);
    let from = client.address;
    let (for_server, for_client) = (SIDES.0.clone(), SIDES.1.clone());
    let address = server.address;
    let open = |config, socket| {
        let socket: Arc<dyn AsyncUdpSocket> = Arc::new(socket);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = EndpointConfig::default();
        Endpoint::new_with_abstract_socket(endpoint, config, socket, runtime)
    };
    let server = open(Some(for_server), server).expect("a socket");
    let client = open(None, client).expect("a socket");
    let mut serving = JoinSet::new();
    serving.spawn(serve(server));
    for _ in 0..flags % 4 {
        lock(&inbox).put(from, input.block());
    }
    let connecting = client.connect_with(for_client, address, "one.example");
    // Datagrams of this very address may have spoilt it.
    if let Ok(Ok(connection)) = timeout(STAY, connecting.expect("a good name")).await {
        ask(&connection, &mut input).await;
        for _ in 0..flags / 4 % 4 {
            lock(&inbox).put(from, input.block());
        }
        sleep(STAY).await;
        connection.close(VarInt::from_u32(0x100), b"");
    }
    client.close(VarInt::from_u32(0x100), b"");
    client.wait_idle().await;
    serving.abort_all();
    while let Some(ended) = serving.join_next().await {
        assert!(ended.is_err_and(|it| it.is_cancelled()), "it panics");
    }
}

/// Opens streams and says on each what the input has for it.
async fn ask(connection: &quinn::Connection, input: &mut Input<'_>) {
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        if input.is_empty() {
            break;
        }
        let kind = input.byte();
        let bytes = input.block();
        let one_way = kind.is_multiple_of(2);
        let opened = async {
            Ok::<_, quinn::ConnectionError>(match one_way {
                true => (connection.open_uni().await?, None),
                false => {
                    let (sending, receiving) = connection.open_bi().await?;
                    (sending, Some(receiving))
                }
            })
        };
        let Ok(Ok((mut sending, receiving))) = timeout(STAY, opened).await else {
            continue;
        };
        let _refused = timeout(STAY, sending.write_all(bytes)).await;
        match kind / 2 % 4 {
            0 | 1 => drop(sending.finish()),
            2 => drop(sending.reset(VarInt::from_u32(kind.into()))),
            _ => {}
        }
        if kind & 0x40 != 0 {
            sleep(Duration::from_millis(5)).await;
        }
        // An answer that is not read, or not wanted.
        if kind & 0x80 == 0 {
            open.push((sending, receiving));
        }
    }
    sleep(STAY).await;
}

/// As the balancer does, with an answer of its own.
async fn serve(endpoint: Endpoint) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => drop(clients.spawn(serve_client(incoming))),
                None => return,
            },
            Some(ended) = clients.join_next() => ended.expect("no panic"),
        }
    }
}

async fn serve_client(incoming: Incoming) {
    let Ok(accepting) = incoming.accept() else {
        return;
    };
    let Ok(quic) = accepting.await else {
        return;
    };
    let (connection, streams) = Connection::new(quic);
    let mut builder = h3::server::builder();
    builder.max_field_section_size(HEAD_MAX as u64);
    let Ok(mut connection) = builder.build::<_, Bytes>(connection).await else {
        return;
    };
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Ok(Some(resolver)) => {
                    let streams = streams.clone();
                    requests.spawn(answer(resolver, streams));
                }
                Ok(None) | Err(_) => break,
            },
            Some(ended) = requests.join_next() => ended.expect("no panic"),
        }
    }
    while let Some(ended) = requests.join_next().await {
        ended.expect("no panic");
    }
}

async fn answer(resolver: h3::server::RequestResolver<Connection, Bytes>, streams: Streams) {
    let Ok(Some(mut asked)) = receive(resolver, &streams).await else {
        return;
    };
    let (head, body) = asked.request.into_parts();
    judge(head);
    let read = async {
        let body = body.collect().await;
        let length = body.map_or(0, |body| body.to_bytes().len());
        let text = Bytes::from(length.to_string());
        let answer = Response::new(Download::Own(text));
        let _left = send(&mut asked.sending, answer).await;
    };
    tokio::select! {
        biased;
        () = read => {}
        () = asked.left => {}
    }
}

/// Two sockets that hear each other.
fn wire() -> [Socket; 2] {
    let inboxes = [(); 2].map(|()| Arc::<Mutex<Inbox>>::default());
    let socket = |own: usize| Socket {
        own: Arc::clone(&inboxes[own]),
        other: Arc::clone(&inboxes[1 - own]),
        address: SocketAddr::from(([127, 0, 0, 1], 1 + own as u16)),
    };
    [socket(0), socket(1)]
}

/// Datagrams that have arrived.
#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

impl Inbox {
    fn put(&mut self, from: SocketAddr, datagram: &[u8]) {
        if self.datagrams.len() < DATAGRAMS_MAX {
            self.datagrams.push_back((from, datagram.to_vec()));
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Socket {
    own: Arc<Mutex<Inbox>>,
    other: Arc<Mutex<Inbox>>,
    address: SocketAddr,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        lock(&self.other).put(self.address, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = lock(&self.own);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, datagram)) = inbox.datagrams.pop_front() else {
                break;
            };
            let length = datagram.len().min(buf.len());
            buf[..length].copy_from_slice(&datagram[..length]);
            *meta = RecvMeta {
                addr: from,
                len: length,
                stride: length,
                ecn: None,
                dst_ip: None,
            };
            count += 1;
        }
        match count {
            0 => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// There is always room.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
