//! The load generator: requests at a fixed rate, whether earlier ones have
//! been answered or not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
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
    pub(crate) pid: u32,
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
    pub(crate) headers: HeaderMap,
    pub(crate) signature: Option<Signature>,
    pub(crate) body: Bytes,
}

impl Sample {
    /// Whether the balancer had the answer already (RFC 9211).
    pub(crate) fn is_kept(&self) -> bool {
        let said = self.headers.get("cache-status");
        let said = said.and_then(|value| value.to_str().ok());
        said.is_some_and(|value| value.split(';').any(|word| word.trim() == "hit"))
    }

    /// Who signed it.
    pub(crate) fn is_by(&self, hostname: &str) -> bool {
        let by = self.signature.as_ref();
        by.is_some_and(|it| it.hostname == hostname)
    }

    /// Neither transport failure nor timeout nor a status of 400 or above.
    pub(crate) fn is_served(&self) -> bool {
        matches!(self.outcome, Outcome::Status(..400))
    }
}

/// Answers that are longer are not kept in samples.
const KEPT_BODY: usize = 4096;

/// Sends a request each `1/rate` seconds, as long as there are any. The samples
/// are in that order.
pub(crate) async fn drive(
    site: &Arc<Site>,
    asks: impl IntoIterator<Item = Ask>,
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
            let answer = perform(&site, &ask, timeout).await;
            Sample {
                at,
                late,
                ..sample(&ask, due.elapsed(), answer)
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
    let answer = perform(site, ask, timeout).await;
    let body = answer.1.clone();
    (sample(ask, begun.elapsed(), answer), body)
}

/// What became of a request, its body and its fields.
type Answer = (Outcome, Bytes, HeaderMap);

async fn perform(site: &Site, ask: &Ask, timeout: Duration) -> Answer {
    let nothing = |outcome| (outcome, Bytes::new(), HeaderMap::new());
    match tokio::time::timeout(timeout, site.send(ask)).await {
        Ok(Ok(reply)) => {
            let Reply {
                status,
                headers,
                body,
            } = reply;
            (Outcome::Status(status.as_u16()), body, headers)
        }
        Ok(Err(fault)) => nothing(Outcome::Transport(fault.to_string())),
        Err(_) => nothing(Outcome::Timeout),
    }
}

/// A request that was sent when it was due.
fn sample(ask: &Ask, latency: Duration, (outcome, body, headers): Answer) -> Sample {
    Sample {
        endpoint: ask.endpoint,
        at: Duration::ZERO,
        late: Duration::ZERO,
        latency,
        outcome,
        headers,
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
        pid: u32,
        time: String,
    }
    if body.len() > KEPT_BODY {
        return None;
    }
    let Signed {
        hostname,
        pid,
        time,
    } = serde_json::from_slice(body).ok()?;
    let time: Timestamp = time.parse().ok()?;
    Some(Signature {
        hostname,
        pid,
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
