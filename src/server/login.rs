//! Logging in to PostgreSQL.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pgwire::messages::Message as _;
use pgwire::messages::startup::Startup;
use tokio::time::{Instant, timeout_at};

use super::{Exchange, Parameters, Record, Server, Tracked};
use crate::auth::{self, Credential, Refusal, ServerExchange, ServerStep};
use crate::net::tls::{self, Answer, HandshakeError, Tls};
use crate::net::{self, Channel, ConnectError, Host, Names, SocketOptions};
use crate::stats::Clock;
use crate::wire::backend as msg;
use crate::wire::backend::ErrorFields;
use crate::wire::frontend;
use crate::wire::startup::{self, Replication};

/// The longest message taken from a server during its login.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;

/// The most ParameterStatus messages taken during a login.
const MAX_PARAMETERS: usize = 200;

/// What stands for a limit of zero, which is none: every wait has an end.
const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long `connect_query` may take.
const CONNECT_QUERY_LIMIT: Duration = Duration::from_secs(60);

/// The server cannot take connections now.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// The server has no free connection slots.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// Where to log in, and as whom.
#[derive(Debug)]
pub struct Target {
    /// Host.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// Database.
    pub dbname: String,
    /// User.
    pub user: String,
    /// What the user can prove itself with.
    pub credential: Option<Arc<Credential>>,
    /// Socket options.
    pub options: SocketOptions,
    /// Whether and how TLS is spoken.
    pub tls: Arc<Tls>,
    /// TLS is begun without asking for it, where nothing else will do.
    pub direct_tls: bool,
    /// Logins over TLS are bound to the server's certificate where it can.
    pub channel_binding: bool,
    /// The minor version of protocol 3 that is asked for.
    pub minor: u16,
    /// Further parameters of the startup message.
    pub startup: Vec<(&'static str, String)>,
    /// Query to run before the first use.
    pub connect_query: Option<String>,
    /// What its only client asks for, for a server of a client's own.
    pub own: Option<Arc<OwnStartup>>,
}

/// What a replication client asks for. Its server is started with it: a
/// walsender takes no SET.
#[derive(Debug, Default)]
pub struct OwnStartup {
    /// `replication`.
    pub replication: Replication,
    /// The tracked parameters it set.
    pub parameters: Parameters,
    /// `options`, unread.
    pub options: Option<String>,
}

impl Target {
    /// The parameters of the startup message.
    fn parameters(&self, tracked: &Tracked) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for (name, value) in &self.startup {
            all.insert((*name).to_owned(), value.clone());
        }
        if let Some(own) = &self.own {
            for (name, value) in own.parameters.pairs(tracked) {
                // The server would take the last one of several, in its order.
                all.retain(|known, _| !known.eq_ignore_ascii_case(&name));
                all.insert(name, value);
            }
            all.extend(own.options.clone().map(|it| ("options".into(), it)));
            all.insert("replication".into(), own.replication.value().into());
        }
        all.insert("user".into(), self.user.clone());
        all.insert("database".into(), self.dbname.clone());
        all
    }
}

/// A server that has logged us in.
#[derive(Debug)]
pub struct LoggedIn {
    /// The connection.
    pub server: Server,
    /// Every parameter it reported, in order.
    pub parameters: Vec<(String, String)>,
}

/// Why a login failed.
#[derive(Debug)]
pub enum LoginError {
    /// The host's name has no address.
    Lookup(io::Error),
    /// The socket could not be connected.
    Connect(io::Error),
    /// `server_connect_timeout`.
    Timeout,
    /// The connection broke, or the server closed it.
    Io(io::Error),
    /// The server said no, in these words.
    Refused(ErrorFields),
    /// The authentication could not be completed.
    Auth(Refusal),
    /// The server sent what no server sends here.
    Protocol(u8),
    /// No TLS came about.
    Tls(TlsFailure),
}

