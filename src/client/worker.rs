//! A worker: one thread, its listening sockets, its clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;

use super::flow::{NO_SLOT, Outcome, Seen};
use super::login::{self, Admitted, ConsoleClient, Registration};
use super::session::{End, Session, TakenClient};
use crate::gateway::{self, DatabaseId, Observer, Queries, Recorder, Slot};
use crate::net::{Acceptor, Channel, Stream};
use crate::pool::Bouncer;
use crate::process::LogQueue;
use crate::server::answers::Meter;
use crate::stats::Micros;
use crate::wire::backend;

/// Pause after accept() failed, for example for want of descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Time between two wake-ups of an idle worker.
const NEAREST_TIMER: Duration = Duration::from_secs(1);

/// How long a client may take to read its last message.
pub(super) const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// What becomes of a client that has logged in to the console.
pub type OnConsole = Box<dyn Fn(ConsoleClient) + Send + Sync>;

/// What all clients of one thread share.
pub struct Worker {
    /// Its number, from 0: the home of its servers.
    pub id: usize,
    /// The pooler.
    pub bouncer: Arc<Bouncer>,
    /// How passwords are exchanged.
    pub login: Arc<login::LoginPolicy>,
    on_console: Arc<OnConsole>,
    log: Arc<LogQueue>,
    statements: Option<Statements>,
}

/// Query statistics of one worker. The lock is never contended: it only tells
/// the compiler so.
struct Statements {
    queries: Arc<Queries>,
    observer: Mutex<Observer>,
    recorder: Recorder,
}

impl Worker {
    /// A worker without clients. Without `queries` statements are neither
    /// read nor counted.
    pub fn new(
        id: usize,
        bouncer: Arc<Bouncer>,
        login: Arc<login::LoginPolicy>,
        on_console: Arc<OnConsole>,
        log: Arc<LogQueue>,
        queries: Option<Arc<Queries>>,
    ) -> Arc<Worker> {
        let statements = queries.map(|queries| {
            let observer = queries.observer();
            Statements {
                recorder: observer.recorder(),
                observer: Mutex::new(observer),
                queries,
            }
        });
        Arc::new(Worker {
            id,
            bouncer,
            login,
            on_console,
            log,
            statements,
        })
    }

    /// The number under which statements of a database are counted.
    pub(super) fn database_id(&self, name: &str) -> Option<DatabaseId> {
        Some(self.statements.as_ref()?.queries.database_id(name))
    }

