//! Cancel keys that say which of several processes behind one address has the
//! client (`[peers]`, `peer_id`), in PgBouncer's layout.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::Notify;

use super::{Bouncer, Budget, CancelKey};
use crate::net::Host;

/// How often a request may still be passed on, in the last byte.
const HOPS: u8 = 0x03;

/// Who has the client of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process; the key as it was given out.
    Own(CancelKey),
    /// The peer of this number, which is to get this key.
    Peer(u32, CancelKey),
    /// The request has been passed on too often.
    Lost,
    /// No peer has that number.
    Unknown,
}

impl Bouncer {
    /// Makes a key of 8 random bytes. Its first half is shown as a process id,
    /// which is positive.
    pub fn make_key(&self, key: &mut CancelKey) {
        key[0] &= 0x7f;
        if let Some(own) = self.peer_id() {
            [key[1], key[2]] = own.to_le_bytes();
            key[7] |= HOPS;
        }
    }

    /// Who has the client with the key of a cancel request.
    pub fn owner(&self, mut key: CancelKey) -> Owner {
        let Some(own) = self.peer_id() else {
            return Owner::Own(key);
        };
        let id = u16::from_le_bytes([key[1], key[2]]);
        if id == own {
            key[7] |= HOPS;
            return Owner::Own(key);
        }
        if key[7] & HOPS == 0 {
            return Owner::Lost;
        }
        key[7] -= 1;
        let id = u32::from(id);
        match self.config().peers.contains_key(&id) {
            true => Owner::Peer(id, key),
            false => Owner::Unknown,
        }
    }

    /// Where a peer listens, if there is such a peer.
    pub fn peer_address(&self, id: u32) -> Option<(Host, u16)> {
        let config = self.config();
        let peer = config.peers.get(&id)?;
        Some((Host::read(&peer.host), peer.port))
    }

    /// The connections to a peer, which become known with the first.
    pub fn peer_pool(&self, id: u32) -> Arc<PeerPool> {
        self.peer_pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_default()
            .clone()
    }

    /// The connections to every peer that has had any, by its number.
    pub fn peer_pools(&self) -> BTreeMap<u32, Arc<PeerPool>> {
        self.peer_pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `pool_size` of a peer in force; 0 is none.
    pub fn peer_pool_size(&self, id: u32) -> u32 {
        let config = self.config();
        let own = config.peers.get(&id).and_then(|peer| peer.pool_size);
        let global = config.pgbouncer.default_pool_size;
        own.unwrap_or(u32::try_from(global).unwrap_or(0))
    }

    /// Forgets the peers that the configuration has no more.
    pub(super) fn forget_peers(&self) {
        let config = self.config();
        self.peer_pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id, _| {
                let is_known = config.peers.contains_key(id);
                if !is_known {
                    tracing::warn!("dropping peer {id} as it does not exist anymore");
                }
                is_known
            });
    }

    fn peer_id(&self) -> Option<u16> {
        let id = u16::try_from(self.config().pgbouncer.peer_id).ok();
        id.filter(|id| *id > 0)
    }
}

/// The cancel requests on their way to one peer.
#[derive(Debug, Default)]
pub struct PeerPool {
    requests: AtomicU32,
    connections: Budget,
    sent: AtomicU32,
    freed: Notify,
}

/// How many requests to a peer are where, for `SHOW PEER_POOLS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerNumbers {
    /// Waiting for a connection, or until it is made.
    pub waiting: u32,
    /// Connections being made.
    pub connecting: u32,
    /// Sent, and not carried out yet.
    pub sent: u32,
}

impl PeerPool {
    /// A request comes.
    pub fn request(self: &Arc<Self>) -> PeerRequest {
        self.requests.fetch_add(1, Ordering::AcqRel);
        PeerRequest {
            pool: self.clone(),
            has_place: false,
            is_sent: false,
        }
    }

    /// How many requests are where.
    pub fn numbers(&self) -> PeerNumbers {
        let sent = self.sent.load(Ordering::Acquire);
        PeerNumbers {
            waiting: self.requests.load(Ordering::Acquire).saturating_sub(sent),
            connecting: self.connections.used().saturating_sub(sent),
            sent,
        }
    }
}

/// A cancel request for a client of a peer. Counted for as long as it lives.
#[derive(Debug)]
pub struct PeerRequest {
    pool: Arc<PeerPool>,
    has_place: bool,
    is_sent: bool,
}

impl PeerRequest {
    /// Waits until there may be one more connection to the peer. `limit` tells
    /// how many there may be; 0 is no limit. The caller sets the deadline.
    pub async fn place(&mut self, limit: impl Fn() -> u32) {
        while !self.has_place {
            let freed = self.pool.freed.notified();
            self.has_place = self.pool.connections.take(limit());
            if !self.has_place {
                freed.await;
            }
        }
    }

    /// It is on its way to the peer.
    pub fn sent(&mut self) {
        self.pool.sent.fetch_add(1, Ordering::AcqRel);
        self.is_sent = true;
    }
}

impl Drop for PeerRequest {
    fn drop(&mut self) {
        self.pool.requests.fetch_sub(1, Ordering::AcqRel);
        if self.is_sent {
            self.pool.sent.fetch_sub(1, Ordering::AcqRel);
        }
        if self.has_place {
            self.pool.connections.give();
            self.pool.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_connections_than_there_may_be() {
        let pool = Arc::<PeerPool>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let (mut first, mut second) = (pool.request(), pool.request());
            first.place(|| 1).await;
            first.sent();
            let waiting = tokio::spawn(async move {
                second.place(|| 1).await;
                second
            });
            tokio::task::yield_now().await;
            let numbers = |waiting, connecting, sent| PeerNumbers {
                waiting,
                connecting,
                sent,
            };
            assert_eq!(pool.numbers(), numbers(1, 0, 1));
            drop(first);
            let second = waiting.await.expect("its turn");
            assert_eq!(pool.numbers(), numbers(1, 1, 0));
            drop(second);
            assert_eq!(pool.numbers(), numbers(0, 0, 0));
        });
    }
}
