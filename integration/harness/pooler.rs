//! A pooler under test, with a configuration of its own.

use super::backend::{Fields, Message};
use super::postgres::{Backend, Database, Postgres, free_port, password_of, pid_of};
use super::process::{self, Folder};
use super::wire::{Login, Reply, Wire};
use super::{becomes, eventually};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

/// What the ini file and the user list hold.
#[derive(Debug, Clone)]
pub(crate) struct Ini {
    pgbouncer: Vec<(String, String)>,
    databases: Vec<(String, String)>,
    users: Vec<(String, String)>,
    /// What PgBouncer does not have.
    pgweir: Vec<(String, String)>,
    /// Further files beside the ini file.
    files: Vec<(String, String)>,
    /// Variables of its environment.
    environment: Vec<(String, String)>,
    /// What runs on it, if not the pooler under test.
    program: Option<PathBuf>,
    pub(crate) userlist: Vec<(String, String)>,
}

impl Ini {
    /// One database `db`, unless [`database`](Self::database) names others;
    /// users alice, bob and carol with their passwords, admin on the console.
    pub(crate) fn new(pool_mode: &str) -> Self {
        let ini = Self {
            pgbouncer: Vec::new(),
            databases: Vec::new(),
            users: Vec::new(),
            pgweir: Vec::new(),
            files: Vec::new(),
            environment: Vec::new(),
            program: None,
            userlist: [
                "alice",
                "bob",
                "carol",
                "admin",
                "stats",
                "plain_user",
                "md5_user",
                "scram_user",
            ]
            .map(|user| (user.to_owned(), password_of(user)))
            .to_vec(),
        };
        ini.set("listen_addr", "127.0.0.1")
            .set("auth_type", "trust")
            .set("admin_users", "admin")
            .set("stats_users", "stats")
            .set("max_client_conn", 500)
            .set("server_login_retry", 1)
            .set("pool_mode", pool_mode)
    }

    pub(crate) fn session() -> Self {
        Self::new("session")
    }

    pub(crate) fn transaction() -> Self {
        Self::new("transaction")
    }

    pub(crate) fn statement() -> Self {
        Self::new("statement")
    }

