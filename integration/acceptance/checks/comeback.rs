//! How soon a node is back, and whom one request can harm: 4 and 35.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::faults::{Fault, MEMORY_MAX};
use crate::judge::Summary;
use crate::load::{Ask, Endpoint, Outcome, Protocol, call, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Stage, TIMEOUT};

/// A node has to be back after so long.
const BACK: Duration = Duration::from_secs(60);

/// Time between two requests while it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What a restart takes, by a supervisor, and by whoever finds the power off.
const RESTART: Duration = Duration::from_millis(100);
const POWER_OFF: Duration = Duration::from_secs(5);

/// Check 4: each way a node fails, each node.
pub(crate) async fn rotation(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let modes = [
        (Fault::Kill, RESTART),
        (Fault::Panic, RESTART),
        (Fault::Leak, RESTART),
        (Fault::Sick, RESTART),
        (Fault::Hang, RESTART),
        (Fault::Kill, POWER_OFF),
    ];
    let mut findings = Vec::new();
    for (fault, down) in modes {
        let mut took = Vec::new();
        for node in 0..stage.nodes().len() {
            took.push(Box::pin(back_after(stage, fault, down, node)).await?);
        }
        let (name, from_on) = match down {
            POWER_OFF => ("power off and on", POWER_OFF),
            _ => (fault.name(), Duration::ZERO),
        };
        let pass = took.iter().flatten().count() == took.len();
        let told = took.iter().map(|took| match took {
            Some(took) => format!("{:.1} s", took.saturating_sub(from_on).as_secs_f64()),
            None => format!("not in {BACK:?}"),
        });
        let measured = told.collect::<Vec<_>>().join(", ");
        findings.push(Finding::part(name, pass, measured));
    }
    Ok(findings)
}

/// From the fault to the first good answer of the node's next process.
async fn back_after(
    stage: &mut Stage,
    fault: Fault,
    down: Duration,
    node: usize,
) -> Result<Option<Duration>, Problem> {
    let patient = &stage.nodes()[node];
    let old = patient.id();
    let begun = Instant::now();
    let looking = async {
        while begun.elapsed() < BACK + down {
            let (sample, _) = call(&stage.site, &Ask::operation(0), TIMEOUT).await;
            let by = sample.signature.as_ref().map(|it| it.pid);
            if sample.is_served() && sample.is_by(patient.name()) && by != Some(old) {
                return Some(begun.elapsed());
            }
            sleep(LOOK).await;
        }
        None
    };
    let befalling = fault.befall(patient, None, down, begun);
    let (back, troubles) = tokio::join!(looking, befalling);
    troubles?;
    stage.both_serve().await?;
    Ok(back)
}

/// Requests per second beside the poison, all of them reads.
const RATE: u32 = 40;

/// When the poison is taken.
const DOSE: Duration = Duration::from_secs(1);

/// How long afterwards its effects are looked for.
fn effect(fault: Fault) -> Duration {
    Duration::from_secs(match fault {
        Fault::Leak | Fault::Sick => 6,
        _ => 3,
    })
}

/// Check 35: each operation that kills, and one of them by each version of
/// HTTP.
pub(crate) async fn poison(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let doses = [
        (Fault::Leak, Protocol::Plain),
        (Fault::Panic, Protocol::Plain),
        (Fault::Sick, Protocol::Plain),
        (Fault::Panic, Protocol::Http2),
        (Fault::Panic, Protocol::Http3),
    ];
    let mut findings = Vec::new();
    for (number, (fault, protocol)) in (1..).zip(doses) {
        for node in stage.nodes() {
            node.watch_pings(true);
            node.bound_memory(Some(MEMORY_MAX));
        }
        let finding = one_dose(stage, fault, protocol, number).await;
        for node in stage.nodes() {
            node.watch_pings(false);
            node.bound_memory(None);
        }
        stage.both_serve().await?;
        findings.push(finding?);
    }
    Ok(findings)
}

async fn one_dose(
    stage: &mut Stage,
    fault: Fault,
    protocol: Protocol,
    number: i64,
) -> Result<Finding, Problem> {
    let reads = [
        (Endpoint::DbDummy, 1),
        (Endpoint::Movie, 1),
        (Endpoint::Customer, 1),
    ];
    let length = DOSE + effect(fault);
    let count = (length.as_secs_f64() * f64::from(RATE)) as usize;
    let asks = stage.scribe.mix(&reads, count);
    let site = stage.visit(protocol)?;
    let watch = stage.watch().await?;
    let deaths: Vec<_> = stage.nodes().iter().map(|it| it.deaths().len()).collect();
    let poison = Ask::operation(fault.operation().unwrap_or_default() | number);
    let dosing = async {
        sleep(DOSE).await;
        call(&site, &poison, TIMEOUT).await.0
    };
    let driving = drive(&site, asks, RATE, TIMEOUT);
    let (samples, dosed) = tokio::join!(driving, dosing);
    let died: Vec<_> = stage
        .nodes()
        .iter()
        .zip(&deaths)
        .map(|(node, before)| node.deaths().len() - before)
        .collect();
    let entry = poison.entry();
    let taken = stage
        .noted(&watch)?
        .lines()
        .filter(|it| *it == entry)
        .count();
    // The operation that makes sick is answered by the sick node.
    let expected = Outcome::Status(match fault {
        Fault::Leak => 200,
        Fault::Panic => 502,
        _ => 500,
    });
    let summary = Summary::of(&samples);
    let pass = dosed.outcome == expected
        && taken == 1
        && died.iter().sum::<usize>() == 1
        && summary.errors_within(0);
    let measured = format!(
        "answered {:?}, begun at {taken} node(s), deaths {died:?}; others: {summary}",
        dosed.outcome
    );
    let part = format!("{} by operation, {protocol}", fault.name());
    Ok(Finding::part(part, pass, measured))
}
