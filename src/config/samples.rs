//! Checks of the sample files under `config/`.

use std::path::{Path, PathBuf};

use super::advice::advice;
use super::ini::{Duplicates, read_bytes};
use super::{Config, Pgbouncer, Section};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(sample(name)).expect("the sample is there")
}

#[test]
fn the_samples_load_and_contradict_nothing() {
    for name in ["pgbouncer.ini", "pgweir.toml"] {
        let loaded = Config::load(&sample(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings, [], "{name}");
        assert_eq!(advice(&loaded), [], "{name}");
    }
}

#[test]
fn the_samples_name_files_that_are_there() {
    for name in ["pgbouncer.ini", "pgweir.toml"] {
        let config = Config::load(&sample(name)).expect("good").config;
        assert_eq!(
            config.pgbouncer.auth_file.as_deref(),
            Some("config/userlist.txt"),
            "{name}"
        );
    }
    let users = text("userlist.txt");
    assert!(
        users
            .lines()
            .all(|line| line.starts_with(';') || line.starts_with('"'))
    );
}

#[test]
fn the_commented_settings_of_the_ini_show_their_defaults() {
    let text = text("pgbouncer.ini");
    let (_, settings) = text.split_once("[pgbouncer]\n").expect("its section");
    let (settings, _) = settings.split_once("; ------").expect("the next part");
    let lines = settings.lines().filter_map(|line| line.strip_prefix(';'));
    let lines = lines.filter(|line| !line.starts_with(' ') && !line.is_empty());
    let mut count = 0;
    for line in lines {
        let (name, value) = line.split_once('=').expect("name = value");
        let setting = Pgbouncer::setting(name.trim()).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(setting.default, Some(value.trim()), "{line}");
        count += 1;
    }
    assert!(count > 30, "{count} commented settings found");
}

#[test]
fn the_ini_loads_with_every_comment_turned_into_a_setting() {
    let text: Vec<String> = text("pgbouncer.ini")
        .lines()
        .map(|line| match line.strip_prefix(';') {
            Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let path = Path::new("pgbouncer.ini");
    let loaded = read_bytes(text.join("\n").as_bytes(), path, Duplicates::Refuse);
    let config = loaded.unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!((config.databases.len(), config.peers.len()), (3, 2));
    assert!(config.autodb.is_some() && config.metrics.listen.is_some());
}

#[test]
fn the_toml_has_every_route_of_bingo() {
    let config = Config::load(&sample("pgweir.toml")).expect("good").config;
    let balancer = config.balancer.expect("a balancer");
    assert_eq!(balancer.nodes.len(), 2);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/ping"),
        ("GET", "/config"),
        ("POST", "/operation"),
        ("GET", "/db_dummy"),
        ("GET", "/long_dummy"),
        ("GET", "/api/movie"),
        ("GET", "/api/movie/{id}"),
        ("GET", "/api/customer"),
        ("GET", "/api/customer/{id}"),
        ("GET", "/api/session"),
        ("POST", "/api/session"),
        ("GET", "/api/session/{id}"),
        ("DELETE", "/api/session/{id}"),
    ] {
        let found = balancer.routes.values().any(|route| {
            route.path == path && route.methods.iter().any(|allowed| allowed == method)
        });
        assert!(found, "{method} {path}");
    }
}
