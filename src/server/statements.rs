//! Prepared statements, told apart by their full text and parameter types.
//!
//! PgBouncer setting: `max_prepared_statements`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;

use super::answers::{Answers, Owed, Step};
use super::seeded::{Bug, planted};

/// A statement as every server knows it.
#[derive(Debug)]
pub struct Statement {
    /// Its name on servers, `PGBOUNCER_<n>`.
    pub name: Box<[u8]>,
    /// Query text, terminator, and parameter types, as Parse carries them.
    pub definition: Arc<[u8]>,
    /// Its slot in the query statistics.
    pub slot: u32,
    id: u64,
    /// A server has accepted it.
    proven: AtomicBool,
}

impl Statement {
    /// Notes that a server has accepted it.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// The process-wide table of statements. An entry lives as long as a client
/// or a server uses it.
#[derive(Debug, Default)]
pub struct Dictionary {
    entries: DashMap<Arc<[u8]>, Weak<Statement>>,
    last_id: AtomicU64,
}

impl Dictionary {
    /// The statement with this definition; `slot` is used for a new one.
    pub fn intern(&self, definition: &[u8], slot: u32) -> Arc<Statement> {
        if let Some(found) = self.entries.get(definition).and_then(|e| e.upgrade()) {
            return found;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let definition: Arc<[u8]> = definition.into();
        let statement = Arc::new(Statement {
            name: format!("PGBOUNCER_{id}").into_bytes().into(),
            definition: definition.clone(),
            slot,
            id,
            proven: AtomicBool::new(false),
        });
        let mut entry = self.entries.entry(definition).or_default();
        // Another worker may have been faster.
        if let Some(found) = entry.upgrade() {
            return found;
        }
        *entry = Arc::downgrade(&statement);
        statement
    }

    /// The statement with this definition, if a server has accepted it.
    pub fn proven(&self, definition: &[u8]) -> Option<Arc<Statement>> {
        let found = self.entries.get(definition)?.upgrade()?;
        found.proven.load(Ordering::Relaxed).then_some(found)
    }

    /// Forgets statements that nobody uses any more.
    pub fn sweep(&self) {
        self.entries.retain(|_, entry| entry.strong_count() > 0);
    }
}

/// A client's name whose Parse or Close did not happen after all.
#[derive(Debug)]
pub struct Undone {
    /// The client's name.
    pub name: Box<[u8]>,
    /// What it meant before.
    pub before: Option<Arc<Statement>>,
}

impl Undone {
    /// What a client has to take back of a request that the server discarded
    /// because of an error.
    pub fn of(owed: Owed) -> Option<Undone> {
        let (Owed::Parse(_, tracked) | Owed::Close(_, tracked)) = owed else {
            return None;
        };
        let tracked = *tracked?;
        Some(Undone {
            name: tracked.client_name?,
            before: tracked.before,
        })
    }
}

/// Whether a server will have a statement when it comes to the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It will.
    Present,
    /// It will not.
    Absent,
    /// It depends on whether an earlier batch of the pipeline fails. Closed
    /// and parsed anew it is there in any case.
    Doubtful,
}

/// The statements one server has.
///
/// What it has is known from its answers alone. For what is on its way the
/// queue of owed responses is asked, so a request that the server discards
/// leaves no trace.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Prepared {
    confirmed: HashMap<u64, Arc<Statement>>,
    /// Those it has or is being given, with the time of their last use.
    recent: HashMap<u64, (Arc<Statement>, u64)>,
    clock: u64,
}

impl Prepared {
    /// Whether the server will have it; counts as a use if so.
    pub fn touch(&mut self, statement: &Arc<Statement>, answers: &Answers) -> Presence {
        let presence = answers.pending(statement).unwrap_or_else(|| {
            match self.confirmed.contains_key(&statement.id) {
                true => Presence::Present,
                false => Presence::Absent,
            }
        });
        if presence == Presence::Present {
            self.used(statement);
        }
        presence
    }

    /// Notes that the server is being given it.
    pub fn sent(&mut self, statement: &Arc<Statement>) {
        self.used(statement);
    }

