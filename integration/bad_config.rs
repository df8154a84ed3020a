//! Configurations that are wrong: the message names the file, the line, the
//! setting and the remedy, and the process ends with status 1.

use crate::harness::only_pgweir;
use crate::harness::process::{self, Folder};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// One mistake.
struct Mistake {
    file: &'static str,
    text: &'static str,
    /// Line of the mistake; 0 if it is none.
    line: usize,
    /// What has to be named: the setting or section.
    names: &'static str,
    /// What has to be suggested, or said of the remedy.
    suggests: &'static str,
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        file: "a.ini",
        text: "[pgbouncer]\nlisten_addr = 127.0.0.1\npool_mod = transaction\n",
        line: 3,
        names: "pool_mod",
        suggests: "pool_mode",
    },
    Mistake {
        file: "b.ini",
        text: "[databases]\ndb = host=127.0.0.1 pol_size=3\n[pgbouncer]\n",
        line: 2,
        names: "pol_size",
        suggests: "pool_size",
    },
    Mistake {
        file: "c.ini",
        text: "[users]\nalice = pool_mod=session\n[pgbouncer]\n",
        line: 2,
        names: "pool_mod",
        suggests: "pool_mode",
    },
    Mistake {
        file: "d.ini",
        text: "[pgbouncer]\npool_mode = transacton\n",
        line: 2,
        names: "pool_mode",
        suggests: "transaction",
    },
    Mistake {
        file: "e.ini",
        text: "[pgbouncer]\n\n; a comment\nlisten_port = many\n",
        line: 4,
        names: "listen_port",
        suggests: "whole number",
    },
    Mistake {
        file: "f.ini",
        text: "[pgbouncer]\nquery_timeout = -1\n",
        line: 2,
        names: "query_timeout",
        suggests: "seconds",
    },
    Mistake {
        file: "g.ini",
        text: "[pgbouncr]\nlisten_port = 6432\n",
        line: 1,
        names: "pgbouncr",
        suggests: "pgbouncer",
    },
    Mistake {
        file: "h.ini",
        text: "[pgbouncer]\nthis is no setting\n",
        line: 2,
        names: "syntax error",
        suggests: "=",
    },
    Mistake {
        file: "i.ini",
        text: "[databases]\ndb = host=127.0.0.1\n",
        line: 0,
        names: "[pgbouncer]",
        suggests: "[pgbouncer]",
    },
    Mistake {
        file: "j.ini",
        text: "listen_port = 6432\n[pgbouncer]\n",
        line: 1,
        names: "listen_port",
        suggests: "section",
    },
    Mistake {
        file: "k.ini",
        text: "[databases]\npgbouncer = host=127.0.0.1\n[pgbouncer]\n",
        line: 2,
        names: "pgbouncer",
        suggests: "another name",
    },
    Mistake {
        file: "l.ini",
        text: "[databases]\ndb = host='127.0.0.1\n[pgbouncer]\n",
        line: 2,
        names: "db",
        suggests: "quote",
    },
    Mistake {
        file: "m.ini",
        text: "[pgbouncer]\n%include nowhere.ini\n",
        line: 2,
        names: "nowhere.ini",
        suggests: "name",
    },
    Mistake {
        file: "a.toml",
        text: "[pgbouncer]\npool_mod = \"transaction\"\n",
        line: 2,
        names: "pool_mod",
        suggests: "pool_mode",
    },
    Mistake {
        file: "b.toml",
        text: "[pgbouncer]\npool_mode = \"transacton\"\n",
        line: 2,
        names: "pool_mode",
        suggests: "transaction",
    },
    Mistake {
        file: "c.toml",
        text: "[pgbouncer]\nlisten_port = \"many\"\n",
        line: 2,
        names: "listen_port",
        suggests: "number",
    },
    Mistake {
        file: "d.toml",
        text: "[pgbouncer]\nlisten_port 6432\n",
        line: 2,
        names: "syntax error",
        suggests: "Correct the line",
    },
    Mistake {
        file: "e.toml",
        text: "[pgbouncer]\n[databases.db]\nhost = \"127.0.0.1\"\npol_size = 3\n",
        line: 4,
        names: "pol_size",
        suggests: "pool_size",
    },
    Mistake {
        file: "f.toml",
        text: "[pgbouncer]\n[balancr]\nlisten = \"127.0.0.1:8080\"\n",
        line: 2,
        names: "balancr",
        suggests: "balancer",
    },
    Mistake {
        file: "g.toml",
        text: "[pgbouncer]\n[metrics]\nlisten = \"nowhere\"\n",
        line: 3,
        names: "listen",
        suggests: "127.0.0.1",
    },
    Mistake {
        file: "h.toml",
        text: "[pgbouncer]\n[queries]\nmax_statments = 5\n",
        line: 3,
        names: "max_statments",
        suggests: "max_statements",
    },
    Mistake {
        file: "i.toml",
        text: "[pgbouncer]\n[balancer]\nhttps_listen = [\"127.0.0.1:8443\"]\n\
               tls_cert_file = \"a.crt\"\n[balancer.nodes.a]\naddress = \"127.0.0.1:1\"\n",
        line: 2,
        names: "tls_key_file",
        suggests: "Add tls_key_file to [balancer]",
    },
    Mistake {
        file: "j.toml",
        text: "[balancer]\nlisten = [\"127.0.0.1:8080\"]\n[balancer.nodes.a]\naddress = \"127.0.0.1:1\"\n\
               [balancer.routes.chat]\npath = \"/chat\"\nupgrade = [\"web socket\"]\n",
        line: 7,
        names: "balancer.routes.chat.upgrade",
        suggests: "websocket",
    },
    Mistake {
        file: "k.toml",
        text: "[balancer]\nlisten = [\"127.0.0.1:8080\"]\n[balancer.nodes.a]\naddress = \"127.0.0.1:1\"\n\
               [balancer.routes.add]\npath = \"/add\"\nmethods = [\"POST\"]\ncache_control = 1\n",
        line: 8,
        names: "balancer.routes.add.cache_control",
        suggests: "add GET to methods",
    },
    Mistake {
        file: "l.toml",
        text: "[balancer]\nhttps_listen = [\"127.0.0.1:8443\"]\ndomain = [\"127.0.0.1\"]\n\
               acme = true\n[balancer.nodes.a]\naddress = \"127.0.0.1:1\"\n",
        line: if cfg!(feature = "acme") { 3 } else { 4 },
        names: if cfg!(feature = "acme") {
            "balancer.domain"
        } else {
            "balancer.acme: built without `acme`"
        },
        suggests: if cfg!(feature = "acme") {
            "leave it out"
        } else {
            "cargo build --features acme"
        },
    },
    Mistake {
        file: "l.toml",
        text: "[balancer]\nlisten = [\"127.0.0.1:8080\"]\nshared_cache = [\"http://10.0.0.1\"]\n\
               [balancer.nodes.a]\naddress = \"127.0.0.1:1\"\n",
        line: 3,
        names: "balancer.shared_cache",
        suggests: match cfg!(feature = "shared-cache") {
            true => "name it as redis://10.0.0.1:6379",
            false => "cargo build --features shared-cache",
        },
    },
];

