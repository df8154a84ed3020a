//! The application's endpoints, and requests to them.

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::json;

use crate::dice::Dice;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Index,
    Ping,
    Config,
    Operation,
    DbDummy,
    LongDummy,
    Movies,
    Movie,
    Customers,
    Customer,
    Sessions,
    Session,
    AddSession,
    DeleteSession,
    /// Of pgweir, not of the application.
    Other,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) endpoint: Endpoint,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: String,
}

/// What is in the database, as far as requests are made of it.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) movies: i64,
    pub(crate) customers: i64,
    pub(crate) sessions: i64,
    /// Sessions without a customer or a movie: 404 by the application.
    pub(crate) broken: BTreeSet<i64>,
}

/// Shares of a mixed load: reads and writes, with and without the database.
/// The lists are left out: one of them alone takes a core for a second.
pub(crate) const MIXED: &[(Endpoint, i64)] = &[
    (Endpoint::Operation, 20),
    (Endpoint::DbDummy, 20),
    (Endpoint::Movie, 20),
    (Endpoint::Customer, 20),
    (Endpoint::Session, 15),
    (Endpoint::AddSession, 5),
];

/// The same with a third of writes, deletions among them.
pub(crate) const WRITING: &[(Endpoint, i64)] = &[
    (Endpoint::Operation, 20),
    (Endpoint::DbDummy, 20),
    (Endpoint::Movie, 20),
    (Endpoint::Customer, 15),
    (Endpoint::Session, 10),
    (Endpoint::AddSession, 10),
    (Endpoint::DeleteSession, 5),
];

impl Endpoint {
    /// The path, ids folded to `{id}`.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Endpoint::Index => "/",
            Endpoint::Ping => "/ping",
            Endpoint::Config => "/config",
            Endpoint::Operation => "/operation",
            Endpoint::DbDummy => "/db_dummy",
            Endpoint::LongDummy => "/long_dummy",
            Endpoint::Movies => "/api/movie",
            Endpoint::Movie => "/api/movie/{id}",
            Endpoint::Customers => "/api/customer",
            Endpoint::Customer => "/api/customer/{id}",
            Endpoint::Sessions | Endpoint::AddSession => "/api/session",
            Endpoint::Session | Endpoint::DeleteSession => "/api/session/{id}",
            Endpoint::Other => "other",
        }
    }

    /// Whether a request changes something.
    pub(crate) fn writes(self) -> bool {
        self.method() != Method::GET
    }

    /// Its route in the sample configuration.
    pub(crate) fn route(self) -> &'static str {
        match self {
            Endpoint::Index => "index",
            Endpoint::Ping => "ping",
            Endpoint::Config => "config",
            Endpoint::Operation => "operation",
            Endpoint::DbDummy => "db_dummy",
            Endpoint::LongDummy => "long_dummy",
            Endpoint::Movies => "movies",
            Endpoint::Movie => "movie",
            Endpoint::Customers => "customers",
            Endpoint::Customer => "customer",
            Endpoint::Sessions | Endpoint::AddSession => "sessions",
            Endpoint::Session | Endpoint::DeleteSession => "session",
            Endpoint::Other => "other",
        }
    }

    fn method(self) -> Method {
        match self {
            Endpoint::Operation | Endpoint::AddSession => Method::POST,
            Endpoint::DeleteSession => Method::DELETE,
            _ => Method::GET,
        }
    }
}

impl Ask {
    /// A request for a page of pgweir's.
    pub(crate) fn get(path: &str) -> Ask {
        Ask {
            endpoint: Endpoint::Other,
            method: Method::GET,
            path: path.to_owned(),
            body: String::new(),
        }
    }

    /// A request to an endpoint whose path has no id.
    pub(crate) fn of(endpoint: Endpoint) -> Ask {
        Ask {
            endpoint,
            method: endpoint.method(),
            path: endpoint.pattern().to_owned(),
            body: String::new(),
        }
    }

    /// A request for one row.
    pub(crate) fn by_id(endpoint: Endpoint, id: i64) -> Ask {
        Ask {
            path: endpoint.pattern().replace("{id}", &id.to_string()),
            ..Ask::of(endpoint)
        }
    }

    /// A request with a number, harmless below 3 << 32.
    pub(crate) fn operation(number: i64) -> Ask {
        Ask {
            body: json!({ "operation": number }).to_string(),
            ..Ask::of(Endpoint::Operation)
        }
    }

    /// The line that a node writes into its ledger when it does this.
    pub(crate) fn entry(&self) -> String {
        format!("{} {} {}", self.method, self.path, self.body)
    }

    /// A session to add.
    pub(crate) fn add(start_time: &str, customer: i64, movie: i64) -> Ask {
        let body = json!({ "start_time": start_time, "customer_id": customer, "movie_id": movie });
        Ask {
            body: body.to_string(),
            ..Ask::of(Endpoint::AddSession)
        }
    }
}

/// Makes requests with random ids over the whole range.
#[derive(Debug, Clone)]
pub(crate) struct Scribe {
    pub(crate) facts: Facts,
    dice: Dice,
    /// Sessions made so far; each has a start time of its own.
    added: i64,
    /// Operations so far; each has a number of its own.
    operations: u32,
    /// Sessions that are there to be deleted.
    pub(crate) doomed: Vec<i64>,
}

/// Sessions of this program start at this time or later, those of the seed
/// before 2024.
pub(crate) const OURS_SINCE: &str = "2030-01-01T00:00:00Z";

