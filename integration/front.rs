//! The balancer's front with clients as there are in the world: HTTP/1.1,
//! HTTP/2 and HTTP/3, in clear and with the certificate it made itself.

use crate::drivers::{python, script, succeeded};
use crate::harness::process::{self, Folder};
use crate::harness::{DEADLINE, becomes, eventually};
use crate::service_manager::passing;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as the origin parsed it: its line, its fields, its body's length.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    line: String,
    fields: BTreeMap<String, String>,
    body: usize,
}

/// How long /slow takes.
const SLOW: Duration = Duration::from_secs(1);

/// Length of the body of `/large`: more than the sockets on the way hold.
const LARGE: usize = 16 * 1024 * 1024;

/// An application that answers with the method and the length of the body, and
/// notes all it parses, except checks. What is below `/spoken` says that it may
/// be kept for a minute.
pub(crate) struct Origin {
    pub(crate) port: u16,
    ledger: Arc<Mutex<Vec<Parsed>>>,
}

impl Origin {
    fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let ledger = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&ledger);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || serve(stream, &noted));
            }
        });
        Origin { port, ledger }
    }

    /// How many requests it has parsed.
    pub(crate) fn count(&self) -> usize {
        self.ledger.lock().expect("no panic").len()
    }

    fn parsed(&self) -> Vec<Parsed> {
        self.ledger.lock().expect("no panic").clone()
    }
}

