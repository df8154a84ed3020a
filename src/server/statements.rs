//! Prepared statements, told apart by their full text and parameter types.
//!
//! PgBouncer setting: `max_prepared_statements`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dashmap::DashMap;
use foldhash::HashMap;
use foldhash::fast::RandomState;

use super::answers::{Answers, Owed, Step};
use super::script::Script;
use super::seeded::{Bug, planted};
use crate::handover;

/// What the servers' names of statements begin with.
pub const PREFIX: &str = "PGBOUNCER_";

/// A statement as every server knows it.
#[derive(Debug)]
pub struct Statement {
    /// Its name on servers, `PGBOUNCER_<n>`.
    pub name: Box<[u8]>,
    /// What it is made of, see [`Kind`].
    pub definition: Arc<[u8]>,
    /// How it is prepared.
    pub kind: Kind,
    /// What its text does with other prepared statements, if it names any.
    /// Such a statement is its client's alone.
    pub script: Option<Box<Script>>,
    /// Its slot in the query statistics.
    pub slot: u32,
    id: u64,
    /// A server has accepted it.
    proven: AtomicBool,
    /// How often a server has said that its copy of a [`Kind::Sql`] is out of
    /// date.
    generation: AtomicU32,
    /// A server has said that its copy of a [`Kind::Parse`] is out of date.
    outdated: AtomicBool,
}

/// How a statement is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By Parse. Its definition is query text, terminator, and parameter
    /// types, as Parse carries them.
    Parse,
    /// By PREPARE of SQL. Its definition is what follows the name there; no
    /// terminator, so that it is never that of a Parse.
    Sql,
}

