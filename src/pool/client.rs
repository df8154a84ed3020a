//! What the rest of the process sees of a client, and the seat it waits in.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;

use tokio::sync::oneshot;

use super::handover::{Question, Told};
use super::state::LoginFailure;
use super::{Calm, Database, User, Welcome};
use crate::net::Address;
use crate::net::tls::Cipher;
use crate::server::{OwnStartup, Server};
use crate::stats::Micros;
use crate::wire::startup::Replication;

/// The first 8 bytes of the BackendKeyData a client is given, by which it is
/// found. Before protocol 3.2 there are no more.
pub type CancelKey = [u8; 8];

/// So many more bytes has the key of a client of protocol 3.2 and later: with
/// them its secret is as long as PostgreSQL's.
pub const KEY_REST: usize = 28;

/// The state column of SHOW CLIENTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    /// Logged in, no server linked.
    Idle,
    /// A server is linked.
    Active,
    /// Queued for a server.
    Waiting,
}

impl ClientState {
    const ALL: [ClientState; 3] = [ClientState::Idle, ClientState::Active, ClientState::Waiting];

    /// PgBouncer's word.
    pub fn name(self) -> &'static str {
        match self {
            ClientState::Idle => "idle",
            ClientState::Active => "active",
            ClientState::Waiting => "waiting",
        }
    }
}

/// It stays here.
const STAYS: u8 = 0;
/// Another process has been told of it.
const TOLD: u8 = 1;
/// Another process goes on with it.
const LEFT: u8 = 2;

/// Nothing to tell a waiting client.
const NOTICE_NONE: u8 = 0;
/// It is to be told that it waits.
const NOTICE_DUE: u8 = 1;
/// It has been told.
const NOTICE_SENT: u8 = 2;

/// What a waiting client is handed.
#[derive(Debug)]
pub enum Grant {
    /// A server.
    Server(Box<Server>),
    /// A server of its own, and how that greeted.
    Own(Box<(Box<Server>, Welcome)>),
    /// The reason there is none.
    Failed(Arc<LoginFailure>),
}

/// Why a client is being disconnected from outside its own task.
#[derive(Debug)]
pub struct Doom {
    /// The FATAL it is sent and the log's reason.
    pub message: &'static str,
    /// Its transaction may end before.
    patient: AtomicBool,
}

impl Doom {
    /// Whether the client may end its transaction before it goes.
    pub fn is_patient(&self) -> bool {
        self.patient.load(Ordering::Relaxed)
    }
}

/// One client that has logged in, shared by its task, the pool, the console
/// and the maintenance sweep.
#[derive(Debug)]
pub struct Client {
    /// From the counter shared with servers.
    pub id: u64,
    /// Its cancel key.
    pub key: CancelKey,
    key_rest: Option<Box<[u8; KEY_REST]>>,
    /// The database entry it asked for.
    pub database: Arc<Database>,
    /// The user it logged in as.
    pub user: Arc<User>,
    /// Its end.
    pub address: Address,
    /// Our end.
    pub local: Address,
    /// What protects the connection, if anything does.
    pub cipher: Option<Cipher>,
    /// When it connected.
    pub connected_at: Micros,
    /// What it called itself at login.
    pub application_name: Arc<str>,
    /// It wants replication, and so a server of its own.
    pub own: Option<Arc<OwnStartup>>,
    state: AtomicU8,
    server: AtomicU64,
    requested_at: AtomicU64,
    transaction_at: AtomicU64,
    in_transaction: AtomicBool,
    querying: AtomicBool,
    calm: AtomicU8,
    /// Whether another process is to go on with it, see [`Client::hand_over`].
    leaving: AtomicU8,
    asked: AtomicBool,
    prepared: AtomicU32,
    wait_notice: AtomicU8,
    doom: OnceLock<Doom>,
    seat: Mutex<Seat>,
}

#[derive(Debug, Default)]
struct Seat {
    grant: Option<Grant>,
    waker: Option<Waker>,
    question: Option<Question>,
}

