//! TLS towards clients and towards servers.

use crate::harness::frontend::{self, gssenc_request, query, ssl_request};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{client_program, password_of};
use crate::harness::process::{self, Folder};
use crate::harness::tls::{Certificates, Impostor, Opening, Tunnel, postgres};
use crate::harness::wire::{Login, Lost, Wire, cancel};
use crate::harness::{Random, becomes, only_pgweir, together};
use postgres_protocol::password as secrets;
use rustix::process::Signal;

const ENOUGH_FOR_CLIENTS: [&str; 3] = ["require", "verify-ca", "verify-full"];

/// With the certificate `NAME` for clients.
fn offering(ini: Ini, mode: &str, name: &str) -> Ini {
    let certificates = Certificates::shared();
    ini.set("client_tls_sslmode", mode)
        .set(
            "client_tls_key_file",
            certificates.name(&format!("{name}.key")),
        )
        .set(
            "client_tls_cert_file",
            certificates.name(&format!("{name}.crt")),
        )
        .set("client_tls_ca_file", certificates.name("ca.crt"))
}

/// TLS for clients in this mode.
fn offers(mode: &str) -> Pooler<'static> {
    offering(Ini::transaction(), mode, "localhost").start()
}

/// What psql said: its rows, or its error.
fn psql(pooler: &Pooler<'_>, user: &str, conninfo: &str, sql: &str) -> Result<String, String> {
    let conninfo = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user={user} password={} dbname=db {conninfo}",
        pooler.address().port(),
        password_of(user)
    );
    let mut psql = client_program("psql");
    psql.args(["-X", "-A", "-t", "-c", sql]).arg(conninfo);
    let output = psql.output().expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// libpq's parameters for the certificate `NAME`.
fn showing(name: &str) -> String {
    let certificates = Certificates::shared();
    format!(
        "sslmode=require sslcert={} sslkey={}",
        certificates.name(&format!("{name}.crt")),
        certificates.name(&format!("{name}.key"))
    )
}

#[track_caller]
fn assert_served(answer: Result<String, String>) {
    assert_eq!(answer.as_deref(), Ok("1"));
}

#[track_caller]
fn assert_error(answer: Result<String, String>, text: &str) {
    let error = answer.expect_err("this has to fail");
    assert!(error.contains(text), "{error}");
}

/// The `tls` of SHOW CLIENTS, of alice's client.
fn tls_of_client(pooler: &Pooler<'_>) -> String {
    let clients = pooler.console("SHOW CLIENTS");
    clients
        .row(&[("user", "alice"), ("database", "db")])
        .text("tls")
}

// Clients: the modes.

#[test]
fn disable_answers_no_and_serves_in_clear() {
    let pooler = offers("disable");
    assert_served(psql(&pooler, "alice", "sslmode=prefer", "select 1"));
    let refused = psql(&pooler, "alice", "sslmode=require", "select 1");
    assert_error(refused, "server does not support SSL");
}

#[test]
fn allow_and_prefer_serve_with_and_without_tls() {
    for mode in ["allow", "prefer"] {
        let pooler = offers(mode);
        for asked in ["disable", "prefer", "require"] {
            assert_served(psql(
                &pooler,
                "alice",
                &format!("sslmode={asked}"),
                "select 1",
            ));
        }
    }
}

#[test]
fn require_refuses_clients_in_clear() {
    let pooler = offers("require");
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_eq!((error.code(), error.text()), ("08P01", "SSL required"));
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
}

#[test]
fn unix_sockets_are_served_in_clear_in_every_mode() {
    for mode in ENOUGH_FOR_CLIENTS {
        let pooler = offering(Ini::transaction(), mode, "localhost").start();
        let folder = pooler.folder.path().display().to_string();
        let conninfo = format!("hostaddr='' host={folder} sslmode=prefer");
        assert_served(psql(&pooler, "alice", &conninfo, "select 1"));
    }
}

#[test]
fn verifying_modes_want_a_clients_certificate() {
    for mode in ["verify-ca", "verify-full"] {
        let pooler = offers(mode);
        let without = psql(&pooler, "alice", "sslmode=require", "select 1");
        assert!(without.is_err(), "{without:?}");
        assert_served(psql(&pooler, "alice", &showing("alice"), "select 1"));
        let strange = psql(&pooler, "alice", &showing("stranger"), "select 1");
        assert_error(strange, "unknown ca");
        pooler.wait_log("certificate verify failed");
    }
}

#[test]
fn a_certificate_shown_without_need_has_to_be_a_good_one() {
    for mode in ["allow", "prefer", "require"] {
        let pooler = offers(mode);
        assert_served(psql(&pooler, "alice", &showing("alice"), "select 1"));
        let strange = psql(&pooler, "alice", &showing("stranger"), "select 1");
        assert_error(strange, "unknown ca");
    }
}

