//! The console over real sockets, with a pooler built in memory.

mod access;
mod commands;
mod protocol;
mod show;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::console::{Console, Limits};
use super::process::{Process, ShutdownMode};
use crate::auth::UserList;
use crate::client::{ConsoleClient, Places, Socket};
use crate::config::Config;
use crate::http::FrontSeat;
use crate::net::{Address, Channel, Stream};
use crate::pool::{Bouncer, CancelKey, Client, Database, NewClient};
use crate::process::{Destination, LogQueue, LogWriter};
use crate::wire::backend;

/// No test takes that long unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

const GENEROUS: Limits = Limits {
    message: PATIENCE,
    write: PATIENCE,
};

/// A process that remembers what was asked of it.
#[derive(Default)]
struct Recorder {
    shutdowns: Mutex<Vec<ShutdownMode>>,
    reload_error: Mutex<Option<String>>,
    changes: Mutex<u32>,
    tls_fails: AtomicBool,
}

impl Process for Recorder {
    fn reload(&self) -> Result<(), String> {
        match self.reload_error.lock().expect("no panic").clone() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn settings_changed(&self) {
        *self.changes.lock().expect("no panic") += 1;
    }

    fn tls_changed(&self) -> bool {
        !self.tls_fails.load(Ordering::Relaxed)
    }

    fn shut_down(&self, mode: ShutdownMode) {
        self.shutdowns.lock().expect("no panic").push(mode);
    }
}

/// A log that keeps nothing.
fn log() -> Arc<LogQueue> {
    let nowhere = Destination {
        quiet: true,
        ..Destination::default()
    };
    let writer = LogWriter::start(nowhere.open().expect("nothing to open"));
    writer.expect("a thread").queue().clone()
}

/// A console and what it stands on.
struct Scene {
    bouncer: Arc<Bouncer>,
    console: Arc<Console>,
    process: Arc<Recorder>,
}

impl Scene {
    fn new(ini: &str) -> Scene {
        Scene::with_limits(ini, GENEROUS)
    }

    fn with_limits(ini: &str, limits: Limits) -> Scene {
        let bouncer = Bouncer::new(config(ini), users(), 1);
        let process = Arc::new(Recorder::default());
        Scene {
            console: Console::with_limits(
                bouncer.clone(),
                process.clone(),
                log(),
                FrontSeat::default(),
                limits,
            ),
            bouncer,
            process,
        }
    }

    /// Enters the console as an admin.
    async fn admin(&self) -> Psql {
        self.enter("ad", true).await
    }

    /// Enters the console to look only.
    async fn stats_user(&self) -> Psql {
        self.enter("st", false).await
    }

    async fn enter(&self, user: &str, admin: bool) -> Psql {
        let mut psql = Psql(self.connect(user, admin));
        psql.answer().await;
        psql
    }

    /// Enters, without reading the welcome.
    fn connect(&self, user: &str, admin: bool) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let client = ConsoleClient {
            channel: Channel::new(Stream::from(ours)),
            user: user.to_owned(),
            admin,
            id: self.bouncer.next_id(),
            greeting: Vec::new(),
            connected_at: self.bouncer.clock.now(),
            socket: Socket::new(self.bouncer.clone()),
            places: Places::default(),
        };
        tokio::spawn(self.console.clone().serve(client));
        theirs
    }

    fn database(&self, name: &str) -> Arc<Database> {
        self.bouncer.database(name).expect("configured")
    }

    /// A logged-in client of the pooler, with its entry in the books only.
    fn client(&self, database: &str, user: &str) -> Arc<Client> {
        let id = self.bouncer.next_id();
        let mut key = CancelKey::default();
        key[..].copy_from_slice(&id.to_be_bytes());
        let client = Arc::new(Client::new(NewClient {
            id,
            key,
            database: self.database(database),
            user: self.bouncer.user(user),
            address: Address::Tcp(([127, 0, 0, 1], 4711).into()),
            local: Address::Tcp(([127, 0, 0, 1], 6432).into()),
            cipher: None,
            connected_at: self.bouncer.clock.now(),
            application_name: "app".into(),
            own: None,
            key_rest: None,
        }));
        self.bouncer.clients.insert(key, client.clone());
        client
    }
}

fn config(ini: &str) -> Config {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("pgweir-console-{}-{number}.ini", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, ini).expect("a writable folder");
    let loaded = Config::load(&path);
    std::fs::remove_file(&path).expect("just written");
    loaded.unwrap_or_else(|error| panic!("{error}")).config
}

fn users() -> UserList {
    UserList::parse(b"\"ann\" \"a\"\n\"bob\" \"b\"\n").0
}

/// One message of an answer.
type Message = (u8, Vec<u8>);

/// A client of the console that speaks bytes.
struct Psql(UnixStream);

impl Psql {
    /// Asks and reads up to ReadyForQuery, or the end.
    async fn ask(&mut self, query: &str) -> Answer {
        self.send(query).await;
        self.answer().await
    }

    async fn send(&mut self, query: &str) {
        self.write(&message(b'Q', &[query.as_bytes(), b"\0"].concat()))
            .await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the console reads");
    }

