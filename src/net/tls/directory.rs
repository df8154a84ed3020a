//! TLS towards directories, as OpenLDAP's programs are set to speak it.

use std::env;

use super::ServerSide;
use super::fault::TlsFault;
use crate::config::{Pgbouncer, SslMode};

/// Where OpenLDAP keeps what holds for every program.
const FILES: [&str; 2] = ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf"];

/// Whom to trust as a directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Trust {
    authorities: Option<String>,
    is_unchecked: bool,
}

impl ServerSide {
    /// For directories: by `TLS_CACERT` and `TLS_REQCERT` of the file that
    /// `LDAPCONF` names, or of the system's ldap.conf, and by
    /// `LDAPTLS_CACERT` and `LDAPTLS_REQCERT`. Without them certificates are
    /// checked against the authorities that the system trusts.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub fn for_directories() -> Result<ServerSide, TlsFault> {
        let text = match env::var("LDAPCONF") {
            Ok(file) => std::fs::read_to_string(file).ok(),
            Err(_) => FILES
                .iter()
                .find_map(|file| std::fs::read_to_string(file).ok()),
        };
        let mut trust = Trust::read(&text.unwrap_or_default());
        for name in ["CACERT", "REQCERT"] {
            if let Ok(value) = env::var(format!("LDAPTLS_{name}")) {
                trust.set(&format!("TLS_{name}"), &value);
            }
        }
        let settings = Pgbouncer {
            server_tls_sslmode: match trust.is_unchecked {
                true => SslMode::Require,
                false => SslMode::VerifyFull,
            },
            server_tls_ca_file: match trust.is_unchecked {
                true => String::new(),
                false => trust.authorities.unwrap_or_default(),
            },
            ..Pgbouncer::default()
        };
        ServerSide::load(&settings, &mut Vec::new())
    }
}

impl Trust {
    fn read(text: &str) -> Trust {
        let mut trust = Trust::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.trim().split_once(char::is_whitespace) {
                trust.set(name, value.trim());
            }
        }
        trust
    }

    fn set(&mut self, name: &str, value: &str) {
        let is = |word: &&str| value.eq_ignore_ascii_case(word);
        match name.to_ascii_uppercase().as_str() {
            "TLS_CACERT" => self.authorities = Some(value.to_owned()),
            "TLS_REQCERT" => self.is_unchecked = ["never", "allow"].iter().any(is),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openldaps_file_says_whom_to_trust() {
        let trust = Trust::read("# TLS_REQCERT never\nBASE dc=x\n\ntls_cacert\t/ca.pem\n");
        let expected = Trust {
            authorities: Some("/ca.pem".to_owned()),
            is_unchecked: false,
        };
        assert_eq!(trust, expected);
        assert!(Trust::read("TLS_REQCERT Never\n").is_unchecked);
        assert!(!Trust::read("TLS_REQCERT demand\n").is_unchecked);
    }
}
