//! One start's work on one database.

use std::path::PathBuf;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Report;
use super::connect::{Server, Session};
use super::error::{Error, answer, ours};
use super::folder::{self, File};
use super::index;
use super::ledger::{self, Pen, Row, SEED};
use super::lock;
use super::migrate::Migrator;
use super::plan::{self, Plan, Seed};
use super::progress::{Event, Progress};
use super::script::Statement;
use super::seed;
use super::watch::watched;
use crate::config::Prepare;

/// Files, server and session, and whom to tell.
pub(super) struct Job<'a> {
    config: &'a Prepare,
    files: Vec<File>,
    server: Server,
    session: Session,
    progress: &'a dyn Progress,
}

/// What a look at the database found.
pub(super) struct Survey {
    pub(super) plan: Plan,
    seeding: Option<Row>,
}

impl<'a> Job<'a> {
    /// Reads the files, waits for the server. Mistakes in files and settings
    /// are found before the wait.
    pub(super) async fn open(
        config: &'a Prepare,
        writing: bool,
        progress: &'a dyn Progress,
    ) -> Result<Job<'a>, Error> {
        if config.lock_timeout.is_zero() {
            let problem = "0 would let a migration wait for its lock for ever, and everybody else behind it; \
                           write for example 800ms";
            return Err(Error::Setting {
                name: "lock_timeout",
                problem: problem.to_owned(),
            });
        }
        let files = files(config.migrations.clone()).await?;
        let server = Server::wait(config, writing, progress).await?;
        let session = server.session(config).await?;
        Ok(Job {
            config,
            files,
            server,
            session,
            progress,
        })
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }

    /// Compares files and ledger and database. Changes nothing.
    pub(super) async fn survey(&self) -> Result<Survey, Error> {
        let rows = ledger::read(&self.session).await?;
        let (mut migrations, mut warnings) = plan::migrations(&self.files, &rows)?;
        for (file, migration) in self.files.iter().zip(&mut migrations) {
            for index in file.script.statements.iter().filter_map(Statement::index) {
                let invalid = index::invalid(&self.session, &index).await?;
                migration.repairs.extend(invalid.map(|found| found.name));
            }
        }
        let seeding = rows.into_iter().find(|row| row.name == SEED);
        let mut seed = None;
        if !self.config.seed.is_empty() {
            let unneeded = seeding.is_none() && self.unneeded().await?;
            seed = Some(plan::seed(
                seed::program(self.config),
                seeding.as_ref(),
                unneeded,
            ));
            let changed = |row| plan::seed_changed(row, &seed::checksum(self.config));
            warnings.extend(seeding.as_ref().and_then(changed));
        }
        Ok(Survey {
            plan: Plan {
                seed,
                migrations,
                warnings,
            },
            seeding,
        })
    }

    /// Takes the lock, makes the ledger, looks again: another instance may have
    /// done all of it meanwhile.
    pub(super) async fn lock(&self) -> Result<Survey, Error> {
        lock::acquire(&self.server, &self.session, self.progress).await?;
        let survey = self.survey().await?;
        self.refuse_edited(&survey)?;
        if !survey.plan.is_complete() {
            ledger::create(&self.session).await?;
        }
        Ok(survey)
    }

    /// Nothing runs, not even the seeding, while a file contradicts the ledger.
    pub(super) fn refuse_edited(&self, survey: &Survey) -> Result<(), Error> {
        let edited = self
            .files
            .iter()
            .zip(&survey.plan.migrations)
            .find_map(|(f, m)| m.edited(&f.path));
        edited.map_or(Ok(()), Err)
    }

    /// Does what the survey found to do.
    pub(super) async fn work(&self, survey: &Survey, report: &mut Report) -> Result<(), Error> {
        let pen = Pen::new();
        if let Some(Seed::Run { .. } | Seed::Again { .. }) = survey.plan.seed {
            if let Some(row) = &survey.seeding {
                self.progress.tell(&Event::Warning(plan::unfinished(row)));
                seed::wait_for_orphan(row, self.progress).await;
            }
            report.seeded = Some(seed::run(self.config, &self.session, &pen, self.progress).await?);
        }
        let migrator = Migrator {
            server: &self.server,
            session: &self.session,
            pen: &pen,
            progress: self.progress,
            lock_retries: self.config.lock_retries,
        };
        for (file, migration) in self.files.iter().zip(&survey.plan.migrations) {
            let done = migrator.apply(file, migration).await?;
            report.repaired.extend(done.repaired);
            report
                .applied
                .extend(done.applied.then(|| file.name.clone()));
        }
        Ok(())
    }

    /// What the `unless` query says. On a database without its tables it says
    /// no.
    async fn unneeded(&self) -> Result<bool, Error> {
        let Some(query) = &self.config.unless else {
            return Ok(false);
        };
        // Reading waits for nobody who waits for readers: no limit is needed.
        let begin = "BEGIN READ ONLY; SET LOCAL lock_timeout = 0";
        self.session.execute(begin, DURING).await?;
        let asked = self.session.client().query_typed(query, &[]);
        let asked = watched(
            &self.server,
            self.session.pid,
            "the `unless` query",
            self.progress,
            asked,
        )
        .await;
        let said = match asked {
            Ok(rows) => boolean(&rows),
            Err(error) => match answer(&error) {
                Some(db) if NOTHING_THERE.contains(db.code()) => Ok(false),
                Some(db) => Err(unless(db.message())),
                None => return Err(ours(DURING)(error)),
            },
        };
        self.session.execute("ROLLBACK", DURING).await?;
        said
    }
}

const DURING: &str = "asking the `unless` query";

/// No such table, no such schema.
const NOTHING_THERE: [SqlState; 2] = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];

/// The one boolean of the answer; NULL is false.
fn boolean(rows: &[tokio_postgres::Row]) -> Result<bool, Error> {
    match rows {
        [row] if row.len() == 1 && row.columns()[0].type_() == &Type::BOOL => Ok(row
            .try_get::<_, Option<bool>>(0)
            .ok()
            .flatten()
            .unwrap_or(false)),
        _ => Err(unless("the query must give one row with one boolean")),
    }
}

fn unless(problem: &str) -> Error {
    Error::Setting {
        name: "unless",
        problem: problem.to_owned(),
    }
}

async fn files(folder: Option<PathBuf>) -> Result<Vec<File>, Error> {
    let Some(folder) = folder else {
        return Ok(Vec::new());
    };
    let reading = tokio::task::spawn_blocking(move || folder::read(&folder));
    reading.await.expect("reading a folder does not panic")
}
