//! When a certificate is ordered. Without a clock: times are seconds since
//! 1970, and `now` is an argument.

use serde::{Deserialize, Serialize};

/// A certificate is renewed after so many thirtieths of its life.
const RENEW_AFTER: u64 = 20;

/// Renewals of many are spread over so many thirtieths after that.
const SPREAD_OVER: u64 = 1;

/// For so long, in seconds, or a third of its life, one that has just been had
/// is not renewed, whatever the clock says of it: it may be wrong.
const REST: u64 = 12 * 60 * 60;

/// The longest wait without looking at the files and the clock again.
const LOOK_MAX: u64 = 60 * 60;

/// What has failed before this process began stops it no longer than this, in
/// seconds: who has found the reason and begins anew waits for an order.
const START_MAX: u64 = 2 * 60;

/// The longest pause an authority's `Retry-After` can ask for.
const ASKED_MAX: u64 = 24 * 60 * 60;

/// Why an order failed, as far as it matters for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The authority was not reached, or did not answer: it has not counted
    /// this.
    Unreached,
    /// It said no, which it counts: Let's Encrypt takes five an hour for a
    /// name. Or the certificate could not be kept.
    Refused,
}

impl Cause {
    /// The pause after the first failure and the longest one, in seconds. Each
    /// one doubles it.
    fn pauses(self) -> (u64, u64) {
        match self {
            Cause::Unreached => (5, 60 * 60),
            Cause::Refused => (2 * 60, 6 * 60 * 60),
        }
    }
}

/// The certificate there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) begins: u64,
    pub(super) ends: u64,
    /// When it was had.
    pub(super) since: u64,
    /// It is for the names that are wanted.
    pub(super) fits: bool,
}

/// Orders that failed, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failures {
    pub(super) count: u32,
    /// When the last one did.
    pub(super) at: u64,
    /// When the next order may begin.
    pub(super) until: u64,
}

/// A random number that keeps many from doing the same at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread(pub(super) u16);

