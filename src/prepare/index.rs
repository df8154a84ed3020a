//! Indexes whose build was cut short.
//!
//! `CREATE INDEX CONCURRENTLY` that dies half-way leaves an index that is
//! invalid: written to, never read, and in the way of the next attempt
//! (PostgreSQL manual, "Building Indexes Concurrently").

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::connect::{Server, Session, Value};
use super::create_index::CreateIndex;
use super::error::{Error, ours};
use super::progress::{Event, Progress, Wait};
use super::watch::watched;

const DURING: &str = "looking for invalid indexes";

/// Time between two looks at a build of somebody else.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The index of that name on that table. A partitioned index (kind `I`) is
/// left out: it is invalid by design until all its parts are attached.
const FIND: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), i.indisvalid,
           EXISTS (
               SELECT 1 FROM pg_catalog.pg_stat_progress_create_index p
               JOIN pg_catalog.pg_locks l ON l.pid = p.pid
               WHERE l.relation = i.indrelid AND l.granted AND l.mode = 'ShareUpdateExclusiveLock'
           )
    FROM pg_catalog.pg_class t
    JOIN pg_catalog.pg_class c ON c.relnamespace = t.relnamespace AND c.relname = $1 AND c.relkind = 'i'
    JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid AND i.indrelid = t.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE t.oid = pg_catalog.to_regclass($2)";

/// An index as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Schema and name, quoted for SQL.
    pub(super) name: String,
    /// Complete and in use.
    pub(super) valid: bool,
    /// Somebody builds an index of its table this moment.
    building: bool,
}

/// Looks an index up. Takes no lock on the table.
pub(super) async fn find(session: &Session, index: &CreateIndex) -> Result<Option<Found>, Error> {
    let by: [Value<'_>; 2] = [(&index.name, Type::TEXT), (&index.table, Type::TEXT)];
    let rows = session.query(FIND, &by, DURING).await?;
    rows.first().map(found).transpose().map_err(ours(DURING))
}

fn found(row: &Row) -> Result<Found, tokio_postgres::Error> {
    let (name, valid, building) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Found {
        name,
        valid,
        building,
    })
}

/// The index if it is there and invalid.
pub(super) async fn invalid(
    session: &Session,
    index: &CreateIndex,
) -> Result<Option<Found>, Error> {
    Ok(find(session, index).await?.filter(|found| !found.valid))
}

/// Drops the index if it is invalid; says whether it did. An index that
/// somebody is building just now is waited for instead.
///
/// `DROP INDEX CONCURRENTLY` lets reads and writes of the table go on, and
/// waits for as long as transactions use it.
pub(super) async fn drop_invalid(
    server: &Server,
    session: &Session,
    index: &CreateIndex,
    migration: &str,
    progress: &dyn Progress,
) -> Result<Option<String>, Error> {
    let mut wait = Wait::new();
    let found = loop {
        let Some(found) = invalid(session, index).await? else {
            return Ok(None);
        };
        if !found.building {
            break found;
        }
        if let Some(elapsed) = wait.due() {
            let doing = format!(
                "another session builds an index of {}, waiting for its end",
                index.table
            );
            progress.tell(&Event::Running {
                migration: migration.to_owned(),
                doing,
                percent: None,
                elapsed,
            });
        }
        sleep(LOOK_EVERY).await;
    };
    session.set_lock_timeout(None).await?;
    let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", found.name);
    let dropped = session.client().batch_execute(&sql);
    let dropped = watched(server, session.pid, migration, progress, dropped).await;
    dropped.map_err(ours("dropping an invalid index"))?;
    session
        .set_lock_timeout(Some(session.lock_timeout()))
        .await?;
    Ok(Some(found.name))
}
