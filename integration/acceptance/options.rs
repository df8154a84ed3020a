//! The variables of `make acceptance`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// bingo's word for the amount of data.
    pub(crate) scale: String,
    /// Time a load is measured for.
    pub(crate) measured: Duration,
    /// Time it runs before that; none is chosen by `measured`.
    pub(crate) warm_up: Option<Duration>,
    /// `measured` of check 31; none is chosen by `measured`.
    pub(crate) proto_measured: Option<Duration>,
    /// Calls of each list, and half as many as sessions are written.
    pub(crate) calls: usize,
    /// How long the loads of checks 6 and 41 run.
    pub(crate) soak: Duration,
    /// How often check 39 kills.
    pub(crate) kills: usize,
    /// How often a check is made until it passes.
    pub(crate) attempts: usize,
    /// The checks to make; empty is all.
    pub(crate) checks: BTreeSet<u8>,
    /// Where everything is kept.
    pub(crate) folder: PathBuf,
    /// None lies beside this program.
    pub(crate) pgweir: Option<PathBuf>,
    pub(crate) bingo: Option<PathBuf>,
    /// 0 is any free one.
    pub(crate) pooler_port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) balancer_port: u16,
    /// Decides the random choices; none is by the clock.
    pub(crate) seed: Option<u64>,
}

/// One variable.
struct Variable {
    name: &'static str,
    /// The values it takes, for people.
    values: &'static str,
    default: &'static str,
    meaning: &'static str,
    set: fn(&mut Options, &str) -> Option<()>,
}

/// bingo's words.
const SCALES: [&str; 4] = ["full", "limit", "ci", "tiny"];

#[rustfmt::skip]
const TABLE: &[Variable] = &[
    Variable {
        name: "SCALE", values: "full, limit, ci, tiny", default: "full",
        meaning: "amount of data, in bingo's words; each has a data folder of its own, kept between runs",
        set: |o, v| put(&mut o.scale, SCALES.contains(&v).then(|| v.into())),
    },
    Variable {
        name: "SECONDS_PER_CHECK", values: "2..3600", default: "60",
        meaning: "how long each load is measured",
        set: |o, v| put(&mut o.measured, seconds(v, 2)),
    },
    Variable {
        name: "WARM_UP", values: "0..600", default: "",
        meaning: "seconds of load before that; unset: a fifth of it, at most 10",
        set: |o, v| put(&mut o.warm_up, optional(v, |v| seconds(v, 0))),
    },
    Variable {
        name: "PROTO_SECONDS", values: "2..3600", default: "",
        meaning: "SECONDS_PER_CHECK of check 31, for each protocol and load; unset: the same, at most 20",
        set: |o, v| put(&mut o.proto_measured, optional(v, |v| seconds(v, 2))),
    },
    Variable {
        name: "CALLS", values: "1..1000", default: "50",
        meaning: "calls of each list (12 to 14); twice as many sessions are written (15, 16)",
        set: |o, v| put(&mut o.calls, v.parse().ok().filter(|n| (1..=1000).contains(n))),
    },
    Variable {
        name: "SOAK", values: "20..86400", default: "600",
        meaning: "seconds that the loads of checks 6 and 41 run",
        set: |o, v| put(&mut o.soak, v.parse().ok().filter(|n| (20..=86_400).contains(n)).map(Duration::from_secs)),
    },
    Variable {
        name: "KILLS", values: "1..10000", default: "100",
        meaning: "how often check 39 kills a node; check 40 a tenth as often",
        set: |o, v| put(&mut o.kills, v.parse().ok().filter(|n| (1..=10_000).contains(n))),
    },
    Variable {
        name: "ATTEMPTS", values: "1..10", default: "1",
        meaning: "how often a check is made until it passes, on a machine with other work; the table tells",
        set: |o, v| put(&mut o.attempts, v.parse().ok().filter(|n| (1..=10).contains(n))),
    },
    Variable {
        name: "CHECKS", values: "numbers with commas", default: "",
        meaning: "the checks to make; unset: all",
        set: |o, v| put(&mut o.checks, numbers(v)),
    },
    Variable {
        name: "FOLDER", values: "a path", default: "target/acceptance",
        meaning: "where data, logs and configuration are kept",
        set: |o, v| put(&mut o.folder, Some(v.into())),
    },
    Variable {
        name: "PGWEIR_BIN", values: "a path", default: "",
        meaning: "the program under test; unset: the one beside this program",
        set: |o, v| put(&mut o.pgweir, optional(v, |v| Some(v.into()))),
    },
    Variable {
        name: "BINGO_BIN", values: "a path", default: "",
        meaning: "the application; unset: the one beside this program",
        set: |o, v| put(&mut o.bingo, optional(v, |v| Some(v.into()))),
    },
    Variable {
        name: "POOLER_PORT", values: "0..65535", default: "0",
        meaning: "the pooler's port; 0: a free one",
        set: |o, v| put(&mut o.pooler_port, v.parse().ok()),
    },
    Variable {
        name: "METRICS_PORT", values: "0..65535", default: "0",
        meaning: "the metrics port; 0: a free one",
        set: |o, v| put(&mut o.metrics_port, v.parse().ok()),
    },
    Variable {
        name: "BALANCER_PORT", values: "0..65535", default: "0",
        meaning: "the balancer's port; 0: a free one",
        set: |o, v| put(&mut o.balancer_port, v.parse().ok()),
    },
    Variable {
        name: "SEED", values: "0..2^64-1", default: "",
        meaning: "decides the random ids; unset: by the clock",
        set: |o, v| put(&mut o.seed, optional(v, |v| v.parse().ok())),
    },
];

