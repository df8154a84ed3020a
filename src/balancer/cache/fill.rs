//! Fetching one answer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{
    AGE, CONTENT_LENGTH, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use hyper::{Method, StatusCode, Version};

use super::key::{Key, Varies};
use super::rule::{self, Grace, Rule, Verdict};
use super::shared::{Found, Fresh, Lease, Shared, Shipped};
use super::store::{Landed, Stored};
use crate::balancer::attempt::{Answered, NodeRequest};
use crate::balancer::connection::NodeConnection;
use crate::balancer::core::Core;
use crate::balancer::failure::Failure;
use crate::balancer::metrics::Fill;
use crate::balancer::nodes::Permit;
use crate::balancer::queue::NodeSet;
use crate::balancer::retry::Progress;
use crate::balancer::route::RouteId;
use crate::balancer::trail::Trail;
use crate::balancer::upload::Upload;
use crate::balancer::{hygiene, journey};
use crate::config::Replay;

/// Largest body that is kept, in bytes.
pub(super) const BODY_MAX: usize = 1024 * 1024;

/// Not in what hyper names.
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");

/// A fetch that has begun. However it ends, those who wait for it are told.
struct Flight {
    core: Arc<Core>,
    key: Key,
    landed: bool,
    /// What is kept already, if a node may say that it still holds.
    known: Option<Arc<Stored>>,
    /// The node that was asked last.
    node: Option<usize>,
}

/// What a fetch brought.
enum Fetched {
    /// An answer that may be kept; its age, its life, and what comes after;
    /// and how it came.
    Keep(Stored, (Duration, Duration, Grace), Fill),
    /// One for those who wait.
    Share(Stored),
    /// One that depends on what a request has in these fields.
    Varies(Vec<HeaderName>),
    /// Another answer still holds than the one that is known.
    Unknown,
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
        known: None,
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
        // There they lie by their targets.
        if key.is_variant() {
            return Found::Nothing;
        }
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
        self.known = known(&core, rule, &self.key);
        let mut fetched = self.ask(rule, route, last_choice, deadline).await;
        if let Ok(Fetched::Unknown) = fetched {
            self.known = None;
            fetched = self.ask(rule, route, last_choice, deadline).await;
        }
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
            headers: self.headers(),
            replay: Replay::Proven,
            last_choice,
            deadline,
            upgrade: None,
            received: Arc::default(),
        };
        let body = Upload::Whole(Bytes::new());
        let answered = journey::answer(&self.core, &mut trail, request, body).await;
        self.node = trail.last_node();
        let answered = answered?;
        match &self.known {
            Some(known) if answered.response.status() == StatusCode::NOT_MODIFIED => {
                Ok(self.renew(rule, known, answered).await)
            }
            _ => self.read(rule, answered, deadline).await,
        }
    }

    /// What is asked with: that it is the balancer, what the answer varies
    /// with, and what is known of it; nothing else of any client.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.key.selecting() {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(known) = &self.known {
            let conditions = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
            for (of, condition) in conditions {
                if let Some(value) = known.headers.get(of) {
                    headers.insert(condition, value.clone());
                }
            }
        }
        let id = self.core.ids.make(SystemTime::now());
        headers.insert(hygiene::X_REQUEST_ID, id);
        headers
    }

    /// What is known still holds, by a node's word.
    async fn renew(&self, rule: Rule, known: &Stored, answered: Answered) -> Fetched {
        let (mut head, _nothing) = answered.response.into_parts();
        rest(answered.connection, &answered.permit).await;
        clean(&mut head.headers, head.status, head.version);
        let is_same = |it: &Stored| Varies::of(&self.key, &it.headers) == Varies::Not;
        let Some(stored) = renewed(known, &head.headers).filter(is_same) else {
            return Fetched::Unknown;
        };
        match rule.judge(stored.status, &stored.headers, SystemTime::now()) {
            Verdict::Keep { age, life, grace } => {
                Fetched::Keep(stored, (age, life, grace), Fill::Renewed)
            }
            _ => Fetched::Private,
        }
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
        match (Varies::of(&self.key, &head.headers), verdict) {
            (Varies::Not, _) => {}
            // It is only looked at.
            (_, Verdict::Share) if rule.may_select() => {}
            (Varies::With(names), _) if rule.may_select() => return Ok(Fetched::Varies(names)),
            _ => return Ok(Fetched::Private),
        }
        let reading = collect(&mut connection, incoming, self.core.body_timeout);
        let body = match tokio::time::timeout_at(deadline.into(), reading).await {
            Err(_elapsed) => return Err(Failure::Deadline(Progress::Ambiguous)),
            Ok(Err(failure)) => return Err(failure),
            Ok(Ok(None)) => return Ok(Fetched::Private),
            Ok(Ok(Some(body))) => body,
        };
        rest(connection, &permit).await;
        let mut headers = head.headers;
        clean(&mut headers, head.status, head.version);
        if head.status != StatusCode::NO_CONTENT {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let stored = Stored {
            status: head.status,
            headers,
            body,
        };
        Ok(match verdict {
            Verdict::Keep { age, life, grace } => {
                Fetched::Keep(stored, (age, life, grace), Fill::Stored)
            }
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
            Ok(Fetched::Keep(stored, lives, fill)) if store.fits(stored.size()) => {
                let stored = Arc::new(stored);
                if store.keep(key, &stored, sent, lives, None, now) && !key.is_variant() {
                    let (age, life, _) = lives;
                    fresh = Some(Fresh {
                        stored,
                        sent,
                        age,
                        life,
                        took: now - sent,
                    });
                }
                fill
            }
            Ok(Fetched::Varies(names)) => {
                store.varies(key, names, now);
                Fill::Varies
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
            Ok(Fetched::Keep(..) | Fetched::Private | Fetched::Unknown) => {
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

/// What is kept of this, if nodes may be asked whether it still holds.
fn known(core: &Core, rule: Rule, key: &Key) -> Option<Arc<Stored>> {
    let stored = rule.may_revalidate().then(|| core.cache.store().value(key));
    stored.flatten().filter(|it| rule::is_named(&it.headers))
}

/// What is known with the fields of an answer that says that it still holds
/// (RFC 9111, 3.2 and 4.3.4). None if that is about another one.
fn renewed(known: &Stored, fresh: &HeaderMap) -> Option<Stored> {
    let weak = |it: &HeaderValue| {
        let tag = it.as_bytes();
        tag.strip_prefix(b"W/").unwrap_or(tag).to_owned()
    };
    let tag = fresh.get(ETAG).map(weak);
    if tag.is_some() && tag != known.headers.get(ETAG).map(weak) {
        return None;
    }
    let mut headers = known.headers.clone();
    // They were about the answer that is renewed.
    headers.remove(AGE);
    headers.remove(DATE);
    for name in fresh.keys().filter(|it| **it != CONTENT_LENGTH) {
        headers.remove(name);
        for value in fresh.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    Some(Stored {
        status: known.status,
        headers,
        body: known.body.clone(),
    })
}

/// Keeps a connection, if its answer has ended.
async fn rest(mut connection: NodeConnection, permit: &Permit) {
    std::future::poll_fn(|cx| std::task::Poll::Ready(connection.rest(cx)))
        .await
        .then(|| permit.get().keep(connection));
}

/// Makes the head of an answer fit to be kept: what a proxy says of itself is
/// not (RFC 9111, 3.1).
fn clean(headers: &mut HeaderMap, status: StatusCode, version: Version) {
    let id = HeaderValue::from_static("");
    hygiene::clean_response(headers, status, version, id);
    for name in [
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
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
