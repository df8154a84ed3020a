//! `pgweir.migrations`: what was done to this database, when and by whom.

use tokio_postgres::types::Type;

use super::connect::{Session, Value};
use super::error::{Error, ours};

/// The ledger's name of the seeding. No migration can have it.
pub(super) const SEED: &str = "seed";

const CREATE: &str = "
    CREATE TABLE pgweir.migrations (
        name        text PRIMARY KEY,
        kind        text NOT NULL CHECK (kind IN ('seed', 'migration')),
        checksum    text NOT NULL,
        state       text NOT NULL CHECK (state IN ('running', 'failed', 'finished')),
        started_at  timestamptz NOT NULL,
        finished_at timestamptz,
        duration    interval GENERATED ALWAYS AS (finished_at - started_at) STORED,
        who         text NOT NULL,
        statements  int4 NOT NULL DEFAULT 0,
        applied     text,
        child       text,
        error       text
    );
    COMMENT ON TABLE pgweir.migrations IS 'What pgweir prepare did to this database';
    COMMENT ON COLUMN pgweir.migrations.checksum IS 'SHA-256 of the file, or of the seeding command';
    COMMENT ON COLUMN pgweir.migrations.who IS 'The instance that did it: host, process, version';
    COMMENT ON COLUMN pgweir.migrations.statements IS 'Statements done of an unfinished file that runs without a transaction';
    COMMENT ON COLUMN pgweir.migrations.applied IS 'SHA-256 of those statements';
    COMMENT ON COLUMN pgweir.migrations.child IS 'The seeding process, as PID:START:BOOT, while it runs'";

const READ: &str = "
    SELECT name, checksum, state,
           to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"'),
           who, statements, applied, child
    FROM pgweir.migrations";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) checksum: String,
    pub(super) state: State,
    pub(super) started: String,
    pub(super) who: String,
    /// Statements done, of an unfinished file without a transaction.
    pub(super) statements: usize,
    /// SHA-256 of those.
    pub(super) applied: Option<String>,
    /// The seeding process, see [`orphan`](super::orphan).
    pub(super) child: Option<String>,
}

/// How far a row's work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Begun; if nobody holds the lock, cut short.
    Running,
    /// Ended with an error.
    Failed,
    /// Complete.
    Finished,
}

impl State {
    /// The column's word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Failed => "failed",
            State::Finished => "finished",
        }
    }
}

/// The rows, or none if there is no ledger yet. Changes nothing.
pub(super) async fn read(session: &Session) -> Result<Vec<Row>, Error> {
    const DURING: &str = "reading pgweir.migrations";
    if !exists(session, "to_regclass", "pgweir.migrations").await? {
        return Ok(Vec::new());
    }
    let rows = session.query(READ, &[], DURING).await?;
    rows.iter()
        .map(row)
        .collect::<Result<_, _>>()
        .map_err(ours(DURING))
}

fn row(row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    let statements: i32 = row.try_get(5)?;
    Ok(Row {
        name: row.try_get(0)?,
        checksum: row.try_get(1)?,
        state: match row.try_get(2)? {
            "finished" => State::Finished,
            "failed" => State::Failed,
            _ => State::Running,
        },
        started: row.try_get(3)?,
        who: row.try_get(4)?,
        statements: usize::try_from(statements).unwrap_or(0),
        applied: row.try_get(6)?,
        child: row.try_get(7)?,
    })
}

/// Makes schema and table where they are missing. An existing one needs no
/// right to create.
pub(super) async fn create(session: &Session) -> Result<(), Error> {
    const DURING: &str =
        "creating pgweir.migrations (grant CREATE on the database, or run sql/grants.sql)";
    if !exists(session, "to_regnamespace", "pgweir").await? {
        session.execute("CREATE SCHEMA pgweir", DURING).await?;
    }
    if !exists(session, "to_regclass", "pgweir.migrations").await? {
        session.execute(CREATE, DURING).await?;
    }
    Ok(())
}

async fn exists(session: &Session, lookup: &str, name: &str) -> Result<bool, Error> {
    let asked = format!("SELECT pg_catalog.{lookup}('{name}') IS NOT NULL");
    session
        .value(&asked, &[], "looking for pgweir.migrations")
        .await
}

