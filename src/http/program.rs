//! The program itself: its build, its log, its configuration file.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::Readiness;
use super::family::{
    Described, Family, Label, Row, collect, counter, describe, descs, gauge, label,
};

/// Tells how many log lines have been dropped since the start.
pub type DroppedLines = Box<dyn Fn() -> u64 + Send + Sync>;

/// How the last reading of the configuration file went. Clones share it.
#[derive(Debug, Clone)]
pub struct Reloads(Arc<LastReload>);

#[derive(Debug)]
struct LastReload {
    succeeded: AtomicBool,
    /// Milliseconds of Unix time of the last success.
    at: AtomicU64,
}

impl Reloads {
    /// The file was read at the start, `now`.
    pub fn new(now: SystemTime) -> Reloads {
        Reloads(Arc::new(LastReload {
            succeeded: AtomicBool::new(true),
            at: AtomicU64::new(milliseconds(now)),
        }))
    }

    /// The file was read again and is in force.
    pub fn succeeded(&self, now: SystemTime) {
        self.0.at.store(milliseconds(now), Ordering::Relaxed);
        self.0.succeeded.store(true, Ordering::Relaxed);
    }

    /// The file could not be read or is wrong; what was in force stays.
    pub fn failed(&self) {
        self.0.succeeded.store(false, Ordering::Relaxed);
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Serves what the program knows of itself. Register it once.
pub struct ProgramCollector {
    readiness: Readiness,
    reloads: Reloads,
    dropped_lines: DroppedLines,
    descs: Vec<Desc>,
}

impl fmt::Debug for ProgramCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramCollector").finish_non_exhaustive()
    }
}

/// The program at the moment of a scrape.
struct ProgramNow {
    ready: bool,
    reloaded: bool,
    reloaded_at: u64,
    dropped_lines: u64,
}

impl Row for ProgramNow {
    const LABELS: &'static [Label<Self>] = &[];
    const FAMILIES: &'static [Family<Self>] = &[
        gauge("pgweir_ready", "1 when /ready says so, else 0.", |now| {
            f64::from(now.ready)
        }),
        counter(
            "pgweir_log_lines_dropped_total",
            "Log lines lost: the writer was behind, or could not write.",
            |now| now.dropped_lines as f64,
        ),
        gauge(
            "pgweir_config_last_reload_successful",
            "1 if the configuration file was good when it was last read, else 0.",
            |now| f64::from(now.reloaded),
        ),
        gauge(
            "pgweir_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read, as a Unix time.",
            |now| now.reloaded_at as f64 / 1e3,
        ),
    ];
}

struct Build;

impl Row for Build {
    const LABELS: &'static [Label<Self>] = &[
        label("version", |_| env!("CARGO_PKG_VERSION").into()),
        label("os", |_| std::env::consts::OS.into()),
        label("arch", |_| std::env::consts::ARCH.into()),
    ];
    const FAMILIES: &'static [Family<Self>] =
        &[gauge("pgweir_build_info", "What this program is.", |_| 1.0)];
}

impl ProgramCollector {
    /// A collector of what these tell.
    pub fn new(
        readiness: Readiness,
        reloads: Reloads,
        dropped_lines: DroppedLines,
    ) -> ProgramCollector {
        ProgramCollector {
            readiness,
            reloads,
            dropped_lines,
            descs: descs(ProgramCollector::families()),
        }
    }

    /// All families.
    pub(super) fn families() -> Vec<Described> {
        [describe::<ProgramNow>(), describe::<Build>()].concat()
    }
}

impl Collector for ProgramCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = ProgramNow {
            ready: self.readiness.reason().is_none(),
            reloaded: self.reloads.0.succeeded.load(Ordering::Relaxed),
            reloaded_at: self.reloads.0.at.load(Ordering::Relaxed),
            dropped_lines: (self.dropped_lines)(),
        };
        let mut families = Vec::new();
        collect(&[now], &mut families);
        collect(&[Build], &mut families);
        families
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::testing::scrape;

    fn lines(readiness: &Readiness, reloads: &Reloads) -> Vec<String> {
        let collector = ProgramCollector::new(readiness.clone(), reloads.clone(), Box::new(|| 42));
        let page = scrape(vec![Box::new(collector)]);
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples.map(str::to_owned).collect()
    }

    #[test]
    fn a_failed_reload_is_seen_until_one_succeeds() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 500);
        let (readiness, reloads) = (Readiness::new(), Reloads::new(at(1000)));
        reloads.failed();
        let failed = lines(&readiness, &reloads);
        reloads.succeeded(at(2000));
        readiness.set_ready();
        let build = format!(
            "pgweir_build_info{{version=\"{}\",os=\"linux\",arch=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH
        );
        assert_eq!(
            failed,
            [
                &build,
                "pgweir_config_last_reload_success_timestamp_seconds 1000.5",
                "pgweir_config_last_reload_successful 0",
                "pgweir_log_lines_dropped_total 42",
                "pgweir_ready 0",
            ]
        );
        assert_eq!(
            lines(&readiness, &reloads)[1..],
            [
                "pgweir_config_last_reload_success_timestamp_seconds 2000.5",
                "pgweir_config_last_reload_successful 1",
                "pgweir_log_lines_dropped_total 42",
                "pgweir_ready 1",
            ]
        );
    }
}
