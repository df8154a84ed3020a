//! From the first byte of a connection to its greeting.

mod books;
mod encryption;
mod greeting;
mod places;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgwire::messages::startup::NegotiateProtocolVersion;
use tokio::sync::Semaphore;

use self::greeting::{greeting, name_with_host};
use self::waiting::obtain_own;
use super::cancel;
use super::directory::Directories;
use super::lookups::Lookups;
use super::pam::Pam;
use super::session::Session;
use super::startup::{Identity, StartupFault};
use super::worker::{Worker, send_fatal};
use crate::auth::hba::Means;
use crate::auth::{
    self, Authenticated, ClientExchange, ClientStep, Credential, LoginMessage, Method,
    ScramSettings,
};
use crate::config::AuthType;
use crate::net::tls;
use crate::net::{Address, Channel, Stream};
use crate::pool::state::LoginFailure;
use crate::pool::{
    Bouncer, CONSOLE, CancelKey, Client, Database, KEY_REST, Lease, MAX_DATABASE_NAME, NewClient,
    Pool,
};
use crate::server::OwnStartup;
use crate::stats::Micros;
use crate::wire::frame::bad_header;
use crate::wire::startup::{First, MAX_STARTUP_LEN, Replication, StartupError};
use crate::wire::{backend, frontend, startup};

pub use self::books::{Registration, Socket};
pub use self::places::Places;
pub(super) use self::waiting::{obtain, unless_gone};

/// The longest password or SASL message (PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`).
const MAX_AUTH_MESSAGE: usize = 65_540;

/// Password computations at once; more wait for their turn.
const MAX_DERIVATIONS: usize = 4;

/// The limit of a login where the setting has none: every wait has a deadline.
const LONGEST_LOGIN: Duration = Duration::from_secs(3600);

/// PgBouncer's words for the request for TLS.
const SSL_REQUEST: &str = "SSL request";

/// How passwords are exchanged, for all logins.
#[derive(Debug)]
pub struct LoginPolicy {
    /// Settings and secrets of SCRAM exchanges.
    pub scram: ScramSettings,
    /// Questions to servers about users that are not in `auth_file`.
    pub(super) lookups: Lookups,
    /// Questions to directories about passwords.
    pub(super) directories: Directories,
    /// Questions to PAM about passwords.
    pub(super) pam: Pam,
    derivations: Semaphore,
}

impl LoginPolicy {
    /// A policy with these settings.
    pub fn new(scram: ScramSettings) -> LoginPolicy {
        LoginPolicy {
            scram,
            lookups: Lookups::default(),
            directories: Directories::default(),
            pam: Pam::default(),
            derivations: Semaphore::new(MAX_DERIVATIONS),
        }
    }
}

/// What a login came to.
pub enum Admitted {
    /// A client of a pool, greeted.
    Session(Box<Session>, Registration),
    /// A client of the console, not greeted yet.
    Console(Box<ConsoleClient>),
    /// Refused, gone, or a cancel request.
    Nobody,
}

/// A client that has logged in to the console.
#[derive(Debug)]
pub struct ConsoleClient {
    /// Its connection.
    pub channel: Channel,
    /// Its name.
    pub user: String,
    /// It may change things, not only look.
    pub admin: bool,
    /// Its id.
    pub id: u64,
    /// To be sent before AuthenticationOk.
    pub greeting: Vec<u8>,
    /// When it connected.
    pub connected_at: Micros,
    /// Counts it.
    pub socket: Socket,
    /// Counts it too.
    pub places: Places,
}

/// Why a login ends without a session.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The client is told this, with PgBouncer's SQLSTATE.
    Fatal(String),
    /// The client is told what the server said.
    Server(Arc<LoginFailure>),
    /// It left, or there is nothing to say.
    Silent,
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Refusal {
        Refusal::Silent
    }
}

impl From<&str> for Refusal {
    fn from(message: &str) -> Refusal {
        Refusal::Fatal(message.to_owned())
    }
}

impl From<StartupFault> for Refusal {
    fn from(fault: StartupFault) -> Refusal {
        Refusal::Fatal(fault.to_string())
    }
}

