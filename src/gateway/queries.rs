//! All statements the process has seen, and what all workers counted of them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use dashmap::DashMap;

use super::form::{Fingerprint, Normalised};
use super::numbers::{Numbers, Totals};
use super::observer::Observer;
use super::slots::{Slot, Slots};
use super::top::Top;
use super::verb::Verb;
use crate::config;

/// Databases that are told apart, the one for the rest included. Each has its
/// own slot for the statements that have none, with the database's number.
const MAX_DATABASES: u32 = 256;

/// The most statements `max_statements` can ask for.
const MAX_STATEMENTS: usize = 1_000_000;

/// The name that stands for what is not told apart, of databases and of
/// statements.
pub const OTHER: &str = "other";

/// A database that statements are counted for, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatabaseId(pub(super) u32);

/// Per-query statistics of the process, shared by its workers.
///
/// A statement is told apart by database and fingerprint. The first
/// `max_statements` of them get a slot of their own, for as long as the
/// process lives; those that come later are counted together, by database.
/// Nothing here is touched on the way of a statement that its worker has seen.
#[derive(Debug)]
pub struct Queries {
    max_statements: u32,
    max_text: usize,
    max_exported: usize,
    databases: Mutex<Vec<Arc<str>>>,
    slots: DashMap<(DatabaseId, Fingerprint), Slot>,
    statements: Slots<OnceLock<Statement>>,
    /// Slots given away, those of the databases included.
    used: AtomicU32,
    workers: Mutex<Vec<Arc<Slots<Numbers>>>>,
    top: Mutex<Top>,
}

/// What a slot stands for.
#[derive(Debug)]
struct Statement {
    database: DatabaseId,
    fingerprint: Fingerprint,
    verb: Verb,
    text: Arc<str>,
}

/// A statement and its numbers.
#[derive(Debug, Clone)]
pub struct QueryRow {
    /// Its slot; without meaning in a row that stands for several.
    pub(super) slot: Slot,
    /// The database's name; [`OTHER`] for those beyond the first 255.
    pub database: Arc<str>,
    /// `None` for all statements of the database that have no row of their own.
    pub fingerprint: Option<Fingerprint>,
    /// What it does.
    pub verb: Verb,
    /// Its normal form, of at most `max_text` bytes.
    pub text: Arc<str>,
    /// What was counted.
    pub totals: Totals,
}

impl QueryRow {
    /// The fingerprint in 16 hexadecimal digits, or [`OTHER`].
    pub fn fingerprint_text(&self) -> String {
        self.fingerprint
            .map_or_else(|| OTHER.to_owned(), |fingerprint| fingerprint.to_string())
    }
}

impl Queries {
    /// No statements yet. `config.enabled` is the caller's business: when
    /// statistics are off there are no `Queries`.
    pub fn new(config: &config::Queries) -> Arc<Self> {
        let max_statements = config.max_statements.min(MAX_STATEMENTS);
        Arc::new(Queries {
            max_statements: max_statements as u32,
            max_text: config.max_text,
            max_exported: config.max_exported,
            databases: Mutex::new(vec![OTHER.into()]),
            slots: DashMap::new(),
            statements: Slots::new(MAX_DATABASES as usize + max_statements),
            used: AtomicU32::new(MAX_DATABASES),
            workers: Mutex::default(),
            top: Mutex::default(),
        })
    }

    /// The number of a database, for [`Observer::observe`]. Meant to be asked
    /// for once a client: takes a lock.
    pub fn database_id(&self, name: &str) -> DatabaseId {
        let mut databases = lock(&self.databases);
        let known = databases.iter().position(|database| **database == *name);
        let id = known.unwrap_or_else(|| match databases.len() {
            full if full >= MAX_DATABASES as usize => 0,
            next => {
                databases.push(name.into());
                next
            }
        });
        DatabaseId(id as u32)
    }

    /// An observer for one more worker, whose numbers are counted from now on.
    pub fn observer(self: &Arc<Self>) -> Observer {
        let numbers = Arc::new(Slots::new(
            MAX_DATABASES as usize + self.max_statements as usize,
        ));
        lock(&self.workers).push(Arc::clone(&numbers));
        Observer::new(Arc::clone(self), numbers)
    }

