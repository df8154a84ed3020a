//! pgweir's own counters, from its metrics port.

use crate::load::{Ask, Site};
use crate::problem::Problem;

/// Requests the balancer has sent again.
const RETRIES: &str = "pgweir_http_retries_total";

/// How often requests were sent again since the start.
pub(crate) async fn retries(metrics: &Site) -> Result<u64, Problem> {
    let reply = metrics.send(&Ask::get("/metrics")).await;
    let reply = reply.map_err(|fault| Problem::new(format!("/metrics: {fault}")))?;
    if reply.status != 200 {
        return Err(Problem::new(format!("/metrics answers {}", reply.status)));
    }
    Ok(sum(&String::from_utf8_lossy(&reply.body), RETRIES))
}

/// The sum over all labels of one counter.
fn sum(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labels_end = rest.rfind('}').map_or(0, |end| end + 1);
        // Another counter whose name begins the same has neither.
        (rest.starts_with(['{', ' '])).then(|| rest[labels_end..].trim().parse::<u64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels() {
        let text = "# TYPE a counter\na{b=\"c d\"} 2\na{b=\"e\"} 3\na_more 5\na 1\n";
        assert_eq!(sum(text, "a"), 6);
        assert_eq!(sum(text, "absent"), 0);
    }
}
