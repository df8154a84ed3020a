//! Every method of a client with every kind of stored secret and every method
//! of a server: who is let in, by whom, and as whom.

use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{Postgres, password_of};
use crate::harness::together;
use crate::harness::wire::Login;
use postgres_protocol::password as secrets;

const METHODS: [&str; 4] = ["trust", "plain", "md5", "scram-sha-256"];

/// What is stored for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Nothing,
    Plain,
    Md5,
    Scram,
}

const STORED: [Stored; 4] = [Stored::Nothing, Stored::Plain, Stored::Md5, Stored::Scram];

/// Users of the server, and how it asks for their passwords.
const USERS: [(&str, Asks); 4] = [
    ("alice", Asks::Nothing),
    ("plain_user", Asks::ClearText),
    ("md5_user", Asks::Md5),
    ("scram_user", Asks::Scram),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nothing,
    ClearText,
    Md5,
    Scram,
}

/// What becomes of a login with the right password.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// By the pooler, before any server is asked.
    Refused,
    /// The pooler has let it in, but has nothing the server takes.
    NoServer,
}

/// The pooler lets the client in.
fn passes(method: &str, stored: Stored) -> bool {
    match (method, stored) {
        (_, Stored::Nothing) => false,
        // The exchange needs more than an MD5 secret.
        ("scram-sha-256", Stored::Md5) => false,
        _ => true,
    }
}

/// What is stored convinces a server, after a login by this method.
fn convinces(method: &str, stored: Stored, asks: Asks) -> bool {
    // Keys pass through when the client itself used the stored verifier.
    let has_keys = matches!(method, "md5" | "scram-sha-256");
    match (stored, asks) {
        (_, Asks::Nothing) | (Stored::Plain, _) | (Stored::Md5, Asks::Md5) => true,
        (Stored::Scram, Asks::Scram) => has_keys,
        _ => false,
    }
}

/// Logins by this method.
fn asking(method: &str) -> Ini {
    let mut ini = Ini::transaction().set("auth_type", method);
    ini.userlist.retain(|(user, _)| user == "admin");
    ini
}

/// Logins by a rule with this method.
fn ruling(method: &str) -> Ini {
    let method = if method == "plain" {
        "password"
    } else {
        method
    };
    asking("hba").set("auth_hba_file", "hba.conf").file(
        "hba.conf",
        &format!("host pgbouncer admin all trust\nhost all all all {method}\n"),
    )
}

/// A pooler with secrets of this kind, in `auth_file` or behind `auth_query`.
fn start(ini: Ini, stored: Stored, by_query: bool) -> Pooler<'static> {
    // The server's own verifiers, which keys are good for.
    let mut session = Postgres::shared().session("postgres");
    let mut rows = Vec::new();
    for (user, _) in USERS {
        let password = password_of(user);
        let verifier = format!("select rolpassword from pg_authid where rolname = '{user}'");
        rows.push(match stored {
            Stored::Nothing => continue,
            Stored::Plain => (user, password),
            Stored::Md5 => (user, secrets::md5(password.as_bytes(), user)),
            Stored::Scram if user == "md5_user" => {
                (user, secrets::scram_sha_256(password.as_bytes()))
            }
            Stored::Scram => (user, session.value(&verifier)),
        });
    }
    if !by_query {
        return rows
            .into_iter()
            .fold(ini, |ini, (user, secret)| ini.secret(user, &secret))
            .start();
    }
    let query = "select name, secret from secrets where name = $1";
    let ini = ini.secret("postgres", "unused");
    let ini = ini.set("auth_user", "postgres").set("auth_query", query);
    let pooler = ini.start();
    let mut session = pooler.database.session();
    session.run("create table secrets (name text, secret text)");
    for (user, secret) in rows {
        session.run(&format!(
            "insert into secrets values ('{user}', '{secret}')"
        ));
    }
    pooler
}

fn try_login(pooler: &Pooler<'_>, user: &str) -> Outcome {
    match pooler.login(user).at(pooler.address()) {
        Ok(mut client) => {
            assert_eq!(client.value("select current_user"), user);
            Outcome::Served
        }
        Err(error) => match error.text() {
            "no such user"
            | "\"trust\" authentication failed"
            | "password authentication failed"
            | "SASL authentication failed" => Outcome::Refused,
            text if text.contains("wrong password type") || error.code() == "28P01" => {
                Outcome::NoServer
            }
            _ => panic!("{user}: {error:?}"),
        },
    }
}

#[test]
fn secrets_of_auth_file() {
    for method in METHODS {
        for stored in STORED {
            for ini in [asking(method), ruling(method)] {
                let pooler = start(ini, stored, false);
                for (user, asks) in USERS {
                    let expected = match passes(method, stored) {
                        false => Outcome::Refused,
                        true if convinces(method, stored, asks) => Outcome::Served,
                        true => Outcome::NoServer,
                    };
                    let found = try_login(&pooler, user);
                    assert_eq!(found, expected, "{method}, {stored:?}, {user}");
                }
            }
        }
    }
}

#[test]
fn secrets_of_auth_query() {
    for method in METHODS {
        for stored in STORED {
            let pooler = start(asking(method), stored, true);
            for (user, asks) in USERS {
                // A password that was typed is the client's own credential.
                let typed = method == "plain";
                let expected = match passes(method, stored) {
                    false => Outcome::Refused,
                    true if typed || convinces(method, stored, asks) => Outcome::Served,
                    true => Outcome::NoServer,
                };
                let found = try_login(&pooler, user);
                assert_eq!(found, expected, "{method}, {stored:?}, {user}");
            }
        }
    }
}

#[test]
fn a_wrong_password_is_refused_whatever_is_stored() {
    for method in &METHODS[1..] {
        for stored in STORED {
            let pooler = start(asking(method), stored, false);
            for (user, _) in USERS {
                let wrong = pooler.login(user).password("wrong");
                let error = wrong.refused_at(pooler.address());
                assert!(
                    error.text().ends_with("authentication failed"),
                    "{method}, {stored:?}, {user}: {error:?}"
                );
            }
        }
    }
}

#[test]
fn keys_of_scram_serve_many_logins_in_several_databases_over_reconnects() {
    let entry = "host=127.0.0.1 port=PORT dbname";
    let names = ["a", "b", "c", "d"];
    let mut ini = Ini::transaction()
        .set("auth_type", "scram-sha-256")
        .set("auth_user", "postgres");
    ini.userlist.retain(|(user, _)| user == "admin");
    let databases = ["DBNAME", "DBNAME", "postgres", "template1"];
    for (name, database) in names.iter().zip(databases) {
        ini = ini.database(name, &format!("{entry}={database}"));
    }
    let pooler = ini.secret("postgres", "unused").start();
    for _ in 0..3 {
        together(40, |index| {
            let login = Login::new("scram_user", names[index % names.len()]);
            let login = login.password(&password_of("scram_user"));
            let mut client = login.at(pooler.address()).expect("the right password");
            assert_eq!(client.value("select current_user"), "scram_user");
        });
        pooler.console("RECONNECT");
    }
}
