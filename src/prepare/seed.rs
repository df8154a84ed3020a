//! The seeding command: one run, from its start to its end or ours.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::{interval, sleep, timeout};

use super::connect::Session;
use super::error::Error;
use super::ledger::{Pen, Row, SEED};
use super::orphan;
use super::output::{Lines, Output};
use super::progress::{Event, Progress, TELL_EVERY, Wait};
use super::sha256;
use crate::config::Prepare;

/// Output is read in pieces of about this size.
const CHUNK: usize = 8 << 10;
/// How long output may still come after the command itself ended; it comes
/// from processes it left behind.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// SHA-256 of program and arguments. The environment is left out: it holds
/// secrets, and changes from host to host.
pub(super) fn checksum(config: &Prepare) -> String {
    sha256(config.seed.join("\0").as_bytes())
}

/// Runs the command and writes the ledger around it. A run that does not end
/// well leaves its row in state `running` or `failed`.
///
/// Dropping the future kills the command with all processes of its group.
pub(super) async fn run(
    config: &Prepare,
    session: &Session,
    pen: &Pen,
    progress: &dyn Progress,
) -> Result<Duration, Error> {
    let started = Instant::now();
    let checksum = checksum(config);
    pen.begin(session, SEED, &checksum).await?;
    progress.tell(&Event::Seeding {
        program: program(config),
    });
    match run_child(config, session, pen, progress).await {
        Ok(()) => {
            pen.finish(session, SEED).await?;
            let elapsed = started.elapsed();
            progress.tell(&Event::Seeded { elapsed });
            Ok(elapsed)
        }
        Err(error) => {
            if let Error::Seed { problem, .. } = &error {
                pen.fail(session, SEED, &checksum, problem).await?;
            }
            Err(error)
        }
    }
}

/// Waits for the seeding of an earlier start, if that start died without
/// taking it along: two at once would seed twice. One on another host cannot be
/// seen; it ends at its next line of output, which nobody reads any more.
pub(super) async fn wait_for_orphan(row: &Row, progress: &dyn Progress) {
    let mut wait = Wait::new();
    while let Some(pid) = row.child.as_deref().and_then(orphan::alive) {
        if let Some(elapsed) = wait.due() {
            progress.tell(&Event::WaitingForSeed { pid, elapsed });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The program, for people. Its arguments may hold secrets.
pub(super) fn program(config: &Prepare) -> String {
    config.seed.first().cloned().unwrap_or_default()
}

async fn run_child(
    config: &Prepare,
    session: &Session,
    pen: &Pen,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let failed = |problem, tail| Error::Seed {
        program: program(config),
        problem,
        tail,
    };
    let (mut group, pipe) = match Group::spawn(config) {
        Ok(started) => started,
        Err(problem) => return Err(failed(format!("cannot be started: {problem}"), Vec::new())),
    };
    if let Some(child) = group.child.id().and_then(orphan::identity) {
        pen.child(session, &child).await?;
    }
    let mut ear = Ear::new(pipe, progress);
    let status = group.follow(session, &mut ear).await?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(ended(status), ear.output.into_tail())),
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The command in a process group of its own, which dies with this value.
struct Group {
    child: Child,
    /// The group, as long as it is to be killed.
    group: Option<Pid>,
}

impl Group {
    /// Starts the command. What it prints, on either stream, comes out of the
    /// pipe in the order it was printed.
    fn spawn(config: &Prepare) -> io::Result<(Group, Receiver)> {
        let (program, arguments) = config
            .seed
            .split_first()
            .expect("seeding is planned only for a command");
        let (reader, writer) = io::pipe()?;
        let child = Command::new(program)
            .args(arguments)
            .envs(&config.seed_env)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok((
            Group { child, group },
            Receiver::from_owned_fd(reader.into())?,
        ))
    }

    /// Listens until the command ends, and makes sure that the lock is still
    /// ours meanwhile.
    async fn follow(&mut self, session: &Session, ear: &mut Ear<'_>) -> Result<ExitStatus, Error> {
        let mut ticks = interval(TELL_EVERY);
        let status = loop {
            tokio::select! {
                () = ear.hear(), if ear.open => {}
                status = self.child.wait() => break status,
                _ = ticks.tick() => {
                    session.execute("", "seeding").await?;
                    ear.break_silence();
                }
            }
        };
        ear.last_words().await;
        // What a failed command left in the background must not go on beside
        // the next run. After success it is the command's own affair.
        self.group = self
            .group
            .filter(|_| !status.as_ref().is_ok_and(ExitStatus::success));
        status.map_err(|problem| Error::Lost {
            during: "seeding",
            problem: problem.to_string(),
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Gone already is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Hears the command and passes it on.
struct Ear<'a> {
    pipe: Receiver,
    chunk: Vec<u8>,
    open: bool,
    lines: Lines,
    output: Output,
    progress: &'a dyn Progress,
    wait: Wait,
}

impl<'a> Ear<'a> {
    fn new(pipe: Receiver, progress: &'a dyn Progress) -> Ear<'a> {
        let (lines, output, mut wait) = (Lines::default(), Output::default(), Wait::new());
        wait.told();
        let chunk = Vec::with_capacity(CHUNK);
        Ear {
            pipe,
            chunk,
            open: true,
            lines,
            output,
            progress,
            wait,
        }
    }

    /// Waits for output and tells it. Dropped while waiting, it loses nothing.
    async fn hear(&mut self) {
        self.chunk.clear();
        match self.pipe.read_buf(&mut self.chunk).await {
            Ok(1..) => self.tell(),
            Ok(0) | Err(_) => self.open = false,
        }
    }

    /// What is left in the pipe once the command has ended.
    async fn last_words(&mut self) {
        let rest = async {
            while self.open {
                self.hear().await;
            }
        };
        let _ = timeout(LAST_WORDS, rest).await;
        self.chunk = b"\n".to_vec();
        self.tell();
    }

    fn tell(&mut self) {
        let now = Instant::now();
        self.lines.feed(&self.chunk, |line| {
            if let Some(event) = self.output.line(line, now) {
                self.wait.told();
                self.progress.tell(&event);
            }
        });
    }

    fn break_silence(&mut self) {
        if let Some(elapsed) = self.wait.due() {
            self.progress.tell(&Event::SeedSilent { elapsed });
        }
    }
}
