//! One child process: started, waited for, stopped.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::place::cannot;

/// Time between two looks at whether a child is ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Last lines of a log that are shown, and how much of it is read for them.
const LAST_LINES: usize = 12;
const LAST_BYTES: usize = 16 << 10;

/// How a child is asked to end: each signal and the time it is given. After the
/// last one it is killed.
pub type Farewell = &'static [(Signal, Duration)];

/// Says when a child that lives does not work, and why.
pub type Watch = Box<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// What a child is.
pub struct Service {
    /// Its name, for people.
    pub name: String,
    /// What starts it for the nth time, counted from 0.
    pub command: Box<dyn Fn(u32) -> Command + Send + Sync>,
    /// Where its output goes.
    pub log: PathBuf,
    /// When it is stopped: the lowest first.
    pub turn: u8,
    /// How it is stopped.
    pub farewell: Farewell,
    /// What watches over it once it is ready.
    pub watch: Option<Watch>,
}

/// A service with its process, ended by [`Process::stop`] or with the demo.
pub struct Process {
    /// What it is.
    pub service: Arc<Service>,
    child: Child,
    /// Its number.
    pub pid: u32,
    born: Instant,
}

impl Process {
    /// Starts it for the first time. Its log begins anew, the last one is kept
    /// as `.old`.
    ///
    /// # Errors
    /// The system's.
    pub fn start(service: Service) -> Result<Process, String> {
        let old = service.log.with_extension("log.old");
        if service.log.exists() {
            fs::rename(&service.log, &old).map_err(|error| cannot("keep", &old, &error))?;
        }
        Process::spawn(Arc::new(service), 0)
    }

    /// Starts it for the nth time, counted from 0.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(service: Arc<Service>, life: u32) -> Result<Process, String> {
        let log = append(&service.log)?;
        let both = log
            .try_clone()
            .map_err(|error| cannot("share", &service.log, &error))?;
        let mut command = (service.command)(life);
        let child = command
            .stdout(log)
            .stderr(both)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                format!(
                    "cannot start {} by setpriv (package util-linux): {error}",
                    service.name
                )
            })?;
        let pid = child.id().expect("it was not waited for yet");
        Ok(Process {
            service,
            child,
            pid,
            born: Instant::now(),
        })
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Waits for its end; answers how it ended.
    pub async fn ended(&mut self) -> String {
        ending(self.child.wait().await.ok())
    }

    /// Waits until `ready` says so, asking again and again.
    ///
    /// # Errors
    /// The process ended, or `limit` is over: then `ready`'s last words.
    pub async fn until<F: Future<Output = Result<(), String>>>(
        &mut self,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let why = match ready().await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            let trouble = match timeout(LOOK_EVERY, self.ended()).await {
                Ok(ended) => ended,
                Err(_) if begun.elapsed() < limit => continue,
                Err(_) => format!("is not ready after {} s: {why}", limit.as_secs()),
            };
            return Err(format!(
                "{} {trouble}{}",
                self.service.name,
                last_words(&self.service.log)
            ));
        }
    }

    /// Ends it by its farewell.
    pub async fn stop(&mut self) {
        for &(signal, patience) in self.service.farewell {
            self.send(signal);
            if timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
        // SIGKILL cannot be ignored, only delayed by the kernel.
        let _ = self.child.kill().await;
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // It is not reaped yet, so the number is still its own.
        if let Some(pid) = pid.filter(|_| self.child.id().is_some()) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn ending(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("ended with status {code}"),
        Some((_, Some(signal))) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started or fails; the last lines it printed are in the text.
pub async fn run(name: &str, mut command: Command, log: &Path) -> Result<(), String> {
    let file = File::create(log).map_err(|error| cannot("write", log, &error))?;
    let both = file
        .try_clone()
        .map_err(|error| cannot("share", log, &error))?;
    let status = command
        .stdout(Stdio::from(file))
        .stderr(Stdio::from(both))
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name} {}{}",
            ending(Some(status)),
            last_words(log)
        )),
    }
}

fn append(log: &Path) -> Result<File, String> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .map_err(|error| cannot("write", log, &error))
}

/// The end of a log, to be put behind an error.
fn last_words(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LAST_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    match last.is_empty() {
        true => format!("; {} is empty", log.display()),
        false => format!(
            "; the last lines of {}:\n  {}",
            log.display(),
            last.join("\n  ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_few_and_name_the_log() {
        let log = std::env::temp_dir().join(format!("pgweir-words-{}.log", std::process::id()));
        let text: String = (0..100).map(|n| format!("line {n}\n\n")).collect();
        fs::write(&log, text).expect("writable");
        let words = last_words(&log);
        fs::remove_file(&log).expect("there");
        assert!(
            words.starts_with(&format!(
                "; the last lines of {}:\n  line 88\n",
                log.display()
            )),
            "{words}"
        );
        assert!(words.ends_with("\n  line 99"), "{words}");
        assert_eq!(last_words(&log), format!("; {} is empty", log.display()));
    }
}
