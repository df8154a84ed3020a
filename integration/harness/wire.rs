//! A PostgreSQL client made of bytes: it can say anything, legal or not, cut
//! anywhere, and reads answers strictly, through the [`Grammar`].

use super::DEADLINE;
use super::backend::{Fields, Message};
use super::frontend;
use super::grammar::Grammar;
use postgres_protocol::authentication::{md5_hash, sasl};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Who logs in, where to, and how.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    user: String,
    database: String,
    password: String,
    parameters: Vec<(String, String)>,
    /// The minor version of protocol 3.
    minor: u32,
}

impl Login {
    /// With an empty password.
    pub(crate) fn new(user: &str, database: &str) -> Self {
        Self {
            user: user.to_owned(),
            database: database.to_owned(),
            password: String::new(),
            parameters: Vec::new(),
            minor: 0,
        }
    }

    /// Asks for protocol 3 of this minor version.
    pub(crate) fn minor(mut self, minor: u32) -> Self {
        self.minor = minor;
        self
    }

    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = password.to_owned();
        self
    }

    /// A further startup parameter.
    pub(crate) fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The startup packet.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let mut parameters = vec![("user", self.user.as_str()), ("database", &self.database)];
        parameters.extend(
            self.parameters
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        frontend::startup_version(frontend::VERSION_3 + self.minor, &parameters)
    }

    /// Logs in; the error that refused it otherwise.
    pub(crate) fn at(&self, address: SocketAddr) -> Result<Wire, Fields> {
        let mut wire = Wire::connect(address);
        wire.send(self.packet());
        wire.finish_login(self)?;
        Ok(wire)
    }

    /// The error that refuses this login; the connection must be closed then.
    pub(crate) fn refused_at(&self, address: SocketAddr) -> Fields {
        let mut wire = Wire::connect(address);
        wire.send(self.packet());
        let error = wire
            .finish_login(self)
            .expect_err("this login has to be refused");
        wire.expect_closed();
        error
    }
}

/// The connection ended, or did not go on in time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lost {
    Closed,
    Silent,
    /// Something that is not the protocol.
    Illegal(String),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// None before login and for clients that break the rules.
    grammar: Option<Grammar>,
    /// The last value of each ParameterStatus.
    pub(crate) parameters: BTreeMap<String, String>,
    /// Body of BackendKeyData.
    pub(crate) key: Vec<u8>,
    /// Notices and notifications, as they came.
    pub(crate) asides: Vec<Message>,
}

