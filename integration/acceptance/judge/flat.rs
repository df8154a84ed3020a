//! Whether a quantity stays what it is.

/// Parts that the last half of a time is divided into. What comes and goes
/// within a part is not growth.
const PARTS: usize = 5;

/// How far apart the averages of the parts of the last half are, as a share of
/// the smallest. None if there is not one value for each part.
pub(crate) fn spread(values: &[u64]) -> Option<f64> {
    let last = &values[values.len() / 2..];
    let size = last.len() / PARTS;
    if size == 0 {
        return None;
    }
    let average = |part: &[u64]| part.iter().sum::<u64>() as f64 / part.len() as f64;
    let parts = last.chunks(size).take(PARTS).map(average);
    let least = parts.clone().fold(f64::INFINITY, f64::min);
    let most = parts.fold(0.0, f64::max);
    Some((most - least) / least.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_half_counts() {
        let values: Vec<_> = (0..50).chain([100; 50]).collect();
        assert_eq!(spread(&values), Some(0.0));
    }

    #[test]
    fn growth_shows() {
        let values: Vec<_> = (0..100).map(|n| 1000 + n * 2).collect();
        let spread = spread(&values).expect("enough values");
        assert!((0.06..0.08).contains(&spread), "{spread}");
    }

    #[test]
    fn what_comes_and_goes_is_flat() {
        let values: Vec<_> = (0..100).map(|n| 100 + n % 10).collect();
        assert_eq!(spread(&values), Some(0.0));
    }

    #[test]
    fn too_few_values_say_nothing() {
        assert_eq!(spread(&[1; 8]), None);
    }
}