impl Seat {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Client) -> bool {
        self.id == other.id
    }
}

/// What a [`Client`] is made of.
#[derive(Debug)]
pub struct NewClient {
    /// See [`Client`].
    pub id: u64,
    /// See [`Client`].
    pub key: CancelKey,
    /// The rest of a long key.
    pub key_rest: Option<Box<[u8; KEY_REST]>>,
    /// See [`Client`].
    pub database: Arc<Database>,
    /// See [`Client`].
    pub user: Arc<User>,
    /// See [`Client`].
    pub address: Address,
    /// See [`Client`].
    pub local: Address,
    /// See [`Client`].
    pub cipher: Option<Cipher>,
    /// See [`Client`].
    pub connected_at: Micros,
    /// See [`Client`].
    pub application_name: Arc<str>,
    /// See [`Client`].
    pub own: Option<Arc<OwnStartup>>,
}

impl Client {
    /// A client that has just logged in.
    pub fn new(new: NewClient) -> Client {
        Client {
            id: new.id,
            key: new.key,
            key_rest: new.key_rest,
            database: new.database,
            user: new.user,
            address: new.address,
            local: new.local,
            cipher: new.cipher,
            connected_at: new.connected_at,
            application_name: new.application_name,
            own: new.own,
            state: AtomicU8::new(ClientState::Idle as u8),
            server: AtomicU64::new(0),
            requested_at: AtomicU64::new(new.connected_at.0),
            transaction_at: AtomicU64::new(0),
            in_transaction: AtomicBool::new(false),
            querying: AtomicBool::new(false),
            calm: AtomicU8::new(Calm::No as u8),
            leaving: AtomicU8::new(STAYS),
            asked: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
            wait_notice: AtomicU8::new(NOTICE_NONE),
            doom: OnceLock::new(),
            seat: Mutex::default(),
        }
    }

    /// What of its key follows [`Client::key`].
    pub fn key_rest(&self) -> &[u8] {
        self.key_rest.as_deref().map_or(&[], |rest| rest)
    }

    /// What it has asked for.
    pub fn replication(&self) -> Replication {
        let own = self.own.as_ref();
        own.map_or(Replication::No, |own| own.replication)
    }

    /// Its state.
    pub fn state(&self) -> ClientState {
        ClientState::ALL[self.state.load(Ordering::Relaxed) as usize]
    }

