//! Online restart (`-R`): this process goes on with the connections of the one
//! that runs, a pgweir or a PgBouncer.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::auth::{Credential, ScramKeys, Secret, os_random};
use crate::balancer::Inherited;
use crate::client::{TakenClient, TakenServer};
use crate::config::Config;
use crate::handover::{self, Row};
use crate::pool::{Bouncer, CancelKey};
use crate::process::{OldProcess, TakeoverError, ToldRow, are_sockets_passed};
use crate::server::Taken;

/// How much longer than `suspend_timeout` the old process may take to suspend:
/// its own setting may be another one.
const SUSPEND_MARGIN: Duration = Duration::from_secs(60);

/// How long the rows may take.
const ROWS_LIMIT: Duration = Duration::from_secs(60);

/// Columns of SHOW FDS.
const COLUMNS: usize = 15;

/// Servers that come from a PgBouncer may have statements by the names it
/// gives; so many numbers it has hardly used. Ours begin somewhere behind.
const USED_BY_PGBOUNCER: u64 = 1 << 32;

/// Everything there is to go on with.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets.
    pub listeners: Vec<OwnedFd>,
    /// Clients, with the servers they hold.
    pub clients: Vec<TakenClient>,
    /// Servers that nobody holds.
    pub servers: Vec<TakenServer>,
}

/// Enters the console of the running process; none if none runs.
///
/// # Errors
/// One line that says why it cannot be done.
pub fn enter(config: &Config) -> Result<Option<OldProcess>, String> {
    if are_sockets_passed() {
        return Err("cannot reboot under service manager".into());
    }
    let settings = &config.pgbouncer;
    let path = socket_path(&settings.unix_socket_dir, settings.listen_port)?;
    let old = OldProcess::enter(&path).map_err(|error| error.to_string())?;
    if old.is_none() {
        tracing::info!("old process not found, try to continue normally");
    }
    Ok(old)
}

/// What there is of its balancer. It goes on serving.
///
/// # Errors
/// One line that says why it cannot be done.
pub fn ask_for_balancer(old: &mut OldProcess) -> Result<Inherited, String> {
    let rows = match old.ask("SHOW BALANCER;", ROWS_LIMIT) {
        Ok(rows) => rows,
        // A PgBouncer has none.
        Err(TakeoverError::Refused(_)) => return Ok(Inherited::default()),
        Err(error) => return Err(error.to_string()),
    };
    let read = |(cells, descriptor): ToldRow| {
        let row = handover::read(&first_text(&cells));
        row.map(|row| (row, descriptor))
    };
    let rows: Result<_, _> = rows.into_iter().map(read).collect();
    Inherited::read(rows.map_err(|error| format!("SHOW BALANCER: {error}"))?)
}

/// Suspends it and takes what it has. It resumes if this process ends without
/// [`OldProcess::shut_down`].
///
/// # Errors
/// One line that says why it cannot be done.
pub fn begin(
    old: &mut OldProcess,
    config: &Config,
    bouncer: &Arc<Bouncer>,
) -> Result<Inheritance, String> {
    let text = |error: TakeoverError| error.to_string();
    tracing::info!("login OK, sending SUSPEND");
    let limit = config.pgbouncer.suspend_timeout + SUSPEND_MARGIN;
    old.ask("SUSPEND;", limit).map_err(text)?;
    tracing::info!("SUSPEND finished, sending SHOW FDS");
    let more = match old.ask("SHOW HANDOVER;", ROWS_LIMIT) {
        Ok(rows) => More::read(&rows, bouncer)?,
        // A PgBouncer has no more than its SHOW FDS.
        Err(TakeoverError::Refused(_)) => More::default(),
        Err(error) => return Err(text(error)),
    };
    if more.is_pgbouncer {
        let mut number = [0; 4];
        os_random(&mut number);
        let number = u64::from(u32::from_be_bytes(number));
        bouncer.dictionary.begin_after(USED_BY_PGBOUNCER + number);
    }
    let rows = old.ask("SHOW FDS;", ROWS_LIMIT).map_err(text)?;
    let inheritance = Inheritance::read(rows, more, bouncer)?;
    tracing::info!("SHOW FDS finished");
    Ok(inheritance)
}

