//! The access log: one JSON line for each request, when its answer has ended.
//!
//! A thread of its own makes and writes the lines. A request never waits for
//! it: when it is behind by [`LINES_WAITING_MAX`] lines, lines are dropped and
//! counted.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;
use hyper::{Method, Uri, Version};
use serde::{Serialize, Serializer};

use super::cache::Lookup;
use super::metrics::Metrics;
use super::trail::{Outcome, Trail};

/// Lines that may wait to be written.
const LINES_WAITING_MAX: usize = 8192;

/// Pause of the writer when it has written all there was. It is not woken by
/// each line: that would cost more than the line.
const WRITER_PAUSE: Duration = Duration::from_millis(50);

/// A request at its end.
#[derive(Debug)]
pub(crate) struct Entry {
    /// When it arrived.
    pub(crate) time: SystemTime,
    pub(crate) client: SocketAddr,
    pub(crate) method: Method,
    /// As the client sent it, without the host in HTTP/2 and HTTP/3.
    pub(crate) target: Uri,
    pub(crate) version: Version,
    /// Its route, its waits and its attempts.
    pub(crate) trail: Trail,
    pub(crate) status: u16,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// What the cache did, and the age of what it gave; none on a route that
    /// keeps nothing.
    pub(crate) cache: Option<(Lookup, Duration)>,
    pub(crate) request_id: HeaderValue,
    /// What went wrong, in one word.
    pub(crate) error: Option<&'static str>,
}

/// Names for the numbers in an [`Entry`].
#[derive(Debug)]
pub(crate) struct Names {
    /// Route names by [`RouteId`].
    routes: Vec<String>,
    /// Node names.
    nodes: Vec<String>,
}

impl Names {
    /// The names of these routes and nodes.
    pub(crate) fn of<'a>(
        routes: impl Iterator<Item = &'a str>,
        nodes: impl Iterator<Item = &'a str>,
    ) -> Names {
        Names {
            routes: routes.map(str::to_owned).collect(),
            nodes: nodes.map(str::to_owned).collect(),
        }
    }
}

/// The end that requests write to. Without a target, nothing is written.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    lines: Option<SyncSender<Entry>>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Opens the target, a file or `stdout`, and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened for appending; no thread can be had.
    pub(crate) fn open(target: &str, names: Names) -> io::Result<AccessLog> {
        let output: Box<dyn Write + Send> = match target {
            "stdout" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (lines, entries) = sync_channel(LINES_WAITING_MAX);
        let writer = Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&entries, &names, BufWriter::new(output)))?;
        Ok(AccessLog {
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    /// Whether anybody wants lines.
    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Hands a line to the writer, or drops it.
    pub(crate) fn write(&self, entry: Entry, metrics: &Metrics) {
        if let Some(lines) = &self.lines
            && lines.try_send(entry).is_err()
        {
            metrics.log_dropped().inc();
        }
    }
}

impl Drop for AccessLog {
    /// Waits until all lines are written: for a pause of the writer and the
    /// lines of that time.
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }
}

fn write_all(entries: &Receiver<Entry>, names: &Names, mut output: BufWriter<impl Write>) {
    let mut failing = false;
    loop {
        let result = match entries.try_recv() {
            Ok(entry) => write_line(&mut output, &entry, names),
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                let result = output.flush();
                std::thread::sleep(WRITER_PAUSE);
                result
            }
        };
        // Said once, not for each line, until it works again.
        if let (Err(error), false) = (&result, failing) {
            tracing::warn!(%error, "cannot write to the access log; lines are lost");
        }
        failing = result.is_err();
    }
    if let Err(error) = output.flush() {
        tracing::warn!(%error, "cannot write the end of the access log");
    }
}

fn write_line(output: &mut impl Write, entry: &Entry, names: &Names) -> io::Result<()> {
    serde_json::to_writer(&mut *output, &Line::new(entry, names))?;
    output.write_all(b"\n")
}

/// A line as it is written.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(serialize_with = "as_address")]
    client: SocketAddr,
    method: &'a str,
    #[serde(serialize_with = "as_text")]
    target: &'a Uri,
    proto: &'static str,
    route: &'a str,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    queue_ms: f64,
    node: Option<&'a str>,
    attempts: Vec<AttemptLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<f64>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    node: &'a str,
    #[serde(serialize_with = "as_outcome")]
    outcome: Outcome,
}

