//! Driving a client's connection until it ends, or has to end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper_util::server::graceful::GracefulConnection;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::client::{Client, Patience, Waits};
use super::metrics::Metrics;
use super::server::Phase;
use super::timer::poll_deadline;

/// How a connection ended.
pub(crate) enum End {
    /// By itself, in order.
    Finished,
    /// What came was no HTTP, or the socket broke.
    Failed(hyper::Error),
    /// A head took too long.
    HeadTimeout,
    /// It is to be closed as it is.
    Abandoned,
}

/// How a client is had to go on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The protocol has a word for it.
    Said,
    /// It is said with the next answer: a connection that is closed between
    /// two requests may take one with it that is on its way.
    WithAnAnswer,
}

/// Drives a connection until it ends, or has to end.
pub(crate) async fn drive<C>(
    connection: &mut C,
    client: &Client,
    (patience, farewell): (Patience, Farewell),
    metrics: &Metrics,
    phase: &mut watch::Receiver<Phase>,
) -> End
where
    C: GracefulConnection<Error = hyper::Error> + Unpin,
{
    let mut connection = Pin::new(connection);
    let mut watchdog = Watchdog::new(patience);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => return match result {
                Ok(()) => End::Finished,
                Err(error) => End::Failed(error),
            },
            changed = phase.changed() => match (changed, *phase.borrow()) {
                (Ok(()), Phase::Serving) => {}
                (Ok(()), Phase::Leaving) if farewell == Farewell::WithAnAnswer => {
                    client.see_off();
                }
                (Ok(()), Phase::Leaving | Phase::Draining) => {
                    client.dismiss(Instant::now(), true);
                    connection.as_mut().graceful_shutdown();
                }
                (Ok(()), Phase::Closing) | (Err(_), _) => return End::Abandoned,
            },
            waits = watchdog.expired(client) => match waits {
                Waits::Idle => {
                    client.dismiss(Instant::now(), true);
                    connection.as_mut().graceful_shutdown();
                }
                Waits::Leave => {
                    metrics.flooded();
                    client.dismiss(Instant::now(), false);
                    connection.as_mut().graceful_shutdown();
                }
                Waits::Goodbye => return End::Abandoned,
                Waits::Head => return End::HeadTimeout,
                Waits::Write => {
                    client.reset();
                    return End::Abandoned;
                }
            },
        }
    }
}

/// Waits for what a client fails to do.
struct Watchdog {
    patience: Patience,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Watchdog {
    fn new(patience: Patience) -> Watchdog {
        Watchdog {
            patience,
            sleep: None,
        }
    }

    /// Returns when the client was waited for too long. What it is waited for
    /// changes only while its connection is polled; polled after it, this sees
    /// every change. Streams of HTTP/2 end beside their connection: there a
    /// change is seen at the next ping.
    async fn expired(&mut self, client: &Client) -> Waits {
        std::future::poll_fn(|cx| self.poll_expired(client, cx)).await
    }

    fn poll_expired(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<Waits> {
        let Some((waits, deadline)) = client.waits(self.patience) else {
            return Poll::Pending;
        };
        poll_deadline(&mut self.sleep, deadline, Instant::now(), cx).map(|()| waits)
    }
}
