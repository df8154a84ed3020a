//! Where the demo's folder is: in the project, or where a link there leads.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::Account;
use super::place::{cannot, lock, make_folder};
use crate::process::is_root;

/// The folder, as it is called in the project.
pub const NAME: &str = ".demo";

/// Where it goes when the children cannot enter the project.
const ELSEWHERE: &str = "/var/tmp";

/// Makes or finds the folder for `project`.
///
/// # Errors
/// It cannot be made or used; the text says what to do.
pub fn find(project: &Path, account: &Account) -> Result<PathBuf, String> {
    let link = project.join(NAME);
    let root = match fs::symlink_metadata(&link) {
        Ok(found) if found.is_symlink() => follow(&link)?,
        Ok(_) => owned(&link)?,
        Err(error) if error.kind() == ErrorKind::NotFound => make(&link, account)?,
        Err(error) => return Err(cannot("look at", &link, &error)),
    };
    match can_enter(account, &root) {
        true => Ok(root),
        false => Err(format!(
            "{}: the user {}, who runs PostgreSQL here, cannot enter it; remove it (make demo-clean) and start again",
            root.display(),
            account.name
        )),
    }
}

/// Removes the folder of `project` with everything in it. Answers what was
/// removed, if there was anything.
///
/// # Errors
/// It is in use, or cannot be removed.
pub fn remove(project: &Path) -> Result<Option<PathBuf>, String> {
    let link = project.join(NAME);
    let Ok(found) = fs::symlink_metadata(&link) else {
        return Ok(None);
    };
    let root = match found.is_symlink() {
        true if !link.exists() => None,
        true => Some(follow(&link)?),
        // Removing follows no links, so root may do it whoever owns this.
        false if is_root() => Some(link.clone()),
        false => Some(owned(&link)?),
    };
    if let Some(root) = &root {
        let _lock = lock(&root.join("lock"))?;
        fs::remove_dir_all(root).map_err(|error| cannot("remove", root, &error))?;
    }
    if found.is_symlink() {
        fs::remove_file(&link).map_err(|error| cannot("remove", &link, &error))?;
    }
    Ok(Some(root.unwrap_or(link)))
}

/// Makes the folder in the project, or elsewhere if the children could not
/// enter it there.
fn make(link: &Path, account: &Account) -> Result<PathBuf, String> {
    make_folder(link, 0o755)?;
    if can_enter(account, link) {
        return owned(link);
    }
    fs::remove_dir(link).map_err(|error| cannot("remove", link, &error))?;
    let root = elsewhere(link);
    make_folder(&root, 0o755)?;
    let root = owned(&root)?;
    symlink(&root, link).map_err(|error| cannot("make", link, &error))?;
    Ok(root)
}

/// Where a project's folder goes otherwise: another place for each project.
fn elsewhere(link: &Path) -> PathBuf {
    use sha2::{Digest, Sha256};
    use std::os::unix::ffi::OsStrExt;
    let digest = Sha256::digest(link.as_os_str().as_bytes());
    let name = digest[..4]
        .iter()
        .fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
    Path::new(ELSEWHERE).join(format!("pgweir-demo-{name}"))
}

/// Where the link leads; the folder is made again if somebody cleared up there.
fn follow(link: &Path) -> Result<PathBuf, String> {
    if !link.exists() {
        let target = fs::read_link(link).map_err(|error| cannot("follow", link, &error))?;
        make_folder(&target, 0o755)?;
    }
    let root = fs::canonicalize(link).map_err(|error| cannot("follow", link, &error))?;
    owned(&root)
}

/// A folder that really belongs to this process's user. Others may write where
/// [`ELSEWHERE`] is, and root must not work in what they made.
fn owned(path: &Path) -> Result<PathBuf, String> {
    let found = fs::symlink_metadata(path).map_err(|error| cannot("look at", path, &error))?;
    let me = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err(format!("{} is not a folder; remove it", path.display()));
    }
    if found.uid() != me {
        let remedy = match is_root() {
            true => "remove it with `make demo-clean`",
            false => "start as that user, or remove it with `make demo-clean` as that user",
        };
        return Err(format!(
            "{} belongs to user {}; {remedy}",
            path.display(),
            found.uid()
        ));
    }
    fs::canonicalize(path).map_err(|error| cannot("look at", path, &error))
}

fn can_enter(account: &Account, folder: &Path) -> bool {
    if !account.switch {
        return true;
    }
    let test = Command::new("setpriv")
        .args([
            format!("--reuid={}", account.uid),
            format!("--regid={}", account.gid),
            "--clear-groups".to_owned(),
        ])
        .args(["--", "test", "-x"])
        .arg(folder)
        .current_dir("/")
        .status();
    test.is_ok_and(|status| status.success())
}