    /// The slot of a statement, given to it now if it is new and there is room;
    /// else, `None`.
    pub(super) fn slot(
        &self,
        database: DatabaseId,
        fingerprint: Fingerprint,
        statement: &Normalised<'_>,
    ) -> Option<Slot> {
        let key = (database, fingerprint);
        if let Some(slot) = self.slots.get(&key) {
            return Some(*slot);
        }
        if self.is_full(self.used.load(Relaxed)) {
            return None;
        }
        let entry = self.slots.entry(key);
        if let dashmap::Entry::Occupied(known) = &entry {
            return Some(*known.get());
        }
        let next = |used| (!self.is_full(used)).then_some(used + 1);
        let slot = Slot(self.used.fetch_update(Relaxed, Relaxed, next).ok()?);
        let text = statement.text(self.max_text).into();
        let statement = Statement {
            database,
            fingerprint,
            verb: statement.verb,
            text,
        };
        self.statements.row(slot)?.get_or_init(|| statement);
        entry.insert(slot);
        Some(slot)
    }

    fn is_full(&self, used: u32) -> bool {
        used >= MAX_DATABASES + self.max_statements
    }

    /// All statements and what was counted of them so far, by slot: first, for
    /// each database, what has no slot of its own, if there is any. Any
    /// thread; stops no worker. A row is 1 KiB, so for many statements it is
    /// better to take them one by one.
    pub fn rows(&self) -> impl Iterator<Item = QueryRow> {
        let databases = lock(&self.databases).clone();
        let workers = lock(&self.workers).clone();
        let slots = (0..self.used.load(Relaxed)).map(Slot);
        slots.filter_map(move |slot| self.row(slot, &databases, &workers))
    }

    fn row(
        &self,
        slot: Slot,
        databases: &[Arc<str>],
        workers: &[Arc<Slots<Numbers>>],
    ) -> Option<QueryRow> {
        let statement = self.statements.peek(slot).and_then(OnceLock::get);
        let database = statement.map_or(slot.0, |statement| statement.database.0);
        let database = databases.get(database as usize)?;
        let mut totals = Totals::default();
        for numbers in workers.iter().filter_map(|worker| worker.peek(slot)) {
            numbers.add_to(&mut totals);
        }
        (statement.is_some() || totals.calls > 0).then(|| QueryRow {
            slot,
            database: Arc::clone(database),
            fingerprint: statement.map(|statement| statement.fingerprint),
            verb: statement
                .map(|statement| statement.verb)
                .unwrap_or_default(),
            text: statement.map_or_else(|| OTHER.into(), |s| Arc::clone(&s.text)),
            totals,
        })
    }

    /// The statements to show where each row costs something: at most
    /// `max_exported` of them, those that took the most server time lately,
    /// and for each database a row for all others. Who is shown stays for an
    /// hour at least. Every call is in exactly one row and no row goes back;
    /// a call stays in the row it was first shown in.
    pub fn export(&self, now: Instant) -> Vec<QueryRow> {
        // The rows are read under the lock, so that of two callers none shows
        // older numbers after newer ones.
        lock(&self.top).choose(now, || self.rows(), self.max_exported)
    }
}

