//! The login of a client, for any bytes: from the first packet to the end of
//! the exchange, over a socket.
//!
//! An input is an `auth_type` and whether TLS is offered and the client honest,
//! a seed for the pieces, and what it sends. An honest client waits for the
//! answer to a request for encryption. There is no database, so nobody comes further than the
//! console.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

use super::login::{Admitted, LoginPolicy, Socket, log_in};
use super::startup::Identity;
use super::worker::Worker;
use crate::auth::{ScramSettings, UserList};
use crate::config::{self, AuthType, Config};
use crate::net::{Stream, tls};
use crate::pool::Bouncer;
use crate::process::LogWriter;
use crate::wire::backend;
use crate::wire::fuzz::{Input, messages, pieces};
use crate::wire::startup::{self, First};

/// Few, so that PBKDF2 costs nothing.
const ITERATIONS: i32 = 2;

const PASSWORD: &[u8] = b"open sesame";

const AUTH_TYPES: [AuthType; 5] = [
    AuthType::Plain,
    AuthType::Md5,
    AuthType::ScramSha256,
    AuthType::Trust,
    AuthType::Any,
];

/// However it arrives, it is answered with the same messages, and only who
/// has sent the password comes in.
pub fn login(data: &[u8]) {
    thread_local! {
        static STAGES: RefCell<Vec<(Stage, Runtime)>> = const { RefCell::new(Vec::new()) };
    }
    let mut input = Input::new(data);
    let kind = input.byte();
    let auth_type = AUTH_TYPES[usize::from(kind & 0x3f) % AUTH_TYPES.len()];
    let offers_tls = kind & 0x40 != 0;
    let is_honest = kind & 0x80 == 0;
    let seed = input.byte();
    let says = input.rest();
    STAGES.with_borrow_mut(|stages| {
        let wanted = |stage: &Stage| (stage.auth_type, stage.offers_tls) == (auth_type, offers_tls);
        if !stages.iter().any(|(stage, _)| wanted(stage)) {
            let runtime = Builder::new_current_thread().enable_all().build();
            let stage = Stage::new(auth_type, offers_tls);
            stages.push((stage, runtime.expect("a runtime")));
        }
        let mut all = stages.iter();
        let (stage, runtime) = all.find(|(stage, _)| wanted(stage)).expect("just made");
        stage.identity(says);
        let (requests, rest) = requests(says);
        if !is_honest && !requests.is_empty() && !rest.is_empty() {
            let smuggled = runtime.block_on(stage.log_in(&[], &mut std::iter::once(says)));
            let refused = matches!(smuggled.0.last(), Some((backend::ERROR_RESPONSE, _)));
            let refused = refused || offers_tls;
            return assert!(refused && !smuggled.1, "{smuggled:?}");
        }
        let at_once = runtime.block_on(stage.log_in(&requests, &mut std::iter::once(rest)));
        let in_pieces = runtime.block_on(stage.log_in(&requests, &mut pieces(rest, seed)));
        assert_eq!(at_once, in_pieces);
        let open = matches!(auth_type, AuthType::Trust | AuthType::Any);
        let known = |password: &[u8]| says.windows(password.len()).any(|it| it == password);
        if at_once.1 && !open {
            let own = known(b"user\0pgbouncer\0");
            let proven = auth_type == AuthType::Plain && known(&[PASSWORD, b"\0"].concat());
            assert!(own || proven, "let in by {auth_type:?}");
        }
    });
}

/// The requests for encryption at the front of what a client sends. It makes
/// each once.
fn requests(says: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut requests, mut rest) = (Vec::new(), says);
    while let Some((packet, behind)) = rest.split_at_checked(8)
        && let Ok(First::SslRequest | First::GssEncRequest) = startup::read(packet)
        && matches!(startup::packet_len(packet), Some(Ok(8)))
        && !requests.contains(&packet)
    {
        requests.push(packet);
        rest = behind;
    }
    (requests, rest)
}

/// What a client hears, as types and lengths, and whether it is let in.
type Heard = (Vec<(u8, usize)>, bool);

/// A pooler without databases.
struct Stage {
    auth_type: AuthType,
    /// Over TCP, as there is no TLS on Unix sockets. A reset may take away what
    /// was said last, so only who is let in is looked at.
    offers_tls: bool,
    worker: Arc<Worker>,
}

