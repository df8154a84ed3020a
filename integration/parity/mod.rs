//! pgweir beside PgBouncer: the same steps, the same ini, message by message.
//!
//! The peers are Debian's pgbouncer and those that `PGBOUNCER_PEERS` names,
//! paths with colons between them. A group of steps is one ini; each program
//! runs it in a process of its own. What differs has to be listed, with a
//! reason, in `differences.txt`, and what is listed has to differ.

mod listed;
mod script;
mod stage;
mod transcript;

use crate::harness::{only_pgweir, process, together};
use listed::Listed;
use script::Group;
use stage::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use transcript::FOR_EVER;

/// Where Debian's package puts it.
const DEBIANS: &str = "/usr/sbin/pgbouncer";

/// Groups that run at once. Fewer than there are databases to lease.
const AT_ONCE: usize = 6;

/// A PgBouncer, or pgweir.
struct Program {
    path: PathBuf,
    /// As it says it, `1.25.2`.
    version: String,
}

impl Program {
    fn new(path: &Path) -> Self {
        let output = Command::new(path).arg("--version").output();
        let output = output.unwrap_or_else(|error| {
            panic!(
                "{}: {error}; scripts/setup installs PgBouncer",
                path.display()
            )
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .unwrap_or_else(|| panic!("no version in {text}"));
        Self {
            path: process::runnable(path),
            version: version.to_owned(),
        }
    }
}

/// What was said in one step.
type Transcript = Vec<String>;

#[test]
fn clients_are_told_what_pgbouncer_tells_them() {
    if only_pgweir("it is compared with PgBouncer") {
        return;
    }
    let named = std::env::var_os("PGBOUNCER_PEERS").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty());
    let peers: Vec<Program> = std::iter::once(PathBuf::from(DEBIANS))
        .chain(named)
        .map(|path| Program::new(&path))
        .collect();
    let pgweir = Program::new(process::program());
    let programs: Vec<&Program> = std::iter::once(&pgweir).chain(&peers).collect();
    let mut transcripts = act_all(&script::groups(), &programs);
    let mut listed = Listed::read();
    let mut differences = Vec::new();
    for (program, said) in programs.iter().zip(&transcripts) {
        let stuck = |lines: &Transcript| lines.iter().any(|line| line.ends_with(FOR_EVER));
        for (step, lines) in said.iter().filter(|(_, lines)| stuck(lines)) {
            let text = lines.join("\n");
            differences.push(format!("{step}: {} has no answer\n{text}", program.version));
        }
    }
    let ours = transcripts.remove(0);
    for (peer, theirs) in peers.iter().zip(&transcripts) {
        for (step, ours) in &ours {
            let Some(theirs) = theirs.get(step) else {
                continue;
            };
            let differs = ours != theirs;
            let is_listed = listed.take(step, &peer.version);
            if differs && !is_listed {
                let changes = diff(theirs, ours).join("\n");
                differences.push(format!(
                    "{step}, PgBouncer {} - pgweir +\n{changes}",
                    peer.version
                ));
            } else if is_listed && !differs {
                differences.push(format!("{step}: listed, but is as in {}", peer.version));
            }
        }
    }
    let versions: BTreeSet<&str> = peers.iter().map(|peer| peer.version.as_str()).collect();
    differences.extend(listed.left(&versions));
    assert!(
        differences.is_empty(),
        "{} of {} steps:\n\n{}",
        differences.len(),
        ours.len(),
        differences.join("\n\n")
    );
}

/// By program, pgweir first: what was said in each step.
fn act_all(groups: &[Group], programs: &[&Program]) -> Vec<BTreeMap<String, Transcript>> {
    let done: Vec<Mutex<BTreeMap<String, Transcript>>> =
        programs.iter().map(|_| Mutex::default()).collect();
    let mut jobs = Vec::new();
    for group in groups {
        for (number, program) in programs.iter().enumerate() {
            if number == 0 || script::release(&program.version) >= group.since {
                jobs.push((group, *program, &done[number]));
            }
        }
    }
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().expect("nobody panics with it").next();
    together(AT_ONCE, |_| {
        while let Some((group, program, done)) = next() {
            let mut stage = Stage::start(group, program);
            for step in &group.steps {
                let said = stage.step(step);
                let name = format!("{}: {}", group.name, step.name);
                let before = done
                    .lock()
                    .expect("nobody panics with it")
                    .insert(name, said);
                assert_eq!(before, None, "two steps are {}: {}", group.name, step.name);
            }
        }
    });
    done.into_iter()
        .map(|done| done.into_inner().expect("nobody panicked with it"))
        .collect()
}

/// Lines of both, the common ones once.
fn diff(old: &[String], new: &[String]) -> Vec<String> {
    // Lengths of the longest common rests.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = match old[i] == new[j] {
                true => common[i + 1][j + 1] + 1,
                false => common[i + 1][j].max(common[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!("  {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("- {}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+ {}", new[j]));
            j += 1;
        }
    }
    lines
}
