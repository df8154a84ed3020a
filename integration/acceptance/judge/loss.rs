//! Requests that were lost with a killed node.

use std::time::Duration;

use crate::load::{Endpoint, Outcome, Sample};

/// How exactly the moment of the kill is known.
const MOMENT: Duration = Duration::from_millis(20);

/// Whether a request could not but be lost: it may have been done already, it
/// must not be done twice, and it was at the node when the node was killed. To
/// send it again would be wrong, whatever it was (check 35).
pub(crate) fn is_unavoidable(sample: &Sample, killed: Duration) -> bool {
    let changes = matches!(sample.endpoint, Endpoint::Operation | Endpoint::AddSession);
    let begun = sample.at.saturating_sub(MOMENT);
    let ended = sample.at + sample.latency + MOMENT;
    changes && sample.outcome == Outcome::Status(502) && (begun..=ended).contains(&killed)
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;

    const KILLED: Duration = Duration::from_millis(1000);
    const LOST: Outcome = Outcome::Status(502);

    #[test]
    fn a_post_under_way_is_lost_with_its_node() {
        assert!(is_unavoidable(&sample(995, 10, LOST), KILLED));
        assert!(is_unavoidable(&sample(1000, 1, LOST), KILLED));
    }

    #[test]
    fn what_came_before_or_after_is_not_excused() {
        assert!(!is_unavoidable(&sample(900, 50, LOST), KILLED));
        assert!(!is_unavoidable(&sample(1100, 50, LOST), KILLED));
    }

    #[test]
    fn reads_and_other_failures_are_not_excused() {
        let mut read = sample(995, 10, LOST);
        read.endpoint = Endpoint::DbDummy;
        assert!(!is_unavoidable(&read, KILLED));
        assert!(!is_unavoidable(&sample(995, 10, Outcome::Timeout), KILLED));
        assert!(!is_unavoidable(
            &sample(995, 10, Outcome::Status(500)),
            KILLED
        ));
    }
}
