//! Passwords that PAM checks: `auth_type = pam`, and rules.
//!
//! The library pam_wrapper, which is loaded first, lets a process find its
//! services in another folder than `/etc/pam.d`.

use crate::harness::backend::Fields;
use crate::harness::frontend;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::password_of;
use crate::harness::process::Folder;
use crate::harness::wire::{Login, Wire};
use crate::harness::{eventually, only_pgweir, together};
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;

/// dora's password, and that of who hangs or has expired.
const PASSWORD: &str = "open sesame";

/// What checks passwords: who hangs is not answered for a while.
const AUTH: &str = "#!/bin/sh
env | grep ^PAM_ > FOLDER/seen.$PAM_USER
password=$(tr -d '\\000')
case $PAM_USER in hang) sleep 20 ;; esac
test \"$password\" = \"open sesame\" || test \"$PAM_USER $password\" = \"admin ADMIN\"
";

/// What checks accounts.
const ACCOUNT: &str = "#!/bin/sh
test \"$PAM_USER\" != expired
";

/// A folder with the service `pgbouncer`.
fn service() -> Folder {
    let folder = Folder::new("pam");
    let path = folder.path().display().to_string();
    let checks = folder.path().join("checks");
    std::fs::create_dir(&checks).expect("our own folder");
    for (name, text) in [("auth", AUTH), ("account", ACCOUNT)] {
        let text = text
            .replace("FOLDER", &path)
            .replace("ADMIN", &password_of("admin"));
        let file = folder.write(&format!("checks/{name}"), &text);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(file, mode).expect("our own file");
    }
    let services = folder.path().join("services");
    std::fs::create_dir(&services).expect("our own folder");
    let text = format!(
        "auth required pam_exec.so quiet expose_authtok {path}/checks/auth\n\
         account required pam_exec.so quiet {path}/checks/account\n"
    );
    folder.write("services/pgbouncer", &text);
    folder
}

/// Logins by that service.
fn ini(service: &Folder) -> Ini {
    let services = service.path().join("services");
    Ini::transaction()
        .database("db", "host=127.0.0.1 port=PORT dbname=DBNAME user=alice")
        .set("auth_type", "pam")
        .environment("LD_PRELOAD", "libpam_wrapper.so")
        .environment("PAM_WRAPPER", "1")
        .environment("PAM_WRAPPER_SERVICE_DIR", services.display())
}

fn log_in(pooler: &Pooler<'_>, user: &str, password: &str) -> Result<Wire, Fields> {
    let login = Login::new(user, "db").password(password);
    login.at(pooler.address())
}

#[track_caller]
fn refuses(pooler: &Pooler<'_>, user: &str, password: &str, log: &str) {
    let error = log_in(pooler, user, password).expect_err("a wrong login");
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", "PAM authentication failed")
    );
    pooler.wait_log(log);
    assert!(!pooler.log().contains(password));
}

#[test]
fn a_right_password_lets_a_user_in() {
    let service = service();
    let pooler = ini(&service).start();
    let mut client = log_in(&pooler, "dora", PASSWORD)
        .unwrap_or_else(|error| panic!("{error:?}\n{}", pooler.log()));
    assert_eq!(client.value("select current_user"), "alice");
    let seen = std::fs::read_to_string(service.path().join("seen.dora")).expect("it was asked");
    for told in [
        "PAM_SERVICE=pgbouncer",
        "PAM_USER=dora",
        "PAM_RHOST=127.0.0.1",
    ] {
        assert!(seen.contains(told), "{told}: {seen}");
    }
}

#[test]
fn a_wrong_password_is_refused() {
    let service = service();
    let pooler = ini(&service).start();
    refuses(
        &pooler,
        "dora",
        "secret word",
        "pam_authenticate() failed: ",
    );
    // In auth_file, which nobody asks.
    refuses(
        &pooler,
        "bob",
        &password_of("bob"),
        "pam_authenticate() failed: ",
    );
    log_in(&pooler, "dora", PASSWORD).expect("a right password");
}

