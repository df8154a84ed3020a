//! What one process tells the next that takes its connections over: plain
//! data, as JSON.
//!
//! Descriptors go with `SHOW FDS`, in PgBouncer's columns, so that PgBouncer
//! and pgweir can follow each other either way. What PgBouncer's columns have
//! no room for is here, in `SHOW HANDOVER`, by the number of the descriptor.
//!
//! What there is of a balancer goes with `SHOW BALANCER`, see [`front`].

pub mod front;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Raised by every change that an older pgweir would misunderstand.
pub const FORMAT: u32 = 1;

/// Name and value.
pub type Pair = (String, String);

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Row {
    /// The first one.
    Format {
        /// [`FORMAT`] of who tells.
        format: u32,
        /// No statement has a higher number.
        last_statement: u64,
        /// Where cancel requests go for clients that cannot be handed over:
        /// abstract Unix sockets of who tells, and of those before it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        cancels: Vec<String>,
    },
    /// A prepared statement that clients or servers have.
    Statement(Statement),
    /// A pool.
    Pool(Pool),
    /// A client.
    Client(Client),
    /// A server.
    Server(Server),
}

/// A prepared statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Its number, which is in its name on servers.
    pub id: u64,
    /// By SQL's PREPARE, not by Parse.
    pub sql: bool,
    /// What it is made of.
    pub definition: Vec<u8>,
    /// A server has accepted it.
    pub proven: bool,
    /// Who prepares its text anew gets another one.
    pub outdated: bool,
}

/// What clients of a pool are greeted with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The database entry.
    pub database: String,
    /// The user of its servers.
    pub user: String,
    /// Every parameter a server reported at login.
    pub reported: Vec<Pair>,
}

/// A client, beyond what SHOW FDS has of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Its descriptor's number there.
    pub fd: i32,
    /// Microseconds since it connected.
    pub age: u64,
    /// What it called itself at login.
    pub application_name: String,
    /// The tracked parameters.
    pub parameters: Vec<Pair>,
    /// Its names for statements, and their numbers.
    pub statements: Vec<(Vec<u8>, u64)>,
    /// Microseconds since its transaction began, if it is in one.
    pub transaction_age: Option<u64>,
    /// Microseconds since its query began, or its last answer ended.
    pub request_age: u64,
    /// A query of its is running.
    pub querying: bool,
    /// What of its cancel key follows the 8 bytes in SHOW FDS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rest: Option<Box<[u8]>>,
}

/// A server, beyond what SHOW FDS has of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Its descriptor's number there.
    pub fd: i32,
    /// The host it was reached by, and its port.
    pub host: (String, u16),
    /// Microseconds since it was connected.
    pub age: u64,
    /// Microseconds since it was last given to a client.
    pub request_age: u64,
    /// It is to be closed when it is next free.
    pub marked: bool,
    /// The tracked parameters.
    pub parameters: Vec<Pair>,
    /// The numbers of the statements it has, the least recently used first.
    pub statements: Vec<u64>,
    /// Where the conversation with it stands.
    pub exchange: Exchange,
    /// What of its cancel key follows the 8 bytes in SHOW FDS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rest: Option<Box<[u8]>>,
}

/// Where the conversation with a server stands, between two messages.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Exchange {
    /// What it owes, first things first.
    pub owed: Vec<Owed>,
    /// The status of its last ReadyForQuery.
    pub status: char,
    /// A COPY that goes on.
    pub copying: Copying,
    /// It discards everything up to the next Sync.
    pub skipping: bool,
    /// There are requests that no Sync has closed.
    pub unsynced: bool,
    /// ReadyForQuery that may come or not.
    pub doubt: u32,
    /// It must not be reused.
    pub tainted: bool,
    /// It is not known what is owed; whether a Sync is missing.
    pub foreign: Option<bool>,
}

/// A COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copying {
    /// None.
    #[default]
    No,
    /// From the client.
    In {
        /// The client has ended it.
        ended: bool,
        /// Syncs that came meanwhile.
        swallowed: u32,
    },
    /// To the client.
    Out,
    /// Both ways.
    Both,
}

/// A request that is not answered yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owed {
    /// Query.
    Query,
    /// FunctionCall.
    FunctionCall,
    /// Sync.
    Sync,
    /// Parse.
    Parse(Option<Tracked>),
    /// Bind, with its statement.
    Bind(Option<u64>),
    /// Describe, with its statement.
    Describe(Option<u64>),
    /// Execute.
    Execute,
    /// Close.
    Close(Option<Tracked>),
    /// CopyDone or CopyFail.
    CopyEnd,
}

/// The statement a Parse or Close is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tracked {
    /// Its number.
    pub statement: u64,
    /// The client's name for it.
    pub name: Option<Vec<u8>>,
    /// What the name meant before.
    pub before: Option<u64>,
}

/// What follows the 8 bytes of a cancel key in SHOW FDS, if anything does.
pub fn some_rest(rest: &[u8]) -> Option<Box<[u8]>> {
    (!rest.is_empty()).then(|| rest.into())
}

/// A row as text.
pub fn to_text(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("its keys are strings and its numbers finite")
}

/// A row, read from text.
///
/// # Errors
/// It is none.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let tracked = Tracked {
            statement: 3,
            name: Some(b"s\xff".to_vec()),
            before: None,
        };
        let exchange = Exchange {
            owed: vec![Owed::Parse(Some(tracked)), Owed::Bind(Some(3)), Owed::Sync],
            status: 'T',
            copying: Copying::In {
                ended: false,
                swallowed: 2,
            },
            ..Exchange::default()
        };
        let row = Row::Server(Server {
            fd: 7,
            host: ("h".into(), 5432),
            age: u64::MAX,
            request_age: 1,
            marked: true,
            parameters: vec![("TimeZone".into(), "UTC".into())],
            statements: vec![1, 2],
            exchange,
            key_rest: Some([3; 28].into()),
        });
        assert_eq!(read::<Row>(&to_text(&row)).expect("a row"), row);
    }

    #[test]
    fn the_format_stays_readable_for_older_ones() {
        let row = Row::Format {
            format: 1,
            last_statement: 2,
            cancels: Vec::new(),
        };
        let text = r#"{"row":"format","format":1,"last_statement":2}"#;
        assert_eq!(to_text(&row), text);
    }
}
