//! Folders for tests of what keeps certificates.

use std::fs;
use std::path::PathBuf;

/// A folder for one test, which makes it; gone when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("pgweir-{name}-{}", std::process::id()));
        let _old = fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}
