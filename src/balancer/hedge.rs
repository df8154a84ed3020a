//! When a second node is asked while the first one still works on a request.
//!
//! A request on a route with `hedge` whose answer takes longer than nineteen of
//! twenty of its route do is asked of another node too, and the answer that
//! comes first is passed on. That is an answer to a node that hangs without
//! being down. What it costs is bounded: one request in twenty more, and none
//! where no node is free.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Part of a route's answers that are waited for without a second node.
const PATIENT: f64 = 0.95;

/// How far one answer moves the latency that is waited for.
const STEP: f64 = 0.05;

/// Answers from which that latency is known.
const ANSWERS: u32 = 20;

/// The least that is waited.
const LEAST: Duration = Duration::from_millis(1);

/// Part of all requests that a second node may be asked for.
const SHARE: f64 = 0.05;

/// Second nodes that may be asked at once after a quiet time.
const BURST: f64 = 10.0;

/// One route's.
#[derive(Debug)]
pub(crate) struct Hedge(Mutex<Hedging>);

#[derive(Debug)]
struct Hedging {
    /// The latency that [`PATIENT`] of all answers do not exceed, in seconds.
    patience: f64,
    /// Answers it is known from; no longer counted once they are enough.
    answers: u32,
    /// How many times a second node may be asked.
    budget: f64,
}

impl Hedge {
    /// One that knows nothing yet.
    pub(crate) fn new() -> Hedge {
        Hedge(Mutex::new(Hedging {
            patience: 0.0,
            answers: 0,
            budget: BURST,
        }))
    }

    /// A request begins: how long its answer is waited for before a second
    /// node is asked; none as long as too little is known.
    pub(crate) fn begin(&self) -> Option<Duration> {
        let mut hedging = self.hedging();
        hedging.budget = (hedging.budget + SHARE).min(BURST);
        let is_known = hedging.answers >= ANSWERS;
        is_known.then(|| Duration::from_secs_f64(hedging.patience).max(LEAST))
    }

    /// Whether a second node may be asked; takes it from the budget.
    pub(crate) fn take(&self) -> bool {
        let mut hedging = self.hedging();
        let is_there = hedging.budget >= 1.0;
        hedging.budget -= f64::from(u8::from(is_there));
        is_there
    }

    /// A node's answer took so long. Of a node that was outrun it is told how
    /// long it had taken by then.
    pub(crate) fn answered(&self, latency: Duration) {
        self.hedging().learn(latency.as_secs_f64());
    }

    fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hedging {
    /// Steps up by nineteen parts or down by one, so that it rests where
    /// nineteen answers of twenty are below it.
    fn learn(&mut self, latency: f64) {
        if self.answers < ANSWERS {
            // The slowest of the first ones: it may only come down from there.
            self.answers += 1;
            self.patience = self.patience.max(latency);
            return;
        }
        self.patience *= match latency > self.patience {
            true => 1.0 + STEP * PATIENT,
            false => 1.0 - STEP * (1.0 - PATIENT),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn nobody_is_hedged_before_enough_is_known() {
        let hedge = Hedge::new();
        for _ in 1..ANSWERS {
            hedge.answered(millis(10));
            assert_eq!(hedge.begin(), None);
        }
        hedge.answered(millis(10));
        assert_eq!(hedge.begin(), Some(millis(10)));
    }

    #[test]
    fn one_in_twenty_may_be_hedged_and_ten_at_once() {
        let hedge = Hedge::new();
        let takes = || std::iter::from_fn(|| hedge.take().then_some(())).count();
        assert_eq!(takes(), 10);
        for _ in 0..101 {
            hedge.begin();
        }
        assert_eq!(takes(), 5);
        for _ in 0..10_000 {
            hedge.begin();
        }
        assert_eq!(takes(), 10);
    }

    #[test]
    fn an_answer_at_once_is_waited_for_a_moment() {
        let hedge = Hedge::new();
        for _ in 0..ANSWERS {
            hedge.answered(Duration::ZERO);
        }
        assert_eq!(hedge.begin(), Some(LEAST));
    }

    proptest! {
        /// Of latencies that are spread evenly, about one in twenty is above
        /// what is waited for, wherever it began.
        #[test]
        fn what_is_waited_for_rests_at_the_slowest_twentieth(
            seed in prop::collection::vec(0.0..1.0f64, 1000),
            first in 0.01..10.0f64,
        ) {
            let mut hedging = Hedging { patience: first, answers: ANSWERS, budget: 0.0 };
            let spread = seed.iter().map(|it| 0.1 + it);
            let mut above = 0;
            for (number, latency) in spread.cycle().take(6000).enumerate() {
                above += usize::from(number >= 2000 && latency > hedging.patience);
                hedging.learn(latency);
            }
            prop_assert!((120..280).contains(&above), "{above} of 4000");
        }
    }
}