#[test]
fn clients_can_verify_the_pooler() {
    let certificates = Certificates::shared();
    for name in ["localhost", "old"] {
        let pooler = offering(Ini::transaction(), "require", name).start();
        let with = |root| {
            format!(
                "sslmode=verify-full sslrootcert={}",
                certificates.name(root)
            )
        };
        assert_served(psql(&pooler, "alice", &with("ca.crt"), "select 1"));
        let wrong = psql(&pooler, "alice", &with("other-ca.crt"), "select 1");
        assert_error(wrong, "certificate verify failed");
    }
}

#[test]
fn the_console_is_served_over_tls() {
    let pooler = offers("require");
    let shown = psql(
        &pooler,
        "admin",
        "sslmode=require dbname=pgbouncer",
        "SHOW CLIENTS",
    );
    assert!(
        shown.as_ref().is_ok_and(|rows| rows.contains("TLSv1.3/")),
        "{shown:?}"
    );
}

// Clients: who they are.

#[test]
fn a_certificate_lets_its_own_user_in() {
    let ini = Ini::transaction().set("auth_type", "cert");
    let pooler = offering(ini, "verify-full", "localhost").start();
    assert_served(psql(&pooler, "alice", &showing("alice"), "select 1"));
    for (user, name, why) in [
        ("bob", "alice", "TLS certificate name mismatch"),
        ("nobody", "bob", "no such user"),
    ] {
        let refused = psql(&pooler, user, &showing(name), "select 1");
        assert_error(refused, "certificate authentication failed");
        pooler.wait_log(why);
    }
}

/// Logins by these rules and ident maps, over TLS where the client wants it.
fn by_rules(rules: &str, maps: &str) -> Pooler<'static> {
    let ini = Ini::transaction()
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file(
            "hba.conf",
            &format!("host pgbouncer admin all trust\n{rules}\n"),
        )
        .set("auth_ident_file", "ident.conf")
        .file("ident.conf", maps);
    offering(ini, "prefer", "localhost").start()
}

#[test]
fn rules_tell_clients_with_tls_from_those_without() {
    let pooler = by_rules(
        "hostssl all alice all trust\nhostnossl all bob all trust",
        "",
    );
    let enter = |user, mode| psql(&pooler, user, &format!("sslmode={mode}"), "select 1");
    assert_served(enter("alice", "require"));
    assert_served(enter("bob", "disable"));
    for (user, mode) in [("alice", "disable"), ("bob", "require")] {
        assert_error(enter(user, mode), "no authentication method is found");
    }
}

#[test]
fn a_rule_may_ask_for_a_certificate() {
    let pooler = by_rules("hostssl all all all cert", "");
    assert_served(psql(&pooler, "alice", &showing("alice"), "select 1"));
    for (user, conninfo, why) in [
        ("bob", showing("alice"), "TLS certificate name mismatch"),
        ("nobody", showing("bob"), "no such user"),
        (
            "alice",
            "sslmode=require sslcert=none sslkey=none".to_owned(),
            "TLS client certificate required",
        ),
    ] {
        let refused = psql(&pooler, user, &conninfo, "select 1");
        assert_error(refused, "certificate authentication failed");
        pooler.wait_log(why);
    }
}

#[test]
fn an_ident_map_says_whom_a_certificate_may_be() {
    let pooler = by_rules("hostssl all all all cert map=m", "m alice bob\nm bob all");
    let is = |name, user| psql(&pooler, user, &showing(name), "select current_user");
    assert_eq!(is("alice", "bob").as_deref(), Ok("bob"));
    assert_eq!(is("bob", "carol").as_deref(), Ok("carol"));
    for (name, user) in [("alice", "alice"), ("alice", "carol"), ("bob", "nobody")] {
        assert_error(is(name, user), "certificate authentication failed");
    }
    pooler.wait_log("ident map: m does not have a match");
}

#[test]
fn a_certificate_needs_a_known_user_whatever_its_secret() {
    let stored = [
        None,
        Some(String::new()),
        Some("another word".to_owned()),
        Some(secrets::md5(b"another word", "alice")),
        Some(secrets::scram_sha_256(b"another word")),
    ];
    for secret in stored {
        let mut ini = Ini::transaction().set("auth_type", "cert");
        ini.userlist.retain(|(user, _)| user != "alice");
        if let Some(secret) = &secret {
            ini = ini.secret("alice", secret);
        }
        let pooler = offering(ini, "verify-full", "localhost").start();
        let answer = psql(&pooler, "alice", &showing("alice"), "select 1");
        match secret {
            Some(_) => assert_served(answer),
            None => assert_error(answer, "certificate authentication failed"),
        }
    }
}

#[test]
fn scram_works_over_tls() {
    let ini = Ini::transaction().set("auth_type", "scram-sha-256");
    let pooler = offering(ini, "require", "localhost").start();
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
    let wrong = psql(
        &pooler,
        "alice",
        "sslmode=require password=wrong",
        "select 1",
    );
    assert_error(wrong, "SASL authentication failed");
}

