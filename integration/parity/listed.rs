//! The differences that are known, from `differences.txt`.

use std::collections::BTreeSet;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/integration/parity/differences.txt"
);

/// One line of the file.
#[derive(Debug)]
struct Line {
    step: String,
    /// `1.18` stands for all of 1.18.x, `*` for all.
    version: String,
    used: bool,
}

/// The file.
#[derive(Debug)]
pub(super) struct Listed(Vec<Line>);

impl Listed {
    pub(super) fn read() -> Self {
        let text = std::fs::read_to_string(FILE).expect("the file is beside this one");
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(Line::parse).collect())
    }

    /// This step is known to differ from this version.
    pub(super) fn take(&mut self, step: &str, version: &str) -> bool {
        let mut found = false;
        for line in &mut self.0 {
            if line.step == step && line.is_about(version) {
                line.used = true;
                found = true;
            }
        }
        found
    }

    /// Lines about these versions that no step has used.
    pub(super) fn left(&self, versions: &BTreeSet<&str>) -> Vec<String> {
        let about = |line: &&Line| versions.iter().any(|version| line.is_about(version));
        let left = self.0.iter().filter(|line| !line.used).filter(about);
        left.map(|line| format!("{}: listed, but there is no such step", line.step))
            .collect()
    }
}

impl Line {
    fn parse(line: &str) -> Self {
        let parts: Vec<&str> = line.splitn(3, " | ").map(str::trim).collect();
        let [version, step, reason] = parts[..] else {
            panic!("differences.txt: a line is VERSION | GROUP: STEP | REASON, not {line}")
        };
        assert!(!reason.is_empty(), "differences.txt: {step} needs a reason");
        Self {
            step: step.to_owned(),
            version: version.to_owned(),
            used: false,
        }
    }

    fn is_about(&self, version: &str) -> bool {
        let rest = version.strip_prefix(&self.version);
        self.version == "*" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}
