//! What an authority is answered while it validates.
//!
//! Each answer is a small file for as long as it is expected, so that any of
//! the processes that share the folder can give it: the authority's connection
//! comes to the one that accepts, not to the one that has ordered.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::net::tls::replace_file;

/// Where an authority asks over HTTP (RFC 8555, section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";

/// Longest key authorization, in bytes.
const ANSWER_MAX: u64 = 1024;

/// Longest name of an answer, in bytes: a host name's.
const NAME_MAX: usize = 253;

/// The answers that are expected.
#[derive(Debug, Clone)]
pub(crate) struct Answers(PathBuf);

impl Answers {
    pub(super) fn new(folder: PathBuf) -> Answers {
        Answers(folder)
    }

    /// Gives this answer, under the token that is asked for or the host's
    /// name, from now on.
    ///
    /// # Errors
    /// It cannot be kept, or its name is none.
    pub(super) fn put(&self, name: &str, answer: &str) -> io::Result<()> {
        let path = self.path(name).ok_or(io::ErrorKind::InvalidFilename)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        replace_file(&path, answer, 0o600)
    }

    /// Gives none any more.
    pub(super) fn clear(&self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!("{}: {error}", entry.path().display());
            }
        }
    }

    /// The answer of this name, if one is expected.
    pub(super) fn find(&self, name: &str) -> Option<String> {
        let file = File::open(self.path(name)?).ok()?;
        let mut text = String::new();
        file.take(ANSWER_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The answer on this path of a URL, if one is expected.
    pub(crate) async fn at(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(PATH)?.to_owned();
        self.path(&token)?;
        let answers = self.clone();
        let found = tokio::task::spawn_blocking(move || answers.find(&token));
        found.await.ok().flatten()
    }

    /// The file of this name. None if it is neither a token nor a host's, and
    /// might lead out of the folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        let fits = (1..=NAME_MAX).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(plain);
        // No name ends like this, and what is being written does not.
        fits.then(|| self.0.join(format!("{name}.answer")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_given_until_it_is_cleared() {
        let folder = std::env::temp_dir().join(format!("pgweir-answers-{}", std::process::id()));
        let answers = Answers::new(folder.join("pending"));
        assert_eq!(answers.find("a.example"), None);
        answers.put("a.example", "token.thumb").expect("writable");
        answers.put("b.example", "other.thumb").expect("writable");
        assert_eq!(answers.find("a.example").as_deref(), Some("token.thumb"));
        assert_eq!(answers.find("b.example").as_deref(), Some("other.thumb"));
        answers.clear();
        assert_eq!(answers.find("a.example"), None);
        fs::remove_dir_all(folder).expect("removable");
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        let answers = Answers::new("/folder".into());
        let long = "a".repeat(NAME_MAX + 1);
        for name in ["", ".", "..", "../a", "a/b", ".a", "a\0", "a b", &long] {
            assert_eq!(answers.path(name), None, "{name:?}");
        }
        for name in ["x_Y-3", "a.example"] {
            assert!(answers.path(name).is_some(), "{name}");
        }
    }
}
