//! What there is to do: a pure comparison of files, ledger and indexes.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use super::error::Error;
use super::folder::File;
use super::ledger::{Row, SEED, State};
use super::script::Statement;
use super::sha256;

/// What [`run`](super::run) would do, in its order. The display is a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The seeding, if one is configured.
    pub seed: Option<Seed>,
    /// One for each file.
    pub migrations: Vec<Migration>,
    /// Things an operator should look at.
    pub warnings: Vec<String>,
}

/// What would happen to the seeding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// The command would run.
    Run {
        /// The program.
        program: String,
    },
    /// The command would run again: an earlier run did not finish.
    Again {
        /// The program.
        program: String,
        /// When and by whom it was begun, and how it ended.
        earlier: String,
    },
    /// It finished earlier.
    Done {
        /// When and by whom.
        earlier: String,
    },
    /// Never run, and the `unless` query says that it is not needed.
    Unneeded,
}

/// What would happen to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its name without `.sql`.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// Invalid indexes of its statements, which would be built again.
    pub repairs: Vec<String>,
}

/// Where a file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Applied, and unchanged since.
    Applied,
    /// To be applied.
    Pending {
        /// An earlier start began it and was cut short.
        begun: bool,
        /// Statements an earlier start completed, of a file without a
        /// transaction.
        done: usize,
        /// Statements in the file.
        of: usize,
    },
    /// Changed after it was applied, or its applied part was: nothing will run.
    Edited {
        /// SHA-256 the ledger holds.
        applied: String,
        /// SHA-256 of the same now.
        found: String,
    },
}

impl Plan {
    /// Whether there is nothing to do and nothing wrong.
    pub fn is_complete(&self) -> bool {
        let seeded = matches!(self.seed, None | Some(Seed::Done { .. } | Seed::Unneeded));
        seeded
            && self
                .migrations
                .iter()
                .all(|m| m.status == Status::Applied && m.repairs.is_empty())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.seed {
            None => writeln!(f, "seed: none configured")?,
            Some(Seed::Run { program }) => writeln!(f, "seed: would run {program}")?,
            Some(Seed::Again { program, earlier }) => {
                writeln!(f, "seed: would run {program} again: {earlier}")?;
            }
            Some(Seed::Done { earlier }) => writeln!(f, "seed: already done: {earlier}")?,
            Some(Seed::Unneeded) => writeln!(f, "seed: skipped, the `unless` query is true")?,
        }
        self.migrations
            .iter()
            .try_for_each(|m| writeln!(f, "{m}"))?;
        self.warnings
            .iter()
            .try_for_each(|w| writeln!(f, "warning: {w}"))
    }
}

impl Migration {
    /// The error an edited file is. `path` is the file's.
    pub(super) fn edited(&self, path: &Path) -> Option<Error> {
        let Status::Edited { applied, found } = &self.status else {
            return None;
        };
        let (path, applied, found) = (path.to_owned(), applied.clone(), found.clone());
        Some(Error::Edited {
            path,
            applied,
            found,
        })
    }
}

impl fmt::Display for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match &self.status {
            Status::Applied => f.write_str("applied")?,
            Status::Pending {
                begun: false,
                done: 0,
                ..
            } => f.write_str("pending")?,
            Status::Pending { done, of, .. } => {
                write!(f, "pending, {done} of {of} statements done")?
            }
            Status::Edited { applied, found } => {
                write!(
                    f,
                    "edited after it was applied (applied as {applied}, now {found})"
                )?;
            }
        }
        self.repairs
            .iter()
            .try_for_each(|index| write!(f, ", would repair index {index}"))
    }
}

/// What is to be done about the seeding. `row`: its ledger row. `unneeded`:
/// what `unless` says.
///
/// A run that was begun and did not finish is repeated whatever `unless` says:
/// half a seeding may already make it true.
pub(super) fn seed(program: String, row: Option<&Row>, unneeded: bool) -> Seed {
    match row {
        Some(row) if row.state == State::Finished => Seed::Done {
            earlier: format!("{}, {}", row.started, row.who),
        },
        Some(row) => Seed::Again {
            program,
            earlier: unfinished(row),
        },
        None if unneeded => Seed::Unneeded,
        None => Seed::Run { program },
    }
}

/// How an unfinished seeding is spoken of.
pub(super) fn unfinished(row: &Row) -> String {
    let end = match row.state {
        State::Failed => "failed",
        _ => "was cut short",
    };
    format!(
        "the seeding begun {} ({}) {end} and may have left part of its data \
         (if the data is complete: DELETE FROM pgweir.migrations WHERE name = 'seed')",
        row.started, row.who
    )
}

