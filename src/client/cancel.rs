//! Cancel requests of clients.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use super::worker::ACCEPT_PAUSE;
use crate::auth;
use crate::net::{
    self, Acceptor, Channel, Host, ListenError, SocketOptions, Stream, UnixAccess, UnixAddress,
    unix_listener,
};
use crate::pool::{Bouncer, Owner};
use crate::server;
use crate::wire::startup::{self, First};

/// Stands for a port in the names of abstract sockets.
const ELDERS_PORT: u16 = 1;

/// Cancel requests that may wait to be accepted.
const ELDERS_BACKLOG: i32 = 128;

/// The limit where `cancel_wait_timeout` has none.
const LONGEST_CANCEL: Duration = Duration::from_secs(60);

/// Cancels what the client with this key runs, if it runs anything. Nothing is
/// ever answered: the connection closes when the request is done.
pub async fn carry_out(bouncer: &Bouncer, key: &[u8]) {
    let Some((key, rest)) = key.split_first_chunk() else {
        return tracing::info!("failed cancel request");
    };
    let key = match bouncer.owner(*key) {
        Owner::Own(key) => key,
        Owner::Peer(id, key) => return forward(bouncer, id, &[&key, rest].concat()).await,
        Owner::Lost => {
            return tracing::info!(
                "failed to forward cancel request because its TTL was exhausted"
            );
        }
        Owner::Unknown => return tracing::info!("could not find peer to forward request to"),
    };
    if let Some(console) = bouncer.consoles.get(&key)
        && rest.is_empty()
    {
        return console.notify_waiters();
    }
    let client = bouncer.clients.get(&key).map(|found| found.clone());
    let Some(client) = client.filter(|it| auth::same_secret(it.key_rest(), rest)) else {
        return ask_elders(bouncer, &[&key, rest].concat()).await;
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
    match cancel.send(&bouncer.names, limit(bouncer)).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::TimedOut => log_timeout(),
        Err(error) => tracing::warn!("cancel request failed: {error}"),
    }
}

/// Passes the request on to the processes that may still have the client from
/// before this one took over.
async fn ask_elders(bouncer: &Bouncer, key: &[u8]) {
    let elders = bouncer.elders.known();
    if elders.is_empty() {
        return tracing::info!("failed cancel request");
    }
    for name in elders {
        let host = Host::Directory(format!("@{name}"));
        let attempt = async {
            let options = SocketOptions::default();
            let stream = net::connect(&host, ELDERS_PORT, &bouncer.names, &options).await?;
            server::forward_cancel(stream, key).await
        };
        let passed_on = tokio::time::timeout(limit(bouncer), attempt).await;
        match passed_on.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                bouncer.elders.remove(&name);
            }
            Err(error) => {
                tracing::warn!("cancel request could not be passed on to an old process: {error}");
            }
            Ok(()) => {}
        }
    }
}

/// Carries out the requests that a younger process passes on.
///
/// # Errors
/// They cannot be listened for.
pub async fn serve_younger(bouncer: Arc<Bouncer>) -> Result<Infallible, ListenError> {
    let address = UnixAddress::new(&format!("@{}", bouncer.elders.own()), ELDERS_PORT);
    let refused = |error| ListenError::Unix {
        address: address.clone(),
        error,
    };
    // What has no file has no owner: who connects is asked who it is.
    let access = UnixAccess {
        mode: 0,
        group: String::new(),
    };
    let listener = unix_listener(&address, ELDERS_BACKLOG, &access)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(refused)?;
    let acceptor = Acceptor::Unix(listener);
    loop {
        match acceptor.accept(SocketOptions::default).await {
            Ok(stream) => {
                let bouncer = bouncer.clone();
                tokio::spawn(async move {
                    let limit = limit(&bouncer);
                    let done = tokio::time::timeout(limit, take(&bouncer, stream)).await;
                    if !matches!(done, Ok(Ok(()))) {
                        tracing::debug!("a younger process passed no cancel request on");
                    }
                });
            }
            Err(error) => {
                tracing::error!("accept() failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes one request of a process of the same user.
async fn take(bouncer: &Bouncer, stream: Stream) -> io::Result<()> {
    if stream.peer_uid() != Some(rustix::process::geteuid().as_raw()) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let mut channel = Channel::new(stream);
    let len = startup::packet_len(channel.peek(8).await?);
    let len = len.and_then(Result::ok).ok_or(ErrorKind::InvalidData)?;
    channel.peek(len).await?;
    let packet = channel.take(len);
    if let Ok(First::Cancel { key }) = startup::read(&packet) {
        carry_out(bouncer, key).await;
    }
    Ok(())
}

/// Passes the request on to the process that has the client.
async fn forward(bouncer: &Bouncer, id: u32, key: &[u8]) {
    let mut request = bouncer.peer_pool(id).request();
    let attempt = async {
        request.place(|| bouncer.peer_pool_size(id)).await;
        let Some((host, port)) = bouncer.peer_address(id) else {
            return Err(ErrorKind::NotFound.into());
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
        Err(_) => log_timeout(),
    }
}

fn log_timeout() {
    tracing::info!("closing because: cancel_wait_timeout");
}

fn limit(bouncer: &Bouncer) -> Duration {
    let limit = bouncer.config().pgbouncer.cancel_wait_timeout;
    if limit.is_zero() {
        LONGEST_CANCEL
    } else {
        limit
    }
}
