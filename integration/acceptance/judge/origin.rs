//! Whether every answer was made by a node for this very request.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::{Endpoint, Outcome, Sample};

/// How far the time in an answer may be from ours, in seconds.
const SKEW_MAX: f64 = 2.0;

/// Requests as seen at both ends, by path pattern.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Origin {
    sent: BTreeMap<String, usize>,
    /// Of those, the ones without a good answer: nobody knows whether a node
    /// got them.
    unknown: BTreeMap<String, usize>,
    /// What the nodes counted, for the patterns that were sent.
    counted: BTreeMap<String, usize>,
    /// How often the balancer sent a request again.
    retries: u64,
    /// Largest distance of a time in an answer, in seconds.
    skew: f64,
    /// Answers that had a time.
    signed: usize,
    /// Answers that the balancer says it had kept, where it must not keep any.
    kept: usize,
    /// Answers that sent the client elsewhere.
    pub(crate) redirects: usize,
}

impl Origin {
    /// Puts the two ends together. `counted` may hold other patterns, too.
    pub(crate) fn of(
        samples: &[Sample],
        counted: &BTreeMap<String, usize>,
        retries: u64,
    ) -> Origin {
        let mut origin = Origin {
            retries,
            ..Origin::default()
        };
        for sample in samples {
            let pattern = sample.endpoint.pattern();
            *origin.sent.entry(pattern.into()).or_default() += 1;
            if is_unknown(&sample.outcome) {
                *origin.unknown.entry(pattern.into()).or_default() += 1;
            }
            let may_be_kept = sample.endpoint == Endpoint::LongDummy;
            origin.kept += usize::from(sample.is_kept() && !may_be_kept);
            origin.redirects += usize::from(matches!(sample.outcome, Outcome::Status(300..400)));
            if let Some(signature) = &sample.signature {
                origin.signed += 1;
                origin.skew = origin.skew.max(signature.skew.abs());
            }
        }
        for pattern in origin.sent.keys() {
            let count = counted.get(pattern).copied().unwrap_or_default();
            origin.counted.insert(pattern.clone(), count);
        }
        origin
    }

    /// Adds what was seen at another time.
    pub(crate) fn add(&mut self, other: &Origin) {
        for (mine, more) in [
            (&mut self.sent, &other.sent),
            (&mut self.unknown, &other.unknown),
            (&mut self.counted, &other.counted),
        ] {
            for (pattern, count) in more {
                *mine.entry(pattern.clone()).or_default() += count;
            }
        }
        self.retries += other.retries;
        self.signed += other.signed;
        self.kept += other.kept;
        self.redirects += other.redirects;
        self.skew = self.skew.max(other.skew);
    }

    /// Every request was counted once, but for retries and for those whose
    /// fate is unknown; no answer is said to be kept, and no time in one is old.
    pub(crate) fn is_uncached(&self) -> bool {
        let spare = usize::try_from(self.retries).unwrap_or(usize::MAX);
        let fits = |(pattern, sent): (&String, &usize)| {
            let unknown = self.unknown.get(pattern).copied().unwrap_or_default();
            let counted = self.counted.get(pattern).copied().unwrap_or_default();
            (sent - unknown..=sent.saturating_add(spare)).contains(&counted)
        };
        !self.sent.is_empty()
            && self.sent.iter().all(fits)
            && self.kept == 0
            && self.skew <= SKEW_MAX
    }
}

/// No status, or one that the balancer may have made itself.
fn is_unknown(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Status(..502 | 505..))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>();
        let (sent, counted) = (sum(&self.sent), sum(&self.counted));
        write!(f, "nodes counted {counted} of {sent}")?;
        for (pattern, sent) in &self.sent {
            let counted = self.counted.get(pattern).copied().unwrap_or_default();
            if counted != *sent {
                write!(f, ", {pattern} {counted} of {sent}")?;
            }
        }
        if self.kept > 0 {
            write!(f, ", {} KEPT by the balancer", self.kept)?;
        }
        if self.retries > 0 {
            write!(f, ", {} retries", self.retries)?;
        }
        if self.signed > 0 {
            write!(f, ", time within {:.3} s", self.skew)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::generator::Signature;

    fn origin(statuses: &[u16], counted: usize, retries: u64) -> Origin {
        let samples: Vec<_> = statuses
            .iter()
            .map(|status| sample(0, 1, Outcome::Status(*status)))
            .collect();
        let counts = [("/operation".to_owned(), counted), ("/ping".to_owned(), 9)];
        Origin::of(&samples, &counts.into(), retries)
    }

    #[test]
    fn each_request_has_to_be_counted_once() {
        assert!(origin(&[200, 200, 404], 3, 0).is_uncached());
        assert!(!origin(&[200, 200, 404], 2, 0).is_uncached());
        assert!(!origin(&[200, 200, 404], 4, 0).is_uncached());
        assert!(!origin(&[], 0, 0).is_uncached());
    }

    #[test]
    fn retries_may_be_counted_too() {
        assert!(origin(&[200, 200], 3, 1).is_uncached());
        assert!(!origin(&[200, 200], 4, 1).is_uncached());
        assert!(!origin(&[200, 200], 1, 1).is_uncached());
    }

    #[test]
    fn a_request_without_a_nodes_answer_may_be_counted_or_not() {
        assert!(origin(&[200, 502], 1, 0).is_uncached());
        assert!(origin(&[200, 502], 2, 0).is_uncached());
        assert!(!origin(&[200, 502], 0, 0).is_uncached());
    }

    #[test]
    fn an_old_answer_is_cached() {
        let mut late = sample(0, 1, Outcome::Status(200));
        late.signature = Some(Signature {
            hostname: "node1".into(),
            pid: 7,
            skew: -2.5,
        });
        let counts = BTreeMap::from([("/operation".to_owned(), 1)]);
        assert!(!Origin::of(&[late], &counts, 0).is_uncached());
    }

    #[test]
    fn an_answer_that_was_kept_is_cached() {
        let mut kept = sample(0, 1, Outcome::Status(200));
        let hit = "pgweir; hit; ttl=12".parse().expect("a value");
        kept.headers.insert("cache-status", hit);
        let counts = BTreeMap::from([("/operation".to_owned(), 1)]);
        assert!(!Origin::of(&[kept.clone()], &counts, 0).is_uncached());
        let miss = "pgweir; fwd=bypass".parse().expect("a value");
        kept.headers.insert("cache-status", miss);
        assert!(Origin::of(&[kept], &counts, 0).is_uncached());
    }

    #[test]
    fn sums_do_not_hide_a_difference() {
        let mut both = origin(&[200, 200], 2, 0);
        both.add(&origin(&[200], 0, 0));
        assert!(!both.is_uncached());
        assert_eq!(both.to_string(), "nodes counted 2 of 3, /operation 2 of 3");
    }
}