/// What these locks guard is whole at any moment, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Outcome;

    fn queries(max_statements: usize) -> Arc<Queries> {
        Queries::new(&config::Queries {
            enabled: true,
            max_statements,
            max_exported: 10,
            max_text: 30,
        })
    }

    fn run(observer: &mut Observer, database: DatabaseId, sql: &str) {
        let slot = observer.observe(database, sql.as_bytes());
        observer.record(
            slot,
            &Outcome {
                rows: 1,
                ..Outcome::default()
            },
        );
    }

    /// Database, text and calls of each row.
    fn calls(queries: &Queries) -> Vec<(String, String, u64)> {
        let row = |r: &QueryRow| (r.database.to_string(), r.text.to_string(), r.totals.calls);
        queries.rows().map(|r| row(&r)).collect()
    }

    fn row(database: &str, text: &str, calls: u64) -> (String, String, u64) {
        (database.to_owned(), text.to_owned(), calls)
    }

    #[test]
    fn a_database_has_one_number() {
        let queries = queries(10);
        let shop = queries.database_id("shop");
        assert_ne!(queries.database_id("bank"), shop);
        assert_eq!(queries.database_id("shop"), shop);
    }

    #[test]
    fn databases_beyond_the_limit_are_other() {
        let queries = queries(10);
        let ids: Vec<_> = (0..300)
            .map(|n| queries.database_id(&n.to_string()))
            .collect();
        assert_eq!(ids[254], DatabaseId(255));
        assert_eq!(ids[255], DatabaseId(0));
        assert_eq!(queries.database_id(OTHER), DatabaseId(0));
        run(&mut queries.observer(), ids[299], "select a");
        assert_eq!(calls(&queries), [row(OTHER, "select a", 1)]);
    }

    #[test]
    fn workers_share_slots_and_their_numbers_add_up() {
        let queries = queries(10);
        let shop = queries.database_id("shop");
        let (mut one, mut two) = (queries.observer(), queries.observer());
        run(&mut one, shop, "select 1");
        run(&mut two, shop, "SELECT 2");
        run(&mut two, shop, "select a");
        assert_eq!(
            calls(&queries),
            [row("shop", "select $1", 2), row("shop", "select a", 1)]
        );
    }

    #[test]
    fn databases_are_counted_apart() {
        let queries = queries(10);
        let mut observer = queries.observer();
        for database in ["shop", "bank"] {
            run(&mut observer, queries.database_id(database), "select 1");
        }
        assert_eq!(
            calls(&queries),
            [row("shop", "select $1", 1), row("bank", "select $1", 1)]
        );
    }

    #[test]
    fn statements_beyond_the_limit_are_counted_together_by_database() {
        let queries = queries(2);
        let (shop, bank) = (queries.database_id("shop"), queries.database_id("bank"));
        let mut observer = queries.observer();
        for sql in ["select a", "select b", "select c", "select d", "select a"] {
            run(&mut observer, shop, sql);
        }
        run(&mut observer, bank, "select a");
        let expected = [
            row("shop", OTHER, 2),
            row("bank", OTHER, 1),
            row("shop", "select a", 2),
            row("shop", "select b", 1),
        ];
        assert_eq!(calls(&queries), expected);
    }

    #[test]
    fn no_statements_at_all_can_be_kept() {
        let queries = queries(0);
        run(
            &mut queries.observer(),
            queries.database_id("shop"),
            "select a",
        );
        assert_eq!(calls(&queries), [row("shop", OTHER, 1)]);
    }

    #[test]
    fn text_is_kept_up_to_its_limit() {
        let queries = queries(10);
        let sql = "select a_column_with_a_rather_long_name";
        run(&mut queries.observer(), queries.database_id("shop"), sql);
        assert_eq!(
            &*queries.rows().next().expect("one").text,
            "select a_column_with_a_rath..."
        );
    }

    #[test]
    fn export_shows_what_rows_have() {
        let queries = queries(10);
        run(
            &mut queries.observer(),
            queries.database_id("shop"),
            "select a",
        );
        let exported = queries.export(Instant::now());
        assert_eq!(exported.len(), 1);
        assert_eq!(
            exported[0].totals,
            queries.rows().next().expect("one").totals
        );
    }

    #[test]
    fn threads_that_meet_new_statements_at_once_agree_on_their_slots() {
        let queries = queries(150);
        let total = || calls(&queries).iter().map(|(.., calls)| calls).sum::<u64>();
        std::thread::scope(|scope| {
            let worker = || {
                let mut observer = queries.observer();
                let shop = queries.database_id("shop");
                (0..200).for_each(|n| run(&mut observer, shop, &format!("select c{n}")));
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            let mut last = 0;
            while !workers.iter().all(|worker| worker.is_finished()) {
                let now = total();
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
        });
        let calls = calls(&queries);
        assert_eq!(calls.len(), 151);
        assert_eq!(calls[0], row("shop", OTHER, 200));
        assert!(
            calls[1..].iter().all(|(.., calls)| *calls == 4),
            "{calls:?}"
        );
    }
}
