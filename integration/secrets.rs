//! Secrets are planted wherever the pooler keeps them or passes them on, and
//! looked for in all it says: log, console, metrics, errors.

use crate::harness::backend::Message;
use crate::harness::frontend::{self, query};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::free_port;
use crate::harness::wire::{Login, Wire};
use crate::harness::{DEADLINE, only_pgweir};
use postgres_protocol::password as secrets;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Every planted secret begins so.
const PLANTED: &str = "planted";

/// What the console can show, and some things it has to refuse.
const COMMANDS: [&str; 24] = [
    "SHOW ACTIVE_SOCKETS",
    "SHOW CLIENTS",
    "SHOW CONFIG",
    "SHOW DATABASES",
    "SHOW DNS_HOSTS",
    "SHOW DNS_ZONES",
    "SHOW HELP",
    "SHOW LISTS",
    "SHOW MEM",
    "SHOW PEERS",
    "SHOW PEER_POOLS",
    "SHOW POOLS",
    "SHOW SERVERS",
    "SHOW SOCKETS",
    "SHOW STATE",
    "SHOW STATS",
    "SHOW STATS_AVERAGES",
    "SHOW STATS_TOTALS",
    "SHOW TOTALS",
    "SHOW USERS",
    "SHOW VERSION",
    "SHOW FDS",
    "SET nothing = 1",
    "KILL nowhere",
];

const PAGES: [&str; 5] = ["/", "/health", "/metrics", "/ready", "/nothing"];

/// All that was said, with the place where it was.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn hear(&mut self, place: &str, words: impl std::fmt::Debug) {
        self.0.push((place.to_owned(), format!("{words:?}")));
    }

    #[track_caller]
    fn assert_without(&self, secrets: &[String]) {
        for (place, words) in &self.0 {
            for secret in secrets {
                let found = words.split_once(secret.as_str());
                let (before, after) = found.unwrap_or_default();
                let around = before.chars().rev().take(200).collect::<Vec<_>>();
                let around: String = around.into_iter().rev().collect();
                let after: String = after.chars().take(50).collect();
                assert!(
                    found.is_none(),
                    "in {place} stands: {around}{secret}{after}"
                );
            }
        }
    }
}

