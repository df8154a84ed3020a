//! The folder of migration files: `NNN_name.sql`, read in the order of their
//! numbers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::script::{Problem, Script};
use super::sha256;

/// Largest migration file, in bytes. A larger one is data, which is seeding's
/// business.
const MAX_FILE: u64 = 16 << 20;

/// Digits a number has at least, so that folders list in order.
const MIN_DIGITS: usize = 3;

/// One migration file.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) number: u32,
    /// Its name without `.sql`: the ledger's key.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub(super) checksum: String,
    pub(super) script: Script,
}

impl File {
    /// This file's text read as a migration. `path` names it in errors.
    pub(super) fn parse(path: &Path, sql: &str) -> Result<File, Error> {
        let (number, name) = numbered(path)?;
        let script = Script::parse(sql).map_err(|p| at(path, p))?;
        let path = path.to_owned();
        Ok(File {
            number,
            name,
            path,
            checksum: sha256(sql.as_bytes()),
            script,
        })
    }
}

/// Reads every `.sql` file of `folder`, sorted by number. Other files (a
/// README) are left alone.
///
/// # Errors
/// An unreadable folder or file, a name that is not `NNN_name.sql`, a number
/// used twice, and whatever keeps a file from being run.
pub(super) fn read(folder: &Path) -> Result<Vec<File>, Error> {
    let unreadable = |problem: io::Error| Error::Folder {
        path: folder.to_owned(),
        problem,
    };
    let mut files: BTreeMap<u32, File> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|e| e != "sql") {
            continue;
        }
        let file = File::parse(&path, &text(&path)?)?;
        if let Some(other) = files.get(&file.number) {
            return Err(Error::File {
                path,
                line: None,
                problem: format!("{} has the same number", other.path.display()),
                remedy: "give the later one the next free number",
            });
        }
        files.insert(file.number, file);
    }
    Ok(files.into_values().collect())
}

fn text(path: &Path) -> Result<String, Error> {
    let unreadable = |problem: io::Error| Error::Folder {
        path: path.to_owned(),
        problem,
    };
    let refused = |problem: String, remedy| Error::File {
        path: path.to_owned(),
        line: None,
        problem,
        remedy,
    };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        let problem = format!("{size} bytes is more than a migration may have ({MAX_FILE})");
        return Err(refused(
            problem,
            "load data with the `seed` command instead",
        ));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes)
        .map_err(|_| refused("not valid UTF-8".to_owned(), "save the file as UTF-8"))
}

/// `003_sessions_id.sql` is number 3, named `003_sessions_id`.
fn numbered(path: &Path) -> Result<(u32, String), Error> {
    let stem = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or_default();
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &stem[digits..];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let named = rest.len() > 1 && rest.starts_with('_') && rest.chars().all(plain);
    match stem[..digits].parse() {
        Ok(number) if digits >= MIN_DIGITS && number > 0 && named => Ok((number, stem.to_owned())),
        _ => Err(Error::File {
            path: path.to_owned(),
            line: None,
            problem: "the name is not NNN_name.sql with a number from 001 up".to_owned(),
            remedy: "rename it like 007_orders_customer.sql (letters, digits, _ and -)",
        }),
    }
}

fn at(path: &Path, problem: Problem) -> Error {
    Error::File {
        path: path.to_owned(),
        line: Some(problem.line),
        problem: problem.what,
        remedy: problem.remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str) -> Option<u32> {
        numbered(Path::new(name)).ok().map(|(number, _)| number)
    }

    #[test]
    fn a_name_begins_with_its_number() {
        assert_eq!(number("m/003_sessions_id.sql"), Some(3));
        assert_eq!(number("1000_big-one.sql"), Some(1000));
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "3_a.sql",
            "000_a.sql",
            "003.sql",
            "003_.sql",
            "003-a.sql",
            "a_003.sql",
            "003_ä.sql",
            ".sql",
        ] {
            assert_eq!(number(name), None, "{name}");
        }
        assert_eq!(number("99999999999_a.sql"), None);
    }

    #[test]
    fn an_error_names_file_and_line() {
        let error =
            File::parse(Path::new("m/001_a.sql"), "SELECT 1;\nCOMMIT").expect_err("it is refused");
        let text = error.to_string();
        assert!(text.starts_with("m/001_a.sql:2: "), "{text}");
    }
}
