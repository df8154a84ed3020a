//! pgweir's own counters, from its metrics port.

use std::collections::BTreeMap;

use crate::load::{Ask, Site};
use crate::problem::Problem;

/// Requests the balancer has sent again.
const RETRIES: &str = "pgweir_http_retries_total";

/// What a metrics port said at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scrape(String);

/// The labels of one counter.
pub(crate) type Labels = BTreeMap<String, String>;

impl Scrape {
    /// Asks for everything.
    pub(crate) async fn take(metrics: &Site) -> Result<Scrape, Problem> {
        let reply = metrics.send(&Ask::get("/metrics")).await;
        let reply = reply.map_err(|fault| Problem::new(format!("/metrics: {fault}")))?;
        match reply.status.as_u16() {
            200 => Ok(Scrape(String::from_utf8_lossy(&reply.body).into_owned())),
            other => Err(Problem::new(format!("/metrics answers {other}"))),
        }
    }

    /// How often requests were sent again since the start.
    pub(crate) fn retries(&self) -> u64 {
        self.sum(RETRIES, |_| true)
    }

    /// The sum of one counter over the labels that fit.
    pub(crate) fn sum(&self, name: &str, fits: impl Fn(&Labels) -> bool) -> u64 {
        let rows = self.rows(name).into_iter();
        rows.filter(|(labels, _)| fits(labels))
            .map(|(_, value)| value)
            .sum()
    }

    /// The whole numbers of one name, with their labels.
    pub(crate) fn rows(&self, name: &str) -> Vec<(Labels, u64)> {
        let row = |line: &str| {
            let rest = line.strip_prefix(name)?;
            match rest.strip_prefix('{') {
                Some(rest) => {
                    let (labels, value) = labels(rest)?;
                    Some((labels, value.trim().parse().ok()?))
                }
                // Another name may begin the same.
                None => Some((Labels::new(), rest.strip_prefix(' ')?.parse().ok()?)),
            }
        };
        self.0.lines().filter_map(row).collect()
    }
}

/// Labels up to the closing brace, and what comes after it.
fn labels(text: &str) -> Option<(Labels, &str)> {
    let mut found = Labels::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(letters.next()?.1),
                (_, letter) => value.push(letter),
            }
        };
        found.insert(name.to_owned(), value);
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(text: &str) -> Scrape {
        Scrape(text.to_owned())
    }

    #[test]
    fn a_counter_is_summed_over_its_labels() {
        let text = "# TYPE a counter\na{b=\"c d\"} 2\na{b=\"e\"} 3\na_more 5\na 1\n";
        assert_eq!(scrape(text).sum("a", |_| true), 6);
        assert_eq!(scrape(text).sum("absent", |_| true), 0);
        let e = |labels: &Labels| labels.get("b").is_some_and(|it| it == "e");
        assert_eq!(scrape(text).sum("a", e), 3);
    }

    #[test]
    fn labels_may_hold_anything() {
        let rows = scrape("a{b=\"x \\\"} , \\\\\",c=\"\"} 2\n").rows("a");
        let labels = [("b", "x \"} , \\"), ("c", "")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(rows, [(Labels::from(labels), 2)]);
    }
}