/// alice's secret is plain text, carol's SCRAM.
fn asking_for_scram(name: &str) -> Ini {
    let verifier = secrets::scram_sha_256(password_of("carol").as_bytes());
    let ini = Ini::transaction().set("auth_type", "scram-sha-256");
    offering(ini, "prefer", name).secret("carol", &verifier)
}

const BOUND: &str = "sslmode=require channel_binding=require";

#[test]
fn clients_can_bind_their_login_to_the_certificate() {
    for name in ["localhost", "old", "rsa"] {
        let pooler = asking_for_scram(name).start();
        for user in ["alice", "carol"] {
            assert_served(psql(&pooler, user, BOUND, "select 1"));
            let wrong = format!("{BOUND} password=wrong");
            let refused = psql(&pooler, user, &wrong, "select 1");
            assert_error(refused, "SASL authentication failed");
        }
        let without = "sslmode=disable channel_binding=prefer";
        assert_served(psql(&pooler, "alice", without, "select 1"));
    }
}

#[test]
fn a_certificate_that_has_no_hash_binds_nothing() {
    let pooler = asking_for_scram("ed25519").start();
    assert_served(psql(&pooler, "carol", "sslmode=require", "select 1"));
    assert!(psql(&pooler, "carol", BOUND, "select 1").is_err());
}

#[test]
fn channel_binding_can_be_turned_off_and_on() {
    let mut pooler = asking_for_scram("localhost").start();
    for (value, served) in [("0", false), ("1", true)] {
        pooler.reload(|ini| *ini = ini.clone().pgweir("channel_binding", value));
        assert_eq!(psql(&pooler, "carol", BOUND, "select 1").is_ok(), served);
        assert_served(psql(&pooler, "carol", "sslmode=require", "select 1"));
    }
}

#[test]
fn somebody_between_cannot_pass_a_login_on() {
    let pooler = asking_for_scram("localhost").start();
    let between = Tunnel::intercepting(pooler.address());
    let through = |binding: &str| {
        let port = between.address().port();
        let conninfo = format!("port={port} sslmode=require channel_binding={binding}");
        psql(&pooler, "carol", &conninfo, "select 1")
    };
    assert_served(through("disable"));
    for binding in ["prefer", "require"] {
        assert_error(through(binding), "SASL authentication failed");
    }
    pooler.wait_log("unexpected SCRAM channel-binding attribute");
}

// Clients: what is said before, behind and instead of the request.

#[test]
fn bytes_behind_the_request_end_the_connection() {
    let pooler = offers("prefer");
    let login = pooler.login("alice");
    let mut wire = Wire::connect(pooler.address());
    wire.send([ssl_request(), login.packet()].concat());
    let error = wire.expect_fatal();
    assert_eq!(error.text(), "received unencrypted data after SSL request");
}

#[test]
fn bytes_in_clear_after_the_answer_end_the_connection() {
    let pooler = offers("prefer");
    for (packet, size) in [(pooler.login("alice").packet(), 1000), (vec![0; 5], 1)] {
        let mut wire = Wire::connect(pooler.address());
        wire.send(ssl_request());
        assert_eq!(wire.recv_byte(), Ok(b'S'));
        wire.send_in_pieces(packet, size);
        // An alert may come, but no answer.
        let came = std::iter::from_fn(|| wire.recv_byte().ok()).collect::<Vec<_>>();
        assert!(came.first().is_none_or(|first| *first == 0x15), "{came:?}");
        pooler.wait_log("TLS handshake error");
    }
    pooler.assert_serves();
}

#[test]
fn a_request_for_tls_inside_tls_ends_the_connection() {
    let pooler = offers("prefer");
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let mut wire = Wire::connect(tunnel.address());
    wire.send(ssl_request());
    assert_eq!(wire.recv_byte(), Err(Lost::Closed));
}

#[test]
fn a_request_for_gssapi_is_answered_no_before_one_for_tls() {
    let pooler = offers("require");
    let mut wire = Wire::connect(pooler.address());
    wire.send(gssenc_request());
    assert_eq!(wire.recv_byte(), Ok(b'N'));
    wire.send(ssl_request());
    assert_eq!(wire.recv_byte(), Ok(b'S'));
}

#[test]
fn direct_tls_is_served_if_it_names_the_protocol() {
    if only_pgweir("PgBouncer serves direct TLS without ALPN") {
        return;
    }
    let pooler = offers("require");
    let tunnel = Tunnel::start(pooler.address(), Opening::Direct("postgresql"));
    let client = pooler.login("alice").at(tunnel.address());
    assert_eq!(
        client.expect("direct TLS").value("select 'direct'"),
        "direct"
    );
    for opening in [Opening::Direct("http/1.1"), Opening::DirectWithoutAlpn] {
        let tunnel = Tunnel::start(pooler.address(), opening);
        let mut wire = Wire::connect(tunnel.address());
        wire.send(pooler.login("alice").packet());
        wire.expect_closed();
    }
    pooler.wait_log("direct TLS without ALPN");
}

