//! Which node a request goes to, and who waits for one.
//!
//! A request goes to the node with the fewest requests in flight, the nodes
//! taking turns when they are equal. Suspect nodes are used only when no node
//! is up. Each node takes `max_in_flight` requests; the others wait, first
//! come first served, `queue_size` of them at most.
//!
//! Latency does not break ties: with two idle nodes it would send everything
//! to the quicker one, and the other's latency would never be measured again.
//! A slow node is seen by its requests in flight.

use std::collections::VecDeque;

use super::health::State;

/// Nodes there may be: the bits of a [`NodeSet`].
pub(crate) const NODES_MAX: usize = 64;

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
    /// The node that is looked at first, so that equal nodes take turns.
    turn: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Load {
    in_flight: usize,
    state: State,
}

#[derive(Debug)]
struct Waiter<T> {
    number: u64,
    avoid: NodeSet,
    reach: T,
}

enum Choice {
    Node(usize),
    AllBusy,
    Nobody,
}

impl<T> Queue<T> {
    /// A queue before `nodes` suspect nodes. One request in flight is the
    /// least a node takes.
    pub(crate) fn new(nodes: usize, max_in_flight: usize, queue_size: usize) -> Queue<T> {
        let load = || Load {
            in_flight: 0,
            state: State::Suspect,
        };
        Queue {
            nodes: (0..nodes).map(|_| load()).collect(),
            waiting: VecDeque::new(),
            max_in_flight: max_in_flight.max(1),
            queue_size,
            turn: 0,
            next_number: 0,
        }
    }

    /// Whether some node outside of `avoid` serves.
    pub(crate) fn serves(&self, avoid: NodeSet) -> bool {
        let serves =
            |(node, load): (usize, &Load)| load.state != State::Down && !avoid.contains(node);
        self.nodes.iter().enumerate().any(serves)
    }

