//! What the rest of the process sees of a server connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::net::tls::Cipher;
use crate::net::{Address, Host, Stream};
use crate::stats::Micros;
use crate::wire::startup::Replication;

/// Cancel requests in flight to one server, at most.
const MAX_CANCELS: u32 = 2;

/// The state column of SHOW SERVERS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerState {
    /// Connecting or logging in.
    New,
    /// Ready.
    Idle,
    /// Linked to a client.
    Active,
    /// Running a reset query.
    Tested,
    /// Waiting for a cancel request to be done.
    BeingCanceled,
}

impl ServerState {
    const ALL: [ServerState; 5] = [
        ServerState::New,
        ServerState::Idle,
        ServerState::Active,
        ServerState::Tested,
        ServerState::BeingCanceled,
    ];

    /// PgBouncer's word.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::New => "new",
            ServerState::Idle => "idle",
            ServerState::Active => "active",
            ServerState::Tested => "tested",
            ServerState::BeingCanceled => "being_canceled",
        }
    }
}

/// One server connection, shared by its owner, the console and cancel
/// requests. Only the owner writes, except for `close_needed` and the cancel
/// count.
#[derive(Debug)]
pub struct Record {
    /// From the counter shared with clients.
    pub id: u64,
    /// The number of its pool.
    pub pool: u64,
    /// The host it was reached by, and its port.
    pub host: (Host, u16),
    /// The server's end.
    pub address: Address,
    /// Our end.
    pub local: Address,
    /// What protects the connection, if anything does.
    pub cipher: Option<Cipher>,
    /// When the connection was begun.
    pub connected_at: Micros,
    /// The backend's process id.
    pub pid: i32,
    /// The backend's cancel secret.
    pub secret: Bytes,
    /// It was opened for one replication client, which alone it serves.
    pub replication: Replication,
    requested_at: AtomicU64,
    state: AtomicU8,
    client: AtomicU64,
    /// A client's session has had it.
    has_served: AtomicBool,
    prepared: AtomicU32,
    close_needed: AtomicBool,
    handed_over: AtomicBool,
    cancels: AtomicU32,
    cancels_done: Notify,
}

impl Record {
    /// A connection that has just been made, with TLS if it is to have it; `pid` and `secret` come with the
    /// login.
    pub fn new(
        id: u64,
        pool: u64,
        host: (Host, u16),
        stream: &Stream,
        connected_at: Micros,
    ) -> Record {
        Record {
            id,
            pool,
            host,
            address: stream.peer(),
            local: stream.local(),
            cipher: stream.cipher(),
            connected_at,
            pid: 0,
            secret: Bytes::new(),
            replication: Replication::No,
            requested_at: AtomicU64::new(connected_at.0),
            state: AtomicU8::new(ServerState::New as u8),
            client: AtomicU64::new(0),
            has_served: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
            close_needed: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            cancels: AtomicU32::new(0),
            cancels_done: Notify::new(),
        }
    }

