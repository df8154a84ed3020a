//! A client of the console, as the others see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::net::Address;
use crate::net::tls::Cipher;
use crate::pool::CancelKey;
use crate::stats::Micros;

/// Stands for "does not wait".
const NEVER: u64 = u64::MAX;

/// One connection to the console.
#[derive(Debug)]
pub struct Visitor {
    /// From the counter shared with clients and servers.
    pub id: u64,
    /// Who it is.
    pub user: String,
    /// May change things, not only look.
    pub admin: bool,
    /// It is a process of the same OS user, on the Unix socket: it may have
    /// descriptors.
    pub own: bool,
    /// Its end.
    pub address: Address,
    /// Our end.
    pub local: Address,
    /// What protects the connection, if anything does.
    pub cipher: Option<Cipher>,
    /// When it connected.
    pub connected_at: Micros,
    /// Its cancel key.
    pub key: CancelKey,
    /// Tells a waiting command that it is cancelled.
    pub cancel: Arc<Notify>,
    /// Tells the session to end (KILL_CLIENT).
    pub dismissal: Notify,
    requested_at: AtomicU64,
    waits_since: AtomicU64,
}

impl Visitor {
    /// A connection that has just logged in.
    pub fn new(
        (id, connected_at): (u64, Micros),
        (user, admin, own): (String, bool, bool),
        (address, local, cipher): (Address, Address, Option<Cipher>),
        key: CancelKey,
    ) -> Visitor {
        Visitor {
            id,
            user,
            admin,
            own,
            address,
            local,
            cipher,
            connected_at,
            key,
            cancel: Arc::default(),
            dismissal: Notify::new(),
            requested_at: AtomicU64::new(connected_at.0),
            waits_since: AtomicU64::new(NEVER),
        }
    }

    /// When its last query came.
    pub fn requested_at(&self) -> Micros {
        Micros(self.requested_at.load(Ordering::Relaxed))
    }

    /// Notes a query.
    pub fn set_requested_at(&self, now: Micros) {
        self.requested_at.store(now.0, Ordering::Relaxed);
    }

    /// Since when it waits for a command to end, if it does.
    pub fn waits_since(&self) -> Option<Micros> {
        let since = self.waits_since.load(Ordering::Relaxed);
        (since != NEVER).then_some(Micros(since))
    }

    /// Notes that it waits, or no more.
    pub fn set_waits_since(&self, since: Option<Micros>) {
        let since = since.map_or(NEVER, |since| since.0);
        self.waits_since.store(since, Ordering::Relaxed);
    }
}
