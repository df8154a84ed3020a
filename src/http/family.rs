//! A metric family as a row of a table.

use std::borrow::Cow;

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// One family (two, if it has another name in an older dialect), whose samples
/// are made from `R`.
#[derive(Debug)]
pub struct Family<R: 'static> {
    /// Its name.
    pub name: &'static str,
    /// The name it has besides.
    pub older_name: Option<&'static str>,
    /// What it counts or measures, for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: MetricType,
    /// The value of a sample; NaN where there is none.
    pub value: fn(&R) -> f64,
}

/// A label of all families of `R`.
#[derive(Debug)]
pub struct Label<R: 'static> {
    /// Its name.
    pub name: &'static str,
    /// The value that tells `R` from others.
    pub value: fn(&R) -> Cow<'_, str>,
}

/// Something that is read once for a scrape and has a sample in each of its
/// families.
pub trait Row: Sized + 'static {
    /// What tells one from another.
    const LABELS: &'static [Label<Self>];
    /// What is exported of it.
    const FAMILIES: &'static [Family<Self>];
}

/// Says of a family what does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What it counts or measures.
    pub help: String,
    /// Its type.
    pub kind: MetricType,
    /// The names of its labels.
    pub labels: Vec<String>,
}

/// A family that goes up and down.
pub(super) const fn gauge<R>(
    name: &'static str,
    help: &'static str,
    value: fn(&R) -> f64,
) -> Family<R> {
    Family {
        name,
        older_name: None,
        help,
        kind: MetricType::GAUGE,
        value,
    }
}

/// A family that only goes up.
pub(super) const fn counter<R>(
    name: &'static str,
    help: &'static str,
    value: fn(&R) -> f64,
) -> Family<R> {
    Family {
        name,
        older_name: None,
        help,
        kind: MetricType::COUNTER,
        value,
    }
}

/// A label.
pub(super) const fn label<R>(name: &'static str, value: fn(&R) -> Cow<'_, str>) -> Label<R> {
    Label { name, value }
}

impl<R> Family<R> {
    fn names(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.name), self.older_name].into_iter().flatten()
    }
}

/// All families of `R`.
pub(super) fn describe<R: Row>() -> Vec<Described> {
    let labels: Vec<_> = R::LABELS
        .iter()
        .map(|label| label.name.to_owned())
        .collect();
    let mut all = Vec::new();
    for family in R::FAMILIES {
        all.extend(family.names().map(|name| Described {
            name: name.to_owned(),
            help: family.help.to_owned(),
            kind: family.kind,
            labels: labels.clone(),
        }));
    }
    all
}

/// The same in the registry's words.
pub(super) fn descs(families: Vec<Described>) -> Vec<Desc> {
    let desc = |of: Described| {
        Desc::new(of.name, of.help, of.labels, Default::default())
            .expect("the tables hold valid names")
    };
    families.into_iter().map(desc).collect()
}

/// Writes the families of these rows.
pub(super) fn collect<R: Row>(rows: &[R], families: &mut Vec<MetricFamily>) {
    let labels: Vec<_> = rows.iter().map(pairs).collect();
    for family in R::FAMILIES {
        let samples = rows.iter().zip(&labels);
        let samples = samples.map(|(row, labels)| ((family.value)(row), labels));
        let metrics: Vec<_> = samples
            .filter(|(value, _)| !value.is_nan())
            .map(|(value, labels)| sample(family.kind, value, labels))
            .collect();
        for name in family.names() {
            let mut made = MetricFamily::default();
            made.set_name(name.to_owned());
            made.set_help(family.help.to_owned());
            made.set_field_type(family.kind);
            made.set_metric(metrics.clone());
            families.push(made);
        }
    }
}

fn pairs<R: Row>(row: &R) -> Vec<LabelPair> {
    let pair = |label: &Label<R>| {
        let mut pair = LabelPair::default();
        pair.set_name(label.name.to_owned());
        pair.set_value((label.value)(row).into_owned());
        pair
    };
    R::LABELS.iter().map(pair).collect()
}

fn sample(kind: MetricType, value: f64, labels: &[LabelPair]) -> Metric {
    let mut metric = Metric::from_label(labels.to_vec());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dog {
        name: &'static str,
        barks: f64,
    }

    impl Row for Dog {
        const LABELS: &'static [Label<Self>] = &[label("name", |dog| dog.name.into())];
        const FAMILIES: &'static [Family<Self>] = &[
            Family {
                older_name: Some("woofs_total"),
                ..counter("barks_total", "Barks.", |dog| dog.barks)
            },
            gauge("legs", "Legs.", |_| 4.0),
        ];
    }

    fn page(dogs: &[Dog]) -> String {
        let mut families = Vec::new();
        collect(dogs, &mut families);
        families.retain(|family| !family.get_metric().is_empty());
        prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .expect("valid families")
    }

    #[test]
    fn a_row_has_a_sample_under_each_name() {
        let rex = Dog {
            name: "re\"x",
            barks: 2.5,
        };
        assert_eq!(
            page(&[rex]),
            "# HELP barks_total Barks.\n# TYPE barks_total counter\n\
             barks_total{name=\"re\\\"x\"} 2.5\n\
             # HELP woofs_total Barks.\n# TYPE woofs_total counter\n\
             woofs_total{name=\"re\\\"x\"} 2.5\n\
             # HELP legs Legs.\n# TYPE legs gauge\nlegs{name=\"re\\\"x\"} 4\n"
        );
    }

    #[test]
    fn a_value_that_is_not_known_has_no_sample() {
        let dogs = [("a", f64::NAN), ("b", 1.0)].map(|(name, barks)| Dog { name, barks });
        let page = page(&dogs);
        assert!(!page.contains("barks_total{name=\"a\"}"), "{page}");
        assert!(page.contains("barks_total{name=\"b\"} 1\n"), "{page}");
        assert!(page.contains("legs{name=\"a\"} 4\n"), "{page}");
    }

    #[test]
    fn what_is_described_is_what_is_collected() {
        let mut families = Vec::new();
        collect(
            &[Dog {
                name: "rex",
                barks: 0.0,
            }],
            &mut families,
        );
        let collected: Vec<_> = families.iter().map(MetricFamily::name).collect();
        let described = describe::<Dog>();
        let described: Vec<_> = described.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(collected, described);
        assert_eq!(collected, ["barks_total", "woofs_total", "legs"]);
    }
}
