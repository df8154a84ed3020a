//! How quick the nodes are beside each other.
//!
//! Routes differ in their latency by far more than nodes do. So an answer's
//! latency is set beside what is usual on its route, and a node's pace is what
//! that comes to on average: 1 as usual, 2 twice as slow.

use std::time::Duration;

use super::route::RouteId;

/// How many answers an average is about.
const ANSWERS: u32 = 32;

/// Answers that are sooner than this are equally quick: below it, it is the
/// network and the scheduler that differ.
const SOON: Duration = Duration::from_millis(10);

/// One answer is no more than this many times slower, or quicker, than usual.
const ODD: f64 = 4.0;

/// How much slower one node is than another before it means something.
const CLEARLY: f64 = 2.0;

/// The paces of all nodes.
#[derive(Debug)]
pub(crate) struct Paces {
    nodes: Vec<f64>,
    usual: Vec<Usual>,
}

/// The usual latency on a route.
#[derive(Debug, Clone, Copy, Default)]
struct Usual {
    seconds: f64,
    /// Answers it is of, as far as they count.
    answers: u32,
}

impl Paces {
    /// So many nodes, all alike.
    pub(crate) fn new(nodes: usize, routes: usize) -> Paces {
        Paces {
            nodes: vec![1.0; nodes],
            usual: vec![Usual::default(); routes],
        }
    }

    /// A node took so long until its answer began.
    pub(crate) fn answered(&mut self, node: usize, route: RouteId, latency: Duration) {
        let latency = latency.max(SOON).as_secs_f64();
        let Some(usual) = self.usual.get_mut(route.0) else {
            return;
        };
        let beside = match usual.answers {
            0 => 1.0,
            _ => (latency / usual.seconds).clamp(1.0 / ODD, ODD),
        };
        usual.learn(latency, beside);
        let pace = &mut self.nodes[node];
        *pace += (beside - *pace) / f64::from(ANSWERS);
    }

    /// What is known of a node holds no longer.
    pub(crate) fn forget(&mut self, node: usize) {
        self.nodes[node] = 1.0;
    }

    /// Whether one is so much quicker than the other that it is no accident.
    pub(crate) fn is_quicker(&self, node: usize, other: usize) -> bool {
        self.nodes[node] * CLEARLY < self.nodes[other]
    }
}

impl Usual {
    /// Another answer; by the bounded figure, so that one that is odd does not
    /// move it far. The first ones count for as much as they are of all.
    fn learn(&mut self, latency: f64, beside: f64) {
        self.answers = (self.answers + 1).min(ANSWERS);
        match self.answers {
            1 => self.seconds = latency,
            answers => self.seconds *= 1.0 + (beside - 1.0) / f64::from(answers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTE: RouteId = RouteId(0);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_node_that_takes_three_times_as_long_is_slower_and_one_odd_answer_means_nothing() {
        let mut paces = Paces::new(2, 1);
        for _ in 0..10 {
            paces.answered(0, ROUTE, millis(10));
            paces.answered(1, ROUTE, millis(10));
        }
        paces.answered(1, ROUTE, millis(9000));
        assert!(!paces.is_quicker(0, 1));
        for _ in 0..100 {
            paces.answered(0, ROUTE, millis(10));
            paces.answered(1, ROUTE, millis(30));
        }
        assert!(paces.is_quicker(0, 1));
        assert!(!paces.is_quicker(1, 0));
        paces.forget(1);
        assert!(!paces.is_quicker(0, 1));
    }

    #[test]
    fn a_node_that_had_the_slow_routes_is_not_slower() {
        let mut paces = Paces::new(2, 2);
        for _ in 0..200 {
            paces.answered(0, RouteId(0), millis(20));
            paces.answered(1, RouteId(1), millis(500));
        }
        assert!(!paces.is_quicker(0, 1));
    }

    #[test]
    fn a_first_answer_that_was_quick_by_accident_makes_nobody_slow() {
        let mut paces = Paces::new(2, 1);
        paces.answered(0, ROUTE, millis(10));
        for _ in 0..50 {
            paces.answered(1, ROUTE, millis(100));
        }
        assert!(!paces.is_quicker(0, 1));
    }

    #[test]
    fn a_route_nobody_knows_is_no_harm() {
        Paces::new(1, 0).answered(0, ROUTE, millis(1));
    }

    proptest! {
        /// Whatever latencies there are, paces stay within the bound, and two
        /// nodes are never both the quicker one.
        #[test]
        fn paces_stay_within_bounds(
            answers in prop::collection::vec((0..3usize, 0..2usize, 0..100_000_000u64), 0..300),
        ) {
            let mut paces = Paces::new(3, 2);
            for (node, route, micros) in answers {
                paces.answered(node, RouteId(route), Duration::from_micros(micros));
                prop_assert!(paces.nodes.iter().all(|it| (1.0 / ODD..=ODD).contains(it)));
                prop_assert!(!(paces.is_quicker(0, 1) && paces.is_quicker(1, 0)));
            }
        }
    }
}
