//! Light mixed traffic: requests at a fixed rate, whatever becomes of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::http;
use super::mix::{Request, Script};
use super::scale::Rows;

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// Requests under way at most; one more is not sent and has failed.
const MAX_IN_FLIGHT: usize = 1000;

/// Durations remembered between two reports.
const MAX_DURATIONS: usize = 100_000;

/// How requests fared since the last report.
#[derive(Debug, Default)]
pub struct Report {
    /// Of those that were answered well, shortest first.
    pub durations: Vec<Duration>,
    /// Those that were not.
    pub failed: u64,
    /// The last of them, for people.
    pub last_failure: Option<String>,
}

impl Report {
    /// The duration that the share `q` of the requests did not exceed.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let last = self.durations.len().checked_sub(1)?;
        let place = (q * last as f64).round() as usize;
        self.durations.get(place).copied()
    }
}

/// The traffic.
#[derive(Debug)]
pub struct Load {
    port: u16,
    rps: u32,
    script: Mutex<Script>,
    report: Mutex<Report>,
}

impl Load {
    /// `rps` requests a second to `port`, about data of this size.
    pub fn new(port: u16, rps: u32, rows: Rows) -> Load {
        Load {
            port,
            rps,
            script: Mutex::new(Script::new(rows)),
            report: Mutex::default(),
        }
    }

    /// Sends for ever. Dropped, it takes back what is under way.
    pub async fn run(self: Arc<Self>) {
        if self.rps == 0 {
            return std::future::pending().await;
        }
        let mut under_way = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / self.rps);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let due = ticks.tick().await;
            while under_way.try_join_next().is_some() {}
            let request = locked(&self.script).next();
            match under_way.len() < MAX_IN_FLIGHT {
                true => drop(under_way.spawn(self.clone().send(request, due.into_std()))),
                false => self.failed(&request, format!("not sent, {MAX_IN_FLIGHT} are under way")),
            }
        }
    }

    /// What happened since the last call.
    pub fn take_report(&self) -> Report {
        let mut report = std::mem::take(&mut *locked(&self.report));
        report.durations.sort_unstable();
        report
    }

    async fn send(self: Arc<Self>, request: Request, due: Instant) {
        let (method, body) = (request.method.clone(), request.body.clone());
        let answer = http::ask(self.port, method, &request.path, body, LIMIT).await;
        if let Some(problem) = request.problem(&answer) {
            return self.failed(&request, problem);
        }
        locked(&self.script).learn(&request, &answer);
        let mut report = locked(&self.report);
        if report.durations.len() < MAX_DURATIONS {
            report.durations.push(due.elapsed());
        }
    }

    fn failed(&self, request: &Request, problem: String) {
        let mut report = locked(&self.report);
        report.failed += 1;
        report.last_failure = Some(format!("{} {}: {problem}", request.method, request.path));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_durations() {
        let mut report = Report::default();
        assert_eq!(report.quantile(0.5), None);
        report.durations = (1..=101).map(Duration::from_millis).collect();
        let found = [0.0, 0.5, 0.9, 1.0].map(|q| report.quantile(q).expect("some").as_millis());
        assert_eq!(found, [1, 51, 91, 101]);
    }
}
