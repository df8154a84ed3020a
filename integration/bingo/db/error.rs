//! What goes wrong between the application and its database.

use std::fmt;
use std::io;

use postgres_protocol::message::backend::ErrorResponseBody;
use tokio_postgres::fallible_iterator::FallibleIterator;

/// Why the database gave no answer, or gave an error for one.
#[derive(Debug)]
pub(crate) enum DbError {
    /// The socket failed or the server closed it.
    Io(io::Error),
    /// TLS could not be agreed on, or its files are unusable.
    Tls(String),
    /// The server asks for a login this client cannot do.
    Login(String),
    /// The server answered with an error.
    Server { code: String, message: String },
    /// The server sent what the protocol does not allow here.
    Protocol(String),
    /// It took longer than it may.
    Timeout(&'static str),
    /// No node is fit for the request.
    NoNode,
}

impl DbError {
    /// The error a server reported.
    pub(super) fn from_response(body: &ErrorResponseBody) -> DbError {
        let (mut code, mut message) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => code = text(),
                b'M' => message = text(),
                _ => {}
            }
        }
        DbError::Server { code, message }
    }

    /// Whether this is the server's error with this SQLSTATE.
    pub(super) fn has_code(&self, state: &str) -> bool {
        matches!(self, DbError::Server { code, .. } if code == state)
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DbError::Io(error) => write!(f, "connection: {error}"),
            DbError::Tls(text) => write!(f, "tls: {text}"),
            DbError::Login(text) => write!(f, "login: {text}"),
            DbError::Server { code, message } => write!(f, "server: {message} (SQLSTATE {code})"),
            DbError::Protocol(text) => write!(f, "protocol: {text}"),
            DbError::Timeout(what) => write!(f, "timeout: {what}"),
            DbError::NoNode => write!(f, "no node of the cluster is fit for this"),
        }
    }
}

impl From<io::Error> for DbError {
    fn from(error: io::Error) -> DbError {
        match error.kind() {
            io::ErrorKind::InvalidInput => DbError::Protocol(error.to_string()),
            _ => DbError::Io(error),
        }
    }
}
