//! Passwords that a directory checks: `auth_type = ldap`, and rules.

use crate::harness::backend::Fields;
use crate::harness::directory::{Directory, PASSWORD};
use crate::harness::frontend;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::{Login, Wire};
use std::io::{Read, Write};
use std::sync::OnceLock;

/// dora's own entry, found by its name.
const BY_NAME: &str = "ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\"";

/// One directory for all tests.
fn directory() -> &'static Directory {
    static SHARED: OnceLock<Directory> = OnceLock::new();
    SHARED.get_or_init(Directory::start)
}

/// The options that name the directory.
fn server() -> String {
    format!("ldapserver=127.0.0.1 ldapport={}", directory().port)
}

/// Logins by the directory.
fn ini(options: &str) -> Ini {
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME user=alice";
    Ini::transaction()
        .database("db", entry)
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file(
            "hba.conf",
            &format!("host pgbouncer admin all trust\nhost all all all ldap {options}\n"),
        )
}

fn log_in(pooler: &Pooler<'_>, user: &str, password: &str) -> Result<Wire, Fields> {
    let login = Login::new(user, "db").password(password);
    login.at(pooler.address())
}

#[track_caller]
fn admits(options: &str) {
    let pooler = ini(options).start();
    let mut client = log_in(&pooler, "dora", PASSWORD)
        .unwrap_or_else(|error| panic!("{options}: {error:?}\n{}", pooler.log()));
    assert_eq!(client.value("select current_user"), "alice", "{options}");
}

/// Refuses the user with this password, and the log says this.
#[track_caller]
fn refuses(options: &str, user: &str, password: &str, log: &str) {
    let pooler = ini(options).start();
    let error = log_in(&pooler, user, password).expect_err("a wrong login");
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", "LDAP authentication failed")
    );
    pooler.wait_log(log);
    assert!(!pooler.log().contains(PASSWORD));
}

#[test]
fn a_user_is_known_by_its_name() {
    admits(&format!("{} {BY_NAME}", server()));
}

#[test]
fn a_user_is_searched_for() {
    let base = format!("{} ldapbasedn=\"dc=example,dc=net\"", server());
    admits(&base);
    admits(&format!(
        "{base} ldapsearchattribute=mail ldapsearchattribute=uid"
    ));
    admits(&format!(
        "{base} ldapsearchfilter=\"(&(objectClass=*)(uid=$username))\""
    ));
    admits(&format!(
        "{base} ldapbinddn=\"cn=Manager,dc=example,dc=net\" ldapbindpasswd=secret"
    ));
}

#[test]
fn a_url_says_where_to_search() {
    let url = format!("ldap://127.0.0.1:{}/dc=example,dc=net", directory().port);
    admits(&format!("ldapurl=\"{url}?uid?sub\""));
    let filter = "(|(uid=$username)(mail=$username))";
    admits(&format!("ldapurl=\"{url}??sub?{filter}\""));
}

#[test]
fn the_next_server_is_asked_where_the_first_is_not_there() {
    let servers = format!(
        "ldapserver=\"127.0.0.9 127.0.0.1\" ldapport={}",
        directory().port
    );
    admits(&format!("{servers} {BY_NAME}"));
}

#[test]
fn the_options_of_auth_type_ldap_are_in_a_setting() {
    let pooler = ini("")
        .set("auth_type", "ldap")
        .set("auth_ldap_options", format!("{} {BY_NAME}", server()))
        .start();
    let mut client = log_in(&pooler, "dora", PASSWORD).expect("a right password");
    client.run("select 1");
}

