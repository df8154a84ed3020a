//! What looks back on the whole run: 17 and 18.

use crate::load::MIXED;
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{DATABASE, Stage, fingerprint, remove_added};

/// Check 17: a last mixed load, and the sum of all loads.
pub(crate) async fn uncached(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let load = stage.load(MIXED, 60).await?;
    let last = Finding::part(
        "mixed, 60 RPS",
        load.origin.is_uncached(),
        load.origin.to_string(),
    );
    let all = Finding::part(
        "whole run",
        stage.origin.is_uncached(),
        stage.origin.to_string(),
    );
    Ok(vec![last, all])
}

/// Check 18: what the loads added is removed first.
pub(crate) async fn intact(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let session = stage.postgres.session(DATABASE).await?;
    let removed = remove_added(&session).await?;
    let after = fingerprint(&session).await?;
    let measured = format!("{after}; {removed} added rows removed first");
    Ok(Finding::whole(after == stage.before, measured))
}
