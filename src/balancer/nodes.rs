//! All nodes together: who is up, who is busy, who waits.
//!
//! The decisions are [`Health`]'s and [`Queue`]'s, under one lock that is held
//! for the length of a decision. What follows from them is done here: waiting
//! requests are served, requests at a node that went down are told, checks are
//! asked for.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};

use super::download::Passages;
use super::health::{Event, Health, State};
use super::metrics::{Metrics, NodeMetrics, Shed};
use super::node::Node;
use super::queue::{self, Admission, NodeSet, Queue, Served};
use super::route::RouteId;
use crate::config;
use crate::http::{NodeMode, NodeRow};

/// How often a request that waits for a node looks who keeps it busy.
const PUSH_PAUSE: Duration = Duration::from_millis(250);

/// The nodes of one balancer.
#[derive(Debug)]
pub(crate) struct Nodes {
    list: Vec<Member>,
    shared: Mutex<Shared>,
    /// How often a node came up.
    comebacks: watch::Sender<u64>,
    /// Requests that wait for one to come up.
    hoping: AtomicUsize,
    /// Answers that keep nodes busy.
    passages: Passages,
    metrics: Arc<Metrics>,
    limits: Limits,
}

/// How long requests wait, and how many.
#[derive(Debug, Clone, Copy)]
struct Limits {
    queue_size: usize,
    queue_timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    health: Health,
    queue: Queue<oneshot::Sender<Option<Permit>>>,
}

#[derive(Debug)]
struct Member {
    node: Node,
    /// How often the node went down.
    trips: AtomicU64,
    /// When the last check that ended began, and whether it was good.
    checked: watch::Sender<Option<(Instant, bool)>>,
    /// The next check may be due earlier than it was.
    check_soon: Notify,
}

/// The right to have one request at a node.
#[derive(Debug)]
pub(crate) struct Permit {
    nodes: Arc<Nodes>,
    node: usize,
    /// On which route it was answered, and how soon.
    answered: Option<(RouteId, Duration)>,
}

/// Why there is no node for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoNode {
    /// Those it would go to do not serve.
    Nobody,
    /// They are busy.
    Shed(Shed),
}

impl Nodes {
    /// At least one node and [`super::queue::NODES_MAX`] at most.
    pub(crate) fn new(
        settings: &config::Balancer,
        nodes: Vec<Node>,
        metrics: Arc<Metrics>,
    ) -> Nodes {
        let member = |node| Member {
            node,
            trips: AtomicU64::new(0),
            checked: watch::Sender::new(None),
            check_soon: Notify::new(),
        };
        let health = Health::new(&settings.health, nodes.len(), Instant::now());
        let limits = queue::Limits {
            max_in_flight: settings.max_in_flight,
            queue_size: settings.queue_size,
            slow_start: settings.slow_start,
        };
        // One more than those that are named.
        let routes = settings.routes.len() + 1;
        let queue = Queue::new(nodes.len(), routes, limits);
        Nodes {
            list: nodes.into_iter().map(member).collect(),
            shared: Mutex::new(Shared { health, queue }),
            comebacks: watch::Sender::new(0),
            hoping: AtomicUsize::new(0),
            passages: Passages::default(),
            metrics,
            limits: Limits {
                queue_size: settings.queue_size,
                queue_timeout: settings.queue_timeout,
            },
        }
    }

