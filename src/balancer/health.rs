//! Which nodes may be sent requests: events in, state out.
//!
//! Two kinds of news meet in one state machine. Checks (`/ping`) count: `fall`
//! bad ones in a row take a node out, `rise` good ones bring it back. Traffic
//! is quicker but says less: a refused connection takes a node out at once, a
//! failed request or a 5xx answer only makes it suspect and has it checked at
//! once; the check decides.
//!
//! The last node that looks healthy is never taken out: it stays suspect and
//! goes on serving, because a node that may fail is better than none. When
//! another node comes up, it falls after all. While no node is up, the first
//! good check brings one back, whatever `rise` says.
//!
//! What an operator says of a node goes before all that: it serves only while
//! it is ready, and one that is not does not count as a node that could take
//! another's place. In maintenance it is not even checked.
//!
//! News that began before a state can speak against it does not count: a
//! failure of a request that was sent before the node came back, a good check
//! that began before the node was suspected.

use std::time::{Duration, Instant};

use crate::config;
use crate::http::NodeMode;

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its checks are good.
    Up,
    /// In doubt: not checked yet, checked badly, failing requests, or the last
    /// one. Serves when no node is up.
    Suspect,
    /// Out: gets no requests.
    Down,
    /// Taken out by an operator; finishes what it has.
    Drain,
    /// Taken out by an operator, and not checked.
    Maint,
}

impl State {
    /// All states, in the order of their metric rows.
    pub(crate) const ALL: [State; 5] = [
        State::Up,
        State::Suspect,
        State::Down,
        State::Drain,
        State::Maint,
    ];

    /// Whether it may get requests.
    pub(crate) fn serves(self) -> bool {
        matches!(self, State::Up | State::Suspect)
    }

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Suspect => "suspect",
            State::Down => "down",
            State::Drain => "drain",
            State::Maint => "maint",
        }
    }
}

/// Something learned about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A check was answered as it should be.
    CheckGood,
    /// A check was not.
    CheckBad,
    /// A connection for a request could not be had.
    ConnectFailed,
    /// A request went unanswered, or its answer was a 5xx.
    RequestFailed,
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Health {
    interval: Duration,
    fast_interval: Duration,
    rise: u32,
    fall: u32,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone)]
struct Node {
    /// What an operator has said.
    mode: NodeMode,
    /// What is known of its health.
    state: State,
    /// When it entered its state.
    since: Instant,
    /// Good checks in a row, while down.
    good: u32,
    /// Bad checks in a row.
    bad: u32,
    /// Traffic speaks against it: worth one bad check, but not without one.
    suspected: bool,
    /// It takes no connections.
    refused: bool,
    check: Check,
}

#[derive(Debug, Clone, Copy)]
enum Check {
    /// None so far.
    Never,
    /// One is out.
    Running,
    /// The last one began then.
    Last(Instant),
}

impl Health {
    /// `nodes` nodes nobody has heard of yet.
    pub(crate) fn new(settings: &config::Health, nodes: usize, now: Instant) -> Health {
        let node = || Node {
            mode: NodeMode::Ready,
            state: State::Suspect,
            since: now,
            good: 0,
            bad: 0,
            suspected: false,
            refused: false,
            check: Check::Never,
        };
        Health {
            interval: settings.interval,
            fast_interval: settings.fast_interval.min(settings.interval),
            rise: settings.rise,
            fall: settings.fall,
            nodes: (0..nodes).map(|_| node()).collect(),
        }
    }

    /// Goes on with what another one knows of a node.
    pub(crate) fn adopt(&mut self, node: usize, other: &Health, its: usize) {
        self.nodes[node].clone_from(&other.nodes[its]);
        if let Check::Running = self.nodes[node].check {
            self.nodes[node].check = Check::Never;
        }
    }

    /// The state of a node.
    pub(crate) fn state(&self, node: usize) -> State {
        let it = &self.nodes[node];
        match it.mode {
            NodeMode::Ready => it.state,
            NodeMode::Drain => State::Drain,
            NodeMode::Maint => State::Maint,
        }
    }

    /// What an operator has said of a node.
    pub(crate) fn mode(&self, node: usize) -> NodeMode {
        self.nodes[node].mode
    }

    /// Since when a node is in its state.
    pub(crate) fn since(&self, node: usize) -> Instant {
        self.nodes[node].since
    }

    /// Nodes that serve and whose checks are good.
    pub(crate) fn up(&self) -> usize {
        let nodes = 0..self.nodes.len();
        nodes.filter(|node| self.state(*node) == State::Up).count()
    }

    /// Whether every node that serves would be down if another one were up.
    pub(crate) fn all_failed(&self) -> bool {
        let mut nodes = 0..self.nodes.len();
        nodes.all(|node| !self.state(node).serves() || self.failed(node))
    }

