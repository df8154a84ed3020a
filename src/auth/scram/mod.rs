//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it: with or without
//! channel binding to the server's certificate (RFC 5929), and the user name
//! of the messages is ignored.

mod fault;
mod keys;
pub(super) mod messages;

pub use fault::ScramFault;
pub use keys::{ScramKeys, Verifier};

pub(super) use keys::{Transcript, hmac};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The mechanism without channel binding.
pub(super) const MECHANISM: &[u8] = b"SCRAM-SHA-256";

/// The mechanism with channel binding.
pub(super) const MECHANISM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// Largest SASL message of a peer, in bytes.
pub const MAX_SASL_BYTES: usize = 64 * 1024;

/// Longest nonce of a peer, in bytes; on the server's side with ours in it.
pub const MAX_NONCE_BYTES: usize = 1024;

/// Longest salt of a server, in bytes.
pub const MAX_SALT_BYTES: usize = 1024;

/// Most PBKDF2 iterations that are computed for anybody: about a second.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Random bytes of a salt made here, as many as PostgreSQL's.
pub(super) const SALT_BYTES: usize = 16;

/// Random bytes of a nonce made here, as many as PostgreSQL's.
pub(super) const NONCE_BYTES: usize = 18;

/// A nonce for the messages: printable and without commas.
pub(super) fn nonce(random: [u8; NONCE_BYTES]) -> String {
    STANDARD.encode(random)
}