    /// Goes on with what others know of the nodes that are the same.
    pub(crate) fn adopt(self: &Arc<Self>, others: &Nodes) {
        let now = Instant::now();
        let is_same =
            |a: &Member, b: &Member| a.node.name == b.node.name && a.node.address == b.node.address;
        let theirs = others.shared();
        let mut shared = self.shared();
        for (node, member) in self.list.iter().enumerate() {
            let its = others.list.iter().position(|other| is_same(member, other));
            if let Some(its) = its {
                shared.health.adopt(node, &theirs.health, its);
            }
            let state = shared.health.state(node);
            shared.queue.set_state(node, state, now);
            self.metrics(node).is_in(state);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many of them are up.
    pub(crate) fn up(&self) -> usize {
        self.shared().health.up()
    }

    /// One of them.
    pub(crate) fn get(&self, node: usize) -> &Node {
        &self.list[node].node
    }

    /// Its counters.
    pub(crate) fn metrics(&self, node: usize) -> &NodeMetrics {
        self.metrics.node(node)
    }

    /// Whether some node outside of `avoid` serves.
    pub(crate) fn serves(&self, avoid: NodeSet) -> bool {
        self.shared().queue.serves(avoid)
    }

    /// A node for a request that is not in `avoid`; waits for one until the
    /// deadline, and for `queue_timeout` at most. The wait is added to
    /// `waited`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        avoid: NodeSet,
        deadline: Instant,
        waited: &mut Duration,
    ) -> Result<Permit, NoNode> {
        let mut call = None;
        let admission = self.shared().queue.enter(avoid, Instant::now(), || {
            let (reach, served) = oneshot::channel();
            call = Some(served);
            reach
        });
        match admission {
            Admission::Node(node) => Ok(self.permit(node)),
            Admission::Nobody => Err(NoNode::Nobody),
            Admission::Full => Err(NoNode::Shed(Shed::QueueFull)),
            Admission::Waits(number) => {
                let _place = Place::take(self, number);
                let served = call.expect("whoever waits can be reached");
                let began = Instant::now();
                let deadline = deadline.min(began + self.limits.queue_timeout);
                let result = tokio::time::timeout_at(deadline.into(), self.push(served)).await;
                *waited += began.elapsed();
                match result {
                    Ok(Ok(permit)) => permit.ok_or(NoNode::Nobody),
                    Ok(Err(_forgotten)) => Err(NoNode::Nobody),
                    Err(_elapsed) => Err(NoNode::Shed(Shed::QueueTimeout)),
                }
            }
        }
    }

    /// A node that is not in `avoid`, if one is free.
    pub(crate) fn try_acquire(self: &Arc<Self>, avoid: NodeSet) -> Option<Permit> {
        let node = self.shared().queue.try_enter(avoid, Instant::now())?;
        Some(self.permit(node))
    }

    /// The answers that are on their way from the nodes.
    pub(crate) fn passages(&self) -> &Passages {
        &self.passages
    }

    /// Waits for a place, and sees to it that nobody keeps one by not reading.
    async fn push<T>(&self, mut place: impl Future<Output = T> + Unpin) -> T {
        loop {
            match tokio::time::timeout(PUSH_PAUSE, &mut place).await {
                Ok(place) => return place,
                Err(_elapsed) => self.passages.cut_unread(Instant::now()),
            }
        }
    }

    /// How often a node came up; for [`Nodes::comeback`].
    pub(crate) fn comebacks(&self) -> u64 {
        *self.comebacks.borrow()
    }

    /// Waits until a node came up once more than `seen` times.
    ///
    /// # Errors
    /// None did until the deadline; too many wait already.
    pub(crate) async fn comeback(
        self: &Arc<Self>,
        seen: u64,
        deadline: Instant,
    ) -> Result<(), Shed> {
        let _hope = Hope::take(self).ok_or(Shed::QueueFull)?;
        let mut comebacks = self.comebacks.subscribe();
        let wait = comebacks.wait_for(|count| *count > seen);
        match tokio::time::timeout_at(deadline.into(), wait).await {
            Ok(_count) => Ok(()),
            Err(_elapsed) => Err(Shed::QueueTimeout),
        }
    }

    /// Until when a request that asks now may wait for a node.
    pub(crate) fn queue_deadline(&self) -> Instant {
        Instant::now() + self.limits.queue_timeout
    }

    /// How often the node went down.
    pub(crate) fn trips(&self, node: usize) -> u64 {
        self.list[node].trips.load(Ordering::Relaxed)
    }

    /// Whether the node is down, or a check that began after `since` is bad.
    /// Waits for one that ends before the deadline; without one, the node is
    /// not sick.
    pub(crate) async fn found_sick(&self, node: usize, since: Instant, deadline: Instant) -> bool {
        if !self.shared().health.state(node).serves() {
            return true;
        }
        let mut checked = self.list[node].checked.subscribe();
        let verdict = checked.wait_for(|it| it.is_some_and(|(began, _)| began >= since));
        match tokio::time::timeout_at(deadline.into(), verdict).await {
            Ok(Ok(verdict)) => verdict.is_some_and(|(_, good)| !good),
            _ => false,
        }
    }

    /// Something that began at `began` tells this of a node.
    pub(crate) fn report(self: &Arc<Self>, node: usize, event: Event, began: Instant) {
        self.change(event, |health, now| {
            health.observe(node, event, began, now);
        });
        self.list[node].check_soon.notify_one();
    }

    /// An operator says this of a node.
    ///
    /// # Errors
    /// It is the last one that serves.
    pub(crate) fn set_mode(self: &Arc<Self>, node: usize, mode: NodeMode) -> Result<(), String> {
        let mut is_set = false;
        self.change(mode, |health, now| {
            is_set = health.set_mode(node, mode, now);
        });
        self.list[node].check_soon.notify_one();
        match is_set {
            true => Ok(()),
            false => {
                let name = &self.get(node).name;
                Err(format!("{name} is the last node that serves"))
            }
        }
    }

    /// What an operator has said of each.
    pub(crate) fn modes(&self) -> Vec<NodeMode> {
        let shared = self.shared();
        (0..self.len()).map(|it| shared.health.mode(it)).collect()
    }

    /// Returns when each has been checked once, except those in maintenance.
    pub(crate) async fn checked(&self) {
        for (number, member) in self.list.iter().enumerate() {
            if self.modes()[number] != NodeMode::Maint {
                let mut checked = member.checked.subscribe();
                let _gone = checked.wait_for(Option::is_some).await;
            }
        }
    }

    /// Whether every node that serves is only kept because it is the last.
    pub(crate) fn all_failed(&self) -> bool {
        self.shared().health.all_failed()
    }

    /// How each node is.
    pub(crate) fn rows(&self) -> Vec<NodeRow> {
        let row = |(number, member): (usize, &Member)| {
            let shared = self.shared();
            let (state, since) = (shared.health.state(number), shared.health.since(number));
            drop(shared);
            let metrics = self.metrics(number);
            NodeRow {
                name: member.node.name.clone(),
                address: member.node.address.clone(),
                state: state.label(),
                since: since.elapsed(),
                in_flight: u64::try_from(metrics.in_flight.get()).unwrap_or_default(),
                idle: member.node.idle_count() as u64,
                checks: metrics.checks.each_ref().map(|it| it.get()),
            }
        };
        self.list.iter().enumerate().map(row).collect()
    }

    /// Changes what is known of the nodes, and does what follows from it.
    fn change(self: &Arc<Self>, because: impl Debug, work: impl FnOnce(&mut Health, Instant)) {
        let mut shared = self.shared();
        let now = Instant::now();
        let states = |health: &Health| -> Vec<State> {
            (0..self.len()).map(|node| health.state(node)).collect()
        };
        let before = states(&shared.health);
        work(&mut shared.health, now);
        let after = states(&shared.health);
        let mut served = Vec::new();
        for (node, (before, after)) in before.iter().zip(&after).enumerate() {
            if before != after {
                served.extend(shared.queue.set_state(node, *after, now));
            }
        }
        drop(shared);
        self.deliver(served);
        for (node, (before, after)) in before.into_iter().zip(after).enumerate() {
            if before != after {
                self.changed(node, before, after, &because);
            }
        }
    }

    /// When the node is to be checked next.
    pub(crate) fn check_due(&self, node: usize) -> Option<Instant> {
        self.shared().health.check_due(node)
    }

    /// Returns when the next check may be due earlier than it was.
    pub(crate) async fn check_soon(&self, node: usize) {
        self.list[node].check_soon.notified().await;
    }

    /// A check is out.
    pub(crate) fn check_began(&self, node: usize) {
        self.shared().health.check_began(node);
    }

    /// A check ended.
    pub(crate) fn check_ended(self: &Arc<Self>, node: usize, began: Instant, good: bool) {
        let event = if good {
            Event::CheckGood
        } else {
            Event::CheckBad
        };
        self.metrics(node).checks[usize::from(!good)].inc();
        self.report(node, event, began);
        self.list[node].checked.send_replace(Some((began, good)));
    }

    fn changed(&self, node: usize, before: State, after: State, because: &dyn Debug) {
        let name = self.get(node).name.as_str();
        self.metrics(node).is_in(after);
        // Suspicion comes and goes with single failures.
        match (before, after) {
            (_, State::Down) => tracing::warn!(node = name, ?because, "the node is down"),
            (_, State::Drain | State::Maint) => {
                tracing::info!(node = name, mode = after.label(), "the node is taken out");
            }
            (State::Down | State::Drain | State::Maint, _) => {
                tracing::info!(node = name, "the node is back")
            }
            _ => tracing::debug!(node = name, ?before, ?after, ?because, "the node's state"),
        }
        match after {
            State::Up => self.comebacks.send_modify(|count| *count += 1),
            State::Suspect | State::Drain => {}
            State::Down | State::Maint => {
                self.get(node).close_idle(true, Instant::now());
                self.list[node].trips.fetch_add(1, Ordering::Relaxed);
            }
        }
        // Whether one node is up decides how often the others are checked.
        for member in &self.list {
            member.check_soon.notify_one();
        }
    }

    fn release(self: &Arc<Self>, node: usize, answered: Option<(RouteId, Duration)>) {
        self.metrics(node).in_flight.dec();
        let mut shared = self.shared();
        if let Some((route, latency)) = answered {
            shared.queue.answered(node, route, latency);
        }
        let served = shared.queue.release(node, Instant::now());
        drop(shared);
        self.deliver(served);
    }

    /// Tells those whose wait is over. One that left meanwhile gives its
    /// permit back at once.
    fn deliver(
        self: &Arc<Self>,
        served: impl IntoIterator<Item = Served<oneshot::Sender<Option<Permit>>>>,
    ) {
        for (reach, node) in served {
            let _left = reach.send(node.map(|node| self.permit(node)));
        }
    }

    fn permit(self: &Arc<Self>, node: usize) -> Permit {
        self.metrics(node).in_flight.inc();
        Permit {
            nodes: Arc::clone(self),
            node,
            answered: None,
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The node's number.
    pub(crate) fn node(&self) -> usize {
        self.node
    }

    /// The node.
    pub(crate) fn get(&self) -> &Node {
        self.nodes.get(self.node)
    }

    /// The node answered a request on this route so soon, and as it should.
    pub(crate) fn answered(&mut self, route: RouteId, latency: Duration) {
        self.answered = Some((route, latency));
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.nodes.release(self.node, self.answered);
    }
}

/// A place in the queue; left when dropped.
struct Place<'a> {
    nodes: &'a Nodes,
    number: u64,
}

impl<'a> Place<'a> {
    fn take(nodes: &'a Nodes, number: u64) -> Place<'a> {
        nodes.metrics.queue().inc();
        Place { nodes, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.nodes.metrics.queue().dec();
        self.nodes.shared().queue.leave(self.number);
    }
}

/// One of `queue_size` that wait for a node to come up.
struct Hope<'a>(&'a Nodes);

impl<'a> Hope<'a> {
    fn take(nodes: &'a Nodes) -> Option<Hope<'a>> {
        let before = nodes.hoping.fetch_add(1, Ordering::Relaxed);
        nodes.metrics.queue().inc();
        let hope = Hope(nodes);
        (before < nodes.limits.queue_size).then_some(hope)
    }
}

impl Drop for Hope<'_> {
    fn drop(&mut self) {
        self.0.hoping.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.queue().dec();
    }
}
