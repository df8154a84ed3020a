//! What the options of LDAP ask for (`auth_ldap_options`, or what follows
//! `ldap` in a rule): which directory is asked, and how.
//!
//! Either the user's own entry is known by its name (`ldapprefix`,
//! `ldapsuffix`), or it is searched for first (`ldapbasedn` and others). The
//! words, their grammar and what may stand together are PgBouncer's.

use std::fmt;

use super::secret::Plaintext;
use crate::config;

/// The attribute that is searched for unless another is named.
const DEFAULT_ATTRIBUTE: &str = "uid";

/// What stands for the user's name in `ldapsearchfilter`.
const USER: &str = "$username";

/// The options there are.
const OPTIONS: [&str; 12] = [
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapurl",
];

/// Characters that mean something in a filter: no user has them in its name.
const SPECIAL: [char; 5] = ['*', '(', ')', '\\', '/'];

/// A directory, and how users are found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ldap {
    /// `host:port` of each server, in the order in which they are tried.
    pub servers: Vec<(String, u16)>,
    /// How the connection is protected.
    pub protection: Protection,
    /// How the user's entry is found.
    pub lookup: Lookup,
}

/// How the connection to a directory is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    None,
    /// TLS is begun by StartTLS (`ldaptls=1`).
    StartTls,
    /// TLS from the first byte (`ldapscheme=ldaps`).
    Tls,
}

/// How the entry of a user is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It has this name.
    Name {
        /// What stands before the user's name.
        prefix: String,
        /// What stands behind it.
        suffix: String,
    },
    /// By a search.
    Search(Search),
}

/// A search for the entry of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Where it begins.
    pub base: String,
    /// How far it goes.
    pub scope: Scope,
    /// Who asks; empty for nobody.
    pub bind_dn: String,
    /// The password of who asks.
    pub bind_password: Plaintext,
    /// With [`USER`] where the user's name comes.
    filter: String,
}

/// How far below its base a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The entry itself.
    Base,
    /// The entries right below.
    One,
    /// All of it.
    Subtree,
}

/// Options that cannot be used. Displays as PgBouncer's line in its log, and
/// never shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LdapFault {
    /// No such option.
    Unknown(String),
    /// Neither `ldap` nor `ldaps`.
    Scheme(String),
    /// No number of a port.
    Port(String),
    /// Not an LDAP URL.
    Url,
    /// Options of both ways to find a user.
    Mixed,
    /// Neither way to find a user.
    Nothing,
    /// `ldapsearchattribute` and `ldapsearchfilter`.
    TwoFilters,
    /// TLS inside TLS.
    TwiceTls,
    /// No server.
    NoServer,
}

impl LdapFault {
    /// A word that means nothing, and not words that contradict each other.
    pub fn is_misspelt(&self) -> bool {
        matches!(
            self,
            LdapFault::Unknown(_) | LdapFault::Scheme(_) | LdapFault::Port(_) | LdapFault::Url
        )
    }

    /// What to do about it, as a sentence.
    pub fn remedy(&self) -> String {
        match self {
            LdapFault::Unknown(name) => match config::closest(name, OPTIONS) {
                Some(close) => format!("Did you mean {close}?"),
                None => format!(
                    "There are {}; values with blanks stand in double quotes.",
                    OPTIONS.join(", ")
                ),
            },
            LdapFault::Scheme(_) => "Write ldap or ldaps.".to_owned(),
            LdapFault::Port(_) => "Give a number from 1 to 65535.".to_owned(),
            LdapFault::Url => {
                "Write \"ldap[s]://HOST[:PORT]/BASE[?ATTRIBUTE[?SCOPE[?FILTER]]]\".".to_owned()
            }
            LdapFault::Mixed => {
                "Leave out ldapprefix and ldapsuffix, or all that is about a search.".to_owned()
            }
            LdapFault::Nothing => {
                "Say how users are found, such as by ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\"."
                    .to_owned()
            }
            LdapFault::TwoFilters => "Leave one of them out.".to_owned(),
            LdapFault::TwiceTls => "Leave out ldaptls.".to_owned(),
            LdapFault::NoServer => "Add ldapserver=HOST.".to_owned(),
        }
    }
}

