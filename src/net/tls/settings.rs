//! Versions, ciphers and curves, as the settings write them.

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{NamedGroup, SupportedCipherSuite, SupportedProtocolVersion};

use super::cipher::NAMES;
use super::fault::TlsFault;

/// Which versions, ciphers and curves are allowed.
pub(super) struct Choice {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) provider: CryptoProvider,
}

/// The settings of one side, as they are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes<'a> {
    /// `client_tls` or `server_tls`.
    pub(super) side: &'a str,
    pub(super) protocols: &'a str,
    /// Up to TLS 1.2.
    pub(super) ciphers: &'a str,
    /// Of TLS 1.3.
    pub(super) ciphers13: Option<&'a str>,
    pub(super) curve: &'a str,
}

impl Choice {
    /// Follows the wishes.
    ///
    /// # Errors
    /// The first that cannot be followed.
    pub(super) fn make(wishes: Wishes<'_>, notes: &mut Vec<TlsFault>) -> Result<Choice, TlsFault> {
        let side = wishes.side;
        let setting = format!("{side}_protocols");
        let protocols = Protocols::read(wishes.protocols).ok_or_else(|| {
            let what = format!("invalid {setting}: {}", wishes.protocols);
            let remedy = "Give secure, all, or a list such as tlsv1.2,tlsv1.3.";
            TlsFault::new(&*setting, what, remedy)
        })?;
        if protocols.names_only_old {
            let what = format!(
                "{setting} is {}: TLS before 1.2 is not supported",
                wishes.protocols
            );
            let remedy = "Add tlsv1.2 or tlsv1.3: until then every handshake fails.";
            notes.push(TlsFault::new(&*setting, what, remedy));
        }
        let mut provider = ring::default_provider();
        let old = provider
            .cipher_suites
            .iter()
            .filter(|suite| suite.tls13().is_none());
        let new = provider
            .cipher_suites
            .iter()
            .filter(|suite| suite.tls13().is_some());
        let old = old_suites(wishes.ciphers, old.copied().collect()).ok_or_else(|| {
            let what = format!("invalid {side}_ciphers: {}", wishes.ciphers);
            TlsFault::new(format!("{side}_ciphers"), what, supported("TLSv1.2", false))
        })?;
        let mut suites = new_suites(wishes.ciphers13, new.copied().collect()).ok_or_else(|| {
            let setting = format!("{}13_ciphers", side);
            let given = wishes.ciphers13.unwrap_or_default();
            let what = format!(
                "TLS setup failed: failed to set the TLSv1.3 cipher suites: {setting} is {given}"
            );
            TlsFault::new(setting, what, supported("TLSv1.3", true))
        })?;
        suites.extend(old);
        provider.cipher_suites = suites;
        let setting = format!("{side}_ecdhcurve");
        provider.kx_groups = curves(wishes.curve, &provider.kx_groups).ok_or_else(|| {
            let what = format!("invalid {setting}: {}", wishes.curve);
            let remedy = "Give auto, X25519, prime256v1 or secp384r1.";
            TlsFault::new(&*setting, what, remedy)
        })?;
        if wishes.curve.eq_ignore_ascii_case("none") {
            let what = format!("{setting} is none: key exchange without a curve is not supported");
            notes.push(TlsFault::new(
                &*setting,
                what,
                "Give auto, which holds now.",
            ));
        }
        Ok(Choice {
            versions: protocols.versions(),
            provider,
        })
    }
}

/// The remedy for a list of ciphers in which there is nothing.
fn supported(version: &str, new: bool) -> String {
    let names = NAMES.iter().map(|(_, name)| *name);
    let names: Vec<_> = names
        .filter(|name| name.starts_with("TLS_") == new)
        .collect();
    format!("Supported for {version}: {}.", names.join(", "))
}

const V1_0: u8 = 1;
const V1_1: u8 = 2;
const V1_2: u8 = 4;
const V1_3: u8 = 8;

/// A set of versions.
#[derive(Debug, PartialEq, Eq)]
struct Protocols {
    allowed: u8,
    /// There are some, but none that is supported.
    names_only_old: bool,
}

