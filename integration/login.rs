//! Who gets in, by which method, and what those who do not are told.

use crate::harness::backend::{Fields, Message};
use crate::harness::becomes;
use crate::harness::frontend::{self, password};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::password_of;
use crate::harness::wire::{Login, Lost, Wire};
use crate::harness::{only_pgweir, reference_is_pgweir};
use postgres_protocol::password as secrets;
use std::time::Duration;

const MODES: [&str; 3] = ["session", "transaction", "statement"];
const METHODS: [&str; 4] = ["trust", "plain", "md5", "scram-sha-256"];

/// Every error that the pooler makes itself.
#[track_caller]
fn assert_refused(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

/// alice's secret is plain text, bob's MD5, carol's SCRAM.
fn with_secrets(ini: Ini) -> Ini {
    ini.secret("bob", &secrets::md5(password_of("bob").as_bytes(), "bob"))
        .secret(
            "carol",
            &secrets::scram_sha_256(password_of("carol").as_bytes()),
        )
}

#[test]
fn every_method_admits_in_every_pool_mode() {
    for mode in MODES {
        for method in METHODS {
            let pooler = Ini::new(mode).set("auth_type", method).start();
            let user = pooler.client().value("select current_user");
            assert_eq!(user, "alice", "{method} in {mode}");
        }
    }
}

#[test]
fn trust_asks_for_no_password() {
    let pooler = Ini::transaction().start();
    let login = Login::new("alice", "db");
    assert_eq!(
        login.at(pooler.address()).expect("trust").value("select 1"),
        "1"
    );
}

#[test]
fn each_method_checks_each_secret_it_can() {
    for method in METHODS {
        let pooler = with_secrets(Ini::transaction().set("auth_type", method)).start();
        for user in ["alice", "bob", "carol"] {
            let admitted = pooler.login(user).at(pooler.address());
            if method == "scram-sha-256" && user == "bob" {
                // The exchange needs more than an MD5 secret.
                assert_refused(
                    &admitted.expect_err("no SCRAM from MD5"),
                    "SASL authentication failed",
                );
            } else {
                let mut client =
                    admitted.unwrap_or_else(|error| panic!("{user} by {method}: {error:?}"));
                assert_eq!(client.value("select current_user"), user);
            }
        }
    }
}

#[test]
fn a_wrong_password_is_refused() {
    for (method, text) in [
        ("plain", "password authentication failed"),
        ("md5", "password authentication failed"),
        ("scram-sha-256", "SASL authentication failed"),
    ] {
        let pooler = Ini::transaction().set("auth_type", method).start();
        let wrong = pooler.login("alice").password("wrong");
        assert_refused(&wrong.refused_at(pooler.address()), text);
    }
}

#[test]
fn md5_asks_for_scram_where_the_secret_is_scram() {
    let pooler = with_secrets(Ini::transaction().set("auth_type", "md5")).start();
    let wrong = pooler.login("carol").password("wrong");
    assert_refused(
        &wrong.refused_at(pooler.address()),
        "SASL authentication failed",
    );
}

#[test]
fn an_unknown_user_fails_like_a_wrong_password() {
    for (method, text) in [
        ("trust", "\"trust\" authentication failed"),
        ("plain", "password authentication failed"),
        ("md5", "password authentication failed"),
        ("scram-sha-256", "SASL authentication failed"),
    ] {
        let pooler = Ini::transaction().set("auth_type", method).start();
        let nobody = Login::new("nobody", "db").password("x");
        assert_refused(&nobody.refused_at(pooler.address()), text);
        pooler.wait_log("no such user: nobody");
    }
}

#[test]
fn a_user_with_an_empty_secret_never_gets_in() {
    let pooler = Ini::transaction()
        .set("auth_type", "md5")
        .secret("alice", "")
        .start();
    let login = Login::new("alice", "db").password("x");
    assert_refused(
        &login.refused_at(pooler.address()),
        "password authentication failed",
    );
}

#[test]
fn an_empty_password_is_refused() {
    let pooler = Ini::transaction().set("auth_type", "plain").start();
    let login = Login::new("alice", "db");
    assert_refused(
        &login.refused_at(pooler.address()),
        "empty password returned by client",
    );
}

#[test]
fn an_unknown_database_is_refused() {
    for method in METHODS {
        let pooler = Ini::transaction().set("auth_type", method).start();
        let login = Login::new("alice", "nowhere").password(&password_of("alice"));
        assert_refused(
            &login.refused_at(pooler.address()),
            "no such database: nowhere",
        );
    }
}

#[test]
fn an_unknown_database_is_not_told_to_the_unauthenticated() {
    let pooler = Ini::transaction().set("auth_type", "md5").start();
    let login = Login::new("alice", "nowhere").password("wrong");
    assert_refused(
        &login.refused_at(pooler.address()),
        "password authentication failed",
    );
}

#[test]
fn a_database_the_server_does_not_have_is_told_in_the_servers_words() {
    let pooler = Ini::transaction()
        .database("db", "host=127.0.0.1 port=PORT dbname=nowhere")
        .start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_eq!(
        (error.code(), error.text()),
        ("3D000", "database \"nowhere\" does not exist")
    );
}

#[test]
fn any_ignores_the_name_and_needs_a_forced_user() {
    let pooler = Ini::transaction()
        .set("auth_type", "any")
        .db("user=bob")
        .database("free", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start();
    let mut client = Login::new("whoever", "db")
        .at(pooler.address())
        .expect("no check");
    assert_eq!(client.value("select current_user"), "bob");
    let free = Login::new("whoever", "free");
    assert_refused(&free.refused_at(pooler.address()), "bouncer config error");
}

#[test]
fn a_forced_user_is_the_one_the_server_sees() {
    let pooler = Ini::transaction()
        .set("auth_type", "scram-sha-256")
        .db("user=bob")
        .start();
    assert_eq!(pooler.client().value("select current_user"), "bob");
}

#[test]
fn the_server_gets_the_password_it_asks_for() {
    let pooler = Ini::transaction().start();
    for user in ["plain_user", "md5_user", "scram_user"] {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
    }
}

#[test]
fn the_server_gets_the_forced_users_password() {
    let password = password_of("scram_user");
    let pooler = Ini::transaction()
        .db(&format!("user=scram_user password={password}"))
        .start();
    assert_eq!(pooler.client().value("select current_user"), "scram_user");
}

#[test]
fn an_md5_secret_serves_both_sides() {
    let secret = secrets::md5(password_of("md5_user").as_bytes(), "md5_user");
    let pooler = Ini::transaction()
        .set("auth_type", "md5")
        .secret("md5_user", &secret)
        .start();
    assert_eq!(
        pooler.client_of("md5_user").value("select current_user"),
        "md5_user"
    );
}

#[test]
fn a_scram_secret_serves_both_sides() {
    let start = || Ini::transaction().set("auth_type", "scram-sha-256");
    let probe = start().start();
    let mut session = probe.database.session();
    let secret = session.value("select rolpassword from pg_authid where rolname = 'scram_user'");
    drop(probe);
    let pooler = start().secret("scram_user", &secret).start();
    assert_eq!(
        pooler.client_of("scram_user").value("select current_user"),
        "scram_user"
    );
    // The keys that the first login left serve further servers too.
    pooler.console("RECONNECT db");
    assert_eq!(
        pooler.client_of("scram_user").value("select current_user"),
        "scram_user"
    );
}

#[test]
fn a_password_the_server_refuses_is_told_in_the_servers_words() {
    let pooler = Ini::transaction()
        .secret("md5_user", "not the server's")
        .start();
    let login = Login::new("md5_user", "db");
    let error = login.refused_at(pooler.address());
    assert_eq!(error.code(), "28P01");
    assert_eq!(
        error.text(),
        "password authentication failed for user \"md5_user\""
    );
}

#[test]
fn a_new_password_the_server_refuses_is_told_while_old_servers_work_on() {
    let mut pooler = Ini::transaction().start();
    let mut busy = pooler.client_of("md5_user");
    busy.run("begin");
    pooler.reload(|ini| {
        ini.userlist.retain(|(user, _)| user != "md5_user");
        ini.userlist
            .push(("md5_user".into(), "not the server's".into()));
    });
    pooler.console("RECONNECT");
    let mut waiting = pooler.client_of("md5_user");
    waiting.send(frontend::query("select 1"));
    let error = waiting.expect_fatal();
    assert_eq!(
        error.text(),
        "password authentication failed for user \"md5_user\""
    );
    busy.run("commit");
}

#[test]
fn a_login_after_a_refused_one_waits_for_the_servers_next_word() {
    let pooler = Ini::transaction()
        .secret("md5_user", "not the server's")
        .start();
    let login = Login::new("md5_user", "db");
    let codes = [(); 2].map(|()| login.refused_at(pooler.address()).code().to_owned());
    assert_eq!(codes, ["28P01", "28P01"]);
}

/// SASLInitialResponse.
fn sasl_initial(mechanism: &str, message: &str) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    password(&[mechanism.as_bytes(), b"\0", &length, message.as_bytes()].concat())
}

#[test]
fn scram_refuses_what_it_did_not_offer() {
    let pooler = Ini::transaction().set("auth_type", "scram-sha-256").start();
    let first = |mechanism: &str, message: &str| {
        let mut wire = Wire::connect(pooler.address());
        wire.send(pooler.login("alice").packet());
        assert_eq!(
            wire.recv(),
            Message::Authentication(10, b"SCRAM-SHA-256\0\0".to_vec())
        );
        wire.send(sasl_initial(mechanism, message));
        wire.expect_fatal()
    };
    let wrong_mechanism = first("SCRAM-SHA-256-PLUS", "n,,n=,r=abcdefgh");
    assert_refused(
        &wrong_mechanism,
        "client selected an invalid SASL authentication mechanism",
    );
    let channel_binding = first("SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=abcdefgh");
    assert_refused(&channel_binding, "SASL authentication failed");
    let other_identity = first("SCRAM-SHA-256", "n,a=bob,n=,r=abcdefgh");
    assert_refused(&other_identity, "SASL authentication failed");
    let nonsense = first("SCRAM-SHA-256", "nonsense");
    assert_refused(&nonsense, "SASL authentication failed");
}

#[test]
fn sasl_messages_of_any_length_harm_only_their_sender() {
    let pooler = Ini::transaction().set("auth_type", "scram-sha-256").start();
    for length in [0, 1, 2, 7, 8, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let mut wire = Wire::connect(pooler.address());
        wire.send(pooler.login("alice").packet());
        wire.recv();
        // The length inside the message does not fit what follows it.
        wire.send(password(
            &[b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], b"n,,"].concat(),
        ));
        wire.patience(Duration::from_millis(200));
        assert!(
            matches!(wire.try_recv(), Err(_) | Ok(Message::ErrorResponse(_))),
            "length {length} is no way in"
        );
    }
    pooler.assert_serves();
}

