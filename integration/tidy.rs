//! The tree is what `src/lib.rs` says it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floors of the map, top to ground.
const FLOORS: &[&[&str]] = &[
    &["app"],
    &["admin", "balancer"],
    &["client", "http", "prepare"],
    &["pool", "gateway"],
    &["server", "process"],
    &["net", "auth"],
    &["wire", "config", "stats", "handover"],
];

/// Lines of a source file, tests included; a table may be longer.
const MAX_LINES: usize = 900;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("text");
            found.push((path, text));
        }
    }
    found
}

fn floors() -> BTreeMap<&'static str, usize> {
    let numbered = FLOORS.iter().rev().enumerate();
    numbered
        .flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, floor)))
        .collect()
}

/// The modules a text names after `crate::`.
fn uses(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        Some(&rest[..end])
    })
}

#[test]
fn a_module_uses_only_the_floors_below_its_own() {
    let floors = floors();
    let mut wrong = Vec::new();
    for (path, text) in sources(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).expect("in src");
        let module = inside.iter().next().expect("a name").to_string_lossy();
        let Some(&own) = floors.get(module.as_ref()) else {
            continue;
        };
        for used in uses(&text).filter(|used| *used != module) {
            if floors.get(used).is_some_and(|&floor| floor >= own) {
                wrong.push(format!("{} uses {used}", inside.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the map in src/lib.rs: {wrong:#?}"
    );
}

#[test]
fn every_module_is_on_the_map() {
    let floors = floors();
    for entry in std::fs::read_dir(root().join("src")).expect("src") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            let name = path.file_name().expect("a name").to_string_lossy();
            assert!(floors.contains_key(name.as_ref()), "{name} has no floor");
        }
    }
}

#[test]
fn no_source_file_is_a_drawer() {
    for (path, text) in sources(&root().join("src")) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
    }
}

#[test]
fn secrets_are_compared_in_constant_time() {
    let secrets = [
        ("secret.rs", "Plaintext"),
        ("md5.rs", "Md5Hash"),
        ("scram/keys.rs", "ScramKeys"),
        ("scram/keys.rs", "Verifier"),
    ];
    for (file, secret) in secrets {
        let text = std::fs::read_to_string(root().join("src/auth").join(file)).expect("text");
        let comparison = format!("impl PartialEq for {secret} {{");
        let (_, after) = text.split_once(&comparison).expect("written by hand");
        let (body, _) = after.split_once("\n}\n").expect("it ends");
        let constant = body.contains("ct_eq") || body.contains("same_secret");
        assert!(constant, "{secret}: {body}");
    }
}

#[test]
fn nothing_is_left_half_done() {
    // Put together, so that this file does not hold them.
    let marks = [
        "todo!",
        "unimplemented!",
        "FIXME",
        "#[ignore",
        "allow(dead_code",
    ];
    for folder in ["src", "integration"] {
        for (path, text) in sources(&root().join(folder)) {
            if path.ends_with("tidy.rs") {
                continue;
            }
            for mark in marks {
                assert!(!text.contains(mark), "{} has {mark}", path.display());
            }
        }
    }
}
