//! How old an answer of another balancer is, and whether it is of use. Pure.
//!
//! Two clocks say how old it is. Its writer's told when it was born; that is
//! right as long as the writer's and the reader's differ by [`SKEW`] at most,
//! whatever happened to the entry meanwhile. And Redis tells how much of its
//! life is left, which it was given when it was written; that is right,
//! whatever time anybody thinks it is, as long as Redis counts seconds as they
//! pass and had got the entry within [`SKEW`]. The greater of the two is
//! believed, and [`SKEW`] added: an answer is taken for younger than it is only
//! if both are wrong.
//!
//! From then on the reader counts by its own clock that never steps.

use std::time::Duration;

/// By how much the clocks of two machines may differ; and how late Redis may
/// get an entry.
pub(super) const SKEW: Duration = Duration::from_millis(500);

/// How long a request that needs the answer waits for another balancer to
/// fetch it.
const PATIENCE: Duration = Duration::from_millis(250);

/// What a reader knows of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// When it was born, by its writer's clock, in milliseconds since 1970.
    pub(super) born: u64,
    /// Its life.
    pub(super) life: Duration,
    /// How much of it is left by Redis, in milliseconds (`PTTL`); negative
    /// without an end.
    pub(super) left: i64,
    /// Now, by the reader's clock, in milliseconds since 1970.
    pub(super) now: u64,
    /// Since Redis was asked.
    pub(super) elapsed: Duration,
}

/// Why an entry cannot be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It was born later than now: a clock is wrong by more than is allowed.
    Future,
    /// It has no end, or one that is further away than its life is long.
    Endless,
}

impl Reading {
    /// How old the answer is now, at most.
    ///
    /// # Errors
    /// Nobody knows.
    pub(super) fn age(&self) -> Result<Duration, Unfit> {
        let left = u64::try_from(self.left).map_err(|_| Unfit::Endless)?;
        let by_redis = self.life.checked_sub(Duration::from_millis(left));
        let by_redis = by_redis.ok_or(Unfit::Endless)? + self.elapsed;
        let ahead = self.born.saturating_sub(self.now);
        if Duration::from_millis(ahead) > SKEW {
            return Err(Unfit::Future);
        }
        let by_clock = Duration::from_millis(self.now.saturating_sub(self.born));
        Ok(by_clock.max(by_redis) + SKEW)
    }
}

/// What is known of an answer before it is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Age of what is kept, and how much older it may become; none if that may
    /// not be served any more.
    pub(crate) kept: Option<(Duration, Duration)>,
    /// How long fetching it usually takes.
    pub(crate) usual: Duration,
}

impl Need {
    /// The same after a while.
    pub(super) fn after(&self, passed: Duration) -> Need {
        let older = |(kept, left): (Duration, Duration)| {
            let left = left.checked_sub(passed)?;
            Some((kept + passed, left))
        };
        Need {
            kept: self.kept.and_then(older),
            usual: self.usual,
        }
    }

    /// Whether an answer of this age is worth having: if there is none, or if
    /// it puts the next fetch off by a good part of its life.
    pub(super) fn gains(&self, age: Duration, life: Duration) -> bool {
        self.kept.is_none_or(|(kept, _)| age + life / 12 <= kept)
    }

