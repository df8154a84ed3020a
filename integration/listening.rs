//! What is listened on, and how connections come in.

use crate::harness::becomes;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::client_program;
use crate::harness::process;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The pooler's side of a TCP connection, as `/proc/net/tcp` has it.
#[derive(Debug)]
struct Row {
    /// Its state there: the connection waits for the first bytes.
    is_deferred: bool,
    /// A keep-alive timer runs.
    is_kept_alive: bool,
}

impl Row {
    fn of(stream: &TcpStream) -> Row {
        let [here, there] = [stream.peer_addr(), stream.local_addr()].map(|address| {
            let SocketAddr::V4(address) = address.expect("connected") else {
                panic!("127.0.0.1");
            };
            let ip = u32::from_le_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        });
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        let row = table.lines().find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            (columns[1..3] == [here.as_str(), there.as_str()]).then(|| Row {
                is_deferred: columns[3] == "03",
                is_kept_alive: columns[5].starts_with("02"),
            })
        });
        row.unwrap_or_else(|| panic!("no connection from {there} to {here} in\n{table}"))
    }
}

/// Whether silent connections wait for their first bytes. After a second they
/// no longer do, which a slow machine may take to look.
fn defers(pooler: &Pooler<'_>) -> bool {
    (0..5).any(|_| {
        let stream = TcpStream::connect(pooler.address()).expect("it listens");
        Row::of(&stream).is_deferred
    })
}

#[test]
fn tcp_defer_accept_leaves_silent_connections_to_the_system() {
    let mut pooler = Ini::transaction().start();
    assert!(defers(&pooler), "it is the default");
    pooler.console("SET tcp_defer_accept = 0");
    assert!(!defers(&pooler));
    pooler.reload(|ini| ini.change("tcp_defer_accept", 1));
    assert!(defers(&pooler));
    pooler.reload(|ini| ini.change("tcp_defer_accept", 0));
    assert!(!defers(&pooler));
    pooler.assert_serves();
}

#[test]
fn tcp_keepalive_is_that_of_the_moment_a_client_comes() {
    let mut pooler = Ini::transaction().set("tcp_defer_accept", 0).start();
    let keeps = |pooler: &Pooler<'_>, wanted| {
        let stream = TcpStream::connect(pooler.address()).expect("it listens");
        becomes("the keep-alive timer runs", wanted, || {
            Row::of(&stream).is_kept_alive
        });
    };
    keeps(&pooler, true);
    pooler.console("SET tcp_keepalive = 0");
    let late = TcpStream::connect(pooler.address()).expect("it listens");
    // Whoever logs in after it has been accepted after it, too.
    pooler.assert_serves();
    assert!(!Row::of(&late).is_kept_alive);
    pooler.reload(|ini| ini.change("tcp_keepalive", 1));
    keeps(&pooler, true);
}

/// Connections that come about while nothing is accepted.
fn queued(mut connect: impl FnMut() -> Option<OwnedFd>) -> usize {
    let all: Vec<OwnedFd> = (0..8).map_while(|_| connect()).collect();
    all.len()
}

#[test]
fn listen_backlog_bounds_those_who_are_not_accepted_yet() {
    // Linux lets one more in than it is told.
    for backlog in [2, 4] {
        let pooler = Ini::transaction()
            .set("listen_backlog", backlog)
            .set("tcp_defer_accept", 0)
            .start();
        let mut console = pooler.console_of("admin");
        console.query("SUSPEND").succeeded();
        let tcp = queued(|| {
            let limit = Duration::from_millis(300);
            let stream = TcpStream::connect_timeout(&pooler.address(), limit);
            stream.ok().map(Into::into)
        });
        assert_eq!(tcp, backlog + 1);
        let file = SocketAddrUnix::new(socket_file(&pooler)).expect("short");
        let unix = queued(|| {
            let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(family, kind, flags, None);
            let socket = socket.expect("there are descriptors");
            rustix::net::connect(&socket, &file).ok().map(|()| socket)
        });
        assert_eq!(unix, backlog + 1);
        console.query("RESUME").succeeded();
        pooler.assert_serves();
    }
}

