//! SUSPEND: nothing moves, so that sockets can be handed to another process.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::sync::watch;

use super::Bouncer;

/// What SUSPEND asks of clients, and how far one has come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Calm {
    /// All is served.
    No,
    /// Nothing more is read from clients, but servers go on answering, and
    /// whoever waits for one still gets it.
    Quiet,
    /// Neither side's socket is touched, and no byte of them is held here.
    Still,
}

impl Calm {
    const ALL: [Calm; 3] = [Calm::No, Calm::Quiet, Calm::Still];

    pub(super) fn of(byte: u8) -> Calm {
        Calm::ALL[usize::from(byte)]
    }
}

/// Whether the pooler stands still, or is about to.
#[derive(Debug)]
pub struct Suspension {
    wanted: AtomicU8,
    changes: watch::Sender<bool>,
    /// Whoever is not at rest is to be disconnected.
    overdue: watch::Sender<bool>,
    /// Listening sockets that are being accepted from.
    open: AtomicUsize,
    /// Another process has been told everything.
    pub(super) handed_over: AtomicBool,
    /// Another process goes on; here is only what could not be handed over.
    pub(super) lingering: AtomicBool,
}

impl Default for Suspension {
    fn default() -> Suspension {
        Suspension {
            wanted: AtomicU8::new(Calm::No as u8),
            changes: watch::Sender::new(false),
            overdue: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            handed_over: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
        }
    }
}

/// A listening socket is being accepted from while this lives.
#[derive(Debug)]
pub struct Accepting<'a>(&'a Suspension);

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Suspension {
    /// What is asked of clients.
    pub fn wanted(&self) -> Calm {
        Calm::of(self.wanted.load(Ordering::Acquire))
    }

    /// True while nothing is to be accepted.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.changes.subscribe()
    }

    /// Notes that a socket is accepted from. Whether that may be is to be asked
    /// once more after this.
    pub fn accepting(&self) -> Accepting<'_> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Accepting(self)
    }

    /// Waits until `suspend_timeout` is over for a login.
    pub async fn is_overdue(&self) {
        let mut overdue = self.overdue.subscribe();
        if overdue.wait_for(|overdue| *overdue).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Bouncer {
    /// Whether SUSPEND is in force.
    pub fn is_suspended(&self) -> bool {
        self.suspension.wanted() != Calm::No
    }

    /// SUSPEND: nothing is accepted, and each client comes to rest at the next
    /// end of a message. [`Bouncer::come_to_rest`] takes it further.
    pub fn suspend(&self) {
        self.suspension.changes.send_replace(true);
        self.want(Calm::Quiet);
    }

    /// Goes on with SUSPEND; true when everything stands still. `late` does
    /// not wait for servers that nobody has.
    pub fn come_to_rest(&self, late: bool) -> bool {
        match self.suspension.wanted() {
            Calm::No => false,
            Calm::Quiet if self.clients_are(Calm::Quiet) && (late || self.servers_rest()) => {
                self.want(Calm::Still);
                false
            }
            Calm::Quiet => {
                // What kept them from it may be over.
                let clients = self.clients.iter();
                let awake = clients.filter(|client| client.calm() == Calm::No);
                awake.for_each(|client| client.wake());
                false
            }
            Calm::Still => self.clients_are(Calm::Still),
        }
    }

    /// RESUME from SUSPEND.
    pub fn resume_suspended(&self) {
        self.set_handed_over(false);
        self.want(Calm::No);
        self.suspension.overdue.send_replace(false);
        self.suspension.changes.send_replace(false);
    }

    /// `suspend_timeout` is over: whoever has not come to rest is disconnected.
    pub fn drop_restless(&self) {
        self.suspension.overdue.send_replace(true);
        let wanted = self.suspension.wanted();
        for client in &self.clients {
            if client.calm() < wanted {
                client.doom("suspend_timeout");
            }
        }
    }

    /// Whether all clients have come so far and nobody is logging in.
    fn clients_are(&self, calm: Calm) -> bool {
        let inside = self.clients.len() + self.consoles.len();
        self.suspension.open.load(Ordering::SeqCst) == 0
            && self.client_sockets.used() as usize <= inside
            && self.clients.iter().all(|client| client.calm() >= calm)
    }

    fn servers_rest(&self) -> bool {
        let pools = self.pools();
        let mut counts = pools.iter().map(|pool| pool.numbers().0);
        counts.all(|counts| counts.tested == 0 && counts.login == 0)
    }

    fn want(&self, calm: Calm) {
        self.suspension.wanted.store(calm as u8, Ordering::Release);
        for client in &self.clients {
            client.wake();
        }
    }
}
