//! The balancer's certificate from an authority: issued, shown, renewed, and
//! what happens when that fails.

use crate::drivers::{python, succeeded};
use crate::front::{Front, bounded, free_ports};
use crate::harness::pebble::Pebble;
use crate::harness::process::Folder;
use crate::harness::{becomes, eventually};
use crate::upgrade::{Load, assert_ended};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// For how many seconds certificates hold, unless they are to be renewed.
const LONG: u64 = 90 * 24 * 60 * 60;

const HTTP: &str = "acme_challenge = \"http-01\"\n";

/// A front that has its certificate issued by an authority that runs.
fn ordering(settings: &str, life: u64) -> (Front, Pebble) {
    let mut pebble = Pebble::new(free_ports());
    let front = Front::start_with(|_, ports| {
        pebble.start(ports, life);
        pebble.settings(None) + settings
    });
    (front, pebble)
}

/// Issuer and serial number of what is shown over TCP.
fn shown(front: &Front) -> String {
    let command = format!(
        "openssl s_client -connect 127.0.0.1:{} -servername front.test </dev/null 2>/dev/null \
         | openssl x509 -noout -issuer -serial",
        front.secure
    );
    let output = bounded("sh").args(["-c", &command]).output();
    String::from_utf8_lossy(&output.expect("sh runs").stdout).into_owned()
}

/// The same over QUIC.
fn shown_over_quic(front: &Front) -> String {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/drivers/shown_driver.py");
    let mut command = bounded(&python().display().to_string());
    let output = command.arg(driver).arg(front.secure.to_string()).output();
    succeeded(&output.expect("python runs"))
}

/// Longest time until a certificate is there, pauses after failures included.
const LIMIT: Duration = Duration::from_secs(150);