/// Answers until the connection ends. A request that is not understood is
/// noted too: that is what the tests look for.
fn serve(stream: TcpStream, noted: &Mutex<Vec<Parsed>>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let line = read_line(&mut reader)?;
        let mut fields = BTreeMap::new();
        loop {
            let field = read_line(&mut reader)?;
            let Some((name, value)) = field.split_once(": ") else {
                break;
            };
            let before = fields.insert(name.to_ascii_lowercase(), value.to_owned());
            assert_eq!(before.filter(|_| name == "content-length"), None);
        }
        let body = match fields.get("transfer-encoding") {
            Some(_) => read_chunks(&mut reader)?,
            None => {
                let length = fields.get("content-length");
                let length = length.map_or(0, |it| it.parse().expect("a length"));
                reader.read_exact(&mut vec![0; length]).ok()?;
                length
            }
        };
        let method = line.split(' ').next().unwrap_or_default().to_owned();
        if line.contains(" /slow ") {
            std::thread::sleep(SLOW);
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let text = match target.as_str() {
            "/ping" => "pong".to_owned(),
            "/large" => "x".repeat(LARGE),
            _ => format!("{method} {body}"),
        };
        if text != "pong" {
            let parsed = Parsed { line, fields, body };
            noted.lock().expect("no panic").push(parsed);
        }
        let shown = if method == "HEAD" { "" } else { &text };
        let length = text.len();
        let control = match target.starts_with("/spoken") {
            true => "cache-control: max-age=60\r\n",
            false => "",
        };
        write!(
            writer,
            "HTTP/1.1 200 OK\r\n{control}content-length: {length}\r\n\r\n{shown}"
        )
        .ok()?;
    }
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    Some(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_chunks(reader: &mut impl BufRead) -> Option<usize> {
    let mut sum = 0;
    loop {
        let size = usize::from_str_radix(&read_line(reader)?, 16).expect("a chunk size");
        reader.read_exact(&mut vec![0; size]).ok()?;
        assert_eq!(read_line(reader)?, "");
        sum += size;
        if size == 0 {
            return Some(sum);
        }
    }
}

/// pgweir with a balancer that serves plain HTTP and HTTPS.
pub(crate) struct Front {
    pub(crate) plain: u16,
    pub(crate) secure: u16,
    pub(crate) pooler: u16,
    #[cfg(feature = "acme")]
    metrics: u16,
    pub(crate) folder: Folder,
    pub(crate) origin: Origin,
    pub(crate) child: Child,
    sockets: Vec<OwnedFd>,
}

/// Ports that are free in TCP and in UDP, each another one.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let mut held = Vec::new();
    while held.len() < COUNT {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        held.extend(UdpSocket::bind(("127.0.0.1", port)).map(|socket| (port, listener, socket)));
    }
    std::array::from_fn(|at| held[at].0)
}

impl Front {
    pub(crate) fn start(settings: &str) -> Front {
        Front::before(None, settings)
    }

    /// With settings that are made when its folder and its ports, plain and
    /// secure, are known.
    #[cfg(feature = "acme")]
    pub(crate) fn start_with(mut settings: impl FnMut(&Folder, [u16; 2]) -> String) -> Front {
        let mut tries = (0..3).filter_map(|_| Front::launch(None, &mut settings, false));
        tries.next().expect("ports are free long enough")
    }

    /// With this node instead of an origin, if there is one.
    pub(crate) fn before(node: Option<u16>, settings: &str) -> Front {
        // Another process may take a free port before it does.
        let mut same = |_: &Folder, _| settings.to_owned();
        let mut tries = (0..3).filter_map(|_| Front::launch(node, &mut same, false));
        tries.next().expect("ports are free long enough")
    }

    /// With sockets that systemd has opened, and this process keeps open: they
    /// could not be opened once more.
    fn start_with_sockets() -> Front {
        let mut none = |_: &Folder, _| String::new();
        let mut tries = (0..3).filter_map(|_| Front::launch(None, &mut none, true));
        tries.next().expect("ports are free long enough")
    }

    /// None if it has ended.
    fn launch(
        node: Option<u16>,
        settings: &mut dyn FnMut(&Folder, [u16; 2]) -> String,
        by_systemd: bool,
    ) -> Option<Front> {
        let folder = Folder::new("front");
        let origin = Origin::start();
        let node = node.unwrap_or(origin.port);
        let [plain, secure, pooler, metrics] = free_ports();
        let settings = settings(&folder, [plain, secure]);
        let here = folder.path().display().to_string();
        let config = folder.write(
            "pgweir.toml",
            &format!(
                "[pgbouncer]\nlisten_addr = \"127.0.0.1\"\nlisten_port = {pooler}\n\
                 unix_socket_dir = \"{here}\"\nauth_type = \"trust\"\n\
                 [metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
                 [balancer]\nlisten = [\"127.0.0.1:{plain}\"]\n\
                 https_listen = [\"127.0.0.1:{secure}\"]\nstate_dir = \"state\"\n\
                 domain = [\"front.test\"]\nmax_body = \"1MiB\"\naccess_log = \"access.log\"\n\
                 {settings}\n[balancer.nodes.a]\naddress = \"127.0.0.1:{node}\"\n"
            ),
        );
        if settings.contains("shown.crt") {
            show(&folder, "a");
        }
        let config = config.display().to_string();
        let mut command = Front::command(&folder, process::program(), &["run", &config]);
        let mut sockets: Vec<OwnedFd> = Vec::new();
        if by_systemd {
            for port in [plain, secure] {
                sockets.push(TcpListener::bind(("127.0.0.1", port)).ok()?.into());
            }
            sockets.push(UdpSocket::bind(("127.0.0.1", secure)).ok()?.into());
            for socket in &sockets {
                rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).expect("open");
            }
            let script = passing(&sockets, "pgweir.socket:https:quic");
            let program = process::program().display().to_string();
            let words = ["-c", &script, &program, "run", &config];
            command = Front::command(&folder, "bash".as_ref(), &words);
        }
        let mut front = Front {
            plain,
            secure,
            pooler,
            #[cfg(feature = "acme")]
            metrics,
            folder,
            origin,
            child: process::spawn(command),
            sockets,
        };
        for socket in &front.sockets {
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC).expect("open");
        }
        front.serves().then_some(front)
    }

    /// Waits until it serves; false if it has ended.
    fn serves(&mut self) -> bool {
        eventually("the balancer serves", || {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Ok(false);
            }
            let url = format!("http://127.0.0.1:{}/ping", self.plain);
            let output = curl(&[&url]).output().expect("curl runs");
            match String::from_utf8_lossy(&output.stdout).as_ref() {
                "pong" => Ok(true),
                other => Err(format!("{other:?}\n{}", self.read("log"))),
            }
        })
    }

    /// It ends, and begins anew.
    #[cfg(feature = "acme")]
    pub(crate) fn restart(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
        let config = self.folder.path().join("pgweir.toml").display().to_string();
        let command = Front::command(&self.folder, process::program(), &["run", &config]);
        self.child = process::spawn(command);
        assert!(self.serves(), "{}", self.read("log"));
    }

    /// The sample of this name, with its labels.
    #[cfg(feature = "acme")]
    pub(crate) fn metric(&self, sample: &str) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics);
        let page = succeeded(&curl(&[&url]).output().expect("curl runs"));
        let found = page.lines().find_map(|line| line.strip_prefix(sample));
        found.map(|value| value.trim().parse().expect("a whole number"))
    }

    /// It has read its configuration again.
    pub(crate) fn reloaded(self) -> Front {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(sent.expect("kill runs").success());
        self
    }

    /// A program with these arguments; what it says is added to `log`.
    fn command(folder: &Folder, program: &Path, arguments: &[&str]) -> Command {
        let mut command = process::server_command(program, "KILL");
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(folder.path().join("log"))
            .expect("the folder is ours");
        command
            .args(arguments)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// Another process takes over; answers the one before it, which may still
    /// have clients.
    pub(crate) fn upgrade(&mut self) -> Child {
        let ups = |front: &Front| front.read("log").matches("process up").count();
        let before = ups(self);
        let next = process::spawn(self.next());
        let old = std::mem::replace(&mut self.child, next);
        eventually("the next process is up", || match ups(self) {
            now if now > before => Ok(()),
            _ => Err(self.read("log")),
        });
        old
    }

    /// The process that takes over.
    pub(crate) fn next(&self) -> Command {
        let config = self.folder.path().join("pgweir.toml");
        let arguments = ["run", "-R", &config.display().to_string()];
        Front::command(&self.folder, process::program(), &arguments)
    }

    /// What psql shows of this command, as a process of the same user.
    pub(crate) fn console(&self, command: &str) -> String {
        let mut psql = process::server_command("psql".as_ref(), "KILL");
        psql.args(["-X", "-A", "-t", "-h"]).arg(self.folder.path());
        psql.args(["-p", &self.pooler.to_string(), "-U", "pgbouncer", "-c"]);
        psql.args([command, "pgbouncer"]);
        succeeded(&psql.output().expect("psql runs"))
    }

    /// The body that curl gets over plain HTTP.
    pub(crate) fn plain_body(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.plain);
        succeeded(&curl(&[&url]).output().expect("curl runs"))
    }

    pub(crate) fn write(&self, file: &str, bytes: &[u8]) {
        self.folder.write(file, &String::from_utf8_lossy(bytes));
    }

    /// Has the certificate of this name shown, and its key.
    pub(crate) fn show(&self, name: &str) {
        show(&self.folder, name);
    }

    pub(crate) fn read(&self, file: &str) -> String {
        let text = std::fs::read(self.folder.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn https(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.secure)
    }

    /// Lines of the access log once they satisfy this.
    fn access(&self, holds: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        eventually("the access log", || {
            let text = self.read("access.log");
            let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
            let lines: Result<Vec<_>, serde_json::Error> = lines.collect();
            let lines = lines.map_err(|error| error.to_string())?;
            match holds(&lines) {
                true => Ok(lines),
                false => Err(text.lines().rev().take(5).collect()),
            }
        })
    }

    /// The hash of the certificate's key, as the log tells it.
    fn key_hash(&self) -> String {
        let log = self.read("log");
        let (_, hash) = log.split_once("its public key ").expect("it is told");
        hash.split(',').next().expect("a word").to_owned()
    }
}

