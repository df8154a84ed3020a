//! What the seeding command prints, as events at a bounded rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::progress::Event;

/// Longest line that is read, in bytes; the rest of it is dropped.
const MAX_LINE: usize = 64 << 10;
/// Longest line that is shown, in characters.
const MAX_SHOWN: usize = 200;
/// Time between two counting lines.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// Other lines shown in any [`STEP_EVERY`].
const MAX_LINES: u32 = 10;
/// Last lines kept for the error message.
const TAIL: usize = 10;

/// Cuts a stream of bytes into lines of at most [`MAX_LINE`].
#[derive(Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, gives each line they complete to `line`. A `\r`
    /// ends a line too: that is how progress bars are drawn.
    pub(super) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            let (piece, complete) = match piece.split_last() {
                Some((b'\n' | b'\r', piece)) => (piece, true),
                _ => (piece, false),
            };
            let room = MAX_LINE - self.partial.len();
            self.partial
                .extend_from_slice(&piece[..piece.len().min(room)]);
            if complete && !self.partial.is_empty() {
                line(&self.partial);
                self.partial.clear();
            }
        }
    }
}

/// The command's lines so far, as far as they still matter.
#[derive(Default)]
pub(super) struct Output {
    stepped: Option<Instant>,
    window: Option<Instant>,
    shown: u32,
    left_out: u64,
    tail: VecDeque<String>,
}

impl Output {
    /// Takes one line; gives what to tell of it at `now`, if anything.
    pub(super) fn line(&mut self, line: &[u8], now: Instant) -> Option<Event> {
        // Loggers write a line of JSON. Only these fields are shown: bingo puts
        // its whole environment into another.
        let json = serde_json::from_slice::<Value>(line).unwrap_or_default();
        let number = |field: &str| json[field].as_u64();
        let text = match (
            json["msg"].as_str(),
            &json["error"],
            number("i"),
            number("total"),
        ) {
            (Some(message), Value::Null, Some(done), Some(total @ 1..)) => {
                return self.step(message, done, total, now);
            }
            (Some(message), Value::Null, ..) => plain(message),
            (Some(message), Value::String(error), ..) => plain(&format!("{message}: {error}")),
            (Some(message), error, ..) => plain(&format!("{message}: {error}")),
            (None, ..) => plain(&String::from_utf8_lossy(line)),
        };
        if text.is_empty() {
            return None;
        }
        self.keep(&text);
        self.admit(now)
            .then(|| Event::SeedLine(self.with_gap(text)))
    }

    /// The last lines, oldest first.
    pub(super) fn into_tail(self) -> Vec<String> {
        self.tail.into()
    }

    fn step(&mut self, message: &str, done: u64, total: u64, now: Instant) -> Option<Event> {
        let due = self
            .stepped
            .is_none_or(|at| now.duration_since(at) >= STEP_EVERY);
        if !due && done < total {
            return None;
        }
        self.stepped = Some(now);
        Some(Event::Seed {
            message: plain(message),
            done,
            total,
        })
    }

    fn admit(&mut self, now: Instant) -> bool {
        if self
            .window
            .is_none_or(|at| now.duration_since(at) >= STEP_EVERY)
        {
            (self.window, self.shown) = (Some(now), 0);
        }
        let admitted = self.shown < MAX_LINES;
        match admitted {
            true => self.shown += 1,
            false => self.left_out += 1,
        }
        admitted
    }

    fn with_gap(&mut self, text: String) -> String {
        match std::mem::take(&mut self.left_out) {
            0 => text,
            1 => format!("{text} (1 line left out before)"),
            n => format!("{text} ({n} lines left out before)"),
        }
    }

    fn keep(&mut self, text: &str) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(text.to_owned());
    }
}

