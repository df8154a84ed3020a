//! A UDP port that goes from process to process while its connections stay
//! where they are.
//!
//! One process reads it: the youngest. It knows by their ids which packets are
//! for connections of its elders and passes those on, each to the one that has
//! it; all others are its own, so that whoever comes anew, comes to it. The
//! elders read what is passed to them instead of the port, and send with the
//! port themselves. When an elder has ended, its connections are nobody's: the
//! youngest resets them.
//!
//! A handshake that is under way at the change goes on with the elder as soon
//! as its client has seen an id of the elder's. Until then its packets bear an
//! id that the client made up, and begin another handshake, with the youngest;
//! the client takes part in the one it hears of first (RFC 9000, 7.2).
//!
//! Without elders no packet is looked at.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UnixDatagram;

use super::generation::{Lineage, destination};
use super::relay;

/// Processes before this one that may still have connections. Each has
/// `drain_timeout` to end; of more, the oldest are not served any more.
const ELDERS_MAX: usize = 32;

/// What all who have to do with a port share.
#[derive(Debug)]
pub(crate) struct Seat {
    socket: UdpSocket,
    elders: Mutex<Vec<Elder>>,
    has_elders: AtomicBool,
    reading: Mutex<Reading>,
}

/// A process that still has connections here.
#[derive(Debug)]
pub(crate) struct Elder {
    /// Marks its connections.
    pub(crate) generation: u8,
    /// Takes their packets.
    pub(crate) relay: OwnedFd,
}

/// Where packets are read.
#[derive(Debug, Default)]
struct Reading {
    /// What another process passes packets through, once this one has left.
    prepared: Option<OwnedFd>,
    /// The port is not read any more.
    has_left: bool,
    /// What is read instead.
    relay: Option<UnixDatagram>,
    /// Who reads.
    waker: Option<Waker>,
}

impl Seat {
    /// This port, of which these have connections.
    pub(super) fn new(socket: UdpSocket, mut elders: Vec<Elder>) -> Seat {
        let surplus = elders.len().saturating_sub(ELDERS_MAX);
        elders.drain(..surplus);
        Seat {
            socket,
            has_elders: AtomicBool::new(!elders.is_empty()),
            elders: Mutex::new(elders),
            reading: Mutex::default(),
        }
    }

    /// For another process: the port, and all who have connections there, this
    /// one included, the oldest first.
    ///
    /// # Errors
    /// There are too few descriptors.
    pub(crate) fn hand_over(&self, own: u8) -> io::Result<(OwnedFd, Vec<Elder>)> {
        let mut elders = Vec::new();
        for elder in lock(&self.elders).iter() {
            elders.push(Elder {
                generation: elder.generation,
                relay: elder.relay.try_clone()?,
            });
        }
        let (to, from) = relay::pair()?;
        lock(&self.reading).prepared = Some(from);
        elders.push(Elder {
            generation: own,
            relay: to,
        });
        Ok((self.socket.as_fd().try_clone_to_owned()?, elders))
    }

    /// Reads the port no more: another process does from now on.
    pub(crate) fn leave(&self) {
        let mut reading = lock(&self.reading);
        reading.has_left = true;
        if let Some(waker) = reading.waker.take() {
            waker.wake();
        }
    }

    /// Whether the packet was for an elder, and was passed on.
    fn pass_on(&self, lineage: &Lineage, meta: &RecvMeta, packet: &[u8]) -> bool {
        let Some(id) = destination(packet) else {
            return false;
        };
        let mut elders = lock(&self.elders);
        let Some(at) = elders.iter().position(|it| it.generation == id[0]) else {
            return false;
        };
        if !lineage.has_made(id) {
            return false;
        }
        let sent = relay::send(&elders[at].relay, meta, packet);
        if sent.is_err() {
            elders.remove(at);
            self.has_elders.store(!elders.is_empty(), Ordering::Relaxed);
        }
        sent.is_ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The port as quinn uses it.
pub(super) struct Port {
    seat: Arc<Seat>,
    lineage: Lineage,
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

impl Port {
    /// To be called where there is a runtime.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(seat: Arc<Seat>, lineage: Lineage) -> io::Result<Port> {
        let socket = seat.socket.try_clone()?;
        let state = UdpSocketState::new((&socket).into())?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Port {
            seat,
            lineage,
            socket,
            state,
        })
    }

    /// Passes on what is for others; what is left stays, in its order.
    fn sort(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let mut left = 0;
        for start in (0..meta.len).step_by(stride) {
            let end = (start + stride).min(meta.len);
            let packet = &buffer[start..end];
            if self.seat.pass_on(&self.lineage, meta, packet) {
                continue;
            }
            buffer.copy_within(start..end, left);
            left += end - start;
        }
        meta.len = left;
    }

    fn read_port(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let read = || self.state.recv((&self.socket).into(), bufs, metas);
            // An error is about something that was sent, and told once.
            if let Ok(count) = self.socket.try_io(Interest::READABLE, read) {
                break count;
            }
        };
        if self.seat.has_elders.load(Ordering::Relaxed) {
            for (buffer, meta) in bufs.iter_mut().zip(metas.iter_mut()).take(count) {
                self.sort(buffer, meta);
            }
        }
        Poll::Ready(Ok(count))
    }
}

impl Reading {
    /// Reads one packet that was passed on.
    fn read_relay(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        found: &mut RecvMeta,
    ) -> Poll<io::Result<usize>> {
        if let Some(prepared) = self.prepared.take() {
            self.relay = Some(UnixDatagram::from_std(prepared.into())?);
        }
        let mut message = [0; relay::MESSAGE_MAX];
        while let Some(relay) = &self.relay {
            let mut message = ReadBuf::new(&mut message);
            let read = ready!(relay.poll_recv(cx, &mut message));
            if read.is_err() || message.filled().is_empty() {
                // Nobody is left who would pass anything on.
                self.relay = None;
            } else if let Some((meta, packet)) = relay::decode(message.filled())
                && packet.len() <= buffer.len()
            {
                buffer[..packet.len()].copy_from_slice(packet);
                *found = meta;
                return Poll::Ready(Ok(1));
            }
        }
        Poll::Pending
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room {
            port: self,
            wait: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state.send((&self.socket).into(), transmit);
        self.socket.try_io(Interest::WRITABLE, send)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Held while the port is read: after `leave` nothing is read from it.
        let mut reading = lock(&self.seat.reading);
        if reading.has_left {
            return match (bufs.first_mut(), metas.first_mut()) {
                (Some(buffer), Some(meta)) => reading.read_relay(cx, buffer, meta),
                _ => Poll::Pending,
            };
        }
        match &mut reading.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.read_port(cx, bufs, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room in the socket, for one connection.
struct Room {
    port: Arc<Port>,
    wait: Option<Wait>,
}

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let port = Arc::clone(&self.port);
        let wait = self
            .wait
            .get_or_insert_with(|| Box::pin(async move { port.socket.writable().await }));
        let writable = ready!(wait.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(writable)
    }
}
