//! Cancel keys that say which of several processes behind one address has the
//! client (`[peers]`, `peer_id`), in PgBouncer's layout.

use super::{Bouncer, CancelKey};
use crate::net::Host;

/// How often a request may still be passed on, in the last byte.
const HOPS: u8 = 0x03;

/// Who has the client of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process; the key as it was given out.
    Own(CancelKey),
    /// This peer, which is to get this key.
    Peer(Host, u16, CancelKey),
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
        match self.config().peers.get(&u32::from(id)) {
            Some(peer) => Owner::Peer(Host::read(&peer.host), peer.port, key),
            None => Owner::Unknown,
        }
    }

    fn peer_id(&self) -> Option<u16> {
        let id = u16::try_from(self.config().pgbouncer.peer_id).ok();
        id.filter(|id| *id > 0)
    }
}
