//! Requests that were lost with a node.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::load::{Outcome, Sample};

/// How exactly the moments of a trouble are known.
const MOMENT: Duration = Duration::from_millis(40);

/// A time in which requests at a node were lost, from the start of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) window: RangeInclusive<Duration>,
    /// What requests are answered that could not be helped.
    pub(crate) statuses: &'static [u16],
}

impl Trouble {
    /// At a moment the node was gone.
    pub(crate) fn death(at: Duration) -> Trouble {
        Trouble {
            window: at..=at,
            statuses: &[502],
        }
    }

    /// Whether a request could not but be lost: it may have been done already,
    /// it must not be done twice, and it was under way in this time. To send
    /// it again would be wrong, whatever it was (check 35).
    fn excuses(&self, sample: &Sample) -> bool {
        let begun = sample.at.saturating_sub(MOMENT);
        let ended = sample.at + sample.latency + MOMENT;
        let under_way = begun <= *self.window.end() && ended >= *self.window.start();
        let fits = |status: &u16| sample.outcome == Outcome::Status(*status);
        sample.endpoint.writes() && under_way && self.statuses.iter().any(fits)
    }
}

/// Whether one of the troubles excuses the loss of a request.
pub(crate) fn is_unavoidable(sample: &Sample, troubles: &[Trouble]) -> bool {
    troubles.iter().any(|trouble| trouble.excuses(sample))
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;
    use crate::load::Endpoint;

    const LOST: Outcome = Outcome::Status(502);

    fn excused(sample: &Sample) -> bool {
        is_unavoidable(sample, &[Trouble::death(Duration::from_secs(1))])
    }

    #[test]
    fn a_post_under_way_is_lost_with_its_node() {
        assert!(excused(&sample(995, 10, LOST)));
        assert!(excused(&sample(1000, 1, LOST)));
    }

    #[test]
    fn what_came_before_or_after_is_not_excused() {
        assert!(!excused(&sample(900, 50, LOST)));
        assert!(!excused(&sample(1100, 50, LOST)));
        assert!(!is_unavoidable(&sample(1000, 1, LOST), &[]));
    }

    #[test]
    fn a_trouble_may_last() {
        let trouble = Trouble {
            window: Duration::from_secs(1)..=Duration::from_secs(3),
            statuses: &[502, 504],
        };
        let excused = |at, latency, status| {
            let sample = sample(at, latency, Outcome::Status(status));
            is_unavoidable(&sample, std::slice::from_ref(&trouble))
        };
        assert!(excused(2000, 5000, 504) && excused(2000, 1, 502) && excused(900, 5000, 504));
        assert!(!excused(2000, 1, 500) && !excused(3100, 1, 502) && !excused(100, 800, 502));
    }

    #[test]
    fn reads_and_other_failures_are_not_excused() {
        let mut read = sample(995, 10, LOST);
        read.endpoint = Endpoint::DbDummy;
        assert!(!excused(&read));
        assert!(!excused(&sample(995, 10, Outcome::Timeout)));
        assert!(!excused(&sample(995, 10, Outcome::Status(500))));
    }
}
