//! What a client asks for, and the server it has for that: obtained, brought to
//! its parameters, forwarded to, accounted for and given back.

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::BytesMut;

use super::{End, Outcome, Phase, State};
use crate::client::around::Around;
use crate::client::check;
use crate::client::flow::{Arrived, ClientFault, ServerFault, Stop};
use crate::config::PoolMode;
use crate::pool::state::{Checkout, LoginFailure};
use crate::pool::{ClientState, Counters, Lease};
use crate::server::answers::Owed;
use crate::server::{Exchange, Parameters};
use crate::stats::Micros;
use crate::wire::{Splice, TransactionStatus, backend};

impl State {
    /// Deals with what the client sent. Answers how much of it was taken; the
    /// rest comes again, and counts then.
    pub(super) fn on_client_chunk(
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
    pub(super) fn obtain_server(&mut self, cx: &mut Context<'_>) -> Outcome<()> {
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
    pub(super) fn link(&mut self, cx: &mut Context<'_>, lease: Lease) -> Outcome<()> {
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
    pub(super) fn take_canonical(&mut self, lease: &Lease) {
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

    pub(super) fn server_chunk(
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
    pub(super) fn account(&mut self, status: TransactionStatus) {
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
    pub(super) fn keep_or_release(&mut self, lease: Lease) {
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
    pub(super) fn part(&mut self, lease: Lease) {
        self.client.set_server(0);
        self.client.set_state(ClientState::Idle);
        lease.discard("server conn crashed?");
    }

    /// The server connection broke: nobody can use it, and the client is told
    /// unless it is in the middle of a message.
    pub(super) fn server_lost(&mut self) -> End {
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
    pub(super) fn leave(&mut self) {
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

    pub(super) fn may_read_client(&self) -> bool {
        self.lease
            .as_ref()
            .is_none_or(|lease| lease.channel.is_drained())
    }

    pub(super) fn is_between_transactions(&self) -> bool {
        let settled = |lease: &Lease| lease.exchange.is_settled() && lease.channel.is_clean();
        matches!(self.phase, Phase::Serving) && self.lease.as_ref().is_none_or(settled)
    }

    /// Nothing of the client's next message is here.
    pub(super) fn is_between_messages(&self) -> bool {
        let passing = |lease: &Lease| lease.exchange.outgoing > 0;
        matches!(self.phase, Phase::Serving)
            && self.flow.is_between_messages()
            && !self.lease.as_ref().is_some_and(passing)
    }

    pub(super) fn at_message_boundary(&self) -> bool {
        self.lease
            .as_ref()
            .is_none_or(|lease| lease.exchange.incoming == 0)
    }

    pub(super) fn counters(&self) -> &Counters {
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

fn cached_failure(failure: &LoginFailure) -> End {
    End::Refused {
        sqlstate: failure.sqlstate.clone(),
        message: format!(
            "server login has been failing, cached error: {} (server_login_retry)",
            failure.message
        ),
    }
}