#[test]
fn the_password_that_was_typed_opens_servers() {
    let pooler = ini(&format!("{} {BY_NAME}", server()))
        .database("db", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start();
    // PostgreSQL knows no dora: it is asked as her.
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("no such role");
    assert_eq!(error.code(), "28000");
}

#[test]
fn a_wrong_password_is_refused() {
    let by_name = format!("{} {BY_NAME}", server());
    let search = format!("{} ldapbasedn=\"dc=example,dc=net\"", server());
    for options in [&by_name, &search] {
        refuses(options, "dora", "wrong", "wrong password");
    }
    refuses(
        &search,
        "nobody",
        PASSWORD,
        "LDAP user \"nobody\" does not exist",
    );
    refuses(
        &search,
        "twin",
        PASSWORD,
        "LDAP user \"twin\" is not unique",
    );
    refuses(&search, "dor*", PASSWORD, "invalid character in user name");
    let bind = format!("{search} ldapbinddn=cn=x ldapbindpasswd=hidden");
    refuses(
        &bind,
        "dora",
        PASSWORD,
        "could not perform initial LDAP bind",
    );
}

#[test]
fn an_empty_password_is_none() {
    let pooler = ini(&format!("{} {BY_NAME}", server())).start();
    let error = log_in(&pooler, "dora", "").expect_err("no password");
    assert_eq!(error.text(), "empty password returned by client");
}

#[test]
fn options_that_contradict_each_other_let_nobody_in() {
    let options = format!("{} {BY_NAME} ldapscheme=ldaps ldaptls=1", server());
    let told = "cannot use ldaptls=1 together with ldaps";
    refuses(&options, "dora", PASSWORD, told);
    refuses(
        &options,
        "dora",
        PASSWORD,
        &format!("hba.conf, line 2: {told}"),
    );
}

/// Rules that a reload or a start refuses can still be put in force by SET.
#[test]
fn options_that_cannot_be_used_let_nobody_in() {
    let pooler = ini("ldapcolour=red\nhost all all all trust")
        .set("auth_type", "trust")
        .start();
    pooler.console("SET auth_type = 'hba'");
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("a wrong rule");
    assert_eq!(error.text(), "LDAP authentication failed");
    pooler.wait_log("invalid LDAP option: \"ldapcolour\"");
}

#[test]
fn a_reload_with_options_that_cannot_be_used_changes_nothing() {
    let mut pooler = ini(&format!("{} {BY_NAME}", server()))
        .set("verbose", 1)
        .start();
    let rules = "host pgbouncer admin all trust\n\nhost all all all ldap ldapprefx=x\n";
    pooler.ini.change_file("hba.conf", rules);
    pooler.ini.change("verbose", 2);
    pooler.write_config();
    pooler.console_error("RELOAD");
    pooler
        .wait_log("hba.conf, line 3: invalid LDAP option: \"ldapprefx\". Did you mean ldapprefix?");
    log_in(&pooler, "dora", PASSWORD).expect("by the rules before");
    assert_eq!(
        pooler
            .console("SHOW CONFIG")
            .row(&[("key", "verbose")])
            .text("value"),
        "1"
    );
    pooler.ini.change("auth_type", "ldap");
    let options = "ldapserver=h ldapport=x";
    pooler.ini.change("auth_ldap_options", options);
    pooler.write_config();
    pooler.console_error("RELOAD");
    pooler.wait_log("invalid LDAP port number: \"x\". Give a number from 1 to 65535.");
}

/// Says what a directory says, and something more in clear that would let the
/// client in.
#[test]
fn what_comes_in_clear_behind_the_answer_to_starttls_is_not_believed() {
    let directory = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = directory.local_addr().expect("it is bound").port();
    let options = format!("ldapserver=127.0.0.1 ldapport={port} ldaptls=1 {BY_NAME}");
    let pooler = ini(&options).start();
    let serve = std::thread::spawn(move || {
        let (mut client, _) = directory.accept().expect("a client");
        let mut request = [0; 256];
        let asked = client.read(&mut request).expect("StartTLS");
        assert!(asked > 0, "it has left");
        let mut said = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00".to_vec();
        for id in 1..4 {
            said.extend_from_slice(b"\x30\x0c\x02\x01");
            said.push(id);
            said.extend_from_slice(b"\x61\x07\x0a\x01\x00\x04\x00\x04\x00");
        }
        client.write_all(&said).expect("room");
        let begun = client.read(&mut request).expect("the beginning of TLS");
        assert!(begun > 0, "it has left");
        // As if a directory had agreed to speak in clear.
        client.write_all(&said).ok();
        request[0]
    });
    let error = log_in(&pooler, "dora", "anything").expect_err("no directory said so");
    assert_eq!(error.text(), "LDAP authentication failed");
    pooler.wait_log("TLS handshake error");
    assert_eq!(
        serve.join().expect("served"),
        0x16,
        "the beginning of a handshake"
    );
}

#[test]
fn a_certificate_that_the_system_does_not_trust_is_refused() {
    let secure = |port| format!("ldapserver=127.0.0.1 ldapport={port} {BY_NAME}");
    let begun = format!("{} ldaptls=1", secure(directory().port));
    let from_the_start = format!("{} ldapscheme=ldaps", secure(directory().tls_port));
    for options in [begun, from_the_start] {
        refuses(&options, "dora", PASSWORD, "TLS handshake error");
    }
}

#[test]
fn a_directory_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let options = format!("ldapserver=127.0.0.1 ldapport={port} {BY_NAME}");
    let pooler = ini(&options).set("client_login_timeout", 1).start();
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("no answer");
    assert_eq!(error.text(), "client_login_timeout");
}

#[test]
fn a_client_that_leaves_while_a_directory_is_asked_is_gone_at_once() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let options = format!("ldapserver=127.0.0.1 ldapport={port} {BY_NAME}");
    let pooler = ini(&options).set("client_login_timeout", 600).start();
    let started = std::time::Instant::now();
    pooler.assert_notices_that_a_login_leaves(|client| {
        client.send(Login::new("dora", "db").packet());
        client.recv();
        client.send(frontend::password(format!("{PASSWORD}\0").as_bytes()));
        silent.accept().map(std::mem::forget).expect("it is asked");
    });
    // A directory has 30 s.
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn a_database_with_auth_user_is_not_for_directories() {
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME auth_user=alice";
    let pooler = ini(&format!("{} {BY_NAME}", server()))
        .database("db", entry)
        .start();
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("a contradiction");
    assert_eq!(error.text(), "bouncer config error");
    pooler.wait_log("LDAP can't be used together with database authentication");
}
