//! What was done, for checks that nothing is done twice.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use hyper::Method;

/// A file with a line for each request that changes something, written before
/// it is done. Nodes may share one: a line is appended whole, and stays when
/// the process is killed the moment after.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Option<File>);

impl Ledger {
    /// Opens or makes the file, if one was given.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(crate) fn open(path: Option<&Path>) -> std::io::Result<Ledger> {
        let open = |path| File::options().append(true).create(true).open(path);
        Ok(Ledger(path.map(open).transpose()?))
    }

    /// Notes a request, unless it only reads. The body has no line breaks, or
    /// takes several lines.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn note(&self, method: &Method, path: &str, body: &[u8]) -> std::io::Result<()> {
        let Some(file) = self.0.as_ref().filter(|_| !method.is_safe()) else {
            return Ok(());
        };
        let line = format!("{method} {path} {}\n", String::from_utf8_lossy(body));
        let mut file: &File = file;
        file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_a_line() {
        let path = std::env::temp_dir().join(format!("bingo-ledger-{}", std::process::id()));
        let [one, other] = [(); 2].map(|()| Ledger::open(Some(&path)).expect("a folder for all"));
        one.note(&Method::POST, "/operation", b"{}").expect("open");
        one.note(&Method::GET, "/ping", b"").expect("open");
        other
            .note(&Method::DELETE, "/api/session/7", b"")
            .expect("open");
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it is ours");
        assert_eq!(text, "POST /operation {}\nDELETE /api/session/7 \n");
    }

    #[test]
    fn without_a_file_nothing_is_noted() {
        let none = Ledger::open(None).expect("nothing to open");
        none.note(&Method::POST, "/operation", b"")
            .expect("nothing to do");
    }
}
