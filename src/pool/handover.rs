//! Clients and servers on their way from one process to the next.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Bouncer, Lease, Pool, Welcome};
use crate::handover;
use crate::net::{Listener, set_defer_accept};
use crate::server::statements::Statement;
use crate::server::{Parameters, Record, Server, ServerState};
use crate::stats::Micros;

/// Where what a client's task tells goes.
pub type Question = oneshot::Sender<Told>;

/// What a client's task tells about it.
#[derive(Debug)]
pub struct Told {
    /// The number of its socket.
    pub fd: RawFd,
    /// Its tracked parameters.
    pub parameters: Arc<Parameters>,
    /// What the next process has to know, and another descriptor of its socket;
    /// none if it cannot be handed over now.
    pub whole: Option<(handover::Client, OwnedFd)>,
    /// Statements that these mention.
    pub statements: Vec<Arc<Statement>>,
    /// The server it works with.
    pub server: Option<ToldServer>,
}

/// What is told about a server.
#[derive(Debug)]
pub struct ToldServer {
    /// The number of its socket.
    pub fd: RawFd,
    /// Its entry in the books.
    pub record: Arc<Record>,
    /// Its tracked parameters.
    pub parameters: Arc<Parameters>,
    /// As for its client.
    pub whole: Option<(handover::Server, OwnedFd)>,
    /// Statements that these mention.
    pub statements: Vec<Arc<Statement>>,
}

impl ToldServer {
    /// About this server.
    pub fn of(server: &Server, now: Micros) -> ToldServer {
        let socket = || server.channel.stream.duplicate().ok();
        let whole = server.hand_over(now);
        ToldServer {
            fd: server.fd(),
            record: server.record.clone(),
            parameters: server.parameters.clone(),
            whole: whole.and_then(|whole| Some((whole, socket()?))),
            statements: server.statements(),
        }
    }
}

impl Pool {
    /// About its idle servers.
    pub fn tell(&self, now: Micros) -> Vec<ToldServer> {
        let state = self.state();
        let quiet = state.idle().filter(|it| it.channel.stream.is_quiet());
        quiet.map(|server| ToldServer::of(server, now)).collect()
    }

    /// Takes in an idle server that another process has logged in.
    pub fn take_over(self: &Arc<Self>, bouncer: &Bouncer, server: Server, now: Micros) {
        self.enter(bouncer, &server);
        server.record.set_state(ServerState::Idle);
        self.state().taken_over_idle(Box::new(server), now);
    }

    /// Takes in a server that works for a client.
    pub fn take_over_linked(self: &Arc<Self>, bouncer: &Bouncer, server: Server) -> Lease {
        self.enter(bouncer, &server);
        self.state().taken_over_active();
        Lease::granted(Box::new(server), self)
    }

    fn enter(&self, bouncer: &Bouncer, server: &Server) {
        bouncer.take_any_server_place(&self.database, &self.user);
        let record = &server.record;
        bouncer.servers.insert(record.id, record.clone());
    }

    /// What clients are greeted with, as another process knows it.
    pub fn set_welcome(&self, bouncer: &Bouncer, reported: Vec<handover::Pair>) {
        let mut tracked = Parameters::default();
        tracked.set_pairs(&reported, &bouncer.tracked);
        let tracked = bouncer.parameter_sets.share(tracked);
        let welcome = Welcome::new(reported, tracked, &bouncer.tracked);
        self.welcome.store(Some(Arc::new(welcome)));
    }

    /// Lets a server go without a word: another process goes on with it.
    pub fn let_go(self: &Arc<Self>, server: Box<Server>) {
        let (id, home) = (server.record.id, server.home);
        drop(server);
        self.lost(id, home);
    }

    /// Lets the idle servers go that another process goes on with.
    fn let_idle_go(self: &Arc<Self>) {
        let handed = |server: &Server| server.record.is_handed_over();
        let servers = self.state().close_idle(|server, _, _| handed(server));
        for server in servers {
            // `lost` is about a linked one.
            self.state().reactivated();
            self.let_go(server);
        }
    }
}

impl Bouncer {
    /// Another process has the sockets and goes on with what they are of; the
    /// rest goes on here. From now on servers are opened for clients that wait,
    /// and not for a minimum: the other one has the pools.
    pub fn let_go(&self) {
        // It has been told of them.
        self.elders.forget();
        self.suspension.lingering.store(true, Ordering::Release);
        for pool in self.pools() {
            pool.apply_settings(self);
        }
        for client in &self.clients {
            if client.is_handed_over() {
                client.let_go();
            }
        }
        for pool in self.pools() {
            pool.let_idle_go();
        }
    }

    /// Whether this process goes on only for who could not be handed over.
    pub fn is_lingering(&self) -> bool {
        self.suspension.lingering.load(Ordering::Acquire)
    }

    /// Whether another process has been told everything and may say that it
    /// goes on.
    pub fn is_handed_over(&self) -> bool {
        self.suspension.handed_over.load(Ordering::Acquire)
    }

    /// Another process has been told everything (or nothing, after all).
    pub fn set_handed_over(&self, told: bool) {
        self.suspension.handed_over.store(told, Ordering::Release);
        if !told {
            self.clients.iter().for_each(|it| it.hand_over(false));
            self.servers.iter().for_each(|it| it.hand_over(false));
        }
    }

    /// Listening sockets, for the next process.
    pub fn sockets(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies `tcp_defer_accept` to what is listened on.
    pub fn tune_accept(&self) {
        let defer = self.config().pgbouncer.tcp_defer_accept;
        for socket in self.sockets().iter() {
            if Listener::address(socket).is_some() {
                set_defer_accept(socket, defer);
            }
        }
    }
}
