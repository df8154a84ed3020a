//! The balancer while it is upgraded and its certificate swapped: no request
//! fails, whatever it came by.

use crate::drivers::python;
use crate::front::{Front, bounded, curl};
use crate::harness::process;
use crate::harness::{becomes, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// How often something is done under load: `PGWEIR_UPGRADES`, or this.
fn rounds(few: usize) -> usize {
    let named = std::env::var("PGWEIR_UPGRADES").ok();
    named.map_or(few, |named| named.parse().expect("a number"))
}

/// Longest time the load goes on.
const LOAD_LIMIT: Duration = Duration::from_secs(1200);

fn driver(front: &Front) -> Command {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR"));
    let driver = driver.join("integration/drivers/upgrade_driver.py");
    let mut command = Command::new("timeout");
    command
        .arg(LOAD_LIMIT.as_secs().to_string())
        .arg(python())
        .arg(driver)
        .args([front.secure, front.plain].map(|port| port.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Clients of all protocols that ask without a pause.
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(front: &Front) -> Load {
        Load(process::spawn(driver(front)))
    }

    /// Ends it; nothing must have failed, and all kinds of clients been served.
    pub(crate) fn assert_no_failures(mut self, front: &Front) {
        drop(self.0.stdin.take());
        let Output {
            status,
            stdout,
            stderr,
        } = self.0.wait_with_output().expect("it ends");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (told, errors) = (said(&stdout), said(&stderr));
        assert!(status.success(), "{told}\n{errors}");
        eprintln!("{told}");
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told["failed"], 0, "{told}\n{errors}\n{}", front.read("log"));
        for kind in [
            "h1 kept",
            "h1 kept over tls",
            "h1 idle",
            "h1 new",
            "h1 new over tls",
            "h2",
            "h2 alone",
            "h3",
            "h3 seldom",
            "h3 new",
        ] {
            let succeeded = told["succeeded"][kind].as_u64().unwrap_or_default();
            assert!(succeeded > 0, "{kind}: {told}\n{errors}");
        }
    }
}

pub(crate) fn assert_ended(children: Vec<Child>, front: &Front) {
    for mut child in children {
        let status = eventually("an old process ends", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(front.read("log")),
        });
        assert!(status.success(), "{status}: {}", front.read("log"));
    }
}

#[test]
fn no_request_fails_through_upgrades_one_after_the_other() {
    let mut front = Front::start("");
    let load = Load::start(&front);
    let served = || front.origin.count() > 100;
    becomes("the load has begun", true, served);
    let mut old = Vec::new();
    for _ in 0..rounds(4) {
        old.push(front.upgrade());
        // Some follow at once, so that several are ending.
        if old.len() % 4 != 0 {
            std::thread::sleep(Duration::from_millis(1500));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    load.assert_no_failures(&front);
    assert_ended(old, &front);
}

#[test]
fn packets_of_an_http_3_connection_find_the_process_that_has_it() {
    let mut front = Front::start("");
    let mut command = driver(&front);
    command.arg("in two pieces");
    let mut client = process::spawn(command);
    let mut said = BufReader::new(client.stdout.take().expect("piped")).lines();
    let mut says = || said.next().map(|line| line.expect("text"));
    assert_eq!(says().as_deref(), Some("begun"));
    // Past the next one, to the one after it.
    let old = vec![front.upgrade(), front.upgrade()];
    let mut input = client.stdin.take().expect("piped");
    input.write_all(b"\n").expect("it waits for it");
    assert_eq!(
        says().as_deref(),
        Some("200 POST 6"),
        "{}",
        front.read("log")
    );
    drop(input);
    assert_ended(old, &front);
    assert!(client.wait().expect("it ends").success());
}

#[test]
fn no_request_fails_while_certificates_are_swapped() {
    let front = Front::start(
        "tls_cert_file = \"shown.crt\"\ntls_key_file = \"shown.key\"\n# made by the test\n",
    );
    let shown = || {
        let command = format!(
            "openssl s_client -connect 127.0.0.1:{} -servername localhost </dev/null 2>/dev/null \
             | openssl x509 -noout -subject",
            front.secure
        );
        let output = bounded("sh").args(["-c", &command]).output();
        String::from_utf8_lossy(&output.expect("sh runs").stdout).into_owned()
    };
    let load = Load::start(&front);
    becomes("the load has begun", true, || front.origin.count() > 100);
    for round in 0..rounds(3) {
        let name = ["b", "a"][round % 2];
        front.show(name);
        becomes("the other certificate", true, || {
            shown().contains(&format!("CN = {name}"))
        });
        if round == 1 {
            let before = front
                .read("log")
                .matches("certificate before it stays")
                .count();
            front.write("shown.crt", b"nonsense");
            becomes("the bad one is told", true, || {
                front
                    .read("log")
                    .matches("certificate before it stays")
                    .count()
                    > before
            });
            assert!(shown().contains(&format!("CN = {name}")));
        }
    }
    load.assert_no_failures(&front);
}

#[test]
fn kept_answers_and_modes_survive_an_upgrade() {
    let mut front = Front::start(
        "[balancer.routes.long]\npath = \"/long_dummy\"\ncache = \"60s\"\n\
         [balancer.nodes.b]\naddress = \"127.0.0.1:1\"\n",
    );
    let headers = |front: &Front| {
        let url = format!("http://127.0.0.1:{}/long_dummy", front.plain);
        let output = curl(&["-D", "-", "-o", "/dev/null", &url]).output();
        String::from_utf8_lossy(&output.expect("curl runs").stdout).to_lowercase()
    };
    becomes("it is kept", true, || {
        headers(&front).contains("pgweir; hit")
    });
    front.console("DRAIN NODE b");
    std::thread::sleep(Duration::from_millis(1100));
    let old = front.upgrade();
    let found = headers(&front);
    assert!(found.contains("pgweir; hit"), "{found}");
    let age = found.lines().find_map(|line| line.strip_prefix("age: "));
    let age: u64 = age.expect("an age").trim().parse().expect("seconds");
    assert!((2..60).contains(&age), "{found}");
    assert!(front.console("SHOW NODES").contains("|drain|"));
    assert_ended(vec![old], &front);
}

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_alone() {
    let mut front = Front::start("");
    let config = front.folder.path().join("pgweir.toml");
    let good = std::fs::read_to_string(&config).expect("it is there");
    let bad = good.replace("max_body = \"1MiB\"", "max_body = \"much\"");
    let line = 1 + bad
        .lines()
        .position(|it| it.contains("much"))
        .expect("there");
    front.write("pgweir.toml", bad.as_bytes());
    let mut next = process::spawn(front.next());
    let status = next.wait().expect("it ends");
    assert!(!status.success());
    let named = format!("pgweir.toml, line {line}");
    assert!(front.read("log").contains(&named), "{}", front.read("log"));
    // A reload with it fails as well, and names the line.
    let pid = Pid::from_child(&front.child);
    let before = front.read("log").matches(&named).count();
    kill_process(pid, Signal::HUP).expect("it runs");
    becomes("the reload is told", true, || {
        front.read("log").matches(&named).count() > before
    });
    assert_eq!(front.plain_body("/x"), "GET 0");
    front.write("pgweir.toml", good.as_bytes());
    let old = front.upgrade();
    assert_eq!(front.plain_body("/x"), "GET 0");
    assert_ended(vec![old], &front);
}
