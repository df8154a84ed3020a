//! Packets on their way from the process that reads a port to one that still
//! has connections there.
//!
//! They go over a pair of Unix sockets that keep messages apart and take so
//! many bytes: what is too much is dropped, as on any other way. Whoever has
//! an end of it was given it; still nothing in a message is believed.
//!
//! ```text
//!   marks (1)   source address (16)   port (2)   scope (4)   local address (16)   the packet
//! ```
//! The marks are the ECN bits (2), whether the source is of IPv4, whether there
//! is a local address, and whether that is of IPv4.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use quinn::udp::{EcnCodepoint, RecvMeta};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use socket2::SockRef;

/// Bytes before the packet.
const HEAD_LEN: usize = 39;

/// Bytes of a packet at most.
const PACKET_MAX: usize = 2048;

/// Bytes that a message has at most.
pub(super) const MESSAGE_MAX: usize = HEAD_LEN + PACKET_MAX;

/// Bytes that wait to be read, with what the kernel counts for each packet.
const BUFFER: usize = 1024 * 1024;

const SOURCE_IS_V4: u8 = 1 << 2;
const HAS_LOCAL: u8 = 1 << 3;
const LOCAL_IS_V4: u8 = 1 << 4;

/// An end to write to, and the end that is read.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (to, from) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // As large as the system allows.
    let _smaller = SockRef::from(&to).set_send_buffer_size(BUFFER);
    Ok((to, from))
}

/// Sends a packet that came with these facts; drops it if there is no room.
///
/// # Errors
/// Nobody will read it, or any other.
pub(super) fn send(to: impl AsFd, meta: &RecvMeta, packet: &[u8]) -> io::Result<()> {
    if packet.len() > PACKET_MAX {
        return Ok(());
    }
    let head = encode(meta);
    let parts = [IoSlice::new(&head), IoSlice::new(packet)];
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match sendmsg(to, &parts, &mut SendAncillaryBuffer::default(), flags) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::NOBUFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn encode(meta: &RecvMeta) -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head[0] = meta.ecn.map_or(0, |it| it as u8);
    head[1..17].copy_from_slice(&bytes(meta.addr.ip()));
    head[17..19].copy_from_slice(&meta.addr.port().to_be_bytes());
    match meta.addr {
        SocketAddr::V4(_) => head[0] |= SOURCE_IS_V4,
        SocketAddr::V6(it) => head[19..23].copy_from_slice(&it.scope_id().to_be_bytes()),
    }
    if let Some(local) = meta.dst_ip {
        head[0] |= HAS_LOCAL;
        head[0] |= if local.is_ipv4() { LOCAL_IS_V4 } else { 0 };
        head[23..39].copy_from_slice(&bytes(local));
    }
    head
}

/// The facts and the packet of a message; none if it is none.
pub(super) fn decode(message: &[u8]) -> Option<(RecvMeta, &[u8])> {
    let (head, packet) = message.split_first_chunk::<HEAD_LEN>()?;
    let marks = head[0];
    let array = |at: usize| -> [u8; 16] { head[at..at + 16].try_into().expect("16 bytes") };
    let port = u16::from_be_bytes([head[17], head[18]]);
    let scope = u32::from_be_bytes([head[19], head[20], head[21], head[22]]);
    let source = Ipv6Addr::from(array(1));
    let source = match (marks & SOURCE_IS_V4 != 0, source.to_ipv4_mapped()) {
        (true, Some(source)) => SocketAddr::from((source, port)),
        (true, None) => return None,
        (false, _) => SocketAddrV6::new(source, port, 0, scope).into(),
    };
    let local = Ipv6Addr::from(array(23));
    let local = match (marks & HAS_LOCAL != 0, marks & LOCAL_IS_V4 != 0) {
        (false, _) => None,
        (true, false) => Some(local.into()),
        (true, true) => Some(local.to_ipv4_mapped()?.into()),
    };
    let meta = RecvMeta {
        addr: source,
        len: packet.len(),
        stride: packet.len(),
        ecn: EcnCodepoint::from_bits(marks),
        dst_ip: local,
    };
    (!packet.is_empty()).then_some((meta, packet))
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(it) => it.to_ipv6_mapped().octets(),
        IpAddr::V6(it) => it.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_meta() -> impl Strategy<Value = RecvMeta> {
        let facts = (
            any::<SocketAddr>(),
            any::<Option<IpAddr>>(),
            0..4u8,
            1..2000usize,
        );
        facts.prop_map(|(mut addr, dst_ip, ecn, len)| {
            if let SocketAddr::V6(it) = &mut addr {
                it.set_flowinfo(0);
            }
            RecvMeta {
                addr,
                dst_ip,
                ecn: EcnCodepoint::from_bits(ecn),
                len,
                stride: len,
            }
        })
    }

    proptest! {
        #[test]
        fn a_packet_arrives_with_its_facts(meta in any_meta()) {
            let packet = vec![7; meta.len];
            let message = [&encode(&meta)[..], &packet].concat();
            let (found, rest) = decode(&message).expect("a message");
            prop_assert_eq!(rest, &packet[..]);
            prop_assert_eq!(format!("{found:?}"), format!("{meta:?}"));
        }

        #[test]
        fn no_message_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some((meta, packet)) = decode(&bytes) {
                prop_assert_eq!(meta.len, packet.len());
            }
        }
    }

    #[test]
    fn what_is_too_much_is_dropped_and_who_is_gone_is_told() {
        let (to, from) = pair().expect("a pair");
        let meta = RecvMeta::default();
        for _ in 0..10_000 {
            send(&to, &meta, &[0; 1000]).expect("dropped, if anything");
        }
        drop(from);
        assert!(send(&to, &meta, &[0; 1000]).is_err());
    }
}