/// Puts a pair of this name, made the first time, where the configuration
/// names one.
fn show(folder: &Folder, name: &str) {
    let [certificate, key] = ["crt", "key"].map(|end| folder.path().join(format!("{name}.{end}")));
    if !certificate.exists() {
        let mut openssl = process::server_command("openssl".as_ref(), "KILL");
        openssl.args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9".split(' '),
        );
        openssl
            .args(["-subj", &format!("/CN={name}"), "-keyout"])
            .arg(&key);
        let output = openssl.arg("-out").arg(&certificate).output();
        succeeded(&output.expect("openssl runs"));
    }
    for (made, shown) in [(key, "shown.key"), (certificate, "shown.crt")] {
        let next = folder.path().join("next");
        std::fs::copy(&made, &next).expect("the folder is ours");
        process::give_away(&next);
        std::fs::rename(&next, folder.path().join(shown)).expect("the folder is ours");
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A program with time to end.
pub(crate) fn bounded(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg(DEADLINE.as_secs().to_string());
    command.arg(program).stdin(Stdio::null());
    command
}

pub(crate) fn curl(arguments: &[&str]) -> Command {
    let mut curl = bounded("curl");
    curl.args(["-s", "-S", "-k"]).args(arguments);
    curl
}

/// What curl gets: the version it spoke, the status, redirects, the body.
fn curled(arguments: &[&str]) -> String {
    let form = "%{stderr}%{http_version} %{response_code} %{num_redirects}%{redirect_url} ";
    let output = curl(&[&["-w", form], arguments].concat()).output();
    let output = output.expect("curl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{output:?}");
    text(&output.stderr) + &text(&output.stdout)
}

#[test]
fn curl_gets_the_same_over_http_and_https_and_no_redirect() {
    let front = Front::start("");
    let (http, https) = (
        format!("http://127.0.0.1:{}/x", front.plain),
        front.https("/x"),
    );
    for (arguments, expected) in [
        (&["--http1.1", &http][..], "1.1 200 0 GET 0"),
        (&["--http1.1", &https], "1.1 200 0 GET 0"),
        (&["--http1.0", &https], "1 200 0 GET 0"),
        (&[&https], "2 200 0 GET 0"),
        (&["--http2-prior-knowledge", &http], "2 200 0 GET 0"),
        (&["-d", "abc", &https], "2 200 0 POST 3"),
        (
            &["-d", "abc", "--http2-prior-knowledge", &http],
            "2 200 0 POST 3",
        ),
        (&["-I", "-o", "/dev/null", &https], "2 200 0 "),
        (&["-X", "TRACE", "-o", "/dev/null", &https], "2 405 0 "),
    ] {
        assert_eq!(curled(arguments), expected, "{arguments:?}");
    }
    // The certificate names the host; without -k it is simply not trusted.
    let certificate = front.folder.path().join("state/self-signed.crt");
    let to = format!("front.test:{}:127.0.0.1", front.secure);
    let trusted = Command::new("curl")
        .args(["-s", "-S", "--cacert"])
        .arg(certificate)
        .args(["--resolve", &to])
        .arg(format!("https://front.test:{}/x", front.secure))
        .output();
    assert_eq!(succeeded(&trusted.expect("curl runs")), "GET 0");
    let secure = front.origin.parsed();
    let secure = secure.iter().find(|it| it.line.starts_with("POST"));
    let fields = &secure.expect("there was one").fields;
    assert_eq!(fields["x-forwarded-proto"], "https");
    assert_eq!(fields["via"], "2.0 pgweir");
    assert_eq!(fields["host"], format!("127.0.0.1:{}", front.secure));
}

#[test]
fn sockets_that_systemd_passes_are_served() {
    let front = Front::start_with_sockets();
    assert_eq!(front.plain_body("/x"), "GET 0");
    assert_eq!(curled(&[&front.https("/x")]), "2 200 0 GET 0");
    let mut client = bounded("gtlsclient");
    client.args(["--exit-on-all-streams-close", "--quiet", "127.0.0.1"]);
    client.args([&front.secure.to_string(), &front.https("/x")]);
    let output = client.output().expect("gtlsclient runs");
    assert!(output.status.success(), "{output:?}");
    // The pooler's own address is no passed socket's.
    assert!(TcpStream::connect(("127.0.0.1", front.pooler)).is_ok());
}

#[test]
fn curl_as_a_proxy_says_whose_connection_it_is_and_must() {
    let front = Front::start("");
    let config = front.folder.path().join("pgweir.toml");
    let text = front.read("pgweir.toml");
    let listed = text.replacen(
        "max_body",
        "proxy_protocol_from = \"127.0.0.0/8\"\nmax_body",
        1,
    );
    std::fs::write(config, listed).expect("the folder is ours");
    let front = front.reloaded();
    let http = format!("http://127.0.0.1:{}/x", front.plain);
    eventually("who does not say it is closed", || {
        let output = curl(&[&http]).output().expect("curl runs");
        match output.status.success() {
            true => Err("it is served".to_owned()),
            false => Ok(()),
        }
    });
    for (arguments, expected) in [
        (&["--http1.1", &http][..], "1.1 200 0 GET 0"),
        (&["--http2-prior-knowledge", &http], "2 200 0 GET 0"),
        (&["--http1.1", &front.https("/x")], "1.1 200 0 GET 0"),
        (&[&front.https("/x")], "2 200 0 GET 0"),
    ] {
        let arguments = [&["--haproxy-protocol"], arguments].concat();
        assert_eq!(curled(&arguments), expected, "{arguments:?}");
    }
}

#[test]
fn curl_that_asked_for_our_name_gets_no_other_host() {
    let front = Front::start("");
    let to = format!("::127.0.0.1:{}", front.secure);
    let get = |protocol: &str, name: &str, host: &str| {
        let (host, url) = (format!("Host: {host}"), format!("https://{name}/x"));
        let connect = ["--connect-to", &to, "-o", "/dev/null"];
        let rest = [protocol, "-H", &host, &url];
        curled(&[&connect[..], &rest].concat())
    };
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for (name, host, status) in [
            ("front.test", "front.test", 200),
            ("front.test", "localhost:8443", 200),
            ("front.test", "other.test", 421),
            ("other.test", "front.test", 200),
            ("127.0.0.1", "other.test", 200),
        ] {
            let expected = format!("{version} {status} 0 ");
            assert_eq!(get(protocol, name, host), expected, "{name} {host}");
        }
    }
}

