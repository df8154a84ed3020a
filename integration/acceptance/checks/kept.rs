//! What the balancer keeps: 26.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::judge::Summary;
use crate::load::{Ask, Endpoint, Sample, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Stage, TIMEOUT};

const RATE: u32 = 10;

/// So many times as long as other loads: several lives of an answer.
const LENGTHS: u32 = 5;

/// What three in four must stay below.
const QUICK: Duration = Duration::from_secs(1);

/// No answer may be older than this on receipt, in seconds.
const AGE_MAX: f64 = 60.0;

/// Nodes are not asked more often than once in this many seconds.
const FETCH_EVERY: usize = 10;

/// Check 26: a third into the load a node is killed, for a sixth of it.
pub(crate) async fn long_dummy(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let length = stage.span.measured * LENGTHS;
    let count = (length.as_secs_f64() * f64::from(RATE)) as usize;
    let asks = vec![Ask::of(Endpoint::LongDummy); count];
    let positions: Vec<_> = stage
        .nodes()
        .iter()
        .map(|it| it.journal().position())
        .collect();
    let begun = Instant::now();
    let killing = async {
        sleep_until(begun + length / 3).await;
        stage.nodes()[0].kill(length / 6);
    };
    let (samples, ()) = tokio::join!(drive(&stage.site, asks, RATE, TIMEOUT), killing);
    stage.both_serve().await?;
    let mut fetched = 0;
    for (node, position) in stage.nodes().iter().zip(positions) {
        let requests = node.journal().since(position)?;
        let path = Endpoint::LongDummy.pattern();
        fetched += requests.iter().filter(|it| it.path == path).count();
    }
    let summary = Summary::of(&samples);
    let quick = samples.iter().filter(|it| it.latency < QUICK).count();
    let oldest = samples.iter().filter_map(age).fold(0.0, f64::max);
    let signed = samples.iter().filter(|it| it.signature.is_some()).count();
    // Each node may be asked once for an answer that a kill has cut off.
    let most = length.as_secs() as usize / FETCH_EVERY + 1 + stage.nodes().len();
    let pass = summary.errors_within(1)
        && quick * 4 >= samples.len() * 3
        && signed + summary.error_count() == samples.len()
        && oldest <= AGE_MAX
        && fetched <= most;
    let measured = format!(
        "{summary}; {quick} of {} in < 1 s; oldest {oldest:.1} s; fetched {fetched} times",
        samples.len()
    );
    Ok(Finding::whole(pass, measured))
}

/// In seconds, by the clocks of this machine.
fn age(sample: &Sample) -> Option<f64> {
    Some(-sample.signature.as_ref()?.skew)
}
