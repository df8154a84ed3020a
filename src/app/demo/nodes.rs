//! The two nodes of the application.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;

use super::account::Account;
use super::http::{self, Answer, Failure};
use super::place::Place;
use super::secrets::Secrets;
use super::service::{Farewell, Service};
use super::template::fill;

/// A node answers by then or does not start.
pub const START_LIMIT: Duration = Duration::from_secs(30);

const FAREWELL: Farewell = &[(Signal::TERM, Duration::from_secs(3))];

/// Most memory of a node, in bytes: one of its faults is to take all there is.
const MEMORY: u64 = 512 << 20;

/// Sets limits and becomes another program (util-linux).
const PRLIMIT: &str = "prlimit";

/// The application dies so long after its start, in minutes. The second node's
/// first life is half as long, or both would always die at the same time.
const LIFETIME: u32 = 22;

/// A node that does not answer for so long is started again.
const SICK_AFTER: Duration = Duration::from_secs(3);
const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// The call at the start that the application waits for. Nobody listens on this
/// port, so it fails at once.
const STARTUP_URL: &str = "http://127.0.0.1:1/";

/// bingo's configuration.
const CONFIGURATION: &str = r#"student_email: "@EMAIL@"
postgres_cluster:
  hosts:
  - address: 127.0.0.1
    port: @PORT@
  user: bingo
  password: "@PASSWORD@"
  db_name: bingo
  ssl_mode: disable
  use_closest_node: false
"#;

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, and its host name in its answers.
    pub name: &'static str,
    email: &'static str,
    /// Where it listens.
    pub port: u16,
    first_lifetime: u32,
}

/// Both.
pub fn nodes(port1: u16, port2: u16) -> [Node; 2] {
    [
        Node {
            name: "bingo1",
            email: "test@example.com",
            port: port1,
            first_lifetime: LIFETIME,
        },
        Node {
            name: "bingo2",
            email: "student@example.com",
            port: port2,
            first_lifetime: LIFETIME / 2,
        },
    ]
}

/// Writes the configuration of the seeding command, which talks to PostgreSQL
/// directly.
///
/// # Errors
/// The system's.
pub fn install_seeding(place: &Place, postgres_port: u16, secrets: &Secrets) -> Result<(), String> {
    install(place, "prepare", "test@example.com", postgres_port, secrets)
}

fn install(
    place: &Place,
    name: &str,
    email: &str,
    port: u16,
    secrets: &Secrets,
) -> Result<(), String> {
    place.folder("nodes")?;
    place.private_folder(&format!("nodes/{name}"))?;
    let values = [
        ("EMAIL", email),
        ("PORT", &port.to_string()),
        ("PASSWORD", secrets.bingo()),
    ];
    place.write(&format!("nodes/{name}.yaml"), &fill(CONFIGURATION, &values))
}

impl Node {
    /// Its process, and the configuration for it.
    ///
    /// # Errors
    /// The system's.
    pub fn service(
        &self,
        place: &Place,
        account: &Account,
        pooler_port: u16,
        secrets: &Secrets,
    ) -> Result<Service, String> {
        install(place, self.name, self.email, pooler_port, secrets)?;
        let (node, account) = (self.clone(), account.clone());
        let (root, program) = (place.root().to_owned(), place.path("bin/bingo"));
        let folder = place.path(&format!("nodes/{}", self.name));
        let port = self.port;
        Ok(Service {
            name: self.name.to_owned(),
            command: Box::new(move |life| {
                let mut command = account.command(Path::new(PRLIMIT), &root, "KILL");
                command
                    .arg(format!("--data={MEMORY}"))
                    .arg(&program)
                    .arg("run_server")
                    .envs(node.environment(&folder, life));
                command
            }),
            log: place.path(&format!("log/{}.log", self.name)),
            turn: 2,
            farewell: FAREWELL,
            watch: Some(Box::new(move || Box::pin(sickness(port)))),
        })
    }

