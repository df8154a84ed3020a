//! A logged-in client: moves bytes between it and the servers it is lent.
//!
//! One task holds the client and, for the time of a transaction, the server;
//! both sockets are polled from the same place. What happens to a message is
//! decided in [`Flow`]; here are the sockets, the waiting and the times.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Sleep;

mod handover;
mod own;

pub use handover::{TakenClient, TakenServer};

use super::around::Around;
use super::check;
use super::flow::{Arrived, ClientFault, Flow, Rules, ServerFault, Stop};
use super::worker::Worker;
use crate::config::PoolMode;
use crate::gateway::DatabaseId;
use crate::net::{Channel, Received};
use crate::pool::state::Checkout;
use crate::pool::{Calm, Client, ClientState, Counters, Grant, Lease, Pool};
use crate::server::answers::Owed;
use crate::server::{Exchange, Parameters};
use crate::stats::Micros;
use crate::wire::{Splice, TransactionStatus, backend};

/// Bytes of a client without a server that are taken from its socket: enough
/// to see what it wants and that it is still there.
const WAITING_BYTES: usize = 16 * 1024;

/// How long a client that has said goodbye is still sent the answers it asked
/// for before the query is cancelled.
const GRACE: Duration = Duration::from_millis(100);

/// PgBouncer's words for `query_wait_notify`.
const WAIT_NOTICE: &str = "No server connection available in postgres backend, client being queued";

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client said Terminate or closed its connection.
    Left(&'static str),
    /// The connection is of no more use; nothing can be sent.
    Lost(&'static str),
    /// Another process goes on with it.
    HandedOver,
    /// The client is sent a FATAL with the pooler's own SQLSTATE.
    Fatal(&'static str),
    /// The client is sent a FATAL with this SQLSTATE and text.
    Refused {
        /// SQLSTATE.
        sqlstate: String,
        /// Text.
        message: String,
    },
}

/// PgBouncer's words for a transaction in statement pooling.
const NO_BLOCKS: &str = "transaction blocks not allowed in statement pooling mode";

/// What the session waits for.
enum Phase {
    /// Messages of either side.
    Serving,
    /// A server.
    Waiting,
    /// The answer to `server_check_query`; none if there was none.
    Checking(Pin<Box<dyn Future<Output = Option<Lease>> + Send>>),
    /// The answer to the SETs that bring a new server to the client's
    /// parameters.
    Syncing,
    /// The answers to what has been sent: what the client has sent beyond it
    /// can be read only then.
    Holding,
    /// The last answers, for a client that sends nothing any more.
    Leaving(Pin<Box<Sleep>>),
}

/// A logged-in client.
pub struct Session {
    channel: Channel,
    state: State,
}

/// All but the client's socket, so that a chunk read from it can be dealt
/// with while it is borrowed.
struct State {
    phase: Phase,
    flow: Flow,
    lease: Option<Lease>,
    client: Arc<Client>,
    pool: Arc<Pool>,
    worker: Arc<Worker>,
    /// The number of its database in the query statistics.
    database: Option<DatabaseId>,
    parameters: Arc<Parameters>,
    query_at: Option<Micros>,
    transaction_at: Option<Micros>,
    /// Answers made by the pooler that are to go to the client now.
    back: Vec<u8>,
    /// How far it has come with SUSPEND.
    calm: Calm,
    /// Its server is its own.
    own: bool,
}

type Outcome<T> = Result<T, End>;

impl Session {
    /// A client that has been greeted.
    pub fn new(
        channel: Channel,
        client: Arc<Client>,
        pool: Arc<Pool>,
        worker: Arc<Worker>,
        parameters: Arc<Parameters>,
    ) -> Session {
        Session {
            channel,
            state: State {
                phase: Phase::Serving,
                flow: Flow::new(rules(&worker)),
                lease: None,
                database: worker.database_id(&client.database.name),
                client,
                pool,
                worker,
                parameters,
                query_at: None,
                transaction_at: None,
                back: Vec::new(),
                calm: Calm::No,
                own: false,
            },
        }
    }

    /// Serves the client until the session ends; then the channel can be used
    /// for a last word if that may be said. Boxed, because a future holds what
    /// is moved into it several times.
    pub async fn run(mut self: Box<Self>) -> (End, Option<Channel>) {
        let begun = std::future::poll_fn(|cx| {
            self.state.client.set_waker(cx.waker());
            // It may have sent its first request with its startup packet.
            Poll::Ready(self.retake(cx))
        })
        .await;
        let end = match begun {
            Ok(()) => std::future::poll_fn(|cx| self.poll(cx)).await,
            Err(end) => end,
        };
        if end == End::HandedOver {
            self.state.let_go();
            return (end, None);
        }
        let may_speak = self.state.at_message_boundary() && self.channel.is_drained();
        self.state.leave();
        let Session { channel, .. } = *self;
        (end, may_speak.then_some(channel))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut more = true;
        loop {
            if self.state.client.has_left() {
                return Poll::Ready(End::HandedOver);
            }
            if self.state.client.is_asked() {
                self.tell();
            }
            if let Some(doom) = self.state.client.doomed()
                && (!doom.is_patient() || self.state.is_between_transactions())
            {
                return Poll::Ready(End::Fatal(doom.message));
            }
            if !more || self.rest() == Calm::Still {
                return Poll::Pending;
            }
            match self.step(cx) {
                Ok(progress) => more = progress,
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// Comes to rest for SUSPEND as far as that is asked and can be. A client
    /// that is still is woken when it may go on.
    fn rest(&mut self) -> Calm {
        let state = &mut self.state;
        let wanted = state.worker.bouncer.suspension.wanted();
        let calm = match wanted {
            Calm::No => Calm::No,
            _ if !self.channel.is_clean() || !state.is_between_messages() => Calm::No,
            // Somebody waits for its server, who has to be served yet.
            Calm::Quiet if state.lease.is_some() && state.pool.is_waited_for() => Calm::No,
            Calm::Still if state.lease.as_ref().is_some_and(is_talking) => Calm::Quiet,
            wanted => wanted,
        };
        if calm != state.calm {
            state.calm = calm;
            state.client.set_calm(calm);
        }
        calm
    }

    /// Does what can be done now; true while there may be more. Whatever is
    /// not asked again has said that it will wake this task.
    fn step(&mut self, cx: &mut Context<'_>) -> Outcome<bool> {
        self.flush(cx)?;
        let blocked = self.unsent();
        self.take_grant(cx)?;
        let served = self.pump_server(cx)? && self.state.lease.is_some();
        let quiet = self.state.calm == Calm::Quiet;
        let asked = !quiet && self.pump_client(cx)?;
        let unsent = self.unsent();
        Ok(served || asked || (unsent.0 && !blocked.0) || (unsent.1 && !blocked.1))
    }

    /// Whether bytes wait for the client's, and for the server's socket.
    fn unsent(&self) -> (bool, bool) {
        let lease = self.state.lease.as_ref();
        let to_server = lease.is_some_and(|lease| !lease.channel.is_drained());
        (!self.channel.is_drained(), to_server)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
        if !self.channel.is_drained()
            && let Poll::Ready(Err(_)) = self.channel.poll_flush(cx)
        {
            return Err(End::Lost("client unexpected eof"));
        }
        if let Some(lease) = &mut self.state.lease
            && !lease.channel.is_drained()
            && let Poll::Ready(Err(_)) = lease.channel.poll_flush(cx)
        {
            return Err(self.state.server_lost());
        }
        Ok(())
    }

    fn take_grant(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
        while let Phase::Checking(check) = &mut self.state.phase {
            let Poll::Ready(checked) = check.as_mut().poll(cx) else {
                return Ok(());
            };
            match checked {
                Some(lease) => self.state.link(cx, lease)?,
                None => self.state.obtain_server(cx)?,
            }
            if self.state.lease.is_some() {
                return self.retake(cx);
            }
        }
        if !matches!(self.state.phase, Phase::Waiting) {
            return Ok(());
        }
        if self.state.client.take_wait_notice() {
            let mut notice = BytesMut::new();
            backend::put_notice(&mut notice, WAIT_NOTICE, "");
            self.channel
                .send(cx, &notice)
                .map_err(|_| End::Lost("client unexpected eof"))?;
        }
        match self.state.client.take_grant() {
            None => return Ok(()),
            Some(Grant::Failed(failure)) => {
                self.state.phase = Phase::Serving;
                return Err(refused(&failure));
            }
            Some(Grant::Own(own)) => drop(Lease::granted(own.0, &self.state.pool)),
            Some(Grant::Server(server)) => {
                let lease = Lease::granted(server, &self.state.pool);
                self.state.link(cx, lease)?;
            }
        }
        self.retake(cx)
    }

    /// Deals with bytes of the client that came while it had no server.
    fn retake(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
        if self.channel.carried() > 0 {
            let state = &mut self.state;
            self.channel
                .retake(|chunk, scratch| state.on_client_chunk(cx, chunk, scratch))
                .or_else(|end| self.goodbye(end))?;
            self.send_back(cx)?;
        }
        Ok(())
    }

    fn pump_client(&mut self, cx: &mut Context<'_>) -> Outcome<bool> {
        let received = match &mut self.state.phase {
            Phase::Leaving(deadline) => {
                return match deadline.as_mut().poll(cx) {
                    Poll::Ready(()) => Err(End::Lost("client close request")),
                    Poll::Pending => Ok(false),
                };
            }
            Phase::Waiting | Phase::Checking(_) | Phase::Syncing | Phase::Holding => self
                .channel
                .poll_carry(cx, WAITING_BYTES)
                .map_ok(|received| received.map(Ok)),
            Phase::Serving => self.poll_client_chunk(cx),
        };
        match received {
            Poll::Ready(Ok(Received::Chunk(result))) => {
                result.or_else(|end| self.goodbye(end))?;
                self.send_back(cx)?;
                Ok(true)
            }
            Poll::Ready(Ok(Received::End)) => {
                self.goodbye(End::Left("client unexpected eof"))?;
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(End::Lost("client unexpected eof")),
            Poll::Pending => Ok(false),
        }
    }

    fn poll_client_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Received<Outcome<()>>>> {
        let state = &mut self.state;
        if !state.may_read_client() {
            return Poll::Pending;
        }
        self.channel.poll_receive(cx, |cx, chunk, scratch| {
            state.on_client_chunk(cx, chunk, scratch)
        })
    }

    /// The client has said all it will say: let it have the answers it is
    /// still owed, for a moment.
    fn goodbye(&mut self, end: End) -> Outcome<()> {
        let owed = self.state.lease.as_ref().is_some_and(|lease| {
            !lease.exchange.is_answered()
                && lease.exchange.outgoing == 0
                && !lease.exchange.answers.is_unsynced()
                && !lease.exchange.answers.is_copying_in()
        });
        match end {
            End::Left(_) if owed && !matches!(self.state.phase, Phase::Syncing) => {
                self.state.phase = Phase::Leaving(Box::pin(tokio::time::sleep(GRACE)));
                Ok(())
            }
            end => Err(end),
        }
    }

    fn pump_server(&mut self, cx: &mut Context<'_>) -> Outcome<bool> {
        if !self.channel.is_drained() {
            return Ok(false);
        }
        let Some(mut lease) = self.state.lease.take() else {
            return Ok(false);
        };
        let server = &mut *lease;
        let (exchange, parameters) = (&mut server.exchange, &mut server.parameters);
        let (state, channel) = (&mut self.state, &mut self.channel);
        let received = server.channel.poll_receive(cx, |cx, chunk, scratch| {
            let mut out = Splice::new(chunk, scratch);
            let arrived = state.server_chunk(chunk, exchange, parameters, &mut out);
            let sent = channel.send(cx, out.output());
            let taken = arrived.map_or(chunk.len(), |arrived| arrived.taken);
            state.counters().sent.add(taken as u64);
            (taken, (arrived, sent))
        });
        match received {
            Poll::Pending => {
                self.state.lease = Some(lease);
                Ok(false)
            }
            Poll::Ready(Ok(Received::Chunk((arrived, sent)))) => {
                self.after_server_chunk(cx, lease, arrived, sent)?;
                Ok(true)
            }
            Poll::Ready(Ok(Received::End) | Err(_)) => {
                self.state.lease = Some(lease);
                Err(self.state.server_lost())
            }
        }
    }

    fn after_server_chunk(
        &mut self,
        cx: &mut Context<'_>,
        mut lease: Lease,
        arrived: Result<Arrived, ServerFault>,
        sent: io::Result<()>,
    ) -> Outcome<()> {
        let state = &mut self.state;
        if arrived.is_ok_and(|arrived| arrived.resend) {
            let server = &mut *lease;
            let again = server.exchange.replay.bytes();
            if server.channel.send(cx, again).is_err() {
                state.lease = Some(lease);
                return Err(state.server_lost());
            }
        }
        if sent.is_err() {
            state.lease = Some(lease);
            return Err(End::Lost("client unexpected eof"));
        }
        let Ok(arrived) = arrived else {
            lease.discard("unknown pkt from server");
            return Err(End::Fatal("unknown pkt from server"));
        };
        if arrived.block_refused {
            lease.discard(NO_BLOCKS);
            return Err(End::Fatal(NO_BLOCKS));
        }
        if arrived.internal_failed {
            lease.discard("varcache_apply failed");
            return Err(End::Fatal("invalid server parameter"));
        }
        if arrived.farewell && matches!(state.phase, Phase::Syncing | Phase::Holding) {
            state.lease = Some(lease);
            return Err(state.server_lost());
        }
        if arrived.ask
            && matches!(state.phase, Phase::Serving)
            && lease.exchange.outgoing == 0
            && let Some(foreign) = &mut lease.exchange.foreign
        {
            let mut question = BytesMut::new();
            foreign.ask(&mut question);
            state.phase = Phase::Holding;
            if lease.channel.send(cx, &question).is_err() {
                state.lease = Some(lease);
                return Err(state.server_lost());
            }
        }
        let empty = lease.exchange.is_answered();
        if matches!(state.phase, Phase::Syncing) {
            if empty {
                state.take_canonical(&lease);
            }
            state.lease = Some(lease);
            if empty {
                state.phase = Phase::Serving;
                self.retake(cx)?;
            }
            return Ok(());
        }
        if matches!(state.phase, Phase::Holding) {
            return self.go_on(cx, lease);
        }
        if arrived.ready && empty {
            state.account(lease.exchange.answers.status());
        }
        if arrived.farewell {
            state.part(lease);
        } else {
            state.keep_or_release(lease);
        }
        if matches!(state.phase, Phase::Leaving(_)) && (state.lease.is_none() || empty) {
            return Err(End::Left("client close request"));
        }
        Ok(())
    }

    /// Goes on with the client's messages if the answers have come that had to
    /// come first.
    fn go_on(&mut self, cx: &mut Context<'_>, lease: Lease) -> Outcome<()> {
        let answers = &lease.exchange.answers;
        let (ended, status) = (lease.exchange.is_answered(), answers.status());
        let copying = answers.is_copying_in();
        self.state.lease = Some(lease);
        if !ended && !copying {
            return Ok(());
        }
        self.state.phase = Phase::Serving;
        self.retake(cx)?;
        let owed = |lease: &Lease| !lease.exchange.is_answered();
        if ended && !self.state.lease.as_ref().is_some_and(owed) {
            self.state.account(status);
        }
        // It held for an answer alone, not for a message of the client's.
        let free = |lease: &mut Lease| lease.exchange.is_settled();
        if self.channel.carried() == 0
            && let Some(lease) = self.state.lease.take_if(free)
        {
            self.state.keep_or_release(lease);
        }
        Ok(())
    }

    fn send_back(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
        if self.state.back.is_empty() {
            return Ok(());
        }
        let back = std::mem::take(&mut self.state.back);
        self.channel
            .send(cx, &back)
            .map_err(|_| End::Lost("client unexpected eof"))
    }
}

impl State {
    /// Deals with what the client sent. Answers how much of it was taken; the
    /// rest comes again, and counts then.
    fn on_client_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        scratch: &mut BytesMut,
    ) -> (usize, Outcome<()>) {
        let (taken, outcome) = self.take_client_chunk(cx, chunk, scratch);
        self.counters().received.add(taken as u64);
        (taken, outcome)
    }

    fn take_client_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        scratch: &mut BytesMut,
    ) -> (usize, Outcome<()>) {
        let mut at = 0;
        if self.lease.is_none() {
            let mut around = Around {
                worker: &self.worker,
                pool: &self.pool,
                own: self.own,
                database: self.database,
                now: Micros::ZERO,
                server: None,
                client: &mut self.parameters,
            };
            match self.flow.unlinked(chunk, &mut around, &mut self.back) {
                Err(fault) => return (0, Err(self.fault_end(&fault))),
                Ok((taken, Stop::End)) => {
                    self.client.set_prepared(self.flow.prepared());
                    return (taken, Ok(()));
                }
                Ok((taken, Stop::Terminate)) => {
                    return (taken, Err(End::Left("client close request")));
                }
                Ok((taken, Stop::NeedServer | Stop::NeedAnswers)) => at = taken,
            }
            if let Err(end) = self.obtain_server(cx) {
                return (at, Err(end));
            }
        }
        if !matches!(self.phase, Phase::Serving) {
            return (at, Ok(()));
        }
        let (taken, result) = self.forward(cx, &chunk[at..], scratch);
        (at + taken, result)
    }

    /// Takes an idle server, or joins the queue.
    fn obtain_server(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
        let now = self.worker.now();
        self.client.set_requested_at(now);
        self.query_at = Some(now);
        match self.pool.checkout(&self.client, self.worker.id, now) {
            Checkout::Ready(lease) if self.pool.is_check_due(&lease, now) => {
                self.check(lease);
                Ok(())
            }
            Checkout::Ready(lease) => self.link(cx, lease),
            Checkout::Failing(failure) => Err(cached_failure(&failure)),
            Checkout::Queued => {
                self.phase = Phase::Waiting;
                self.client.begin_wait();
                Ok(())
            }
        }
    }

    /// Asks a server that has been idle for long whether it is still there,
    /// before the client's request is lost with it.
    fn check(&mut self, lease: Lease) {
        let checked = check::check(lease, &self.worker.bouncer.config().pgbouncer);
        self.client.begin_wait();
        self.phase = Phase::Checking(Box::pin(checked));
    }

    /// Takes a server on loan and brings its parameters to the client's.
    fn link(&mut self, cx: &mut Context<'_>, lease: Lease) -> Outcome<()> {
        let mut lease = match lease.home == self.worker.id {
            true => lease,
            false => lease
                .rehome(self.worker.id)
                .ok_or(End::Fatal("server conn crashed?"))?,
        };
        let counters = &self.pool.counters[self.worker.id];
        counters.server_assignments.add(1);
        let mut now = self.query_at.unwrap_or_default();
        if matches!(self.phase, Phase::Waiting | Phase::Checking(_)) {
            now = self.worker.now();
            let waited = now.since(self.query_at.unwrap_or(now));
            counters.wait_time.add(waited);
            self.flow.waited(Duration::from_micros(waited));
            self.query_at = Some(now);
            self.client.set_requested_at(now);
        }
        self.phase = Phase::Serving;
        self.client.set_state(ClientState::Active);
        self.client.set_server(lease.record.id);
        lease.record.link(self.client.id, now);
        if !Arc::ptr_eq(&lease.parameters, &self.parameters) {
            self.sync_parameters(cx, &mut lease)?;
        }
        self.lease = Some(lease);
        Ok(())
    }

    fn sync_parameters(&mut self, cx: &mut Context<'_>, lease: &mut Lease) -> Outcome<()> {
        if *lease.parameters == *self.parameters {
            self.parameters = lease.parameters.clone();
            return Ok(());
        }
        let names = &self.worker.bouncer.tracked;
        let mut query = BytesMut::new();
        if lease
            .parameters
            .put_changes(&self.parameters, names, &mut query)
        {
            lease.exchange.answers.push(Owed::Internal);
            self.phase = Phase::Syncing;
            lease
                .channel
                .send(cx, &query)
                .map_err(|_| End::Fatal("server conn crashed?"))?;
        }
        Ok(())
    }

    /// The server has been brought to the client's parameters: from now on the
    /// client has them as the server spells them.
    fn take_canonical(&mut self, lease: &Lease) {
        let bouncer = &self.worker.bouncer;
        let mut own = Parameters::clone(&self.parameters);
        own.take_canonical(&lease.parameters, &bouncer.tracked);
        self.parameters = bouncer.parameter_sets.share(own);
    }

    fn forward(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        scratch: &mut BytesMut,
    ) -> (usize, Outcome<()>) {
        let Some(mut lease) = self.lease.take() else {
            return (0, Ok(()));
        };
        let was_empty = lease.exchange.is_answered();
        let now = match (was_empty, self.query_at) {
            (true, Some(now)) if self.transaction_at.is_none() => now,
            _ => self.worker.now(),
        };
        let server = &mut *lease;
        let mut out = Splice::new(chunk, scratch);
        let mut around = Around {
            worker: &self.worker,
            pool: &self.pool,
            own: self.own,
            database: self.database,
            now,
            server: Some(&mut server.parameters),
            client: &mut self.parameters,
        };
        let (flow, back) = (&mut self.flow, &mut self.back);
        let walked = flow.client_chunk(chunk, &mut server.exchange, &mut around, &mut out, back);
        let sent = server.channel.send(cx, out.output());
        if was_empty && !server.exchange.is_answered() {
            self.begin_query(now);
        }
        let result = match (walked, sent) {
            (Err(fault), _) => Err(self.fault_end(&fault)),
            (_, Err(_)) => {
                self.lease = Some(lease);
                return (0, Err(self.server_lost()));
            }
            (Ok((taken, Stop::Terminate)), _) => {
                self.lease = Some(lease);
                return (taken, Err(End::Left("client close request")));
            }
            (Ok((taken, Stop::NeedAnswers)), _) => {
                self.lease = Some(lease);
                self.phase = Phase::Holding;
                return (taken, Ok(()));
            }
            (Ok((taken, _)), _) => Ok(taken),
        };
        match result {
            Ok(taken) => {
                self.keep_or_release(lease);
                (taken, Ok(()))
            }
            Err(end) => {
                self.lease = Some(lease);
                (0, Err(end))
            }
        }
    }

    fn begin_query(&mut self, now: Micros) {
        self.query_at = Some(now);
        self.client.set_requested_at(now);
        self.client.set_querying(true);
        if self.transaction_at.is_none() {
            self.transaction_at = Some(now);
            self.client.set_transaction_at(Some(now));
        }
    }

    fn server_chunk(
        &mut self,
        chunk: &[u8],
        exchange: &mut Exchange,
        parameters: &mut Arc<Parameters>,
        out: &mut Splice<'_>,
    ) -> Result<Arrived, ServerFault> {
        let mut around = Around {
            worker: &self.worker,
            pool: &self.pool,
            own: self.own,
            database: self.database,
            now: Micros::ZERO,
            server: Some(parameters),
            client: &mut self.parameters,
        };
        self.flow.server_chunk(chunk, exchange, &mut around, out)
    }

    /// All that was asked has been answered: count it.
    fn account(&mut self, status: TransactionStatus) {
        let now = self.worker.now();
        let counters = &self.pool.counters[self.worker.id];
        counters.queries.add(1);
        counters
            .query_time
            .add(now.since(self.query_at.unwrap_or(now)));
        self.client.set_querying(false);
        self.client.set_requested_at(now);
        self.client.set_prepared(self.flow.prepared());
        if status == TransactionStatus::Idle {
            let began = self.transaction_at.take().unwrap_or(now);
            counters.transactions.add(1);
            counters.transaction_time.add(now.since(began));
            self.client.set_transaction_at(None);
        }
    }

    /// Gives the server back as soon as the pool mode allows.
    fn keep_or_release(&mut self, lease: Lease) {
        let keeps = self.own || self.pool.mode() == PoolMode::Session;
        if keeps || !lease.exchange.is_settled() || !lease.channel.is_clean() {
            self.lease = Some(lease);
            return;
        }
        self.unlink(lease);
    }

    fn unlink(&mut self, lease: Lease) {
        lease.record.set_prepared(lease.exchange.prepared.len());
        self.client.set_server(0);
        self.client.set_state(ClientState::Idle);
        lease.release(self.client.requested_at());
    }

    /// The server goes, and the client does not need it any more.
    fn part(&mut self, lease: Lease) {
        self.client.set_server(0);
        self.client.set_state(ClientState::Idle);
        lease.discard("server conn crashed?");
    }

    /// The server connection broke: nobody can use it, and the client is told
    /// unless it is in the middle of a message.
    fn server_lost(&mut self) -> End {
        if let Some(lease) = self.lease.take() {
            let inside = lease.exchange.incoming > 0;
            lease.discard("server conn crashed?");
            if inside {
                return End::Lost("server conn crashed?");
            }
        }
        End::Fatal("server conn crashed?")
    }

    /// Gives up what the session holds. Done twice, it is done once.
    fn leave(&mut self) {
        if matches!(self.phase, Phase::Waiting) {
            self.pool.leave(&self.client, self.worker.now());
        }
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.client.set_server(0);
        if self.own && (lease.is_clean() || lease.exchange.answers.is_copying_in()) {
            // The end of the connection ends a stream of changes.
            lease.discard("replication client was closed");
        } else if lease.is_reusable() {
            lease.release(self.worker.now());
        } else if lease.exchange.is_answered() {
            lease.discard("client disconnect while server was not ready");
        }
        // Else its end cancels what it runs.
    }

    fn fault_end(&self, fault: &ClientFault) -> End {
        if let ClientFault::NameInUse(name) = fault {
            let name = String::from_utf8_lossy(name);
            let client = &self.client;
            tracing::error!(
                "C-{:#x}: {}/{}@{} prepared statement '{name}' was already prepared",
                client.id,
                client.database.name,
                client.user.name,
                client.address
            );
        }
        match fault.message() {
            Cow::Borrowed(message) => End::Fatal(message),
            Cow::Owned(message) => End::Refused {
                sqlstate: backend::PROTOCOL_VIOLATION.to_owned(),
                message,
            },
        }
    }

    fn may_read_client(&self) -> bool {
        self.lease
            .as_ref()
            .is_none_or(|lease| lease.channel.is_drained())
    }

    fn is_between_transactions(&self) -> bool {
        let settled = |lease: &Lease| lease.exchange.is_settled() && lease.channel.is_clean();
        matches!(self.phase, Phase::Serving) && self.lease.as_ref().is_none_or(settled)
    }

    /// Nothing of the client's next message is here.
    fn is_between_messages(&self) -> bool {
        let passing = |lease: &Lease| lease.exchange.outgoing > 0;
        matches!(self.phase, Phase::Serving)
            && self.flow.is_between_messages()
            && !self.lease.as_ref().is_some_and(passing)
    }

    fn at_message_boundary(&self) -> bool {
        self.lease
            .as_ref()
            .is_none_or(|lease| lease.exchange.incoming == 0)
    }

    fn counters(&self) -> &Counters {
        &self.pool.counters[self.worker.id]
    }
}

impl Drop for State {
    /// A panic or an aborted task: whatever it held or was promised is given
    /// up. After an ordinary end there is nothing left to do.
    fn drop(&mut self) {
        self.leave();
    }
}

/// It is in the middle of something that only this process can go on with.
fn is_talking(lease: &Lease) -> bool {
    !lease.channel.is_clean() || !lease.exchange.is_between_messages()
}

/// What the configuration says about messages; fixed for the session.
fn rules(worker: &Worker) -> Rules {
    let config = worker.bouncer.config();
    Rules {
        max_message: config.pgbouncer.max_packet_size,
        simple_query: !config.pgbouncer.disable_pqexec,
    }
}

fn refused(failure: &crate::pool::state::LoginFailure) -> End {
    End::Refused {
        sqlstate: failure.sqlstate.clone(),
        message: failure.message.clone(),
    }
}

fn cached_failure(failure: &crate::pool::state::LoginFailure) -> End {
    End::Refused {
        sqlstate: failure.sqlstate.clone(),
        message: format!(
            "server login has been failing, cached error: {} (server_login_retry)",
            failure.message
        ),
    }
}
