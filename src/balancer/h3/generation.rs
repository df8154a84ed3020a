//! Whose a QUIC packet is, when several processes share a port.
//!
//! The ids that we give connections say which process has them (their
//! *generation*) and are signed with a key that goes from process to process:
//! an id that a client made up is not taken for one of ours, and a process can
//! reset connections of those before it.
//!
//! ```text
//!   generation (1)   random (7)   signature of these (4)
//! ```
//!
//! Only the part of a header that no version of QUIC changes is looked at
//! (RFC 8999, 5).

use std::fmt;
use std::sync::Arc;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use ring::{hkdf, hmac};
use subtle::ConstantTimeEq;

use crate::auth::os_random;
use crate::handover::front::QuicKey;

/// Bytes of an id.
const ID_LEN: usize = 12;

/// Bytes of it that are signed.
const SIGNED: usize = 8;

/// One process in a line of those that follow each other.
#[derive(Clone)]
pub(crate) struct Lineage {
    generation: u8,
    key: QuicKey,
    ids: Arc<hmac::Key>,
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({})", self.generation)
    }
}

impl Lineage {
    /// The first one.
    pub(crate) fn new() -> Lineage {
        let (mut generation, mut key) = ([0], [0; 32]);
        os_random(&mut generation);
        os_random(&mut key);
        Lineage::of(generation[0], QuicKey(key))
    }

    /// The one after this one.
    pub(crate) fn after(generation: u8, key: QuicKey) -> Lineage {
        Lineage::of(generation.wrapping_add(1), key)
    }

    fn of(generation: u8, key: QuicKey) -> Lineage {
        let ids = Arc::new(derived(key, b"connection ids"));
        Lineage {
            generation,
            key,
            ids,
        }
    }

    /// Marks its connections.
    pub(crate) fn generation(&self) -> u8 {
        self.generation
    }

    /// What the next one needs.
    pub(crate) fn key(&self) -> QuicKey {
        self.key
    }

    /// With which connections are reset that nobody knows (RFC 9000, 10.3).
    pub(super) fn resets(&self) -> Arc<hmac::Key> {
        Arc::new(derived(self.key, b"stateless resets"))
    }

    /// With which clients prove their address (RFC 9000, 8.1).
    pub(super) fn tokens(&self) -> Arc<hkdf::Prk> {
        let root = root(self.key);
        let expanded = root.expand(&[b"address tokens"], hkdf::HKDF_SHA256);
        Arc::new(expanded.expect("of a hash's length").into())
    }

    /// Makes ids.
    pub(super) fn ids(&self) -> Ids {
        Ids(self.clone())
    }

    /// Whether it is an id that one of the line has made.
    pub(super) fn has_made(&self, id: &[u8; ID_LEN]) -> bool {
        let (signed, signature) = id.split_at(SIGNED);
        let own = hmac::sign(&self.ids, signed);
        own.as_ref()[..ID_LEN - SIGNED].ct_eq(signature).into()
    }

    fn make_id(&self) -> [u8; ID_LEN] {
        let mut id = [0; ID_LEN];
        os_random(&mut id[1..SIGNED]);
        id[0] = self.generation;
        let signature = hmac::sign(&self.ids, &id[..SIGNED]);
        id[SIGNED..].copy_from_slice(&signature.as_ref()[..ID_LEN - SIGNED]);
        id
    }
}

fn root(key: QuicKey) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&key.0)
}

fn derived(key: QuicKey, purpose: &[u8]) -> hmac::Key {
    let (root, purpose) = (root(key), [purpose]);
    let expanded = root.expand(&purpose, hmac::HMAC_SHA256);
    expanded.expect("of a hash's length").into()
}

/// The id that a datagram is for, if it is as long as ours; its generation is
/// its first byte. What a client makes up for its first packets may be as long.
pub(super) fn destination(datagram: &[u8]) -> Option<&[u8; ID_LEN]> {
    let (first, rest) = datagram.split_first()?;
    if first & 0x80 == 0 {
        return rest.first_chunk();
    }
    let (_version, rest) = rest.split_at_checked(4)?;
    let (len, id) = rest.split_first()?;
    (usize::from(*len) == ID_LEN).then(|| id.first_chunk())?
}

/// Makes ids for an endpoint.
pub(super) struct Ids(Lineage);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.make_id())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let id: &[u8; ID_LEN] = (&**id).try_into().map_err(|_| InvalidCid)?;
        self.0.has_made(id).then_some(()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_next_one_knows_the_ids_of_the_one_before_and_a_stranger_does_not() {
        let old = Lineage::new();
        let new = Lineage::after(old.generation(), old.key());
        let id = old.make_id();
        assert!(new.has_made(&id) && old.has_made(&new.make_id()));
        assert_ne!(id[0], new.make_id()[0]);
        assert!(!Lineage::new().has_made(&id));
        for at in 0..id.len() {
            let mut other = id;
            other[at] ^= 1;
            assert!(!new.has_made(&other), "{at}");
        }
    }

    #[test]
    fn the_destination_of_both_kinds_of_headers_is_found() {
        let id: [u8; ID_LEN] = *b"destination!";
        let short = [&[0x41], &id[..], b"rest"].concat();
        assert_eq!(destination(&short), Some(&id));
        // An Initial of version 1, and one of a version to come.
        for (first, version) in [(0xc3, [0, 0, 0, 1]), (0x80, [0xfa; 4])] {
            let long = [&[first], &version[..], &[12], &id, &[0], b"rest"].concat();
            assert_eq!(destination(&long), Some(&id));
            assert_eq!(destination(&long[..long.len() - 6]), None, "cut");
        }
        let other = [&[0xc3, 0, 0, 0, 1, 8], &id[..]].concat();
        assert_eq!(destination(&other), None);
        assert_eq!(destination(&[]), None);
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let lineage = Lineage::new();
            let found = destination(&bytes);
            prop_assert!(found.is_none_or(|id| !lineage.has_made(id)));
        }
    }
}
