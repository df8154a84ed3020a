//! HTTP/3 with clients. Nothing outside this folder names h3 or quinn.

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod generation;
mod port;
mod relay;
mod streams;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http_body_util::BodyExt;
use hyper::header::{DATE, HeaderValue};
use hyper::{Request, Response};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body::RequestBody;
use super::client::{Client, Patience};
use super::core::Core;
use super::download::Download;
use super::framing::HEAD_MAX;
use super::http2::STREAMS_MAX;
use super::refusal::Refusal;
use super::server::{HANDSHAKES_MAX, Open, Phase};
use super::service;
use super::site::Site;
use crate::net::tls::Identity;

pub(crate) use self::generation::Lineage;
use self::port::Port;
pub(crate) use self::port::{Elder, Seat};
use self::streams::{Allowance, Connection, Facts, Left, Receiving, Sending, Streams};

/// The protocol as TLS names it (ALPN).
const PROTOCOL: &[u8] = b"h3";

/// Handshakes under way from which on a client has to prove its address
/// first, which costs it a round trip.
const UNPROVEN_MAX: usize = HANDSHAKES_MAX / 8;

/// Streams that only the client writes: HTTP/3 needs three, and some open one
/// more to see that it is ignored.
const ONE_WAY_STREAMS_MAX: u32 = 4;

/// Bytes a client may send before they are taken: of a stream, of all.
const RECEIVE_WINDOWS: (u32, u32) = (64 * 1024, 256 * 1024);

/// Bytes that wait to be sent or acknowledged.
const SEND_WINDOW: u64 = 512 * 1024;

/// Requests of one connection. A client goes on on another one.
const REQUESTS_MAX: usize = 10_000;

/// Time for telling a client that no more requests are served; for the
/// requests that are on their way then; and for the client to go by itself in
/// the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// As many requests as a connection can have, and more.
const MANY: usize = 1 << 60;

/// A UDP port on which HTTP/3 will be served.
#[derive(Debug)]
pub(crate) struct Listener {
    seat: Arc<Seat>,
    lineage: Lineage,
    config: ServerConfig,
    site: Arc<Site>,
}

/// Takes a port.
///
/// # Errors
/// It cannot be had.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Listener {
    /// On this port, of which these processes have connections.
    ///
    /// # Errors
    /// TLS cannot be had for it.
    pub(crate) fn new(
        (socket, elders): (UdpSocket, Vec<Elder>),
        identity: &Arc<Identity>,
        site: Arc<Site>,
        patience: Patience,
        lineage: &Lineage,
    ) -> io::Result<Listener> {
        Ok(Listener {
            seat: Arc::new(Seat::new(socket, elders)),
            config: config(identity, patience, lineage)?,
            lineage: lineage.clone(),
            site,
        })
    }

    /// The port, for who hands it over.
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Accepts clients until they are to finish, and stays until they are gone.
    pub(crate) async fn serve(
        self,
        core: Arc<Core>,
        slots: Arc<Semaphore>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let endpoint = match self.open() {
            Ok(endpoint) => endpoint,
            Err(error) => return tracing::error!("HTTP/3 cannot be served: {error}"),
        };
        let site = self.site;
        site.set_works(true);
        let door = Door {
            core,
            slots,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            site,
            phases: phase.clone(),
        };
        let mut is_left = false;
        loop {
            tokio::select! {
                biased;
                changed = phase.changed() => match (changed, *phase.borrow_and_update()) {
                    // Who was asked here to prove its address comes back here.
                    (Ok(()), Phase::Leaving) => is_left = true,
                    (Ok(()), Phase::Serving) => {}
                    _ => break,
                },
                incoming = endpoint.accept() => match incoming {
                    Some(incoming) => door.admit(incoming),
                    None => {
                        tracing::error!("HTTP/3 is not served any more: its socket failed");
                        break;
                    }
                },
            }
        }
        // Another process serves it now, if this one has left.
        door.site.set_works(is_left);
        // Who comes now is refused.
        endpoint.set_server_config(None);
        endpoint.wait_idle().await;
    }

    fn open(&self) -> io::Result<Endpoint> {
        let port = Port::open(Arc::clone(&self.seat), self.lineage.clone())?;
        let mut config = EndpointConfig::new(self.lineage.resets());
        let lineage = self.lineage.clone();
        config.cid_generator(move || Box::new(lineage.ids()));
        let server = Some(self.config.clone());
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new_with_abstract_socket(config, server, Arc::new(port), runtime)
    }
}

