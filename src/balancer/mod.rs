//! The HTTP balancer: a thin reverse proxy in front of a few equal nodes of
//! one application, whose death it hides.
//!
//! A request's way: `server` accepts the client and finds out what it speaks;
//! `http1`, where `framing` looks on, `http2` or `h3` reads the request, all
//! others are alike for all protocols. `policy` judges it, `route` names it, `hygiene`
//! cleans its headers, `upload` takes its body; `journey` gets a node from
//! `nodes`, makes an `attempt`, and if that fails asks `retry` whether it may
//! make another; `download` passes the answer on, and when that has ended,
//! `exchange` counts and logs the request.
//!
//! What decides is pure, with time as an argument: `policy`, `route`,
//! `framing`, `health`, `queue`, `retry`. What waits has a deadline, what
//! queues has a bound.
//!
//! It speaks HTTP/1.1, 1.0, 2 and 3 to clients and HTTP/1.1 to nodes.

mod access_log;
#[cfg_attr(not(feature = "acme"), path = "without_acme.rs")]
mod acme;
mod attempt;
mod body;
mod cache;
mod check;
mod client;
mod connection;
mod core;
mod download;
mod drive;
mod exchange;
mod failure;
mod forwarded;
mod framing;
mod front;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod h3;
mod handover;
mod health;
mod hedge;
mod http1;
mod http2;
mod hygiene;
mod journey;
mod metrics;
mod node;
mod nodes;
mod pace;
mod policy;
mod pressure;
mod proxy;
mod queue;
mod rate;
mod recent;
mod refusal;
mod renewal;
mod request_id;
mod retry;
mod route;
mod secure;
mod server;
mod service;
mod site;
mod timer;
mod trail;
mod tunnel;
mod upload;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config;
use crate::net::{ListenError, tcp_listener};

use self::cache::{Cache, keep_fresh};
use self::core::{Core, Current, Tenure};
use self::handover::{FAREWELL, Sockets};
use self::metrics::Metrics;
use self::renewal::with_limits;
use self::server::{CLIENTS_MAX, HANDSHAKES_MAX, Phase, Speech, Tls, accept};
use self::site::{Certificate, Site};

pub use self::handover::Inherited;
pub use self::pressure::Pressure;
pub use self::renewal::Renewal;

/// Connections the kernel holds for this process to accept.
const BACKLOG: i32 = 1024;

/// Time for connections to close after they were told to.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A balancer that listens and is ready to run.
#[derive(Debug)]
pub struct Balancer {
    core: Arc<Core>,
    /// Ends with it, however it ends.
    tenure: Tenure,
    listeners: Vec<(std::net::TcpListener, Speech)>,
    http3: Vec<h3::Listener>,
    /// What `https_listen` shows.
    certificate: Option<Certificate>,
    sockets: Arc<Sockets>,
    drain_timeout: Duration,
}

/// What a balancer is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Look at the nodes, fetch what is kept, and accept nobody.
    Wait,
    /// Serve.
    Serve,
    /// Another process serves from now on: have clients go there, and end.
    Leave,
    /// Let clients finish, and end.
    Drain,
}

/// Sees how a balancer is doing while it runs.
#[derive(Debug, Clone)]
pub struct Observer {
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    pressure: Pressure,
    sockets: Arc<Sockets>,
}

/// How a balancer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests whose answer has ended.
    pub requests: u64,
    /// Those answered with a status of 500 or above, or cut by a node.
    pub errors: u64,
    /// Median duration of the last five seconds' requests.
    pub p50: Option<Duration>,
    /// Ninth decile of the same.
    pub p90: Option<Duration>,
    /// Nodes whose checks are good.
    pub healthy_nodes: usize,
    /// All nodes.
    pub nodes: usize,
}

impl Balancer {
    /// Finds what [`Balancer::bind`] would say of these settings whatever the
    /// machine and the network are like. Asks neither.
    ///
    /// # Errors
    /// What is wrong, with the setting, as `setting: what; remedy`.
    pub fn check(settings: &config::Balancer) -> io::Result<()> {
        renewal::read(settings).map(drop)
    }

    /// Looks up the nodes, opens the access log and listens, where it can with
    /// what it inherits. Blocks for the look-ups; accepts nobody before
    /// [`Balancer::run`].
    ///
    /// # Errors
    /// What cannot be had, with the setting that asks for it.
    pub fn bind(settings: &config::Balancer, mut inherited: Inherited) -> io::Result<Balancer> {
        let settings = &with_limits(settings);
        let core = renewal::build(settings, None)?;
        let drain_timeout = core.routes.iter().map(|it| it.timeout).max();
        core.cache.adopt(&core.routes, settings.cache_size);
        let core = Arc::new(core);
        let mut balancer = Balancer {
            tenure: Tenure::begin(&core),
            core,
            listeners: Vec::new(),
            http3: Vec::new(),
            certificate: None,
            sockets: Arc::new(Sockets::new(inherited.lineage())),
            drain_timeout: drain_timeout.unwrap_or(settings.request_timeout),
        };
        balancer.listen(settings, &mut inherited)?;
        inherited.enter(&balancer.core);
        Ok(balancer)
    }

