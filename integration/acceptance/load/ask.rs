//! The application's endpoints, and requests to them.

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::json;

use crate::dice::Dice;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Ping,
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

impl Endpoint {
    /// The path, ids folded to `{id}`.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Endpoint::Ping => "/ping",
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

    /// A request with a harmless number.
    pub(crate) fn operation() -> Ask {
        Ask {
            body: json!({ "operation": 0 }).to_string(),
            ..Ask::of(Endpoint::Operation)
        }
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
#[derive(Debug)]
pub(crate) struct Scribe {
    pub(crate) facts: Facts,
    dice: Dice,
    /// Sessions made so far; each has a start time of its own.
    added: i64,
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
        }
    }

    /// One request to an endpoint.
    pub(crate) fn ask(&mut self, endpoint: Endpoint) -> Ask {
        match endpoint {
            Endpoint::Operation => Ask::operation(),
            Endpoint::Movie => Ask::by_id(endpoint, self.dice.within(1..=self.facts.movies)),
            Endpoint::Customer => Ask::by_id(endpoint, self.dice.within(1..=self.facts.customers)),
            Endpoint::Session => Ask::by_id(endpoint, self.whole_session()),
            Endpoint::AddSession => self.add(),
            _ => Ask::of(endpoint),
        }
    }

    /// Requests by their shares.
    pub(crate) fn mix(&mut self, shares: &[(Endpoint, i64)], count: usize) -> Vec<Ask> {
        let sum = shares.iter().map(|(_, share)| share).sum();
        let mut pick = || {
            let mut left = self.dice.within(1..=sum);
            let chosen = shares.iter().find(|(_, share)| {
                left -= share;
                left <= 0
            });
            chosen.expect("the shares add up to their sum").0
        };
        let endpoints: Vec<_> = (0..count).map(|_| pick()).collect();
        endpoints.into_iter().map(|it| self.ask(it)).collect()
    }

    fn whole_session(&mut self) -> i64 {
        loop {
            let id = self.dice.within(1..=self.facts.sessions);
            if !self.facts.broken.contains(&id) {
                return id;
            }
        }
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
    fn a_mix_has_its_shares() {
        let asks = scribe().mix(&[(Endpoint::Ping, 3), (Endpoint::Operation, 1)], 4000);
        let pings = asks.iter().filter(|ask| ask.endpoint == Endpoint::Ping);
        assert!((2800..3200).contains(&pings.count()));
    }
}
