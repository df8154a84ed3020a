//! A login that waits for a server.

use std::sync::Arc;

use super::Refusal;
use crate::client::worker::Worker;
use crate::pool::state::{Checkout, LoginFailure};
use crate::pool::{Client, Grant, Lease, Pool, Welcome};

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
            Some(grant) => std::task::Poll::Ready(grant),
            None => std::task::Poll::Pending,
        }
    });
    match worker.bouncer.login_wait(client) {
        None => granted.await,
        Some((limit, message)) => tokio::time::timeout(limit, granted)
            .await
            .unwrap_or_else(|_| Grant::Failed(Arc::new(LoginFailure::waited(message)))),
    }
}
