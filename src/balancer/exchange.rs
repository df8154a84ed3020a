//! One request from its arrival to the end of its answer: what is noted on the
//! way, and counted and logged at the end, however it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri, Version};

use super::access_log::Entry;
use super::cache::Lookup;
use super::client::Client;
use super::core::Core;
use super::forwarded;
use super::hygiene::X_REQUEST_ID;
use super::metrics::{CutBy, Ended, OpenTunnel};
use super::request_id;
use super::route::RouteId;
use super::trail::Trail;
use super::upload::Received;

/// nginx's status for a client that left before it was answered. Only logs
/// and metrics see it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request that is being served.
#[derive(Debug)]
pub(crate) struct Exchange {
    core: Arc<Core>,
    client: Arc<Client>,
    began: Instant,
    received: Arc<Received>,
    cut: Option<CutBy>,
    /// Status of the answer, once it has one.
    status: Option<u16>,
    /// How long it was a request, if it is a tunnel since.
    until_tunnel: Option<Duration>,
    entry: Entry,
}

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(core: &Arc<Core>, client: &Arc<Client>, head: &Parts) -> Exchange {
        let time = SystemTime::now();
        let given = head.headers.get(X_REQUEST_ID);
        let request_id = given.and_then(request_id::of_client);
        core.metrics.in_flight().inc();
        Exchange {
            began: Instant::now(),
            received: Arc::default(),
            cut: None,
            status: None,
            until_tunnel: None,
            entry: Entry {
                time,
                client: match client.is_trusted() {
                    true => {
                        let trusted = &core.settings.trusted_proxies;
                        forwarded::client(&head.headers, client.address(), trusted)
                    }
                    false => client.address(),
                },
                method: head.method.clone(),
                target: target(head),
                version: head.version,
                trail: Trail::new(core.routes.other()),
                status: 0,
                bytes_in: 0,
                bytes_out: 0,
                duration: Duration::ZERO,
                cache: None,
                request_id: request_id.unwrap_or_else(|| core.ids.make(time)),
                trace: None,
                error: None,
            },
            core: Arc::clone(core),
            client: Arc::clone(client),
        }
    }

    /// When it arrived.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Whether it asks for no body.
    pub(crate) fn is_head(&self) -> bool {
        self.entry.method == Method::HEAD
    }

    /// Its id.
    pub(crate) fn id(&self) -> HeaderValue {
        self.entry.request_id.clone()
    }

    /// Who made it.
    pub(crate) fn client(&self) -> IpAddr {
        self.entry.client.ip()
    }

    /// Its way so far.
    pub(crate) fn trail(&mut self) -> &mut Trail {
        &mut self.entry.trail
    }

    /// Where its body is counted.
    pub(crate) fn received(&self) -> &Arc<Received> {
        &self.received
    }

    /// Its route is known.
    pub(crate) fn on_route(&mut self, route: RouteId) {
        self.entry.trail.route = route;
    }

    /// It came with this trace.
    pub(crate) fn traced(&mut self, trace: Option<HeaderValue>) {
        self.entry.trace = trace;
    }

    /// What the cache did for it, and the age of what it gave.
    pub(crate) fn cached(&mut self, lookup: Lookup, age: Duration) {
        self.core
            .metrics
            .cached(self.entry.trail.route, lookup, age);
        self.entry.cache = Some((lookup, age));
    }

    /// The head of the answer goes out; `error` says what went wrong if the
    /// balancer answers itself.
    pub(crate) fn answered(&mut self, status: u16, error: Option<&'static str>) {
        self.status = Some(status);
        self.entry.error = error;
    }

    /// A piece of the answer's body goes out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let entry = &mut self.entry;
        if entry.method != Method::HEAD {
            entry.bytes_out += bytes as u64;
        }
    }

    /// It goes on as a tunnel.
    pub(crate) fn switched(&mut self) {
        self.until_tunnel = Some(self.began.elapsed());
        self.answered(StatusCode::SWITCHING_PROTOCOLS.as_u16(), None);
    }

    /// Counts an open tunnel until what it gives is dropped.
    pub(crate) fn tunnel_opens(&self) -> OpenTunnel {
        self.core.metrics.tunnel_opens()
    }

    /// It has ended for a reason that is nobody's fault.
    pub(crate) fn ended(&mut self, why: &'static str) {
        self.entry.error = Some(why);
    }

    /// The answer ended early; the word says why.
    pub(crate) fn cut(&mut self, by: CutBy, error: &'static str) {
        self.cut = Some(by);
        self.entry.error = Some(error);
    }
}

impl Drop for Exchange {
    /// The request has ended. Without an answer, it was the client that left.
    fn drop(&mut self) {
        let entry = &mut self.entry;
        if self.status.is_none() {
            self.cut = Some(CutBy::Client);
            entry.error = Some("client_left");
        }
        entry.status = self.status.unwrap_or(CLIENT_CLOSED_REQUEST);
        entry.duration = self.began.elapsed();
        entry.bytes_in = self.received.bytes();
        let metrics = &self.core.metrics;
        let Trail { route, queued, .. } = entry.trail;
        if !queued.is_zero() {
            metrics.queued(route, queued);
        }
        metrics.ended(&Ended {
            route,
            method: &entry.method,
            version: entry.version,
            status: entry.status,
            // A tunnel's is that of its conversation, not the node's.
            duration: self.until_tunnel.unwrap_or(entry.duration),
            cut: self.cut,
        });
        metrics.in_flight().dec();
        let left = self.cut == Some(CutBy::Client);
        self.client.end(self.began + entry.duration, left);
        self.core.log.write(entry, metrics);
    }
}

/// The target as the client sent it; in HTTP/2 and HTTP/3 the path alone, as
/// in HTTP/1.
fn target(head: &Parts) -> Uri {
    match (head.version, head.uri.path_and_query()) {
        (Version::HTTP_2 | Version::HTTP_3, Some(path)) => path.clone().into(),
        _ => head.uri.clone(),
    }
}
