//! The life of one kept answer: when it may be served, when it is fetched
//! anew, who fetches it. Pure: time is an argument.
//!
//! An answer's age counts from the moment its request was *sent*, so it is
//! never taken for younger than it is. It is fetched anew well before its end,
//! early enough for two tries of the usual length, and served meanwhile; at
//! its end it is gone, whatever became of the tries, unless it has said itself
//! that it may be served longer. One request at a time fetches it.

use std::time::{Duration, Instant};

use super::rule::{Grace, Rule};
use super::shared::Need;

/// The usual length of a try is the greatest of this many.
const DURATIONS: usize = 8;

/// Tries that fit between the first one and the end of the answer.
const TRIES: u32 = 3;

/// Part of an answer's life that passes before it is fetched anew, at least
/// and at most.
const REFRESH: (f64, f64) = (1.0 / 6.0, 3.0 / 4.0);

/// Pause after a failed try; it doubles with each one, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Shortest time for a try.
const TRY_MIN: Duration = Duration::from_millis(500);

/// How long requests go past the cache after an answer that may not be kept.
const PASS: Duration = Duration::from_secs(10);

/// A target's answer, if there is one, and what is done about it.
#[derive(Debug)]
pub(super) struct Slot<T> {
    rule: Rule,
    kept: Option<Kept<T>>,
    /// Somebody fetches the answer.
    in_flight: bool,
    /// It was fetched once, well or badly.
    tried: bool,
    /// Failed tries since the last good one.
    failures: u32,
    /// When the last try failed.
    failed_at: Option<Instant>,
    /// Somebody asked since the last good try.
    wanted: bool,
    pass_until: Option<Instant>,
    /// What is being fetched is outdated before it comes.
    is_doomed: bool,
    /// Lengths of the last good tries, in a ring.
    durations: [Duration; DURATIONS],
    next_duration: usize,
}

#[derive(Debug)]
struct Kept<T> {
    value: T,
    sent: Instant,
    /// Its age when it was sent, by the sender's word.
    age: Duration,
    life: Duration,
    grace: Grace,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<T> {
    /// It gets this, which is so old. `soon` says that the answer is to be
    /// fetched anew, or will be, because of this request.
    Serve {
        value: T,
        age: Duration,
        left: Left,
        soon: bool,
    },
    /// It waits for who fetches the answer.
    Join,
    /// It has the answer fetched, within this time.
    Fetch(Duration),
    /// It asks a node itself.
    Pass,
}

/// How much older an answer may become; or how long ago that was, where it is
/// served all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// So much.
    Fresh(Duration),
    /// So long ago.
    Stale(Duration),
}

/// What is to be done without a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before this moment.
    At(Instant),
    /// Nothing until the answer that is being fetched is there.
    Landing,
    /// Fetch the answer, within this time.
    Fetch(Duration),
    /// Nobody wants it any more.
    Forget,
}

impl<T: Clone> Slot<T> {
    /// Nothing is known of the answer.
    pub(super) fn new(rule: Rule) -> Slot<T> {
        Slot {
            rule,
            kept: None,
            in_flight: false,
            tried: false,
            failures: 0,
            failed_at: None,
            wanted: false,
            pass_until: None,
            is_doomed: false,
            durations: [Duration::ZERO; DURATIONS],
            next_duration: 0,
        }
    }

    /// From now on this rule holds.
    pub(super) fn set_rule(&mut self, rule: Rule) {
        self.rule = rule;
    }

    /// Whether it was fetched once, well or badly.
    pub(super) fn is_tried(&self) -> bool {
        self.tried
    }

    /// Whether somebody fetches the answer.
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// The answer, be it too old.
    pub(super) fn value(&self) -> Option<&T> {
        self.kept.as_ref().map(|it| &it.value)
    }

