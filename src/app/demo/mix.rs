//! What the demo's traffic consists of.

use std::collections::VecDeque;

use hyper::Method;

use super::http::{Answer, Failure};
use super::scale::Rows;

/// Sessions made and not deleted yet that are remembered.
const MAX_MADE: usize = 100;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Page(&'static str),
    Operation,
    Movie,
    Customer,
    Session,
    AddSession,
    DeleteSession,
}

/// Each kind's share of a hundred. The three lists are left out: one of them
/// alone keeps a core busy.
const MIX: &[(Kind, u64)] = &[
    (Kind::Page("/"), 5),
    (Kind::Page("/ping"), 5),
    (Kind::Page("/config"), 4),
    (Kind::Page("/db_dummy"), 15),
    (Kind::Page("/long_dummy"), 1),
    (Kind::Operation, 15),
    (Kind::Movie, 20),
    (Kind::Customer, 15),
    (Kind::Session, 10),
    (Kind::AddSession, 5),
    (Kind::DeleteSession, 5),
];

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    kind: Kind,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its body, JSON or nothing.
    pub body: String,
}

/// What is sent next.
#[derive(Debug)]
pub struct Script {
    rows: Rows,
    number: u64,
    /// Ids of sessions made here.
    made: VecDeque<u64>,
}

impl Script {
    /// About data of this size.
    pub fn new(rows: Rows) -> Script {
        Script {
            rows,
            number: 0,
            made: VecDeque::new(),
        }
    }

    /// The next request.
    pub fn next(&mut self) -> Request {
        self.number += 1;
        let number = self.number;
        let Rows {
            customers,
            movies,
            sessions,
        } = self.rows;
        let row = |of: u32| 1 + scatter(number) % u64::from(of);
        match pick(number) {
            Kind::Page(path) => get(Kind::Page(path), path.to_owned()),
            // Numbers of more than 32 bits may be faults.
            Kind::Operation => {
                let body = format!(r#"{{"operation":{}}}"#, scatter(number) >> 32);
                post(Kind::Operation, "/operation", body)
            }
            Kind::Movie => get(Kind::Movie, format!("/api/movie/{}", row(movies))),
            Kind::Customer => get(Kind::Customer, format!("/api/customer/{}", row(customers))),
            Kind::Session => get(Kind::Session, format!("/api/session/{}", row(sessions))),
            Kind::DeleteSession if !self.made.is_empty() => {
                let id = self.made.pop_front().unwrap_or_default();
                Request {
                    method: Method::DELETE,
                    ..get(Kind::DeleteSession, format!("/api/session/{id}"))
                }
            }
            Kind::AddSession | Kind::DeleteSession => {
                let (customer, movie) = (row(customers), row(movies));
                let body = format!(
                    r#"{{"start_time":"2024-01-01T12:00:00Z","customer_id":{customer},"movie_id":{movie}}}"#
                );
                post(Kind::AddSession, "/api/session", body)
            }
        }
    }

    /// Takes note of a good answer: a session that was made can be deleted.
    pub fn learn(&mut self, request: &Request, answer: &Result<Answer, Failure>) {
        let (Kind::AddSession, Ok(answer)) = (request.kind, answer) else {
            return;
        };
        let made = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
        if self.made.len() < MAX_MADE {
            self.made.extend(made["id"].as_u64());
        }
    }
}

fn get(kind: Kind, path: String) -> Request {
    Request {
        kind,
        method: Method::GET,
        path,
        body: String::new(),
    }
}

fn post(kind: Kind, path: &str, body: String) -> Request {
    Request {
        kind,
        method: Method::POST,
        path: path.to_owned(),
        body,
    }
}

impl Request {
    /// Why an answer is not good; `None` if it is. Some sessions of the data
    /// have no customer or no movie, as the application ships, and are not
    /// found.
    pub fn problem(&self, answer: &Result<Answer, Failure>) -> Option<String> {
        match answer {
            Ok(answer) if answer.status < 400 => None,
            Ok(answer) if answer.status == 404 && self.kind == Kind::Session => None,
            Ok(answer) => Some(format!("status {}", answer.status)),
            Err(failure) => Some(failure.to_string()),
        }
    }
}

/// The kind of the nth request.
fn pick(number: u64) -> Kind {
    let total: u64 = MIX.iter().map(|(_, share)| share).sum();
    let mut left = scatter(number ^ 0xA5A5) % total;
    for &(kind, share) in MIX {
        match left.checked_sub(share) {
            None => return kind,
            Some(rest) => left = rest,
        }
    }
    unreachable!("the rest of a division is less than the divisor")
}

/// Numbers all over the place for numbers in a row: splitmix64's last step.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::demo::scale::Scale;

    fn script() -> Script {
        Script::new(Scale::Tiny.rows())
    }

    fn make(script: &mut Script, id: u64) {
        let request = post(Kind::AddSession, "/api/session", String::new());
        let answer = Answer {
            status: 200,
            body: format!("{{\"id\":{id}}}").into(),
        };
        script.learn(&request, &Ok(answer));
    }

    #[test]
    fn shares_are_of_a_hundred_and_kept() {
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u64>(), 100);
        for &(kind, share) in MIX {
            let picked = (0..10_000).filter(|&number| pick(number) == kind).count();
            let expected = share as usize * 100;
            assert!(
                picked.abs_diff(expected) < expected / 3 + 30,
                "{kind:?}: {picked}"
            );
        }
    }

    #[test]
    fn ids_lie_within_the_data_and_operations_are_harmless() {
        let mut script = script();
        for _ in 0..5000 {
            let Request {
                kind, path, body, ..
            } = script.next();
            let id = || {
                path.rsplit('/')
                    .next()
                    .and_then(|id| id.parse::<u32>().ok())
                    .expect("an id")
            };
            match kind {
                Kind::Movie => assert!((1..=29).contains(&id())),
                Kind::Customer => assert!((1..=500).contains(&id())),
                Kind::Session => assert!((1..=5000).contains(&id())),
                Kind::Operation => {
                    let read: serde_json::Value = serde_json::from_str(&body).expect("JSON");
                    assert!(read["operation"].as_u64().expect("a number") < 1 << 32);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn only_sessions_made_here_are_deleted() {
        let mut script = script();
        let deletes = |script: &mut Script| {
            (0..200)
                .map(|_| script.next())
                .filter(|it| it.method == Method::DELETE)
                .map(|it| it.path)
                .collect::<Vec<_>>()
        };
        assert!(deletes(&mut script).is_empty());
        make(&mut script, 7001);
        assert_eq!(deletes(&mut script), ["/api/session/7001"]);
        for id in 0..1000 {
            make(&mut script, id);
        }
        assert_eq!(script.made.len(), MAX_MADE);
    }

    #[test]
    fn a_broken_session_is_no_failure() {
        let not_found = Ok(Answer {
            status: 404,
            body: "not found".into(),
        });
        assert_eq!(get(Kind::Session, String::new()).problem(&not_found), None);
        let movie = get(Kind::Movie, String::new());
        assert_eq!(movie.problem(&not_found).as_deref(), Some("status 404"));
        assert_eq!(
            movie.problem(&Err(Failure::TimedOut)).as_deref(),
            Some("no answer in time")
        );
    }
}