fn first_text(cells: &[Option<Bytes>]) -> String {
    let text = cells.first().and_then(Option::as_deref).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn socket_path(directory: &str, port: i32) -> Result<PathBuf, String> {
    if directory.is_empty() {
        return Err("cannot reboot if unix dir not configured".into());
    }
    if directory.starts_with('@') {
        return Err("cannot reboot with abstract Unix socket".into());
    }
    Ok(Path::new(directory).join(format!(".s.PGSQL.{port}")))
}

/// What a pgweir tells beyond SHOW FDS, by the number of the descriptor.
#[derive(Debug)]
struct More {
    is_pgbouncer: bool,
    clients: HashMap<i32, handover::Client>,
    servers: HashMap<i32, handover::Server>,
}

impl Default for More {
    fn default() -> More {
        More {
            is_pgbouncer: true,
            clients: HashMap::new(),
            servers: HashMap::new(),
        }
    }
}

impl More {
    fn read(rows: &[ToldRow], bouncer: &Arc<Bouncer>) -> Result<More, String> {
        let mut more = More {
            is_pgbouncer: false,
            ..More::default()
        };
        for (cells, _) in rows {
            let row = handover::read(&first_text(cells))
                .map_err(|error| format!("SHOW HANDOVER: {error}"))?;
            match row {
                Row::Format { format, .. } if format != handover::FORMAT => {
                    tracing::warn!("the old process hands over in another way, as to PgBouncer");
                    return Ok(More::default());
                }
                Row::Format {
                    last_statement,
                    cancels,
                    ..
                } => {
                    bouncer.dictionary.begin_after(last_statement);
                    bouncer.elders.learn(cancels);
                }
                Row::Statement(statement) => bouncer.dictionary.take_over(&statement),
                Row::Pool(pool) => {
                    if let Some(database) = bouncer.database(&pool.database) {
                        let user = bouncer.user(&pool.user);
                        bouncer
                            .pool(&database, &user)
                            .set_welcome(bouncer, pool.reported);
                    }
                }
                Row::Client(client) => drop(more.clients.insert(client.fd, client)),
                Row::Server(server) => drop(more.servers.insert(server.fd, server)),
            }
        }
        Ok(more)
    }
}

/// A row of SHOW FDS.
struct Fds {
    socket: OwnedFd,
    fd: i32,
    link: i32,
    task: String,
    user: String,
    database: String,
    key: CancelKey,
    parameters: Vec<handover::Pair>,
}

impl Inheritance {
    fn read(
        rows: Vec<ToldRow>,
        mut more: More,
        bouncer: &Arc<Bouncer>,
    ) -> Result<Inheritance, String> {
        let mut inheritance = Inheritance::default();
        let (mut clients, mut linked) = (Vec::new(), HashMap::new());
        for (cells, socket) in rows {
            let socket = socket.ok_or("SHOW FDS: a row without a descriptor")?;
            let row = Fds::read(&cells, socket, bouncer).ok_or("SHOW FDS: invalid data")?;
            match (row.task.as_str(), row.link) {
                ("pooler", _) => inheritance.listeners.push(row.socket),
                ("client", _) => clients.push(row),
                ("server", 0) => inheritance.servers.push(TakenServer {
                    database: row.database,
                    user: row.user,
                    socket: row.socket,
                    taken: Taken {
                        key: row.key,
                        parameters: row.parameters,
                        more: more.servers.remove(&row.fd),
                        linked: false,
                    },
                }),
                ("server", link) => drop(linked.insert(link, row)),
                (task, _) => return Err(format!("SHOW FDS: unknown task: {task}")),
            }
        }
        let mut keys = HashSet::new();
        for mut row in clients {
            // PgBouncer reads keys beyond 2^63 as that number when it takes over
            // itself: such clients cannot cancel any more, but they are several.
            while !keys.insert(row.key) {
                os_random(&mut row.key);
                row.key[0] &= 0x7f;
            }
            let server = linked.remove(&row.fd);
            if server.is_none() && row.link != 0 {
                return Err("SHOW FDS: a client without its server".into());
            }
            let server = server.map(|server| {
                let taken = Taken {
                    key: server.key,
                    parameters: server.parameters,
                    more: more.servers.remove(&server.fd),
                    linked: true,
                };
                (server.socket, taken)
            });
            inheritance.clients.push(TakenClient {
                socket: row.socket,
                database: row.database,
                user: row.user,
                key: row.key,
                parameters: row.parameters,
                more: more.clients.remove(&row.fd),
                server,
            });
        }
        Ok(inheritance)
    }
}

impl Fds {
    fn read(cells: &[Option<Bytes>], socket: OwnedFd, bouncer: &Arc<Bouncer>) -> Option<Fds> {
        let cells: &[Option<Bytes>; COLUMNS] = cells.try_into().ok()?;
        let text = |at: usize| {
            let bytes = cells[at].as_deref().unwrap_or_default();
            str::from_utf8(bytes).ok().map(str::to_owned)
        };
        let names = [
            "client_encoding",
            "standard_conforming_strings",
            "DateStyle",
            "TimeZone",
        ];
        let mut parameters = Vec::new();
        for (at, name) in (8..).zip(names) {
            if cells[at].is_some() {
                parameters.push((name.to_owned(), text(at)?));
            }
        }
        let key: u64 = text(6)?.parse().ok()?;
        let row = Fds {
            socket,
            fd: text(0)?.parse().ok()?,
            task: text(1)?,
            user: text(2)?,
            database: text(3)?,
            key: key.to_be_bytes(),
            link: text(7)?.parse().ok()?,
            parameters,
        };
        let keys = (unhex(cells[13].as_deref()), unhex(cells[14].as_deref()));
        if !row.user.is_empty() {
            row.take_secret(cells[12].as_deref(), keys, bouncer);
        }
        Some(row)
    }

    /// What the old process knew of the user that is in no file.
    fn take_secret(
        &self,
        password: Option<&[u8]>,
        keys: (Option<[u8; 32]>, Option<[u8; 32]>),
        bouncer: &Arc<Bouncer>,
    ) {
        let Some(database) = bouncer.database(&self.database) else {
            return;
        };
        let pool = bouncer.pool(&database, &bouncer.user(&self.user));
        let listed = pool.user.credential.load_full();
        if let Some(password) = password.filter(|password| !password.is_empty())
            && listed.is_none()
            && pool.credential.load().is_none()
        {
            let credential = Credential::new(Secret::parse(password));
            pool.credential.store(Some(Arc::new(credential)));
        }
        if let (Some(client), Some(server)) = keys
            && let Some(credential) = listed.or_else(|| pool.credential.load_full())
        {
            credential.pass_through(ScramKeys::of(client, server));
        }
    }
}

/// A key, as a bytea is written.
fn unhex(text: Option<&[u8]>) -> Option<[u8; 32]> {
    let digits = text?.strip_prefix(b"\\x")?;
    let mut key = [0; 32];
    if digits.len() != 2 * key.len() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_a_bytea() {
        let text = format!("\\x{}", "0f".repeat(32));
        assert_eq!(unhex(Some(text.as_bytes())), Some([0x0f; 32]));
        assert_eq!(unhex(Some(b"\\x0f")), None);
        assert_eq!(unhex(Some("\\xg0".repeat(32).as_bytes())), None);
        assert_eq!(unhex(None), None);
    }

    #[test]
    fn a_restart_needs_a_socket_in_a_folder() {
        for (directory, refusal) in [
            ("", "cannot reboot if unix dir not configured"),
            ("@pgb", "cannot reboot with abstract Unix socket"),
        ] {
            assert_eq!(socket_path(directory, 6432), Err(refusal.into()));
        }
    }
}