/// Waits until an issued certificate is shown; answers its serial number.
fn is_shown(front: &Front, pebble: &Pebble) -> String {
    let begun = Instant::now();
    loop {
        let shown = shown(front);
        if shown.contains("Pebble Intermediate") {
            return serial(&shown);
        }
        let logs = || format!("{shown}\n{}\n{}", front.read("log"), pebble.log());
        assert!(begun.elapsed() < LIMIT, "{}", logs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn serial(shown: &str) -> String {
    let (_, serial) = shown.split_once("serial=").expect("it has one");
    serial.trim().trim_start_matches('0').to_owned()
}

/// The folder of what is kept of the authority.
fn kept(front: &Front) -> PathBuf {
    let folder = front.folder.path().join("state/acme");
    let found = std::fs::read_dir(folder).expect("it is there").next();
    found.expect("one authority").expect("readable").path()
}

#[test]
fn a_certificate_is_issued_by_a_handshake_and_kept_over_a_restart() {
    let (mut front, pebble) = ordering("", LONG);
    let serial = is_shown(&front, &pebble);
    let over_quic = shown_over_quic(&front);
    assert!(over_quic.ends_with(&serial), "{over_quic}: {serial}");
    let folder = kept(&front);
    for file in ["certificate.pem", "account.json", "lock"] {
        let mode = std::fs::metadata(folder.join(file))
            .expect("kept")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
    let pending = std::fs::read_dir(folder.join("pending")).expect("there were answers");
    assert_eq!(pending.count(), 0);
    assert_eq!(
        front.metric("pgweir_http_certificate_orders_total{result=\"issued\"} "),
        Some(1)
    );
    let log = front.read("log");
    assert!(
        !log.contains("PRIVATE KEY") && !log.contains("key_pkcs8"),
        "{log}"
    );
    front.restart();
    assert_eq!(serial, self::serial(&shown(&front)));
    becomes("it is known when it was issued", true, || {
        front.metric("pgweir_http_certificate_issued_seconds ") > Some(0)
    });
    let due = front
        .metric("pgweir_http_certificate_due_seconds ")
        .expect("a time");
    let expires = front
        .metric("pgweir_http_certificate_expires_seconds ")
        .expect("a time");
    let left = expires - due;
    assert!((LONG / 4..LONG / 3 + 60).contains(&left), "{left}");
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
}

#[test]
fn a_handshake_that_validates_gets_nothing_while_nobody_was_asked() {
    let (front, pebble) = ordering("", LONG);
    is_shown(&front, &pebble);
    let command = format!(
        "openssl s_client -connect 127.0.0.1:{} -servername front.test -alpn acme-tls/1 </dev/null",
        front.secure
    );
    let output = bounded("sh")
        .args(["-c", &command])
        .output()
        .expect("sh runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("no peer certificate available"), "{said}");
}

#[test]
fn a_certificate_is_issued_over_http_and_nothing_else_is_answered_there() {
    let (front, pebble) = ordering(HTTP, LONG);
    is_shown(&front, &pebble);
    assert!(
        pebble.log().contains("HTTP: http://front.test"),
        "{}",
        pebble.log()
    );
    // The application's again, like all others.
    let before = front.origin.count();
    let path = "/.well-known/acme-challenge/token";
    assert_eq!(front.plain_body(path), "GET 0");
    assert_eq!(front.origin.count(), before + 1);
}

#[test]
fn an_authority_that_comes_late_changes_the_certificate_without_a_cut() {
    let mut pebble = Pebble::new(free_ports());
    let front = Front::start_with(|_, _| pebble.settings(None));
    let load = Load::start(&front);
    becomes("the load has begun", true, || front.origin.count() > 100);
    becomes("it is told that there is none", true, || {
        front.read("log").contains("the authority cannot be asked")
    });
    assert!(!shown(&front).contains("Pebble"));
    pebble.start([front.plain, front.secure], LONG);
    let serial = is_shown(&front, &pebble);
    let over_quic = shown_over_quic(&front);
    assert!(over_quic.ends_with(&serial), "{over_quic}: {serial}");
    std::thread::sleep(Duration::from_secs(1));
    load.assert_no_failures(&front);
}

#[test]
fn a_name_that_is_not_ours_leaves_the_old_certificate_and_is_told() {
    let mut pebble = Pebble::new(free_ports());
    let front = Front::start_with(|_, ports| {
        // Nobody listens there.
        pebble.names().name("front.test", &["127.0.0.9"]);
        pebble.start(ports, LONG);
        pebble.settings(None)
    });
    eventually("it is told", || {
        let log = front.read("log");
        let line = log
            .lines()
            .find(|it| it.contains("does not believe in front.test"));
        match line {
            Some(line) => {
                assert!(line.contains("port 443"), "{line}");
                assert!(line.contains("Failed to connect to 127.0.0.9"), "{line}");
                Ok(())
            }
            None => Err(format!("{log}\n{}", pebble.log())),
        }
    });
    let failed = "pgweir_http_certificate_orders_total{result=\"failed\"} ";
    becomes("it is counted", Some(1), || front.metric(failed));
    assert_eq!(
        front.metric("pgweir_http_certificate_issued_seconds "),
        Some(0)
    );
    assert!(shown(&front).contains("front.test"), "its own");
    assert!(kept(&front).join("failures.json").exists());
}

#[test]
fn a_certificate_is_renewed_before_it_ends() {
    let (front, pebble) = ordering("", 24);
    let first = is_shown(&front, &pebble);
    eventually("another one", || {
        let shown = shown(&front);
        match shown.contains("Pebble Intermediate") && serial(&shown) != first {
            true => Ok(()),
            false => Err(format!("{shown}\n{}", front.read("log"))),
        }
    });
    let over_quic = shown_over_quic(&front);
    assert!(!over_quic.ends_with(&first), "{over_quic}: {first}");
    let log = front.read("log");
    assert!(!log.contains("stays"), "{log}");
}

#[test]
fn of_two_processes_that_share_a_folder_one_orders() {
    let mut pebble = Pebble::new(free_ports());
    // The authority comes late, so that both wait for it.
    let one = Front::start_with(|_, _| pebble.settings(None));
    let folder = one.folder.path().join("state");
    let two = Front::start_with(|own: &Folder, ports| {
        std::os::unix::fs::symlink(&folder, own.path().join("state")).expect("ours");
        // Whoever orders, this one is asked.
        pebble.start(ports, LONG);
        pebble.settings(None)
    });
    let shown = [is_shown(&one, &pebble), is_shown(&two, &pebble)];
    assert_eq!(shown[0], shown[1]);
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
}

/// Carries connections to a port; those that come while `holds`, when it has
/// been let go.
fn gate(port: u16, to: u16, held: Arc<AtomicBool>, holds: impl Fn() -> bool + Send + 'static) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("it is free");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if holds() {
                held.store(true, Relaxed);
                while holds() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let clone = |it: &TcpStream| it.try_clone().expect("descriptors are left");
            for (mut from, mut to) in [(clone(&client), clone(&server)), (server, client)] {
                std::thread::spawn(move || {
                    std::io::copy(&mut from, &mut to).ok();
                    to.shutdown(Shutdown::Write).ok();
                });
            }
        }
    });
}

#[test]
fn an_order_that_is_pending_goes_on_through_upgrades() {
    let ports = free_ports::<3>();
    let mut pebble = Pebble::new([ports[0], ports[1]]);
    let mut front = Front::start_with(|_, validated| {
        pebble.start(validated, LONG);
        // For so long old processes wait for their clients.
        pebble.settings(Some(ports[2])) + "request_timeout = \"100s\"\n"
    });
    // The old process has its answer ready, and cannot say so.
    let pending = front.folder.path().join("state/acme");
    let (held, let_go) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let is_let_go = Arc::clone(&let_go);
    gate(ports[2], ports[0], Arc::clone(&held), move || {
        let answers = std::fs::read_dir(&pending).into_iter().flatten().flatten();
        let answers = answers.flat_map(|it| std::fs::read_dir(it.path().join("pending")));
        let waits = answers.flatten().flatten().next().is_some();
        waits && !is_let_go.load(Relaxed)
    });
    becomes("the order is pending", true, || held.load(Relaxed));
    // The authority comes to the youngest, the oldest waits for it.
    let old = vec![front.upgrade(), front.upgrade()];
    let_go.store(true, Relaxed);
    is_shown(&front, &pebble);
    assert_eq!(pebble.orders(), 1, "{}", pebble.log());
    assert_ended(old, &front);
}

#[test]
fn an_authority_that_has_forgotten_the_account_gets_another_one() {
    let (mut front, mut pebble) = ordering("", LONG);
    let first = is_shown(&front, &pebble);
    pebble.start([front.plain, front.secure], LONG);
    // What was kept is broken, so that another one has to be ordered.
    let kept = kept(&front).join("certificate.pem");
    std::fs::write(kept, "nonsense").expect("it is there");
    front.restart();
    assert!(
        front
            .read("log")
            .contains("a self-signed certificate is shown meanwhile")
    );
    let second = is_shown(&front, &pebble);
    assert_ne!(first, second);
    assert!(
        front
            .read("log")
            .contains("does not know the account any more")
    );
}

#[test]
fn curl_trusts_what_was_issued_if_it_trusts_the_authority() {
    let (front, pebble) = ordering("", LONG);
    is_shown(&front, &pebble);
    let root = pebble.root();
    let url = format!("https://front.test:{}/x", front.secure);
    let to = format!("front.test:{}:127.0.0.1", front.secure);
    let mut curl = bounded("curl");
    curl.args(["-s", "-S", "--resolve", &to, "--cacert"])
        .arg(root)
        .arg(url);
    assert_eq!(succeeded(&curl.output().expect("curl runs")), "GET 0");
}
