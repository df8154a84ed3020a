//! `pgweir run`: seeds, migrates, and serves.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::account::Account;
use super::follow::{Follower, is_passing, prepare_words};
use super::http;
use super::place::{Place, cannot};
use super::ports::Ports;
use super::postgres;
use super::scale::Scale;
use super::screen::Screen;
use super::secrets::Secrets;
use super::service::{Farewell, Service};
use super::template::fill;

/// Seeding and index builds of the full data on a slow machine.
pub const START_LIMIT: Duration = Duration::from_secs(3600);

const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Waits for requests and clients to finish, then does not.
const FAREWELL: Farewell = &[
    (Signal::TERM, Duration::from_secs(5)),
    (Signal::QUIT, Duration::from_secs(2)),
];

/// The configuration, with marks where the demo's choices go.
const CONFIGURATION: &str = include_str!("../../../config/demo.toml");

/// Writes the configuration, and copies what it names.
///
/// # Errors
/// The system's.
pub fn install(
    place: &Place,
    project: &Path,
    ports: &Ports,
    scale: Scale,
    secrets: &Secrets,
) -> Result<(), String> {
    copy_migrations(place, &project.join("migrations"))?;
    place.private_folder("state")?;
    place.write("userlist.txt", &secrets.to_userlist())?;
    place.write("pgweir.toml", &configuration(ports, scale, secrets))
}

fn configuration(ports: &Ports, scale: Scale, secrets: &Secrets) -> String {
    let [http, https, pooler, metrics, postgres, node1, node2] = [
        ports.http,
        ports.https,
        ports.pooler,
        ports.metrics,
        ports.postgres,
        ports.node1,
        ports.node2,
    ]
    .map(|port| port.to_string());
    fill(
        CONFIGURATION,
        &[
            ("HTTP_PORT", &http),
            ("HTTPS_PORT", &https),
            ("POOLER_PORT", &pooler),
            ("METRICS_PORT", &metrics),
            ("PG_PORT", &postgres),
            ("NODE1_PORT", &node1),
            ("NODE2_PORT", &node2),
            ("SCALE", scale.word()),
            ("PASSWORD", secrets.bingo()),
        ],
    )
}

/// The files as they are now: one that is gone from the project goes here too.
fn copy_migrations(place: &Place, from: &Path) -> Result<(), String> {
    let to = place.path("migrations");
    if to.exists() {
        fs::remove_dir_all(&to).map_err(|error| cannot("remove", &to, &error))?;
    }
    place.folder("migrations")?;
    let entries = fs::read_dir(from).map_err(|error| cannot("read", from, &error))?;
    for entry in entries.flatten() {
        let (file, copy) = (entry.path(), to.join(entry.file_name()));
        if file.extension().is_some_and(|ending| ending == "sql") {
            let text = fs::read(&file).map_err(|error| cannot("read", &file, &error))?;
            fs::write(&copy, text).map_err(|error| cannot("write", &copy, &error))?;
        }
    }
    Ok(())
}

/// The process.
pub fn service(place: &Place, account: &Account) -> Service {
    let (account, root) = (account.clone(), place.root().to_owned());
    let program = place.path("bin/pgweir");
    Service {
        name: "pgweir".to_owned(),
        command: Box::new(move |_| {
            let mut command = account.command(&program, &root, "KILL");
            command.args(["run", "pgweir.toml"]);
            command
        }),
        log: place.path("log/pgweir.log"),
        // First: it takes no more requests, and lets those under way finish.
        turn: 1,
        farewell: FAREWELL,
        watch: None,
    }
}

/// Whether it serves: the application's user gets through the pooler.
///
/// # Errors
/// Why it does not.
pub async fn answers(ports: &Ports, secrets: &Secrets) -> Result<(), String> {
    let ready = http::get(ports.metrics, "/ready", ASK_LIMIT).await;
    let ready = ready.map_err(|failure| failure.to_string())?;
    if ready.status != 200 {
        return Err(String::from_utf8_lossy(&ready.body).trim().to_owned());
    }
    let client = postgres::connect(ports.pooler, "bingo", secrets.bingo(), "bingo").await?;
    let asked = client.simple_query("SELECT 1").await;
    asked.map(drop).map_err(|error| error.to_string())
}

/// Shows what its log says about seeding and migrations.
pub fn tell_progress(follower: &mut Follower, screen: &Screen) {
    for line in follower.lines() {
        match prepare_words(&line) {
            Some(words) if is_passing(words) => screen.passing(&format!("   {words}")),
            Some(words) => screen.line(&format!("   {words}")),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const PORTS: Ports = Ports {
        http: 1001,
        https: 1007,
        pooler: 1002,
        metrics: 1003,
        postgres: 1004,
        node1: 1005,
        node2: 1006,
    };

    #[test]
    fn the_configuration_is_a_good_one() {
        let secrets = Secrets::generate().expect("random bytes");
        let text = configuration(&PORTS, Scale::Ci, &secrets);
        let path = std::env::temp_dir().join(format!("pgweir-demo-{}.toml", std::process::id()));
        fs::write(&path, text).expect("writable");
        let loaded = Config::load(&path);
        fs::remove_file(&path).expect("there");
        let loaded = loaded.expect("a good configuration");
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let config = loaded.config;
        let balancer = config.balancer.expect("it has a balancer");
        assert_eq!(balancer.listen[0].port(), 1001);
        assert_eq!(balancer.https_listen[0].port(), 1007);
        assert_eq!(config.pgbouncer.listen_port, 1002);
        assert_eq!(config.metrics.listen.expect("it has metrics").port(), 1003);
        let prepare = config.prepare.expect("it prepares");
        assert_eq!(prepare.port, 1004);
        assert_eq!(prepare.seed_env["BINGO_SIM_SCALE"], "ci");
        assert_eq!(prepare.password.expect("it logs in").0, secrets.bingo());
        let nodes: Vec<&str> = balancer
            .nodes
            .values()
            .map(|node| node.address.as_str())
            .collect();
        assert_eq!(nodes, ["127.0.0.1:1005", "127.0.0.1:1006"]);
    }
}