/// At most [`MAX_SHOWN`] printable characters: nothing that moves a terminal's
/// cursor gets through.
fn plain(text: &str) -> String {
    let mut printable = text.trim().chars().filter(|c| !c.is_control());
    let mut shown: String = printable.by_ref().take(MAX_SHOWN).collect();
    if printable.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, |line| found.push(line.to_vec()));
        }
        found
    }

    #[test]
    fn lines_end_at_line_feed_and_return_and_empty_ones_vanish() {
        assert_eq!(
            lines(&[b"a\nb", b"c\r", b"\n\nd\n"]),
            [b"a".to_vec(), b"bc".to_vec(), b"d".to_vec()]
        );
    }

    #[test]
    fn an_endless_line_is_cut() {
        let chunk = vec![b'x'; MAX_LINE];
        let found = lines(&[&chunk, &chunk, b"\ny\n"]);
        assert_eq!(
            (found[0].len(), found[1].as_slice()),
            (MAX_LINE, b"y".as_slice())
        );
    }

    #[test]
    fn a_counting_line_becomes_a_percentage() {
        let line = br#"{"level":"info","env":["A=secret"],"msg":"Session inserted","i":1000,"total":4000}"#;
        let event = Output::default()
            .line(line, Instant::now())
            .expect("it is told");
        assert_eq!(event.percent(), Some(25));
        assert_eq!(
            event.to_string(),
            "seeding  25 %  Session inserted 1000/4000"
        );
    }

    #[test]
    fn counting_lines_are_told_once_a_second_and_at_the_end() {
        let (mut output, start) = (Output::default(), Instant::now());
        let mut told = |i: u64, ms: u64| {
            let line = format!(r#"{{"msg":"m","i":{i},"total":9}}"#);
            output
                .line(line.as_bytes(), start + Duration::from_millis(ms))
                .is_some()
        };
        assert_eq!(
            [told(1, 0), told(2, 999), told(3, 1000), told(9, 1001)],
            [true, false, true, true]
        );
    }

    #[test]
    fn other_json_shows_message_and_error_only() {
        let line = br#"{"msg":"Failed insertion session","env":"secret","error":"sql: statement is closed"}"#;
        let told = Output::default().line(line, Instant::now());
        assert_eq!(
            told,
            Some(Event::SeedLine(
                "Failed insertion session: sql: statement is closed".to_owned()
            ))
        );
    }

    #[test]
    fn json_that_is_nothing_of_that_kind_passes_through() {
        for line in ["{}", "[1]", "7", r#"{"level":"info"}"#] {
            let told = Output::default().line(line.as_bytes(), Instant::now());
            assert_eq!(told, Some(Event::SeedLine(line.to_owned())));
        }
        let odd = br#"{"msg":"odd","i":-1,"total":"?","env":"secret"}"#;
        let told = Output::default().line(odd, Instant::now());
        assert_eq!(told, Some(Event::SeedLine("odd".to_owned())));
    }

    #[test]
    fn a_flood_is_thinned_and_the_gap_is_told() {
        let (mut output, start) = (Output::default(), Instant::now());
        let told = (0..100)
            .filter(|n| output.line(format!("line {n}").as_bytes(), start).is_some())
            .count();
        assert_eq!(told, MAX_LINES as usize);
        let next = output
            .line(b"next", start + STEP_EVERY)
            .expect("it is told");
        assert_eq!(
            next,
            Event::SeedLine("next (90 lines left out before)".to_owned())
        );
        assert_eq!(
            output.into_tail().first().map(String::as_str),
            Some("line 91")
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let told = Output::default().line(b"\x1b[2Jgone\x07", Instant::now());
        assert_eq!(told, Some(Event::SeedLine("[2Jgone".to_owned())));
    }

    proptest! {
        #[test]
        fn chunking_does_not_matter(text in "[ab\n]{0,40}", cut in 0_usize..40) {
            let (bytes, cut) = (text.as_bytes(), cut.min(text.len()));
            prop_assert_eq!(lines(&[&bytes[..cut], &bytes[cut..]]), lines(&[bytes]));
        }
    }
}
