//! `pgweir convert`: the TOML says what the ini says.

use crate::harness::only_pgweir;
use crate::harness::process::{self, Folder};
use std::path::Path;
use std::process::Command;

/// What it prints about a file.
fn prints(command: &str, file: &Path) -> String {
    let output = Command::new(process::program())
        .arg(command)
        .arg(file)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// A report without the places, which are the file's own.
fn what_it_configures(file: &Path) -> Vec<String> {
    let report = prints("check", file);
    let lines = report
        .lines()
        .skip(1)
        .filter(|it| !it.starts_with("  at: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_converted_file_is_checked_to_configure_the_same() {
    if only_pgweir("PgBouncer converts nothing") {
        return;
    }
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pgbouncer.ini");
    let text = std::fs::read_to_string(sample).expect("shipped");
    // A line that only a blank keeps from being a setting is a remark.
    let is_setting = |line: &str| !line.starts_with(' ');
    let whole: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix(';')
                .filter(|it| is_setting(it))
                .unwrap_or(line)
        })
        .collect();
    let debians = "/usr/share/doc/pgbouncer/examples/pgbouncer.ini";
    let debians = std::fs::read_to_string(debians)
        .expect("pgbouncer.ini of Debian's package; scripts/setup installs it");
    let folder = Folder::new("convert");
    for (name, text) in [
        ("sample", text.clone()),
        ("whole", whole.join("\n")),
        ("debian", debians),
    ] {
        let ini = folder.write(&format!("{name}.ini"), &text);
        let toml = folder.write(&format!("{name}.toml"), &prints("convert", &ini));
        assert_eq!(
            what_it_configures(&toml),
            what_it_configures(&ini),
            "{name}"
        );
    }
}
