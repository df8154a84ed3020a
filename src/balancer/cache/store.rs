//! Everything that is kept, within its bounds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};
use tokio::sync::watch;

use super::key::Key;
use super::rule::{Grace, Rule};
use super::shared::Need;
use super::slot::{Asked, Left, Next, Slot};
use crate::balancer::failure::Failure;

/// Targets that are known at once, and answers to those that have several.
pub(super) const SLOTS_MAX: usize = 1024;

/// Answers to one target, for requests that differ in what they vary with.
pub(super) const VARIANTS_MAX: usize = 16;

/// How long it is known what answers to a target vary with, while nobody asks.
const VARYING: Duration = Duration::from_secs(60 * 60);

/// An answer as it is sent to whoever asks.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its headers, clean; the length is the body's.
    pub(crate) headers: HeaderMap,
    /// All of its body.
    pub(crate) body: Bytes,
}

impl Stored {
    /// Its bytes in memory, roughly.
    pub(super) fn size(&self) -> usize {
        let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
        self.body.len() + self.headers.iter().map(field).sum::<usize>()
    }
}

/// A kept answer as another process gets it: its target, when it was asked for,
/// its age then and its life.
pub(crate) type Remembered = (Uri, Arc<Stored>, Instant, (Duration, Duration));

/// What came of fetching an answer, for those who wait for it.
#[derive(Debug, Clone)]
pub(super) enum Landed {
    /// This.
    Answer {
        stored: Arc<Stored>,
        /// When it was asked for.
        sent: Instant,
        /// Its age then, by the sender's word.
        age: Duration,
        /// How old it may become; none if it is not kept.
        life: Option<Duration>,
        /// Whether it is another balancer's.
        is_shared: bool,
    },
    /// One that depends on what this request has in more fields than its key.
    Varies,
    /// An answer for whoever asks, each for itself.
    Private,
    /// None.
    Failed(Failure),
}

/// Told when an answer has landed.
pub(super) type Waiting = watch::Receiver<Option<Landed>>;

