//! How often something took how long, as its one writer sees it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::edges::{BUCKETS, bucket};
use super::{Counter, Distribution};

/// Counters allocated at once: some seven octaves, two cache lines.
const BLOCK: usize = 32;
const BLOCKS: usize = BUCKETS.div_ceil(BLOCK);

/// A histogram of durations, exponential with scale 2 (see `edges.rs`), from
/// 1 µs to 64 s with 19 % wide buckets. **One writer thread**, as a
/// [`Counter`]; any thread may add it up into a [`Distribution`].
///
/// There can be thousands, and most durations of one kind lie within a few
/// octaves. So counters come in blocks that are allocated when the first
/// duration falls into them, and have 32 bits; one that is full stays as it
/// is, and its bucket goes on in a wide one. An empty histogram takes some 90
/// bytes, a usual one 250 to 400, a full one 600.
#[derive(Debug, Default)]
pub struct Histogram {
    blocks: [OnceLock<Box<[AtomicU32; BLOCK]>>; BLOCKS],
    wide: OnceLock<Box<[Counter; BUCKETS]>>,
    nanos: Counter,
}

impl Histogram {
    /// Counts one duration; more than 584 years are counted as 584 years.
    /// Owning thread only.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        let counter = &self.blocks[bucket / BLOCK].get_or_init(Box::default)[bucket % BLOCK];
        match counter.load(Relaxed).checked_add(1) {
            Some(count) => counter.store(count, Relaxed),
            None => self
                .wide
                .get_or_init(|| Box::new([const { Counter::new() }; BUCKETS]))[bucket]
                .add(1),
        }
        self.nanos.add(nanos);
    }

    /// Adds what was counted so far to `total`. Any thread. The sum and the
    /// buckets may differ by what is being recorded at that moment.
    pub fn add_to(&self, total: &mut Distribution) {
        for (block, counts) in self.blocks.iter().zip(total.counts.chunks_mut(BLOCK)) {
            let Some(block) = block.get() else { continue };
            for (counter, count) in block.iter().zip(counts) {
                *count += u64::from(counter.load(Relaxed));
            }
        }
        for (counter, count) in self
            .wide
            .get()
            .iter()
            .flat_map(|w| w.iter())
            .zip(&mut total.counts)
        {
            *count += counter.read();
        }
        total.nanos = total.nanos.wrapping_add(self.nanos.read());
    }

    /// What was counted so far. Any thread.
    pub fn read(&self) -> Distribution {
        let mut total = Distribution::default();
        self.add_to(&mut total);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_is_an_empty_distribution() {
        assert_eq!(Histogram::default().read(), Distribution::default());
    }

    #[test]
    fn records_count_and_sum() {
        let histogram = Histogram::default();
        for millis in [1, 20, 300] {
            histogram.record(Duration::from_millis(millis));
        }
        let read = histogram.read();
        assert_eq!(read.count(), 3);
        assert_eq!(read.sum(), Duration::from_millis(321));
    }

    #[test]
    fn any_duration_is_counted() {
        let histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.read().count(), 2);
    }

    #[test]
    fn a_counter_that_is_full_goes_on_in_a_wide_one() {
        let histogram = Histogram::default();
        let second = Duration::from_secs(1);
        histogram.record(second);
        let bucket = bucket(1_000_000_000);
        let block = histogram.blocks[bucket / BLOCK].get().expect("recorded");
        block[bucket % BLOCK].store(u32::MAX - 1, Relaxed);
        (0..3).for_each(|_| histogram.record(second));
        assert_eq!(histogram.read().at_most(second), u64::from(u32::MAX) + 2);
        assert_eq!(histogram.read().count(), u64::from(u32::MAX) + 2);
    }

    #[test]
    fn size_of_an_empty_histogram_is_as_documented() {
        assert!(size_of::<Histogram>() <= 88, "{}", size_of::<Histogram>());
    }

    #[test]
    fn another_thread_reads_while_the_owner_writes() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < 10_000 {
                    let count = histogram.read().count();
                    assert!(count >= last);
                    last = count;
                }
            });
            for micros in 0..10_000 {
                histogram.record(Duration::from_micros(micros * 7));
            }
            reader.join().expect("the reader asserts only");
        });
    }
}