impl Options {
    /// Reads the variables; an empty one counts as unset.
    ///
    /// # Errors
    /// Names the variable with a wrong value.
    pub(crate) fn read(value_of: impl Fn(&str) -> Option<String>) -> Result<Options, String> {
        let mut options = Options::blank();
        for row in TABLE {
            let given = value_of(row.name).filter(|value| !value.is_empty());
            let value = given.as_deref().unwrap_or(row.default);
            (row.set)(&mut options, value).ok_or_else(|| {
                format!(
                    "{}={value}: it takes {} ({})",
                    row.name, row.values, row.meaning
                )
            })?;
        }
        Ok(options)
    }

    /// What stands before the table's defaults are applied.
    fn blank() -> Options {
        Options {
            scale: String::new(),
            measured: Duration::ZERO,
            warm_up: None,
            proto_measured: None,
            calls: 0,
            soak: Duration::ZERO,
            kills: 0,
            attempts: 0,
            checks: BTreeSet::new(),
            folder: PathBuf::new(),
            pgweir: None,
            bingo: None,
            pooler_port: 0,
            metrics_port: 0,
            balancer_port: 0,
            seed: None,
        }
    }

    /// The variables as a list for people.
    pub(crate) fn help() -> String {
        TABLE
            .iter()
            .map(|row| {
                let default = match row.default {
                    "" => String::new(),
                    default => format!(", default {default}"),
                };
                format!(
                    "  {} ({}{default}): {}\n",
                    row.name, row.values, row.meaning
                )
            })
            .collect()
    }

    /// How long each load runs.
    pub(crate) fn span(&self) -> Span {
        Span::new(self.measured, self.warm_up)
    }

    /// The same for check 31.
    pub(crate) fn proto_span(&self) -> Span {
        const MOST: Duration = Duration::from_secs(20);
        let measured = self.proto_measured.unwrap_or(self.measured.min(MOST));
        Span::new(
            measured,
            self.warm_up.filter(|_| self.proto_measured.is_none()),
        )
    }
}

/// How long a load runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// What is sent in this time is not judged by its latency.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Span {
    fn new(measured: Duration, warm_up: Option<Duration>) -> Span {
        const MOST: Duration = Duration::from_secs(10);
        Span {
            measured,
            warm_up: warm_up.unwrap_or((measured / 5).min(MOST)),
        }
    }

    pub(crate) fn total(self) -> Duration {
        self.warm_up + self.measured
    }
}

/// Sets a field to a value that could be read.
fn put<T>(field: &mut T, value: Option<T>) -> Option<()> {
    *field = value?;
    Some(())
}

fn seconds(text: &str, least: u64) -> Option<Duration> {
    let seconds = text.parse().ok()?;
    (least..=3600)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

fn optional<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        "" => Some(None),
        text => read(text).map(Some),
    }
}

fn numbers(text: &str) -> Option<BTreeSet<u8>> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Options, String> {
        Options::read(|name| {
            let found = given.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn unset_is_the_full_method() {
        let options = read(&[]).expect("valid");
        assert_eq!(options.scale, "full");
        let full = Span {
            warm_up: Duration::from_secs(10),
            measured: Duration::from_secs(60),
        };
        assert_eq!(options.span(), full);
        assert_eq!(options.proto_span().measured, Duration::from_secs(20));
        assert!(options.checks.is_empty());
    }

    #[test]
    fn a_short_load_has_a_short_warm_up() {
        let options = read(&[("SECONDS_PER_CHECK", "5")]).expect("valid");
        assert_eq!(options.span().warm_up, Duration::from_secs(1));
        assert_eq!(options.proto_span(), options.span());
    }

    #[test]
    fn checks_are_numbers_with_commas() {
        let options = read(&[("CHECKS", "7, 8,29")]).expect("valid");
        assert_eq!(options.checks, BTreeSet::from([7, 8, 29]));
        assert!(read(&[("CHECKS", "7;8")]).is_err());
    }

    #[test]
    fn a_wrong_value_is_named_with_what_it_takes() {
        let error = read(&[("SCALE", "huge")]).expect_err("no such scale");
        assert!(error.starts_with("SCALE=huge: it takes full, "), "{error}");
        assert!(read(&[("SECONDS_PER_CHECK", "0")]).is_err());
        assert!(read(&[("SECONDS_PER_CHECK", "7200")]).is_err());
    }

    #[test]
    fn an_empty_variable_is_unset() {
        assert_eq!(read(&[("SCALE", "")]).expect("valid").scale, "full");
    }
}
