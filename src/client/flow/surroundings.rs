//! What the flow of a client's messages needs from outside.

use std::time::Duration;

use crate::server::answers::Meter;
use crate::server::statements::Dictionary;
use crate::stats::Micros;

/// The slot of a statement nobody has seen: nothing is counted.
pub const NO_SLOT: u32 = u32::MAX;

/// What the flow of a client's messages needs from outside.
pub trait Surroundings {
    /// What is known at sight of a statement; the text may be cut.
    fn observe(&mut self, text: &[u8]) -> Seen;
    /// The prepared statements of all clients.
    fn dictionary(&self) -> &Dictionary;
    /// Now.
    fn now(&self) -> Micros;
    /// `max_prepared_statements` where it applies: 0 passes names through.
    fn statement_limit(&self) -> usize;
    /// Transactions of more than one statement are refused (statement
    /// pooling).
    fn refuses_blocks(&self) -> bool;
    /// The client has its server until it leaves (session pooling).
    fn keeps_server(&self) -> bool;
    /// A request of a server has been answered.
    fn finished(&mut self, meter: Meter, outcome: Outcome);
    /// A tracked parameter may have changed: the server reports it.
    fn parameter(&mut self, name: &str, value: &str);
    /// Counts for SHOW STATS.
    fn count(&mut self, event: Event);
}

/// What is known at sight of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its slot in the statistics, or [`NO_SLOT`].
    pub slot: u32,
    /// It names prepared statements.
    pub mentions: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Rows told in the command's tag.
    pub rows: u64,
    /// SQLSTATE of its error.
    pub error: Option<[u8; 5]>,
    /// How long its client waited for a server.
    pub waited: Duration,
}

/// Something SHOW STATS counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A client sent Parse for a tracked statement.
    ClientParse,
    /// A server was sent Parse for a tracked statement.
    ServerParse,
    /// A client sent Bind for a tracked statement.
    Bind,
}