#[test]
fn long_passwords_work_and_harm_nobody() {
    let pooler = |password: &str| {
        let ini = Ini::transaction().set("auth_type", "plain");
        ini.secret("alice", password).start()
    };
    // PgBouncer's releases take 2047 bytes.
    let longest = if reference_is_pgweir() { 65_530 } else { 2000 };
    let long = "x".repeat(longest);
    let accepted = pooler(&long);
    Login::new("alice", "db")
        .password(&long)
        .at(accepted.address())
        .expect("it is allowed");
    for size in [1023, 1024, 1025, 9000, longest - 1, longest + 1] {
        let wrong = Login::new("alice", "db").password(&"x".repeat(size));
        assert_refused(
            &wrong.refused_at(accepted.address()),
            "password authentication failed",
        );
    }
    for size in [65_535, 65_536, 1 << 20] {
        let mut wire = Wire::connect(accepted.address()).lawless();
        wire.send(Login::new("alice", "db").packet());
        wire.recv();
        wire.send(password(&[vec![b'x'; size], vec![0]].concat()));
        let closed = (0..10_000).any(|_| wire.recv_byte() == Err(Lost::Closed));
        assert!(closed, "{size} bytes");
    }
    accepted.assert_serves_console();
}

#[test]
fn any_message_at_any_step_of_a_login_closes_only_that_connection() {
    let startup = Login::new("alice", "db").packet();
    let first = sasl_initial("SCRAM-SHA-256", "n,,n=,r=abcdefgh");
    let steps = [
        ("md5", vec![]),
        ("md5", vec![frontend::ssl_request()]),
        ("plain", vec![startup.clone()]),
        ("md5", vec![startup.clone()]),
        ("scram-sha-256", vec![startup.clone()]),
        ("scram-sha-256", vec![startup, first]),
    ];
    for (method, sent) in steps {
        let pooler = Ini::transaction().set("auth_type", method).start();
        let mut innocent = pooler.client();
        crate::harness::together(4, |part| {
            for kind in (0..=u8::MAX).skip(part).step_by(4) {
                let mut wire = Wire::connect(pooler.address());
                for packet in &sent {
                    wire.send(packet);
                    wire.recv_byte().expect("a request, or N");
                }
                let mut wire = wire.lawless();
                wire.send(frontend::message(kind, b"select 1\0"));
                // Told why, perhaps, but in any case closed.
                let closed = (0..10_000).any(|_| wire.recv_byte() == Err(Lost::Closed));
                assert!(closed, "{kind} after {} of {method}", sent.len());
            }
        });
        assert_eq!(innocent.value("select 'served'"), "served");
    }
}

