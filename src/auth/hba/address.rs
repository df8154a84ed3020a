//! The addresses of a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses: a network's number and its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    All,
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

impl Addresses {
    /// The network of `address` with this many leading bits.
    pub(super) fn with_bits(address: IpAddr, bits: u32) -> Option<Addresses> {
        match address {
            IpAddr::V4(address) => (bits <= 32).then(|| Addresses::V4 {
                base: address.to_bits(),
                mask: u32::MAX.checked_shl(32 - bits).unwrap_or(0),
            }),
            IpAddr::V6(address) => (bits <= 128).then(|| Addresses::V6 {
                base: address.to_bits(),
                mask: u128::MAX.checked_shl(128 - bits).unwrap_or(0),
            }),
        }
    }

    /// The network of `address` with this mask, which must be of its kind.
    pub(super) fn with_mask(address: IpAddr, mask: IpAddr) -> Option<Addresses> {
        match (address, mask) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => Some(Addresses::V4 {
                base: address.to_bits(),
                mask: mask.to_bits(),
            }),
            (IpAddr::V6(address), IpAddr::V6(mask)) => Some(Addresses::V6 {
                base: address.to_bits(),
                mask: mask.to_bits(),
            }),
            _ => None,
        }
    }

    /// Address and mask, if the address has bits outside the mask: it fits
    /// nobody then.
    pub(super) fn mismatch(self) -> Option<(IpAddr, IpAddr)> {
        match self {
            Addresses::V4 { base, mask } if base & !mask != 0 => Some((
                Ipv4Addr::from_bits(base).into(),
                Ipv4Addr::from_bits(mask).into(),
            )),
            Addresses::V6 { base, mask } if base & !mask != 0 => Some((
                Ipv6Addr::from_bits(base).into(),
                Ipv6Addr::from_bits(mask).into(),
            )),
            _ => None,
        }
    }

    pub(super) fn hold(self, address: IpAddr) -> bool {
        match (self, address) {
            (Addresses::All, _) => true,
            (Addresses::V4 { base, mask }, IpAddr::V4(it)) => it.to_bits() & mask == base,
            (Addresses::V6 { base, mask }, IpAddr::V6(it)) => it.to_bits() & mask == base,
            _ => false,
        }
    }
}
