//! What the balancer counts.
//!
//! Every label value is known when the balancer is built: routes, nodes and
//! the words below. Handles are looked up once; counting is an atomic add.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::{Method, Version};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::cache::{Counts, Lookup};
use super::health::State;
use super::rate::LimitedBy;
use super::recent::Recent;
use super::refusal::Refusal;
use super::retry::Proof;
use super::route::{RouteId, Routes};

/// Upper edges of the latency histograms, in seconds. 0.4 s and 1 s are what
/// the application is measured by.
const EDGES: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.5, 5.0, 10.0, 20.0,
];

/// Upper edges of the ages of kept answers, in seconds.
const AGE_EDGES: [f64; 11] = [
    1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 55.0, 60.0, 300.0,
];

/// Methods with a label of their own; the rest is `other`.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// Status codes whose handles are kept; others are looked up each time.
const CODES: [u16; 24] = [
    200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 403, 404, 405, 408, 409, 413, 429, 499,
    500, 501, 502, 503, 504,
];

const PROTOCOLS: [&str; 4] = ["http/1.0", "http/1.1", "http/2", "http/3"];

/// Why a request was not let wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shed {
    /// `queue_size` requests waited already.
    QueueFull,
    /// It waited for `queue_timeout`.
    QueueTimeout,
    /// Too many clients of the pooler wait for a server.
    PoolerBusy,
}

/// What came of fetching an answer for the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// It is kept.
    Stored,
    /// What is kept still holds.
    Renewed,
    /// It went to those who waited for it, and is not kept.
    Shared,
    /// It varies with more than it was asked for with.
    Varies,
    /// It may be given to nobody who did not ask for it.
    Private,
    /// There was none.
    Failed,
    /// Another balancer had it, and it is kept.
    Taken,
}

impl Fill {
    /// The metric labels, in order.
    const LABELS: [&str; 7] = [
        "stored", "renewed", "shared", "varies", "private", "failed", "taken",
    ];
}

/// Who cut an answer short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutBy {
    /// The node, or a deadline on it.
    Node,
    /// The client went away.
    Client,
}

