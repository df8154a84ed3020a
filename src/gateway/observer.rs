//! A worker's eye on statements.

use std::sync::Arc;

use foldhash::HashMap;

use super::form::Fingerprint;
use super::mentions::mentions_statements;
use super::normalise::{MAX_READ, Normaliser};
use super::numbers::{Numbers, Outcome, Recorder};
use super::queries::{DatabaseId, Queries};
use super::slots::{Slot, Slots};
use super::templates::{MAX_TEXT, Templates};

/// What is known of a statement at sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What it is counted under.
    pub slot: Slot,
    /// It names prepared statements, see
    /// [`mentions_statements`](super::mentions_statements).
    pub mentions: bool,
}

impl Seen {
    /// The bit of a slot remembered with a template that says `mentions`; far
    /// above the number of any slot.
    const MENTIONS: u32 = 1 << 31;

    fn packed(self) -> Slot {
        match self.mentions {
            true => Slot(self.slot.0 | Seen::MENTIONS),
            false => self.slot,
        }
    }

    #[inline]
    fn unpacked(packed: Slot) -> Seen {
        Seen {
            slot: Slot(packed.0 & !Seen::MENTIONS),
            mentions: packed.0 & Seen::MENTIONS != 0,
        }
    }
}

/// Tells statements apart and counts them, for **one worker thread**. What it
/// holds is the worker's own; it meets others only over a statement it has
/// never seen.
#[derive(Debug)]
pub struct Observer {
    queries: Arc<Queries>,
    recorder: Recorder,
    templates: Templates,
    normaliser: Normaliser,
    /// Statements with a slot that this worker has seen: at most
    /// `max_statements`.
    known: HashMap<(DatabaseId, Fingerprint), Slot>,
}

impl Observer {
    pub(super) fn new(queries: Arc<Queries>, numbers: Arc<Slots<Numbers>>) -> Self {
        Observer {
            queries,
            recorder: Recorder(numbers),
            templates: Templates::new(),
            normaliser: Normaliser::default(),
            known: HashMap::default(),
        }
    }

    /// The slot to count a statement in: the text of a Query or Parse message,
    /// any bytes. Of more than [`MAX_READ`] bytes the rest is not read, so a
    /// caller that has but the front of a long message can pass that.
    pub fn observe(&mut self, database: DatabaseId, text: &[u8]) -> Slot {
        self.look(database, text).slot
    }

    /// As [`observe`](Self::observe), and what else is known at sight.
    pub fn look(&mut self, database: DatabaseId, text: &[u8]) -> Seen {
        // One byte more tells that there is more.
        let text = &text[..text.len().min(MAX_READ + 1)];
        if text.len() > MAX_TEXT {
            return self.read(database, text);
        }
        if let Some(packed) = self.templates.find(database.0, text) {
            return Seen::unpacked(packed);
        }
        let seen = self.read(database, text);
        self.templates.insert(database.0, text, seen.packed());
        seen
    }

    fn read(&mut self, database: DatabaseId, text: &[u8]) -> Seen {
        Seen {
            slot: self.form(database, text),
            mentions: mentions_statements(text),
        }
    }

    /// The slot by the statement's form; the database's own for a statement
    /// that got none.
    fn form(&mut self, database: DatabaseId, text: &[u8]) -> Slot {
        let statement = self.normaliser.normalise(text);
        let key = (database, statement.fingerprint());
        if let Some(&slot) = self.known.get(&key) {
            return slot;
        }
        let Some(slot) = self.queries.slot(key.0, key.1, &statement) else {
            return Slot(database.0);
        };
        self.known.insert(key, slot);
        slot
    }

    /// Counts one execution of the statement in `slot`. The worker's thread
    /// only.
    #[inline]
    pub fn record(&self, slot: Slot, outcome: &Outcome) {
        self.recorder.record(slot, outcome);
    }

    /// What records without the observer at hand: for when the observer sits
    /// behind a lock.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn observer() -> (Observer, DatabaseId) {
        let queries = Queries::new(&config::Queries {
            enabled: true,
            max_statements: 10,
            max_exported: 10,
            max_text: 1000,
        });
        (queries.observer(), queries.database_id("shop"))
    }

    #[test]
    fn constants_do_not_change_the_slot() {
        let (mut observer, shop) = observer();
        let slot = observer.observe(shop, b"select a from t where b = 1");
        assert_eq!(observer.observe(shop, b"select a from t where b = 2"), slot);
        assert_eq!(observer.observe(shop, b"select a from t where b = 1"), slot);
        assert_ne!(observer.observe(shop, b"select a from t where c = 1"), slot);
    }

    #[test]
    fn a_statement_too_long_for_a_template_has_its_slot_too() {
        let (mut observer, shop) = observer();
        let sql = |n: usize| format!("select a from t where b in ({})", vec!["17"; n].join(","));
        let slot = observer.observe(shop, sql(1).as_bytes());
        assert!(sql(3000).len() > MAX_TEXT && sql(3000).len() < MAX_READ);
        assert_eq!(observer.observe(shop, sql(3000).as_bytes()), slot);
    }

    #[test]
    fn the_front_of_a_long_statement_stands_for_it() {
        let (mut observer, shop) = observer();
        let sql = format!(
            "insert into t values {}",
            vec!["(1, 'x')"; 10_000].join(",")
        );
        let slot = observer.observe(shop, sql.as_bytes());
        assert_eq!(
            observer.observe(shop, &sql.as_bytes()[..MAX_READ + 1]),
            slot
        );
    }

    #[test]
    fn names_of_prepared_statements_are_seen_at_every_look() {
        let (mut observer, shop) = observer();
        let long = format!("execute p('{}')", "x".repeat(MAX_TEXT));
        for (text, mentions) in [
            ("execute p(1)", true),
            ("execute p(2)", true),
            ("select 1", false),
            ("select 2", false),
            (&*long, true),
        ] {
            let first = observer.look(shop, text.as_bytes());
            assert_eq!(first.mentions, mentions, "{text}");
            assert_eq!(observer.look(shop, text.as_bytes()), first, "{text}");
        }
    }

    #[test]
    fn an_observer_can_move_to_its_thread() {
        fn is_send<T: Send>() {}
        is_send::<Observer>();
        is_send::<Recorder>();
    }

    proptest::proptest! {
        #[test]
        fn with_or_without_templates_the_slot_is_the_same(
            texts in proptest::collection::vec("(select|update) [ab12 ]{0,4}", 0..50),
        ) {
            let (mut observer, shop) = observer();
            for text in texts {
                let formed = observer.form(shop, text.as_bytes());
                proptest::prop_assert_eq!(observer.observe(shop, text.as_bytes()), formed);
            }
        }
    }
}
