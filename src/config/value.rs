//! How a setting's text becomes a value, and how the value is shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{AuthType, Password, PoolMode, Replay, SslMode};

/// Longest time a setting can say, in seconds (some 300 years): adding it to a
/// clock never overflows. Longer ones are cut to it.
pub const MAX_SECONDS: u64 = 10_000_000_000;

/// The text is not of the setting's [`Kind`]. What was expected is the kind's
/// to say; where it stood is the reader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueError;

/// A Rust type that can be a setting's value.
pub trait Value: Sized {
    /// Reads the text PgBouncer would read.
    fn parse(text: &str) -> Result<Self, ValueError>;

    /// The form `SHOW CONFIG` shows, which [`parse`](Self::parse) reads back;
    /// none for null.
    fn show(&self) -> Option<String>;

    /// Reads the text of an override, which may say that it does not.
    fn parse_override(text: &str) -> Result<Option<Self>, ValueError> {
        Self::parse(text).map(Some)
    }
}

/// Reads a number as C's `strtol` with base 0 does: blanks, a sign, then
/// decimal, `0x` hexadecimal or leading-`0` octal digits, and nothing after.
pub(super) fn c_integer(text: &str) -> Option<i64> {
    let text = text.trim_start_matches(is_c_space);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // from_str_radix would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i64::from_str_radix(digits, base).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

/// C's `isspace` in the C locale.
pub(super) fn is_c_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

macro_rules! integers {
    ($($type:ty)*) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, ValueError> {
                c_integer(text).and_then(|n| n.try_into().ok()).ok_or(ValueError)
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

integers! { i32 u16 u64 usize }

impl Value for u32 {
    fn parse(text: &str) -> Result<Self, ValueError> {
        c_integer(text)
            .and_then(|n| n.try_into().ok())
            .ok_or(ValueError)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }

    /// A negative number leaves the global value in force.
    fn parse_override(text: &str) -> Result<Option<Self>, ValueError> {
        match c_integer(text) {
            Some(n) if n < 0 => Ok(None),
            _ => Self::parse(text).map(Some),
        }
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, ValueError> {
        c_integer(text).map(|n| n != 0).ok_or(ValueError)
    }

    fn show(&self) -> Option<String> {
        Some(u8::from(*self).to_string())
    }
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let decimal = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
        let text = text.trim_start_matches(is_c_space);
        if !text.bytes().all(decimal) {
            return Err(ValueError);
        }
        let seconds: f64 = text.parse().map_err(|_| ValueError)?;
        if seconds < 0.0 {
            return Err(ValueError);
        }
        if seconds >= MAX_SECONDS as f64 {
            return Ok(Self::from_secs(MAX_SECONDS));
        }
        Ok(Self::from_micros((seconds * 1e6).round() as u64))
    }

    /// The shortest decimal. PgBouncer shows six digits at most and turns to
    /// `1e+06` there; what has more is shown in full here.
    fn show(&self) -> Option<String> {
        let text = format!("{}.{:06}", self.as_secs(), self.subsec_micros());
        Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
    }
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(text.to_owned())
    }

    fn show(&self) -> Option<String> {
        Some(self.clone())
    }
}

impl<T: Value> Value for Option<T> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        T::parse_override(text)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(Value::show)
    }
}

impl Value for Password {
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(Self::from(text))
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string_lossy().into_owned())
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError)
    }

    /// Nothing listens nowhere.
    fn parse_override(text: &str) -> Result<Option<Self>, ValueError> {
        if text.is_empty() {
            Ok(None)
        } else {
            Self::parse(text).map(Some)
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for Vec<SocketAddr> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        split_words(text)?
            .iter()
            .map(|word| SocketAddr::parse(word))
            .collect()
    }

    fn show(&self) -> Option<String> {
        let words: Vec<String> = self.iter().map(ToString::to_string).collect();
        Some(words.join(", "))
    }
}

impl Value for Vec<String> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        split_words(text)
    }

    fn show(&self) -> Option<String> {
        let words: Vec<String> = self.iter().map(|word| quote_word(word)).collect();
        Some(words.join(" "))
    }
}

impl Value for BTreeMap<String, String> {
    fn parse(text: &str) -> Result<Self, ValueError> {
        let pair = |word: String| match word.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(ValueError),
        };
        split_words(text)?.into_iter().map(pair).collect()
    }

    fn show(&self) -> Option<String> {
        let words: Vec<String> = self
            .iter()
            .map(|(name, value)| quote_word(&format!("{name}={value}")))
            .collect();
        Some(words.join(" "))
    }
}