impl Stage {
    fn new(auth_type: AuthType, offers_tls: bool) -> Stage {
        let config = Config {
            path: PathBuf::new(),
            pgbouncer: config::Pgbouncer {
                auth_type,
                admin_users: "ann".to_owned(),
                // The machine may stand still meanwhile.
                client_login_timeout: Duration::ZERO,
                ..config::Pgbouncer::default()
            },
            databases: BTreeMap::new(),
            autodb: None,
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            pgweir: config::Pgweir::default(),
            metrics: config::Metrics::default(),
            queries: config::Queries::default(),
            prepare: None,
            balancer: None,
        };
        let users = UserList::parse(b"\"ann\" \"open sesame\"\n").0;
        let bouncer = Bouncer::new(config, users, 1);
        if offers_tls {
            bouncer.set_tls(tls::fuzz::offer());
        }
        let scram = ScramSettings::new(ITERATIONS as u32, |bytes| bytes.fill(7));
        let login = Arc::new(LoginPolicy::new(scram));
        // A log whose writer has gone keeps nobody waiting.
        let log = LogWriter::start(Box::new(std::io::sink()));
        let log = log.expect("a thread").queue().clone();
        let worker = Worker::new(0, bouncer, login, Arc::new(Box::new(drop)), log, None);
        Stage {
            auth_type,
            offers_tls,
            worker,
        }
    }

    async fn log_in(&self, requests: &[&[u8]], chunks: &mut dyn Iterator<Item = &[u8]>) -> Heard {
        if !self.offers_tls {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            let (heard, admitted) = self
                .log_in_over(ours.into(), theirs, requests, chunks)
                .await;
            return (essence(&heard), admitted);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (theirs, ours) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (ours, _) = ours.expect("a connection");
        let theirs = theirs.expect("a connection");
        let (_, admitted) = self
            .log_in_over(ours.into(), theirs, requests, chunks)
            .await;
        (Vec::new(), admitted)
    }

    async fn log_in_over(
        &self,
        ours: Stream,
        mut theirs: impl AsyncRead + AsyncWrite + Unpin,
        requests: &[&[u8]],
        chunks: &mut dyn Iterator<Item = &[u8]>,
    ) -> (Vec<u8>, bool) {
        let socket = Socket::new(self.worker.bouncer.clone());
        let login = log_in(&self.worker, ours, socket);
        let client = async {
            let mut heard = Vec::new();
            for request in requests {
                let mut answer = [0];
                if theirs.write_all(request).await.is_ok()
                    && theirs.read_exact(&mut answer).await.is_ok()
                {
                    heard.extend(answer);
                }
            }
            for chunk in chunks {
                // The pooler may have closed its end.
                if theirs.write_all(chunk).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _closed = theirs.shutdown().await;
            let _reset = theirs.read_to_end(&mut heard).await;
            heard
        };
        let login = async { !matches!(login.await, Admitted::Nobody) };
        let (admitted, heard) = tokio::join!(login, client);
        (heard, admitted)
    }

    /// Names are read whole or not at all.
    fn identity(&self, packet: &[u8]) {
        let Some(Ok(length)) = startup::packet_len(packet) else {
            return;
        };
        let packet = packet.get(..length).map(startup::read);
        let Some(Ok(First::Startup { parameters, .. })) = packet else {
            return;
        };
        match Identity::read(parameters, &self.worker.bouncer) {
            Ok(identity) => {
                let last = |name: &str| parameters.iter().filter(|(own, _)| *own == name).last();
                let (_, user) = last("user").expect("it has a user");
                assert_eq!(identity.user, user);
                let database = last("database").map_or(user, |(_, value)| value);
                let database = if database.is_empty() { user } else { database };
                assert_eq!(identity.database, database);
                let options = identity.unsupported.iter();
                assert!(options.into_iter().all(|name| name.starts_with("_pq_.")));
            }
            Err(fault) => assert!(!fault.to_string().is_empty()),
        }
    }
}

/// The messages of an answer, behind refusals of encryption.
fn essence(heard: &[u8]) -> Vec<(u8, usize)> {
    let refusals = heard.iter().take_while(|&&byte| byte == b'N').count();
    let (all, lacks) = messages(&heard[refusals..]);
    assert!(lacks == Some(0) && refusals <= 2, "{heard:?}");
    let known = [
        backend::AUTHENTICATION,
        backend::ERROR_RESPONSE,
        backend::NEGOTIATE_PROTOCOL_VERSION,
    ];
    assert!(all.iter().all(|message| known.contains(&message[0])));
    let count = std::iter::repeat_n((b'N', 1), refusals);
    count
        .chain(all.iter().map(|message| (message[0], message.len())))
        .collect()
}
