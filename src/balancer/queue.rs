//! Which node a request goes to, and who waits for one.
//!
//! A request goes to the node with the fewest requests in flight, the nodes
//! taking turns when they are equal. Suspect nodes are used only when no node
//! is up. Each node takes `max_in_flight` requests; the others wait, first
//! come first served, `queue_size` of them at most.
//!
//! A node that has just come up starts slowly: for the time of `slow_start`
//! each of its requests counts as more than one, up to [`RAMP`] at first, so
//! that it is not sent a crowd while its caches are cold. When it is idle it
//! gets its turn all the same.
//!
//! Of nodes that are equally busy the one that is clearly quicker (see
//! [`Paces`]) is preferred; but each [`LOOK_AGAIN`]th request takes its turn all
//! the same, or nobody would see that the other has become quicker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::health::State;
use super::pace::Paces;
use super::route::RouteId;

/// Nodes there may be: the bits of a [`NodeSet`].
pub(crate) const NODES_MAX: usize = 64;

/// How many requests one counts as at a node that came up just now.
const RAMP: u64 = 10;

/// One in so many requests goes by turns, whatever is known of the nodes.
const LOOK_AGAIN: u64 = 8;

/// A set of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NodeSet(u64);

impl NodeSet {
    /// Adds a node.
    pub(crate) fn insert(&mut self, node: usize) {
        self.0 |= 1 << node;
    }

    /// Without the nodes of another set.
    pub(crate) fn without(self, other: NodeSet) -> NodeSet {
        NodeSet(self.0 & !other.0)
    }

    /// Whether it has a node that is in the other one too.
    pub(crate) fn meets(self, other: NodeSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the node is in it.
    pub(crate) fn contains(self, node: usize) -> bool {
        self.0 & (1 << node) != 0
    }
}

/// What becomes of a request that wants a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It goes there now.
    Node(usize),
    /// It waits under this number.
    Waits(u64),
    /// No node it would go to serves.
    Nobody,
    /// Too many wait already.
    Full,
}

/// Someone whose wait is over: with a node, or without one if no node it
/// would go to serves any more.
pub(crate) type Served<T> = (T, Option<usize>);

/// The nodes' loads and the waiting requests. `T` is what a waiting request
/// is reached by.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    nodes: Vec<Load>,
    waiting: VecDeque<Waiter<T>>,
    max_in_flight: usize,
    queue_size: usize,
    slow_start: Duration,
    /// The node that is looked at first, so that equal nodes take turns.
    turn: usize,
    /// Requests that got a node.
    taken: u64,
    paces: Paces,
    next_number: u64,
}

#[derive(Debug)]
struct Load {
    in_flight: usize,
    state: State,
    /// When it came up, if it has been down.
    up_since: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<T> {
    number: u64,
    avoid: NodeSet,
    reach: T,
}

/// What the queue keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Requests a node takes.
    pub(crate) max_in_flight: usize,
    /// Requests that wait.
    pub(crate) queue_size: usize,
    /// How long a node that came up is spared.
    pub(crate) slow_start: Duration,
}

enum Choice {
    Node(usize),
    AllBusy,
    Nobody,
}

impl<T> Queue<T> {
    /// A queue before `nodes` suspect nodes, of requests on `routes` routes.
    /// One request in flight is the least a node takes.
    pub(crate) fn new(nodes: usize, routes: usize, limits: Limits) -> Queue<T> {
        let load = || Load {
            in_flight: 0,
            state: State::Suspect,
            up_since: None,
        };
        Queue {
            nodes: (0..nodes).map(|_| load()).collect(),
            waiting: VecDeque::new(),
            max_in_flight: limits.max_in_flight.max(1),
            queue_size: limits.queue_size,
            slow_start: limits.slow_start,
            turn: 0,
            taken: 0,
            paces: Paces::new(nodes, routes),
            next_number: 0,
        }
    }

    /// Whether some node outside of `avoid` serves.
    pub(crate) fn serves(&self, avoid: NodeSet) -> bool {
        let serves = |(node, load): (usize, &Load)| load.state.serves() && !avoid.contains(node);
        self.nodes.iter().enumerate().any(serves)
    }

