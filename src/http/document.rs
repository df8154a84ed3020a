//! `docs/metrics.md`: every family, from the tables.

use std::collections::HashMap;

use prometheus::core::Collector;
use prometheus::proto::MetricType;

use super::family::Described;
use super::pages::index;
use super::pooler::PoolerCollector;
use super::process::ProcessCollector;
use super::program::ProgramCollector;
use crate::config;
use crate::gateway::{Queries, QueryCollector};

/// `PAGES` stands for what `/` answers.
const INTRODUCTION: &str = include_str!("document.md");

/// Where the balancer's chapter begins, the last one: the balancer is above
/// this module and writes it itself.
pub const BALANCER: &str = "\n## The balancer\n";

/// Families that belong together.
#[derive(Debug)]
pub struct Chapter {
    /// Its heading.
    pub title: &'static str,
    /// What to know of all of them.
    pub about: &'static str,
    /// The families.
    pub families: Vec<Described>,
}

/// The families of the pooler and the program.
pub fn chapters() -> Vec<Chapter> {
    let pooler = PoolerCollector::families();
    let (theirs, own): (Vec<_>, Vec<_>) = pooler
        .into_iter()
        .partition(|family| family.name.starts_with("pgbouncer_"));
    let queries = QueryCollector::new(Queries::new(&config::Queries::default()));
    vec![
        Chapter {
            title: "The pooler, under the exporter's names",
            about: "The names, types and labels of the PgBouncer exporter by prometheus-community, 0.12. Its counters are there twice: `pgbouncer_stats_totals_*` is what it writes since 0.11, `pgbouncer_stats_*` what it wrote before and what many dashboards still ask for.",
            families: theirs,
        },
        Chapter {
            title: "The pooler, pgweir's own",
            about: "What PgBouncer does not tell, or tells of a database only.",
            families: own,
        },
        Chapter {
            title: "Statements",
            about: "Off with `enabled = 0` in `[queries]`. Statements are told apart by the fingerprint of their normal form; those beyond `max_exported` are together in the fingerprint `other`.",
            families: described(&queries),
        },
        Chapter {
            title: "The program",
            about: "Its build, its log and its configuration file.",
            families: ProgramCollector::families(),
        },
        Chapter {
            title: "The process",
            about: "What the system tells of the process, under the names that all of Prometheus' client libraries use. A value that the system does not tell is left out.",
            families: ProcessCollector::families(),
        },
    ]
}

/// The families of a collector of any kind.
pub fn described(collector: &dyn Collector) -> Vec<Described> {
    let families = collector.collect();
    let kinds: HashMap<_, _> = families
        .iter()
        .map(|family| (family.name(), family.get_field_type()))
        .collect();
    let described = |desc: &prometheus::core::Desc| {
        Some(Described {
            kind: *kinds.get(desc.fq_name.as_str())?,
            name: desc.fq_name.clone(),
            help: desc.help.clone(),
            labels: desc.variable_labels.clone(),
        })
    };
    collector.desc().into_iter().filter_map(described).collect()
}

/// The page that documents these families, in Markdown.
pub fn document(chapters: &[Chapter]) -> String {
    let mut page = INTRODUCTION.replace("PAGES\n", &index());
    page.extend(chapters.iter().map(Chapter::text));
    page
}

impl Chapter {
    /// The chapter in Markdown.
    pub fn text(&self) -> String {
        let Chapter { title, about, .. } = self;
        let rows = self.families.iter().map(row).collect::<String>();
        format!(
            "\n## {title}\n\n{about}\n\n| family | type | labels | meaning |\n|---|---|---|---|\n{rows}"
        )
    }
}

fn row(family: &Described) -> String {
    let labels: Vec<_> = family
        .labels
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    format!(
        "| `{}` | {} | {} | {} |\n",
        family.name,
        kind(family.kind),
        labels.join(", "),
        family.help
    )
}

fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::UNIX_EPOCH;

    use prometheus::Registry;

    use super::*;
    use crate::gateway::Outcome;
    use crate::http::testing::{bouncer, join, thread_named};
    use crate::http::{Readiness, Reloads};

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

    /// Writes the page instead when `PGWEIR_DOCUMENT` is set.
    #[test]
    fn the_page_in_docs_is_made_from_the_tables() {
        let made = document(&chapters());
        let page = std::fs::read_to_string(FILE).unwrap_or_default();
        let end = page.find(BALANCER).unwrap_or(page.len());
        if std::env::var_os("PGWEIR_DOCUMENT").is_some() {
            let page = made.clone() + &page[end..];
            std::fs::write(FILE, page).expect("docs/ is writable");
        }
        let page = std::fs::read_to_string(FILE).unwrap_or_default();
        assert!(
            page.split(BALANCER).next() == Some(made.as_str()),
            "docs/metrics.md is not what the tables say; run: \
             PGWEIR_DOCUMENT=1 cargo test --lib http::document"
        );
    }

    /// A registry in which everything has a sample.
    fn full_registry() -> Registry {
        let bouncer = bouncer();
        let client = join(&bouncer, "shop", "ann", "web");
        bouncer.pool(&client.database, &client.user);
        let queries = Queries::new(&config::Queries::default());
        let mut observer = queries.observer();
        let slot = observer.observe(queries.database_id("shop"), b"select 1");
        observer.record(slot, &Outcome::default());
        let registry = Registry::new();
        let collectors: [Box<dyn Collector>; 4] = [
            Box::new(PoolerCollector::new(bouncer)),
            Box::new(ProcessCollector::new()),
            Box::new(ProgramCollector::new(
                Readiness::new(),
                Reloads::new(UNIX_EPOCH),
                Box::new(|| 0),
            )),
            Box::new(QueryCollector::new(queries)),
        ];
        for collector in collectors {
            registry.register(collector).expect("each name once");
        }
        registry
    }

    /// Name, type and labels.
    type Shape = (String, String, String);

    fn documented() -> BTreeSet<Shape> {
        let cells = |line: &str| {
            let cells: Vec<_> = line
                .split('|')
                .map(|cell| cell.trim().replace('`', ""))
                .collect();
            (cells[1].clone(), cells[2].clone(), cells[3].clone())
        };
        let page = document(&chapters());
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        rows.map(cells).collect()
    }

    fn scraped() -> BTreeSet<Shape> {
        let shape = |family: &prometheus::proto::MetricFamily| {
            let labels = family.get_metric()[0].get_label();
            let labels: Vec<_> = labels.iter().map(|label| label.name()).collect();
            let kind = kind(family.get_field_type()).to_owned();
            (family.name().to_owned(), kind, labels.join(", "))
        };
        full_registry().gather().iter().map(shape).collect()
    }

    #[test]
    fn what_is_documented_is_scraped_and_the_reverse() {
        let _worker = thread_named("worker-0");
        let (documented, scraped) = (documented(), scraped());
        let missing: Vec<_> = documented.difference(&scraped).collect();
        let undocumented: Vec<_> = scraped.difference(&documented).collect();
        assert!(missing.is_empty(), "not in a scrape: {missing:?}");
        assert!(undocumented.is_empty(), "not in docs: {undocumented:?}");
    }

    #[test]
    fn no_cell_breaks_its_row() {
        let page = document(&chapters());
        for line in page.lines().filter(|line| line.starts_with('|')) {
            assert_eq!(line.matches('|').count(), 5, "{line}");
        }
    }
}