/// Why TLS with a server did not come about. Whoever is on the way to it can
/// bring each of these about, so clients are told none.
#[derive(Debug)]
pub enum TlsFailure {
    /// `server_tls_sslmode` wants it and the server has none.
    Refused,
    /// The answer to the question for it was none.
    Answer,
    /// Bytes came in clear behind the answer.
    Injected,
    /// Of direct TLS: the server does not say that it speaks PostgreSQL's
    /// protocol.
    Alpn,
    /// The handshake failed.
    Handshake(HandshakeError),
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFailure::Refused => f.write_str("server refused SSL"),
            TlsFailure::Answer => f.write_str("bad sslreq answer"),
            TlsFailure::Injected => f.write_str("received unencrypted data after SSL response"),
            TlsFailure::Alpn => f.write_str("direct TLS without ALPN"),
            TlsFailure::Handshake(error) => write!(f, "TLS handshake error: {error}"),
        }
    }
}

impl LoginError {
    /// SQLSTATE for the clients that wait.
    pub fn sqlstate(&self) -> &str {
        match self {
            LoginError::Refused(fields) if fields.sqlstate.len() == 5 => &fields.sqlstate,
            _ => msg::PROTOCOL_VIOLATION,
        }
    }

    /// Text for the clients that wait.
    pub fn client_text(&self) -> String {
        match self {
            LoginError::Refused(fields) => fields.message.clone(),
            LoginError::Auth(refusal) => refusal
                .client_text()
                .unwrap_or("server login failed")
                .into(),
            LoginError::Lookup(_) => "server DNS lookup failed".into(),
            LoginError::Connect(_) => "connect failed".into(),
            LoginError::Timeout => "connect timeout".into(),
            LoginError::Io(_) | LoginError::Protocol(_) | LoginError::Tls(_) => {
                "server login failed".into()
            }
        }
    }

    /// Whether trying again soon is of no use, so that clients are told at
    /// once. A server that starts up, or is full, only needs patience.
    pub fn is_refusal(&self) -> bool {
        match self {
            LoginError::Refused(fields) if fields.message.is_empty() => false,
            LoginError::Refused(fields) => {
                fields.sqlstate != CANNOT_CONNECT_NOW && fields.sqlstate != TOO_MANY_CONNECTIONS
            }
            LoginError::Auth(refusal) => refusal.client_text().is_some(),
            LoginError::Protocol(_) => true,
            LoginError::Lookup(_)
            | LoginError::Connect(_)
            | LoginError::Timeout
            | LoginError::Io(_)
            | LoginError::Tls(_) => false,
        }
    }

    /// Whether it has to do with who logs in and what for: another login may
    /// go well all the same.
    pub fn is_personal(&self) -> bool {
        matches!(
            self,
            LoginError::Refused(_) | LoginError::Auth(_) | LoginError::Protocol(_)
        )
    }
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginError::Lookup(error) => write!(f, "DNS lookup failed: {error}"),
            LoginError::Connect(error) => write!(f, "connect failed: {error}"),
            LoginError::Timeout => f.write_str("connect timeout"),
            LoginError::Io(error) => write!(f, "connection lost: {error}"),
            LoginError::Refused(fields) => write!(f, "{} {}", fields.severity, fields.message),
            LoginError::Auth(refusal) => refusal.fmt(f),
            LoginError::Tls(failure) => failure.fmt(f),
            LoginError::Protocol(tag) => {
                write!(
                    f,
                    "unexpected message '{}'",
                    char::from(*tag).escape_default()
                )
            }
        }
    }
}

/// Connects and logs in, all within `limit`; zero is no limit. A dropped login
/// is a closed connection.
///
/// # Errors
/// See [`LoginError`]. Where not even a connection came about in time, as with
/// a host that answers nothing, it is its `Connect`.
pub async fn login(
    target: &Target,
    names: &Arc<Names>,
    tracked: &Arc<Tracked>,
    (pool, id): (u64, u64),
    clock: &Clock,
    limit: Duration,
) -> Result<LoggedIn, LoginError> {
    let deadline = match limit.is_zero() {
        true => Instant::now() + NO_LIMIT,
        false => Instant::now() + limit,
    };
    let connected_at = clock.now();
    let connecting = net::connect(&target.host, target.port, names, &target.options);
    let stream = match timeout_at(deadline, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(ConnectError::Lookup(error))) => return Err(LoginError::Lookup(error)),
        Ok(Err(ConnectError::Socket(error))) => return Err(LoginError::Connect(error)),
        Err(_) => return Err(LoginError::Connect(io::ErrorKind::TimedOut.into())),
    };
    let mut channel = Channel::new(stream);
    let entering = async {
        encrypt(&mut channel, target).await?;
        let place = (target.host.clone(), target.port);
        let record = Record::new(id, pool, place, &channel.stream, connected_at);
        enter(channel, record, target, tracked).await
    };
    timeout_at(deadline, entering)
        .await
        .unwrap_or(Err(LoginError::Timeout))
}