fn config(
    identity: &Arc<Identity>,
    patience: Patience,
    lineage: &Lineage,
) -> io::Result<ServerConfig> {
    let tls = identity.over_quic(&[PROTOCOL]).map_err(io::Error::other)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::new(Arc::new(crypto), lineage.tokens());
    let idle = u64::try_from(patience.idle.as_millis()).unwrap_or(u64::MAX);
    let idle = VarInt::from_u64(idle).map(IdleTimeout::from);
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(ONE_WAY_STREAMS_MAX.into())
        .stream_receive_window(RECEIVE_WINDOWS.0.into())
        .receive_window(RECEIVE_WINDOWS.1.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(idle.ok());
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Who decides about clients that come.
struct Door {
    core: Arc<Core>,
    slots: Arc<Semaphore>,
    /// Handshakes that may begin.
    handshakes: Arc<Semaphore>,
    site: Arc<Site>,
    phases: watch::Receiver<Phase>,
}

impl Door {
    fn admit(&self, incoming: Incoming) {
        let under_way = HANDSHAKES_MAX - self.handshakes.available_permits();
        if under_way >= UNPROVEN_MAX && incoming.may_retry() {
            // It can be asked: that is what may_retry says.
            let _asked = incoming.retry();
            return;
        }
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let turn = Arc::clone(&self.handshakes).try_acquire_owned();
        let (Ok(slot), Ok(turn)) = (slot, turn) else {
            return incoming.refuse();
        };
        let open = Open::new(Arc::clone(&self.core), slot);
        let (site, phase) = (Arc::clone(&self.site), self.phases.clone());
        tokio::spawn(serve_client(incoming, turn, site, open, phase));
    }
}

/// Serves a client to its end.
async fn serve_client(
    incoming: Incoming,
    turn: OwnedSemaphorePermit,
    site: Arc<Site>,
    open: Open,
    phase: watch::Receiver<Phase>,
) {
    let core = &open.core;
    let handshake = async { incoming.accept()?.await };
    let Ok(Ok(quic)) = timeout(core.patience.head, handshake).await else {
        return core.metrics.handshake_failed();
    };
    drop(turn);
    let address = quic.remote_address();
    let client = Client::new(address, Some(site), Instant::now());
    let client = client
        .asking_for(host(&quic).as_deref())
        .trusted(core.trusts(address));
    let (connection, streams) = Connection::new(quic);
    let mut builder = h3::server::builder();
    builder.max_field_section_size(HEAD_MAX as u64);
    let building = builder.build::<_, Bytes>(connection);
    let Ok(Ok(connection)) = timeout(core.patience.head, building).await else {
        return core.metrics.unread().inc();
    };
    let conversation = Conversation {
        connection,
        streams,
        client: Arc::new(client),
        core: Arc::clone(core),
        requests: JoinSet::new(),
        asked: 0,
        parting: Parting::No,
        asks_no_more: false,
    };
    // Dropped at its end, it closes the connection.
    Box::pin(conversation.run(phase)).await;
}

/// The host that a client asked for in its handshake (SNI).
fn host(quic: &quinn::Connection) -> Option<String> {
    let data = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
    data.server_name
}

/// A connection and its requests.
struct Conversation {
    connection: h3::server::Connection<Connection, Bytes>,
    streams: Streams,
    client: Arc<Client>,
    core: Arc<Core>,
    requests: JoinSet<()>,
    asked: usize,
    parting: Parting,
    /// The client has said that no more requests will come.
    asks_no_more: bool,
}

/// How far a connection is on its way to its end (RFC 9114, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// It goes on.
    No,
    /// The client is asked to go on elsewhere; what is on its way is served,
    /// until this moment.
    Asked(Instant),
    /// It is told which requests are served, and may go, until this moment.
    Told(Instant),
}

impl Conversation {
    /// Takes requests until the client or the phase ends it. What is being
    /// served then is dropped.
    async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        loop {
            let until = match self.parting {
                Parting::No => self.rests(),
                Parting::Asked(until) => Some(until),
                Parting::Told(until) => Some(until).filter(|_| self.requests.is_empty()),
            };
            if self.asks_no_more && self.requests.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                changed = phase.changed() => {
                    let now = *phase.borrow();
                    match (changed, now) {
                        (Ok(()), Phase::Serving) => {}
                        (Ok(()), Phase::Leaving | Phase::Draining) => self.ask_to_go().await,
                        (Ok(()), Phase::Closing) | (Err(_), _) => return,
                    }
                }
                accepted = self.connection.accept(), if !self.asks_no_more => match accepted {
                    Ok(Some(resolver)) => self.begin(resolver).await,
                    Ok(None) => self.asks_no_more = true,
                    Err(_) => return,
                },
                Some(_) = self.requests.join_next() => {}
                () = at(until) => match self.parting {
                    Parting::No => self.ask_to_go().await,
                    Parting::Asked(_) => self.tell_to_go().await,
                    Parting::Told(_) => return,
                },
            }
        }
    }

    /// Until when a client is waited for that asks nothing.
    fn rests(&self) -> Option<Instant> {
        let waits = self.client.waits(self.core.patience);
        let waits = waits.filter(|_| self.requests.is_empty());
        waits.map(|(_, until)| until)
    }

    async fn begin(&mut self, resolver: RequestResolver<Connection, Bytes>) {
        let (core, client) = (Arc::clone(&self.core), Arc::clone(&self.client));
        let serving = serve_request(resolver, self.streams.clone(), core, client);
        // A client that has no room for its answer is not waited for for ever.
        let serving = timeout(self.core.stream_timeout, serving);
        self.requests.spawn(async move {
            let _too_long = serving.await;
        });
        self.asked += 1;
        if self.asked >= REQUESTS_MAX {
            self.ask_to_go().await;
        }
    }

    /// Asks the client to go on elsewhere, and serves what is on its way.
    async fn ask_to_go(&mut self) {
        if self.parting != Parting::No {
            return;
        }
        // h3 counts from the last request. Before the first one nothing can be
        // said that would not refuse it.
        if self.asked > 0 {
            let _lost = timeout(GOODBYE, self.connection.shutdown(MANY)).await;
        }
        self.parting = Parting::Asked(Instant::now() + GOODBYE);
    }

    /// Tells the client that requests after those that came are not served.
    async fn tell_to_go(&mut self) {
        self.streams.close();
        // The id is the first one that is not served: the next one, and
        // without any the first.
        let _lost = timeout(GOODBYE, self.connection.shutdown(1)).await;
        self.parting = Parting::Told(Instant::now() + GOODBYE);
    }
}