/// A warning if the seeding that finished was another command.
pub(super) fn seed_changed(row: &Row, checksum: &str) -> Option<String> {
    (row.state == State::Finished && row.checksum != checksum).then(|| {
        format!(
            "the seed command is not the one that finished {}; it is not run again",
            row.started
        )
    })
}

/// Where each file stands, in their order, and what to warn of.
///
/// # Errors
/// Numbers that are missing or mean something else in the ledger.
pub(super) fn migrations(
    files: &[File],
    rows: &[Row],
) -> Result<(Vec<Migration>, Vec<String>), Error> {
    let rows: BTreeMap<&str, &Row> = rows
        .iter()
        .filter(|r| r.name != SEED)
        .map(|r| (r.name.as_str(), r))
        .collect();
    numbers(files, &rows)?;
    let files_named: HashSet<&str> = files.iter().map(|f| f.name.as_str()).collect();
    let gone = rows
        .values()
        .filter(|r| !files_named.contains(r.name.as_str()));
    let warnings = gone.map(|r| {
        format!(
            "{}.sql is {} in the ledger, but its file is gone",
            r.name,
            r.state.word()
        )
    });
    let migrations = files.iter().map(|file| Migration {
        name: file.name.clone(),
        status: status(file, rows.get(file.name.as_str()).copied()),
        repairs: Vec::new(),
    });
    Ok((migrations.collect(), warnings.collect()))
}

/// SHA-256 of statements that were applied one by one.
pub(super) fn applied(statements: &[Statement]) -> String {
    let texts: Vec<&str> = statements.iter().map(|s| s.text.as_str()).collect();
    sha256(texts.join("\0").as_bytes())
}

fn status(file: &File, row: Option<&Row>) -> Status {
    let of = file.script.statements.len();
    let Some(row) = row else {
        return Status::Pending {
            begun: false,
            done: 0,
            of,
        };
    };
    if row.state == State::Finished {
        return match row.checksum == file.checksum {
            true => Status::Applied,
            false => Status::Edited {
                applied: row.checksum.clone(),
                found: file.checksum.clone(),
            },
        };
    }
    // The rest of an unfinished file may be corrected, its applied part not.
    let done = row.statements;
    let found = applied(&file.script.statements[..done.min(of)]);
    match &row.applied {
        Some(applied) if done > 0 && (done > of || *applied != found) => Status::Edited {
            applied: applied.clone(),
            found,
        },
        _ => Status::Pending {
            begun: row.state == State::Running,
            done: done.min(of),
            of,
        },
    }
}