/// Logs in on a connection that is encrypted as far as it will be.
async fn enter(
    mut channel: Channel,
    mut record: Record,
    target: &Target,
    tracked: &Arc<Tracked>,
) -> Result<LoggedIn, LoginError> {
    record.replication = target
        .own
        .as_ref()
        .map_or(Replication::No, |own| own.replication);
    send_startup(&mut channel, target, tracked).await?;
    authenticate(&mut channel, target).await?;
    let (record, parameters) = read_greeting(&mut channel, record).await?;
    let mut server = Server {
        channel,
        exchange: Exchange::default(),
        parameters: Arc::new(tracked_values(tracked, &parameters)),
        tracked: tracked.clone(),
        record: Arc::new(record),
        home: 0,
    };
    if let Some(query) = &target.connect_query
        && let Err(error) = server.run(query, CONNECT_QUERY_LIMIT).await
    {
        tracing::error!("S: error while executing exec_on_query: {error}");
        if !server.is_clean() {
            return Err(LoginError::Io(error));
        }
    }
    Ok(LoggedIn { server, parameters })
}

/// Asks for TLS and brings it about, as far as `server_tls_sslmode` wants it.
async fn encrypt(channel: &mut Channel, target: &Target) -> Result<(), LoginError> {
    let side = &target.tls.servers;
    let Host::Name(name) = &target.host else {
        return Ok(());
    };
    if !side.asks(channel.stream.is_unix()) {
        return Ok(());
    }
    let failed = |error| LoginError::Tls(TlsFailure::Handshake(error));
    if target.direct_tls && side.insists() {
        let target = side.target(name, true).map_err(failed)?;
        channel.stream.connect_tls(target).await.map_err(failed)?;
        // Without its name it may be another protocol's server that takes what
        // follows for a request.
        return match channel.stream.alpn() {
            Some(tls::ALPN) => Ok(()),
            _ => Err(LoginError::Tls(TlsFailure::Alpn)),
        };
    }
    let mut request = BytesMut::new();
    frontend::put_ssl_request(&mut request);
    let asked = channel.write_all(&request).await;
    asked.map_err(LoginError::Io)?;
    let answer = channel.peek(1).await.map_err(LoginError::Io)?[0];
    channel.take(1);
    // What comes in clear behind it must not be taken for the server's word.
    if channel.carried() > 0 {
        return Err(LoginError::Tls(TlsFailure::Injected));
    }
    match side.on_answer(answer) {
        Answer::Plain => Ok(()),
        Answer::Refused => Err(LoginError::Tls(TlsFailure::Refused)),
        Answer::Nonsense => Err(LoginError::Tls(TlsFailure::Answer)),
        Answer::Encrypt => {
            let target = side.target(name, false).map_err(failed)?;
            channel.stream.connect_tls(target).await.map_err(failed)
        }
    }
}

async fn send_startup(
    channel: &mut Channel,
    target: &Target,
    tracked: &Tracked,
) -> Result<(), LoginError> {
    let mut startup = Startup::new();
    startup.parameters = target.parameters(tracked);
    startup.protocol_number_minor = target.minor;
    let mut packet = BytesMut::new();
    startup
        .encode(&mut packet)
        .map_err(|error| LoginError::Io(io::Error::other(error)))?;
    channel.write_all(&packet).await.map_err(LoginError::Io)
}

pub(super) async fn authenticate(channel: &mut Channel, target: &Target) -> Result<(), LoginError> {
    let credential = target.credential.as_ref();
    let end_point = match target.channel_binding {
        true => channel.stream.end_point(),
        false => None,
    };
    let exchange = ServerExchange::start(
        &target.user,
        credential,
        end_point.as_deref(),
        auth::os_random,
    );
    let mut step = ServerStep::Wait(exchange);
    loop {
        step = match step {
            ServerStep::Wait(exchange) => {
                let body = read(channel, msg::AUTHENTICATION, target.minor).await?;
                exchange.on_request(&body)
            }
            ServerStep::Send { message, next } => {
                let sent = channel.write_all(message.as_bytes()).await;
                sent.map_err(LoginError::Io)?;
                ServerStep::Wait(next)
            }
            ServerStep::Derive(derivation) => tokio::task::spawn_blocking(move || derivation.run())
                .await
                .map_err(|error| LoginError::Io(io::Error::other(error)))?,
            ServerStep::LoggedIn(_) => return Ok(()),
            ServerStep::Refuse(refusal) => return Err(LoginError::Auth(refusal)),
        }
    }
}

