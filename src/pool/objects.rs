//! Databases and users, and how many connections each has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::auth::{Credential, Secret};
use crate::config;
use crate::stats::Micros;

/// A count with a limit: servers or clients of a database or user.
#[derive(Debug, Default)]
pub struct Budget(AtomicU32);

impl Budget {
    /// Takes one place unless `limit` (0: none) is reached.
    pub fn take(&self, limit: u32) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                (limit == 0 || used < limit).then_some(used + 1)
            })
            .is_ok()
    }

    /// Gives one place back.
    pub fn give(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Places taken.
    pub fn used(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

/// A place taken in a [`Budget`] of a database or user for as long as this
/// lives.
#[derive(Debug)]
pub struct Place<T: HasBudget>(Arc<T>);

/// Something that counts its clients.
pub trait HasBudget {
    /// The count.
    fn clients(&self) -> &Budget;
}

impl<T: HasBudget> Place<T> {
    /// Takes a place unless `limit` (0: none) is reached.
    pub fn take(of: &Arc<T>, limit: u32) -> Option<Place<T>> {
        of.clients().take(limit).then(|| Place(of.clone()))
    }

    /// What the place is in.
    pub fn of(&self) -> &T {
        &self.0
    }
}

impl<T: HasBudget> Drop for Place<T> {
    fn drop(&mut self) {
        self.0.clients().give();
    }
}

/// A database entry.
#[derive(Debug)]
pub struct Database {
    /// The name clients ask for.
    pub name: String,
    /// Made from the `*` entry.
    pub auto: bool,
    /// What the configuration says.
    pub settings: ArcSwap<config::Database>,
    /// The secret of its forced user, if the entry has one.
    pub credential: ArcSwapOption<Credential>,
    /// Servers, login included.
    pub servers: Budget,
    /// Counts its logins, for `load_balance_hosts = round-robin`.
    pub(super) turn: AtomicUsize,
    clients: Budget,
    paused: AtomicBool,
    disabled: AtomicBool,
    /// Since when nobody uses it, in microseconds; 0 while somebody does.
    idle_since: AtomicU64,
}

impl Database {
    /// An entry without connections.
    pub fn new(name: &str, auto: bool, settings: config::Database) -> Database {
        Database {
            name: name.to_owned(),
            auto,
            credential: ArcSwapOption::new(credential(&settings)),
            settings: ArcSwap::from_pointee(settings),
            servers: Budget::default(),
            turn: AtomicUsize::new(0),
            clients: Budget::default(),
            paused: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
        }
    }

    /// Whether it has clients or servers.
    fn is_used(&self) -> bool {
        self.clients.used() > 0 || self.servers.used() > 0
    }

    /// Whether the last sweep found it unused.
    pub fn is_idle(&self) -> bool {
        self.idle_since.load(Ordering::Relaxed) != 0
    }

    /// Somebody has asked for it.
    pub(super) fn touch(&self) {
        if self.is_idle() {
            self.idle_since.store(0, Ordering::Relaxed);
        }
    }

    /// Notes at `now` whether it is used.
    pub(super) fn note_use(&self, now: Micros) {
        if self.is_used() {
            self.touch();
        } else if !self.is_idle() {
            self.idle_since.store(now.0.max(1), Ordering::Relaxed);
        }
    }

    /// Made from `*`, and not used by anybody for longer than `limit`; zero
    /// is no limit.
    pub(super) fn is_forgettable(&self, limit: Duration, now: Micros) -> bool {
        let since = self.idle_since.load(Ordering::Relaxed);
        let is_free = self.auto && !self.is_paused() && !self.is_used();
        is_free && since != 0 && now.exceeds(Micros(since), limit)
    }

    /// Takes over what the configuration says now; answers what it said.
    pub fn change_settings(&self, settings: config::Database) -> Arc<config::Database> {
        if self.settings.load().password != settings.password {
            self.credential.store(credential(&settings));
        }
        self.settings.swap(Arc::new(settings))
    }

    /// Its name on the server.
    pub fn server_name(&self) -> String {
        let settings = self.settings.load();
        settings.dbname.clone().unwrap_or_else(|| self.name.clone())
    }

    /// `load_balance_hosts = disable`, for several hosts.
    pub(super) fn stays_with_host(&self) -> bool {
        let settings = self.settings.load();
        let how = settings.load_balance_hosts.as_deref();
        let is_list = settings.host.as_ref().is_some_and(|it| it.contains(','));
        is_list && how.is_some_and(|how| how.eq_ignore_ascii_case("disable"))
    }

    /// PAUSE db.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// PAUSE db, RESUME db.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// DISABLE db.
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }

    /// DISABLE db, ENABLE db.
    pub fn set_disabled(&self, disabled: bool) {
        self.disabled.store(disabled, Ordering::Release);
    }
}

fn credential(settings: &config::Database) -> Option<Arc<Credential>> {
    let secret = Secret::parse(settings.password.as_ref()?.0.as_bytes());
    Some(Arc::new(Credential::new(secret)))
}

impl HasBudget for Database {
    fn clients(&self) -> &Budget {
        &self.clients
    }
}

/// A user, of clients or of servers.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What `[users]` says.
    pub settings: ArcSwap<config::User>,
    /// Its secret, if `auth_file` has one.
    pub credential: ArcSwapOption<Credential>,
    /// Servers, login included.
    pub servers: Budget,
    clients: Budget,
}

impl User {
    /// A user without connections.
    pub fn new(name: &str, settings: config::User) -> User {
        User {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            credential: ArcSwapOption::empty(),
            servers: Budget::default(),
            clients: Budget::default(),
        }
    }
}

impl HasBudget for User {
    fn clients(&self) -> &Budget {
        &self.clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_zero_is_no_limit() {
        let budget = Budget::default();
        assert!(budget.take(1));
        assert!(!budget.take(1));
        assert!(budget.take(0));
        budget.give();
        budget.give();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_automatic_database_is_forgettable_when_it_was_unused_for_long() {
        let (limit, at) = (Duration::from_secs(10), |seconds: u64| {
            Micros(seconds * 1_000_000)
        });
        let database = Arc::new(Database::new("db", true, config::Database::default()));
        database.note_use(at(1));
        database.note_use(at(5));
        assert!(!database.is_forgettable(limit, at(11)));
        assert!(database.is_forgettable(limit, at(12)));
        assert!(!database.is_forgettable(Duration::ZERO, at(12)));
        database.set_paused(true);
        assert!(!database.is_forgettable(limit, at(12)));
        database.set_paused(false);
        let place = Place::take(&database, 0);
        assert!(!database.is_forgettable(limit, at(12)));
        drop(place);
        database.touch();
        database.note_use(at(20));
        assert!(!database.is_forgettable(limit, at(30)));
        assert!(database.is_forgettable(limit, at(31)));
    }

    #[test]
    fn a_place_is_given_back_when_dropped() {
        let user = Arc::new(User::new("ann", config::User::default()));
        let place = Place::take(&user, 1).expect("room");
        assert!(Place::take(&user, 1).is_none());
        drop(place);
        assert_eq!(user.clients().used(), 0);
    }
}
