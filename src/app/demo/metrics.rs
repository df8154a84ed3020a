//! Reading a page of metrics.

/// A page in Prometheus's text exposition format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page(Vec<Sample>);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Page {
    /// Reads a page. What is no sample is left out.
    pub fn parse(text: &str) -> Page {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Page(lines.filter_map(sample).collect())
    }

    /// The sum of a metric's samples whose labels pass.
    pub fn sum(&self, name: &str, pass: impl Fn(&Labels<'_>) -> bool) -> f64 {
        self.of(name)
            .filter(|sample| pass(&Labels(&sample.labels)))
            .map(|sample| sample.value)
            .sum()
    }

    /// How many samples of a metric have labels that pass.
    pub fn count(&self, name: &str, pass: impl Fn(&Labels<'_>) -> bool) -> usize {
        self.of(name)
            .filter(|sample| pass(&Labels(&sample.labels)))
            .count()
    }

    /// A histogram's counts up to each edge, over all labels, by rising edge.
    pub fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for sample in self.of(&format!("{name}_bucket")) {
            let edge = Labels(&sample.labels)
                .get("le")
                .and_then(|edge| edge.parse().ok());
            let Some(edge) = edge else { continue };
            match sums.iter_mut().find(|(known, _)| *known == edge) {
                Some((_, sum)) => *sum += sample.value,
                None => sums.push((edge, sample.value)),
            }
        }
        sums.sort_by(|a, b| a.0.total_cmp(&b.0));
        sums
    }

    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }
}

/// A sample's labels.
#[derive(Debug)]
pub struct Labels<'a>(&'a [(String, String)]);

impl Labels<'_> {
    /// The value of one, if the sample has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `name{label="value",...} 1.5`, the labels and a time behind being optional.
fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    let name = name.to_owned();
    Some(Sample {
        name,
        labels,
        value,
    })
}

type Pairs = Vec<(String, String)>;

/// The labels up to the closing brace, and what is behind it.
fn labels(mut rest: &str) -> Option<(Pairs, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name.to_owned(), value));
        rest = after;
    }
}

/// Text up to the closing quote, its escapes resolved, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// How much a counter grew. One that is less than before began anew.
pub fn growth(before: f64, after: f64) -> f64 {
    if after < before {
        after
    } else {
        after - before
    }
}

/// The quantile `q` of what a histogram counted between two looks at it, even
/// within a bucket. `None` if it counted nothing.
pub fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], q: f64) -> Option<f64> {
    let of = |edge: f64| {
        before
            .iter()
            .find(|(known, _)| *known == edge)
            .map_or(0.0, |it| it.1)
    };
    let total_before = before.last().map_or(0.0, |it| it.1);
    let total_after = after.last()?.1;
    let anew = total_after < total_before;
    let counted = |&(edge, count): &(f64, f64)| if anew { count } else { count - of(edge) };
    let total = counted(after.last()?);
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut low, mut below) = (0.0, 0.0);
    for bucket in after {
        let (edge, count) = (bucket.0, counted(bucket));
        if count >= rank && count > below {
            // Beyond the last edge nothing is known but that.
            let share = (rank - below) / (count - below);
            return Some(if edge.is_finite() {
                low + (edge - low) * share
            } else {
                low
            });
        }
        if edge.is_finite() {
            low = edge;
        }
        below = count;
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = "\
# HELP a Help.
# TYPE a counter
a{x=\"1\",y=\"a b\"} 2
a{y=\"quote \\\" brace } comma , line \\n\"} 3 1700000000
a 4.5
ab 100
h_bucket{r=\"1\",le=\"+Inf\"} 10
h_bucket{r=\"1\",le=\"0.1\"} 4
h_bucket{r=\"2\",le=\"0.1\"} 1
h_bucket{r=\"2\",le=\"+Inf\"} 1

broken{x=\"1} 5
";

    #[test]
    fn samples_are_found_by_name_and_label() {
        let page = Page::parse(PAGE);
        assert_eq!(page.sum("a", |_| true), 9.5);
        assert_eq!(page.sum("a", |labels| labels.get("x") == Some("1")), 2.0);
        let strange = "quote \" brace } comma , line \n";
        assert_eq!(
            page.count("a", |labels| labels.get("y") == Some(strange)),
            1
        );
        assert_eq!(page.count("broken", |_| true), 0);
    }

    #[test]
    fn a_histogram_is_summed_over_its_labels() {
        let buckets = Page::parse(PAGE).buckets("h");
        assert_eq!(buckets, [(0.1, 5.0), (f64::INFINITY, 11.0)]);
    }

    #[test]
    fn a_counter_that_began_anew_grew_by_what_it_has() {
        assert_eq!(growth(5.0, 7.0), 2.0);
        assert_eq!(growth(5.0, 3.0), 3.0);
    }

    #[test]
    fn a_quantile_is_taken_of_the_time_between() {
        let before = [(1.0, 10.0), (2.0, 10.0), (f64::INFINITY, 10.0)];
        let after = [(1.0, 10.0), (2.0, 20.0), (f64::INFINITY, 20.0)];
        assert_eq!(quantile(&before, &after, 0.5), Some(1.5));
        assert_eq!(quantile(&before, &before, 0.5), None);
        assert_eq!(quantile(&after, &before, 0.5), Some(0.5));
        let beyond = [(1.0, 0.0), (2.0, 0.0), (f64::INFINITY, 1.0)];
        assert_eq!(quantile(&[], &beyond, 0.5), Some(2.0));
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "\\PC{0,80}") {
            Page::parse(&text);
        }

        #[test]
        fn a_quantile_lies_between_the_edges(counts in proptest::collection::vec(0_u32..9, 4), q in 0.0..1.0_f64) {
            let mut sum = 0.0;
            let edges = [1.0, 2.0, 3.0, f64::INFINITY];
            let after: Vec<_> = edges.iter().zip(&counts).map(|(&edge, &count)| {
                sum += f64::from(count);
                (edge, sum)
            }).collect();
            let found = quantile(&[], &after, q);
            prop_assert_eq!(found.is_some(), sum > 0.0);
            prop_assert!(found.is_none_or(|it| (0.0..=3.0).contains(&it)));
        }
    }
}
