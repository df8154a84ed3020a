//! The access log: one JSON line for each request, when its answer has ended.
//!
//! A request puts its line into memory; a thread of its own writes what is
//! there every now and then. A request never waits for it: when
//! [`WAITING_MAX`] bytes wait to be written, lines are dropped and counted.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;
use hyper::{Method, Uri, Version};

use super::cache::Lookup;
use super::metrics::Metrics;
use super::trail::{Outcome, Trail};

/// Bytes that may wait to be written, and one line.
const WAITING_MAX: usize = 4 * 1024 * 1024;

/// Pause between two writes. The writer is not woken by each line: that would
/// cost more than the line.
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
    /// The `traceparent` it came with; none if it has one of our own, which is
    /// named after its id.
    pub(crate) trace: Option<HeaderValue>,
    /// What went wrong, in one word.
    pub(crate) error: Option<&'static str>,
}

/// Names for the numbers in an [`Entry`], as JSON.
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
            routes: routes.map(json).collect(),
            nodes: nodes.map(json).collect(),
        }
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON's")
}

/// The end that requests write to. Without a target, nothing is written.
#[derive(Debug, Default)]
pub(crate) struct AccessLog(Option<Open>);

#[derive(Debug)]
struct Open {
    names: Names,
    waiting: Arc<Mutex<Waiting>>,
    /// None once it was told to end.
    writer: Option<JoinHandle<()>>,
}

/// Lines that are not written yet.
#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The second of the last line, as it is written.
    second: Second,
    /// No line will come any more.
    ended: bool,
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
        AccessLog::over(output, names)
    }

    fn over(output: Box<dyn Write + Send>, names: Names) -> io::Result<AccessLog> {
        let waiting = Arc::<Mutex<Waiting>>::default();
        let lines = Arc::clone(&waiting);
        let writer = Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(&lines, output))?;
        Ok(AccessLog(Some(Open {
            names,
            waiting,
            writer: Some(writer),
        })))
    }

    /// Writes a line, or drops it.
    pub(crate) fn write(&self, entry: &Entry, metrics: &Metrics) {
        let Some(open) = &self.0 else { return };
        let mut waiting = lock(&open.waiting);
        if waiting.lines.len() >= WAITING_MAX {
            return metrics.log_dropped().inc();
        }
        let Waiting { lines, second, .. } = &mut *waiting;
        put_line(lines, entry, &open.names, second);
    }
}

