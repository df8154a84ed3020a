//! Applying one file.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::error::SqlState;

use super::connect::{Server, Session};
use super::create_index::CreateIndex;
use super::error::{Error, Sql, answer, lines_before, ours};
use super::folder::File;
use super::index;
use super::ledger::Pen;
use super::plan::{Migration, Status, applied};
use super::progress::{Event, Progress};
use super::script::Statement;
use super::watch::watched;

/// First and longest pause before another try. Longer than `lock_timeout`, so
/// that the readers who queued behind the waiting lock get through.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

const DURING: &str = "a migration";

/// What applying a file needs.
pub(super) struct Migrator<'a> {
    pub(super) server: &'a Server,
    pub(super) session: &'a Session,
    pub(super) pen: &'a Pen,
    pub(super) progress: &'a dyn Progress,
    /// Tries after the first of whatever runs into a lock.
    pub(super) lock_retries: u32,
}

/// What was done to a file.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// It was applied now.
    pub(super) applied: bool,
    /// Indexes that were invalid and are built again.
    pub(super) repaired: Vec<String>,
}

/// Why a statement failed.
enum Failure {
    /// No lock in time, or a deadlock (55P03, 40P01): worth another try.
    Lock { line: usize, problem: Sql },
    /// The server refused the statement.
    Refused { line: usize, problem: Sql },
    /// No further statement makes sense.
    Over(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Over(error)
    }
}

