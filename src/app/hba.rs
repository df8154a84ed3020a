//! How clients may prove who they are: what is there, and the rule files.

use std::fs;
use std::io;
use std::path::Path;

use crate::auth::hba::{IdentMaps, Notice, Rules};
use crate::auth::ldap::Ldap;
use crate::config::{AuthType, Config, Loaded, Place, Warning};

/// PAM can be asked.
const HAS_PAM: bool = cfg!(feature = "pam");

/// What to do where it cannot.
const WITH_PAM: &str = "Build with the feature pam, or choose another way to log in.";

/// Tells what would let nobody in, or promise what is not there: at the start
/// and before a reload, so that whatever runs goes on as it is.
///
/// # Errors
/// What it is, where, and what to do about it.
pub(super) fn check(loaded: &Loaded) -> Result<(), Warning> {
    let settings = &loaded.config.pgbouncer;
    let at = |setting: &str, what: String, remedy: String| {
        Err(Warning {
            place: loaded.place(setting),
            what,
            remedy,
        })
    };
    match (settings.auth_type, &settings.auth_ldap_options) {
        (AuthType::Pam, _) if !HAS_PAM => at(
            "auth_type",
            "auth_type: pam is not supported by this build".to_owned(),
            WITH_PAM.to_owned(),
        ),
        (AuthType::Ldap, None) => at(
            "auth_type",
            "auth_type = ldap requires auth_ldap_options".to_owned(),
            "Set it, such as to ldapserver=ldap.example.net ldapprefix=\"uid=\" \
             ldapsuffix=\",ou=people,dc=example,dc=net\"."
                .to_owned(),
        ),
        (AuthType::Ldap, Some(options)) => match Ldap::parse(&options.0) {
            Ok(_) => Ok(()),
            Err(fault) => at(
                "auth_ldap_options",
                format!("auth_ldap_options: {fault}"),
                fault.remedy(),
            ),
        },
        (AuthType::Hba, _) => check_rules(Path::new(&settings.auth_hba_file)),
        _ => Ok(()),
    }
}

/// Rules that nobody can have meant. PgBouncer skips lines that it cannot read,
/// and so does [`load`]; but whom such a rule is for must not be let in by the
/// next. Options that contradict each other are told by [`load`] alone:
/// PgBouncer takes such a rule over, and its own tests ask for that.
fn check_rules(file: &Path) -> Result<(), Warning> {
    // Where it cannot be read, `load` says so.
    let text = fs::read(file).unwrap_or_default();
    let maps = IdentMaps::default();
    let (rules, _) = Rules::parse(&text, file, &maps, |path| fs::read(path));
    let at = |line, what, remedy| {
        let place = Place {
            file: file.to_owned(),
            line,
            column: 0,
        };
        Err(Warning {
            place,
            what,
            remedy,
        })
    };
    let mut misspelt = rules.ldap_faults().filter(|(_, it)| it.is_misspelt());
    if let Some((line, fault)) = misspelt.next() {
        return at(line, fault.to_string(), fault.remedy());
    }
    match rules.lines_of_pam().next() {
        Some(line) if !HAS_PAM => {
            let what = "pam is not supported by this build".to_owned();
            at(line, what, WITH_PAM.to_owned())
        }
        _ => Ok(()),
    }
}

/// Reads the rules with their ident maps, if `auth_type` asks for them. What
/// cannot be read leaves no rules: nobody can log in.
pub(super) fn load(config: &Config) -> Option<Rules> {
    let settings = &config.pgbouncer;
    if settings.auth_type != AuthType::Hba {
        return None;
    }
    let maps = match settings.auth_ident_file.as_deref() {
        Some(file) if !file.is_empty() => load_maps(file),
        _ => IdentMaps::default(),
    };
    let file = Path::new(&settings.auth_hba_file);
    let text = read(file, "hba").unwrap_or_default();
    let (rules, notices) = Rules::parse(&text, file, &maps, |path| fs::read(path));
    for notice in notices {
        tracing::warn!("{}", notice.text(file));
        if let Notice::Skipped { line, .. } = notice {
            tracing::warn!(
                "could not parse hba config line {line} in {}",
                file.display()
            );
        }
    }
    for (line, fault) in rules.ldap_faults() {
        let file = file.display();
        tracing::warn!("{file}, line {line}: {fault}. {}", fault.remedy());
    }
    Some(rules)
}

fn load_maps(file: &str) -> IdentMaps {
    let Some(text) = read(Path::new(file), "ident") else {
        return IdentMaps::default();
    };
    let (maps, faults) = IdentMaps::parse(&text);
    for fault in faults {
        tracing::warn!("{fault}");
        tracing::warn!("could not parse ident config line {} in {file}", fault.line);
    }
    maps
}

fn read(file: &Path, kind: &str) -> Option<Vec<u8>> {
    fs::read(file)
        .inspect_err(|error| log_unreadable(file, kind, error))
        .ok()
}

fn log_unreadable(file: &Path, kind: &str, error: &io::Error) {
    tracing::error!(
        "could not open {kind} config file {}: {error}",
        file.display()
    );
}
