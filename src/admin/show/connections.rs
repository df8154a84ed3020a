//! CLIENTS, SERVERS and SOCKETS.

use std::collections::HashMap;
use std::sync::Arc;

use super::result::{Cell, Columns, Rows, Type, columns};
use crate::admin::census::Census;
use crate::admin::console::Console;
use crate::admin::visitor::Visitor;
use crate::net::Address;
use crate::net::tls::Cipher;
use crate::pool::{CONSOLE, Client, ClientState, Pool};
use crate::server::{Record, ServerState};
use crate::stats::Micros;
use crate::wire::startup::Replication;

/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// Numbers about buffers that only SOCKETS has. What a connection holds back
/// is known to its task alone.
const BUFFER_COLUMNS: usize = 7;

/// Columns of CLIENTS and SERVERS.
pub const CONNECTIONS: Columns = &[
    &columns(
        Type::Text,
        ["type", "user", "database", "replication", "state", "addr"],
    ),
    &columns(Type::Int, ["port"]),
    &columns(Type::Text, ["local_addr"]),
    &columns(Type::Int, ["local_port"]),
    &columns(Type::Text, ["connect_time", "request_time"]),
    &columns(Type::Int, ["wait", "wait_us", "close_needed"]),
    &columns(Type::Text, ["ptr", "link"]),
    &columns(Type::Int, ["remote_pid"]),
    &columns(Type::Text, ["tls", "application_name"]),
    &columns(Type::Int, ["prepared_statements", "id"]),
];

/// Columns of SOCKETS.
pub const SOCKETS: Columns = &[
    CONNECTIONS[0],
    CONNECTIONS[1],
    CONNECTIONS[2],
    CONNECTIONS[3],
    CONNECTIONS[4],
    CONNECTIONS[5],
    CONNECTIONS[6],
    CONNECTIONS[7],
    CONNECTIONS[8],
    CONNECTIONS[9],
    &columns::<BUFFER_COLUMNS>(
        Type::Int,
        [
            "recv_pos",
            "pkt_pos",
            "pkt_remain",
            "send_pos",
            "send_remain",
            "pkt_avail",
            "send_avail",
        ],
    ),
];

/// One row.
struct Connection {
    /// Where it stands: by pool, then by state, then by id.
    rank: (usize, u8, u64),
    kind: &'static str,
    user: String,
    database: String,
    replication: Replication,
    state: &'static str,
    /// The state as SOCKETS calls it.
    socket_state: &'static str,
    address: Address,
    local: Address,
    cipher: Option<Cipher>,
    /// The port shown where the socket has none.
    unix_port: u16,
    connected_at: Micros,
    requested_at: Micros,
    /// Microseconds of the wait or query that goes on.
    wait: u64,
    close_needed: bool,
    link: u64,
    pid: i32,
    application_name: String,
    prepared: u32,
}

/// SHOW CLIENTS.
pub fn clients(console: &Console, rows: &mut Rows<'_>) {
    put_all(console, client_connections(console), rows);
}

/// SHOW SERVERS.
pub fn servers(console: &Console, rows: &mut Rows<'_>) {
    put_all(console, server_connections(console), rows);
}

/// SHOW SOCKETS.
pub fn sockets(console: &Console, rows: &mut Rows<'_>) {
    let mut all = client_connections(console);
    all.extend(server_connections(console));
    for connection in sorted(all) {
        let mut cells = connection.cells(console, connection.socket_state);
        cells.resize(cells.len() + BUFFER_COLUMNS, Cell::Number(0));
        rows.put(&cells);
    }
}

fn put_all(console: &Console, all: Vec<Connection>, rows: &mut Rows<'_>) {
    for connection in sorted(all) {
        rows.put(&connection.cells(console, connection.state));
    }
}

fn sorted(mut all: Vec<Connection>) -> Vec<Connection> {
    all.sort_unstable_by_key(|connection| connection.rank);
    all
}

fn client_connections(console: &Console) -> Vec<Connection> {
    let census = Census::new(&console.bouncer);
    let unix_port = listen_port(console);
    let now = console.now();
    let mut all = Vec::new();
    for client in &console.bouncer.clients {
        if let Some(pool) = census.pool_of_client(&client) {
            all.push(of_client(
                &client,
                after_console(&census, pool),
                unix_port,
                now,
            ));
        }
    }
    for visitor in &console.visitors {
        all.push(of_visitor(
            &visitor,
            census.before_console(),
            unix_port,
            now,
        ));
    }
    all
}

fn server_connections(console: &Console) -> Vec<Connection> {
    let census = Census::new(&console.bouncer);
    let clients = console.bouncer.clients.iter();
    let names: HashMap<u64, Arc<str>> = clients
        .map(|client| (client.id, client.application_name.clone()))
        .collect();
    let mut all = Vec::new();
    for server in &console.bouncer.servers {
        if let Some(pool) = census.pool_of_server(&server) {
            let mut row = of_server(&server, &census.pools[pool]);
            row.rank.0 = after_console(&census, pool);
            // A server goes by the name of the client it works for.
            if let Some(name) = names.get(&row.link) {
                row.application_name = name.to_string();
            }
            all.push(row);
        }
    }
    all
}

