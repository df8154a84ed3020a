//! `pgweir check`: what a file configures, and what is odd about it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::advice::{Notes, advice};
use super::error::{Error, Warning};
use super::ini::Duplicates;
use super::kind::Kind;
use super::load::{Loaded, load};
use super::model::{AuthType, Config};
use super::native::{Balancer, Prepare};
use super::pgbouncer::Pgbouncer;
use super::settings::Section;
use super::title::Title;

/// A report for people: what the file configures, then what is probably not
/// meant, with place and remedy. Stricter than loading: a database given twice
/// is an error. The files the settings name are looked at, nothing is written
/// and nobody is connected to. No secret is in the report.
///
/// # Errors
/// The first thing that keeps the file from being loaded.
pub fn check(path: &Path) -> Result<String, Error> {
    let loaded = load(path, Duplicates::Refuse)?;
    let mut warnings = loaded.warnings.clone();
    warnings.extend(advice(&loaded));
    warnings.extend(files(&loaded));
    Ok(report(&loaded.config, &warnings))
}

fn report(config: &Config, warnings: &[Warning]) -> String {
    let mut lines = vec![
        format!("{}: can be loaded", config.path.display()),
        String::new(),
    ];
    lines.push(row("pooler", &pooler(&config.pgbouncer)));
    lines.push(row("databases", &databases(config)));
    if !config.users.is_empty() {
        lines.push(row("users", &names(config.users.keys())));
    }
    if !config.peers.is_empty() {
        lines.push(row("peers", &names(config.peers.keys())));
    }
    let metrics = config
        .metrics
        .listen
        .map_or("off".to_owned(), |it| format!("http://{it}/metrics"));
    lines.push(row("metrics", &metrics));
    let queries = if config.queries.enabled {
        "counted"
    } else {
        "not counted"
    };
    lines.push(row("queries", queries));
    lines.push(row(
        "prepare",
        &config
            .prepare
            .as_ref()
            .map_or("nothing".to_owned(), prepare),
    ));
    lines.push(row(
        "balancer",
        &config.balancer.as_ref().map_or("off".to_owned(), balancer),
    ));
    lines.push(String::new());
    match warnings.len() {
        0 => lines.push("no warnings".to_owned()),
        1 => lines.push("1 warning".to_owned()),
        count => lines.push(format!("{count} warnings")),
    }
    lines.extend(warnings.iter().map(|warning| format!("\n{warning}")));
    lines.join("\n") + "\n"
}

fn row(name: &str, text: &str) -> String {
    format!("{name:<10} {text}")
}