impl Migrator<'_> {
    /// Does what is left to do of `file`, and tells the ledger. Edited files have
    /// been refused before.
    pub(super) async fn apply(&self, file: &File, planned: &Migration) -> Result<Done, Error> {
        let Status::Pending {
            begun, done: from, ..
        } = planned.status
        else {
            return self.repair(file, planned).await;
        };
        let started = Instant::now();
        self.session.set_up().await?;
        let outcome = match file.script.no_transaction {
            true => self.one_by_one(file, begun, from).await,
            false => self.in_transaction(file, from).await,
        };
        let repaired = match outcome {
            Ok(repaired) => repaired,
            Err(error) => return Err(self.failed(file, error).await),
        };
        self.progress.tell(&Event::Applied {
            migration: file.name.clone(),
            elapsed: started.elapsed(),
        });
        Ok(Done {
            applied: true,
            repaired,
        })
    }

    /// Builds the invalid indexes of a file that was applied long ago.
    async fn repair(&self, file: &File, planned: &Migration) -> Result<Done, Error> {
        let mut done = Done::default();
        if planned.repairs.is_empty() {
            return Ok(done);
        }
        self.session.set_up().await?;
        for statement in file.script.statements.iter() {
            let Some(index) = statement.index() else {
                continue;
            };
            if index::invalid(self.session, &index).await?.is_some() {
                done.repaired
                    .extend(self.retrying(file, || self.alone(file, statement)).await?);
            }
        }
        Ok(done)
    }

    /// All statements from number `from` on and the ledger row, or nothing.
    async fn in_transaction(&self, file: &File, from: usize) -> Result<Vec<String>, Error> {
        let statements = &file.script.statements[from..];
        let mut repaired = Vec::new();
        for index in statements.iter().filter_map(Statement::index) {
            repaired.extend(self.drop_invalid(file, &index).await?);
        }
        self.retrying(file, || self.transaction(file, statements))
            .await?;
        Ok(repaired)
    }

    async fn transaction(&self, file: &File, statements: &[Statement]) -> Result<(), Failure> {
        self.ours("BEGIN").await?;
        let outcome = self.all_and_commit(file, statements).await;
        if let Err(Failure::Lock { .. } | Failure::Refused { .. }) = outcome {
            self.ours("ROLLBACK").await?;
        }
        outcome
    }

    async fn all_and_commit(&self, file: &File, statements: &[Statement]) -> Result<(), Failure> {
        for statement in statements {
            self.execute(file, statement.line, &statement.text).await?;
        }
        // The file may have taken a role that cannot write the ledger.
        self.ours("RESET SESSION AUTHORIZATION").await?;
        self.pen
            .applied(self.session, &file.name, &file.checksum)
            .await?;
        // A deferred constraint may refuse what every statement was allowed.
        let line = statements.last().map_or(1, |s| s.line);
        self.execute(file, line, "COMMIT").await
    }

    /// Each statement on its own, from number `from` on; the ledger counts.
    async fn one_by_one(
        &self,
        file: &File,
        begun: bool,
        from: usize,
    ) -> Result<Vec<String>, Error> {
        let (statements, mut repaired) = (&file.script.statements, Vec::new());
        self.pen
            .begin(self.session, &file.name, &file.checksum)
            .await?;
        for (number, statement) in statements.iter().enumerate().skip(from) {
            // An index may have been completed by an earlier start that did not
            // live to write it down.
            let unrecorded = begun && number == from && self.is_built(statement).await?;
            if !unrecorded {
                repaired.extend(self.retrying(file, || self.alone(file, statement)).await?);
            }
            let so_far = applied(&statements[..=number]);
            self.pen
                .advance(self.session, &file.name, number + 1, &so_far)
                .await?;
        }
        // The file may have taken a role that cannot write the ledger.
        self.session.set_up().await?;
        self.pen.finish(self.session, &file.name).await?;
        Ok(repaired)
    }

    /// One statement outside a transaction. Gives the index that had to be
    /// dropped before.
    async fn alone(&self, file: &File, statement: &Statement) -> Result<Option<String>, Failure> {
        let repaired = match statement.index() {
            Some(index) => self.drop_invalid(file, &index).await?,
            None => None,
        };
        if statement.is_gentle() {
            // A concurrent build waits for every older transaction, however
            // long. It may: nobody waits behind it.
            self.session.set_lock_timeout(None).await?;
        }
        let outcome = self.execute(file, statement.line, &statement.text).await;
        if statement.is_gentle() && !matches!(outcome, Err(Failure::Over(_))) {
            self.session
                .set_lock_timeout(Some(self.session.lock_timeout()))
                .await?;
        }
        outcome.map(|()| repaired)
    }

    async fn is_built(&self, statement: &Statement) -> Result<bool, Error> {
        let Some(index) = statement.index() else {
            return Ok(false);
        };
        Ok(index::find(self.session, &index)
            .await?
            .is_some_and(|found| found.valid))
    }

    async fn drop_invalid(
        &self,
        file: &File,
        index: &CreateIndex,
    ) -> Result<Option<String>, Error> {
        if let Some(found) = index::invalid(self.session, index).await? {
            let (migration, index) = (file.name.clone(), found.name);
            self.progress.tell(&Event::Repairing { migration, index });
        }
        index::drop_invalid(self.server, self.session, index, &file.name, self.progress).await
    }

    /// Runs `work` until it gets its locks, at most `lock_retries` times more.
    async fn retrying<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        file: &File,
        work: impl Fn() -> F,
    ) -> Result<T, Error> {
        let (mut tries, mut pause) = (1, PAUSE);
        loop {
            let path = file.path.clone();
            match work().await {
                Ok(done) => return Ok(done),
                Err(Failure::Over(error)) => return Err(error),
                Err(Failure::Refused { line, problem }) => {
                    return Err(Error::Migration {
                        path,
                        line,
                        problem,
                    });
                }
                Err(Failure::Lock { line, problem }) if tries > self.lock_retries => {
                    return Err(Error::Locked {
                        path,
                        line,
                        tries,
                        problem,
                    });
                }
                Err(Failure::Lock { problem, .. }) => {
                    let (migration, because) = (file.name.clone(), problem.to_string());
                    self.progress.tell(&Event::Retrying {
                        migration,
                        tries,
                        pause,
                        because,
                    });
                }
            }
            sleep(pause).await;
            (tries, pause) = (tries + 1, (pause * 2).min(MAX_PAUSE));
        }
    }

    /// Leaves the failure in the ledger and no half-built index behind, as far
    /// as the session still can.
    async fn failed(&self, file: &File, error: Error) -> Error {
        let (Error::Migration { problem, .. } | Error::Locked { problem, .. }) = &error else {
            return error;
        };
        let note = async {
            self.session.set_up().await?;
            self.pen
                .fail(
                    self.session,
                    &file.name,
                    &file.checksum,
                    &problem.to_string(),
                )
                .await?;
            for index in file.script.statements.iter().filter_map(Statement::index) {
                index::drop_invalid(self.server, self.session, &index, &file.name, self.progress)
                    .await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(second) = note.await {
            self.progress.tell(&Event::Warning(format!(
                "{}: after its failure: {second}",
                file.name
            )));
        }
        error
    }

    async fn execute(&self, file: &File, line: usize, text: &str) -> Result<(), Failure> {
        let work = self.session.client().batch_execute(text);
        let outcome = watched(
            self.server,
            self.session.pid,
            &file.name,
            self.progress,
            work,
        )
        .await;
        outcome.map_err(|error| {
            let Some(db) = answer(&error) else {
                return Failure::Over(ours(DURING)(error));
            };
            let (line, problem) = (line + lines_before(text, db), Sql::from(db));
            match [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::T_R_DEADLOCK_DETECTED,
            ]
            .contains(db.code())
            {
                true => Failure::Lock { line, problem },
                false => Failure::Refused { line, problem },
            }
        })
    }

    async fn ours(&self, sql: &str) -> Result<(), Error> {
        self.session.execute(sql, DURING).await
    }
}