impl fmt::Display for LdapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LdapFault::Unknown(name) => write!(f, "invalid LDAP option: \"{name}\""),
            LdapFault::Scheme(word) => write!(f, "invalid ldapscheme value: \"{word}\""),
            LdapFault::Port(word) => write!(f, "invalid LDAP port number: \"{word}\""),
            LdapFault::Url => f.write_str("could not parse LDAP URL"),
            LdapFault::Mixed => {
                f.write_str("cannot mix options for simple bind and search+bind modes")
            }
            LdapFault::Nothing => f.write_str(
                "authentication method \"ldap\" requires argument \"ldapbasedn\", \"ldapprefix\", or \"ldapsuffix\" to be set",
            ),
            LdapFault::TwoFilters => {
                f.write_str("cannot use ldapsearchattribute together with ldapsearchfilter")
            }
            LdapFault::TwiceTls => f.write_str("cannot use ldaptls=1 together with ldaps"),
            LdapFault::NoServer => f.write_str("LDAP server not specified"),
        }
    }
}

/// The options as they stand.
#[derive(Default)]
struct Options {
    server: Option<String>,
    port: Option<u16>,
    scheme: Option<String>,
    tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    scope: Option<Scope>,
    bind_dn: Option<String>,
    bind_password: Option<String>,
    attribute: Option<String>,
    filter: Option<String>,
}

impl Ldap {
    /// Reads `name=value` words, separated by blanks or commas, each of both
    /// in double quotes if need be.
    ///
    /// # Errors
    /// See [`LdapFault`].
    pub fn parse(text: &str) -> Result<Ldap, LdapFault> {
        let mut options = Options::default();
        let mut rest = text;
        while let Some((name, value)) = pair(&mut rest) {
            options.set(&name, value)?;
        }
        options.finish()
    }
}

impl Search {
    /// The filter for a user; none if the name could change its meaning.
    pub fn filter_for(&self, user: &str) -> Option<String> {
        (!user.contains(SPECIAL)).then(|| self.filter.replace(USER, user))
    }
}

impl Options {
    fn set(&mut self, name: &str, value: String) -> Result<(), LdapFault> {
        match name {
            "ldaptls" => self.tls = value == "1",
            "ldapscheme" if value == "ldap" || value == "ldaps" => self.scheme = Some(value),
            "ldapscheme" => return Err(LdapFault::Scheme(value)),
            "ldapport" => match value.parse() {
                Ok(port @ 1..) => self.port = Some(port),
                _ => return Err(LdapFault::Port(value)),
            },
            "ldapserver" => self.server = Some(value),
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            "ldapbindpasswd" => self.bind_password = Some(value),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapurl" => self.set_url(&value).ok_or(LdapFault::Url)?,
            // Where a quote is missing it may be a part of a password.
            _ if !name.starts_with("ldap") => return Err(LdapFault::Unknown("***".to_owned())),
            _ => return Err(LdapFault::Unknown(name.to_owned())),
        }
        Ok(())
    }

    /// `ldap[s]://HOST[:PORT]/BASE[?ATTRIBUTE[,..][?SCOPE[?FILTER]]]`
    fn set_url(&mut self, url: &str) -> Option<()> {
        let (scheme, rest) = url.split_once("://")?;
        let (place, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme != "ldap" && scheme != "ldaps" {
            return None;
        }
        self.scheme = Some(scheme.to_owned());
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (place, None),
        };
        self.server = Some(decoded(host)?);
        self.port = match port {
            Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
            None => None,
        };
        let mut parts = rest.split('?').map(decoded);
        let mut part = || match parts.next() {
            None => Some(None),
            Some(part) => part.map(|part| Some(part).filter(|part| !part.is_empty())),
        };
        self.base = Some(part()?.unwrap_or_default());
        // Only the first counts.
        let attributes = part()?;
        let first = attributes.and_then(|all| all.split(',').next().map(str::to_owned));
        self.attribute = first.or(self.attribute.take());
        self.scope = Some(match part()?.as_deref() {
            None | Some("base") => Scope::Base,
            Some("one" | "onelevel") => Scope::One,
            Some("sub" | "subtree") => Scope::Subtree,
            Some(_) => return None,
        });
        self.filter = part()?.or(self.filter.take());
        Some(())
    }

