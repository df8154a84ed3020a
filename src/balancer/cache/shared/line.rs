//! The line to Redis: whether there is one, and how long anybody waits on it.
//!
//! A question that is not answered in its time ends the connections: a task of
//! the line's own makes new ones, and finds out by them where everything is
//! now. After some failures in a row it first rests for a while, ever longer;
//! meanwhile nobody asks, and nobody waits.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use super::Fault;
use super::breaker::{Breaker, Told};
use super::counts::Counts;
use super::link::Connection;
use super::plan::Plan;

/// Longest time for connections to all nodes.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after connecting has failed, while it is tried anew at once.
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing is asked now, or there is no connection yet.
    Absent,
    /// It did not come in time.
    Late,
    /// Nobody is there, or not as a cluster that works.
    Unreachable,
    /// The password is wrong, or the user may not do this.
    Refused,
    /// There is no memory for it.
    Full,
    /// The value is no text.
    Foreign,
}

impl Trouble {
    /// Those that are counted.
    pub(super) const COUNTED: [Trouble; 5] = [
        Trouble::Late,
        Trouble::Unreachable,
        Trouble::Refused,
        Trouble::Full,
        Trouble::Foreign,
    ];

    /// What Redis, or the way to it, says.
    fn of(fault: &Fault) -> Trouble {
        let text = fault.text.as_str();
        match fault.code.as_deref() {
            Some("OOM") => Trouble::Full,
            Some("WRONGTYPE") => Trouble::Foreign,
            Some("WRONGPASS" | "NOAUTH" | "NOPERM") => Trouble::Refused,
            // Where all nodes refuse, their words are in the text alone.
            _ if ["WRONGPASS", "NOAUTH", "NOPERM", "uthentication"]
                .iter()
                .any(|it| text.contains(it)) =>
            {
                Trouble::Refused
            }
            _ if text.contains("OOM") => Trouble::Full,
            _ if text.contains("WRONGTYPE") => Trouble::Foreign,
            _ => Trouble::Unreachable,
        }
    }

    /// The metric label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Trouble::Absent => "absent",
            Trouble::Late => "timeout",
            Trouble::Unreachable => "unreachable",
            Trouble::Refused => "refused",
            Trouble::Full => "full",
            Trouble::Foreign => "foreign",
        }
    }

    /// Whether other questions would fare no better.
    fn is_of_the_line(self) -> bool {
        matches!(self, Trouble::Late | Trouble::Unreachable)
    }
}

/// Whether there are connections.
#[derive(Debug)]
enum Phase {
    /// They are being made: who asks may wait for them.
    Connecting,
    /// They are there, for the so-manieth time.
    Up(Connection, u64),
    /// There are none, and nobody asks before then.
    Resting(Instant),
}

/// Connections to Redis, when it can be had.
#[derive(Debug)]
pub(super) struct Line {
    plan: Plan,
    pub(super) counts: Counts,
    phase: watch::Sender<Phase>,
    mind: Mutex<Mind>,
}

#[derive(Debug)]
struct Mind {
    breaker: Breaker,
    is_away: Told,
    is_full: Told,
    is_forbidden: Told,
    /// What could not be asked; the next trial is about it, since it may be
    /// the only node that is ill.
    suspect: Option<String>,
}

impl Line {
    pub(super) fn new(plan: Plan, counts: Counts) -> Line {
        Line {
            plan,
            counts,
            phase: watch::Sender::new(Phase::Connecting),
            mind: Mutex::new(Mind {
                breaker: Breaker::default(),
                is_away: Told::nothing(),
                is_full: Told::all_is_well(),
                is_forbidden: Told::all_is_well(),
                suspect: None,
            }),
        }
    }

