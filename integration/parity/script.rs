//! The tables of steps, in the folder `steps`: one group after another, each
//!
//! ```text
//! [NAME]
//! since 1.24            the first release that knows its settings
//! like GROUP            its settings and steps so far are another's too
//! ini set KEY VALUE     see `change`
//! NAME | ACT | ACT      a step; the acts are in `Stage::act`
//! > TEXT                a step of that name: a query of the client `c`
//! ```

use crate::harness::pooler::Ini;
use crate::harness::postgres::password_of;
use postgres_protocol::password as secrets;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/parity/steps");

/// Steps that share an ini and, one after the other, a process.
#[derive(Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) ini: Ini,
    pub(super) since: (u32, u32),
    pub(super) steps: Vec<Step>,
}

/// A name and what to do.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) acts: Vec<String>,
}

/// All groups of all files, those with timeouts first: they take longest.
pub(super) fn groups() -> Vec<Group> {
    let entries = std::fs::read_dir(FOLDER).expect("a folder beside this file");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files.reverse();
    let mut groups: Vec<Group> = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(&file).expect("text").lines() {
            if !line.is_empty() && !line.starts_with('#') {
                read_line(&mut groups, line);
            }
        }
    }
    groups
}

fn read_line(groups: &mut Vec<Group>, line: &str) {
    if let Some(name) = line.strip_prefix('[') {
        groups.push(Group {
            name: name.trim_end_matches(']').to_owned(),
            // Its default is the one that PgBouncer has.
            ini: Ini::session(),
            since: (1, 0),
            steps: Vec::new(),
        });
        return;
    }
    let mut group = groups.pop().expect("a [NAME] before it");
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "since" => group.since = release(rest),
        "like" => {
            let model = groups.iter().find(|known| known.name == rest);
            let model = model.unwrap_or_else(|| panic!("no group {rest} before this"));
            group.ini = model.ini.clone();
            group.steps.extend(model.steps.clone());
        }
        "ini" => group.ini = change(group.ini, rest),
        ">" => group.steps.push(Step {
            name: rest.to_owned(),
            acts: vec![format!("c ask {rest}")],
        }),
        _ => {
            let mut parts = line.split(" | ").map(str::to_owned);
            let name = parts.next().expect("split gives one part at least");
            let acts: Vec<String> = parts.collect();
            assert!(!acts.is_empty(), "nothing to do in: {line}");
            group.steps.push(Step { name, acts });
        }
    }
    groups.push(group);
}

/// The first two numbers of a version.
pub(super) fn release(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

/// `VERB NAME VALUE`, for the ini file and those beside it.
pub(super) fn change(mut ini: Ini, what: &str) -> Ini {
    let (verb, what) = what.split_once(' ').unwrap_or((what, ""));
    let (name, value) = what.split_once(' ').unwrap_or((what, ""));
    match verb {
        "set" => ini.set(name, value),
        "unset" => ini.unset(name),
        "database" => ini.database(name, value),
        "user" => ini.user(name, value),
        "file" => ini.file(name, &value.replace("\\n", "\n")),
        "secret" => ini.secret(name, value),
        // Of the user's usual password.
        "secret-md5" => ini.secret(name, &secrets::md5(password_of(name).as_bytes(), name)),
        "secret-scram" => ini.secret(name, &secrets::scram_sha_256(password_of(name).as_bytes())),
        // No other user has a secret.
        "only" => {
            ini.userlist
                .retain(|(user, _)| what.split(' ').any(|name| name == user));
            ini
        }
        _ => panic!("no such change: {verb}"),
    }
}