    fn finish(self) -> Result<Ldap, LdapFault> {
        let is_search = self.base.is_some()
            || self.bind_dn.is_some()
            || self.bind_password.is_some()
            || self.attribute.is_some()
            || self.filter.is_some();
        let lookup = match (self.prefix, self.suffix, self.base) {
            (None, None, None) => return Err(LdapFault::Nothing),
            (None, None, Some(base)) => Lookup::Search(Search {
                base,
                scope: self.scope.unwrap_or(Scope::Subtree),
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: Plaintext::new(self.bind_password.unwrap_or_default().into_bytes()),
                filter: match (self.attribute, self.filter) {
                    (Some(_), Some(_)) => return Err(LdapFault::TwoFilters),
                    (_, Some(filter)) if filter.starts_with('(') => filter,
                    (_, Some(filter)) => format!("({filter})"),
                    (attribute, None) => {
                        let attribute = attribute.as_deref().unwrap_or(DEFAULT_ATTRIBUTE);
                        format!("({attribute}={USER})")
                    }
                },
            }),
            _ if is_search => return Err(LdapFault::Mixed),
            (prefix, suffix, _) => Lookup::Name {
                prefix: prefix.unwrap_or_default(),
                suffix: suffix.unwrap_or_default(),
            },
        };
        let is_tls = self.scheme.as_deref() == Some("ldaps");
        let port = self.port.unwrap_or(if is_tls { 636 } else { 389 });
        let hosts = self.server.unwrap_or_default();
        let servers: Vec<_> = hosts
            .split_whitespace()
            .map(|host| (host.to_owned(), port))
            .collect();
        if servers.is_empty() {
            return Err(LdapFault::NoServer);
        }
        Ok(Ldap {
            servers,
            protection: match (is_tls, self.tls) {
                (true, true) => return Err(LdapFault::TwiceTls),
                (true, false) => Protection::Tls,
                (false, true) => Protection::StartTls,
                (false, false) => Protection::None,
            },
            lookup,
        })
    }
}

/// The next `name=value`; none at the end, or where there is none.
fn pair(rest: &mut &str) -> Option<(String, String)> {
    let text = rest.trim_start_matches(|it: char| it.is_whitespace() || it == ',');
    let (name, text) = word(text, |it| it == '=')?;
    let text = text.strip_prefix('=')?;
    let (value, text) = word(text, |it| it.is_whitespace() || it == ',')?;
    *rest = text;
    Some((name, value)).filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

/// A word in quotes, or one up to where `ends` is true, and what follows.
fn word(text: &str, ends: impl Fn(char) -> bool) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(ends).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut word = String::new();
    let mut rest = quoted;
    loop {
        let (part, behind) = rest.split_once('"')?;
        word.push_str(part);
        match behind.strip_prefix('"') {
            Some(behind) => {
                word.push('"');
                rest = behind;
            }
            None => return Some((word, behind)),
        }
    }
}

