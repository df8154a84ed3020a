//! What SHOW STATS counts, for one pool and one worker.

use crate::stats::Counter;

/// Each field has one writer, the worker; readers add up the workers.
///
/// Aligned so that two workers never write the same cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Times a server was linked to a client.
    pub server_assignments: Counter,
    /// Transactions.
    pub transactions: Counter,
    /// Queries; a pipeline counts as one.
    pub queries: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes from servers.
    pub sent: Counter,
    /// Microseconds in transactions.
    pub transaction_time: Counter,
    /// Microseconds in queries.
    pub query_time: Counter,
    /// Microseconds clients waited for a server.
    pub wait_time: Counter,
    /// Parse messages of clients, where statements are tracked.
    pub client_parses: Counter,
    /// Parse messages sent to servers, where statements are tracked.
    pub server_parses: Counter,
    /// Bind messages, where statements are tracked.
    pub binds: Counter,
    /// Clients that have logged in.
    pub client_logins: Counter,
}

/// The same, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// See [`Counters`].
    pub server_assignments: u64,
    /// See [`Counters`].
    pub transactions: u64,
    /// See [`Counters`].
    pub queries: u64,
    /// See [`Counters`].
    pub received: u64,
    /// See [`Counters`].
    pub sent: u64,
    /// See [`Counters`].
    pub transaction_time: u64,
    /// See [`Counters`].
    pub query_time: u64,
    /// See [`Counters`].
    pub wait_time: u64,
    /// See [`Counters`].
    pub client_parses: u64,
    /// See [`Counters`].
    pub server_parses: u64,
    /// See [`Counters`].
    pub binds: u64,
    /// See [`Counters`].
    pub client_logins: u64,
}

impl Totals {
    /// Adds one worker's counters.
    pub fn add_counters(&mut self, counters: &Counters) {
        self.server_assignments += counters.server_assignments.read();
        self.transactions += counters.transactions.read();
        self.queries += counters.queries.read();
        self.received += counters.received.read();
        self.sent += counters.sent.read();
        self.transaction_time += counters.transaction_time.read();
        self.query_time += counters.query_time.read();
        self.wait_time += counters.wait_time.read();
        self.client_parses += counters.client_parses.read();
        self.server_parses += counters.server_parses.read();
        self.binds += counters.binds.read();
        self.client_logins += counters.client_logins.read();
    }

    /// Field by field.
    pub fn combine(&self, other: &Totals, with: impl Fn(u64, u64) -> u64) -> Totals {
        Totals {
            server_assignments: with(self.server_assignments, other.server_assignments),
            transactions: with(self.transactions, other.transactions),
            queries: with(self.queries, other.queries),
            received: with(self.received, other.received),
            sent: with(self.sent, other.sent),
            transaction_time: with(self.transaction_time, other.transaction_time),
            query_time: with(self.query_time, other.query_time),
            wait_time: with(self.wait_time, other.wait_time),
            client_parses: with(self.client_parses, other.client_parses),
            server_parses: with(self.server_parses, other.server_parses),
            binds: with(self.binds, other.binds),
            client_logins: with(self.client_logins, other.client_logins),
        }
    }
}
