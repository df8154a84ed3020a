//! FDS, HANDOVER and BALANCER: what another process needs to go on with
//! everything.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::timeout;

use super::result::{Cell, Column, Columns, Type, columns, put_row};
use crate::admin::console::Console;
use crate::handover::{self, Row};
use crate::net::Listener;
use crate::pool::{Client, Pool, Told, ToldServer, User};
use crate::server::Parameters;
use crate::server::statements::Statement;

/// Columns of FDS.
pub const FDS: Columns = &[
    &columns(Type::Int, ["fd"]),
    &columns(Type::Text, ["task", "user", "database", "addr"]),
    &columns(Type::Int, ["port"]),
    &[Column {
        name: "cancel",
        kind: Type::BigInt,
    }],
    &columns(Type::Int, ["link"]),
    &columns(
        Type::Text,
        [
            "client_encoding",
            "std_strings",
            "datestyle",
            "timezone",
            "password",
        ],
    ),
    &columns(Type::Bytes, ["scram_client_key", "scram_server_key"]),
];

/// The parameters that FDS tells, in the order of its columns.
const TOLD_PARAMETERS: [&str; 4] = [
    "client_encoding",
    "standard_conforming_strings",
    "DateStyle",
    "TimeZone",
];

/// Columns of HANDOVER and of BALANCER.
pub const HANDOVER: Columns = &[&columns(Type::Text, ["state"])];

/// Clients that are asked at once: so many descriptors more are needed.
const AT_ONCE: usize = 64;

/// How long a client's task may take to tell.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What is told to another process, as FDS is; clients may have to be asked
/// for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// FDS.
    Descriptors,
    /// HANDOVER.
    Handover,
    /// BALANCER.
    Balancer,
}

impl Telling {
    /// Whether it is for another process of the same user alone.
    pub fn is_between_processes(self) -> bool {
        self != Telling::Descriptors
    }
}

/// Takes rows.
pub trait Teller {
    /// Takes one, with a descriptor if the reader gets any.
    fn row(
        &mut self,
        row: BytesMut,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> impl Future<Output = std::io::Result<()>> + Send;
}

impl Console {
    /// The rows of FDS. `whole` tells of what can be handed over only, and what
    /// has been told of is marked so.
    pub async fn tell_descriptors(
        &self,
        teller: &mut impl Teller,
        whole: bool,
    ) -> std::io::Result<()> {
        let sockets: Vec<OwnedFd> = {
            let sockets = self.bouncer.sockets();
            let copies = sockets.iter().map(OwnedFd::try_clone);
            copies.collect::<Result<_, _>>()?
        };
        for socket in &sockets {
            let row = pooler_row(socket, self.bouncer.config().pgbouncer.listen_port);
            teller.row(row, Some(socket.as_fd())).await?;
        }
        let all: Vec<_> = self.bouncer.clients.iter().map(|it| it.clone()).collect();
        for some in all.chunks(AT_ONCE) {
            for (client, told) in ask(some).await {
                if !whole || told.whole.is_some() {
                    self.tell_client(teller, &client, &told).await?;
                    if whole {
                        client.hand_over(true);
                    }
                }
            }
        }
        for pool in self.bouncer.pools() {
            for server in pool.tell(self.now()) {
                if !whole || server.whole.is_some() {
                    self.tell_server(teller, &pool, &server, 0).await?;
                    if whole {
                        server.record.hand_over(true);
                    }
                }
            }
        }
        Ok(())
    }

    async fn tell_client(
        &self,
        teller: &mut impl Teller,
        client: &Client,
        told: &Told,
    ) -> std::io::Result<()> {
        let pools = self.bouncer.pools();
        let server = told.server.as_ref();
        let (host, port) = (client.address.host(), client.address.port());
        let row = self.row(Facts {
            fd: told.fd,
            task: "client",
            user: &client.user,
            pool: &self.bouncer.pool(&client.database, &client.user),
            address: (&host, port),
            key: u64::from_be_bytes(client.key),
            link: server.map_or(0, |server| server.fd),
            parameters: &told.parameters,
        });
        let socket = told.whole.as_ref().map(|(_, socket)| socket.as_fd());
        teller.row(row, socket).await?;
        let pool = server.and_then(|it| pools.iter().find(|pool| pool.id == it.record.pool));
        if let Some((server, pool)) = server.zip(pool) {
            self.tell_server(teller, pool, server, told.fd).await?;
        }
        Ok(())
    }

    async fn tell_server(
        &self,
        teller: &mut impl Teller,
        pool: &Pool,
        told: &ToldServer,
        link: i32,
    ) -> std::io::Result<()> {
        let record = &told.record;
        let mut key = [0; 8];
        key[..4].copy_from_slice(&record.pid.to_be_bytes());
        let len = record.secret.len().min(4);
        key[4..4 + len].copy_from_slice(&record.secret[..len]);
        let (host, port) = (record.address.host(), record.address.port());
        let row = self.row(Facts {
            fd: told.fd,
            task: "server",
            user: &pool.user,
            pool,
            address: (&host, port),
            key: u64::from_be_bytes(key),
            link,
            parameters: &told.parameters,
        });
        let socket = told.whole.as_ref().map(|(_, socket)| socket.as_fd());
        teller.row(row, socket).await?;
        Ok(())
    }