/// The books. Which bytes are whose, and who waits for what.
#[derive(Debug)]
pub(super) struct Store {
    slots: HashMap<Key, Tracked>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Tracked {
    slot: Slot<Arc<Stored>>,
    is_warm: bool,
    size: usize,
    asked_at: Instant,
    /// The node whose answer was none, or a bad one.
    avoid: Option<usize>,
    /// The fields that answers to this target vary with. Its own slot is empty
    /// then: each answer has a key with what its request had in these fields.
    varies: Option<Arc<[HeaderName]>>,
    /// Of the fetch that is under way.
    landing: Option<watch::Sender<Option<Landed>>>,
}

/// What a request gets.
pub(super) enum Ticket {
    /// An answer, its age, and how much older it may become; and whether what
    /// is due has changed.
    Serve(Arc<Stored>, Duration, Left, bool),
    /// What somebody fetches; the request is to fetch it within this time if
    /// it is the one.
    Wait(Waiting, Option<Duration>),
    /// The request is to ask with what it has in these fields.
    Select(Arc<[HeaderName]>),
    /// Nothing: it asks a node itself.
    Pass,
}

impl Store {
    pub(super) fn new(bytes_max: usize) -> Store {
        Store {
            slots: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// From now on this many bytes.
    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.make_room(0);
    }

    /// Bytes and answers kept.
    pub(super) fn totals(&self) -> (usize, usize) {
        let kept = self.slots.values().filter(|it| it.slot.value().is_some());
        (self.bytes, kept.count())
    }

    /// A request asks.
    pub(super) fn ask(&mut self, rule: Rule, key: &Key, now: Instant) -> Ticket {
        if !self.slots.contains_key(key) && !self.track(rule, key, now) {
            return Ticket::Pass;
        }
        let tracked = self.slots.get_mut(key).expect("tracked just now");
        tracked.asked_at = now;
        if let Some(names) = &tracked.varies {
            return Ticket::Select(Arc::clone(names));
        }
        match tracked.slot.ask(now) {
            Asked::Serve {
                value,
                age,
                left,
                soon,
            } => Ticket::Serve(value, age, left, soon),
            Asked::Pass => Ticket::Pass,
            Asked::Join => match &tracked.landing {
                Some(landing) => Ticket::Wait(landing.subscribe(), None),
                None => Ticket::Pass,
            },
            Asked::Fetch(within) => {
                let (landing, waiting) = watch::channel(None);
                tracked.landing = Some(landing);
                Ticket::Wait(waiting, Some(within))
            }
        }
    }

    /// Keeps this target fresh from now on, or under this rule.
    pub(super) fn keep_warm(&mut self, rule: Rule, key: &Key, now: Instant) {
        if !self.slots.contains_key(key) {
            self.track(rule, key, now);
        }
    }

    /// Goes on with these rules; what has none is dropped.
    pub(super) fn set_rules(&mut self, rule: impl Fn(&Uri) -> Option<Rule>) {
        self.slots.retain(|key, tracked| match rule(key.target()) {
            Some(rule) if key.is_variant() && !rule.may_select() => false,
            Some(rule) => {
                tracked.slot.set_rule(rule);
                tracked.varies = tracked.varies.take().filter(|_| rule.may_select());
                true
            }
            None => false,
        });
        self.bytes = self.slots.values().map(|it| it.size).sum();
    }

    /// What is to be fetched now, each within its time, and when to look
    /// again.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<(Key, Duration)>, Option<Instant>) {
        let (mut fetch, mut again) = (Vec::new(), None::<Instant>);
        let mut freed = 0;
        self.slots.retain(|key, tracked| {
            let next = match tracked.varies {
                Some(_) => tracked.next_if_varying(now),
                None => tracked.slot.next(now),
            };
            match next {
                Next::Landing => {}
                Next::At(at) => again = Some(again.map_or(at, |it| it.min(at))),
                Next::Fetch(within) => {
                    tracked.landing = Some(watch::channel(None).0);
                    fetch.push((key.clone(), within));
                }
                Next::Forget => {
                    freed += tracked.size;
                    return false;
                }
            }
            true
        });
        self.bytes -= freed;
        (fetch, again)
    }

    /// What is known of an answer before it is fetched.
    pub(super) fn need(&self, key: &Key, now: Instant) -> Need {
        let tracked = self.slots.get(key);
        tracked.map_or_else(Need::default, |it| it.slot.need(now))
    }

    /// An answer that may be kept has come, from a node, or, if it is told how
    /// long the node took, from another balancer. Whether it is kept.
    pub(super) fn keep(
        &mut self,
        key: &Key,
        stored: &Arc<Stored>,
        sent: Instant,
        (age, life, grace): (Duration, Duration, Grace),
        took: Option<Duration>,
        now: Instant,
    ) -> bool {
        let size = stored.size() + key.size();
        if !self.slots.contains_key(key) {
            return false;
        }
        self.make_room_for(key, size);
        let own = self.slots.get(key).map_or(0, |it| it.size);
        if self.bytes - own + size > self.bytes_max {
            // What is kept fresh fills it.
            self.end(key, Landed::Private, None, now);
            return false;
        }
        let tracked = self.slots.get_mut(key).expect("looked at just now");
        let lives = (age, life, grace);
        let value = Arc::clone(stored);
        match took {
            Some(took) => tracked.slot.taken(value, sent, lives, took),
            None => tracked.slot.landed(value, sent, lives, now),
        }
        // Not what was outdated before it came.
        let is_kept = tracked.slot.value().is_some();
        let size = if is_kept { size } else { 0 };
        self.bytes = self.bytes - tracked.size + size;
        tracked.size = size;
        tracked.avoid = None;
        tracked.tell(Landed::Answer {
            stored: Arc::clone(stored),
            sent,
            age,
            life: Some(life),
            is_shared: took.is_some(),
        });
        is_kept
    }