    /// Chooses the least recently used one to be closed if the server has
    /// `limit` or more.
    pub fn evict(&mut self, limit: usize) -> Option<Arc<Statement>> {
        if self.recent.len() < limit.max(1) {
            return None;
        }
        let oldest = self.recent.values().min_by_key(|(_, used)| *used)?.0.id;
        self.recent.remove(&oldest).map(|(statement, _)| statement)
    }

    /// Takes note of what an answer says about statements; an error may have
    /// discarded requests about them.
    #[inline]
    pub fn note(&mut self, step: &Step, answers: &Answers) {
        if let Some(parsed) = &step.parsed {
            self.on_parsed(parsed);
        }
        if let Some(closed) = &step.closed {
            self.on_closed(closed);
        }
        if step.discarded {
            self.resync(answers);
        }
    }

    /// The server says that it has it.
    fn on_parsed(&mut self, statement: &Arc<Statement>) {
        self.confirmed.insert(statement.id, statement.clone());
    }

    /// The server says that it has it no more.
    fn on_closed(&mut self, statement: &Statement) {
        if !planted(Bug::ClosedStaysPresent) {
            self.confirmed.remove(&statement.id);
        }
    }

    /// The server has none any more, but for what is still on its way.
    pub fn clear(&mut self, answers: &Answers) {
        self.confirmed.clear();
        self.resync(answers);
    }

    /// Requests on their way have been discarded: what is recent is what is
    /// confirmed or still on its way.
    fn resync(&mut self, answers: &Answers) {
        let (confirmed, recent) = (&self.confirmed, &mut self.recent);
        recent.retain(|id, (statement, _)| {
            confirmed.contains_key(id) || answers.pending(statement) == Some(Presence::Present)
        });
        for (id, statement) in confirmed {
            recent.entry(*id).or_insert_with(|| (statement.clone(), 0));
        }
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.confirmed.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.confirmed.is_empty()
    }

    fn used(&mut self, statement: &Arc<Statement>) {
        self.clock += 1;
        let clock = self.clock;
        match self.recent.get_mut(&statement.id) {
            Some((_, used)) => *used = clock,
            None => {
                self.recent.insert(statement.id, (statement.clone(), clock));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::answers::{Answer, Tracked};

    #[test]
    fn the_same_definition_is_one_statement_and_another_is_not() {
        let dictionary = Dictionary::default();
        let one = dictionary.intern(b"select 1\0\0\0", 0);
        let same = dictionary.intern(b"select 1\0\0\0", 0);
        let other = dictionary.intern(b"select 1\0\0\x01\0\0\0\x17", 0);
        assert!(Arc::ptr_eq(&one, &same));
        assert_eq!(&*one.name, b"PGBOUNCER_1");
        assert_ne!(one.name, other.name);
    }

    #[test]
    fn an_unused_statement_is_swept() {
        let dictionary = Dictionary::default();
        drop(dictionary.intern(b"select 1\0\0\0", 0));
        dictionary.sweep();
        assert!(dictionary.entries.is_empty());
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let dictionary = Dictionary::default();
        let (mut prepared, answers) = (Prepared::default(), Answers::default());
        let a = dictionary.intern(b"a\0\0\0", 0);
        let b = dictionary.intern(b"b\0\0\0", 0);
        for statement in [&a, &b] {
            prepared.sent(statement);
            prepared.on_parsed(statement);
        }
        assert!(prepared.evict(3).is_none());
        assert_eq!(prepared.touch(&a, &answers), Presence::Present);
        let evicted = prepared.evict(2).expect("full");
        assert!(Arc::ptr_eq(&evicted, &b));
        prepared.on_closed(&b);
        assert_eq!(prepared.touch(&b, &answers), Presence::Absent);
    }

    #[test]
    fn a_parse_of_an_earlier_batch_is_doubtful_until_it_is_answered() {
        let dictionary = Dictionary::default();
        let (mut prepared, mut answers) = (Prepared::default(), Answers::default());
        let statement = dictionary.intern(b"a\0\0\0", 0);
        let tracked = Tracked {
            statement: statement.clone(),
            client_name: None,
            before: None,
        };
        answers.push(Owed::Parse(Answer::Swallow, Some(Box::new(tracked))));
        assert_eq!(prepared.touch(&statement, &answers), Presence::Present);
        answers.push_sync();
        assert_eq!(prepared.touch(&statement, &answers), Presence::Doubtful);
    }
}
