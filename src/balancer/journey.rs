//! Getting a request answered: choose a node, try it, and if that fails,
//! decide whether the request may be sent again and where.
//!
//! A request is tried once on each node at most. Two things are no trial of a
//! node: a kept connection that broke (the node gets a second chance on a
//! fresh one, when no other node is left), and nodes that could not be reached
//! (when there is no other, the request waits for one to come up, for
//! `queue_timeout` at most, and starts afresh).
//!
//! A 5xx answer makes its node suspect, and the node is checked at once. If
//! the request may be repeated (see [`retry`]) and another node serves, the
//! answer is held back until that check has ended, for [`Core`]'s
//! `verdict_timeout` at most. If the check is bad, the answer is dropped and
//! the request goes to the other node; otherwise the answer is passed on. A
//! request that may not be repeated gets its 5xx at once.
//!
//! Requests that may have been delivered are repeated within a budget (see
//! [`retry::Budget`]), and not at all while every node has failed.
//!
//! On a route with `hedge` a second node is asked when the first one takes long
//! (see [`Hedge`]).
//!
//! While a request waits for its answer, its node may go down. If it may be
//! repeated and another node serves, it is moved there at once; otherwise it
//! goes on waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::{Answered, Miss, NodeRequest, attempt};
use super::core::Core;
use super::failure::Failure;
use super::health::Event;
use super::hedge::Hedge;
use super::metrics::Shed;
use super::nodes::{NoNode, Permit};
use super::queue::NodeSet;
use super::retry::{self, Progress, Proof};
use super::trail::{ATTEMPTS_MAX, Outcome, Trail};
use super::upload::Upload;

/// How often a request may be sent when nobody knows whether it arrived: one
/// that kills nodes is not to kill them again as they come back.
const DELIVERIES_MAX: usize = 3;

/// A request on its way.
struct Journey<'a> {
    core: &'a Arc<Core>,
    trail: &'a mut Trail,
    request: NodeRequest,
    safe: bool,
    /// Nodes that failed it.
    failed: NodeSet,
    /// Those of them where only a kept connection broke.
    second_chance: NodeSet,
    /// Nodes that are asked on fresh connections only.
    fresh: NodeSet,
    /// Attempts that may have been delivered.
    deliveries: usize,
    /// What allows the next attempt, if it is not the first.
    proof: Option<Proof>,
    /// The last failure.
    failure: Option<Failure>,
    /// How often nodes had come up when the nodes were first tried.
    comebacks: u64,
    /// Until when it waits for a node to come up.
    hopes_until: Option<Instant>,
}

/// A request that may go to a second node: when, and its body for that.
struct Hedged<'a> {
    hedge: &'a Hedge,
    patience: Duration,
    body: Upload,
}

/// What one node, or two of them, came to.
struct Raced {
    /// The node, and when it was asked.
    node: usize,
    began: Instant,
    result: Result<Answered, Miss>,
    /// The other node, when it was asked, and what it failed with before it
    /// was given up.
    other: Option<(usize, Instant, Option<Miss>)>,
    /// Whether the node is the one that was asked later.
    is_second: bool,
}

/// Has a request answered.
///
/// # Errors
/// No node answered it, and it may not be sent again.
pub(crate) async fn answer(
    core: &Arc<Core>,
    trail: &mut Trail,
    request: NodeRequest,
    mut body: Upload,
) -> Result<Answered, Failure> {
    let mut journey = Journey {
        // What is said after an upgrade is not sent again.
        safe: request.upgrade.is_none() && retry::is_safe(&request.method),
        comebacks: core.nodes.comebacks(),
        core,
        trail,
        failed: request.last_choice,
        second_chance: request.last_choice,
        request,
        fresh: NodeSet::default(),
        deliveries: 0,
        proof: None,
        failure: None,
        hopes_until: None,
    };
    loop {
        let permit = journey.next_node().await?;
        let node = permit.node();
        // It could not be sent again if a kept connection had ended.
        let fresh = journey.fresh.contains(node) || journey.request.upgrade.is_some();
        let again = body.again();
        let leave = journey.leave(node, again.is_some());
        let began = Instant::now();
        let (node, began, result) = match journey.hedge(again.as_ref()) {
            None => {
                let result = attempt(core, &journey.request, body, permit, fresh, leave).await;
                (node, began, result)
            }
            Some(hedged) => {
                // In a box, or every request would have the room for it.
                let first = attempt(core, &journey.request, body, permit, fresh, leave);
                let raced = Box::pin(journey.race((node, began), first, hedged)).await;
                journey.finish(raced)
            }
        };
        body = match result {
            Ok(answered) => match journey.examine(answered, began, again).await {
                Ok(answered) => return Ok(answered),
                Err(again) => again,
            },
            Err(miss) => journey.missed(node, began, miss, again)?,
        };
    }
}