    /// An operator says this of a node. False if it is the last one that
    /// serves, and has to stay.
    pub(crate) fn set_mode(&mut self, node: usize, mode: NodeMode, now: Instant) -> bool {
        let mut others = (0..self.nodes.len()).filter(|other| *other != node);
        let is_last = !others.any(|other| self.state(other).serves());
        if mode != NodeMode::Ready && is_last && self.state(node).serves() {
            return false;
        }
        let it = &mut self.nodes[node];
        let before = std::mem::replace(&mut it.mode, mode);
        if before == mode {
            return true;
        }
        it.since = now;
        if before == NodeMode::Maint {
            // What was known of it is old.
            it.state = State::Suspect;
            it.good = 0;
            it.bad = 0;
            it.suspected = false;
            it.refused = false;
            it.check = Check::Never;
        }
        // One that only served because it was the last may go.
        if mode == NodeMode::Ready && self.state(node) == State::Up {
            self.drop_the_failed(now);
        }
        true
    }

    /// When the node is to be checked next; none while a check is out
    /// and in maintenance. Never
    /// sooner than `fast_interval` after the last check began, so that a
    /// storm of failing requests does not become a storm of checks.
    pub(crate) fn check_due(&self, node: usize) -> Option<Instant> {
        let it = &self.nodes[node];
        match it.check {
            _ if it.mode == NodeMode::Maint => None,
            Check::Running => None,
            Check::Never => Some(it.since),
            Check::Last(began) if self.in_doubt(it) => Some(began + self.fast_interval),
            Check::Last(began) => Some(began + self.interval),
        }
    }

    /// A check is out.
    pub(crate) fn check_began(&mut self, node: usize) {
        self.nodes[node].check = Check::Running;
    }

    /// Takes in what was learned of a node from something that began at
    /// `began`.
    pub(crate) fn observe(&mut self, node: usize, event: Event, began: Instant, now: Instant) {
        match event {
            Event::CheckGood => self.check_good(node, began, now),
            Event::CheckBad => self.check_bad(node, began, now),
            Event::ConnectFailed | Event::RequestFailed => {
                let it = &mut self.nodes[node];
                if it.state == State::Up && began < it.since {
                    return;
                }
                it.good = 0;
                it.suspected = true;
                it.refused |= event == Event::ConnectFailed;
                self.judge(node, now);
            }
        }
    }

    fn check_good(&mut self, node: usize, began: Instant, now: Instant) {
        let nobody_up = self.up() == 0;
        let it = &mut self.nodes[node];
        it.check = Check::Last(began);
        if it.state == State::Up || began < it.since || it.mode == NodeMode::Maint {
            return;
        }
        it.good = it.good.saturating_add(1);
        if it.state == State::Suspect || it.good >= self.rise || nobody_up {
            it.enter(State::Up, now);
            it.bad = 0;
            it.suspected = false;
            it.refused = false;
            if it.mode == NodeMode::Ready {
                self.drop_the_failed(now);
            }
        }
    }

    fn check_bad(&mut self, node: usize, began: Instant, now: Instant) {
        let it = &mut self.nodes[node];
        it.check = Check::Last(began);
        if it.state == State::Up && began < it.since {
            return;
        }
        it.good = 0;
        it.bad = it.bad.saturating_add(1);
        self.judge(node, now);
    }

    /// Bad news came in: down, or suspect if that is not enough for down or
    /// if no other node looks healthy.
    fn judge(&mut self, node: usize, now: Instant) {
        let looks_healthy = |other: usize| self.state(other).serves() && !self.failed(other);
        let replaceable = (0..self.nodes.len()).any(|other| other != node && looks_healthy(other));
        let state = match self.nodes[node].state {
            State::Up | State::Suspect if self.failed(node) && replaceable => State::Down,
            State::Up => State::Suspect,
            _ => return,
        };
        self.nodes[node].enter(state, now);
    }

    /// A node is up: those that only served because they were the last go.
    fn drop_the_failed(&mut self, now: Instant) {
        for node in 0..self.nodes.len() {
            if self.state(node) == State::Suspect && self.failed(node) {
                self.nodes[node].enter(State::Down, now);
            }
        }
    }

    /// Enough bad news to be taken out.
    fn failed(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        let bad = it.bad.saturating_add(u32::from(it.suspected));
        it.refused || (it.bad > 0 && bad >= self.fall)
    }

    fn in_doubt(&self, node: &Node) -> bool {
        match node.state {
            State::Up => false,
            State::Suspect => true,
            State::Down | State::Drain | State::Maint => node.good > 0 || self.up() == 0,
        }
    }
}