/// A second process on another pooler's port, with a Unix socket of its own.
fn beside(pooler: &Pooler<'_>, shared: bool) -> Pooler<'static> {
    let mut second = Ini::transaction()
        .set("so_reuseport", i32::from(shared))
        .start();
    second.ini.change("listen_port", pooler.address().port());
    again(&mut second);
    second
}

/// Starts the pooler again with what its ini says now.
fn again(pooler: &mut Pooler<'_>) {
    pooler.write_config();
    pooler.signal(Signal::QUIT);
    pooler.wait_end();
    pooler.start_again(|ini| {
        let mut command = process::server_command(process::program(), "KILL");
        command.arg(ini);
        command
    });
}

#[test]
fn so_reuseport_lets_several_processes_share_a_port() {
    let mut first = Ini::transaction().set("so_reuseport", 1).start();
    let second = beside(&first, true);
    becomes("both are up", 2, || {
        second.log().matches("process up").count()
    });
    first.signal(Signal::QUIT);
    first.wait_end();
    let login = second.login("alice");
    let mut client = login.at(first.address()).expect("the other one listens");
    assert_eq!(client.value("select 'shared'"), "shared");
}

#[test]
fn without_so_reuseport_a_port_in_use_ends_the_start() {
    for (first, second) in [(0, true), (1, false)] {
        let first = Ini::transaction().set("so_reuseport", first).start();
        let mut second = beside(&first, second);
        assert_eq!(second.wait_end().code(), Some(1), "{}", second.log());
        second.wait_log("failed to listen on any address in listen_addr list: 127.0.0.1");
        first.assert_serves();
    }
}

fn socket_file(pooler: &Pooler<'_>) -> PathBuf {
    let name = format!(".s.PGSQL.{}", pooler.address().port());
    pooler.folder.path().join(name)
}

/// What psql gets from there.
fn psql(host: &str, port: u16) -> String {
    let mut psql = client_program("psql");
    psql.args(["-X", "-A", "-t", "-c", "select 'here'"]);
    psql.args(["-h", host, "-p", &port.to_string(), "-U", "alice", "db"]);
    let output = psql.output().expect("psql runs");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
        .trim()
        .to_owned()
}

#[test]
fn the_unix_socket_has_its_mode_and_group() {
    let mut pooler = Ini::transaction().set("unix_socket_mode", "0751").start();
    let ours = socket_file(&pooler).symlink_metadata().expect("there");
    assert!(ours.file_type().is_socket());
    assert_eq!(ours.permissions().mode() & 0o7777, 0o751);
    let group = ours.gid();
    if rustix::process::geteuid().is_root() {
        // Else a new file has the wanted group in any case.
        let folder = pooler.folder.path();
        let other = Some(65534);
        std::os::unix::fs::chown(folder, None, other).expect("root may");
        let mode = std::fs::Permissions::from_mode(0o2777);
        std::fs::set_permissions(folder, mode).expect("root may");
        again(&mut pooler);
        wait_up(&pooler, 2);
        let metadata = socket_file(&pooler).symlink_metadata().expect("there");
        assert_eq!(Some(metadata.gid()), other, "the folder's");
    }
    let groups = std::fs::read_to_string("/etc/group").expect("Linux");
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == group.to_string()).then(|| name.to_owned())
    });
    let named = [Some(group.to_string()), name];
    for (round, named) in named.into_iter().flatten().enumerate() {
        pooler.ini.change("unix_socket_group", named);
        again(&mut pooler);
        wait_up(&pooler, 3 + round);
        let metadata = socket_file(&pooler).symlink_metadata().expect("there");
        assert_eq!(metadata.gid(), group);
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o751);
    }
}

fn wait_up(pooler: &Pooler<'_>, times: usize) {
    let times = match rustix::process::geteuid().is_root() {
        true => times,
        false => times - 1,
    };
    becomes("it is up", true, || {
        pooler.log().matches("process up").count() >= times
    });
}

#[test]
fn a_group_that_nobody_knows_ends_the_start() {
    let mut pooler = Ini::transaction().start();
    pooler.ini.change("unix_socket_group", "no-such-group");
    again(&mut pooler);
    assert_eq!(pooler.wait_end().code(), Some(1));
    pooler.wait_log("could not find group 'no-such-group'");
}

#[test]
fn a_lock_file_of_postgresql_ends_the_start() {
    let mut pooler = Ini::transaction().start();
    let lock = format!(".s.PGSQL.{}.lock", pooler.address().port());
    pooler.folder.write(&lock, "1\n");
    again(&mut pooler);
    assert_eq!(pooler.wait_end().code(), Some(1));
    let port = pooler.address().port();
    pooler.wait_log(&format!("unix port {port} is in use"));
}

#[test]
fn a_socket_may_be_abstract() {
    let name = format!("@pgweir-{}", std::process::id());
    let ini = Ini::transaction().set("unix_socket_dir", &name);
    let first = ini.start();
    let port = first.address().port();
    first.wait_log(&format!("listening on unix:{name}/.s.PGSQL.{port}"));
    assert_eq!(psql(&name, port), "here");
    assert!(!Path::new(&name).exists());

    // And it is reached by who has it as its server.
    let second = Ini::transaction()
        .set("unix_socket_dir", "")
        .database("db", &format!("host={name} port={port} dbname=db"))
        .start();
    assert_eq!(second.client().value("select 'through'"), "through");

    // Nobody else may have the name.
    let mut third = Ini::transaction().start();
    third.ini.change("listen_addr", "");
    third.ini.change("listen_port", port);
    third.ini.change("unix_socket_dir", &name);
    again(&mut third);
    assert_eq!(third.wait_end().code(), Some(1));
    third.wait_log("failed to create unix socket");
    assert_eq!(psql(&name, port), "here");
}
