//! What a histogram has counted: a plain value to merge, ask and show.

use std::time::Duration;

use super::edges::{BUCKETS, CLASSIC_EDGES, EDGES, bucket};

/// Counts of durations by bucket, and their sum. Made by
/// [`Histogram::read`](super::Histogram::read); distributions of several
/// workers, statements or moments can be added and subtracted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    pub(super) counts: [u64; BUCKETS],
    pub(super) nanos: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution {
            counts: [0; BUCKETS],
            nanos: 0,
        }
    }
}

impl Distribution {
    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Adds `other`'s counts to these.
    pub fn merge(&mut self, other: &Distribution) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }

    /// What was counted since `earlier`, an earlier state of this same
    /// distribution. Counts that would be negative are zero.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let mut rest = self.clone();
        for (count, less) in rest.counts.iter_mut().zip(&earlier.counts) {
            *count = count.saturating_sub(*less);
        }
        rest.nanos = self.nanos.saturating_sub(earlier.nanos);
        rest
    }

    /// How many durations were at most `edge`. Exact for the powers of
    /// 2^(1/4) s and for the [`CLASSIC_EDGES`]; for anything else, up to the
    /// next edge below it.
    pub fn at_most(&self, edge: Duration) -> u64 {
        let nanos = u64::try_from(edge.as_nanos()).unwrap_or(u64::MAX);
        let whole_buckets = match bucket(nanos) {
            index if EDGES.get(index) == Some(&nanos) => index + 1,
            index => index,
        };
        self.counts[..whole_buckets].iter().sum()
    }

    /// The classic Prometheus view: each of the [`CLASSIC_EDGES`] with the
    /// number of durations at or below it. All are exact.
    pub fn classic(&self) -> [(Duration, u64); CLASSIC_EDGES.len()] {
        CLASSIC_EDGES.map(|edge| (edge, self.at_most(edge)))
    }

    /// An estimate of the duration that the share `q` (0 to 1) of all
    /// durations does not exceed, taken linearly inside its bucket: at most
    /// 19 % off. `None` when nothing was counted. Durations over 64 s count
    /// as 64 s.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = q.clamp(0.0, 1.0) * self.count() as f64;
        let (mut below, mut lower) = (0, 0);
        let mut found = None;
        for (index, &count) in self.counts.iter().enumerate() {
            let upper = EDGES.get(index).copied().unwrap_or(lower);
            if count > 0 {
                let share = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
                found = Some(lower + (share * (upper - lower) as f64) as u64);
                below += count;
                if below as f64 >= rank {
                    break;
                }
            }
            lower = upper;
        }
        found.map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stats::Histogram;

    fn of(durations: &[Duration]) -> Distribution {
        let histogram = Histogram::default();
        durations
            .iter()
            .for_each(|&duration| histogram.record(duration));
        histogram.read()
    }

    /// Durations of every magnitude.
    fn durations() -> impl Strategy<Value = Vec<Duration>> {
        let one = (any::<u64>(), 20u32..60);
        prop::collection::vec(
            one.prop_map(|(n, shift)| Duration::from_nanos(n >> shift)),
            1..60,
        )
    }

    #[test]
    fn classic_view_is_exact_at_four_tenths_and_one_second() {
        let edge = |millis| Duration::from_millis(millis);
        let tick = Duration::from_nanos(1);
        let view = of(&[edge(400), edge(400) + tick, edge(1000), edge(1000) + tick]);
        assert_eq!(view.at_most(edge(400)), 1);
        assert_eq!(view.at_most(edge(1000)), 3);
    }

    #[test]
    fn an_edge_that_does_not_exist_is_rounded_down() {
        let view = of(&[Duration::from_millis(700), Duration::from_millis(800)]);
        assert_eq!(
            view.at_most(Duration::from_millis(790)),
            1,
            "edges are 707 and 841 ms"
        );
    }

    #[test]
    fn quantile_of_nothing_is_none() {
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn quantile_above_the_highest_edge_is_the_highest_edge() {
        assert_eq!(
            of(&[Duration::MAX]).quantile(0.99),
            Some(Duration::from_secs(64))
        );
    }

    #[test]
    fn since_is_what_came_after() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(3));
        let earlier = histogram.read();
        histogram.record(Duration::from_millis(5));
        assert_eq!(
            histogram.read().since(&earlier),
            of(&[Duration::from_millis(5)])
        );
    }

    proptest! {
        #[test]
        fn classic_view_counts_what_is_at_or_below_each_edge(durations in durations()) {
            for (edge, count) in of(&durations).classic() {
                let expected = durations.iter().filter(|&&d| d <= edge).count() as u64;
                prop_assert_eq!(count, expected);
            }
        }

        #[test]
        fn merge_is_the_distribution_of_both(a in durations(), b in durations()) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }

        #[test]
        fn quantiles_never_fall_as_the_share_grows(d in durations(), p in 0.0..1.0, q in 0.0..1.0) {
            let (low, high) = if p < q { (p, q) } else { (q, p) };
            prop_assert!(of(&d).quantile(low) <= of(&d).quantile(high));
        }

        #[test]
        fn quantile_is_within_a_bucket_of_the_true_one(mut durations in durations(), q in 0.0..1.0) {
            let estimate = of(&durations).quantile(q).expect("not empty").as_nanos() as f64;
            durations.sort_unstable();
            let rank = (q * durations.len() as f64).ceil().max(1.0) as usize;
            let truth = durations[rank - 1].as_nanos().min(64_000_000_000) as f64;
            prop_assert!(estimate <= truth * 1.1893 + 954.0, "{estimate} for {truth}");
            prop_assert!(estimate >= truth / 1.1893 - 954.0, "{estimate} for {truth}");
        }
    }
}