impl Wire {
    /// A connection that has not said anything yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|| panic!("cannot connect to {address}"))
    }

    /// As [`connect`](Self::connect), where perhaps nobody listens.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        Some(Self {
            stream,
            inbox: Vec::new(),
            grammar: None,
            parameters: BTreeMap::new(),
            key: Vec::new(),
            asides: Vec::new(),
        })
    }

    /// From now on the client may break the protocol.
    pub(crate) fn lawless(mut self) -> Self {
        self.grammar = None;
        self
    }

    /// How long a read may take.
    pub(crate) fn patience(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("not zero");
    }

    /// Answers whatever is asked until the first ReadyForQuery.
    pub(crate) fn finish_login(&mut self, login: &Login) -> Result<(), Fields> {
        self.try_finish_login(login)
            .unwrap_or_else(|lost| panic!("waiting to be let in: {lost:?}"))
    }

    /// As [`finish_login`](Self::finish_login), where the other side may go.
    pub(crate) fn try_finish_login(&mut self, login: &Login) -> Result<Result<(), Fields>, Lost> {
        let mut scram = None;
        loop {
            match self.try_recv()? {
                Message::Authentication(kind, body) => {
                    self.authenticate(login, kind, &body, &mut scram)
                }
                Message::BackendKeyData(key) => self.key = key,
                Message::NegotiateProtocolVersion(..) => {}
                Message::ErrorResponse(fields) => return Ok(Err(fields)),
                Message::ReadyForQuery(status) => {
                    assert_eq!(status, 'I', "a new session is idle");
                    self.grammar = Some(Grammar::new());
                    return Ok(Ok(()));
                }
                other => panic!("{other:?} during login"),
            }
        }
    }

    /// Answers one authentication request.
    pub(crate) fn authenticate(
        &mut self,
        login: &Login,
        kind: u32,
        body: &[u8],
        scram: &mut Option<sasl::ScramSha256>,
    ) {
        let password = login.password.as_bytes();
        match kind {
            0 => {}
            3 => self.send(frontend::password(&[password, &[0]].concat())),
            5 => {
                let salt = <[u8; 4]>::try_from(body).expect("a salt has four bytes");
                let answer = md5_hash(login.user.as_bytes(), password, salt);
                self.send(frontend::password(&[answer.as_bytes(), &[0]].concat()));
            }
            10 => {
                let offered = body.strip_prefix(b"SCRAM-SHA-256-PLUS\0");
                let offered = offered.unwrap_or(body);
                assert_eq!(offered, b"SCRAM-SHA-256\0\0", "the mechanisms offered");
                let binding = sasl::ChannelBinding::unsupported();
                let first = sasl::ScramSha256::new(password, binding);
                let length = u32::try_from(first.message().len())
                    .expect("short")
                    .to_be_bytes();
                let body = [b"SCRAM-SHA-256\0", &length[..], first.message()].concat();
                self.send(frontend::password(&body));
                *scram = Some(first);
            }
            11 => {
                let scram = scram.as_mut().expect("SASLContinue follows SASL");
                scram.update(body).expect("a valid server-first-message");
                let answer = scram.message().to_vec();
                self.send(frontend::password(&answer));
            }
            12 => {
                let scram = scram.as_mut().expect("SASLFinal follows SASLContinue");
                scram.finish(body).expect("the server knows the password");
            }
            other => panic!("unknown authentication request {other}"),
        }
    }

    /// Sends bytes; a lost connection shows at the next read.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        if let Some(grammar) = &mut self.grammar {
            grammar.sent(bytes);
        }
        match self.stream.write_all(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the other side has not read for {DEADLINE:?}")
            }
            _ => {}
        }
    }

    /// Sends in segments of `size` bytes.
    pub(crate) fn send_in_pieces(&mut self, bytes: impl AsRef<[u8]>, size: usize) {
        for piece in bytes.as_ref().chunks(size) {
            self.send(piece);
        }
    }

    /// The next byte, for answers that are not messages (`N` to SSLRequest).
    pub(crate) fn recv_byte(&mut self) -> Result<u8, Lost> {
        self.fill(1)?;
        Ok(self.inbox.remove(0))
    }

    fn fill(&mut self, wanted: usize) -> Result<(), Lost> {
        let mut chunk = [0; 64 * 1024];
        while self.inbox.len() < wanted {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Lost::Closed),
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(Lost::Silent);
                }
                Err(_) => return Err(Lost::Closed),
            }
        }
        Ok(())
    }

    /// The next message of any kind.
    pub(crate) fn recv_any(&mut self) -> Result<Message, Lost> {
        self.fill(5)?;
        let length =
            u32::from_be_bytes([self.inbox[1], self.inbox[2], self.inbox[3], self.inbox[4]]);
        if !(4..1 << 30).contains(&length) {
            return Err(Lost::Illegal(format!(
                "a message of length {length}: {:?}",
                &self.inbox[..5]
            )));
        }
        self.fill(length as usize + 1)?;
        let frame: Vec<u8> = self.inbox.drain(..=length as usize).collect();
        let message = Message::decode(frame[0], &frame[5..]).map_err(Lost::Illegal)?;
        if let Some(grammar) = &mut self.grammar {
            grammar.received(&message).map_err(Lost::Illegal)?;
        }
        if let Message::ParameterStatus(name, value) = &message {
            self.parameters.insert(name.clone(), value.clone());
        }
        Ok(message)
    }

    /// The next message that is an answer; what comes unasked is kept aside.
    pub(crate) fn try_recv(&mut self) -> Result<Message, Lost> {
        loop {
            let message = self.recv_any()?;
            if !message.is_asynchronous() {
                return Ok(message);
            }
            if !matches!(message, Message::ParameterStatus(..)) {
                self.asides.push(message);
            }
        }
    }

    /// As [`try_recv`](Self::try_recv), where there has to be an answer.
    pub(crate) fn recv(&mut self) -> Message {
        self.try_recv()
            .unwrap_or_else(|lost| panic!("waiting for an answer: {lost:?}"))
    }

    /// Everything up to the next ReadyForQuery, or the connection's end.
    pub(crate) fn try_reply(&mut self) -> Result<Reply, Lost> {
        let mut reply = Reply {
            messages: Vec::new(),
            status: 'I',
        };
        loop {
            match self.try_recv()? {
                Message::ReadyForQuery(status) => {
                    reply.status = status;
                    return Ok(reply);
                }
                message => reply.messages.push(message),
            }
        }
    }

    /// As [`try_reply`](Self::try_reply), where there has to be one.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut messages = Vec::new();
        loop {
            match self.try_recv() {
                Ok(Message::ReadyForQuery(status)) => return Reply { messages, status },
                Ok(message) => messages.push(message),
                Err(lost) => panic!("waiting for ReadyForQuery: {lost:?} after {messages:?}"),
            }
        }
    }

    /// Sends and reads one reply.
    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Reply {
        self.send(bytes);
        self.reply()
    }

    /// A simple query.
    pub(crate) fn query(&mut self, sql: &str) -> Reply {
        self.ask(frontend::query(sql))
    }

    /// The one value a query returns.
    pub(crate) fn value(&mut self, sql: &str) -> String {
        let reply = self.query(sql);
        reply.succeeded().value()
    }

    /// A simple query that has to succeed.
    pub(crate) fn run(&mut self, sql: &str) {
        self.query(sql).succeeded();
    }

    /// The server process that answers this client just now.
    pub(crate) fn backend_pid(&mut self) -> i32 {
        self.value("select pg_backend_pid()")
            .parse()
            .expect("a pid is a number")
    }

    /// A FATAL error has to come next, then the end.
    pub(crate) fn expect_fatal(&mut self) -> Fields {
        let fields = match self.try_recv() {
            Ok(Message::ErrorResponse(fields)) => fields,
            other => panic!("a FATAL error has to come, not {other:?}"),
        };
        assert_eq!(fields.severity(), "FATAL", "{fields:?}");
        self.expect_closed();
        fields
    }

    /// The connection has to end without another message.
    pub(crate) fn expect_closed(&mut self) {
        assert_eq!(
            self.try_recv(),
            Err(Lost::Closed),
            "the connection has to end"
        );
    }

    /// Nothing may come and the connection has to stay, for this long.
    pub(crate) fn expect_silence(&mut self, time: Duration) {
        self.patience(time);
        assert_eq!(self.recv_any(), Err(Lost::Silent), "nothing has to come");
        self.patience(DEADLINE);
    }

    /// All that was asked has been answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.grammar.as_ref().is_some_and(Grammar::is_settled) && self.inbox.is_empty()
    }

    /// Terminate, then wait for the end.
    pub(crate) fn leave(mut self) {
        self.send(frontend::terminate());
        self.expect_closed();
    }

    /// FIN: nothing more will be sent; answers can still be read.
    pub(crate) fn half_close(&mut self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("the connection is open");
    }

    /// Ends the connection by RST.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("a TCP socket");
    }

    /// A small receive window, so that an unread answer soon stops its sender.
    pub(crate) fn narrow(&self) {
        SockRef::from(&self.stream)
            .set_recv_buffer_size(4096)
            .expect("a TCP socket");
    }
}