    /// A request wants a node that is not in `avoid`. Every
    /// [`Admission::Node`] is owed a [`Queue::release`].
    pub(crate) fn enter(
        &mut self,
        avoid: NodeSet,
        now: Instant,
        reach: impl FnOnce() -> T,
    ) -> Admission {
        match self.choose(avoid, now) {
            Choice::Node(node) => Admission::Node(self.take(node)),
            Choice::Nobody => Admission::Nobody,
            Choice::AllBusy if self.waiting.len() >= self.queue_size => Admission::Full,
            Choice::AllBusy => {
                let number = self.next_number;
                self.next_number += 1;
                let reach = reach();
                self.waiting.push_back(Waiter {
                    number,
                    avoid,
                    reach,
                });
                Admission::Waits(number)
            }
        }
    }

    /// A node for a request that can do without one; it is owed a
    /// [`Queue::release`] too.
    pub(crate) fn try_enter(&mut self, avoid: NodeSet, now: Instant) -> Option<usize> {
        match self.choose(avoid, now) {
            Choice::Node(node) => Some(self.take(node)),
            Choice::AllBusy | Choice::Nobody => None,
        }
    }

    /// A request gives up waiting. Nothing, if it was served just now.
    pub(crate) fn leave(&mut self, number: u64) {
        if let Ok(place) = self.waiting.binary_search_by_key(&number, |it| it.number) {
            self.waiting.remove(place);
        }
    }

    /// A node's answer began so long after it was asked.
    pub(crate) fn answered(&mut self, node: usize, route: RouteId, latency: Duration) {
        self.paces.answered(node, route, latency);
    }

    /// A request is through with its node: whoever has waited longest for it
    /// is next, and is owed a release in turn.
    pub(crate) fn release(&mut self, node: usize, now: Instant) -> Option<Served<T>> {
        self.nodes[node].in_flight -= 1;
        let next = self.waiting.iter().position(|waiter| {
            let choice = self.choose(waiter.avoid, now);
            matches!(choice, Choice::Node(_))
        })?;
        self.serve(next, now)
    }

    /// A node's state changed. Those whose wait is over, with a node they owe
    /// a release for, or without.
    pub(crate) fn set_state(&mut self, node: usize, state: State, now: Instant) -> Vec<Served<T>> {
        let load = &mut self.nodes[node];
        load.up_since = match (load.state.serves(), state.serves()) {
            (false, true) => {
                self.paces.forget(node);
                Some(now)
            }
            // A doubt that comes or passes is no comeback.
            (true, true) => load.up_since,
            (_, false) => None,
        };
        load.state = state;
        let mut served = Vec::new();
        let mut place = 0;
        while place < self.waiting.len() {
            match self.serve(place, now) {
                Some(one) => served.push(one),
                None => place += 1,
            }
        }
        served
    }

    /// Ends the wait of the one at this place, if it can end.
    fn serve(&mut self, place: usize, now: Instant) -> Option<Served<T>> {
        let node = match self.choose(self.waiting.get(place)?.avoid, now) {
            Choice::AllBusy => return None,
            Choice::Node(node) => Some(self.take(node)),
            Choice::Nobody => None,
        };
        let waiter = self.waiting.remove(place)?;
        Some((waiter.reach, node))
    }

    fn take(&mut self, node: usize) -> usize {
        self.nodes[node].in_flight += 1;
        self.turn = (node + 1) % self.nodes.len();
        self.taken += 1;
        node
    }

    /// The least busy node of the best state there is.
    fn choose(&self, avoid: NodeSet, now: Instant) -> Choice {
        for state in [State::Up, State::Suspect] {
            let candidate =
                |node: &usize| self.nodes[*node].state == state && !avoid.contains(*node);
            let in_turn = (self.turn..self.nodes.len()).chain(0..self.turn);
            let mut candidates = in_turn.filter(candidate).peekable();
            if candidates.peek().is_none() {
                continue;
            }
            let has_room = |node: &usize| self.nodes[*node].in_flight < self.max_in_flight;
            let weigh = |node: usize| (self.nodes[node].weight(self.slow_start, now), node);
            let least = candidates.filter(has_room).map(weigh).reduce(|best, it| {
                match it.0 < best.0 || it.0 == best.0 && self.is_quicker(it.1, best.1) {
                    true => it,
                    false => best,
                }
            });
            return least.map_or(Choice::AllBusy, |(_, node)| Choice::Node(node));
        }
        Choice::Nobody
    }

    /// Whether this node is preferred to the other one, whose turn it is.
    fn is_quicker(&self, node: usize, other: usize) -> bool {
        !self.taken.is_multiple_of(LOOK_AGAIN) && self.paces.is_quicker(node, other)
    }
}

