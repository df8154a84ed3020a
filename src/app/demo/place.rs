//! The folder the demo lives in.
//!
//! What runs with this process's rights lies in folders of its own; each child
//! writes only into folders made for it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::account::Account;
use super::ground;

/// The folder, locked for this process.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    /// It is not in the project, [`NAME`] leads there.
    pub elsewhere: bool,
    /// The last run here did not end by itself, so that something of it may
    /// still be ending.
    pub unclean: bool,
    lock: File,
    account: Account,
}

impl Place {
    /// Makes or finds the folder for `project`, and locks it.
    ///
    /// # Errors
    /// It cannot be made or is in use; the text says what to do.
    pub fn open(project: &Path, account: &Account) -> Result<Place, String> {
        let root = ground::find(project, account)?;
        let (lock, unclean) = lock(&root.join("lock"))?;
        Ok(Place {
            elsewhere: root.parent() != Some(project),
            root,
            unclean,
            lock,
            account: account.clone(),
        })
    }

    /// The folder's real path, the children's working folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes a folder below it that belongs to this process, and that the
    /// children may read.
    ///
    /// # Errors
    /// The system's.
    pub fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        make_folder(&path, 0o755)?;
        Ok(path)
    }

    /// Makes a folder below it for the children alone.
    ///
    /// # Errors
    /// The system's.
    pub fn private_folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        make_folder(&path, 0o700)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Writes a file that only this process's user reads.
    ///
    /// # Errors
    /// The system's.
    pub fn write_own(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.path(name);
        write_private(&path, text).map_err(|error| cannot("write", &path, &error))
    }

    /// Writes a file that only the children read.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, name: &str, text: &str) -> Result<(), String> {
        self.write_own(name, text)?;
        self.give(&self.path(name))
    }

    /// Copies a program to where the children can run it.
    ///
    /// # Errors
    /// The system's.
    pub fn install(&self, program: &Path, name: &str) -> Result<(), String> {
        let path = self.folder("bin")?.join(name);
        let new = path.with_extension("new");
        let copy = fs::copy(program, &new)
            .and_then(|_| fs::set_permissions(&new, Permissions::from_mode(0o755)))
            // The old one may still run: it is replaced, not written to.
            .and_then(|()| fs::rename(&new, &path));
        copy.map_err(|error| {
            format!(
                "cannot copy {} to {}: {error}",
                program.display(),
                path.display()
            )
        })
    }

    /// Space left, in MiB.
    pub fn free_space(&self) -> u64 {
        statvfs(&self.root).map_or(u64::MAX, |fs| (fs.f_bavail * fs.f_frsize) >> 20)
    }

    /// The run ends by itself.
    pub fn ended_well(&self) {
        // If it cannot be noted the next start looks around needlessly.
        let _ = self.lock.set_len(0);
    }

    fn give(&self, path: &Path) -> Result<(), String> {
        if !self.account.switch {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.account.uid), Some(self.account.gid))
            .map_err(|error| cannot("give away", path, &error))
    }
}

/// Makes a folder unless it is there. Its mode is this, whatever the umask is.
///
/// # Errors
/// The system's.
pub fn make_folder(path: &Path, mode: u32) -> Result<(), String> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made
            .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(|error| cannot("make", path, &error)),
    }
}

/// Locks the folder. Answers too whether the last run forgot to say that it
/// ended.
///
/// # Errors
/// Somebody else has locked it.
pub fn lock(path: &Path) -> Result<(File, bool), String> {
    let failed = |error| cannot("lock", path, &error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(format!(
            "another demo runs here already (process {}); stop it with Ctrl-C or `kill {0}`",
            text.trim()
        ));
    }
    let me = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(me.as_bytes()))
        .map_err(failed)?;
    Ok((file, !text.is_empty()))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

/// The system's error with what it is about.
pub fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// An empty folder in the place of a project; removed on drop.
    struct Project(PathBuf);

    impl Project {
        fn new(name: &str) -> Project {
            let name = format!("pgweir-place-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).expect("a new folder");
            Project(fs::canonicalize(path).expect("it is there"))
        }

        fn open(&self) -> Result<Place, String> {
            Place::open(
                &self.0,
                &Account {
                    switch: false,
                    ..Account::find().expect("an account")
                },
            )
        }
    }

    impl Drop for Project {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("our own folder");
        }
    }

    #[test]
    fn the_folder_is_locked_while_it_is_in_use() {
        let project = Project::new("lock");
        let place = project.open().expect("a new one");
        assert!(!place.unclean && !place.elsewhere);
        let refused = project.open().expect_err("in use");
        let me = format!("process {}", std::process::id());
        assert!(refused.contains(&me), "{refused}");
    }

    #[test]
    fn an_end_that_was_not_noted_is_seen() {
        let project = Project::new("unclean");
        drop(project.open().expect("a new one"));
        let place = project.open().expect("free again");
        assert!(place.unclean);
        place.ended_well();
        drop(place);
        assert!(!project.open().expect("free again").unclean);
    }

    #[test]
    fn secrets_are_private_and_can_be_written_again() {
        let project = Project::new("secrets");
        let place = project.open().expect("a new one");
        for text in ["one", "two"] {
            place.write("secret", text).expect("writable");
            assert_eq!(
                fs::read_to_string(place.path("secret")).expect("there"),
                text
            );
        }
        let mode = fs::metadata(place.path("secret")).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_followed_and_its_folder_made_again() {
        let (project, other) = (Project::new("link"), Project::new("target"));
        let target = other.0.join("demo");
        symlink(&target, project.0.join(ground::NAME)).expect("a new link");
        let place = project.open().expect("made");
        assert!(place.elsewhere);
        assert_eq!(place.root(), target);
        drop(place);
        assert_eq!(ground::remove(&project.0), Ok(Some(target.clone())));
        assert!(!target.exists() && fs::symlink_metadata(project.0.join(ground::NAME)).is_err());
    }

    #[test]
    fn a_folder_in_use_is_not_removed() {
        let project = Project::new("remove");
        assert_eq!(ground::remove(&project.0), Ok(None));
        let place = project.open().expect("a new one");
        assert!(ground::remove(&project.0).is_err());
        let root = place.root().to_owned();
        drop(place);
        assert_eq!(ground::remove(&project.0), Ok(Some(root)));
    }
}
