//! Whether the shared cache is asked at all.

use std::time::Duration;

/// Failures in a row after which it is left alone for a while.
const FAILURES: u32 = 3;

/// For how long, at first and at most; it doubles with each failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Counts failures in a row. A trial that succeeds lets questions pass, and
/// only one of them that succeeds forgets the failures.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
}

impl Breaker {
    /// A question was not answered. How long nothing is asked now; none if
    /// that was not the last straw.
    pub(super) fn failed(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let over = self.failures.checked_sub(FAILURES)?;
        let (first, longest) = PAUSE;
        Some((first * (1 << over.min(8))).min(longest))
    }

    /// A question was answered.
    pub(super) fn worked(&mut self) {
        self.failures = 0;
    }
}

/// A state that the log is told of when it changes.
#[derive(Debug)]
pub(super) struct Told(Option<bool>);

impl Told {
    /// Nothing was told yet.
    pub(super) fn nothing() -> Told {
        Told(None)
    }

    /// As long as all is well there is nothing to tell.
    pub(super) fn all_is_well() -> Told {
        Told(Some(false))
    }

    /// Whether this is something else than what was told.
    pub(super) fn changes(&mut self, is_bad: bool) -> bool {
        self.0.replace(is_bad) != Some(is_bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_some_failures_in_a_row_it_is_left_alone_ever_longer() {
        let mut breaker = Breaker::default();
        let pauses: Vec<_> = (0..10).map(|_| breaker.failed()).collect();
        let seconds = |it: u64| Some(Duration::from_secs(it));
        let expected = [1, 2, 4, 8, 16, 30, 30, 30].map(seconds);
        assert_eq!(pauses[..2], [None, None]);
        assert_eq!(pauses[2..], expected);
        breaker.worked();
        assert_eq!(breaker.failed(), None);
    }

    #[test]
    fn failures_between_answers_are_no_row() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            assert_eq!(breaker.failed(), None);
            breaker.worked();
        }
    }
}
