//! What counts a client in the pooler's books, for as long as it is there.

use std::sync::Arc;

use crate::client::session::End;
use crate::pool::{Bouncer, Client, Database, Place, User};

/// A client socket, counted for `max_client_conn` while this lives.
#[derive(Debug)]
pub struct Socket(Arc<Bouncer>);

impl Socket {
    /// Counts one more.
    pub fn new(bouncer: Arc<Bouncer>) -> Socket {
        bouncer.client_sockets.take(0);
        Socket(bouncer)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.client_sockets.give();
    }
}

/// A logged-in client's entries in the pooler's books.
#[derive(Debug)]
pub struct Registration {
    pub(super) client: Arc<Client>,
    pub(super) bouncer: Arc<Bouncer>,
    pub(super) _places: Places,
    pub(super) _socket: Socket,
}

impl Registration {
    /// Enters a client that another process has let in; no limit is asked.
    pub fn of(bouncer: &Arc<Bouncer>, client: &Arc<Client>, socket: Socket) -> Registration {
        bouncer.clients.insert(client.key, client.clone());
        Registration {
            client: client.clone(),
            bouncer: bouncer.clone(),
            _places: Places {
                _database: Place::take(&client.database, 0),
                _user: Place::take(&client.user, 0),
            },
            _socket: socket,
        }
    }

    /// Writes the closing line.
    pub fn log_end(&self, end: &End) {
        let reason = match end {
            End::HandedOver => return,
            End::Left(reason) | End::Lost(reason) | End::Fatal(reason) => reason,
            End::Refused { message, .. } => message.as_str(),
        };
        if self.bouncer.config().pgbouncer.log_disconnections {
            let client = &self.client;
            let age = self.bouncer.clock.now().since(client.connected_at) / 1_000_000;
            tracing::info!(
                "C-{:#x}: {}/{}@{} closing because: {reason} (age={age}s)",
                client.id,
                client.database.name,
                client.user.name,
                client.address
            );
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.bouncer.clients.remove(&self.client.key);
    }
}

/// Places in `max_db_client_connections` and `max_user_client_connections`.
#[derive(Debug, Default)]
pub struct Places {
    pub(super) _database: Option<Place<Database>>,
    pub(super) _user: Option<Place<User>>,
}
