//! A server on loan.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Pool;
use crate::server::Server;
use crate::stats::Micros;

/// A server that works for one client. Dropped without a word (a panic, a
/// cancelled task), it is taken as dirty: poisoned until proven clean.
#[derive(Debug)]
pub struct Lease {
    server: Option<Box<Server>>,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(server: Box<Server>, pool: Arc<Pool>) -> Lease {
        Lease {
            server: Some(server),
            pool,
        }
    }

    /// Wraps a server that was granted by `pool`.
    pub fn granted(server: Box<Server>, pool: &Arc<Pool>) -> Lease {
        Lease::new(server, pool.clone())
    }

    /// Moves its socket to the reactor of the calling thread, worker `home`.
    /// None if that failed: the server is lost.
    pub fn rehome(mut self, home: usize) -> Option<Lease> {
        let server = self.server.take()?;
        let id = server.record.id;
        match server.rehome(home) {
            Ok(server) => {
                self.server = Some(Box::new(server));
                Some(self)
            }
            Err(error) => {
                tracing::warn!("server connection lost between workers: {error}");
                self.pool.lost(id, home);
                None
            }
        }
    }

    /// Gives it back. The pool reuses it only if it is clean.
    pub fn release(mut self, now: Micros) {
        if let Some(server) = self.server.take() {
            self.pool.release(server, now);
        }
    }

    /// Gives it back without having used it.
    pub fn give_back(mut self, now: Micros) {
        if let Some(server) = self.server.take() {
            self.pool.give_back(server, now);
        }
    }

    /// Lets it go without a word: another process goes on with it.
    pub fn let_go(mut self) {
        if let Some(server) = self.server.take() {
            self.pool.let_go(server);
        }
    }

    /// Closes it.
    pub fn discard(mut self, reason: &'static str) {
        if let Some(server) = self.server.take() {
            self.pool.discard(server, reason);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.pool.retire(server);
        }
    }
}

impl Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("held until the lease ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("held until the lease ends")
    }
}
