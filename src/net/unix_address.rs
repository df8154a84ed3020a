//! Where a Unix socket of PostgreSQL's kind is.

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;

/// The Unix socket `DIRECTORY/.s.PGSQL.PORT`. With a directory that begins with
/// `@` it is one of the abstract name space, which has no files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixAddress {
    directory: String,
    port: u16,
}

impl UnixAddress {
    /// The one in this directory, as `unix_socket_dir` and `host` have it.
    pub fn new(directory: &str, port: u16) -> UnixAddress {
        UnixAddress {
            directory: directory.to_owned(),
            port,
        }
    }

    /// The number in its name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its file; none in the abstract name space.
    pub fn path(&self) -> Option<PathBuf> {
        (!self.directory.starts_with('@')).then(|| self.name().into())
    }

    /// What its existence says that a PostgreSQL server has the number; none in
    /// the abstract name space.
    pub fn lock_file(&self) -> Option<PathBuf> {
        self.path().map(|_| format!("{}.lock", self.name()).into())
    }

    /// As the system wants it.
    ///
    /// # Errors
    /// The name is too long.
    pub fn socket_addr(&self) -> io::Result<SocketAddr> {
        match self.name().strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(self.name()),
        }
    }

    fn name(&self) -> String {
        format!("{}/.s.PGSQL.{}", self.directory, self.port)
    }
}

/// As PgBouncer's log has it: `unix:DIRECTORY/.s.PGSQL.PORT`.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_one_has_no_file() {
        let abstract_one = UnixAddress::new("@pgb", 6432);
        assert_eq!(abstract_one.path(), None);
        let address = abstract_one.socket_addr().expect("short");
        assert_eq!(address.as_abstract_name(), Some(&b"pgb/.s.PGSQL.6432"[..]));
        assert_eq!(abstract_one.lock_file(), None);
        assert_eq!(abstract_one.to_string(), "unix:@pgb/.s.PGSQL.6432");
        let file = UnixAddress::new("/run", 1);
        assert_eq!(file.path(), Some("/run/.s.PGSQL.1".into()));
        assert_eq!(file.lock_file(), Some("/run/.s.PGSQL.1.lock".into()));
        assert!(UnixAddress::new(&"x".repeat(200), 1).socket_addr().is_err());
    }
}
