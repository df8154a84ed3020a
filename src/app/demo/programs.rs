//! Finding PostgreSQL's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The installed programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The newest of Debian's, or those on the PATH.
    ///
    /// # Errors
    /// There are none.
    pub fn find() -> Result<Programs, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let debian = newest_first(Path::new("/usr/lib/postgresql")).into_iter();
        let folders = debian
            .map(|folder| folder.join("bin"))
            .chain(std::env::split_paths(&path));
        let mut complete = folders.filter(|folder| {
            ["initdb", "postgres"]
                .iter()
                .all(|name| folder.join(name).is_file())
        });
        complete
            .find_map(|folder| {
                let said = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
                let major = major_version(&String::from_utf8_lossy(&said.stdout))?;
                Some(Programs { folder, major })
            })
            .ok_or_else(|| {
                "PostgreSQL is not installed: no initdb and postgres in /usr/lib/postgresql/*/bin or on the PATH; \
                 run scripts/setup, or install the package postgresql"
                    .to_owned()
            })
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn newest_first(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// The major version in the answer to `postgres --version`.
fn major_version(text: &str) -> Option<u32> {
    let number = text.split_once(") ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18devel\n"), Some(18));
        assert_eq!(major_version("postgres\n"), None);
    }
}
