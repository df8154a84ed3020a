//! TLS, towards clients and towards servers.
//!
//! [`Tls`] is what the configuration says: which side may or must use it, with
//! which certificate, and what is asked of the other side's. It is made from
//! the settings before anything changes, so that wrong files never replace
//! right ones. [`Identity`] is what a web site shows. [`Session`] is one
//! connection's: ciphertext in, plain bytes out, and back.

mod certificate;
mod cipher;
mod client_side;
mod directory;
mod end_point;
mod fault;
mod files;
#[cfg(test)]
mod folder;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod handshake;
mod hearing;
mod identity;
#[cfg(any(fuzzing, test))]
mod samples;
mod self_signed;
mod server_side;
mod session;
mod settings;
mod trust;
#[cfg(feature = "acme")]
mod validation;

pub use certificate::Certificate;
pub use cipher::Cipher;
pub use client_side::{ClientSide, Offer};
pub use fault::TlsFault;
pub use files::replace as replace_file;
#[cfg(test)]
pub(crate) use folder::Folder;
pub use handshake::{HandshakeError, ServerTarget};
pub use hearing::Hearing;
pub use identity::{Identity, IdentityFiles};
pub use self_signed::keep as keep_self_signed;
pub use server_side::{Answer, ServerSide};
pub(super) use session::Session;

use crate::config::Pgbouncer;

/// The protocol that direct TLS connections have to ask for (ALPN).
pub const ALPN: &[u8] = b"postgresql";

/// The protocol of a handshake by which an authority sees that a name is ours,
/// which asks for no other (ALPN; RFC 8737, section 6.2). Nothing is said after
/// it.
pub const VALIDATION: &[u8] = b"acme-tls/1";

/// The first byte of a TLS handshake.
pub const HANDSHAKE: u8 = 0x16;

/// TLS as the configuration wants it.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Towards clients (`client_tls_*`).
    pub clients: ClientSide,
    /// Towards servers (`server_tls_*`).
    pub servers: ServerSide,
}

impl Tls {
    /// Reads the files that the settings name. Answers also what works, but
    /// not as it is written.
    ///
    /// # Errors
    /// The first setting that cannot be followed.
    pub fn load(settings: &Pgbouncer) -> Result<(Tls, Vec<TlsFault>), TlsFault> {
        let mut notes = Vec::new();
        let servers = ServerSide::load(settings, &mut notes)?;
        let clients = ClientSide::load(settings, &mut notes)?;
        Ok((Tls { clients, servers }, notes))
    }
}
