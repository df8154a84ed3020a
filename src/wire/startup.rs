//! The packets that open a connection: they have no type byte.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use super::frame::cstr;

/// Request code of CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// Request code of SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// Request code of GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// Protocol version 3.0.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// The newest minor version of protocol 3 there is, PostgreSQL 18's.
pub const NEWEST_MINOR: u16 = 2;
/// The first minor version in which a cancel secret may have other than four
/// bytes.
pub const LONG_SECRETS_SINCE: u16 = 2;

/// The largest startup packet PostgreSQL accepts (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_STARTUP_LEN: u32 = 10_000;

/// The bytes that the protocol allows for a cancel secret.
pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// The largest CancelRequest: length, code, process id, secret.
const MAX_CANCEL_LEN: u32 = 12 + *SECRET_BYTES.end() as u32;

/// What `replication` in a StartupMessage asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// An ordinary session.
    #[default]
    No,
    /// Replication commands, and SQL in one database.
    Logical,
    /// Replication commands.
    Physical,
}

impl Replication {
    /// Reads the parameter's value: `database`, or a boolean in PostgreSQL's
    /// words. PgBouncer passes over all others.
    pub fn read(value: &str) -> Option<Replication> {
        if value == "database" {
            return Some(Replication::Logical);
        }
        let word = value.to_ascii_lowercase();
        let begins = |whole: &str| !word.is_empty() && whole.starts_with(&word);
        match word.as_str() {
            "1" | "on" => Some(Replication::Physical),
            "0" | "of" | "off" => Some(Replication::No),
            _ if begins("true") || begins("yes") => Some(Replication::Physical),
            _ if begins("false") || begins("no") => Some(Replication::No),
            _ => None,
        }
    }

    /// The parameter's value.
    pub fn value(self) -> &'static str {
        match self {
            Replication::No => "no",
            Replication::Logical => "database",
            Replication::Physical => "yes",
        }
    }

    /// PgBouncer's word for it in SHOW CLIENTS and SHOW SERVERS.
    pub fn name(self) -> &'static str {
        match self {
            Replication::No => "none",
            Replication::Logical => "logical",
            Replication::Physical => "physical",
        }
    }
}

/// The first packet of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum First<'a> {
    /// A request for TLS.
    SslRequest,
    /// A request for GSSAPI encryption.
    GssEncRequest,
    /// A request to cancel somebody's query.
    Cancel {
        /// Process id and secret, as BackendKeyData gave them.
        key: &'a [u8],
    },
    /// Protocol 2.
    Version2,
    /// StartupMessage of protocol 3.
    Startup {
        /// Minor protocol version.
        minor: u16,
        /// Names and values.
        parameters: Parameters<'a>,
    },
}

/// Why a first packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupError {
    /// Bad length or unknown request code.
    BadHeader,
    /// A CancelRequest of a length that none has. Nothing is answered to it.
    BadCancel,
    /// The parameter list is not closed by an empty name at its very end, or
    /// is not text.
    BadLayout,
}

/// Length of the whole packet, from its first eight bytes; `None` when fewer
/// are there.
///
/// # Errors
/// A length that no packet with this request code has.
pub fn packet_len(bytes: &[u8]) -> Option<Result<usize, StartupError>> {
    let [a, b, c, d, code @ ..] = *bytes.first_chunk::<8>()?;
    let len = u32::from_be_bytes([a, b, c, d]);
    let (most, error) = match u32::from_be_bytes(code) {
        SSL_REQUEST | GSSENC_REQUEST => (8, StartupError::BadHeader),
        CANCEL_REQUEST => (MAX_CANCEL_LEN, StartupError::BadCancel),
        _ => (MAX_STARTUP_LEN, StartupError::BadHeader),
    };
    Some(if (8..=most).contains(&len) {
        Ok(len as usize)
    } else {
        Err(error)
    })
}

/// Reads a whole packet, length word included.
///
/// # Errors
/// See [`StartupError`].
pub fn read(packet: &[u8]) -> Result<First<'_>, StartupError> {
    let (head, body) = packet
        .split_first_chunk::<8>()
        .ok_or(StartupError::BadHeader)?;
    let code = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    match (code, code >> 16) {
        (SSL_REQUEST, _) if body.is_empty() => Ok(First::SslRequest),
        (GSSENC_REQUEST, _) if body.is_empty() => Ok(First::GssEncRequest),
        (CANCEL_REQUEST, _) => Ok(First::Cancel { key: body }),
        (_, 2) => Ok(First::Version2),
        (_, 3) => Ok(First::Startup {
            minor: code as u16,
            parameters: Parameters::read(body)?,
        }),
        _ => Err(StartupError::BadHeader),
    }
}

/// The parameter list of a StartupMessage, known to be well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters<'a>(&'a [u8]);

