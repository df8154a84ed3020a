//! Settings that load but contradict each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::error::{Place, Warning};
use super::load::Loaded;
use super::model::{AuthType, Config, SslMode};
use super::native::{Balancer, Route};
use super::title::Title;
use super::value::{in_list, is_c_space};

/// What is probably not meant, as far as the settings themselves tell.
pub(super) fn advice(loaded: &Loaded) -> Vec<Warning> {
    let mut notes = Notes {
        loaded,
        warnings: Vec::new(),
    };
    listening(&mut notes);
    logins(&mut notes);
    tls(&mut notes);
    sizes(&mut notes);
    databases(&mut notes);
    if let Some(balancer) = &loaded.config.balancer {
        timing(&mut notes, balancer);
        nodes(&mut notes, balancer);
        routes(&mut notes, balancer);
    }
    notes.warnings
}

/// Warnings with the place of the setting they are about.
#[derive(Debug)]
pub(super) struct Notes<'l> {
    pub(super) loaded: &'l Loaded,
    pub(super) warnings: Vec<Warning>,
}

impl<'l> Notes<'l> {
    pub(super) fn config(&self) -> &'l Config {
        &self.loaded.config
    }

    /// Adds a warning about a setting; a place that is not in the file is its
    /// section's, or the file's.
    pub(super) fn add(&mut self, title: &Title, key: &str, what: String, remedy: &str) {
        let given = self.loaded.given.get(&(title.clone(), key.to_owned()));
        let place = given.or_else(|| self.loaded.opened.get(title)).cloned();
        self.warnings.push(Warning {
            place: place.unwrap_or_else(|| Place::file(&self.config().path)),
            what,
            remedy: remedy.to_owned(),
        });
    }
}

fn listening(notes: &mut Notes<'_>) {
    let config = notes.config();
    let settings = &config.pgbouncer;
    if settings.listen_addr.is_empty() && settings.unix_socket_dir.is_empty() {
        let what = "the pooler has nowhere to listen on".to_owned();
        notes.add(
            &Title::Pgbouncer,
            "listen_addr",
            what,
            "Set listen_addr or unix_socket_dir.",
        );
    }
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    let port = u16::try_from(settings.listen_port).unwrap_or_default();
    for word in settings.listen_addr.split(|c| is_c_space(c) || c == ',') {
        let address = if word == "*" { "0.0.0.0" } else { word };
        if let Ok(address) = address.parse() {
            taken.push((SocketAddr::new(address, port), "the pooler"));
        }
    }
    let metrics = config
        .metrics
        .listen
        .iter()
        .map(|it| (*it, "[metrics]", Title::Metrics));
    let balancer = config.balancer.iter();
    let balancer = balancer.flat_map(|it| it.listen.iter().chain(&it.https_listen));
    let balancer = balancer.map(|it| (*it, "[balancer]", Title::Balancer));
    for (address, name, title) in metrics.chain(balancer) {
        if let Some((other, owner)) = taken.iter().find(|(other, _)| overlap(*other, address)) {
            let what = format!("{name} listens on {address}, which {owner} takes with {other}");
            notes.add(&title, "listen", what, "Give one of them another port.");
        }
        taken.push((address, name));
    }
}

/// Whether two listeners cannot both have their address.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any(a) || any(b))
}

fn logins(notes: &mut Notes<'_>) {
    let settings = &notes.config().pgbouncer;
    // PAM and `any` do without the user list.
    let needs_a_list = !matches!(settings.auth_type, AuthType::Any | AuthType::Pam);
    let has_users = settings.auth_file.is_some() || settings.auth_user.is_some();
    let serves = !notes.config().databases.is_empty() || notes.config().autodb.is_some();
    if serves && needs_a_list && !has_users {
        let what = format!(
            "auth_type is {} but neither auth_file nor auth_user says which users there are",
            settings.auth_type.as_str()
        );
        notes.add(
            &Title::Pgbouncer,
            "auth_type",
            what,
            "Set auth_file, or auth_user for a query.",
        );
    }
    if settings.auth_type == AuthType::Cert && settings.client_tls_sslmode != SslMode::VerifyFull {
        let what = "auth_type=cert requires client_tls_sslmode=verify-full".to_owned();
        notes.add(
            &Title::Pgbouncer,
            "auth_type",
            what,
            "Set client_tls_sslmode to verify-full.",
        );
    }
    if settings.auth_type == AuthType::Hba && settings.auth_hba_file.is_empty() {
        let what = "auth_type is hba but auth_hba_file is not set: nobody can log in".to_owned();
        notes.add(&Title::Pgbouncer, "auth_type", what, "Set auth_hba_file.");
    }
    if !notes.config().peers.is_empty() && settings.peer_id == 0 {
        let what = "there are [peers] but peer_id is 0: peering is off".to_owned();
        notes.add(
            &Title::Pgbouncer,
            "peer_id",
            what,
            "Set peer_id to this process's own number.",
        );
    }
}

