//! What all requests of a balancer share.
//!
//! A reload makes another [`Core`]: requests that have begun end with theirs,
//! those that come get the one in force.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::access_log::AccessLog;
use super::acme::Answers;
use super::cache::{Cache, Shared};
use super::check::HealthCheck;
use super::client::Patience;
use super::metrics::Metrics;
use super::nodes::Nodes;
use super::pressure::Pressure;
use super::rate::Limiter;
use super::request_id::RequestIds;
use super::retry::Budget;
use super::route::Routes;
use super::upload;
use crate::config;

/// Built at the start and by each reload, shared by all requests.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) routes: Routes,
    pub(crate) nodes: Arc<Nodes>,
    /// How often requests may be sent again.
    pub(crate) budget: Mutex<Budget>,
    /// How many requests are let in.
    pub(crate) limiter: Limiter,
    /// How busy the pooler is.
    pub(crate) pressure: Pressure,
    /// Clients that may wait in the pooler before requests are refused; 0 is
    /// any number.
    pub(crate) shed_above: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cache: Arc<Cache>,
    /// What other balancers keep, if they share it.
    pub(crate) shared: Option<Arc<Shared>>,
    pub(crate) log: AccessLog,
    pub(crate) ids: Arc<RequestIds>,
    /// How nodes are checked.
    pub(crate) check: HealthCheck,
    /// What an authority that validates over HTTP is answered.
    pub(crate) answers: Option<Answers>,
    /// What it was made from.
    pub(crate) settings: config::Balancer,
    /// The one in force.
    pub(crate) current: Arc<Current>,
    /// For request bodies.
    pub(crate) upload: upload::Limits,
    /// For clients.
    pub(crate) patience: Patience,
    /// Longest pause between two pieces of an answer's body.
    pub(crate) body_timeout: Duration,
    /// Longest time in which nobody says anything in a tunnel.
    pub(crate) tunnel_timeout: Duration,
    /// Longest time a stream of HTTP/2 or HTTP/3 takes, to the last byte the
    /// client has room for.
    pub(crate) stream_timeout: Duration,
    /// Longest time a check decides about a 5xx answer.
    pub(crate) verdict_timeout: Duration,
}

/// The core in force; none once the balancer has ended.
#[derive(Default)]
pub(crate) struct Current {
    core: ArcSwapOption<Core>,
    changed: Notify,
}

impl fmt::Debug for Current {
    /// Without the core, which holds this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl Current {
    /// The core in force.
    pub(crate) fn get(&self) -> Option<Arc<Core>> {
        self.core.load_full()
    }

    /// From now on this one.
    pub(crate) fn set(&self, core: Option<Arc<Core>>) {
        self.core.store(core);
        self.changed.notify_one();
    }

    /// Returns when it was set. For one caller.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// There is a core in force for as long as this lives. A core leads to the
/// one in force, and so to itself: without an end it would never go.
#[derive(Debug)]
pub(crate) struct Tenure(Arc<Current>);

impl Tenure {
    /// From now on this core is in force.
    pub(crate) fn begin(core: &Arc<Core>) -> Tenure {
        let current = Arc::clone(&core.current);
        current.set(Some(Arc::clone(core)));
        Tenure(current)
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Core {
    /// The core in force.
    pub(crate) fn latest(self: &Arc<Self>) -> Arc<Core> {
        self.current.get().unwrap_or_else(|| Arc::clone(self))
    }

    /// Whether this is a proxy's address that is believed.
    pub(crate) fn trusts(&self, address: SocketAddr) -> bool {
        let trusted = &self.settings.trusted_proxies;
        trusted.iter().any(|it| it.holds(address.ip()))
    }

    /// Whether a request may be sent again, after so many in all.
    pub(crate) fn take_retry(&self, requests: u64) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        budget.take(requests, Instant::now())
    }
}
