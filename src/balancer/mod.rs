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
mod health;
mod http1;
mod http2;
mod hygiene;
mod journey;
mod metrics;
mod node;
mod nodes;
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

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config;
use crate::net::{ListenError, tcp_listener};

use self::cache::{Cache, keep_fresh};
use self::core::{Core, Current, Tenure};
use self::metrics::Metrics;
use self::renewal::with_limits;
use self::secure::PROTOCOLS;
use self::server::{CLIENTS_MAX, HANDSHAKES_MAX, Phase, Speech, Tls, accept};
use self::site::{Certificate, Site};

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
    drain_timeout: Duration,
}

/// Sees how a balancer is doing while it runs.
#[derive(Debug, Clone)]
pub struct Observer {
    current: Arc<Current>,
    metrics: Arc<Metrics>,
    cache: Arc<Cache>,
    pressure: Pressure,
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
    /// Looks up the nodes, opens the access log and listens. Blocks for the
    /// look-ups; accepts nobody before [`Balancer::run`].
    ///
    /// # Errors
    /// What cannot be had, with the setting that asks for it.
    pub fn bind(settings: &config::Balancer) -> io::Result<Balancer> {
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
            drain_timeout: drain_timeout.unwrap_or(settings.request_timeout),
        };
        balancer.listen(settings)?;
        Ok(balancer)
    }

    fn listen(&mut self, settings: &config::Balancer) -> io::Result<()> {
        if settings.listen.is_empty() && settings.https_listen.is_empty() {
            return Err(invalid("balancer.listen", "name an address to listen on"));
        }
        for address in &settings.listen {
            let listener = listener("balancer.listen", *address)?;
            self.listeners.push((listener, Speech::Plain));
        }
        if settings.https_listen.is_empty() {
            return Ok(());
        }
        let certificate = Certificate::find(settings)?;
        let offer = certificate.identity.over_tcp(&PROTOCOLS);
        let offer = offer.map_err(io::Error::other)?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        for address in &settings.https_listen {
            let listener = listener("balancer.https_listen", *address)?;
            // The same port, also where the system chose it.
            let address = listener.local_addr()?;
            let site = Arc::new(Site::new(address.port(), settings.http3, &settings.domain));
            if settings.http3 {
                let (identity, patience) = (&certificate.identity, self.core.patience);
                let bound = h3::Listener::bind(address, identity, Arc::clone(&site), patience);
                let bound = bound.map_err(|error| {
                    let problem = format!(
                        "balancer.https_listen: cannot listen on UDP {address}: {error}; \
                         free it or set http3 to 0"
                    );
                    io::Error::new(error.kind(), problem)
                })?;
                self.http3.push(bound);
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

    /// Offers its counters (`pgweir_http_*`) to a registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.core.metrics.register(registry)
    }

    /// Sees how it is doing, also while it runs.
    pub fn observer(&self) -> Observer {
        let core = &self.core;
        Observer {
            current: Arc::clone(&core.current),
            metrics: Arc::clone(&core.metrics),
            cache: Arc::clone(&core.cache),
            pressure: core.pressure.clone(),
        }
    }

    /// Serves until `shutdown` is done. Then accepts nobody any more, lets
    /// requests finish until their deadlines, and closes what is left.
    /// Dropping the future closes everything at once.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let (phase, phases) = watch::channel(Phase::Serving);
        let slots = Arc::new(Semaphore::new(CLIENTS_MAX as usize));
        let mut tasks = JoinSet::new();
        tasks.spawn(renewal::check_nodes(Arc::clone(&self.core)));
        let core = Arc::clone(&self.core);
        tasks.spawn(keep_fresh(move || core.latest()));
        for (listener, speech) in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            let (core, slots) = (Arc::clone(&self.core), Arc::clone(&slots));
            tasks.spawn(accept(listener, speech, core, slots, phases.clone()));
        }
        for listener in self.http3 {
            let (core, slots) = (Arc::clone(&self.core), Arc::clone(&slots));
            tasks.spawn(listener.serve(core, slots, phases.clone()));
        }
        if let Some(certificate) = self.certificate {
            tasks.spawn(certificate.follow(Arc::clone(&self.core.metrics)));
        }
        shutdown.await;
        phase.send_replace(Phase::Draining);
        tracing::info!("HTTP clients are let finish");
        let all_gone = slots.acquire_many(CLIENTS_MAX);
        if tokio::time::timeout(self.drain_timeout, all_gone)
            .await
            .is_err()
        {
            tracing::warn!("closing HTTP clients that did not finish in time");
            phase.send_replace(Phase::Closing);
            let all_gone = slots.acquire_many(CLIENTS_MAX);
            let _left = tokio::time::timeout(CLOSE_TIMEOUT, all_gone).await;
        }
        tasks.shutdown().await;
        drop(self.tenure);
        Ok(())
    }
}

impl Observer {
    /// Returns when the answers that are kept from the start on were fetched
    /// once, well or badly. Each fetch has its deadline.
    pub async fn warmed(&self) {
        let mut warmed = self.cache.warmed();
        let _gone = warmed.wait_for(|it| *it).await;
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

fn listener(setting: &str, address: SocketAddr) -> io::Result<std::net::TcpListener> {
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