/// Takes a new connection through its login, within `client_login_timeout`.
pub async fn log_in(worker: &Arc<Worker>, stream: Stream, socket: Socket) -> Admitted {
    let limit = worker.bouncer.config().pgbouncer.client_login_timeout;
    let limit = if limit.is_zero() {
        LONGEST_LOGIN
    } else {
        limit
    };
    let mut login = Login {
        worker: worker.clone(),
        address: stream.peer(),
        connected_at: worker.now(),
        channel: Channel::new(stream),
        waiting: false,
        id: None,
        names: None,
    };
    let suspension = &worker.bouncer.suspension;
    let outcome = tokio::time::timeout(limit, async {
        tokio::select! {
            biased;
            outcome = login.run() => outcome,
            () = suspension.is_overdue() => Err("suspend_timeout".into()),
        }
    });
    let outcome = match outcome.await {
        Ok(outcome) => outcome,
        Err(_) if login.waiting => Err("client_login_timeout (server down)".into()),
        Err(_) => Err("client_login_timeout".into()),
    };
    match outcome {
        Ok(Passed::Nobody) | Err(Refusal::Silent) => {
            login.channel.stream.write_end();
            Admitted::Nobody
        }
        Ok(Passed::Session(passed)) => passed.into_session(login, socket),
        Ok(Passed::Console(mut client)) => Admitted::Console(Box::new(ConsoleClient {
            channel: login.channel,
            user: std::mem::take(&mut client.user),
            admin: client.admin,
            id: login.id.unwrap_or_else(|| worker.bouncer.next_id()),
            greeting: client.greeting,
            places: client.places,
            connected_at: login.connected_at,
            socket,
        })),
        Err(Refusal::Fatal(message)) => {
            login.log_closing(&message);
            // It is no client any more, however long it takes to read this.
            drop(socket);
            send_fatal(worker, login.channel, backend::PROTOCOL_VIOLATION, &message).await;
            Admitted::Nobody
        }
        Err(Refusal::Server(failure)) => {
            login.log_closing(&failure.message);
            drop(socket);
            send_fatal(worker, login.channel, &failure.sqlstate, &failure.message).await;
            Admitted::Nobody
        }
    }
}

pub(super) struct Login {
    pub(super) worker: Arc<Worker>,
    pub(super) channel: Channel,
    pub(super) address: Address,
    pub(super) connected_at: Micros,
    /// It waits for a server: no server of its pool has logged in yet, or one
    /// is to be asked about its user.
    pub(super) waiting: bool,
    /// From the counter shared with servers, once it is needed.
    id: Option<u64>,
    /// Database and user it asks for, for the log.
    names: Option<(Box<str>, Box<str>)>,
}

enum Passed {
    Session(Box<PassedSession>),
    Console(PassedConsole),
    Nobody,
}

struct PassedConsole {
    user: String,
    admin: bool,
    places: Places,
    greeting: Vec<u8>,
}

struct PassedSession {
    client: Arc<Client>,
    pool: Arc<Pool>,
    parameters: Arc<crate::server::Parameters>,
    places: Places,
    /// The server that is its own.
    own: Option<Lease>,
}

impl PassedSession {
    fn into_session(self, login: Login, socket: Socket) -> Admitted {
        let bouncer = login.worker.bouncer.clone();
        bouncer.clients.insert(self.client.key, self.client.clone());
        let registration = Registration {
            client: self.client.clone(),
            bouncer,
            _places: self.places,
            _socket: socket,
        };
        let counters = &self.pool.counters[login.worker.id];
        counters.client_logins.add(1);
        let mut session = Box::new(Session::new(
            login.channel,
            self.client,
            self.pool,
            login.worker,
            self.parameters,
        ));
        if let Some(own) = self.own {
            session.begin_with(own);
        }
        Admitted::Session(session, registration)
    }
}

impl Login {
    /// Its id as a client.
    pub(super) fn id(&mut self) -> u64 {
        let bouncer = &self.worker.bouncer;
        *self.id.get_or_insert_with(|| bouncer.next_id())
    }

    /// Writes the closing line of a login that failed.
    fn log_closing(&self, reason: &str) {
        if !self.worker.bouncer.config().pgbouncer.log_disconnections {
            return;
        }
        let names = self.names.as_ref();
        let (database, user) = names.map_or(("(nodb)", "(nouser)"), |(d, u)| (d, u));
        let age = self.worker.now().since(self.connected_at) / 1_000_000;
        tracing::info!(
            "C: {database}/{user}@{} closing because: {reason} (age={age}s)",
            self.address
        );
    }

