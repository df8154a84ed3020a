//! What each path does.

use bytes::Bytes;
use hyper::StatusCode;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::db::{DbError, Need, Value};
use crate::faults::{self, Outcome};
use crate::json::write_row;
use crate::routes::Endpoint;
use crate::statements::{self, Shape};
use crate::texts;

/// A request as far as an endpoint needs it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) endpoint: Endpoint,
    /// The last part of the path, where it stands for an id.
    pub(crate) id: Option<&'a str>,
    pub(crate) body: Bytes,
    /// The number of the request in this process.
    pub(crate) number: u64,
}

/// A good answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Text(&'static str),
    Json(Vec<u8>),
}

/// A bad one.
#[derive(Debug)]
pub(crate) enum Problem {
    BadRequest(String),
    NotFound,
    /// The process is sick.
    Sick,
    Db(DbError),
    /// What would be done cannot be noted.
    Ledger(std::io::Error),
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Problem {
        Problem::Db(error)
    }
}

/// The body of `POST /operation`.
#[derive(Debug, Deserialize)]
struct Operation {
    operation: i64,
}

/// The body of `POST /api/session`.
#[derive(Debug, Deserialize)]
struct NewSession {
    /// RFC 3339, a fraction allowed.
    start_time: String,
    customer_id: i32,
    movie_id: i32,
}

impl Problem {
    /// The status and the text that go with it.
    pub(crate) fn answer(&self) -> (StatusCode, String) {
        match self {
            Problem::BadRequest(why) => (StatusCode::BAD_REQUEST, why.clone()),
            Problem::NotFound => (StatusCode::NOT_FOUND, "not found".into()),
            Problem::Sick => (StatusCode::INTERNAL_SERVER_ERROR, "I feel bad".into()),
            Problem::Ledger(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the ledger: {error}"),
            ),
            Problem::Db(_) => (StatusCode::INTERNAL_SERVER_ERROR, "database error".into()),
        }
    }
}

/// Does what is asked.
///
/// # Errors
/// See [`Problem`].
pub(crate) async fn answer(app: &App, asked: &Asked<'_>) -> Result<Reply, Problem> {
    let list = |sql, shape| read_list(app, sql, shape);
    let one = |sql, shape, id| read_one(app, sql, shape, id);
    match asked.endpoint {
        Endpoint::Index => Ok(Reply::Text(texts::INDEX)),
        Endpoint::Ping => Ok(Reply::Text("pong")),
        Endpoint::Config => Ok(Reply::Json(app.config.clone().into_bytes())),
        Endpoint::Operation => operation(app, asked),
        Endpoint::DbDummy => {
            app.cluster
                .lease(Need::Read)
                .await?
                .execute(statements::SLEEP, &[])
                .await?;
            Ok(Reply::Json(app.signature(asked.number)))
        }
        Endpoint::LongDummy => {
            tokio::time::sleep(app.long_dummy).await;
            Ok(Reply::Json(app.signature(asked.number)))
        }
        Endpoint::Movies => list(statements::MOVIES, statements::MOVIE).await,
        Endpoint::Customers => list(statements::CUSTOMERS, statements::CUSTOMER).await,
        Endpoint::Sessions => list(statements::SESSIONS, statements::SESSION).await,
        Endpoint::Movie => one(statements::MOVIE_BY_ID, statements::MOVIE, int4(asked)?).await,
        Endpoint::Customer => {
            one(
                statements::CUSTOMER_BY_ID,
                statements::CUSTOMER,
                int4(asked)?,
            )
            .await
        }
        Endpoint::Session => {
            one(statements::SESSION_BY_ID, statements::SESSION, int8(asked)?).await
        }
        Endpoint::AddSession => add_session(app, &asked.body).await,
        Endpoint::DeleteSession => delete_session(app, int8(asked)?).await,
    }
}

fn operation(app: &App, asked: &Asked<'_>) -> Result<Reply, Problem> {
    let Operation { operation } = parse(&asked.body)?;
    if operation < 0 {
        return Err(Problem::BadRequest("operation is negative".into()));
    }
    if let Some(outcome) = faults::of_operation(operation) {
        app.faults.strike(outcome, "POST /operation");
        if outcome == Outcome::Sick {
            return Err(Problem::Sick);
        }
    }
    Ok(Reply::Json(app.signature(asked.number)))
}

async fn read_list(app: &App, sql: &str, shape: &[Shape]) -> Result<Reply, Problem> {
    let mut out = read(app, sql, &[], shape).await?;
    if out.is_empty() {
        out.push(b'[');
    }
    out.push(b']');
    Ok(Reply::Json(out))
}

async fn read_one(app: &App, sql: &str, shape: &[Shape], id: i64) -> Result<Reply, Problem> {
    let mut out = read(app, sql, &[Value::Int(id)], shape).await?;
    if out.is_empty() {
        return Err(Problem::NotFound);
    }
    // One row, so what follows the bracket is the object.
    Ok(Reply::Json(out.split_off(1)))
}

