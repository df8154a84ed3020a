//! Messages as lines of text, without what differs from run to run.

use crate::harness::backend::{Fields, Message};
use crate::harness::wire::Lost;

/// Columns whose values are times, counters, numbers and addresses of sockets.
const VOLATILE: &[&str] = &[
    "connect_time",
    "fd",
    "id",
    "link",
    "local_port",
    "maxwait",
    "maxwait_us",
    "memtotal",
    "pkt_avail",
    "pkt_pos",
    "port",
    "ptr",
    "recv_pos",
    "remote_pid",
    "request_time",
    "send_pos",
    "wait",
    "wait_us",
];

/// Parts of the names of statistics that no two runs share.
const VOLATILE_PARTS: &[&str] = &[
    "avg_", "_time", "received", "sent", "recv", "_bytes", "bytes_",
];

/// The line of a client that would still wait for an answer.
pub(super) const FOR_EVER: &str = "waits for ever";

/// Stands for a value that is left out.
const MASK: &str = "~";

/// Words that stand for what is each process's own: a port, a folder.
#[derive(Debug)]
pub(super) struct Masks(pub(super) Vec<(String, &'static str)>);

impl Masks {
    pub(super) fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (own, word)| {
            replace_word(&text, own, word)
        })
    }
}

/// Replaces it where it is no part of a longer word.
fn replace_word(text: &str, own: &str, word: &str) -> String {
    let is_inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(own) {
        let (before, after) = (&rest[..at], &rest[at + own.len()..]);
        let inside = is_inside(before.chars().next_back()) || is_inside(after.chars().next());
        replaced.push_str(before);
        replaced.push_str(if inside { own } else { word });
        rest = after;
    }
    replaced + rest
}

/// Writes messages down; rows go by the columns told before them.
#[derive(Debug, Default)]
pub(super) struct Scribe {
    columns: Vec<String>,
}

impl Scribe {
    pub(super) fn heard(&mut self, message: &Result<Message, Lost>, masks: &Masks) -> String {
        match message {
            Ok(message) => self.line(message, masks),
            Err(Lost::Closed) => "closed".to_owned(),
            Err(Lost::Silent) => FOR_EVER.to_owned(),
            Err(Lost::Illegal(why)) => format!("illegal: {why}"),
        }
    }

    fn line(&mut self, message: &Message, masks: &Masks) -> String {
        let line = match message {
            Message::Authentication(kind, body) => authentication(*kind, body),
            Message::BackendKeyData(key) => format!("BackendKeyData of {} bytes", key.len()),
            Message::ErrorResponse(error) => format!("ErrorResponse {}", fields(error)),
            Message::NoticeResponse(notice) => format!("NoticeResponse {}", fields(notice)),
            Message::ParameterStatus(name, value) => format!("ParameterStatus {name} = {value}"),
            Message::CommandComplete(tag) => format!("CommandComplete {tag}"),
            Message::RowDescription(columns) => {
                self.columns = columns.iter().map(|column| column.name.clone()).collect();
                let columns = columns.iter().map(|c| {
                    let table = if c.table == 0 { "" } else { " of a table" };
                    format!("{} {}/{}/{}{table}", c.name, c.kind, c.size, c.modifier)
                });
                let columns: Vec<String> = columns.collect();
                format!("RowDescription {}", columns.join(", "))
            }
            Message::DataRow(values) => {
                let values: Vec<String> = values
                    .iter()
                    .map(|value| match value {
                        None => "NULL".to_owned(),
                        Some(value) => masks.apply(&String::from_utf8_lossy(value)),
                    })
                    .collect();
                format!("DataRow {}", self.masked(values).join(" | "))
            }
            other => format!("{other:?}"),
        };
        masks.apply(&line)
    }

    fn masked(&self, mut values: Vec<String>) -> Vec<String> {
        let is_volatile = |name: &str| {
            VOLATILE.contains(&name) || VOLATILE_PARTS.iter().any(|part| name.contains(part))
        };
        // Lists of names and numbers: SHOW TOTALS, SHOW LISTS, SHOW MEM.
        let key = values.first().cloned().unwrap_or_default();
        let pair = matches!(&self.columns[..], [name, value] if matches!((name.as_str(), value.as_str()), ("name", "value") | ("list", "items")));
        if pair && (is_volatile(&key) || key.starts_with("free_")) {
            MASK.clone_into(&mut values[1]);
        }
        for (name, value) in self.columns.iter().zip(&mut values) {
            let is_number_or_time = value.starts_with(|c: char| c.is_ascii_digit());
            if is_volatile(name) && is_number_or_time {
                MASK.clone_into(value);
            }
        }
        values
    }
}

fn authentication(kind: u32, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    match kind {
        5 => format!("Authentication 5, a salt of {} bytes", body.len()),
        11 => {
            let iterations = text.split(',').find(|part| part.starts_with("i="));
            format!("Authentication 11, {}", iterations.unwrap_or("?"))
        }
        12 => format!("Authentication 12, {}", &text[..text.len().min(2)]),
        _ => format!("Authentication {kind} {}", body.escape_ascii()),
    }
}

fn fields(fields: &Fields) -> String {
    let fields = fields.all().iter().map(|(kind, value)| {
        let value = value.escape_debug();
        format!("{}: {value}", char::from(*kind))
    });
    fields.collect::<Vec<String>>().join(", ")
}