impl Journey<'_> {
    /// A permit for the node to try next.
    async fn next_node(&mut self) -> Result<Permit, Failure> {
        let nodes = &self.core.nodes;
        loop {
            let mut waited = Duration::ZERO;
            let deadline = self.request.deadline;
            let granted = nodes.acquire(self.failed, deadline, &mut waited).await;
            self.trail.queued += waited;
            match granted {
                Ok(permit) => {
                    if let Some(proof) = self.proof.take() {
                        self.core.metrics.retried(self.trail.route, proof);
                    }
                    return Ok(permit);
                }
                Err(NoNode::Shed(shed)) => return Err(self.shed(shed)),
                Err(NoNode::Nobody) => self.start_afresh().await?,
            }
        }
    }

    /// All nodes that serve have failed: gives those a second chance that
    /// deserve one, or waits for one to come up.
    async fn start_afresh(&mut self) -> Result<(), Failure> {
        if self.failed.meets(self.second_chance) {
            self.fresh = self.second_chance;
            self.failed = self.failed.without(self.second_chance);
            self.second_chance = NodeSet::default();
            return Ok(());
        }
        match self.failure {
            None | Some(Failure::Connect(_)) => {}
            Some(failure) => return Err(failure),
        }
        let nodes = &self.core.nodes;
        let hopes_until = self
            .hopes_until
            .get_or_insert_with(|| nodes.queue_deadline());
        let deadline = self.request.deadline.min(*hopes_until);
        let began = Instant::now();
        let comeback = nodes.comeback(self.comebacks, deadline).await;
        self.trail.queued += began.elapsed();
        match comeback {
            Ok(()) => {
                self.comebacks = nodes.comebacks();
                self.failed = NodeSet::default();
                Ok(())
            }
            Err(Shed::QueueTimeout) => Err(Failure::NoNode),
            Err(full) => Err(self.shed(full)),
        }
    }

    fn shed(&self, shed: Shed) -> Failure {
        self.core.metrics.shed(shed);
        Failure::Shed(shed)
    }

    /// Whether the request has to leave its node, because that went down and
    /// another one can be asked.
    fn leave(&self, node: usize, can_again: bool) -> impl Fn() -> bool + use<'_> {
        let nodes = &self.core.nodes;
        let can_leave = can_again && self.proof_of(Progress::Ambiguous).is_some();
        let before = nodes.trips(node);
        let mut others = self.failed;
        others.insert(node);
        move || can_leave && nodes.trips(node) != before && nodes.serves(others)
    }

    fn proof_of(&self, progress: Progress) -> Option<Proof> {
        retry::proof(progress, self.safe, self.request.replay)
    }

    /// How a second node may be asked while the first one works.
    fn hedge(&self, body: Option<&Upload>) -> Option<Hedged<'_>> {
        let hedge = self.core.routes.get(self.trail.route).hedge.as_ref()?;
        let may_twice = self.safe && self.proof_of(Progress::Ambiguous).is_some();
        let body = body.filter(|_| may_twice)?.again()?;
        let patience = hedge.begin()?;
        Some(Hedged {
            hedge,
            patience,
            body,
        })
    }

    /// Asks a second node if the first one takes long, and takes what comes
    /// first. One that fails leaves it to the other; the one that is given up
    /// loses its connection.
    async fn race(
        &self,
        (node, began): (usize, Instant),
        first: impl Future<Output = Result<Answered, Miss>>,
        hedged: Hedged<'_>,
    ) -> Raced {
        let alone = |result| Raced {
            node,
            began,
            result,
            other: None,
            is_second: false,
        };
        let mut first = std::pin::pin!(first);
        if let Ok(result) = tokio::time::timeout(hedged.patience, &mut first).await {
            return alone(result);
        }
        let mut others = self.failed;
        others.insert(node);
        let permit = self.core.nodes.try_acquire(others);
        let Some(permit) = permit.filter(|_| hedged.hedge.take()) else {
            return alone(first.await);
        };
        let (second_node, second_began) = (permit.node(), Instant::now());
        let leave = self.leave(second_node, true);
        let second = attempt(self.core, &self.request, hedged.body, permit, false, leave);
        let mut second = std::pin::pin!(second);
        let (mut is_second, mut result) = tokio::select! {
            biased;
            result = &mut first => (false, result),
            result = &mut second => (true, result),
        };
        let mut missed = None;
        if let Err(miss) = result {
            missed = Some(miss);
            result = match is_second {
                true => first.await,
                false => second.await,
            };
            is_second = !is_second;
        }
        if is_second {
            hedged.hedge.answered(began.elapsed());
        }
        let asked = [(node, began), (second_node, second_began)];
        let [(node, began), (other, other_began)] = match is_second {
            true => [asked[1], asked[0]],
            false => asked,
        };
        Raced {
            node,
            began,
            result,
            other: Some((other, other_began, missed)),
            is_second,
        }
    }

    /// Notes what became of the other node.
    fn finish(&mut self, raced: Raced) -> (usize, Instant, Result<Answered, Miss>) {
        if let Some((other, began, missed)) = raced.other {
            let metrics = &self.core.metrics;
            metrics.hedged(self.trail.route, raced.is_second);
            self.deliveries += 1;
            let label = missed.as_ref().map_or("outrun", |it| it.label);
            self.trail.attempted(metrics, other, Outcome::Failed(label));
            if let Some(miss) = missed {
                self.failed.insert(other);
                if let Some(event) = miss.event {
                    self.core.nodes.report(other, event, began);
                }
            }
        }
        (raced.node, raced.began, raced.result)
    }

    /// An attempt has failed. The body to send again, if it may be.
    fn missed(
        &mut self,
        node: usize,
        began: Instant,
        miss: Miss,
        again: Option<Upload>,
    ) -> Result<Upload, Failure> {
        self.trail
            .attempted(&self.core.metrics, node, Outcome::Failed(miss.label));
        if let Some(event) = miss.event {
            self.core.nodes.report(node, event, began);
        }
        let failure = miss.failure;
        if matches!(failure, Failure::Refused(_) | Failure::Deadline(_)) {
            return Err(failure);
        }
        let may_again = self.proof_of(miss.progress);
        let is_free = miss.moved || miss.progress.is_undelivered();
        let may_again = may_again.filter(|_| is_free || self.can_afford());
        let (Some(proof), Some(body)) = (may_again, miss.body.or(again)) else {
            if miss.progress == Progress::Ambiguous {
                self.core.metrics.replay_refused(self.trail.route);
            }
            return Err(failure);
        };
        if miss.reused {
            self.second_chance.insert(node);
        }
        self.go_on(node, miss.progress, failure, proof)?;
        Ok(body)
    }

    /// Passes an answer on, or takes it as a sign of a sick node: then the
    /// body to send again.
    async fn examine(
        &mut self,
        mut answered: Answered,
        began: Instant,
        again: Option<Upload>,
    ) -> Result<Answered, Upload> {
        let node = answered.permit.node();
        let status = answered.response.status().as_u16();
        if is_suspicious(status) {
            self.core.nodes.report(node, Event::RequestFailed, began);
            let may_again = self.proof_of(Progress::AnsweredSick);
            if let (Some(proof), Some(body)) = (may_again, again)
                && self.is_sick(node).await
                && self.can_afford()
                && self
                    .go_on(node, Progress::AnsweredSick, Failure::Sick, proof)
                    .is_ok()
            {
                self.trail
                    .attempted(&self.core.metrics, node, Outcome::Sick(status));
                return Err(body);
            }
        }
        // A node that refuses does so quickly: that is no reason to prefer it.
        if answered.response.status().is_success() {
            let Trail { route, .. } = *self.trail;
            answered.permit.answered(route, answered.latency);
            if let Some(hedge) = &self.core.routes.get(route).hedge {
                hedge.answered(answered.latency);
            }
        }
        self.trail
            .attempted(&self.core.metrics, node, Outcome::Answered(status));
        Ok(answered)
    }

    /// Whether the budget has room for a request that may have been delivered,
    /// and there is a node that repeating it could help.
    fn can_afford(&self) -> bool {
        let Core { nodes, metrics, .. } = &**self.core;
        let (requests, _) = metrics.totals();
        let is_afforded = !nodes.all_failed() && self.core.take_retry(requests);
        if !is_afforded {
            metrics.retry_denied(self.trail.route);
        }
        is_afforded
    }

    /// Whether a check made now finds the node sick, if there is another.
    async fn is_sick(&self, node: usize) -> bool {
        let mut others = self.failed;
        others.insert(node);
        let nodes = &self.core.nodes;
        let now = Instant::now();
        let until = self.request.deadline.min(now + self.core.verdict_timeout);
        nodes.serves(others) && nodes.found_sick(node, now, until).await
    }

    /// Notes that the request goes on to another node.
    fn go_on(
        &mut self,
        node: usize,
        progress: Progress,
        failure: Failure,
        proof: Proof,
    ) -> Result<(), Failure> {
        self.deliveries += usize::from(!progress.is_undelivered());
        if self.trail.count() >= ATTEMPTS_MAX || self.deliveries >= DELIVERIES_MAX {
            return Err(failure);
        }
        self.failed.insert(node);
        self.failure = Some(failure);
        self.proof = Some(proof);
        Ok(())
    }
}

/// Answers that a sick node gives. 501 and the like are about the request,
/// and 429 is the node's own limiter.
fn is_suspicious(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}
