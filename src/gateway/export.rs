//! Per-query statistics for Prometheus.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::form::shorten;
use super::numbers::Totals;
use super::queries::{Queries, QueryRow};

/// Bytes of a statement's text in a label.
const MAX_LABEL: usize = 120;

/// Serves what [`Queries::export`] chooses. Register it once.
#[derive(Debug)]
pub struct QueryCollector {
    queries: Arc<Queries>,
    descs: Vec<Desc>,
}

/// A metric family with the labels `database` and `fingerprint`.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    /// Writes a row's value.
    set: fn(&mut Metric, &Totals),
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "pgweir_query_calls_total",
        help: "Executions of the statement, failed ones included.",
        kind: MetricType::COUNTER,
        set: |metric, totals| metric.set_counter(counter(totals.calls as f64)),
    },
    Family {
        name: "pgweir_query_errors_total",
        help: "Executions that ended with an error.",
        kind: MetricType::COUNTER,
        set: |metric, totals| metric.set_counter(counter(totals.errors as f64)),
    },
    Family {
        name: "pgweir_query_rows_total",
        help: "Rows returned or affected.",
        kind: MetricType::COUNTER,
        set: |metric, totals| metric.set_counter(counter(totals.rows as f64)),
    },
    Family {
        name: "pgweir_query_seconds",
        help: "Time from sending the statement to the server to the end of its answer.",
        kind: MetricType::HISTOGRAM,
        set: |metric, totals| metric.set_histogram(histogram(totals)),
    },
    Family {
        name: "pgweir_query_wait_seconds_total",
        help: "Time that clients waited for a server to run the statement.",
        kind: MetricType::COUNTER,
        set: |metric, totals| metric.set_counter(counter(totals.wait.as_secs_f64())),
    },
];

const INFO: &str = "pgweir_query_info";
const INFO_HELP: &str = "Normalised text and verb of the statement with this fingerprint.";

impl QueryCollector {
    /// A collector of these statistics.
    pub fn new(queries: Arc<Queries>) -> Self {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default())
                .expect("the names are valid")
        };
        let mut descs: Vec<_> = FAMILIES
            .iter()
            .map(|family| desc(family.name, family.help, &["database", "fingerprint"]))
            .collect();
        descs.push(desc(INFO, INFO_HELP, &["fingerprint", "query", "verb"]));
        QueryCollector { queries, descs }
    }
}

impl Collector for QueryCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.queries.export(Instant::now()))
    }
}

fn families(rows: &[QueryRow]) -> Vec<MetricFamily> {
    let mut families: Vec<_> = FAMILIES
        .iter()
        .map(|of| {
            let metric = |row: &QueryRow| {
                let mut metric = Metric::from_label(vec![
                    label("database", &row.database),
                    label("fingerprint", &row.fingerprint_text()),
                ]);
                (of.set)(&mut metric, &row.totals);
                metric
            };
            family(of.name, of.help, of.kind, rows.iter().map(metric).collect())
        })
        .collect();
    families.push(family(INFO, INFO_HELP, MetricType::GAUGE, infos(rows)));
    families
}