    async fn answer(&mut self) -> Answer {
        let mut messages = Vec::new();
        loop {
            match timeout(PATIENCE, self.message()).await.expect("an answer") {
                Some(last) if last.0 == backend::READY_FOR_QUERY => return Answer(messages),
                Some(message) => messages.push(message),
                None => {
                    messages.push((END, Vec::new()));
                    return Answer(messages);
                }
            }
        }
    }

    async fn message(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; len as usize - 4];
        self.0.read_exact(&mut body).await.expect("a whole message");
        Some((head[0], body))
    }
}

/// Stands for the end of the connection in an [`Answer`].
const END: u8 = 0;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("short");
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// What came before ReadyForQuery.
#[derive(Debug, PartialEq, Eq)]
struct Answer(Vec<Message>);

impl Answer {
    /// The tag of CommandComplete, or the text of what else there is.
    fn tag(&self) -> String {
        let tags: Vec<_> = self.bodies(backend::COMMAND_COMPLETE).collect();
        match tags[..] {
            [tag] => String::from_utf8_lossy(&tag[..tag.len() - 1]).into_owned(),
            _ => format!("{self:?}"),
        }
    }

    /// Severity, SQLSTATE and text of the errors.
    fn errors(&self) -> Vec<String> {
        let errors = self.bodies(backend::ERROR_RESPONSE);
        errors
            .map(|body| {
                let fields = backend::error_fields(body);
                format!("{} {} {}", fields.severity, fields.sqlstate, fields.message)
            })
            .collect()
    }

    /// The rows, NULL as none.
    fn rows(&self) -> Vec<Vec<Option<String>>> {
        self.bodies(backend::DATA_ROW).map(row).collect()
    }

    /// The rows, with a mark for NULL.
    fn texts(&self) -> Vec<Vec<String>> {
        let text = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".into());
        let rows = self.rows().into_iter();
        rows.map(|row| row.into_iter().map(text).collect())
            .collect()
    }

    /// The cells of one column.
    fn column(&self, name: &str) -> Vec<String> {
        let names = self.columns();
        let at = names
            .iter()
            .position(|it| it.split(' ').next() == Some(name));
        let at = at.unwrap_or_else(|| panic!("{name} is none of {names:?}"));
        self.texts()
            .into_iter()
            .map(|row| row[at].clone())
            .collect()
    }

    /// Name and OID of each column.
    fn columns(&self) -> Vec<String> {
        let body = self.bodies(backend::ROW_DESCRIPTION).next().expect("rows");
        let mut rest = &body[2..];
        let mut columns = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let name = String::from_utf8_lossy(&rest[..end]);
            let oid = &rest[end + 7..end + 11];
            let oid = u32::from_be_bytes(oid.try_into().expect("four bytes"));
            columns.push(format!("{name} {oid}"));
            rest = &rest[end + 19..];
        }
        columns
    }

    fn bodies(&self, tag: u8) -> impl Iterator<Item = &[u8]> {
        let tagged = self.0.iter().filter(move |message| message.0 == tag);
        tagged.map(|message| &message.1[..])
    }

    fn is_ended(&self) -> bool {
        self.0.last().is_some_and(|last| last.0 == END)
    }
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut cells = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = i32::from_be_bytes(*len);
        let (cell, after) = after.split_at(usize::try_from(len).unwrap_or(0));
        cells.push((len >= 0).then(|| String::from_utf8_lossy(cell).into_owned()));
        rest = after;
    }
    cells
}

/// A PostgreSQL that logs everybody in whom its gate lets through, and then
/// answers every query with nothing.
struct Postgres {
    port: u16,
    /// Connections it has seen.
    seen: Arc<AtomicU32>,
    gate: Arc<Semaphore>,
}

impl Postgres {
    /// One whose gate is open.
    async fn open() -> Postgres {
        let postgres = Postgres::shut().await;
        postgres.gate.add_permits(1000);
        postgres
    }

    /// One whose gate lets nobody through.
    async fn shut() -> Postgres {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let postgres = Postgres {
            port: listener.local_addr().expect("bound").port(),
            seen: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        };
        let (seen, gate) = (postgres.seen.clone(), postgres.gate.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(backend(stream, gate.clone()));
            }
        });
        postgres
    }
}

async fn backend(mut stream: TcpStream, gate: Arc<Semaphore>) -> Option<()> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.ok()?;
    let mut startup = vec![0; u32::from_be_bytes(len) as usize - 4];
    stream.read_exact(&mut startup).await.ok()?;
    gate.acquire().await.ok()?.forget();
    let mut hello = BytesMut::new();
    hello.extend_from_slice(b"R\0\0\0\x08\0\0\0\0");
    hello.extend_from_slice(&message(b'S', b"TimeZone\0UTC\0"));
    hello.extend_from_slice(&message(b'K', &[0, 0, 0x12, 0x34, 1, 2, 3, 4]));
    backend::put_ready(&mut hello);
    stream.write_all(&hello).await.ok()?;
    let mut head = [0; 5];
    while stream.read_exact(&mut head).await.is_ok() && head[0] == b'Q' {
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; len as usize - 4];
        stream.read_exact(&mut body).await.ok()?;
        let mut answer = BytesMut::new();
        backend::put_command_complete(&mut answer, "DISCARD ALL");
        backend::put_ready(&mut answer);
        stream.write_all(&answer).await.ok()?;
    }
    Some(())
}