/// Every number from 1 to the highest is a file's, or was one's.
fn numbers(files: &[File], rows: &BTreeMap<&str, &Row>) -> Result<(), Error> {
    let number = |name: &str| name.split('_').next().and_then(|n| n.parse::<u32>().ok());
    let known: BTreeMap<u32, &str> = rows
        .keys()
        .filter_map(|name| Some((number(name)?, *name)))
        .collect();
    let refused = |file: &File, problem, remedy| Error::File {
        path: file.path.clone(),
        line: None,
        problem,
        remedy,
    };
    let mut next = 1;
    for file in files {
        if let Some(missing) = (next..file.number).find(|n| !known.contains_key(n)) {
            return Err(refused(
                file,
                format!("number {missing:03} is missing before it"),
                "add the missing file, or number the files without a gap",
            ));
        }
        match known.get(&file.number) {
            Some(name) if *name != file.name => {
                return Err(refused(
                    file,
                    format!("number {:03} is {name} in the ledger", file.number),
                    "give the old file its name back, and a new one the next free number",
                ));
            }
            _ => next = file.number + 1,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, sql: &str) -> File {
        File::parse(Path::new(&format!("m/{name}.sql")), sql).expect("it is accepted")
    }

    fn row(name: &str, state: State, checksum: &str) -> Row {
        Row {
            name: name.to_owned(),
            checksum: checksum.to_owned(),
            state,
            started: "then".to_owned(),
            who: "them".to_owned(),
            statements: 0,
            applied: None,
            child: None,
        }
    }

    fn finished(file: &File) -> Row {
        row(&file.name, State::Finished, &file.checksum)
    }

    fn refused(files: &[File], rows: &[Row]) -> String {
        migrations(files, rows)
            .expect_err("it is refused")
            .to_string()
    }

    #[test]
    fn a_file_without_a_row_is_pending_and_one_with_its_row_is_applied() {
        let files = [
            file("001_a", "SELECT 1"),
            file("002_b", "SELECT 1; SELECT 2"),
        ];
        let (planned, warnings) =
            migrations(&files, &[finished(&files[0])]).expect("it is accepted");
        let statuses: Vec<_> = planned.into_iter().map(|m| m.status).collect();
        assert_eq!(
            statuses,
            [
                Status::Applied,
                Status::Pending {
                    begun: false,
                    done: 0,
                    of: 2
                }
            ]
        );
        assert!(warnings.is_empty());
    }

    #[test]
    fn an_edited_applied_file_shows_both_checksums() {
        let files = [file("001_a", "SELECT 2")];
        let before = file("001_a", "SELECT 1");
        let (planned, _) = migrations(&files, &[finished(&before)]).expect("it is accepted");
        let (applied, found) = (before.checksum, files[0].checksum.clone());
        assert_eq!(planned[0].status, Status::Edited { applied, found });
    }

    #[test]
    fn a_file_that_failed_may_be_corrected() {
        let files = [file("001_a", "SELECT 2")];
        let (planned, _) =
            migrations(&files, &[row("001_a", State::Failed, "other")]).expect("it is accepted");
        assert_eq!(
            planned[0].status,
            Status::Pending {
                begun: false,
                done: 0,
                of: 1
            }
        );
    }

    #[test]
    fn an_unfinished_file_goes_on_where_it_stopped_if_that_part_is_unchanged() {
        let before = file(
            "001_a",
            "-- pgweir: no-transaction\nSELECT 1; SELECT 2; SELEKT 3",
        );
        let mut row = row("001_a", State::Failed, &before.checksum);
        (row.statements, row.applied) = (2, Some(applied(&before.script.statements[..2])));

        let corrected = file(
            "001_a",
            "-- pgweir: no-transaction\nSELECT 1; SELECT 2; SELECT 3",
        );
        let (planned, _) = migrations(&[corrected], &[row.clone()]).expect("it is accepted");
        assert_eq!(
            planned[0].status,
            Status::Pending {
                begun: false,
                done: 2,
                of: 3
            }
        );

        for sql in ["SELECT 9; SELECT 2; SELECT 3", "SELECT 1"] {
            let (planned, _) =
                migrations(&[file("001_a", sql)], &[row.clone()]).expect("it is accepted");
            assert!(matches!(planned[0].status, Status::Edited { .. }), "{sql}");
        }
    }

    #[test]
    fn a_gap_is_refused_unless_the_ledger_fills_it() {
        let files = [file("001_a", ""), file("003_c", "")];
        let text = refused(&files, &[]);
        assert!(text.contains("003_c.sql: number 002 is missing"), "{text}");
        let (_, warnings) =
            migrations(&files, &[row("002_b", State::Finished, "x")]).expect("it is accepted");
        assert_eq!(
            warnings,
            ["002_b.sql is finished in the ledger, but its file is gone"]
        );
        let text = refused(&files[1..], &[]);
        assert!(text.contains("number 001 is missing"), "{text}");
    }

    #[test]
    fn a_number_cannot_change_its_meaning() {
        let text = refused(&[file("001_b", "")], &[row("001_a", State::Finished, "x")]);
        assert!(text.contains("number 001 is 001_a in the ledger"), "{text}");
    }

    #[test]
    fn an_unfinished_seeding_runs_again_whatever_unless_says() {
        for state in [State::Running, State::Failed] {
            let planned = seed("p".to_owned(), Some(&row(SEED, state, "x")), true);
            assert!(matches!(planned, Seed::Again { .. }), "{state:?}");
        }
    }

    #[test]
    fn a_seeding_runs_once_and_only_if_needed() {
        let planned = |row: Option<&Row>, unneeded| seed("p".to_owned(), row, unneeded);
        assert!(matches!(
            planned(Some(&row(SEED, State::Finished, "x")), false),
            Seed::Done { .. }
        ));
        assert_eq!(planned(None, true), Seed::Unneeded);
        assert!(matches!(planned(None, false), Seed::Run { .. }));
    }

    #[test]
    fn a_changed_seed_command_is_only_warned_of() {
        let row = row(SEED, State::Finished, "old");
        assert!(seed_changed(&row, "new").is_some());
        assert_eq!(seed_changed(&row, "old"), None);
    }
}
