//! The `BINGO_SIM_` variables: what a test may change. None set is faithful.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::config;
use crate::db::{Abandon, Proto};
use crate::duration;
use crate::faults::Outcome;
use crate::generator::{self, Sizes};
use crate::seed::Load;

/// Every variable of this program begins so.
const PREFIX: &str = "BINGO_SIM_";

/// What the variables say.
#[derive(Debug, Clone)]
pub(crate) struct Switches {
    pub(crate) config: PathBuf,
    /// The directory that holds `main.log`; none is the faithful one.
    pub(crate) log_dir: Option<PathBuf>,
    /// None is the email's port, 0 is the kernel's choice.
    pub(crate) port: Option<u16>,
    pub(crate) allow_root: bool,
    /// None is the machine's.
    pub(crate) hostname: Option<String>,
    /// None notes nothing.
    pub(crate) ledger: Option<PathBuf>,
    pub(crate) startup_url: String,
    pub(crate) startup_timeout: Duration,
    pub(crate) sizes: Sizes,
    pub(crate) load: Load,
    pub(crate) seed: u64,
    pub(crate) migrate_lock: bool,
    /// Requests per second; 0 is unlimited.
    pub(crate) rps: u32,
    pub(crate) budget: Duration,
    pub(crate) long_dummy: Duration,
    /// Connections to each host; 0 is unlimited.
    pub(crate) max_open: usize,
    pub(crate) max_idle: usize,
    pub(crate) proto: Proto,
    pub(crate) abandon: Abandon,
    /// Zero is for ever.
    pub(crate) lifetime: Duration,
    pub(crate) death: Vec<Outcome>,
    /// 0 is never.
    pub(crate) fault_after: u64,
    /// MiB per second, at least 1.
    pub(crate) leak_mbps: u32,
    pub(crate) hang: bool,
    /// Connections kept open in a transaction.
    pub(crate) dbleak: usize,
    pub(crate) clock: Clock,
    pub(crate) log_env: bool,
}

/// One variable: a row of the README's table.
struct Switch {
    /// The name without the prefix.
    name: &'static str,
    /// The values it takes, for people.
    values: &'static str,
    /// What it is when unset or empty.
    default: &'static str,
    meaning: &'static str,
    set: fn(&mut Switches, &str) -> Result<(), String>,
}

impl Switches {
    /// Reads the variables of this program from an environment; the others are
    /// passed over.
    ///
    /// # Errors
    /// Names the variable that is unknown or has a wrong value.
    pub(crate) fn read(
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Switches, String> {
        let mut given: BTreeMap<String, String> = environment
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value)))
            .collect();
        let mut switches = Switches::blank();
        for row in TABLE {
            let value = given.remove(row.name).filter(|value| !value.is_empty());
            let value = value.as_deref().unwrap_or(row.default);
            (row.set)(&mut switches, value).map_err(|e| {
                format!(
                    "{PREFIX}{}: {e}; it takes {} ({})",
                    row.name, row.values, row.meaning
                )
            })?;
        }
        match given.into_keys().next() {
            Some(name) => Err(format!(
                "{PREFIX}{name} is not a variable of this program; integration/bingo/README.md lists them"
            )),
            None => Ok(switches),
        }
    }

    /// What stands before the table's defaults are applied.
    fn blank() -> Switches {
        Switches {
            config: PathBuf::new(),
            log_dir: None,
            port: None,
            allow_root: false,
            hostname: None,
            ledger: None,
            startup_url: String::new(),
            startup_timeout: Duration::ZERO,
            sizes: generator::SCALES[0].1,
            load: Load::Rows,
            seed: 0,
            migrate_lock: false,
            rps: 0,
            budget: Duration::ZERO,
            long_dummy: Duration::ZERO,
            max_open: 0,
            max_idle: 0,
            proto: Proto::Cached,
            abandon: Abandon::Drop,
            lifetime: Duration::ZERO,
            death: Vec::new(),
            fault_after: 0,
            leak_mbps: 0,
            hang: false,
            dbleak: 0,
            clock: Clock::default(),
            log_env: false,
        }
    }
}

/// The words of `BINGO_SIM_LOAD`.
const LOADS: &[(&str, Load)] = &[("rows", Load::Rows), ("copy", Load::Copy)];

/// The words of `BINGO_SIM_PROTO`.
const PROTOS: &[(&str, Proto)] = &[
    ("cached", Proto::Cached),
    ("unnamed", Proto::Unnamed),
    ("one-trip", Proto::OneTrip),
    ("simple", Proto::Simple),
];

/// The words of `BINGO_SIM_ABANDON`.
const ABANDONS: &[(&str, Abandon)] = &[("drop", Abandon::Drop), ("cancel", Abandon::Cancel)];

/// The words of `BINGO_SIM_DEATH`.
const DEATHS: &[(&str, Outcome)] = &[
    ("exit0", Outcome::Exit),
    ("panic", Outcome::Panic),
    ("leak", Outcome::Leak),
    ("sick", Outcome::Sick),
];

/// The words of the variables that are on or off.
const FLAGS: &[(&str, bool)] = &[("0", false), ("1", true)];

