//! What Prometheus is told: 27.

use std::collections::{BTreeMap, BTreeSet};

use crate::load::{Ask, Endpoint, Outcome, Protocol, Sample, drive};
use crate::problem::Problem;
use crate::report::Finding;
use crate::stage::{Scrape, Stage, TIMEOUT};

const REQUESTS: &str = "pgweir_http_requests_total";

/// Shares of the load: every endpoint.
const EVERYTHING: &[(Endpoint, i64)] = &[
    (Endpoint::Index, 8),
    (Endpoint::Ping, 8),
    (Endpoint::Config, 8),
    (Endpoint::Operation, 12),
    (Endpoint::DbDummy, 12),
    (Endpoint::LongDummy, 8),
    (Endpoint::Movie, 12),
    (Endpoint::Customer, 12),
    (Endpoint::Session, 12),
    (Endpoint::AddSession, 5),
    (Endpoint::Movies, 1),
    (Endpoint::Customers, 1),
];

/// One request in so many asks for a row that is not there.
const ABSENT_EACH: usize = 10;

const RATE: u32 = 60;

/// How far the numbers may be apart, in percent.
const APART: u64 = 2;

/// Requests by route, and those of them answered with 400 and above.
type Counts = BTreeMap<String, (u64, u64)>;

/// Check 27: by each version of HTTP.
pub(crate) async fn agree(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let mut findings = Vec::new();
    for protocol in Protocol::VERSIONS {
        findings.push(one_load(stage, protocol).await?);
    }
    findings.push(statements(stage).await?);
    Ok(findings)
}

async fn one_load(stage: &mut Stage, protocol: Protocol) -> Result<Finding, Problem> {
    let mut asks = stage.scribe.mix(EVERYTHING, stage.count(RATE));
    // Each endpoint at least once; and rows that are not there.
    asks.push(Ask::of(Endpoint::Sessions));
    asks.extend([Endpoint::Movies, Endpoint::Customers].map(Ask::of));
    let absent = stage.scribe.facts.movies + 1;
    let misses = asks.iter_mut().step_by(ABSENT_EACH);
    misses.for_each(|ask| *ask = Ask::by_id(Endpoint::Movie, absent));
    let site = stage.visit(protocol)?;
    let watch = stage.watch().await?;
    let before = stage.scrape().await?;
    let samples = drive(&site, asks, RATE, TIMEOUT.max(super::lists::TIMEOUT)).await;
    let after = stage.scrape().await?;
    // Those ask nodes by themselves, too.
    let own = |it: &&Sample| !matches!(it.endpoint, Endpoint::Ping | Endpoint::LongDummy);
    let others = samples.iter().filter(own).cloned().collect();
    stage.settle(&watch, others).await?;
    let (ours, theirs) = (sent(&samples), counted(&before, &after));
    let odd = theirs.keys().filter(|route| !is_folded(route)).count();
    let apart = furthest(&ours, &theirs);
    let routes: BTreeSet<_> = theirs.keys().collect();
    let pass = odd == 0 && apart <= APART as f64;
    let sum = |counts: &Counts| counts.values().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let ((sent, failed), (counted, counted_failed)) = (sum(&ours), sum(&theirs));
    let measured = format!(
        "{counted} of {sent} requests and {counted_failed} of {failed} errors on {} routes, at most {apart:.1} % apart; {odd} with an id",
        routes.len()
    );
    Ok(Finding::part(protocol.to_string(), pass, measured))
}

/// What the generator sent.
fn sent(samples: &[Sample]) -> Counts {
    let mut counts = Counts::new();
    for sample in samples {
        let route = counts
            .entry(sample.endpoint.route().to_owned())
            .or_default();
        route.0 += 1;
        route.1 += u64::from(!matches!(sample.outcome, Outcome::Status(..400)));
    }
    counts
}

