//! The program under test and its configuration: the sample of the
//! repository, with the places of this run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use toml::{Table, Value};

use super::child::{Account, Process};
use super::postgres::{PASSWORD, USER, connect};
use crate::load::Trust;
use crate::problem::{During, Problem};

const SAMPLE: &str = include_str!("../../../config/pgweir.toml");

/// Room for the churn of two nodes and a thousand idle clients.
const CLIENTS_MAX: i64 = 3000;

/// What one instance is to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) folder: PathBuf,
    pub(crate) pooler_port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) postgres_port: u16,
    /// Databases of the server to pool, and the size of the pool if it is not
    /// the sample's.
    pub(crate) databases: Vec<(String, Option<i64>)>,
    pub(crate) prepare: Seeding,
    pub(crate) balancer: Option<Balancing>,
}

/// What has to run once.
#[derive(Debug, Clone)]
pub(crate) struct Seeding {
    pub(crate) database: String,
    pub(crate) bingo: PathBuf,
    /// bingo's configuration and log while it seeds.
    pub(crate) folder: PathBuf,
    pub(crate) scale: String,
    pub(crate) migrations: PathBuf,
    pub(crate) unless: Option<String>,
}

/// Who is in front of whom.
#[derive(Debug, Clone)]
pub(crate) struct Balancing {
    pub(crate) port: u16,
    pub(crate) https_port: u16,
    /// Names and addresses.
    pub(crate) nodes: Vec<(String, SocketAddr)>,
}

/// The domain of the certificate.
pub(crate) const DOMAIN: &str = "acceptance.example";

/// A running instance.
#[derive(Debug)]
pub(crate) struct Pgweir {
    process: Process,
    pub(crate) plan: Plan,
}

impl Pgweir {
    /// Writes the configuration and starts it. It may prepare the database
    /// first, see [`Pgweir::serves`].
    pub(crate) fn start(account: &Account, program: &Path, plan: Plan) -> Result<Pgweir, Problem> {
        account.make_folder(&plan.folder)?;
        account.write(&plan.folder.join("userlist.txt"), &user_list())?;
        let config = plan.config();
        account.write(&config, &toml(&plan)?)?;
        let mut command = account.command(program, "KILL");
        command.arg("run").arg(&config).current_dir(&plan.folder);
        // QUIT ends it without waiting for clients.
        let log = plan.folder.join("pgweir.log");
        let process = Process::start("pgweir", command, Signal::QUIT, &log)?;
        Ok(Pgweir { process, plan })
    }

