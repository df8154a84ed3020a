//! A client on its way from one process to the next.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{Session, State};
use crate::client::worker::Worker;
use crate::handover;
use crate::net::{Channel, Stream};
use crate::pool::{
    Bouncer, Calm, CancelKey, Client, ClientState, Database, Lease, NewClient, Pool, Told,
    ToldServer,
};
use crate::server::statements::Statement;
use crate::server::{Parameters, Server, Taken};
use crate::stats::Micros;

/// A client that another process has handed over.
#[derive(Debug)]
pub struct TakenClient {
    /// Its connection.
    pub socket: OwnedFd,
    /// The database entry.
    pub database: String,
    /// The user it logged in as.
    pub user: String,
    /// Its cancel key.
    pub key: CancelKey,
    /// The parameters that PgBouncer tells.
    pub parameters: Vec<handover::Pair>,
    /// What a pgweir tells besides.
    pub more: Option<handover::Client>,
    /// The server it works with.
    pub server: Option<(OwnedFd, Taken)>,
}

/// An idle server that another process has handed over.
#[derive(Debug)]
pub struct TakenServer {
    /// Its connection.
    pub socket: OwnedFd,
    /// The database entry.
    pub database: String,
    /// The user it is logged in as.
    pub user: String,
    /// What is told of it.
    pub taken: Taken,
}

impl TakenServer {
    /// Gives it to its pool, on the reactor of the calling thread, worker
    /// `home`.
    ///
    /// # Errors
    /// Why it cannot: the server is lost then.
    pub fn enter(self, bouncer: &Arc<Bouncer>, home: usize) -> Result<(), String> {
        let database = database(bouncer, &self.database)?;
        let user = bouncer.user(&self.user);
        let pool = bouncer.pool(&database, &user);
        let mut server = taken_server(bouncer, &pool, self.socket, self.taken)?;
        server.home = home;
        pool.take_over(bouncer, server, bouncer.clock.now());
        Ok(())
    }
}

impl Session {
    /// Tells what is asked about the client.
    pub(super) fn tell(&mut self) {
        let Some(question) = self.state.client.take_question() else {
            return;
        };
        let now = self.state.worker.now();
        let stream = &self.channel.stream;
        let server = self.state.lease.as_ref();
        let server = server.map(|lease| ToldServer::of(lease, now));
        let movable = self.state.calm == Calm::Still
            && stream.cipher().is_none()
            // The next process, a PgBouncer perhaps, would lend its server out.
            && !self.state.own
            && server.as_ref().is_none_or(|server| server.whole.is_some());
        let names = self.state.flow.hand_over().filter(|_| movable);
        let socket = names.as_ref().and_then(|_| stream.duplicate().ok());
        let statements = names.iter().flatten().map(|(_, it)| it.clone()).collect();
        let whole = names.map(|names| self.state.hand_over(stream.fd(), now, names));
        let told = Told {
            fd: stream.fd(),
            parameters: self.state.parameters.clone(),
            whole: whole.zip(socket),
            statements,
            server,
        };
        // Who asked may not wait any more.
        drop(question.send(told));
    }