    async fn run(&mut self) -> Result<Passed, Refusal> {
        let Some((minor, mut identity)) = self.read_startup().await? else {
            return Ok(Passed::Nobody);
        };
        self.names = Some((
            identity.database.as_str().into(),
            identity.user.as_str().into(),
        ));
        let bouncer = self.worker.bouncer.clone();
        let console = identity.database == CONSOLE;
        let config = bouncer.config();
        let settings = &config.pgbouncer;
        let most = u32::try_from(settings.max_client_conn).unwrap_or(0);
        if bouncer.client_sockets.used() > most && !console {
            return Err("no more connections allowed (max_client_conn)".into());
        }
        if minor > startup::NEWEST_MINOR || !identity.unsupported.is_empty() {
            self.negotiate(minor, &identity).await?;
        }
        identity.minor = minor.min(startup::NEWEST_MINOR);
        if console {
            return self.run_console(identity).await.map(Passed::Console);
        }
        // Nobody who has not passed makes an entry out of `*`.
        let database = bouncer.known_database(&identity.database);
        let mut places = self
            .take_places(database.as_ref(), &identity.user, false)
            .await?;
        let credential = self.find_user(&mut identity, database.as_deref()).await?;
        self.take_user_place(&mut places, &identity.user, false)
            .await?;
        self.log_attempt(&identity);
        let demand = self.demand(&identity)?;
        if demand.means == Means::Exchange(Method::Any) {
            self.require_forced_user(database.as_deref())?;
        }
        let (authenticated, proof) = self
            .prove(demand, &identity.user, credential.as_ref())
            .await?;
        // It may be known only now.
        self.take_user_place(&mut places, &identity.user, false)
            .await?;
        let database = bouncer
            .database(&identity.database)
            .ok_or_else(|| no_such_database(&identity.database))?;
        self.take_database_place(&mut places, &database, false)
            .await?;
        if database.is_disabled() {
            return Err(Refusal::Fatal(format!(
                "database \"{}\" is disabled",
                database.name
            )));
        }
        if bouncer.is_shutting_down() {
            return Err("pooler is shutting down".into());
        }
        self.enter(&bouncer, database, identity, &authenticated, places, &proof)
            .await
    }

    /// Reads up to a StartupMessage; none for a cancel request, which is
    /// carried out.
    async fn read_startup(&mut self) -> Result<Option<(u16, Identity)>, Refusal> {
        let (mut tls_asked, mut gss_asked) = (false, false);
        loop {
            let request;
            let first = self.channel.peek(1).await?[0];
            match first {
                0 => {}
                tls::HANDSHAKE if self.may_begin_with_tls(tls_asked || gss_asked) => {
                    self.begin_with_tls().await?;
                    tls_asked = true;
                    continue;
                }
                frontend::PASSWORD => {
                    return Err("client password pkt before startup packet".into());
                }
                // No startup packet begins so: somebody speaks another
                // protocol.
                _ => return Err(Refusal::Silent),
            }
            let head = self.channel.peek(8).await?;
            let len = match startup::packet_len(head) {
                Some(Ok(len)) => len,
                Some(Err(StartupError::BadCancel)) => {
                    tracing::info!("C: {} bad cancel request", self.address);
                    return Err(Refusal::Silent);
                }
                _ => return Err(bad_startup(head)),
            };
            self.channel.peek(len.min(MAX_STARTUP_LEN as usize)).await?;
            let packet = self.channel.take(len);
            match startup::read(&packet) {
                Ok(First::SslRequest) if self.channel.stream.cipher().is_some() => {
                    tracing::warn!("C: {} SSL req inside SSL", self.address);
                    return Err(Refusal::Silent);
                }
                Ok(First::SslRequest) if !tls_asked => {
                    tls_asked = true;
                    request = SSL_REQUEST;
                }
                Ok(First::GssEncRequest) if !gss_asked => {
                    gss_asked = true;
                    request = "GSSAPI encryption request";
                }
                Ok(First::Cancel { key }) => {
                    cancel::carry_out(&self.worker.bouncer, key).await;
                    return Ok(None);
                }
                Ok(First::Version2) => return Err("old V2 protocol not supported".into()),
                Ok(First::Startup { .. }) if !self.is_protected_enough() => {
                    return Err("SSL required".into());
                }
                Ok(First::Startup { minor, parameters }) => {
                    let identity = Identity::read(parameters, &self.worker.bouncer)?;
                    return Ok(Some((minor, identity)));
                }
                Err(StartupError::BadLayout) => {
                    return Err(
                        "invalid startup packet layout: expected terminator as last byte".into(),
                    );
                }
                Ok(_) | Err(StartupError::BadHeader | StartupError::BadCancel) => {
                    return Err(bad_startup(&packet));
                }
            }
            // What came in clear must not be taken for something else later.
            if self.channel.carried() > 0 {
                return Err(Refusal::Fatal(format!(
                    "received unencrypted data after {request}"
                )));
            }
            let offer = self.tls_offer().filter(|_| request == SSL_REQUEST);
            match offer {
                None => self.channel.write_all(b"N").await?,
                Some(offer) => {
                    self.channel.write_all(b"S").await?;
                    self.begin_tls(offer, &[]).await?;
                }
            }
        }
    }

