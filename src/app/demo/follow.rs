//! Reading along in a child's log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Most that is read at once, in bytes.
const CHUNK: u64 = 256 << 10;

/// Longest unfinished line that is kept, in bytes.
const MAX_LINE: usize = 64 << 10;

/// What stands before the words of preparation in a line of pgweir's log.
const PREPARE: &str = " prepare: ";

/// What stands before the seeding command's own words in these.
const CHATTER: &str = "seeding: ";

/// A place in a file that grows.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    read: u64,
    partial: Vec<u8>,
}

impl Follower {
    /// From the file's beginning, whether it is there yet or not.
    pub fn new(path: PathBuf) -> Follower {
        Follower {
            path,
            read: 0,
            partial: Vec::new(),
        }
    }

    /// The lines completed since the last time. A file that cannot be read has
    /// none.
    pub fn lines(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        if self.read_on(&mut bytes).is_err() {
            return Vec::new();
        }
        self.read += bytes.len() as u64;
        if self.partial.len() > MAX_LINE {
            self.partial.clear();
        }
        self.partial.extend_from_slice(&bytes);
        let Some(end) = self.partial.iter().rposition(|&b| b == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&whole);
        text.lines().map(str::to_owned).collect()
    }

    fn read_on(&self, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
        file.take(CHUNK).read_to_end(bytes)
    }
}

/// What a line of pgweir's log says about seeding and migrations. What the
/// seeding command itself has to say stays in the log, except how far it is.
pub fn prepare_words(line: &str) -> Option<&str> {
    let (_, words) = line.split_once(PREPARE)?;
    (!words.starts_with(CHATTER)).then_some(words)
}

/// Whether such words only matter until the next ones come.
pub fn is_passing(words: &str) -> bool {
    words.contains(" %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_once() {
        let path = std::env::temp_dir().join(format!("pgweir-follow-{}.log", std::process::id()));
        let mut follower = Follower::new(path.clone());
        assert!(follower.lines().is_empty());
        std::fs::write(&path, "one\ntwo\nthr").expect("writable");
        assert_eq!(follower.lines(), ["one", "two"]);
        assert!(follower.lines().is_empty());
        std::fs::write(&path, "one\ntwo\nthree\n").expect("writable");
        assert_eq!(follower.lines(), ["three"]);
        std::fs::remove_file(&path).expect("there");
    }

    #[test]
    fn words_of_preparation_are_found() {
        let line =
            "2026-01-01 00:00:00.000 UTC [7] LOG prepare: seeding  25 %  Session inserted 1/4";
        assert_eq!(
            prepare_words(line),
            Some("seeding  25 %  Session inserted 1/4")
        );
        assert_eq!(
            prepare_words("2026-01-01 00:00:00.000 UTC [7] LOG listening"),
            None
        );
        assert_eq!(
            prepare_words("LOG prepare: seeding: Start migration."),
            None
        );
    }

    #[test]
    fn percentages_are_passing() {
        for words in [
            "seeding  25 %  Session inserted 1/4",
            "001_a.sql: building index: scanning table 7 %, 3.0 s",
        ] {
            assert!(is_passing(words), "{words}");
        }
        assert!(!is_passing("001_a.sql: applied in 3.0 s"));
    }
}