/// An open tunnel; it is counted until this is dropped.
pub(crate) struct OpenTunnel(IntGauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All counters.
pub(crate) struct Metrics {
    families: Arc<Families>,
    totals: Arc<Totals>,
    routes: Vec<RouteMetrics>,
    nodes: Vec<NodeMetrics>,
    refused: Vec<IntCounter>,
    shed: [IntCounter; 3],
}

/// What all routes together have served.
#[derive(Debug)]
struct Totals {
    begun: Instant,
    requests: AtomicU64,
    errors: AtomicU64,
    recent: Recent,
}

/// A route's handles.
#[derive(Debug)]
struct RouteMetrics {
    name: String,
    duration: Histogram,
    queued: Histogram,
    retries: [IntCounter; Proof::ALL.len()],
    hedges: [IntCounter; 2],
    replay_refused: IntCounter,
    retry_denied: IntCounter,
    limited: [IntCounter; 2],
    cut: [IntCounter; 2],
    cache: Option<CacheMetrics>,
    /// By protocol, method and code.
    requests: Box<[OnceLock<IntCounter>]>,
}

/// The handles of a route whose answers are kept.
#[derive(Debug)]
struct CacheMetrics {
    lookups: [IntCounter; Lookup::ALL.len()],
    fills: [IntCounter; Fill::LABELS.len()],
    age: Histogram,
}

/// A node's handles.
#[derive(Debug)]
pub(crate) struct NodeMetrics {
    name: String,
    /// Requests at the node.
    pub(crate) in_flight: IntGauge,
    /// Time to the head of an answer.
    pub(crate) answer: Histogram,
    /// Connections made.
    pub(crate) connections: IntCounter,
    /// Good checks, bad checks.
    pub(crate) checks: [IntCounter; 2],
    states: [IntGauge; State::ALL.len()],
    codes: [OnceLock<IntCounter>; CODES.len()],
}

/// One family for each metric.
struct Families {
    requests: IntCounterVec,
    duration: HistogramVec,
    queued: HistogramVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    replay_refused: IntCounterVec,
    retry_denied: IntCounterVec,
    limited: IntCounterVec,
    cut: IntCounterVec,
    refused: IntCounterVec,
    unread: IntCounter,
    shed: IntCounterVec,
    in_flight: IntGauge,
    queue: IntGauge,
    clients: IntGauge,
    log_dropped: IntCounter,
    handshakes_failed: IntCounter,
    floods: IntCounter,
    proxy_headers_missed: IntCounter,
    tunnels: IntGauge,
    tunnels_opened: IntCounter,
    certificate_expires: IntGauge,
    certificate_stale: IntGauge,
    certificate_orders: IntCounterVec,
    certificate_issued: IntGauge,
    certificate_due: IntGauge,
    cache_requests: IntCounterVec,
    cache_fills: IntCounterVec,
    cache_age: HistogramVec,
    cache_age_max: Gauge,
    cache_bytes: IntGauge,
    cache_answers: IntGauge,
    shared_looks: IntCounterVec,
    shared_leases: IntCounterVec,
    shared_writes: IntCounterVec,
    shared_errors: IntCounterVec,
    shared_up: IntGauge,
    node_requests: IntCounterVec,
    node_answer: HistogramVec,
    node_in_flight: IntGaugeVec,
    node_state: IntGaugeVec,
    node_connections: IntCounterVec,
    node_checks: IntCounterVec,
    /// The same once more, to be registered.
    all: Arc<Vec<Box<dyn Collector>>>,
}

impl Families {
    #[rustfmt::skip]
    fn new() -> prometheus::Result<Families> {
        let mut all = Vec::new();
        Ok(Families {
            requests: kept(&mut all, counters("pgweir_http_requests_total", "Requests, when their answer has ended.", &["route", "method", "code", "proto"]))?,
            duration: kept(&mut all, histograms("pgweir_http_request_duration_seconds", "From a request's arrival to the end of its answer.", &["route"]))?,
            queued: kept(&mut all, histograms("pgweir_http_queue_seconds", "Time a request waited for a node, if it waited.", &["route"]))?,
            retries: kept(&mut all, counters("pgweir_http_retries_total", "Requests sent again, by what allowed it.", &["route", "proof"]))?,
            hedges: kept(&mut all, counters("pgweir_http_hedges_total", "Requests that a second node was asked for too, by whose answer came first.", &["route", "won"]))?,
            replay_refused: kept(&mut all, counters("pgweir_http_replay_refused_total", "Failed requests that were not sent again because they may have been delivered.", &["route"]))?,
            retry_denied: kept(&mut all, counters("pgweir_http_retry_budget_exhausted_total", "Failed requests that were not sent again because too many were, or every node had failed.", &["route"]))?,
            limited: kept(&mut all, counters("pgweir_http_rate_limited_total", "Requests answered with 429, by whose limit it was.", &["route", "by"]))?,
            cut: kept(&mut all, counters("pgweir_http_responses_cut_total", "Answers that ended early, by who ended them.", &["route", "by"]))?,
            refused: kept(&mut all, counters("pgweir_http_refused_total", "Requests refused without asking a node.", &["reason"]))?,
            unread: kept(&mut all, IntCounter::new("pgweir_http_unreadable_total", "Connections ended because what came was not HTTP, or not in time."))?,
            shed: kept(&mut all, counters("pgweir_http_shed_total", "Requests refused because every node, or the pooler, was busy.", &["reason"]))?,
            in_flight: kept(&mut all, IntGauge::new("pgweir_http_requests_in_flight", "Requests whose answer has not ended."))?,
            queue: kept(&mut all, IntGauge::new("pgweir_http_queue_length", "Requests waiting for a node."))?,
            clients: kept(&mut all, IntGauge::new("pgweir_http_client_connections", "Open client connections."))?,
            log_dropped: kept(&mut all, IntCounter::new("pgweir_http_access_log_dropped_total", "Access log lines dropped because the writer was behind."))?,
            handshakes_failed: kept(&mut all, IntCounter::new("pgweir_http_handshakes_failed_total", "TLS and QUIC handshakes of clients that failed or took too long."))?,
            floods: kept(&mut all, IntCounter::new("pgweir_http_floods_total", "Connections ended because the client left too many requests."))?,
            proxy_headers_missed: kept(&mut all, IntCounter::new("pgweir_http_proxy_headers_missed_total", "Connections from proxy_protocol_from ended because their PROXY header did not come, or was none."))?,
            tunnels: kept(&mut all, IntGauge::new("pgweir_http_tunnels", "Connections that left HTTP for another protocol and are open."))?,
            tunnels_opened: kept(&mut all, IntCounter::new("pgweir_http_tunnels_opened_total", "Connections that left HTTP for another protocol."))?,
            certificate_expires: kept(&mut all, IntGauge::new("pgweir_http_certificate_expires_seconds", "When the certificate ceases to hold, in seconds since 1970; 0 without HTTPS."))?,
            certificate_stale: kept(&mut all, IntGauge::new("pgweir_http_certificate_stale", "1 while the certificate's files cannot be used and the one before is shown."))?,
            certificate_orders: kept(&mut all, counters("pgweir_http_certificate_orders_total", "Orders of a certificate (acme), by what came of them.", &["result"]))?,
            certificate_issued: kept(&mut all, IntGauge::new("pgweir_http_certificate_issued_seconds", "When the certificate that an authority issued (acme) was had, in seconds since 1970; 0 while there is none that holds."))?,
            certificate_due: kept(&mut all, IntGauge::new("pgweir_http_certificate_due_seconds", "When a certificate is to be ordered next (acme), in seconds since 1970; 0 if none is."))?,
            cache_requests: kept(&mut all, counters("pgweir_cache_requests_total", "Requests on routes whose answers are kept, by what the cache did for them.", &["route", "result"]))?,
            cache_fills: kept(&mut all, counters("pgweir_cache_fills_total", "Answers fetched for the cache, by what came of it.", &["route", "result"]))?,
            cache_age: kept(&mut all, ages("pgweir_cache_served_age_seconds", "Age of answers from the cache when they were served, from when they were asked for.", &["route"]))?,
            cache_age_max: kept(&mut all, Gauge::new("pgweir_cache_served_age_max_seconds", "The greatest of these ages since the start."))?,
            cache_bytes: kept(&mut all, IntGauge::new("pgweir_cache_bytes", "Bytes of answers kept."))?,
            cache_answers: kept(&mut all, IntGauge::new("pgweir_cache_answers", "Answers kept."))?,
            shared_looks: kept(&mut all, counters("pgweir_cache_shared_requests_total", "Looks for an answer in the shared cache before a node is asked, by what was found; `future` tells of clocks that disagree.", &["result"]))?,
            shared_leases: kept(&mut all, counters("pgweir_cache_shared_leases_total", "Answers to be fetched for all balancers: here (`had`), by another one that was waited for (`waited`), or by another one that took too long (`given_up`).", &["result"]))?,
            shared_writes: kept(&mut all, counters("pgweir_cache_shared_writes_total", "What was to be written to the shared cache, by what came of it.", &["what", "result"]))?,
            shared_errors: kept(&mut all, counters("pgweir_cache_shared_errors_total", "Questions that the shared cache did not answer, or not well.", &["reason"]))?,
            shared_up: kept(&mut all, IntGauge::new("pgweir_cache_shared_up", "1 while the shared cache is asked; 0 while it is left alone after failures, and without one."))?,
            node_requests: kept(&mut all, counters("pgweir_http_upstream_requests_total", "Attempts at a node, by status code or by how far they came.", &["upstream", "code"]))?,
            node_answer: kept(&mut all, histograms("pgweir_http_upstream_answer_seconds", "From sending a request to the head of its answer.", &["upstream"]))?,
            node_in_flight: kept(&mut all, gauges("pgweir_http_upstream_in_flight", "Requests at a node.", &["upstream"]))?,
            node_state: kept(&mut all, gauges("pgweir_http_upstream_state", "1 for the state a node is in.", &["upstream", "state"]))?,
            node_connections: kept(&mut all, counters("pgweir_http_upstream_connections_total", "Connections made for requests.", &["upstream"]))?,
            node_checks: kept(&mut all, counters("pgweir_http_upstream_checks_total", "Health checks.", &["upstream", "result"]))?,
            all: Arc::new(all),
        })
    }
}

/// Puts a family on the list of all.
fn kept<C: Collector + Clone + 'static>(
    all: &mut Vec<Box<dyn Collector>>,
    family: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let family = family?;
    all.push(Box::new(family.clone()));
    Ok(family)
}