    /// What is kept of this target after its life, because fetching it anew
    /// has failed.
    pub(super) fn in_need(&self, key: &Key, now: Instant) -> Option<(Arc<Stored>, Duration, Left)> {
        self.slots.get(key)?.slot.in_need(now)
    }

    /// The answer that is kept here, be it too old.
    pub(super) fn value(&self, key: &Key) -> Option<Arc<Stored>> {
        self.slots.get(key)?.slot.value().cloned()
    }

    /// An answer has come that depends on what its request had in these
    /// fields, or would have had.
    pub(super) fn varies(&mut self, key: &Key, names: Vec<HeaderName>, now: Instant) {
        if let Some(tracked) = self.slots.get_mut(key) {
            tracked.slot.invalidate();
            self.bytes -= std::mem::take(&mut tracked.size);
            tracked.slot.failed(now);
            tracked.tell(Landed::Varies);
        }
        if let Some(bare) = self.slots.get_mut(&key.bare()) {
            bare.varies = Some(names.into());
        }
    }

    /// What is kept of this target is not so any more, in all its variants.
    pub(super) fn invalidate(&mut self, key: &Key) {
        let all = self.slots.iter_mut();
        for (_, tracked) in all.filter(|(it, _)| it.target() == key.target()) {
            tracked.slot.invalidate();
            self.bytes -= std::mem::take(&mut tracked.size);
        }
    }

    /// Every answer that is kept: when it was asked for, its age then, its
    /// life. Not those of which their targets have several.
    pub(super) fn kept(&self) -> Vec<Remembered> {
        let row = |(key, tracked): (&Key, &Tracked)| {
            if key.is_variant() {
                return None;
            }
            let (stored, sent, age, life) = tracked.slot.kept()?;
            Some((key.target().clone(), Arc::clone(stored), sent, (age, life)))
        };
        self.slots.iter().filter_map(row).collect()
    }

    /// Takes an answer over that another process kept, if there is room.
    pub(super) fn restore(
        &mut self,
        rule: Rule,
        key: &Key,
        stored: Arc<Stored>,
        (sent, now): (Instant, Instant),
        times: (Duration, Duration),
    ) {
        let size = stored.size() + key.size();
        if self.bytes + size > self.bytes_max
            || (!self.slots.contains_key(key) && !self.track(rule, key, now))
        {
            return;
        }
        let tracked = self.slots.get_mut(key).expect("tracked just now");
        if tracked.slot.value().is_none() {
            self.bytes += size;
            tracked.size = size;
            tracked.slot.restore(stored, sent, times);
        }
    }

    /// Something else has come of a fetch, last from this node.
    pub(super) fn end(&mut self, key: &Key, landed: Landed, node: Option<usize>, now: Instant) {
        let Some(tracked) = self.slots.get_mut(key) else {
            return;
        };
        tracked.avoid = node;
        match landed {
            Landed::Private => tracked.slot.unfit(now),
            Landed::Answer { .. } | Landed::Varies | Landed::Failed(_) => tracked.slot.failed(now),
        }
        tracked.tell(landed);
    }

    /// The node that is better not asked for this.
    pub(super) fn avoided(&self, key: &Key) -> Option<usize> {
        self.slots.get(key)?.avoid
    }

    /// Whether every target that is kept fresh was fetched once.
    pub(super) fn is_warmed(&self) -> bool {
        self.slots
            .values()
            .all(|it| !it.is_warm || it.slot.is_tried())
    }

    /// Target, status, bytes and age of each answer kept.
    pub(super) fn list(&self, now: Instant) -> Vec<(String, usize, Duration, bool)> {
        let row = |(key, tracked): (&Key, &Tracked)| {
            let age = tracked.slot.age(now)?;
            let in_flight = tracked.slot.is_in_flight();
            Some((key.target().to_string(), tracked.size, age, in_flight))
        };
        let mut rows: Vec<_> = self.slots.iter().filter_map(row).collect();
        rows.sort();
        rows
    }

    /// Whether an answer of so many bytes may be kept at all.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max
    }

