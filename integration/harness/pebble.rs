//! Pebble, the authority that Let's Encrypt tests with, and the names it
//! resolves.

use super::dns::NameServer;
use super::eventually;
use super::process::{self, Folder};
use crate::front::curl;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// Bad nonces in a hundred requests: a client has to live with them.
const BAD_NONCES: &str = "10";

/// Issues certificates for names that lead to the ports it is told. It makes
/// another root at each start, and forgets all accounts.
pub(crate) struct Pebble {
    folder: Folder,
    names: NameServer,
    port: u16,
    management: u16,
    child: Option<Child>,
}

impl Pebble {
    /// On these ports, not running yet; `front.test` is this machine.
    pub(crate) fn new([port, management]: [u16; 2]) -> Pebble {
        let folder = Folder::new("pebble");
        let mut openssl = process::server_command("openssl".as_ref(), "KILL");
        openssl.current_dir(folder.path()).args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 \
             -subj /CN=pebble -addext subjectAltName=IP:127.0.0.1 -keyout own.key -out own.crt"
                .split_whitespace(),
        );
        let made = openssl.stderr(Stdio::null()).status();
        assert!(made.expect("openssl runs").success());
        let names = NameServer::start();
        names.name("front.test", &["127.0.0.1"]);
        Pebble {
            folder,
            names,
            port,
            management,
            child: None,
        }
    }

    /// Runs. It validates on these ports, and its certificates hold for so many
    /// seconds.
    pub(crate) fn start(&mut self, [http, tls]: [u16; 2], life: u64) {
        self.stop();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": "own.crt",
            "privateKey": "own.key",
            "httpPort": http,
            "tlsPort": tls,
            "certificateValidityPeriod": life,
        }});
        self.folder.write("pebble.json", &config.to_string());
        let log = std::fs::File::create(self.folder.path().join("log")).expect("ours");
        let mut pebble = process::server_command("pebble".as_ref(), "KILL");
        pebble
            .args(["-strict", "-config", "pebble.json", "-dnsserver"])
            .arg(self.names.address().to_string())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", BAD_NONCES)
            .current_dir(self.folder.path())
            .stdout(log.try_clone().expect("descriptors are left"))
            .stderr(log);
        self.child = Some(process::spawn(pebble));
        eventually("pebble listens", || {
            let reached = TcpStream::connect(("127.0.0.1", self.port));
            reached.map(drop).map_err(|_| self.log())
        });
    }

    /// Where names lead.
    pub(crate) fn names(&self) -> &NameServer {
        &self.names
    }

    /// The settings of who orders from it, or by way of another port.
    pub(crate) fn settings(&self, port: Option<u16>) -> String {
        let (port, own) = (port.unwrap_or(self.port), self.folder.path().display());
        format!(
            "acme = true\nacme_directory = \"https://127.0.0.1:{port}/dir\"\n\
             acme_contact = [\"ops@front.test\"]\nacme_ca_file = \"{own}/own.crt\"\n"
        )
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The file with its root, which it has made at its start.
    pub(crate) fn root(&self) -> PathBuf {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let root = curl(&[&url]).output().expect("curl runs");
        let root = String::from_utf8_lossy(&root.stdout).into_owned();
        assert!(root.contains("BEGIN CERTIFICATE"), "{root}");
        self.folder.write("root.crt", &root)
    }

    /// How many orders there were.
    pub(crate) fn orders(&self) -> usize {
        self.log().matches("Added order").count()
    }
}

impl Pebble {
    /// Ends.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}
