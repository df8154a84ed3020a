//! The checks, as one table.

mod abandoned;
mod balancing;
mod comeback;
mod faults;
mod graphs;
mod kept;
mod kills;
mod lists;
mod pool;
mod protocols;
mod reads;
mod seeding;
mod soak;
mod startup;
mod tester;
mod truth;
mod versions;
mod writes;

use std::pin::Pin;

use crate::load::Endpoint;
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::Stage;

/// One acceptance check.
pub(crate) struct Check {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    pub(crate) threshold: &'static str,
    pub(crate) run: fn(&mut Stage) -> Running<'_>,
}

/// A check under way.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Result<Vec<Finding>, Problem>> + 'a>>;

impl Check {
    /// Makes the check, up to `attempts` times until it passes. `say` is told
    /// what an attempt found that is not the last.
    pub(crate) async fn make(&self, stage: &mut Stage, say: impl Fn(&str)) -> Vec<Finding> {
        let attempts = stage.options.attempts;
        let mut attempt = 1;
        loop {
            let made = (self.run)(stage).await;
            let mut findings = made.unwrap_or_else(|it| Finding::whole(false, it.to_string()));
            let failed = findings.iter().filter(|it| it.made && !it.pass).cloned();
            let failed: Vec<_> = failed.map(|it| it.part + " " + &it.measured).collect();
            if failed.is_empty() || attempt == attempts {
                if attempt > 1 {
                    let told = findings.iter_mut();
                    told.for_each(|it| it.measured += &format!("; ATTEMPT {attempt}"));
                }
                return findings;
            }
            say(&format!(
                "{}, attempt {attempt}: {}",
                self.number,
                failed.join("; ")
            ));
            attempt += 1;
        }
    }
}

/// The limits of the single requests.
const QUICK: &str = "120 RPS: p90 < 400 ms, errors <= 1 %, uncached";

/// What a load must come to when a node fails.
const STRICT: &str = "0 errors but for writes at that node (and at 120 RPS shedding), nothing done twice, never under 60 RPS in 5 s";

