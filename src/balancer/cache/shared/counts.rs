//! What is counted of the shared cache.

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::line::Trouble;

/// What came of looking for an answer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// One that is of use.
    Hit,
    /// None.
    Miss,
    /// One that is too old, or that this route does not keep.
    Old,
    /// One from the future.
    Future,
    /// Something else.
    Damaged,
    /// No answer from Redis.
    Failed,
    /// Redis was not asked.
    Skipped,
}

/// What came of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leased {
    /// It was had: a node is asked.
    Had,
    /// Another balancer had it, and its answer came in time.
    Waited,
    /// Another balancer had it; a node is asked all the same.
    GivenUp,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// An answer.
    Answer,
    /// The end of a lease.
    Release,
    /// The end of an answer.
    Removal,
}

/// What came of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done.
    Done,
    /// It was tried.
    Failed,
    /// It was not tried: Redis is not asked now, too much waits, or it is too
    /// large, or too late.
    Dropped,
}

/// Handles of the counters.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    looks: [IntCounter; 7],
    leases: [IntCounter; 3],
    writes: [[IntCounter; 3]; 3],
    errors: [IntCounter; Trouble::COUNTED.len()],
    up: IntGauge,
}

impl Counts {
    /// Of these families.
    pub(crate) fn new(
        [looks, leases, writes, errors]: [&IntCounterVec; 4],
        up: &IntGauge,
    ) -> Counts {
        let look = |it| looks.with_label_values(&[it]);
        let lease = |it| leases.with_label_values(&[it]);
        let write = |what| {
            let outcome = |it| writes.with_label_values(&[what, it]);
            ["done", "failed", "dropped"].map(outcome)
        };
        let error = |it: Trouble| errors.with_label_values(&[it.label()]);
        Counts {
            looks: [
                "hit", "miss", "old", "future", "damaged", "failed", "skipped",
            ]
            .map(look),
            leases: ["had", "waited", "given_up"].map(lease),
            writes: ["answer", "release", "removal"].map(write),
            errors: Trouble::COUNTED.map(error),
            up: up.clone(),
        }
    }

    pub(super) fn looked(&self, look: Look) {
        self.looks[look as usize].inc();
    }

    pub(super) fn leased(&self, leased: Leased) {
        self.leases[leased as usize].inc();
    }

    pub(super) fn wrote(&self, what: Written, outcome: Outcome) {
        self.writes[what as usize][outcome as usize].inc();
    }

    pub(super) fn failed(&self, trouble: Trouble) {
        if let Some(place) = Trouble::COUNTED.iter().position(|it| *it == trouble) {
            self.errors[place].inc();
        }
    }

    /// Whether it is asked.
    pub(crate) fn is_up(&self, up: bool) {
        self.up.set(i64::from(up));
    }
}
