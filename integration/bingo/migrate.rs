//! The tables, and the record of how far they are filled.
//!
//! `schema_migrations` has the layout of a common Go migration library. Its one
//! row is `(1, dirty)`: dirty from before the first row is loaded until the last
//! one is counted, so that a killed seeding never looks complete.

use std::time::Duration;

use crate::db::{Connection, DbError, Value};
use crate::generator::TABLES;
use crate::log::{self, Log};

/// The session-level advisory lock held while the tables are made: "bingo".
const LOCK: i64 = 0x62_69_6e_67_6f;

/// How long to wait for that lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

const CREATE_RECORD: &str = "CREATE TABLE IF NOT EXISTS schema_migrations \
     (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)";

/// No keys, no indexes: as the original leaves them.
const CREATE: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS customers (id serial NOT NULL, name varchar(80) NOT NULL, \
     surname varchar(80) NOT NULL, birthday date NOT NULL, email varchar(256) NOT NULL)",
    "CREATE TABLE IF NOT EXISTS movies (id serial NOT NULL, name varchar(256) NOT NULL, \
     year integer NOT NULL, duration integer NOT NULL)",
    "CREATE TABLE IF NOT EXISTS sessions (id bigserial NOT NULL, \
     start_time timestamp without time zone NOT NULL, \
     customer_id integer NOT NULL, movie_id integer NOT NULL)",
];

/// Keeps whatever indexes others have made.
const EMPTY: &str = "TRUNCATE customers, movies, sessions RESTART IDENTITY";

/// What the database holds before seeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// None of the tables: they are made now.
    Nothing,
    /// The remains of a seeding that did not end: the tables are emptied.
    Part,
    /// Everything: nothing is changed.
    All,
}

/// Makes the tables, empty, unless they are complete.
///
/// # Errors
/// Says what the database refused, or why its contents are left alone.
pub(crate) async fn migrate(
    connection: &mut Connection,
    lock: bool,
    log: &Log,
) -> Result<Found, String> {
    log.info(log::MIGRATING, &[]);
    if lock {
        let wait = connection.execute("SELECT pg_advisory_lock($1)", &[Value::Int(LOCK)]);
        tokio::time::timeout(LOCK_TIMEOUT, wait)
            .await
            .map_err(|_| "can't acquire database lock: another migration holds it")?
            .map_err(text)?;
    }
    let found = make_tables(connection).await;
    if lock {
        // The answer is not looked at, as in the original's library: behind a
        // transaction pooler another server may hold the lock.
        let unlock = connection.execute("SELECT pg_advisory_unlock($1)", &[Value::Int(LOCK)]);
        unlock.await.map_err(text)?;
    }
    let found = found?;
    log.info(log::MIGRATED, &[]);
    Ok(found)
}

/// Records that the data are complete.
pub(crate) async fn complete(connection: &mut Connection) -> Result<(), String> {
    let update = "UPDATE schema_migrations SET dirty = false WHERE version = 1";
    connection
        .execute(update, &[])
        .await
        .map(|_| ())
        .map_err(text)
}

async fn make_tables(connection: &mut Connection) -> Result<Found, String> {
    connection.execute(CREATE_RECORD, &[]).await.map_err(text)?;
    let found = judge(&look(connection).await.map_err(text)?)?;
    if found != Found::All {
        connection.batch("BEGIN").await.map_err(text)?;
        let made = make(connection).await;
        connection
            .batch(if made.is_ok() { "COMMIT" } else { "ROLLBACK" })
            .await
            .map_err(text)?;
        made.map_err(text)?;
    }
    Ok(found)
}

async fn make(connection: &mut Connection) -> Result<(), DbError> {
    for table in CREATE {
        connection.execute(table, &[]).await?;
    }
    connection.execute(EMPTY, &[]).await?;
    connection
        .execute("TRUNCATE schema_migrations", &[])
        .await?;
    let record = "INSERT INTO schema_migrations (version, dirty) VALUES (1, true)";
    connection.execute(record, &[]).await.map(|_| ())
}

/// What is in the database.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// Of the three tables: how many exist, and how many of those have rows.
    tables: usize,
    filled: usize,
    /// The record's `dirty`, if there is a record.
    dirty: Option<bool>,
}

async fn look(connection: &mut Connection) -> Result<Facts, DbError> {
    let mut facts = Facts {
        tables: 0,
        filled: 0,
        dirty: None,
    };
    for table in &TABLES {
        let exists = format!("SELECT to_regclass('{}') IS NOT NULL", table.name);
        if is_true(connection, &exists).await? == Some(true) {
            facts.tables += 1;
            let filled = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            facts.filled += usize::from(is_true(connection, &filled).await? == Some(true));
        }
    }
    let dirty = "SELECT dirty FROM schema_migrations ORDER BY version DESC LIMIT 1";
    facts.dirty = is_true(connection, dirty).await?;
    Ok(facts)
}

/// The boolean that a query answers, if it answers a row.
async fn is_true(connection: &mut Connection, sql: &str) -> Result<Option<bool>, DbError> {
    let mut answer = None;
    let mut take = |row: crate::db::Row<'_>| {
        answer = row.text(0)?.map(|text| text == "t");
        Ok(())
    };
    connection.query(sql, &[], &mut take).await?;
    Ok(answer)
}

fn judge(facts: &Facts) -> Result<Found, String> {
    let all = TABLES.len();
    match facts {
        Facts { tables: 0, .. } => Ok(Found::Nothing),
        Facts {
            filled,
            dirty: Some(false),
            ..
        } if *filled == all => Ok(Found::All),
        Facts {
            filled: 1..,
            dirty: None,
            ..
        } => Err(
            "the tables hold rows that schema_migrations knows nothing of; \
             drop the tables, or insert (1, false) there to keep them"
                .into(),
        ),
        _ => Ok(Found::Part),
    }
}

fn text(error: DbError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(tables: usize, filled: usize, dirty: Option<bool>) -> Result<Found, String> {
        judge(&Facts {
            tables,
            filled,
            dirty,
        })
    }

    #[test]
    fn without_tables_everything_is_made() {
        assert_eq!(judged(0, 0, None), Ok(Found::Nothing));
        assert_eq!(judged(0, 0, Some(false)), Ok(Found::Nothing));
    }

    #[test]
    fn a_finished_seeding_is_left_alone() {
        assert_eq!(judged(3, 3, Some(false)), Ok(Found::All));
    }

    #[test]
    fn a_killed_seeding_is_not_complete() {
        assert_eq!(judged(3, 3, Some(true)), Ok(Found::Part));
        assert_eq!(judged(3, 0, Some(true)), Ok(Found::Part));
    }

    #[test]
    fn a_lost_or_emptied_table_is_not_complete() {
        assert_eq!(judged(2, 2, Some(false)), Ok(Found::Part));
        assert_eq!(judged(3, 2, Some(false)), Ok(Found::Part));
    }

    #[test]
    fn rows_of_unknown_origin_are_not_touched() {
        assert!(judged(3, 3, None).is_err());
        assert_eq!(judged(3, 0, None), Ok(Found::Part));
    }
}
