//! The pid file (`pidfile`).

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A pid file that is removed when this is dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

/// Why the pid file could not be written.
#[derive(Debug)]
pub enum PidFileError {
    /// It names a process that lives, or nothing that can be read.
    InUse(PathBuf),
    /// The system's error.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for PidFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PidFileError::InUse(path) => write!(
                f,
                "pidfile '{}' exists, another instance running?",
                path.display()
            ),
            PidFileError::Io { path, error } => {
                write!(f, "could not write pidfile '{}': {error}", path.display())
            }
        }
    }
}

impl std::error::Error for PidFileError {}

impl PidFile {
    /// Writes the process id. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// See [`PidFileError`].
    pub fn write(path: &Path) -> Result<PidFile, PidFileError> {
        remove_stale(path)?;
        let io = |error| PidFileError::Io {
            path: path.to_owned(),
            error,
        };
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!("could not remove pidfile: {error}");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), PidFileError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.unwrap_or_default(),
    };
    let in_use = || PidFileError::InUse(path.to_owned());
    let pid: i32 = text.trim().parse().map_err(|_| in_use())?;
    if kill(Pid::from_raw(pid), None) != Err(nix::Error::ESRCH) {
        return Err(in_use());
    }
    tracing::info!("stale pidfile, removing");
    std::fs::remove_file(path).map_err(|error| PidFileError::Io {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pgweir-{}-{name}.pid", std::process::id()))
    }

    #[test]
    fn it_holds_the_pid_and_is_removed_at_the_end() {
        let path = path("plain");
        let file = PidFile::write(&path).expect("a new file");
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_process_or_an_unreadable_file_is_respected() {
        let path = path("live");
        for text in [
            format!("{}\n", std::process::id()),
            "what".into(),
            String::new(),
        ] {
            std::fs::write(&path, text).expect("writable");
            assert!(matches!(PidFile::write(&path), Err(PidFileError::InUse(_))));
        }
        std::fs::remove_file(&path).expect("there");
    }

    #[test]
    fn a_dead_process_is_replaced() {
        let path = path("stale");
        std::fs::write(&path, "2147483646\n").expect("writable");
        drop(PidFile::write(&path).expect("stale"));
    }
}
