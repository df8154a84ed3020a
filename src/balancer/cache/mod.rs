//! Answers of listed routes, kept in memory: fetched by the balancer itself,
//! before they are too old, so that nobody waits for them and nobody gets one
//! older than its route allows.
//!
//! `rule` says what may be kept, from what an answer says (`control`,
//! `targeted`), `key` what it is found by, `slot` when each answer is served and
//! fetched, `store` holds them within their bounds; all of these are pure.
//! `shared` has what other balancers fetched, and is asked before nodes. Here
//! is what waits and asks nodes: a request that needs an answer joins whoever
//! fetches it, and `fill` fetches it in a task of its own, which no client's
//! departure ends.
//!
//! What is asked of a node for the cache is the target alone, without any
//! header of any client: an answer cannot depend on who asked first. An answer
//! that says with which fields it varies is asked for once more with these,
//! and found by what is in them.

mod control;
mod fill;
mod key;
mod rule;
mod shared;
mod slot;
mod store;
mod targeted;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{
    AGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri};
use tokio::sync::{Notify, watch};

pub(crate) use self::key::Key;
pub(crate) use self::rule::Rule;
pub(crate) use self::shared::{Counts, Plan, Shared};
pub(crate) use self::slot::Left;
use self::store::{Landed, Store, Ticket};
pub(crate) use self::store::{Remembered, Stored};
use super::core::Core;
use super::failure::Failure;
use super::hygiene::X_REQUEST_ID;
use super::retry::Progress;
use super::route::Routes;

/// What the cache did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// It had the answer.
    Hit,
    /// The answer was fetched because of this request.
    Miss,
    /// The request waited for an answer that was being fetched already.
    Joined,
    /// Another balancer had the answer.
    Shared,
    /// The request was passed on.
    Bypass,
}

impl Lookup {
    /// All of them, in the order of their metric rows.
    pub(crate) const ALL: [Lookup; 5] = [
        Lookup::Hit,
        Lookup::Miss,
        Lookup::Joined,
        Lookup::Shared,
        Lookup::Bypass,
    ];

    /// The word for logs and metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Lookup::Hit => "hit",
            Lookup::Miss => "miss",
            Lookup::Joined => "collapsed",
            Lookup::Shared => "shared",
            Lookup::Bypass => "bypass",
        }
    }
}

/// An answer for a client.
#[derive(Debug)]
pub(crate) struct Served {
    /// The answer.
    pub(crate) stored: Arc<Stored>,
    /// How old it is.
    pub(crate) age: Duration,
    /// How much older it may become; none if it is not kept.
    pub(crate) left: Option<Left>,
    /// What the cache did.
    pub(crate) lookup: Lookup,
}

/// How often a request looks for its answer: for the target, then twice for
/// what it learns that answers vary with.
const SELECTIONS_MAX: usize = 5;

/// How the cache handled a request (RFC 9211).
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The same for a request that the cache had no part in.
pub(crate) const FORWARDED: &str = "pgweir; fwd=bypass";

impl Served {
    /// The headers it is sent with, for the request of this id.
    pub(crate) fn headers(&self, id: HeaderValue) -> HeaderMap {
        let mut headers = self.stored.headers.clone();
        headers.insert(X_REQUEST_ID, id);
        let age = match self.lookup {
            // Never taken for younger than it is.
            Lookup::Hit | Lookup::Shared => self.age.as_millis().div_ceil(1000) as u64,
            // As old as its node says, and what it took to come.
            _ => self.age.as_secs(),
        };
        headers.insert(AGE, HeaderValue::from(age));
        let status = match (self.lookup, self.left) {
            (Lookup::Hit, Some(Left::Stale(over))) => {
                // Beyond its life by any part of a second.
                let over = over.as_millis().div_ceil(1000).max(1);
                format!("pgweir; hit; ttl=-{over}")
            }
            (Lookup::Hit, Some(Left::Fresh(left))) => {
                format!("pgweir; hit; ttl={}", left.as_secs())
            }
            (Lookup::Shared, Some(Left::Fresh(left))) => {
                format!("pgweir; hit; ttl={}; detail=shared", left.as_secs())
            }
            (lookup, left) => {
                let collapsed = if lookup == Lookup::Joined {
                    "; collapsed"
                } else {
                    ""
                };
                let stored = if left.is_some() { "; stored" } else { "" };
                format!("pgweir; fwd=uri-miss{stored}{collapsed}")
            }
        };
        let status = HeaderValue::from_str(&status).expect("plain words");
        headers.append(CACHE_STATUS, status);
        headers
    }