#[test]
fn a_password_before_the_startup_packet_is_refused() {
    let pooler = Ini::transaction().set("auth_type", "md5").start();
    let mut wire = Wire::connect(pooler.address());
    wire.send(password(b"x\0"));
    assert_refused(
        &wire.expect_fatal(),
        "client password pkt before startup packet",
    );
    pooler.assert_serves();
}

#[test]
fn a_second_startup_packet_is_refused() {
    let pooler = Ini::transaction().set("auth_type", "md5").start();
    let mut wire = Wire::connect(pooler.address());
    wire.send(pooler.login("alice").packet());
    wire.recv();
    wire.send(pooler.login("alice").packet());
    assert_refused(&wire.expect_fatal(), "client re-sent startup pkt");
}

#[test]
fn clients_beyond_max_client_conn_are_refused_until_one_leaves() {
    let pooler = Ini::transaction().set("max_client_conn", 2).start();
    let first = pooler.client();
    let _second = pooler.client();
    let refused = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&refused, "no more connections allowed (max_client_conn)");
    first.leave();
    becomes("a place is free", true, || {
        pooler.login("alice").at(pooler.address()).is_ok()
    });
}

#[test]
fn refused_clients_take_no_room_however_long_they_stay() {
    let pooler = Ini::transaction().set("max_client_conn", 2).start();
    let _refused: Vec<Wire> = (0..4)
        .map(|_| {
            let mut wire = Wire::connect(pooler.address());
            wire.send(Login::new("alice", "nowhere").packet());
            assert_eq!(wire.expect_fatal().text(), "no such database: nowhere");
            wire
        })
        .collect();
    let lists = pooler.console("SHOW LISTS");
    assert_eq!(lists.row(&[("list", "login_clients")]).number("items"), 0);
    for mut client in [pooler.client(), pooler.client()] {
        assert_eq!(client.value("select 'in'"), "in");
    }
}

