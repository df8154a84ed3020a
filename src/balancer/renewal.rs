//! Making a [`Core`] from the settings, at the start and at each reload.
//!
//! Everything that can fail is done before anything changes. What goes on:
//! the counters, what is kept, the last answers and the retry budget's terms;
//! and the nodes, with their connections, queue and requests, unless a setting
//! about them changes. Then there are new ones that know of the old ones'
//! health, and those are checked on until their last request has to end.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::access_log::{AccessLog, Names};
use super::cache::{Cache, Plan, Shared};
use super::check::{HealthCheck, keep_checking};
use super::client::Patience;
use super::core::{Core, Current};
use super::metrics::Metrics;
use super::node::{Keeping, Node};
use super::nodes::Nodes;
use super::pressure::Pressure;
use super::queue::NODES_MAX;
use super::rate::Limiter;
use super::request_id::RequestIds;
use super::retry::Budget;
use super::route::Routes;
use super::{acme, invalid, upload};
use crate::config;

/// What stands for a zero timeout, which means "no limit": every wait has a
/// deadline.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What takes the place of what runs.
#[derive(Debug)]
pub struct Renewal(Arc<Core>);

impl Renewal {
    /// Made from these settings and from what runs.
    ///
    /// # Errors
    /// What cannot be had, with the setting that asks for it; or the balancer
    /// has ended.
    pub(super) fn new(current: &Current, settings: &config::Balancer) -> io::Result<Renewal> {
        let old = current
            .get()
            .ok_or_else(|| io::Error::other("the balancer has ended"))?;
        let core = build(&with_limits(settings), Some(&old))?;
        Ok(Renewal(Arc::new(core)))
    }

    /// Requests that come are served with it from now on.
    pub fn commit(self) {
        let core = self.0;
        core.cache.adopt(&core.routes, core.settings.cache_size);
        let current = Arc::clone(&core.current);
        current.set(Some(core));
    }
}

/// What the settings alone decide.
///
/// # Errors
/// What makes no sense, with its setting.
pub(super) fn read(settings: &config::Balancer) -> io::Result<(Routes, HealthCheck)> {
    let routes = Routes::new(&settings.routes, settings.request_timeout)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let check = HealthCheck::new(&settings.health).map_err(|error| {
        let problem = format!("{error}; give a path such as /ping");
        invalid("balancer.health.path", &problem)
    })?;
    acme::check(settings)?;
    Plan::read(settings)?;
    Ok((routes, check))
}

/// A core for these settings, that goes on from the old one.
///
/// # Errors
/// What cannot be had, with the setting that asks for it.
pub(super) fn build(settings: &config::Balancer, old: Option<&Arc<Core>>) -> io::Result<Core> {
    let (routes, check) = read(settings)?;
    let same = old.filter(|old| is_same_for_nodes(&old.settings, settings));
    let looked_up = match same {
        Some(_) => None,
        None => Some(look_up(settings)?),
    };
    let plan = Plan::open(settings)?;
    let log = open_log(settings, &routes)?;
    let ids = match old {
        Some(old) => Arc::clone(&old.ids),
        None => Arc::new(RequestIds::new()?),
    };
    let names: Vec<&str> = settings.nodes.keys().map(String::as_str).collect();
    let metrics = match old {
        Some(old) => old.metrics.renewed(&routes, &names),
        None => Metrics::new(&routes, &names).map_err(io::Error::other)?,
    };
    // Nothing fails from here on.
    let metrics = Arc::new(metrics);
    let nodes = match (same, looked_up) {
        (Some(same), _) => Arc::clone(&same.nodes),
        (None, list) => {
            let list = list.unwrap_or_default();
            let nodes = Arc::new(Nodes::new(settings, list, Arc::clone(&metrics)));
            if let Some(old) = old {
                nodes.adopt(&old.nodes);
            }
            nodes
        }
    };
    let longest = routes.iter().map(|it| it.timeout).max();
    let longest = longest.unwrap_or(settings.request_timeout);
    let shared = share(plan, old, &metrics);
    let now = Instant::now();
    Ok(Core {
        nodes,
        budget: Mutex::new(Budget::new(now)),
        limiter: Limiter::new(settings, &routes, now),
        pressure: old.map_or_else(Pressure::default, |old| old.pressure.clone()),
        shed_above: settings.shed_pool_waiting,
        metrics,
        cache: old.map_or_else(
            || Arc::new(Cache::new(settings.cache_size)),
            |old| Arc::clone(&old.cache),
        ),
        shared,
        log,
        ids,
        check,
        answers: acme::answers(settings),
        settings: settings.clone(),
        current: old.map_or_else(Arc::default, |old| Arc::clone(&old.current)),
        upload: upload::Limits {
            max_body: settings.max_body,
            idle: settings.body_timeout,
        },
        patience: Patience {
            head: settings.header_timeout,
            idle: settings.keepalive_timeout,
            write: settings.body_timeout,
        },
        body_timeout: settings.body_timeout,
        tunnel_timeout: settings.tunnel_timeout,
        stream_timeout: longest + settings.body_timeout,
        verdict_timeout: settings.health.timeout + settings.health.fast_interval,
        routes,
    })
}

