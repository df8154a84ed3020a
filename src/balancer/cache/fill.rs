//! Fetching one answer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};

use super::rule::{Grace, Key, Rule, Verdict};
use super::shared::{Found, Fresh, Lease, Shared, Shipped};
use super::store::{Landed, Stored};
use crate::balancer::attempt::{Answered, NodeRequest};
use crate::balancer::connection::NodeConnection;
use crate::balancer::core::Core;
use crate::balancer::failure::Failure;
use crate::balancer::metrics::Fill;
use crate::balancer::queue::NodeSet;
use crate::balancer::retry::Progress;
use crate::balancer::route::RouteId;
use crate::balancer::trail::Trail;
use crate::balancer::upload::Upload;
use crate::balancer::{hygiene, journey};
use crate::config::Replay;

/// Largest body that is kept, in bytes.
pub(super) const BODY_MAX: usize = 1024 * 1024;

/// A fetch that has begun. However it ends, those who wait for it are told.
struct Flight {
    core: Arc<Core>,
    key: Key,
    landed: bool,
    /// The node that was asked last.
    node: Option<usize>,
}

/// What a fetch brought.
enum Fetched {
    /// An answer that may be kept; its age, its life, and what comes after.
    Keep(Stored, (Duration, Duration, Grace)),
    /// One for those who wait.
    Share(Stored),
    /// One that nobody gets.
    Private,
}

/// Has an answer fetched within this time, in a task of its own; unless another
/// balancer has it.
pub(super) fn begin(core: &Arc<Core>, key: Key, within: Duration) {
    let mut flight = Flight {
        core: Arc::clone(core),
        key,
        landed: false,
        node: None,
    };
    tokio::spawn(async move {
        let shared = flight.core.shared.clone();
        let found = match &shared {
            Some(shared) => flight.look(shared, within).await,
            None => Found::Nothing,
        };
        let lease = match found {
            Found::Answer(shipped) => return flight.land_shipped(shipped),
            Found::Lease(lease) => Some(lease),
            Found::Nothing => None,
        };
        let sent = Instant::now();
        let fetched = flight.fetch(sent + within).await;
        flight.land(fetched, sent, lease);
    });
}

impl Flight {
    /// Asks for what other balancers fetched.
    async fn look(&self, shared: &Shared, within: Duration) -> Found {
        let (core, key) = (&self.core, &self.key);
        let Some(rule) = core.routes.rule(key.target()) else {
            return Found::Nothing;
        };
        let need = core.cache.store().need(key, Instant::now());
        shared.find(rule, key, need, within).await
    }

    /// Asks the nodes; another one when the first fails or answers badly.
    async fn fetch(&mut self, deadline: Instant) -> Result<Fetched, Failure> {
        let core = Arc::clone(&self.core);
        let route = core.routes.find(&Method::GET, self.key.target().path());
        // The route may keep nothing any more.
        let Some(rule) = core.routes.get(route).cache else {
            return Ok(Fetched::Private);
        };
        let mut last_choice = NodeSet::default();
        if let Some(node) = core.cache.store().avoided(&self.key) {
            last_choice.insert(node);
        }
        let mut fetched = self.ask(rule, route, last_choice, deadline).await;
        let is_bad = match &fetched {
            Ok(Fetched::Share(stored)) => stored.status.is_server_error(),
            Ok(_) => false,
            Err(_) => Instant::now() < deadline,
        };
        if is_bad && let Some(node) = self.node {
            last_choice.insert(node);
            if core.nodes.serves(last_choice) {
                fetched = self.ask(rule, route, last_choice, deadline).await;
            }
        }
        fetched
    }

    async fn ask(
        &mut self,
        rule: Rule,
        route: RouteId,
        last_choice: NodeSet,
        deadline: Instant,
    ) -> Result<Fetched, Failure> {
        let mut trail = Trail::new(route);
        let request = NodeRequest {
            method: Method::GET,
            target: self.key.target().clone(),
            headers: headers(&self.core),
            replay: Replay::Proven,
            last_choice,
            deadline,
            upgrade: None,
            received: Arc::default(),
        };
        let body = Upload::Whole(Bytes::new());
        let answered = journey::answer(&self.core, &mut trail, request, body).await;
        self.node = trail.last_node();
        self.read(rule, answered?, deadline).await
    }

