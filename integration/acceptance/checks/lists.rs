//! The lists, one at a time: 12 to 14.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::judge::{Customer, Listed, Movie, Session, Summary, in_order};
use crate::load::{Ask, Endpoint, call};
use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{DATABASE, Stage};

/// The application gives up on a request after so long.
const BUDGET: Duration = Duration::from_secs(20);

/// And is given a little longer to say so.
pub(super) const TIMEOUT: Duration = Duration::from_secs(25);

/// What a list holds at most.
const LIMIT: i64 = 100_000;

/// Check 12.
pub(crate) async fn movies(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    list::<Movie>(stage, Endpoint::Movies, "movies", 1).await
}

/// Check 13.
pub(crate) async fn customers(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    list::<Customer>(stage, Endpoint::Customers, "customers", 1).await
}

/// Check 14.
pub(crate) async fn sessions(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let joined =
        "sessions JOIN customers ON customers.id = customer_id JOIN movies ON movies.id = movie_id";
    list::<Session>(stage, Endpoint::Sessions, joined, 5).await
}

async fn list<T: Listed + DeserializeOwned>(
    stage: &mut Stage,
    endpoint: Endpoint,
    table: &str,
    errors_max: usize,
) -> Result<Vec<Finding>, Problem> {
    let session = stage.postgres.session(DATABASE).await?;
    let sql = format!("SELECT count(*) FROM {table}");
    let rows: i64 = session.query_one(&sql, &[]).await.during(&sql)?.get(0);
    let rows = rows.min(LIMIT);
    let watch = stage.watch().await?;
    let ask = Ask::of(endpoint);
    let mut samples = Vec::new();
    let mut verified = Verified::default();
    for _ in 0..stage.options.calls {
        let (sample, body) = call(&stage.site, &ask, TIMEOUT).await;
        if sample.is_served() {
            verified.look::<T>(&body, rows);
        }
        samples.push(sample);
    }
    let load = stage.settle(&watch, samples).await?;
    let summary = Summary::of(&load.samples);
    let pass = summary.errors_within(errors_max)
        && summary.longest() < BUDGET
        && verified.wrong.is_none()
        && load.origin.is_uncached();
    let content = verified
        .wrong
        .unwrap_or_else(|| format!("{rows} rows in order"));
    let measured = format!("{content}; {summary}; {}", load.origin);
    Ok(Finding::whole(pass, measured))
}

/// What was found in the answers.
#[derive(Default)]
struct Verified {
    /// The last answer that was right. The same again is right, too.
    right: Bytes,
    /// What was wrong with the first that was not.
    wrong: Option<String>,
}

impl Verified {
    fn look<T: Listed + DeserializeOwned>(&mut self, body: &Bytes, rows: i64) {
        if *body == self.right || self.wrong.is_some() {
            return;
        }
        match fault::<T>(body, rows) {
            None => self.right = body.clone(),
            wrong => self.wrong = wrong,
        }
    }
}

/// What is wrong with a list, if anything.
fn fault<T: Listed + DeserializeOwned>(body: &[u8], rows: i64) -> Option<String> {
    match serde_json::from_slice::<Vec<T>>(body) {
        Err(error) => Some(format!("not such a list: {error}")),
        Ok(list) if i64::try_from(list.len()) != Ok(rows) => {
            Some(format!("{} rows, not {rows}", list.len()))
        }
        Ok(list) if !in_order(&list) => Some("not in order".to_owned()),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] =
        br#"[{"id":2,"name":"a","year":2000,"duration":90},{"id":1,"name":"a","year":1999,"duration":90}]"#;

    #[test]
    fn a_list_is_judged_by_form_length_and_order() {
        assert_eq!(fault::<Movie>(LIST, 2), None);
        assert_eq!(fault::<Movie>(LIST, 3), Some("2 rows, not 3".into()));
        let reversed = String::from_utf8_lossy(LIST).replace("1999", "2001");
        assert_eq!(
            fault::<Movie>(reversed.as_bytes(), 2),
            Some("not in order".into())
        );
        assert!(fault::<Movie>(b"I feel bad", 2).is_some());
    }

    #[test]
    fn one_wrong_answer_is_remembered() {
        let mut verified = Verified::default();
        verified.look::<Movie>(&Bytes::from_static(LIST), 2);
        assert_eq!(verified.wrong, None);
        verified.look::<Movie>(&Bytes::from_static(b"[]"), 2);
        verified.look::<Movie>(&Bytes::from_static(LIST), 2);
        assert_eq!(verified.wrong, Some("0 rows, not 2".into()));
    }
}
