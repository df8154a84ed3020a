//! Free ports.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use crate::dice::Dice;
use crate::problem::Problem;

/// Where ports are looked for: below the ones the kernel gives to outgoing
/// connections. One of those might be taken while a node is down, and the node
/// could not come back.
const RANGE: RangeInclusive<i64> = 10_000..=32_000;

/// How many are tried.
const TRIES: usize = 1000;

/// Hands out ports nobody listens on, each once.
#[derive(Debug)]
pub(crate) struct Ports {
    dice: Dice,
    taken: BTreeSet<u16>,
}

impl Ports {
    pub(crate) fn new(seed: u64) -> Ports {
        Ports {
            dice: Dice::new(seed),
            taken: BTreeSet::new(),
        }
    }

    /// The port that was asked for, or a free one for 0.
    pub(crate) fn port(&mut self, wanted: u16) -> Result<u16, Problem> {
        if wanted != 0 {
            return match is_free(wanted) {
                true => Ok(wanted),
                false => Err(Problem::new(format!("port {wanted} is taken"))),
            };
        }
        for _ in 0..TRIES {
            let port = u16::try_from(self.dice.within(RANGE)).expect("the range is of ports");
            if !self.taken.contains(&port) && is_free(port) {
                self.taken.insert(port);
                return Ok(port);
            }
        }
        Err(Problem::new("no free port found from 10000 to 32000"))
    }
}

/// Nobody has it, in either family, over TCP or UDP.
fn is_free(port: u16) -> bool {
    if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() {
        return false;
    }
    let free = |address: SocketAddr| match TcpListener::bind(address) {
        Ok(_) => true,
        // Where there is no IPv6, nobody listens on it.
        Err(error) => error.kind() != ErrorKind::AddrInUse,
    };
    free((Ipv6Addr::UNSPECIFIED, port).into()) && free((Ipv4Addr::UNSPECIFIED, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
        let port = listener.local_addr().expect("it is bound").port();
        assert!(Ports::new(1).port(port).is_err());
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = Ports::new(1);
        let mut port = || ports.port(0).expect("one is free");
        assert_ne!(port(), port());
    }
}