    /// Waits until its pooler takes a client to the prepared database.
    ///
    /// # Errors
    /// It has ended, or `patience` is over.
    pub(crate) async fn serves(&mut self, patience: Duration) -> Result<(), Problem> {
        let begun = Instant::now();
        let database = &self.plan.prepare.database;
        while let Err(problem) = connect(self.plan.pooler_port, USER, database).await {
            self.process.must_run()?;
            if begun.elapsed() > patience {
                let words = self.process.last_words();
                return Err(Problem::new(format!("{problem}; pgweir says:\n{words}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Has it read its configuration again, with nodes at these addresses.
    /// When it has done so shows in who gets requests.
    pub(crate) fn move_nodes(
        &mut self,
        account: &Account,
        nodes: Vec<(String, SocketAddr)>,
    ) -> Result<(), Problem> {
        if let Some(balancing) = &mut self.plan.balancer {
            balancing.nodes = nodes;
        }
        account.write(&self.plan.config(), &toml(&self.plan)?)?;
        self.process.signal(Signal::HUP);
        Ok(())
    }

    /// Resident bytes, and files and sockets that are open.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.process.memory(), self.process.descriptors())
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<(), Problem> {
        self.process.must_run()
    }
}

impl Plan {
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("pgweir.toml")
    }

    /// What it keeps of its own.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What clients have to trust: the balancer makes its certificate itself.
    pub(crate) fn trust(&self) -> Result<Trust, Problem> {
        Trust::read(DOMAIN, &self.state().join("self-signed.crt"))
    }
}

fn user_list() -> String {
    format!("\"admin\" \"{PASSWORD}\"\n\"{USER}\" \"{PASSWORD}\"\n")
}

/// The sample with everything changed that is of this run.
fn toml(plan: &Plan) -> Result<String, Problem> {
    let mut all: Table = SAMPLE.parse().during("config/pgweir.toml")?;
    let pgbouncer = section(&mut all, "pgbouncer")?;
    set(pgbouncer, "listen_port", i64::from(plan.pooler_port));
    set(
        pgbouncer,
        "auth_file",
        text(&plan.folder.join("userlist.txt")),
    );
    set(pgbouncer, "max_client_conn", CLIENTS_MAX);
    // Nobody needs the Unix socket, and its folder is everybody's.
    set(pgbouncer, "unix_socket_dir", "");
    let listen = format!("127.0.0.1:{}", plan.metrics_port);
    set(section(&mut all, "metrics")?, "listen", listen);
    all.insert("databases".into(), databases(plan).into());
    put_prepare(section(&mut all, "prepare")?, plan);
    match &plan.balancer {
        Some(balancing) => {
            let balancer = section(&mut all, "balancer")?;
            set(balancer, "state_dir", text(&plan.state()));
            put_balancer(balancer, balancing)?;
        }
        None => drop(all.remove("balancer")),
    }
    toml::to_string(&all).during("writing pgweir.toml")
}

fn section<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Table, Problem> {
    let found = table.get_mut(name).and_then(Value::as_table_mut);
    found.ok_or_else(|| Problem::new(format!("config/pgweir.toml has no section [{name}]")))
}

fn set(table: &mut Table, key: &str, value: impl Into<Value>) {
    table.insert(key.to_owned(), value.into());
}

fn databases(plan: &Plan) -> Table {
    let entry = |size: &Option<i64>| {
        let mut entry = Table::new();
        set(&mut entry, "host", "127.0.0.1");
        set(&mut entry, "port", i64::from(plan.postgres_port));
        if let Some(size) = size {
            set(&mut entry, "pool_size", *size);
        }
        entry
    };
    let entries = plan.databases.iter();
    entries
        .map(|(name, size)| (name.clone(), entry(size).into()))
        .collect()
}

fn put_prepare(prepare: &mut Table, plan: &Plan) {
    let seeding = &plan.prepare;
    set(prepare, "port", i64::from(plan.postgres_port));
    set(prepare, "dbname", seeding.database.as_str());
    set(prepare, "user", USER);
    set(prepare, "password", PASSWORD);
    set(
        prepare,
        "seed",
        vec![text(&seeding.bingo), "prepare_db".into()],
    );
    let mut environment = Table::new();
    set(
        &mut environment,
        "BINGO_SIM_CONFIG",
        text(&seeding.folder.join("config.yaml")),
    );
    set(&mut environment, "BINGO_SIM_LOG_DIR", text(&seeding.folder));
    set(&mut environment, "BINGO_SIM_SCALE", seeding.scale.as_str());
    set(&mut environment, "BINGO_SIM_LOAD", "copy");
    set(prepare, "seed_env", environment);
    set(prepare, "migrations", text(&seeding.migrations));
    if let Some(unless) = &seeding.unless {
        set(prepare, "unless", unless.as_str());
    }
}

fn put_balancer(balancer: &mut Table, balancing: &Balancing) -> Result<(), Problem> {
    let listen = format!("127.0.0.1:{}", balancing.port);
    set(balancer, "listen", vec![listen]);
    let listen = format!("127.0.0.1:{}", balancing.https_port);
    set(balancer, "https_listen", vec![listen]);
    set(balancer, "domain", vec![DOMAIN]);
    let nodes = section(balancer, "nodes")?;
    nodes.clear();
    for (name, address) in &balancing.nodes {
        let mut node = Table::new();
        set(&mut node, "address", address.to_string());
        set(nodes, name, node);
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            folder: "/run".into(),
            pooler_port: 1,
            metrics_port: 2,
            postgres_port: 3,
            databases: vec![("bingo".into(), None), ("slow".into(), Some(1))],
            prepare: Seeding {
                database: "bingo".into(),
                bingo: "/bin/bingo".into(),
                folder: "/seed".into(),
                scale: "tiny".into(),
                migrations: "/migrations".into(),
                unless: None,
            },
            balancer: Some(Balancing {
                port: 4,
                https_port: 6,
                nodes: vec![("node1".into(), ([127, 0, 0, 1], 5).into())],
            }),
        }
    }

    fn written(plan: &Plan) -> Table {
        let text = toml(plan).expect("the sample has all sections");
        text.parse().expect("it is TOML")
    }

    #[test]
    fn the_sample_keeps_what_is_not_of_this_run() {
        let all = written(&plan());
        assert_eq!(all["pgbouncer"]["default_pool_size"].as_integer(), Some(20));
        assert_eq!(
            all["pgbouncer"]["auth_type"].as_str(),
            Some("scram-sha-256")
        );
        assert!(all["balancer"]["routes"].get("db_dummy").is_some());
    }

    #[test]
    fn places_are_those_of_the_plan() {
        let all = written(&plan());
        assert_eq!(all["databases"]["slow"]["pool_size"].as_integer(), Some(1));
        assert_eq!(all["databases"]["bingo"].get("pool_size"), None);
        let nodes = all["balancer"]["nodes"].as_table().expect("a section");
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["node1"]);
        assert_eq!(all["prepare"]["seed"][1].as_str(), Some("prepare_db"));
    }

    #[test]
    fn an_instance_may_do_without_the_balancer() {
        let alone = Plan {
            balancer: None,
            ..plan()
        };
        assert!(!written(&alone).contains_key("balancer"));
    }
}
