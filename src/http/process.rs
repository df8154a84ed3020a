//! The process: the families every Prometheus client library has.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::family::{Described, Family, Label, Row, collect, counter, describe, descs, gauge};
use super::workers::{Worker, workers};

/// Serves what the system knows of this process. Register it once.
#[derive(Debug)]
pub struct ProcessCollector {
    started: f64,
    descs: Vec<Desc>,
}

/// The process at the moment of a scrape; NaN is what the system does not
/// tell.
#[derive(Debug)]
struct ProcessNow {
    started: f64,
    cpu: f64,
    open_fds: f64,
    max_fds: f64,
    virtual_memory: f64,
    resident_memory: f64,
    threads: f64,
}

impl Row for ProcessNow {
    const LABELS: &'static [Label<Self>] = &[];
    const FAMILIES: &'static [Family<Self>] = &[
        counter(
            "process_cpu_seconds_total",
            "CPU time of all threads, in user and system.",
            |now| now.cpu,
        ),
        gauge("process_open_fds", "Open file descriptors.", |now| {
            now.open_fds
        }),
        gauge(
            "process_max_fds",
            "File descriptors that may be open.",
            |now| now.max_fds,
        ),
        gauge(
            "process_virtual_memory_bytes",
            "Size of the address space.",
            |now| now.virtual_memory,
        ),
        gauge("process_resident_memory_bytes", "Memory in use.", |now| {
            now.resident_memory
        }),
        gauge(
            "process_start_time_seconds",
            "When the process was started, as a Unix time.",
            |now| now.started,
        ),
        gauge("process_threads", "Threads.", |now| now.threads),
    ];
}

impl Default for ProcessCollector {
    fn default() -> ProcessCollector {
        ProcessCollector::new()
    }
}

impl ProcessCollector {
    /// A collector of this process.
    pub fn new() -> ProcessCollector {
        ProcessCollector {
            started: start_time().unwrap_or(f64::NAN),
            descs: descs(ProcessCollector::families()),
        }
    }

    /// All families.
    pub(super) fn families() -> Vec<Described> {
        [describe::<ProcessNow>(), describe::<Worker>()].concat()
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        collect(&[ProcessNow::read(self.started)], &mut families);
        collect(&workers(), &mut families);
        families
    }
}

impl ProcessNow {
    fn read(started: f64) -> ProcessNow {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = |name| field(&status, name).map_or(f64::NAN, |value| value * 1024.0);
        let max_fds = getrlimit(Resource::Nofile).current;
        ProcessNow {
            started,
            cpu: seconds(clock_gettime(ClockId::ProcessCPUTime)),
            open_fds: open_fds().map_or(f64::NAN, |count| count as f64),
            max_fds: max_fds.map_or(f64::INFINITY, |most| most as f64),
            virtual_memory: kilobytes("VmSize"),
            resident_memory: kilobytes("VmRSS"),
            threads: field(&status, "Threads").unwrap_or(f64::NAN),
        }
    }
}

/// A number in `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<f64> {
    let named = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
    let value = status.lines().find_map(named)?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

fn open_fds() -> Option<u64> {
    let path = "/proc/self/fd";
    // Linux 6.2 and later tell the number; before, they have to be counted.
    match fs::metadata(path).ok()?.len() {
        0 => {
            let listed = fs::read_dir(path).ok()?.count() as u64;
            // One of them is the directory's.
            Some(listed.saturating_sub(1))
        }
        count => Some(count),
    }
}

/// When this process was started, in seconds of Unix time.
fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = started_ticks(&stat)?;
    let since_boot = ticks / rustix::param::clock_ticks_per_second() as f64;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.as_secs_f64() - seconds(clock_gettime(ClockId::Boottime)) + since_boot)
}

/// Clock ticks between the system's start and the process's (proc_pid_stat(5),
/// field 22).
fn started_ticks(stat: &str) -> Option<f64> {
    // The second field is the program's name, which may hold anything.
    let (_, after_name) = stat.rsplit_once(')')?;
    let starttime = after_name.split_ascii_whitespace().nth(22 - 3)?;
    starttime.parse().ok()
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_described_is_collected() {
        let collector = ProcessCollector::new();
        let collected = collector.collect();
        let collected: Vec<_> = collected.iter().map(MetricFamily::name).collect();
        let described = ProcessCollector::families();
        let described: Vec<_> = described.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(described, collected);
    }

    #[test]
    fn the_numbers_are_this_processs() {
        let before = ProcessNow::read(start_time().expect("the system tells"));
        let files: Vec<_> = (0..5).map(|_| fs::File::open("/dev/null")).collect();
        let now = ProcessNow::read(before.started);
        drop(files);
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        assert!(now.started < wall.as_secs_f64());
        assert!(now.started > wall.as_secs_f64() - 86_400.0);
        assert!(now.cpu > 0.0 && now.cpu >= before.cpu);
        assert!(now.open_fds >= 5.0 && now.open_fds < now.max_fds);
        assert!(now.resident_memory > 1e6 && now.resident_memory < now.virtual_memory);
        assert!(now.threads >= 1.0);
    }

    #[test]
    fn a_programs_name_may_hold_anything() {
        let numbers = (4..=30).map(|number| number.to_string());
        let rest = numbers.collect::<Vec<_>>().join(" ");
        let stat = format!("7 (a) b (c) S {rest}");
        assert_eq!(started_ticks(&stat), Some(22.0));
        assert_eq!(started_ticks(""), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmSizeX:\t1 kB\nVmSize:\t  2048 kB\n";
        assert_eq!(field(status, "VmSize"), Some(2048.0));
        assert_eq!(field(status, "VmRSS"), None);
    }
}