    /// A client that another process has served so far, between two messages.
    ///
    /// # Errors
    /// Why it cannot be served here; its connection is closed then.
    pub fn take_over(
        worker: &Arc<Worker>,
        told: TakenClient,
    ) -> Result<(Box<Session>, Arc<Client>), String> {
        let bouncer = &worker.bouncer;
        let database = database(bouncer, &told.database)?;
        let user = bouncer.user(&told.user);
        let pool = bouncer.pool(&database, &user);
        let stream = Stream::take_over(told.socket).map_err(|error| error.to_string())?;
        let now = worker.now();
        let ago = |age: u64| Micros(now.0.saturating_sub(age));
        let more = told.more.as_ref();
        let mut parameters = Parameters::default();
        parameters.set_pairs(&told.parameters, &bouncer.tracked);
        if let Some(more) = more {
            parameters.set_pairs(&more.parameters, &bouncer.tracked);
        }
        let name = more.map_or("", |more| more.application_name.as_str());
        let client = Arc::new(Client::new(NewClient {
            id: bouncer.next_id(),
            key: told.key,
            database,
            user,
            address: stream.peer(),
            local: stream.local(),
            cipher: None,
            connected_at: more.map_or(now, |more| ago(more.age)),
            application_name: name.into(),
            own: None,
            key_rest: more.and_then(|more| more.key_rest.clone()?.try_into().ok()),
        }));
        let mut session = Box::new(Session::new(
            Channel::new(stream),
            client.clone(),
            pool.clone(),
            worker.clone(),
            bouncer.parameter_sets.share(parameters),
        ));
        let state = &mut session.state;
        let names = more.into_iter().flat_map(|more| more.statements.iter());
        let known =
            |(name, id): &(Vec<u8>, u64)| Some((name.clone(), bouncer.dictionary.by_id(*id)?));
        state.flow.take_over(names.filter_map(known));
        client.set_prepared(state.flow.prepared());
        client.set_requested_at(more.map_or(now, |more| ago(more.request_age)));
        if let Some((socket, taken)) = told.server {
            let mut server = taken_server(bouncer, &pool, socket, taken)?;
            server.home = worker.id;
            // Of what PgBouncer has begun it is not known what it is.
            let querying = more.is_none_or(|more| more.querying);
            let began = more.map_or(Some(now), |more| more.transaction_age.map(ago));
            state.enter(pool.take_over_linked(bouncer, server), querying, began);
        }
        Ok((session, client))
    }
}

impl State {
    fn hand_over(
        &self,
        fd: i32,
        now: Micros,
        names: Vec<(Vec<u8>, Arc<Statement>)>,
    ) -> handover::Client {
        let client = &self.client;
        let names = names.into_iter();
        handover::Client {
            fd,
            age: now.since(client.connected_at),
            application_name: client.application_name.to_string(),
            parameters: self.parameters.pairs(&self.worker.bouncer.tracked),
            statements: names.map(|(name, it)| (name, it.id())).collect(),
            transaction_age: client.transaction_at().map(|began| now.since(began)),
            request_age: now.since(client.requested_at()),
            querying: client.is_querying(),
            key_rest: handover::some_rest(client.key_rest()),
        }
    }

    /// Begins with a server: one of its own, or one it had in another process.
    pub(super) fn enter(&mut self, lease: Lease, querying: bool, began: Option<Micros>) {
        let client = &self.client;
        client.set_server(lease.record.id);
        client.set_state(ClientState::Active);
        client.set_querying(querying);
        client.set_transaction_at(began);
        lease.record.link(client.id, lease.record.requested_at());
        self.query_at = Some(client.requested_at());
        self.transaction_at = began;
        self.lease = Some(lease);
    }

    /// Gives up what another process goes on with.
    pub(super) fn let_go(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.let_go();
        }
    }
}

fn database(bouncer: &Bouncer, name: &str) -> Result<Arc<Database>, String> {
    let found = bouncer.database(name);
    found.ok_or_else(|| format!("no such database: {name}"))
}

fn taken_server(
    bouncer: &Bouncer,
    pool: &Pool,
    socket: OwnedFd,
    taken: Taken,
) -> Result<Server, String> {
    let stream = Stream::take_over(socket).map_err(|error| error.to_string())?;
    let target = bouncer.target(pool, 0);
    let mut server = Server::take_over(
        taken,
        stream,
        (bouncer.next_id(), pool.id, bouncer.clock.now()),
        (target.host, target.port),
        (&bouncer.tracked, &bouncer.dictionary),
    )?;
    let own = std::mem::take(&mut server.parameters);
    server.parameters = bouncer.parameter_sets.share(Arc::unwrap_or_clone(own));
    Ok(server)
}