/// Every variable there is.
const TABLE: &[Switch] = &[
    Switch {
        name: "CONFIG",
        values: "a path",
        default: config::PATH,
        meaning: "the configuration file",
        set: |s, v| put(&mut s.config, Ok(v.into())),
    },
    Switch {
        name: "LOG_DIR",
        values: "a path",
        default: "",
        meaning: "the directory of `main.log` (it must exist); unset: `/opt/bongo/logs/` and the email's ten digits",
        set: |s, v| put(&mut s.log_dir, given(v, |v| Ok(v.into()))),
    },
    Switch {
        name: "PORT",
        values: "0..65535",
        default: "",
        meaning: "the listening port; 0: the kernel chooses and stderr names it; unset: the email's",
        set: |s, v| put(&mut s.port, given(v, number)),
    },
    Switch {
        name: "ALLOW_ROOT",
        values: "0, 1",
        default: "0",
        meaning: "run as root all the same",
        set: |s, v| put(&mut s.allow_root, word(FLAGS, v)),
    },
    Switch {
        name: "HOSTNAME",
        values: "a name",
        default: "",
        meaning: "the host name in the answers, so that two nodes on one machine differ; unset: the machine's",
        set: |s, v| put(&mut s.hostname, given(v, |v| Ok(v.into()))),
    },
    Switch {
        name: "LEDGER",
        values: "a path",
        default: "",
        meaning: "a file that gets a line for each POST and DELETE before it is done, and may be shared by nodes; unset: none",
        set: |s, v| put(&mut s.ledger, given(v, |v| Ok(v.into()))),
    },
    Switch {
        name: "STARTUP_URL",
        values: "an `http://` URL",
        default: "http://8.8.8.8/",
        meaning: "what is called once before the port opens",
        set: |s, v| put(&mut s.startup_url, Ok(v.into())),
    },
    Switch {
        name: "STARTUP_TIMEOUT",
        values: "a duration",
        default: "30s",
        meaning: "how long that call may hang",
        set: |s, v| put(&mut s.startup_timeout, duration::parse(v)),
    },
    Switch {
        name: "SCALE",
        values: "full, limit, ci, tiny",
        default: "full",
        meaning: "rows that `prepare_db` makes; tests say `ci` or `tiny`",
        set: |s, v| put(&mut s.sizes, word(generator::SCALES, v)),
    },
    Switch {
        name: "LOAD",
        values: "rows, copy",
        default: "rows",
        meaning: "one INSERT for each row, or COPY; the data are the same",
        set: |s, v| put(&mut s.load, word(LOADS, v)),
    },
    Switch {
        name: "SEED",
        values: "0..2^64-1",
        default: "42",
        meaning: "decides the data of `prepare_db`, and the outcome of LIFETIME and FAULT_AFTER",
        set: |s, v| put(&mut s.seed, number(v)),
    },
    Switch {
        name: "MIGRATE_LOCK",
        values: "0, 1",
        default: "1",
        meaning: "take a session-level advisory lock while the tables are made",
        set: |s, v| put(&mut s.migrate_lock, word(FLAGS, v)),
    },
    Switch {
        name: "RPS",
        values: "0..1000000",
        default: "100",
        meaning: "requests per second let through; 0: all",
        set: |s, v| put(&mut s.rps, at_most(1_000_000, v)),
    },
    Switch {
        name: "BUDGET",
        values: "a duration",
        default: "20s",
        meaning: "how long a request may take, then 500",
        set: |s, v| put(&mut s.budget, duration::parse(v)),
    },
    Switch {
        name: "LONG_DUMMY_MS",
        values: "milliseconds",
        default: "3000",
        meaning: "how long `/long_dummy` takes",
        set: |s, v| {
            put(
                &mut s.long_dummy,
                number::<u32>(v).map(|ms| Duration::from_millis(ms.into())),
            )
        },
    },
    Switch {
        name: "MAX_OPEN",
        values: "0..1000000",
        default: "0",
        meaning: "connections to each host at most; 0: unlimited",
        set: |s, v| put(&mut s.max_open, at_most(1_000_000, v)),
    },
    Switch {
        name: "MAX_IDLE",
        values: "0..1000000",
        default: "2",
        meaning: "idle connections kept for each host; what exceeds them is closed on release",
        set: |s, v| put(&mut s.max_idle, at_most(1_000_000, v)),
    },
    Switch {
        name: "PROTO",
        values: "cached, unnamed, one-trip, simple",
        default: "cached",
        meaning: "how statements travel, see Protocols",
        set: |s, v| put(&mut s.proto, word(PROTOS, v)),
    },
    Switch {
        name: "ABANDON",
        values: "drop, cancel",
        default: "drop",
        meaning: "what becomes of a query whose request is over: the socket is closed, or a cancel request is sent first",
        set: |s, v| put(&mut s.abandon, word(ABANDONS, v)),
    },
    Switch {
        name: "LIFETIME",
        values: "a duration",
        default: "0",
        meaning: "natural death after so long; 0: never (the original: some 22m)",
        set: |s, v| put(&mut s.lifetime, duration::parse(v)),
    },
    Switch {
        name: "DEATH",
        values: "a comma list of exit0, panic, leak, sick",
        default: "exit0,panic,leak,sick",
        meaning: "the outcomes the seed chooses from",
        set: |s, v| {
            put(
                &mut s.death,
                v.split(',').map(|w| word(DEATHS, w)).collect(),
            )
        },
    },
    Switch {
        name: "FAULT_AFTER",
        values: "a count",
        default: "0",
        meaning: "the same outcome after so many requests, the last one answered; 0: never",
        set: |s, v| put(&mut s.fault_after, number(v)),
    },
    Switch {
        name: "LEAK_MBPS",
        values: "1..100000",
        default: "50",
        meaning: "speed of the leak in MiB per second",
        set: |s, v| put(&mut s.leak_mbps, at_most(100_000, v).and_then(not_zero)),
    },
    Switch {
        name: "HANG",
        values: "0, 1",
        default: "0",
        meaning: "accept connections and requests, never answer",
        set: |s, v| put(&mut s.hang, word(FLAGS, v)),
    },
    Switch {
        name: "DBLEAK",
        values: "0..10000",
        default: "0",
        meaning: "connections kept open in a transaction besides the pool",
        set: |s, v| put(&mut s.dbleak, at_most(10_000, v)),
    },
    Switch {
        name: "SKEW",
        values: "a duration, may be negative",
        default: "0",
        meaning: "added to every time in answers and log; the `Date` header stays true",
        set: |s, v| put(&mut s.clock.skew_nanoseconds, duration::parse_signed(v)),
    },
    Switch {
        name: "LOG_ENV",
        values: "0, 1",
        default: "1",
        meaning: "attach the environment to every log line",
        set: |s, v| put(&mut s.log_env, word(FLAGS, v)),
    },
];

