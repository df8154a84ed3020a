//! The running process that this one takes over from: a client of its console.
//!
//! Nothing else runs yet, so this waits with the thread.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::net::rights;
use crate::wire::frame::HEADER_LEN;
use crate::wire::{Header, backend, frontend};

/// Bytes taken with one read.
const CHUNK: usize = 64 * 1024;

/// The longest message taken.
const MAX_MESSAGE: usize = 256 << 20;

/// How long a write, or the next bytes of an answer, may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// How long the old process may take to end, or to give up its pid file.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks at the pid file.
const PID_FILE_PAUSE: Duration = Duration::from_millis(10);

/// Protocol 3.0.
const PROTOCOL: u32 = 3 << 16;

/// A row, NULL as none, and the descriptor that came with it.
pub type ToldRow = (Vec<Option<Bytes>>, Option<OwnedFd>);

/// Why it cannot be taken over from.
#[derive(Debug)]
pub enum TakeoverError {
    /// The connection failed, or took too long.
    Io(io::Error),
    /// It said this.
    Refused(String),
    /// It sent what makes no sense.
    Nonsense(&'static str),
}

impl fmt::Display for TakeoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TakeoverError::Io(error) => write!(f, "old process: {error}"),
            TakeoverError::Refused(text) => write!(f, "old process said: {text}"),
            TakeoverError::Nonsense(what) => write!(f, "old process sent {what}"),
        }
    }
}

impl std::error::Error for TakeoverError {}

impl From<io::Error> for TakeoverError {
    fn from(error: io::Error) -> TakeoverError {
        TakeoverError::Io(error)
    }
}

/// A connection to its console.
#[derive(Debug)]
pub struct OldProcess {
    socket: UnixStream,
    inbox: BytesMut,
    /// Bytes that were read, and those of them that were taken.
    read: u64,
    taken: u64,
    /// Each came with the message that has the byte of this number: what the
    /// system gives out at once ends in the bytes that a descriptor came with.
    descriptors: VecDeque<(u64, OwnedFd)>,
}

impl OldProcess {
    /// Enters the console of whoever listens on this socket; none if nobody
    /// does.
    ///
    /// # Errors
    /// It does not let us in.
    pub fn enter(path: &Path) -> Result<Option<OldProcess>, TakeoverError> {
        let socket = match UnixStream::connect(path) {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        socket.set_write_timeout(Some(STEP_LIMIT))?;
        let mut old = OldProcess {
            socket,
            inbox: BytesMut::new(),
            read: 0,
            taken: 0,
            descriptors: VecDeque::new(),
        };
        let parameters = b"user\0pgbouncer\0database\0pgbouncer\0\0";
        let len = u32::try_from(8 + parameters.len()).expect("short");
        let hello = [&len.to_be_bytes(), &PROTOCOL.to_be_bytes(), &parameters[..]].concat();
        old.socket.write_all(&hello)?;
        old.answer(STEP_LIMIT)?;
        Ok(Some(old))
    }

    /// Asks, and waits `limit` for the answer at most: rows, each with the
    /// descriptor that came with it.
    ///
    /// # Errors
    /// See [`TakeoverError`].
    pub fn ask(&mut self, query: &str, limit: Duration) -> Result<Vec<ToldRow>, TakeoverError> {
        let mut message = BytesMut::new();
        frontend::put_query(&mut message, query.as_bytes());
        self.socket.write_all(&message)?;
        self.answer(limit)
    }

    /// Tells it to end and waits until it has given everything up: its side of
    /// the connection, and its pid file.
    ///
    /// # Errors
    /// The socket's; `TimedOut`.
    pub fn shut_down(mut self, pid_file: Option<&Path>) -> Result<(), TakeoverError> {
        let mut message = BytesMut::new();
        frontend::put_query(&mut message, b"SHUTDOWN;");
        self.socket.write_all(&message)?;
        let deadline = Instant::now() + END_LIMIT;
        while self.read(deadline)? > 0 {}
        while pid_file.is_some_and(Path::exists) {
            if Instant::now() >= deadline {
                let text = "its pid file is still there";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text).into());
            }
            std::thread::sleep(PID_FILE_PAUSE);
        }
        Ok(())
    }

    /// Reads up to ReadyForQuery.
    fn answer(&mut self, limit: Duration) -> Result<Vec<ToldRow>, TakeoverError> {
        let deadline = Instant::now() + limit;
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            let message = self.message(deadline)?;
            let body = message.slice(HEADER_LEN..);
            let descriptor = self.descriptor();
            match message[0] {
                backend::DATA_ROW => rows.push((row(&body).ok_or(BAD_ROW)?, descriptor)),
                _ if descriptor.is_some() => return Err(STRAY),
                backend::ERROR_RESPONSE => refusal = Some(backend::error_fields(&body).message),
                backend::READY_FOR_QUERY => break,
                _ => {}
            }
            if message[0] == backend::ERROR_RESPONSE && backend_is_leaving(&body) {
                break;
            }
        }
        match refusal {
            Some(text) => Err(TakeoverError::Refused(text)),
            None => Ok(rows),
        }
    }

    /// The descriptor that came with the message that was taken last.
    fn descriptor(&mut self) -> Option<OwnedFd> {
        let (at, _) = self.descriptors.front()?;
        let is_its = *at < self.taken;
        is_its.then(|| self.descriptors.pop_front())?.map(|it| it.1)
    }

    fn message(&mut self, deadline: Instant) -> Result<Bytes, TakeoverError> {
        loop {
            if let Some(header) = Header::read(&self.inbox) {
                let header = header.map_err(|_| TakeoverError::Nonsense("a bad length"))?;
                if header.total() > MAX_MESSAGE {
                    return Err(TakeoverError::Nonsense("a message that is too long"));
                }
                if self.inbox.len() >= header.total() {
                    self.taken += header.total() as u64;
                    return Ok(self.inbox.split_to(header.total()).freeze());
                }
            }
            if self.read(deadline)? == 0 {
                let text = "it closed the connection";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text).into());
            }
        }
    }

    fn read(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let (mut chunk, mut descriptors) = ([0; CHUNK], Vec::new());
        loop {
            let socket = self.socket.as_fd();
            match rights::receive(socket, &mut chunk, &mut descriptors) {
                Ok(count) => {
                    self.inbox.extend_from_slice(&chunk[..count]);
                    self.read += count as u64;
                    let last = self.read.saturating_sub(1);
                    let came = descriptors.into_iter().map(|it| (last, it));
                    self.descriptors.extend(came);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

const BAD_ROW: TakeoverError = TakeoverError::Nonsense("a bad row");

const STRAY: TakeoverError = TakeoverError::Nonsense("a descriptor without a row");

/// After a FATAL nothing comes any more.
fn backend_is_leaving(body: &[u8]) -> bool {
    backend::error_fields(body).severity == "FATAL"
}

fn row(body: &Bytes) -> Option<Vec<Option<Bytes>>> {
    let (count, _) = body.split_first_chunk::<2>()?;
    let mut at = 2;
    let mut cells = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let len = body.get(at..at + 4)?.try_into().ok()?;
        at += 4;
        let Ok(len) = usize::try_from(i32::from_be_bytes(len)) else {
            cells.push(None);
            continue;
        };
        body.get(at..at + len)?;
        cells.push(Some(body.slice(at..at + len)));
        at += len;
    }
    Some(cells)
}
