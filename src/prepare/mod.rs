//! Seeding and migrations, once at startup.
//!
//! 1. Wait for the server, at most `wait_timeout`.
//! 2. If the ledger, the table `pgweir.migrations`, says that everything is
//!    done, end here: no lock is taken, nothing is written.
//! 3. Otherwise take the advisory lock [`LOCK_KEY`]. Another instance that
//!    works at the same time is waited for.
//! 4. Run the `seed` command, unless it finished before or was never run and
//!    the `unless` query is true.
//! 5. Apply the files `NNN_name.sql` that are not applied yet, in order: each
//!    in one transaction together with its ledger row, or, if it says
//!    `-- pgweir: no-transaction`, statement by statement.
//!
//! Everything runs in one session, the one that holds the lock. A crash at any
//! point, of this process, of the connection or of the server, leaves a state
//! the next start goes on from: a transaction is undone; a file without one
//! goes on at the statement the ledger names; a half-built index is dropped and
//! built again; an unfinished seeding is run again. Dropping the future is no
//! worse than a crash, and takes the seeding command along.
//!
//! Reads are not blocked longer than `lock_timeout` at a time: a statement that
//! does not get its lock by then steps back and tries again later.

mod connect;
mod create_index;
mod error;
mod folder;
mod index;
mod job;
mod ledger;
mod lex;
mod lock;
mod migrate;
mod orphan;
mod output;
mod plan;
mod progress;
mod script;
mod seed;
mod watch;

use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::config::Prepare;
use job::Job;
use progress::took;

pub use error::{Error, Sql};
pub use lock::LOCK_KEY;
pub use plan::{Migration, Plan, Seed, Status};
pub use progress::{Event, Log, Progress};

/// What [`run`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How long seeding took, if it ran.
    pub seeded: Option<Duration>,
    /// Files applied now, by name.
    pub applied: Vec<String>,
    /// Indexes that were invalid and have been built again.
    pub repaired: Vec<String>,
    /// Files there are.
    pub files: usize,
    /// All of it, waiting included.
    pub elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prepared in {}: ", took(self.elapsed))?;
        if let Some(seeded) = self.seeded {
            write!(f, "seeded in {}, ", took(seeded))?;
        }
        write!(
            f,
            "{} of {} migrations applied now",
            self.applied.len(),
            self.files
        )?;
        match self.repaired.as_slice() {
            [] => Ok(()),
            repaired => write!(f, ", invalid indexes built again: {}", repaired.join(", ")),
        }
    }
}

/// Says what [`run`] would do. Changes nothing, takes no lock.
///
/// # Errors
/// As [`run`], except that an edited file is part of the plan.
pub async fn plan(config: &Prepare, progress: &dyn Progress) -> Result<Plan, Error> {
    let job = Job::open(config, false, progress).await?;
    Ok(job.survey().await?.plan)
}

/// Prepares the database; see the [module](self). Cancel by dropping.
///
/// # Errors
/// See [`Error`]. Whatever was completed before stays.
pub async fn run(config: &Prepare, progress: &dyn Progress) -> Result<Report, Error> {
    let started = Instant::now();
    let job = Job::open(config, true, progress).await?;
    let mut report = Report {
        files: job.files(),
        ..Report::default()
    };
    let mut survey = job.survey().await?;
    if !survey.plan.is_complete() {
        // An edited file is an error at once, not only when the lock is free.
        job.refuse_edited(&survey)?;
        survey = job.lock().await?;
        job.work(&survey, &mut report).await?;
    }
    for warning in survey.plan.warnings {
        progress.tell(&Event::Warning(warning));
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

/// SHA-256 in hex.
fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes everything");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_one_of_sha256sum() {
        assert!(sha256(b"abc").starts_with("ba7816bf8f01cfea") && sha256(b"").len() == 64);
    }

    #[test]
    fn preparing_can_be_spawned() {
        fn is_send<T: Send>(_: impl FnOnce(&'static Prepare) -> T) {}
        is_send(|config| run(config, &Log));
        is_send(|config| plan(config, &Log));
    }

    #[test]
    fn a_report_is_one_line() {
        let mut report = Report {
            files: 7,
            elapsed: Duration::from_millis(3400),
            ..Report::default()
        };
        assert_eq!(
            report.to_string(),
            "prepared in 3.4 s: 0 of 7 migrations applied now"
        );
        report.seeded = Some(Duration::from_secs(2));
        report.repaired.push("public.i".to_owned());
        let text = "prepared in 3.4 s: seeded in 2.0 s, 0 of 7 migrations applied now, invalid indexes built again: public.i";
        assert_eq!(report.to_string(), text);
    }
}
