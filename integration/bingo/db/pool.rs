//! The connections to one host.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::error::DbError;
use super::shelf::{Answer, Grant, Shelf};
use super::target::Target;

/// The bounds of a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at most; 0 is unlimited.
    pub(crate) max_open: usize,
    /// Idle ones kept.
    pub(crate) max_idle: usize,
}

/// The pool of one host.
pub(crate) struct Pool {
    pub(super) target: Arc<Target>,
    shelf: Mutex<Shelf<Box<Connection>>>,
}

/// A connection on loan. Dropped in the middle of a query it is abandoned.
pub(crate) struct Lease {
    /// Present until dropped.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(target: Target, limits: Limits) -> Pool {
        let shelf = Mutex::new(Shelf::new(limits.max_open, limits.max_idle));
        Pool {
            target: Arc::new(target),
            shelf,
        }
    }

    /// A connection for one piece of work: an idle one that is still good, or a
    /// new one, or whatever comes back when the limit is reached. The caller
    /// bounds the wait.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, DbError> {
        loop {
            let answer = self.shelf().ask();
            let grant = match answer {
                Answer::Now(grant) => grant,
                Answer::Later(receiver) => {
                    Waiter {
                        receiver,
                        pool: self,
                    }
                    .grant()
                    .await
                }
            };
            match grant {
                Grant::Room => return self.open().await,
                Grant::Connection(mut connection) => {
                    if connection.is_quiet() {
                        return Ok(self.lend(connection));
                    }
                    self.shelf().lost();
                }
            }
        }
    }

    async fn open(self: &Arc<Self>) -> Result<Lease, DbError> {
        let mut room = Room { pool: Some(self) };
        let connection = Connection::open(&self.target).await?;
        room.pool = None;
        Ok(self.lend(Box::new(connection)))
    }

    fn lend(self: &Arc<Self>, connection: Box<Connection>) -> Lease {
        Lease {
            connection: Some(connection),
            pool: self.clone(),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<Box<Connection>>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_back(&self, connection: Box<Connection>) {
        if connection.is_clean() {
            let surplus = self.shelf().give_back(connection);
            if let (Some(connection), Ok(runtime)) = (surplus, Handle::try_current()) {
                runtime.spawn(connection.close());
            }
        } else {
            self.shelf().lost();
            if connection.cancels()
                && let Ok(runtime) = Handle::try_current()
            {
                runtime.spawn(connection.cancel());
            }
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("present until dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("present until dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.take_back(connection);
        }
    }
}

/// Leave to open a connection, given up on drop.
struct Room<'a> {
    pool: Option<&'a Pool>,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.shelf().lost();
        }
    }
}

/// A place in the queue. What was granted to who gave up goes back.
struct Waiter<'a> {
    receiver: oneshot::Receiver<Grant<Box<Connection>>>,
    pool: &'a Pool,
}

impl Waiter<'_> {
    async fn grant(mut self) -> Grant<Box<Connection>> {
        (&mut self.receiver)
            .await
            .expect("the shelf drops no waiter that listens")
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        match self.receiver.try_recv() {
            Ok(Grant::Connection(connection)) => self.pool.take_back(connection),
            Ok(Grant::Room) => self.pool.shelf().lost(),
            Err(_) => {}
        }
    }
}