/// Splits at blanks and commas; a single or double quote anywhere in a word
/// protects up to its fellow, which doubled stands for itself.
pub(super) fn split_words(text: &str) -> Result<Vec<String>, ValueError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_c_space(c) || c == ',' {
            words.extend(word.take());
        } else if c == '\'' || c == '"' {
            let word = word.get_or_insert_default();
            loop {
                match chars.next().ok_or(ValueError)? {
                    quote if quote == c && chars.next_if_eq(&c).is_none() => break,
                    inside => word.push(inside),
                }
            }
        } else {
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    Ok(words)
}

fn quote_word(word: &str) -> String {
    let plain = |c: char| !is_c_space(c) && !matches!(c, ',' | '\'' | '"');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "''"))
    }
}

/// Gives an enum its words: one row per variant.
macro_rules! words {
    ($($type:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        impl $type {
            /// Every word of the setting.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word of the setting.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl Value for $type {
            fn parse(text: &str) -> Result<Self, ValueError> {
                $(if text.eq_ignore_ascii_case($word) {
                    return Ok(Self::$variant);
                })+
                Err(ValueError)
            }

            fn show(&self) -> Option<String> {
                Some(self.as_str().to_owned())
            }
        }
    )+};
}

words! {
    PoolMode { Session = "session", Transaction = "transaction", Statement = "statement" }
    AuthType {
        Any = "any",
        Trust = "trust",
        Plain = "plain",
        Md5 = "md5",
        Cert = "cert",
        Hba = "hba",
        Ldap = "ldap",
        Pam = "pam",
        ScramSha256 = "scram-sha-256",
    }
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
    Replay { Never = "never", Proven = "proven", Always = "always" }
}

/// Whether a list setting holds a name, by PgBouncer's rule: names stand
/// between commas and blanks, and none that holds one can be in the list.
pub fn in_list(list: &str, name: &str) -> bool {
    list.split(|c| is_c_space(c) || c == ',')
        .any(|word| !word.is_empty() && word == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_c_notation() {
        for (text, number) in [
            ("0", 0),
            ("20", 20),
            ("-1", -1),
            ("+7", 7),
            (" 5", 5),
            ("0777", 511),
            ("0x10", 16),
            ("00", 0),
        ] {
            assert_eq!(c_integer(text), Some(number), "{text}");
        }
        for text in [
            "",
            " ",
            "-",
            "5 ",
            "5s",
            "09",
            "0x",
            "--1",
            "0x-1",
            "on",
            "99999999999999999999",
        ] {
            assert_eq!(c_integer(text), None, "{text}");
        }
    }

    #[test]
    fn a_bool_is_a_number_and_not_a_word() {
        assert_eq!(bool::parse("2"), Ok(true));
        assert_eq!(bool::parse("0"), Ok(false));
        assert_eq!(bool::parse("yes"), Err(ValueError));
    }

    #[test]
    fn times_are_seconds_with_fractions_and_no_unit() {
        assert_eq!(Duration::parse("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(Duration::parse(".5"), Ok(Duration::from_millis(500)));
        assert_eq!(Duration::parse("1e3"), Ok(Duration::from_secs(1000)));
        for text in ["", "-1", "5s", "inf", "nan", "1,5", "."] {
            assert_eq!(Duration::parse(text), Err(ValueError), "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_the_shortest_decimal() {
        let shown = |micros| Duration::from_micros(micros).show();
        assert_eq!(shown(0).as_deref(), Some("0"));
        assert_eq!(shown(500_000).as_deref(), Some("0.5"));
        assert_eq!(shown(3_600_000_000).as_deref(), Some("3600"));
        assert_eq!(shown(1).as_deref(), Some("0.000001"));
    }

    #[test]
    fn a_time_beyond_all_clocks_is_cut() {
        assert_eq!(
            Duration::parse("1e300"),
            Ok(Duration::from_secs(MAX_SECONDS))
        );
    }

    #[test]
    fn enum_words_are_read_in_any_case_and_shown_in_lower_case() {
        assert_eq!(AuthType::parse("SCRAM-sha-256"), Ok(AuthType::ScramSha256));
        assert_eq!(
            AuthType::ScramSha256.show().as_deref(),
            Some("scram-sha-256")
        );
        assert_eq!(PoolMode::parse("sesion"), Err(ValueError));
    }

    #[test]
    fn list_membership_splits_at_commas_and_blanks() {
        assert!(in_list("admin, bob", "bob"));
        assert!(in_list("admin bob", "admin"));
        assert!(!in_list("admin", "adm"));
        assert!(!in_list("", ""));
        assert!(!in_list("a b", "a b"));
    }

    #[test]
    fn quotes_protect_blanks_and_commas_in_words() {
        let words = Vec::<String>::parse("psql -c 'select 1, ''a''', \"b c\"").expect("good");
        assert_eq!(words, ["psql", "-c", "select 1, 'a'", "b c"]);
        assert_eq!(Vec::<String>::parse("a 'b"), Err(ValueError));
    }
}
