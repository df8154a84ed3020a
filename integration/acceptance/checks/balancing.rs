//! Two nodes behind one address: 1, 2, 5 and 21.

use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::judge::{Summary, is_unavoidable, lowest_rate, shares};
use crate::load::{Endpoint, MIXED, Outcome, Sample, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{DATABASE, Load, Stage, TIMEOUT, added};

/// Over how long the served rate is taken.
const WINDOW: Duration = Duration::from_secs(5);

/// What has to be served even with one node.
const RATE_OF_ONE: f64 = 60.0;

/// How long a killed node stays away: a sixth of the load, within this.
const DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A sick node may get requests for so long.
const ROTATION: Duration = Duration::from_secs(2);

/// Check 1.
pub(crate) async fn two_nodes(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let signed = [(Endpoint::Operation, 1), (Endpoint::DbDummy, 1)];
    let load = stage.load(&signed, 120).await?;
    let shares = shares(load.measured());
    let summary = Summary::of(load.measured());
    let pass = shares.are_between(2, 40, 60) && summary.errors_within(1);
    Ok(Finding::whole(pass, format!("{shares}; {summary}")))
}

/// Check 5.
pub(crate) async fn peak(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let load = stage.load(MIXED, 120).await?;
    let summary = Summary::of(load.measured());
    let measured = format!("{summary}; {} shed", summary.shed);
    Ok(Finding::whole(summary.errors_within(1), measured))
}

/// Check 2: each node at each rate.
pub(crate) async fn kill(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for rate in [60, 120] {
        for node in 0..stage.nodes().len() {
            findings.push(kill_one(stage, node, rate).await?);
        }
    }
    let session = stage.postgres.session(DATABASE).await?;
    let (rows, requests) = added(&session).await?;
    let measured = format!("{rows} rows by {requests} requests");
    findings.push(Finding::part(
        "no POST done twice",
        rows == requests,
        measured,
    ));
    Ok(findings)
}

async fn kill_one(stage: &mut Stage, node: usize, rate: u32) -> Result<Finding, Problem> {
    let asks = stage.scribe.mix(MIXED, stage.count(rate));
    let watch = stage.watch().await?;
    let at = stage.span.warm_up + stage.span.measured / 3;
    let down = (stage.span.measured / 6).clamp(DOWN.0, DOWN.1);
    let begun = Instant::now();
    let victim = &stage.nodes()[node];
    let name = victim.name().to_owned();
    let killing = async {
        sleep_until(begun + at).await;
        victim.kill(down);
        begun.elapsed()
    };
    let (samples, killed) = tokio::join!(drive(&stage.site, asks, rate, TIMEOUT), killing);
    let load = stage.settle(&watch, samples).await?;
    stage.both_serve().await?;
    let mut finding = judge_kill(&load, rate, killed);
    finding.part = format!("{name} at {rate} RPS");
    finding.measured += &format!("; down {:.1} s", down.as_secs_f64());
    finding.measured += &match comeback(&load.samples, &name, killed) {
        Some(after) => format!(", back after {:.1} s", after.as_secs_f64()),
        None => ", not back in this load".to_owned(),
    };
    Ok(finding)
}

/// At 60 RPS nothing may fail, at more than one node can do the excess may be
/// shed. POSTs that the killed node had are excused, up to one in a hundred.
fn judge_kill(load: &Load, rate: u32, killed: Duration) -> Finding {
    let samples = load.measured();
    let summary = Summary::of(samples);
    let excused = |sample: &Sample| is_unavoidable(sample, killed);
    let lost = samples.iter().filter(|it| excused(it)).count();
    let shed = if f64::from(rate) > RATE_OF_ONE {
        summary.shed
    } else {
        0
    };
    let lowest = lowest_rate(samples, rate, WINDOW, |it| it.is_served() || excused(it));
    let pass =
        summary.error_count() == lost + shed && lost * 100 <= summary.sent && lowest >= RATE_OF_ONE;
    let mut measured = format!("{summary}; lowest {lowest:.1} RPS; {}", load.origin);
    for (count, kind) in [
        (shed, "shed"),
        (lost, "POST at the node when it was killed"),
    ] {
        if count > 0 {
            measured += &format!("; {count} {kind}");
        }
    }
    Finding::part("", pass, measured)
}

/// When the node answered again: the first answer of its after it was away.
fn comeback(samples: &[Sample], name: &str, killed: Duration) -> Option<Duration> {
    let back = samples.iter().find(|sample| {
        let by = sample.signature.as_ref().map(|it| it.hostname.as_str());
        // What was sent just before it died may have been answered.
        sample.at > killed + Duration::from_millis(100) && by == Some(name)
    });
    Some(back?.at - killed)
}

/// Check 21: each node in turn.
pub(crate) async fn sick(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for node in 0..stage.nodes().len() {
        findings.push(sick_one(stage, node).await?);
    }
    Ok(findings)
}

/// Half the requests are pings, the others tell where requests go: checks ask
/// for `/ping`, too.
async fn sick_one(stage: &mut Stage, node: usize) -> Result<Finding, Problem> {
    const RATE: u32 = 40;
    const TRACER: Endpoint = Endpoint::DbDummy;
    let shares = [(Endpoint::Ping, 1), (TRACER, 1)];
    let asks = stage.scribe.mix(&shares, stage.count(RATE));
    let patient = &stage.nodes()[node];
    let (name, journal) = (patient.name().to_owned(), patient.journal());
    let position = journal.position();
    let falling_ill = async {
        sleep(stage.span.warm_up).await;
        patient.signal(Signal::USR1);
        Timestamp::now()
    };
    let (samples, ill) = tokio::join!(drive(&stage.site, asks, RATE, TIMEOUT), falling_ill);
    let last = journal
        .since(position)?
        .iter()
        .filter(|it| it.path == TRACER.pattern() && it.at > ill)
        .map(|it| it.at)
        .max();
    let out = last.map_or(0.0, |last| last.duration_since(ill).as_secs_f64());
    stage.nodes()[node].kill(Duration::ZERO);
    stage.both_serve().await?;
    let pings = samples.iter().filter(|it| it.endpoint == Endpoint::Ping);
    let summary = Summary::of(pings.clone());
    let all_pong = pings
        .clone()
        .all(|it| it.outcome == Outcome::Status(200) && it.body == "pong");
    let pass = all_pong && summary.errors_within(0) && out < ROTATION.as_secs_f64();
    let measured = format!("pings: {summary}; last request to the sick node after {out:.2} s");
    Ok(Finding::part(name, pass, measured))
}