/// Every check, in the order in which they are made: what looks back on the
/// others comes last.
#[rustfmt::skip]
pub(crate) const TABLE: &[Check] = &[
    Check {
        number: 1, title: "two nodes serve",
        threshold: "120 RPS: each 40 to 60 %",
        run: |stage| Box::pin(balancing::two_nodes(stage)),
    },
    Check {
        number: 2, title: "kill -9 of a node",
        threshold: STRICT,
        run: |stage| Box::pin(faults::kill(stage)),
    },
    Check {
        number: 3, title: "a node fails",
        threshold: STRICT,
        run: |stage| Box::pin(faults::break_down(stage)),
    },
    Check {
        number: 4, title: "a failed node is back",
        threshold: "answers again < 60 s after it failed",
        run: |stage| Box::pin(comeback::rotation(stage)),
    },
    Check {
        number: 5, title: "peak, mixed",
        threshold: "120 RPS: errors <= 1 %",
        run: |stage| Box::pin(balancing::peak(stage)),
    },
    Check {
        number: 6, title: "stable, mixed",
        threshold: "60 RPS: errors <= 1 %, memory and descriptors of pgweir within 5 % in the last half",
        run: |stage| Box::pin(soak::flat(stage)),
    },
    Check {
        number: 7, title: "POST /operation", threshold: QUICK,
        run: |stage| Box::pin(reads::quick(stage, Endpoint::Operation)),
    },
    Check {
        number: 8, title: "GET /db_dummy", threshold: QUICK,
        run: |stage| Box::pin(reads::quick(stage, Endpoint::DbDummy)),
    },
    Check {
        number: 9, title: "GET /api/movie/{id}", threshold: QUICK,
        run: |stage| Box::pin(reads::quick(stage, Endpoint::Movie)),
    },
    Check {
        number: 10, title: "GET /api/customer/{id}", threshold: QUICK,
        run: |stage| Box::pin(reads::quick(stage, Endpoint::Customer)),
    },
    Check {
        number: 11, title: "GET /api/session/{id}", threshold: QUICK,
        run: |stage| Box::pin(reads::quick(stage, Endpoint::Session)),
    },
    Check {
        number: 12, title: "GET /api/movie",
        threshold: "errors <= 1 %, uncached, all rows in order",
        run: |stage| Box::pin(lists::movies(stage)),
    },
    Check {
        number: 13, title: "GET /api/customer",
        threshold: "errors <= 1 %, uncached, min(100000, all) rows in order",
        run: |stage| Box::pin(lists::customers(stage)),
    },
    Check {
        number: 14, title: "GET /api/session",
        threshold: "errors <= 5 %, uncached, each < 20 s, min(100000, all) rows in order",
        run: |stage| Box::pin(lists::sessions(stage)),
    },
    Check {
        number: 15, title: "POST /api/session",
        threshold: "errors <= 1 %, uncached, each row present once",
        run: |stage| Box::pin(writes::add(stage)),
    },
    Check {
        number: 16, title: "DELETE /api/session/{id}",
        threshold: "errors <= 1 %, uncached, no row present, second GET 404",
        run: |stage| Box::pin(writes::delete(stage)),
    },
    Check {
        number: 19, title: "clocks of the nodes",
        threshold: "within 1 s",
        run: |stage| Box::pin(tester::clocks(stage)),
    },
    Check {
        number: 20, title: "student_email by /config",
        threshold: "the expected one",
        run: |stage| Box::pin(tester::email(stage)),
    },
    Check {
        number: 21, title: "GET /ping with a sick node",
        threshold: "always pong, sick node out of rotation < 2 s",
        run: |stage| Box::pin(balancing::sick(stage)),
    },
    Check {
        number: 22, title: "start of a node",
        threshold: "pong < 5 s after its start, < 40 s if its call is never answered",
        run: |stage| Box::pin(tester::start(stage)),
    },
    Check {
        number: 23, title: "https",
        threshold: "every endpoint by the certificate's name",
        run: |stage| Box::pin(versions::https(stage)),
    },
    Check {
        number: 25, title: "HTTP/3",
        threshold: "offered by alt-svc, answers as over TCP",
        run: |stage| Box::pin(versions::http3(stage)),
    },
    Check {
        number: 26, title: "GET /long_dummy, a node killed",
        threshold: "10 RPS: 75 % in < 1 s, none older than 60 s, errors <= 1 %",
        run: |stage| Box::pin(kept::long_dummy(stage)),
    },
    Check {
        number: 27, title: "graphs",
        threshold: "requests and errors of each route within 2 %, ids folded",
        run: |stage| Box::pin(graphs::agree(stage)),
    },
    Check {
        number: 28, title: "set up again",
        threshold: "exit code 0, nothing changed",
        run: |stage| Box::pin(tester::again(stage)),
    },
    Check {
        number: 29, title: "db_dummy over 1000 idle clients",
        threshold: "120 RPS: p90 < 400 ms, servers <= pool of 20, clients > 1000",
        run: |stage| Box::pin(pool::bounded(stage)),
    },
    Check {
        number: 30, title: "1000 connects at once",
        threshold: "all logged in < 2 s, none refused",
        run: |stage| Box::pin(pool::flood(stage)),
    },
    Check {
        number: 31, title: "checks 7 to 16 by protocol",
        threshold: "as those",
        run: |stage| Box::pin(protocols::each(stage)),
    },
    Check {
        number: 32, title: "prepare_db through pgweir",
        threshold: "same rows, <= 15 % slower than direct",
        run: |stage| Box::pin(seeding::slowdown(stage)),
    },
    Check {
        number: 33, title: "start-up migration, two instances",
        threshold: "everything once; reads never blocked > 1 s",
        run: |stage| Box::pin(startup::together(stage)),
    },
    Check {
        number: 34, title: "abandoned 20 s query",
        threshold: "server free < 1 s, nobody sees its rows",
        run: |stage| Box::pin(abandoned::reusable(stage)),
    },
    Check {
        number: 35, title: "poison is contained",
        threshold: "one node dies, nobody else sees an error",
        run: |stage| Box::pin(comeback::poison(stage)),
    },
    Check {
        number: 36, title: "a node does not answer",
        threshold: STRICT,
        run: |stage| Box::pin(faults::stop(stage)),
    },
    Check {
        number: 37, title: "a node is cut off",
        threshold: STRICT,
        run: |stage| Box::pin(faults::cut(stage)),
    },
    Check {
        number: 38, title: "a node dies every 6 s",
        threshold: STRICT,
        run: |stage| Box::pin(faults::flap(stage)),
    },
    Check {
        number: 39, title: "many kills at 120 RPS",
        threshold: "0 errors but for writes at that node, nothing done twice",
        run: |stage| Box::pin(kills::many(stage)),
    },
    Check {
        number: 40, title: "kills behind a link that loses 5 %",
        threshold: "60 RPS: 0 errors but for writes at that node, nothing done twice",
        run: |stage| Box::pin(kills::lossy(stage)),
    },
    Check {
        number: 41, title: "GET /long_dummy, many deaths",
        threshold: "10 RPS: 0 errors, none older than 60 s, < 1 s after the first, nothing else kept",
        run: |stage| Box::pin(soak::kept(stage)),
    },
    Check {
        number: 17, title: "uncached, all loads",
        threshold: "nodes counted what was sent, time within 2 s",
        run: |stage| Box::pin(truth::uncached(stage)),
    },
    Check {
        number: 24, title: "http without redirects",
        threshold: "every endpoint by itself, no 3xx in all loads",
        run: |stage| Box::pin(versions::no_redirects(stage)),
    },
    Check {
        number: 18, title: "seed data intact",
        threshold: "rows and checksums as before",
        run: |stage| Box::pin(truth::intact(stage)),
    },
];
