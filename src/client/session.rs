//! A logged-in client: moves bytes between it and the servers it is lent.
//!
//! One task holds the client and, for the time of a transaction, the server;
//! both sockets are polled from the same place. What happens to a message is
//! decided in [`Flow`]; here are the sockets, the waiting and the times.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Sleep;

mod handover;
mod own;
mod state;

pub use handover::{TakenClient, TakenServer};

use super::flow::{Arrived, Flow, Rules, ServerFault};
use super::worker::Worker;
use crate::gateway::DatabaseId;
use crate::net::{Channel, Received};
use crate::pool::{Calm, Client, Grant, Lease, Pool};
use crate::server::Parameters;
use crate::stats::Micros;
use crate::wire::{Splice, backend};

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
