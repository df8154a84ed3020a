//! What an answer says to caches in front of its nodes alone, in
//! `CDN-Cache-Control` (RFC 9213): a dictionary (RFC 8941, 3.2). One that is
//! none is as if it were not there.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Longest field that is read, in bytes.
const FIELD_MAX: usize = 4096;

/// Its directives and their values, as they are written; none if there is no
/// dictionary, or nothing in it.
pub(super) fn directives(headers: &HeaderMap) -> Option<Vec<(String, String)>> {
    let lines = headers.get_all(CDN_CACHE_CONTROL).iter();
    let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return None;
    }
    let field = lines.join(&b", "[..]);
    let mut rest = Rest(field.get(..FIELD_MAX.min(field.len()))?);
    let found = rest.dictionary();
    found.filter(|it| !it.is_empty() && field.len() <= FIELD_MAX)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// All of it.
    fn dictionary(&mut self) -> Option<Vec<(String, String)>> {
        let mut members: Vec<(String, String)> = Vec::new();
        self.skip(|it| it == b' ');
        while !self.0.is_empty() {
            let key = self.key()?;
            let value = match self.takes(b'=') {
                true => self.value()?,
                false => b"?1",
            };
            self.parameters()?;
            // The last one of a name counts.
            members.retain(|(name, _)| *name != key);
            members.push((key, String::from_utf8_lossy(value).into_owned()));
            self.skip(is_blank);
            if self.0.is_empty() {
                break;
            }
            self.expect(b',')?;
            self.skip(is_blank);
            // Nothing comes behind the last comma.
            self.0.first()?;
        }
        Some(members)
    }

    fn key(&mut self) -> Option<String> {
        let first = *self.0.first()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        let key = self.skip(|it| {
            it.is_ascii_lowercase()
                || it.is_ascii_digit()
                || matches!(it, b'_' | b'-' | b'.' | b'*')
        });
        Some(String::from_utf8_lossy(key).into_owned())
    }

    /// An item, or a list of items with their parameters.
    fn value(&mut self) -> Option<&'a [u8]> {
        let all = self.0;
        if !self.takes(b'(') {
            return self.item();
        }
        loop {
            self.skip(|it| it == b' ');
            if self.takes(b')') {
                return Some(&all[..all.len() - self.0.len()]);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.0.first()?, b' ' | b')') {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.takes(b';') {
            self.skip(|it| it == b' ');
            self.key()?;
            if self.takes(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item(&mut self) -> Option<&'a [u8]> {
        let all = self.0;
        match *all.first()? {
            b'-' | b'0'..=b'9' => self.number()?,
            b'"' => self.string()?,
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => drop(self.skip(is_of_token)),
            b'?' => {
                self.0 = &all[1..];
                let is_boolean = self.takes(b'0') || self.takes(b'1');
                is_boolean.then_some(())?;
            }
            b':' => {
                self.0 = &all[1..];
                self.skip(|it| it.is_ascii_alphanumeric() || matches!(it, b'+' | b'/' | b'='));
                self.expect(b':')?;
            }
            _ => return None,
        }
        Some(&all[..all.len() - self.0.len()])
    }

    /// At most 15 digits, or 12 and 3 behind a point.
    fn number(&mut self) -> Option<()> {
        self.takes(b'-');
        let whole = self.skip(|it| it.is_ascii_digit()).len();
        let fits = match self.takes(b'.') {
            true => {
                let part = self.skip(|it| it.is_ascii_digit()).len();
                (1..=12).contains(&whole) && (1..=3).contains(&part)
            }
            false => (1..=15).contains(&whole),
        };
        fits.then_some(())
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.skip(|it| matches!(it, b' '..=b'~') && it != b'"' && it != b'\\');
            if self.takes(b'"') {
                return Some(());
            }
            self.expect(b'\\')?;
            let is_escaped = self.takes(b'"') || self.takes(b'\\');
            is_escaped.then_some(())?;
        }
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.0.strip_prefix(&[byte]);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.takes(byte).then_some(())
    }

    fn skip(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|it| !wanted(*it));
        let (skipped, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        skipped
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Option<Vec<(String, String)>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
            headers.append(CDN_CACHE_CONTROL, line);
        }
        directives(&headers)
    }

    #[test]
    fn a_dictionary_is_read_with_its_values_as_they_are_written() {
        for (lines, expected) in [
            (&["max-age=60"][..], &[("max-age", "60")][..]),
            (
                &["no-store, a=\"x, \\\"y\\\"\";p=1;q ,\tb=(1 \"2\";c tok)"],
                &[
                    ("no-store", "?1"),
                    ("a", "\"x, \\\"y\\\"\""),
                    ("b", "(1 \"2\";c tok)"),
                ],
            ),
            (
                &["a=?0", "b=:YQ==:, a=-1.5"],
                &[("b", ":YQ==:"), ("a", "-1.5")],
            ),
        ] {
            let expected = expected.iter();
            let expected = expected.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            assert_eq!(read(lines), Some(expected.collect()), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_dictionary_is_not_there() {
        for line in [
            "",
            " ",
            "max-age=60,",
            "max-age=60, &&&",
            "max-age =60",
            "max-age= 60",
            "Max-Age=60",
            "max-age=60a",
            "max-age=1234567890123456",
            "max-age=1.",
            "a=\"x",
            "a=\"\\x\"",
            "a=?2",
            "a=(1",
            "a=(1,2)",
            "a=:YQ",
            "a;=1",
            "a b",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[&"a,".repeat(FIELD_MAX)]), None);
    }

    proptest! {
        #[test]
        fn no_field_is_too_odd(line in "[ -~]{0,60}") {
            read(&[&line]);
        }
    }
}