fn names<T: ToString>(names: impl Iterator<Item = T>) -> String {
    names
        .map(|name| name.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn pooler(settings: &Pgbouncer) -> String {
    let port = settings.listen_port;
    let mut places = Vec::new();
    if !settings.listen_addr.is_empty() {
        places.push(format!("{} port {port}", settings.listen_addr));
    }
    if !settings.unix_socket_dir.is_empty() {
        places.push(format!("{}/.s.PGSQL.{port}", settings.unix_socket_dir));
    }
    format!(
        "{}; auth_type {}, pool_mode {}, {} servers per pool, {} clients",
        places.join(" and "),
        settings.auth_type.as_str(),
        settings.pool_mode.as_str(),
        settings.default_pool_size,
        settings.max_client_conn,
    )
}

fn databases(config: &Config) -> String {
    let entries = config
        .databases
        .iter()
        .map(|(name, it)| (name.as_str(), it));
    let entries = entries.chain(config.autodb.iter().map(|it| ("*", it)));
    let text = |(name, database): (&str, &super::Database)| {
        let host = database.host.as_deref().unwrap_or("local socket");
        let dbname = match &database.dbname {
            Some(dbname) => dbname,
            None if name == "*" => "of the same name",
            None => name,
        };
        format!("{name} at {host} port {} database {dbname}", database.port)
    };
    let texts: Vec<String> = entries.map(text).collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join("; ")
    }
}

fn prepare(prepare: &Prepare) -> String {
    let Prepare {
        host,
        port,
        dbname,
        user,
        ..
    } = prepare;
    let mut text = format!("{host} port {port} database {dbname} as {user}");
    if let Some(program) = prepare.seed.first() {
        text.push_str(&format!("; seed with {program}"));
    }
    if let Some(folder) = &prepare.migrations {
        let count = sql_files(folder).map_or(0, |files| files.len());
        text.push_str(&format!("; {count} migrations in {}", folder.display()));
    }
    text
}

fn balancer(balancer: &Balancer) -> String {
    let nodes = balancer
        .nodes
        .iter()
        .map(|(name, node)| format!("{name} at {}", node.address));
    let plain = balancer.listen.iter().map(ToString::to_string);
    let secure = balancer
        .https_listen
        .iter()
        .map(|it| format!("{it} (https)"));
    let listeners = plain.chain(secure);
    format!(
        "{}; nodes {}; {} routes",
        names(listeners),
        nodes.collect::<Vec<_>>().join(", "),
        balancer.routes.len(),
    )
}

/// What is odd about the files the settings name.
fn files(loaded: &Loaded) -> Vec<Warning> {
    let mut notes = Notes {
        loaded,
        warnings: Vec::new(),
    };
    let config = notes.config();
    readable_files(&mut notes, &config.pgbouncer);
    folders(&mut notes, &config.pgbouncer);
    if let Some(prepare) = &config.prepare {
        prepare_files(&mut notes, prepare);
    }
    open_secrets(&mut notes);
    notes.warnings
}

/// Files that are read at start.
fn readable_files(notes: &mut Notes<'_>, settings: &Pgbouncer) {
    let mut keys = vec![
        "client_tls_ca_file",
        "client_tls_cert_file",
        "client_tls_key_file",
        "server_tls_ca_file",
        "server_tls_cert_file",
        "server_tls_key_file",
        "resolv_conf",
    ];
    if !matches!(settings.auth_type, AuthType::Any | AuthType::Pam) {
        keys.push("auth_file");
    }
    if settings.auth_type == AuthType::Hba {
        keys.extend(["auth_hba_file", "auth_ident_file"]);
    }
    for key in keys {
        let Some(file) = file_of(settings, key) else {
            continue;
        };
        if let Err(error) = fs::File::open(&file) {
            let what = format!("{key} \"{file}\" cannot be read: {error}");
            let remedy = "Create the file, correct its name, or let this user read it.";
            notes.add(&Title::Pgbouncer, key, what, remedy);
        }
    }
}

/// The file a setting names, if it names one.
fn file_of(settings: &Pgbouncer, key: &str) -> Option<String> {
    let setting = Pgbouncer::setting(key).filter(|setting| setting.kind == Kind::File);
    let setting = setting.expect("a key from the list of files");
    (setting.get)(settings).filter(|file| !file.is_empty())
}

/// Folders that are written to.
fn folders(notes: &mut Notes<'_>, settings: &Pgbouncer) {
    let socket = settings.unix_socket_dir.as_str();
    // "@" is the abstract namespace: no folder.
    if !socket.is_empty() && !socket.starts_with('@') && !Path::new(socket).is_dir() {
        let what = format!("unix_socket_dir \"{socket}\" is no folder");
        let remedy = "Create the folder, or set unix_socket_dir to nothing.";
        notes.add(&Title::Pgbouncer, "unix_socket_dir", what, remedy);
    }
    for key in ["logfile", "pidfile"] {
        let Some(file) = file_of(settings, key) else {
            continue;
        };
        let folder = Path::new(&file)
            .parent()
            .filter(|it| !it.as_os_str().is_empty());
        if let Some(folder) = folder
            && !folder.is_dir()
        {
            let what = format!("the folder of {key} \"{file}\" is not there");
            notes.add(
                &Title::Pgbouncer,
                key,
                what,
                "Create the folder, or correct the name.",
            );
        }
    }
}

fn prepare_files(notes: &mut Notes<'_>, prepare: &Prepare) {
    if let Some(folder) = &prepare.migrations {
        let what = match sql_files(folder) {
            Err(error) => Some(format!(
                "migrations \"{}\" cannot be read: {error}",
                folder.display()
            )),
            Ok(files) if files.is_empty() => Some(format!(
                "migrations \"{}\" has no .sql files",
                folder.display()
            )),
            Ok(_) => None,
        };
        if let Some(what) = what {
            let remedy = "Create the folder with its files, or correct its name.";
            notes.add(&Title::Prepare, "migrations", what, remedy);
        }
    }
    let program = prepare.seed.first().filter(|it| it.contains('/'));
    if let Some(program) = program
        && !Path::new(program).is_file()
    {
        let what = format!("the seeding command \"{program}\" is not there");
        notes.add(
            &Title::Prepare,
            "seed",
            what,
            "Install it, or correct its name.",
        );
    }
}

/// Names of a folder's `.sql` files.
fn sql_files(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") {
            files.push(name);
        }
    }
    Ok(files)
}

