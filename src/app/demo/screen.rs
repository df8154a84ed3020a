//! What the demo says, on standard output.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two progress lines where they cannot replace each other.
const STEP_EVERY: Duration = Duration::from_secs(2);

/// Longest progress line, in characters: one that wraps cannot be replaced.
const MAX_WIDTH: usize = 78;

/// The terminal, or the file in its place.
#[derive(Debug)]
pub struct Screen {
    started: Instant,
    terminal: bool,
    /// When a progress line was written that cannot be replaced.
    told: Mutex<Option<Instant>>,
}

impl Screen {
    /// Time counts from now.
    pub fn new() -> Screen {
        Screen {
            started: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            told: Mutex::default(),
        }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// A line, with the time since the start.
    pub fn line(&self, text: &str) {
        self.write(&format!("{}  {text}\n", clock(self.elapsed())));
    }

    /// Text as it is.
    pub fn text(&self, text: &str) {
        self.write(text);
    }

    /// A line that the next one replaces; where that cannot be, one of them
    /// every [`STEP_EVERY`].
    pub fn passing(&self, text: &str) {
        let line = format!("{}  {text}", clock(self.elapsed()));
        match self.terminal {
            true => self.write(&line.chars().take(MAX_WIDTH).collect::<String>()),
            false if self.is_due() => self.write(&(line + "\n")),
            false => {}
        }
    }

    /// Why the demo ends, on standard error.
    pub fn fail(&self, message: &str) {
        self.write("");
        eprintln!("demo: {message}");
    }

    fn is_due(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|at| at.elapsed() >= STEP_EVERY);
        if due {
            *told = Some(Instant::now());
        }
        due
    }

    fn write(&self, text: &str) {
        // What stands there is a progress line or an echoed ^C.
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let mut out = std::io::stdout().lock();
        // A terminal that is gone must not end the demo before it has stopped
        // its children.
        let _ = write!(out, "{clear}{text}").and_then(|()| out.flush());
    }
}

/// Minutes and seconds, `0:07`, `12:34`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:>2}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_minutes_and_seconds() {
        let of = [7, 754, 7261].map(|seconds| clock(Duration::from_secs(seconds)));
        assert_eq!(of, [" 0:07", "12:34", "121:01"]);
    }
}
