//! The load generator: requests at a fixed rate, whether earlier ones have
//! been answered or not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{Ask, Endpoint};
use super::site::{Reply, Site};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    /// No connection, or one that broke.
    Transport(String),
    Timeout,
}

/// Who answered, and how far its clock is from ours.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signature {
    pub(crate) hostname: String,
    /// In seconds, positive if it is ahead.
    pub(crate) skew: f64,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) endpoint: Endpoint,
    /// When it was to be sent, from the start of the load.
    pub(crate) at: Duration,
    /// How much later it was sent, because this program did not get to run.
    pub(crate) late: Duration,
    /// From that moment to the end of the answer.
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
    pub(crate) signature: Option<Signature>,
    pub(crate) body: Bytes,
}

impl Sample {
    /// Neither transport failure nor timeout nor a status of 400 or above.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self.outcome, Outcome::Status(..400))
    }
}

/// Answers that are longer are not kept in samples.
const KEPT_BODY: usize = 4096;

/// Sends a request each `1/rate` seconds. The samples are in that order.
pub(crate) async fn drive(
    site: &Arc<Site>,
    asks: Vec<Ask>,
    rate: u32,
    timeout: Duration,
) -> Vec<Sample> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (index, ask) in asks.into_iter().enumerate() {
        let at = Duration::from_secs(1) * u32::try_from(index).unwrap_or(u32::MAX) / rate;
        tokio::time::sleep_until(begun + at).await;
        let site = Arc::clone(site);
        running.spawn(async move {
            let due = begun + at;
            let late = due.elapsed();
            let (outcome, body) = perform(&site, &ask, timeout).await;
            Sample {
                at,
                late,
                ..sample(&ask, due.elapsed(), outcome, body)
            }
        });
    }
    let mut samples = running.join_all().await;
    samples.sort_by_key(|sample| sample.at);
    samples
}

/// Sends one request and waits for its answer, whatever its length.
pub(crate) async fn call(site: &Site, ask: &Ask, timeout: Duration) -> (Sample, Bytes) {
    let begun = Instant::now();
    let (outcome, body) = perform(site, ask, timeout).await;
    let sample = sample(ask, begun.elapsed(), outcome, body.clone());
    (sample, body)
}

async fn perform(site: &Site, ask: &Ask, timeout: Duration) -> (Outcome, Bytes) {
    match tokio::time::timeout(timeout, site.send(ask)).await {
        Ok(Ok(Reply { status, body })) => (Outcome::Status(status), body),
        Ok(Err(fault)) => (Outcome::Transport(fault.to_string()), Bytes::new()),
        Err(_) => (Outcome::Timeout, Bytes::new()),
    }
}

/// A request that was sent when it was due.
fn sample(ask: &Ask, latency: Duration, outcome: Outcome, body: Bytes) -> Sample {
    Sample {
        endpoint: ask.endpoint,
        at: Duration::ZERO,
        late: Duration::ZERO,
        latency,
        outcome,
        signature: signature(&body, Timestamp::now()),
        body: if body.len() > KEPT_BODY {
            Bytes::new()
        } else {
            body
        },
    }
}

/// Who signed an answer, if it is signed.
fn signature(body: &[u8], now: Timestamp) -> Option<Signature> {
    #[derive(Deserialize)]
    struct Signed {
        hostname: String,
        time: String,
    }
    if body.len() > KEPT_BODY {
        return None;
    }
    let Signed { hostname, time } = serde_json::from_slice(body).ok()?;
    let time: Timestamp = time.parse().ok()?;
    Some(Signature {
        hostname,
        skew: time.duration_since(now).as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_tells_node_and_clock() {
        let now: Timestamp = "2023-12-01T12:00:01Z".parse().expect("a time");
        let body = br#"{"hostname":"node1","pid":7,"request_no":1,"time":"2023-12-01T12:00:00.500000000Z"}"#;
        let read = signature(body, now).expect("it is signed");
        assert_eq!((read.hostname.as_str(), read.skew), ("node1", -0.5));
        assert_eq!(signature(b"pong", now), None);
        assert_eq!(signature(br#"{"id":1}"#, now), None);
    }
}