impl Statement {
    fn new(id: u64, kind: Kind, definition: Arc<[u8]>, slot: u32) -> Statement {
        Statement {
            name: format!("{PREFIX}{id}").into_bytes().into(),
            definition,
            kind,
            script: None,
            slot,
            id,
            proven: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            outdated: AtomicBool::new(false),
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the next process has to know; none if it belongs to its client
    /// alone.
    pub fn hand_over(&self) -> Option<handover::Statement> {
        self.script.is_none().then(|| handover::Statement {
            id: self.id,
            sql: self.kind == Kind::Sql,
            definition: self.definition.to_vec(),
            proven: self.proven.load(Ordering::Relaxed),
            outdated: self.is_outdated(),
        })
    }

    /// Whether who prepares its text now gets another statement.
    fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Notes that a server has accepted it.
    pub fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// The process-wide table of statements. An entry lives as long as a client
/// or a server uses it.
#[derive(Debug, Default)]
pub struct Dictionary {
    entries: DashMap<Arc<[u8]>, Weak<Statement>, RandomState>,
    last_id: AtomicU64,
    /// Statements of another process, until its clients and servers are here.
    taken: Mutex<HashMap<u64, Arc<Statement>>>,
}

impl Dictionary {
    /// The statement with this definition; `slot` is used for a new one.
    pub fn intern(&self, kind: Kind, definition: &[u8], slot: u32) -> Arc<Statement> {
        let current = |entry: &Weak<Statement>| entry.upgrade().filter(|s| !s.is_outdated());
        if let Some(found) = self.entries.get(definition).and_then(|e| current(&e)) {
            return found;
        }
        let definition: Arc<[u8]> = definition.into();
        let statement = Statement::new(self.next_id(), kind, definition.clone(), slot);
        let statement = Arc::new(statement);
        let mut entry = self.entries.entry(definition).or_default();
        // Another worker may have been faster.
        if let Some(found) = current(&entry) {
            return found;
        }
        *entry = Arc::downgrade(&statement);
        statement
    }

    /// A statement that is not shared, whatever its definition.
    pub fn own(
        &self,
        kind: Kind,
        definition: &[u8],
        slot: u32,
        script: Option<Box<Script>>,
    ) -> Arc<Statement> {
        Arc::new(Statement {
            script,
            ..Statement::new(self.next_id(), kind, definition.into(), slot)
        })
    }

    /// Takes over a statement of another process, under its number.
    pub fn take_over(&self, told: &handover::Statement) {
        let kind = if told.sql { Kind::Sql } else { Kind::Parse };
        let definition: Arc<[u8]> = told.definition.as_slice().into();
        let statement = Arc::new(Statement::new(told.id, kind, definition.clone(), u32::MAX));
        statement.proven.store(told.proven, Ordering::Relaxed);
        statement.outdated.store(told.outdated, Ordering::Relaxed);
        self.begin_after(told.id);
        if !told.outdated {
            self.entries.insert(definition, Arc::downgrade(&statement));
        }
        self.taken().insert(told.id, statement);
    }

    /// A statement that was taken over.
    pub fn by_id(&self, id: u64) -> Option<Arc<Statement>> {
        self.taken().get(&id).cloned()
    }

    /// The highest number there is.
    pub fn last_id(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    /// From now on those that nobody uses may go.
    pub fn taken_over(&self) {
        *self.taken() = HashMap::default();
    }

    /// No statement gets a number up to this one.
    pub fn begin_after(&self, id: u64) {
        self.last_id.fetch_max(id, Ordering::Relaxed);
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Statement>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The statement with this definition, if a server has accepted it.
    pub fn proven(&self, definition: &[u8]) -> Option<Arc<Statement>> {
        let found = self.entries.get(definition)?.upgrade()?;
        (found.proven.load(Ordering::Relaxed) && !found.is_outdated()).then_some(found)
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
    /// It depends on whether an earlier batch of the pipeline fails, or it is
    /// out of date. Closed and parsed anew it is there in any case.
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
    /// With the generation of the copy.
    confirmed: HashMap<u64, (Arc<Statement>, u32)>,
    /// Those it has or is being given, with the time of their last use.
    recent: HashMap<u64, (Arc<Statement>, u64)>,
    clock: u64,
}

impl Prepared {
    /// Whether the server will have it; counts as a use if so.
    pub fn touch(&mut self, statement: &Arc<Statement>, answers: &Answers) -> Presence {
        let presence =
            answers
                .pending(statement)
                .unwrap_or_else(|| match self.confirmed.get(&statement.id) {
                    Some((_, copy)) if *copy == statement.generation() => Presence::Present,
                    Some(_) => Presence::Doubtful,
                    None => Presence::Absent,
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

    /// The moment of the last use, for [`evict`](Self::evict).
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// Chooses the least recently used one to be closed if the server has
    /// `limit` or more; none that was used after `mark`.
    pub fn evict(&mut self, limit: usize, mark: u64) -> Option<Arc<Statement>> {
        if self.recent.len() < limit.max(1) {
            return None;
        }
        let (oldest, used) = self.recent.values().min_by_key(|(_, used)| *used)?;
        if *used > mark {
            return None;
        }
        let oldest = oldest.id;
        self.recent.remove(&oldest).map(|(statement, _)| statement)
    }

    /// Notes that PREPARE has given it to the server.
    pub fn made(&mut self, statement: &Arc<Statement>) {
        self.on_parsed(statement);
        self.used(statement);
    }

    /// The server says that its copy is out of date; so are then those of
    /// other servers.
    ///
    /// What SQL executes is described each time, so each copy is made anew
    /// when it is used next. Who has prepared by Parse may know the columns
    /// from then: for those the statement stays as it is, with its error, and
    /// who prepares the text from now on gets another statement.
    pub fn outdated(&self, statement: &Statement) {
        if statement.kind == Kind::Parse {
            statement.outdated.store(true, Ordering::Relaxed);
        } else if let Some((_, copy)) = self.confirmed.get(&statement.id) {
            let next = copy.wrapping_add(1);
            // Failing, another server has said so before.
            let _ = statement.generation.compare_exchange(
                *copy,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
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
        let copy = (statement.clone(), statement.generation());
        self.confirmed.insert(statement.id, copy);
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
        for (id, (statement, _)) in confirmed {
            recent.entry(*id).or_insert_with(|| (statement.clone(), 0));
        }
    }

    /// Those it has that are up to date, the least recently used
    /// first.
    pub fn current(&self) -> Vec<Arc<Statement>> {
        let confirmed = self.confirmed.values();
        let current = confirmed.filter(|(statement, copy)| *copy == statement.generation());
        let mut current: Vec<_> = current.map(|(statement, _)| statement.clone()).collect();
        current.sort_by_key(|it| self.recent.get(&it.id).map_or(0, |(_, used)| *used));
        current
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
        let one = dictionary.intern(Kind::Parse, b"select 1\0\0\0", 0);
        let same = dictionary.intern(Kind::Parse, b"select 1\0\0\0", 0);
        let other = dictionary.intern(Kind::Parse, b"select 1\0\0\x01\0\0\0\x17", 0);
        assert!(Arc::ptr_eq(&one, &same));
        assert_eq!(&*one.name, b"PGBOUNCER_1");
        assert_ne!(one.name, other.name);
    }

    #[test]
    fn an_unused_statement_is_swept() {
        let dictionary = Dictionary::default();
        drop(dictionary.intern(Kind::Parse, b"select 1\0\0\0", 0));
        dictionary.sweep();
        assert!(dictionary.entries.is_empty());
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let dictionary = Dictionary::default();
        let (mut prepared, answers) = (Prepared::default(), Answers::default());
        let a = dictionary.intern(Kind::Parse, b"a\0\0\0", 0);
        let b = dictionary.intern(Kind::Parse, b"b\0\0\0", 0);
        for statement in [&a, &b] {
            prepared.sent(statement);
            prepared.on_parsed(statement);
        }
        let now = prepared.clock();
        assert!(prepared.evict(3, now).is_none());
        assert_eq!(prepared.touch(&a, &answers), Presence::Present);
        assert!(prepared.evict(2, 0).is_none(), "all are in use");
        let evicted = prepared.evict(2, now).expect("full");
        assert!(Arc::ptr_eq(&evicted, &b));
        prepared.on_closed(&b);
        assert_eq!(prepared.touch(&b, &answers), Presence::Absent);
    }

    #[test]
    fn what_was_parsed_and_is_out_of_date_is_another_statement_from_then_on() {
        let dictionary = Dictionary::default();
        let mut server = Prepared::default();
        let statement = dictionary.intern(Kind::Parse, b"a\0\0\0", 0);
        statement.prove();
        server.on_parsed(&statement);
        server.outdated(&statement);
        assert!(dictionary.proven(b"a\0\0\0").is_none());
        let other = dictionary.intern(Kind::Parse, b"a\0\0\0", 0);
        assert_ne!(other.name, statement.name);
        let again = dictionary.intern(Kind::Parse, b"a\0\0\0", 0);
        assert!(Arc::ptr_eq(&again, &other));
        let answers = Answers::default();
        assert_eq!(server.touch(&statement, &answers), Presence::Present);
    }

    #[test]
    fn what_sql_prepared_and_one_server_calls_out_of_date_is_so_on_all() {
        let dictionary = Dictionary::default();
        let (mut one, mut other) = (Prepared::default(), Prepared::default());
        let answers = Answers::default();
        let statement = dictionary.intern(Kind::Sql, b" as a", 0);
        for server in [&mut one, &mut other] {
            server.sent(&statement);
            server.on_parsed(&statement);
        }
        one.outdated(&statement);
        for server in [&mut one, &mut other] {
            assert_eq!(server.touch(&statement, &answers), Presence::Doubtful);
            server.on_closed(&statement);
            server.on_parsed(&statement);
            assert_eq!(server.touch(&statement, &answers), Presence::Present);
        }
    }

    #[test]
    fn a_parse_of_an_earlier_batch_is_doubtful_until_it_is_answered() {
        let dictionary = Dictionary::default();
        let (mut prepared, mut answers) = (Prepared::default(), Answers::default());
        let statement = dictionary.intern(Kind::Parse, b"a\0\0\0", 0);
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
