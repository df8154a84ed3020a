//! The proof that a client has passed its check.

use super::credential::Credential;
use super::scram::ScramKeys;
use super::secret::{Plaintext, Secret};
use std::sync::Arc;

/// A client that may log in as [`user`](Authenticated::user).
///
/// Made only by this module's exchanges, so holding one is the proof.
#[derive(Debug, Clone)]
pub struct Authenticated {
    user: Box<str>,
    credential: Option<Arc<Credential>>,
}

impl Authenticated {
    pub(super) fn new(user: Box<str>, credential: Option<Arc<Credential>>) -> Self {
        Authenticated { user, credential }
    }

    /// Admits user `pgbouncer` on the console's Unix socket without a
    /// password, if the process at the other end runs as the same OS user
    /// (`peer_uid` from SO_PEERCRED, `own_uid` the pooler's).
    pub fn console_peer(user: &str, peer_uid: u32, own_uid: u32) -> Option<Self> {
        let admitted = user == "pgbouncer" && peer_uid == own_uid;
        admitted.then(|| Authenticated::new(user.into(), None))
    }

    /// The name that was proven (with `auth_type=any`: merely said).
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What a [`ServerExchange`](super::ServerExchange) may log in with for
    /// this client where no forced user says otherwise.
    ///
    /// After `plain` it holds the password that was typed, whatever kind of
    /// secret it matched; after SCRAM against a stored verifier it remembers
    /// the keys for pass-through; else it is the stored secret. `None` if the
    /// user has none (`any`, the console's peer).
    pub fn credential(&self) -> Option<&Arc<Credential>> {
        self.credential.as_ref()
    }

    /// The password in the clear, if it is known.
    pub fn password(&self) -> Option<&Plaintext> {
        match self.credential.as_ref()?.secret() {
            Secret::Plain(password) if !password.is_empty() => Some(password),
            _ => None,
        }
    }

    /// The SCRAM keys for pass-through, if this client or one before it
    /// revealed them.
    pub fn scram_keys(&self) -> Option<&ScramKeys> {
        self.credential.as_ref()?.scram_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_admits_its_own_uid_only() {
        assert!(Authenticated::console_peer("pgbouncer", 70, 70).is_some());
        assert!(Authenticated::console_peer("pgbouncer", 71, 70).is_none());
        assert!(Authenticated::console_peer("postgres", 70, 70).is_none());
    }
}
