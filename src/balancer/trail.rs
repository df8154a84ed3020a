//! What a request went through on its way to an answer, for metrics and logs.

use std::time::Duration;

use super::metrics::Metrics;
use super::route::RouteId;

/// Attempts of one request that are noted.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// What one attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An answer with this status, that was passed on.
    Answered(u16),
    /// An answer with this status, from a node that proved sick.
    Sick(u16),
    /// No answer; the word says how far it came or what ended it.
    Failed(&'static str),
}

/// One attempt: the node and what it came to.
pub(crate) type Attempt = (usize, Outcome);

/// A request's way so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trail {
    /// Its route.
    pub(crate) route: RouteId,
    /// How long it waited for nodes.
    pub(crate) queued: Duration,
    /// In order; the last one is the one that was answered.
    pub(crate) attempts: [Option<Attempt>; ATTEMPTS_MAX],
}

impl Trail {
    /// Nothing has happened yet.
    pub(crate) fn new(route: RouteId) -> Trail {
        Trail {
            route,
            queued: Duration::ZERO,
            attempts: [None; ATTEMPTS_MAX],
        }
    }

    /// An attempt has ended.
    pub(crate) fn attempted(&mut self, metrics: &Metrics, node: usize, outcome: Outcome) {
        match outcome {
            Outcome::Answered(status) | Outcome::Sick(status) => metrics.answered(node, status),
            Outcome::Failed(word) => metrics.unanswered(node, word),
        }
        if let Some(place) = self.attempts.iter_mut().find(|it| it.is_none()) {
            *place = Some((node, outcome));
        }
    }

    /// Attempts so far.
    pub(crate) fn count(&self) -> usize {
        self.attempts.iter().flatten().count()
    }

    /// The node of the last attempt.
    pub(crate) fn last_node(&self) -> Option<usize> {
        self.attempts.iter().flatten().last().map(|(node, _)| *node)
    }
}