/// Files with passwords that everybody on the machine may read.
fn open_secrets(notes: &mut Notes<'_>) {
    let config = notes.config();
    let is_open = |path: &Path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    };
    let holds_passwords = config
        .databases
        .values()
        .chain(&config.autodb)
        .any(|it| it.password.is_some())
        || config
            .prepare
            .as_ref()
            .is_some_and(|it| it.password.is_some());
    if holds_passwords && is_open(&config.path) {
        let what = "the file holds passwords and everybody may read it".to_owned();
        let place = super::Place::file(&config.path);
        let remedy = format!("Run chmod o-r {}.", config.path.display());
        notes.warnings.push(Warning {
            place,
            what,
            remedy,
        });
    }
    if let Some(file) = &config.pgbouncer.auth_file
        && is_open(Path::new(file))
    {
        let what = format!("auth_file \"{file}\" may be read by everybody");
        notes.add(
            &Title::Pgbouncer,
            "auth_file",
            what,
            &format!("Run chmod o-r {file}."),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Problem;

    /// The report on a file of that text, with the file's folder as `DIR`.
    fn check_text(test: &str, text: &str) -> Result<String, Error> {
        let folder =
            std::env::temp_dir().join(format!("pgweir-check-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        let dir = folder.display().to_string();
        let file = folder.join("a.ini");
        fs::write(&file, text.replace("DIR", &dir)).expect("writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner's");
        let report = check(&file);
        fs::remove_dir_all(&folder).expect("removable");
        report.map(|report| report.replace(&dir, "DIR"))
    }

    #[test]
    fn the_report_says_what_the_file_configures() {
        let report = check_text(
            "report",
            "[databases]\nd = host=h password=secret user=u\n* =\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             unix_socket_dir = DIR\nauth_file = DIR/a.ini\n[metrics]\n\
             [balancer]\nlisten = 127.0.0.1:80\n[balancer.nodes]\na = address=h:1\nb = address=h:2\n",
        )
        .expect("a good file");
        assert_eq!(
            report,
            "DIR/a.ini: can be loaded\n\n\
             pooler     127.0.0.1 port 6432 and DIR/.s.PGSQL.6432; auth_type md5, \
             pool_mode session, 20 servers per pool, 100 clients\n\
             databases  d at h port 5432 database d; * at local socket port 5432 database of the same name\n\
             metrics    http://127.0.0.1:9127/metrics\n\
             queries    counted\n\
             prepare    nothing\n\
             balancer   127.0.0.1:80; nodes a at h:1, b at h:2; 0 routes\n\n\
             no warnings\n"
        );
    }

    #[test]
    fn files_that_are_not_there_are_named_with_line_and_remedy() {
        let report = check_text(
            "files",
            "[databases]\nd = host=h\n[pgbouncer]\nauth_file = DIR/none\nlogfile = DIR/no/log\n\
             unix_socket_dir = DIR/none\n[prepare]\nhost = h\nuser = u\nmigrations = DIR/none\nseed = DIR/none\n",
        )
        .expect("a good file");
        for expected in [
            "auth_file \"DIR/none\" cannot be read: No such file or directory (os error 2)\n  \
             at: DIR/a.ini, line 4\n  remedy: Create the file, correct its name, or let this user read it.",
            "the folder of logfile \"DIR/no/log\" is not there\n  at: DIR/a.ini, line 5",
            "unix_socket_dir \"DIR/none\" is no folder\n  at: DIR/a.ini, line 6",
            "migrations \"DIR/none\" cannot be read",
            "the seeding command \"DIR/none\" is not there",
            "5 warnings",
        ] {
            assert!(
                report.contains(expected),
                "{expected}\n--- in ---\n{report}"
            );
        }
    }

    #[test]
    fn a_database_given_twice_is_an_error() {
        let error = check_text("twice", "[databases]\nd =\nd =\n[pgbouncer]\n").expect_err("twice");
        assert!(matches!(error.problem, Problem::Duplicate(_)));
    }

    #[test]
    fn a_file_with_passwords_that_everybody_may_read_is_told_of() {
        let folder = std::env::temp_dir().join(format!("pgweir-check-{}-open", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the test");
        let file = folder.join("a.ini");
        fs::write(
            &file,
            "[databases]\nd = user=u password=secret\n[pgbouncer]\n",
        )
        .expect("writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its owner's");
        let report = check(&file).expect("a good file");
        fs::remove_dir_all(&folder).expect("removable");
        assert!(report.contains("everybody may read it"), "{report}");
        assert!(!report.contains("secret"), "{report}");
    }
}