    /// The server's IP address, if it was reached by one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix { .. } | Address::Gone => None,
        }
    }

    /// Its state.
    pub fn state(&self) -> ServerState {
        ServerState::ALL[self.state.load(Ordering::Relaxed) as usize]
    }

    /// Notes a new state.
    pub fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Notes that it now works for `client` (its id).
    pub fn link(&self, client: u64, now: Micros) {
        self.has_served.store(true, Ordering::Relaxed);
        self.engage(client, now);
    }

    /// Notes that the pooler asks it something for `client` (its id), whose
    /// session it does not get.
    pub fn engage(&self, client: u64, now: Micros) {
        self.set_state(ServerState::Active);
        self.requested_at.store(now.0, Ordering::Relaxed);
        self.client.store(client, Ordering::Relaxed);
    }

    /// Whether a client's session has had it, and may have left settings
    /// behind.
    pub fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    /// Notes that it works for nobody.
    pub fn unlink(&self) {
        self.client.store(0, Ordering::Relaxed);
    }

    /// The client it works for; 0 for none.
    pub fn client(&self) -> u64 {
        self.client.load(Ordering::Relaxed)
    }

    /// When it was last given to a client.
    pub fn requested_at(&self) -> Micros {
        Micros(self.requested_at.load(Ordering::Relaxed))
    }

    /// Notes when it was last given to a client.
    pub fn set_requested_at(&self, at: Micros) {
        self.requested_at.store(at.0, Ordering::Relaxed);
    }

    /// How many prepared statements it has.
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Notes how many prepared statements it has.
    pub fn set_prepared(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.prepared.store(count, Ordering::Relaxed);
    }

    /// Asks that it be closed when it is next free (RECONNECT, changed
    /// settings).
    pub fn mark(&self) {
        self.close_needed.store(true, Ordering::Relaxed);
    }

    /// Whether it is to be closed when it is next free.
    pub fn is_marked(&self) -> bool {
        self.close_needed.load(Ordering::Relaxed)
    }

    /// Whether another process has its socket.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Notes that another process has its socket, or will not have it after
    /// all.
    pub fn hand_over(&self, told: bool) {
        self.handed_over.store(told, Ordering::Release);
    }

    /// Begins a cancel request for it. It is not reused until every begun one
    /// has ended. None if enough are in flight already: one more would do
    /// nothing they do not.
    pub fn begin_cancel(self: &Arc<Self>) -> Option<Cancel> {
        let begun = Cancel {
            record: self.clone(),
            is_under_way: false,
        };
        (self.cancels.fetch_add(1, Ordering::SeqCst) < MAX_CANCELS).then_some(begun)
    }

    /// Whether a cancel request is in flight to it.
    pub fn is_being_canceled(&self) -> bool {
        self.cancels.load(Ordering::SeqCst) > 0
    }

    /// Waits until no cancel request is in flight. Each has a deadline of its
    /// own.
    pub async fn cancels_done(&self) {
        loop {
            let done = self.cancels_done.notified();
            if !self.is_being_canceled() {
                return;
            }
            done.await;
        }
    }
}

/// A cancel request in flight to a server. Ends when dropped. If nobody knows
/// then whether the server has got it, it may hit whatever the server runs
/// later: the server is marked to be closed.
#[derive(Debug)]
pub struct Cancel {
    record: Arc<Record>,
    is_under_way: bool,
}

impl Cancel {
    /// The server.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Notes whether the request has been sent and may still arrive.
    pub fn set_under_way(&mut self, is_under_way: bool) {
        self.is_under_way = is_under_way;
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        // First: who finds no cancel in flight is to find the mark.
        if self.is_under_way {
            self.record.mark();
        }
        if self.record.cancels.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.record.cancels_done.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let (one, _) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        one.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        let stream = tokio::net::UnixStream::from_std(one).expect("a socket");
        let host = (Host::read("/run"), 5432);
        Record::new(1, 1, host, &Stream::from(stream), Micros::ZERO)
    }

    #[test]
    fn a_server_is_free_of_cancels_when_the_last_has_ended() {
        let record = Arc::new(record());
        let first = record.begin_cancel().expect("none in flight");
        let second = record.begin_cancel().expect("one in flight");
        assert!(record.begin_cancel().is_none());
        drop(first);
        assert!(record.is_being_canceled());
        drop(second);
        assert!(!record.is_being_canceled());
    }

    #[test]
    fn a_request_that_may_still_arrive_marks_the_server() {
        let record = Arc::new(record());
        let mut cancel = record.begin_cancel().expect("none in flight");
        cancel.set_under_way(true);
        cancel.set_under_way(false);
        drop(cancel);
        assert!(!record.is_marked());
        let mut cancel = record.begin_cancel().expect("none in flight");
        cancel.set_under_way(true);
        drop(cancel);
        assert!(record.is_marked());
    }

    #[test]
    fn states_survive_the_way_through_a_byte() {
        let record = record();
        for state in ServerState::ALL {
            record.set_state(state);
            assert_eq!(record.state(), state);
        }
    }
}
