//! `auth_type = hba`: rules, ident maps, and users of the system.

use crate::harness::backend::{Fields, Message};
use crate::harness::becomes;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{binary, client_program, password_of};
use crate::harness::process::server_command;
use crate::harness::wire::{Login, Wire};
use std::process::Command;

/// Every error that the pooler makes itself.
#[track_caller]
fn assert_refused(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", text)
    );
}

/// Logins by these rules; admin may enter the console.
fn with_rules(rules: &str) -> Ini {
    Ini::transaction()
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file(
            "hba.conf",
            &format!("host pgbouncer admin all trust\n{rules}\n"),
        )
}

/// And by this ident file.
fn with_map(rules: &str, map: &str) -> Ini {
    with_rules(rules)
        .set("auth_ident_file", "ident.conf")
        .file("ident.conf", map)
}

/// The code of the first authentication request: 0 is AuthenticationOk.
fn asked(pooler: &Pooler<'_>, user: &str) -> u32 {
    let mut wire = Wire::connect(pooler.address());
    wire.send(pooler.login(user).packet());
    match wire.recv() {
        Message::Authentication(code, _) => code,
        other => panic!("{other:?}"),
    }
}

/// One value by psql over the Unix socket, or psql's complaint.
fn psql(pooler: &Pooler<'_>, user: &str, database: &str) -> Result<String, String> {
    let output = client_program("psql")
        .arg("-h")
        .arg(pooler.folder.path())
        .args(["-p", &pooler.address().port().to_string()])
        .args([
            "-U",
            user,
            "-d",
            database,
            "-w",
            "-Atqc",
            "select current_user",
        ])
        .output()
        .expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// The user this process runs as.
fn system_user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_first_rule_that_fits_decides() {
    let pooler = with_rules(
        "host db alice all reject\n\
         host all alice all trust\n\
         host all bob 127.0.0.2/32 reject\n\
         host all bob 127.0.0.0/8 trust\n",
    )
    .start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "login rejected");
    assert_eq!(pooler.client_of("bob").value("select current_user"), "bob");
    let error = pooler.login("carol").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn each_rule_asks_by_its_own_method() {
    let pooler = with_rules(
        "host all alice all trust\n\
         host all bob all password\n\
         host all carol all md5\n\
         host all scram_user all scram-sha-256\n",
    )
    .start();
    let users = ["alice", "bob", "carol", "scram_user"];
    assert_eq!(users.map(|user| asked(&pooler, user)), [0, 3, 5, 10]);
    for user in users {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
    }
    for user in &users[1..] {
        let wrong = pooler.login(user).password("wrong");
        let error = wrong.refused_at(pooler.address());
        assert!(error.text().ends_with("authentication failed"), "{error:?}");
    }
}

#[test]
fn rules_tell_databases_apart() {
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME";
    let pooler = with_rules(
        "host sameuser all all trust\n\
         host \"a b\",c alice all md5\n",
    )
    .database("alice", entry)
    .database("'a b'", entry)
    .database("c", entry)
    .db("")
    .start();
    let enters = |database: &str| {
        let login = Login::new("alice", database).password(&password_of("alice"));
        login.at(pooler.address()).is_ok()
    };
    let entered = ["alice", "a b", "c", "db"].map(enters);
    assert_eq!(entered, [true, true, true, false]);
}

#[test]
fn rules_for_tls_do_not_fit_without_it() {
    let pooler = with_rules(
        "hostssl all all all trust\n\
         hostnossl all alice all trust\n",
    )
    .start();
    pooler.client_of("alice").run("select 1");
    let error = pooler.login("bob").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn local_rules_are_for_the_unix_socket_and_others_are_not() {
    let pooler = with_rules("local all alice trust\nhost all bob all trust\n").start();
    assert_eq!(psql(&pooler, "alice", "db").as_deref(), Ok("alice"));
    let refused = psql(&pooler, "bob", "db").expect_err("no rule");
    assert!(
        refused.contains("no authentication method is found"),
        "{refused}"
    );
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn a_user_whom_nobody_knows_is_not_let_in_by_a_rule() {
    let pooler = with_rules("host db nobody all trust\nhost all all all md5\n").start();
    let nobody = Login::new("nobody", "db").password("x");
    assert_refused(
        &nobody.refused_at(pooler.address()),
        "\"trust\" authentication failed",
    );
    let other = Login::new("other", "db").password("x");
    assert_refused(
        &other.refused_at(pooler.address()),
        "password authentication failed",
    );
}

#[test]
fn a_bad_line_is_skipped_and_told_with_file_and_line() {
    let pooler = with_rules(
        "host all alice all trust\n\
         host all bob example.org trust\n\
         host all +admins all trust\n\
         host all bob 127.0.0.1/8 trust\n\
         host all carol all trust\n",
    )
    .start();
    pooler.wait_log("hba line 3: failed to parse address - example.org");
    pooler.wait_log("could not parse hba config line 3 in hba.conf");
    pooler.wait_log("could not parse hba config line 4 in hba.conf");
    pooler.wait_log("address does not match mask in hba.conf line #5: 127.0.0.1 / 255.0.0.0");
    for user in ["alice", "carol"] {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
    }
    let error = pooler.login("bob").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn without_a_rule_file_nobody_gets_in() {
    let pooler = Ini::transaction()
        .set("auth_type", "hba")
        .set("auth_hba_file", "nowhere.conf")
        .start();
    pooler.wait_log("could not open hba config file nowhere.conf: ");
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn a_reload_takes_over_new_rules() {
    let mut pooler = with_rules("host all alice all trust").start();
    let mut old = pooler.client();
    pooler.reload(|ini| {
        ini.change_file(
            "hba.conf",
            "host pgbouncer admin all trust\nhost all bob all trust\n",
        );
    });
    assert_eq!(pooler.client_of("bob").value("select current_user"), "bob");
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
    assert_eq!(old.value("select current_user"), "alice");
}

#[test]
fn a_reload_may_bring_rules_and_take_them_away() {
    let mut pooler = Ini::transaction()
        .file("hba.conf", "host pgbouncer admin all trust\n")
        .set("auth_hba_file", "hba.conf")
        .start();
    pooler.client().run("select 1");
    pooler.reload(|ini| ini.change("auth_type", "hba"));
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
    pooler.reload(|ini| ini.change("auth_type", "trust"));
    pooler.client().run("select 1");
}

#[test]
fn set_puts_rules_in_force() {
    let pooler = Ini::transaction()
        .file(
            "hba.conf",
            "host pgbouncer admin all trust\nhost all bob all md5\n",
        )
        .set("auth_hba_file", "hba.conf")
        .start();
    pooler.console("SET auth_type = 'hba'");
    assert_eq!(asked(&pooler, "bob"), 5);
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn names_may_stand_in_a_file_of_their_own() {
    let pooler = with_rules("host all @users all trust")
        .file("users", "alice,bob\ncarol\n")
        .start();
    for user in ["alice", "bob", "carol"] {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
    }
    let error = pooler.login("scram_user").refused_at(pooler.address());
    assert_refused(&error, "no authentication method is found");
}

#[test]
fn rules_hold_for_the_console_too() {
    let pooler = with_rules("host pgbouncer stats all scram-sha-256").start();
    pooler.console_of("stats").query("SHOW POOLS").succeeded();
    let wrong = Login::new("stats", "pgbouncer").password("wrong");
    assert_refused(
        &wrong.refused_at(pooler.address()),
        "SASL authentication failed",
    );
}

#[test]
fn a_user_from_auth_query_is_held_to_the_rules() {
    let mut ini = with_rules("host all alice all password\nhost all bob all reject\n")
        .set("auth_user", "postgres")
        .set("auth_query", "select $1::text, 'x'");
    ini.userlist.retain(|(user, _)| user == "admin");
    let pooler = ini.start();
    let login = Login::new("alice", "db").password("x");
    login.at(pooler.address()).expect("the right password");
    let bob = Login::new("bob", "db").password("x");
    assert_refused(&bob.refused_at(pooler.address()), "login rejected");
}

#[test]
fn a_peer_is_known_by_the_user_it_runs_as() {
    let own = system_user();
    let pooler = with_rules("local all all peer")
        .secret(&own, "")
        .db("user=bob")
        .start();
    assert_eq!(psql(&pooler, &own, "db").as_deref(), Ok("bob"));
    let refused = psql(&pooler, "alice", "db").expect_err("another name");
    assert!(refused.contains("unix socket login rejected"), "{refused}");
}

#[test]
fn an_ident_map_says_who_a_peer_may_be() {
    let own = system_user();
    let map = format!("m {own} alice\nm \"{own}\" bob\nm nobody carol\n");
    let pooler = with_map("local all all peer map=m", &map).start();
    for user in ["alice", "bob"] {
        assert_eq!(psql(&pooler, user, "db").as_deref(), Ok(user));
    }
    let refused = psql(&pooler, "carol", "db").expect_err("not mapped");
    assert!(refused.contains("unix socket login rejected"), "{refused}");
    pooler.wait_log("ident map m cannot be matched");
}

#[test]
fn an_ident_map_may_let_a_peer_be_anybody_who_is_known() {
    let map = format!("m {} all\n", system_user());
    let pooler = with_map("local all all peer map=m", &map).start();
    assert_eq!(psql(&pooler, "carol", "db").as_deref(), Ok("carol"));
    let refused = psql(&pooler, "nobody", "db").expect_err("unknown");
    assert!(refused.contains("unix socket login rejected"), "{refused}");
}

#[test]
fn a_rule_with_an_unknown_map_is_skipped() {
    let pooler = with_map(
        "local all all peer map=other\nlocal all alice trust",
        "m root alice\nbad line here too\n",
    )
    .start();
    pooler.wait_log("hba line 2: Ident map other is not found in ident config file");
    pooler.wait_log("could not parse ident config line 2 in ident.conf");
    assert_eq!(psql(&pooler, "alice", "db").as_deref(), Ok("alice"));
}

#[test]
fn peers_of_tcp_are_nobody() {
    let pooler = with_rules("host all all all peer").start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "unix socket login rejected");
}

#[test]
fn without_a_certificate_nobody_is_let_in_by_one() {
    let pooler = with_rules("host all all all cert").start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_refused(&error, "certificate authentication failed");
    pooler.wait_log("TLS client certificate required");
}

#[test]
fn the_owner_of_the_pooler_needs_no_rule_for_the_console() {
    let pooler = with_rules("local all alice trust").start();
    // The servers' account is the pooler's.
    let mut owner = server_command(&binary("psql"), "KILL");
    let output = owner
        .arg("-h")
        .arg(pooler.folder.path())
        .args(["-p", &pooler.address().port().to_string()])
        .args([
            "-U",
            "pgbouncer",
            "-d",
            "pgbouncer",
            "-wAtqc",
            "show version",
        ])
        .output()
        .expect("psql runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("PgBouncer"), "{output:?}");
}

#[test]
fn rules_are_not_read_at_a_login() {
    let pooler = with_rules("host all alice all trust").start();
    pooler.client().run("select 1");
    std::fs::remove_file(pooler.folder.path().join("hba.conf")).expect("our own file");
    becomes("a login without the file", true, || {
        pooler.login("alice").at(pooler.address()).is_ok()
    });
}
