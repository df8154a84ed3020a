//! One TLS connection: ciphertext and plain bytes, and rustls between them.
//!
//! rustls holds no buffers here. Ciphertext is read into a buffer of the
//! thread and opened there; kept are, between two calls, the part of a record
//! that has not come whole, what was opened and not asked for yet, and what
//! was sealed and the socket has not taken. An idle connection keeps nothing.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus,
};
use rustls::{CommonState, Error};

use super::cipher::Cipher;
use super::client_side::Offer;
use super::end_point::end_point;
use super::handshake::{HandshakeError, ServerTarget};
use crate::net::CHUNK_LEN;
use crate::net::stream::Socket;

/// Room for the largest handshake message (64 KiB) and a read behind it, and
/// for a chunk with all that TLS adds to it.
const RECORDS_LEN: usize = 72 * 1024;

/// The least that is read behind part of a message.
const LEAST_READ: usize = 4 * 1024;

thread_local! {
    /// Ciphertext of all connections of a thread, within one call.
    static RECORDS: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECORDS_LEN].into());
}

/// One connection's TLS.
pub(in crate::net) struct Session {
    side: Side,
    /// Ciphertext of a record, or of handshake messages, not whole yet.
    partial: Vec<u8>,
    /// Opened, not asked for yet.
    plain: BytesMut,
    /// Sealed, not taken by the socket yet.
    unsent: BytesMut,
    /// Nothing more will be read.
    ended: bool,
    /// The hash of our own certificate.
    own_end_point: Option<Arc<[u8]>>,
    /// It has failed. rustls must not be asked to go on.
    failed: bool,
}

/// Which part we play.
enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Session");
        shown
            .field("cipher", &self.cipher())
            .field("ended", &self.ended);
        shown.finish_non_exhaustive()
    }
}

impl Session {
    /// The other side is the client.
    pub(in crate::net) fn accept(offer: Offer) -> Result<Session, Error> {
        let connection = UnbufferedServerConnection::new(offer.config)?;
        Ok(Session {
            own_end_point: offer.end_point,
            ..Session::new(Side::Server(connection))
        })
    }

    /// The other side is the server.
    pub(in crate::net) fn connect(target: ServerTarget) -> Result<Session, Error> {
        let connection = UnbufferedClientConnection::new(target.config, target.name)?;
        Ok(Session::new(Side::Client(connection)))
    }

    fn new(side: Side) -> Session {
        Session {
            side,
            partial: Vec::new(),
            plain: BytesMut::new(),
            unsent: BytesMut::new(),
            ended: false,
            own_end_point: None,
            failed: false,
        }
    }

    /// Takes what was read before there was a session, and prepares what is to
    /// be said first.
    pub(in crate::net) fn begin(&mut self, received: &[u8]) -> Result<(), Error> {
        let mut records = received.to_vec();
        self.open(&mut records, &mut []).map(drop)
    }