    /// How long to wait for another balancer that fetches it: a little longer
    /// than that takes, while there is something to serve, and so that two
    /// thirds of the time are left for fetching it here.
    pub(super) fn patience(&self) -> Duration {
        match self.kept {
            Some((_, left)) => (self.usual + self.usual / 4 + PATIENCE).min(left / 3),
            None => PATIENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::rule::tests::rule;
    use super::super::super::rule::{Grace, Rule};
    use super::super::super::slot::{Asked, Slot};
    use super::super::entry::millis;
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn reading(born: u64, left: i64) -> Reading {
        Reading {
            born,
            life: MINUTE,
            left,
            now: 1_000_000,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn the_clock_that_says_more_is_believed() {
        let age = |born, left| reading(born, left).age();
        assert_eq!(age(990_000, 50_000), Ok(10 * SECOND + SKEW));
        assert_eq!(age(980_000, 50_000), Ok(20 * SECOND + SKEW));
        assert_eq!(age(990_000, 40_000), Ok(20 * SECOND + SKEW));
        let slow = Reading {
            elapsed: SECOND,
            ..reading(990_000, 50_000)
        };
        assert_eq!(slow.age(), Ok(11 * SECOND + SKEW));
    }

    #[test]
    fn what_is_from_the_future_or_has_no_end_is_refused() {
        let age = |born, left| reading(born, left).age();
        assert_eq!(age(1_000_500, 60_000), Ok(SKEW));
        assert_eq!(age(1_000_501, 60_000), Err(Unfit::Future));
        assert_eq!(age(u64::MAX, 60_000), Err(Unfit::Future));
        assert_eq!(age(990_000, -1), Err(Unfit::Endless));
        assert_eq!(age(990_000, 60_001), Err(Unfit::Endless));
    }

    #[test]
    fn an_answer_is_taken_if_it_puts_the_next_fetch_off() {
        let kept = |age| Need {
            kept: Some((age, SECOND)),
            usual: Duration::ZERO,
        };
        assert!(Need::default().gains(58 * SECOND, MINUTE));
        assert!(kept(45 * SECOND).gains(40 * SECOND, MINUTE));
        assert!(!kept(45 * SECOND).gains(41 * SECOND, MINUTE));
        assert!(!kept(45 * SECOND).gains(45 * SECOND, MINUTE));
    }

    #[test]
    fn who_waits_for_another_has_the_time_to_fetch_it_all_the_same() {
        let need = |left, usual| Need {
            kept: Some((SECOND, left)),
            usual,
        };
        assert_eq!(need(14 * SECOND, SECOND).patience(), SECOND * 3 / 2);
        assert_eq!(need(15 * SECOND, 5 * SECOND).patience(), 5 * SECOND);
        assert_eq!(need(Duration::ZERO, SECOND).patience(), Duration::ZERO);
        assert_eq!(Need::default().patience(), PATIENCE);
    }

    /// Something that one of two balancers does, `after` milliseconds later.
    #[derive(Debug, Clone)]
    struct Step {
        after: u64,
        who: usize,
        deed: Deed,
    }

    #[derive(Debug, Clone)]
    enum Deed {
        /// A client asks.
        Ask,
        /// It gets the answer of a node that took so long and said that it was
        /// so old, and writes it; Redis gets it so much later.
        Fetch { took: u64, age: u64, late: u64 },
        /// It reads what Redis has; asking takes so long.
        Read { elapsed: u64 },
        /// Its clock is set to this distance from the right time.
        Step { clock: i64 },
        /// The clock of Redis is set forward, or back if negative.
        StepRedis { by: i64 },
    }

    /// Clocks that are off by `clock` at most; entries that are late by `late`
    /// at most; a clock of Redis that steps by `redis` at most.
    fn steps(clock: i64, late: u64, redis: i64) -> impl Strategy<Value = Vec<Step>> {
        let fetch = (0..20_000u64, 0..30u64, 0..=late);
        let deed = prop_oneof![
            4 => Just(Deed::Ask),
            2 => fetch.prop_map(|(took, age, late)| Deed::Fetch { took, age, late }),
            4 => (0..1_000u64).prop_map(|elapsed| Deed::Read { elapsed }),
            1 => (-clock..=clock).prop_map(|clock| Deed::Step { clock }),
            1 => (-redis..=redis).prop_map(|by| Deed::StepRedis { by }),
        ];
        let step = (0..20_000u64, 0..2usize, deed);
        let step = step.prop_map(|(after, who, deed)| Step { after, who, deed });
        prop::collection::vec(step, 1..200)
    }

    /// What Redis holds.
    struct Held {
        born: u64,
        /// When it was really born.
        truly: Instant,
        /// When Redis has it.
        there: Instant,
        /// When Redis drops it.
        end: Instant,
    }

    /// Runs the steps; no client may get an answer that is a minute old.
    fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
        /// The right time at the start, in milliseconds since 1970.
        const EPOCH: u64 = 1_700_000_000_000;
        let begun = Instant::now() + 1000 * SECOND;
        let mut now = begun;
        let cold = Rule {
            is_warm: false,
            ..rule(60)
        };
        let mut slots = [Slot::new(cold), Slot::new(cold)];
        let mut clocks = [0i64; 2];
        let wall =
            |now: Instant, off: i64| (EPOCH + millis(now - begun)).saturating_add_signed(off);
        let mut all: Vec<Held> = Vec::new();
        for Step { after, who, deed } in steps {
            now += Duration::from_millis(after);
            match deed {
                Deed::Step { clock } => clocks[who] = clock,
                Deed::StepRedis { by } => {
                    let by_abs = Duration::from_millis(by.unsigned_abs());
                    for held in &mut all {
                        held.end = match by < 0 {
                            true => held.end + by_abs,
                            false => held.end - by_abs,
                        };
                    }
                }
                Deed::Ask => {
                    if let Asked::Serve { value, age, .. } = slots[who].ask(now) {
                        let truly: Instant = value;
                        prop_assert!(now - truly < MINUTE, "{:?} old", now - truly);
                        prop_assert!(age >= now - truly, "taken for younger");
                    } else {
                        slots[who].failed(now);
                    }
                }
                Deed::Fetch { took, age, late } => {
                    let (sent, age) = (now, Duration::from_secs(age));
                    now += Duration::from_millis(took);
                    let truly = sent - age;
                    let lives = (age, MINUTE, Grace::default());
                    slots[who].landed(truly, sent, lives, now);
                    let there = now + Duration::from_millis(late);
                    let old = age + (now - sent);
                    let Some(left) = MINUTE.checked_sub(old) else {
                        continue;
                    };
                    let born = wall(now, clocks[who]) - millis(old);
                    // Redis counts from when it gets it.
                    let left = Duration::from_millis(millis(left));
                    let end = there + left;
                    all.push(Held {
                        born,
                        truly,
                        there,
                        end,
                    });
                }
                Deed::Read { elapsed } => {
                    let there = all.iter().filter(|it| it.there <= now);
                    let Some(held) = there.max_by_key(|it| it.there) else {
                        continue;
                    };
                    let Some(left) = held.end.checked_duration_since(now) else {
                        continue;
                    };
                    let elapsed = Duration::from_millis(elapsed);
                    now += elapsed;
                    let reading = Reading {
                        born: held.born,
                        life: MINUTE,
                        left: millis(left) as i64,
                        now: wall(now, clocks[who]),
                        elapsed,
                    };
                    if let Ok(age) = reading.age() {
                        let lives = (age, MINUTE, Grace::default());
                        slots[who].taken(held.truly, now, lives, Duration::ZERO);
                    }
                }
            }
        }
        Ok(())
    }

    proptest! {
        /// For all schedules of fetching, reading and asking, with clocks that
        /// step within the allowance, entries that come late by any time, and
        /// a clock of Redis that is set as anybody likes.
        #[test]
        fn no_answer_is_a_minute_old_if_the_balancers_agree_on_the_time(
            steps in steps(250, 120_000, 120_000),
        ) {
            run(steps)?;
        }

        /// With clocks of the balancers that are set as anybody likes.
        #[test]
        fn no_answer_is_a_minute_old_if_redis_counts_right(
            steps in steps(10_000_000, 500, 0),
        ) {
            run(steps)?;
        }
    }
}
