//! Statements by the four protocols.

use std::ops::Range;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::Proto;
use super::connection::{Connection, State};
use super::error::DbError;

/// A parameter of a statement; the server decides its type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
}

/// What is done with each row.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(Row<'_>) -> Result<(), DbError> + Send);

/// A row of an answer, in text format.
pub(crate) struct Row<'a> {
    bytes: &'a [u8],
    columns: Vec<Option<Range<usize>>>,
}

impl Row<'_> {
    /// The text of a column, counted from 0; NULL is None.
    ///
    /// # Errors
    /// There is no such column, or it is not UTF-8.
    pub(crate) fn text(&self, column: usize) -> Result<Option<&str>, DbError> {
        let range = self
            .columns
            .get(column)
            .ok_or_else(|| DbError::Protocol(format!("a row of {} columns", self.columns.len())))?;
        let Some(range) = range else { return Ok(None) };
        let text = std::str::from_utf8(&self.bytes[range.clone()]);
        text.map(Some)
            .map_err(|_| DbError::Protocol("a value that is not UTF-8".into()))
    }
}

impl Connection {
    /// Runs a statement by the protocol in use; the number of rows it touched.
    ///
    /// # Errors
    /// After an error of the server or of `sink` the connection stays usable.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        sink: Sink<'_>,
    ) -> Result<u64, DbError> {
        self.state = State::Busy;
        match self.target.habits.proto {
            Proto::Cached => self.query_cached(sql, parameters, sink).await,
            Proto::Unnamed => self.query_unnamed(sql, parameters, sink).await,
            Proto::OneTrip => self.query_one_trip(sql, parameters, sink).await,
            Proto::Simple => self.simple(&literal(sql, parameters), sink).await,
        }
    }

    /// Runs a statement whose rows are of no interest.
    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
    ) -> Result<u64, DbError> {
        self.query(sql, parameters, &mut |_| Ok(())).await
    }

    /// Runs statements without parameters by the simple protocol, whatever the
    /// habit: transaction control goes this way in pgx.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), DbError> {
        self.simple(sql, &mut |_| Ok(())).await.map(|_| ())
    }

    async fn query_cached(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        sink: Sink<'_>,
    ) -> Result<u64, DbError> {
        let name = match self.prepared.get(sql) {
            Some(name) => name.clone(),
            None => self.prepare(sql).await?,
        };
        self.state = State::Busy;
        bind(&name, parameters, &mut self.wire.outgoing)?;
        self.describe_and_execute()?;
        self.wire.send().await?;
        let result = self.finish(sink).await;
        if let Err(error) = &result
            && ["26000", "0A000"].iter().any(|state| error.has_code(state))
        {
            // The statement is gone or its plan is of no more use.
            self.prepared.remove(sql);
            self.stale.push(name);
        }
        result
    }

    /// Prepares and describes a statement under a name of its own.
    async fn prepare(&mut self, sql: &str) -> Result<String, DbError> {
        for name in self.stale.drain(..) {
            frontend::close(b'S', &name, &mut self.wire.outgoing)?;
        }
        self.names += 1;
        let name = format!("stmtcache_{}", self.names);
        frontend::parse(&name, sql, [], &mut self.wire.outgoing)?;
        frontend::describe(b'S', &name, &mut self.wire.outgoing)?;
        frontend::sync(&mut self.wire.outgoing);
        self.wire.send().await?;
        self.finish(&mut |_| Ok(())).await?;
        self.prepared.insert(sql.to_owned(), name.clone());
        Ok(name)
    }

    async fn query_unnamed(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        sink: Sink<'_>,
    ) -> Result<u64, DbError> {
        frontend::parse("", sql, [], &mut self.wire.outgoing)?;
        frontend::describe(b'S', "", &mut self.wire.outgoing)?;
        frontend::flush(&mut self.wire.outgoing);
        self.wire.send().await?;
        loop {
            match self.next().await? {
                Message::RowDescription(_) | Message::NoData => break,
                Message::ParseComplete | Message::ParameterDescription(_) => {}
                Message::ErrorResponse(body) => {
                    frontend::sync(&mut self.wire.outgoing);
                    self.wire.send().await?;
                    self.finish(sink).await?;
                    return Err(DbError::from_response(&body));
                }
                _ => return Err(self.out_of_place()),
            }
        }
        bind("", parameters, &mut self.wire.outgoing)?;
        self.describe_and_execute()?;
        self.wire.send().await?;
        self.finish(sink).await
    }

    async fn query_one_trip(
        &mut self,
        sql: &str,
        parameters: &[Value<'_>],
        sink: Sink<'_>,
    ) -> Result<u64, DbError> {
        frontend::parse("", sql, [], &mut self.wire.outgoing)?;
        bind("", parameters, &mut self.wire.outgoing)?;
        self.describe_and_execute()?;
        self.wire.send().await?;
        self.finish(sink).await
    }

    async fn simple(&mut self, sql: &str, sink: Sink<'_>) -> Result<u64, DbError> {
        self.state = State::Busy;
        frontend::query(sql, &mut self.wire.outgoing)?;
        self.wire.send().await?;
        self.finish(sink).await
    }

    /// Appends what follows a Bind.
    fn describe_and_execute(&mut self) -> Result<(), DbError> {
        frontend::describe(b'P', "", &mut self.wire.outgoing)?;
        frontend::execute("", 0, &mut self.wire.outgoing)?;
        frontend::sync(&mut self.wire.outgoing);
        Ok(())
    }

    /// Reads to ReadyForQuery; the first error on the way is the result.
    pub(super) async fn finish(&mut self, sink: Sink<'_>) -> Result<u64, DbError> {
        let mut rows = 0;
        let mut failed = None;
        loop {
            let message = match self.next().await {
                Ok(message) => message,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            match message {
                Message::DataRow(body) if failed.is_none() => {
                    failed = row(&body).and_then(&mut *sink).err();
                }
                Message::CommandComplete(body) => rows = touched(body.tag()?),
                Message::ErrorResponse(body) => {
                    failed.get_or_insert(DbError::from_response(&body));
                }
                Message::ReadyForQuery(body) => {
                    let idle = body.status() == b'I';
                    self.state = if idle {
                        State::Ready
                    } else {
                        State::InTransaction
                    };
                    return failed.map_or(Ok(rows), Err);
                }
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) => {
                    return Err(self.out_of_place());
                }
                _ => {}
            }
        }
    }
}