impl Node {
    fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
        self.good = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn settings(rise: u32, fall: u32) -> config::Health {
        config::Health {
            path: "/ping".to_owned(),
            body: None,
            interval: 1000 * MS,
            fast_interval: 200 * MS,
            timeout: 500 * MS,
            rise,
            fall,
        }
    }

    /// A health and a clock the test moves.
    struct Scene {
        health: Health,
        now: Instant,
    }

    impl Scene {
        /// All nodes checked once and up.
        fn all_up(nodes: usize, rise: u32, fall: u32) -> Scene {
            let now = Instant::now();
            let health = Health::new(&settings(rise, fall), nodes, now);
            let mut scene = Scene { health, now };
            for node in 0..nodes {
                scene.news(node, Event::CheckGood);
            }
            assert_eq!(scene.health.up(), nodes);
            scene
        }

        /// Something that began and ended just now.
        fn news(&mut self, node: usize, event: Event) -> State {
            self.now += MS;
            self.health.observe(node, event, self.now, self.now);
            self.health.state(node)
        }
    }

    #[test]
    fn a_node_serves_before_its_first_check_but_is_not_up() {
        let now = Instant::now();
        let health = Health::new(&settings(2, 2), 1, now);
        assert_eq!(health.state(0), State::Suspect);
        assert_eq!(health.check_due(0), Some(now));
    }

    #[test]
    fn fall_bad_checks_take_a_node_out_and_rise_good_ones_bring_it_back() {
        let mut scene = Scene::all_up(2, 3, 2);
        assert_eq!(scene.news(0, Event::CheckBad), State::Suspect);
        assert_eq!(scene.news(0, Event::CheckBad), State::Down);
        assert_eq!(scene.news(0, Event::CheckGood), State::Down);
        assert_eq!(scene.news(0, Event::CheckGood), State::Down);
        assert_eq!(scene.news(0, Event::CheckGood), State::Up);
    }

    #[test]
    fn one_bad_check_between_good_ones_is_forgiven() {
        let mut scene = Scene::all_up(2, 2, 2);
        for _ in 0..5 {
            assert_eq!(scene.news(0, Event::CheckBad), State::Suspect);
            assert_eq!(scene.news(0, Event::CheckGood), State::Up);
        }
    }

    #[test]
    fn a_refused_connection_takes_a_node_out_at_once() {
        let mut scene = Scene::all_up(2, 2, 5);
        assert_eq!(scene.news(0, Event::ConnectFailed), State::Down);
    }

    #[test]
    fn a_failed_request_makes_suspect_and_one_bad_check_confirms() {
        let mut scene = Scene::all_up(2, 2, 2);
        for _ in 0..10 {
            assert_eq!(scene.news(0, Event::RequestFailed), State::Suspect);
        }
        assert_eq!(scene.news(0, Event::CheckBad), State::Down);
    }

    #[test]
    fn a_failed_request_is_forgiven_by_a_good_check_that_began_later() {
        let mut scene = Scene::all_up(2, 2, 2);
        let before = scene.now;
        assert_eq!(scene.news(0, Event::RequestFailed), State::Suspect);
        scene.health.observe(0, Event::CheckGood, before, scene.now);
        assert_eq!(scene.health.state(0), State::Suspect, "it began before");
        assert_eq!(scene.news(0, Event::CheckGood), State::Up);
    }

    #[test]
    fn suspicion_is_checked_at_once_unless_a_check_was_just_made() {
        let mut scene = Scene::all_up(2, 2, 2);
        let checked = scene.now;
        scene.health.observe(0, Event::CheckGood, checked, checked);
        assert_eq!(scene.health.check_due(0), Some(checked + 1000 * MS));
        scene.now += 500 * MS;
        scene.news(0, Event::RequestFailed);
        let due = scene.health.check_due(0).expect("no check is out");
        assert!(due <= scene.now, "at once");
        scene.health.check_began(0);
        assert_eq!(scene.health.check_due(0), None);
        let began = scene.now;
        scene.health.observe(0, Event::CheckGood, began, began);
        scene.news(0, Event::RequestFailed);
        assert_eq!(scene.health.check_due(0), Some(began + 200 * MS));
    }

    #[test]
    fn news_from_before_a_comeback_does_not_speak_against_it() {
        let mut scene = Scene::all_up(2, 1, 1);
        let sent = scene.now;
        assert_eq!(scene.news(0, Event::CheckBad), State::Down);
        assert_eq!(scene.news(0, Event::CheckGood), State::Up);
        for event in [Event::RequestFailed, Event::ConnectFailed, Event::CheckBad] {
            scene.health.observe(0, event, sent, scene.now);
            assert_eq!(scene.health.state(0), State::Up, "{event:?}");
        }
    }

