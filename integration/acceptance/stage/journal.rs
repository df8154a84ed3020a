//! A node's log: what it says it has answered.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;

use crate::problem::{During, Problem};

/// The log file of one node.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    pub(crate) path: PathBuf,
}

/// A request that the node has answered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Completed {
    pub(crate) at: Timestamp,
    pub(crate) path: String,
    pub(crate) status: u16,
}

impl Journal {
    /// Where the log ends now.
    pub(crate) fn position(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |it| it.len())
    }

    /// What was answered after a position.
    pub(crate) fn since(&self, position: u64) -> Result<Vec<Completed>, Problem> {
        let mut file = File::open(&self.path).during(self.path.display())?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(position))
            .and_then(|_| file.read_to_string(&mut text))
            .during(self.path.display())?;
        Ok(text.lines().filter_map(completed).collect())
    }
}

/// A line of the log.
#[derive(Deserialize)]
struct Line<'a> {
    msg: &'a str,
    timestamp: &'a str,
    url_path: Option<String>,
    status: Option<u16>,
}

/// The request of a line, if the line is about one. A line that a killed node
/// left unfinished is not.
fn completed(line: &str) -> Option<Completed> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    if line.msg != "request completed" {
        return None;
    }
    Some(Completed {
        at: Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", line.timestamp).ok()?,
        path: line.url_path?,
        status: line.status?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"level":"info","timestamp":"2023-12-01T12:00:00.004+0500","caller":"server/middleware.go:41","msg":"request completed","url_path":"/api/movie/7","event_duration":12,"status":200}"#;

    #[test]
    fn an_answered_request_is_read_with_its_time() {
        let read = completed(LINE).expect("it is one");
        assert_eq!(read.at.to_string(), "2023-12-01T07:00:00.004Z");
        assert_eq!((read.path.as_str(), read.status), ("/api/movie/7", 200));
    }

    #[test]
    fn other_lines_are_passed_over() {
        assert_eq!(
            completed(&LINE.replace("request completed", "Quota updated.")),
            None
        );
        assert_eq!(completed(&LINE[..LINE.len() - 5]), None);
        assert_eq!(completed(""), None);
    }
}
