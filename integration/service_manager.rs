//! systemd: sockets it passes, and what it is told. And the log, as a service
//! has it.

use crate::harness::pooler::{Ini, Pooler};
use crate::harness::process;
use crate::harness::wire::Wire;
use crate::harness::{becomes, eventually, only_pgweir};
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Starts the pooler again as systemd would: with these sockets as its
/// descriptors 3 and up, and this place to notify.
fn under_systemd(pooler: &mut Pooler<'_>, sockets: &[OwnedFd], notify: Option<&str>) {
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    let script = passing(sockets, "");
    for socket in sockets {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).expect("open");
    }
    pooler.start_again(|ini| {
        let mut command = process::server_command(Path::new("bash"), "KILL");
        command
            .args(["-c", &script])
            .arg(process::program())
            .arg(ini);
        if sockets.is_empty() {
            command.env_remove("LISTEN_FDS");
        }
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        command
    });
    for socket in sockets {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC).expect("open");
    }
}

/// A script for bash that runs its arguments with these sockets as systemd
/// passes them. They have to be open without CLOEXEC.
pub(crate) fn passing(sockets: &[OwnedFd], names: &str) -> String {
    let listed: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    // By way of high numbers, so that none is overwritten before it is moved.
    let mut script = String::new();
    for (index, number) in listed.iter().enumerate() {
        script += &format!("exec {}<&{number}; ", 100 + index);
    }
    for index in 0..listed.len() {
        script += &format!(
            "exec {}<&{}; exec {}<&-; ",
            3 + index,
            100 + index,
            100 + index
        );
    }
    script += &format!(
        "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={names}; exec \"$0\" \"$@\"",
        listed.len()
    );
    script
}

/// A socket at a place of its own that the pooler may write to.
fn manager(pooler: &Pooler<'_>) -> (UnixDatagram, String) {
    let path = pooler.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a free name");
    rustix::fs::chmod(&path, rustix::fs::Mode::from_bits_truncate(0o777)).expect("ours");
    socket
        .set_read_timeout(Some(crate::harness::DEADLINE))
        .expect("not zero");
    (socket, path.display().to_string())
}

fn told(manager: &UnixDatagram) -> String {
    let mut state = [0; 4096];
    let len = manager.recv(&mut state).expect("it is told");
    String::from_utf8_lossy(&state[..len]).into_owned()
}

#[test]
fn the_manager_hears_of_start_reload_and_stop() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let (manager, path) = manager(&pooler);
    under_systemd(&mut pooler, &[], Some(&path));
    assert_eq!(told(&manager), "READY=1");
    pooler.assert_serves();
    pooler.signal(Signal::HUP);
    let reloading = told(&manager);
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let since: i64 = since
        .and_then(|it| it.parse().ok())
        .unwrap_or_else(|| panic!("{reloading}"));
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    assert!(
        (0..60).contains(&(now.tv_sec - since / 1_000_000)),
        "{since}"
    );
    assert_eq!(told(&manager), "READY=1");
    pooler.signal(Signal::TERM);
    assert_eq!(told(&manager), "STOPPING=1");
    assert_eq!(pooler.wait_end().code(), Some(0));
}

#[test]
fn the_manager_gets_the_statistics_as_its_status() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    let mut pooler = Ini::transaction().set("stats_period", 1).start();
    let (manager, path) = manager(&pooler);
    under_systemd(&mut pooler, &[], Some(&path));
    assert_eq!(told(&manager), "READY=1");
    let status = told(&manager);
    assert!(status.starts_with("STATUS=stats: 0 xacts/s"), "{status}");
    assert!(status.ends_with("wait 0 μs"), "{status}");
}

