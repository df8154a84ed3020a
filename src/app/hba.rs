//! How clients may prove who they are: what is there, and the rule files.

use std::fs;
use std::io;
use std::path::Path;

use crate::auth::hba::{IdentMaps, Notice, Rules};
use crate::auth::ldap::Ldap;
use crate::config::{AuthType, Config};

/// Values of `auth_type` that would promise what is not there, or would let
/// nobody in.
pub(super) fn refuse_unsupported(config: &Config) -> Result<(), String> {
    let settings = &config.pgbouncer;
    let wrong = match (settings.auth_type, &settings.auth_ldap_options) {
        (AuthType::Pam, _) => "auth_type: pam is not supported; supported: trust, plain, md5, \
            scram-sha-256, cert, hba, ldap, any"
            .to_owned(),
        (AuthType::Ldap, None) => "auth_type = ldap requires auth_ldap_options, such as \
            ldapserver=ldap.example.net ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\""
            .to_owned(),
        (AuthType::Ldap, Some(options)) => match Ldap::parse(&options.0) {
            Ok(_) => return Ok(()),
            Err(fault) => format!("auth_ldap_options: {fault}"),
        },
        _ => return Ok(()),
    };
    Err(format!("{}: {wrong}", config.path.display()))
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