    /// One server for each pool.
    pub(crate) fn one_server(self) -> Self {
        self.set("default_pool_size", 1)
    }

    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.change(key, value);
        self
    }

    pub(crate) fn change(&mut self, key: &str, value: impl ToString) {
        set(&mut self.pgbouncer, key, &value.to_string());
    }

    pub(crate) fn unset(mut self, key: &str) -> Self {
        self.pgbouncer.retain(|(known, _)| known != key);
        self
    }

    /// An entry of `[databases]`; `PORT` in it becomes the shared instance's
    /// port, `DBNAME` the database leased for this pooler.
    pub(crate) fn database(mut self, name: &str, connect_string: &str) -> Self {
        set(&mut self.databases, name, connect_string);
        self
    }

    /// Adds keys to the entry `db`.
    pub(crate) fn db(self, keys: &str) -> Self {
        self.database(
            "db",
            &format!("host=127.0.0.1 port=PORT dbname=DBNAME {keys}"),
        )
    }

    /// The entry `db` is served by whatever listens there.
    pub(crate) fn server(self, address: SocketAddr) -> Self {
        self.database(
            "db",
            &format!(
                "host={} port={} dbname=DBNAME",
                address.ip(),
                address.port()
            ),
        )
    }

    /// An entry of `[users]`.
    pub(crate) fn user(mut self, name: &str, keys: &str) -> Self {
        set(&mut self.users, name, keys);
        self
    }

    /// A setting that PgBouncer does not have.
    pub(crate) fn pgweir(mut self, key: &str, value: impl ToString) -> Self {
        set(&mut self.pgweir, key, &value.to_string());
        self
    }

    /// A file beside the ini file, which may name it without a folder.
    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.change_file(name, text);
        self
    }

    pub(crate) fn change_file(&mut self, name: &str, text: &str) {
        set(&mut self.files, name, text);
    }

    /// A variable of the pooler's environment.
    pub(crate) fn environment(mut self, name: &str, value: impl ToString) -> Self {
        set(&mut self.environment, name, &value.to_string());
        self
    }

    /// Runs this program, which [`runnable`](process::runnable) has copied.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// An entry of the user list.
    pub(crate) fn secret(mut self, user: &str, secret: &str) -> Self {
        set(&mut self.userlist, user, secret);
        self
    }

    /// Starts a pooler in front of a database of the shared instance.
    pub(crate) fn start(self) -> Pooler<'static> {
        self.start_on(Postgres::shared())
    }

    /// Starts a pooler in front of a database of this instance.
    pub(crate) fn start_on(mut self, postgres: &Postgres) -> Pooler<'_> {
        if self.databases.is_empty() {
            self = self.db("");
        }
        Pooler::start(self, postgres)
    }

    fn text(&self, folder: &Path, port: u16, server_port: u16, database: &str) -> String {
        let section = |name: &str, entries: &[(String, String)]| {
            let lines = entries
                .iter()
                .map(|(key, value)| format!("{key} = {value}\n"));
            format!("[{name}]\n{}", lines.collect::<String>())
        };
        let folder = folder.display();
        let databases = section("databases", &self.databases)
            .replace("PORT", &server_port.to_string())
            .replace("DBNAME", database);
        let files = format!(
            "listen_port = {port}\nunix_socket_dir = {folder}\nauth_file = {folder}/userlist.txt\n"
        );
        let own = section("pgbouncer", &self.pgbouncer);
        let header = "[pgbouncer]\n";
        [
            // In front, so that a test may set other ones.
            own.replace(header, &[header, &files].concat()),
            databases,
            section("users", &self.users),
            match self.pgweir.is_empty() {
                true => String::new(),
                false => section("pgweir", &self.pgweir),
            },
        ]
        .concat()
    }

    fn userlist_text(&self) -> String {
        let quote = |text: &str| text.replace('"', "\"\"");
        let line = |(user, secret): &(String, String)| {
            format!("\"{}\" \"{}\"\n", quote(user), quote(secret))
        };
        self.userlist.iter().map(line).collect()
    }
}

fn set(entries: &mut Vec<(String, String)>, key: &str, value: &str) {
    match entries.iter_mut().find(|(known, _)| known == key) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => entries.push((key.to_owned(), value.to_owned())),
    }
}

/// A running pooler.
#[derive(Debug)]
pub(crate) struct Pooler<'a> {
    // Dropped in this order: first the process, last the database it uses.
    child: Option<Child>,
    pub(crate) ini: Ini,
    port: u16,
    server_port: u16,
    pub(crate) folder: Folder,
    /// The database behind the entry `db`.
    pub(crate) database: Database<'a>,
}

impl<'a> Pooler<'a> {
    fn start(ini: Ini, postgres: &'a Postgres) -> Self {
        let mut pooler = Pooler {
            child: None,
            ini,
            port: 0,
            server_port: postgres.port,
            folder: Folder::new("pooler"),
            database: postgres.lease(),
        };
        // Another process may take the free port before the pooler does.
        (0..3)
            .find_map(|_| pooler.launch())
            .expect("the pooler starts");
        pooler
    }

    fn program(&self) -> &Path {
        self.ini.program.as_deref().unwrap_or(process::program())
    }

