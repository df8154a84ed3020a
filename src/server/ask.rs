//! A question of the pooler's own whose answer it reads (`auth_query`).

use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};

use super::Server;
use super::answers::{Answer, Meter, Owed};
use super::connection::MAX_UNLINKED_MESSAGE;
use crate::stats::Micros;
use crate::wire::backend::{self, ErrorFields};
use crate::wire::frontend;

/// Brings `search_path` back to what the server has for this user, up to the
/// end of the transaction: whatever a session has left must not decide what
/// the names in the question mean. The statement itself does not depend on
/// the path.
const OWN_SEARCH_PATH: &str = "SELECT pg_catalog.set_config('search_path', reset_val, true) \
     FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'search_path'::pg_catalog.text";

/// What a question found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Number of columns, if the statement returns rows.
    pub columns: Option<u16>,
    /// Its first row.
    pub row: Option<Row>,
    /// There are others, and not all of them are equal to the first.
    pub conflicting: bool,
}

/// The values of a row; `None` in it is NULL. Never printed: it holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Option<Bytes>>);

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} values)", self.0.len())
    }
}

/// Why a question was not answered. The server is of no more use.
#[derive(Debug)]
pub enum AskError {
    /// The connection broke, or what came is not the protocol.
    Io(io::Error),
    /// The server's error.
    Refused(ErrorFields),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Io(error) => error.fmt(f),
            AskError::Refused(fields) => write!(f, "{}: {}", fields.severity, fields.message),
        }
    }
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        AskError::Io(error)
    }
}

impl Server {
    /// Runs `query` with one text parameter by the extended protocol and reads
    /// the answer. The caller sets the deadline; a question that is dropped
    /// leaves the server owing.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&mut self, query: &str, parameter: &str) -> Result<Found, AskError> {
        let mut request = BytesMut::new();
        if self.record.has_served() {
            frontend::put_execution(&mut request, OWN_SEARCH_PATH, &[]);
            self.owe_execution();
        }
        frontend::put_execution(&mut request, query, &[parameter]);
        self.owe_execution();
        request.extend_from_slice(frontend::SYNC_MESSAGE);
        self.exchange.answers.push_sync();
        self.channel.write_all(&request).await?;
        let mut found = Found::default();
        let mut refusal = None;
        while !self.exchange.answers.is_empty() {
            let message = self.channel.read_message(MAX_UNLINKED_MESSAGE).await?;
            self.account(&message)?;
            match message.tag {
                // Only the last statement's answer is left in the end.
                backend::ROW_DESCRIPTION => {
                    found = Found {
                        columns: backend::column_count(&message.body),
                        ..Found::default()
                    };
                }
                backend::DATA_ROW => found.add(&message.body)?,
                backend::NO_DATA => found = Found::default(),
                backend::ERROR_RESPONSE => refusal = Some(backend::error_fields(&message.body)),
                _ => {}
            }
        }
        match refusal {
            Some(fields) => Err(AskError::Refused(fields)),
            None if self.exchange.is_settled() => Ok(found),
            None => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    fn owe_execution(&mut self) {
        let answers = &mut self.exchange.answers;
        answers.push(Owed::Parse(Answer::Swallow, None));
        answers.push(Owed::Bind(None));
        answers.push(Owed::Describe(None));
        let unmeasured = Meter {
            slot: u32::MAX,
            start: Micros::ZERO,
        };
        answers.push(Owed::Execute(unmeasured, None));
    }
}

impl Found {
    fn add(&mut self, body: &Bytes) -> io::Result<()> {
        let values = backend::row_values(body).ok_or(io::ErrorKind::InvalidData)?;
        let own = |value: Option<&[u8]>| value.map(|value| body.slice_ref(value));
        let row = Row(values.into_iter().map(own).collect());
        match &self.row {
            None => self.row = Some(row),
            Some(first) => self.conflicting |= *first != row,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Bytes {
        let mut body = u16::try_from(values.len())
            .expect("few")
            .to_be_bytes()
            .to_vec();
        for value in values {
            body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
            body.extend(value.as_bytes());
        }
        body.into()
    }

    #[test]
    fn equal_rows_are_one_and_others_conflict() {
        let mut found = Found::default();
        found.add(&row(&["ann", "x"])).expect("a row");
        found.add(&row(&["ann", "x"])).expect("a row");
        assert!(!found.conflicting);
        found.add(&row(&["ann", "y"])).expect("a row");
        assert!(found.conflicting);
        let first = found.row.expect("the first").0;
        assert_eq!(first, [Some(Bytes::from("ann")), Some(Bytes::from("x"))]);
    }

    #[test]
    fn nothing_shows_a_row() {
        let mut found = Found::default();
        found.add(&row(&["ann", "hunter2"])).expect("a row");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
}
