//! What is kept of an authority, in a folder of its own below `state_dir`:
//!
//! | file | holds |
//! |---|---|
//! | `certificate.pem` | the key and the certificate, in one file so that they change together |
//! | `account.json` | the account and its key |
//! | `failures.json` | how many orders have failed since one succeeded, and when the next may begin |
//! | `pending/` | the answers that are expected ([`Answers`]) |
//! | `lock` | nothing; who orders has it locked |

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use instant_acme::AccountCredentials;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::plan::{Failures, Kept};
use crate::net::tls::{Identity, IdentityFiles, TlsFault, replace_file};

/// Longest name of an authority's folder.
const FOLDER_MAX: usize = 100;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Shelf(PathBuf);

/// An account with an authority.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    /// The URL of the authority's directory.
    pub(super) directory: String,
    /// Whom it may write to.
    pub(super) contact: Vec<String>,
    pub(super) credentials: AccountCredentials,
}

/// Nobody else that shares the folder orders while this lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    answers: Answers,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.answers.clear();
    }
}

impl Shelf {
    /// For the authority with this directory.
    pub(super) fn new(state_dir: &Path, directory: &str) -> Shelf {
        Shelf(state_dir.join("acme").join(folder_of(directory)))
    }

    /// Where the certificate is, or will be.
    pub(super) fn files(&self) -> IdentityFiles {
        let file = self.0.join("certificate.pem");
        IdentityFiles {
            certificate: file.clone(),
            key: file,
        }
    }

    /// The answers that are expected.
    pub(super) fn answers(&self) -> Answers {
        Answers::new(self.0.join("pending"))
    }

    /// Locks the folder, until what it gives is dropped; nothing if another
    /// process has. What one has left that was killed is cleared away.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(super) fn lock(&self) -> io::Result<Option<Lock>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)?;
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(self.0.join("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let answers = self.answers();
        answers.clear();
        Ok(Some(Lock {
            _file: file,
            answers,
        }))
    }

    /// The certificate there is; none if there is none that can be shown today.
    pub(super) fn kept(&self, names: &[String]) -> Option<Kept> {
        let identity = Identity::load(&self.files()).ok()?;
        let [begins, ends] = identity.validity().map(seconds);
        let written = fs::metadata(self.files().certificate).ok()?.modified();
        Some(Kept {
            begins,
            ends,
            since: seconds(written.ok()?),
            fits: is_for(&identity, names),
        })
    }

    /// Puts a key and its certificate there, if they can be shown.
    ///
    /// # Errors
    /// They cannot, or cannot be kept: then what was there stays.
    pub(super) fn keep(&self, pem: &str, names: &[String]) -> Result<(), Unkept> {
        let tried = self.0.join("issued.pem");
        replace_file(&tried, pem, 0o600)?;
        let files = IdentityFiles {
            certificate: tried.clone(),
            key: tried.clone(),
        };
        let identity = Identity::load(&files)?;
        if !is_for(&identity, names) {
            return Err(Unkept::OtherNames);
        }
        Ok(fs::rename(&tried, self.files().certificate)?)
    }

    /// The account, if there is one with this directory.
    pub(super) fn account(&self, directory: &str) -> Option<Account> {
        let account: Account = self.read("account.json")?;
        (account.directory == directory).then_some(account)
    }

    /// Keeps an account; without one forgets it.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) fn set_account(&self, account: Option<&Account>) -> io::Result<()> {
        self.write("account.json", account)
    }

    /// The orders that have failed since one succeeded.
    pub(super) fn failures(&self) -> Option<Failures> {
        self.read("failures.json")
    }

