//! Errors and latencies of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::load::{Outcome, Sample};

/// What a load came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    pub(crate) sent: usize,
    /// Transport failures, timeouts and statuses of 400 and above, by kind.
    pub(crate) errors: BTreeMap<String, usize>,
    /// Refused because there was no room: 429 by a node's limiter, 503 by the
    /// balancer. They are among the errors, too.
    pub(crate) shed: usize,
    /// Of all requests, failed ones included; sorted.
    latencies: Vec<Duration>,
    /// How late requests were sent; sorted.
    late: Vec<Duration>,
}

/// A generator that is later than this in one of ten cases measures the
/// machine, not pgweir, and says so.
const LATE: Duration = Duration::from_millis(10);

impl Summary {
    pub(crate) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Summary {
        let mut summary = Summary {
            sent: 0,
            errors: BTreeMap::new(),
            shed: 0,
            latencies: Vec::new(),
            late: Vec::new(),
        };
        for sample in samples {
            summary.sent += 1;
            summary.latencies.push(sample.latency);
            summary.late.push(sample.late);
            if !sample.is_served() {
                *summary.errors.entry(kind(&sample.outcome)).or_default() += 1;
            }
            if is_shed(&sample.outcome) {
                summary.shed += 1;
            }
        }
        summary.latencies.sort();
        summary.late.sort();
        summary
    }

    pub(crate) fn error_count(&self) -> usize {
        self.errors.values().sum()
    }

    /// Whether at most this many in a hundred failed; none sent is no success.
    pub(crate) fn errors_within(&self, percent: usize) -> bool {
        self.sent > 0 && self.error_count() * 100 <= self.sent * percent
    }

    /// The latency that `percent` in a hundred did not exceed (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        nearest_rank(&self.latencies, percent)
    }

    pub(crate) fn longest(&self) -> Duration {
        self.latencies.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} errors of {}", self.error_count(), self.sent)?;
        if !self.errors.is_empty() {
            let kinds = self.errors.iter();
            let kinds: Vec<_> = kinds
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            write!(f, " ({})", kinds.join(", "))?;
        }
        let [p50, p90, p99] = [50, 90, 99].map(|percent| ms(self.percentile(percent)));
        write!(
            f,
            ", p50 {p50} p90 {p90} p99 {p99} max {} ms",
            ms(self.longest())
        )?;
        match nearest_rank(&self.late, 90) {
            late if late < LATE => Ok(()),
            late => write!(
                f,
                ", SENT LATE by {} ms in 1 of 10: this machine is busy",
                ms(late)
            ),
        }
    }
}

fn nearest_rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    let index = rank.saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

/// Milliseconds, for people.
fn ms(duration: Duration) -> String {
    match duration.as_secs_f64() * 1000.0 {
        few @ ..10.0 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Status(status) => status.to_string(),
        Outcome::Transport(why) => why.clone(),
        Outcome::Timeout => "timeout".to_owned(),
    }
}

fn is_shed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Status(429 | 503))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::Endpoint;
    use bytes::Bytes;

    /// A request to `/operation` at a time, in milliseconds both.
    pub(crate) fn sample(at: u64, latency: u64, outcome: Outcome) -> Sample {
        Sample {
            endpoint: Endpoint::Operation,
            at: Duration::from_millis(at),
            late: Duration::ZERO,
            latency: Duration::from_millis(latency),
            outcome,
            headers: hyper::HeaderMap::new(),
            signature: None,
            body: Bytes::new(),
        }
    }

    fn hundred(failed: usize) -> Vec<Sample> {
        let status = |n| Outcome::Status(if n < failed { 502 } else { 200 });
        (0..100)
            .map(|n| sample(n as u64, n as u64 + 1, status(n)))
            .collect()
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let summary = Summary::of(&hundred(0));
        assert_eq!(summary.percentile(50), Duration::from_millis(50));
        assert_eq!(summary.percentile(90), Duration::from_millis(90));
        assert_eq!(summary.longest(), Duration::from_millis(100));
        let one = Summary::of(&[sample(0, 7, Outcome::Timeout)]);
        assert_eq!(one.percentile(90), Duration::from_millis(7));
        assert_eq!(Summary::of(&[]).percentile(90), Duration::ZERO);
    }

    #[test]
    fn one_in_a_hundred_is_one_percent() {
        assert!(Summary::of(&hundred(1)).errors_within(1));
        assert!(!Summary::of(&hundred(2)).errors_within(1));
        assert!(!Summary::of(&hundred(1)).errors_within(0));
        assert!(Summary::of(&hundred(0)).errors_within(0));
    }

    #[test]
    fn a_generator_that_lags_is_told() {
        let mut samples = hundred(0);
        assert!(!Summary::of(&samples).to_string().contains("LATE"));
        for sample in &mut samples[..11] {
            sample.late = Duration::from_millis(25);
        }
        assert!(Summary::of(&samples).to_string().contains("LATE by 25 ms"));
    }

    #[test]
    fn nothing_sent_is_no_success() {
        assert!(!Summary::of(&[]).errors_within(1));
    }

    #[test]
    fn kinds_of_errors_are_told_apart_and_shedding_is_counted() {
        let samples = [
            sample(0, 1, Outcome::Status(204)),
            sample(0, 1, Outcome::Status(429)),
            sample(0, 1, Outcome::Status(503)),
            sample(0, 1, Outcome::Status(404)),
            sample(0, 1, Outcome::Timeout),
            sample(0, 1, Outcome::Transport("connect: refused".into())),
        ];
        let summary = Summary::of(&samples);
        assert_eq!((summary.error_count(), summary.shed), (5, 2));
        let text = summary.to_string();
        assert!(
            text.starts_with(
                "5 errors of 6 (1 404, 1 429, 1 503, 1 connect: refused, 1 timeout), p50 1.0 "
            ),
            "{text}"
        );
    }
}
