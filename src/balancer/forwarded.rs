//! What is said of a request's way to this balancer: by the proxies before it,
//! where they are trusted, and by it to nodes (`X-Forwarded-*`, and `Forwarded`
//! of RFC 7239).

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;

use crate::config::Network;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How this balancer is called in `by`: no address, which is nobody's business
/// (RFC 7239, 6.3).
const OURSELVES: &str = "_pgweir";

/// The client of a request that a trusted proxy sent: the last address in
/// `X-Forwarded-For` that is not a trusted proxy's, or the first one if all
/// are. What stands before something that is no address is not believed. The
/// port is 0 if none is said.
pub(crate) fn client(headers: &HeaderMap, proxy: SocketAddr, trusted: &[Network]) -> SocketAddr {
    let lists = headers.get_all(X_FORWARDED_FOR).iter();
    // From the last field's end to the first one's beginning.
    let mut fields: Vec<&[u8]> = lists.map(HeaderValue::as_bytes).collect();
    fields.reverse();
    let mut client = proxy;
    for said in fields
        .into_iter()
        .flat_map(|list| list.rsplit(|it| *it == b','))
    {
        match address(said) {
            Some(address) => client = address,
            None => break,
        }
        if !trusted.iter().any(|it| it.holds(client.ip())) {
            break;
        }
    }
    client
}

/// An address, with or without a port.
fn address(said: &[u8]) -> Option<SocketAddr> {
    let said = str::from_utf8(said.trim_ascii()).ok()?;
    let bare = said.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address: Result<IpAddr, _> = bare.unwrap_or(said).parse();
    match address {
        Ok(address) => Some(SocketAddr::new(address.to_canonical(), 0)),
        Err(_) => said.parse().ok(),
    }
}

/// What the proxies before said, as far as it is passed on.
#[derive(Debug, Default)]
pub(crate) struct Said {
    addresses: Option<Vec<u8>>,
    scheme: Option<HeaderValue>,
    host: Option<HeaderValue>,
    forwarded: Option<Vec<u8>>,
}

impl Said {
    /// What a trusted proxy's request says.
    pub(crate) fn of(headers: &HeaderMap) -> Said {
        let only = |name: &HeaderName| {
            let mut all = headers.get_all(name).iter();
            all.next().filter(|_| all.next().is_none())
        };
        let is_scheme = |it: &&HeaderValue| {
            let it = it.as_bytes();
            it.eq_ignore_ascii_case(b"https") || it.eq_ignore_ascii_case(b"http")
        };
        let is_host = |it: &&HeaderValue| {
            Authority::try_from(it.as_bytes()).is_ok_and(|it| !it.as_str().contains('@'))
        };
        Said {
            addresses: joined(headers, &X_FORWARDED_FOR),
            scheme: only(&X_FORWARDED_PROTO).filter(is_scheme).cloned(),
            host: only(&X_FORWARDED_HOST).filter(is_host).cloned(),
            forwarded: joined(headers, &FORWARDED).filter(|it| has_whole_quotes(it)),
        }
    }

    /// Tells a node in `X-Forwarded-*` what was said, and who said it: the
    /// address `from`, over `scheme`, about `host`.
    pub(crate) fn tell(
        &self,
        headers: &mut HeaderMap,
        from: IpAddr,
        scheme: &'static str,
        host: Option<&HeaderValue>,
    ) {
        // A client of a dual-stack listener is an IPv4 client all the same.
        let from = from.to_canonical().to_string();
        headers.insert(X_FORWARDED_FOR, behind(self.addresses.as_deref(), &from));
        let scheme = HeaderValue::from_static(scheme);
        let said = self.scheme.clone();
        headers.insert(X_FORWARDED_PROTO, said.unwrap_or(scheme));
        if let Some(host) = self.host.as_ref().or(host) {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }

    /// The same in `Forwarded`.
    pub(crate) fn tell_forwarded(
        &self,
        headers: &mut HeaderMap,
        from: IpAddr,
        scheme: &'static str,
        host: Option<&HeaderValue>,
    ) {
        let from = match from.to_canonical() {
            IpAddr::V4(address) => address.to_string(),
            // It has to be quoted for its colons (RFC 7239, 6).
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let host = host.and_then(|it| it.to_str().ok()).map(word);
        let host = host.map_or_else(String::new, |it| format!(";host={it}"));
        let element = format!("for={from};by={OURSELVES};proto={scheme}{host}");
        headers.insert(FORWARDED, behind(self.forwarded.as_deref(), &element));
    }
}

/// All fields of a name as one list; none if there is none, or an empty one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let fields: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(|it| it.as_bytes().trim_ascii())
        .filter(|it| !it.is_empty())
        .collect();
    (!fields.is_empty()).then(|| fields.join(&b", "[..]))
}

/// A list with one more element.
fn behind(list: Option<&[u8]>, element: &str) -> HeaderValue {
    let value = match list {
        None => HeaderValue::from_str(element),
        Some(list) => HeaderValue::from_bytes(&[list, b", ", element.as_bytes()].concat()),
    };
    value.expect("made of what was in fields, and of printable ASCII")
}

/// Whether what is put behind it is not in a quote of it.
fn has_whole_quotes(list: &[u8]) -> bool {
    let (mut is_inside, mut is_escaped) = (false, false);
    for byte in list {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_inside,
            b'"' => is_inside = !is_inside,
            _ => {}
        }
    }
    !is_inside
}