impl Spread {
    /// A part of this.
    fn of(self, whole: u64) -> u64 {
        let part = (u128::from(whole) * u128::from(self.0)) >> u16::BITS;
        u64::try_from(part).expect("less than the whole")
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Order a certificate.
    Order,
    /// Look again after so many seconds; an order is due at this time.
    Wait { pause: u64, due: u64 },
}

/// The next step of a process that has begun at `began`.
pub(super) fn step(
    now: u64,
    began: u64,
    kept: Option<Kept>,
    failures: Option<Failures>,
    spread: Spread,
) -> Step {
    let due = kept.filter(|it| it.fits);
    let due = due.map_or(0, |it| renewal(now, it, spread));
    // A record from a time that has not come, if the clock was set back, does
    // not stop orders for long.
    let until = failures.map_or(0, |it| it.until.min(now.saturating_add(ASKED_MAX)));
    let until = match failures {
        Some(failures) if failures.at < began => until.min(began.saturating_add(START_MAX)),
        _ => until,
    };
    let due = due.max(until);
    match due.checked_sub(now) {
        None | Some(0) => Step::Order,
        Some(left) => Step::Wait {
            pause: left.min(LOOK_MAX),
            due,
        },
    }
}

/// When this certificate is renewed.
fn renewal(now: u64, kept: Kept, spread: Spread) -> u64 {
    let life = kept.ends.saturating_sub(kept.begins);
    let part = |thirtieths: u64| {
        let part = u128::from(life) * u128::from(thirtieths) / 30;
        u64::try_from(part).expect("less than the whole")
    };
    let renewed = part(RENEW_AFTER) + spread.of(part(SPREAD_OVER));
    let rested = kept.since.min(now).saturating_add(REST.min(life / 3));
    kept.begins.saturating_add(renewed).max(rested)
}

/// The record after one more failure. `asked` is for how many seconds the
/// authority wants to hear nothing.
pub(super) fn failed(
    now: u64,
    before: Option<Failures>,
    cause: Cause,
    asked: Option<u64>,
    spread: Spread,
) -> Failures {
    let earlier = before.map_or(0, |it| it.count);
    let (first, longest) = cause.pauses();
    let doubled = first
        .checked_shl(earlier)
        .filter(|it| it >> earlier == first);
    let pause = doubled.map_or(longest, |it| it.min(longest));
    let pause = pause + spread.of(pause / 4);
    let asked = asked.unwrap_or(0).min(ASKED_MAX);
    Failures {
        count: earlier.saturating_add(1),
        at: now,
        until: now.saturating_add(pause.max(asked)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 60 * 60;

    fn kept(begins: u64, life: u64) -> Kept {
        Kept {
            begins,
            ends: begins + life,
            since: begins,
            fits: true,
        }
    }

    #[test]
    fn what_is_not_there_or_for_other_names_is_ordered_at_once() {
        let other = Kept {
            fits: false,
            ..kept(1000, 90 * DAY)
        };
        assert_eq!(step(1000, 0, None, None, Spread(0)), Step::Order);
        assert_eq!(step(1000, 0, Some(other), None, Spread(0)), Step::Order);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (cause, pauses) in [
            (Cause::Unreached, [5, 10, 20, 40, 80]),
            (Cause::Refused, [120, 240, 480, 960, 1920]),
        ] {
            let mut record = None;
            for pause in pauses {
                let next = failed(7, record, cause, None, Spread(0));
                assert_eq!(next.until, 7 + pause);
                record = Some(next);
            }
            let many = Failures {
                count: u32::MAX,
                at: 0,
                until: 0,
            };
            let next = failed(0, Some(many), cause, None, Spread(0));
            assert_eq!((next.count, next.until), (u32::MAX, cause.pauses().1));
        }
    }

    fn any_failures() -> impl Strategy<Value = Option<Failures>> {
        proptest::option::of(
            (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(count, at, until)| Failures {
                count,
                at,
                until,
            }),
        )
    }

    fn any_cause() -> impl Strategy<Value = Cause> {
        prop_oneof![Just(Cause::Unreached), Just(Cause::Refused)]
    }

    proptest! {
        #[test]
        fn a_certificate_is_renewed_between_two_thirds_and_seven_tenths_of_its_life(
            begins in 0..1u64 << 40,
            life in 0..1u64 << 40,
            spread: u16,
        ) {
            let due = renewal(begins, kept(begins, life), Spread(spread)) - begins;
            prop_assert!(due >= life * 2 / 3 && due <= life * 7 / 10, "{due}");
        }

        #[test]
        fn it_is_ordered_when_it_is_due_and_not_before(
            now in 0..1u64 << 40,
            begins in 0..1u64 << 40,
            life in 0..1u64 << 40,
            spread: u16,
        ) {
            let it = kept(begins, life);
            let due = renewal(now, it, Spread(spread));
            match step(now, 0, Some(it), None, Spread(spread)) {
                Step::Order => prop_assert!(now >= due),
                Step::Wait { pause, due: told } => {
                    prop_assert!(now < due && told == due);
                    prop_assert!(pause > 0 && pause <= LOOK_MAX && now + pause <= due);
                }
            }
        }

        #[test]
        fn what_was_just_had_rests_whatever_the_clock_says(
            now in 0..1u64 << 40,
            ago in 0..2 * DAY,
            begins in 0..1u64 << 40,
            life in 0..1u64 << 40,
            spread: u16,
        ) {
            let since = now.saturating_sub(ago);
            let it = Kept { since, ..kept(begins, life) };
            if step(now, 0, Some(it), None, Spread(spread)) == Step::Order {
                prop_assert!(now - since >= REST.min(life / 3));
            }
        }

        #[test]
        fn nothing_is_ordered_before_the_pause_after_a_failure_is_over(
            now in 0..1u64 << 40, before in any_failures(), cause in any_cause(),
            asked in proptest::option::of(any::<u64>()), spread: u16, later in 0..2 * DAY,
        ) {
            let record = failed(now, before, cause, asked, Spread(spread));
            let pause = record.until - now;
            prop_assert!(pause >= cause.pauses().0 && pause <= ASKED_MAX);
            prop_assert!(pause >= asked.unwrap_or(0).min(ASKED_MAX));
            let orders = step(now + later, now, None, Some(record), Spread(spread)) == Step::Order;
            prop_assert_eq!(orders, later >= pause);
        }

        #[test]
        fn there_is_always_an_order_within_a_day_where_there_is_no_certificate(
            now: u64, began: u64, record in any_failures(), spread: u16,
        ) {
            if let Step::Wait { due, pause } = step(now, began, None, record, Spread(spread)) {
                prop_assert!(due - now <= ASKED_MAX && pause <= LOOK_MAX);
            }
        }

        #[test]
        fn a_process_that_begins_waits_for_two_minutes_at_most(
            began in 1..1u64 << 40, record in any_failures(), spread: u16,
        ) {
            let before = record.map(|it| Failures { at: it.at % began, ..it });
            if let Step::Wait { due, .. } = step(began, began, None, before, Spread(spread)) {
                prop_assert!(due - began <= START_MAX);
            }
        }

        #[test]
        fn any_times_can_be_asked_about(
            times: [u64; 5],
            fits: bool,
            record in any_failures(),
            spread: u16,
        ) {
            let [now, began, begins, ends, since] = times;
            let kept = Kept { begins, ends, since, fits };
            step(now, began, Some(kept), record, Spread(spread));
        }
    }
}