fn tls(notes: &mut Notes<'_>) {
    let settings = &notes.config().pgbouncer;
    if settings.client_tls_sslmode != SslMode::Disable {
        for (key, file) in [
            ("client_tls_key_file", &settings.client_tls_key_file),
            ("client_tls_cert_file", &settings.client_tls_cert_file),
        ] {
            if file.is_empty() {
                let mode = settings.client_tls_sslmode.as_str();
                let what = format!("client_tls_sslmode is {mode} but {key} is not set");
                notes.add(
                    &Title::Pgbouncer,
                    "client_tls_sslmode",
                    what,
                    &format!("Set {key}."),
                );
            }
        }
    }
    let checks = |mode| matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    for (mode_key, mode, ca_key, ca) in [
        (
            "client_tls_sslmode",
            settings.client_tls_sslmode,
            "client_tls_ca_file",
            &settings.client_tls_ca_file,
        ),
        (
            "server_tls_sslmode",
            settings.server_tls_sslmode,
            "server_tls_ca_file",
            &settings.server_tls_ca_file,
        ),
    ] {
        if checks(mode) && ca.is_empty() {
            let what = format!("{mode_key} is {} but {ca_key} is not set", mode.as_str());
            notes.add(&Title::Pgbouncer, mode_key, what, &format!("Set {ca_key}."));
        }
    }
}

fn sizes(notes: &mut Notes<'_>) {
    let settings = &notes.config().pgbouncer;
    for (key, value) in [
        ("default_pool_size", settings.default_pool_size),
        ("max_client_conn", settings.max_client_conn),
        ("max_db_connections", settings.max_db_connections),
        ("max_user_connections", settings.max_user_connections),
        ("min_pool_size", settings.min_pool_size),
        ("reserve_pool_size", settings.reserve_pool_size),
    ] {
        if value < 0 {
            notes.add(
                &Title::Pgbouncer,
                key,
                format!("{key} is {value}"),
                "Give it 0 or more.",
            );
        }
    }
    if settings.default_pool_size > 0 && settings.min_pool_size > settings.default_pool_size {
        let what = format!(
            "min_pool_size {} is more than default_pool_size {}",
            settings.min_pool_size, settings.default_pool_size
        );
        notes.add(
            &Title::Pgbouncer,
            "min_pool_size",
            what,
            "Lower min_pool_size.",
        );
    }
    if settings.reserve_pool_size > 0 && settings.reserve_pool_timeout.is_zero() {
        let what = "reserve_pool_size has no effect while reserve_pool_timeout is 0".to_owned();
        notes.add(
            &Title::Pgbouncer,
            "reserve_pool_size",
            what,
            "Set reserve_pool_timeout.",
        );
    }
}

fn databases(notes: &mut Notes<'_>) {
    let config = notes.config();
    if config.databases.is_empty() && config.autodb.is_none() && config.balancer.is_none() {
        let what = "no database is configured: every login fails".to_owned();
        notes.add(&Title::Databases, "", what, "Add an entry to [databases].");
    }
    let autodb = config.autodb.iter().map(|it| ("*", it));
    for (name, database) in config
        .databases
        .iter()
        .map(|(name, it)| (name.as_str(), it))
        .chain(autodb)
    {
        let title = Title::Database(name.to_owned());
        if let (Some(min), Some(size @ 1..)) = (database.min_pool_size, database.pool_size)
            && min > size
        {
            let what =
                format!("min_pool_size {min} of \"{name}\" is more than its pool_size {size}");
            notes.add(&title, "min_pool_size", what, "Lower min_pool_size.");
        }
        if database.password.is_some() && database.user.is_none() {
            let what = format!("the password of \"{name}\" has no effect without a user");
            notes.add(
                &title,
                "password",
                what,
                "Add user, or remove the password.",
            );
        }
        let auth_dbname = database.auth_dbname.as_ref();
        check_auth_dbname(notes, &title, auth_dbname);
    }
    check_auth_dbname(
        notes,
        &Title::Pgbouncer,
        config.pgbouncer.auth_dbname.as_ref(),
    );
}

fn check_auth_dbname(notes: &mut Notes<'_>, title: &Title, name: Option<&String>) {
    let config = notes.config();
    if let Some(name) = name
        && config.autodb.is_none()
        && !config.databases.contains_key(name)
    {
        let what = format!("auth_dbname is \"{name}\", which is no entry of [databases]");
        notes.add(
            title,
            "auth_dbname",
            what,
            "Name an entry of [databases], or add it.",
        );
    }
}

fn timing(notes: &mut Notes<'_>, balancer: &Balancer) {
    for (key, value) in [
        ("connect_timeout", balancer.connect_timeout),
        ("queue_timeout", balancer.queue_timeout),
    ] {
        if value > balancer.request_timeout {
            let what =
                format!("{key} is longer than request_timeout, which ends the request first");
            notes.add(&Title::Balancer, key, what, &format!("Lower {key}."));
        }
    }
    let health = &balancer.health;
    if health.fast_interval > health.interval {
        let what = "fast_interval is longer than interval".to_owned();
        notes.add(
            &Title::Health,
            "fast_interval",
            what,
            "Lower fast_interval.",
        );
    }
}