    #[test]
    fn the_last_healthy_node_is_kept_and_falls_when_another_comes() {
        let mut scene = Scene::all_up(2, 2, 2);
        assert_eq!(scene.news(0, Event::ConnectFailed), State::Down);
        assert_eq!(scene.news(1, Event::ConnectFailed), State::Suspect);
        assert_eq!(scene.news(1, Event::CheckBad), State::Suspect);
        assert_eq!(scene.news(1, Event::CheckBad), State::Suspect);
        assert_eq!(scene.news(0, Event::CheckGood), State::Up, "nobody is up");
        assert_eq!(scene.health.state(1), State::Down);
    }

    #[test]
    fn while_no_node_is_up_all_are_checked_fast() {
        let mut scene = Scene::all_up(2, 2, 2);
        scene.news(0, Event::ConnectFailed);
        scene.news(0, Event::CheckBad);
        assert_eq!(scene.health.check_due(0), Some(scene.now + 1000 * MS));
        let began = scene.now;
        scene.news(1, Event::ConnectFailed);
        assert_eq!(scene.health.check_due(0), Some(began + 200 * MS));
    }

    #[test]
    fn a_drained_node_is_checked_and_serves_at_once_when_it_is_ready() {
        let mut scene = Scene::all_up(2, 2, 2);
        assert!(scene.health.set_mode(0, NodeMode::Drain, scene.now));
        assert_eq!(scene.health.state(0), State::Drain);
        assert!(scene.health.check_due(0).is_some());
        assert_eq!(scene.news(0, Event::CheckGood), State::Drain);
        assert!(scene.health.set_mode(0, NodeMode::Ready, scene.now));
        assert_eq!(scene.health.state(0), State::Up);
    }

    #[test]
    fn a_node_in_maintenance_is_not_checked_and_serves_after_a_good_check() {
        let mut scene = Scene::all_up(2, 2, 2);
        assert!(scene.health.set_mode(0, NodeMode::Maint, scene.now));
        assert_eq!(scene.health.check_due(0), None);
        assert_eq!(scene.news(0, Event::CheckGood), State::Maint);
        assert!(scene.health.set_mode(0, NodeMode::Ready, scene.now));
        assert_eq!(scene.health.state(0), State::Suspect);
        assert!(scene.health.check_due(0).is_some());
        assert_eq!(scene.news(0, Event::CheckGood), State::Up);
    }

    #[test]
    fn the_last_node_that_serves_is_not_taken_out_and_does_not_fall() {
        let mut scene = Scene::all_up(2, 2, 2);
        assert!(scene.health.set_mode(0, NodeMode::Drain, scene.now));
        for mode in [NodeMode::Drain, NodeMode::Maint] {
            assert!(!scene.health.set_mode(1, mode, scene.now));
        }
        assert_eq!(scene.news(1, Event::ConnectFailed), State::Suspect);
        assert!(scene.health.all_failed());
        assert!(scene.health.set_mode(0, NodeMode::Ready, scene.now));
        assert_eq!(scene.health.state(1), State::Down);
        assert!(!scene.health.all_failed());
    }

    fn events() -> impl Strategy<Value = Vec<(usize, Event, u64, u64)>> {
        let event = prop_oneof![
            Just(Event::CheckGood),
            Just(Event::CheckBad),
            Just(Event::ConnectFailed),
            Just(Event::RequestFailed),
        ];
        prop::collection::vec((0..3usize, event, 0..2000u64, 0..2000u64), 0..200)
    }

    proptest! {
        #[test]
        fn some_node_always_serves(events in events(), rise in 1..4u32, fall in 1..4u32) {
            let start = Instant::now();
            let mut now = start;
            let mut health = Health::new(&settings(rise, fall), 3, now);
            for (node, event, passed, ago) in events {
                now += passed as u32 * MS;
                let began = now.checked_sub(ago as u32 * MS).unwrap_or(start).max(start);
                let before = health.state(node);
                health.observe(node, event, began, now);
                let after = health.state(node);
                prop_assert!((0..3).any(|node| health.state(node) != State::Down));
                if event == Event::RequestFailed && before == State::Up {
                    prop_assert_ne!(after, State::Down, "traffic alone does not decide");
                }
                if event == Event::CheckGood {
                    prop_assert!(before != State::Up || after == State::Up);
                } else {
                    prop_assert!(before == State::Up || after != State::Up);
                }
            }
        }

        #[test]
        fn good_checks_bring_every_node_back(events in events(), rise in 1..4u32, fall in 1..4u32) {
            let mut now = Instant::now();
            let mut health = Health::new(&settings(rise, fall), 3, now);
            for (node, event, passed, _) in events {
                now += passed as u32 * MS;
                health.observe(node, event, now, now);
            }
            for _ in 0..rise {
                now += MS;
                for node in 0..3 {
                    health.observe(node, Event::CheckGood, now, now);
                }
            }
            prop_assert_eq!(health.up(), 3);
        }
    }
}
