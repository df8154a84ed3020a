//! The databases, and what is in them.

use std::collections::BTreeSet;
use std::fmt;

use tokio_postgres::Client;

use super::postgres::{Postgres, USER};
use super::{DATABASE, SLOW_DATABASE};
use crate::load::{Facts, OURS_SINCE};
use crate::problem::{During, Problem};

const TABLES: [&str; 3] = ["customers", "movies", "sessions"];

/// The list of sessions takes 20 s there, whatever the scale.
const SLOW_TABLES: &str = "
    CREATE TABLE movies (id integer, name varchar(256), year integer, duration integer);
    INSERT INTO movies VALUES (1, 'only movie', 2000, 90);
    CREATE TABLE customers (id integer, name varchar(80), surname varchar(80), birthday date, email varchar(256));
    INSERT INTO customers VALUES (1, 'n', 's', '2000-01-01', 'e');
    CREATE VIEW sessions AS
        SELECT 1::bigint AS id, timestamp '2000-01-01' AS start_time, 1 AS customer_id, 1 AS movie_id
        FROM pg_sleep(20);
";

/// Makes the databases that are there from the start: the application's, and
/// the slow one anew.
pub(crate) async fn make_databases(postgres: &Postgres) -> Result<(), Problem> {
    postgres.make_database(DATABASE).await?;
    postgres.drop_database(SLOW_DATABASE).await?;
    postgres.make_database(SLOW_DATABASE).await?;
    let session = postgres.session(SLOW_DATABASE).await?;
    let tables = format!("SET ROLE {USER}; {SLOW_TABLES}");
    session.batch_execute(&tables).await.during(SLOW_DATABASE)
}

/// What requests are made of.
pub(crate) async fn facts(session: &Client) -> Result<Facts, Problem> {
    let broken = "SELECT s.id FROM sessions s
        LEFT JOIN customers c ON c.id = s.customer_id LEFT JOIN movies m ON m.id = s.movie_id
        WHERE c.id IS NULL OR m.id IS NULL";
    let broken = session.query(broken, &[]).await.during("broken sessions")?;
    Ok(Facts {
        movies: count(session, "movies").await?,
        customers: count(session, "customers").await?,
        sessions: count(session, "sessions").await?,
        broken: broken
            .iter()
            .map(|row| row.get(0))
            .collect::<BTreeSet<i64>>(),
    })
}

async fn count(session: &Client, table: &str) -> Result<i64, Problem> {
    let sql = format!("SELECT count(*) FROM {table}");
    let row = session.query_one(&sql, &[]).await.during(&sql)?;
    Ok(row.get(0))
}

/// Rows and contents of the three tables, whatever the order of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    tables: Vec<(&'static str, i64, String)>,
    /// Sessions that point to no customer or no movie.
    broken: i64,
}

impl Fingerprint {
    /// Rows of all three tables.
    pub(crate) fn count(&self) -> i64 {
        self.tables.iter().map(|(_, rows, _)| rows).sum()
    }

    /// One with so many rows.
    #[cfg(test)]
    pub(crate) fn sample(rows: i64) -> Fingerprint {
        Fingerprint {
            tables: vec![("customers", rows, "0".to_owned())],
            broken: 0,
        }
    }
}

/// Reads all of the three tables.
pub(crate) async fn fingerprint(session: &Client) -> Result<Fingerprint, Problem> {
    let mut tables = Vec::new();
    for table in TABLES {
        let sql = format!(
            "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} t"
        );
        let row = session.query_one(&sql, &[]).await.during(&sql)?;
        tables.push((table, row.get(0), row.get(1)));
    }
    let sql = "SELECT count(*) FROM sessions WHERE customer_id <= 0 OR movie_id <= 0";
    let broken = session.query_one(sql, &[]).await.during(sql)?.get(0);
    Ok(Fingerprint { tables, broken })
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, rows, sum) in &self.tables {
            // Enough to tell two sums apart at a glance.
            let tail = &sum[sum.len().saturating_sub(6)..];
            write!(f, "{table} {rows} (..{tail}), ")?;
        }
        write!(f, "{} broken", self.broken)
    }
}

/// Sessions added by this program that are there, and by how many different
/// requests.
pub(crate) async fn added(session: &Client) -> Result<(i64, i64), Problem> {
    let sql = format!(
        "SELECT count(*), count(DISTINCT start_time) FROM sessions WHERE start_time >= '{OURS_SINCE}'"
    );
    let row = session.query_one(&sql, &[]).await.during(&sql)?;
    Ok((row.get(0), row.get(1)))
}

/// Adds so many sessions; their ids.
pub(crate) async fn add_some(session: &Client, count: usize) -> Result<Vec<i64>, Problem> {
    let sql = format!(
        "INSERT INTO sessions (start_time, customer_id, movie_id)
        SELECT '{OURS_SINCE}'::timestamp + interval '10 years'
            + interval '1 ms' * (extract(epoch FROM now())::bigint % 1000000 * 1000 + n), 1, 1
        FROM generate_series(1, $1::bigint) n RETURNING id"
    );
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let rows = session.query(&sql, &[&count]).await.during(&sql)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Removes them; how many there were.
pub(crate) async fn remove_added(session: &Client) -> Result<u64, Problem> {
    let sql = format!("DELETE FROM sessions WHERE start_time >= '{OURS_SINCE}'");
    session.execute(&sql, &[]).await.during(&sql)
}
