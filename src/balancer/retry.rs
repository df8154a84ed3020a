//! Whether a failed request may be sent to another node.
//!
//! What decides is how far the request came, whether its method is safe
//! (RFC 9110, 9.2.1), and the route's `replay`. A request whose method is not
//! safe and that may have been delivered is not sent again: if it was what
//! killed the node, the other one must not get it too. Once the head of an
//! answer is passed on, there is nothing left to decide.

use std::time::Instant;

use hyper::Method;

use crate::config::Replay;

/// Part of all requests that may be repeats.
const SHARE: f64 = 0.1;

/// Repeats a second that there may be in any case.
const LEAST: f64 = 3.0;

/// Repeats that may come at once after a quiet time.
const BURST: f64 = 100.0;

/// How many requests may still be sent again that may have been delivered:
/// when much fails, repeating it all would double the load of what is left.
///
/// What was never delivered costs nothing, and neither does what leaves a node
/// that is down.
#[derive(Debug)]
pub(crate) struct Budget {
    left: f64,
    /// Requests that had been served at `at`.
    requests: u64,
    at: Instant,
}

impl Budget {
    /// A full one.
    pub(crate) fn new(now: Instant) -> Budget {
        Budget {
            left: BURST,
            requests: 0,
            at: now,
        }
    }

    /// Takes one repeat from it, after so many requests in all. False if there
    /// is none.
    pub(crate) fn take(&mut self, requests: u64, now: Instant) -> bool {
        let served = requests.saturating_sub(self.requests) as f64;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let earned = (served * SHARE).max(passed * LEAST);
        self.left = (self.left + earned).min(BURST);
        (self.requests, self.at) = (requests, now);
        let is_there = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_there));
        is_there
    }
}

/// How far a request came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No connection could be had.
    NotConnected,
    /// There was a connection, and no byte of the request went into it.
    NotSerialized,
    /// Bytes were sent, into a connection that the node had closed: its kernel
    /// acknowledged none of them and reset the connection.
    NotAcknowledged,
    /// Bytes were sent and no answer came: it may or may not have been done.
    Ambiguous,
    /// A 5xx answer came from a node that a check made afterwards found sick.
    AnsweredSick,
}

impl Progress {
    /// The word for logs, metrics and `Proxy-Status`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Progress::NotConnected => "not_connected",
            Progress::NotSerialized => "not_serialized",
            Progress::NotAcknowledged => "not_acknowledged",
            Progress::Ambiguous => "ambiguous",
            Progress::AnsweredSick => "answered_sick",
        }
    }

    /// Nobody can have acted on the request.
    pub(crate) fn is_undelivered(self) -> bool {
        matches!(
            self,
            Progress::NotConnected | Progress::NotSerialized | Progress::NotAcknowledged
        )
    }
}

/// Why a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// No connection was made for it.
    NotConnected,
    /// No byte of it was sent.
    NotSerialized,
    /// The node's kernel took no byte of it.
    NotAcknowledged,
    /// Its method is safe.
    SafeMethod,
    /// The route says `always`.
    Configured,
}

impl Proof {
    /// All proofs, in the order of their metric rows.
    pub(crate) const ALL: [Proof; 5] = [
        Proof::NotConnected,
        Proof::NotSerialized,
        Proof::NotAcknowledged,
        Proof::SafeMethod,
        Proof::Configured,
    ];

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Proof::NotConnected => "not_connected",
            Proof::NotSerialized => "not_serialized",
            Proof::NotAcknowledged => "not_acknowledged",
            Proof::SafeMethod => "safe_method",
            Proof::Configured => "configured",
        }
    }
}

/// Methods that ask for nothing to be changed and that this balancer repeats.
/// TRACE is safe too, but it is refused.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The proof that a request may be sent again, if there is one. That its body
/// is still there is for the caller to see.
pub(crate) fn proof(progress: Progress, safe: bool, replay: Replay) -> Option<Proof> {
    match (replay, progress) {
        (Replay::Never, _) => None,
        (_, Progress::NotConnected) => Some(Proof::NotConnected),
        (_, Progress::NotSerialized) => Some(Proof::NotSerialized),
        (_, Progress::NotAcknowledged) => Some(Proof::NotAcknowledged),
        (_, Progress::Ambiguous | Progress::AnsweredSick) if safe => Some(Proof::SafeMethod),
        (Replay::Always, Progress::Ambiguous | Progress::AnsweredSick) => Some(Proof::Configured),
        (Replay::Proven, Progress::Ambiguous | Progress::AnsweredSick) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Progress::*;
    use Replay::*;
    use std::time::Duration;

    /// Progress, then what `never`, `proven` with an unsafe method, `proven`
    /// with a safe one, `always` with an unsafe one and `always` with a safe
    /// one say to it.
    type Row = (Progress, [Option<Proof>; 5]);

    #[test]
    fn the_table_of_progress_method_and_replay() {
        let connect = Some(Proof::NotConnected);
        let serialize = Some(Proof::NotSerialized);
        let acknowledge = Some(Proof::NotAcknowledged);
        let safe = Some(Proof::SafeMethod);
        let told = Some(Proof::Configured);
        let rows: [Row; 5] = [
            (NotConnected, [None, connect, connect, connect, connect]),
            (
                NotSerialized,
                [None, serialize, serialize, serialize, serialize],
            ),
            (
                NotAcknowledged,
                [None, acknowledge, acknowledge, acknowledge, acknowledge],
            ),
            (Ambiguous, [None, None, safe, told, safe]),
            (AnsweredSick, [None, None, safe, told, safe]),
        ];
        for (progress, [never, proven, proven_safe, always, always_safe]) in rows {
            for safe in [true, false] {
                assert_eq!(proof(progress, safe, Never), never, "{progress:?}");
            }
            assert_eq!(proof(progress, false, Proven), proven, "{progress:?}");
            assert_eq!(proof(progress, true, Proven), proven_safe, "{progress:?}");
            assert_eq!(proof(progress, false, Always), always, "{progress:?}");
            assert_eq!(proof(progress, true, Always), always_safe, "{progress:?}");
        }
    }

    #[test]
    fn what_may_have_been_delivered_is_repeated_only_if_safe_or_told_to() {
        for progress in [
            NotConnected,
            NotSerialized,
            NotAcknowledged,
            Ambiguous,
            AnsweredSick,
        ] {
            let by_default = proof(progress, false, Replay::default()).is_some();
            assert_eq!(by_default, progress.is_undelivered(), "{progress:?}");
        }
    }

    #[test]
    fn repeats_are_a_tenth_of_the_requests_and_three_a_second_at_least() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut take = |requests: u64, seconds: u64| -> usize {
            let now = start + Duration::from_secs(seconds);
            let takes = std::iter::from_fn(|| budget.take(requests, now).then_some(()));
            takes.take(1000).count()
        };
        assert_eq!(take(0, 0), 100, "at once");
        assert_eq!(take(0, 1), 3, "a second without traffic");
        assert_eq!(take(200, 2), 20, "a tenth of the traffic");
        assert_eq!(take(1_000_000, 1000), 100, "never more than the burst");
    }

    #[test]
    fn only_methods_without_effect_are_safe() {
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert!(is_safe(&method.parse().expect("a method")), "{method}");
        }
        for method in [
            "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "MKCOL",
        ] {
            assert!(!is_safe(&method.parse().expect("a method")), "{method}");
        }
    }
}
