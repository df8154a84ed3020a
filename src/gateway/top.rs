//! Which statements are shown where each one costs something.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::numbers::Totals;
use super::queries::{OTHER, QueryRow};
use super::slots::Slot;
use super::verb::Verb;

/// A statement is shown at least as long, so that its series is worth having.
const MIN_STAY: Duration = Duration::from_secs(3600);
/// How much more time than the least of those shown another one must take to
/// get its place.
const LEAD: f64 = 1.2;
/// After this time, server time spent counts half.
const HALF_LIFE: Duration = Duration::from_secs(15 * 60);

/// The statements shown, by the server time they took lately. They are sticky:
/// a time series database keeps every series it has ever seen, and a list that
/// changed with each scrape would give it all of them.
///
/// Whatever was counted is shown in exactly one row, and no row ever goes
/// back: what a statement did while it was not shown is in its database's
/// `other` row for good, also when it is shown later; what it did while shown
/// is in its own row and not moved to `other` when it leaves. So rates over all
/// rows are right at any moment. (Moving it would show as a burst of calls
/// that nobody made.) A statement that no earlier choice has seen is shown
/// from its first call, if at once.
#[derive(Debug, Default)]
pub(super) struct Top {
    chosen: Option<Instant>,
    /// By slot.
    standings: Vec<Standing>,
}

/// How a statement does.
#[derive(Debug, Default)]
struct Standing {
    /// Server time in seconds, fading.
    score: f64,
    /// All its server time when last looked at.
    time: Duration,
    /// It has run, and some choice has counted it.
    seen: bool,
    /// Shown from then on.
    shown: Option<Instant>,
    /// What is not where its further calls go: while it is shown, its part of
    /// `other`; while it is not, what its own row had. `None` is nothing.
    elsewhere: Option<Box<Totals>>,
}

impl Standing {
    /// The part of its `totals` that is where its further calls go.
    fn here(&self, totals: &Totals) -> Totals {
        self.elsewhere
            .as_ref()
            .map_or_else(|| totals.clone(), |rest| totals.since(rest))
    }
}

/// Whose further calls go to their own row, or to `other`, after this choice.
type Moves = HashMap<Slot, Option<Instant>>;

impl Top {
    /// Of all rows the at most `max` to show, and for each database one for
    /// what the others did. `now` does not go back; `rows` is asked twice.
    pub(super) fn choose<R: Iterator<Item = QueryRow>>(
        &mut self,
        now: Instant,
        rows: impl Fn() -> R,
        max: usize,
    ) -> Vec<QueryRow> {
        let ranked = self.score(now, rows());
        let moves = self.moves(now, &ranked, max);
        self.show(rows(), &moves)
    }

    fn standing(&mut self, slot: Slot) -> &mut Standing {
        let index = slot.0 as usize;
        if index >= self.standings.len() {
            self.standings.resize_with(index + 1, Standing::default);
        }
        &mut self.standings[index]
    }