    fn listen(&mut self, settings: &config::Balancer, inherited: &mut Inherited) -> io::Result<()> {
        let plain = inherited.addresses(&settings.listen, false);
        let secure = inherited.addresses(&settings.https_listen, true);
        if plain.is_empty() && secure.is_empty() {
            return Err(invalid("balancer.listen", "name an address to listen on"));
        }
        for address in &plain {
            let listener = inherited.listener(*address, false);
            let listener = listener.map_or_else(|| listener_at("balancer.listen", *address), Ok)?;
            self.sockets.hold(&listener, false)?;
            self.listeners.push((listener, Speech::Plain));
        }
        if secure.is_empty() {
            return Ok(());
        }
        let certificate = Certificate::find(settings)?;
        let offer = certificate.identity.over_tcp(&certificate.protocols);
        let offer = offer.map_err(io::Error::other)?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        for address in &secure {
            let listener = inherited.listener(*address, true);
            let new = || listener_at("balancer.https_listen", *address);
            let listener = listener.map_or_else(new, Ok)?;
            self.sockets.hold(&listener, true)?;
            // The same port, also where the system chose it.
            let address = listener.local_addr()?;
            let site = Arc::new(Site::new(address.port(), settings.http3, &settings.domain));
            if settings.http3 {
                let port = inherited.port(address);
                self.listen_http3(address, port, &certificate, &site)?;
            }
            let tls = Tls {
                offer: offer.clone(),
                site,
                handshakes: Arc::clone(&handshakes),
            };
            self.listeners.push((listener, Speech::Tls(tls)));
        }
        certificate.tell(&self.core.metrics);
        self.certificate = Some(certificate);
        Ok(())
    }

    fn listen_http3(
        &mut self,
        address: SocketAddr,
        port: Option<(UdpSocket, Vec<h3::Elder>)>,
        certificate: &Certificate,
        site: &Arc<Site>,
    ) -> io::Result<()> {
        let port = match port {
            Some(port) => port,
            None => {
                let bound = h3::bind(address).map_err(|error| {
                    let problem = format!(
                        "balancer.https_listen: cannot listen on UDP {address}: {error}; \
                         free it or set http3 to 0"
                    );
                    io::Error::new(error.kind(), problem)
                })?;
                (bound, Vec::new())
            }
        };
        let (identity, patience) = (&certificate.identity, self.core.patience);
        let lineage = self.sockets.lineage();
        let site = Arc::clone(site);
        let listener = h3::Listener::new(port, identity, site, patience, lineage)?;
        self.sockets.hold_port(listener.seat());
        self.http3.push(listener);
        Ok(())
    }