impl Protocols {
    /// Reads a list in PgBouncer's notation. None if a word is unknown.
    fn read(list: &str) -> Option<Protocols> {
        const ALL: u8 = V1_0 | V1_1 | V1_2 | V1_3;
        const SECURE: u8 = V1_2 | V1_3;
        let mut allowed = if list.is_empty() { SECURE } else { 0 };
        for word in list.split([',', ':']).filter(|_| !list.is_empty()) {
            let word = word.trim_start();
            let (negated, word) = match word.strip_prefix('!') {
                Some(word) => (true, word),
                None => (false, word),
            };
            let named = match word.to_ascii_lowercase().as_str() {
                "all" | "tlsv1" => ALL,
                "default" | "secure" => SECURE,
                "tlsv1.0" => V1_0,
                "tlsv1.1" => V1_1,
                "tlsv1.2" => V1_2,
                "tlsv1.3" => V1_3,
                _ => return None,
            };
            if negated && allowed == 0 {
                allowed = ALL;
            }
            allowed = if negated {
                allowed & !named
            } else {
                allowed | named
            };
        }
        Some(Protocols {
            allowed,
            names_only_old: allowed & SECURE == 0,
        })
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(V1_3, &TLS13), (V1_2, &TLS12)];
        let allowed = all.into_iter().filter(|(bit, _)| self.allowed & bit != 0);
        allowed.map(|(_, version)| version).collect()
    }
}

/// The ciphers up to TLS 1.2 that a list in OpenSSL's notation leaves. None if
/// it leaves none.
fn old_suites(list: &str, all: Vec<SupportedCipherSuite>) -> Option<Vec<SupportedCipherSuite>> {
    let defaults = ["", "default", "secure", "fast", "normal"];
    if defaults.iter().any(|word| list.eq_ignore_ascii_case(word)) {
        return Some(all);
    }
    let (mut chosen, mut banned) = (Vec::new(), Vec::new());
    for word in list.split([':', ',', ' ', ';']) {
        let (operator, word) = match word.split_at_checked(1) {
            Some((operator @ ("!" | "-" | "+" | "@"), word)) => (operator, word),
            _ => ("", word),
        };
        let meant = |suite: &SupportedCipherSuite| {
            let name = openssl_name(suite);
            word.split('+').all(|part| is_meant(part, name))
        };
        match operator {
            "" => {
                let more = all.iter().filter(|suite| meant(suite));
                let more: Vec<_> = more
                    .filter(|suite| !chosen.contains(*suite))
                    .copied()
                    .collect();
                chosen.extend(more);
            }
            "!" => banned.extend(all.iter().filter(|suite| meant(suite)).copied()),
            "-" => chosen.retain(|suite| !meant(suite)),
            // Only the order, or OpenSSL's own affairs.
            _ => {}
        }
    }
    chosen.retain(|suite| !banned.contains(suite));
    (!chosen.is_empty()).then_some(chosen)
}

/// Whether a word of OpenSSL's lists stands for a cipher of this name, too.
fn is_meant(word: &str, name: &str) -> bool {
    match word {
        "ALL" | "DEFAULT" | "HIGH" | "TLSv1.2" | "ECDHE" | "kECDHE" | "EECDH" | "kEECDH" => true,
        "ECDSA" | "aECDSA" => name.contains("ECDSA"),
        "aRSA" => name.contains("-RSA-"),
        "AES" | "AESGCM" | "FIPS" => name.contains("AES"),
        "AES128" => name.contains("AES128"),
        "AES256" => name.contains("AES256"),
        "CHACHA20" => name.contains("CHACHA20"),
        word => word == name,
    }
}

/// The ciphers of TLS 1.3 that a list names. None if it names one that there
/// is not, or none.
fn new_suites(
    list: Option<&str>,
    all: Vec<SupportedCipherSuite>,
) -> Option<Vec<SupportedCipherSuite>> {
    let Some(list) = list else {
        return Some(all);
    };
    let named = |name: &str| {
        all.iter()
            .find(|suite| openssl_name(suite) == name)
            .copied()
    };
    let words = list
        .split(':')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let found: Option<Vec<_>> = words.map(named).collect();
    found.filter(|found| !found.is_empty())
}

fn openssl_name(suite: &SupportedCipherSuite) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == suite.suite());
    known.map_or("", |(_, name)| *name)
}