/// Sends a cancel request and waits until the other side closes.
pub(crate) fn cancel(address: SocketAddr, key: &[u8]) {
    let mut wire = Wire::connect(address);
    wire.send(frontend::cancel_request(key));
    wire.expect_closed();
}

/// The answers up to one ReadyForQuery.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    pub(crate) messages: Vec<Message>,
    /// `I`, `T` or `E`.
    pub(crate) status: char,
}

impl Reply {
    /// The first error.
    pub(crate) fn error(&self) -> Option<&Fields> {
        self.messages.iter().find_map(|message| match message {
            Message::ErrorResponse(fields) => Some(fields),
            _ => None,
        })
    }

    /// SQLSTATE of the error there has to be.
    pub(crate) fn code(&self) -> &str {
        self.error()
            .unwrap_or_else(|| panic!("an error has to come, not {:?}", self.messages))
            .code()
    }

    pub(crate) fn succeeded(&self) -> &Self {
        assert_eq!(self.error(), None, "this has to succeed");
        self
    }

    pub(crate) fn tags(&self) -> Vec<&str> {
        self.messages
            .iter()
            .filter_map(|message| match message {
                Message::CommandComplete(tag) => Some(tag.as_str()),
                _ => None,
            })
            .collect()
    }

    /// All rows; NULL is `None`.
    pub(crate) fn rows(&self) -> Vec<Vec<Option<String>>> {
        self.messages
            .iter()
            .filter_map(|message| match message {
                Message::DataRow(row) => Some(
                    row.iter()
                        .map(|value| value.as_deref().map(lossy))
                        .collect(),
                ),
                _ => None,
            })
            .collect()
    }

    /// The only value of the only row.
    pub(crate) fn value(&self) -> String {
        match &self.rows()[..] {
            [row] if row.len() == 1 => row[0].clone().expect("a value, not NULL"),
            other => panic!("one value, not {other:?} of {:?}", self.messages),
        }
    }

    /// First letters of the protocol, for comparing sequences: `1 2 T D C`.
    pub(crate) fn shape(&self) -> String {
        self.messages.iter().map(letter).collect()
    }
}

fn letter(message: &Message) -> char {
    match message {
        Message::Authentication(..) => 'R',
        Message::BackendKeyData(_) => 'K',
        Message::BindComplete => '2',
        Message::CloseComplete => '3',
        Message::CommandComplete(_) => 'C',
        Message::CopyBothResponse => 'W',
        Message::CopyData(_) => 'd',
        Message::CopyDone => 'c',
        Message::CopyInResponse => 'G',
        Message::CopyOutResponse => 'H',
        Message::DataRow(_) => 'D',
        Message::EmptyQueryResponse => 'I',
        Message::ErrorResponse(_) => 'E',
        Message::FunctionCallResponse(_) => 'V',
        Message::NegotiateProtocolVersion(..) => 'v',
        Message::NoData => 'n',
        Message::NoticeResponse(_) => 'N',
        Message::NotificationResponse(..) => 'A',
        Message::ParameterDescription(_) => 't',
        Message::ParameterStatus(..) => 'S',
        Message::ParseComplete => '1',
        Message::PortalSuspended => 's',
        Message::ReadyForQuery(_) => 'Z',
        Message::RowDescription(_) => 'T',
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
