//! Single requests under load: 7 to 11.

use std::time::Duration;

use crate::judge::Summary;
use crate::load::Endpoint;
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::Stage;

/// What nine in ten must not exceed.
pub(crate) const P90: Duration = Duration::from_millis(400);

/// One endpoint at 120 RPS.
pub(crate) async fn quick(stage: &mut Stage, endpoint: Endpoint) -> Result<Vec<Finding>, Problem> {
    let load = stage.load(&[(endpoint, 1)], 120).await?;
    let summary = Summary::of(load.measured());
    let pass =
        summary.percentile(90) < P90 && summary.errors_within(1) && load.origin.is_uncached();
    Ok(Finding::whole(pass, format!("{summary}; {}", load.origin)))
}