/// What was counted between two scrapes.
fn counted(before: &Scrape, after: &Scrape) -> Counts {
    let mut counts = Counts::new();
    let mut add = |scrape: &Scrape, sign: fn(u64, u64) -> u64| {
        for (labels, value) in scrape.rows(REQUESTS) {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let route = counts.entry(label("route")).or_default();
            route.0 = sign(route.0, value);
            if label("code").parse().is_ok_and(|code: u16| code >= 400) {
                route.1 = sign(route.1, value);
            }
        }
    };
    add(after, u64::saturating_add);
    add(before, u64::saturating_sub);
    counts.retain(|_, (requests, _)| *requests > 0);
    counts
}

fn is_folded(route: &str) -> bool {
    !route.is_empty() && !route.contains(|letter: char| letter.is_ascii_digit())
}

/// The greatest distance of two numbers of one route, in percent.
fn furthest(ours: &Counts, theirs: &Counts) -> f64 {
    let routes: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let apart = |one: u64, other: u64| one.abs_diff(other) as f64 * 100.0 / one.max(1) as f64;
    let of = |counts: &Counts, route| counts.get(route).copied().unwrap_or_default();
    let all = routes.into_iter().map(|route| {
        let (ours, theirs) = (of(ours, route), of(theirs, route));
        apart(ours.0, theirs.0).max(apart(ours.1, theirs.1))
    });
    all.fold(0.0, f64::max)
}

/// Each statement has its own count, errors and latency: that of `/db_dummy`
/// agrees with what the nodes answered.
async fn statements(stage: &mut Stage) -> Result<Finding, Problem> {
    let calls = |scrape: &Scrape| {
        let rows = scrape.rows("pgweir_query_info").into_iter();
        let named = rows.filter(|(labels, _)| {
            labels
                .get("query")
                .is_some_and(|it| it.to_lowercase().contains("pg_sleep("))
        });
        let prints: BTreeSet<_> = named
            .filter_map(|(labels, _)| labels.get("fingerprint").cloned())
            .collect();
        let fits = |labels: &BTreeMap<String, String>| {
            labels
                .get("fingerprint")
                .is_some_and(|it| prints.contains(it))
        };
        let count = |name: &str| scrape.sum(name, fits);
        [
            count("pgweir_query_calls_total"),
            count("pgweir_query_errors_total"),
            count("pgweir_query_seconds_count"),
        ]
    };
    let before = calls(&stage.scrape().await?);
    let load = stage.load(&[(Endpoint::DbDummy, 1)], RATE).await?;
    let after = calls(&stage.scrape().await?);
    let [count, errors, timed] = std::array::from_fn(|at| after[at] - before[at]);
    let sent = load.samples.len() as u64;
    let near = |it: u64| it.abs_diff(sent) * 100 <= sent * APART;
    let pass = near(count) && near(timed) && errors == 0;
    let measured =
        format!("{count} calls, {timed} of them timed, {errors} errors for {sent} GET /db_dummy");
    Ok(Finding::part("statement of /db_dummy", pass, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, u64, u64)]) -> Counts {
        let row = |(route, all, bad): &(&str, u64, u64)| ((*route).to_owned(), (*all, *bad));
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_route_that_is_furthest_off_counts() {
        let ours = counts(&[("a", 100, 0), ("b", 200, 50)]);
        assert_eq!(furthest(&ours, &ours), 0.0);
        assert_eq!(
            furthest(&ours, &counts(&[("a", 101, 0), ("b", 200, 50)])),
            1.0
        );
        assert_eq!(
            furthest(&ours, &counts(&[("a", 100, 0), ("b", 200, 49)])),
            2.0
        );
        assert_eq!(furthest(&ours, &counts(&[("a", 100, 0)])), 100.0);
        let more = counts(&[("a", 100, 0), ("b", 200, 50), ("c", 3, 0)]);
        assert_eq!(furthest(&ours, &more), 300.0);
    }

    #[test]
    fn a_path_is_no_route() {
        assert!(is_folded("movie") && is_folded("db_dummy"));
        assert!(!is_folded("/api/movie/7") && !is_folded(""));
    }
}