    /// Keeps that record; without one forgets it.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) fn set_failures(&self, failures: Option<Failures>) -> io::Result<()> {
        self.write("failures.json", failures.as_ref())
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.0.join(name)).ok()?).ok()
    }

    fn write(&self, name: &str, value: Option<&impl Serialize>) -> io::Result<()> {
        let path = self.0.join(name);
        match value {
            Some(value) => replace_file(&path, &serde_json::to_string(value)?, 0o600),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}

/// Why what was issued is not kept.
#[derive(Debug)]
pub(super) enum Unkept {
    Io(io::Error),
    Unfit(TlsFault),
    OtherNames,
}

impl From<io::Error> for Unkept {
    fn from(error: io::Error) -> Unkept {
        Unkept::Io(error)
    }
}

impl From<TlsFault> for Unkept {
    fn from(fault: TlsFault) -> Unkept {
        Unkept::Unfit(fault)
    }
}

fn is_for(identity: &Identity, names: &[String]) -> bool {
    let found = identity.names();
    names.iter().all(|name| found.contains(name))
}

/// A time in seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The name of a directory's folder: what people read in it, without what a
/// folder cannot be called.
fn folder_of(directory: &str) -> String {
    let rest = directory.strip_prefix("https://").unwrap_or(directory);
    let plain = |it: char| match it.to_ascii_lowercase() {
        it if it.is_ascii_alphanumeric() || it == '.' => it,
        _ => '-',
    };
    let name: String = rest.chars().map(plain).take(FOLDER_MAX).collect();
    match name.trim_matches(['.', '-']) {
        "" => "authority".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::Folder;

    /// A key and a self-signed certificate of it.
    fn pem(name: &str) -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        key.serialize_pem() + &certificate.pem()
    }

    #[test]
    fn the_folder_is_named_after_the_directory_and_leads_nowhere_else() {
        for (directory, folder) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                "acme-v02.api.letsencrypt.org-directory",
            ),
            ("https://[::1]:14000/dir?a=b", "1--14000-dir-a-b"),
            ("https://..", "authority"),
            ("https:///", "authority"),
            ("https://../../etc", "etc"),
        ] {
            assert_eq!(folder_of(directory), folder, "{directory}");
        }
        assert!(folder_of(&"a".repeat(5000)).len() <= FOLDER_MAX);
    }

    #[test]
    fn one_has_the_lock_and_what_it_leaves_is_cleared() {
        let folder = Folder::new("acme-lock");
        let shelf = Shelf::new(&folder.0, "https://a.example/");
        let lock = shelf.lock().expect("writable").expect("nobody has it");
        shelf.answers().put("a.example", "x").expect("writable");
        assert!(shelf.lock().expect("writable").is_none());
        assert!(
            shelf.answers().find("a.example").is_some(),
            "who did not get it clears nothing"
        );
        drop(lock);
        assert!(shelf.answers().find("a.example").is_none());
        assert!(shelf.lock().expect("writable").is_some());
    }

    #[test]
    fn only_what_can_be_shown_and_is_for_the_names_is_kept() {
        let folder = Folder::new("acme-keep");
        let shelf = Shelf::new(&folder.0, "https://a.example/");
        let _lock = shelf.lock().expect("writable");
        let names = ["a.example".to_owned()];
        assert_eq!(shelf.kept(&names), None);
        let other = shelf.keep(&pem("b.example"), &names);
        assert!(matches!(other, Err(Unkept::OtherNames)), "{other:?}");
        let (one, two) = (pem("a.example"), pem("a.example"));
        let mixed = one
            .split_once("-----BEGIN CERT")
            .expect("a key first")
            .0
            .to_owned()
            + &two[two.find("-----BEGIN CERT").expect("a certificate")..];
        let mixed = shelf.keep(&mixed, &names);
        assert!(matches!(mixed, Err(Unkept::Unfit(_))), "{mixed:?}");
        assert_eq!(shelf.kept(&names), None);
        shelf.keep(&one, &names).expect("it is good");
        assert!(shelf.kept(&names).expect("kept").fits);
        let more = [names[0].clone(), "c.example".to_owned()];
        assert!(!shelf.kept(&more).expect("kept").fits);
    }

    #[test]
    fn all_of_it_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("acme-modes");
        let shelf = Shelf::new(&folder.0, "https://a.example/");
        let _lock = shelf.lock().expect("writable");
        let record = Failures {
            count: 2,
            at: 1,
            until: 3,
        };
        shelf.set_failures(Some(record)).expect("writable");
        assert_eq!(shelf.failures(), Some(record));
        shelf
            .keep(&pem("a.example"), &["a.example".to_owned()])
            .expect("good");
        shelf.answers().put("a.example", "x").expect("writable");
        let mut folders = vec![folder.0.clone()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("ours") {
                let path = entry.expect("ours").path();
                let mode = fs::metadata(&path).expect("ours").permissions().mode() & 0o777;
                match path.is_dir() {
                    true => {
                        assert_eq!(mode, 0o700, "{}", path.display());
                        folders.push(path);
                    }
                    false => {
                        assert_eq!(mode, 0o600, "{}", path.display());
                        files += 1;
                    }
                }
            }
        }
        assert_eq!(files, 4);
        shelf.set_failures(None).expect("removable");
        assert_eq!(shelf.failures(), None);
    }
}