    /// Goes on with the handshake. After an error, what rustls has to say
    /// about it has been sent if the socket took it.
    pub(in crate::net) fn poll_handshake(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HandshakeError>> {
        loop {
            ready!(self.poll_flush(socket, cx))?;
            if !self.common().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            if let Err(error) = ready!(self.poll_open(socket, cx, &mut [])) {
                drop(self.poll_flush(socket, cx));
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Reads plain bytes; 0 is the end, with or without close_notify: whether
    /// a message was cut off shows in the message.
    pub(in crate::net) fn poll_read(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if !self.plain.is_empty() {
                return Poll::Ready(Ok(self.take_plain(buf)));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            let opened = ready!(self.poll_open(socket, cx, buf));
            // Answers to the other side's own business, and last words.
            let flushed = self.poll_flush(socket, cx);
            match opened {
                Ok(0) => {}
                Ok(opened) => return Poll::Ready(Ok(opened)),
                Err(HandshakeError::Io(error)) => return Poll::Ready(Err(error)),
                Err(error) => {
                    tracing::warn!("TLS error: {error}");
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// Seals and sends. What the socket does not take of it is kept: all that
    /// is reported as taken will leave by [`Session::poll_flush`].
    pub(in crate::net) fn poll_write(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(socket, cx))?;
        let mut taken = 0;
        for piece in bytes.chunks(CHUNK_LEN) {
            RECORDS.with_borrow_mut(|records| {
                let sealed = self.seal(Some(piece), records)?;
                self.send(socket, cx, &records[..sealed])
            })?;
            taken += piece.len();
            if !self.unsent.is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// Sends what is sealed.
    pub(in crate::net) fn poll_flush(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(socket.poll_send(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
            if self.unsent.is_empty() {
                self.unsent = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Prepares close_notify. The session writes no more.
    pub(in crate::net) fn queue_close(&mut self) {
        let sealed = RECORDS.with_borrow_mut(|records| {
            let sealed = self.seal(None, records)?;
            self.unsent.extend_from_slice(&records[..sealed]);
            io::Result::Ok(())
        });
        if let Err(error) = sealed {
            tracing::debug!("a TLS session cannot be ended: {error}");
        }
    }

    /// Nothing waits to be sent.
    pub(in crate::net) fn is_drained(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Nothing has come that was not asked for, and no end.
    pub(in crate::net) fn is_quiet(&self) -> bool {
        self.plain.is_empty() && self.partial.is_empty() && !self.ended
    }

    /// What the handshake agreed on; none before its end.
    pub(in crate::net) fn cipher(&self) -> Option<Cipher> {
        let common = self.common();
        if common.is_handshaking() {
            return None;
        }
        let group = common.negotiated_key_exchange_group();
        Some(Cipher::new(
            common.protocol_version()?,
            common.negotiated_cipher_suite()?.suite(),
            group.map(|group| group.name()),
        ))
    }

    pub(in crate::net) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    pub(in crate::net) fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = self.common().peer_certificates()?;
        chain.first().map(AsRef::as_ref)
    }

    /// The hash of the certificate of whoever is the server.
    pub(in crate::net) fn end_point(&self) -> Option<Box<[u8]>> {
        match &self.side {
            Side::Client(_) => end_point(self.peer_certificate()?),
            Side::Server(_) => self.own_end_point.as_deref().map(Box::from),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    fn take_plain(&mut self, buf: &mut [u8]) -> usize {
        let count = self.plain.len().min(buf.len());
        self.plain.split_to(count).copy_to_slice(&mut buf[..count]);
        if self.plain.is_empty() {
            self.plain = BytesMut::new();
        }
        count
    }

    /// Reads ciphertext once and opens it: into `buf`, and what does not fit
    /// is kept. Answers how much is in `buf`.
    fn poll_open(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, HandshakeError>> {
        RECORDS.with_borrow_mut(|records| {
            let kept = self.partial.len();
            // Up to a chunk altogether, so that a chunk has room for it.
            let end = CHUNK_LEN.max(kept + LEAST_READ).min(RECORDS_LEN);
            if kept >= end {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::InvalidData).into()));
            }
            let read = ready!(socket.poll_recv(cx, &mut records[kept..end]))?;
            if read == 0 {
                self.ended = true;
                return Poll::Ready(Ok(0));
            }
            records[..kept].copy_from_slice(&self.partial);
            self.partial = Vec::new();
            Poll::Ready(Ok(self.open(&mut records[..kept + read], buf)?))
        })
    }

    /// Opens records; the rest that is no whole one is kept.
    fn open(&mut self, records: &mut [u8], buf: &mut [u8]) -> Result<usize, Error> {
        let mut sink = Sink {
            buf,
            filled: 0,
            plain: &mut self.plain,
            unsent: &mut self.unsent,
        };
        let opened = match &mut self.side {
            Side::Client(connection) => open(connection, records, &mut sink),
            Side::Server(connection) => open(connection, records, &mut sink),
        };
        let filled = sink.filled;
        match opened {
            Ok(Opened { used, ended }) => {
                self.ended |= ended;
                self.partial = records[used..].to_vec();
                Ok(filled)
            }
            Err(error) => {
                self.ended = true;
                self.failed = true;
                self.say_last_words();
                Err(error)
            }
        }
    }

    /// Prepares the alert that goes with an error. While rustls has something
    /// to say it does not look at what has come, of which it could make no sense
    /// any more: it counts from the beginning of what it was shown before.
    fn say_last_words(&mut self) {
        let mut more = true;
        while more && self.common().wants_write() {
            more = match &mut self.side {
                Side::Client(connection) => encode_next(connection, &mut self.unsent),
                Side::Server(connection) => encode_next(connection, &mut self.unsent),
            };
        }
    }

    /// Seals a piece, or the end, into `records`. Answers its length.
    fn seal(&mut self, piece: Option<&[u8]>, records: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match &mut self.side {
            Side::Client(connection) => seal(connection, &mut self.partial, piece, records),
            Side::Server(connection) => seal(connection, &mut self.partial, piece, records),
        }
    }

    fn send(&mut self, socket: &Socket, cx: &mut Context<'_>, sealed: &[u8]) -> io::Result<()> {
        let sent = match socket.poll_send(cx, sealed) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        self.unsent.extend_from_slice(&sealed[sent..]);
        Ok(())
    }
}

/// Where opened bytes and answers go.
struct Sink<'a> {
    buf: &'a mut [u8],
    filled: usize,
    plain: &'a mut BytesMut,
    unsent: &'a mut BytesMut,
}

impl Sink<'_> {
    fn take(&mut self, plain: &[u8]) {
        let room = self.buf.len() - self.filled;
        let (now, later) = plain.split_at(room.min(plain.len()));
        self.buf[self.filled..][..now.len()].copy_from_slice(now);
        self.filled += now.len();
        self.plain.extend_from_slice(later);
    }
}

fn encode<Data>(mut answer: EncodeTlsData<'_, Data>, unsent: &mut BytesMut) {
    let at = unsent.len();
    let mut size = LEAST_READ;
    loop {
        unsent.resize(at + size, 0);
        match answer.encode(&mut unsent[at..]) {
            Ok(len) => return unsent.truncate(at + len),
            Err(EncodeError::InsufficientSize(need)) if need.required_size > size => {
                size = need.required_size;
            }
            Err(_) => return unsent.truncate(at),
        }
    }
}

/// Both sides' connections do this alike, but rustls has no name for it.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

/// How far records were opened.
struct Opened {
    used: usize,
    /// close_notify came.
    ended: bool,
}

fn open<R: Records>(
    connection: &mut R,
    records: &mut [u8],
    sink: &mut Sink<'_>,
) -> Result<Opened, Error> {
    let mut opened = Opened {
        used: 0,
        ended: false,
    };
    loop {
        let UnbufferedStatus { discard, state } = connection.process(&mut records[opened.used..]);
        opened.used += discard;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    opened.used += record.discard;
                    sink.take(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(answer) => encode(answer, sink.unsent),
            // It leaves in its turn: nothing is sent past it.
            ConnectionState::TransmitTlsData(answer) => answer.done(),
            ConnectionState::PeerClosed => opened.ended = true,
            ConnectionState::Closed => {
                opened.ended = true;
                return Ok(opened);
            }
            ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake => {
                return Ok(opened);
            }
            // Early data, which is switched off, or what later versions have.
            _ => return Err(Error::General("an unexpected state".into())),
        }
    }
}

/// Encodes what there is to say next; false if there is nothing.
fn encode_next<R: Records>(connection: &mut R, unsent: &mut BytesMut) -> bool {
    match connection.process(&mut []).state {
        Ok(ConnectionState::EncodeTlsData(answer)) => {
            encode(answer, unsent);
            true
        }
        _ => false,
    }
}

fn seal<R: Records>(
    connection: &mut R,
    partial: &mut Vec<u8>,
    piece: Option<&[u8]>,
    records: &mut [u8],
) -> io::Result<usize> {
    let mut sealed = 0;
    loop {
        // What has come is shown again: rustls counts from its beginning.
        let UnbufferedStatus { discard, state } = connection.process(partial);
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match state {
            ConnectionState::EncodeTlsData(mut answer) => {
                let len = answer.encode(&mut records[sealed..]);
                sealed += len.map_err(io::Error::other)?;
            }
            ConnectionState::TransmitTlsData(answer) => answer.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                let room = &mut records[sealed..];
                let len = match piece {
                    Some(piece) => traffic.encrypt(piece, room),
                    None => traffic.queue_close_notify(room),
                };
                return Ok(sealed + len.map_err(|error: EncryptError| io::Error::other(error))?);
            }
            ConnectionState::PeerClosed => {}
            _ => return Err(io::ErrorKind::NotConnected.into()),
        }
        partial.drain(..discard);
    }
}

#[cfg(any(fuzzing, test))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests;
