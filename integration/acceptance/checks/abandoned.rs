//! Queries whose client has gone: 34.
//!
//! Everything happens on a database with a pool of one server, so whoever
//! comes next gets the server of the abandoned query, or waits for it.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::load::{Ask, Endpoint, Outcome, Site, call};
use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{Node, SLOW_DATABASE, Spec, Stage, TIMEOUT, USER, connect, login};

/// How soon the server has to be free.
const FREE: Duration = Duration::from_secs(1);

/// The application's budget here. Shorter than the second it gives its own
/// look at the node, which waits for the same server.
const BUDGET: Duration = Duration::from_millis(500);

/// Clients that look whether they get rows of another.
const LATER_CLIENTS: usize = 50;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Check 34: a client that goes, and the application by its budget, which
/// closes the socket or asks to cancel first.
pub(crate) async fn reusable(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    Ok(vec![
        client_leaves(stage).await?,
        budget_ends(stage, "drop").await?,
        budget_ends(stage, "cancel").await?,
    ])
}

async fn client_leaves(stage: &mut Stage) -> Result<Finding, Problem> {
    let pooler = stage.pgweir.plan.pooler_port;
    let watcher = stage.postgres.session("postgres").await?;
    let (client, wire) = login(pooler, USER, SLOW_DATABASE).await?;
    let wire = tokio::spawn(wire);
    let asking =
        tokio::spawn(async move { client.query("SELECT pg_sleep(20), 'secret'", &[]).await });
    let slow = slow_query(&watcher).await?;
    // The socket is closed, nothing is said.
    wire.abort();
    let _ = wire.await;
    let gone = Instant::now();
    asking.abort();
    let (free, served) = tokio::join!(slow.ends(&watcher, gone), later_clients(pooler, gone));
    Ok(judge("a client leaves", free?, served?))
}

/// What came after the query was given up.
struct Served {
    /// How long the first one waited for an answer.
    first: Duration,
    /// Answers that were not the right ones.
    wrong: usize,
}

/// Clients one after the other, each asking for a text of its own.
async fn later_clients(pooler: u16, gone: Instant) -> Result<Served, Problem> {
    let mut served = Served {
        first: Duration::ZERO,
        wrong: 0,
    };
    for number in 0..LATER_CLIENTS {
        let client = connect(pooler, USER, SLOW_DATABASE).await?;
        let own = format!("mine {number}");
        let sql = format!("SELECT '{own}'");
        let rows = client.query(&sql, &[]).await.during(&sql)?;
        let texts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        served.wrong += usize::from(texts != [own]);
        if number == 0 {
            served.first = gone.elapsed();
        }
    }
    Ok(served)
}

async fn budget_ends(stage: &mut Stage, abandon: &'static str) -> Result<Finding, Problem> {
    let watcher = stage.postgres.session("postgres").await?;
    let port = stage.shop.ports.port(0)?;
    let mut spec: Spec = stage.spec(&format!("node-{abandon}"), port, SLOW_DATABASE);
    spec.switches = [
        ("BUDGET", format!("{}ms", BUDGET.as_millis())),
        ("ABANDON", abandon.to_owned()),
    ]
    .into();
    let node = Node::start(spec).await?;
    let site = node.site();
    let ask = Ask::of(Endpoint::Sessions);
    let (given_up, slow) = tokio::join!(call(&site, &ask, TIMEOUT), slow_query(&watcher));
    let (gone, slow) = (Instant::now(), slow?);
    if given_up.0.outcome != Outcome::Status(500) {
        let text = format!("the slow list was answered with {:?}", given_up.0.outcome);
        return Ok(Finding::part(format!("bingo, {abandon}"), false, text));
    }
    let (free, served) = tokio::join!(slow.ends(&watcher, gone), later_requests(&site, gone));
    Ok(judge(&format!("bingo, {abandon}"), free?, served))
}

/// Requests one after the other for the only movie.
async fn later_requests(site: &Site, gone: Instant) -> Served {
    const MOVIE: &[u8] = br#"{"id":1,"name":"only movie","year":2000,"duration":90}"#;
    let ask = Ask::by_id(Endpoint::Movie, 1);
    let mut served = Served {
        first: Duration::ZERO,
        wrong: 0,
    };
    for number in 0..LATER_CLIENTS {
        let (sample, body) = call(site, &ask, TIMEOUT).await;
        served.wrong += usize::from(!sample.is_served() || body != MOVIE);
        if number == 0 {
            served.first = gone.elapsed();
        }
    }
    served
}

fn judge(part: &str, free: Duration, served: Served) -> Finding {
    let pass = free < FREE && served.first < FREE && served.wrong == 0;
    let measured = format!(
        "query over after {:.3} s, next client served after {:.3} s, {} of {LATER_CLIENTS} answers wrong",
        free.as_secs_f64(),
        served.first.as_secs_f64(),
        served.wrong
    );
    Finding::part(part, pass, measured)
}

/// A query that runs in the slow database.
struct Slow {
    pid: i32,
    /// Tells it from a later one of the same server.
    start: String,
}

const RUNNING: &str = "SELECT pid, query_start::text FROM pg_stat_activity
    WHERE datname = 'bingo_slow' AND backend_type = 'client backend' AND state = 'active'
    AND clock_timestamp() - query_start > interval '200 ms'";

/// Waits until there is one.
async fn slow_query(watcher: &Client) -> Result<Slow, Problem> {
    let begun = Instant::now();
    loop {
        let rows = watcher.query(RUNNING, &[]).await.during(RUNNING)?;
        if let Some(row) = rows.first() {
            let (pid, start) = (row.get(0), row.get(1));
            return Ok(Slow { pid, start });
        }
        if begun.elapsed() > TIMEOUT {
            return Err(Problem::new("the slow query does not run"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Slow {
    /// Waits until it is over; how long that took from `since`.
    async fn ends(&self, watcher: &Client, since: Instant) -> Result<Duration, Problem> {
        loop {
            let rows = watcher.query(RUNNING, &[]).await.during(RUNNING)?;
            let is_it = |row: &tokio_postgres::Row| {
                row.get::<_, i32>(0) == self.pid && row.get::<_, String>(1) == self.start
            };
            if !rows.iter().any(is_it) {
                return Ok(since.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