    /// How it is reached.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Asks something about a key.
    ///
    /// # Errors
    /// There is no answer, at the deadline at the latest.
    pub(super) async fn ask<T, F>(
        &self,
        key: &str,
        deadline: Instant,
        question: impl FnOnce(Connection) -> F,
    ) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let (connection, number) = self.connection(deadline).await.ok_or(Trouble::Absent)?;
        let answer = match timeout_at(deadline.into(), question(connection)).await {
            Err(_elapsed) => Err((Trouble::Late, "no answer in time".to_owned())),
            Ok(answer) => answer.map_err(|fault| (Trouble::of(&fault), fault.text)),
        };
        match answer {
            Ok(answer) => {
                self.mind().breaker.worked();
                Ok(answer)
            }
            Err((trouble, why)) => {
                self.counts.failed(trouble);
                if trouble.is_of_the_line() {
                    self.lose(number, key, &why);
                }
                if trouble == Trouble::Refused && self.mind().is_forbidden.changes(true) {
                    tracing::warn!("the shared cache forbids its user what is needed: {why}");
                }
                Err(trouble)
            }
        }
    }

    /// Whether what is written is taken, by an answer to that.
    pub(super) fn takes(&self, is_full: bool) {
        match (self.mind().is_full.changes(is_full), is_full) {
            (true, true) => tracing::warn!(
                "the shared cache is full and takes no answers; other balancers have to fetch them"
            ),
            (true, false) => tracing::info!("the shared cache takes answers again"),
            (false, _) => {}
        }
    }

    async fn connection(&self, deadline: Instant) -> Option<(Connection, u64)> {
        let mut phases = self.phase.subscribe();
        let there = phases.wait_for(|it| !matches!(it, Phase::Connecting));
        let there = timeout_at(deadline.into(), there).await.ok()?.ok()?;
        match &*there {
            Phase::Up(connection, number) => Some((connection.clone(), *number)),
            Phase::Connecting | Phase::Resting(_) => None,
        }
    }

    /// These connections are of no use any more.
    fn lose(&self, number: u64, key: &str, why: &str) {
        self.phase.send_if_modified(|phase| {
            let is_it = matches!(phase, Phase::Up(_, it) if *it == number);
            if is_it {
                self.mind().suspect = Some(key.to_owned());
                *phase = self.after_failure(why);
            }
            is_it
        });
    }

    fn after_failure(&self, why: &str) -> Phase {
        let mut mind = self.mind();
        let Some(pause) = mind.breaker.failed() else {
            return Phase::Connecting;
        };
        self.counts.is_up(false);
        if mind.is_away.changes(true) {
            tracing::warn!(
                "the shared cache cannot be used: {why}; until it can, each balancer keeps its own"
            );
        }
        Phase::Resting(Instant::now() + pause)
    }

    /// Keeps connections, for ever.
    pub(super) async fn keep(&self) {
        let mut phases = self.phase.subscribe();
        for number in 0.. {
            let rest = match &*phases.borrow_and_update() {
                Phase::Resting(until) => Some(*until),
                Phase::Connecting | Phase::Up(..) => None,
            };
            if let Some(until) = rest {
                sleep_until(until.into()).await;
            }
            match self.open().await {
                Ok(connection) => {
                    self.phase.send_replace(Phase::Up(connection, number));
                    self.counts.is_up(true);
                    if self.mind().is_away.changes(false) {
                        tracing::info!("the shared cache is used");
                    }
                    let lost = phases.wait_for(|it| !matches!(it, Phase::Up(..)));
                    let _line_is_gone = lost.await;
                }
                Err((trouble, why)) => {
                    self.counts.failed(trouble);
                    let phase = self.after_failure(&why);
                    self.phase.send_replace(phase);
                    sleep(OPEN_PAUSE).await;
                }
            }
        }
    }

    /// Connections on which a question is answered.
    async fn open(&self) -> Result<Connection, (Trouble, String)> {
        let late = |_elapsed| (Trouble::Late, "no answer in time".to_owned());
        let told = |fault: Fault| (Trouble::of(&fault), fault.text);
        let opened = timeout(OPEN_TIMEOUT, Connection::open(&self.plan)).await;
        let connection = opened.map_err(late)?.map_err(told)?;
        let suspect = self.mind().suspect.clone();
        if let Some(key) = suspect {
            let trial = timeout(self.plan.timeout, connection.look(&key, 1)).await;
            match trial.map_err(late)?.map_err(told) {
                Err((trouble, why)) if trouble.is_of_the_line() => return Err((trouble, why)),
                Ok(_) | Err(_) => self.mind().suspect = None,
            }
        }
        Ok(connection)
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_is_told_apart() {
        let of = |code: Option<&str>, text: &str| {
            Trouble::of(&Fault {
                code: code.map(str::to_owned),
                text: text.to_owned(),
            })
        };
        for (code, text, trouble) in [
            (Some("OOM"), "command not allowed", Trouble::Full),
            (Some("WRONGTYPE"), "Operation against", Trouble::Foreign),
            (Some("NOPERM"), "no permissions", Trouble::Refused),
            (Some("CLUSTERDOWN"), "Hash slot", Trouble::Unreachable),
            (None, "Connection refused", Trouble::Unreachable),
            (
                None,
                "Failed to create initial connections: WRONGPASS: invalid",
                Trouble::Refused,
            ),
        ] {
            assert_eq!(of(code, text), trouble, "{text}");
        }
    }
}