/// The shared cache of this plan; the one that is there, if it is its.
fn share(plan: Option<Plan>, old: Option<&Arc<Core>>, metrics: &Metrics) -> Option<Arc<Shared>> {
    let old = old.and_then(|old| old.shared.as_ref());
    if let (Some(plan), Some(old)) = (&plan, old)
        && old.plan() == plan
    {
        return Some(Arc::clone(old));
    }
    metrics.shared().is_up(false);
    plan.map(|plan| Arc::new(Shared::new(plan, metrics.shared())))
}

/// Checks the nodes in force, for ever; those before them until the last
/// request at them has to end.
pub(super) async fn check_nodes(first: Arc<Core>) {
    let current = Arc::clone(&first.current);
    let mut core = first;
    let mut checks = begin_checks(&core);
    let mut leaving = JoinSet::new();
    loop {
        tokio::select! {
            () = current.changed() => {}
            Some(_) = leaving.join_next() => continue,
        }
        let Some(next) = current.get() else {
            return;
        };
        if !Arc::ptr_eq(&next.nodes, &core.nodes) {
            let old = std::mem::replace(&mut checks, begin_checks(&next));
            let longest = core.routes.iter().map(|it| it.timeout).max();
            let longest = longest.unwrap_or(core.settings.request_timeout);
            leaving.spawn(async move {
                tokio::time::sleep(longest).await;
                drop(old);
            });
        }
        core = next;
    }
}

fn begin_checks(core: &Core) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    for node in 0..core.nodes.len() {
        let nodes = Arc::clone(&core.nodes);
        checks.spawn(keep_checking(nodes, node, core.check.clone()));
    }
    checks
}

/// Whether the nodes can stay as they are.
fn is_same_for_nodes(a: &config::Balancer, b: &config::Balancer) -> bool {
    a.nodes == b.nodes
        && a.health == b.health
        && a.connect_timeout == b.connect_timeout
        && a.keepalive_timeout == b.keepalive_timeout
        && a.max_in_flight == b.max_in_flight
        && a.queue_size == b.queue_size
        && a.queue_timeout == b.queue_timeout
        && a.slow_start == b.slow_start
}

/// The settings with limits where they say there is none.
pub(super) fn with_limits(settings: &config::Balancer) -> config::Balancer {
    let mut settings = settings.clone();
    for timeout in [
        &mut settings.connect_timeout,
        &mut settings.request_timeout,
        &mut settings.header_timeout,
        &mut settings.keepalive_timeout,
        &mut settings.body_timeout,
        &mut settings.queue_timeout,
        &mut settings.tunnel_timeout,
        &mut settings.health.timeout,
    ]
    .into_iter()
    .chain(settings.routes.values_mut().flat_map(|it| &mut it.timeout))
    {
        if timeout.is_zero() {
            *timeout = NO_LIMIT;
        }
    }
    settings
}

fn look_up(settings: &config::Balancer) -> io::Result<Vec<Node>> {
    if !(1..=NODES_MAX).contains(&settings.nodes.len()) {
        let problem = format!(
            "name from 1 to {NODES_MAX} nodes, not {}",
            settings.nodes.len()
        );
        return Err(invalid("balancer.nodes", &problem));
    }
    let keeping = Keeping {
        connect_timeout: settings.connect_timeout,
        keepalive_timeout: settings.keepalive_timeout,
        idle_max: settings.max_in_flight.max(1),
    };
    let node = |(name, node): (&String, &config::Node)| {
        Node::new(name, &node.address, keeping).map_err(|error| {
            let address = &node.address;
            let place = format!("balancer.nodes.{name}.address");
            io::Error::new(
                error.kind(),
                format!("{place}: cannot look up {address}: {error}"),
            )
        })
    };
    settings.nodes.iter().map(node).collect()
}

fn open_log(settings: &config::Balancer, routes: &Routes) -> io::Result<AccessLog> {
    let Some(target) = &settings.access_log else {
        return Ok(AccessLog::default());
    };
    let routes = routes.iter().map(|it| it.name.as_str());
    let names = Names::of(routes, settings.nodes.keys().map(String::as_str));
    AccessLog::open(target, names).map_err(|error| {
        let problem = format!("balancer.access_log: cannot open {target}: {error}");
        io::Error::new(error.kind(), problem)
    })
}
