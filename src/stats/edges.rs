//! Where one bucket of a histogram ends and the next begins.
//!
//! The edges are those of Prometheus native histograms with schema 2, which
//! are OpenTelemetry's exponential histograms of scale 2: the powers of
//! 2^(1/4) seconds, four to the octave, each 19 % above the one before. They
//! run from 2^-20 s (0.95 µs) to 2^6 s (64 s). The [`CLASSIC_EDGES`] that are
//! not among them cut a bucket in two, so that both views are exact.
//!
//! A bucket holds what is above the edge before it and at or below its own
//! edge, as Prometheus' `le` has it. Edges are whole nanoseconds, rounded
//! down, which for a whole number of nanoseconds changes nothing.

use std::time::Duration;

/// Edges of the classic (`le`) view: 0.1 ms to 20 s. 0.4 s and 1 s are what
/// pages and their SLOs are judged by.
pub const CLASSIC_EDGES: [Duration; 14] = [
    Duration::from_micros(100),
    Duration::from_micros(300),
    Duration::from_millis(1),
    Duration::from_millis(3),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];

/// Octaves below and above one second.
const LOWEST_OCTAVE: u32 = 20;
const HIGHEST_OCTAVE: u32 = 6;

/// 2^6, 2^6.25, 2^6.5 and 2^6.75 seconds in nanoseconds, rounded down. Every
/// lower edge is one of these shifted right.
const HIGHEST: [u64; 4] = [
    64_000_000_000,
    76_109_255_360,
    90_509_667_991,
    107_634_741_152,
];

/// Edges that are powers of 2^(1/4): 26 octaves of four, and 64 s.
const EXPONENTIAL: usize = 4 * (LOWEST_OCTAVE + HIGHEST_OCTAVE) as usize + 1;

/// Classic edges that are no power of 2^(1/4): all but 1 s and 2 s.
const SPLITS: usize = CLASSIC_EDGES.len() - 2;

/// Buckets of a histogram, the one above the highest edge included.
pub(super) const BUCKETS: usize = EXPONENTIAL + SPLITS + 1;

/// Upper edges of all buckets but the last, in nanoseconds, ascending.
pub(super) const EDGES: [u64; BUCKETS - 1] = edges();

/// For the octave of a number (its `ilog2`), the lowest bucket it can be in.
const FIRST_BUCKET: [u8; 64] = first_buckets();

/// The bucket that `nanos` belongs to: a table by octave, then the few edges
/// of the octave. Neither floats nor logarithms.
#[inline]
pub(super) fn bucket(nanos: u64) -> usize {
    let mut bucket = FIRST_BUCKET[(nanos | 1).ilog2() as usize] as usize;
    while bucket < EDGES.len() && nanos > EDGES[bucket] {
        bucket += 1;
    }
    bucket
}

const fn edges() -> [u64; BUCKETS - 1] {
    let mut edges = [0; BUCKETS - 1];
    let (mut filled, mut step, mut classic) = (0, 0, 0);
    while step < EXPONENTIAL {
        let octaves_down = LOWEST_OCTAVE + HIGHEST_OCTAVE - (step / 4) as u32;
        let edge = HIGHEST[step % 4] >> octaves_down;
        while classic < CLASSIC_EDGES.len() && classic_nanos(classic) <= edge {
            if classic_nanos(classic) < edge {
                edges[filled] = classic_nanos(classic);
                filled += 1;
            }
            classic += 1;
        }
        edges[filled] = edge;
        filled += 1;
        step += 1;
    }
    assert!(
        filled == edges.len(),
        "SPLITS must count the classic edges off the powers"
    );
    edges
}

const fn classic_nanos(index: usize) -> u64 {
    CLASSIC_EDGES[index].as_nanos() as u64
}

const fn first_buckets() -> [u8; 64] {
    let mut first = [0; 64];
    let (mut octave, mut bucket) = (0, 0);
    while octave < 64 {
        while bucket < EDGES.len() && EDGES[bucket] < 1 << octave {
            bucket += 1;
        }
        first[octave] = bucket as u8;
        octave += 1;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_ascend_from_one_microsecond_to_over_a_minute() {
        assert!(EDGES.is_sorted_by(|a, b| a < b));
        assert_eq!(EDGES[0], 953);
        assert_eq!(EDGES[EDGES.len() - 1], 64_000_000_000);
    }

    #[test]
    fn edges_are_the_powers_of_the_fourth_root_of_two_and_the_classic_ones() {
        let mut expected: Vec<u64> = (-80..=24)
            .map(|k| (1e9 * 2f64.powf(f64::from(k) / 4.0)) as u64)
            .collect();
        expected.extend(CLASSIC_EDGES.iter().map(|edge| edge.as_nanos() as u64));
        expected.sort_unstable();
        expected.dedup();
        assert_eq!(EDGES.to_vec(), expected);
    }

    #[test]
    fn an_edge_belongs_to_the_bucket_it_closes() {
        for (index, &edge) in EDGES.iter().enumerate() {
            assert_eq!(bucket(edge), index);
            assert_eq!(bucket(edge + 1), index + 1);
        }
    }

    #[test]
    fn extremes_fall_into_the_first_and_the_last_bucket() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest::proptest! {
        #[test]
        fn bucket_is_the_number_of_edges_below(nanos: u64, shift in 0u32..64) {
            let nanos = nanos >> shift;
            let below = EDGES.iter().filter(|&&edge| edge < nanos).count();
            proptest::prop_assert_eq!(bucket(nanos), below);
        }
    }
}
