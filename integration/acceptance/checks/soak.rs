//! Long loads: 6 and 41.

use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until};

use crate::judge::{Summary, spread};
use crate::load::{Ask, Endpoint, MIXED, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Stage, TIMEOUT};

/// Requests per second of check 6, and each of the two loads of check 41.
const STABLE: u32 = 60;
const GENTLE: u32 = 10;

/// Time between two looks at pgweir.
const LOOK: Duration = Duration::from_secs(1);

/// How far parts of the last half may be apart.
const FLAT: f64 = 0.05;

/// Bytes, and descriptors, that are no growth on a machine where little else
/// is measured.
const FEW_BYTES: f64 = 1024.0 * 1024.0;
const FEW_DESCRIPTORS: f64 = 4.0;

/// Check 6.
pub(crate) async fn flat(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let length = stage.options.soak;
    let asks = stage.scribe.mix(MIXED, requests(length, STABLE));
    let watch = stage.watch().await?;
    let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
    let looking = async {
        let mut ticks = interval(LOOK);
        loop {
            ticks.tick().await;
            let (bytes, open) = stage.pgweir.size();
            memory.push(bytes);
            descriptors.push(open);
        }
    };
    let samples = tokio::select! {
        samples = drive(&stage.site, asks, STABLE, TIMEOUT) => samples,
        () = looking => Vec::new(),
    };
    let load = stage.settle(&watch, samples).await?;
    let summary = Summary::of(load.measured());
    let (bytes, grows) = growth(&memory, FEW_BYTES);
    let (open, opens) = growth(&descriptors, FEW_DESCRIPTORS);
    let pass = summary.errors_within(1) && load.origin.is_uncached() && !grows && !opens;
    let mib = |bytes: u64| bytes >> 20;
    let measured = format!(
        "{} s: {summary}; memory {} MiB, {bytes} in the last half; {} descriptors, {open}; {}",
        length.as_secs(),
        mib(memory.last().copied().unwrap_or_default()),
        descriptors.last().copied().unwrap_or_default(),
        load.origin
    );
    Ok(Finding::whole(pass, measured))
}

/// How far the parts of the last half are apart, for people, and whether that
/// is growth.
fn growth(values: &[u64], few: f64) -> (String, bool) {
    match spread(values) {
        None => ("too few looks".to_owned(), true),
        Some(spread) => {
            let last = values.last().copied().unwrap_or_default() as f64;
            let grows = spread > FLAT && spread * last > few;
            (format!("{:.1} % apart", spread * 100.0), grows)
        }
    }
}

/// Deaths in check 41, each node in turn.
const DEATHS: u32 = 8;

/// What an answer must stay below once there was one.
const QUICK: Duration = Duration::from_secs(1);

/// No answer may be older than this on receipt, in seconds.
const AGE_MAX: f64 = 60.0;

/// Check 41: a kept route beside others, while one node after the other dies
/// and stays away for half of the time.
pub(crate) async fn kept(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let length = stage.options.soak;
    let kept = vec![Ask::of(Endpoint::LongDummy); requests(length, GENTLE)];
    let others = stage.scribe.mix(READING, requests(length, GENTLE));
    let watch = stage.watch().await?;
    let begun = Instant::now();
    let pause = length / DEATHS;
    let killing = async {
        for death in 0..DEATHS {
            sleep_until(begun + pause / 4 + pause * death).await;
            let node = &stage.nodes()[death as usize % stage.nodes().len()];
            node.kill(pause / 2);
        }
    };
    let (kept, others, ()) = tokio::join!(
        drive(&stage.site, kept, GENTLE, TIMEOUT),
        drive(&stage.site, others, GENTLE, TIMEOUT),
        killing
    );
    stage.both_serve().await?;
    let fetched = stage.counted(&watch)?.remove(Endpoint::LongDummy.pattern());
    let fetched = fetched.unwrap_or_default();
    let summary = Summary::of(&kept);
    let first = kept.iter().position(|it| it.is_served());
    let later = &kept[first.map_or(0, |it| it + 1)..];
    let slowest = later.iter().map(|it| it.latency).max().unwrap_or_default();
    let age = kept
        .iter()
        .filter_map(|it| Some(-it.signature.as_ref()?.skew));
    let oldest = age.fold(0.0, f64::max);
    let signed = kept.iter().filter(|it| it.signature.is_some()).count();
    let pass = summary.errors_within(0)
        && signed == kept.len()
        && oldest <= AGE_MAX
        && slowest < QUICK
        && fetched < kept.len() / 4;
    let measured = format!(
        "{} s, {DEATHS} deaths: {summary}; oldest {oldest:.1} s, slowest after the first {slowest:.3?}; fetched {fetched} times",
        length.as_secs()
    );
    let route = Finding::part("/long_dummy", pass, measured);
    let load = stage.settle(&watch, others).await?;
    let summary = Summary::of(&load.samples);
    let pass = summary.errors_within(0) && load.origin.is_uncached();
    let measured = format!("{summary}; {}", load.origin);
    Ok(vec![route, Finding::part("other routes", pass, measured)])
}

/// Requests that are never lost with a node.
const READING: &[(Endpoint, i64)] = &[
    (Endpoint::DbDummy, 1),
    (Endpoint::Movie, 1),
    (Endpoint::Customer, 1),
    (Endpoint::Session, 1),
];

fn requests(length: Duration, rate: u32) -> usize {
    (length.as_secs_f64() * f64::from(rate)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_has_to_be_more_than_a_share_and_more_than_a_little() {
        let rising: Vec<_> = (0..100).map(|n| 100 + n).collect();
        assert!(growth(&rising, 4.0).1);
        assert!(!growth(&rising, 400.0).1);
        assert!(!growth(&[100; 100], 4.0).1);
        assert!(growth(&[], 4.0).1);
    }
}
