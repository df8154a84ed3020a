//! The server to prepare: waiting for it, and the one session all work runs in.

use std::io;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};

use super::error::{Error, causes, ours};
use super::progress::{Event, Progress, Wait, took};
use crate::config::Prepare;

/// Time for one connection attempt, and for a dead peer to be noticed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the answer to a statement of our own.
const ANSWER: Duration = Duration::from_secs(30);
/// First and longest pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Connections beside the working session: one that watches it.
const WATCHERS: usize = 1;
/// Oldest server whose index builds can be watched.
const OLDEST: i32 = 12;

/// A value for a statement of our own.
pub(super) type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// A server that accepts connections.
pub(super) struct Server {
    pool: Pool,
}

/// The session that holds the lock and does all the work. It lives exactly as
/// long as the lock, because it is never given back to the pool: dropping it
/// closes the socket.
pub(super) struct Session {
    client: ClientWrapper,
    /// Its process on the server.
    pub(super) pid: i32,
    lock_timeout: Duration,
}

/// What the server says about itself.
struct Greeting {
    version: i32,
    standby: bool,
}

impl Server {
    /// Waits until the server accepts connections and, for `writing`, is no
    /// standby.
    ///
    /// # Errors
    /// [`Error::Unreachable`] after `wait_timeout`; [`Error::Refused`] at once
    /// where waiting would not help.
    pub(super) async fn wait(
        config: &Prepare,
        writing: bool,
        progress: &dyn Progress,
    ) -> Result<Server, Error> {
        let server = Server {
            pool: pool(config)?,
        };
        let (mut wait, mut pause) = (Wait::new(), PAUSE);
        loop {
            let because = match server.greet().await {
                Ok(greeting) => match greeting.usable(config, writing)? {
                    None => return Ok(server),
                    Some(because) => because,
                },
                Err(error) => transient(config, error)?,
            };
            if wait.elapsed() + pause > config.wait_timeout {
                let (server, waited) = (address(config), config.wait_timeout);
                return Err(Error::Unreachable {
                    server,
                    waited,
                    last: because,
                });
            }
            if let Some(elapsed) = wait.due() {
                let server = address(config);
                progress.tell(&Event::WaitingForServer {
                    server,
                    elapsed,
                    because,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn greet(&self) -> Result<Greeting, PoolError> {
        let connection = self.pool.get().await?;
        let asked = connection.query_typed_one(
            "SELECT pg_catalog.current_setting('server_version_num')::int4, pg_catalog.pg_is_in_recovery()",
            &[],
        );
        let row = within(asked).await?;
        Ok(Greeting {
            version: row.try_get(0)?,
            standby: row.try_get(1)?,
        })
    }

    /// Opens the working session.
    pub(super) async fn session(&self, config: &Prepare) -> Result<Session, Error> {
        const DURING: &str = "opening a session";
        let connected = self.watcher().await;
        let client = connected.map_err(|e| Error::Lost {
            during: DURING,
            problem: causes(&e),
        })?;
        let (client, lock_timeout) = (Object::take(client), config.lock_timeout);
        let mut session = Session {
            client,
            pid: 0,
            lock_timeout,
        };
        session.pid = session
            .value("SELECT pg_catalog.pg_backend_pid()", &[], DURING)
            .await?;
        session.set_up().await?;
        Ok(session)
    }

    /// A second connection, to look at what the session does. Bounded by
    /// [`CONNECT_TIMEOUT`].
    pub(super) async fn watcher(&self) -> Result<Object, PoolError> {
        self.pool.get().await
    }
}

impl Session {
    /// Runs a statement of our own that is answered at once: nothing it waits
    /// for lasts longer than `lock_timeout`. `during` is what it is for.
    ///
    /// # Errors
    /// The server's, and [`Error::Lost`] if it says nothing for [`ANSWER`].
    pub(super) async fn execute(&self, sql: &str, during: &'static str) -> Result<(), Error> {
        answered(self.client.batch_execute(sql), during).await
    }

    /// [`Session::execute`] with values in and rows out.
    pub(super) async fn query(
        &self,
        sql: &str,
        values: &[Value<'_>],
        during: &'static str,
    ) -> Result<Vec<Row>, Error> {
        answered(self.client.query_typed(sql, values), during).await
    }

    /// A query of our own that gives exactly one value.
    pub(super) async fn value<T: FromSqlOwned>(
        &self,
        sql: &str,
        values: &[Value<'_>],
        during: &'static str,
    ) -> Result<T, Error> {
        let row = answered(self.client.query_typed_one(sql, values), during).await?;
        row.try_get(0).map_err(ours(during))
    }

    /// The driver's client, for what may take long. To be watched.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Puts every setting a migration may have changed, and every default of
    /// the role that would hurt, to what the work needs. The advisory lock
    /// stays.
    pub(super) async fn set_up(&self) -> Result<(), Error> {
        const DURING: &str = "setting up the session";
        self.execute(RESET, DURING).await?;
        self.query(SETTINGS, &[], DURING).await?;
        self.set_lock_timeout(Some(self.lock_timeout)).await?;
        self.try_set(CLIENT_CHECK, CLIENT_CHECK_EVERY).await?;
        self.try_set(DEADLOCK, self.lock_timeout / 2).await
    }

    /// Sets what the server may not have, or not grant.
    async fn try_set(&self, setting: &str, to: Duration) -> Result<(), Error> {
        const SQL: &str = "
            SELECT pg_catalog.set_config(name, $2, false)
            FROM pg_catalog.pg_settings WHERE name = $1";
        let milliseconds = to.as_millis().max(1).to_string();
        let values: [Value<'_>; 2] = [(&setting, Type::TEXT), (&milliseconds, Type::TEXT)];
        match self.query(SQL, &values, "setting up the session").await {
            Ok(_) | Err(Error::Ledger { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `None`: wait for locks without limit.
    pub(super) async fn set_lock_timeout(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let milliseconds = timeout.map_or(0, |t| t.as_millis().max(1));
        let set = format!("SET lock_timeout = {milliseconds}");
        self.execute(&set, "setting lock_timeout").await
    }

    /// The configured `lock_timeout`.
    pub(super) fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }
}

/// Bounds one question to the server and sorts its answer.
async fn answered<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    during: &'static str,
) -> Result<T, Error> {
    match timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(ours(during)),
        Err(_) => {
            let problem = format!("no answer for {}", took(ANSWER));
            Err(Error::Lost { during, problem })
        }
    }
}

/// `RESET ALL` leaves the role alone, so that comes first.
const RESET: &str = "RESET SESSION AUTHORIZATION; RESET ALL";

/// Only settings this server has are set; `transaction_timeout` is of 17,
/// `idle_session_timeout` of 14.
const SETTINGS: &str = "
    SELECT pg_catalog.set_config(s.name, wanted.setting, false)
    FROM (VALUES
        ('client_min_messages', 'warning'),
        ('standard_conforming_strings', 'on'),
        ('default_transaction_read_only', 'off'),
        ('default_transaction_isolation', 'read committed'),
        ('statement_timeout', '0'),
        ('transaction_timeout', '0'),
        ('idle_session_timeout', '0'),
        ('idle_in_transaction_session_timeout', '0'),
        ('tcp_keepalives_idle', '10'),
        ('tcp_keepalives_interval', '10'),
        ('tcp_keepalives_count', '3')
    ) AS wanted(name, setting)
    JOIN pg_catalog.pg_settings s ON s.name = wanted.name";

/// Lets the server end a build whose client is gone. Of PostgreSQL 14, and not
/// on every system.
const CLIENT_CHECK: &str = "client_connection_check_interval";
const CLIENT_CHECK_EVERY: Duration = Duration::from_secs(2);

/// When a waiting statement looks who is in its way, and sends an autovacuum
/// away. That has to happen before `lock_timeout`: right after seeding,
/// autovacuum is at work on every table. Needs a superuser, or the grant in
/// `sql/roles.sql`; without it another try comes through later.
const DEADLOCK: &str = "deadlock_timeout";

impl Greeting {
    /// Why to wait on, if so.
    fn usable(&self, config: &Prepare, writing: bool) -> Result<Option<String>, Error> {
        if self.version < OLDEST * 10_000 {
            let reason = format!("version {} is older than {OLDEST}", self.version / 10_000);
            return Err(Error::Refused {
                server: address(config),
                reason,
            });
        }
        let standby = || "it is a standby, waiting for its promotion".to_owned();
        Ok((writing && self.standby).then(standby))
    }
}

/// `HOST:PORT`, for people.
pub(super) fn address(config: &Prepare) -> String {
    match config.host.contains(':') {
        true => format!("[{}]:{}", config.host, config.port),
        false => format!("{}:{}", config.host, config.port),
    }
}

fn pool(config: &Prepare) -> Result<Pool, Error> {
    let mut to = tokio_postgres::Config::new();
    to.host(&config.host)
        .port(config.port)
        .dbname(&config.dbname)
        .user(&config.user)
        .application_name("pgweir prepare")
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(CONNECT_TIMEOUT * 4)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    if let Some(password) = &config.password {
        to.password(&password.0);
    }
    let how = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    Pool::builder(Manager::from_config(to, NoTls, how))
        .runtime(Runtime::Tokio1)
        .max_size(WATCHERS)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .build()
        .map_err(|e| Error::Setting {
            name: "host",
            problem: e.to_string(),
        })
}

/// Bounds one question to the server.
async fn within<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PoolError> {
    match timeout(CONNECT_TIMEOUT, asked).await {
        Ok(answered) => answered.map_err(PoolError::Backend),
        Err(_) => Err(PoolError::Timeout(deadpool_postgres::TimeoutType::Recycle)),
    }
}

/// Why this attempt failed, if the next may do better.
fn transient(config: &Prepare, error: PoolError) -> Result<String, Error> {
    let PoolError::Backend(error) = error else {
        return Ok(format!("no answer within {}", took(CONNECT_TIMEOUT)));
    };
    let refused = |reason| Error::Refused {
        server: address(config),
        reason,
    };
    match error.as_db_error() {
        Some(db) if hopeless(db) => Err(refused(db.message().to_owned())),
        Some(db) => Ok(db.message().to_owned()),
        None if error.is_closed() || is_io(&error) => Ok(causes(&error)),
        None => Err(refused(causes(&error))),
    }
}

/// Wrong user or password (class 28), no such database, no right to connect.
fn hopeless(error: &DbError) -> bool {
    let code = error.code().code();
    code.starts_with("28") || code == "3D000" || code == "42501"
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<io::Error>())
}