#[test]
fn the_console_has_room_beyond_max_client_conn() {
    let pooler = Ini::transaction().set("max_client_conn", 1).start();
    let _client = pooler.client();
    assert_eq!(pooler.console("SHOW VERSION").rows.len(), 1);
}

#[test]
fn failed_logins_give_their_place_back() {
    let pooler = Ini::transaction()
        .set("max_client_conn", 3)
        .set("auth_type", "md5")
        .start();
    for _ in 0..10 {
        pooler
            .login("alice")
            .password("wrong")
            .refused_at(pooler.address());
    }
    becomes("places are free", true, || {
        pooler.login("alice").at(pooler.address()).is_ok()
    });
}

#[test]
fn clients_of_a_database_are_limited() {
    let pooler = Ini::transaction().db("max_db_client_connections=1").start();
    let client = pooler.client();
    let refused = pooler.login("bob").refused_at(pooler.address());
    assert_refused(
        &refused,
        "client connections exceeded (max_db_client_connections)",
    );
    client.leave();
    becomes("a place is free", true, || {
        pooler.login("bob").at(pooler.address()).is_ok()
    });
}

#[test]
fn clients_of_a_user_are_limited() {
    let pooler = Ini::transaction()
        .user("alice", "max_user_client_connections=1")
        .start();
    let client = pooler.client();
    let refused = pooler.login("alice").refused_at(pooler.address());
    assert_refused(
        &refused,
        "client connections exceeded (max_user_client_connections)",
    );
    pooler.client_of("bob").run("select 1");
    client.leave();
    becomes("a place is free", true, || {
        pooler.login("alice").at(pooler.address()).is_ok()
    });
}

#[test]
fn who_comes_back_at_once_has_a_place() {
    let pooler = Ini::transaction()
        .pgweir("workers", 2)
        .user("alice", "max_user_client_connections=1")
        .set("max_db_client_connections", 1)
        .start();
    for _ in 0..100 {
        let mut client = pooler.client();
        client.send(frontend::terminate());
        drop(client);
        // Another thread may see it first.
        pooler.console_of("stats").send(frontend::terminate());
    }
}