    /// Age of the answer; none without one.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.kept.as_ref().map(|it| it.age(now))
    }

    /// The answer, when it was asked for, its age then, and its life.
    pub(super) fn kept(&self) -> Option<(&T, Instant, Duration, Duration)> {
        let it = self.kept.as_ref()?;
        Some((&it.value, it.sent, it.age, it.life))
    }

    /// Another process had the answer. How long it took is not known.
    pub(super) fn restore(&mut self, value: T, sent: Instant, (age, life): (Duration, Duration)) {
        self.tried = true;
        self.kept = Some(Kept {
            value,
            sent,
            age,
            life,
            // How long it might be served after its life is not told.
            grace: Grace::default(),
        });
    }

    /// A request asks. [`Asked::Fetch`] is owed one of [`Slot::landed`],
    /// [`Slot::failed`] and [`Slot::unfit`].
    pub(super) fn ask(&mut self, now: Instant) -> Asked<T> {
        let is_news = !std::mem::replace(&mut self.wanted, true);
        if let Some(kept) = &self.kept
            && let Some((age, left)) = self.servable(kept, now)
        {
            return Asked::Serve {
                value: kept.value.clone(),
                age,
                left,
                soon: is_news || matches!(left, Left::Stale(_)),
            };
        }
        if self.is_doomed {
            return Asked::Pass;
        }
        if self.pass_until.is_some_and(|until| now < until) {
            return Asked::Pass;
        }
        match std::mem::replace(&mut self.in_flight, true) {
            true => Asked::Join,
            false => Asked::Fetch(self.rule.flight_max()),
        }
    }

    /// How old an answer is, if it may be served.
    fn servable(&self, kept: &Kept<T>, now: Instant) -> Option<(Duration, Left)> {
        let (age, end) = (kept.age(now), self.rule.servable_age(kept.life));
        let Some(over) = age.checked_sub(end) else {
            return Some((age, Left::Fresh(end - age)));
        };
        let grace = match self.failures {
            0 => kept.grace.meanwhile,
            _ => kept.grace.meanwhile.max(kept.grace.in_need),
        };
        (over < grace).then_some((age, Left::Stale(over)))
    }

    /// The answer after its life, because fetching it anew has failed.
    pub(super) fn in_need(&self, now: Instant) -> Option<(T, Duration, Left)> {
        let kept = self.kept.as_ref()?;
        let (age, left) = self.servable(kept, now)?;
        Some((kept.value.clone(), age, left))
    }

    /// What is known of the answer, for fetching it.
    pub(super) fn need(&self, now: Instant) -> Need {
        let kept = self.kept.as_ref();
        let kept = kept.and_then(|kept| match self.servable(kept, now)? {
            (age, Left::Fresh(left)) => Some((age, left)),
            (_, Left::Stale(_)) => None,
        });
        Need {
            kept,
            usual: self.usual(),
        }
    }

    /// It is not as it was any more.
    pub(super) fn invalidate(&mut self) {
        self.kept = None;
        self.is_doomed = self.in_flight;
    }

    /// What is to be done now. [`Next::Fetch`] is owed what [`Asked::Fetch`]
    /// is.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        if self.in_flight {
            return Next::Landing;
        }
        let end = self.kept.as_ref().map(|it| it.end(&self.rule));
        let gone = self.kept.as_ref().map(|it| it.gone(&self.rule));
        let due = match (&self.kept, gone) {
            (Some(_), Some(gone)) if !self.rule.is_warm && now >= gone => return Next::Forget,
            (Some(kept), Some(gone))
                if !self.rule.is_warm && (!self.wanted || now >= kept.useless(&self.rule)) =>
            {
                return Next::At(gone);
            }
            (Some(kept), _) => kept.sent + self.refresh_after(kept),
            (None, _) if self.rule.is_warm => now,
            (None, _) => match self.pass_until {
                Some(until) if now < until => return Next::At(until),
                _ => return Next::Forget,
            },
        };
        let due = self.failed_at.map_or(due, |at| due.max(at + self.pause()));
        let due = self.pass_until.map_or(due, |until| due.max(until));
        if now < due {
            return Next::At(due);
        }
        self.in_flight = true;
        let max = self.rule.flight_max();
        let left = end.map(|end| end.saturating_duration_since(now));
        Next::Fetch(match left.filter(|left| !left.is_zero()) {
            // Another try is to fit after this one.
            Some(left) => (left / 2).max(TRY_MIN).min(max),
            None => max,
        })
    }

    /// The answer is there; its request was sent at `sent`.
    pub(super) fn landed(
        &mut self,
        value: T,
        sent: Instant,
        lives: (Duration, Duration, Grace),
        now: Instant,
    ) {
        self.taken(value, sent, lives, now.saturating_duration_since(sent));
    }

    /// The answer is there. It was so old at `sent`, and fetching it took so
    /// long, here or elsewhere.
    pub(super) fn taken(
        &mut self,
        value: T,
        sent: Instant,
        (age, life, grace): (Duration, Duration, Grace),
        took: Duration,
    ) {
        if self.end_of_flight() {
            return;
        }
        self.failures = 0;
        self.failed_at = None;
        self.pass_until = None;
        self.wanted = false;
        self.durations[self.next_duration] = took;
        self.next_duration = (self.next_duration + 1) % DURATIONS;
        self.kept = Some(Kept {
            value,
            sent,
            age,
            life,
            grace,
        });
    }

    /// None came, or none that counts. What was kept stays as long as it may.
    pub(super) fn failed(&mut self, now: Instant) {
        let _outdated = self.end_of_flight();
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
    }

    /// It came and may not be kept: for a while every request asks for itself.
    pub(super) fn unfit(&mut self, now: Instant) {
        let _outdated = self.end_of_flight();
        self.pass_until = Some(now + PASS);
    }

    /// Whether what has come is outdated.
    fn end_of_flight(&mut self) -> bool {
        self.in_flight = false;
        self.tried = true;
        std::mem::take(&mut self.is_doomed)
    }

    /// When after its sending an answer is fetched anew.
    fn refresh_after(&self, kept: &Kept<T>) -> Duration {
        let servable = self.rule.servable_age(kept.life);
        let usual = self.usual();
        let (least, most) = REFRESH;
        let life = kept.life.min(self.rule.max_age);
        let latest = servable.saturating_sub(usual.saturating_mul(TRIES));
        let after = latest.clamp(life.mul_f64(least), life.mul_f64(most));
        after.saturating_sub(kept.age)
    }

    fn usual(&self) -> Duration {
        self.durations.iter().max().copied().unwrap_or_default()
    }

    fn pause(&self) -> Duration {
        let (first, longest) = PAUSE;
        let doubled = self.failures.saturating_sub(1).min(8);
        (first * (1 << doubled)).min(longest)
    }
}