fn page(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).expect("open");
    stream.set_read_timeout(Some(DEADLINE)).expect("above zero");
    let request = format!("GET {path} HTTP/1.1\r\nhost: pgweir\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// All that a connection says until it ends or is ready.
fn all_of(wire: &mut Wire) -> Vec<Message> {
    let mut all = Vec::new();
    while let Ok(message) = wire.recv_any() {
        let is_last = matches!(message, Message::ReadyForQuery(_));
        all.push(message);
        if is_last {
            break;
        }
    }
    all
}

/// Users with a secret of each kind, in `auth_file` and behind `auth_query`, a
/// forced user with a password, and every method by rule.
fn keeping(port: u16) -> (Pooler<'static>, Vec<String>) {
    let md5 = secrets::md5(b"planted-md5", "bob");
    let verifier = secrets::scram_sha_256(b"planted-scram");
    let (_, keys) = verifier.rsplit_once('$').expect("a verifier");
    let mut hidden: Vec<String> = keys.split(':').map(str::to_owned).collect();
    hidden.push(md5[3..].to_owned());
    hidden.push(PLANTED.to_owned());
    let rules = "host pgbouncer admin all trust\n\
                 host all alice all password\n\
                 host all bob all md5\n\
                 host all carol all scram-sha-256\n\
                 host all all all password\n";
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME";
    let mut ini = Ini::transaction()
        .set("verbose", 2)
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file("hba.conf", rules)
        .set("auth_user", "postgres")
        .set(
            "auth_query",
            "select name, secret from secrets where name = $1",
        )
        .db("")
        .database(
            "forced",
            &format!("{entry} user=plain_user password=planted-entry"),
        )
        .user(
            "nobody",
            &format!("pool_size=1\n[metrics]\nlisten = 127.0.0.1:{port}"),
        );
    ini.userlist.retain(|(user, _)| user == "admin");
    let pooler = ini
        .secret("alice", "planted-plain")
        .secret("bob", &md5)
        .secret("carol", &verifier)
        .secret("postgres", "planted-unused")
        .start();
    let mut session = pooler.database.session();
    session.run("create table secrets (name text, secret text)");
    session.run("insert into secrets values ('md5_user', 'planted-query')");
    (pooler, hidden)
}

/// Everybody logs in, rightly and wrongly.
fn log_in(pooler: &Pooler<'_>, said: &mut Said) {
    let users = [
        ("alice", "planted-plain", "db"),
        ("bob", "planted-md5", "db"),
        ("carol", "planted-scram", "db"),
        ("md5_user", "planted-query", "db"),
        ("alice", "planted-plain", "forced"),
    ];
    for (user, password, database) in users {
        for password in [password, "planted-guess", "", &"planted-long".repeat(1000)] {
            let login = Login::new(user, database).password(password);
            match login.at(pooler.address()) {
                Ok(mut client) => said.hear("an answer", client.query("select 1")),
                Err(error) => said.hear("a refusal", error),
            }
        }
    }
    for (name, value) in [
        ("password", "planted-parameter"),
        ("options", "-c password=planted-option"),
    ] {
        let login = Login::new("alice", "db").password("planted-plain");
        let mut wire = Wire::connect(pooler.address());
        wire.send(login.parameter(name, value).packet());
        said.hear("a refusal of a parameter", all_of(&mut wire));
    }
}

/// Statements that hold secrets, among them such as fail. What the server says
/// about them is the client's own.
fn query_with_secrets(pooler: &Pooler<'_>) {
    let login = Login::new("alice", "db").password("planted-plain");
    let mut client = login.at(pooler.address()).expect("in").lawless();
    for sql in [
        "select 'planted-literal', $$planted-dollar$$, E'planted\\'escape'",
        "create role never login password 'planted-role' valid until 'never ever'",
        "alter role nobody_at_all password 'planted-role'",
        "select 'planted-cut",
        "select /* planted-comment */ 1 -- planted-comment",
        "set application_name = 'planted-setting'",
        "prepare something as select 'planted-prepared'",
        "copy (select 'planted-copy') to stdout",
    ] {
        client.send(query(sql));
        all_of(&mut client);
    }
    client.run("reset application_name");
    client.send(frontend::extended("select $1::text", &["planted-bound"]));
    all_of(&mut client);
    client.send(frontend::extended("select $1::int", &["planted-bound"]));
    all_of(&mut client);
}

#[test]
fn nothing_the_pooler_says_holds_a_secret() {
    if only_pgweir("PgBouncer has no pages and logs unknown parameters") {
        return;
    }
    let port = free_port();
    let (mut pooler, mut hidden) = keeping(port);
    let mut said = Said::default();
    log_in(&pooler, &mut said);
    query_with_secrets(&pooler);
    let login = Login::new("alice", "db").password("planted-plain");
    let client = login.at(pooler.address()).expect("in");
    // A key that lets others cancel this client's queries.
    let (_, secret) = client.key.split_at(4);
    hidden.push(secret.iter().map(|byte| format!("{byte:02x}")).collect());
    let mut console = pooler.console_of("admin").lawless();
    for command in COMMANDS {
        console.send(query(command));
        said.hear(command, all_of(&mut console));
    }
    for path in PAGES {
        said.hear(path, page(port, path));
    }
    // A file that cannot be read is told of, by place and not by content.
    for entry in [
        "password=planted-line port=x",
        "password='planted-open",
        "pasword=planted-typo",
    ] {
        pooler.ini = pooler.ini.clone().database("bad", entry);
        pooler.write_config();
        said.hear("the error of RELOAD", pooler.console_error("RELOAD"));
    }
    said.hear("the log", pooler.log());
    said.assert_without(&hidden);
    drop(client);
}