    /// Where it listens over TCP, in the order of the settings, `listen` before
    /// `https_listen`; with the ports the system chose for those that were
    /// given as 0.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |(it, _): &(std::net::TcpListener, Speech)| it.local_addr().ok();
        self.listeners.iter().filter_map(address).collect()
    }

    /// Where it listens, as a person reads it.
    pub fn places(&self) -> Vec<String> {
        let place = |(it, speech): &(std::net::TcpListener, Speech)| {
            let address = it.local_addr().ok()?;
            Some(match speech {
                Speech::Plain => format!("{address} (http)"),
                Speech::Tls(_) => format!("{address} (https)"),
            })
        };
        self.listeners.iter().filter_map(place).collect()
    }

    /// Sees how it is doing, also while it runs.
    pub fn observer(&self) -> Observer {
        let core = &self.core;
        Observer {
            current: Arc::clone(&core.current),
            metrics: Arc::clone(&core.metrics),
            cache: Arc::clone(&core.cache),
            pressure: core.pressure.clone(),
            sockets: Arc::clone(&self.sockets),
        }
    }

    /// Does what it is told. From [`Order::Serve`] on it serves; from
    /// [`Order::Leave`] on it accepts nobody any more, has called `left` then,
    /// and bids its clients farewell; from [`Order::Drain`] on, and when nobody
    /// is left to give orders, it lets requests finish until their deadlines
    /// and closes what is left. Dropping the future closes everything at once.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub async fn run(
        self,
        mut orders: watch::Receiver<Order>,
        left: impl FnOnce(),
    ) -> io::Result<()> {
        let (phase, phases) = watch::channel(Phase::Serving);
        let slots = Arc::new(Semaphore::new(CLIENTS_MAX as usize));
        let (mut tasks, mut doors) = (JoinSet::new(), JoinSet::new());
        tasks.spawn(renewal::check_nodes(Arc::clone(&self.core)));
        let core = Arc::clone(&self.core);
        tasks.spawn(keep_fresh(move || core.latest()));
        let mut acme = None;
        if let Some(mut certificate) = self.certificate {
            acme = certificate.acme.take();
            tasks.spawn(certificate.follow(Arc::clone(&self.core.metrics)));
        }
        if next(&mut orders, Order::Wait).await == Order::Serve {
            for (listener, speech) in self.listeners {
                let listener = TcpListener::from_std(listener)?;
                let (core, slots) = (Arc::clone(&self.core), Arc::clone(&slots));
                doors.spawn(accept(listener, speech, core, slots, phases.clone()));
            }
            for listener in self.http3 {
                let (core, slots) = (Arc::clone(&self.core), Arc::clone(&slots));
                doors.spawn(listener.serve(core, slots, phases.clone()));
            }
            // An authority that is asked for a certificate comes to see.
            if let Some(acme) = acme {
                let (metrics, slots) = (Arc::clone(&self.core.metrics), Arc::clone(&slots));
                tasks.spawn(acme.keep(metrics, slots, phases.clone()));
            }
        }
        let order = next(&mut orders, Order::Serve).await;
        let end = Instant::now() + self.drain_timeout;
        if order == Order::Leave && self.sockets.are_told() {
            self.sockets.leave();
            phase.send_replace(Phase::Leaving);
            left();
            tracing::info!("HTTP clients go on with another process");
            let all_gone = slots.acquire_many(CLIENTS_MAX);
            let limit = FAREWELL.min(self.drain_timeout);
            let _left = tokio::time::timeout(limit, all_gone).await;
        } else {
            left();
            tracing::info!("HTTP clients are let finish");
        }
        self.sockets.close();
        phase.send_replace(Phase::Draining);
        let all_gone = slots.acquire_many(CLIENTS_MAX);
        if tokio::time::timeout_at(end.into(), all_gone).await.is_err() {
            tracing::warn!("closing HTTP clients that did not finish in time");
            phase.send_replace(Phase::Closing);
            let all_gone = slots.acquire_many(CLIENTS_MAX);
            let _left = tokio::time::timeout(CLOSE_TIMEOUT, all_gone).await;
        }
        // The last words of QUIC connections are still to leave.
        let closed = async { while doors.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        doors.shutdown().await;
        tasks.shutdown().await;
        drop(self.tenure);
        Ok(())
    }
}

/// The order after this one; to end if nobody gives any more.
async fn next(orders: &mut watch::Receiver<Order>, last: Order) -> Order {
    match orders.wait_for(|order| *order != last).await {
        Ok(order) => *order,
        Err(_gone) => Order::Drain,
    }
}

impl Observer {
    /// Offers its counters (`pgweir_http_*`) to a registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.metrics.register(registry)
    }

    /// Returns when the answers that are kept from the start on were fetched
    /// once, well or badly. Each fetch has its deadline.
    pub async fn warmed(&self) {
        let mut warmed = self.cache.warmed();
        let _gone = warmed.wait_for(|it| *it).await;
    }

    /// Returns when each node was checked once, well or badly.
    pub async fn checked(&self) {
        if let Some(core) = self.current.get() {
            core.nodes.checked().await;
        }
    }

    /// Where it is told how busy the pooler is.
    pub fn pressure(&self) -> Pressure {
        self.pressure.clone()
    }

    /// Makes what takes the place of what runs, with other settings. Blocks
    /// for looking up nodes that were not there before.
    ///
    /// # Errors
    /// What cannot be had, with the setting that asks for it. Nothing changes.
    pub fn renew(&self, settings: &config::Balancer) -> io::Result<Renewal> {
        Renewal::new(&self.current, settings)
    }

    /// How it is doing now. Cheap enough for a line a second.
    pub fn snapshot(&self) -> Snapshot {
        let (requests, errors) = self.metrics.totals();
        let recent = self.metrics.recent();
        let core = self.current.get();
        let nodes = core.as_ref().map(|core| &core.nodes);
        Snapshot {
            requests,
            errors,
            p50: recent.map(|[p50, _]| p50),
            p90: recent.map(|[_, p90]| p90),
            healthy_nodes: nodes.map_or(0, |it| it.up()),
            nodes: nodes.map_or(0, |it| it.len()),
        }
    }
}

fn listener_at(setting: &str, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    tcp_listener(address, BACKLOG, false).map_err(|error| {
        let kind = match &error {
            ListenError::Tcp { error, .. } => error.kind(),
            _ => io::ErrorKind::Other,
        };
        let problem = format!("{setting}: {error}; free the address or name another");
        io::Error::new(kind, problem)
    })
}

fn invalid(setting: &str, problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{setting}: {problem}"))
}
