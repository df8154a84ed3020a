//! A server that plays a script: a PostgreSQL that breaks the rules just where
//! a test wants it to.

use super::DEADLINE;
use super::frontend::message;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// One thing the server does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Reads the startup packet, refusing encryption, and reports it.
    Startup,
    /// AuthenticationOk to ReadyForQuery.
    Welcome,
    /// Reads messages up to one of this type, and reports that one's body.
    Expect(u8),
    /// AuthenticationSASLContinue: the nonce that was expected last, then this.
    Challenge(String),
    Send(Vec<u8>),
    /// In segments of this many bytes.
    SendPieces(Vec<u8>, usize),
    /// Answers each Query and each Sync properly until the other side leaves:
    /// a Query with one row that holds the query's own text.
    Behave,
    /// Waits for the other side to leave.
    AwaitEnd,
    /// Waits for the test's [`ScriptedServer::go_on`].
    Pause,
    /// Ends the connection by RST.
    Reset,
}

/// Listens, and plays one script for each connection in turn; further
/// connections get the last one.
#[derive(Debug)]
pub(crate) struct ScriptedServer {
    address: SocketAddr,
    reports: Receiver<Vec<u8>>,
    stage: Arc<Stage>,
}

/// What the test and its connections share.
#[derive(Debug, Default)]
struct Stage {
    /// How many `Pause` steps may go on.
    permits: Mutex<usize>,
    permitted: Condvar,
    over: AtomicBool,
}

impl ScriptedServer {
    /// One that gives this cancel key, answers its first query when it is told
    /// to go on, and takes a cancel request meanwhile.
    pub(crate) fn cancelable(key: &[u8]) -> Self {
        Self::start(vec![
            vec![
                Step::Startup,
                Step::Send(welcome_with_key(key)),
                Step::Expect(b'Q'),
                Step::Pause,
                Step::Send(answer(b"canceled")),
                Step::Behave,
            ],
            vec![Step::Startup],
        ])
    }

    pub(crate) fn start(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (report, reports) = channel();
        let stage = Arc::new(Stage::default());
        let shared = Arc::clone(&stage);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                if shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let script = scripts[number.min(scripts.len() - 1)].clone();
                let mut actor = Actor {
                    stream,
                    report: report.clone(),
                    expected: Vec::new(),
                    stage: Arc::clone(&shared),
                };
                std::thread::spawn(move || actor.play(script));
            }
        });
        Self {
            address,
            reports,
            stage,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next thing that a step has reported.
    pub(crate) fn report(&self) -> Vec<u8> {
        let report = self.reports.recv_timeout(DEADLINE);
        report.expect("a connection comes that far")
    }

    /// Lets one `Pause` go on.
    pub(crate) fn go_on(&self) {
        *self.stage.permits.lock().expect("nobody panics with it") += 1;
        self.stage.permitted.notify_one();
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.stage.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        TcpStream::connect(self.address).ok();
    }
}

/// One connection. A connection that ends early ends its script.
struct Actor {
    stream: TcpStream,
    report: Sender<Vec<u8>>,
    /// The body that the last `Expect` has read.
    expected: Vec<u8>,
    stage: Arc<Stage>,
}

impl Actor {
    fn play(&mut self, script: Vec<Step>) {
        self.stream.set_nodelay(true).expect("a TCP socket");
        self.stream
            .set_read_timeout(Some(DEADLINE))
            .expect("not zero");
        for step in script {
            if self.act(step).is_err() {
                break;
            }
        }
    }

    fn act(&mut self, step: Step) -> std::io::Result<()> {
        match step {
            Step::Startup => {
                let packet = self.startup()?;
                self.report.send(packet).ok();
            }
            Step::Welcome => self.stream.write_all(&welcome())?,
            Step::Expect(kind) => {
                let body = loop {
                    let (found, body) = self.message()?;
                    if found == kind {
                        break body;
                    }
                };
                self.expected.clone_from(&body);
                self.report.send(body).ok();
            }
            Step::Challenge(rest) => {
                let first = String::from_utf8_lossy(&self.expected);
                let (_, nonce) = first.split_once(",r=").unwrap_or_default();
                let text = format!("r={nonce}{rest}");
                let body = [&11_u32.to_be_bytes(), text.as_bytes()].concat();
                self.stream.write_all(&message(b'R', &body))?;
            }
            Step::Send(bytes) => self.stream.write_all(&bytes)?,
            Step::SendPieces(bytes, size) => {
                for piece in bytes.chunks(size) {
                    self.stream.write_all(piece)?;
                }
            }
            Step::Behave => self.behave()?,
            Step::AwaitEnd => while self.stream.read(&mut [0; 1024])? > 0 {},
            Step::Pause => {
                let permits = self.stage.permits.lock().expect("nobody panics with it");
                let wait = self
                    .stage
                    .permitted
                    .wait_timeout_while(permits, DEADLINE, |permits| *permits == 0);
                let (mut permits, _) = wait.expect("nobody panics with it");
                *permits = permits.saturating_sub(1);
            }
            Step::Reset => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?,
        }
        Ok(())
    }

    fn startup(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            let packet = self.sized()?;
            // SSLRequest and GSSENCRequest hold nothing but their code.
            if packet.len() > 4 {
                return Ok(packet);
            }
            self.stream.write_all(b"N")?;
        }
    }

    fn behave(&mut self) -> std::io::Result<()> {
        loop {
            match self.message()? {
                (b'Q', sql) => self.stream.write_all(&answer(&sql))?,
                (b'S', _) => self.stream.write_all(&ready())?,
                (b'X', _) => return Ok(()),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut kind = [0];
        self.stream.read_exact(&mut kind)?;
        Ok((kind[0], self.sized()?))
    }

    fn sized(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length).saturating_sub(4) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}

/// AuthenticationOk, the parameters drivers ask for, a key, ReadyForQuery.
pub(crate) fn welcome() -> Vec<u8> {
    welcome_with_key(&[0, 0, 0, 77, 1, 2, 3, 4])
}

/// As [`welcome`], with this key: process id and secret.
pub(crate) fn welcome_with_key(key: &[u8]) -> Vec<u8> {
    let parameters = [
        ("server_version", "15.0"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
    ];
    let statuses =
        parameters.map(|(name, value)| message(b'S', format!("{name}\0{value}\0").as_bytes()));
    let key = message(b'K', key);
    [
        message(b'R', &[0, 0, 0, 0]),
        statuses.concat(),
        key,
        ready(),
    ]
    .concat()
}

pub(crate) fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// One row with one column, without its end.
pub(crate) fn one_row(value: &[u8]) -> Vec<u8> {
    let description = [
        b"\0\x01text\0" as &[u8],
        &[0; 6],
        &25_u32.to_be_bytes(),
        &[0xff; 6],
        &[0, 0],
    ]
    .concat();
    let length = u32::try_from(value.len())
        .expect("a test value is small")
        .to_be_bytes();
    let row = [b"\0\x01" as &[u8], &length, value].concat();
    [message(b'T', &description), message(b'D', &row)].concat()
}

/// The whole answer to a Query: its own text.
pub(crate) fn answer(sql: &[u8]) -> Vec<u8> {
    let text = sql.strip_suffix(b"\0").unwrap_or(sql);
    [one_row(text), message(b'C', b"SELECT 1\0"), ready()].concat()
}

/// An ErrorResponse of these fields: type, text.
pub(crate) fn error(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body: Vec<u8> = fields
        .iter()
        .flat_map(|(kind, text)| [&[*kind], text.as_bytes(), &[0]].concat())
        .collect();
    body.push(0);
    message(b'E', &body)
}
