//! Why the pooler could not log in to a server.

use super::scram::ScramFault;
use std::fmt;

/// Why the pooler could not answer a server's authentication request, or would
/// not. `Display` is the line for the log.
///
/// A server that itself refuses the login says so by an ErrorResponse, which
/// is not seen here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The secret at hand cannot answer this method (`clear text`, `MD5`,
    /// `SCRAM`).
    WrongPasswordType(&'static str),
    /// The secret is a SCRAM verifier, and no client has yet revealed its keys.
    NoScramKeys,
    /// The server offers SASL without SCRAM-SHA-256.
    NoMechanism,
    /// The server does not know the password's keys: it is not who it should
    /// be.
    InvalidSignature,
    /// The server wants to skip proving that it knows the keys.
    NoSignature,
    /// A method that no secret can answer (GSSAPI, SSPI, Kerberos, unknown).
    UnsupportedMethod(u32),
    /// A request that cannot come at this point of the exchange.
    OutOfOrder(u32),
    /// The request is not what the protocol says.
    Malformed,
    /// The SCRAM message is refused.
    Scram(ScramFault),
}

impl Refusal {
    /// What the server is closed with in the log (`closing because`).
    pub const CLOSE_REASON: &'static str = "failed to answer authreq";

    /// The FATAL for every client that waits for a server of this pool;
    /// `None`: they go on waiting, as with PgBouncer.
    pub fn client_text(&self) -> Option<&'static str> {
        match self {
            Refusal::WrongPasswordType(_) | Refusal::NoScramKeys => {
                Some("server login failed: wrong password type")
            }
            Refusal::NoMechanism => Some(
                "server login failed: none of the server's SASL authentication mechanisms are supported",
            ),
            Refusal::InvalidSignature => Some("server login failed: invalid server signature"),
            Refusal::NoSignature => Some("server login failed: failed to verify server signature"),
            Refusal::UnsupportedMethod(_)
            | Refusal::OutOfOrder(_)
            | Refusal::Malformed
            | Refusal::Scram(_) => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::WrongPasswordType(method) => {
                write!(f, "cannot do {method} authentication: wrong password type")
            }
            Refusal::NoScramKeys => f.write_str(
                "cannot do SCRAM authentication: password is SCRAM secret but client authentication did not provide SCRAM keys",
            ),
            Refusal::NoMechanism => {
                f.write_str("none of the server's SASL authentication mechanisms are supported")
            }
            Refusal::InvalidSignature => f.write_str("invalid server signature"),
            Refusal::NoSignature => {
                f.write_str("server ended the SCRAM exchange without its signature")
            }
            Refusal::UnsupportedMethod(code) => {
                write!(f, "unknown/unsupported auth method: {code}")
            }
            Refusal::OutOfOrder(code) => {
                write!(f, "protocol error: authentication request {code} out of order")
            }
            Refusal::Malformed => f.write_str("malformed authentication request"),
            Refusal::Scram(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_pgbouncers_texts() {
        let texts = [
            (Refusal::NoScramKeys, "wrong password type"),
            (Refusal::WrongPasswordType("MD5"), "wrong password type"),
            (Refusal::InvalidSignature, "invalid server signature"),
            (Refusal::NoSignature, "failed to verify server signature"),
        ];
        for (refusal, text) in texts {
            let expected = format!("server login failed: {text}");
            assert_eq!(refusal.client_text(), Some(&*expected));
        }
        assert_eq!(Refusal::UnsupportedMethod(7).client_text(), None);
        assert_eq!(
            Refusal::UnsupportedMethod(7).to_string(),
            "unknown/unsupported auth method: 7"
        );
    }
}