impl<T> Kept<T> {
    fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.sent)
    }

    /// When it may no longer be served in any case, as it is.
    fn useless(&self, rule: &Rule) -> Instant {
        self.end(rule) + self.grace.meanwhile.max(self.grace.in_need)
    }

    /// When there is no use in it at all.
    fn gone(&self, rule: &Rule) -> Instant {
        self.useless(rule).max(self.end(rule) + self.grace.held)
    }

    /// When its life ends.
    fn end(&self, rule: &Rule) -> Instant {
        self.sent + rule.servable_age(self.life).saturating_sub(self.age)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::tests::rule;
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: (Duration, Duration, Grace) = lives(0, 60);

    const fn lives(age: u64, life: u64) -> (Duration, Duration, Grace) {
        let grace = Grace {
            meanwhile: Duration::ZERO,
            in_need: Duration::ZERO,
            held: Duration::ZERO,
        };
        (Duration::from_secs(age), Duration::from_secs(life), grace)
    }

    fn cold(max_age: u64) -> Slot<u32> {
        Slot::new(Rule {
            is_warm: false,
            ..rule(max_age)
        })
    }

    fn served(asked: &Asked<u32>) -> Option<u32> {
        match asked {
            Asked::Serve { value, .. } => Some(*value),
            _ => None,
        }
    }

    #[test]
    fn the_first_asks_for_all_and_they_get_what_came() {
        let now = Instant::now();
        let mut slot = cold(60);
        assert_eq!(slot.ask(now), Asked::Fetch(25 * SECOND));
        assert_eq!(slot.ask(now), Asked::Join);
        slot.landed(7, now, MINUTE, now + 3 * SECOND);
        let expected = Asked::Serve {
            value: 7,
            age: 4 * SECOND,
            left: Left::Fresh(55 * SECOND),
            soon: true,
        };
        assert_eq!(slot.ask(now + 4 * SECOND), expected);
    }

    #[test]
    fn an_answer_is_gone_a_second_before_its_end() {
        let now = Instant::now();
        let mut slot = cold(60);
        slot.ask(now);
        slot.landed(7, now, lives(10, 60), now);
        assert!(served(&slot.ask(now + 48 * SECOND)).is_some());
        assert_eq!(slot.ask(now + 49 * SECOND), Asked::Fetch(25 * SECOND));
    }

    #[test]
    fn what_was_asked_for_is_fetched_anew_before_its_end_and_the_rest_forgotten() {
        let now = Instant::now();
        let mut slot = cold(60);
        slot.ask(now);
        slot.landed(7, now, MINUTE, now + SECOND);
        assert_eq!(slot.next(now), Next::At(now + 59 * SECOND));
        slot.ask(now + 2 * SECOND);
        let due = now + 45 * SECOND;
        assert_eq!(slot.next(now + 2 * SECOND), Next::At(due));
        assert_eq!(
            slot.next(due),
            Next::Fetch(7 * SECOND),
            "half of what is left"
        );
        assert_eq!(slot.next(due), Next::Landing);
        assert_eq!(served(&slot.ask(due)), Some(7), "nobody waits meanwhile");
        slot.landed(8, due, MINUTE, due + SECOND);
        assert_eq!(slot.next(due + 59 * SECOND), Next::Forget);
    }

    #[test]
    fn a_slow_origin_is_asked_earlier() {
        let now = Instant::now();
        let mut slot = cold(60);
        slot.ask(now);
        slot.landed(7, now, MINUTE, now + 10 * SECOND);
        slot.ask(now);
        assert_eq!(slot.next(now), Next::At(now + 29 * SECOND));
        slot.landed(7, now, MINUTE, now + 25 * SECOND);
        slot.ask(now);
        assert_eq!(slot.next(now), Next::At(now + 10 * SECOND));
    }

    #[test]
    fn failed_tries_are_repeated_in_growing_pauses_and_the_old_answer_serves() {
        let now = Instant::now();
        let mut slot: Slot<u32> = Slot::new(rule(60));
        assert!(
            matches!(slot.next(now), Next::Fetch(_)),
            "warm from the start"
        );
        slot.landed(7, now, MINUTE, now);
        let mut now = now + 45 * SECOND;
        for pause in [250, 500, 1000, 2000, 4000, 4000] {
            assert!(matches!(slot.next(now), Next::Fetch(_)));
            slot.failed(now);
            assert_eq!(served(&slot.ask(now)), Some(7));
            let pause = Duration::from_millis(pause);
            assert_eq!(slot.next(now), Next::At(now + pause));
            now += pause;
        }
    }

    #[test]
    fn after_an_answer_that_may_not_be_kept_everybody_asks_alone() {
        let now = Instant::now();
        let mut slot = cold(60);
        slot.ask(now);
        slot.unfit(now);
        assert_eq!(slot.ask(now), Asked::Pass);
        assert_eq!(slot.next(now), Next::At(now + PASS));
        assert_eq!(slot.next(now + PASS), Next::Forget);
        assert!(matches!(slot.ask(now + PASS), Asked::Fetch(_)));
    }

    fn graceful(meanwhile: u64, in_need: u64) -> Slot<u32> {
        let grace = Grace {
            meanwhile: Duration::from_secs(meanwhile),
            in_need: Duration::from_secs(in_need),
            held: Duration::ZERO,
        };
        let mut slot = cold(1000);
        let now = Instant::now();
        slot.ask(now);
        slot.landed(7, now, (Duration::ZERO, 10 * SECOND, grace), now);
        slot
    }

    #[test]
    fn a_stale_answer_serves_while_it_is_fetched_anew_if_it_may() {
        let mut slot = graceful(20, 0);
        let now = slot.kept.as_ref().expect("kept").sent;
        let asked = slot.ask(now + 12 * SECOND);
        let expected = Asked::Serve {
            value: 7,
            age: 12 * SECOND,
            left: Left::Stale(3 * SECOND),
            soon: true,
        };
        assert_eq!(asked, expected);
        assert!(matches!(slot.next(now + 12 * SECOND), Next::Fetch(_)));
        assert_eq!(served(&slot.ask(now + 28 * SECOND)), Some(7));
        assert_eq!(slot.ask(now + 29 * SECOND), Asked::Join, "9 and 20");
    }

    #[test]
    fn a_stale_answer_serves_in_need_if_it_may() {
        let mut slot = graceful(0, 20);
        let now = slot.kept.as_ref().expect("kept").sent;
        assert!(matches!(slot.ask(now + 12 * SECOND), Asked::Fetch(_)));
        assert_eq!(slot.in_need(now + 12 * SECOND), None, "nothing has failed");
        slot.failed(now + 13 * SECOND);
        let stale = Left::Stale(4 * SECOND);
        let found = slot.in_need(now + 13 * SECOND);
        assert_eq!(found, Some((7, 13 * SECOND, stale)));
        assert_eq!(served(&slot.ask(now + 14 * SECOND)), Some(7));
        assert_eq!(slot.in_need(now + 29 * SECOND), None);
    }

    #[test]
    fn what_is_held_after_its_life_is_there_to_be_asked_about_and_not_served() {
        let now = Instant::now();
        let mut slot = cold(1000);
        slot.ask(now);
        let grace = Grace {
            held: 100 * SECOND,
            ..Grace::default()
        };
        slot.landed(7, now, (Duration::ZERO, 10 * SECOND, grace), now);
        let end = now + 9 * SECOND;
        assert_eq!(slot.next(end), Next::At(end + 100 * SECOND));
        assert!(matches!(slot.ask(end), Asked::Fetch(_)));
        assert_eq!(slot.value(), Some(&7));
        slot.failed(end);
        assert_eq!(slot.in_need(end), None);
        let soon = end + 5 * SECOND;
        assert_eq!(slot.next(soon), Next::At(end + 100 * SECOND), "nobody asks");
        assert_eq!(slot.next(end + 100 * SECOND), Next::Forget);
    }

    #[test]
    fn what_was_invalidated_is_gone_with_what_is_on_its_way() {
        let mut slot = cold(60);
        let now = Instant::now();
        slot.ask(now);
        slot.landed(7, now, MINUTE, now);
        slot.invalidate();
        assert!(matches!(slot.ask(now), Asked::Fetch(_)));
        slot.invalidate();
        assert_eq!(slot.ask(now), Asked::Pass);
        slot.landed(8, now, MINUTE, now);
        assert!(matches!(slot.ask(now), Asked::Fetch(_)));
        slot.landed(9, now, MINUTE, now);
        assert_eq!(served(&slot.ask(now)), Some(9));
    }

    /// Something that happens `after` milliseconds later.
    #[derive(Debug, Clone)]
    struct Step {
        after: u64,
        asks: bool,
        /// How a try ends, if one is out: the answer's age and life in
        /// seconds, or nothing.
        lands: Option<Option<(u64, u64)>>,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lands = prop::option::of(prop::option::of((0..59u64, 1..200u64)));
        let step = (0..20_000u64, any::<bool>(), lands);
        let step = step.prop_map(|(after, asks, lands)| Step { after, asks, lands });
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// For all schedules of requests, fills, failures and slow answers.
        #[test]
        fn no_answer_is_served_that_is_a_minute_old(steps in steps(), is_warm in any::<bool>()) {
            let minute = 60 * SECOND;
            let mut now = Instant::now();
            let mut slot = Slot::new(Rule { is_warm, ..rule(60) });
            // When the try that is out began.
            let mut out: Option<Instant> = None;
            for step in steps {
                now += Duration::from_millis(step.after);
                if matches!(slot.next(now), Next::Fetch(_)) {
                    prop_assert!(out.is_none(), "one at a time");
                    out = Some(now);
                }
                if step.asks {
                    match slot.ask(now) {
                        // The value says when it was born.
                        Asked::Serve { value: (born, life), age, left: Left::Fresh(left), .. } => {
                            prop_assert_eq!(age, now - born);
                            prop_assert!(age < minute && age < life);
                            prop_assert!(age + left < minute);
                        }
                        Asked::Serve { .. } => prop_assert!(false, "stale"),
                        Asked::Fetch(_) => {
                            prop_assert!(out.is_none(), "one at a time");
                            out = Some(now);
                        }
                        Asked::Join => prop_assert!(out.is_some(), "somebody fetches it"),
                        Asked::Pass => prop_assert!(false, "all answers are fit"),
                    }
                }
                let (Some(sent), Some(lands)) = (out, step.lands) else { continue };
                out = None;
                match lands {
                    Some((age, life)) => {
                        let (age, life) = (Duration::from_secs(age), Duration::from_secs(life));
                        let born = sent.checked_sub(age).expect("the machine runs for a minute");
                        slot.landed((born, life), sent, (age, life, Grace::default()), now);
                    }
                    None => slot.failed(now),
                }
            }
        }

        /// An origin that answers within five seconds, and fails at most once
        /// in a row, never makes anybody wait after the first answer.
        #[test]
        fn nobody_waits_for_an_origin_that_mostly_answers(
            tries in prop::collection::vec((100..5_000u64, any::<bool>()), 1..60),
        ) {
            let mut now = Instant::now();
            let mut slot = Slot::new(rule(60));
            slot.next(now);
            slot.landed(0, now, MINUTE, now + SECOND);
            let mut failed_before = false;
            for (takes, fails) in tries {
                let within = loop {
                    match slot.next(now) {
                        Next::At(at) => now = at,
                        Next::Fetch(within) => break within,
                        other => prop_assert!(false, "{other:?}"),
                    }
                };
                let takes = Duration::from_millis(takes).min(within);
                let sent = now;
                now += takes;
                let is_served = matches!(slot.ask(now), Asked::Serve { .. });
                prop_assert!(is_served);
                match fails && !failed_before {
                    true => slot.failed(now),
                    false => slot.landed(0, sent, MINUTE, now),
                }
                failed_before = fails && !failed_before;
            }
        }
    }
}
