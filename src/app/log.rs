//! Where log lines go and what they look like.
//!
//! Lines are handed to a thread of its own over a bounded queue: a full disk
//! or a stuck pipe never stops the data path. What does not fit is dropped
//! and counted.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use jiff::Zoned;
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Lines that wait to be written, at most.
const MAX_WAITING_LINES: usize = 10_000;

/// Keeps the writer going; what waits is written when it is dropped.
pub struct LogGuard {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
}

impl LogGuard {
    /// Tells how many lines have been dropped so far.
    pub fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = self.dropped.clone();
        move || dropped.dropped_lines() as u64
    }
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// PgBouncer's: `YYYY-MM-DD HH:MM:SS.mmm ZONE [PID] LEVEL MESSAGE`.
    Pgbouncer,
    /// One JSON object a line.
    Json,
}

/// Where lines go besides, and from which level on.
#[derive(Debug)]
pub struct Destination<'a> {
    /// A file (`logfile`), else standard error.
    pub file: Option<&'a Path>,
    /// Nothing to standard error.
    pub quiet: bool,
    /// `verbose`.
    pub verbose: u8,
    /// The look.
    pub format: Format,
}

/// Starts logging.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(destination: &Destination<'_>) -> io::Result<LogGuard> {
    let target: Box<dyn io::Write + Send> = match destination.file {
        Some(path) => Box::new(OpenOptions::new().append(true).create(true).open(path)?),
        None if destination.quiet => Box::new(io::sink()),
        None => Box::new(io::stderr()),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .finish(target);
    let dropped = writer.error_counter();
    let level = match destination.verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    install(destination.format, level, writer);
    Ok(LogGuard {
        _writer: guard,
        dropped,
    })
}

fn install<W>(format: Format, level: Level, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer);
    // Only the tests of this file could have installed another before.
    let installed = match format {
        Format::Pgbouncer => builder.event_format(PgbouncerLines).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(installed);
}

/// PgBouncer's line.
struct PgbouncerLines;

impl<S, N> FormatEvent<S, N> for PgbouncerLines
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'f> FormatFields<'f> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        let now = Zoned::now()
            .strftime("%Y-%m-%d %H:%M:%S.%3f %Z")
            .to_string();
        let mut text = String::new();
        event.record(&mut Text(&mut text));
        let text = text.replace('\n', "\n\t");
        writeln!(writer, "{now} [{}] {level} {text}", std::process::id())
    }
}

/// The message, with fields behind it.
struct Text<'a>(&'a mut String);

impl tracing::field::Visit for Text<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        let written = match field.name() {
            "message" => {
                let rest = std::mem::take(self.0);
                write!(self.0, "{value:?}{rest}")
            }
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("a String takes all");
    }
}