impl Scribe {
    pub(crate) fn new(facts: Facts, seed: u64) -> Scribe {
        Scribe {
            facts,
            dice: Dice::new(seed),
            added: 0,
            operations: 0,
            doomed: Vec::new(),
        }
    }

    /// One request to an endpoint.
    pub(crate) fn ask(&mut self, endpoint: Endpoint) -> Ask {
        match endpoint {
            Endpoint::Operation => self.operate(),
            Endpoint::Movie => Ask::by_id(endpoint, self.dice.within(1..=self.facts.movies)),
            Endpoint::Customer => Ask::by_id(endpoint, self.dice.within(1..=self.facts.customers)),
            Endpoint::Session => Ask::by_id(endpoint, self.whole_session()),
            Endpoint::AddSession => self.add(),
            Endpoint::DeleteSession => match self.doomed.pop() {
                Some(id) => Ask::by_id(endpoint, id),
                None => self.add(),
            },
            _ => Ask::of(endpoint),
        }
    }

    /// A random time below a bound.
    pub(crate) fn moment(&mut self, below: std::time::Duration) -> std::time::Duration {
        let below = i64::try_from(below.as_millis()).unwrap_or(i64::MAX);
        let chosen = self.dice.within(0..=below).unsigned_abs();
        std::time::Duration::from_millis(chosen)
    }

    /// One of so many things, by its index.
    pub(crate) fn pick(&mut self, of: usize) -> usize {
        let last = i64::try_from(of).unwrap_or(i64::MAX) - 1;
        usize::try_from(self.dice.within(0..=last.max(0))).unwrap_or_default()
    }

    /// Requests by their shares.
    pub(crate) fn mix(&mut self, shares: &[(Endpoint, i64)], count: usize) -> Vec<Ask> {
        (0..count).map(|_| self.one_of(shares)).collect()
    }

    /// A request by its share.
    pub(crate) fn one_of(&mut self, shares: &[(Endpoint, i64)]) -> Ask {
        let sum = shares.iter().map(|(_, share)| share).sum();
        let mut left = self.dice.within(1..=sum);
        let chosen = shares.iter().find(|(_, share)| {
            left -= share;
            left <= 0
        });
        self.ask(chosen.expect("the shares add up to their sum").0)
    }

    fn whole_session(&mut self) -> i64 {
        loop {
            let id = self.dice.within(1..=self.facts.sessions);
            if !self.facts.broken.contains(&id) {
                return id;
            }
        }
    }

    fn operate(&mut self) -> Ask {
        self.operations = self.operations.wrapping_add(1);
        Ask::operation(self.operations.into())
    }

    fn add(&mut self) -> Ask {
        let since: jiff::Timestamp = OURS_SINCE.parse().expect("it is one");
        let start = since + jiff::SignedDuration::from_millis(self.added);
        self.added += 1;
        let customer = self.dice.within(1..=self.facts.customers);
        let movie = self.dice.within(1..=self.facts.movies);
        Ask::add(&start.to_string(), customer, movie)
    }
}

/// The pattern of a path, for counting.
pub(crate) fn fold(path: &str) -> &str {
    let tables = [Endpoint::Movie, Endpoint::Customer, Endpoint::Session];
    let patterns = tables.map(Endpoint::pattern);
    let fits = |pattern: &&str| path.starts_with(pattern.trim_end_matches("{id}"));
    patterns.into_iter().find(fits).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scribe() -> Scribe {
        let facts = Facts {
            movies: 2,
            customers: 3,
            sessions: 4,
            broken: BTreeSet::from([1, 3]),
        };
        Scribe::new(facts, 1)
    }

    #[test]
    fn ids_are_folded() {
        assert_eq!(fold("/api/session/17"), "/api/session/{id}");
        assert_eq!(fold("/api/session"), "/api/session");
        assert_eq!(fold("/ping"), "/ping");
    }

    #[test]
    fn broken_sessions_are_not_asked_for() {
        let mut scribe = scribe();
        for _ in 0..100 {
            let path = scribe.ask(Endpoint::Session).path;
            assert!(["/api/session/2", "/api/session/4"].contains(&path.as_str()));
        }
    }

    #[test]
    fn no_two_added_sessions_start_at_once() {
        let mut scribe = scribe();
        let mut bodies = BTreeSet::new();
        for _ in 0..100 {
            let body: serde_json::Value =
                serde_json::from_str(&scribe.ask(Endpoint::AddSession).body).expect("JSON");
            assert!(bodies.insert(body["start_time"].to_string()));
        }
    }

    #[test]
    fn operations_differ_and_are_harmless() {
        let mut scribe = scribe();
        scribe.operations = u32::MAX - 1;
        let mut number = || {
            let body = scribe.ask(Endpoint::Operation).body;
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            body["operation"].as_i64().expect("a number")
        };
        let numbers = [number(), number(), number()];
        assert_eq!(numbers, [i64::from(u32::MAX), 0, 1]);
        assert!(numbers.iter().all(|number| number >> 32 == 0));
    }

    #[test]
    fn a_mix_has_its_shares() {
        let asks = scribe().mix(&[(Endpoint::Ping, 3), (Endpoint::Operation, 1)], 4000);
        let pings = asks.iter().filter(|ask| ask.endpoint == Endpoint::Ping);
        assert!((2800..3200).contains(&pings.count()));
    }
}