#[test]
fn servers_are_spoken_to_by_direct_tls_where_that_is_set() {
    if only_pgweir("PgBouncer has no direct TLS towards servers") {
        return;
    }
    let server = offers("require");
    let direct = |mode: &str, port: u16| {
        Ini::transaction()
            .set("server_tls_sslmode", mode)
            .pgweir("server_tls_negotiation", "direct")
            .database("db", &format!("host=127.0.0.1 port={port} dbname=db"))
            .start()
    };
    let pooler = direct("require", server.address().port());
    assert_eq!(pooler.client().value("select 'direct'"), "direct");
    for (mode, first) in [("require", 0x16), ("prefer", 0)] {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let pooler = direct(mode, port);
        let mut client = Wire::connect(pooler.address());
        client.send(pooler.login("alice").packet());
        let (mut server, _) = listener.accept().expect("the pooler comes");
        let mut byte = [0];
        std::io::Read::read_exact(&mut server, &mut byte).expect("it speaks first");
        assert_eq!(byte, [first], "{mode}");
    }
}

#[test]
fn direct_tls_is_closed_where_there_is_no_tls() {
    let pooler = offers("disable");
    let tunnel = Tunnel::start(pooler.address(), Opening::Direct("postgresql"));
    let mut wire = Wire::connect(tunnel.address());
    wire.send(pooler.login("alice").packet());
    if !only_pgweir("PgBouncer waits for the length it reads in it") {
        wire.expect_closed();
    }
    pooler.assert_serves();
}

#[test]
fn a_handshake_that_does_not_go_on_ends_with_client_login_timeout() {
    let ini = Ini::transaction().set("client_login_timeout", 1);
    let pooler = offering(ini, "require", "localhost").start();
    let mut wire = Wire::connect(pooler.address());
    wire.send(ssl_request());
    assert_eq!(wire.recv_byte(), Ok(b'S'));
    assert_eq!(wire.recv_byte(), Err(Lost::Closed));
}

#[test]
fn a_cancel_over_tls_works() {
    let pooler = offers("require");
    for opening in [Opening::Request, Opening::Direct("postgresql")] {
        let tunnel = Tunnel::start(pooler.address(), opening);
        let mut client = pooler.login("alice").at(tunnel.address()).expect("TLS");
        client.send(query("select pg_sleep(60)"));
        pooler.database.wait_running(1, "pg_sleep");
        cancel(tunnel.address(), &client.key);
        assert_eq!(client.reply().code(), "57014");
        assert_eq!(client.value("select 'goes on'"), "goes on");
    }
}

// Clients: what is seen of it.