/// One series for each fingerprint, in however many databases it is.
fn infos(rows: &[QueryRow]) -> Vec<Metric> {
    let mut seen = HashSet::new();
    let mut infos = Vec::new();
    for row in rows.iter().filter(|row| seen.insert(row.fingerprint)) {
        let mut metric = Metric::from_label(vec![
            label("fingerprint", &row.fingerprint_text()),
            label("query", &shorten(&row.text, MAX_LABEL)),
            label("verb", row.verb.name()),
        ]);
        let mut one = Gauge::default();
        one.set_value(1.0);
        metric.set_gauge(one);
        infos.push(metric);
    }
    infos
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn histogram(totals: &Totals) -> Histogram {
    let bucket = |(edge, count): (std::time::Duration, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(edge.as_secs_f64());
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(totals.times.classic().map(bucket).into());
    histogram.set_sample_count(totals.times.count());
    histogram.set_sample_sum(totals.times.sum().as_secs_f64());
    histogram
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;
    use crate::gateway::Outcome;

    fn queries(max_exported: usize) -> Arc<Queries> {
        Queries::new(&config::Queries {
            enabled: true,
            max_statements: 100,
            max_exported,
            max_text: 1000,
        })
    }

    fn page(queries: &Arc<Queries>) -> String {
        let registry = prometheus::Registry::new();
        registry
            .register(Box::new(QueryCollector::new(Arc::clone(queries))))
            .expect("once");
        prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("valid")
    }

    fn run(queries: &Arc<Queries>, databases: &[&str], sql: &str, outcome: &Outcome) {
        let mut observer = queries.observer();
        for database in databases {
            let slot = observer.observe(queries.database_id(database), sql.as_bytes());
            observer.record(slot, outcome);
        }
    }

    #[test]
    fn a_statement_has_all_its_series() {
        let queries = queries(10);
        let outcome = Outcome {
            server_time: Some(Duration::from_millis(400)),
            wait_time: Duration::from_millis(250),
            rows: 3,
            error: Some(*b"57014"),
            ..Outcome::default()
        };
        run(&queries, &["shop"], "SELECT pg_sleep(0.1)", &outcome);
        let page = page(&queries);
        let labels = r#"{database="shop",fingerprint="dd38d3b0d6aff43a""#;
        for line in [
            format!("pgweir_query_calls_total{labels}}} 1"),
            format!("pgweir_query_errors_total{labels}}} 1"),
            format!("pgweir_query_rows_total{labels}}} 3"),
            format!("pgweir_query_wait_seconds_total{labels}}} 0.25"),
            format!("pgweir_query_seconds_bucket{labels},le=\"0.2\"}} 0"),
            format!("pgweir_query_seconds_bucket{labels},le=\"0.4\"}} 1"),
            format!("pgweir_query_seconds_bucket{labels},le=\"1\"}} 1"),
            format!("pgweir_query_seconds_bucket{labels},le=\"+Inf\"}} 1"),
            format!("pgweir_query_seconds_sum{labels}}} 0.4"),
            format!("pgweir_query_seconds_count{labels}}} 1"),
            "# TYPE pgweir_query_seconds histogram".to_owned(),
            r#"pgweir_query_info{fingerprint="dd38d3b0d6aff43a",query="select pg_sleep($1)",verb="SELECT"} 1"#.to_owned(),
        ] {
            assert!(page.lines().any(|l| l == line), "no {line} in\n{page}");
        }
    }

    #[test]
    fn no_statements_make_an_empty_page() {
        assert_eq!(page(&queries(10)), "");
    }

    #[test]
    fn statements_not_shown_are_other_by_database() {
        let queries = queries(0);
        run(&queries, &["a", "b", "a"], "select 1", &Outcome::default());
        let page = page(&queries);
        assert!(
            page.contains("calls_total{database=\"a\",fingerprint=\"other\"} 2\n"),
            "{page}"
        );
        assert!(
            page.contains("calls_total{database=\"b\",fingerprint=\"other\"} 1\n"),
            "{page}"
        );
    }

    #[test]
    fn a_statement_in_two_databases_has_one_info() {
        let queries = queries(10);
        run(&queries, &["a", "b"], "select 1", &Outcome::default());
        let page = page(&queries);
        assert_eq!(page.matches("pgweir_query_calls_total{").count(), 2);
        assert_eq!(page.matches("pgweir_query_info{").count(), 1);
    }

    #[test]
    fn a_long_text_is_cut_and_quotes_are_escaped() {
        let queries = queries(10);
        let sql = format!("select \"{}\"", "я".repeat(100));
        run(&queries, &["a"], &sql, &Outcome::default());
        let expected = format!("query=\"select \\\"{}...\"", "я".repeat(54));
        assert!(page(&queries).contains(&expected), "{expected}");
    }
}
