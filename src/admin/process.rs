//! What the console can do to the whole process.

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

/// The process around the console.
pub trait Process: Send + Sync {
    /// Reads the configuration again.
    ///
    /// # Errors
    /// What is wrong with it, for the log. What was in force stays.
    fn reload(&self) -> Result<(), String>;

    /// A setting has been changed: what holds a copy of it takes it over before
    /// this returns.
    fn settings_changed(&self);

    /// A TLS setting has been changed: the files are read again. False if they
    /// cannot be used; then what was in force stays.
    fn tls_changed(&self) -> bool;

    /// Begins to end the process. Returns at once.
    fn shut_down(&self, mode: ShutdownMode);
}