    /// False if there is no room for another target.
    fn track(&mut self, rule: Rule, key: &Key, now: Instant) -> bool {
        let is_sibling = |it: &Key| it.is_variant() && it.target() == key.target();
        if key.is_variant() && self.slots.keys().filter(|it| is_sibling(it)).count() >= VARIANTS_MAX
        {
            if !self.drop_oldest(is_sibling) {
                return false;
            }
        } else if self.slots.len() >= SLOTS_MAX && !self.drop_oldest(|_| true) {
            return false;
        }
        let tracked = Tracked {
            slot: Slot::new(rule),
            is_warm: rule.is_warm(),
            size: 0,
            asked_at: now,
            avoid: None,
            varies: None,
            landing: None,
        };
        self.slots.insert(key.clone(), tracked);
        true
    }

    fn make_room(&mut self, size: usize) {
        while self.bytes + size > self.bytes_max && self.drop_oldest(|_| true) {}
    }

    fn make_room_for(&mut self, key: &Key, size: usize) {
        let own = self.slots.get(key).map_or(0, |it| it.size);
        while self.bytes - own + size > self.bytes_max && self.drop_oldest(|it| it != key) {}
    }

    /// Drops the answer nobody has asked for the longest of those that may go,
    /// unless it is kept fresh or being fetched. False if there is none.
    fn drop_oldest(&mut self, may_go: impl Fn(&Key) -> bool) -> bool {
        let free =
            |(key, it): &(&Key, &Tracked)| !it.is_warm && !it.slot.is_in_flight() && may_go(key);
        let oldest = self.slots.iter().filter(free);
        let oldest = oldest.min_by_key(|(_, it)| it.asked_at);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else {
            return false;
        };
        let dropped = self.slots.remove(&key).expect("found just now");
        self.bytes -= dropped.size;
        true
    }
}

impl Tracked {
    /// What is to be done about a target whose answers have keys of their own.
    fn next_if_varying(&self, now: Instant) -> Next {
        let until = self.asked_at + VARYING;
        match now < until {
            true => Next::At(until),
            false => Next::Forget,
        }
    }