/// Appends a Bind of text parameters for a text answer.
fn bind(name: &str, parameters: &[Value<'_>], buffer: &mut BytesMut) -> Result<(), DbError> {
    let write = |value: &Value<'_>, buffer: &mut BytesMut| {
        match value {
            Value::Int(number) => buffer.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(text) => buffer.extend_from_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    };
    frontend::bind("", name, [], parameters, write, [], buffer)
        .map_err(|_| DbError::Protocol("a parameter that no Bind can hold".into()))
}

/// `sql` with its parameters written into it, for the simple protocol.
fn literal(sql: &str, parameters: &[Value<'_>]) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let digits = rest[at + 1..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        let (number, tail) = rest[at + 1..].split_at(digits);
        match number
            .parse()
            .ok()
            .and_then(|n: usize| parameters.get(n.checked_sub(1)?))
        {
            Some(Value::Int(value @ 0..)) => text.push_str(&value.to_string()),
            Some(Value::Int(value)) => text.push_str(&format!("'{value}'")),
            Some(Value::Text(value)) => text.push_str(&format!("'{}'", value.replace('\'', "''"))),
            None => text.push_str(&rest[at..=at + digits]),
        }
        rest = tail;
    }
    text.push_str(rest);
    text
}

/// The columns of a DataRow.
fn row(body: &DataRowBody) -> Result<Row<'_>, DbError> {
    Ok(Row {
        bytes: body.buffer(),
        columns: body.ranges().collect()?,
    })
}