#[test]
fn the_console_and_the_log_show_a_clients_tls() {
    let pooler = offers("prefer");
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let client = pooler.login("alice").at(tunnel.address()).expect("TLS");
    assert_eq!(tls_of_client(&pooler), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    pooler.wait_log("user=alice tls=TLSv1.3/TLS_AES_256_GCM_SHA384 replication=no");
    client.leave();
    let _client = pooler.client();
    becomes("a client in clear", String::new(), || {
        tls_of_client(&pooler)
    });
    pooler.wait_log("user=alice tls=no replication=no");
}

#[test]
fn protocols_ciphers_and_curves_are_those_of_the_settings() {
    let ini = Ini::transaction()
        .set("client_tls_protocols", "tlsv1.2")
        .set("client_tls_ciphers", "ECDHE+CHACHA20:HIGH:!aNULL")
        .set("client_tls_ecdhcurve", "prime256v1")
        .set("client_tls_dheparams", "none");
    let pooler = offering(ini, "require", "localhost").start();
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
    pooler.wait_log("tls=TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305/ECDH=prime256v1");
    let newer = "sslmode=require ssl_min_protocol_version=TLSv1.3";
    assert!(psql(&pooler, "alice", newer, "select 1").is_err());
}

#[test]
fn an_end_without_notice_is_no_warning() {
    let pooler = offers("prefer");
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let client = pooler.login("alice").at(tunnel.address()).expect("TLS");
    // Its connections end as they are.
    drop(tunnel);
    drop(client);
    becomes("nobody is there", 0, || pooler.pool("cl_active"));
    let log = pooler.log();
    assert!(
        !log.contains("TLS error") && !log.contains("handshake error"),
        "{log}"
    );
}

// Servers: the modes.

const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// In front of the PostgreSQL that has TLS, known as `host`.
fn towards(mode: &str, host: &str) -> Ini {
    let entry = format!("host={host} port=PORT dbname=DBNAME");
    Ini::transaction()
        .database("db", &entry)
        .set("server_tls_sslmode", mode)
        .set("server_tls_ca_file", Certificates::shared().name("ca.crt"))
}

/// Whether PostgreSQL says that the connection to it is encrypted.
const IS_ENCRYPTED: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
fn every_mode_but_disable_encrypts_where_the_server_can() {
    for mode in MODES {
        let pooler = towards(mode, "localhost").start_on(postgres());
        let encrypted = if mode == "disable" { "f" } else { "t" };
        let mut client = pooler.client();
        assert_eq!(client.value(IS_ENCRYPTED), encrypted, "{mode}");
        let tls = pooler.console("SHOW SERVERS").column("tls");
        let shown = tls.iter().all(|tls| tls.starts_with("TLSv1.3/"));
        assert_eq!(shown, mode != "disable", "{mode}: {tls:?}");
        assert_eq!(
            pooler.log().contains("SSL established: TLSv1.3/"),
            shown,
            "{mode}"
        );
    }
}

#[test]
fn a_server_without_tls_is_enough_up_to_prefer() {
    for mode in ["disable", "allow", "prefer"] {
        let pooler = Ini::transaction().set("server_tls_sslmode", mode).start();
        assert_eq!(pooler.client().value(IS_ENCRYPTED), "f", "{mode}");
    }
    for mode in ENOUGH_FOR_CLIENTS {
        let ini = Ini::transaction()
            .set("server_tls_sslmode", mode)
            .set("server_tls_ca_file", Certificates::shared().name("ca.crt"))
            .set("client_login_timeout", 2);
        let pooler = ini.start();
        pooler.login("alice").refused_at(pooler.address());
        pooler.wait_log("server refused SSL");
        assert_eq!(pooler.backends().len(), 0, "{mode}");
    }
}

#[test]
fn unix_sockets_to_servers_are_in_clear_in_every_mode() {
    let folder = postgres()
        .session("postgres")
        .value("show unix_socket_directories");
    let pooler = towards("verify-full", &folder).start_on(postgres());
    assert_eq!(pooler.client().value(IS_ENCRYPTED), "f");
}

#[test]
fn a_server_of_another_authority_is_not_used() {
    for mode in ["verify-ca", "verify-full"] {
        let ini = towards(mode, "localhost")
            .set(
                "server_tls_ca_file",
                Certificates::shared().name("other-ca.crt"),
            )
            .set("client_login_timeout", 2);
        let pooler = ini.start_on(postgres());
        pooler.login("alice").refused_at(pooler.address());
        pooler.wait_log("certificate verify failed");
        assert_eq!(pooler.backends().len(), 0, "{mode}");
    }
}

#[test]
fn the_authority_is_asked_for_by_verifying_modes_alone() {
    for mode in ["allow", "prefer", "require"] {
        let ini = towards(mode, "localhost").set(
            "server_tls_ca_file",
            Certificates::shared().name("other-ca.crt"),
        );
        let pooler = ini.start_on(postgres());
        assert_eq!(pooler.client().value(IS_ENCRYPTED), "t", "{mode}");
    }
}

#[test]
fn a_server_of_another_name_is_refused_by_verify_full_alone() {
    let pooler = towards("verify-ca", "127.0.0.1").start_on(postgres());
    assert_eq!(pooler.client().value(IS_ENCRYPTED), "t");
    let ini = towards("verify-full", "127.0.0.1").set("client_login_timeout", 2);
    let pooler = ini.start_on(postgres());
    pooler.login("alice").refused_at(pooler.address());
    pooler.wait_log("certificate verify failed: it does not name this host");
}

#[test]
fn servers_are_shown_the_certificate_they_ask_for() {
    let certificates = Certificates::shared();
    let login = Login::new("scram_user", "db").password(&password_of("scram_user"));
    for (name, admitted) in [
        ("scram_user", true),
        ("", false),
        ("alice", false),
        ("stranger", false),
    ] {
        let mut ini = towards("require", "localhost").set("client_login_timeout", 2);
        if !name.is_empty() {
            ini.change(
                "server_tls_cert_file",
                certificates.name(&format!("{name}.crt")),
            );
            ini.change(
                "server_tls_key_file",
                certificates.name(&format!("{name}.key")),
            );
        }
        let pooler = ini.start_on(postgres());
        assert_eq!(login.at(pooler.address()).is_ok(), admitted, "{name}");
    }
}

#[test]
fn a_server_that_wants_tls_is_reached_only_with_it() {
    let with = towards("prefer", "localhost").start_on(postgres());
    assert_eq!(with.client_of("bob").value("select 'in'"), "in");
    let without = towards("disable", "localhost").start_on(postgres());
    let error = without.login("bob").refused_at(without.address());
    assert!(
        error.text().contains("pg_hba.conf rejects connection"),
        "{error:?}"
    );
}

// Servers: what an attacker may say.

#[test]
fn bytes_behind_a_servers_answer_end_the_connection() {
    for answer in [&b"SR\0\0\0\x08\0\0\0\0"[..], b"NR\0\0\0\x08\0\0\0\0"] {
        let impostor = Impostor::start(answer);
        let ini = Ini::transaction().server(impostor.address());
        let pooler = ini.set("client_login_timeout", 2).start();
        pooler.login("alice").refused_at(pooler.address());
        pooler.wait_log("received unencrypted data after SSL response");
    }
}

#[test]
fn an_error_in_clear_before_tls_is_nobodys_word() {
    let impostor = Impostor::start(b"ESFATAL\0C28P01\0Mgive me your password\0\0");
    let ini = Ini::transaction().server(impostor.address());
    let pooler = ini.set("client_login_timeout", 2).start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert!(!error.text().contains("password"), "{error:?}");
}

#[test]
fn a_servers_handshake_that_does_not_go_on_ends_with_server_connect_timeout() {
    let impostor = Impostor::start(b"S");
    let ini = Ini::transaction().server(impostor.address());
    let ini = ini
        .set("server_connect_timeout", 1)
        .set("client_login_timeout", 3);
    let pooler = ini.start();
    pooler.login("alice").refused_at(pooler.address());
    pooler.wait_log("connect timeout");
}

#[test]
fn a_cancel_reaches_a_server_behind_tls() {
    let pooler = towards("require", "localhost").start_on(postgres());
    let mut client = pooler.client();
    client.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &client.key);
    assert_eq!(client.reply().code(), "57014");
    assert_eq!(client.value("select 'goes on'"), "goes on");
}