    fn row(&self, facts: Facts<'_>) -> BytesMut {
        let names = &self.bouncer.tracked;
        let value = |name| facts.parameters.value(names.index(name)?);
        let mut cells: Vec<Cell<'_>> = vec![
            facts.fd.into(),
            facts.task.into(),
            facts.user.name.as_str().into(),
            facts.pool.database.name.as_str().into(),
            facts.address.0.into(),
            facts.address.1.into(),
            facts.key.to_string().into(),
            facts.link.into(),
        ];
        cells.extend(TOLD_PARAMETERS.map(|name| value(name).into()));
        let pool = facts.pool;
        let forced = pool.database.settings.load().user.is_some();
        let own = || pool.credential.load_full();
        let credential = pool.user.credential.load_full().or_else(own);
        let credential = credential.filter(|_| !forced);
        // Whoever reads the same user list knows those of it.
        let listed = self.bouncer.user_list().get(&pool.user.name).is_some();
        let secret = credential.as_ref().filter(|_| !listed);
        let secret = secret.map(|it| it.secret().to_stored());
        let secret = secret.filter(|secret| !secret.is_empty());
        cells.push(secret.and_then(|it| String::from_utf8(it).ok()).into());
        let keys = credential.as_ref().and_then(|it| it.scram_keys());
        cells.push(keys.map(|keys| hex(keys.client_key())).into());
        cells.push(keys.map(|keys| hex(keys.server_key())).into());
        let mut row = BytesMut::new();
        put_row(&mut row, &cells);
        row
    }

    /// The rows of BALANCER; none without one.
    pub async fn tell_balancer(&self, teller: &mut impl Teller) -> std::io::Result<()> {
        let Some(front) = self.front.front() else {
            return Ok(());
        };
        for (row, descriptor) in front.hand_over()? {
            let mut text = BytesMut::new();
            put_row(&mut text, &[handover::to_text(&row).into()]);
            let descriptor = descriptor.as_ref().map(AsFd::as_fd);
            teller.row(text, descriptor).await?;
        }
        Ok(())
    }

    /// The rows of HANDOVER.
    pub async fn tell_handover(&self, teller: &mut impl Teller) -> std::io::Result<()> {
        let now = self.now();
        let (mut rows, mut statements) = (Vec::new(), BTreeMap::new());
        let mut mention = |these: &[Arc<Statement>]| {
            for statement in these {
                statements.insert(statement.id(), statement.clone());
            }
        };
        let mut add = |server: ToldServer, rows: &mut Vec<Row>| {
            mention(&server.statements);
            rows.extend(server.whole.map(|(server, _)| Row::Server(server)));
        };
        for pool in self.bouncer.pools() {
            rows.extend(pool.welcome().map(|welcome| {
                Row::Pool(handover::Pool {
                    database: pool.database.name.clone(),
                    user: pool.user.name.clone(),
                    reported: welcome.reported(),
                })
            }));
            for server in pool.tell(now) {
                add(server, &mut rows);
            }
        }
        let mut named = Vec::new();
        let all: Vec<_> = self.bouncer.clients.iter().map(|it| it.clone()).collect();
        for some in all.chunks(AT_ONCE) {
            for (_, told) in ask(some).await {
                if let Some((client, _)) = told.whole {
                    named.extend(told.statements);
                    rows.push(Row::Client(client));
                    if let Some(server) = told.server {
                        add(server, &mut rows);
                    }
                }
            }
        }
        mention(&named);
        let told = statements.values().filter_map(|it| it.hand_over());
        let format = Row::Format {
            format: handover::FORMAT,
            last_statement: self.bouncer.dictionary.last_id(),
            cancels: self.bouncer.elders.tell(),
        };
        for row in [format]
            .into_iter()
            .chain(told.map(Row::Statement))
            .chain(rows)
        {
            let mut text = BytesMut::new();
            put_row(&mut text, &[handover::to_text(&row).into()]);
            teller.row(text, None).await?;
        }
        Ok(())
    }
}

/// What FDS tells of a client or server.
struct Facts<'a> {
    fd: i32,
    task: &'static str,
    user: &'a User,
    pool: &'a Pool,
    address: (&'a str, u16),
    key: u64,
    link: i32,
    parameters: &'a Parameters,
}

/// What these clients tell, if they still live.
async fn ask(clients: &[Arc<Client>]) -> Vec<(Arc<Client>, Told)> {
    let asked: Vec<_> = clients.iter().map(|client| client.ask()).collect();
    let mut told = Vec::new();
    for (client, answer) in clients.iter().zip(asked) {
        if let Ok(Ok(answer)) = timeout(ANSWER_LIMIT, answer).await {
            told.push((client.clone(), answer));
        }
    }
    told
}

fn pooler_row(socket: &OwnedFd, port: i32) -> BytesMut {
    use std::os::fd::AsRawFd;
    let address = Listener::address(socket);
    let (host, port) = match address {
        Some(address) => (address.ip().to_string(), address.port().into()),
        None => ("unix".to_owned(), port),
    };
    let mut cells: Vec<Cell<'_>> = vec![
        socket.as_raw_fd().into(),
        "pooler".into(),
        Cell::Null,
        Cell::Null,
        host.into(),
        port.into(),
        0.into(),
        0.into(),
    ];
    cells.resize(15, Cell::Null);
    let mut row = BytesMut::new();
    put_row(&mut row, &cells);
    row
}

/// As a bytea is written.
fn hex(key: &[u8]) -> String {
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{digits}")
}