/// The number at the end of a command tag.
fn touched(tag: &str) -> u64 {
    tag.rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Host, PostgresCluster};
    use crate::db::Abandon;
    use crate::db::target::{Habits, Target};
    use crate::db::tls::Way;
    use crate::db::wire::Wire;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    fn connection(proto: Proto) -> (Connection, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let habits = Habits {
            proto,
            abandon: Abandon::Drop,
        };
        let target =
            Target::new(&Host::default(), &PostgresCluster::default(), habits).expect("valid");
        let connection = Connection {
            target: Arc::new(target),
            way: Way::Plain,
            key: None,
            wire: Wire::new(Box::new(ours)),
            state: State::Ready,
            prepared: HashMap::new(),
            stale: Vec::new(),
            names: 0,
        };
        (connection, theirs)
    }

    /// The tags of the messages in a client's flight.
    fn tags(mut flight: &[u8]) -> String {
        let mut tags = String::new();
        while let [tag, a, b, c, d, ..] = flight {
            tags.push(char::from(*tag));
            flight = &flight[1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
        }
        tags
    }

    /// Runs one query against canned answers, one for each flight; the tags of
    /// the flights.
    async fn flights(
        connection: &mut Connection,
        server: &mut DuplexStream,
        answers: &[&[u8]],
    ) -> (Result<u64, DbError>, Vec<String>) {
        let mut seen = Vec::new();
        let serve = async {
            for answer in answers {
                let mut flight = vec![0; 1 << 16];
                let length = server
                    .read(&mut flight)
                    .await
                    .expect("the other end is there");
                seen.push(tags(&flight[..length]));
                server
                    .write_all(answer)
                    .await
                    .expect("the other end is there");
            }
        };
        let (result, ()) = tokio::join!(
            connection.execute("DELETE FROM t WHERE id = $1", &[Value::Int(7)]),
            serve
        );
        (result, seen)
    }

    const PARSED: &[u8] = b"1\0\0\0\x04t\0\0\0\x06\0\0n\0\0\0\x04";
    const PARSED_READY: &[u8] = b"1\0\0\0\x04t\0\0\0\x06\0\0n\0\0\0\x04Z\0\0\0\x05I";
    const DONE: &[u8] = b"2\0\0\0\x04n\0\0\0\x04C\0\0\0\x0dDELETE 3\0Z\0\0\0\x05I";
    const GONE: &[u8] = b"E\0\0\0\x12C26000\0Mgone\0\0Z\0\0\0\x05I";
    const IN_TRANSACTION: &[u8] = b"C\0\0\0\x0aBEGIN\0Z\0\0\0\x05T";

    #[tokio::test]
    async fn cached_prepares_once() {
        let (mut connection, mut server) = connection(Proto::Cached);
        let (result, seen) = flights(&mut connection, &mut server, &[PARSED_READY, DONE]).await;
        assert_eq!(
            (result.expect("valid"), seen),
            (3, vec!["PDS".into(), "BDES".into()])
        );
        let (result, seen) = flights(&mut connection, &mut server, &[DONE]).await;
        assert_eq!((result.expect("valid"), seen), (3, vec!["BDES".to_owned()]));
    }

    #[tokio::test]
    async fn cached_prepares_anew_what_is_gone() {
        let (mut connection, mut server) = connection(Proto::Cached);
        let (result, _) = flights(&mut connection, &mut server, &[PARSED_READY, GONE]).await;
        assert!(result.expect_err("refused").has_code("26000"));
        let (result, seen) = flights(&mut connection, &mut server, &[PARSED_READY, DONE]).await;
        assert_eq!(
            (result.expect("valid"), seen),
            (3, vec!["CPDS".into(), "BDES".into()])
        );
    }

    #[tokio::test]
    async fn unnamed_takes_two_trips_each_time() {
        let (mut connection, mut server) = connection(Proto::Unnamed);
        for _ in 0..2 {
            let (result, seen) = flights(&mut connection, &mut server, &[PARSED, DONE]).await;
            assert_eq!(
                (result.expect("valid"), seen),
                (3, vec!["PDH".into(), "BDES".into()])
            );
        }
    }

    #[tokio::test]
    async fn unnamed_syncs_after_an_error() {
        let (mut connection, mut server) = connection(Proto::Unnamed);
        let error = b"E\0\0\0\x12C42601\0Mnope\0\0";
        let answers: [&[u8]; 2] = [error, b"Z\0\0\0\x05I"];
        let (result, seen) = flights(&mut connection, &mut server, &answers).await;
        assert!(result.expect_err("refused").has_code("42601") && connection.is_clean());
        assert_eq!(seen, ["PDH", "S"]);
    }

    #[tokio::test]
    async fn one_trip_is_one_flight() {
        let (mut connection, mut server) = connection(Proto::OneTrip);
        let (result, seen) = flights(&mut connection, &mut server, &[DONE]).await;
        assert_eq!(
            (result.expect("valid"), seen),
            (3, vec!["PBDES".to_owned()])
        );
    }

    #[tokio::test]
    async fn simple_is_one_query() {
        let (mut connection, mut server) = connection(Proto::Simple);
        let (result, seen) = flights(&mut connection, &mut server, &[DONE]).await;
        assert_eq!((result.expect("valid"), seen), (3, vec!["Q".to_owned()]));
    }

    #[tokio::test]
    async fn a_query_left_midway_is_not_clean() {
        let (mut connection, _server) = connection(Proto::Cached);
        {
            let query = connection.execute("SELECT 1", &[]);
            let midway = tokio::time::timeout(Duration::from_millis(1), query).await;
            assert!(midway.is_err());
        }
        assert!(!connection.is_clean());
    }

    #[tokio::test]
    async fn an_open_transaction_is_not_clean() {
        let (mut connection, mut server) = connection(Proto::Cached);
        server
            .write_all(IN_TRANSACTION)
            .await
            .expect("the other end is there");
        connection.batch("BEGIN").await.expect("valid");
        assert!(!connection.is_clean());
    }

    #[test]
    fn literals_replace_parameters() {
        let values = [Value::Int(-1), Value::Text("it's $1"), Value::Int(7)];
        assert_eq!(
            literal("$1, $2, $3, $4, $", &values),
            "'-1', 'it''s $1', 7, $4, $"
        );
    }

    proptest::proptest! {
        #[test]
        fn a_statement_without_parameters_is_its_own_literal(sql in ".{0,40}") {
            assert_eq!(literal(&sql, &[]), sql);
        }
    }

    #[test]
    fn a_tag_ends_with_the_count() {
        assert_eq!(touched("INSERT 0 5"), 5);
        assert_eq!(touched("BEGIN"), 0);
    }
}
