//! Search filters: their text (RFC 4515) and their bytes (RFC 4511, 4.5.1.7).

use super::message::put;

/// How deep filters may be nested.
const MAX_DEPTH: usize = 16;

const AND: u8 = 0xa0;
const OR: u8 = 0xa1;
const NOT: u8 = 0xa2;
const EQUAL: u8 = 0xa3;
const SUBSTRINGS: u8 = 0xa4;
const AT_LEAST: u8 = 0xa5;
const AT_MOST: u8 = 0xa6;
const PRESENT: u8 = 0x87;
const LIKE: u8 = 0xa8;
const BY_RULE: u8 = 0xa9;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// A filter as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<u8>);

impl Filter {
    /// Reads `(...)`; none if that is not a filter.
    pub fn parse(text: &str) -> Option<Filter> {
        let mut out = Vec::new();
        let rest = filter(text, MAX_DEPTH, &mut out)?;
        rest.trim().is_empty().then_some(Filter(out))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One filter in parentheses; answers what follows it.
fn filter<'a>(text: &'a str, depth: usize, out: &mut Vec<u8>) -> Option<&'a str> {
    let depth = depth.checked_sub(1)?;
    let text = text.trim_start().strip_prefix('(')?;
    let kind = match text.as_bytes().first()? {
        b'&' => AND,
        b'|' => OR,
        b'!' => NOT,
        _ => {
            let (one, rest) = text.split_once(')')?;
            item(one, out)?;
            return Some(rest);
        }
    };
    let (mut rest, mut parts) = (&text[1..], Vec::new());
    let mut count = 0;
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix(')') {
            put(out, kind, &parts);
            return (kind != NOT || count == 1).then_some(rest);
        }
        rest = filter(rest, depth, &mut parts)?;
        count += 1;
    }
}

/// A comparison.
fn item(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (left, value) = text.split_once('=')?;
    let (kind, attribute) = match left.as_bytes().last()? {
        b'>' => (AT_LEAST, &left[..left.len() - 1]),
        b'<' => (AT_MOST, &left[..left.len() - 1]),
        b'~' => (LIKE, &left[..left.len() - 1]),
        b':' => return by_rule(&left[..left.len() - 1], value, out),
        _ => (EQUAL, left),
    };
    let attribute = name(attribute)?;
    if kind == EQUAL && value == "*" {
        put(out, PRESENT, attribute);
        return Some(());
    }
    let mut body = Vec::new();
    put(&mut body, OCTETS, attribute);
    if kind != EQUAL || !value.contains('*') {
        put(&mut body, OCTETS, &unescaped(value)?);
        put(out, kind, &body);
        return Some(());
    }
    let parts: Vec<&str> = value.split('*').collect();
    let mut pieces = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        // What it begins with, what it ends with, and what is between.
        let tag = match at {
            0 => 0x80,
            at if at + 1 == parts.len() => 0x82,
            _ => 0x81,
        };
        if !part.is_empty() {
            put(&mut pieces, tag, &unescaped(part)?);
        }
    }
    put(&mut body, SEQUENCE, &pieces);
    put(out, SUBSTRINGS, &body);
    (!pieces.is_empty()).then_some(())
}

/// `ATTRIBUTE[:dn][:RULE]:=VALUE`, without the last colon.
fn by_rule(left: &str, value: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut words = left.split(':');
    let attribute = words.next()?;
    let mut body = Vec::new();
    let (mut of_names, mut rule) = (false, None);
    for word in words {
        match word {
            "dn" if !of_names && rule.is_none() => of_names = true,
            word if rule.is_none() => rule = Some(name(word)?),
            _ => return None,
        }
    }
    if let Some(rule) = rule {
        put(&mut body, 0x81, rule);
    }
    if !attribute.is_empty() {
        put(&mut body, 0x82, name(attribute)?);
    } else if rule.is_none() {
        return None;
    }
    put(&mut body, 0x83, &unescaped(value)?);
    if of_names {
        put(&mut body, 0x84, &[0xff]);
    }
    put(out, BY_RULE, &body);
    Some(())
}

/// The name of an attribute, with options, or of a rule.
fn name(text: &str) -> Option<&[u8]> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.;_".contains(&byte);
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(is_good)).then_some(text.as_bytes())
}

/// A value with `\XX` for bytes.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    let is_plain = !text.contains('(');
    is_plain.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let parsed = Filter::parse(text);
        parsed
            .unwrap_or_else(|| panic!("{text}"))
            .as_bytes()
            .to_vec()
    }

    #[test]
    fn comparisons() {
        assert_eq!(bytes("(uid=ann)"), b"\xa3\x0a\x04\x03uid\x04\x03ann");
        assert_eq!(bytes("(a>=1)"), b"\xa5\x06\x04\x01a\x04\x011");
        assert_eq!(bytes("(a<=1)"), b"\xa6\x06\x04\x01a\x04\x011");
        assert_eq!(bytes("(a~=1)"), b"\xa8\x06\x04\x01a\x04\x011");
        assert_eq!(bytes("(a=*)"), b"\x87\x01a");
        assert_eq!(bytes("(a=\\2a\\28)"), b"\xa3\x07\x04\x01a\x04\x02*(");
    }

    #[test]
    fn parts_of_values() {
        assert_eq!(bytes("(a=x*)"), b"\xa4\x08\x04\x01a\x30\x03\x80\x01x");
        let all = b"\xa4\x0e\x04\x01a\x30\x09\x80\x01x\x81\x01y\x82\x01z";
        assert_eq!(bytes("(a=x*y*z)"), all);
    }

    #[test]
    fn several_together() {
        let one = bytes("(a=1)");
        let both = [&b"\xa0\x10"[..], &one, &one].concat();
        assert_eq!(bytes("(&(a=1) (a=1))"), both);
        assert_eq!(bytes("(!(a=1))"), [&b"\xa2\x08"[..], &one].concat());
        assert_eq!(bytes("(|(a=1))"), [&b"\xa1\x08"[..], &one].concat());
    }

    #[test]
    fn rules() {
        let found = bytes("(memberOf:1.2.3:=cn=x)");
        assert_eq!(found, b"\xa9\x17\x81\x051.2.3\x82\x08memberOf\x83\x04cn=x");
        assert_eq!(
            bytes("(o:dn:=x)"),
            b"\xa9\x09\x82\x01o\x83\x01x\x84\x01\xff"
        );
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let deep = "(!".repeat(20) + "(a=1)" + &")".repeat(20);
        for text in [
            "",
            "a=1",
            "(a=1",
            "(a=1))",
            "(=1)",
            "(a)",
            "(!(a=1)(b=1))",
            "(a=\\zz)",
            "(a=(b)",
            "(a b=1)",
            "(a=**)",
            "(:=x)",
            &deep,
        ] {
            assert_eq!(Filter::parse(text), None, "{text}");
        }
    }
}