/// Text with `%XX` for bytes.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        let digits = part.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Ldap {
        Ldap::parse(text).expect("good options")
    }

    fn filter(text: &str, user: &str) -> Option<String> {
        match parse(text).lookup {
            Lookup::Search(search) => search.filter_for(user),
            Lookup::Name { .. } => panic!("no search"),
        }
    }

    #[test]
    fn a_user_may_be_known_by_its_name() {
        let found = parse("ldapserver=\"one two\" ldapprefix=\"uid=\", ldapsuffix=\",dc=net\"");
        assert_eq!(
            found.servers,
            [("one".to_owned(), 389), ("two".to_owned(), 389)]
        );
        assert_eq!(found.protection, Protection::None);
        let expected = Lookup::Name {
            prefix: "uid=".to_owned(),
            suffix: ",dc=net".to_owned(),
        };
        assert_eq!(found.lookup, expected);
    }

    #[test]
    fn a_user_may_be_searched_for() {
        let base = "ldapserver=h ldapbasedn=\"dc=net\"";
        let with = |more: &str| filter(&format!("{base} {more}"), "ann").expect("a filter");
        assert_eq!(with(""), "(uid=ann)");
        assert_eq!(with("ldapsearchattribute=cn"), "(cn=ann)");
        assert_eq!(with("ldapsearchfilter=\"uid=$username\""), "(uid=ann)");
        let both = "ldapsearchfilter=\"(|(uid=$username)(mail=$username))\"";
        assert_eq!(with(both), "(|(uid=ann)(mail=ann))");
    }

    #[test]
    fn a_name_that_changes_the_filter_finds_nobody() {
        for user in ["*", "a)(uid=b", "a\\2a", "a/b"] {
            assert_eq!(filter("ldapserver=h ldapbasedn=b", user), None, "{user}");
        }
    }

    #[test]
    fn a_url_says_it_all() {
        let found = parse("ldapurl=\"ldaps://h:1636/dc=a%20b,dc=net?cn,uid?one\"");
        assert_eq!(found.servers, [("h".to_owned(), 1636)]);
        assert_eq!(found.protection, Protection::Tls);
        let Lookup::Search(search) = found.lookup else {
            panic!("no search");
        };
        assert_eq!(
            (search.base.as_str(), search.scope),
            ("dc=a b,dc=net", Scope::One)
        );
        assert_eq!(search.filter_for("ann").as_deref(), Some("(cn=ann)"));
        let url = "ldapurl=\"ldap://h/dc=net??sub?(|(uid=$username)(mail=$username))\"";
        assert_eq!(filter(url, "x").as_deref(), Some("(|(uid=x)(mail=x))"));
        for bad in [
            "http://h/",
            "ldap:/h",
            "ldap://h:0/",
            "ldap://h/?a?far",
            "ldap://h/%zz",
        ] {
            let parsed = Ldap::parse(&format!("ldapurl=\"{bad}\""));
            assert_eq!(parsed.expect_err("no URL"), LdapFault::Url, "{bad}");
        }
    }

    #[test]
    fn the_port_is_that_of_the_protection() {
        let protected = |more: &str| {
            let found = parse(&format!("ldapserver=h ldapprefix=x {more}"));
            (found.servers[0].1, found.protection)
        };
        assert_eq!(protected("ldapscheme=ldaps"), (636, Protection::Tls));
        assert_eq!(protected("ldaptls=1"), (389, Protection::StartTls));
        assert_eq!(protected("ldaptls=0 ldapport=7"), (7, Protection::None));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (text, fault) in [
            ("", LdapFault::Nothing),
            ("ldapserver=h", LdapFault::Nothing),
            ("ldapprefix=x", LdapFault::NoServer),
            ("ldapserver=h ldapprefix=x ldapbinddn=y", LdapFault::Mixed),
            ("ldapserver=h ldapprefix=x ldapbasedn=y", LdapFault::Mixed),
            (
                "ldapserver=h ldapbasedn=y ldapsearchattribute=a ldapsearchfilter=b",
                LdapFault::TwoFilters,
            ),
            (
                "ldapserver=h ldapprefix=x ldapscheme=ldaps ldaptls=1",
                LdapFault::TwiceTls,
            ),
            ("ldapport=x", LdapFault::Port("x".into())),
            ("ldapscheme=http", LdapFault::Scheme("http".into())),
            ("ldapcolour=red", LdapFault::Unknown("ldapcolour".into())),
            (
                "ldapbindpasswd=a secret=b",
                LdapFault::Unknown("***".into()),
            ),
        ] {
            assert_eq!(Ldap::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn each_fault_has_a_remedy() {
        let remedy = |text: &str| Ldap::parse(text).expect_err("a fault").remedy();
        assert_eq!(remedy("ldapprefx=x"), "Did you mean ldapprefix?");
        assert!(remedy("ldapcolour=x").contains("ldapsearchfilter, ldapurl"));
        for name in OPTIONS {
            let known = Options::default().set(name, "ldap".to_owned());
            assert!(!matches!(known, Err(LdapFault::Unknown(_))), "{name}");
        }
        for (text, is_misspelt) in [
            ("ldapprefx=x", true),
            ("ldapport=x", true),
            ("ldapserver=h", false),
            (
                "ldapserver=h ldapprefix=x ldapscheme=ldaps ldaptls=1",
                false,
            ),
        ] {
            let fault = Ldap::parse(text).expect_err("a fault");
            assert_eq!(fault.is_misspelt(), is_misspelt, "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let found = parse("ldapserver=h ldapbasedn=b ldapbinddn=d ldapbindpasswd=hunter2");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
}