    fn tell(&mut self, landed: Landed) {
        if let Some(landing) = self.landing.take() {
            landing.send_replace(Some(landed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::tests::rule;
    use super::*;
    use hyper::header::ACCEPT;

    const MINUTE: (Duration, Duration, Grace) = (
        Duration::ZERO,
        Duration::from_secs(60),
        Grace {
            meanwhile: Duration::ZERO,
            in_need: Duration::ZERO,
            held: Duration::ZERO,
        },
    );

    fn cold() -> Rule {
        Rule {
            is_warm: false,
            ..rule(60)
        }
    }

    fn key(number: usize) -> Key {
        cold().key(&format!("/{number:04}").parse().expect("a path"))
    }

    fn stored(bytes: usize) -> Arc<Stored> {
        Arc::new(Stored {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: vec![b'x'; bytes].into(),
        })
    }

    fn fill(store: &mut Store, number: usize, bytes: usize, now: Instant) {
        assert!(matches!(
            store.ask(cold(), &key(number), now),
            Ticket::Wait(_, Some(_))
        ));
        store.keep(&key(number), &stored(bytes), now, MINUTE, None, now);
    }

    #[test]
    fn bytes_are_bounded_and_the_longest_unasked_goes_first() {
        let now = Instant::now();
        let mut store = Store::new(3 * 105);
        for number in 0..3 {
            fill(
                &mut store,
                number,
                100,
                now + Duration::from_millis(number as u64),
            );
        }
        let later = now + Duration::from_secs(1);
        assert!(matches!(
            store.ask(cold(), &key(0), later),
            Ticket::Serve(..)
        ));
        fill(&mut store, 3, 100, later);
        assert_eq!(store.totals(), (3 * 105, 3));
        assert!(matches!(
            store.ask(cold(), &key(0), later),
            Ticket::Serve(..)
        ));
        assert!(matches!(
            store.ask(cold(), &key(1), later),
            Ticket::Wait(_, Some(_))
        ));
    }

    #[test]
    fn what_is_kept_fresh_does_not_go_beyond_the_bound_either() {
        let now = Instant::now();
        let mut store = Store::new(2 * 105);
        for number in 0..3 {
            store.keep_warm(rule(60), &key(number), now);
        }
        assert_eq!(store.due(now).0.len(), 3);
        for number in 0..3 {
            store.keep(&key(number), &stored(100), now, MINUTE, None, now);
        }
        assert_eq!(store.totals(), (2 * 105, 2));
        assert!(store.is_warmed());
        assert!(matches!(store.ask(rule(60), &key(2), now), Ticket::Pass));
    }

    #[test]
    fn targets_are_bounded_also_while_all_are_being_fetched() {
        let now = Instant::now();
        let mut store = Store::new(1_000_000);
        for number in 0..SLOTS_MAX {
            let ticket = store.ask(cold(), &key(number), now);
            assert!(matches!(ticket, Ticket::Wait(_, Some(_))));
        }
        assert!(matches!(
            store.ask(cold(), &key(SLOTS_MAX), now),
            Ticket::Pass
        ));
        store.end(&key(0), Landed::Private, None, now);
        assert!(matches!(
            store.ask(cold(), &key(SLOTS_MAX), now),
            Ticket::Wait(_, Some(_))
        ));
    }

    #[test]
    fn a_failure_leaves_what_was_kept() {
        let now = Instant::now();
        let mut store = Store::new(1_000_000);
        store.keep_warm(rule(60), &key(0), now);
        assert!(!store.is_warmed());
        let (fetch, _) = store.due(now);
        assert_eq!(fetch.len(), 1);
        store.keep(&key(0), &stored(10), now, MINUTE, None, now);
        assert!(store.is_warmed());
        let later = now + Duration::from_secs(50);
        assert_eq!(store.due(later).0.len(), 1);
        store.end(&key(0), Landed::Failed(Failure::NoNode), Some(1), later);
        assert_eq!(store.avoided(&key(0)), Some(1));
        assert!(matches!(
            store.ask(rule(60), &key(0), later),
            Ticket::Serve(_, age, ..) if age == later - now
        ));
    }

    #[test]
    fn what_was_invalidated_takes_no_room() {
        let now = Instant::now();
        let mut store = Store::new(1_000_000);
        fill(&mut store, 0, 10, now);
        store.invalidate(&key(0));
        assert_eq!(store.totals(), (0, 0));
        let _waits = store.ask(cold(), &key(0), now);
        store.invalidate(&key(0));
        store.keep(&key(0), &stored(10), now, MINUTE, None, now);
        assert_eq!(store.totals(), (0, 0));
    }

    /// The key of this variant of a target whose answers vary.
    fn variant(store: &mut Store, value: usize, now: Instant) -> Key {
        let bare = key(0);
        let Ticket::Select(names) = store.ask(cold(), &bare, now) else {
            panic!("it varies");
        };
        let value = HeaderValue::from(value);
        let headers = HeaderMap::from_iter([(ACCEPT, value)]);
        bare.select(&names, &headers).expect("a key")
    }

    fn varying(now: Instant) -> Store {
        let mut store = Store::new(1_000_000);
        let _waits = store.ask(cold(), &key(0), now);
        store.varies(&key(0), vec![ACCEPT], now);
        store
    }

    #[test]
    fn answers_that_vary_are_kept_beside_each_other_and_go_together() {
        let now = Instant::now();
        let mut store = varying(now);
        for value in 0..3 {
            let key = variant(&mut store, value, now);
            let ticket = store.ask(cold(), &key, now);
            assert!(matches!(ticket, Ticket::Wait(_, Some(_))), "{value}");
            store.keep(&key, &stored(10 + value), now, MINUTE, None, now);
        }
        for value in 0..3 {
            let key = variant(&mut store, value, now);
            let ticket = store.ask(cold(), &key, now);
            let length = match &ticket {
                Ticket::Serve(stored, ..) => stored.body.len(),
                _ => 0,
            };
            assert_eq!(length, 10 + value);
        }
        assert_eq!(store.totals().1, 3);
        assert!(store.kept().is_empty(), "another process starts anew");
        // Also while it is not known that they vary.
        store.slots.remove(&key(0));
        store.invalidate(&key(0));
        assert_eq!(store.totals(), (0, 0));
    }

    #[test]
    fn where_answers_do_not_speak_for_themselves_any_more_none_varies() {
        let now = Instant::now();
        let mut store = varying(now);
        let key = variant(&mut store, 1, now);
        let _waits = store.ask(cold(), &key, now);
        store.keep(&key, &stored(10), now, MINUTE, None, now);
        store.set_rules(|_| Some(cold()));
        assert_eq!(store.totals(), (0, 0));
        let ticket = store.ask(cold(), &key.bare(), now);
        assert!(matches!(ticket, Ticket::Wait(..)));
    }

    #[test]
    fn the_answers_to_one_target_are_bounded() {
        let now = Instant::now();
        let mut store = varying(now);
        fill(&mut store, 1, 10, now);
        for value in 0..VARIANTS_MAX + 5 {
            let now = now + Duration::from_millis(value as u64);
            let key = variant(&mut store, value, now);
            let _waits = store.ask(cold(), &key, now);
            store.keep(&key, &stored(10), now, MINUTE, None, now);
        }
        assert_eq!(store.totals().1, VARIANTS_MAX + 1);
        let key = variant(&mut store, 5, now);
        assert!(matches!(store.ask(cold(), &key, now), Ticket::Serve(..)));
        let key = variant(&mut store, 4, now);
        assert!(matches!(store.ask(cold(), &key, now), Ticket::Wait(..)));
    }

    #[test]
    fn what_a_target_varies_with_is_known_while_somebody_asks() {
        let now = Instant::now();
        let mut store = varying(now);
        let later = now + VARYING - Duration::from_secs(1);
        assert_eq!(store.due(later).1, Some(now + VARYING));
        variant(&mut store, 0, later);
        store.due(now + VARYING);
        variant(&mut store, 0, later);
        store.due(later + VARYING);
        assert!(matches!(
            store.ask(cold(), &key(0), later + VARYING),
            Ticket::Wait(..)
        ));
    }

    #[test]
    fn what_another_process_kept_is_as_old_as_it_was_there() {
        let now = Instant::now();
        let mut old = Store::new(1_000_000);
        old.keep_warm(rule(60), &key(0), now);
        old.due(now);
        old.keep(&key(0), &stored(10), now, MINUTE, None, now);
        let later = now + Duration::from_secs(40);
        let mut new = Store::new(1_000_000);
        new.keep_warm(rule(60), &key(0), later);
        for (target, stored, sent, times) in old.kept() {
            let rule = rule(60);
            let key = rule.key(&target);
            new.restore(rule, &key, stored, (sent, later), times);
        }
        assert!(new.is_warmed());
        assert_eq!(new.totals(), old.totals());
        assert!(matches!(
            new.ask(rule(60), &key(0), later),
            Ticket::Serve(_, age, ..) if age == later - now
        ));
        // It is fetched anew as if it had always been here.
        assert_eq!(new.due(now + Duration::from_secs(45)).0.len(), 1);
        assert!(matches!(
            new.ask(rule(60), &key(0), now + Duration::from_secs(59)),
            Ticket::Wait(..)
        ));
        let mut small = Store::new(5);
        let (age, life, _) = MINUTE;
        small.restore(cold(), &key(0), stored(10), (now, now), (age, life));
        assert_eq!(small.totals(), (0, 0));
    }

    #[test]
    fn without_a_rule_nothing_stays() {
        let now = Instant::now();
        let mut store = Store::new(1_000_000);
        fill(&mut store, 0, 10, now);
        fill(&mut store, 1, 20, now);
        store.set_rules(|target| (target.path() == "/0001").then(cold));
        assert_eq!(store.totals(), (25, 1));
    }
}
