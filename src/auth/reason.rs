//! Why a client was refused: one text for the client, another for the log.

use super::scram::ScramFault;
use std::fmt;

/// Why a client was refused. `Display` is the line for the log.
///
/// What the client is told does not say whether the user exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `trust`, and nobody knows the user.
    Trust {
        /// The name that was given.
        user: Box<str>,
    },
    /// `plain` or `md5` failed.
    Password(Cause),
    /// The password message holds an empty password.
    EmptyPassword,
    /// Not SCRAM-SHA-256.
    Mechanism,
    /// SCRAM failed.
    Sasl(Cause),
    /// The certificate does not do.
    Certificate(CertificateFault),
    /// The user at the other end of the Unix socket does not do.
    Peer(PeerFault),
    /// A directory does not let the user in, or could not be asked.
    Ldap(Box<str>),
    /// PAM does not let the user in, or could not be asked.
    Pam(Box<str>),
    /// A rule turns the client away.
    Rejected {
        /// The rule's line in the HBA file.
        line: usize,
    },
    /// No rule of the HBA file fits.
    NoRule,
}

/// Why a certificate does not let a user in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    /// The client does not use TLS, or presented none.
    Missing,
    /// Nobody knows the user of this name.
    NoSuchUser(Box<str>),
    /// It is for somebody else.
    OtherName,
    /// This ident map does not connect it with the user.
    NotMapped(Box<str>),
}

/// Why a Unix socket does not let a user in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerFault {
    /// It is none, or nobody knows the system user at its other end.
    NoSystemUser,
    /// Nobody knows the user of this name.
    NoSuchUser(Box<str>),
    /// The system user has another name.
    OtherName,
    /// This ident map does not connect the system user with the user.
    NotMapped(Box<str>),
}

/// What exactly failed. For the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nobody knows the user of this name.
    NoSuchUser(Box<str>),
    /// The user has no password, or an empty one.
    NoPassword(Box<str>),
    /// The proof or password is not that of the user's secret.
    WrongPassword,
    /// SCRAM cannot be done with an MD5 hash.
    Md5Secret,
    /// PBKDF2 would have to run more often than
    /// [`MAX_ITERATIONS`](super::MAX_ITERATIONS).
    TooManyIterations,
    /// The message is not what the protocol says.
    Malformed(&'static str),
    /// The SCRAM message is refused.
    Scram(ScramFault),
}

impl Reason {
    /// SQLSTATE of every refusal here, `protocol_violation` as PgBouncer says.
    pub const SQLSTATE: &'static str = "08P01";

    /// The message of the FATAL that the client gets; PgBouncer's, exactly. It
    /// is also the reason in the `closing because` log line.
    pub fn client_text(&self) -> &'static str {
        match self {
            Reason::Trust { .. } => "\"trust\" authentication failed",
            Reason::Password(_) => "password authentication failed",
            Reason::EmptyPassword => "empty password returned by client",
            Reason::Mechanism => "client selected an invalid SASL authentication mechanism",
            Reason::Sasl(_) => "SASL authentication failed",
            Reason::Certificate(_) => "certificate authentication failed",
            Reason::Peer(_) => "unix socket login rejected",
            Reason::Ldap(_) => "LDAP authentication failed",
            Reason::Pam(_) => "PAM authentication failed",
            Reason::Rejected { .. } => "login rejected",
            Reason::NoRule => "no authentication method is found",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Trust { user } => write!(f, "no such user: {user}"),
            Reason::Password(cause) | Reason::Sasl(cause) => cause.fmt(f),
            Reason::EmptyPassword | Reason::Mechanism | Reason::NoRule => {
                f.write_str(self.client_text())
            }
            Reason::Certificate(fault) => fault.fmt(f),
            Reason::Peer(fault) => fault.fmt(f),
            Reason::Ldap(why) | Reason::Pam(why) => f.write_str(why),
            Reason::Rejected { line } => write!(f, "rejected by hba line {line}"),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateFault::Missing => f.write_str("TLS client certificate required"),
            CertificateFault::NoSuchUser(user) => write!(f, "no such user: {user}"),
            CertificateFault::OtherName => f.write_str("TLS certificate name mismatch"),
            CertificateFault::NotMapped(map) => {
                write!(f, "ident map: {map} does not have a match")
            }
        }
    }
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerFault::NoSystemUser => f.write_str("no system user at a Unix socket's other end"),
            PeerFault::NoSuchUser(user) => write!(f, "no such user: {user}"),
            PeerFault::OtherName => f.write_str("the system user has another name"),
            PeerFault::NotMapped(map) => write!(f, "ident map {map} cannot be matched"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoSuchUser(user) => write!(f, "no such user: {user}"),
            Cause::NoPassword(user) => write!(f, "user has no password: {user}"),
            Cause::WrongPassword => f.write_str("password authentication failed"),
            Cause::Md5Secret => f.write_str("SCRAM authentication failed: user has MD5 secret"),
            Cause::TooManyIterations => {
                f.write_str("iteration count of the SCRAM secret is too high")
            }
            Cause::Malformed(what) => f.write_str(what),
            Cause::Scram(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_not_told_that_the_user_is_unknown() {
        let unknown = Reason::Password(Cause::NoSuchUser("nobody".into()));
        let wrong = Reason::Password(Cause::WrongPassword);
        assert_eq!(unknown.client_text(), wrong.client_text());
        assert_eq!(unknown.to_string(), "no such user: nobody");
    }
}