    /// Whether a request has this answer already, by its `If-None-Match`, or
    /// else its `If-Modified-Since` (RFC 9110, 13.1.2 and 13.1.3).
    pub(crate) fn is_known(&self, request: &HeaderMap) -> bool {
        let mut given = request.get_all(IF_NONE_MATCH).iter().peekable();
        if self.stored.status != StatusCode::OK {
            return false;
        }
        if given.peek().is_none() {
            let own = &self.stored.headers;
            let modified =
                || control::date(own, &LAST_MODIFIED).or_else(|| control::date(own, &DATE));
            let since = control::date(request, &IF_MODIFIED_SINCE);
            return since.is_some_and(|since| modified().is_some_and(|it| it <= since));
        }
        let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = self.stored.headers.get(ETAG);
        let own = own.and_then(|it| it.to_str().ok()).map(weak);
        given.filter_map(|it| it.to_str().ok()).any(|list| {
            list.trim() == "*"
                || own
                    .as_ref()
                    .is_some_and(|own| list.split(',').any(|it| weak(it) == *own))
        })
    }
}

/// Takes from a head what an answer without a body does not say (RFC 9110,
/// 15.4.5).
pub(crate) fn strip_content(headers: &mut HeaderMap) {
    for name in [
        CONTENT_LENGTH,
        CONTENT_TYPE,
        CONTENT_ENCODING,
        CONTENT_RANGE,
    ] {
        headers.remove(name);
    }
}

/// Whether an answer that many may get does for this request, if it has no
/// body.
pub(crate) fn is_for(head: &Parts) -> bool {
    matches!(head.method, Method::GET | Method::HEAD)
        && !head.headers.contains_key(AUTHORIZATION)
        && !head.headers.contains_key(RANGE)
}

/// Everything that is kept.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Mutex<Store>,
    /// Something may be due earlier than it was.
    soon: Notify,
    /// Whether every target that is kept fresh was fetched once.
    warmed: watch::Sender<bool>,
}

impl Cache {
    /// An empty cache of so many bytes.
    pub(crate) fn new(bytes_max: u64) -> Cache {
        Cache {
            store: Mutex::new(Store::new(capacity(bytes_max))),
            soon: Notify::new(),
            warmed: watch::Sender::new(false),
        }
    }

    /// From now on these routes and this many bytes.
    pub(crate) fn adopt(&self, routes: &Routes, bytes_max: u64) {
        let now = Instant::now();
        let mut store = self.store();
        store.set_bytes_max(capacity(bytes_max));
        store.set_rules(|target| routes.rule(target));
        for (rule, key) in routes.warm() {
            store.keep_warm(rule, &key, now);
        }
        drop(store);
        self.changed();
    }

    /// Returns when every target that is kept fresh was fetched once, well or
    /// badly.
    pub(crate) fn warmed(&self) -> watch::Receiver<bool> {
        self.warmed.subscribe()
    }

    /// Every answer that is kept: when it was asked for, its age then, its life.
    pub(crate) fn kept(&self) -> Vec<Remembered> {
        self.store().kept()
    }

    /// Takes an answer over that another process kept.
    pub(crate) fn restore(
        &self,
        rule: Rule,
        target: &Uri,
        stored: Arc<Stored>,
        sent: Instant,
        times: (Duration, Duration),
    ) {
        let moments = (sent, Instant::now());
        let key = rule.key(target);
        self.store().restore(rule, &key, stored, moments, times);
        self.changed();
    }

    /// Target, bytes, age, and whether it is being fetched, of every answer.
    pub(crate) fn list(&self) -> Vec<(String, usize, Duration, bool)> {
        self.store().list(Instant::now())
    }

    /// Bytes and answers kept.
    pub(crate) fn totals(&self) -> (usize, usize) {
        self.store().totals()
    }

    /// Something may be due earlier than it was.
    fn changed(&self) {
        let is_warmed = self.store().is_warmed();
        self.warmed.send_if_modified(|it| {
            let changes = is_warmed && !*it;
            *it |= is_warmed;
            changes
        });
        self.soon.notify_one();
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request gets for a ticket.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box is an allocation for each hit"
)]
enum Taken {
    /// An answer.
    Served(Served),
    /// The answer depends on more than it was asked for with.
    Varies,
    /// Nothing: it asks a node itself.
    Nothing,
}

/// A request that was no GET has changed what is kept of this target (RFC
/// 9111, 4.4).
pub(crate) fn invalidate(core: &Core, rule: Rule, target: &Uri) {
    let key = rule.key(target);
    core.cache.store().invalidate(&key);
    if let Some(shared) = &core.shared {
        shared.forget(&key);
    }
}

