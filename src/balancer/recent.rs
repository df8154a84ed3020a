//! Latencies of the last seconds, for the live line.
//!
//! A ring of one-second histograms with geometric buckets. Any task records;
//! nobody waits. Where a second begins, a few recordings may land in the
//! histogram that is being emptied: this is for people to look at, not for
//! accounting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Whole seconds that are looked back on.
const SECONDS: u64 = 5;

/// Those, the second that is running, and one that may be being emptied.
const SLOTS: usize = SECONDS as usize + 2;

/// Buckets per doubling: an answer is at most a quarter too high.
const STEPS: u32 = 4;

/// Up to 2^30 µs, 18 minutes.
const BUCKETS: usize = 30 * STEPS as usize;

/// Latencies of the last [`SECONDS`].
#[derive(Debug)]
pub(crate) struct Recent {
    slots: [Slot; SLOTS],
}

#[derive(Debug)]
struct Slot {
    second: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Recent {
    pub(crate) fn new() -> Recent {
        let slot = |_| Slot {
            second: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        Recent {
            slots: std::array::from_fn(slot),
        }
    }

    /// Counts one latency at this time since the beginning.
    pub(crate) fn record(&self, now: Duration, latency: Duration) {
        let second = now.as_secs();
        let slot = &self.slots[second as usize % SLOTS];
        let held = slot.second.load(Relaxed);
        let newer = held < second;
        if newer
            && slot
                .second
                .compare_exchange(held, second, Relaxed, Relaxed)
                .is_ok()
        {
            slot.buckets
                .iter()
                .for_each(|bucket| bucket.store(0, Relaxed));
        }
        slot.buckets[bucket_of(latency)].fetch_add(1, Relaxed);
    }

    /// The latencies that these shares of the last seconds' requests stay
    /// under, from 0 to 1; none without requests.
    pub(crate) fn quantiles<const N: usize>(
        &self,
        now: Duration,
        shares: [f64; N],
    ) -> Option<[Duration; N]> {
        let second = now.as_secs();
        let oldest = second.saturating_sub(SECONDS);
        let mut sums = [0u64; BUCKETS];
        for slot in &self.slots {
            if (oldest..=second).contains(&slot.second.load(Relaxed)) {
                for (sum, bucket) in sums.iter_mut().zip(&slot.buckets) {
                    *sum += u64::from(bucket.load(Relaxed));
                }
            }
        }
        let total: u64 = sums.iter().sum();
        (total > 0).then(|| shares.map(|share| quantile(&sums, total, share)))
    }
}

fn quantile(sums: &[u64], total: u64, share: f64) -> Duration {
    let rank = ((total as f64 * share).ceil() as u64).max(1);
    let mut seen = 0;
    let bucket = sums.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    upper_edge(bucket.unwrap_or(BUCKETS - 1))
}

/// Bucket `4 d + s` is from `(4 + s) / 4` to `(5 + s) / 4` times 2^d µs.
fn bucket_of(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros())
        .unwrap_or(u64::MAX)
        .max(1);
    let doublings = micros.ilog2();
    let step = ((u128::from(micros) * u128::from(STEPS)) >> doublings) as u32 - STEPS;
    ((doublings * STEPS + step) as usize).min(BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> Duration {
    let (doublings, step) = (bucket as u32 / STEPS, bucket as u32 % STEPS);
    Duration::from_nanos(((u64::from(STEPS + step + 1) * 1000) << doublings) / u64::from(STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn quantiles_are_those_of_the_last_seconds() {
        let recent = Recent::new();
        assert_eq!(recent.quantiles(SECOND, [0.5]), None);
        for latency in 1..=100 {
            recent.record(10 * SECOND, latency * MS);
        }
        let [p50, p90] = recent.quantiles(12 * SECOND, [0.5, 0.9]).expect("requests");
        assert!((50 * MS..=63 * MS).contains(&p50), "{p50:?}");
        assert!((90 * MS..=113 * MS).contains(&p90), "{p90:?}");
        assert_eq!(recent.quantiles(16 * SECOND, [0.5]), None);
    }

    #[test]
    fn a_second_that_comes_round_again_starts_empty() {
        let recent = Recent::new();
        recent.record(SECOND, 100 * MS);
        let later = SECOND * (1 + SLOTS as u32);
        recent.record(later, MS);
        let [p100] = recent.quantiles(later, [1.0]).expect("a request");
        assert!(p100 < 2 * MS, "{p100:?}");
    }

    proptest! {
        #[test]
        fn a_latency_is_under_its_bucket_s_edge_by_a_quarter_at_most(micros in 1..1u64 << 30) {
            let latency = Duration::from_micros(micros);
            let edge = upper_edge(bucket_of(latency));
            prop_assert!(edge > latency, "{edge:?}");
            prop_assert!(edge.as_nanos() <= latency.as_nanos() * 5 / 4 + 1000, "{edge:?}");
        }

        #[test]
        fn any_latency_has_a_bucket(secs in any::<u64>()) {
            prop_assert!(bucket_of(Duration::from_secs(secs)) < BUCKETS);
        }
    }
}
