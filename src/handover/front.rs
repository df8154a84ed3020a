//! What a balancer tells the one that takes its place, in `SHOW BALANCER`:
//! rows of plain data, some with a descriptor.
//!
//! It is asked for before SUSPEND, so that the next process has looked at the
//! nodes and has the answers that are kept before anything changes hands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Raised by every change that an older pgweir would misunderstand.
pub const FORMAT: u32 = 1;

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "row", rename_all = "snake_case")]
pub enum Row {
    /// The first one.
    Format {
        /// [`FORMAT`] of who tells.
        format: u32,
        /// Marks the QUIC connections of who tells.
        generation: u8,
        /// Of what is recognised of each other's.
        key: QuicKey,
    },
    /// A listening socket, which comes with it.
    Listener {
        /// TLS is spoken on it.
        secure: bool,
    },
    /// The socket of a UDP port, which comes with it.
    Port {
        /// By which [`Row::Elder`] means it.
        number: usize,
    },
    /// A process that still has connections on a UDP port. What comes with it
    /// takes their packets.
    Elder {
        /// The port's.
        port: usize,
        /// Marks its connections.
        generation: u8,
    },
    /// What an operator has said of a node.
    Node {
        /// Its name in the configuration.
        name: String,
        /// Its address there.
        address: String,
        /// The word of the mode.
        mode: String,
    },
    /// An answer that is kept.
    Kept(Kept),
}

/// A secret that balancers hand on: what one of them signs, the next one
/// recognises.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuicKey(pub [u8; 32]);

impl fmt::Debug for QuicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicKey")
    }
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What was asked for: path and query.
    pub target: String,
    /// Its status.
    pub status: u16,
    /// Name and value of each header, the value in Base64.
    pub headers: Vec<super::Pair>,
    /// All of its body, in Base64.
    pub body: String,
    /// When it was asked for: microseconds of `CLOCK_MONOTONIC`.
    pub sent: u64,
    /// Its age then, by the sender's word, in microseconds.
    pub age: u64,
    /// How old it may become, in microseconds.
    pub life: u64,
}

#[cfg(test)]
mod tests {
    use super::super::{read, to_text};
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let row = Row::Format {
            format: FORMAT,
            generation: 255,
            key: QuicKey([7; 32]),
        };
        assert_eq!(read::<Row>(&to_text(&row)).expect("a row"), row);
        assert!(!format!("{row:?}").contains('7'), "no secret in a log");
        let kept = Kept {
            target: "/long?x=1".into(),
            status: 200,
            headers: vec![("content-length".into(), "MQ==".into())],
            body: "eA==".into(),
            sent: u64::MAX,
            age: 0,
            life: 60_000_000,
        };
        let row = Row::Kept(kept);
        assert_eq!(read::<Row>(&to_text(&row)).expect("a row"), row);
    }
}