    /// One try to start the process; none if it ended.
    fn launch(&mut self) -> Option<()> {
        self.port = free_port();
        let file = self.write_config();
        let log = std::fs::File::create(self.log_path()).expect("our own folder");
        // Set for the pooler alone, not for what starts it.
        let mut command = process::server_command(Path::new("env"), "KILL");
        let variables = self.ini.environment.iter();
        command.args(variables.map(|(name, value)| format!("{name}={value}")));
        command
            .arg(self.program())
            .arg(&file)
            .current_dir(self.folder.path());
        command
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log);
        let mut child = process::spawn(command);
        let first = eventually("the pooler listens or ends", || match child.try_wait() {
            Ok(Some(_)) => Ok(None),
            // Else it may be another one that listens there.
            _ if !self.log().contains("process up") => Err(self.log()),
            _ => Wire::try_connect(self.address())
                .map(Some)
                .ok_or_else(|| self.log()),
        });
        let mut first = first?;
        self.child = Some(child);
        // Wait until this first connection is no longer counted.
        let console = Login::new("admin", "pgbouncer").password(&password_of("admin"));
        first.send(console.packet());
        if matches!(first.try_finish_login(&console), Ok(Ok(()))) {
            first.leave();
        }
        Some(())
    }

    /// Writes the files without a reload.
    pub(crate) fn write_config(&self) -> PathBuf {
        self.folder.write("userlist.txt", &self.ini.userlist_text());
        for (name, text) in &self.ini.files {
            self.folder.write(name, text);
        }
        let text = self.ini.text(
            self.folder.path(),
            self.port,
            self.server_port,
            &self.database.name,
        );
        self.folder.write("pgbouncer.ini", &text)
    }

    /// Changes the files and reloads.
    pub(crate) fn reload(&mut self, change: impl FnOnce(&mut Ini)) {
        change(&mut self.ini);
        self.write_config();
        assert_eq!(self.console("RELOAD").tag, "RELOAD");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Of the PostgreSQL behind it.
    pub(crate) fn server_port(&self) -> u16 {
        self.server_port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the pooler runs").id()
    }

    /// A login of this user to the entry `db`, with the right password.
    pub(crate) fn login(&self, user: &str) -> Login {
        Login::new(user, "db").password(&password_of(user))
    }

    /// alice, logged in to the entry `db`.
    pub(crate) fn client(&self) -> Wire {
        self.client_of("alice")
    }

    pub(crate) fn client_of(&self, user: &str) -> Wire {
        self.login(user)
            .at(self.address())
            .unwrap_or_else(|error| panic!("{user} logs in: {error:?}\n{}", self.log()))
    }

    /// A new console session of this user.
    pub(crate) fn console_of(&self, user: &str) -> Wire {
        Login::new(user, "pgbouncer")
            .password(&password_of(user))
            .at(self.address())
            .unwrap_or_else(|error| panic!("{user} enters the console: {error:?}"))
    }

    /// One command in a console session of its own.
    pub(crate) fn console(&self, command: &str) -> Table {
        let mut session = self.console_of("admin");
        let reply = session.query(command);
        let table = Table::from(reply.succeeded());
        session.leave();
        table
    }

    /// The error that a console command gets.
    pub(crate) fn console_error(&self, command: &str) -> Fields {
        let reply = self.console_of("admin").query(command);
        reply
            .error()
            .unwrap_or_else(|| panic!("{command} has to fail"))
            .clone()
    }

    /// A number in SHOW POOLS, of alice's pool.
    pub(crate) fn pool(&self, column: &str) -> i64 {
        self.console("SHOW POOLS")
            .find(&[("database", "db"), ("user", "alice")])
            .map_or(0, |row| row.number(column))
    }

    /// Waits until a number in SHOW POOLS, of alice's pool, is this.
    pub(crate) fn wait_pool(&self, column: &str, expected: i64) {
        becomes(&format!("{column} of the pool"), expected, || {
            self.pool(column)
        });
    }

    /// A client that begins to log in so, and leaves as soon as it is counted,
    /// is not counted any more long before a deadline could have ended it.
    pub(crate) fn assert_notices_that_a_login_leaves(&self, begin: impl FnOnce(&mut Wire)) {
        let logins = || {
            let lists = self.console("SHOW LISTS");
            lists.row(&[("list", "login_clients")]).number("items")
        };
        let mut client = Wire::connect(self.address());
        begin(&mut client);
        becomes("clients that log in", 1, logins);
        drop(client);
        becomes("clients that log in", 0, logins);
    }

    /// Sessions on the database behind `db`.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        self.database.backends()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts the process again with the same files, without waiting for it.
    pub(crate) fn start_again(&mut self, command: impl FnOnce(&Path) -> Command) {
        self.child = Some(self.another(command));
    }

    /// Starts another process with the same files, which is the pooler from now
    /// on; answers the one before it.
    pub(crate) fn start_beside(&mut self, command: impl FnOnce(&Path) -> Command) -> Child {
        let old = self.child.take();
        self.child = Some(self.another(command));
        old.expect("there is one before it")
    }

    fn another(&self, command: impl FnOnce(&Path) -> Command) -> Child {
        let log = std::fs::File::options().append(true).open(self.log_path());
        let log = log.expect("our own folder");
        let mut command = command(&self.folder.path().join("pgbouncer.ini"));
        command.current_dir(self.folder.path());
        command
            .stdout(log.try_clone().expect("an open file"))
            .stderr(log);
        process::spawn(command)
    }

    /// libpq's parameters for alice at the entry `db`, over TCP or, from a
    /// folder, over the Unix socket.
    pub(crate) fn bench_conninfo_at(&self, host: &str) -> String {
        format!(
            "host={host} port={} user=alice password={} dbname=db",
            self.address().port(),
            password_of("alice")
        )
    }

    /// All it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    pub(crate) fn wait_log(&self, text: &str) {
        eventually("the log", || {
            let log = self.log();
            if log.contains(text) {
                Ok(())
            } else {
                Err(format!("no \"{text}\" in\n{log}"))
            }
        });
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let child = self.child.as_ref().expect("the pooler runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))
            .expect("the pooler runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("Linux");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("kB")
            * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the pooler runs");
        rustix::process::kill_process(pid_of(child), signal).expect("the pooler runs");
    }

    /// Waits for the process's end.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the pooler runs");
        eventually("the pooler ends", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err("it runs".to_owned()),
        })
    }

    /// It still runs and answers on the console.
    pub(crate) fn assert_serves_console(&self) {
        assert_eq!(self.console("SHOW VERSION").rows.len(), 1);
    }

    /// It still runs and serves a new client.
    pub(crate) fn assert_serves(&self) {
        assert_eq!(self.client_of("bob").value("select 'served'"), "served");
    }
}