#[cfg_attr(
    not(feature = "acme"),
    expect(dead_code, reason = "without it no certificate is ordered")
)]
impl Metrics {
    /// A certificate was ordered, and issued or not.
    pub(crate) fn certificate_ordered(&self, issued: bool) {
        let result = if issued { "issued" } else { "failed" };
        let orders = &self.families.certificate_orders;
        orders.with_label_values(&[result]).inc();
    }

    /// There is one that was issued then, in seconds since 1970.
    pub(crate) fn certificate_issued(&self, seconds: u64) {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.families.certificate_issued.set(seconds);
    }

    /// The next is ordered then.
    pub(crate) fn certificate_due(&self, seconds: u64) {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.families.certificate_due.set(seconds);
    }
}

/// All families as one collector.
struct All(Arc<Vec<Box<dyn Collector>>>);

impl Collector for All {
    fn desc(&self) -> Vec<&Desc> {
        self.0.iter().flat_map(|family| family.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.iter().flat_map(|family| family.collect()).collect()
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn histograms(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(
        HistogramOpts::new(name, help).buckets(EDGES.to_vec()),
        labels,
    )
}

fn ages(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(
        HistogramOpts::new(name, help).buckets(AGE_EDGES.to_vec()),
        labels,
    )
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counters for these routes and nodes, all zero.
    pub(crate) fn new(routes: &Routes, nodes: &[&str]) -> prometheus::Result<Metrics> {
        let totals = Totals {
            begun: Instant::now(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            recent: Recent::new(),
        };
        let families = Arc::new(Families::new()?);
        Ok(Metrics::of(families, Arc::new(totals), routes, nodes))
    }

    /// The same counters for other routes and nodes. A node that has gone is
    /// in no state any more.
    pub(crate) fn renewed(&self, routes: &Routes, nodes: &[&str]) -> Metrics {
        let gone = self
            .nodes
            .iter()
            .filter(|it| !nodes.contains(&it.name.as_str()));
        for state in gone.flat_map(|node| &node.states) {
            state.set(0);
        }
        let (families, totals) = (Arc::clone(&self.families), Arc::clone(&self.totals));
        Metrics::of(families, totals, routes, nodes)
    }

    fn of(
        families: Arc<Families>,
        totals: Arc<Totals>,
        routes: &Routes,
        nodes: &[&str],
    ) -> Metrics {
        let refused =
            Refusal::ALL.map(|it| families.refused.with_label_values(&[it.notice().label]));
        Metrics {
            routes: routes
                .iter()
                .map(|it| RouteMetrics::new(&families, &it.name, it.cache.is_some()))
                .collect(),
            nodes: nodes
                .iter()
                .map(|it| NodeMetrics::new(&families, it))
                .collect(),
            refused: refused.into(),
            shed: ["queue_full", "queue_timeout", "pooler_busy"]
                .map(|it| families.shed.with_label_values(&[it])),
            families,
            totals,
        }
    }

    /// Offers everything to a registry.
    ///
    /// # Errors
    /// The registry has one of the names already.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(All(Arc::clone(&self.families.all))))
    }

    /// A node's handles.
    pub(crate) fn node(&self, node: usize) -> &NodeMetrics {
        &self.nodes[node]
    }

    /// Requests whose answer has not ended.
    pub(crate) fn in_flight(&self) -> &IntGauge {
        &self.families.in_flight
    }

    /// Requests waiting for a node.
    pub(crate) fn queue(&self) -> &IntGauge {
        &self.families.queue
    }

    /// Open client connections.
    pub(crate) fn clients(&self) -> &IntGauge {
        &self.families.clients
    }

    /// Access log lines dropped.
    pub(crate) fn log_dropped(&self) -> &IntCounter {
        &self.families.log_dropped
    }

    /// Connections that ended without a readable request.
    pub(crate) fn unread(&self) -> &IntCounter {
        &self.families.unread
    }

    /// A client's TLS or QUIC handshake failed.
    pub(crate) fn handshake_failed(&self) {
        self.families.handshakes_failed.inc();
    }

    /// A connection is ended because its client left too many requests.
    pub(crate) fn flooded(&self) {
        self.families.floods.inc();
    }

    /// A proxy did not say whose connection it is.
    pub(crate) fn proxy_header_missed(&self) {
        self.families.proxy_headers_missed.inc();
    }

    /// A client and a node left HTTP.
    pub(crate) fn tunnel_opens(&self) -> OpenTunnel {
        self.families.tunnels_opened.inc();
        self.families.tunnels.inc();
        OpenTunnel(self.families.tunnels.clone())
    }

    /// The certificate that is shown holds until then, in seconds since 1970.
    pub(crate) fn certificate_expires(&self, seconds: u64) {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.families.certificate_expires.set(seconds);
    }

    /// Whether the certificate's files hold another one, that cannot be used.
    pub(crate) fn certificate_is_stale(&self, stale: bool) {
        self.families.certificate_stale.set(i64::from(stale));
    }

    /// A request was refused without asking a node.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].inc();
    }

    /// A request was refused because every node was busy.
    pub(crate) fn shed(&self, shed: Shed) {
        self.shed[shed as usize].inc();
    }

    /// A request is sent again.
    pub(crate) fn retried(&self, route: RouteId, proof: Proof) {
        self.routes[route.0].retries[proof as usize].inc();
    }

    /// A second node was asked too; whose answer came first.
    pub(crate) fn hedged(&self, route: RouteId, is_second: bool) {
        self.routes[route.0].hedges[usize::from(is_second)].inc();
    }

    /// A failed request may have been delivered and is not sent again.
    pub(crate) fn replay_refused(&self, route: RouteId) {
        self.routes[route.0].replay_refused.inc();
    }

    /// The budget had no room for sending a failed request again.
    pub(crate) fn retry_denied(&self, route: RouteId) {
        self.routes[route.0].retry_denied.inc();
    }

    /// A request was one too many.
    pub(crate) fn limited(&self, route: RouteId, by: LimitedBy) {
        self.routes[route.0].limited[by as usize].inc();
    }

    /// A request got its node after a wait.
    pub(crate) fn queued(&self, route: RouteId, wait: Duration) {
        self.routes[route.0].queued.observe(wait.as_secs_f64());
    }

    /// The cache did this for a request; what it gave was so old.
    pub(crate) fn cached(&self, route: RouteId, lookup: Lookup, age: Duration) {
        let Some(cache) = &self.routes[route.0].cache else {
            return;
        };
        cache.lookups[lookup as usize].inc();
        if lookup == Lookup::Bypass {
            return;
        }
        let age = age.as_secs_f64();
        cache.age.observe(age);
        // Two at once may leave the lesser one; a greater one comes again.
        if age > self.families.cache_age_max.get() {
            self.families.cache_age_max.set(age);
        }
    }

    /// This came of fetching an answer for the cache.
    pub(crate) fn filled(&self, route: RouteId, fill: Fill) {
        if let Some(cache) = &self.routes[route.0].cache {
            cache.fills[fill as usize].inc();
        }
    }

    /// Counters for the shared cache.
    pub(crate) fn shared(&self) -> Counts {
        let families = &self.families;
        let counters = [
            &families.shared_looks,
            &families.shared_leases,
            &families.shared_writes,
            &families.shared_errors,
        ];
        Counts::new(counters, &families.shared_up)
    }

    /// What the cache holds.
    pub(crate) fn cache_holds(&self, bytes: usize, answers: usize) {
        self.families.cache_bytes.set(bytes as i64);
        self.families.cache_answers.set(answers as i64);
    }

    /// An answer has ended. It is an error if the balancer or a node failed,
    /// not if the client did.
    pub(crate) fn ended(&self, ended: &Ended<'_>) {
        let route = &self.routes[ended.route.0];
        route.duration.observe(ended.duration.as_secs_f64());
        route.count(&self.families.requests, ended);
        if let Some(by) = ended.cut {
            route.cut[by as usize].inc();
        }
        let totals = &self.totals;
        totals.requests.fetch_add(1, Relaxed);
        if ended.status >= 500 || ended.cut == Some(CutBy::Node) {
            totals.errors.fetch_add(1, Relaxed);
        }
        totals.recent.record(totals.begun.elapsed(), ended.duration);
    }

    /// Requests that ended, and how many of them were errors.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let totals = &self.totals;
        (totals.requests.load(Relaxed), totals.errors.load(Relaxed))
    }

    /// Median and ninth decile of the last seconds' durations.
    pub(crate) fn recent(&self) -> Option<[Duration; 2]> {
        let totals = &self.totals;
        totals.recent.quantiles(totals.begun.elapsed(), [0.5, 0.9])
    }

    /// A route's requests that ended, and how often one was sent again.
    pub(crate) fn of_route(&self, route: RouteId) -> (u64, u64) {
        let route = &self.routes[route.0];
        let retries = route.retries.iter().map(|it| it.get()).sum();
        (route.duration.get_sample_count(), retries)
    }

    /// An attempt at a node was answered with this status.
    pub(crate) fn answered(&self, node: usize, status: u16) {
        let metrics = &self.nodes[node];
        let look_up = || {
            let labels = [metrics.name.as_str(), &status.to_string()];
            self.families.node_requests.with_label_values(&labels)
        };
        match CODES.binary_search(&status) {
            Ok(place) => metrics.codes[place].get_or_init(look_up).inc(),
            Err(_) => look_up().inc(),
        }
    }

    /// An attempt at a node was not answered.
    pub(crate) fn unanswered(&self, node: usize, label: &str) {
        let labels = [self.nodes[node].name.as_str(), label];
        self.families.node_requests.with_label_values(&labels).inc();
    }
}

/// A request at its end.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) route: RouteId,
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) duration: Duration,
    pub(crate) cut: Option<CutBy>,
}