fn run(arguments: &[&Path]) -> Output {
    let mut command = process::server_command(process::program(), "KILL");
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::spawn(command).wait_with_output().expect("it ends")
}

fn text(output: &Output) -> String {
    let parts = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&parts).into_owned()
}

/// `check`, `run` and PgBouncer's way to start, as far as they read the file.
fn ways(file: &Path) -> Vec<Vec<&Path>> {
    let mut ways = vec![vec![Path::new("check"), file], vec![Path::new("run"), file]];
    if file.extension().is_some_and(|extension| extension == "ini") {
        ways.push(vec![file]);
    }
    ways
}

#[test]
fn a_mistake_is_told_with_file_line_setting_and_remedy() {
    if only_pgweir("PgBouncer names no remedy") {
        return;
    }
    let folder = Folder::new("config");
    for mistake in MISTAKES {
        let file = folder.write(mistake.file, mistake.text);
        for way in ways(&file) {
            let output = run(&way);
            let message = text(&output);
            assert_eq!(output.status.code(), Some(1), "{way:?}: {message}");
            let place = match mistake.line {
                0 => file.display().to_string(),
                line => format!("{}, line {line}", file.display()),
            };
            let parts = message.split_once("remedy:");
            let (told, remedy) = parts.unwrap_or_else(|| panic!("{way:?}: no remedy: {message}"));
            assert!(
                told.contains(&place),
                "{way:?}: not at \"{place}\": {message}"
            );
            assert!(
                told.contains(mistake.names),
                "{way:?}: no {}: {message}",
                mistake.names
            );
            let helps = told.contains(mistake.suggests) || remedy.contains(mistake.suggests);
            assert!(helps, "{way:?}: no {}: {message}", mistake.suggests);
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    if only_pgweir("PgBouncer names no remedy") {
        return;
    }
    let missing = Path::new("nowhere.ini");
    for way in ways(missing) {
        let output = run(&way);
        let message = text(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains("nowhere.ini") && message.contains("remedy:"),
            "{message}"
        );
    }
}

#[test]
fn a_mistake_in_an_included_file_is_told_with_the_way_there() {
    if only_pgweir("PgBouncer names no remedy") {
        return;
    }
    let folder = Folder::new("config");
    let inner = folder.write("inner.ini", "\npool_mod = session\n");
    let outer = folder.write(
        "outer.ini",
        &format!("[pgbouncer]\n%include {}\n", inner.display()),
    );
    let message = text(&run(&[Path::new("check"), &outer]));
    assert!(
        message.contains(&format!("{}, line 2", inner.display())),
        "{message}"
    );
    assert!(
        message.contains(&format!("included from: {}, line 2", outer.display())),
        "{message}"
    );
}

#[test]
fn no_message_repeats_a_password() {
    if only_pgweir("PgBouncer repeats the line") {
        return;
    }
    let folder = Folder::new("config");
    for (name, content) in [
        (
            "a.ini",
            "[pgbouncer]\n[databases]\ndb = host=127.0.0.1 password=planted_secret pol_size=1\n",
        ),
        (
            "b.ini",
            "[pgbouncer]\n[databases]\ndb = password=planted_secret port=x\n",
        ),
        (
            "c.ini",
            "[pgbouncer]\n[databases]\ndb = host=127.0.0.1 password='planted_secret\n",
        ),
        (
            "d.toml",
            "[pgbouncer]\n[databases.db]\npassword = \"planted_secret\"\npol_size = 1\n",
        ),
        (
            "e.toml",
            "[pgbouncer]\n[databases.db]\npassword = [\"planted_secret\"]\n",
        ),
        (
            "f.toml",
            "[pgbouncer]\n[databases.db]\npassword = planted_secret\n",
        ),
    ] {
        let file = folder.write(name, content);
        for way in ways(&file) {
            let message = text(&run(&way));
            assert!(!message.contains("planted_secret"), "{way:?}: {message}");
        }
    }
}

#[test]
fn ways_to_log_in_that_are_not_there_are_told_at_the_start() {
    if only_pgweir("PgBouncer may be built with them") {
        return;
    }
    let folder = Folder::new("config");
    for (auth_type, told) in [
        ("ldap", "auth_type = ldap requires auth_ldap_options"),
        (
            "ldap\nauth_ldap_options = ldapserver=h ldapprefx=cn=",
            "auth_ldap_options: invalid LDAP option: \"ldapprefx\"",
        ),
        (
            "cert",
            "auth_type=cert requires client_tls_sslmode=verify-full",
        ),
    ] {
        let text_of_file = format!("[pgbouncer]\nauth_type = {auth_type}\n");
        let file = folder.write("auth.ini", &text_of_file);
        let output = run(&[&file]);
        let message = text(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn options_of_ldap_are_told_at_the_start_with_file_and_line() {
    if only_pgweir("PgBouncer tells them at each login") {
        return;
    }
    let folder = Folder::new("config");
    let rules = folder.write(
        "hba.conf",
        "host all all ::1/128 trust\nhost all all all ldap ldapserver=h ldapprefx=cn=\n",
    );
    let by_rules = format!("auth_type = hba\nauth_hba_file = {}\n", rules.display());
    let by_setting = "auth_type = ldap\nauth_ldap_options = ldapserver=h ldapprefx=cn=\n";
    for (name, settings, place) in [
        ("a.ini", by_rules.as_str(), "hba.conf, line 2"),
        ("b.ini", by_setting, "b.ini, line 3"),
    ] {
        let file = folder.write(name, &format!("[pgbouncer]\n{settings}"));
        for way in ways(&file) {
            let output = run(&way);
            let message = text(&output);
            assert_eq!(output.status.code(), Some(1), "{way:?}: {message}");
            for told in [
                "invalid LDAP option: \"ldapprefx\"",
                place,
                "Did you mean ldapprefix?",
            ] {
                assert!(message.contains(told), "{way:?}: {told}: {message}");
            }
        }
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let folder = Folder::new("config");
    let ini =
        format!("[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n");
    let file = folder.write("taken.ini", &ini);
    let output = run(&[&file]);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&port.to_string()), "{message}");
}

#[test]
fn nothing_to_listen_on_is_told() {
    let folder = Folder::new("config");
    let file = folder.write(
        "deaf.ini",
        "[pgbouncer]\nlisten_addr =\nunix_socket_dir =\n",
    );
    let output = run(&[&file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("nowhere to listen on"),
        "{}",
        text(&output)
    );
}

#[test]
fn root_is_refused() {
    let folder = Folder::new("config");
    let file = folder.write(
        "a.ini",
        "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 0\nunix_socket_dir =\n",
    );
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let output = Command::new(process::program())
        .arg(file)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("PgBouncer should not run as root"),
        "{}",
        text(&output)
    );
}

#[test]
fn wrong_arguments_are_told_as_pgbouncer_does() {
    let pgbouncer = Folder::new("bin").path().join("pgbouncer");
    std::fs::create_dir_all(pgbouncer.parent().expect("a folder")).expect("our own folder");
    std::os::unix::fs::symlink(process::program(), &pgbouncer).expect("a new link");
    let run = |arguments: &[&str]| {
        let output = Command::new(&pgbouncer)
            .args(arguments)
            .output()
            .expect("it runs");
        (output.status.code(), text(&output))
    };
    let hint = format!(
        "Try \"{} --help\" for more information.",
        pgbouncer.display()
    );
    for arguments in [&[][..], &["a.ini", "b.ini"]] {
        let (code, message) = run(arguments);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains("no configuration file specified"),
            "{message}"
        );
        assert!(message.contains(&hint), "{message}");
    }
    let (code, message) = run(&["--no-such-option"]);
    assert_eq!(code, Some(1), "{message}");
    assert!(
        message.contains("no-such-option") && message.contains(&hint),
        "{message}"
    );
    let (code, message) = run(&["--version"]);
    assert_eq!(code, Some(0), "{message}");
    assert!(message.starts_with("PgBouncer 1."), "{message}");
    assert_eq!(run(&["--help"]).0, Some(0));
}

#[test]
fn the_samples_are_right() {
    if only_pgweir("PgBouncer has no check") {
        return;
    }
    for sample in ["config/pgbouncer.ini", "config/pgweir.toml"] {
        let mut command = Command::new(process::program());
        command
            .args(["check", sample])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{sample}: {}", text(&output));
    }
}
