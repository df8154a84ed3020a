//! Client connections: accepting them, and finding out what they speak.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::client::{Client, Transport};
use super::core::Core;
use super::http1;
use super::http2::{self, PREFACE};
use super::proxy;
use super::secure::TlsIo;
use super::site::Site;
use crate::net::tls::Offer;

/// Client connections there may be. More wait in the kernel.
pub(crate) const CLIENTS_MAX: u32 = 16_384;

/// TLS handshakes, and as many of QUIC, that may be under way. More wait.
pub(crate) const HANDSHAKES_MAX: usize = 1024;

/// Pause after the system had no file descriptor for a client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bytes that are read to find out what a client speaks; hyper gets them too.
const EARLY: usize = 1024;

/// What connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serve.
    Serving,
    /// Another process serves whoever comes: have clients go there, before they
    /// ask the next thing or after it.
    Leaving,
    /// Finish the requests that are being served, and close.
    Draining,
    /// Close.
    Closing,
}

/// How a listener's clients are spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Speech {
    /// In clear.
    Plain,
    /// Over TLS.
    Tls(Tls),
}

/// What TLS with clients takes.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) offer: Offer,
    pub(crate) site: Arc<Site>,
    /// Handshakes that may begin.
    pub(crate) handshakes: Arc<Semaphore>,
}

/// Accepts clients until the phase changes.
pub(crate) async fn accept(
    listener: TcpListener,
    speech: Speech,
    core: Arc<Core>,
    slots: Arc<Semaphore>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut complained = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.changed() => return,
            accepted = next_client(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, address, slot)) => {
                let open = Open::new(Arc::clone(&core), slot);
                let phase = phase.clone();
                match &speech {
                    Speech::Plain => drop(tokio::spawn(serve_plain(stream, address, open, phase))),
                    Speech::Tls(tls) => {
                        let tls = tls.clone();
                        drop(tokio::spawn(serve_tls(stream, address, tls, open, phase)));
                    }
                }
            }
            Err(error) => {
                let now = Instant::now();
                let lately = |it: Instant| now - it < Duration::from_secs(10);
                if !complained.is_some_and(lately) {
                    tracing::warn!(%error, "cannot accept HTTP clients");
                    complained = Some(now);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn next_client(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await;
    let slot = slot.expect("the slots are never closed");
    let (stream, address) = listener.accept().await?;
    // Without it a second small write waits for the first one's ACK.
    let _refused = stream.set_nodelay(true);
    Ok((stream, address, slot))
}

/// The client of a connection, and what was read of it already: the one that
/// came, unless it is a proxy that says first whose connection it is. None if
/// it does not, or goes.
async fn introduced(
    stream: &mut TcpStream,
    address: SocketAddr,
    core: &Core,
    phase: &watch::Receiver<Phase>,
) -> Option<(SocketAddr, Vec<u8>)> {
    let proxies = &core.settings.proxy_protocol_from;
    if !proxies.iter().any(|it| it.holds(address.ip())) {
        return Some((address, Vec::new()));
    }
    let mut phases = phase.clone();
    let read = tokio::select! {
        biased;
        read = timeout(core.patience.head, proxy::read(stream)) => read,
        _ = phases.wait_for(|it| *it >= Phase::Draining) => return None,
    };
    match read {
        Ok(Ok(Some((header, early)))) => Some((header.client.unwrap_or(address), early)),
        // It only looked whether somebody listens.
        Ok(Ok(None)) => None,
        Ok(Err(_)) | Err(_) => {
            core.metrics.proxy_header_missed();
            None
        }
    }
}

/// Serves a client in clear: HTTP/2 if it begins as only that begins, else
/// HTTP/1.
async fn serve_plain(
    mut stream: TcpStream,
    address: SocketAddr,
    open: Open,
    phase: watch::Receiver<Phase>,
) {
    let core = &open.core;
    let introduced = introduced(&mut stream, address, core, &phase).await;
    let Some((address, mut early)) = introduced else {
        return;
    };
    let client = Client::new(address, None, Instant::now());
    let client = Arc::new(client.trusted(core.trusts(address)));
    let mut phases = phase.clone();
    let read = tokio::select! {
        biased;
        read = timeout(core.patience.head, read_early(&mut stream, &mut early)) => read,
        _ = phases.wait_for(|it| *it >= Phase::Draining) => return,
    };
    match read {
        Ok(Ok(Begins::WithPreface)) => {
            Box::pin(http2::serve(stream, early, &client, core, phase)).await;
        }
        Ok(Ok(Begins::Otherwise)) => http1::serve(stream, early, &client, core, phase).await,
        // Nothing of a request came.
        Ok(Ok(Begins::Never) | Err(_)) => {}
        Err(_elapsed) if early.is_empty() => {}
        Err(_elapsed) => {
            core.metrics.unread().inc();
            http1::send_away(&mut stream).await;
        }
    }
}

/// Shakes hands with a client, and serves it in the protocol that was agreed
/// on.
async fn serve_tls(
    mut stream: TcpStream,
    address: SocketAddr,
    tls: Tls,
    open: Open,
    phase: watch::Receiver<Phase>,
) {
    let core = &open.core;
    let introduced = introduced(&mut stream, address, core, &phase).await;
    let Some((address, early)) = introduced else {
        return;
    };
    let came = Instant::now();
    // Only a site with names is interested in which one it is.
    let (offer, hearing) = match tls.site.has_names() {
        true => {
            let (offer, hearing) = tls.offer.hearing();
            (offer, Some(hearing))
        }
        false => (tls.offer, None),
    };
    let handshake = async {
        let _turn = tls.handshakes.acquire().await;
        TlsIo::accept(stream, offer, &early).await
    };
    let Ok(Ok(stream)) = timeout(core.patience.head, handshake).await else {
        return core.metrics.handshake_failed();
    };
    if stream.is_validation() {
        return;
    }
    let host = hearing.as_ref().and_then(|it| it.name());
    let client = Client::new(address, Some(tls.site), came);
    let client = client.asking_for(host).trusted(core.trusts(address));
    let client = Arc::new(client);
    match stream.speaks_http_2() {
        true => Box::pin(http2::serve(stream, Vec::new(), &client, core, phase)).await,
        false => http1::serve(stream, Vec::new(), &client, core, phase).await,
    }
}

/// What a client's first bytes are.
enum Begins {
    /// There are none.
    Never,
    /// HTTP/2's.
    WithPreface,
    /// Something else's.
    Otherwise,
}

/// Reads until it is clear what a client speaks. Some may have been read.
async fn read_early(stream: &mut impl Transport, early: &mut Vec<u8>) -> io::Result<Begins> {
    early.reserve_exact(EARLY);
    loop {
        let known = early.len().min(PREFACE.len());
        if early[..known] != PREFACE[..known] {
            return Ok(Begins::Otherwise);
        }
        if known == PREFACE.len() {
            return Ok(Begins::WithPreface);
        }
        if stream.read_buf(early).await? == 0 {
            return Ok(match known {
                0 => Begins::Never,
                _ => Begins::Otherwise,
            });
        }
    }
}

/// An open connection. Its slot is free only when it holds nothing else.
pub(crate) struct Open {
    pub(crate) core: Arc<Core>,
    _slot: OwnedSemaphorePermit,
}

impl Open {
    pub(crate) fn new(core: Arc<Core>, slot: OwnedSemaphorePermit) -> Open {
        // A reload may have changed how long clients are waited for.
        let core = core.latest();
        core.metrics.clients().inc();
        Open { core, _slot: slot }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.metrics.clients().dec();
    }
}