/// A token, or what stands for it in quotes (RFC 9110, 5.6).
fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Value;
    use proptest::prelude::*;

    fn headers(rows: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxys() {
        let trusted = Vec::parse("10.0.0.0/8, 2001:db8:1::/48").expect("networks");
        let proxy: SocketAddr = "10.0.0.1:5".parse().expect("an address");
        for (fields, expected) in [
            (&[][..], "10.0.0.1:5"),
            (&["192.0.2.1"], "192.0.2.1:0"),
            (&["203.0.113.9, 192.0.2.1, 10.1.1.1"], "192.0.2.1:0"),
            (&["203.0.113.9", "192.0.2.1 ,10.1.1.1"], "192.0.2.1:0"),
            (&["10.2.2.2,10.1.1.1"], "10.2.2.2:0"),
            (&["192.0.2.1:99, 10.1.1.1"], "192.0.2.1:99"),
            (&["[2001:db8::7]:99"], "[2001:db8::7]:99"),
            (&["[2001:db8::7], 2001:db8:1::1"], "[2001:db8::7]:0"),
            (&["::ffff:192.0.2.1"], "192.0.2.1:0"),
            (&["192.0.2.1, unknown"], "10.0.0.1:5"),
            (&["192.0.2.1, unknown, 10.1.1.1"], "10.1.1.1:0"),
            (&["192.0.2.1,"], "10.0.0.1:5"),
        ] {
            let rows: Vec<_> = fields.iter().map(|it| ("x-forwarded-for", *it)).collect();
            let found = client(&headers(&rows), proxy, &trusted);
            assert_eq!(found.to_string(), expected, "{fields:?}");
        }
    }

    fn told(said: &Said, from: &str, host: &'static str) -> HeaderMap {
        let mut told = HeaderMap::new();
        let host = HeaderValue::from_static(host);
        said.tell(&mut told, address(from), "https", Some(&host));
        said.tell_forwarded(&mut told, address(from), "https", Some(&host));
        told
    }

    #[test]
    fn what_a_trusted_proxy_said_is_kept_and_it_is_named_behind() {
        let said = Said::of(&headers(&[
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example"),
            ("forwarded", "for=192.0.2.1;by=\"_a,b\""),
        ]));
        let told = told(&said, "10.0.0.1", "inside");
        assert_eq!(told["x-forwarded-for"], "203.0.113.9, 192.0.2.1, 10.0.0.1");
        assert_eq!(told["x-forwarded-proto"], "http");
        assert_eq!(told["x-forwarded-host"], "shop.example");
        assert_eq!(
            told["forwarded"],
            "for=192.0.2.1;by=\"_a,b\", for=10.0.0.1;by=_pgweir;proto=https;host=inside"
        );
    }

    #[test]
    fn what_makes_no_sense_is_not_kept() {
        let said = Said::of(&headers(&[
            ("x-forwarded-for", " "),
            ("x-forwarded-proto", "ftp"),
            ("x-forwarded-host", "user@a"),
            ("forwarded", "for=\"open"),
        ]));
        let told = told(&said, "10.0.0.1", "a");
        assert_eq!(told["x-forwarded-for"], "10.0.0.1");
        assert_eq!(told["x-forwarded-proto"], "https");
        assert_eq!(told["x-forwarded-host"], "a");
        assert_eq!(
            told["forwarded"],
            "for=10.0.0.1;by=_pgweir;proto=https;host=a"
        );
        let twice = headers(&[
            ("x-forwarded-proto", "http"),
            ("x-forwarded-proto", "https"),
        ]);
        assert!(Said::of(&twice).scheme.is_none());
    }

    #[test]
    fn what_is_no_token_is_quoted() {
        let told = told(&Said::default(), "2001:db8::1", "a:8443");
        assert_eq!(
            told["forwarded"],
            "for=\"[2001:db8::1]\";by=_pgweir;proto=https;host=\"a:8443\""
        );
        assert_eq!(word("a\"b\\"), "\"a\\\"b\\\\\"");
        assert_eq!(word(""), "\"\"");
    }

    proptest! {
        #[test]
        fn an_untrusted_address_is_believed_whatever_stands_before(
            before in "[ -~]{0,40}", spare: u8,
        ) {
            let trusted = Vec::parse("10.0.0.0/8").expect("networks");
            let proxy = "10.0.0.1:5".parse().expect("an address");
            let said = format!("{before},192.0.2.{spare}, 10.9.9.9");
            let found = client(&headers(&[("x-forwarded-for", &said)]), proxy, &trusted);
            prop_assert_eq!(found.to_string(), format!("192.0.2.{spare}:0"));
        }

        #[test]
        fn ours_is_never_within_what_was_said(list in "[\"\\\\;=a,]{0,12}") {
            let said = Said::of(&headers(&[("forwarded", &list)]));
            let told = told(&said, "10.0.0.1", "a");
            let text = told["forwarded"].to_str().expect("text");
            let ours = text.rfind("for=10.0.0.1").expect("it is there");
            prop_assert!(has_whole_quotes(&text.as_bytes()[..ours]));
        }
    }
}
