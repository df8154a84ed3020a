//! How busy the workers are.

use std::fs;
use std::path::Path;

use super::family::{Family, Label, Row, counter, label};

/// How the names of the threads begin that serve clients; their number
/// follows.
const THREAD_NAME: &str = "worker-";

/// A worker's thread at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Worker {
    number: String,
    /// Seconds of CPU time.
    cpu: f64,
}

impl Row for Worker {
    const LABELS: &'static [Label<Self>] =
        &[label("worker", |worker| worker.number.as_str().into())];
    const FAMILIES: &'static [Family<Self>] = &[counter(
        "pgweir_worker_cpu_seconds_total",
        "CPU time of the thread, in user and system. A worker that gains 1 a second can do no more.",
        |worker| worker.cpu,
    )];
}

/// The workers of this process; none where the system does not tell.
pub(super) fn workers() -> Vec<Worker> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    threads
        .flatten()
        .filter_map(|thread| read(&thread.path()))
        .collect()
}

/// None for a thread that is no worker, or has ended.
fn read(thread: &Path) -> Option<Worker> {
    let name = fs::read_to_string(thread.join("comm")).ok()?;
    let number = name.trim_end().strip_prefix(THREAD_NAME)?.to_owned();
    // Time on a CPU in nanoseconds, time in the run queue, turns.
    let times = fs::read_to_string(thread.join("schedstat")).ok()?;
    let nanoseconds: u64 = times.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Worker {
        number,
        cpu: nanoseconds as f64 / 1e9,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::thread_named;

    #[test]
    fn threads_are_workers_by_their_name() {
        let _others = [thread_named("worker-77"), thread_named("walker-78")];
        let found = workers();
        let found: Vec<_> = found.iter().map(|worker| worker.number.as_str()).collect();
        assert!(found.contains(&"77"), "{found:?}");
        assert!(!found.contains(&"78"), "{found:?}");
    }

    #[test]
    fn a_workers_time_is_its_own() {
        let name = "worker-79";
        let thread = thread_named(name);
        thread.burn(std::time::Duration::from_millis(30));
        let found = workers();
        let worker = found.iter().find(|worker| worker.number == "79");
        let cpu = worker.expect("it runs").cpu;
        assert!(cpu >= 0.03, "{cpu}");
    }
}
