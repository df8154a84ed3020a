//! A login that waits for a server.

use std::sync::Arc;
use std::task::{Poll, ready};

use super::Refusal;
use crate::client::worker::Worker;
use crate::net::{Channel, Received};
use crate::pool::state::{Checkout, LoginFailure};
use crate::pool::{Client, Grant, Lease, Pool, Welcome};

/// Bytes that are taken from a client while its login waits: enough to see
/// that it is still there. Nothing is to come from it.
const WAITING_BYTES: usize = 4 * 1024;

/// What `wait` comes to, unless the client leaves before.
///
/// Boxed: logins that wait are few, and all of them would carry it.
pub(in crate::client) async fn unless_gone<T>(
    channel: &mut Channel,
    wait: impl Future<Output = T>,
) -> Result<T, Refusal> {
    let mut wait = Box::pin(wait);
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = wait.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            match ready!(channel.poll_carry(cx, WAITING_BYTES)) {
                Ok(Received::Chunk(())) => {}
                Ok(Received::End) | Err(_) => return Poll::Ready(Err(Refusal::Silent)),
            }
        }
    })
    .await
}

/// Waits for a server of the pool.
pub(in crate::client) async fn obtain(
    worker: &Worker,
    pool: &Arc<Pool>,
    client: &Arc<Client>,
) -> Result<Lease, Refusal> {
    match pool.checkout_first(client, worker.id, worker.now()) {
        Checkout::Ready(lease) => Ok(lease),
        Checkout::Failing(failure) => Err(Refusal::Server(failure)),
        Checkout::Queued => match wait_for_grant(worker, pool, client).await {
            Grant::Server(server) => Ok(Lease::granted(server, pool)),
            Grant::Own(own) => Ok(Lease::granted(own.0, pool)),
            Grant::Failed(failure) => Err(Refusal::Server(failure)),
        },
    }
}

/// Waits for a server that is opened for the client alone.
pub(super) async fn obtain_own(
    worker: &Worker,
    pool: &Arc<Pool>,
    client: &Arc<Client>,
) -> Result<(Lease, Welcome), Refusal> {
    pool.ask_for_own(client, worker.id, worker.now());
    match wait_for_grant(worker, pool, client).await {
        Grant::Own(own) => {
            let (server, welcome) = *own;
            let own = Lease::granted(server, pool);
            let own = own.rehome(worker.id).ok_or("server conn crashed?")?;
            Ok((own, welcome))
        }
        Grant::Server(server) => {
            Lease::granted(server, pool).discard("nobody asked for it");
            Err(Refusal::Silent)
        }
        Grant::Failed(failure) => Err(Refusal::Server(failure)),
    }
}

async fn wait_for_grant(worker: &Worker, pool: &Arc<Pool>, client: &Arc<Client>) -> Grant {
    /// Leaves the queue if the login ends before its turn.
    struct Queued<'a>(&'a Worker, &'a Arc<Pool>, &'a Arc<Client>);
    impl Drop for Queued<'_> {
        fn drop(&mut self) {
            self.1.leave(self.2, self.0.now());
        }
    }
    let _queued = Queued(worker, pool, client);
    let granted = std::future::poll_fn(|cx| {
        client.set_waker(cx.waker());
        match client.take_grant() {
            Some(grant) => Poll::Ready(grant),
            None => Poll::Pending,
        }
    });
    match worker.bouncer.login_wait(client) {
        None => granted.await,
        Some((limit, message)) => tokio::time::timeout(limit, granted)
            .await
            .unwrap_or_else(|_| Grant::Failed(Arc::new(LoginFailure::waited(message)))),
    }
}
