//! Who the demo's children run as.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use nix::unistd::User;
use tokio::process::Command;

use crate::process::is_root;

/// Accounts for the children of root, best first. PostgreSQL refuses to run as
/// root, and so does bingo.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// What of the environment children get. The rest may hold secrets, or
/// settings of libpq that are not meant for them.
const ENVIRONMENT: [&str; 3] = ["PATH", "LANG", "TZ"];

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, for people.
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// It is not the one this process runs under.
    pub switch: bool,
}

impl Account {
    /// The account for the children: this process's own, or for root an
    /// unprivileged one.
    ///
    /// # Errors
    /// There is no such account.
    pub fn find() -> Result<Account, String> {
        if is_root() {
            let user = UNPRIVILEGED
                .iter()
                .find_map(|name| User::from_name(name).ok().flatten())
                .ok_or("this is root, and there is no user postgres or nobody to run as; run it as another user")?;
            return Ok(Account::of(&user, true));
        }
        let uid = nix::unistd::geteuid();
        let user = User::from_uid(uid).ok().flatten();
        Ok(user.map_or_else(
            || Account {
                name: uid.to_string(),
                uid: uid.as_raw(),
                gid: nix::unistd::getegid().as_raw(),
                switch: false,
            },
            |user| Account::of(&user, false),
        ))
    }

    fn of(user: &User, switch: bool) -> Account {
        Account {
            name: user.name.clone(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            switch,
        }
    }

    /// A command under this account, in `folder`, in a process group of its own
    /// so that a Ctrl-C at the terminal does not reach it, that gets the signal
    /// `death` when the thread that starts it ends.
    pub fn command(&self, program: &Path, folder: &Path, death: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(self.privileges(death))
            .arg("--")
            .arg(program)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|&name| {
                let value = std::env::var_os(name)?;
                Some((OsStr::new(name), value))
            }))
            .env("HOME", folder)
            .current_dir(folder)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// setpriv(1) sets the death signal last: a change of the user would reset
    /// it.
    fn privileges(&self, death: &str) -> Vec<String> {
        let mut options = vec![format!("--pdeathsig={death}")];
        if self.switch {
            options.push(format!("--reuid={}", self.uid));
            options.push(format!("--regid={}", self.gid));
            options.push("--clear-groups".to_owned());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_switches_the_user() {
        let mut account = Account {
            name: "me".to_owned(),
            uid: 7,
            gid: 8,
            switch: false,
        };
        assert_eq!(account.privileges("KILL"), ["--pdeathsig=KILL"]);
        account.switch = true;
        assert_eq!(
            account.privileges("QUIT"),
            [
                "--pdeathsig=QUIT",
                "--reuid=7",
                "--regid=8",
                "--clear-groups"
            ]
        );
    }
}
