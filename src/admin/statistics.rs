//! The averages of SHOW STATS and of the statistics line, as PgBouncer takes
//! them.
//!
//! At the end of each `stats_period` the totals are noted. SHOW STATS tells
//! what has happened since the note before the last one, so it looks back over
//! one to two periods; the line in the log tells the last period alone.

use std::collections::HashMap;

use crate::pool::Totals;
use crate::stats::Micros;

/// Microseconds in a second.
const SECOND: u128 = 1_000_000;

/// The totals of each pool, by its number.
pub type PoolTotals = HashMap<u64, Totals>;

/// What was noted of all pools at one moment.
#[derive(Debug, Default)]
struct Note {
    at: Micros,
    pools: PoolTotals,
}

/// The last two notes.
#[derive(Debug)]
pub struct Statistics {
    newer: Note,
    older: Note,
}

impl Statistics {
    /// Nothing has been counted before `now`.
    pub fn new(now: Micros) -> Statistics {
        let note = || Note {
            at: now,
            pools: PoolTotals::new(),
        };
        Statistics {
            newer: note(),
            older: note(),
        }
    }

    /// Ends a period: notes what all pools have counted. Answers the averages
    /// over the period, all pools together.
    pub fn end_period(&mut self, now: Micros, pools: PoolTotals) -> Averages {
        let averages = self.newer.averages(now, &pools);
        let ended = Note { at: now, pools };
        self.older = std::mem::replace(&mut self.newer, ended);
        averages
    }

    /// The averages of these pools together, over the time since the note
    /// before the last.
    pub fn averages(&self, now: Micros, pools: &PoolTotals) -> Averages {
        self.older.averages(now, pools)
    }
}

impl Note {
    /// A pool that was not there yet has counted all it has since.
    fn averages(&self, now: Micros, pools: &PoolTotals) -> Averages {
        let mut passed = Totals::default();
        for (number, totals) in pools {
            let before = self.pools.get(number).copied().unwrap_or_default();
            let since = totals.combine(&before, u64::saturating_sub);
            passed = passed.combine(&since, u64::saturating_add);
        }
        Averages::new(&passed, now.since(self.at))
    }
}

/// Averages: what is counted, and bytes, per second; times in microseconds
/// per query, transaction and assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Averages(pub Totals);

impl Averages {
    /// What `counted` comes to on average over `time` microseconds.
    fn new(counted: &Totals, time: u64) -> Averages {
        let rate = |count: u64| {
            let rate = u128::from(count) * SECOND / u128::from(time.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        let each = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
        Averages(Totals {
            transaction_time: each(counted.transaction_time, counted.transactions),
            query_time: each(counted.query_time, counted.queries),
            wait_time: each(counted.wait_time, counted.server_assignments),
            ..counted.combine(&Totals::default(), |count, _| rate(count))
        })
    }

    /// The text of the statistics line.
    pub fn line(&self) -> String {
        let Averages(of) = self;
        format!(
            "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, \
             {} binds/s, {} client logins/s, in {} B/s, out {} B/s, \
             xact {} us, query {} us, wait {} us",
            of.transactions,
            of.queries,
            of.client_parses,
            of.server_parses,
            of.binds,
            of.client_logins,
            of.received,
            of.sent,
            of.transaction_time,
            of.query_time,
            of.wait_time,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Micros {
        Micros(seconds * 1_000_000)
    }

    fn pool(number: u64, queries: u64) -> PoolTotals {
        let totals = Totals {
            queries,
            received: queries * 10,
            query_time: queries * 7,
            ..Totals::default()
        };
        PoolTotals::from([(number, totals)])
    }

    fn queries(averages: Averages) -> u64 {
        averages.0.queries
    }

    #[test]
    fn the_first_two_periods_are_averaged_from_the_start() {
        let mut statistics = Statistics::new(at(100));
        assert_eq!(queries(statistics.averages(at(105), &pool(1, 50))), 10);
        statistics.end_period(at(110), pool(1, 50));
        assert_eq!(queries(statistics.averages(at(110), &pool(1, 50))), 5);
        assert_eq!(queries(statistics.averages(at(120), &pool(1, 50))), 2);
    }

    #[test]
    fn later_averages_reach_back_to_the_note_before_the_last() {
        let mut statistics = Statistics::new(at(0));
        statistics.end_period(at(10), pool(1, 100));
        statistics.end_period(at(20), pool(1, 300));
        let averages = statistics.averages(at(30), &pool(1, 500));
        assert_eq!(averages.0.queries, (500 - 100) / 20);
        assert_eq!(averages.0.received, 10 * (500 - 100) / 20);
        assert_eq!(averages.0.query_time, 7);
    }

    #[test]
    fn the_line_tells_the_last_period_alone() {
        let mut statistics = Statistics::new(at(0));
        assert_eq!(queries(statistics.end_period(at(10), pool(1, 100))), 10);
        assert_eq!(queries(statistics.end_period(at(20), pool(1, 100))), 0);
        assert_eq!(queries(statistics.end_period(at(30), pool(1, 500))), 40);
    }

    #[test]
    fn a_pool_that_goes_takes_its_counts_with_it() {
        let mut statistics = Statistics::new(at(0));
        statistics.end_period(at(10), pool(1, 1000));
        statistics.end_period(at(20), pool(1, 1000));
        assert_eq!(queries(statistics.averages(at(30), &pool(2, 40))), 2);
        assert_eq!(queries(statistics.averages(at(30), &PoolTotals::new())), 0);
    }

    #[test]
    fn times_are_per_query_transaction_and_assignment() {
        let counted = Totals {
            queries: 4,
            transactions: 2,
            server_assignments: 5,
            query_time: 40,
            transaction_time: 60,
            wait_time: 500,
            ..Totals::default()
        };
        let Averages(average) = Averages::new(&counted, 1_000_000);
        assert_eq!(average.query_time, 10);
        assert_eq!(average.transaction_time, 30);
        assert_eq!(average.wait_time, 100);
        assert_eq!(average.server_assignments, 5);
    }

    #[test]
    fn no_time_and_no_queries_are_no_fault() {
        let idle = Averages::new(&Totals::default(), 0);
        assert_eq!(idle, Averages::default());
        let huge = Totals {
            queries: u64::MAX,
            ..Totals::default()
        };
        assert_eq!(queries(Averages::new(&huge, 0)), u64::MAX);
    }

    #[test]
    fn the_line_has_pgbouncers_words() {
        let counted = Totals {
            server_assignments: 1,
            transactions: 2,
            queries: 3,
            received: 4,
            sent: 5,
            transaction_time: 12,
            query_time: 21,
            wait_time: 8,
            client_parses: 9,
            server_parses: 10,
            binds: 11,
            client_logins: 12,
        };
        assert_eq!(
            Averages::new(&counted, 1_000_000).line(),
            "stats: 2 xacts/s, 3 queries/s, 9 client parses/s, 10 server parses/s, 11 binds/s, \
             12 client logins/s, in 4 B/s, out 5 B/s, xact 6 us, query 7 us, wait 8 us"
        );
    }
}
