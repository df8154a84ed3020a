//! Where lines of the log end: standard error, a file, syslog.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Zoned;
use tracing::Level;

use super::service_manager::is_journal;

/// How long syslog may take a line.
const SYSLOG_LIMIT: Duration = Duration::from_secs(1);

/// Time between two tries to reach a syslog that is not there.
const SYSLOG_RETRY: Duration = Duration::from_secs(1);

/// The longest line syslog gets, in bytes; more is cut.
const MAX_SYSLOG_LINE: usize = 8 * 1024;

/// Where the C library's `syslog` sends.
const DEV_LOG: &str = "/dev/log";

/// Something that takes whole lines.
pub trait LogTarget: Send {
    /// Takes one line, its end included.
    ///
    /// # Errors
    /// It could not be written.
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()>;
}

/// For tests whose log nobody reads.
#[cfg(any(fuzzing, test))]
impl LogTarget for io::Sink {
    fn write(&mut self, _: Level, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// What the settings say about the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destination {
    /// `logfile`.
    pub file: Option<PathBuf>,
    /// Nothing to standard error.
    pub quiet: bool,
    /// `syslog`: `syslog_ident` and `syslog_facility`.
    pub syslog: Option<(String, String)>,
}

impl Destination {
    /// Opens it.
    ///
    /// # Errors
    /// The file's, and `InvalidInput` for a facility that does not exist.
    pub fn open(&self) -> io::Result<Box<dyn LogTarget>> {
        let file = self.file.as_deref().map(open_file).transpose()?;
        let syslog = match &self.syslog {
            Some((ident, facility)) => Some(Syslog::new(ident, facility, Path::new(DEV_LOG))?),
            None => None,
        };
        let stderr = (!self.quiet).then(|| Stderr {
            journal: is_journal(io::stderr()),
        });
        Ok(Box::new(Targets {
            stderr,
            file,
            syslog,
        }))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

struct Targets {
    stderr: Option<Stderr>,
    file: Option<File>,
    syslog: Option<Syslog>,
}

impl LogTarget for Targets {
    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        // Each gets its line, whatever has become of the others.
        let stderr = self.stderr.as_ref().map(|it| it.write(level, line));
        let file = self.file.as_mut().map(|file| file.write_all(line));
        let syslog = self.syslog.as_mut().map(|it| it.write(level, line));
        [stderr, file, syslog].into_iter().flatten().collect()
    }
}

struct Stderr {
    /// It is the journal, which has its own stamps.
    journal: bool,
}

impl Stderr {
    fn write(&self, level: Level, line: &[u8]) -> io::Result<()> {
        let mut stderr = io::stderr().lock();
        match self.journal {
            false => stderr.write_all(line),
            true => {
                let front = format!("<{}>", severity(level)).into_bytes();
                stderr.write_all(&[&front, bare(line)].concat())
            }
        }
    }
}

/// The local syslog daemon.
struct Syslog {
    path: PathBuf,
    ident: String,
    facility: u8,
    socket: Option<UnixDatagram>,
    tried: Option<Instant>,
}

impl Syslog {
    fn new(ident: &str, facility: &str, path: &Path) -> io::Result<Syslog> {
        let facility = FACILITIES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(facility))
            .ok_or_else(|| {
                let what = format!("there is no syslog_facility '{facility}'");
                io::Error::new(io::ErrorKind::InvalidInput, what)
            })?;
        Ok(Syslog {
            path: path.to_owned(),
            ident: ident.to_owned(),
            facility: facility.1,
            socket: None,
            tried: None,
        })
    }

    fn write(&mut self, level: Level, line: &[u8]) -> io::Result<()> {
        if level > Level::INFO {
            return Ok(());
        }
        let priority = self.facility * 8 + severity(level);
        let stamp = Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let pid = std::process::id();
        let front = format!("<{priority}>{stamp} {}[{pid}]: ", self.ident).into_bytes();
        let text = bare(line).strip_suffix(b"\n").unwrap_or(bare(line));
        let text = &text[..text.len().min(MAX_SYSLOG_LINE)];
        let sent = self.socket()?.send(&[&front, text].concat());
        // A daemon that was started again has another socket there.
        if sent.is_err() {
            self.socket = None;
        }
        sent.map(|_| ())
    }