#[test]
fn an_account_that_may_not_log_in_is_refused() {
    let service = service();
    let pooler = ini(&service).start();
    refuses(&pooler, "expired", PASSWORD, "pam_acct_mgmt() failed: ");
}

#[test]
fn an_empty_password_is_none() {
    let service = service();
    let pooler = ini(&service).start();
    let error = log_in(&pooler, "dora", "").expect_err("no password");
    assert_eq!(error.text(), "empty password returned by client");
}

#[test]
fn a_module_that_hangs_stops_nobody_else() {
    if only_pgweir("PgBouncer asks for one after the other") {
        return;
    }
    let service = service();
    let pooler = ini(&service).set("client_login_timeout", 5).start();
    let errors = together(2, |user| match user {
        0 => log_in(&pooler, "hang", PASSWORD).err(),
        _ => {
            let began = service.path().join("seen.hang");
            eventually("the module is asked", || match began.exists() {
                true => Ok(()),
                false => Err("not yet".to_owned()),
            });
            log_in(&pooler, "dora", PASSWORD).err()
        }
    });
    let told = errors[0].as_ref().expect("no answer");
    assert_eq!(told.text(), "client_login_timeout");
    assert!(errors[1].is_none(), "{errors:?}");
}

#[test]
fn a_module_that_hangs_does_not_keep_the_process() {
    let service = service();
    let mut pooler = ini(&service).set("client_login_timeout", 1).start();
    log_in(&pooler, "hang", PASSWORD).expect_err("no answer");
    pooler.signal(Signal::TERM);
    pooler.wait_end();
}

#[test]
fn a_client_that_leaves_while_a_module_is_asked_is_gone_at_once() {
    if only_pgweir("PgBouncer 1.18 waits for the module") {
        return;
    }
    let service = service();
    let pooler = ini(&service).set("client_login_timeout", 600).start();
    let began = service.path().join("seen.hang");
    pooler.assert_notices_that_a_login_leaves(|client| {
        client.send(Login::new("hang", "db").packet());
        client.recv();
        client.send(frontend::password(format!("{PASSWORD}\0").as_bytes()));
        eventually("the module is asked", || match began.exists() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
    });
    // Else it could have come back.
    assert!(
        began
            .metadata()
            .expect("its file")
            .modified()
            .expect("a time")
            .elapsed()
            .expect("before now")
            .as_secs()
            < 20
    );
}

#[test]
fn many_log_in_at_once() {
    let service = service();
    let pooler = ini(&service).start();
    let errors = together(30, |_| log_in(&pooler, "dora", PASSWORD).err());
    assert!(errors.iter().all(Option::is_none), "{errors:?}");
}

#[test]
fn a_rule_may_ask_it() {
    if only_pgweir("PgBouncer has no rules with pam") {
        return;
    }
    let service = service();
    let rules = "host pgbouncer admin all trust\nhost all dora all pam\nhost all all all md5\n";
    let pooler = ini(&service)
        .set("auth_type", "hba")
        .set("auth_hba_file", "hba.conf")
        .file("hba.conf", rules)
        .start();
    log_in(&pooler, "dora", PASSWORD).expect("by PAM");
    refuses(
        &pooler,
        "dora",
        "secret word",
        "pam_authenticate() failed: ",
    );
    log_in(&pooler, "bob", &password_of("bob")).expect("by auth_file");
}

#[test]
fn the_password_that_was_typed_opens_servers() {
    let service = service();
    let pooler = ini(&service)
        .database("db", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .start();
    // PostgreSQL knows no dora: it is asked as her.
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("no such role");
    assert_eq!(error.code(), "28000");
}

#[test]
fn a_database_with_auth_user_is_not_for_it() {
    let service = service();
    let entry = "host=127.0.0.1 port=PORT dbname=DBNAME auth_user=alice";
    let pooler = ini(&service).database("db", entry).start();
    let error = log_in(&pooler, "dora", PASSWORD).expect_err("a contradiction");
    assert_eq!(error.text(), "bouncer config error");
    pooler.wait_log("PAM can't be used together with database authentication");
}
