//! What can go wrong while preparing, with the place and the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::error::{DbError, ErrorPosition};

use super::progress::took;

/// Why [`run`](super::run()) or [`plan`](super::plan()) gave up. The display says
/// where (file, setting, server) and what to do.
#[derive(Debug)]
pub enum Error {
    /// The server did not accept connections within `wait_timeout`.
    Unreachable {
        /// `HOST:PORT`.
        server: String,
        /// `wait_timeout`.
        waited: Duration,
        /// Why the last attempt failed.
        last: String,
    },
    /// The server refused this user or database; waiting would not help.
    Refused {
        /// `HOST:PORT`.
        server: String,
        /// The server's words.
        reason: String,
    },
    /// The server is older than what preparing relies on.
    TooOld {
        /// `HOST:PORT`.
        server: String,
        /// Its major version.
        version: i32,
        /// The oldest that will do.
        oldest: i32,
    },
    /// A setting of `[prepare]` cannot be worked with.
    Setting {
        /// Its name.
        name: &'static str,
        /// What is wrong with it, and what to write.
        problem: String,
    },
    /// The folder or a file in it cannot be read.
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's words.
        problem: io::Error,
    },
    /// A migration file cannot be run as it is.
    File {
        /// Which.
        path: PathBuf,
        /// Where in it, from 1.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A file was changed after it had been applied.
    Edited {
        /// Which.
        path: PathBuf,
        /// SHA-256 the ledger holds.
        applied: String,
        /// SHA-256 of the file.
        found: String,
    },
    /// A statement of a migration failed.
    Migration {
        /// The file.
        path: PathBuf,
        /// Line of the statement, or of the place in it the server points at.
        line: usize,
        /// The server's words.
        problem: Sql,
    },
    /// A migration did not get its lock in any of its tries.
    Locked {
        /// The file.
        path: PathBuf,
        /// Line of the statement.
        line: usize,
        /// How often it was tried.
        tries: u32,
        /// The server's words.
        problem: Sql,
    },
    /// The seeding command failed.
    Seed {
        /// The program.
        program: String,
        /// Exit status, or why it did not start.
        problem: String,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// The connection that holds the lock broke: another instance may be at
    /// work by now.
    Lost {
        /// What was going on.
        during: &'static str,
        /// What broke.
        problem: String,
    },
    /// A statement of our own was refused.
    Ledger {
        /// What it was for.
        during: &'static str,
        /// The server's words.
        problem: Sql,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable {
                server,
                waited,
                last,
            } => write!(
                f,
                "PostgreSQL at {server} did not accept connections within {} ([prepare] wait_timeout): {last}; \
                 start it, or correct host and port in [prepare]",
                took(*waited)
            ),
            Error::Refused { server, reason } => write!(
                f,
                "PostgreSQL at {server} refused the connection: {reason}; \
                 correct user, password or dbname in [prepare], or create them on the server"
            ),
            Error::TooOld {
                server,
                version,
                oldest,
            } => write!(
                f,
                "PostgreSQL at {server} is version {version}; seeding and migrations need {oldest} or newer: \
                 upgrade it, or remove [prepare]"
            ),
            Error::Setting { name, problem } => write!(f, "[prepare] {name}: {problem}"),
            Error::Folder { path, problem } => write!(
                f,
                "{}: {problem}; correct [prepare] migrations or the permissions",
                path.display()
            ),
            Error::File {
                path,
                line,
                problem,
                remedy,
            } => match line {
                Some(line) => write!(f, "{}:{line}: {problem}; {remedy}", path.display()),
                None => write!(f, "{}: {problem}; {remedy}", path.display()),
            },
            Error::Edited {
                path,
                applied,
                found,
            } => write!(
                f,
                "{}: changed after it was applied (applied as {applied}, now {found}); \
                 restore the file and put the change into a new one with the next number",
                path.display()
            ),
            Error::Migration {
                path,
                line,
                problem,
            } => write!(
                f,
                "{}:{line}: {problem}; correct the file, or give the database what it needs, and start again",
                path.display()
            ),
            Error::Locked {
                path,
                line,
                tries,
                problem,
            } => write!(
                f,
                "{}:{line}: no lock in {tries} tries: {problem}; end the transactions that hold the table \
                 (pg_stat_activity), or raise lock_retries in [prepare]",
                path.display()
            ),
            Error::Seed {
                program,
                problem,
                tail,
            } => {
                write!(
                    f,
                    "[prepare] seed: {program}: {problem}; the next start runs it again"
                )?;
                tail.iter().try_for_each(|line| write!(f, "\n  | {line}"))
            }
            Error::Lost { during, problem } => write!(
                f,
                "the connection to PostgreSQL broke during {during}: {problem}; start again, it will carry on"
            ),
            Error::Ledger { during, problem } => write!(f, "{during}: {problem}"),
        }
    }
}

/// A PostgreSQL error as an operator reads it: message, detail, hint, SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql(String);

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&DbError> for Sql {
    fn from(error: &DbError) -> Sql {
        let mut text = error.message().to_owned();
        for part in [error.detail(), error.hint()].into_iter().flatten() {
            text.push_str("; ");
            text.push_str(part);
        }
        Sql(format!("{text} (SQLSTATE {})", error.code().code()))
    }
}

/// Sorts an error of our own statement: the server's answer, or the end of the
/// connection.
pub(super) fn ours(during: &'static str) -> impl Fn(tokio_postgres::Error) -> Error {
    move |error| match answer(&error) {
        Some(db) => Error::Ledger {
            during,
            problem: Sql::from(db),
        },
        None => Error::Lost {
            during,
            problem: causes(&error),
        },
    }
}

/// The server's error if the session lives on after it. `None`: the session is
/// over, by a broken socket or by class 57P (an administrator's hand).
pub(super) fn answer(error: &tokio_postgres::Error) -> Option<&DbError> {
    error
        .as_db_error()
        .filter(|db| !db.code().code().starts_with("57P") && db.severity() != "FATAL")
}

/// An error with its causes in one line; the driver's own text names only its
/// kind.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Lines of `statement` before the character the server points at.
pub(super) fn lines_before(statement: &str, error: &DbError) -> usize {
    match error.position() {
        Some(ErrorPosition::Original(at)) => {
            let before = usize::try_from(*at).unwrap_or(0).saturating_sub(1);
            statement
                .chars()
                .take(before)
                .filter(|c| *c == '\n')
                .count()
        }
        _ => 0,
    }
}
