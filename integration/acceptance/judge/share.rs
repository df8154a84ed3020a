//! Which node answered how much.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::Sample;

/// Answers by host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares(BTreeMap<String, usize>);

/// Counts the answers that say who made them.
pub(crate) fn shares<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Shares {
    let mut counts = BTreeMap::new();
    for signature in samples.into_iter().filter_map(|it| it.signature.as_ref()) {
        *counts.entry(signature.hostname.clone()).or_default() += 1;
    }
    Shares(counts)
}

impl Shares {
    /// Whether there are so many nodes, and each has between `least` and
    /// `most` in a hundred answers.
    pub(crate) fn are_between(&self, nodes: usize, least: usize, most: usize) -> bool {
        let sum = self.0.values().sum::<usize>();
        let fits = |count: &usize| (sum * least..=sum * most).contains(&(count * 100));
        self.0.len() == nodes && self.0.values().all(fits)
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.0.values().sum::<usize>() as f64;
        let share = |(name, count): (&String, &usize)| {
            format!("{name} {:.1} % ({count})", *count as f64 / sum * 100.0)
        };
        let all: Vec<_> = self.0.iter().map(share).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::Outcome;
    use crate::load::generator::Signature;

    fn by(node: &str, count: usize) -> Vec<Sample> {
        let mut one = sample(0, 1, Outcome::Status(200));
        one.signature = Some(Signature {
            hostname: node.into(),
            pid: 7,
            skew: 0.0,
        });
        vec![one; count]
    }

    #[test]
    fn both_ends_of_the_range_are_in_it() {
        let split = |one, other| {
            let samples = [by("a", one), by("b", other)].concat();
            shares(&samples).are_between(2, 40, 60)
        };
        assert!(split(50, 50) && split(40, 60) && split(60, 40));
        assert!(!split(39, 61) && !split(100, 0) && !split(0, 0));
    }

    #[test]
    fn a_third_node_is_one_too_many() {
        let samples = [by("a", 48), by("b", 48), by("c", 4)].concat();
        assert!(!shares(&samples).are_between(2, 40, 60));
    }

    #[test]
    fn shares_are_told_by_name() {
        let text = shares(&[by("a", 1), by("b", 3)].concat()).to_string();
        assert_eq!(text, "a 25.0 % (1), b 75.0 % (3)");
    }
}