impl Load {
    /// Its requests in flight in thousandths, more while it is spared.
    fn weight(&self, slow_start: Duration, now: Instant) -> u64 {
        let in_flight = 1000 * self.in_flight as u64;
        let Some(since) = self.up_since else {
            return in_flight;
        };
        let up = now.saturating_duration_since(since);
        if up >= slow_start {
            return in_flight;
        }
        // From a RAMPth of the strength to all of it, in even steps.
        let whole = u64::try_from(slow_start.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let passed = u64::try_from(up.as_micros()).unwrap_or(u64::MAX);
        let strength = 1000 / RAMP + (1000 - 1000 / RAMP) * passed / whole;
        in_flight * 1000 / strength
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_up(nodes: usize, max_in_flight: usize, queue_size: usize) -> Queue<u32> {
        let mut queue = Queue::new(nodes, 1, limits(max_in_flight, queue_size));
        for node in 0..nodes {
            assert_eq!(queue.set_state(node, State::Up, now()), []);
        }
        queue
    }

    fn limits(max_in_flight: usize, queue_size: usize) -> Limits {
        Limits {
            max_in_flight,
            queue_size,
            slow_start: Duration::from_secs(5),
        }
    }

    fn now() -> Instant {
        Instant::now()
    }

    fn avoid(nodes: &[usize]) -> NodeSet {
        let mut set = NodeSet::default();
        nodes.iter().for_each(|node| set.insert(*node));
        set
    }

    #[test]
    fn equal_nodes_take_turns_and_the_less_busy_is_preferred() {
        let mut queue = all_up(2, 10, 0);
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(queue.enter(avoid(&[]), now(), || 0));
        }
        use Admission::Node;
        assert_eq!(turns, [Node(0), Node(1), Node(0), Node(1)]);
        assert_eq!(queue.release(1, now()), None);
        assert_eq!(queue.release(1, now()), None);
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Node(1));
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Node(1));
    }

    #[test]
    fn of_equally_busy_nodes_the_quicker_is_preferred_and_the_other_is_looked_at_again() {
        let mut queue = all_up(2, 10, 0);
        let (quick, slow) = (Duration::from_millis(10), Duration::from_millis(30));
        let mut share = |quick_node: usize, requests: usize| {
            let mut counts = [0, 0];
            for _ in 0..requests {
                let Admission::Node(node) = queue.enter(avoid(&[]), now(), || 0) else {
                    panic!("both are idle");
                };
                counts[node] += 1;
                let latency = if node == quick_node { quick } else { slow };
                queue.answered(node, RouteId(0), latency);
                queue.release(node, now());
            }
            counts
        };
        share(0, 200);
        assert_eq!(share(0, 80), [70, 10]);
        share(1, 1000);
        assert_eq!(share(1, 80), [10, 70]);
    }

    #[test]
    fn a_quicker_node_is_not_preferred_when_it_is_busier() {
        let mut queue = all_up(2, 10, 0);
        for _ in 0..100 {
            queue.answered(0, RouteId(0), Duration::from_millis(10));
            queue.answered(1, RouteId(0), Duration::from_millis(100));
        }
        queue.nodes[0].in_flight = 1;
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Admission::Node(1));
    }

    #[test]
    fn suspect_nodes_serve_only_when_none_is_up_and_nodes_that_are_down_never() {
        let mut queue = all_up(2, 2, 10);
        queue.set_state(0, State::Suspect, now());
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Admission::Node(1));
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Admission::Node(1));
        assert_eq!(
            queue.enter(avoid(&[]), now(), || 7),
            Admission::Waits(0),
            "1 is up but busy"
        );
        assert_eq!(queue.set_state(1, State::Down, now()), [(7, Some(0))]);
        queue.set_state(0, State::Down, now());
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Admission::Nobody);
    }

    #[test]
    fn who_waits_longest_is_served_first_and_the_bound_holds() {
        let mut queue = all_up(1, 1, 2);
        assert_eq!(queue.enter(avoid(&[]), now(), || 0), Admission::Node(0));
        assert_eq!(queue.enter(avoid(&[]), now(), || 1), Admission::Waits(0));
        assert_eq!(queue.enter(avoid(&[]), now(), || 2), Admission::Waits(1));
        assert_eq!(queue.enter(avoid(&[]), now(), || 3), Admission::Full);
        queue.leave(0);
        assert_eq!(queue.waiting.len(), 1);
        assert_eq!(queue.release(0, now()), Some((2, Some(0))));
        assert_eq!(queue.release(0, now()), None);
    }

    #[test]
    fn one_that_avoids_a_node_does_not_hold_up_those_behind_it() {
        let mut queue = all_up(2, 1, 10);
        queue.enter(avoid(&[]), now(), || 0);
        queue.enter(avoid(&[]), now(), || 0);
        queue.enter(avoid(&[0]), now(), || 1);
        queue.enter(avoid(&[]), now(), || 2);
        assert_eq!(queue.release(0, now()), Some((2, Some(0))));
        assert_eq!(queue.release(1, now()), Some((1, Some(1))));
    }

    #[test]
    fn a_wait_for_the_only_node_left_ends_when_that_goes_down() {
        let mut queue = all_up(2, 1, 10);
        queue.enter(avoid(&[]), now(), || 0);
        queue.enter(avoid(&[]), now(), || 0);
        queue.enter(avoid(&[0]), now(), || 1);
        assert!(queue.serves(avoid(&[0])));
        assert_eq!(queue.set_state(1, State::Down, now()), [(1, None)]);
        assert!(!queue.serves(avoid(&[0])));
    }

    #[test]
    fn a_node_that_came_up_is_spared_at_first_and_gets_its_turn_when_idle() {
        let mut queue = all_up(2, 100, 0);
        let start = now();
        queue.set_state(0, State::Down, start);
        queue.set_state(0, State::Up, start);
        let later = start + Duration::from_secs(10);
        for _ in 0..11 {
            queue.enter(avoid(&[]), start, || 0);
        }
        assert_eq!(queue.nodes[0].in_flight, 1, "one in eleven");
        for _ in 0..9 {
            queue.enter(avoid(&[]), later, || 0);
        }
        assert_eq!(queue.nodes[0].in_flight, 10, "then it catches up");
    }

    #[test]
    fn a_full_node_does_not_hide_one_that_is_spared() {
        let mut queue = all_up(2, 2, 0);
        let start = now();
        queue.set_state(0, State::Down, start);
        queue.set_state(0, State::Up, start);
        for _ in 0..4 {
            let admission = queue.enter(avoid(&[]), start, || 0);
            assert!(matches!(admission, Admission::Node(_)));
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter(u8),
        Release(usize),
        State(usize, State),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let state = prop_oneof![Just(State::Up), Just(State::Suspect), Just(State::Down)];
        let step = prop_oneof![
            4 => (0..8u8).prop_map(Step::Enter),
            4 => (0..16usize).prop_map(Step::Release),
            1 => (0..3usize, state).prop_map(|(node, state)| Step::State(node, state)),
            1 => (0..16usize).prop_map(Step::Leave),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// The cap and the bound hold, nobody waits who could be served, and
        /// nobody is served before one who has waited longer for the same.
        #[test]
        fn the_queue_is_bounded_fair_and_never_forgets(steps in steps()) {
            const CAP: usize = 2;
            const BOUND: usize = 4;
            let mut queue: Queue<(u64, u8)> = Queue::new(3, 1, limits(CAP, BOUND));
            let mut held: Vec<usize> = Vec::new();
            let mut arrivals = 0;
            for step in steps {
                let mut served = Vec::new();
                match step {
                    Step::Enter(mask) => {
                        arrivals += 1;
                        let avoid = NodeSet(mask.into());
                        let admission = queue.enter(avoid, now(), || (arrivals, mask));
                        if let Admission::Node(node) = admission {
                            held.push(node);
                            prop_assert!(!avoid.contains(node));
                        }
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let node = held.swap_remove(which % held.len());
                        served.extend(queue.release(node, now()));
                    }
                    Step::State(node, state) => served = queue.set_state(node, state, now()),
                    Step::Leave(which) => {
                        let number = queue.waiting.get(which).map(|it| it.number);
                        number.into_iter().for_each(|number| queue.leave(number));
                    }
                    Step::Release(_) => {}
                }
                for ((arrival, mask), node) in served {
                    held.extend(node);
                    let overtaken = queue.waiting.iter().find(|it| {
                        it.reach.0 < arrival && it.reach.1 == mask && node.is_some()
                    });
                    prop_assert!(overtaken.is_none());
                }
                prop_assert!(queue.waiting.len() <= BOUND);
                for (node, load) in queue.nodes.iter().enumerate() {
                    prop_assert!(load.in_flight <= CAP);
                    prop_assert_eq!(load.in_flight, held.iter().filter(|it| **it == node).count());
                }
                for waiter in &queue.waiting {
                    prop_assert!(matches!(queue.choose(waiter.avoid, now()), Choice::AllBusy));
                }
            }
        }
    }
}
