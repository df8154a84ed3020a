//! Cancel requests of clients.

use std::io;
use std::time::Duration;

use crate::net::{self, SocketOptions};
use crate::pool::{Bouncer, CancelKey, Owner};
use crate::server;

/// The limit where `cancel_wait_timeout` has none.
const LONGEST_CANCEL: Duration = Duration::from_secs(60);

/// Cancels what the client with this key runs, if it runs anything. Nothing is
/// ever answered: the connection closes when the request is done.
pub async fn carry_out(bouncer: &Bouncer, key: &[u8]) {
    let Ok(key) = CancelKey::try_from(key) else {
        return tracing::info!("failed cancel request");
    };
    let key = match bouncer.owner(key) {
        Owner::Own(key) => key,
        Owner::Peer(id, key) => return forward(bouncer, id, &key).await,
        Owner::Lost => {
            return tracing::info!(
                "failed to forward cancel request because its TTL was exhausted"
            );
        }
        Owner::Unknown => return tracing::info!("could not find peer to forward request to"),
    };
    if let Some(console) = bouncer.consoles.get(&key) {
        return console.notify_waiters();
    }
    let Some(client) = bouncer.clients.get(&key).map(|found| found.clone()) else {
        return tracing::info!("failed cancel request");
    };
    let linked = client.server();
    let record = bouncer.servers.get(&linked).map(|found| found.clone());
    let Some(record) = record else {
        return tracing::info!("cancel request for idle client");
    };
    let Some(cancel) = record.begin_cancel() else {
        return;
    };
    // Between the look and the mark the server may have been given to another
    // client. Who unlinks it from now on sees the mark.
    if client.server() != linked {
        return tracing::info!("not sending cancel request for client that is now idle");
    }
    if let Err(error) = cancel.send(&bouncer.names, limit(bouncer)).await {
        tracing::warn!("cancel request failed: {error}");
    }
}

/// Passes the request on to the process that has the client.
async fn forward(bouncer: &Bouncer, id: u32, key: &CancelKey) {
    let mut request = bouncer.peer_pool(id).request();
    let attempt = async {
        request.place(|| bouncer.peer_pool_size(id)).await;
        let Some((host, port)) = bouncer.peer_address(id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let options = SocketOptions::default();
        let stream = net::connect(&host, port, &bouncer.names, &options).await?;
        request.sent();
        server::forward_cancel(stream, key).await
    };
    match tokio::time::timeout(limit(bouncer), attempt).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!("cancel request could not be passed on to peer {id}: {error}");
        }
        Err(_) => tracing::info!("closing because: cancel_wait_timeout"),
    }
}

fn limit(bouncer: &Bouncer) -> Duration {
    let limit = bouncer.config().pgbouncer.cancel_wait_timeout;
    if limit.is_zero() {
        LONGEST_CANCEL
    } else {
        limit
    }
}
