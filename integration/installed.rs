//! pgweir where Debian's package puts PgBouncer: with its example ini, under
//! its units and under ours. In name spaces of its own, so that nothing of
//! this machine is touched and its ports do not matter.

use crate::harness::postgres::{Postgres, password_of};
use crate::harness::process::{self, Folder};
use crate::harness::{becomes, eventually, only_pgweir};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

/// Debian's package, and ours in its place.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// Makes the places that the ini names. The arguments: the folder they are in,
/// and the program. What has to stay visible is in neither place.
const PLACES: &str = "
    set -e
    mount -t tmpfs -o mode=755 places /run
    mkdir -p /run/postgresql
    mount --bind \"$1/run\" /run/postgresql
    mount -t tmpfs -o mode=755 places /var/log
    mkdir -p /var/log/postgresql
    mount --bind \"$1/log\" /var/log/postgresql
    mount --bind \"$1/etc\" /etc/pgbouncer
    mount --bind \"$2\" /usr/sbin/pgbouncer
    ip link set lo up
    shift 2
";

/// Opens the sockets that `$SOCKETS` lists, as systemd does for a socket unit,
/// and becomes the service.
const SYSTEMD: &str = "
import os, socket, sys
for number, place in enumerate(os.environ.pop('SOCKETS').split(), 3):
    if place.startswith('/'):
        opened = socket.socket(socket.AF_UNIX)
        opened.bind(place)
        os.chmod(place, 0o777)
    else:
        opened = socket.socket(socket.AF_INET)
        opened.bind(('', int(place)))
    opened.listen()
    assert opened.fileno() == number, 'descriptors in order'
    os.set_inheritable(number, True)
    opened.detach()
    os.environ['LISTEN_FDS'] = str(number - 2)
os.environ['LISTEN_PID'] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
";

/// The places as they are outside: `etc`, `log` and `run`.
struct Places {
    folder: Folder,
    ini: String,
}

impl Places {
    /// With Debian's ini.
    fn new() -> Places {
        let folder = Folder::new("installed");
        for name in ["etc", "log", "run"] {
            std::fs::create_dir(folder.path().join(name)).expect("a new folder");
            process::give_away(&folder.path().join(name));
        }
        let places = Places {
            folder,
            ini: debians_ini(),
        };
        places.write("pgbouncer.ini", &places.ini);
        let secrets = format!("\"alice\" \"{}\"\n", password_of("alice"));
        places.write("userlist.txt", &secrets);
        places
    }

    fn write(&self, name: &str, text: &str) {
        self.folder.write(&format!("etc/{name}"), text);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs this in the places, under the servers' account.
    fn start(&self, change: impl FnOnce(&mut Command), line: &[&str]) -> Child {
        let errors = std::fs::File::create(self.path("errors")).expect("our own folder");
        let mut command = process::private_command(PLACES);
        command.arg(self.folder.path()).arg(process::program());
        command.args(process::account_words("KILL")).args(line);
        command.stderr(errors).current_dir("/");
        change(&mut command);
        process::spawn(command)
    }

    /// What psql says there, over the Unix socket.
    fn psql(&self, user: &str, database: &str, query: &str) -> Result<String, String> {
        let mut psql = process::server_command(Path::new("psql"), "KILL");
        psql.args(["-X", "-A", "-t", "-p", "6432", "-h"])
            .arg(self.path("run"))
            .args(["-U", user, "-d", database, "-c", query])
            .env("PGPASSWORD", password_of(user));
        let output = psql.output().expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    /// Waits until the console lets its own user in.
    fn wait_served(&self, child: &mut Child) {
        let version = eventually("it serves", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("{status}: {}{}", self.errors(), self.log());
            }
            self.psql("pgbouncer", "pgbouncer", "SHOW VERSION")
        });
        assert!(version.starts_with("PgBouncer 1."), "{version}");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log/pgbouncer.log")).unwrap_or_default()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.path("errors")).unwrap_or_default()
    }

    fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.path("run/pgbouncer.pid"));
        let text = text.expect("the pid file");
        text.trim().parse().expect("a number")
    }

    fn assert_gone(&self) {
        for name in ["run/pgbouncer.pid", "run/.s.PGSQL.6432"] {
            assert!(!self.path(name).exists(), "{name} is left");
        }
    }
}