/// The curves that `ecdhcurve` leaves. None if there is no such curve.
fn curves(
    name: &str,
    all: &[&'static dyn SupportedKxGroup],
) -> Option<Vec<&'static dyn SupportedKxGroup>> {
    let wanted = match name.to_ascii_lowercase().as_str() {
        "" | "auto" | "none" => return Some(all.to_vec()),
        "x25519" => NamedGroup::X25519,
        "prime256v1" | "secp256r1" | "p-256" => NamedGroup::secp256r1,
        "secp384r1" | "p-384" => NamedGroup::secp384r1,
        _ => return None,
    };
    let found: Vec<_> = all
        .iter()
        .filter(|group| group.name() == wanted)
        .copied()
        .collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_read_as_by_pgbouncer() {
        const ALL: u8 = V1_0 | V1_1 | V1_2 | V1_3;
        let cases = [
            ("secure", Some(V1_2 | V1_3)),
            ("default", Some(V1_2 | V1_3)),
            ("", Some(V1_2 | V1_3)),
            ("all", Some(ALL)),
            ("tlsv1", Some(ALL)),
            ("tlsv1.0", Some(V1_0)),
            ("tlsv1.2,tlsv1.3", Some(V1_2 | V1_3)),
            ("tlsv1.2: TLSv1.3", Some(V1_2 | V1_3)),
            ("!tlsv1.3", Some(V1_0 | V1_1 | V1_2)),
            ("secure,!tlsv1.2", Some(V1_3)),
            ("tlsv1.4", None),
            ("tlsv1.2,", None),
        ];
        for (list, allowed) in cases {
            let read = Protocols::read(list).map(|protocols| protocols.allowed);
            assert_eq!(read, allowed, "{list:?}");
        }
    }

    #[test]
    fn protocols_without_a_supported_one_are_told() {
        for (list, old) in [("tlsv1.0", true), ("tlsv1.0,tlsv1.1", true), ("all", false)] {
            let protocols = Protocols::read(list).expect("known words");
            assert_eq!(protocols.names_only_old, old, "{list}");
            assert_eq!(protocols.versions().is_empty(), old, "{list}");
        }
    }

    fn names(suites: Option<Vec<SupportedCipherSuite>>) -> Option<Vec<&'static str>> {
        Some(suites?.iter().map(openssl_name).collect())
    }

    fn all(new: bool) -> Vec<SupportedCipherSuite> {
        let all = ring::default_provider().cipher_suites.into_iter();
        all.filter(|suite| suite.tls13().is_some() == new).collect()
    }

    #[test]
    fn every_cipher_has_openssls_name() {
        for suite in ring::default_provider().cipher_suites {
            assert_ne!(openssl_name(&suite), "", "{suite:?}");
        }
    }

    #[test]
    fn old_ciphers_are_chosen_as_by_openssl() {
        let count = |list: &str| old_suites(list, all(false)).map(|suites| suites.len());
        let cases = [
            ("default", Some(6)),
            ("Fast", Some(6)),
            ("HIGH:!aNULL:!MD5", Some(6)),
            ("HIGH:MEDIUM:+3DES:!aNULL", Some(6)),
            ("ECDHE+AESGCM", Some(4)),
            ("ECDHE+AESGCM:ECDHE+CHACHA20:!ECDSA", Some(3)),
            ("ALL:-CHACHA20", Some(4)),
            ("!AES128:ALL", Some(4)),
            ("ALL:@SECLEVEL=1", Some(6)),
            ("AES128-SHA", None),
            ("ALL:!ALL", None),
        ];
        for (list, left) in cases {
            assert_eq!(count(list), left, "{list}");
        }
        let wanted = [
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ];
        let list = "AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384";
        assert_eq!(names(old_suites(list, all(false))).expect("two"), wanted);
    }

    #[test]
    fn new_ciphers_are_named_one_by_one() {
        let chosen = |list| names(new_suites(list, all(true)));
        assert_eq!(chosen(None).map(|names| names.len()), Some(3));
        let two = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
        assert_eq!(
            chosen(Some(two)).expect("two"),
            ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"]
        );
        for bad in ["unknown", "TLS_AES_128_GCM_SHA256:unknown", ""] {
            assert_eq!(chosen(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn curves_go_by_openssls_names() {
        let all = ring::default_provider().kx_groups;
        let cases = [
            ("auto", 3),
            ("none", 3),
            ("prime256v1", 1),
            ("X25519", 1),
            ("P-384", 1),
        ];
        for (name, count) in cases {
            assert_eq!(
                curves(name, &all).map(|found| found.len()),
                Some(count),
                "{name}"
            );
        }
        assert!(curves("secp521r1", &all).is_none());
    }
}
