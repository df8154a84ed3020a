//! What a setting's text may look like.

use super::model::RESERVED_DATABASE;
use super::value::{ValueError, c_integer};

/// The kind of text a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, in C's notation (`0x..` and leading `0` work), in this
    /// range, both ends included.
    Int {
        /// Smallest value taken.
        min: i64,
        /// Largest value taken.
        max: i64,
    },
    /// Permission bits, a whole number; octal with a leading `0`.
    FileMode,
    /// A number; 0 is off, anything else on.
    Bool,
    /// Seconds, fractions allowed.
    Time,
    /// A number of bytes.
    Size,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    /// Anything up to the end of the line.
    Text,
    /// Text that is never printed.
    Secret,
    /// The name of a database that is not the console's.
    AuthDatabase,
    /// Words separated by commas or blanks, kept as written.
    List,
    /// Name of a file or folder.
    File,
    /// A path of a URL, from its `/`.
    Path,
    /// A version: at most 32 letters, digits and `.+-~_`, a digit first.
    Version,
    /// `HOST:PORT`, the host in brackets if it is an IPv6 address.
    HostPort,
    /// `IP:PORT`; nothing for none.
    Address,
    /// Several `IP:PORT`, separated by commas or blanks.
    Addresses,
    /// Several `IP/BITS` or `IP`, separated by commas or blanks.
    Networks,
    /// Words separated by commas or blanks; quotes protect either.
    Words,
    /// `NAME=VALUE` words.
    Environment,
}

impl Kind {
    /// A C `int`.
    pub const INT: Self = Self::Int {
        min: i32::MIN as i64,
        max: i32::MAX as i64,
    };
    /// A C `unsigned int`, or any count.
    pub const UINT: Self = Self::Int {
        min: 0,
        max: u32::MAX as i64,
    };
    /// A port to listen on; 0 lets the kernel choose.
    pub const PORT: Self = Self::Int {
        min: 0,
        max: u16::MAX as i64,
    };
    /// A count that overrides a global one; negative numbers do not.
    pub const OVERRIDE: Self = Self::Int {
        min: i32::MIN as i64,
        max: u32::MAX as i64,
    };
    /// A port to connect to.
    pub const SERVER_PORT: Self = Self::Int {
        min: 1,
        max: u16::MAX as i64,
    };

    /// What the value has to be, as the end of "expected ...".
    pub fn expected(self) -> String {
        match self {
            Self::INT | Self::OVERRIDE => "a whole number".to_owned(),
            Self::UINT => "a whole number from 0".to_owned(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::FileMode => "permission bits such as 0770".to_owned(),
            Self::Bool => "0 or 1".to_owned(),
            Self::Time => "a number of seconds".to_owned(),
            Self::Size => "a number of bytes".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Text | Self::Secret | Self::List => "a text".to_owned(),
            Self::AuthDatabase => "a database other than the reserved \"pgbouncer\"".to_owned(),
            Self::File => "a file name".to_owned(),
            Self::Path => "a path that begins with \"/\"".to_owned(),
            Self::Version => "a version such as 1.25.2".to_owned(),
            Self::HostPort => "a host and port such as app1:8080".to_owned(),
            Self::Address => "an address and port such as 127.0.0.1:9127".to_owned(),
            Self::Addresses => "addresses such as 127.0.0.1:8080, [::1]:8080".to_owned(),
            Self::Networks => {
                "networks such as 10.0.0.0/8, 2001:db8::/32, without bits outside of the mask"
                    .to_owned()
            }
            Self::Words => "words, each in quotes if it holds a blank or comma".to_owned(),
            Self::Environment => "words of the form NAME=VALUE".to_owned(),
        }
    }

    /// Whether a value of this kind may not be printed.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Environment)
    }

    /// The kind's name in the documentation.
    pub fn name(self) -> String {
        match self {
            Self::INT | Self::OVERRIDE => "int".to_owned(),
            Self::UINT => "uint".to_owned(),
            Self::Int { min, max } => format!("int {min} to {max}"),
            Self::FileMode => "mode".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Time => "time".to_owned(),
            Self::Size => "bytes".to_owned(),
            Self::Word(words) => words.join(", "),
            Self::Text | Self::AuthDatabase => "string".to_owned(),
            Self::Secret => "secret".to_owned(),
            Self::List => "list".to_owned(),
            Self::File => "file".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Version => "version".to_owned(),
            Self::HostPort => "host and port".to_owned(),
            Self::Address => "address".to_owned(),
            Self::Addresses => "addresses".to_owned(),
            Self::Networks => "networks".to_owned(),
            Self::Words => "words".to_owned(),
            Self::Environment => "NAME=VALUE words".to_owned(),
        }
    }

    /// The text to read the value from, if it passes what the value's Rust
    /// type cannot check: ranges, words and reserved names.
    pub(super) fn accept(self, text: &str) -> Result<&str, ValueError> {
        let fits = match self {
            Self::Int { min, max } => c_integer(text).is_some_and(|n| (min..=max).contains(&n)),
            Self::Word(words) => {
                let word = words.iter().find(|word| word.eq_ignore_ascii_case(text));
                return word.copied().ok_or(ValueError);
            }
            Self::AuthDatabase => text != RESERVED_DATABASE,
            Self::Path => text.starts_with('/'),
            Self::Version => is_version(text),
            Self::HostPort => is_host_port(text),
            _ => true,
        };
        if fits { Ok(text) } else { Err(ValueError) }
    }
}

fn is_version(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-~_".contains(&b))
}

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    host_is_good && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(kind: Kind, text: &str) -> bool {
        kind.accept(text).is_ok()
    }

    #[test]
    fn a_range_holds_both_ends() {
        assert!(accepts(Kind::SERVER_PORT, "1") && accepts(Kind::SERVER_PORT, "65535"));
        assert!(!accepts(Kind::SERVER_PORT, "0") && !accepts(Kind::SERVER_PORT, "65536"));
    }

    #[test]
    fn a_word_is_taken_in_any_case_as_the_table_has_it() {
        assert_eq!(
            Kind::Word(&["round-robin"]).accept("Round-Robin"),
            Ok("round-robin")
        );
        assert_eq!(
            Kind::Word(&["round-robin"]).accept("round"),
            Err(ValueError)
        );
    }

    #[test]
    fn a_version_is_short_and_plain() {
        for text in ["1.25.2", "1.25.2-3+deb13u1", "2"] {
            assert!(accepts(Kind::Version, text), "{text}");
        }
        let long = "1".repeat(33);
        for text in ["", "v1", "1 2", "1\0", "1.2\n", long.as_str()] {
            assert!(!accepts(Kind::Version, text), "{text:?}");
        }
    }

    #[test]
    fn a_host_and_port_has_both() {
        for text in ["app:80", "10.0.0.1:8080", "[::1]:80"] {
            assert!(accepts(Kind::HostPort, text), "{text}");
        }
        for text in [
            "app",
            "app:",
            ":80",
            "app:0",
            "app:+1",
            "::1:80",
            "[app]:80",
            "http://app:80",
            "",
        ] {
            assert!(!accepts(Kind::HostPort, text), "{text}");
        }
    }
}
