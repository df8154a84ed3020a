//! Sessions that are added and removed, one at a time: 15 and 16.

use serde::Deserialize;

use crate::judge::Summary;
use crate::load::{Ask, Endpoint, Outcome, Sample, call};
use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{DATABASE, Load, Stage, TIMEOUT, added};

/// A session as it was asked for and as it was answered.
#[derive(Debug, Deserialize)]
struct Session {
    /// Only in the answer.
    #[serde(default)]
    id: i64,
    start_time: String,
    customer_id: i32,
    movie_id: i32,
}

/// Check 15.
pub(crate) async fn add(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let session = stage.postgres.session(DATABASE).await?;
    let (rows_before, _) = added(&session).await?;
    let (load, asked) = add_some(stage).await?;
    let (rows, requests) = added(&session).await?;
    let mut present = 0;
    for (sample, asked) in load.samples.iter().zip(&asked) {
        let answered = serde_json::from_slice::<Session>(&sample.body).ok();
        if let Some(answered) = answered.filter(|_| sample.is_served()) {
            present += usize::from(is_there(&session, answered.id, asked).await?);
            stage.posted.push(answered.id);
        }
    }
    let summary = Summary::of(&load.samples);
    let served = summary.sent - summary.error_count();
    let new = usize::try_from(rows - rows_before).unwrap_or_default();
    // What failed may have been done.
    let counts = present == served && (served..=summary.sent).contains(&new) && rows == requests;
    let pass = counts && summary.errors_within(1) && load.origin.is_uncached();
    let measured = format!(
        "{present} of {served} present, {new} new rows; {summary}; {}",
        load.origin
    );
    Ok(Finding::whole(pass, measured))
}

/// Adds sessions; with what was asked for.
async fn add_some(stage: &mut Stage) -> Result<(Load, Vec<Session>), Problem> {
    let asks = stage
        .scribe
        .mix(&[(Endpoint::AddSession, 1)], stage.options.calls * 2);
    let asked = asks.iter().map(|ask| serde_json::from_str(&ask.body));
    let asked = asked.collect::<Result<_, _>>().during("our own request")?;
    let watch = stage.watch().await?;
    let mut samples = Vec::new();
    for ask in &asks {
        samples.push(call(&stage.site, ask, TIMEOUT).await.0);
    }
    Ok((stage.settle(&watch, samples).await?, asked))
}

/// Whether the row with this id is the one asked for.
async fn is_there(
    session: &tokio_postgres::Client,
    id: i64,
    asked: &Session,
) -> Result<bool, Problem> {
    let sql = "SELECT count(*) = 1 FROM sessions WHERE id = $1
        AND start_time = $2::text::timestamp AND customer_id = $3 AND movie_id = $4";
    let row = session
        .query_one(
            sql,
            &[&id, &asked.start_time, &asked.customer_id, &asked.movie_id],
        )
        .await;
    Ok(row.during(sql)?.get(0))
}

/// Check 16: of the sessions of check 15, or of others if it was not made.
pub(crate) async fn delete(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    if stage.posted.is_empty() {
        add(stage).await?;
    }
    let ids = std::mem::take(&mut stage.posted);
    let watch = stage.watch().await?;
    let mut samples = Vec::new();
    for id in &ids {
        for endpoint in [
            Endpoint::Session,
            Endpoint::DeleteSession,
            Endpoint::Session,
        ] {
            let ask = Ask::by_id(endpoint, *id);
            samples.push(call(&stage.site, &ask, TIMEOUT).await.0);
        }
    }
    let load = stage.settle(&watch, samples).await?;
    let session = stage.postgres.session(DATABASE).await?;
    let sql = "SELECT count(*) FROM sessions WHERE id = ANY($1)";
    let left: i64 = session.query_one(sql, &[&ids]).await.during(sql)?.get(0);
    let looks = Looks::of(&load.samples);
    let summary = Summary::of(
        load.samples
            .iter()
            .filter(|it| it.endpoint == Endpoint::DeleteSession),
    );
    let pass = left == 0
        && looks == Looks::ideal(ids.len())
        && summary.errors_within(1)
        && load.origin.is_uncached();
    let measured = format!(
        "{left} rows left, seen before {} and absent after {} of {}; {summary}; {}",
        looks.seen,
        looks.absent,
        ids.len(),
        load.origin
    );
    Ok(Finding::whole(pass, measured))
}

/// What the GETs before and after each DELETE said.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    seen: usize,
    absent: usize,
}

impl Looks {
    /// Of samples in threes: GET, DELETE, GET.
    fn of(samples: &[Sample]) -> Looks {
        let mut looks = Looks { seen: 0, absent: 0 };
        for three in samples.chunks_exact(3) {
            looks.seen += usize::from(three[0].outcome == Outcome::Status(200));
            looks.absent += usize::from(three[2].outcome == Outcome::Status(404));
        }
        looks
    }

    fn ideal(count: usize) -> Looks {
        Looks {
            seen: count,
            absent: count,
        }
    }
}
