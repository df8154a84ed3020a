//! One logged-in connection, and the state that says whether it may be used
//! again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::Abandon;
use super::error::DbError;
use super::login::{self, Identity};
use super::target::{CancelKey, Target};
use super::tls::Way;
use super::wire::Wire;

/// How long opening a connection may take, login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a polite goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to one host.
pub(crate) struct Connection {
    pub(super) target: Arc<Target>,
    pub(super) way: Way,
    pub(super) key: Option<CancelKey>,
    pub(super) wire: Wire,
    pub(super) state: State,
    /// The names of the prepared statements by their text.
    pub(super) prepared: HashMap<String, String>,
    /// Prepared statements no longer good for anything.
    pub(super) stale: Vec<String>,
    /// How many names were given out.
    pub(super) names: u32,
}

/// Where the conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Outside a transaction, nothing owed.
    Ready,
    /// Inside a transaction, nothing owed.
    InTransaction,
    /// An answer is owed.
    Busy,
    /// Of no more use.
    Broken,
}

impl Connection {
    /// Connects and logs in, by the ways the target allows.
    pub(crate) async fn open(target: &Arc<Target>) -> Result<Connection, DbError> {
        let attempt = Box::pin(Connection::open_any(target));
        tokio::time::timeout(CONNECT_TIMEOUT, attempt)
            .await
            .map_err(|_| DbError::Timeout("connecting and logging in"))?
    }

    async fn open_any(target: &Arc<Target>) -> Result<Connection, DbError> {
        let mut outcome = Err(DbError::NoNode);
        for way in target.ways {
            outcome = Connection::open_by(target, *way).await;
            match &outcome {
                // No entry in pg_hba.conf: the other way may have one.
                Err(error) if error.has_code("28000") => {}
                Err(DbError::Server { .. }) | Ok(_) => return outcome,
                Err(_) => {}
            }
        }
        outcome
    }

    async fn open_by(target: &Arc<Target>, way: Way) -> Result<Connection, DbError> {
        let mut wire = Wire::new(target.socket(way).await?);
        let who = Identity {
            user: &target.user,
            password: &target.password,
            database: &target.database,
        };
        let key = login::login(&mut wire, who).await?;
        Ok(Connection {
            target: target.clone(),
            way,
            key,
            wire,
            state: State::Ready,
            prepared: HashMap::new(),
            stale: Vec::new(),
            names: 0,
        })
    }

    /// Whether the connection may serve somebody else.
    pub(super) fn is_clean(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether nothing has happened to it while it was idle.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.wire.is_quiet()
    }

    /// Waits until the server ends the connection.
    pub(crate) async fn closed(&mut self) {
        while self.next().await.is_ok() {}
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        let goodbye = async {
            frontend::terminate(&mut self.wire.outgoing);
            if self.wire.send().await.is_ok() {
                self.wire.shutdown().await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, goodbye).await;
    }

    /// Asks the server to stop what it does, then leaves it without a word.
    pub(super) async fn cancel(self) {
        if let Some(key) = self.key {
            self.target.cancel(self.way, key).await;
        }
    }

    /// Whether the server is to be told when this connection is given up now.
    pub(super) fn cancels(&self) -> bool {
        self.state == State::Busy && self.target.habits.abandon == Abandon::Cancel
    }

    /// The next message; a failure breaks the connection.
    pub(super) async fn next(&mut self) -> Result<Message, DbError> {
        let message = self.wire.receive().await;
        if message.is_err() {
            self.state = State::Broken;
        }
        message
    }

    pub(super) fn out_of_place(&mut self) -> DbError {
        self.state = State::Broken;
        DbError::Protocol("a message out of place".into())
    }
}