impl Drop for Open {
    /// Waits until all lines are written.
    fn drop(&mut self) {
        lock(&self.waiting).ended = true;
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            let _panicked = writer.join();
        }
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(waiting: &Mutex<Waiting>, mut output: Box<dyn Write + Send>) {
    let mut failing = false;
    let mut lines = Vec::new();
    loop {
        std::thread::park_timeout(WRITER_PAUSE);
        let mut now = lock(waiting);
        std::mem::swap(&mut lines, &mut now.lines);
        let ended = now.ended;
        drop(now);
        let result = output.write_all(&lines).and_then(|()| output.flush());
        lines.clear();
        // Said once, not for each line, until it works again.
        if let (Err(error), false) = (&result, failing) {
            tracing::warn!(%error, "cannot write to the access log; lines are lost");
        }
        failing = result.is_err();
        if ended {
            return;
        }
    }
}

/// Writes a request's line. By hand: it is written for each request, and a
/// serializer takes as long as parsing the request does.
fn put_line(lines: &mut Vec<u8>, entry: &Entry, names: &Names, second: &mut Second) {
    let mut line = Line(lines);
    second.put(&mut line, entry.time);
    line.raw(",\"client\":\"");
    line.address(entry.client);
    line.raw("\",\"method\":\"");
    // A token has nothing to escape (RFC 9110, 5.6.2).
    line.raw(entry.method.as_str());
    line.raw("\",\"target\":");
    match (entry.target.authority(), entry.target.path_and_query()) {
        (None, Some(path)) => line.text(path.as_str()),
        _ => line.text(&entry.target.to_string()),
    }
    line.raw(match entry.version {
        Version::HTTP_10 => ",\"proto\":\"HTTP/1.0\",\"route\":",
        Version::HTTP_2 => ",\"proto\":\"HTTP/2\",\"route\":",
        Version::HTTP_3 => ",\"proto\":\"HTTP/3\",\"route\":",
        _ => ",\"proto\":\"HTTP/1.1\",\"route\":",
    });
    let Trail {
        route,
        queued,
        attempts,
    } = &entry.trail;
    line.raw(&names.routes[route.0]);
    line.raw(",\"status\":");
    line.number(entry.status.into());
    line.raw(",\"bytes_in\":");
    line.number(entry.bytes_in);
    line.raw(",\"bytes_out\":");
    line.number(entry.bytes_out);
    line.raw(",\"duration_ms\":");
    line.millis(entry.duration);
    line.raw(",\"queue_ms\":");
    line.millis(*queued);
    line.raw(",\"node\":");
    line.raw(match entry.trail.last_node() {
        Some(node) => &names.nodes[node],
        None => "null",
    });
    line.raw(",\"attempts\":[");
    for (place, (node, outcome)) in attempts.iter().flatten().enumerate() {
        line.raw(if place == 0 {
            "{\"node\":"
        } else {
            ",{\"node\":"
        });
        line.raw(&names.nodes[*node]);
        line.raw(",\"outcome\":\"");
        match outcome {
            Outcome::Answered(status) => line.number((*status).into()),
            Outcome::Sick(status) => {
                line.number((*status).into());
                line.raw(" sick");
            }
            Outcome::Failed(word) => line.raw(word),
        }
        line.raw("\"}");
    }
    line.raw("]");
    if let Some((lookup, age)) = entry.cache {
        line.raw(",\"cache\":\"");
        line.raw(lookup.label());
        line.raw("\",\"age_ms\":");
        line.millis(age);
    }
    line.raw(",\"request_id\":");
    line.text(entry.request_id.to_str().unwrap_or_default());
    // `00-`, and 32 digits.
    let trace = entry
        .trace
        .as_ref()
        .and_then(|it| it.to_str().ok()?.get(3..35));
    if let Some(trace) = trace {
        line.raw(",\"trace_id\":\"");
        line.raw(trace);
        line.raw("\"");
    }
    if let Some(error) = entry.error {
        line.raw(",\"error\":\"");
        line.raw(error);
        line.raw("\"");
    }
    line.raw("}\n");
}

/// Where a line is written.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A string, with quotes.
    fn text(&mut self, text: &str) {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        if text.bytes().all(is_plain) {
            self.raw("\"");
            self.raw(text);
            self.raw("\"");
        } else {
            self.raw(&json(text));
        }
    }

    fn number(&mut self, number: u64) {
        self.raw(itoa::Buffer::new().format(number));
    }

    /// Three digits.
    fn thousandths(&mut self, number: u32) {
        let digit = |power: u32| b'0' + (number / power % 10) as u8;
        self.0.extend([digit(100), digit(10), digit(1)]);
    }

    /// Milliseconds to three places.
    fn millis(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.number(micros / 1000);
        self.raw(".");
        self.thousandths((micros % 1000) as u32);
    }

    /// Without the port, where nobody said one.
    fn address(&mut self, address: SocketAddr) {
        if address.port() == 0 {
            return self.raw(&address.ip().to_string());
        }
        let SocketAddr::V4(address) = address else {
            return self.raw(&address.to_string());
        };
        for (place, octet) in address.ip().octets().into_iter().enumerate() {
            self.raw(if place == 0 { "" } else { "." });
            self.number(octet.into());
        }
        self.raw(":");
        self.number(address.port().into());
    }
}