    /// The statements that have run, by score, the best first.
    fn score(&mut self, now: Instant, rows: impl Iterator<Item = QueryRow>) -> Vec<(f64, Slot)> {
        let passed = self
            .chosen
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let fade = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let mut ranked = Vec::new();
        for row in rows.filter(|row| row.fingerprint.is_some() && row.totals.calls > 0) {
            let standing = self.standing(row.slot);
            let time = row.totals.times.sum();
            let spent = time.saturating_sub(standing.time).as_secs_f64();
            standing.score = standing.score * fade + spent;
            standing.time = time;
            ranked.push((standing.score, row.slot));
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.chosen = Some(now);
        ranked
    }

    /// Gives free places to the best, and the places of those whose stay is
    /// over to others that have left them behind. Only a statement that is new
    /// is shown at once: what another one did up to now is still shown where
    /// it was.
    fn moves(&mut self, now: Instant, ranked: &[(f64, Slot)], max: usize) -> Moves {
        let (inside, mut outside): (Vec<_>, Vec<_>) = ranked
            .iter()
            .partition(|(_, slot)| self.standing(*slot).shown.is_some());
        let mut moves = Moves::new();
        let free = max.saturating_sub(inside.len()).min(outside.len());
        for (_, slot) in outside.drain(..free) {
            let standing = self.standing(slot);
            if standing.seen {
                moves.insert(slot, Some(now));
            } else {
                standing.shown = Some(now);
            }
        }
        let is_over = |slot: Slot| {
            let shown = self.standings[slot.0 as usize].shown;
            shown.is_some_and(|shown| now.saturating_duration_since(shown) >= MIN_STAY)
        };
        let losers = inside.into_iter().rev().filter(|(_, slot)| is_over(*slot));
        for ((score, winner), (least, loser)) in outside.into_iter().zip(losers) {
            if score <= least * LEAD {
                break;
            }
            moves.insert(loser, None);
            moves.insert(winner, Some(now));
        }
        moves
    }

    fn show(&mut self, rows: impl Iterator<Item = QueryRow>, moves: &Moves) -> Vec<QueryRow> {
        let mut shown = Vec::new();
        let mut others = BTreeMap::new();
        for row in rows {
            let other: &mut QueryRow = others
                .entry(Arc::clone(&row.database))
                .or_insert_with(|| rest_of(&row));
            let standing = self.standing(row.slot);
            standing.seen |= row.totals.calls > 0;
            let here = standing.here(&row.totals);
            let is_shown = standing.shown.is_some();
            let rest = if is_shown {
                standing.elsewhere.as_deref()
            } else {
                Some(&here)
            };
            if let Some(rest) = rest {
                other.totals.merge(rest);
            }
            if let Some(&shown) = moves.get(&row.slot) {
                standing.elsewhere = Some(Box::new(here.clone()));
                standing.shown = shown;
            }
            if is_shown {
                shown.push(QueryRow {
                    totals: here,
                    ..row
                });
            }
        }
        shown.extend(others.into_values().filter(|row| row.totals.calls > 0));
        shown
    }
}

/// An empty row for all statements of a row's database that are not shown.
fn rest_of(row: &QueryRow) -> QueryRow {
    QueryRow {
        slot: row.slot,
        database: Arc::clone(&row.database),
        fingerprint: None,
        verb: Verb::Other,
        text: OTHER.into(),
        totals: Totals::default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::numbers::Numbers;
    use crate::gateway::{Fingerprint, Outcome};

    /// Statements 1.. of database `db`, each with the calls of one second
    /// each that were made so far; and the calls without a slot.
    #[derive(Default)]
    struct World {
        numbers: Vec<Numbers>,
        top: Top,
        now: Option<Instant>,
    }

    impl World {
        fn call(&mut self, statement: usize, seconds: u64) {
            while self.numbers.len() <= statement {
                self.numbers.push(Numbers::default());
            }
            let server_time = Some(Duration::from_secs(seconds));
            self.numbers[statement].record(&Outcome {
                server_time,
                ..Outcome::default()
            });
        }

        /// Time passes; then calls by row: statement 0 is `other`.
        fn choose(&mut self, after: Duration, max: usize) -> BTreeMap<u64, u64> {
            let now = self.now.map_or_else(Instant::now, |now| now + after);
            self.now = Some(now);
            let (top, numbers) = (&mut self.top, &self.numbers);
            let number = |row: &QueryRow| row.fingerprint.map_or(0, |fingerprint| fingerprint.0);
            let chosen = top.choose(now, || rows(numbers), max);
            chosen
                .iter()
                .map(|row| (number(row), row.totals.calls))
                .collect()
        }
    }

    fn rows(numbers: &[Numbers]) -> impl Iterator<Item = QueryRow> {
        numbers.iter().enumerate().map(|(index, numbers)| {
            let mut totals = Totals::default();
            numbers.add_to(&mut totals);
            QueryRow {
                slot: Slot(index as u32),
                database: "db".into(),
                fingerprint: (index > 0).then_some(Fingerprint(index as u64)),
                verb: Verb::Select,
                text: "select".into(),
                totals,
            }
        })
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn shown<const N: usize>(rows: [(u64, u64); N]) -> BTreeMap<u64, u64> {
        rows.into()
    }

    #[test]
    fn those_that_take_most_time_are_shown_and_the_rest_is_other() {
        let mut world = World::default();
        for (statement, seconds) in [(0, 9), (1, 1), (2, 5), (3, 3)] {
            world.call(statement, seconds);
        }
        assert_eq!(world.choose(MINUTE, 2), shown([(0, 2), (2, 1), (3, 1)]));
    }

    #[test]
    fn a_statement_stays_an_hour_whatever_comes() {
        let mut world = World::default();
        world.call(1, 1);
        assert_eq!(world.choose(MINUTE, 1), shown([(1, 1)]));
        world.call(2, 100);
        assert_eq!(world.choose(59 * MINUTE, 1), shown([(0, 1), (1, 1)]));
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 1), (1, 1)]));
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 1), (2, 0)]));
    }

    #[test]
    fn a_small_lead_does_not_replace() {
        let mut world = World::default();
        world.call(1, 100);
        world.choose(MINUTE, 1);
        world.call(1, 100);
        world.call(2, 110);
        world.choose(HOUR, 1);
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 1), (1, 2)]));
    }

    #[test]
    fn time_spent_long_ago_counts_little() {
        let mut world = World::default();
        world.call(1, 100);
        world.choose(MINUTE, 1);
        world.call(2, 1);
        world.choose(4 * HOUR, 1);
        world.call(2, 1);
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 1), (2, 1)]));
    }

    #[test]
    fn calls_made_while_not_shown_stay_in_other() {
        let mut world = World::default();
        (0..3).for_each(|_| world.call(1, 1));
        world.call(2, 50);
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 3), (2, 1)]));
        world.call(1, 1000);
        assert_eq!(world.choose(2 * HOUR, 1), shown([(0, 4), (2, 1)]));
        world.call(1, 1);
        world.call(2, 1);
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 5), (1, 1)]));
    }

    #[test]
    fn a_statement_that_comes_back_goes_on_where_it_was() {
        let mut world = World::default();
        (0..7).for_each(|_| world.call(1, 1));
        world.choose(MINUTE, 1);
        world.call(2, 100);
        assert_eq!(world.choose(2 * HOUR, 1), shown([(0, 1), (1, 7)]));
        world.call(1, 100);
        assert_eq!(world.choose(2 * HOUR, 1), shown([(0, 2), (2, 0)]));
        world.call(1, 100);
        assert_eq!(world.choose(MINUTE, 1), shown([(0, 2), (1, 8)]));
    }

    #[test]
    fn with_no_places_all_is_other() {
        let mut world = World::default();
        world.call(1, 1);
        world.call(2, 1);
        assert_eq!(world.choose(MINUTE, 0), shown([(0, 2)]));
    }

    #[test]
    fn a_statement_never_executed_is_not_shown() {
        let mut world = World::default();
        world.numbers.resize_with(2, Numbers::default);
        assert_eq!(world.choose(MINUTE, 5), shown([]));
    }

    proptest! {
        #[test]
        fn no_row_goes_back_and_every_call_is_in_one_row(
            steps in prop::collection::vec(
                (prop::collection::vec((0usize..8, 0u64..50), 0..6), 1u32..200), 1..40),
            max in 0usize..4,
        ) {
            let mut world = World::default();
            let (mut calls, mut ever) = (0, BTreeMap::new());
            for (made, minutes) in steps {
                calls += made.len() as u64;
                made.into_iter().for_each(|(statement, seconds)| world.call(statement, seconds));
                let rows = world.choose(minutes * MINUTE, max);
                prop_assert!(rows.keys().filter(|&&row| row > 0).count() <= max);
                for (row, count) in rows {
                    let before = ever.insert(row, count).unwrap_or(0);
                    prop_assert!(count >= before, "row {row} went from {before} to {count}");
                }
                prop_assert_eq!(ever.values().sum::<u64>(), calls);
            }
        }
    }
}
