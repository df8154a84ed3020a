//! Why a command of the console is refused.

use crate::wire::backend;

/// A refused command. What the client is told are PgBouncer's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing the console knows; the query.
    Invalid(String),
    /// A word that is too long, or empty where it may not be.
    BadArguments,
    /// Only admins may.
    NeedsAdmin,
    /// SET of something that is no setting, or to what is no value of it.
    SetFailed,
    /// The configuration cannot be read.
    ReloadFailed,
    /// A cancel request ended it.
    Canceled,
    /// It cannot be done now, or not to that database or client.
    Refused(String),
}

impl Fault {
    /// The error's text.
    pub fn text(&self) -> String {
        match self {
            Fault::Invalid(query) => format!("invalid command '{query}', use SHOW HELP;"),
            Fault::BadArguments => "bad arguments".into(),
            Fault::NeedsAdmin => "admin access needed".into(),
            Fault::SetFailed => "SET failed".into(),
            Fault::ReloadFailed => "RELOAD failed, see logs for additional details".into(),
            Fault::Canceled => "canceling statement due to user request".into(),
            Fault::Refused(why) => why.clone(),
        }
    }

    /// The error's SQLSTATE.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            // config_file_error
            Fault::ReloadFailed => "F0000",
            // query_canceled
            Fault::Canceled => "57014",
            _ => backend::PROTOCOL_VIOLATION,
        }
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Fault {
        Fault::Refused(why.to_owned())
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Fault {
        Fault::Refused(why)
    }
}
