//! The database side: a small PostgreSQL client that behaves as Go's
//! `database/sql` over pgx does, with the habits a test may choose.
//!
//! A ready-made client is no use here: it has one protocol, not four, and it
//! does not leave a server in the middle of a query.

mod connection;
mod copy;
mod error;
mod login;
mod nodes;
mod pool;
mod query;
mod shelf;
mod target;
mod tls;
mod wire;

pub(crate) use connection::Connection;
pub(crate) use error::DbError;
pub(crate) use nodes::{Cluster, Need};
pub(crate) use pool::Limits;
pub(crate) use query::{Row, Value};
pub(crate) use target::Habits;

/// How statements travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proto {
    /// Named statements, prepared and described once per connection.
    Cached,
    /// The unnamed statement: Parse, Describe, Flush; then Bind, Execute, Sync.
    Unnamed,
    /// Parse, Bind, Describe, Execute and Sync in one flight.
    OneTrip,
    /// The simple protocol, parameters written into the text.
    Simple,
}

/// What becomes of a connection whose query nobody waits for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandon {
    /// The socket is closed at once.
    Drop,
    /// A cancel request is sent on a second connection, then it is closed.
    Cancel,
}