    fn environment(&self, folder: &Path, life: u32) -> Vec<(&'static str, String)> {
        let lifetime = match life {
            0 => self.first_lifetime,
            _ => LIFETIME,
        };
        // The log would grow for ever.
        let _ = std::fs::remove_file(folder.join("main.log"));
        vec![
            ("BINGO_SIM_CONFIG", format!("nodes/{}.yaml", self.name)),
            ("BINGO_SIM_LOG_DIR", folder.display().to_string()),
            ("BINGO_SIM_LOG_ENV", "0".to_owned()),
            ("BINGO_SIM_HOSTNAME", self.name.to_owned()),
            ("BINGO_SIM_PORT", self.port.to_string()),
            ("BINGO_SIM_STARTUP_URL", STARTUP_URL.to_owned()),
            ("BINGO_SIM_LIFETIME", format!("{lifetime}m")),
            // Decides how it dies.
            ("BINGO_SIM_SEED", format!("{}{life}", self.port)),
        ]
    }
}

/// Whether it serves.
///
/// # Errors
/// Why it does not.
pub async fn answers(port: u16) -> Result<(), String> {
    judge(&http::get(port, "/ping", ASK_LIMIT).await).map_or(Ok(()), Err)
}

/// Waits until the node is sick; answers how.
async fn sickness(port: u16) -> String {
    let mut well = Instant::now();
    let mut ever = false;
    loop {
        let trouble = judge(&http::get(port, "/ping", ASK_LIMIT).await);
        match trouble {
            None => (well, ever) = (Instant::now(), true),
            Some(how) if well.elapsed() >= patience(ever) => {
                return format!("{how} for {} s", well.elapsed().as_secs());
            }
            Some(_) => {}
        }
        sleep(ASK_EVERY).await;
    }
}

/// How long a node may be without a good answer.
fn patience(ever_well: bool) -> Duration {
    match ever_well {
        true => SICK_AFTER,
        false => START_LIMIT,
    }
}

/// What is wrong with an answer to /ping, if anything. A node that sheds load
/// (429) is busy, not sick.
fn judge(asked: &Result<Answer, Failure>) -> Option<String> {
    match asked {
        Ok(Answer { status: 200, body }) if body.trim_ascii() == b"pong" => None,
        Ok(Answer { status: 429, .. }) => None,
        Ok(Answer { status, body }) => {
            let words: String = String::from_utf8_lossy(body)
                .chars()
                .filter(|c| !c.is_control())
                .take(40)
                .collect();
            Some(format!("answered /ping with {status} \"{words}\""))
        }
        Err(failure) => Some(format!("did not answer /ping ({failure})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static [u8]) -> Result<Answer, Failure> {
        let body = body.into();
        Ok(Answer { status, body })
    }

    #[test]
    fn only_pong_is_well_and_busy_is_not_sick() {
        assert_eq!(judge(&answer(200, b"pong")), None);
        assert_eq!(judge(&answer(429, b"Too many requests")), None);
        let sick = judge(&answer(500, b"I feel bad"));
        assert_eq!(
            sick.as_deref(),
            Some("answered /ping with 500 \"I feel bad\"")
        );
        assert!(judge(&answer(200, b"ping")).is_some());
        let silent = judge(&Err(Failure::TimedOut));
        assert_eq!(
            silent.as_deref(),
            Some("did not answer /ping (no answer in time)")
        );
    }

    #[test]
    fn nodes_started_together_do_not_die_together() {
        let [one, two] = nodes(1, 2);
        let lifetime = |node: &Node, life| {
            let environment = node.environment(Path::new("/nowhere"), life);
            let found = environment
                .into_iter()
                .find(|(name, _)| *name == "BINGO_SIM_LIFETIME");
            found.expect("it has one").1
        };
        assert_eq!([lifetime(&one, 0), lifetime(&one, 1)], ["22m", "22m"]);
        assert_eq!([lifetime(&two, 0), lifetime(&two, 1)], ["11m", "22m"]);
    }

    #[test]
    fn the_configuration_is_yaml() {
        let values = [("EMAIL", "a@b"), ("PORT", "7"), ("PASSWORD", "x")];
        let text = fill(CONFIGURATION, &values);
        let read: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).expect("YAML");
        assert_eq!(read["student_email"], "a@b");
        assert_eq!(read["postgres_cluster"]["hosts"][0]["port"], 7);
    }
}
