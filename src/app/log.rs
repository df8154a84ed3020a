//! Where log lines go and what they look like.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Zoned;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::Config;
use crate::process::{Destination, LogQueue, LogWriter};

/// Keeps the log going; what waits is written when it is dropped.
pub struct LogGuard {
    writer: LogWriter,
    verbosity: Verbosity,
}

impl LogGuard {
    /// Where lines wait to be written.
    pub fn queue(&self) -> &Arc<LogQueue> {
        self.writer.queue()
    }

    /// How much is logged.
    pub fn verbosity(&self) -> &Verbosity {
        &self.verbosity
    }
}

/// How much is logged; can be changed while running.
#[derive(Debug, Clone)]
pub struct Verbosity(reload::Handle<LevelFilter, Registry>);

impl Verbosity {
    /// From now on `verbose` counts.
    pub fn set(&self, verbose: u8) {
        let level = level(verbose);
        // Changing it makes every place that logs look again.
        if self.0.clone_current() != Some(level) && self.0.reload(level).is_err() {
            tracing::debug!("the log ends");
        }
    }
}

fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
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

/// What the configuration says about where lines go; `quiet` is the command
/// line's.
pub fn destination(config: &Config, quiet: bool) -> Destination {
    let settings = &config.pgbouncer;
    let syslog = || {
        (
            settings.syslog_ident.clone(),
            settings.syslog_facility.clone(),
        )
    };
    Destination {
        file: Some(PathBuf::from(&settings.logfile)).filter(|path| !path.as_os_str().is_empty()),
        quiet,
        syslog: settings.syslog.then(syslog),
    }
}

/// Starts logging, of lines up to what `verbose` says.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(destination: &Destination, verbose: u8, format: Format) -> io::Result<LogGuard> {
    let writer = LogWriter::start(destination.open()?)?;
    let (filter, handle) = reload::Layer::new(level(verbose));
    install(format, filter, Lines(writer.queue().clone()));
    let verbosity = Verbosity(handle);
    Ok(LogGuard { writer, verbosity })
}

fn install(format: Format, filter: reload::Layer<LevelFilter, Registry>, lines: Lines) {
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    // Only the tests of this file could have installed another before.
    let installed = match format {
        Format::Pgbouncer => registry.with(layer.event_format(PgbouncerLines)).try_init(),
        Format::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(installed);
}

/// The queue as what formats events wants it.
struct Lines(Arc<LogQueue>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0, Level::INFO)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line(&self.0, *event.level())
    }
}

/// Takes one whole line.
struct Line<'a>(&'a LogQueue, Level);

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(self.1, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
        let text = one_entry(text);
        writeln!(writer, "{now} [{}] {level} {text}", std::process::id())
    }
}

/// Text that neither begins a line of its own nor commands a terminal: parts
/// of it are what strangers call themselves.
fn one_entry(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut entry = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => entry.push_str("\n\t"),
            '\t' => entry.push(c),
            _ if c.is_control() => entry.extend(c.escape_default()),
            _ => entry.push(c),
        }
    }
    entry
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_from_a_new_one_and_commands_nothing() {
        for (text, entry) in [
            ("plain, \u{e9}", "plain, \u{e9}"),
            ("two\nlines", "two\n\tlines"),
            ("a\tb", "a\tb"),
            ("\u{1b}[2J\r\u{7f}", "\\u{1b}[2J\\r\\u{7f}"),
            ("\u{9b}0m", "\\u{9b}0m"),
        ] {
            assert_eq!(one_entry(text.to_owned()), entry);
        }
    }
}
