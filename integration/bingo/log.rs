//! The log: one JSON object per line, as zap writes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::clock::{self, Clock};

/// The file in the log directory.
const FILE: &str = "main.log";

/// A message and the place in the original's source that says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) caller: &'static str,
    pub(crate) msg: &'static str,
}

const fn line(caller: &'static str, msg: &'static str) -> Line {
    Line { caller, msg }
}

pub(crate) const PREPARE_APP: Line = line("app/app.go:27", "Prepare app.");
pub(crate) const INIT_APP: Line = line("app/app.go:44", "Init app.");
pub(crate) const CREATE_CORE: Line = line("core/core.go:31", "Create core.");
pub(crate) const INIT_CORE: Line = line("core/core.go:48", "Init core.");
pub(crate) const STARTUP_REQUEST: Line = line("core/core.go:63", "Run initialization request.");
pub(crate) const STARTUP_FAILED: Line = line("core/core.go:71", "Failed initialization request.");
pub(crate) const CORE_READY: Line = line("core/core.go:78", "Core initialization finished.");
pub(crate) const INIT_ROUTES: Line = line("server/server.go:36", "Init routes.");
pub(crate) const INIT_MIDDLEWARES: Line = line("server/server.go:58", "Init middlewares.");
pub(crate) const RUN_SERVER: Line = line("server/server.go:83", "Run server.");
pub(crate) const SHUTDOWN: Line = line("server/server.go:97", "Shutdown server.");
pub(crate) const COMPLETED: Line = line("server/middleware.go:41", "request completed");
pub(crate) const REQUEST_FAILED: Line = line("server/middleware.go:47", "request failed");
pub(crate) const TOO_MANY: Line = line("server/limiter.go:52", "Too many requests");
pub(crate) const QUOTA: Line = line("server/limiter.go:33", "Quota updated.");
pub(crate) const I_AM_ALIVE: Line = line("core/heart.go:19", "I am alive.");
pub(crate) const AM_FINE: Line = line("core/heart.go:24", "I am still here and am fine");
pub(crate) const UPDATING_NODES: Line = line("database/cluster.go:38", "Started updating nodes.");
pub(crate) const NODE_ALIVE: Line = line("database/cluster.go:46", "Node is alive.");
pub(crate) const NODE_DEAD: Line = line("database/cluster.go:51", "Node is dead.");
pub(crate) const NOTIFIED: Line = line("database/cluster.go:57", "Notified all waiters.");
pub(crate) const MIGRATING: Line = line("database/migration.go:29", "Start migration.");
pub(crate) const MIGRATED: Line = line("database/migration.go:52", "Migration finished.");
pub(crate) const ALREADY_SEEDED: Line = line(
    "database/migration.go:60",
    "Data are complete already, nothing to do.",
);
pub(crate) const HALF_SEEDED: Line = line(
    "database/migration.go:66",
    "Data are incomplete, seeding again from empty tables.",
);
pub(crate) const INSERTED: Line = line("database/migration.go:104", "");
pub(crate) const INSERTION_FAILED: Line = line("database/migration.go:98", "");
pub(crate) const SEEDED: Line = line("database/migration.go:131", "Data initialisation compleat.");

/// The open log.
pub(crate) struct Log {
    clock: Clock,
    zone: TimeZone,
    file: Mutex<File>,
    /// Write every line to stdout too.
    terminal: bool,
    /// The last field of every line with its comma, or nothing.
    environment: String,
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Error,
}

impl Log {
    /// Opens `main.log` in `directory`, which must exist, to append to it.
    /// `environment` is attached to every line.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn open(
        directory: &Path,
        clock: Clock,
        terminal: bool,
        environment: Option<Vec<String>>,
    ) -> io::Result<Log> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(directory.join(FILE))?;
        let environment = environment
            .map(|variables| format!(",\"env\":{}", Value::from(variables)))
            .unwrap_or_default();
        Ok(Log {
            clock,
            zone: TimeZone::system(),
            file: Mutex::new(file),
            terminal,
            environment,
        })
    }

    /// Writes an ordinary line.
    pub(crate) fn info(&self, line: Line, fields: &[(&str, Value)]) {
        self.write(Level::Info, line.caller, line.msg, fields);
    }

    /// Writes an ordinary line whose message is made at run time.
    pub(crate) fn info_as(&self, line: Line, msg: &str, fields: &[(&str, Value)]) {
        self.write(Level::Info, line.caller, msg, fields);
    }

    /// Writes an error.
    pub(crate) fn error(&self, line: Line, fields: &[(&str, Value)]) {
        self.write(Level::Error, line.caller, line.msg, fields);
    }

    /// Writes an error whose message is made at run time.
    pub(crate) fn error_as(&self, line: Line, msg: &str, fields: &[(&str, Value)]) {
        self.write(Level::Error, line.caller, msg, fields);
    }

    fn write(&self, level: Level, caller: &str, msg: &str, fields: &[(&str, Value)]) {
        let time = clock::log_format(self.clock.now(), &self.zone);
        let record = record(level, &time, caller, msg, fields, &self.environment);
        // A full disk must not end the application: the original logs on, too.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(record.as_bytes());
        if self.terminal {
            let _ = io::stdout().write_all(record.as_bytes());
        }
    }
}

/// One line with its newline.
fn record(
    level: Level,
    time: &str,
    caller: &str,
    msg: &str,
    fields: &[(&str, Value)],
    environment: &str,
) -> String {
    let level = match level {
        Level::Info => "info",
        Level::Error => "error",
    };
    let head = [
        ("level", level),
        ("timestamp", time),
        ("caller", caller),
        ("msg", msg),
    ];
    let head = head
        .iter()
        .map(|(key, value)| format!("\"{key}\":{}", Value::from(*value)));
    let tail = fields
        .iter()
        .map(|(key, value)| format!("{}:{value}", Value::from(*key)));
    let body: Vec<_> = head.chain(tail).collect();
    format!("{{{}{environment}}}\n", body.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_json_object_in_zaps_order() {
        let fields = [
            ("url_path", Value::from("/ping")),
            ("event_duration", Value::from(12)),
        ];
        assert_eq!(
            record(Level::Info, "T", "a.go:1", "request completed", &fields, ""),
            "{\"level\":\"info\",\"timestamp\":\"T\",\"caller\":\"a.go:1\",\
             \"msg\":\"request completed\",\"url_path\":\"/ping\",\"event_duration\":12}\n"
        );
    }

    #[test]
    fn the_environment_ends_every_line() {
        let line = record(
            Level::Error,
            "T",
            "a.go:1",
            "x\"y",
            &[],
            ",\"env\":[\"A=1\"]",
        );
        let value: Value = serde_json::from_str(&line).expect("valid");
        assert_eq!(value["env"][0], "A=1");
        assert_eq!(value["msg"], "x\"y");
        assert_eq!(value["level"], "error");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let missing = Path::new("/nonexistent/logs");
        assert!(Log::open(missing, Clock::default(), false, None).is_err());
    }
}