impl<'a> Parameters<'a> {
    fn read(body: &'a [u8]) -> Result<Parameters<'a>, StartupError> {
        let mut rest = body;
        loop {
            let (name, after) = cstr(rest).ok_or(StartupError::BadLayout)?;
            if name.is_empty() {
                let whole = after.is_empty().then_some(Parameters(body));
                return whole.ok_or(StartupError::BadLayout);
            }
            let (value, after) = cstr(after).ok_or(StartupError::BadLayout)?;
            if str::from_utf8(name).is_err() || str::from_utf8(value).is_err() {
                return Err(StartupError::BadLayout);
            }
            rest = after;
        }
    }

    /// Names and values in the order they were sent.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, after) = cstr(rest)?;
            if name.is_empty() {
                return None;
            }
            let (value, after) = cstr(after)?;
            rest = after;
            Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))
        })
    }
}

/// The `name=value` pairs of an `options` parameter: `-c k=v`, `-ck=v` and
/// `--k=v`, with backslash escapes.
///
/// # Errors
/// The whole is refused when it holds anything else.
pub fn options(text: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut words = words(text).into_iter();
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or(OptionsError)?
        } else if let Some(rest) = word.strip_prefix("--") {
            rest.to_owned()
        } else if let Some(rest) = word.strip_prefix("-c") {
            rest.to_owned()
        } else {
            return Err(OptionsError);
        };
        let (name, value) = setting.split_once('=').ok_or(OptionsError)?;
        // PostgreSQL reads `--a-b` as `a_b`.
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(pairs)
}

/// An `options` parameter the pooler does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionsError;

/// Splits at blanks; a backslash takes the next character as it is.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() {
            words.extend(word.take());
            continue;
        }
        let c = if c == '\\' {
            chars.next().unwrap_or('\\')
        } else {
            c
        };
        word.get_or_insert_default().push(c);
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut packet = (8 + body.len() as u32).to_be_bytes().to_vec();
        packet.extend_from_slice(&code.to_be_bytes());
        packet.extend_from_slice(body);
        packet
    }

    #[test]
    fn parameters_keep_their_order() {
        let bytes = packet(PROTOCOL_3_0, b"user\0ann\0database\0db\0\0");
        let Ok(First::Startup {
            minor: 0,
            parameters,
        }) = read(&bytes)
        else {
            panic!("not a startup message");
        };
        let pairs: Vec<_> = parameters.iter().collect();
        assert_eq!(pairs, [("user", "ann"), ("database", "db")]);
    }

    #[test]
    fn a_missing_or_early_terminator_is_a_bad_layout() {
        for body in [
            &b"user\0ann\0"[..],
            b"user\0ann\0\0x",
            b"user\0",
            b"user\0\xff\0\0",
        ] {
            assert_eq!(
                read(&packet(PROTOCOL_3_0, body)),
                Err(StartupError::BadLayout)
            );
        }
    }

    #[test]
    fn lengths_outside_what_postgres_takes_are_refused() {
        assert_eq!(packet_len(b"\0\0\0\x08\0\0\0"), None);
        let of = |code: u32, len: u32| {
            let head = [len.to_be_bytes(), code.to_be_bytes()].concat();
            packet_len(&head).expect("a whole head")
        };
        let (header, cancel) = (StartupError::BadHeader, StartupError::BadCancel);
        for (code, most, error) in [
            (PROTOCOL_3_0, MAX_STARTUP_LEN, header),
            (SSL_REQUEST, 8, header),
            (GSSENC_REQUEST, 8, header),
            (CANCEL_REQUEST, 268, cancel),
        ] {
            assert_eq!(of(code, most), Ok(most as usize));
            for len in [0, 7, most + 1, u32::MAX] {
                assert_eq!(of(code, len), Err(error), "{code} {len}");
            }
        }
    }

    #[test]
    fn requests_are_told_apart() {
        assert_eq!(read(&packet(SSL_REQUEST, b"")), Ok(First::SslRequest));
        assert_eq!(read(&packet(GSSENC_REQUEST, b"")), Ok(First::GssEncRequest));
        assert_eq!(
            read(&packet(CANCEL_REQUEST, b"12345678")),
            Ok(First::Cancel { key: b"12345678" })
        );
        assert_eq!(read(&packet(0x0002_0000, b"old")), Ok(First::Version2));
        assert_eq!(read(&packet(77, b"")), Err(StartupError::BadHeader));
    }

    #[test]
    fn replication_is_read_as_pgbouncer_reads_it() {
        use Replication::{Logical, No, Physical};
        for (value, read) in [
            ("database", Some(Logical)),
            ("DATABASE", None),
            ("yes", Some(Physical)),
            ("T", Some(Physical)),
            ("1", Some(Physical)),
            ("on", Some(Physical)),
            ("off", Some(No)),
            ("n", Some(No)),
            ("fal", Some(No)),
            ("0", Some(No)),
            ("o", None),
            ("", None),
            ("perhaps", None),
        ] {
            assert_eq!(Replication::read(value), read, "{value}");
        }
    }

    #[test]
    fn options_are_read_in_the_three_forms() {
        let expected = vec![
            ("a".to_owned(), "1 2".to_owned()),
            ("b_c".into(), "x".into()),
        ];
        assert_eq!(options(r"-c a=1\ 2 --b-c=x"), Ok(expected.clone()));
        assert_eq!(options(r"-ca=1\ 2   -c  b_c=x"), Ok(expected));
        for bad in ["-x a=1", "-c", "-c a", "a=1"] {
            assert_eq!(options(bad), Err(OptionsError));
        }
    }
}