impl CacheMetrics {
    fn new(families: &Families, name: &str) -> CacheMetrics {
        let lookup = |it: Lookup| {
            let labels = [name, it.label()];
            families.cache_requests.with_label_values(&labels)
        };
        CacheMetrics {
            lookups: Lookup::ALL.map(lookup),
            fills: Fill::LABELS.map(|it| families.cache_fills.with_label_values(&[name, it])),
            age: families.cache_age.with_label_values(&[name]),
        }
    }
}

impl RouteMetrics {
    fn new(families: &Families, name: &str, keeps: bool) -> RouteMetrics {
        let handles = PROTOCOLS.len() * (METHODS.len() + 1) * CODES.len();
        RouteMetrics {
            name: name.to_owned(),
            duration: families.duration.with_label_values(&[name]),
            queued: families.queued.with_label_values(&[name]),
            retries: Proof::ALL
                .map(|proof| families.retries.with_label_values(&[name, proof.label()])),
            hedges: ["first", "second"].map(|won| families.hedges.with_label_values(&[name, won])),
            replay_refused: families.replay_refused.with_label_values(&[name]),
            retry_denied: families.retry_denied.with_label_values(&[name]),
            limited: ["client", "route"].map(|by| families.limited.with_label_values(&[name, by])),
            cut: ["node", "client"].map(|by| families.cut.with_label_values(&[name, by])),
            cache: keeps.then(|| CacheMetrics::new(families, name)),
            requests: (0..handles).map(|_| OnceLock::new()).collect(),
        }
    }

