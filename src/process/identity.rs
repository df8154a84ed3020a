//! Who the process runs as.

use std::fmt;

use nix::unistd::{User, initgroups, setgid, setuid};

/// Why the process could not become who it should be.
#[derive(Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// There is no such user.
    NoSuchUser(String),
    /// The system did not allow it.
    Refused {
        /// The user.
        user: String,
        /// What the system said.
        error: nix::Error,
    },
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::NoSuchUser(user) => {
                write!(f, "could not find user '{user}' to switch to")
            }
            IdentityError::Refused { user, error } => {
                write!(f, "could not switch to user '{user}': {error}")
            }
        }
    }
}

impl std::error::Error for IdentityError {}

/// Whether the process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Becomes `user`, with its groups. Before any thread is started.
///
/// # Errors
/// See [`IdentityError`].
pub fn switch_user(user: &str) -> Result<(), IdentityError> {
    let refused = |error| IdentityError::Refused {
        user: user.to_owned(),
        error,
    };
    let found = User::from_name(user)
        .map_err(refused)?
        .ok_or_else(|| IdentityError::NoSuchUser(user.to_owned()))?;
    if found.uid == nix::unistd::geteuid() {
        return Ok(());
    }
    let name =
        std::ffi::CString::new(user).map_err(|_| IdentityError::NoSuchUser(user.to_owned()))?;
    initgroups(&name, found.gid).map_err(refused)?;
    setgid(found.gid).map_err(refused)?;
    setuid(found.uid).map_err(refused)
}

/// Leaves the terminal (`-d`): new session, standard streams to the null
/// device. Before any thread is started.
///
/// # Errors
/// The system's.
pub fn daemonise() -> std::io::Result<()> {
    nix::unistd::daemon(true, false).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let error = switch_user("no-such-user-here").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "could not find user 'no-such-user-here' to switch to"
        );
    }
}