impl<'a> Line<'a> {
    fn new(entry: &'a Entry, names: &'a Names) -> Line<'a> {
        let attempts: Vec<_> = entry
            .trail
            .attempts
            .iter()
            .flatten()
            .map(|(node, outcome)| AttemptLine {
                node: &names.nodes[*node],
                outcome: *outcome,
            })
            .collect();
        Line {
            time: rfc3339(entry.time),
            client: entry.client,
            method: entry.method.as_str(),
            target: &entry.target,
            proto: match entry.version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_3 => "HTTP/3",
                _ => "HTTP/1.1",
            },
            route: &names.routes[entry.trail.route.0],
            status: entry.status,
            bytes_in: entry.bytes_in,
            bytes_out: entry.bytes_out,
            duration_ms: millis(entry.duration),
            queue_ms: millis(entry.trail.queued),
            node: attempts.last().map(|attempt| attempt.node),
            attempts,
            cache: entry.cache.map(|(lookup, _)| lookup.label()),
            age_ms: entry.cache.map(|(_, age)| millis(age)),
            request_id: entry.request_id.to_str().unwrap_or_default(),
            error: entry.error,
        }
    }
}

/// Without the port, where nobody said one.
fn as_address<S: Serializer>(value: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
    match value.port() {
        0 => serializer.collect_str(&value.ip()),
        _ => serializer.collect_str(value),
    }
}

fn as_text<S: Serializer>(value: &Uri, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn as_outcome<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
    match outcome {
        Outcome::Answered(status) => serializer.collect_str(status),
        Outcome::Sick(status) => serializer.collect_str(&format_args!("{status} sick")),
        Outcome::Failed(word) => serializer.serialize_str(word),
    }
}

/// Milliseconds to three places.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A moment in UTC, to the millisecond (RFC 3339).
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day, counted from 1970-01-01. Years are counted
/// from March, so that the leap day is the last of a year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    /// Days of 400 years, after which the calendar repeats.
    const ERA: u64 = 146_097;
    // 0000-03-01 was 719468 days before 1970-01-01.
    let days = days + 719_468;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::route::RouteId;
    use std::sync::{Arc, Mutex};

    fn names() -> Names {
        Names::of(["movie", "other"].into_iter(), ["a", "b"].into_iter())
    }

    fn entry() -> Entry {
        let mut trail = Trail::new(RouteId(0));
        trail.attempts[0] = Some((0, Outcome::Failed("ambiguous")));
        trail.attempts[1] = Some((0, Outcome::Sick(500)));
        trail.attempts[2] = Some((1, Outcome::Answered(200)));
        Entry {
            time: UNIX_EPOCH + Duration::from_millis(1_700_524_800_123),
            client: "192.0.2.1:1024".parse().expect("an address"),
            method: Method::GET,
            target: Uri::from_static("/api/movie/17?a={b}"),
            version: Version::HTTP_11,
            trail,
            status: 200,
            bytes_in: 3,
            bytes_out: 40,
            duration: Duration::from_micros(12_345),
            cache: None,
            request_id: HeaderValue::from_static("id-1"),
            error: None,
        }
    }

    #[test]
    fn a_line_says_all_about_a_request() {
        let mut line = Vec::new();
        write_line(&mut line, &entry(), &names()).expect("memory takes all");
        let expected = concat!(
            r#"{"time":"2023-11-21T00:00:00.123Z","client":"192.0.2.1:1024","method":"GET","#,
            r#""target":"/api/movie/17?a={b}","proto":"HTTP/1.1","route":"movie","status":200,"#,
            r#""bytes_in":3,"bytes_out":40,"duration_ms":12.345,"queue_ms":0.0,"node":"b","#,
            r#""attempts":[{"node":"a","outcome":"ambiguous"},{"node":"a","outcome":"500 sick"},"#,
            r#"{"node":"b","outcome":"200"}],"request_id":"id-1"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&line), expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    /// Takes nothing until it is told to.
    struct Stuck(Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_behind_makes_nobody_wait_and_what_is_dropped_is_counted() {
        let routes = super::super::route::Routes::new(&Default::default(), Duration::ZERO);
        let metrics = Metrics::new(&routes.expect("no routes"), &["a"]).expect("metrics");
        let written = Arc::new(Mutex::new(Vec::new()));
        let (lines, entries) = sync_channel(2);
        let stuck = written.lock().expect("no panic");
        let output = BufWriter::with_capacity(1, Stuck(Arc::clone(&written)));
        let writer = std::thread::spawn(move || write_all(&entries, &names(), output));
        let log = AccessLog {
            lines: Some(lines),
            writer: Some(writer),
        };
        for _ in 0..10 {
            log.write(entry(), &metrics);
        }
        let dropped = metrics.log_dropped().get();
        assert!((7..=8).contains(&dropped), "{dropped}");
        drop(stuck);
        drop(log);
        let written = String::from_utf8_lossy(&written.lock().expect("no panic")).into_owned();
        assert_eq!(written.lines().count() as u64, 10 - dropped);
    }
}