    /// Tells the client which version it gets, and which options it does not.
    async fn negotiate(&mut self, minor: u16, identity: &Identity) -> Result<(), Refusal> {
        let mut answer = BytesMut::new();
        let unsupported = identity.unsupported.clone();
        let version = startup::PROTOCOL_3_0 as i32 + i32::from(minor.min(startup::NEWEST_MINOR));
        backend::put(
            &mut answer,
            &NegotiateProtocolVersion::new(version, unsupported),
        );
        Ok(self.channel.write_all(&answer).await?)
    }

    fn log_attempt(&self, identity: &Identity) {
        if self.worker.bouncer.config().pgbouncer.log_connections {
            tracing::info!(
                "C: {}/{}@{} login attempt: db={} user={} tls={} replication={}",
                identity.database,
                identity.user,
                self.address,
                identity.database,
                identity.user,
                self.cipher(),
                identity.replication.value()
            );
        }
    }

    /// The credential of the user, from `auth_file` or by `auth_query`, which
    /// may give it another name. None if nobody knows it.
    async fn find_user(
        &mut self,
        identity: &mut Identity,
        database: Option<&Database>,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        let bouncer = &self.worker.bouncer;
        let listed = bouncer.user_list().get(&identity.user).cloned();
        if let Some(voucher) = self.voucher(identity) {
            let looks_up = |it: &Database| it.settings.load().auth_user.is_some();
            if database.is_some_and(looks_up) {
                tracing::error!("{voucher} can't be used together with database authentication");
                return Err("bouncer config error".into());
            }
            return Ok(listed);
        }
        if listed.is_some() || bouncer.config().pgbouncer.auth_type == AuthType::Any {
            return Ok(listed);
        }
        // Boxed: few logins need it, and all of them would carry it.
        let Some(known) = Box::pin(self.look_up(identity, database)).await? else {
            return Ok(None);
        };
        self.worker.bouncer.user(&known.name);
        known.name.as_ref().clone_into(&mut identity.user);
        Ok(Some(known.credential))
    }

    /// Leads the client through the exchange; answers the proof and what is to
    /// be sent before AuthenticationOk.
    pub(super) async fn authenticate(
        &mut self,
        method: Method,
        user: &str,
        known: Option<&Arc<Credential>>,
    ) -> Result<(Authenticated, Vec<u8>), Refusal> {
        let policy = self.worker.login.clone();
        let end_point = self.end_point();
        let mut step = ClientExchange::start(
            method,
            user,
            known,
            &policy.scram,
            end_point.as_deref(),
            auth::os_random,
        );
        loop {
            step = match step {
                ClientStep::Send { message, next } => {
                    next.on_message(&self.answer(&message).await?)
                }
                ClientStep::Derive(work) => {
                    let _turn = policy.derivations.acquire().await;
                    let run = tokio::task::spawn_blocking(move || work.run());
                    run.await.map_err(|_| Refusal::Silent)?
                }
                ClientStep::Accept {
                    message,
                    authenticated,
                } => {
                    let greeting = message.map(|m| m.into_bytes()).unwrap_or_default();
                    return Ok((authenticated, greeting));
                }
                ClientStep::Reject(reason) => return Err(self.refused(user, &reason)),
            };
        }
    }

    /// Sends an authentication request; the body of the client's answer.
    pub(super) async fn answer(&mut self, request: &LoginMessage) -> Result<Bytes, Refusal> {
        self.channel.write_all(request.as_bytes()).await?;
        match self.channel.peek(1).await?[0] {
            frontend::PASSWORD => {}
            0 => return Err("client re-sent startup pkt".into()),
            _ => return Err(Refusal::Silent),
        }
        Ok(self.channel.read_message(MAX_AUTH_MESSAGE).await?.body)
    }