#[test]
fn a_login_to_a_server_is_bound_to_its_certificate() {
    // Whoever is between has a certificate too, and nobody checks it.
    let between = Tunnel::intercepting(postgres().address());
    let login = Login::new("carol", "db").password(&password_of("carol"));
    for (port, binding, served) in [
        (postgres().address().port(), "1", true),
        (between.address().port(), "0", true),
        (between.address().port(), "1", false),
    ] {
        let entry = format!("host=localhost port={port} dbname=DBNAME");
        let pooler = towards("require", "localhost")
            .database("db", &entry)
            .pgweir("channel_binding", binding)
            .start_on(postgres());
        match login.at(pooler.address()) {
            Ok(mut client) => assert_eq!(client.value("select 'served'"), "served"),
            Err(error) => assert_eq!(error.code(), "28000", "{error:?}"),
        }
        let entered = login.at(pooler.address()).is_ok();
        assert_eq!(entered, served, "channel_binding = {binding}, port {port}");
    }
}

// Both: much data.

/// Both legs under TLS, two workers or one.
fn both(workers: usize) -> Pooler<'static> {
    let ini = offering(towards("verify-full", "localhost"), "prefer", "localhost");
    let ini = match workers {
        1 => ini,
        more => ini.pgweir("workers", more),
    };
    ini.set("default_pool_size", 3).start_on(postgres())
}

#[test]
fn large_results_arrive_as_they_were_sent() {
    let pooler = both(1);
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let mut client = pooler.login("alice").at(tunnel.address()).expect("TLS");
    let sql = "select string_agg(md5(n::text), '') from generate_series(1, 200000) n";
    let mut direct = pooler.database.session();
    assert!(
        client.value(sql) == direct.value(sql),
        "six megabytes in one row"
    );
    let sql = "select n, repeat(md5(n::text), n % 50) from generate_series(1, 20000) n";
    assert!(
        client.query(sql).rows() == direct.query(sql).rows(),
        "20000 rows"
    );
}

#[test]
fn large_queries_arrive_as_they_were_sent() {
    let pooler = both(1);
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let mut client = pooler.login("alice").at(tunnel.address()).expect("TLS");
    for size in [1, 16_000, 16_384, 40_000, 5_000_000] {
        let text: String = (0..size)
            .map(|at| char::from(b'a' + (at % 23) as u8))
            .collect();
        assert_eq!(
            client.value(&format!("select length('{text}')")),
            size.to_string()
        );
        assert!(
            client.value(&format!("select '{text}'")) == text,
            "{size} bytes"
        );
    }
}

#[test]
fn a_client_that_does_not_read_stops_its_server_and_gets_all() {
    let pooler = both(1);
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let mut client = pooler.login("alice").at(tunnel.address()).expect("TLS");
    let before = pooler.memory();
    client.send(query(
        "select n, repeat('x', 1000) from generate_series(1, 60000) n",
    ));
    pooler.database.wait_running(1, "generate_series");
    std::thread::sleep(std::time::Duration::from_secs(1));
    let grown = pooler.memory().saturating_sub(before);
    assert!(
        grown < 20 << 20,
        "{grown} bytes for a client that does not read"
    );
    assert_eq!(client.reply().rows().len(), 60_000);
}

#[test]
fn servers_move_between_workers_under_tls() {
    if only_pgweir("PgBouncer has one worker") {
        return;
    }
    let pooler = both(2);
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let counts = together(12, |who| {
        let mut client = pooler.login("alice").at(tunnel.address()).expect("TLS");
        for turn in 0..40 {
            let token = format!("{who}.{turn}");
            assert_eq!(client.value(&format!("select '{token}'")), token);
        }
        40
    });
    assert_eq!(counts.iter().sum::<i32>(), 480);
    assert!(pooler.backends().len() <= 3);
}

