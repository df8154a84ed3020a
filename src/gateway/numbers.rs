//! What is counted of a statement.

use std::sync::Arc;
use std::time::Duration;

use super::slots::{Slot, Slots};
use crate::stats::{Counter, Distribution, Histogram};

/// A SQLSTATE, five letters and digits (PostgreSQL, appendix A).
pub type SqlState = [u8; 5];

/// How one execution of a statement went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// From the statement's leaving for the server to the end of the answer;
    /// `None` if no server was asked.
    pub server_time: Option<Duration>,
    /// Time the client waited for a server.
    pub wait_time: Duration,
    /// Rows returned or affected, by the command tag.
    pub rows: u64,
    /// Bytes received from the client, and sent to it.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
    /// The error it ended with.
    pub error: Option<SqlState>,
}

/// What one worker has counted of one statement.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    calls: Counter,
    errors: Counter,
    rows: Counter,
    received: Counter,
    sent: Counter,
    wait_nanos: Counter,
    max_nanos: Counter,
    /// The SQLSTATE as a number, zero for none.
    last_error: Counter,
    times: Histogram,
}

impl Numbers {
    #[inline]
    pub(super) fn record(&self, outcome: &Outcome) {
        self.calls.add(1);
        self.rows.add(outcome.rows);
        self.received.add(outcome.received);
        self.sent.add(outcome.sent);
        self.wait_nanos.add(nanos(outcome.wait_time));
        if let Some(time) = outcome.server_time {
            self.times.record(time);
            self.max_nanos.raise(nanos(time));
        }
        if let Some([a, b, c, d, e]) = outcome.error {
            self.errors.add(1);
            self.last_error
                .set(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]));
        }
    }

    /// Adds what was counted to `totals`.
    pub(super) fn add_to(&self, totals: &mut Totals) {
        totals.calls += self.calls.read();
        totals.errors += self.errors.read();
        totals.rows += self.rows.read();
        totals.received += self.received.read();
        totals.sent += self.sent.read();
        totals.wait += Duration::from_nanos(self.wait_nanos.read());
        totals.max = totals.max.max(Duration::from_nanos(self.max_nanos.read()));
        let [.., a, b, c, d, e] = self.last_error.read().to_be_bytes();
        totals.last_error = totals.last_error.or((a != 0).then_some([a, b, c, d, e]));
        self.times.add_to(&mut totals.times);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes the numbers of one worker. May be cloned, and needs no `&mut`, but
/// its clones have **one writer thread** together, the worker's (see
/// [`Counter`]).
#[derive(Debug, Clone)]
pub struct Recorder(pub(super) Arc<Slots<Numbers>>);

impl Recorder {
    /// Counts one execution of the statement in `slot`. The worker's thread
    /// only.
    #[inline]
    pub fn record(&self, slot: Slot, outcome: &Outcome) {
        if let Some(numbers) = self.0.row(slot) {
            numbers.record(outcome);
        }
    }
}

/// What was counted of a statement, or of several, by all workers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Executions, failed ones included.
    pub calls: u64,
    /// Executions that ended with an error.
    pub errors: u64,
    /// Rows returned or affected.
    pub rows: u64,
    /// Bytes received from clients, and sent to them.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
    /// Time that clients waited for a server.
    pub wait: Duration,
    /// The longest server time.
    pub max: Duration,
    /// The SQLSTATE of the last error, as one of the workers saw it.
    pub last_error: Option<SqlState>,
    /// Server times of the executions that reached a server.
    pub times: Distribution,
}

impl Totals {
    /// Adds another statement's numbers.
    pub(super) fn merge(&mut self, other: &Totals) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.rows += other.rows;
        self.received += other.received;
        self.sent += other.sent;
        self.wait += other.wait;
        self.max = self.max.max(other.max);
        self.last_error = self.last_error.or(other.last_error);
        self.times.merge(&other.times);
    }

    /// What was counted since these same numbers were `earlier`. The maximum
    /// and the last error are of all time.
    pub(super) fn since(&self, earlier: &Totals) -> Totals {
        Totals {
            calls: self.calls.saturating_sub(earlier.calls),
            errors: self.errors.saturating_sub(earlier.errors),
            rows: self.rows.saturating_sub(earlier.rows),
            received: self.received.saturating_sub(earlier.received),
            sent: self.sent.saturating_sub(earlier.sent),
            wait: self.wait.saturating_sub(earlier.wait),
            max: self.max,
            last_error: self.last_error,
            times: self.times.since(&earlier.times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(numbers: &[Numbers]) -> Totals {
        let mut totals = Totals::default();
        numbers.iter().for_each(|n| n.add_to(&mut totals));
        totals
    }

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn workers_numbers_add_up() {
        let workers = [Numbers::default(), Numbers::default()];
        let outcome = Outcome {
            server_time: Some(3 * MILLI),
            wait_time: MILLI,
            rows: 10,
            received: 20,
            sent: 30,
            error: None,
        };
        workers[0].record(&outcome);
        workers[1].record(&Outcome {
            server_time: Some(9 * MILLI),
            ..outcome
        });
        let totals = totals(&workers);
        assert_eq!((totals.calls, totals.errors, totals.rows), (2, 0, 20));
        assert_eq!((totals.received, totals.sent), (40, 60));
        assert_eq!((totals.wait, totals.max), (2 * MILLI, 9 * MILLI));
        assert_eq!((totals.times.count(), totals.times.sum()), (2, 12 * MILLI));
    }

    #[test]
    fn an_error_is_counted_and_its_sqlstate_kept() {
        let numbers = Numbers::default();
        numbers.record(&Outcome {
            error: Some(*b"42P01"),
            ..Outcome::default()
        });
        let totals = totals(&[numbers]);
        assert_eq!((totals.errors, totals.last_error), (1, Some(*b"42P01")));
    }

    #[test]
    fn a_statement_that_reached_no_server_has_no_server_time() {
        let numbers = Numbers::default();
        numbers.record(&Outcome {
            error: Some(*b"57014"),
            ..Outcome::default()
        });
        let totals = totals(&[numbers]);
        assert_eq!((totals.calls, totals.times.count()), (1, 0));
    }

    #[test]
    fn since_takes_away_what_was_before() {
        let numbers = [Numbers::default()];
        numbers[0].record(&Outcome {
            rows: 5,
            ..Outcome::default()
        });
        let earlier = totals(&numbers);
        let outcome = Outcome {
            rows: 2,
            server_time: Some(MILLI),
            ..Outcome::default()
        };
        numbers[0].record(&outcome);
        let since = totals(&numbers).since(&earlier);
        assert_eq!((since.calls, since.rows, since.times.count()), (1, 2, 1));
    }
}
