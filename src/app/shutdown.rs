//! How the process ends.

/// What a shutdown waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Nothing.
    Immediate,
    /// All servers to be released; clients that want one are sent away.
    WaitForServers,
    /// All clients to leave.
    WaitForClients,
}