#[test]
fn a_mix_of_clients_each_get_their_own_answers() {
    let pooler = both(1);
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let direct = Tunnel::start(pooler.address(), Opening::Direct("postgresql"));
    together(8, |who| {
        let mut random = Random::new(who as u64 + 4242);
        let mut client = None;
        for turn in 0..60 {
            let through = if random.chance(50) { &tunnel } else { &direct };
            let wire = client.get_or_insert_with(|| {
                let login = pooler.login("alice").at(through.address());
                login.expect("TLS")
            });
            let token = format!("{who}.{turn}.");
            let size = random.below(60_000);
            let sql = format!("select '{token}' || repeat('y', {size})");
            let wanted = token.clone() + &"y".repeat(size);
            match random.below(5) {
                0 => {
                    // A transaction of several statements.
                    wire.run("begin");
                    assert!(wire.value(&sql) == wanted);
                    wire.run("commit");
                }
                1 => {
                    let batch = [frontend::extended(&sql, &[]), frontend::extended(&sql, &[])];
                    wire.send(batch.concat());
                    assert!(wire.reply().value() == wanted);
                    assert!(wire.reply().value() == wanted);
                }
                2 => {
                    assert_eq!(wire.query("select 1/0").code(), "22012");
                }
                3 => {
                    // It goes in the middle of its answer.
                    wire.send(query(&sql));
                    client = None;
                }
                _ => assert!(wire.value(&sql) == wanted),
            }
        }
    });
    becomes("nobody is served", 0, || pooler.pool("sv_active"));
    pooler.wait_pool("cl_waiting", 0);
}

// Changes while running.

#[test]
fn a_reload_brings_a_new_certificate_and_leaves_connections_alone() {
    let certificates = Certificates::shared();
    let mut pooler = offers("prefer");
    let tunnel = Tunnel::start(pooler.address(), Opening::Request);
    let mut early = pooler.login("alice").at(tunnel.address()).expect("TLS");
    let before = served_certificate(&pooler);
    pooler.reload(|ini| {
        ini.change("client_tls_key_file", certificates.name("renewed.key"));
        ini.change("client_tls_cert_file", certificates.name("renewed.crt"));
    });
    assert_ne!(served_certificate(&pooler), before);
    assert_eq!(early.value("select 'goes on'"), "goes on");
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
}

#[test]
fn a_reload_reads_the_same_files_again() {
    let certificates = Certificates::shared();
    let mut pooler = offers("prefer");
    let copy = |name: &str| {
        for end in ["key", "crt"] {
            let text = std::fs::read_to_string(certificates.path(&format!("{name}.{end}")));
            pooler
                .folder
                .write(&format!("pair.{end}"), &text.expect("a file"));
        }
    };
    let file = |end: &str| {
        pooler
            .folder
            .path()
            .join(format!("pair.{end}"))
            .display()
            .to_string()
    };
    let (key, cert) = (file("key"), file("crt"));
    copy("renewed");
    pooler.reload(|ini| {
        ini.change("client_tls_key_file", key);
        ini.change("client_tls_cert_file", cert);
    });
    let renewed = served_certificate(&pooler);
    for end in ["key", "crt"] {
        let text = std::fs::read_to_string(certificates.path(&format!("localhost.{end}")));
        pooler
            .folder
            .write(&format!("pair.{end}"), &text.expect("a file"));
    }
    assert_eq!(served_certificate(&pooler), renewed);
    pooler.reload(|_| {});
    assert_ne!(served_certificate(&pooler), renewed);
}

/// The certificate that new clients are shown.
fn served_certificate(pooler: &Pooler<'_>) -> String {
    let mut command = std::process::Command::new("timeout");
    command
        .args([
            "30",
            "openssl",
            "s_client",
            "-starttls",
            "postgres",
            "-connect",
        ])
        .arg(pooler.address().to_string())
        .stdin(std::process::Stdio::null());
    let shown = command.output().expect("openssl runs").stdout;
    let text = String::from_utf8_lossy(&shown).into_owned();
    let begin = text
        .find("-----BEGIN CERTIFICATE-----")
        .expect("a certificate");
    let end = text.find("-----END CERTIFICATE-----").expect("all of it");
    text[begin..end].to_owned()
}