    fn count(&self, family: &IntCounterVec, ended: &Ended<'_>) {
        let method = METHODS.iter().position(|it| it == ended.method);
        let protocol = match ended.version {
            Version::HTTP_10 => 0,
            Version::HTTP_2 => 2,
            Version::HTTP_3 => 3,
            _ => 1,
        };
        let look_up = || {
            let code = ended.status.to_string();
            let word = method.map_or("other", |it| METHODS[it].as_str());
            family.with_label_values(&[self.name.as_str(), word, &code, PROTOCOLS[protocol]])
        };
        match CODES.binary_search(&ended.status) {
            Ok(code) => {
                let method = method.unwrap_or(METHODS.len());
                let place = (protocol * (METHODS.len() + 1) + method) * CODES.len() + code;
                self.requests[place].get_or_init(look_up).inc();
            }
            Err(_) => look_up().inc(),
        }
    }
}

impl NodeMetrics {
    fn new(families: &Families, name: &str) -> NodeMetrics {
        let state = |state: State| {
            families
                .node_state
                .with_label_values(&[name, state.label()])
        };
        let metrics = NodeMetrics {
            name: name.to_owned(),
            in_flight: families.node_in_flight.with_label_values(&[name]),
            answer: families.node_answer.with_label_values(&[name]),
            connections: families.node_connections.with_label_values(&[name]),
            checks: ["good", "bad"].map(|it| families.node_checks.with_label_values(&[name, it])),
            states: State::ALL.map(state),
            codes: [const { OnceLock::new() }; CODES.len()],
        };
        metrics.is_in(State::Suspect);
        metrics
    }

