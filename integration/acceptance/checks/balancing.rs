//! Two nodes behind one address: 1, 5 and 21.

use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::sleep;

use super::faults::ROTATION;
use crate::judge::{Summary, shares};
use crate::load::{Endpoint, MIXED, Outcome, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Stage, TIMEOUT};

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
