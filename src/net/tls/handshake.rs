//! How a handshake begins and ends.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error};

/// How to speak TLS to a server.
#[derive(Debug, Clone)]
pub struct ServerTarget {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

/// Why a handshake failed. Displays as the rest of a log line; certificates
/// that are not trusted as OpenSSL's `certificate verify failed`.
#[derive(Debug)]
pub enum HandshakeError {
    /// The socket's, or the other side went.
    Io(io::Error),
    /// The two sides do not agree, or one does not trust the other.
    Refused(Error),
    /// The settings leave no version of TLS that there is.
    NoVersion,
    /// The host's name is none that a certificate can have.
    NoName(String),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> HandshakeError {
        HandshakeError::Io(error)
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> HandshakeError {
        HandshakeError::Refused(error)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the other side closed the connection")
            }
            HandshakeError::Io(error) => error.fmt(f),
            HandshakeError::Refused(Error::InvalidCertificate(why)) => match why {
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    f.write_str("certificate verify failed: it does not name this host")
                }
                CertificateError::UnknownIssuer => {
                    f.write_str("certificate verify failed: no known authority has signed it")
                }
                why => write!(f, "certificate verify failed: {why}"),
            },
            HandshakeError::Refused(error) => error.fmt(f),
            HandshakeError::NoVersion => {
                f.write_str("the settings allow neither TLS 1.2 nor TLS 1.3")
            }
            HandshakeError::NoName(name) => {
                write!(
                    f,
                    "certificate verify failed: no certificate can name \"{name}\""
                )
            }
        }
    }
}

impl std::error::Error for HandshakeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrusted_certificate_is_told_in_openssls_words() {
        let issuer = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let text = HandshakeError::from(issuer).to_string();
        assert!(text.starts_with("certificate verify failed: "), "{text}");
    }
}