    /// The node is in this state now.
    pub(crate) fn is_in(&self, state: State) {
        for (row, gauge) in State::ALL.iter().zip(&self.states) {
            gauge.set(i64::from(*row == state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{BALANCER, Chapter, described};
    use std::collections::BTreeMap;

    fn metrics() -> (Metrics, RouteId) {
        let routes = Routes::new(&BTreeMap::new(), Duration::ZERO).expect("no routes are good");
        let metrics = Metrics::new(&routes, &["a"]).expect("names and labels fit");
        (metrics, routes.other())
    }

    fn exposition(metrics: &Metrics) -> String {
        let registry = Registry::new();
        metrics.register(&registry).expect("each name is new");
        prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("text")
    }

    fn end(metrics: &Metrics, route: RouteId, method: &Method, status: u16, cut: Option<CutBy>) {
        metrics.ended(&Ended {
            route,
            method,
            version: Version::HTTP_11,
            status,
            duration: Duration::from_millis(400),
            cut,
        });
    }

    #[test]
    fn requests_are_counted_by_route_method_code_and_protocol() {
        let (metrics, route) = metrics();
        end(&metrics, route, &Method::GET, 200, None);
        end(&metrics, route, &Method::GET, 200, None);
        end(&metrics, route, &Method::GET, 418, None);
        end(&metrics, route, &Method::TRACE, 405, None);
        let text = exposition(&metrics);
        let row = |method: &str, code: u16, count: u64| {
            format!(
                "pgweir_http_requests_total{{code=\"{code}\",method=\"{method}\",\
                 proto=\"http/1.1\",route=\"other\"}} {count}\n"
            )
        };
        for row in [row("GET", 200, 2), row("GET", 418, 1), row("other", 405, 1)] {
            assert!(text.contains(&row), "{row} in {text}");
        }
    }

    #[test]
    fn the_required_latencies_are_bucket_edges() {
        let (metrics, route) = metrics();
        end(&metrics, route, &Method::GET, 200, None);
        let text = exposition(&metrics);
        for (edge, count) in [("0.3", 0), ("0.4", 1), ("1", 1)] {
            let row = format!(
                "pgweir_http_request_duration_seconds_bucket{{route=\"other\",le=\"{edge}\"}} {count}\n"
            );
            assert!(text.contains(&row), "{row} in {text}");
        }
    }

    #[test]
    fn errors_are_the_balancers_and_the_nodes_not_the_clients() {
        let (metrics, route) = metrics();
        for (status, cut) in [
            (200, None),
            (404, None),
            (499, Some(CutBy::Client)),
            (500, None),
            (503, None),
            (200, Some(CutBy::Node)),
        ] {
            end(&metrics, route, &Method::GET, status, cut);
        }
        assert_eq!(metrics.totals(), (6, 3));
    }

    #[test]
    fn a_node_is_in_one_state() {
        let (metrics, _) = metrics();
        metrics.node(0).is_in(State::Down);
        let text = exposition(&metrics);
        for (state, value) in [
            ("up", 0),
            ("suspect", 0),
            ("down", 1),
            ("drain", 0),
            ("maint", 0),
        ] {
            let row =
                format!("pgweir_http_upstream_state{{state=\"{state}\",upstream=\"a\"}} {value}\n");
            assert!(text.contains(&row), "{row} in {text}");
        }
    }

    #[test]
    fn the_codes_with_handles_are_sorted() {
        assert!(CODES.is_sorted());
    }

    /// Writes the chapter instead when `PGWEIR_DOCUMENT` is set.
    #[test]
    fn the_chapter_in_docs_is_made_from_the_families() {
        const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let (metrics, _) = metrics();
        let chapter = Chapter {
            title: "The balancer",
            about: "Labels are the names of routes and nodes in the configuration; paths that no route has are `other`.",
            families: described(&All(Arc::clone(&metrics.families.all))),
        };
        let made = chapter.text();
        let page = std::fs::read_to_string(FILE).expect("it is there");
        let begin = page.find(BALANCER).unwrap_or(page.len());
        if std::env::var_os("PGWEIR_DOCUMENT").is_some() {
            std::fs::write(FILE, page[..begin].to_owned() + &made).expect("docs/ is writable");
        }
        let page = std::fs::read_to_string(FILE).expect("it is there");
        assert!(
            page.ends_with(&made),
            "docs/metrics.md is not what the families say; run: \
             PGWEIR_DOCUMENT=1 cargo test --lib balancer::metrics"
        );
    }
}