/// The place of a pool when the console's own is counted too.
fn after_console(census: &Census, pool: usize) -> usize {
    pool + usize::from(pool >= census.before_console())
}

fn listen_port(console: &Console) -> u16 {
    u16::try_from(console.bouncer.config().pgbouncer.listen_port).unwrap_or(0)
}

fn of_client(client: &Client, pool: usize, unix_port: u16, now: Micros) -> Connection {
    let state = client.state();
    let (order, socket_state) = match state {
        ClientState::Active => (0, "cl_active"),
        ClientState::Idle => (1, "cl_active"),
        ClientState::Waiting => (2, "cl_waiting"),
    };
    let requested_at = client.requested_at();
    let goes_on = state == ClientState::Waiting || client.is_querying();
    Connection {
        rank: (pool, order, client.id),
        kind: "C",
        user: client.user.name.clone(),
        database: client.database.name.clone(),
        replication: client.replication(),
        state: state.name(),
        socket_state,
        address: client.address,
        local: client.local,
        cipher: client.cipher,
        unix_port,
        connected_at: client.connected_at,
        requested_at,
        wait: if goes_on { now.since(requested_at) } else { 0 },
        close_needed: false,
        link: client.server(),
        pid: peer_pid(client.address).unwrap_or(0),
        application_name: client.application_name.to_string(),
        prepared: client.prepared(),
    }
}

fn of_visitor(visitor: &Visitor, pool: usize, unix_port: u16, now: Micros) -> Connection {
    Connection {
        rank: (pool, 1, visitor.id),
        kind: "C",
        user: visitor.user.clone(),
        database: CONSOLE.to_owned(),
        replication: Replication::No,
        state: ClientState::Idle.name(),
        socket_state: "cl_active",
        address: visitor.address,
        local: visitor.local,
        cipher: visitor.cipher,
        unix_port,
        connected_at: visitor.connected_at,
        requested_at: visitor.requested_at(),
        wait: visitor.waits_since().map_or(0, |since| now.since(since)),
        close_needed: false,
        link: 0,
        pid: peer_pid(visitor.address).unwrap_or(0),
        application_name: String::new(),
        prepared: 0,
    }
}

fn of_server(server: &Record, pool: &Pool) -> Connection {
    let state = server.state();
    let (order, socket_state) = match state {
        ServerState::Active => (3, "sv_active"),
        ServerState::Idle => (4, "sv_idle"),
        ServerState::Tested => (5, "sv_tested"),
        ServerState::New => (6, "sv_login"),
        ServerState::BeingCanceled => (7, "sv_being_canceled"),
    };
    Connection {
        rank: (0, order, server.id),
        kind: "S",
        user: pool.user.name.clone(),
        database: pool.database.name.clone(),
        replication: server.replication,
        state: state.name(),
        socket_state,
        address: server.address,
        local: server.local,
        cipher: server.cipher,
        unix_port: server.host.1,
        connected_at: server.connected_at,
        requested_at: server.requested_at(),
        wait: 0,
        close_needed: server.is_marked(),
        link: server.client(),
        pid: peer_pid(server.address).unwrap_or(server.pid),
        application_name: String::new(),
        prepared: server.prepared(),
    }
}

impl Connection {
    fn cells(&self, console: &Console, state: &'static str) -> Vec<Cell<'_>> {
        let tls = self
            .cipher
            .map_or_else(String::new, |cipher| cipher.to_string());
        vec![
            self.kind.into(),
            self.user.as_str().into(),
            self.database.as_str().into(),
            self.replication.name().into(),
            state.into(),
            self.address.host().into(),
            self.port(self.address).into(),
            self.local.host().into(),
            self.port(self.local).into(),
            console.local_time(self.connected_at).into(),
            console.local_time(self.requested_at).into(),
            (self.wait / SECOND).into(),
            (self.wait % SECOND).into(),
            self.close_needed.into(),
            pointer(self.rank.2).into(),
            pointer(self.link).into(),
            self.pid.into(),
            tls.into(),
            self.application_name.as_str().into(),
            self.prepared.into(),
            self.rank.2.into(),
        ]
    }

    fn port(&self, address: Address) -> u16 {
        match address {
            Address::Unix { .. } => self.unix_port,
            other => other.port(),
        }
    }
}

/// The token of a client or server, the same as in the log.
fn pointer(id: u64) -> String {
    match id {
        0 => String::new(),
        id => format!("{id:#x}"),
    }
}

fn peer_pid(address: Address) -> Option<i32> {
    match address {
        Address::Unix { pid } => pid,
        _ => None,
    }
}
