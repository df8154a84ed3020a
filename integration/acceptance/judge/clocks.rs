//! How far the clocks of nodes are apart.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::Sample;

/// By node, how far it is ahead of us at least and at most, in seconds. The
/// way of an answer makes a clock seem late, so the most counts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Clocks(BTreeMap<String, f64>);

impl Clocks {
    pub(crate) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Clocks {
        let mut clocks = BTreeMap::new();
        for signature in samples.into_iter().filter_map(|it| it.signature.as_ref()) {
            let ahead: &mut f64 = clocks
                .entry(signature.hostname.clone())
                .or_insert(signature.skew);
            *ahead = ahead.max(signature.skew);
        }
        Clocks(clocks)
    }

    /// Whether there are so many, and no two of them, ours among them, are
    /// further apart than this, in seconds.
    pub(crate) fn agree(&self, nodes: usize, apart: f64) -> bool {
        let most = self.0.values().fold(0.0, |a: f64, b| a.max(*b));
        let least = self.0.values().fold(0.0, |a: f64, b| a.min(*b));
        self.0.len() == nodes && most - least <= apart
    }
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |(name, ahead): (&String, &f64)| format!("{name} {ahead:+.3} s");
        f.write_str(&self.0.iter().map(one).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::Outcome;
    use crate::load::generator::Signature;

    fn clocks(skews: &[(&str, f64)]) -> Clocks {
        let samples = skews.iter().map(|(name, skew)| {
            let mut one = sample(0, 1, Outcome::Status(200));
            one.signature = Some(Signature {
                hostname: (*name).into(),
                pid: 7,
                skew: *skew,
            });
            one
        });
        Clocks::of(&samples.collect::<Vec<_>>())
    }

    #[test]
    fn the_best_answer_of_each_node_counts() {
        assert!(clocks(&[("a", -0.1), ("a", -5.0), ("b", -0.2)]).agree(2, 1.0));
    }

    #[test]
    fn nodes_may_be_apart_from_each_other_or_from_us() {
        assert!(!clocks(&[("a", -0.6), ("b", 0.6)]).agree(2, 1.0));
        assert!(!clocks(&[("a", 1.5), ("b", 1.5)]).agree(2, 1.0));
        assert!(!clocks(&[("a", 0.0)]).agree(2, 1.0));
    }
}