    fn socket(&mut self) -> io::Result<&UnixDatagram> {
        if self.socket.is_none() {
            let lately = |tried: Instant| tried.elapsed() < SYSLOG_RETRY;
            if self.tried.is_some_and(lately) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            self.tried = Some(Instant::now());
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SYSLOG_LIMIT))?;
            socket.connect(&self.path)?;
            self.tried = None;
            self.socket = Some(socket);
        }
        self.socket
            .as_ref()
            .ok_or(io::ErrorKind::NotConnected.into())
    }
}

/// PgBouncer's facilities and their numbers in syslog.
const FACILITIES: [(&str, u8); 12] = [
    ("auth", 4),
    ("authpriv", 10),
    ("daemon", 3),
    ("user", 1),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The number of a level in syslog.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// A line in PgBouncer's format without its stamp, process id and level;
/// others as they are.
fn bare(line: &[u8]) -> &[u8] {
    if !line.first().is_some_and(u8::is_ascii_digit) {
        return line;
    }
    let level = line.windows(2).position(|pair| pair == b"] ");
    let rest = level.map_or(line, |at| &line[at + 2..]);
    let text = rest.iter().position(|byte| *byte == b' ');
    text.map_or(rest, |at| &rest[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"2026-01-02 03:04:05.678 UTC [42] LOG process up: [x] y\n";

    fn folder(name: &str) -> PathBuf {
        let name = format!("pgweir-syslog-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a writable folder");
        folder
    }

    #[test]
    fn a_line_for_syslog_has_its_priority_and_not_its_stamp() {
        let folder = folder("line");
        let daemon = UnixDatagram::bind(folder.join("log")).expect("free");
        let mut syslog = Syslog::new("pgb", "local1", &folder.join("log")).expect("a facility");
        syslog.write(Level::WARN, LINE).expect("a daemon");
        syslog.write(Level::DEBUG, LINE).expect("dropped");
        daemon.set_nonblocking(true).expect("a socket");
        let mut line = [0; 200];
        let len = daemon.recv(&mut line).expect("one line");
        let line = String::from_utf8_lossy(&line[..len]).into_owned();
        assert!(line.starts_with("<140>"), "{line}");
        let end = format!(" pgb[{}]: process up: [x] y", std::process::id());
        assert!(line.ends_with(&end), "{line}");
        assert!(daemon.recv(&mut [0]).is_err(), "DEBUG is not for syslog");
        std::fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn a_daemon_that_was_started_again_is_found_again() {
        let folder = folder("again");
        let path = folder.join("log");
        let first = UnixDatagram::bind(&path).expect("free");
        let mut syslog = Syslog::new("pgb", "daemon", &path).expect("a facility");
        syslog.write(Level::INFO, LINE).expect("a daemon");
        drop(first);
        std::fs::remove_file(&path).expect("there");
        syslog.write(Level::INFO, LINE).expect_err("nobody");
        let second = UnixDatagram::bind(&path).expect("free");
        syslog.write(Level::INFO, LINE).expect("a daemon");
        assert!(second.recv(&mut [0; 100]).is_ok());
        std::fs::remove_dir_all(folder).expect("ours");
    }

    #[test]
    fn a_facility_that_does_not_exist_is_named() {
        let error = Syslog::new("x", "kernel", Path::new("/"))
            .err()
            .expect("none");
        assert_eq!(error.to_string(), "there is no syslog_facility 'kernel'");
    }

    #[test]
    fn lines_of_other_formats_stay_whole() {
        assert_eq!(bare(b"{\"a\": 1}\n"), b"{\"a\": 1}\n");
    }
}