#[test]
fn a_reload_with_a_bad_pair_fails_and_keeps_the_old() {
    let certificates = Certificates::shared();
    let pooler = offers("prefer");
    let before = served_certificate(&pooler);
    let nowhere = certificates.name("nowhere.crt");
    let mut pooler = pooler;
    for (key, cert, said) in [
        ("renewed.key", "nowhere.crt", "No such file or directory"),
        ("bob.key", "renewed.crt", "bob.key"),
        ("renewed.key", "renewed.key", "renewed.key"),
        ("renewed.crt", "renewed.crt", "renewed.crt"),
    ] {
        pooler
            .ini
            .change("client_tls_key_file", certificates.name(key));
        pooler
            .ini
            .change("client_tls_cert_file", certificates.name(cert));
        pooler.write_config();
        let error = pooler.console_error("RELOAD");
        assert_eq!(error.code(), "F0000");
        pooler.wait_log(said);
        assert_eq!(served_certificate(&pooler), before, "{key} {cert}");
    }
    pooler.wait_log(&format!(
        "TLS setup failed: client_tls_cert_file \"{nowhere}\""
    ));
    pooler.wait_log("TLS configuration could not be reloaded, keeping old configuration");
    pooler.signal(Signal::HUP);
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
}

#[test]
fn set_turns_tls_on_and_off() {
    let certificates = Certificates::shared();
    let pooler = Ini::transaction().start();
    for (key, value) in [
        ("client_tls_key_file", certificates.name("localhost.key")),
        ("client_tls_cert_file", certificates.name("localhost.crt")),
        ("client_tls_sslmode", "prefer".to_owned()),
    ] {
        pooler.console(&format!("SET {key} = '{value}'"));
    }
    assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
    pooler.console("SET client_tls_sslmode = 'disable'");
    assert!(psql(&pooler, "alice", "sslmode=require", "select 1").is_err());
}

#[test]
fn a_setting_that_cannot_be_applied_is_answered_with_a_notice() {
    for (setting, said) in [
        (
            "client_tls13_ciphers = 'unknown'",
            "failed to set the TLSv1.3 cipher suites",
        ),
        ("client_tls_cert_file = '/nowhere'", "/nowhere"),
    ] {
        let pooler = offers("prefer");
        let mut admin = pooler.console_of("admin");
        admin.run(&format!("SET {setting}"));
        let notice = format!("{:?}", admin.asides.last().expect("a notice"));
        let text = "TLS settings could not be applied, still using old configuration";
        assert!(notice.contains(text), "{notice}");
        pooler.wait_log(said);
        assert_served(psql(&pooler, "alice", "sslmode=require", "select 1"));
    }
}

#[test]
fn servers_are_closed_when_their_tls_changes_and_only_then() {
    let mut pooler = towards("prefer", "localhost")
        .one_server()
        .start_on(postgres());
    let mut client = pooler.client();
    let first = client.backend_pid();
    pooler.reload(|_| {});
    assert_eq!(client.backend_pid(), first);
    pooler.reload(|ini| ini.change("client_tls_ca_file", Certificates::shared().name("ca.crt")));
    assert_eq!(client.backend_pid(), first);
    pooler.reload(|ini| ini.change("server_tls_sslmode", "disable"));
    assert_ne!(client.backend_pid(), first);
    assert_eq!(client.value(IS_ENCRYPTED), "f");
    pooler.wait_log("database configuration changed");
}

#[test]
fn a_start_with_wrong_files_is_refused_with_place_and_remedy() {
    if only_pgweir("PgBouncer names no place and no remedy") {
        return;
    }
    let certificates = Certificates::shared();
    let folder = Folder::new("config");
    let (key, cert) = (certificates.name("bob.key"), certificates.name("alice.crt"));
    for (text, line, setting, says) in [
        (
            "client_tls_sslmode = require\n".to_owned(),
            2,
            "client_tls_sslmode",
            "Set client_tls_key_file.",
        ),
        (
            format!(
                "client_tls_sslmode = require\nclient_tls_key_file = {key}\n\
                 client_tls_cert_file = /nowhere/at.all\n"
            ),
            4,
            "client_tls_cert_file",
            "No such file",
        ),
        (
            format!(
                "client_tls_sslmode = require\nclient_tls_key_file = {key}\n\
                 client_tls_cert_file = {cert}\n"
            ),
            3,
            "bob.key",
            "belong together",
        ),
        (
            "client_tls_sslmode = disable\nserver_tls_ca_file = /nowhere/at.all\n".to_owned(),
            3,
            "server_tls_ca_file",
            "No such file",
        ),
        (
            "server_tls_ciphers = AES128-SHA\n".to_owned(),
            2,
            "server_tls_ciphers",
            "ECDHE-RSA-AES128-GCM-SHA256",
        ),
        (
            "server_tls_protocols = tlsv9\n".to_owned(),
            2,
            "server_tls_protocols",
            "tlsv1.2",
        ),
    ] {
        let file = folder.write("pgbouncer.ini", &format!("[pgbouncer]\n{text}"));
        let mut command = process::server_command(process::program(), "KILL");
        command.arg(&file).stderr(std::process::Stdio::piped());
        let ended = process::spawn(command).wait_with_output().expect("it ends");
        let message = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{message}");
        let place = format!("{}, line {line}", file.display());
        for part in [place.as_str(), setting, says, "remedy:"] {
            assert!(message.contains(part), "no {part}: {message}");
        }
    }
}
