//! The cache that balancers share: a Redis Cluster, asked where an answer would
//! have to be fetched from a node, and told what a node has answered. What is
//! given to clients is always the own cache's.
//!
//! `entry` is what lies there, `age` judges how old it is, `breaker` when to
//! leave Redis alone; these are pure. `line` waits for Redis, `link` speaks to
//! it, `plan` reads the settings.
//!
//! A balancer that finds no answer of use takes a lease and fetches one for
//! all. Who does not get the lease waits for a while that leaves the time to
//! fetch the answer all the same; so does everybody while Redis is away, without
//! waiting. Nobody waits for anything to be written.

mod age;
mod breaker;
mod changes;
mod counts;
mod entry;
mod line;
#[cfg_attr(not(feature = "shared-cache"), path = "without_link.rs")]
mod link;
mod plan;

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hyper::Uri;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use self::age::{Reading, Unfit};
use self::changes::Changes;
use self::counts::{Leased, Look, Outcome, Written};
use self::entry::{ENTRY_MAX, Entry, decode, encode, millis};
use self::line::{Line, Trouble};
use super::key::{Key, Varies};
use super::rule::{Grace, Rule, Verdict};
use super::store::Stored;

pub(crate) use self::age::Need;
pub(crate) use self::counts::Counts;
pub(crate) use self::plan::Plan;

/// What waits to be written, at most. More is not written.
const QUEUE: usize = 64;

/// First and longest pause between two looks whether a lease is free.
const POLL: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));

/// What Redis says is left of what is not there.
const GONE: i64 = -2;

/// Shortest life that is worth writing.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// What Redis, or the way to it, says of a question: the word it began with,
/// if there is one, and all of it.
#[derive(Debug)]
struct Fault {
    code: Option<String>,
    text: String,
}

/// The cache that balancers share.
#[derive(Debug)]
pub(crate) struct Shared {
    line: Arc<Line>,
    jobs: mpsc::Sender<Job>,
    /// For the writer, until it runs.
    queue: Mutex<Option<mpsc::Receiver<Job>>>,
    tasks: OnceLock<[AbortHandle; 2]>,
    changes: Mutex<Changes>,
}

/// What is found before a node is asked.
pub(super) enum Found {
    /// An answer.
    Answer(Shipped),
    /// None; this balancer is to fetch it for all.
    Lease(Lease),
    /// None.
    Nothing,
}

/// An answer of another balancer's.
pub(super) struct Shipped {
    pub(super) stored: Stored,
    /// When its age was this, at most; its life, and what comes after.
    pub(super) sent: Instant,
    pub(super) lives: (Duration, Duration, Grace),
    /// How long the node took.
    pub(super) took: Duration,
}

/// An answer of a node's, for the others.
pub(super) struct Fresh {
    pub(super) stored: Arc<Stored>,
    /// When it was asked for, its age then, and its life.
    pub(super) sent: Instant,
    pub(super) age: Duration,
    pub(super) life: Duration,
    /// How long the node took.
    pub(super) took: Duration,
}

/// The right to fetch an answer for all; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    key: String,
    /// It may be another's from then on.
    until: Instant,
    line: Arc<Line>,
    jobs: mpsc::Sender<Job>,
}

/// Something to write.
enum Job {
    Answer(String, String, Fresh, Option<Lease>),
    Remove(Written, String),
}

impl Shared {
    /// Not connected yet.
    pub(crate) fn new(plan: Plan, counts: Counts) -> Shared {
        let (jobs, queue) = mpsc::channel(QUEUE);
        Shared {
            line: Arc::new(Line::new(plan, counts)),
            jobs,
            queue: Mutex::new(Some(queue)),
            tasks: OnceLock::new(),
            changes: Mutex::default(),
        }
    }

    /// How it is reached.
    pub(crate) fn plan(&self) -> &Plan {
        self.line.plan()
    }

    /// Connects, if nobody has begun to.
    pub(super) fn begin(&self) {
        self.tasks.get_or_init(|| {
            let queue = self.queue.lock();
            let queue = queue.unwrap_or_else(PoisonError::into_inner).take();
            let queue = queue.expect("taken by one initialiser");
            let (keeper, writer) = (Arc::clone(&self.line), Arc::clone(&self.line));
            let keeper = tokio::spawn(async move { keeper.keep().await });
            let writer = tokio::spawn(write_all(writer, queue));
            [keeper.abort_handle(), writer.abort_handle()]
        });
    }