    /// A request wants a node that is not in `avoid`. Every
    /// [`Admission::Node`] is owed a [`Queue::release`].
    pub(crate) fn enter(&mut self, avoid: NodeSet, reach: impl FnOnce() -> T) -> Admission {
        match self.choose(avoid) {
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

    /// A request gives up waiting. Nothing, if it was served just now.
    pub(crate) fn leave(&mut self, number: u64) {
        if let Ok(place) = self.waiting.binary_search_by_key(&number, |it| it.number) {
            self.waiting.remove(place);
        }
    }

    /// A request is through with its node: whoever has waited longest for it
    /// is next, and is owed a release in turn.
    pub(crate) fn release(&mut self, node: usize) -> Option<Served<T>> {
        self.nodes[node].in_flight -= 1;
        let next = self.waiting.iter().position(|waiter| {
            let choice = self.choose(waiter.avoid);
            matches!(choice, Choice::Node(_))
        })?;
        self.serve(next)
    }

    /// A node's state changed. Those whose wait is over, with a node they owe
    /// a release for, or without.
    pub(crate) fn set_state(&mut self, node: usize, state: State) -> Vec<Served<T>> {
        self.nodes[node].state = state;
        let mut served = Vec::new();
        let mut place = 0;
        while place < self.waiting.len() {
            match self.serve(place) {
                Some(one) => served.push(one),
                None => place += 1,
            }
        }
        served
    }

    /// Ends the wait of the one at this place, if it can end.
    fn serve(&mut self, place: usize) -> Option<Served<T>> {
        let node = match self.choose(self.waiting.get(place)?.avoid) {
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
        node
    }

    /// The least busy node of the best state there is.
    fn choose(&self, avoid: NodeSet) -> Choice {
        for state in [State::Up, State::Suspect] {
            let candidate =
                |node: &usize| self.nodes[*node].state == state && !avoid.contains(*node);
            let in_turn = (self.turn..self.nodes.len()).chain(0..self.turn);
            let least = in_turn
                .filter(candidate)
                .min_by_key(|node| self.nodes[*node].in_flight);
            match least {
                Some(node) if self.nodes[node].in_flight < self.max_in_flight => {
                    return Choice::Node(node);
                }
                Some(_) => return Choice::AllBusy,
                None => {}
            }
        }
        Choice::Nobody
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all_up(nodes: usize, max_in_flight: usize, queue_size: usize) -> Queue<u32> {
        let mut queue = Queue::new(nodes, max_in_flight, queue_size);
        for node in 0..nodes {
            assert_eq!(queue.set_state(node, State::Up), []);
        }
        queue
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
            turns.push(queue.enter(avoid(&[]), || 0));
        }
        use Admission::Node;
        assert_eq!(turns, [Node(0), Node(1), Node(0), Node(1)]);
        assert_eq!(queue.release(1), None);
        assert_eq!(queue.release(1), None);
        assert_eq!(queue.enter(avoid(&[]), || 0), Node(1));
        assert_eq!(queue.enter(avoid(&[]), || 0), Node(1));
    }

    #[test]
    fn suspect_nodes_serve_only_when_none_is_up_and_nodes_that_are_down_never() {
        let mut queue = all_up(2, 2, 10);
        queue.set_state(0, State::Suspect);
        assert_eq!(queue.enter(avoid(&[]), || 0), Admission::Node(1));
        assert_eq!(queue.enter(avoid(&[]), || 0), Admission::Node(1));
        assert_eq!(
            queue.enter(avoid(&[]), || 7),
            Admission::Waits(0),
            "1 is up but busy"
        );
        assert_eq!(queue.set_state(1, State::Down), [(7, Some(0))]);
        queue.set_state(0, State::Down);
        assert_eq!(queue.enter(avoid(&[]), || 0), Admission::Nobody);
    }

    #[test]
    fn who_waits_longest_is_served_first_and_the_bound_holds() {
        let mut queue = all_up(1, 1, 2);
        assert_eq!(queue.enter(avoid(&[]), || 0), Admission::Node(0));
        assert_eq!(queue.enter(avoid(&[]), || 1), Admission::Waits(0));
        assert_eq!(queue.enter(avoid(&[]), || 2), Admission::Waits(1));
        assert_eq!(queue.enter(avoid(&[]), || 3), Admission::Full);
        queue.leave(0);
        assert_eq!(queue.waiting.len(), 1);
        assert_eq!(queue.release(0), Some((2, Some(0))));
        assert_eq!(queue.release(0), None);
    }

    #[test]
    fn one_that_avoids_a_node_does_not_hold_up_those_behind_it() {
        let mut queue = all_up(2, 1, 10);
        queue.enter(avoid(&[]), || 0);
        queue.enter(avoid(&[]), || 0);
        queue.enter(avoid(&[0]), || 1);
        queue.enter(avoid(&[]), || 2);
        assert_eq!(queue.release(0), Some((2, Some(0))));
        assert_eq!(queue.release(1), Some((1, Some(1))));
    }

    #[test]
    fn a_wait_for_the_only_node_left_ends_when_that_goes_down() {
        let mut queue = all_up(2, 1, 10);
        queue.enter(avoid(&[]), || 0);
        queue.enter(avoid(&[]), || 0);
        queue.enter(avoid(&[0]), || 1);
        assert!(queue.serves(avoid(&[0])));
        assert_eq!(queue.set_state(1, State::Down), [(1, None)]);
        assert!(!queue.serves(avoid(&[0])));
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
            let mut queue: Queue<(u64, u8)> = Queue::new(3, CAP, BOUND);
            let mut held: Vec<usize> = Vec::new();
            let mut arrivals = 0;
            for step in steps {
                let mut served = Vec::new();
                match step {
                    Step::Enter(mask) => {
                        arrivals += 1;
                        let avoid = NodeSet(mask.into());
                        let admission = queue.enter(avoid, || (arrivals, mask));
                        if let Admission::Node(node) = admission {
                            held.push(node);
                            prop_assert!(!avoid.contains(node));
                        }
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let node = held.swap_remove(which % held.len());
                        served.extend(queue.release(node));
                    }
                    Step::State(node, state) => served = queue.set_state(node, state),
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
                    prop_assert!(matches!(queue.choose(waiter.avoid), Choice::AllBusy));
                }
            }
        }
    }
}
