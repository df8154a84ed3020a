//! The balancer between real sockets: clients that write bytes, and nodes
//! that do what their script says.

mod caching;
mod client;
mod failover;
mod front;
mod handover;
mod hedging;
mod limits;
mod messages;
mod modes;
mod node;
mod operations;
mod proxied;
mod refusals;
mod renewal;
mod tunnels;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::client::{Answer, Client};
use self::node::{Node, Reply, answer};
use super::{Balancer, Inherited, Observer, Order, Snapshot};
use crate::config;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Longest time a test waits for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Settings for tests: checks are quick, deadlines are not met by accident.
fn settings(nodes: &[&Node]) -> config::Balancer {
    let node = |(place, node): (usize, &&Node)| {
        let address = node.address().to_string();
        (format!("n{place}"), config::Node { address })
    };
    config::Balancer {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        https_listen: Vec::new(),
        http3: false,
        tls_cert_file: None,
        tls_key_file: None,
        domain: Vec::new(),
        acme: false,
        acme_directory: String::new(),
        acme_contact: Vec::new(),
        acme_ca_file: None,
        acme_challenge: String::new(),
        state_dir: None,
        proxy_protocol_from: Vec::new(),
        trusted_proxies: Vec::new(),
        forwarded: false,
        tunnel_timeout: 10 * SECOND,
        nodes: nodes.iter().enumerate().map(node).collect(),
        routes: BTreeMap::new(),
        health: config::Health {
            path: "/ping".to_owned(),
            body: Some("pong".to_owned()),
            interval: 50 * MS,
            fast_interval: 10 * MS,
            timeout: SECOND,
            rise: 2,
            fall: 2,
        },
        connect_timeout: SECOND,
        request_timeout: 10 * SECOND,
        header_timeout: 10 * SECOND,
        keepalive_timeout: 10 * SECOND,
        body_timeout: 10 * SECOND,
        max_in_flight: 100,
        queue_size: 100,
        queue_timeout: 5 * SECOND,
        slow_start: SECOND,
        max_body: 1024 * 1024,
        client_rate: 0,
        client_burst: 0,
        shed_pool_waiting: 0,
        cache_size: 1024 * 1024,
        access_log: None,
        ..config::Balancer::default()
    }
}

/// The same for tests elsewhere, which ask no node.
pub(super) fn settings_without_nodes() -> config::Balancer {
    settings(&[])
}

/// A balancer that runs until it is dropped or stopped.
struct Running {
    address: SocketAddr,
    /// Where HTTPS is served, if it is.
    secure: Option<SocketAddr>,
    observer: Observer,
    registry: prometheus::Registry,
    orders: watch::Sender<Order>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    fn start(settings: &config::Balancer) -> Running {
        Running::after(settings, Inherited::default(), Order::Serve)
    }

    fn after(settings: &config::Balancer, inherited: Inherited, order: Order) -> Running {
        let balancer = Balancer::bind(settings, inherited).expect("everything is there");
        let registry = prometheus::Registry::new();
        let registered = balancer.observer().register(&registry);
        registered.expect("the names are new");
        let (orders, ordered) = watch::channel(order);
        Running {
            address: balancer.addresses()[0],
            secure: balancer.addresses().get(1).copied(),
            observer: balancer.observer(),
            registry,
            orders,
            task: tokio::spawn(balancer.run(ordered, || {})),
        }
    }

    /// Runs, and all nodes are up.
    async fn ready(settings: &config::Balancer) -> Running {
        let running = Running::start(settings);
        running.until(|it| it.healthy_nodes == it.nodes).await;
        running
    }

    /// Waits until the balancer is in such a state.
    async fn until(&self, holds: impl Fn(Snapshot) -> bool) {
        eventually("the balancer's state", || holds(self.observer.snapshot())).await;
    }

    /// Asks for the drain; the balancer goes on running.
    fn begin_to_stop(&self) {
        self.orders.send_replace(Order::Drain);
    }

    fn secure(&self) -> SocketAddr {
        self.secure.expect("HTTPS is served")
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// The answer to one request on a connection of its own.
    async fn get(&self, target: &str) -> Answer {
        self.client().await.get(target).await
    }

    /// The answer to a request with a body on a connection of its own.
    async fn post(&self, target: &str, body: &str) -> Answer {
        self.client().await.post(target, body).await
    }

    /// The sum of a metric's rows that have these labels.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|it| it.name() == name);
        let rows = family.unwrap_or_else(|| panic!("no {name}")).get_metric();
        let has = |row: &&prometheus::proto::Metric, (name, value): &(&str, &str)| {
            let mut pairs = row.get_label().iter();
            pairs.any(|it| it.name() == *name && it.value() == *value)
        };
        rows.iter()
            .filter(|row| labels.iter().all(|label| has(row, label)))
            .map(|row| row.get_counter().get_value() + row.get_gauge().get_value())
            .sum()
    }
}

/// Waits until something holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(MS).await;
    }
}

/// What has to happen, within [`PATIENCE`].
async fn in_time<F: Future>(what: &str, happens: F) -> F::Output {
    let result = tokio::time::timeout(PATIENCE, happens).await;
    result.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

fn route(path: &str, replay: config::Replay) -> config::Route {
    config::Route {
        path: path.to_owned(),
        replay,
        ..config::Route::default()
    }
}
