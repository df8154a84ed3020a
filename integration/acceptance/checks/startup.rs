//! Two instances that prepare one database: 33.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{Pgweir, Plan, Seeding, Stage};

/// The database that is prepared twice.
const DATABASE: &str = "bingo_twice";

/// How long a read may be blocked.
const BLOCKED_MAX: Duration = Duration::from_secs(1);

/// Time between two reads.
const READ: Duration = Duration::from_millis(5);

/// How long both instances may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What the application needs, by bingo.md: `id` on three tables, three for
/// the order of the lists.
const INDEXES_LEAST: i64 = 6;

/// Notes each index that is made and stays.
const WATCH: &str = "
    CREATE TABLE made (object text);
    CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$ BEGIN INSERT INTO made SELECT object_identity FROM pg_event_trigger_ddl_commands(); END $$;
    CREATE EVENT TRIGGER note ON ddl_command_end WHEN TAG IN ('CREATE INDEX')
        EXECUTE FUNCTION note();
";

/// As if the application had been there before pgweir.
const UNDO: &str = "
    DROP SCHEMA pgweir CASCADE;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM pg_indexes WHERE schemaname = 'public'
            AND tablename IN ('movies', 'customers', 'sessions')
        LOOP EXECUTE format('DROP INDEX %I', name); END LOOP;
    END $$;
    TRUNCATE made;
";

const SEEDED: &str =
    "SELECT EXISTS (SELECT 1 FROM schema_migrations WHERE version = 1 AND NOT dirty)";

/// Check 33.
pub(crate) async fn together(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    stage.postgres.drop_database(DATABASE).await?;
    stage.postgres.make_database(DATABASE).await?;
    let session = stage.postgres.session(DATABASE).await?;
    session
        .batch_execute(WATCH)
        .await
        .during("an event trigger")?;
    let findings = vec![
        from_nothing(stage, &session).await?,
        while_reading(stage, &session).await?,
    ];
    drop(session);
    stage.postgres.drop_database(DATABASE).await?;
    Ok(findings)
}

/// An empty database: seeding and indexes.
async fn from_nothing(stage: &mut Stage, session: &Client) -> Result<Finding, Problem> {
    let begun = Instant::now();
    let seeding = two_instances(stage, None).await?;
    let took = begun.elapsed();
    let log = seeding.folder.join("main.log");
    let log = std::fs::read_to_string(&log).during(log.display())?;
    let runs = log.matches("\"Start migration.\"").count();
    let made = Made::look(session).await?;
    let pass = runs == 1 && made.once();
    let measured = format!("seeded {runs} times, {made}, {:.1} s", took.as_secs_f64());
    Ok(Finding::part("on an empty database", pass, measured))
}

/// A database in use that has everything but the indexes; then once more with
/// nothing left to do.
async fn while_reading(stage: &mut Stage, session: &Client) -> Result<Finding, Problem> {
    session
        .batch_execute(UNDO)
        .await
        .during("dropping the indexes")?;
    let reader = stage.postgres.session(DATABASE).await?;
    let mut longest = Duration::ZERO;
    let reading = async {
        loop {
            match read(&reader).await {
                Ok(took) => longest = longest.max(took),
                Err(problem) => return problem,
            }
            tokio::time::sleep(READ).await;
        }
    };
    let starting = async {
        two_instances(stage, Some(SEEDED)).await?;
        two_instances(stage, Some(SEEDED)).await
    };
    tokio::select! {
        done = starting => drop(done?),
        problem = reading => return Err(problem),
    }
    let made = Made::look(session).await?;
    let pass = longest < BLOCKED_MAX && made.once();
    let measured = format!(
        "longest read {:.0} ms, {made}",
        longest.as_secs_f64() * 1000.0
    );
    Ok(Finding::part("on a database in use", pass, measured))
}

/// Reads a row of each table, which takes no time unless a lock is in the way.
async fn read(reader: &Client) -> Result<Duration, Problem> {
    let mut longest = Duration::ZERO;
    for table in ["movies", "customers", "sessions"] {
        let sql = format!("SELECT id FROM {table} LIMIT 1");
        let begun = Instant::now();
        reader.query_one(&sql, &[]).await.during(&sql)?;
        longest = longest.max(begun.elapsed());
    }
    Ok(longest)
}

/// Starts two instances together, waits until both serve, and ends them.
async fn two_instances(stage: &mut Stage, unless: Option<&str>) -> Result<Seeding, Problem> {
    let shop = &mut stage.shop;
    let port = stage.postgres.port;
    let mut seeding = shop.seeding(&stage.options.scale, "twice", DATABASE, port)?;
    seeding.unless = unless.map(str::to_owned);
    let mut instances = Vec::new();
    for name in ["first", "second"] {
        let plan = Plan {
            folder: shop.run.join(name),
            pooler_port: shop.ports.port(0)?,
            metrics_port: shop.ports.port(0)?,
            postgres_port: port,
            databases: vec![(DATABASE.to_owned(), None)],
            prepare: seeding.clone(),
            balancer: None,
        };
        instances.push(Pgweir::start(&shop.account, &shop.pgweir, plan)?);
    }
    for instance in &mut instances {
        instance.serves(PATIENCE).await?;
    }
    Ok(seeding)
}

/// The indexes that were made.
struct Made {
    times: i64,
    different: i64,
    there: i64,
}

impl Made {
    async fn look(session: &Client) -> Result<Made, Problem> {
        let sql = "SELECT count(*), count(DISTINCT object), (SELECT count(*) FROM pg_indexes
                WHERE schemaname = 'public' AND tablename IN ('movies', 'customers', 'sessions'))
            FROM made WHERE object LIKE 'public.%'";
        let row = session.query_one(sql, &[]).await.during(sql)?;
        Ok(Made {
            times: row.get(0),
            different: row.get(1),
            there: row.get(2),
        })
    }

    /// Each of the indexes was made once.
    fn once(&self) -> bool {
        self.times == self.there && self.different == self.there && self.there >= INDEXES_LEAST
    }
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} indexes, made {} times", self.there, self.times)
    }
}
