//! Many clients on few servers: 29 and 30.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::reads::P90;
use crate::judge::Summary;
use crate::load::Endpoint;
use crate::problem::{During, Problem};
use crate::report::Finding;
use crate::stage::{DATABASE, Stage, USER, connect};

/// `default_pool_size` of the sample configuration.
const POOL: i64 = 20;

/// Clients that are there besides the nodes' connections, and clients that
/// come at once.
const CLIENTS: usize = 1000;

/// Time between two looks at the connections.
const LOOK: Duration = Duration::from_millis(50);

/// How long so many may take to log in.
const LOGIN: Duration = Duration::from_secs(2);

/// Clients that log in at a time while they are gathered.
const GATHERED_AT_ONCE: usize = 50;

/// Check 29.
pub(crate) async fn bounded(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let pooler = stage.pgweir.plan.pooler_port;
    let idle = gather(pooler).await?;
    let session = stage.postgres.session("postgres").await?;
    let mut peaks = Peaks::default();
    let looking = async {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if let Err(problem) = peaks.look(&session, pooler).await {
                return problem;
            }
        }
    };
    let load = tokio::select! {
        load = stage.load(&[(Endpoint::DbDummy, 1)], 120) => load?,
        problem = looking => return Err(problem),
    };
    drop(idle);
    let summary = Summary::of(load.measured());
    let pass = summary.percentile(90) < P90
        && summary.errors_within(1)
        && (1..=POOL).contains(&peaks.servers)
        && peaks.clients > CLIENTS;
    let measured = format!(
        "{summary}; at most {} servers and {} clients in {} looks",
        peaks.servers, peaks.clients, peaks.looks
    );
    Ok(Finding::whole(pass, measured))
}

/// The most connections that were seen at once.
#[derive(Debug, Default)]
struct Peaks {
    servers: i64,
    clients: usize,
    looks: usize,
}

impl Peaks {
    async fn look(&mut self, session: &Client, pooler: u16) -> Result<(), Problem> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND datname = '{DATABASE}' AND usename = '{USER}'"
        );
        let servers: i64 = session.query_one(&sql, &[]).await.during(&sql)?.get(0);
        let sockets = std::fs::read_to_string("/proc/net/tcp").during("/proc/net/tcp")?;
        self.servers = self.servers.max(servers);
        self.clients = self.clients.max(established(&sockets, pooler));
        self.looks += 1;
        Ok(())
    }
}

/// Connections that a local port has accepted, of `/proc/net/tcp`.
fn established(table: &str, port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let end = format!(":{port:04X}");
    let is_ours = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.ends_with(&end) && fields.nth(1) == Some(ESTABLISHED)
    };
    table.lines().skip(1).filter(is_ours).count()
}

/// Logs in clients that then do nothing.
async fn gather(pooler: u16) -> Result<Vec<Client>, Problem> {
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        clients.extend(at_once(pooler, GATHERED_AT_ONCE).await?.0);
    }
    Ok(clients)
}

/// Logs in so many clients at once; how long the last one took.
async fn at_once(pooler: u16, count: usize) -> Result<(Vec<Client>, Duration), Problem> {
    let begun = Instant::now();
    let mut logins = JoinSet::new();
    for _ in 0..count {
        logins.spawn(connect(pooler, USER, DATABASE));
    }
    let mut clients = Vec::new();
    while let Some(login) = logins.join_next().await {
        clients.push(login.during("a login")??);
    }
    Ok((clients, begun.elapsed()))
}

/// Check 30.
pub(crate) async fn flood(stage: &mut Stage) -> Result<Vec<Finding>, Problem> {
    let finding = match at_once(stage.pgweir.plan.pooler_port, CLIENTS).await {
        Ok((clients, took)) => {
            let text = format!(
                "{} logged in after {:.2} s",
                clients.len(),
                took.as_secs_f64()
            );
            Finding::whole(took < LOGIN, text)
        }
        Err(refused) => Finding::whole(false, refused.to_string()),
    };
    stage.pgweir.must_run()?;
    Ok(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_connections_of_the_port_are_counted() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:2710 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0
   2: 0100007F:C001 0100007F:2710 01 00000000:00000000 00:00000000 00000000     0
   3: 0100007F:2710 0100007F:C002 06 00000000:00000000 00:00000000 00000000     0
";
        assert_eq!(established(table, 10_000), 1);
        assert_eq!(established(table, 0x710), 0);
    }
}