    async fn run_console(&mut self, mut identity: Identity) -> Result<PassedConsole, Refusal> {
        let config = self.worker.bouncer.config();
        let settings = &config.pgbouncer;
        let listed = |list, user: &str| crate::config::in_list(list, user);
        let exempt = listed(&settings.admin_users, &identity.user);
        let console = self.worker.bouncer.console.clone();
        let mut places = self
            .take_places(Some(&console), &identity.user, exempt)
            .await?;
        let own = rustix::process::geteuid().as_raw();
        let peer = self.channel.stream.peer_uid();
        if let Some(uid) = peer
            && Authenticated::console_peer(&identity.user, uid, own).is_some()
        {
            self.log_attempt(&identity);
            tracing::info!("C: pgbouncer access from unix socket");
            return Ok(PassedConsole {
                user: identity.user,
                admin: true,
                places,
                greeting: Vec::new(),
            });
        }
        let credential = self.find_user(&mut identity, None).await?;
        let admin = listed(&settings.admin_users, &identity.user);
        self.take_user_place(&mut places, &identity.user, admin)
            .await?;
        self.log_attempt(&identity);
        let demand = self.demand(&identity)?;
        let anybody = demand.means == Means::Exchange(Method::Any);
        let (_, greeting) = self
            .prove(demand, &identity.user, credential.as_ref())
            .await?;
        self.take_user_place(&mut places, &identity.user, admin)
            .await?;
        if !admin && !anybody && !listed(&settings.stats_users, &identity.user) {
            return Err("not allowed".into());
        }
        Ok(PassedConsole {
            user: identity.user,
            admin,
            places,
            greeting,
        })
    }

    /// Joins the pool: waits for its first server, and greets the client.
    async fn enter(
        &mut self,
        bouncer: &Arc<Bouncer>,
        database: Arc<Database>,
        identity: Identity,
        authenticated: &Authenticated,
        places: Places,
        proof: &[u8],
    ) -> Result<Passed, Refusal> {
        let user = bouncer.user(&identity.user);
        let pool = bouncer.pool(&database, &user);
        if user.credential.load().is_none() && Arc::ptr_eq(&pool.user, &user) {
            pool.credential.store(authenticated.credential().cloned());
        }
        let mut parameters = identity.parameters;
        if let Some(index) = bouncer.tracked.index("application_name")
            && bouncer.config().pgbouncer.application_name_add_host
        {
            let name = match identity.application_name.as_str() {
                "" => "app",
                name => name,
            };
            let local = self.channel.stream.local();
            let named = name_with_host(name, self.address, local);
            parameters.set(index, &named);
        }
        let wants_own = identity.replication != Replication::No;
        let own = wants_own.then(|| {
            Arc::new(OwnStartup {
                replication: identity.replication,
                parameters: parameters.clone(),
                options: identity.options,
            })
        });
        let client = Arc::new(Client::new(NewClient {
            id: self.id(),
            key: new_key(bouncer),
            key_rest: (identity.minor >= startup::LONG_SECRETS_SINCE).then(|| {
                let mut rest = Box::new([0; KEY_REST]);
                auth::os_random(&mut *rest);
                rest
            }),
            database,
            user,
            address: self.address,
            local: self.channel.stream.local(),
            cipher: self.channel.stream.cipher(),
            connected_at: self.connected_at,
            application_name: identity.application_name.as_str().into(),
            own,
        }));
        let (own, welcome) = match (client.own.is_some(), pool.welcome()) {
            (false, Some(welcome)) => (None, welcome),
            (false, None) => {
                self.waiting = true;
                let wait = obtain(&self.worker, &pool, &client);
                let first = unless_gone(&mut self.channel, wait).await??;
                first.give_back(self.worker.now());
                (None, pool.welcome().ok_or(Refusal::Silent)?)
            }
            (true, _) => {
                self.waiting = true;
                let wait = obtain_own(&self.worker, &pool, &client);
                let (own, welcome) = unless_gone(&mut self.channel, wait).await??;
                (Some(own), Arc::new(welcome))
            }
        };
        parameters.fill_from(&welcome.tracked);
        let parameters = match &own {
            // It has been started with them, and may spell them otherwise.
            Some(own) => own.parameters.clone(),
            None => bouncer.parameter_sets.share(parameters),
        };
        let greeting = greeting(proof, bouncer, &welcome, &parameters, &client);
        self.channel.write_all(&greeting).await?;
        Ok(Passed::Session(Box::new(PassedSession {
            client,
            pool,
            parameters,
            places,
            own,
        })))
    }
}

/// A key no client has.
fn new_key(bouncer: &Bouncer) -> CancelKey {
    loop {
        let mut key = CancelKey::default();
        auth::os_random(&mut key);
        bouncer.make_key(&mut key);
        if !bouncer.clients.contains_key(&key) {
            return key;
        }
    }
}

/// PgBouncer's words; it keeps no more of a name than one can have.
fn no_such_database(name: &str) -> Refusal {
    let ends = name.char_indices().map(|(at, it)| at + it.len_utf8());
    let kept = ends.take_while(|end| *end <= MAX_DATABASE_NAME).last();
    Refusal::Fatal(format!("no such database: {}", &name[..kept.unwrap_or(0)]))
}

fn bad_startup(packet: &[u8]) -> Refusal {
    Refusal::Fatal(bad_header(&packet[..packet.len().min(8)]))
}