#[test]
fn websockets_pass_where_they_are_allowed() {
    let [port] = free_ports();
    let mut server = Command::new("setpriv");
    server.args(["--pdeathsig", "KILL", "--"]).arg(python());
    server.stdin(Stdio::null());
    let driver = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/drivers/tunnel_driver.py"
    );
    server.args([driver, "server", &port.to_string()]);
    let mut server = process::spawn(server);
    let route = "[balancer.routes.chat]\npath = \"/chat\"\nupgrade = [\"websocket\"]\n";
    let front = Front::before(Some(port), route);
    let mut client = script(python(), "tunnel_driver.py");
    client.arg("client");
    client.args([front.plain, front.secure].map(|port| port.to_string()));
    let text = succeeded(&client.output().expect("python runs"));
    let is_tunnel = |it: &&serde_json::Value| it["status"] == 101;
    let lines = front.access(|lines| lines.iter().filter(is_tunnel).count() == 7);
    server.kill().ok();
    server.wait().ok();
    assert!(text.ends_with(" checks"), "{text}");
    for line in lines.iter().filter(is_tunnel) {
        assert_eq!(line["route"], "chat", "{line}");
        for bytes in ["bytes_in", "bytes_out"] {
            assert!(line[bytes].as_u64() > Some(5_000), "{line}");
        }
    }
}

