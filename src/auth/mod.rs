//! Who may log in: authentication exchanges without I/O.
//!
//! Two exchanges, one for each side of the pooler. [`ClientExchange`] is
//! pgweir as the server of a client, [`ServerExchange`] is pgweir as the
//! client of PostgreSQL. Both take message bodies and return the next step;
//! a state is consumed by the message it handles. Nothing here reads a
//! socket, a clock or a file, and randomness is an argument.
//!
//! The one slow computation, PBKDF2, is a step of its own (`Derive`), so that
//! the caller can run it away from the workers. Its results are remembered in
//! the [`Credential`] they were made from, so it is run once for a secret and
//! not once for a login.
//!
//! Only this module can make an [`Authenticated`], so whoever holds one has
//! passed the check.
//!
//! Message formats: PostgreSQL documentation, "Message Formats" and "SASL
//! Authentication"; SCRAM: RFC 5802 and RFC 7677.

mod authenticated;
mod client;
mod credential;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
pub mod hba;
pub mod ldap;
mod md5;
mod message;
mod random;
mod reason;
mod refusal;
mod scram;
mod secret;
mod server;
mod userlist;

pub use authenticated::{Authenticated, CertificateNames};
pub use client::{
    ClientDerivation, ClientExchange, ClientStep, Method, ScramSettings, ask_password,
    read_password,
};
pub use credential::Credential;
pub use md5::Md5Hash;
pub use message::LoginMessage;
pub use random::os_random;
pub use reason::{Cause, CertificateFault, PeerFault, Reason};
pub use refusal::Refusal;
pub use scram::{
    MAX_ITERATIONS, MAX_NONCE_BYTES, MAX_SALT_BYTES, MAX_SASL_BYTES, ScramFault, ScramKeys,
    Verifier,
};
pub use secret::{MAX_PASSWORD_BYTES, Plaintext, Secret};
pub use server::{LoggedIn, ServerDerivation, ServerExchange, ServerStep};
pub use userlist::{MAX_USER_BYTES, UserList, UserListError, UserListFault};

/// Compares two secrets in a time that depends on their lengths only, and not
/// on where they differ.
///
/// Both are hashed first: comparing slices directly would answer at once when
/// the lengths differ, and so tell the length of the stored secret.
pub(crate) fn same_secret(left: &[u8], right: &[u8]) -> bool {
    use sha2::{Digest, Sha256};
    use subtle::ConstantTimeEq;
    Sha256::digest(left).ct_eq(&Sha256::digest(right)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_any_lengths_compare_by_content() {
        assert!(same_secret(b"", b""));
        assert!(same_secret(b"foo", b"foo"));
        assert!(!same_secret(b"foo", b"fo"));
        assert!(!same_secret(b"foo", b"bar"));
    }
}