    /// Notes a new state.
    pub fn set_state(&self, state: ClientState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// The id of the server linked to it; 0 for none.
    pub fn server(&self) -> u64 {
        self.server.load(Ordering::SeqCst)
    }

    /// Notes the server linked to it. A canceller that marks the server and
    /// still finds the link here is seen by whoever unlinks after it.
    pub fn set_server(&self, id: u64) {
        self.server.store(id, Ordering::SeqCst);
    }

    /// When its last request came, or its last answer was complete.
    pub fn requested_at(&self) -> Micros {
        Micros(self.requested_at.load(Ordering::Relaxed))
    }

    /// Notes a request, or the end of its answer.
    pub fn set_requested_at(&self, now: Micros) {
        self.requested_at.store(now.0, Ordering::Relaxed);
    }

    /// When its transaction began, if it is in one.
    pub fn transaction_at(&self) -> Option<Micros> {
        let began = Micros(self.transaction_at.load(Ordering::Relaxed));
        self.in_transaction.load(Ordering::Relaxed).then_some(began)
    }

    /// Notes the beginning or (none) the end of a transaction.
    pub fn set_transaction_at(&self, began: Option<Micros>) {
        if let Some(began) = began {
            self.transaction_at.store(began.0, Ordering::Relaxed);
        }
        self.in_transaction
            .store(began.is_some(), Ordering::Relaxed);
    }

    /// Whether a query of its is running.
    pub fn is_querying(&self) -> bool {
        self.querying.load(Ordering::Relaxed)
    }

    /// Notes whether a query of its is running.
    pub fn set_querying(&self, querying: bool) {
        self.querying.store(querying, Ordering::Relaxed);
    }

    /// How far it has come with SUSPEND.
    pub fn calm(&self) -> Calm {
        Calm::of(self.calm.load(Ordering::Acquire))
    }

    /// Notes how far it has come with SUSPEND.
    pub fn set_calm(&self, calm: Calm) {
        self.calm.store(calm as u8, Ordering::Release);
    }

    /// Asks its task about it; the answer comes soon if the task lives.
    pub fn ask(&self) -> oneshot::Receiver<Told> {
        let (question, answer) = oneshot::channel();
        let mut seat = self.seat();
        seat.question = Some(question);
        self.asked.store(true, Ordering::Release);
        seat.wake();
        answer
    }

    /// Whether its task is asked about it.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Where the answer goes.
    pub fn take_question(&self) -> Option<Question> {
        self.asked.store(false, Ordering::Release);
        self.seat().question.take()
    }

    /// Another process has been told of it and has its socket, and will go on
    /// with it (or will not, after all) when this one says so.
    pub fn hand_over(&self, told: bool) {
        let state = if told { TOLD } else { STAYS };
        if !self.has_left() {
            self.leaving.store(state, Ordering::Release);
        }
    }

    /// Whether another process has its socket.
    pub fn is_handed_over(&self) -> bool {
        self.leaving.load(Ordering::Acquire) != STAYS
    }

    /// Lets it go without a word: another process goes on with it.
    pub fn let_go(&self) {
        self.leaving.store(LEFT, Ordering::Release);
        self.wake();
    }

    /// Whether another process goes on with it.
    pub fn has_left(&self) -> bool {
        self.leaving.load(Ordering::Acquire) == LEFT
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

    /// Disconnects it: its task is woken and sends the message. The first
    /// reason stays.
    pub fn doom(&self, message: &'static str) {
        let patient = AtomicBool::new(false);
        let set = self.doom.set(Doom { message, patient });
        let doom = self.doom.get();
        let hurried = doom.is_some_and(|doom| doom.patient.swap(false, Ordering::Relaxed));
        if set.is_ok() || hurried {
            self.wake();
        }
    }

    /// Disconnects it as soon as it is not in a transaction.
    pub fn doom_after_transaction(&self, message: &'static str) {
        let patient = AtomicBool::new(true);
        if self.doom.set(Doom { message, patient }).is_ok() {
            self.wake();
        }
    }

    /// The reason it is to be disconnected for.
    pub fn doomed(&self) -> Option<&Doom> {
        self.doom.get()
    }

    /// `query_wait_notify`: it has waited long enough to be told so, once for
    /// each wait.
    pub fn notify_of_wait(&self) {
        let due = self.wait_notice.compare_exchange(
            NOTICE_NONE,
            NOTICE_DUE,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if due.is_ok() {
            self.wake();
        }
    }

    /// Whether it is to be told now; says so once.
    pub fn take_wait_notice(&self) -> bool {
        self.wait_notice
            .compare_exchange(
                NOTICE_DUE,
                NOTICE_SENT,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// A wait begins.
    pub fn begin_wait(&self) {
        self.wait_notice.store(NOTICE_NONE, Ordering::Relaxed);
        self.set_state(ClientState::Waiting);
    }

    /// Hands it what it waits for and wakes it.
    pub fn grant(&self, grant: Grant) {
        let mut seat = self.seat();
        seat.grant = Some(grant);
        seat.wake();
    }

    /// Hands it what it waits for; [`Client::wake`] is to follow.
    pub(super) fn put_grant(&self, grant: Grant) {
        self.seat().grant = Some(grant);
    }

    /// Takes what it has been handed.
    pub fn take_grant(&self) -> Option<Grant> {
        self.seat().grant.take()
    }

    /// Notes whom to wake. The waker of a task stays the same, so once is
    /// enough.
    pub fn set_waker(&self, waker: &Waker) {
        let mut seat = self.seat();
        if !seat.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            seat.waker = Some(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        self.seat().wake();
    }

    fn seat(&self) -> std::sync::MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
