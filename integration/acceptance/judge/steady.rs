//! How much is served at any time.

use std::time::Duration;

use crate::load::Sample;

/// The fewest requests per second that were fine over any `window`, counted by
/// when they were to be sent. The samples are sorted and `rate` apart; none is
/// 0, and fewer than a window holds are taken as one window.
pub(crate) fn lowest_rate(
    samples: &[Sample],
    rate: u32,
    window: Duration,
    is_fine: impl Fn(&Sample) -> bool,
) -> f64 {
    let full = (f64::from(rate) * window.as_secs_f64()).round() as usize;
    let size = full.clamp(1, samples.len().max(1));
    let lowest = samples
        .windows(size)
        .map(|window| window.iter().filter(|sample| is_fine(sample)).count())
        .min();
    lowest.unwrap_or_default() as f64 / size as f64 * f64::from(rate)
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::Outcome;

    fn lowest(samples: &[Sample]) -> f64 {
        lowest_rate(samples, 60, Duration::from_secs(5), Sample::is_served)
    }

    /// Ten seconds at 60 in a second; those in `failed` are not served.
    fn load(failed: std::ops::Range<u64>) -> Vec<Sample> {
        let one = |n| {
            let status = if failed.contains(&n) { 502 } else { 200 };
            sample(n * 1000 / 60, 1, Outcome::Status(status))
        };
        (0..600).map(one).collect()
    }

    #[test]
    fn all_served_is_the_rate() {
        assert_eq!(lowest(&load(0..0)), 60.0);
    }

    #[test]
    fn a_hole_counts_in_the_window_that_holds_most_of_it() {
        assert_eq!(lowest(&load(290..320)), 54.0);
        assert_eq!(lowest(&load(0..600)), 0.0);
    }

    #[test]
    fn a_load_shorter_than_a_window_is_one() {
        assert_eq!(lowest(&load(0..0)[..60]), 60.0);
        assert_eq!(lowest(&load(0..30)[..60]), 30.0);
        assert_eq!(lowest(&[]), 0.0);
    }
}