fn nodes(notes: &mut Notes<'_>, balancer: &Balancer) {
    let mut addresses: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, node) in &balancer.nodes {
        if let Some(other) = addresses.insert(&node.address, name) {
            let what = format!(
                "nodes \"{other}\" and \"{name}\" have the same address {}",
                node.address
            );
            notes.add(
                &Title::Node(name.clone()),
                "address",
                what,
                "Remove one of the two.",
            );
        }
    }
    if balancer.nodes.len() == 1 {
        let what = "there is one node: when it fails, nothing answers".to_owned();
        notes.add(&Title::Balancer, "nodes", what, "Add a second node.");
    }
}

fn routes(notes: &mut Notes<'_>, balancer: &Balancer) {
    let routes: Vec<(&String, &Route)> = balancer.routes.iter().collect();
    for (index, (name, route)) in routes.iter().enumerate() {
        let twin = routes[..index]
            .iter()
            .find(|(_, other)| is_same(route, other));
        if let Some((other, _)) = twin {
            let what = format!("routes \"{other}\" and \"{name}\" take the same requests");
            let title = Title::Route((*name).clone());
            notes.add(
                &title,
                "path",
                what,
                "Remove one of the two, or tell them apart by methods.",
            );
        }
    }
}

/// Whether two routes have the same pattern, whatever its segments are called,
/// and a method in common.
fn is_same(a: &Route, b: &Route) -> bool {
    let pattern = |route: &Route| -> Vec<String> {
        let segment = |it: &str| {
            if it.starts_with('{') {
                "{}".to_owned()
            } else {
                it.to_owned()
            }
        };
        route.path.split('/').map(segment).collect()
    };
    let methods = b.methods.join(" ");
    let in_common = a.methods.is_empty()
        || b.methods.is_empty()
        || a.methods.iter().any(|method| in_list(&methods, method));
    in_common && pattern(a) == pattern(b)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::ini::{Duplicates, read_bytes};

    /// What is said about a file, each line `LINE: WHAT`.
    fn said(text: &str) -> Vec<String> {
        let loaded = read_bytes(text.as_bytes(), Path::new("a.ini"), Duplicates::Refuse);
        let advice = advice(&loaded.expect("a good file"));
        advice
            .iter()
            .map(|it| format!("{}: {}", it.place.line, it.what))
            .collect()
    }

    #[test]
    fn a_usual_file_gets_no_advice() {
        assert_eq!(
            said(
                "[databases]\nd = host=h\n[pgbouncer]\nlisten_addr = *\nauth_file = users\n\
                 [metrics]\nlisten = 127.0.0.1:9127\n[balancer]\nlisten = 0.0.0.0:80\n\
                 [balancer.nodes]\na = address=h:1\nb = address=h:2\n\
                 [balancer.routes]\nget = path=/a/{id} methods=GET\npost = path=/a/{x} methods=POST\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn contradictions_are_found_with_their_line() {
        let base = "[databases]\nd = host=h\n[pgbouncer]\nauth_file = users\n";
        for (text, expected) in [
            (
                "min_pool_size = 30\n",
                "5: min_pool_size 30 is more than default_pool_size 20",
            ),
            ("max_client_conn = -1\n", "5: max_client_conn is -1"),
            (
                "auth_dbname = x\n",
                "5: auth_dbname is \"x\", which is no entry of [databases]",
            ),
            (
                "listen_addr =\nunix_socket_dir =\n",
                "5: the pooler has nowhere to listen on",
            ),
            (
                "listen_addr = *\nlisten_port = 9127\n[metrics]\n",
                "7: [metrics] listens on 127.0.0.1:9127, which the pooler takes with 0.0.0.0:9127",
            ),
            (
                "auth_type = hba\n",
                "5: auth_type is hba but auth_hba_file is not set: nobody can log in",
            ),
            (
                "server_tls_sslmode = verify-full\n",
                "5: server_tls_sslmode is verify-full but server_tls_ca_file is not set",
            ),
            (
                "[peers]\n1 = host=h\n",
                "3: there are [peers] but peer_id is 0: peering is off",
            ),
        ] {
            assert_eq!(said(&format!("{base}{text}")), [expected], "{text}");
        }
    }

    #[test]
    fn a_list_of_users_is_asked_for_where_one_is_needed() {
        let text = "[databases]\nd = host=h\n[pgbouncer]\n";
        assert_eq!(said(text).len(), 1);
        assert_eq!(said(&format!("{text}auth_type = any\n")), [""; 0]);
        assert_eq!(said(&format!("{text}auth_user = u\n")), [""; 0]);
    }

    #[test]
    fn routes_that_take_the_same_requests_are_found() {
        let found = said(
            "[pgbouncer]\n[balancer]\nlisten = 127.0.0.1:80\n[balancer.nodes]\na = address=h:1\nb = address=h:2\n\
             [balancer.routes]\na = path=/a/{id}\nb = path=/a/{x} methods=GET\n",
        );
        assert_eq!(found, ["9: routes \"a\" and \"b\" take the same requests"]);
    }
}