#[test]
fn a_silent_client_is_closed_after_client_login_timeout() {
    let pooler = Ini::transaction().set("client_login_timeout", 1).start();
    let mut wire = Wire::connect(pooler.address());
    assert_refused(&wire.expect_fatal(), "client_login_timeout");
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_server_is_gone_at_once() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let pooler = Ini::transaction()
        .server(silent.local_addr().expect("it is bound"))
        .set("client_login_timeout", 600)
        .set("server_connect_timeout", 600)
        .start();
    let login = pooler.login("alice");
    pooler.assert_notices_that_a_login_leaves(|client| {
        client.send(login.packet());
        pooler.wait_pool("cl_waiting", 1);
    });
    pooler.wait_pool("cl_waiting", 0);
}

#[test]
fn the_welcome_is_the_servers_with_a_key_of_the_poolers() {
    let pooler = Ini::transaction().start();
    let client = pooler.client();
    assert_eq!(client.key.len(), 8);
    assert_eq!(
        client.key[0] & 0x80,
        0,
        "the pid in the key is not negative"
    );
    let mut direct = pooler.database.session();
    direct.run("select 1");
    for name in [
        "server_version",
        "integer_datetimes",
        "server_encoding",
        "TimeZone",
    ] {
        assert_eq!(
            client.parameters.get(name),
            direct.parameters.get(name),
            "{name}"
        );
    }
    let other = pooler.client();
    assert_ne!(client.key, other.key, "each client has its own key");
}

#[test]
fn the_log_tells_of_logins_but_no_secret() {
    let pooler = with_secrets(
        Ini::transaction()
            .set("auth_type", "plain")
            .set("verbose", 2),
    )
    .start();
    pooler.client_of("alice").leave();
    pooler.client_of("carol").leave();
    pooler
        .login("bob")
        .password("planted-wrong-word")
        .refused_at(pooler.address());
    pooler.client_of("scram_user").run("select 1");
    pooler.wait_log("login attempt: db=db user=alice tls=no");
    let log = pooler.log();
    for secret in [
        "alice_pw",
        "carol_pw",
        "scram_user_pw",
        "planted-wrong-word",
        "SCRAM-SHA-256$",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

/// A pooler that asks the server about users it does not know.
fn asking_the_server(query: Option<&str>) -> Pooler<'static> {
    let mut ini = Ini::transaction()
        .set("auth_type", "md5")
        .set("auth_user", "postgres");
    if let Some(query) = query {
        ini.change("auth_query", query);
    }
    ini.userlist
        .retain(|(user, _)| user == "admin" || user == "bob");
    ini.secret("postgres", "unused").start()
}

#[test]
fn auth_query_refuses_an_expired_password() {
    let pooler = asking_the_server(None);
    let mut session = pooler.database.session();
    session.run(
        "drop role if exists expired;
         create role expired login password 'expired_pw' valid until '2001-01-01'",
    );
    let refused = pooler.login("expired").refused_at(pooler.address());
    assert_eq!((refused.severity(), refused.code()), ("FATAL", "08P01"));
    session.run("drop role expired");
}

#[test]
fn a_null_secret_of_auth_query_never_matches() {
    let pooler = asking_the_server(Some("select $1::text, null::text"));
    // PgBouncer itself admits the password "md5" here.
    let words = ["x", "null", "md5"];
    for password in &words[..if reference_is_pgweir() { 3 } else { 2 }] {
        let login = Login::new("alice", "db").password(password);
        let refused = login.refused_at(pooler.address());
        assert_eq!((refused.severity(), refused.code()), ("FATAL", "08P01"));
    }
}

#[test]
fn a_storm_of_scram_logins_is_served() {
    let pooler = Ini::transaction().set("auth_type", "scram-sha-256").start();
    let answers = crate::harness::together(40, |_| pooler.client().value("select 'in'"));
    assert!(answers.iter().all(|answer| answer == "in"));
}

#[test]
fn repeated_encryption_requests_do_not_go_on_for_ever() {
    if only_pgweir("PgBouncer answers any number of them") {
        return;
    }
    let pooler = Ini::transaction().start();
    let mut wire = Wire::connect(pooler.address());
    let closed = (0..100).any(|_| {
        wire.send(frontend::ssl_request());
        wire.recv_byte() == Err(Lost::Closed)
    });
    assert!(
        closed,
        "one SSLRequest and one GSSENCRequest are all a client needs"
    );
    pooler.assert_serves();
}
