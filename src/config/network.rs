//! A network of IP addresses, in a setting.

use std::fmt;
use std::net::IpAddr;

use super::value::{Value, ValueError, split_words};

/// An address and how many of its bits count (RFC 4632). The others are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether this address is in it. An IPv4 address in an IPv6 one, as
    /// dual-stack listeners see it, is an IPv4 address.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()) & mask_v4(self.bits) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()) & mask_v6(self.bits) == 0
            }
            _ => false,
        }
    }
}

fn mask_v4(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

fn mask_v6(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

impl Value for Network {
    /// `ADDRESS/BITS`, or an address alone. Bits of the address that do not
    /// count have to be 0: otherwise one of the two is a mistake.
    fn parse(text: &str) -> Result<Network, ValueError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| ValueError)?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|it| it.is_ascii_digit()) => {
                bits.parse().map_err(|_| ValueError)?
            }
            Some(_) => return Err(ValueError),
        };
        if bits > most {
            return Err(ValueError);
        }
        let spare = match base {
            IpAddr::V4(base) => u128::from(base.to_bits() & !mask_v4(bits)),
            IpAddr::V6(base) => base.to_bits() & !mask_v6(bits),
        };
        match spare {
            0 => Ok(Network { base, bits }),
            _ => Err(ValueError),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for Vec<Network> {
    fn parse(text: &str) -> Result<Vec<Network>, ValueError> {
        let words = split_words(text)?;
        words.iter().map(|word| Network::parse(word)).collect()
    }

    fn show(&self) -> Option<String> {
        let words: Vec<String> = self.iter().map(ToString::to_string).collect();
        Some(words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        Network::parse(text).expect("a network")
    }

    #[test]
    fn a_network_holds_what_begins_as_it_does() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
        ] {
            let network = network(text);
            assert!(network.holds(inside.parse().expect("an address")), "{text}");
            assert!(
                !network.holds(outside.parse().expect("an address")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.1/8",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "host",
            "10.0.0.0/8/8",
            "2001:db8::1/32",
            "10.0.0/8",
        ] {
            assert_eq!(Network::parse(text), Err(ValueError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(bits in 0_u32..=128, address: u128) {
            let base = address & mask_v6(bits);
            let network = Network { base: IpAddr::V6(base.into()), bits };
            prop_assert_eq!(Network::parse(&network.to_string()), Ok(network));
            prop_assert!(network.holds(IpAddr::V6(base.into())));
        }
    }
}