/// The rows of an answer: each after a comma, the first after a bracket.
async fn read(
    app: &App,
    sql: &str,
    parameters: &[Value<'_>],
    shape: &[Shape],
) -> Result<Vec<u8>, DbError> {
    let mut out = Vec::new();
    let mut lease = app.cluster.lease(Need::Read).await?;
    let mut take = |row: crate::db::Row<'_>| {
        out.push(if out.is_empty() { b'[' } else { b',' });
        write_row(&mut out, shape, &row)
    };
    lease.query(sql, parameters, &mut take).await?;
    Ok(out)
}

async fn add_session(app: &App, body: &[u8]) -> Result<Reply, Problem> {
    let new: NewSession = parse(body)?;
    let start_time = instant(&new.start_time)?;
    let text = start_time.strftime("%Y-%m-%d %H:%M:%S%.f").to_string();
    let values = [
        Value::Text(&text),
        Value::Int(new.customer_id.into()),
        Value::Int(new.movie_id.into()),
    ];
    let mut id = None;
    let mut take = |row: crate::db::Row<'_>| {
        id = row.text(0)?.and_then(|text| text.parse::<i64>().ok());
        Ok(())
    };
    let mut lease = app.cluster.lease(Need::Write).await?;
    lease
        .query(statements::INSERT_SESSION, &values, &mut take)
        .await?;
    let id = id.ok_or_else(|| DbError::Protocol("an INSERT without an id".into()))?;
    let session = json!({
        "id": id,
        "start_time": start_time.timestamp().to_string(),
        "customer_id": new.customer_id,
        "movie_id": new.movie_id,
    });
    Ok(Reply::Json(session.to_string().into_bytes()))
}

async fn delete_session(app: &App, id: i64) -> Result<Reply, Problem> {
    let mut lease = app.cluster.lease(Need::Write).await?;
    match lease
        .execute(statements::DELETE_SESSION, &[Value::Int(id)])
        .await?
    {
        0 => Err(Problem::NotFound),
        _ => Ok(Reply::Json(json!({ "id": id }).to_string().into_bytes())),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::BadRequest(format!("bad JSON: {error}")))
}

/// A time of our era, in UTC.
fn instant(text: &str) -> Result<Zoned, Problem> {
    let bad = || Problem::BadRequest(format!("start_time {text:?} is not an RFC 3339 time"));
    let time = text
        .parse::<Timestamp>()
        .map_err(|_| bad())?
        .to_zoned(TimeZone::UTC);
    if time.year() < 1 {
        Err(bad())
    } else {
        Ok(time)
    }
}

/// The id of a `bigint` column.
fn int8(asked: &Asked<'_>) -> Result<i64, Problem> {
    let text = asked.id.unwrap_or_default();
    text.parse()
        .map_err(|_| Problem::BadRequest(format!("{text:?} is not an id")))
}

/// The id of an `integer` column: a greater number cannot be there.
fn int4(asked: &Asked<'_>) -> Result<i64, Problem> {
    let id = int8(asked)?;
    i32::try_from(id)
        .map(i64::from)
        .map_err(|_| Problem::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str) -> Asked<'_> {
        Asked {
            endpoint: Endpoint::Movie,
            id: Some(id),
            body: Bytes::new(),
            number: 1,
        }
    }

    #[test]
    fn an_id_is_a_number() {
        assert!(matches!(int8(&asked("5000000")), Ok(5_000_000)));
        assert!(matches!(int8(&asked("x")), Err(Problem::BadRequest(_))));
        assert!(matches!(
            int8(&asked("9223372036854775808")),
            Err(Problem::BadRequest(_))
        ));
    }

    #[test]
    fn an_id_beyond_the_column_is_absent() {
        assert!(matches!(int4(&asked("29019")), Ok(29_019)));
        assert!(matches!(int4(&asked("2147483648")), Err(Problem::NotFound)));
    }

    #[test]
    fn a_new_session_needs_all_its_fields() {
        let body = br#"{"start_time":"2023-11-21T15:37:00Z","customer_id":1,"movie_id":2}"#;
        let new: NewSession = parse(body).expect("valid");
        assert_eq!((new.customer_id, new.movie_id), (1, 2));
        assert!(parse::<NewSession>(br#"{"customer_id":1,"movie_id":2}"#).is_err());
    }

    #[test]
    fn a_start_time_is_brought_to_utc() {
        let time = instant("2023-11-21T15:37:00.25+03:00").expect("valid");
        assert_eq!(time.timestamp().to_string(), "2023-11-21T12:37:00.25Z");
        for bad in ["yesterday", "2023-11-21", "-000001-01-01T00:00:00Z", ""] {
            assert!(matches!(instant(bad), Err(Problem::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn an_operation_is_a_whole_number() {
        assert_eq!(
            parse::<Operation>(br#"{"operation":9223372036854775807}"#)
                .expect("valid")
                .operation,
            i64::MAX
        );
        assert!(parse::<Operation>(br#"{"operation":9223372036854775808}"#).is_err());
        assert!(parse::<Operation>(br#"{"operation":"0"}"#).is_err());
    }

    #[test]
    fn sickness_has_no_newline() {
        let (status, text) = Problem::Sick.answer();
        assert_eq!((status.as_u16(), text.as_str()), (500, "I feel bad"));
    }
}
