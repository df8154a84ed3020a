//! Processes that do not outlive this program.
//!
//! Servers refuse to run as root, so as root they run under another account.
//! Each has a process group of its own: Ctrl-C reaches this program alone,
//! which then ends them in the right order. If this program is killed, each
//! gets a signal from the kernel.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::problem::{During, Problem};

/// How long a process that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// The account that servers run under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// None is this program's own.
    other: Option<(u32, u32)>,
}

impl Account {
    /// This program's own, or that of `postgres` or `nobody` if it is root.
    ///
    /// # Errors
    /// There is no account but root.
    pub(crate) fn find() -> Result<Account, Problem> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account { other: None });
        }
        let passwd = std::fs::read_to_string("/etc/passwd").during("/etc/passwd")?;
        let other = ["postgres", "nobody"]
            .iter()
            .find_map(|name| entry(&passwd, name));
        match other {
            Some(_) => Ok(Account { other }),
            None => Err(Problem::new(
                "servers do not run as root, and there is neither a user postgres nor a user nobody",
            )),
        }
    }

    /// Makes a folder that this account owns.
    pub(crate) fn make_folder(&self, path: &Path) -> Result<(), Problem> {
        std::fs::create_dir_all(path).during(path.display())?;
        self.give(path)
    }

    /// Writes a file that this account owns.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<(), Problem> {
        std::fs::write(path, text).during(path.display())?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> Result<(), Problem> {
        match self.other {
            Some((user, group)) => chown(path, Some(user), Some(group)).during(path.display()),
            None => Ok(()),
        }
    }

    /// A command under this account that gets `death` when this program dies.
    /// Its environment is empty but for PATH.
    pub(crate) fn command(&self, program: &Path, death: &str) -> Command {
        self.command_in(None, program, death)
    }

    /// The same in another network.
    pub(crate) fn command_in(
        &self,
        namespace: Option<Namespace>,
        program: &Path,
        death: &str,
    ) -> Command {
        const SETPRIV: &str = "setpriv";
        let mut command = match namespace {
            None => Command::new(SETPRIV),
            Some(namespace) => {
                let mut command = namespace.enter();
                command.arg(SETPRIV);
                command
            }
        };
        command.args(["--pdeathsig", death]);
        if let Some((user, group)) = self.other {
            let (user, group) = (user.to_string(), group.to_string());
            command.args(["--reuid", &user, "--regid", &group, "--clear-groups"]);
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        command
            .arg("--")
            .arg(program)
            .env_clear()
            .env("PATH", path)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }
}

/// The network of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Namespace(u32);

impl Namespace {
    pub(super) fn of(process: u32) -> Namespace {
        Namespace(process)
    }

    /// A command that is still to be told what to run there.
    pub(super) fn enter(self) -> Command {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{}/ns/net", self.0), "--"]);
        command
    }
}

fn entry(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A running process, ended on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// How it is asked to end.
    farewell: Signal,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it prints is appended to `log`.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        farewell: Signal,
        log: &Path,
    ) -> Result<Process, Problem> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.during(log.display())?;
        let twin = file.try_clone().during(log.display())?;
        let started = command.stdout(twin).stderr(file).spawn();
        Ok(Process {
            name: name.to_owned(),
            child: started.during(format!("cannot start {name} by setpriv"))?,
            farewell,
            log: log.to_owned(),
        })
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails if it has ended, with the end of its log.
    pub(crate) fn must_run(&mut self) -> Result<(), Problem> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(Problem::new(format!(
                "{} has ended with {status}; the end of {}:\n{}",
                self.name,
                self.log.display(),
                self.last_words()
            ))),
        }
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        const LINES: usize = 12;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = kill_process(self.pid(), signal);
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident bytes; 0 if it is gone.
    pub(crate) fn memory(&self) -> u64 {
        const KIB: u64 = 1024;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = resident.and_then(|it| it.split_whitespace().next());
        words
            .and_then(|it| it.parse::<u64>().ok())
            .unwrap_or_default()
            * KIB
    }

    /// How many files and sockets it has open; 0 if it is gone.
    pub(crate) fn descriptors(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.map_or(0, |open| open.count() as u64)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks it to end, waits, and kills what is left of its group.
    pub(crate) fn stop(&mut self) {
        if self.ended().is_none() {
            self.signal(self.farewell);
            let asked = Instant::now();
            while self.ended().is_none() && asked.elapsed() < PATIENCE {
                std::thread::sleep(POLL);
            }
        }
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_user_and_group() {
        let passwd = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(entry(passwd, "nobody"), Some((65_534, 65_533)));
        assert_eq!(entry(passwd, "body"), None);
    }
}
