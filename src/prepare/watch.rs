//! Looking at what a backend does, on a second connection.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, interval_at, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::connect::Server;
use super::progress::{Event, Progress, percent};

/// When a statement is first talked about, and how often then.
const FIRST: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(2);
/// Time for one look.
const LOOK: Duration = Duration::from_secs(1);

/// Runs `work`, done by backend `pid`, and tells what that backend is at.
pub(super) async fn watched<T>(
    server: &Server,
    pid: i32,
    migration: &str,
    progress: &dyn Progress,
    work: impl Future<Output = T>,
) -> T {
    let started = Instant::now();
    let mut ticks = interval_at(started + FIRST, EVERY);
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => {
                let seen = look(server, ACTIVITY, &[(&pid, Type::INT4)]).await;
                let (doing, percent) = seen.map_or_else(unseen, |a| a.describe());
                let (migration, elapsed) = (migration.to_owned(), started.elapsed());
                progress.tell(&Event::Running { migration, doing, percent, elapsed });
            }
        }
    }
}

/// Who holds the advisory lock `key`, and what it does, for people.
pub(super) async fn holder(server: &Server, key: i64) -> String {
    let Some(holder) = look(server, HOLDER, &[(&key, Type::INT8)]).await else {
        return unseen().0;
    };
    let (doing, percent) = holder.describe();
    let percent = percent.map_or_else(String::new, |p| format!(" {p} %"));
    format!(
        "backend {} of {} at {}: {doing}{percent}",
        holder.pid, holder.application, holder.address
    )
}

fn unseen() -> (String, Option<u8>) {
    ("running".to_owned(), None)
}

/// One row: a backend and, if it builds an index, how far that is.
macro_rules! activity {
    () => {
        "SELECT a.pid, COALESCE(a.application_name, '?'), COALESCE(pg_catalog.host(a.client_addr), 'a local socket'),
                COALESCE(a.state, 'working'), COALESCE(a.wait_event_type = 'Lock', false),
                CASE WHEN a.wait_event_type = 'Lock' THEN pg_catalog.pg_blocking_pids(a.pid) END,
                p.phase, p.lockers_total, p.lockers_done, p.current_locker_pid,
                p.blocks_total, p.blocks_done, p.tuples_total, p.tuples_done
         FROM pg_catalog.pg_stat_activity a
         LEFT JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = a.pid"
    };
}

const ACTIVITY: &str = concat!(activity!(), " WHERE a.pid = $1");

const HOLDER: &str = concat!(
    activity!(),
    " JOIN pg_catalog.pg_locks l ON l.pid = a.pid
      JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
      WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
        AND (l.classid::int8 << 32) + l.objid::int8 = $1"
);

/// One look. `None`: nothing to see, or no connection to see it with.
async fn look(server: &Server, sql: &str, of: &[(&(dyn ToSql + Sync), Type)]) -> Option<Activity> {
    let look = async {
        let connection = server.watcher().await.ok()?;
        let row = connection.query_typed_opt(sql, of).await.ok()??;
        Activity::read(&row).ok()
    };
    timeout(LOOK, look).await.ok()?
}

/// What a backend does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Activity {
    pid: i32,
    application: String,
    address: String,
    state: String,
    waits: bool,
    blockers: Vec<i32>,
    build: Option<Build>,
}

/// How far an index build is (`pg_stat_progress_create_index`). A column is
/// 0 where the phase does not use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Build {
    phase: String,
    lockers: (i64, i64),
    locker: i64,
    blocks: (i64, i64),
    tuples: (i64, i64),
}

impl Activity {
    fn read(row: &Row) -> Result<Activity, tokio_postgres::Error> {
        let number = |column| {
            row.try_get::<_, Option<i64>>(column)
                .map(Option::unwrap_or_default)
        };
        let build = match row.try_get::<_, Option<String>>(6)? {
            None => None,
            Some(phase) => Some(Build {
                phase,
                lockers: (number(8)?, number(7)?),
                locker: number(9)?,
                blocks: (number(11)?, number(10)?),
                tuples: (number(13)?, number(12)?),
            }),
        };
        Ok(Activity {
            pid: row.try_get(0)?,
            application: row.try_get(1)?,
            address: row.try_get(2)?,
            state: row.try_get(3)?,
            waits: row.try_get(4)?,
            blockers: row.try_get::<_, Option<_>>(5)?.unwrap_or_default(),
            build,
        })
    }

    /// In words, and how far the present phase is.
    fn describe(&self) -> (String, Option<u8>) {
        match &self.build {
            Some(build) => build.describe(),
            None if self.waits => (
                format!(
                    "waiting for a lock held by backend {}",
                    list(&self.blockers)
                ),
                None,
            ),
            None if self.state == "active" => ("running".to_owned(), None),
            None => (self.state.clone(), None),
        }
    }
}

impl Build {
    fn describe(&self) -> (String, Option<u8>) {
        let (done, total) = self.lockers;
        if self.phase.starts_with("waiting") {
            let on = format!(
                "{} ({done} of {total} gone, now backend {})",
                self.phase, self.locker
            );
            return (on, None);
        }
        // The columns of earlier phases keep their last values.
        let (done, total) = if self.phase.contains("tuples") {
            self.tuples
        } else {
            self.blocks
        };
        let natural = |n: i64| u64::try_from(n).unwrap_or(0);
        let share = (total > 0).then(|| percent(natural(done), natural(total)));
        (
            self.phase.clone(),
            share.filter(|_| !self.phase.contains("sorting")),
        )
    }
}

fn list(pids: &[i32]) -> String {
    pids.iter()
        .map(i32::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(phase: &str) -> (String, Option<u8>) {
        let (lockers, blocks, tuples) = ((1, 3), (50, 200), (9, 10));
        let build = Build {
            phase: phase.to_owned(),
            lockers,
            locker: 77,
            blocks,
            tuples,
        };
        Activity {
            build: Some(build),
            ..Activity::default()
        }
        .describe()
    }

    #[test]
    fn each_phase_is_measured_by_its_own_columns() {
        assert_eq!(phase("building index: scanning table").1, Some(25));
        assert_eq!(phase("index validation: scanning table").1, Some(25));
        assert_eq!(phase("building index: loading tuples in tree").1, Some(90));
        assert_eq!(phase("building index: sorting live tuples").1, None);
    }

    #[test]
    fn a_wait_names_the_backend_waited_for() {
        let (doing, percent) = phase("waiting for old snapshots");
        assert_eq!(
            doing,
            "waiting for old snapshots (1 of 3 gone, now backend 77)"
        );
        assert_eq!(percent, None);
    }

    #[test]
    fn a_lock_wait_names_its_holders() {
        let activity = Activity {
            waits: true,
            blockers: vec![4, 5],
            ..Activity::default()
        };
        assert_eq!(
            activity.describe().0,
            "waiting for a lock held by backend 4, 5"
        );
    }
}
