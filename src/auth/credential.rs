//! A user's secret together with what has been computed from it.

use super::scram::{ScramKeys, Verifier};
use super::secret::{Plaintext, Secret};
use arc_swap::ArcSwapOption;
use std::sync::{Arc, OnceLock};

/// Salts of servers that one password's keys are kept for. More servers than
/// this under one user cost PBKDF2 now and then.
const MAX_SERVER_KEYS: usize = 16;

/// A stored secret and the keys derived from it so far.
///
/// Shared in an `Arc` by everything that logs this user in, on either side.
/// What is remembered belongs to this very secret: a changed secret is a new
/// credential that knows nothing yet. Each thing is written once; the exchanges'
/// answers do not depend on whether it was remembered or computed again.
#[derive(Debug)]
pub struct Credential {
    secret: Secret,
    /// A clear-text password that was found to match the hash in `secret`.
    typed: OnceLock<Arc<Credential>>,
    /// The verifier made up for a plain secret, to ask its client for SCRAM.
    ad_hoc: OnceLock<Verifier>,
    /// What a client's proof against a stored verifier revealed.
    passed_through: OnceLock<ScramKeys>,
    /// Keys derived from a plain secret for servers' salts, the oldest first.
    server_keys: ArcSwapOption<Vec<ServerKeys>>,
}

#[derive(Debug, Clone)]
struct ServerKeys {
    salt: Box<[u8]>,
    iterations: u32,
    keys: ScramKeys,
}

impl Credential {
    /// A credential that nothing has been derived from yet.
    pub fn new(secret: Secret) -> Self {
        Credential {
            secret,
            typed: OnceLock::new(),
            ad_hoc: OnceLock::new(),
            passed_through: OnceLock::new(),
            server_keys: ArcSwapOption::empty(),
        }
    }

    /// `old` if it holds this very secret, with all it remembers, else a new
    /// credential. For secrets that are fetched again and again (auth_query).
    pub fn renewed(old: &Arc<Credential>, secret: Secret) -> Arc<Credential> {
        if old.secret == secret {
            old.clone()
        } else {
            Arc::new(Credential::new(secret))
        }
    }

    /// The stored secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// ClientKey and ServerKey of a stored SCRAM verifier, known once a client
    /// has logged in with them. With these a server that holds the same
    /// verifier lets the pooler in (pass-through).
    pub fn scram_keys(&self) -> Option<&ScramKeys> {
        self.passed_through.get()
    }

    /// Remembers the keys a right proof revealed, to this process or to the one
    /// before it.
    pub fn pass_through(&self, keys: ScramKeys) {
        // All right proofs against one verifier reveal the same keys.
        let _ = self.passed_through.set(keys);
    }

    /// The verifier of a plain secret, if one has been made up.
    pub(super) fn ad_hoc(&self) -> Option<&Verifier> {
        self.ad_hoc.get()
    }

    /// Makes up the verifier of a plain secret, `password`, by PBKDF2. Whoever
    /// comes second waits for the first and takes its result.
    pub(super) fn make_ad_hoc(
        &self,
        password: &Plaintext,
        salt: &[u8],
        iterations: u32,
    ) -> &Verifier {
        let derive =
            || ScramKeys::derive(password.as_bytes(), salt, iterations).verifier(salt, iterations);
        self.ad_hoc.get_or_init(derive)
    }

    /// The keys for a server's salt, if they have been derived.
    pub(super) fn server_keys(&self, salt: &[u8], iterations: u32) -> Option<ScramKeys> {
        let all = self.server_keys.load();
        let known = all
            .as_ref()?
            .iter()
            .find(|known| known.is_for(salt, iterations))?;
        Some(known.keys.clone())
    }

    /// Keeps the keys for a server's salt, instead of the oldest if need be.
    pub(super) fn remember_server_keys(&self, salt: &[u8], iterations: u32, keys: &ScramKeys) {
        let new = ServerKeys {
            salt: salt.into(),
            iterations,
            keys: keys.clone(),
        };
        self.server_keys.rcu(|all| {
            let mut all: Vec<_> = all.iter().flat_map(|all| all.iter().cloned()).collect();
            all.retain(|known| !known.is_for(salt, iterations));
            if all.len() >= MAX_SERVER_KEYS {
                all.remove(0);
            }
            all.push(new.clone());
            Some(Arc::new(all))
        });
    }

    /// True if `password` has matched this secret before.
    pub(super) fn has_matched(&self, password: &Plaintext) -> bool {
        let typed = self.typed.get().map(|typed| typed.secret());
        matches!(typed, Some(Secret::Plain(known)) if known == password)
    }

    /// What can log in elsewhere once `password` has matched the secret: this
    /// credential if the secret is the password, else one that holds it.
    pub(super) fn matched(self: &Arc<Self>, password: Plaintext) -> Arc<Credential> {
        if matches!(self.secret, Secret::Plain(_)) {
            return self.clone();
        }
        let typed = || Arc::new(Credential::new(Secret::Plain(password)));
        self.typed.get_or_init(typed).clone()
    }
}

impl ServerKeys {
    fn is_for(&self, salt: &[u8], iterations: u32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(secret: &str) -> Arc<Credential> {
        Arc::new(Credential::new(Secret::parse(secret.as_bytes())))
    }

    #[test]
    fn an_unchanged_secret_keeps_its_credential() {
        let old = credential("foo");
        assert!(Arc::ptr_eq(
            &old,
            &Credential::renewed(&old, Secret::parse(b"foo"))
        ));
        assert!(!Arc::ptr_eq(
            &old,
            &Credential::renewed(&old, Secret::parse(b"bar"))
        ));
    }

    #[test]
    fn a_matched_password_is_remembered_beside_a_hash() {
        let stored = credential("md5ab8b744ff66bee42dc47bae34ca17959");
        let foo = Plaintext::new(*b"foo");
        assert!(!stored.has_matched(&foo));
        let first = stored.matched(foo.clone());
        assert_eq!(first.secret(), &Secret::Plain(foo.clone()));
        assert!(stored.has_matched(&foo));
        assert!(!stored.has_matched(&Plaintext::new(*b"bar")));
        assert!(Arc::ptr_eq(&first, &stored.matched(foo)));
    }

    #[test]
    fn a_plain_secret_is_its_own_password() {
        let stored = credential("foo");
        assert!(Arc::ptr_eq(
            &stored,
            &stored.matched(Plaintext::new(*b"foo"))
        ));
    }

    #[test]
    fn server_keys_are_kept_by_salt_and_iterations() {
        let stored = credential("foo");
        assert_eq!(stored.server_keys(b"salt", 2), None);
        let keys = ScramKeys::derive(b"foo", b"salt", 2);
        stored.remember_server_keys(b"salt", 2, &keys);
        assert_eq!(stored.server_keys(b"salt", 2), Some(keys));
        assert_eq!(stored.server_keys(b"salt", 3), None);
        assert_eq!(stored.server_keys(b"pepper", 2), None);
    }

    #[test]
    fn server_keys_are_bounded() {
        let stored = credential("foo");
        let keys = ScramKeys::derive(b"foo", b"salt", 1);
        for salt in 0..=MAX_SERVER_KEYS as u8 {
            stored.remember_server_keys(&[salt], 1, &keys);
            stored.remember_server_keys(&[salt], 1, &keys);
        }
        assert_eq!(stored.server_keys(&[0], 1), None);
        assert!((1..=MAX_SERVER_KEYS as u8).all(|salt| stored.server_keys(&[salt], 1).is_some()));
    }
}