    /// Reads an answer to its end, if anybody may have it.
    async fn read(
        &self,
        rule: Rule,
        answered: Answered,
        deadline: Instant,
    ) -> Result<Fetched, Failure> {
        let Answered {
            response,
            mut connection,
            permit,
            ..
        } = answered;
        let (head, incoming) = response.into_parts();
        let verdict = rule.judge(head.status, &head.headers, SystemTime::now());
        // Without either, a body that is cut looks like one that has ended.
        let is_delimited = head.headers.contains_key(CONTENT_LENGTH)
            || head.headers.contains_key(TRANSFER_ENCODING)
            || incoming.is_end_stream();
        if verdict == Verdict::Private || !is_delimited {
            return Ok(Fetched::Private);
        }
        let reading = collect(&mut connection, incoming, self.core.body_timeout);
        let body = match tokio::time::timeout_at(deadline.into(), reading).await {
            Err(_elapsed) => return Err(Failure::Deadline(Progress::Ambiguous)),
            Ok(Err(failure)) => return Err(failure),
            Ok(Ok(None)) => return Ok(Fetched::Private),
            Ok(Ok(Some(body))) => body,
        };
        std::future::poll_fn(|cx| std::task::Poll::Ready(connection.rest(cx)))
            .await
            .then(|| permit.get().keep(connection));
        let mut headers = head.headers;
        let id = HeaderValue::from_static("");
        hygiene::clean_response(&mut headers, head.status, head.version, id);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let stored = Stored {
            status: head.status,
            headers,
            body,
        };
        Ok(match verdict {
            Verdict::Keep { age, life, grace } => Fetched::Keep(stored, (age, life, grace)),
            _ => Fetched::Share(stored),
        })
    }

    /// What another balancer fetched is kept as if it had been fetched here.
    fn land_shipped(&mut self, shipped: Shipped) {
        let Shipped {
            stored,
            sent,
            lives,
            took,
        } = shipped;
        self.landed = true;
        let (now, key) = (Instant::now(), &self.key);
        let mut store = self.core.cache.store();
        let fill = match store.fits(stored.size()) {
            true => {
                store.keep(key, &Arc::new(stored), sent, lives, Some(took), now);
                Fill::Taken
            }
            false => {
                store.end(key, Landed::Private, None, now);
                Fill::Private
            }
        };
        drop(store);
        self.ended(fill);
    }

    fn land(&mut self, fetched: Result<Fetched, Failure>, sent: Instant, lease: Option<Lease>) {
        self.landed = true;
        let now = Instant::now();
        let mut fresh = None;
        let (mut store, key) = (self.core.cache.store(), &self.key);
        let fill = match fetched {
            Ok(Fetched::Keep(stored, lives)) if store.fits(stored.size()) => {
                let stored = Arc::new(stored);
                if store.keep(key, &stored, sent, lives, None, now) {
                    let (age, life, _) = lives;
                    fresh = Some(Fresh {
                        stored,
                        sent,
                        age,
                        life,
                        took: now - sent,
                    });
                }
                Fill::Stored
            }
            Ok(Fetched::Share(stored)) => {
                let landed = Landed::Answer {
                    stored: Arc::new(stored),
                    sent,
                    age: Duration::ZERO,
                    life: None,
                    is_shared: false,
                };
                store.end(key, landed, self.node, now);
                Fill::Shared
            }
            Ok(Fetched::Keep(..) | Fetched::Private) => {
                store.end(key, Landed::Private, None, now);
                Fill::Private
            }
            Err(failure) => {
                store.end(key, Landed::Failed(failure), self.node, now);
                Fill::Failed
            }
        };
        drop(store);
        if let (Some(fresh), Some(shared)) = (fresh, &self.core.shared) {
            shared.put(key, fresh, lease);
        }
        self.ended(fill);
    }

    fn ended(&self, fill: Fill) {
        let core = &self.core;
        let route = core.routes.find(&Method::GET, self.key.target().path());
        core.metrics.filled(route, fill);
        core.cache.changed();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            self.land(Err(Failure::NoNode), Instant::now(), None);
        }
    }
}

/// What is asked with: that it is the balancer, and nothing of any client.
fn headers(core: &Core) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let id = core.ids.make(SystemTime::now());
    headers.insert(hygiene::X_REQUEST_ID, id);
    headers
}

/// A body to its end; none if it is too large.
async fn collect(
    connection: &mut NodeConnection,
    mut incoming: Incoming,
    idle: Duration,
) -> Result<Option<Bytes>, Failure> {
    let mut body = BytesMut::new();
    loop {
        let frame = connection.drive_while(incoming.frame());
        match tokio::time::timeout(idle, frame).await {
            Err(_elapsed) => return Err(Failure::Deadline(Progress::Ambiguous)),
            Ok(None) => return Ok(Some(body.freeze())),
            Ok(Some(Err(_))) => return Err(Failure::Broken(Progress::Ambiguous)),
            Ok(Some(Ok(frame))) => {
                // Trailers end here.
                let Ok(piece) = frame.into_data() else {
                    continue;
                };
                if body.len() + piece.len() > BODY_MAX {
                    return Ok(None);
                }
                body.extend_from_slice(&piece);
            }
        }
    }
}