impl Drop for Pooler<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the pooler's log ---\n{}", tail.join("\n"));
        }
    }
}

/// What a console command returned.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Names and type ids.
    pub(crate) columns: Vec<(String, u32)>,
    pub(crate) rows: Vec<Row>,
    pub(crate) tag: String,
}

/// One row of a [`Table`].
#[derive(Debug, Clone)]
pub(crate) struct Row {
    names: Vec<String>,
    values: Vec<Option<String>>,
}

impl Table {
    pub(crate) fn from(reply: &Reply) -> Self {
        let columns: Vec<(String, u32)> = reply
            .messages
            .iter()
            .filter_map(|message| match message {
                Message::RowDescription(columns) => Some(columns),
                _ => None,
            })
            .flatten()
            .map(|column| (column.name.clone(), column.kind))
            .collect();
        let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        let rows = reply
            .rows()
            .into_iter()
            .map(|values| Row {
                names: names.clone(),
                values,
            })
            .collect();
        Self {
            columns,
            rows,
            tag: reply.tags().concat(),
        }
    }

    /// The first row with these values.
    pub(crate) fn find(&self, wanted: &[(&str, &str)]) -> Option<&Row> {
        self.rows.iter().find(|row| {
            wanted
                .iter()
                .all(|(column, value)| row.text(column) == *value)
        })
    }

    /// As [`find`](Self::find), where there has to be one.
    pub(crate) fn row(&self, wanted: &[(&str, &str)]) -> &Row {
        self.find(wanted)
            .unwrap_or_else(|| panic!("no row {wanted:?} in {:#?}", self.rows))
    }

    /// One column.
    pub(crate) fn column(&self, name: &str) -> Vec<String> {
        self.rows.iter().map(|row| row.text(name)).collect()
    }
}

impl Row {
    /// A value; NULL is `NULL`.
    pub(crate) fn text(&self, column: &str) -> String {
        let index = self.names.iter().position(|name| name == column);
        let index = index.unwrap_or_else(|| panic!("no column {column} in {:?}", self.names));
        self.values[index]
            .clone()
            .unwrap_or_else(|| "NULL".to_owned())
    }

    pub(crate) fn number(&self, column: &str) -> i64 {
        let text = self.text(column);
        text.parse()
            .unwrap_or_else(|_| panic!("{column} is {text}, not a number"))
    }
}
