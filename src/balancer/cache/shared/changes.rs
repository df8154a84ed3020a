//! What this balancer knows to have changed. Pure.

use std::collections::VecDeque;
use std::time::Instant;

/// Changes that are remembered; of more, the latest.
const CHANGES_MAX: usize = 1024;

/// Keys, and when what they stand for changed last; the latest change last.
#[derive(Debug, Default)]
pub(super) struct Changes(VecDeque<(String, Instant)>);

impl Changes {
    /// What this key stands for has changed.
    pub(super) fn note(&mut self, key: &str, now: Instant) {
        self.0.retain(|(other, _)| other != key);
        if self.0.len() >= CHANGES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((key.to_owned(), now));
    }

    /// Whether an answer was born before the last change; none is a birth
    /// before everything.
    pub(super) fn is_older(&self, key: &str, born: Option<Instant>) -> bool {
        let mut changes = self.0.iter();
        let change = changes.find(|(other, _)| other == key);
        change.is_some_and(|(_, at)| born.is_none_or(|born| born <= *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_born_before_a_change_is_older() {
        let now = Instant::now();
        let mut changes = Changes::default();
        assert!(!changes.is_older("a", None));
        changes.note("a", now);
        let later = now + Duration::from_secs(1);
        assert!(changes.is_older("a", None));
        assert!(changes.is_older("a", Some(now)));
        assert!(!changes.is_older("a", Some(later)));
        assert!(!changes.is_older("b", Some(now)));
        changes.note("a", later);
        assert!(changes.is_older("a", Some(later)));
    }

    #[test]
    fn the_latest_are_remembered() {
        let now = Instant::now();
        let mut changes = Changes::default();
        for key in 0..=CHANGES_MAX {
            changes.note(&key.to_string(), now);
        }
        assert_eq!(changes.0.len(), CHANGES_MAX);
        assert!(!changes.is_older("0", None));
        assert!(changes.is_older("1", None));
    }
}