#[test]
fn sockets_that_are_passed_are_the_only_ones_listened_on() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = tcp.local_addr().expect("bound");
    let path = pooler.folder.path().join("passed");
    let unix = UnixListener::bind(&path).expect("a free name");
    rustix::fs::chmod(&path, rustix::fs::Mode::from_bits_truncate(0o777)).expect("ours");
    under_systemd(&mut pooler, &[tcp.into(), unix.into()], None);
    let login = pooler.login("alice");
    let mut client = login.at(address).expect("let in");
    assert_eq!(client.value("select 'tcp'"), "tcp");
    UnixStream::connect(&path).expect("somebody listens");
    assert!(Wire::try_connect(pooler.address()).is_none());
    pooler.wait_log("sockets passed from service manager, cf_listen_addr ignored");
    pooler.wait_log("sockets passed from service manager, cf_unix_socket_dir ignored");
    pooler.wait_log("socket passed from service manager (fd 4)");
}

#[test]
fn what_is_passed_and_is_no_listening_socket_ends_the_start() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    let mut pooler = Ini::transaction().start();
    let (one, _other) = UnixStream::pair().expect("a pair");
    under_systemd(&mut pooler, &[one.into()], None);
    assert_eq!(pooler.wait_end().code(), Some(1));
    let log = pooler.log();
    let text = "failed to set up socket passed from service manager (fd 3): not a listening";
    assert!(log.contains(text), "{log}");
}

#[test]
fn the_log_file_is_opened_anew_by_a_reload() {
    let mut pooler = Ini::transaction().start();
    let [file, old] = ["pooler.log", "old.log"].map(|name| pooler.folder.path().join(name));
    pooler.ini.change("logfile", file.display());
    pooler.write_config();
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    pooler.start_again(|ini| {
        let mut command = process::server_command(process::program(), "KILL");
        command.arg(ini);
        command
    });
    becomes("it serves", true, || {
        Wire::try_connect(pooler.address()).is_some()
    });
    std::fs::rename(&file, &old).expect("it is there");
    pooler.console("RELOAD");
    pooler.console("SHOW VERSION");
    eventually("the new file", || match std::fs::read_to_string(&file) {
        Ok(text) if !text.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let old = std::fs::read_to_string(&old).expect("readable");
    assert!(old.contains("process up"), "{old}");
    assert!(
        pooler.log().contains("process up"),
        "standard error has it too"
    );
}

#[test]
fn quiet_is_for_standard_error_alone() {
    let mut pooler = Ini::transaction().start();
    let file = pooler.folder.path().join("pooler.log");
    pooler.ini.change("logfile", file.display());
    pooler.write_config();
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    let before = pooler.log();
    pooler.start_again(|ini| {
        let mut command = process::server_command(process::program(), "KILL");
        command.arg("--quiet").arg(ini);
        command
    });
    eventually("the file", || match std::fs::read_to_string(&file) {
        Ok(text) if text.contains("process up") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(pooler.log(), before);
}

#[test]
fn the_units_are_as_systemd_wants_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    for unit in [
        "pgweir.service",
        "pgweir-http.socket",
        "pgweir-https.socket",
        "pgweir-quic.socket",
        "pgbouncer.service",
        "pgbouncer.socket",
    ] {
        let text = std::fs::read_to_string(root.join(unit)).expect("shipped");
        // Verified is what is there, so the program has to be.
        let folder = process::Folder::new("units");
        let program = process::program().display().to_string();
        let text = text
            .replace("/usr/local/bin/pgweir", &program)
            .replace("/usr/local/bin/pgbouncer", &program);
        let file = folder.write(unit, &text);
        if unit.ends_with(".socket") {
            let name = unit.split(['-', '.']).next().expect("a word");
            let service = format!("{name}.service");
            let text = std::fs::read_to_string(root.join(&service)).expect("shipped");
            folder.write(
                &service,
                &text.replace(&format!("/usr/local/bin/{name}"), &program),
            );
        }
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&file)
            .output()
            .expect("systemd-analyze, which scripts/setup installs");
        // It says what it does not understand and still succeeds.
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_it: Vec<_> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(about_it.is_empty(), "{said}");
    }
}