/// Reads ParameterStatus and BackendKeyData up to ReadyForQuery.
pub(super) async fn read_greeting(
    channel: &mut Channel,
    mut record: Record,
) -> Result<(Record, Vec<(String, String)>), LoginError> {
    let mut parameters = Vec::new();
    loop {
        let message = read_any(channel).await?;
        match message.tag {
            msg::PARAMETER_STATUS if parameters.len() < MAX_PARAMETERS => {
                let (name, value) =
                    msg::parameter(&message.body).ok_or(LoginError::Protocol(message.tag))?;
                parameters.push((name.to_owned(), value.to_owned()));
            }
            msg::BACKEND_KEY_DATA => {
                let key = msg::backend_key(&message.body);
                (record.pid, record.secret) = key.ok_or(LoginError::Protocol(message.tag))?;
            }
            msg::READY_FOR_QUERY if message.body[..] == *b"I" => return Ok((record, parameters)),
            msg::NOTICE_RESPONSE => {}
            tag => return Err(LoginError::Protocol(tag)),
        }
    }
}

/// Whether a server that was asked for minor version `minor` of protocol 3
/// answers with an older one.
fn is_older(negotiation: &[u8], minor: u16) -> bool {
    let versions = startup::PROTOCOL_3_0..startup::PROTOCOL_3_0 + u32::from(minor);
    msg::negotiated(negotiation)
        .is_some_and(|(version, options)| versions.contains(&version) && options == 0)
}

async fn read(channel: &mut Channel, tag: u8, minor: u16) -> Result<bytes::Bytes, LoginError> {
    loop {
        let message = read_any(channel).await?;
        match message.tag {
            found if found == tag => return Ok(message.body),
            msg::NOTICE_RESPONSE => {}
            // Older ones know no newer version; no option was asked for.
            msg::NEGOTIATE_PROTOCOL_VERSION if is_older(&message.body, minor) => {}
            other => return Err(LoginError::Protocol(other)),
        }
    }
}

async fn read_any(channel: &mut Channel) -> Result<net::Message, LoginError> {
    let message = channel.read_message(MAX_LOGIN_MESSAGE).await;
    let message = message.map_err(LoginError::Io)?;
    if message.tag == msg::ERROR_RESPONSE {
        return Err(LoginError::Refused(msg::error_fields(&message.body)));
    }
    Ok(message)
}

fn tracked_values(tracked: &Tracked, reported: &[(String, String)]) -> Parameters {
    let mut values = Parameters::default();
    for (name, value) in reported {
        if let Some(index) = tracked.index(name) {
            values.set(index, value);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            host: Host::read("a"),
            port: 5432,
            dbname: String::new(),
            user: String::new(),
            credential: None,
            options: SocketOptions::default(),
            tls: Arc::default(),
            channel_binding: true,
            direct_tls: false,
            startup: Vec::new(),
            connect_query: None,
            own: None,
            minor: 0,
        }
    }

    #[test]
    fn what_a_replication_client_asks_for_goes_before_what_its_database_says() {
        let tracked = Tracked::new("");
        let mut own = OwnStartup {
            replication: Replication::Logical,
            options: Some("-c a=b".into()),
            ..OwnStartup::default()
        };
        let style = tracked.index("DateStyle").expect("always tracked");
        own.parameters.set(style, "German");
        let target = Target {
            startup: vec![("datestyle", "ISO".into()), ("timezone", "UTC".into())],
            own: Some(Arc::new(own)),
            ..target()
        };
        let all = target.parameters(&tracked);
        let all: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            all,
            [
                ("DateStyle", "German"),
                ("database", ""),
                ("options", "-c a=b"),
                ("replication", "database"),
                ("timezone", "UTC"),
                ("user", ""),
            ]
        );
    }
}
