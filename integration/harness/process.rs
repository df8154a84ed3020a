//! Processes and folders of a test run, none of which outlive it.
//!
//! Servers refuse to run as root, so as root they run under another account.
//! Every child is started by one thread that lives as long as the run, with a
//! parent-death signal, and a cleaner that reads a pipe of this process removes
//! the run's folder when the pipe closes: a killed run leaves nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

/// Free memory that makes it worth while to keep data in memory.
const ROOM: u64 = 2 << 30;

/// The folders of this run.
struct RunFolders {
    /// For programs and sockets.
    files: PathBuf,
    /// For data, in memory where there is room: writing files can be slow.
    data: PathBuf,
    /// Closed by the end of this process, however it comes.
    _cleaner: Mutex<ChildStdin>,
}

fn run_folders() -> &'static RunFolders {
    static FOLDERS: OnceLock<RunFolders> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let name = format!("pgweir-test.{}", std::process::id());
        let files = std::env::temp_dir().join(&name);
        let memory = Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        let data = if room < ROOM { files.join("data") } else { memory.join(&name) };
        for folder in [&files, &data] {
            std::fs::create_dir(folder).expect("a new folder for this run");
            set_mode(folder, 0o755);
        }
        // Servers that are still ending may write into it meanwhile.
        let script = "cat >/dev/null; for i in 1 2 3 4 5 6 7 8 9; do rm -rf \"$0\" \"$1\" && exit; sleep 0.3; done";
        #[expect(clippy::zombie_processes, reason = "it outlives this process to clean up after it")]
        let mut cleaner = Command::new("sh")
            .args(["-c", script])
            .args([&files, &data])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        let pipe = cleaner.stdin.take().expect("stdin is piped");
        RunFolders { files, data, _cleaner: Mutex::new(pipe) }
    })
}

/// A new folder that belongs to the servers' account; removed on drop.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        Self::inside(&run_folders().files, name)
    }

    /// For a server's data.
    pub(crate) fn for_data(name: &str) -> Self {
        Self::inside(&run_folders().data, name)
    }

    fn inside(parent: &Path, name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{name}.{number}"));
        std::fs::create_dir(&path).expect("a new folder");
        set_mode(&path, 0o755);
        give_away(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that the servers' account can read and replace.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the folder is writable");
        give_away(&path);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What a dying server still writes is left to the cleaner.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
}

/// Makes this the servers' account's own.
pub(crate) fn give_away(path: &Path) {
    if let Some((user, group)) = account() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).expect("root may give files away");
    }
}

/// The account that servers run under when this is root: `postgres`, or `nobody`.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("there is a passwd file");
    let entry = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    Some(
        entry("postgres")
            .or_else(|| entry("nobody"))
            .expect("an account other than root"),
    )
}

/// A command under the servers' account that gets `signal` when this run ends.
pub(crate) fn server_command(program: &Path, signal: &str) -> Command {
    let words = account_words(signal);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).stdin(Stdio::null());
    command
}

/// What stands before a command line that is to run like this.
pub(crate) fn account_words(signal: &str) -> Vec<String> {
    let mut words = vec!["setpriv".to_owned(), "--pdeathsig".into(), signal.into()];
    if let Some((user, group)) = account() {
        words.push(format!("--reuid={user}"));
        words.push(format!("--regid={group}"));
        words.push("--clear-groups".to_owned());
    }
    words.push("--".to_owned());
    words
}

/// A command line that runs after this script, both in mount and network name
/// spaces of their own. The script shifts its own arguments away.
pub(crate) fn private_command(script: &str) -> Command {
    let mut command = Command::new("unshare");
    if account().is_none() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    let script = format!("PATH=$PATH:/usr/sbin:/sbin\n{script}\nexec \"$@\"");
    command.args(["--mount", "--net", "--", "sh", "-c", &script, "sh"]);
    command.stdin(Stdio::null());
    command
}

/// Starts a child from the thread that lives as long as the run: the death
/// signal is tied to the thread, not to the process.
pub(crate) fn spawn(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                answer
                    .send(command.spawn())
                    .expect("the one who asked waits");
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    starter
        .lock()
        .expect("nobody panics with it")
        .send((command, answer))
        .expect("the starter lives");
    child
        .recv()
        .expect("the starter answers")
        .expect("setpriv runs")
}

/// The pooler under test, where the servers' account can run it.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let named = std::env::var_os("PGWEIR_BIN").map(PathBuf::from);
        runnable(&named.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pgweir"))))
    })
}

/// A copy of a program where the servers' account can run it: the folder it
/// was built in may lie in a home that only its owner can enter.
pub(crate) fn runnable(built: &Path) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = built.file_name().expect("it names a file");
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = run_folders().files.join(format!("program.{number}"));
    std::fs::create_dir(&folder).expect("a new folder");
    set_mode(&folder, 0o755);
    let copy = folder.join(name);
    std::fs::copy(built, &copy).unwrap_or_else(|error| panic!("cannot copy {built:?}: {error}"));
    set_mode(&copy, 0o755);
    copy
}