    /// Looks for an answer; or says who is to fetch it, within this time.
    pub(super) async fn find(&self, rule: Rule, key: &Key, need: Need, within: Duration) -> Found {
        self.begin();
        let sought = Sought {
            name: self.name(key.target()),
            rule,
            key: key.clone(),
            target: target(key.target()),
            need,
            since: Instant::now(),
        };
        let timeout = self.line.plan().timeout;
        let mut deadline = sought.since + timeout;
        match self.look(&sought, deadline).await {
            Ok(Some(shipped)) => return Found::Answer(shipped),
            Ok(None) => {}
            Err(_) => return Found::Nothing,
        }
        let patience = Instant::now() + need.patience();
        let mut pause = POLL.0;
        loop {
            match self.lease(&sought.name, within, deadline).await {
                Ok(Some(lease)) => return self.look_again(&sought, lease, deadline).await,
                Ok(None) => {}
                Err(_) => return Found::Nothing,
            }
            if Instant::now() + pause > patience {
                self.line.counts.leased(Leased::GivenUp);
                return Found::Nothing;
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(POLL.1);
            deadline = Instant::now() + timeout;
        }
    }

    /// Looks for what was written before the lease was free.
    async fn look_again(&self, sought: &Sought, lease: Lease, deadline: Instant) -> Found {
        match self.look(sought, deadline).await {
            Ok(Some(shipped)) => {
                self.line.counts.leased(Leased::Waited);
                Found::Answer(shipped)
            }
            Ok(None) | Err(_) => {
                self.line.counts.leased(Leased::Had);
                Found::Lease(lease)
            }
        }
    }

    async fn lease(
        &self,
        name: &str,
        within: Duration,
        deadline: Instant,
    ) -> Result<Option<Lease>, Trouble> {
        let key = format!("{name}:lease");
        let until = Instant::now() + within;
        let question = |connection: link::Connection| {
            let key = key.clone();
            async move { connection.lease(&key, millis(within).max(1)).await }
        };
        let is_had = self.line.ask(name, deadline, question).await?;
        Ok(is_had.then(|| Lease {
            key,
            until,
            line: Arc::clone(&self.line),
            jobs: self.jobs.clone(),
        }))
    }

    /// The answer that is there, if it is of use.
    async fn look(&self, sought: &Sought, deadline: Instant) -> Result<Option<Shipped>, Trouble> {
        let asked = Instant::now();
        let name = sought.name.as_str();
        let question = |connection: link::Connection| async move {
            connection.look(name, ENTRY_MAX + 1).await
        };
        let (look, shipped) = match self.line.ask(name, deadline, question).await {
            Ok((left, bytes)) => match self.judge(sought, asked, left, bytes) {
                Ok(shipped) => (Look::Hit, Ok(Some(shipped))),
                Err(look) => (look, Ok(None)),
            },
            Err(Trouble::Foreign) => (Look::Damaged, Ok(None)),
            Err(Trouble::Absent) => (Look::Skipped, Err(Trouble::Absent)),
            Err(trouble) => (Look::Failed, Err(trouble)),
        };
        self.line.counts.looked(look);
        shipped
    }

    fn judge(
        &self,
        sought: &Sought,
        asked: Instant,
        left: i64,
        bytes: Vec<u8>,
    ) -> Result<Shipped, Look> {
        let sent = Instant::now();
        let wall = SystemTime::now();
        if bytes.is_empty() || left == GONE {
            return Err(Look::Miss);
        }
        let entry = decode(bytes.into(), &sought.target).ok_or(Look::Damaged)?;
        let Entry {
            born,
            life,
            took,
            stored,
        } = entry;
        let reading = Reading {
            born,
            life,
            left,
            // Never earlier than it is.
            now: since_1970(wall) + 1,
            elapsed: sent - asked,
        };
        let age = reading.age().map_err(|unfit| match unfit {
            Unfit::Future => Look::Future,
            Unfit::Endless => Look::Damaged,
        })?;
        // It may not be kept here as it is kept there.
        let verdict = sought.rule.judge(stored.status, &stored.headers, wall);
        let Verdict::Keep {
            age: said,
            life: own,
            grace,
        } = verdict
        else {
            return Err(Look::Old);
        };
        if Varies::of(&sought.key, &stored.headers) != Varies::Not {
            return Err(Look::Damaged);
        }
        let (age, life) = (age.max(said), life.min(own));
        let need = sought.need.after(sought.since.elapsed());
        let is_young = age < sought.rule.servable_age(life) && need.gains(age, life);
        let born = sent.checked_sub(age);
        if !is_young || self.changes().is_older(&sought.name, born) {
            return Err(Look::Old);
        }
        Ok(Shipped {
            stored,
            sent,
            lives: (age, life, grace),
            took,
        })
    }

    /// Lets the others have an answer. Does not wait.
    pub(super) fn put(&self, key: &Key, fresh: Fresh, lease: Option<Lease>) {
        let (name, target) = (self.name(key.target()), target(key.target()));
        let job = Job::Answer(name, target, fresh, lease);
        send(&self.jobs, &self.line, Written::Answer, job);
    }

    /// An answer is not so any more. Nothing older is taken from now on; the
    /// others are kept from it if Redis can be had. Does not wait.
    pub(super) fn forget(&self, key: &Key) {
        self.begin();
        let name = self.name(key.target());
        self.changes().note(&name, Instant::now());
        let job = Job::Remove(Written::Removal, name);
        send(&self.jobs, &self.line, Written::Removal, job);
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of an answer in Redis. Whatever is about it is on one node: the
    /// braces are the hash tag.
    fn name(&self, of: &Uri) -> String {
        let hash = Sha256::digest(target(of));
        let mut name = format!("{}:{{", self.plan().prefix);
        for byte in &hash[..16] {
            write!(name, "{byte:02x}").expect("text grows");
        }
        name.push('}');
        name
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for task in self.tasks.get().into_iter().flatten() {
            task.abort();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if Instant::now() < self.until {
            let job = Job::Remove(Written::Release, std::mem::take(&mut self.key));
            send(&self.jobs, &self.line, Written::Release, job);
        }
    }
}

/// What an answer is looked for with.
struct Sought {
    name: String,
    rule: Rule,
    key: Key,
    target: String,
    need: Need,
    /// When it was needed.
    since: Instant,
}

/// What is asked of a node, and the same for all of them.
fn target(uri: &Uri) -> String {
    uri.path_and_query()
        .map_or("/", |it| it.as_str())
        .to_owned()
}

/// Milliseconds since 1970; none before that.
fn since_1970(wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

/// Has something written, unless too much waits.
fn send(jobs: &mpsc::Sender<Job>, line: &Line, what: Written, job: Job) {
    if let Err(unsent) = jobs.try_send(job) {
        line.counts.wrote(what, Outcome::Dropped);
        // A lease in it would want to be written, too.
        drop(unsent);
    }
}

/// Writes what comes, one after the other.
async fn write_all(line: Arc<Line>, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        let deadline = Instant::now() + line.plan().timeout;
        let (what, outcome) = match job {
            Job::Remove(what, key) => {
                let key = key.as_str();
                let question =
                    |connection: link::Connection| async move { connection.remove(key).await };
                (what, line.ask(key, deadline, question).await)
            }
            Job::Answer(name, target, fresh, lease) => {
                let outcome = write(&line, &name, &target, &fresh, deadline).await;
                // Who gets it next finds the answer.
                drop(lease);
                (Written::Answer, outcome)
            }
        };
        let outcome = match outcome {
            Ok(()) => Outcome::Done,
            Err(Trouble::Absent) => Outcome::Dropped,
            Err(_) => Outcome::Failed,
        };
        line.counts.wrote(what, outcome);
    }
}

async fn write(
    line: &Line,
    name: &str,
    target: &str,
    fresh: &Fresh,
    deadline: Instant,
) -> Result<(), Trouble> {
    let old = fresh.age + fresh.sent.elapsed();
    let left = fresh.life.checked_sub(old);
    let left = left.filter(|it| *it >= LIFE_MIN).ok_or(Trouble::Absent)?;
    let entry = Entry {
        // Never later than it was.
        born: since_1970(SystemTime::now()).saturating_sub(millis(old) + 1),
        life: fresh.life,
        took: fresh.took,
        stored: &*fresh.stored,
    };
    let bytes = encode(target, &entry).ok_or(Trouble::Absent)?;
    let bytes = bytes.as_slice();
    let question = |connection: link::Connection| async move {
        connection.put(name, bytes, millis(left)).await
    };
    let written = line.ask(name, deadline, question).await;
    if let Ok(()) | Err(Trouble::Full) = written {
        line.takes(written.is_err());
    }
    written
}