/// The answer for a request that has this long; none if the request has to ask
/// a node itself.
///
/// # Errors
/// No node answered in time.
pub(crate) async fn ask(
    core: &Arc<Core>,
    rule: Rule,
    target: &Uri,
    headers: &HeaderMap,
    deadline: Instant,
) -> Result<Option<Served>, Failure> {
    let mut key = rule.key(target);
    for _ in 0..SELECTIONS_MAX {
        let ticket = core.cache.store().ask(rule, &key, Instant::now());
        if let Ticket::Select(names) = ticket {
            match key.select(&names, headers) {
                Some(selected) => key = selected,
                None => return Ok(None),
            }
            continue;
        }
        match take(core, rule, &key, ticket, deadline).await? {
            Taken::Served(served) => return Ok(Some(served)),
            Taken::Varies => key = key.bare(),
            Taken::Nothing => return Ok(None),
        }
    }
    // It varies with something else each time.
    Ok(None)
}

/// What a request gets for a ticket.
async fn take(
    core: &Arc<Core>,
    rule: Rule,
    key: &Key,
    ticket: Ticket,
    deadline: Instant,
) -> Result<Taken, Failure> {
    let (mut landing, lookup) = match ticket {
        Ticket::Pass | Ticket::Select(_) => return Ok(Taken::Nothing),
        Ticket::Serve(stored, age, left, soon) => {
            if soon {
                core.cache.soon.notify_one();
            }
            return Ok(Taken::Served(Served {
                stored,
                age,
                left: Some(left),
                lookup: Lookup::Hit,
            }));
        }
        Ticket::Wait(landing, None) => (landing, Lookup::Joined),
        Ticket::Wait(landing, Some(within)) => {
            fill::begin(core, key.clone(), within);
            (landing, Lookup::Miss)
        }
    };
    let landed = tokio::time::timeout_at(deadline.into(), landing.wait_for(Option::is_some));
    let landed = match landed.await {
        Ok(Ok(landed)) => landed.clone(),
        Ok(Err(_ended)) => None,
        Err(_elapsed) => return Err(Failure::Deadline(Progress::Ambiguous)),
    };
    let is_bad = match &landed {
        Some(Landed::Answer { stored, life, .. }) => {
            life.is_none() && stored.status.is_server_error()
        }
        Some(Landed::Failed(_)) => true,
        Some(Landed::Varies | Landed::Private) | None => false,
    };
    if is_bad && let Some((stored, age, left)) = core.cache.store().in_need(key, Instant::now()) {
        return Ok(Taken::Served(Served {
            stored,
            age,
            left: Some(left),
            lookup: Lookup::Hit,
        }));
    }
    match landed {
        // What is not kept may be about what a client has to show.
        Some(Landed::Answer { life: None, .. }) if rule.as_they_say => Ok(Taken::Nothing),
        Some(Landed::Answer {
            stored,
            sent,
            age,
            life,
            is_shared,
        }) => {
            let age = age + sent.elapsed();
            // It was long in coming, or whoever waits for it.
            if age >= rule.servable_age(rule.max_age) {
                return Err(Failure::Deadline(Progress::Ambiguous));
            }
            Ok(Taken::Served(Served {
                stored,
                age,
                left: life.map(|life| Left::Fresh(rule.servable_age(life).saturating_sub(age))),
                lookup: if is_shared { Lookup::Shared } else { lookup },
            }))
        }
        Some(Landed::Failed(failure)) => Err(failure),
        Some(Landed::Varies) => Ok(Taken::Varies),
        Some(Landed::Private) | None => Ok(Taken::Nothing),
    }
}

/// Fetches answers before they are too old, for ever.
pub(crate) async fn keep_fresh(core: impl Fn() -> Arc<Core>) {
    loop {
        let now = Instant::now();
        let core = core();
        let (fetch, again) = core.cache.store().due(now);
        for (key, within) in fetch {
            fill::begin(&core, key, within);
        }
        let (bytes, answers) = core.cache.totals();
        core.metrics.cache_holds(bytes, answers);
        let cache = Arc::clone(&core.cache);
        drop(core);
        let pause = async {
            match again {
                Some(again) => tokio::time::sleep_until(again.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = cache.soon.notified() => {}
        }
    }
}

fn capacity(bytes_max: u64) -> usize {
    usize::try_from(bytes_max).unwrap_or(usize::MAX)
}