    /// Accepts clients until `stop` says so, and none during SUSPEND.
    pub async fn accept(self: Arc<Self>, acceptor: Acceptor, mut stop: watch::Receiver<bool>) {
        let mut suspended = self.bouncer.suspension.watch();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                _ = suspended.wait_for(|suspended| !suspended) => {}
            }
            let accepting = self.bouncer.suspension.accepting();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = suspended.wait_for(|suspended| *suspended) => {}
                () = self.accept_all(&acceptor) => {}
            }
            drop(accepting);
        }
    }

    async fn accept_all(self: &Arc<Self>, acceptor: &Acceptor) {
        loop {
            match acceptor.accept(|| self.bouncer.socket_options()).await {
                Ok(stream) => {
                    let socket = login::Socket::new(self.bouncer.clone());
                    tokio::spawn(serve(self.clone(), stream, socket));
                }
                Err(error) => {
                    tracing::error!("accept() failed: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Goes on with a client that another process has handed over, on the
    /// runtime of the caller.
    ///
    /// # Errors
    /// Why it cannot: the client is lost then.
    pub fn take_over(self: &Arc<Self>, told: TakenClient) -> Result<(), String> {
        let socket = login::Socket::new(self.bouncer.clone());
        let (session, client) = Session::take_over(self, told)?;
        let registration = Registration::of(&self.bouncer, &client, socket);
        let worker = self.clone();
        tokio::spawn(async move { run(&worker, session, registration).await });
        Ok(())
    }

    /// Keeps a timer of this thread's runtime near. Without one, the deadline
    /// of each new client's login would be the earliest there is, and setting
    /// it would wake the thread that sets it: a write and a read of nothing.
    pub async fn keep_a_timer_near(self: Arc<Self>) {
        let mut tick = tokio::time::interval(NEAREST_TIMER);
        loop {
            tick.tick().await;
        }
    }

    /// The present moment.
    pub fn now(&self) -> Micros {
        self.bouncer.clock.now()
    }

    /// What is known at sight of a statement.
    pub(super) fn observe(&self, database: Option<DatabaseId>, text: &[u8]) -> Seen {
        let (Some(statements), Some(database)) = (&self.statements, database) else {
            return Seen {
                slot: NO_SLOT,
                mentions: gateway::mentions_statements(text),
            };
        };
        let mut observer = statements
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let seen = observer.look(database, text);
        Seen {
            slot: seen.slot.number(),
            mentions: seen.mentions,
        }
    }

    /// Notes the end of a request.
    pub(super) fn record(&self, meter: Meter, now: Micros, outcome: Outcome) {
        let Some(statements) = &self.statements else {
            return;
        };
        let outcome = gateway::Outcome {
            server_time: Some(Duration::from_micros(now.since(meter.start))),
            wait_time: outcome.waited,
            rows: outcome.rows,
            error: outcome.error,
            ..gateway::Outcome::default()
        };
        statements
            .recorder
            .record(Slot::of_number(meter.slot), &outcome);
    }

    pub(super) fn to_console(&self, client: ConsoleClient) {
        (self.on_console)(client);
    }
}

/// One client from accept to Terminate.
fn serve(
    worker: Arc<Worker>,
    stream: Stream,
    socket: login::Socket,
) -> impl Future<Output = ()> + Send {
    let to_login = worker.clone();
    // Boxed, so that an idle client does not carry what its login needed.
    let login = Box::pin(async move { login::log_in(&to_login, stream, socket).await });
    async move {
        let (session, registration) = match login.await {
            Admitted::Session(session, registration) => (session, registration),
            Admitted::Console(client) => return worker.to_console(*client),
            Admitted::Nobody => return,
        };
        run(&worker, session, registration).await;
    }
}

async fn run(worker: &Worker, session: Box<Session>, registration: Registration) {
    let (end, channel) = session.run().await;
    registration.log_end(&end);
    // The books are closed before the last word: it may take a while.
    drop(registration);
    Box::pin(last_word(worker, end, channel)).await;
}

/// Tells the client why, if it may be told.
async fn last_word(worker: &Worker, end: End, channel: Option<Channel>) {
    let (sqlstate, message) = match &end {
        End::HandedOver => return,
        End::Left(_) | End::Lost(_) => {
            if let Some(mut channel) = channel {
                channel.stream.write_end();
            }
            return;
        }
        End::Fatal(message) => (backend::PROTOCOL_VIOLATION, *message),
        End::Refused { sqlstate, message } => (sqlstate.as_str(), message.as_str()),
    };
    if let Some(channel) = channel {
        send_fatal(worker, channel, sqlstate, message).await;
    }
}

/// Sends a FATAL and closes.
pub(super) async fn send_fatal(worker: &Worker, channel: Channel, sqlstate: &str, message: &str) {
    if worker.bouncer.config().pgbouncer.log_pooler_errors {
        tracing::warn!("C: {} pooler error: {message}", channel.stream.peer());
    }
    let mut fatal = BytesMut::new();
    backend::put_error(&mut fatal, "FATAL", sqlstate, message);
    worker.log.written().await;
    let sent = tokio::time::timeout(LAST_WORD_LIMIT, channel.close_with(&fatal)).await;
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!("client did not take its last message");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the task of one client. It lives as long as the client does,
    /// so this is what thousands of idle ones cost.
    fn task_size<F: Future>(_: fn(Arc<Worker>, Stream, login::Socket) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_client_is_small() {
        let all = task_size(serve) + size_of::<Session>() + size_of::<crate::pool::Client>();
        assert!(all <= 832, "{all} bytes");
    }
}