/// Returns at this moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// A request whose head has come.
struct Asked {
    request: Request<RequestBody>,
    sending: RequestStream<Sending<Bytes>, Bytes>,
    /// Ready when the client does not want the answer any more.
    left: Left,
}

/// Reads a request's head. None if its stream is not known.
///
/// # Errors
/// It is none that HTTP/3 allows.
async fn receive(
    resolver: RequestResolver<Connection, Bytes>,
    streams: &Streams,
) -> Result<Option<Asked>, StreamError> {
    let (request, stream) = resolver.resolve_request().await?;
    let Some(Facts { allowance, left }) = streams.take(stream.send_id()) else {
        return Ok(None);
    };
    let (sending, receiving) = stream.split();
    let body = QuicBody {
        receiving,
        allowance,
    };
    let request = request.map(|()| RequestBody::Quic(Box::new(body)));
    Ok(Some(Asked {
        request,
        sending,
        left,
    }))
}

async fn serve_request(
    resolver: RequestResolver<Connection, Bytes>,
    streams: Streams,
    core: Arc<Core>,
    client: Arc<Client>,
) {
    let received = timeout(core.patience.head, receive(resolver, &streams)).await;
    let Ok(Ok(asked)) = received else {
        return core.metrics.unread().inc();
    };
    let Some(Asked {
        request,
        mut sending,
        mut left,
    }) = asked
    else {
        return;
    };
    let response = tokio::select! {
        biased;
        Ok(response) = service::serve(core, client, request) => response,
        () = &mut left => return,
    };
    match send(&mut sending, response).await {
        // A connection that is closed forgets what has not arrived.
        Ok(()) => left.await,
        Err(NotSent) => sending.stop_stream(Code::H3_INTERNAL_ERROR),
    }
}

/// The answer was cut, or the client does not want it.
struct NotSent;

async fn send(
    stream: &mut RequestStream<Sending<Bytes>, Bytes>,
    response: Response<Download>,
) -> Result<(), NotSent> {
    let (mut head, body) = response.into_parts();
    // hyper says it for the other protocols.
    head.headers.entry(DATE).or_insert_with(now);
    let head = Response::from_parts(head, ());
    stream.send_response(head).await.map_err(|_| NotSent)?;
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        let piece = frame.map_err(|_| NotSent)?.into_data();
        if let Ok(piece) = piece {
            stream.send_data(piece).await.map_err(|_| NotSent)?;
        }
    }
    stream.finish().await.map_err(|_| NotSent)
}

fn now() -> HeaderValue {
    let now = jiff::fmt::rfc2822::DateTimePrinter::new();
    let now = now.timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    let now = now.ok().and_then(|it| HeaderValue::try_from(it).ok());
    now.expect("this is no year beyond 9999")
}

/// A request's body as it comes over HTTP/3.
pub(crate) struct QuicBody {
    receiving: RequestStream<Receiving, Bytes>,
    allowance: Allowance,
}

impl fmt::Debug for QuicBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicBody").finish_non_exhaustive()
    }
}

impl QuicBody {
    /// The next piece; none at the end.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Refusal>>> {
        let piece = std::task::ready!(self.receiving.poll_recv_data(cx));
        Poll::Ready(match piece {
            Ok(None) => None,
            Ok(Some(mut piece)) => {
                let length = piece.remaining();
                self.allowance.fetch_add(length, Ordering::Relaxed);
                Some(Ok(piece.copy_to_bytes(length)))
            }
            Err(_) => Some(Err(Refusal::BodyAborted)),
        })
    }
}

impl Drop for QuicBody {
    /// What still comes of it is not wanted, and that is no error.
    fn drop(&mut self) {
        self.receiving.stop_sending(Code::H3_NO_ERROR);
    }
}
