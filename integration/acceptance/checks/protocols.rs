//! The ways statements travel: 31.

use std::collections::BTreeMap;

use super::TABLE;
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::Stage;

/// The words of `BINGO_SIM_PROTO`.
const PROTOS: [&str; 4] = ["cached", "unnamed", "one-trip", "simple"];

/// The checks that are made with each.
const CHECKS: std::ops::RangeInclusive<u8> = 7..=16;

/// Check 31.
pub(crate) async fn each(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let usual = stage.span;
    stage.span = stage.options.proto_span();
    let mut findings = Vec::new();
    for proto in PROTOS {
        let proto_switch = BTreeMap::from([("PROTO", proto.to_owned())]);
        stage.restart_nodes(proto_switch).await?;
        findings.push(one(stage, proto).await);
    }
    stage.span = usual;
    stage.restart_nodes(BTreeMap::new()).await?;
    Ok(findings)
}

/// Makes all of the checks, whatever becomes of the first ones.
async fn one(stage: &mut Stage, proto: &str) -> Finding {
    let mut passed = Vec::new();
    let mut failed = Vec::new();
    for check in TABLE.iter().filter(|it| CHECKS.contains(&it.number)) {
        let parts = check.make(stage, crate::say).await;
        match parts.iter().find(|part| !part.pass) {
            None => passed.push(check.number.to_string()),
            Some(part) => failed.push(format!("{}: {}", check.number, part.measured)),
        }
    }
    let seconds = stage.span.measured.as_secs();
    let mut measured = format!("passed {} ({seconds} s a load)", passed.join(" "));
    for failure in &failed {
        measured += &format!("; failed {failure}");
    }
    Finding::part(proto, failed.is_empty(), measured)
}
