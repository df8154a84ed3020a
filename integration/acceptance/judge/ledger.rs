//! What nodes did, request by request, against what they were asked.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::{Ask, Sample};

/// Writes that were sent, and how often each was begun at a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Requests that change something.
    writes: usize,
    /// Begun more than once.
    doubled: Vec<String>,
    /// Answered well and never begun.
    invented: Vec<String>,
    /// Not answered well, and begun all the same: nobody can know.
    uncertain: usize,
}

impl Ledger {
    /// Puts requests, their answers in the same order, and the lines of the
    /// nodes' ledger together. No two requests that change something are the
    /// same.
    pub(crate) fn of(asks: &[Ask], samples: &[Sample], lines: &str) -> Ledger {
        let mut done: BTreeMap<&str, usize> = BTreeMap::new();
        for line in lines.lines() {
            *done.entry(line).or_default() += 1;
        }
        let mut ledger = Ledger::default();
        for (ask, sample) in asks.iter().zip(samples) {
            if !ask.endpoint.writes() {
                continue;
            }
            ledger.writes += 1;
            let entry = ask.entry();
            match (done.get(entry.as_str()).copied(), sample.is_served()) {
                (Some(2..), _) => ledger.doubled.push(entry),
                (None, true) => ledger.invented.push(entry),
                (Some(_), false) => ledger.uncertain += 1,
                (Some(_), true) | (None, false) => {}
            }
        }
        ledger
    }

    /// Nothing was done twice, and what was said to be done was.
    pub(crate) fn is_true(&self) -> bool {
        self.writes > 0 && self.doubled.is_empty() && self.invented.is_empty()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (writes, uncertain) = (self.writes, self.uncertain);
        let (doubled, invented) = (self.doubled.len(), self.invented.len());
        write!(f, "{doubled} of {writes} writes done twice")?;
        if let Some(first) = self.doubled.first() {
            write!(f, " ({first})")?;
        }
        if let Some(first) = self.invented.first() {
            write!(f, ", {invented} answered but not done ({first})")?;
        }
        write!(f, ", {uncertain} done without an answer")
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::{Endpoint, Outcome};

    fn ledger(statuses: &[u16], lines: &str) -> Ledger {
        let asks: Vec<_> = (1..).map(Ask::operation).take(statuses.len()).collect();
        let samples: Vec<_> = statuses
            .iter()
            .map(|status| sample(0, 1, Outcome::Status(*status)))
            .collect();
        Ledger::of(&asks, &samples, lines)
    }

    fn line(number: i64) -> String {
        Ask::operation(number).entry() + "\n"
    }

    #[test]
    fn each_write_is_done_once() {
        assert!(ledger(&[200, 200], &(line(1) + &line(2))).is_true());
        let twice = ledger(&[200, 200], &(line(1) + &line(2) + &line(1)));
        assert!(!twice.is_true());
        assert!(
            twice
                .to_string()
                .starts_with("1 of 2 writes done twice (POST /operation ")
        );
        assert!(!ledger(&[502], &line(1).repeat(2)).is_true());
    }

    #[test]
    fn a_failed_write_may_be_done_or_not() {
        assert!(ledger(&[502, 502], &line(1)).is_true());
    }

    #[test]
    fn an_answer_without_a_deed_is_no_success() {
        assert!(!ledger(&[200], "").is_true());
    }

    #[test]
    fn reads_are_passed_over() {
        let samples = [sample(0, 1, Outcome::Status(200))];
        let ledger = Ledger::of(&[Ask::of(Endpoint::Ping)], &samples, "");
        assert_eq!(ledger, Ledger::default());
        assert!(!ledger.is_true());
    }
}
