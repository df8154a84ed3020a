//! Random choices of a run, the same for the same seed: splitmix64.

use std::ops::RangeInclusive;

/// A source of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number of a range that is not empty.
    pub(crate) fn within(&mut self, range: RangeInclusive<i64>) -> i64 {
        let span = range.end().abs_diff(*range.start()).saturating_add(1);
        let step = self.roll() % span;
        range.start().saturating_add_unsigned(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_used_up_to_both_ends() {
        let mut dice = Dice::new(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            let number = usize::try_from(dice.within(1..=5)).expect("positive");
            seen[number - 1] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
    }

    #[test]
    fn the_same_seed_rolls_the_same() {
        let roll = |seed| Dice::new(seed).within(1..=1_000_000);
        assert_eq!(roll(1), roll(1));
        assert_ne!(roll(1), roll(2));
    }
}
