//! What is told while preparing.

use std::fmt;
use std::time::{Duration, Instant};

/// Time between two progress lines of the same wait.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(3);

/// Where progress goes: a terminal, the log, a test's vector. Called from the
/// preparing task, so it must not block.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn tell(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Progress for F {
    fn tell(&self, event: &Event) {
        self(event);
    }
}

/// Progress as log lines: warnings at `warn`, the rest at `info`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Progress for Log {
    fn tell(&self, event: &Event) {
        match event.is_warning() {
            true => tracing::warn!("prepare: {event}"),
            false => tracing::info!("prepare: {event}"),
        }
    }
}

/// One thing worth telling. Its display is one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server does not accept connections yet.
    WaitingForServer {
        /// `HOST:PORT`.
        server: String,
        /// Since the first attempt.
        elapsed: Duration,
        /// Why the last attempt failed.
        because: String,
    },
    /// Another instance holds the lock.
    WaitingForOther {
        /// Who, and what it is doing.
        other: String,
        /// Since the first attempt.
        elapsed: Duration,
    },
    /// The seeding command of an earlier start is still alive.
    WaitingForSeed {
        /// Its process id.
        pid: u32,
        /// Since it was noticed.
        elapsed: Duration,
    },
    /// The seeding command starts.
    Seeding {
        /// The program.
        program: String,
    },
    /// The seeding command counts.
    Seed {
        /// Its words.
        message: String,
        /// How far it is.
        done: u64,
        /// How far it goes; never 0.
        total: u64,
    },
    /// A line of the seeding command's output, cut to a bounded length.
    SeedLine(String),
    /// The seeding command has been silent for a while.
    SeedSilent {
        /// Since it started.
        elapsed: Duration,
    },
    /// Seeding is complete.
    Seeded {
        /// Since it started.
        elapsed: Duration,
    },
    /// A migration takes longer than a second.
    Running {
        /// The migration.
        migration: String,
        /// What its backend does: a phase, a wait, a percentage.
        doing: String,
        /// Of the present phase, when known.
        percent: Option<u8>,
        /// Since its statement started.
        elapsed: Duration,
    },
    /// A migration did not get its lock and will be tried again.
    Retrying {
        /// The migration.
        migration: String,
        /// Tries so far.
        tries: u32,
        /// Pause before the next.
        pause: Duration,
        /// The server's words.
        because: String,
    },
    /// A half-built index is dropped, to be built again.
    Repairing {
        /// The migration whose index it is.
        migration: String,
        /// The index.
        index: String,
    },
    /// A migration is complete.
    Applied {
        /// The migration.
        migration: String,
        /// Since it started.
        elapsed: Duration,
    },
    /// Something an operator should look at; work goes on.
    Warning(String),
}

impl Event {
    /// Whether an operator should look at it.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Event::Warning(_) | Event::Retrying { .. } | Event::Repairing { .. }
        )
    }

    /// How far the thing told of is, 0 to 100, if it can be counted.
    pub fn percent(&self) -> Option<u8> {
        match self {
            Event::Seed { done, total, .. } => Some(percent(*done, *total)),
            Event::Running { percent, .. } => *percent,
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::WaitingForServer {
                server,
                elapsed,
                because,
            } => {
                write!(
                    f,
                    "waiting for PostgreSQL at {server}, {}: {because}",
                    took(*elapsed)
                )
            }
            Event::WaitingForOther { other, elapsed } => {
                write!(
                    f,
                    "another instance is preparing this database, waiting {}: {other}",
                    took(*elapsed)
                )
            }
            Event::WaitingForSeed { pid, elapsed } => write!(
                f,
                "the seeding of an earlier start still runs as process {pid}, waiting for its end, {}",
                took(*elapsed)
            ),
            Event::Seeding { program } => write!(f, "seeding with {program}"),
            Event::Seed {
                message,
                done,
                total,
            } => {
                write!(
                    f,
                    "seeding {:3} %  {message} {done}/{total}",
                    percent(*done, *total)
                )
            }
            Event::SeedLine(line) => write!(f, "seeding: {line}"),
            Event::SeedSilent { elapsed } => write!(f, "seeding, {}", took(*elapsed)),
            Event::Seeded { elapsed } => write!(f, "seeded in {}", took(*elapsed)),
            Event::Running {
                migration,
                doing,
                percent,
                elapsed,
            } => {
                write!(f, "{migration}: {doing}")?;
                percent.iter().try_for_each(|p| write!(f, " {p} %"))?;
                write!(f, ", {}", took(*elapsed))
            }
            Event::Retrying {
                migration,
                tries,
                pause,
                because,
            } => {
                write!(
                    f,
                    "{migration}: try {tries}: {because}; again in {}",
                    took(*pause)
                )
            }
            Event::Repairing { migration, index } => {
                write!(
                    f,
                    "{migration}: index {index} is invalid (its build was cut short), building it again"
                )
            }
            Event::Applied { migration, elapsed } => {
                write!(f, "{migration}: applied in {}", took(*elapsed))
            }
            Event::Warning(text) => f.write_str(text),
        }
    }
}

/// A wait, and when the next progress line about it is due.
pub(super) struct Wait {
    started: Instant,
    told: Option<Instant>,
}

impl Wait {
    /// Begins now.
    pub(super) fn new() -> Wait {
        Wait {
            started: Instant::now(),
            told: None,
        }
    }

    /// How long it lasts by now.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// [`Wait::elapsed`], if a line is due: at first, then every
    /// [`TELL_EVERY`].
    pub(super) fn due(&mut self) -> Option<Duration> {
        let due = self.told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        due.then(|| {
            self.told = Some(Instant::now());
            self.elapsed()
        })
    }

    /// Something else was told, which will do for a while.
    pub(super) fn told(&mut self) {
        self.told = Some(Instant::now());
    }
}

/// `done` of `total` as a whole percentage, never above 100. A total of 0 is
/// complete.
pub(super) fn percent(done: u64, total: u64) -> u8 {
    let share = u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    u8::try_from(share)
        .expect("done is at most total")
        .max(if total == 0 { 100 } else { 0 })
}

/// A duration as people read it: `340 ms`, `3.4 s`, `12 min 5 s`.
pub(super) fn took(time: Duration) -> String {
    let (seconds, tenths) = (time.as_secs(), time.subsec_millis() / 100);
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds}.{tenths} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_whole_and_bounded() {
        let of = [(0, 5), (1, 3), (5, 5), (9, 5), (u64::MAX, u64::MAX), (0, 0)];
        assert_eq!(
            of.map(|(done, total)| percent(done, total)),
            [0, 33, 100, 100, 100, 100]
        );
    }

    #[test]
    fn durations_read_like_speech() {
        let of = [340, 1000, 59_990, 725_000].map(|ms| took(Duration::from_millis(ms)));
        assert_eq!(of, ["340 ms", "1.0 s", "59.9 s", "12 min 5 s"]);
    }
}