/// The ini as the package brings it.
fn debians_ini() -> String {
    // The first may be read by the user postgres alone; the second is the same.
    let places = ["/etc/pgbouncer", "/usr/share/doc/pgbouncer/examples"];
    let mut files = places
        .iter()
        .map(|folder| Path::new(folder).join("pgbouncer.ini"));
    let found = files.find_map(|file| std::fs::read_to_string(file).ok());
    found.expect("pgbouncer.ini of Debian's package; scripts/setup installs it")
}

fn signal(pid: i32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
    rustix::process::kill_process(pid, signal).expect("it runs");
}

fn ended(child: &mut Child) -> ExitStatus {
    eventually("it ends", || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn debians_example_ini_starts_and_serves_unchanged() {
    let places = Places::new();
    let mut child = places.start(|_| {}, &[PROGRAM, "/etc/pgbouncer/pgbouncer.ini"]);
    places.wait_served(&mut child);
    assert_eq!(places.pid(), child.id().cast_signed());
    let log = places.log();
    for line in [
        "listening on 127.0.0.1:6432",
        "listening on unix:/var/run/postgresql/.s.PGSQL.6432",
        "process up: PgBouncer 1.",
    ] {
        assert!(log.contains(line), "no \"{line}\" in\n{log}");
    }
    let refused = places
        .psql("alice", "nowhere", "select 1")
        .expect_err("refused");
    assert!(refused.contains("no such database: nowhere"), "{refused}");
    signal(places.pid(), Signal::INT);
    assert_eq!(ended(&mut child).code(), Some(0));
    places.assert_gone();
}

#[test]
fn debians_example_ini_serves_a_database_that_is_added() {
    let places = Places::new();
    let postgres = Postgres::shared();
    let database = postgres.lease();
    let line = format!(
        "[databases]\ndb = host={} port={} dbname={}\n",
        postgres.folder().display(),
        postgres.port,
        database.name
    );
    let ini = places.ini.replace("[databases]\n", &line);
    assert_ne!(ini, places.ini);
    places.write("pgbouncer.ini", &ini);
    let mut child = places.start(|_| {}, &[PROGRAM, "/etc/pgbouncer/pgbouncer.ini"]);
    places.wait_served(&mut child);
    let answer = places.psql("alice", "db", "select current_user");
    assert_eq!(answer.as_deref(), Ok("alice"), "{}", places.log());
    signal(places.pid(), Signal::QUIT);
    ended(&mut child);
}

#[test]
fn debians_example_ini_starts_a_daemon() {
    let places = Places::new();
    let line = [PROGRAM, "-d", "/etc/pgbouncer/pgbouncer.ini"];
    let mut child = places.start(|_| {}, &line);
    assert_eq!(ended(&mut child).code(), Some(0), "{}", places.errors());
    let version = eventually("it serves", || {
        places.psql("pgbouncer", "pgbouncer", "SHOW VERSION")
    });
    assert!(version.starts_with("PgBouncer 1."), "{version}");
    assert_eq!(places.errors(), "", "the log alone is written to");
    signal(places.pid(), Signal::INT);
    becomes("it ends", false, || {
        places.path("run/pgbouncer.pid").exists()
    });
    places.assert_gone();
}

/// A unit file: the values of each directive. No section has a directive of
/// another one's.
struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    fn read(file: &Path) -> Unit {
        let text = std::fs::read_to_string(file);
        let text = text.unwrap_or_else(|error| {
            panic!("{}: {error}; scripts/setup installs it", file.display())
        });
        let mut directives: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for (name, value) in lines.filter_map(|line| line.split_once('=')) {
            let values = directives.entry(name.to_owned()).or_default();
            values.push(value.to_owned());
        }
        Unit(directives)
    }

    fn one(&self, name: &str) -> &str {
        match self.0.get(name).map(Vec::as_slice) {
            Some([value]) => value,
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Units that run a pooler from `/etc/pgbouncer/pgbouncer.ini`: Debian's, which
/// but for a path are those that PgBouncer comes with, and ours.
fn units(kind: &str) -> Vec<PathBuf> {
    [
        Path::new("/lib/systemd/system"),
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd"),
    ]
    .map(|folder| folder.join(format!("pgbouncer.{kind}")))
    .to_vec()
}

/// As systemd would run it, as far as the pooler can tell.
struct Service<'a> {
    places: &'a Places,
    unit: Unit,
    manager: UnixDatagram,
    child: Child,
}

impl<'a> Service<'a> {
    fn start(places: &'a Places, file: &Path, sockets: &[String]) -> Service<'a> {
        let unit = Unit::read(file);
        assert_eq!(unit.one("Type"), "notify");
        assert_eq!(unit.one("User"), "postgres");
        let path = places.path("run/notify");
        std::fs::remove_file(&path).ok();
        let manager = UnixDatagram::bind(&path).expect("a free name");
        process::give_away(&path);
        let patience = Some(crate::harness::DEADLINE);
        manager.set_read_timeout(patience).expect("not zero");
        let (program, ini) = unit.one("ExecStart").split_once(' ').expect("the ini");
        assert!(program.ends_with("/pgbouncer"), "{program}");
        let child = places.start(
            |command| {
                command.env("NOTIFY_SOCKET", "/run/postgresql/notify");
                command.env("SOCKETS", sockets.join(" "));
            },
            &["/usr/bin/python3", "-c", SYSTEMD, PROGRAM, ini],
        );
        Service {
            places,
            unit,
            manager,
            child,
        }
    }

    fn told(&self) -> String {
        let mut state = [0; 4096];
        let len = self.manager.recv(&mut state).unwrap_or_else(|error| {
            let said = self.places.errors() + &self.places.log();
            panic!("nothing was told: {error}\n{said}")
        });
        String::from_utf8_lossy(&state[..len]).into_owned()
    }

    fn reload(&self) {
        let line = self.unit.one("ExecReload");
        let status = Command::new("sh")
            .args(["-c", line])
            .env("MAINPID", self.child.id().to_string())
            .status();
        assert!(status.expect("sh runs").success(), "{line}");
    }

    /// Answers the status it ends with.
    fn stop(mut self) -> Option<i32> {
        assert_eq!(self.unit.one("KillSignal"), "SIGINT");
        signal(self.child.id().cast_signed(), Signal::INT);
        assert_eq!(self.told(), "STOPPING=1");
        ended(&mut self.child).code()
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn pgbouncers_service_unit_runs_it_and_so_does_ours() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    for file in units("service") {
        let places = Places::new();
        let service = Service::start(&places, &file, &[]);
        assert_eq!(service.told(), "READY=1", "{}", file.display());
        let refused = places.psql("alice", "db", "select 1").expect_err("refused");
        assert!(refused.contains("no such database"), "{refused}");
        let line = "[databases]\ndb = host=127.0.0.1\n";
        places.write("pgbouncer.ini", &places.ini.replace("[databases]\n", line));
        service.reload();
        assert!(service.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(service.told(), "READY=1");
        let names = places.psql("pgbouncer", "pgbouncer", "SHOW DATABASES");
        assert!(names.expect("admitted").contains("db|127.0.0.1"));
        assert_eq!(service.stop(), Some(0));
        places.assert_gone();
    }
}

#[test]
fn sockets_of_pgbouncers_unit_are_listened_on_and_so_are_those_of_ours() {
    if only_pgweir("a PgBouncer may be built without systemd") {
        return;
    }
    for (socket, service) in units("socket").iter().zip(units("service")) {
        let unit = Unit::read(socket);
        let streams = &unit.0["ListenStream"];
        let places = Places::new();
        let service = Service::start(&places, &service, streams);
        assert_eq!(service.told(), "READY=1", "{}", socket.display());
        let version = places.psql("pgbouncer", "pgbouncer", "SHOW VERSION");
        assert!(version.expect("admitted").starts_with("PgBouncer 1."));
        let log = places.log();
        for number in 0..streams.len() {
            let line = format!("socket passed from service manager (fd {})", 3 + number);
            assert!(log.contains(&line), "no \"{line}\" in\n{log}");
        }
        assert_eq!(log.matches("listening on").count(), 0, "{log}");
        assert_eq!(service.stop(), Some(0));
    }
}
