//! One instance prepares a database at a time.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::types::Type;

use super::connect::{Server, Session};
use super::error::Error;
use super::ledger::{self, State};
use super::progress::{Event, Progress, Wait};
use super::watch;

/// Key of the session-level advisory lock, `pg_advisory_lock(KEY)`: the bytes
/// of `pgweir`, then 1. In `pg_locks` it is `classid` 1885828965, `objid`
/// 1769078785, `objsubid` 1. Advisory locks belong to one database, so
/// different databases of a server are prepared independently.
pub const LOCK_KEY: i64 = 0x7067_7765_6972_0001;

/// Time between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(250);

/// Waits for the lock and takes it. It is held until `session` ends, and so is
/// released by the death of this process, of the connection or of the server.
///
/// The wait asks again and again instead of waiting inside the server: a
/// statement that waits there holds a snapshot, for whose end the other
/// instance's `CREATE INDEX CONCURRENTLY` would wait in turn.
pub(super) async fn acquire(
    server: &Server,
    session: &Session,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut wait = Wait::new();
    while !try_acquire(session).await? {
        if let Some(elapsed) = wait.due() {
            let other = other(server, session).await?;
            progress.tell(&Event::WaitingForOther { other, elapsed });
        }
        sleep(TRY_EVERY).await;
    }
    Ok(())
}

/// What the other instance is at: the ledger's word, if it has one, and what its
/// backend does.
async fn other(server: &Server, session: &Session) -> Result<String, Error> {
    let rows = ledger::read(session).await?;
    let running = rows.into_iter().find(|row| row.state == State::Running);
    let running = running.map_or_else(String::new, |row| {
        format!("{} since {} ({}), ", row.name, row.started, row.who)
    });
    Ok(running + &watch::holder(server, LOCK_KEY).await)
}

async fn try_acquire(session: &Session) -> Result<bool, Error> {
    const SQL: &str = "SELECT pg_catalog.pg_try_advisory_lock($1)";
    session
        .value(SQL, &[(&LOCK_KEY, Type::INT8)], "waiting for the lock")
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_its_documentation_says() {
        assert_eq!(&LOCK_KEY.to_be_bytes(), b"pgweir\0\x01");
        assert_eq!(
            (LOCK_KEY >> 32, LOCK_KEY & 0xffff_ffff),
            (1_885_828_965, 1_769_078_785)
        );
    }
}