/// The beginning of a line, up to the second in UTC (RFC 3339). It is made
/// once for all lines of the second.
#[derive(Debug, Default)]
struct Second {
    /// Since 1970.
    number: u64,
    text: String,
}

impl Second {
    /// Begins a line at this time.
    fn put(&mut self, line: &mut Line<'_>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.number != since.as_secs() || self.text.is_empty() {
            self.number = since.as_secs();
            let (days, second) = (self.number / 86_400, self.number % 86_400);
            let (year, month, day) = civil_date(days);
            let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
            self.text = format!(
                "{{\"time\":\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}."
            );
        }
        line.raw(&self.text);
        line.thousandths(since.subsec_millis());
        line.raw("Z\"");
    }
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
    use proptest::prelude::*;

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
            trace: None,
            error: None,
        }
    }

    #[test]
    fn a_line_says_all_about_a_request() {
        let mut line = Vec::new();
        put_line(&mut line, &entry(), &names(), &mut Second::default());
        let expected = concat!(
            r#"{"time":"2023-11-21T00:00:00.123Z","client":"192.0.2.1:1024","method":"GET","#,
            r#""target":"/api/movie/17?a={b}","proto":"HTTP/1.1","route":"movie","status":200,"#,
            r#""bytes_in":3,"bytes_out":40,"duration_ms":12.345,"queue_ms":0.000,"node":"b","#,
            r#""attempts":[{"node":"a","outcome":"ambiguous"},{"node":"a","outcome":"500 sick"},"#,
            r#"{"node":"b","outcome":"200"}],"request_id":"id-1"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&line), expected);
    }

    #[test]
    fn a_line_names_the_trace_a_request_came_with() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let entry = Entry {
            trace: Some(HeaderValue::from_static(trace)),
            ..entry()
        };
        let mut line = Vec::new();
        put_line(&mut line, &entry, &names(), &mut Second::default());
        let read: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        assert_eq!(read["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    proptest! {
        #[test]
        fn a_line_is_json_whatever_a_client_sends(
            target in "/[!-~]{0,40}",
            address in any::<SocketAddr>(),
            micros in any::<u64>(),
            bytes in any::<u64>(),
        ) {
            let Ok(target) = target.parse::<Uri>() else { return Ok(()) };
            let entry = Entry {
                client: address,
                target: target.clone(),
                duration: Duration::from_micros(micros),
                bytes_out: bytes,
                cache: Some((Lookup::Hit, Duration::from_millis(7))),
                error: Some("client_left"),
                ..entry()
            };
            let mut line = Vec::new();
            put_line(&mut line, &entry, &names(), &mut Second::default());
            let read: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(&read["client"], &address.to_string());
            prop_assert_eq!(&read["target"], &target.to_string());
            prop_assert_eq!(read["bytes_out"].as_u64(), Some(bytes));
            let expected = micros as f64 / 1000.0;
            let duration = read["duration_ms"].as_f64().expect("a number");
            prop_assert!((duration - expected).abs() <= expected * 1e-9);
        }
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
            let mut second = Second::default();
            let mut line = Vec::new();
            second.put(
                &mut Line(&mut line),
                UNIX_EPOCH + Duration::from_secs(seconds),
            );
            let expected = format!("{{\"time\":\"{date}\"");
            assert_eq!(String::from_utf8_lossy(&line), expected);
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
        let stuck = written.lock().expect("no panic");
        let output = Box::new(Stuck(Arc::clone(&written)));
        let log = AccessLog::over(output, names()).expect("a thread");
        let lines = 2 * WAITING_MAX / 100;
        for _ in 0..lines {
            log.write(&entry(), &metrics);
        }
        let dropped = metrics.log_dropped().get() as usize;
        assert!(dropped > 0);
        drop(stuck);
        drop(log);
        let written = String::from_utf8_lossy(&written.lock().expect("no panic")).into_owned();
        assert_eq!(written.lines().count(), lines - dropped);
    }
}