/// The ledger's pen: whose name goes into `who`.
pub(super) struct Pen {
    who: String,
}

impl Pen {
    /// Writes as this process.
    pub(super) fn new() -> Pen {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let pid = std::process::id();
        Pen {
            who: format!(
                "host {host}, pid {pid}, pgweir {}",
                env!("CARGO_PKG_VERSION")
            ),
        }
    }

    /// The work called `name` begins (again).
    pub(super) async fn begin(
        &self,
        to: &Session,
        name: &str,
        checksum: &str,
    ) -> Result<(), Error> {
        let kind = if name == SEED { "seed" } else { "migration" };
        const SQL: &str = "
            INSERT INTO pgweir.migrations (name, kind, checksum, state, started_at, who)
            VALUES ($1, $2, $3, 'running', clock_timestamp(), $4)
            ON CONFLICT (name) DO UPDATE SET
                checksum = EXCLUDED.checksum, state = 'running', started_at = clock_timestamp(),
                finished_at = NULL, who = EXCLUDED.who, child = NULL, error = NULL";
        self.write(to, SQL, &[name, kind, checksum, &self.who])
            .await
    }

    /// The seeding process, for the next start to look for.
    pub(super) async fn child(&self, to: &Session, child: &str) -> Result<(), Error> {
        self.write(
            to,
            "UPDATE pgweir.migrations SET child = $2 WHERE name = $1",
            &[SEED, child],
        )
        .await
    }

    /// The first `done` statements are applied; `applied` is their checksum.
    pub(super) async fn advance(
        &self,
        to: &Session,
        name: &str,
        done: usize,
        applied: &str,
    ) -> Result<(), Error> {
        const SQL: &str = "UPDATE pgweir.migrations SET statements = $2::text::int4, applied = $3 WHERE name = $1";
        self.write(to, SQL, &[name, &done.to_string(), applied])
            .await
    }

    /// The work is complete.
    pub(super) async fn finish(&self, to: &Session, name: &str) -> Result<(), Error> {
        const SQL: &str = "
            UPDATE pgweir.migrations
            SET state = 'finished', finished_at = clock_timestamp(), child = NULL, error = NULL
            WHERE name = $1";
        self.write(to, SQL, &[name]).await
    }

    /// The whole migration is complete, said inside its own transaction.
    pub(super) async fn applied(
        &self,
        to: &Session,
        name: &str,
        checksum: &str,
    ) -> Result<(), Error> {
        const SQL: &str = "
            INSERT INTO pgweir.migrations (name, kind, checksum, state, started_at, finished_at, who)
            VALUES ($1, 'migration', $2, 'finished', now(), clock_timestamp(), $3)
            ON CONFLICT (name) DO UPDATE SET
                checksum = EXCLUDED.checksum, state = 'finished', started_at = now(),
                finished_at = clock_timestamp(), who = EXCLUDED.who, error = NULL";
        self.write(to, SQL, &[name, checksum, &self.who]).await
    }

    /// The work failed; `problem` is kept for whoever looks.
    pub(super) async fn fail(
        &self,
        to: &Session,
        name: &str,
        checksum: &str,
        problem: &str,
    ) -> Result<(), Error> {
        let kind = if name == SEED { "seed" } else { "migration" };
        const SQL: &str = "
            INSERT INTO pgweir.migrations (name, kind, checksum, state, started_at, who, error)
            VALUES ($1, $2, $3, 'failed', clock_timestamp(), $4, $5)
            ON CONFLICT (name) DO UPDATE SET
                checksum = EXCLUDED.checksum, state = 'failed', who = EXCLUDED.who, error = EXCLUDED.error";
        self.write(to, SQL, &[name, kind, checksum, &self.who, problem])
            .await
    }

    async fn write(&self, to: &Session, sql: &str, values: &[&str]) -> Result<(), Error> {
        let values: Vec<Value<'_>> = values.iter().map(|v| (v as _, Type::TEXT)).collect();
        to.query(sql, &values, "writing pgweir.migrations")
            .await
            .map(drop)
    }
}