#[test]
fn h2load_is_served_over_tls_and_in_clear() {
    let front = Front::start("");
    let plain = format!("http://127.0.0.1:{}/x", front.plain);
    for url in [front.https("/x"), plain] {
        let mut load = bounded("h2load");
        load.args(["-n", "600", "-c", "4", "-m", "20", &url]);
        let text = succeeded(&load.output().expect("h2load runs"));
        assert!(
            text.contains("600 succeeded, 0 failed, 0 errored"),
            "{text}"
        );
    }
}

#[test]
fn wrk_is_served_over_tls_and_in_clear() {
    let front = Front::start("");
    let plain = format!("http://127.0.0.1:{}/x", front.plain);
    for url in [front.https("/x"), plain] {
        let mut load = bounded("wrk");
        load.args(["-t", "2", "-c", "20", "-d", "1s", &url]);
        let text = succeeded(&load.output().expect("wrk runs"));
        assert!(text.contains(" requests in "), "{text}");
        for complaint in ["Socket errors", "Non-2xx"] {
            assert!(!text.contains(complaint), "{text}");
        }
    }
}

/// Slow heads, slow bodies, many ranges, slow reading: each with more clients
/// than a node may have requests. Others are served meanwhile, memory stays
/// bounded, and nothing of it stays.
#[test]
fn slow_clients_do_no_harm_to_others() {
    const CLIENTS: usize = 300;
    /// Connections to the node are kept, as many as it had requests.
    const KEPT: usize = 100;
    let front =
        Front::start("max_in_flight = 100\nheader_timeout = \"3s\"\nbody_timeout = \"3s\"\n");
    let process = format!("/proc/{}", front.child.id());
    let descriptors = || {
        std::fs::read_dir(format!("{process}/fd"))
            .expect("it runs")
            .count()
    };
    let resident = || {
        let pages = std::fs::read_to_string(format!("{process}/statm")).expect("it runs");
        let pages = pages.split(' ').nth(1).expect("a number");
        pages.parse::<usize>().expect("a number") * 4 / 1024
    };
    let (quiet, before) = (descriptors(), resident());
    for (path, mode) in [
        ("/x", "-H -i 1 -t GET"),
        ("/x", "-B -i 1 -s 8192"),
        ("/x", "-R -a 10 -b 3000"),
        ("/large", "-X -w 512 -y 1024 -n 1 -z 32 -k 3"),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", front.plain);
        let clients = CLIENTS.to_string();
        let mut attack = bounded("slowhttptest");
        attack.args(mode.split(' '));
        attack.args(["-c", &clients, "-r", "150", "-l", "6", "-u", &url]);
        attack.stdout(Stdio::null());
        let mut attack = attack.spawn().expect("slowhttptest runs");
        let mut served = 0;
        while attack.try_wait().expect("a child").is_none() {
            let url = format!("http://127.0.0.1:{}/y", front.plain);
            assert_eq!(curled(&[&url]), "1.1 200 0 GET 0", "{mode}");
            served += 1;
            let grown = resident().saturating_sub(before);
            assert!(grown < 200, "{mode}: {grown} MiB for {CLIENTS} clients");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(served > 1, "{mode} lasted");
        eventually("slow clients are gone", || match descriptors() {
            open if open < quiet + KEPT + 50 => Ok(()),
            open => Err(format!("{mode}: {open} descriptors, {quiet} before")),
        });
    }
}

#[test]
fn clients_that_say_what_they_like_are_refused_and_what_a_node_reads_is_what_is_logged() {
    let front = Front::start("");
    let mut driver = script(python(), "front_driver.py");
    driver.args([front.secure, front.plain].map(|port| port.to_string()));
    let text = succeeded(&driver.output().expect("python runs"));
    assert!(text.ends_with(" checks"), "{text}");
    let parsed = front.origin.parsed();
    for request in &parsed {
        assert!(!request.line.contains("refused"), "{request:?}");
        assert!(!request.line.contains("://"), "{request:?}");
    }
    for request in &parsed {
        for gone in [
            "x-secret",
            "transfer_encoding",
            "expect",
            "connection",
            "te",
        ] {
            assert!(!request.fields.contains_key(gone), "{request:?}");
        }
        // HTTP/1.0 has no Host; the node's own stands for it.
        if let Some(host) = request.fields.get("x-forwarded-host") {
            assert_eq!(host, &request.fields["host"], "{request:?}");
        }
    }
    let count = |part: &str| parsed.iter().filter(|it| it.line.contains(part)).count();
    assert_eq!((count(" /served/dots "), count("..")), (2, 0));
    let hosts = parsed.iter().map(|it| it.fields["host"].as_str());
    assert_eq!(hosts.filter(|it| *it == "authority.test").count(), 2);
    let cookies = parsed.iter().filter_map(|it| it.fields.get("cookie"));
    assert_eq!(cookies.collect::<Vec<_>>(), ["a=1; b=2"; 3]);
    let bodies: BTreeMap<&str, usize> = parsed
        .iter()
        .map(|it| (it.fields["x-request-id"].as_str(), it.body))
        .collect();
    assert_eq!(bodies.len(), parsed.len(), "ids are unique");
    // A body that says no length is found to be too large when the node has
    // had a part of it: such a request comes to no end there.
    let reached = |it: &&serde_json::Value| {
        !it["node"].is_null() && it["target"] != "/ping" && it["error"] != "body_too_large"
    };
    let lines = front.access(|lines| lines.iter().filter(reached).count() >= parsed.len());
    let reached: Vec<_> = lines.iter().filter(reached).collect();
    assert_eq!(reached.len(), parsed.len());
    for line in reached {
        let id = line["request_id"].as_str().expect("a text");
        assert_eq!(Some(bodies[id] as u64), line["bytes_in"].as_u64(), "{line}");
    }
    for protocol in ["HTTP/2", "HTTP/3"] {
        assert!(lines.iter().any(|it| it["proto"] == protocol), "{protocol}");
    }
    agree_with_h2spec(&front);
}

#[test]
fn gtlsclient_is_served_over_http_3() {
    let front = Front::start("");
    let mut client = bounded("gtlsclient");
    client
        .args([
            "--exit-on-all-streams-close",
            "--no-http-dump",
            "--key-update=1ms",
        ])
        .args(["127.0.0.1", &front.secure.to_string(), &front.https("/x")]);
    let output = client.output().expect("gtlsclient runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let line = front.access(|lines| lines.iter().any(|it| it["proto"] == "HTTP/3"));
    let line = line.iter().find(|it| it["proto"] == "HTTP/3").expect("one");
    assert_eq!(line["status"], 200);
    assert_eq!(line["target"], "/x");
}

#[test]
fn chromium_loads_a_page_over_http_3_by_the_hash_of_the_key() {
    let front = Front::start("");
    let folder = Folder::new("chromium");
    let mut browser = Command::new("timeout");
    browser
        .arg((2 * DEADLINE.as_secs()).to_string())
        .args(["chromium", "--headless", "--no-sandbox"])
        .args([
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .arg(format!(
            "--origin-to-force-quic-on=127.0.0.1:{}",
            front.secure
        ))
        .arg(format!(
            "--ignore-certificate-errors-spki-list={}",
            front.key_hash()
        ))
        .arg(front.https("/page"))
        .stdin(Stdio::null());
    let output = browser.output().expect("chromium runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("GET 0"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let is_page = |it: &serde_json::Value| it["target"] == "/page" && it["proto"] == "HTTP/3";
    front.access(|lines| lines.iter().any(is_page));
}

#[test]
fn a_new_certificate_is_shown_to_tcp_and_quic_at_once_and_a_bad_one_is_not() {
    let front = Front::start("");
    let shown = |quic: bool| {
        // openssl 3.0 knows TCP alone; over QUIC it is asked of a client that
        // trusts this certificate only.
        let port = front.secure;
        let command = format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername localhost </dev/null 2>/dev/null \
             | openssl x509 -noout -serial"
        );
        let output = match quic {
            false => bounded("sh").args(["-c", &command]).output(),
            true => {
                let mut client = bounded("gtlsclient");
                let (host, url) = ("127.0.0.1", front.https("/x"));
                client.args(["--exit-on-all-streams-close", "--quiet", host]);
                client.args([&port.to_string(), &url]).output()
            }
        };
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = shown(false);
    let state = front.folder.path().join("state");
    let certificate = state.join("self-signed.crt");
    let openssl = |arguments: &str| {
        let mut command = process::server_command("openssl".as_ref(), "KILL");
        command.args(arguments.split(' ')).current_dir(&state);
        let output = command.output().expect("openssl runs");
        assert!(output.status.success(), "{output:?}");
    };
    openssl("req -x509 -key self-signed.key -days 9 -subj /CN=new -out new.crt");
    std::fs::rename(state.join("new.crt"), &certificate).expect("the folder is ours");
    becomes("the new certificate", true, || shown(false) != before);
    shown(true);
    let new = shown(false);
    std::fs::write(&certificate, "nonsense").expect("the folder is ours");
    eventually("the bad certificate is told", || {
        let log = front.read("log");
        match log.contains("the certificate before it stays") {
            true => Ok(()),
            false => Err(log),
        }
    });
    assert_eq!(shown(false), new);
    shown(true);
}

/// h2spec is in no distribution. Where `H2SPEC` names the program, built as its
/// README says, it has its say too.
fn agree_with_h2spec(front: &Front) {
    let Some(program) = std::env::var_os("H2SPEC") else {
        return;
    };
    // On the plain port what is no HTTP/2 preface is HTTP/1: section 3.5 is left
    // out there.
    let plain = "generic hpack http2/4 http2/5 http2/6 http2/7 http2/8";
    for (port, more) in [(front.secure, "-t -k"), (front.plain, plain)] {
        let mut h2spec = Command::new("timeout");
        h2spec
            .arg((4 * DEADLINE.as_secs()).to_string())
            .arg(&program);
        h2spec.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-P", "/x"]);
        let text = succeeded(&h2spec.args(more.split(' ')).output().expect("h2spec runs"));
        assert!(text.contains(" 0 failed"), "{text}");
    }
}