/// Puts a good value in its place.
fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// The value of a variable that may stay unset.
fn given<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        read(text).map(Some)
    }
}

fn not_zero(speed: u32) -> Result<u32, String> {
    if speed == 0 {
        Err("\"0\" is no speed".into())
    } else {
        Ok(speed)
    }
}

/// The value that goes with `text` in a list of words.
fn word<T: Copy>(words: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{text:?} is none of its words"))
}

/// `text` as a whole number.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a number it can take"))
}

/// `text` as a number no greater than `limit`.
fn at_most<T: std::str::FromStr + PartialOrd>(limit: T, text: &str) -> Result<T, String> {
    let value = number(text)?;
    if value > limit {
        Err(format!("{text:?} is too great"))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Switches, String> {
        Switches::read(
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into())),
        )
    }

    #[test]
    fn unset_is_faithful() {
        let switches = read(&[("PATH", "/bin")]).expect("valid");
        assert_eq!(switches.config, PathBuf::from("/opt/bingo/config.yaml"));
        assert_eq!(switches.startup_url, "http://8.8.8.8/");
        assert_eq!(
            (switches.rps, switches.max_open, switches.max_idle),
            (100, 0, 2)
        );
        assert_eq!(switches.budget, Duration::from_secs(20));
        assert_eq!(switches.sizes.sessions, 5_000_000);
        assert!(!switches.allow_root && switches.log_env && switches.lifetime.is_zero());
    }

    #[test]
    fn empty_counts_as_unset() {
        assert_eq!(read(&[("BINGO_SIM_RPS", "")]).expect("valid").rps, 100);
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let error = read(&[("BINGO_SIM_RSP", "0")]).expect_err("refused");
        assert!(
            error.starts_with("BINGO_SIM_RSP is not a variable"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_is_taken() {
        let error = read(&[("BINGO_SIM_PROTO", "magic")]).expect_err("refused");
        assert_eq!(
            error,
            "BINGO_SIM_PROTO: \"magic\" is none of its words; it takes cached, unnamed, one-trip, simple (how statements travel, see Protocols)"
        );
        assert!(read(&[("BINGO_SIM_LEAK_MBPS", "0")]).is_err());
        assert!(read(&[("BINGO_SIM_DBLEAK", "10001")]).is_err());
    }

    #[test]
    fn a_list_of_deaths_keeps_its_order() {
        let switches = read(&[("BINGO_SIM_DEATH", "sick,exit0")]).expect("valid");
        assert_eq!(switches.death, [Outcome::Sick, Outcome::Exit]);
        assert!(read(&[("BINGO_SIM_DEATH", "sick,,exit0")]).is_err());
    }

    #[test]
    fn readme_holds_the_table() {
        let mut table =
            String::from("| variable | values | default | meaning |\n|---|---|---|---|\n");
        for row in TABLE {
            let default = match row.default {
                "" => "unset".into(),
                default => format!("`{default}`"),
            };
            table += &format!(
                "| `{PREFIX}{}` | {} | {default} | {} |\n",
                row.name, row.values, row.meaning
            );
        }
        let readme = include_str!("README.md");
        assert!(
            readme.contains(&table),
            "README.md lacks this table:\n{table}"
        );
    }
}
