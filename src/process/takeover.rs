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
    descriptors: VecDeque<OwnedFd>,
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
            descriptors: VecDeque::new(),
        };
        let parameters = b"user\0pgbouncer\0database\0pgbouncer\0\0";
        let len = u32::try_from(8 + parameters.len()).expect("short");
        let hello = [&len.to_be_bytes(), &PROTOCOL.to_be_bytes(), &parameters[..]].concat();
        old.socket.write_all(&hello)?;
        old.answer(STEP_LIMIT)?;
        Ok(Some(old))
    }

    /// Asks, and waits `limit` for the answer at most.
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
            match message[0] {
                backend::DATA_ROW => rows.push(row(&body).ok_or(BAD_ROW)?),
                backend::ERROR_RESPONSE => refusal = Some(backend::error_fields(&body).message),
                backend::READY_FOR_QUERY => break,
                _ => {}
            }
            if message[0] == backend::ERROR_RESPONSE && backend_is_leaving(&body) {
                break;
            }
        }
        if let Some(text) = refusal {
            return Err(TakeoverError::Refused(text));
        }
        // A row has one or none; the first bytes of a row bring it.
        let all = self.descriptors.len() == rows.len();
        if !all && !self.descriptors.is_empty() {
            return Err(TakeoverError::Nonsense("rows without descriptors"));
        }
        let rows = rows.into_iter();
        Ok(rows
            .map(|row| (row, self.descriptors.pop_front()))
            .collect())
    }

    fn message(&mut self, deadline: Instant) -> Result<Bytes, TakeoverError> {
        loop {
            if let Some(header) = Header::read(&self.inbox) {
                let header = header.map_err(|_| TakeoverError::Nonsense("a bad length"))?;
                if header.total() > MAX_MESSAGE {
                    return Err(TakeoverError::Nonsense("a message that is too long"));
                }
                if self.inbox.len() >= header.total() {
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
        let mut chunk = [0; CHUNK];
        loop {
            let socket = self.socket.as_fd();
            match rights::receive(socket, &mut chunk, &mut self.descriptors) {
                Ok(count) => {
                    self.inbox.extend_from_slice(&chunk[..count]);
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
