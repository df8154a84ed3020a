//! Which requests are served, and what exactly is asked of a node.
//!
//! What two parsers could read differently is refused, never repaired. The
//! target that routes are matched on is the target that is forwarded.

use std::borrow::Cow;

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, Uri, Version};

use super::refusal::Refusal;

/// Longest request target in bytes.
pub(crate) const TARGET_MAX: usize = 8 * 1024;

/// Fields of a request head at most, in any protocol; hyper has the same bound
/// for HTTP/1.
pub(crate) const FIELDS_MAX: usize = 100;

/// What HTTP/2 and HTTP/3 say in frames and may not say in fields (RFC 9113,
/// 8.2.2; RFC 9114, 4.2).
static OF_HTTP_1: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// How much body a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// None.
    Empty,
    /// This many bytes, at least one.
    Known(u64),
    /// Some or none: its end will be seen.
    Unknown,
}

/// A request that may go to a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Its target in origin form, or `*`: no scheme, no host, no dot segments.
    pub(crate) target: Uri,
    /// The host it asks for; none in HTTP/1.0 or when it is empty.
    pub(crate) host: Option<HeaderValue>,
    /// Its body.
    pub(crate) length: Length,
}

/// Decides on a request by its head.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn judge(head: &Parts, max_body: u64) -> Result<Accepted, Refusal> {
    match head.method {
        Method::CONNECT => return Err(Refusal::Connect),
        Method::TRACE => return Err(Refusal::Trace),
        _ => {}
    }
    if head.headers.len() > FIELDS_MAX {
        return Err(Refusal::FieldsTooMany);
    }
    let is_framed = matches!(head.version, Version::HTTP_2 | Version::HTTP_3);
    if is_framed && says_what_frames_say(&head.headers) {
        return Err(Refusal::FieldOfHttp1);
    }
    let named = host(head)?;
    let target = target(&head.method, &head.uri)?;
    let host = match head.uri.authority() {
        // RFC 9112, 3.2.2: the target's authority replaces the Host.
        Some(authority) => {
            Some(HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::HostInvalid)?)
        }
        None => named,
    };
    for expectation in head.headers.get_all(EXPECT) {
        if !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::Expectation);
        }
    }
    match length(&head.headers, is_framed)? {
        Length::Known(length) if length > max_body => Err(Refusal::BodyTooLarge),
        length => Ok(Accepted {
            target,
            host,
            length,
        }),
    }
}

fn says_what_frames_say(headers: &HeaderMap) -> bool {
    let trailers = |it: &HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"trailers");
    OF_HTTP_1.iter().any(|name| headers.contains_key(name))
        || !headers.get_all(TE).iter().all(trailers)
}

fn host(head: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let authority = match head.version {
        Version::HTTP_2 | Version::HTTP_3 => head.uri.authority(),
        _ => None,
    };
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(Refusal::HostTwice),
        // RFC 9113, 8.3.1: it stands for the Host, and both say the same.
        (None, None) if authority.is_some() => return Ok(None),
        (Some(host), None) if authority.is_some_and(|it| it.as_str() != host) => {
            return Err(Refusal::HostOther);
        }
        (None, None) if head.version == Version::HTTP_10 => return Ok(None),
        (None, None) => return Err(Refusal::HostMissing),
        (Some(host), None) => host,
    };
    if host.is_empty() {
        return Ok(None);
    }
    match Authority::try_from(host.as_bytes()) {
        Ok(authority) if is_host(&authority) => Ok(Some(host.clone())),
        _ => Err(Refusal::HostInvalid),
    }
}

/// A host with or without a port, and no user name.
fn is_host(authority: &Authority) -> bool {
    !authority.as_str().contains('@') && !authority.host().is_empty()
}

fn target(method: &Method, uri: &Uri) -> Result<Uri, Refusal> {
    let form = Refusal::TargetForm;
    if uri.authority().is_some_and(|it| !is_host(it)) {
        return Err(form);
    }
    match uri.scheme_str() {
        None if uri.authority().is_some() => return Err(form),
        None | Some("http" | "https") => {}
        Some(_) => return Err(form),
    }
    let (path, query) = (uri.path(), uri.query());
    if path == "*" {
        return match *method {
            Method::OPTIONS => Ok(Uri::from_static("*")),
            _ => Err(form),
        };
    }
    // The empty path of an absolute URI.
    let path = if path.is_empty() { "/" } else { path };
    let length = path.len() + query.map_or(0, |query| query.len() + 1);
    if length > TARGET_MAX {
        return Err(Refusal::TargetTooLong);
    }
    if !path.is_ascii() || !query.is_none_or(str::is_ascii) {
        return Err(Refusal::TargetNotAscii);
    }
    if !path.starts_with('/') {
        return Err(form);
    }
    let normal = normal_path(path)?;
    let target = match (&normal, query) {
        // The path may be there and empty.
        (Cow::Borrowed("/"), None) => Some(PathAndQuery::from_static("/")),
        (Cow::Borrowed(_), _) => uri.path_and_query().cloned(),
        (Cow::Owned(path), None) => PathAndQuery::try_from(path.as_str()).ok(),
        (Cow::Owned(path), Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
    };
    target.map(Uri::from).ok_or(form)
}

/// `is_framed` says that the body's end is seen in any case.
fn length(headers: &HeaderMap, is_framed: bool) -> Result<Length, Refusal> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => {}
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Ok(Length::Unknown);
        }
        _ => return Err(Refusal::TransferEncoding),
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(match is_framed {
            true => Length::Unknown,
            false => Length::Empty,
        });
    };
    // hyper has seen to that in HTTP/1, and h2 and h3 to some of it.
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    if !digits || lengths.any(|it| it != length) {
        return Err(Refusal::BodyMalformed);
    }
    let length = length.to_str().ok().and_then(|it| it.parse().ok());
    match length.ok_or(Refusal::BodyMalformed)? {
        0 => Ok(Length::Empty),
        length => Ok(Length::Known(length)),
    }
}

/// The path as every node reads it (RFC 3986, 6.2.2): percent-encodings of
/// unreserved characters decoded, dot segments removed.
fn normal_path(path: &str) -> Result<Cow<'_, str>, Refusal> {
    let decoded = decode_unreserved(path)?;
    if !has_dot_segment(&decoded) {
        return Ok(decoded);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    Ok(Cow::Owned(format!("/{}", kept.join("/"))))
}

fn has_dot_segment(path: &str) -> bool {
    path.contains("/.") && path.split('/').any(|it| it == "." || it == "..")
}

fn decode_unreserved(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(percent) = rest.find('%') {
        let (before, encoded) = rest.split_at(percent);
        decoded.push_str(before);
        let digits = encoded.get(1..3).ok_or(Refusal::TargetEncoding)?;
        // Not a sign and a digit.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Refusal::TargetEncoding);
        }
        let byte = u8::from_str_radix(digits, 16).map_err(|_| Refusal::TargetEncoding)?;
        match char::from(byte) {
            character if is_unreserved(character) => decoded.push(character),
            _ => decoded.push_str(&encoded[..3]),
        }
        rest = &encoded[3..];
    }
    decoded.push_str(rest);
    Ok(match decoded == path {
        true => Cow::Borrowed(path),
        false => Cow::Owned(decoded),
    })
}

/// RFC 3986, 2.3.
fn is_unreserved(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use proptest::prelude::*;

    const MAX_BODY: u64 = 1000;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(())
            .expect("hyper would take it")
            .into_parts()
            .0
    }

    fn verdict(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Accepted, Refusal> {
        judge(&head(method, target, headers), MAX_BODY)
    }

    #[test]
    fn a_plain_request_passes_as_it_is() {
        let accepted = verdict("GET", "/api/movie/17?a=b&c", &[("host", "bingo.test:80")]);
        assert_eq!(
            accepted,
            Ok(Accepted {
                target: Uri::from_static("/api/movie/17?a=b&c"),
                host: Some(HeaderValue::from_static("bingo.test:80")),
                length: Length::Empty,
            })
        );
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        use Refusal::*;
        let long = format!("/{}", "a".repeat(TARGET_MAX));
        let host = ("host", "a");
        type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Refusal);
        let rows: &[Row<'_>] = &[
            ("CONNECT", "a:80", &[host], Connect),
            ("TRACE", "/", &[host], Trace),
            ("GET", "/", &[], HostMissing),
            ("GET", "http://a/", &[], HostMissing),
            ("GET", "/", &[host, host], HostTwice),
            ("GET", "/", &[("host", "a b")], HostInvalid),
            ("GET", "/", &[("host", "user@a")], HostInvalid),
            ("GET", "/", &[("host", "a/b")], HostInvalid),
            ("GET", "*", &[host], TargetForm),
            ("GET", "a:80", &[host], TargetForm),
            ("GET", "ftp://a/", &[host], TargetForm),
            ("GET", "http://user@a/", &[host], TargetForm),
            ("GET", "/%ff/\u{e9}", &[host], TargetNotAscii),
            ("GET", "/?\u{e9}", &[host], TargetNotAscii),
            ("GET", "/a%", &[host], TargetEncoding),
            ("GET", "/a%2", &[host], TargetEncoding),
            ("GET", "/a%zz", &[host], TargetEncoding),
            ("GET", "/a%+1", &[host], TargetEncoding),
            ("GET", "/%%32E%%32E/", &[host], TargetEncoding),
            ("GET", &long, &[host], TargetTooLong),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "identity, chunked")],
                TransferEncoding,
            ),
            (
                "POST",
                "/",
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                TransferEncoding,
            ),
            ("POST", "/", &[host, ("expect", "200-ok")], Expectation),
            (
                "POST",
                "/",
                &[host, ("content-length", "1001")],
                BodyTooLarge,
            ),
            ("POST", "/", &[host, ("content-length", "x")], BodyMalformed),
        ];
        for (method, target, headers, refusal) in rows {
            assert_eq!(
                verdict(method, target, headers),
                Err(*refusal),
                "{method} {target:.40}"
            );
        }
    }

    fn framed(target: &str, headers: &[(&str, &str)]) -> Result<Accepted, Refusal> {
        let verdicts = [Version::HTTP_2, Version::HTTP_3].map(|version| {
            let mut head = head("POST", target, headers);
            head.version = version;
            judge(&head, MAX_BODY)
        });
        assert_eq!(verdicts[0], verdicts[1]);
        verdicts.into_iter().next().expect("two")
    }

    #[test]
    fn the_authority_of_http_2_and_3_is_the_host() {
        let accepted = framed("https://a:8443/x", &[]).expect("fine");
        assert_eq!(accepted.host.expect("there is one"), "a:8443");
        assert_eq!(accepted.target, Uri::from_static("/x"));
        assert_eq!(accepted.length, Length::Unknown);
        let accepted = framed("https://a/", &[("host", "a"), ("content-length", "7")]);
        assert_eq!(accepted.expect("fine").length, Length::Known(7));
        let accepted = framed("/", &[("host", "a"), ("te", "trailers")]).expect("fine");
        assert_eq!(accepted.host.expect("there is one"), "a");
    }

    #[test]
    fn what_http_2_and_3_leave_to_frames_is_refused_in_fields() {
        use Refusal::*;
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Refusal);
        let rows: [Row<'_>; 12] = [
            (
                "https://a/",
                &[("transfer-encoding", "chunked")],
                FieldOfHttp1,
            ),
            ("https://a/", &[("connection", "close")], FieldOfHttp1),
            ("https://a/", &[("keep-alive", "timeout=5")], FieldOfHttp1),
            ("https://a/", &[("proxy-connection", "x")], FieldOfHttp1),
            ("https://a/", &[("upgrade", "websocket")], FieldOfHttp1),
            ("https://a/", &[("te", "gzip")], FieldOfHttp1),
            ("https://a/", &[("host", "b")], HostOther),
            ("https://a/", &[("host", "a"), ("host", "a")], HostTwice),
            ("https://user@a/", &[], TargetForm),
            ("/", &[], HostMissing),
            ("https://a/", &[("content-length", "+2")], BodyMalformed),
            (
                "https://a/",
                &[("content-length", "2"), ("content-length", "3")],
                BodyMalformed,
            ),
        ];
        for (target, headers, refusal) in rows {
            assert_eq!(framed(target, headers), Err(refusal), "{headers:?}");
        }
    }

    #[test]
    fn a_head_of_too_many_fields_is_refused() {
        let many = vec![("x", "y"); FIELDS_MAX];
        let verdict = verdict("GET", "/", &[&many[..], &[("host", "a")]].concat());
        assert_eq!(verdict, Err(Refusal::FieldsTooMany));
    }

    #[test]
    fn http_1_0_needs_no_host() {
        let mut head = head("GET", "/", &[]);
        head.version = Version::HTTP_10;
        let accepted = judge(&head, MAX_BODY).expect("as of old");
        assert_eq!(accepted.host, None);
    }

    #[test]
    fn the_authority_of_an_absolute_target_replaces_the_host() {
        for (uri, host, target) in [
            ("http://b:81/x?y", "b:81", "/x?y"),
            ("https://b", "b", "/"),
            ("http://b?y", "b", "/?y"),
            ("http://b#y", "b", "/"),
            ("http://b:#/y", "b:", "/"),
        ] {
            let accepted = verdict("GET", uri, &[("host", "a")]).expect(uri);
            assert_eq!(accepted.host.expect("there is one"), host);
            assert_eq!(accepted.target.to_string(), target);
        }
    }

    #[test]
    fn bodies_are_of_known_length_or_chunked() {
        for (headers, length) in [
            (&[][..], Length::Empty),
            (&[("content-length", "0")], Length::Empty),
            (&[("content-length", "1000")], Length::Known(1000)),
            (&[("transfer-encoding", "Chunked")], Length::Unknown),
        ] {
            let headers = [&[("host", "a")], headers].concat();
            assert_eq!(verdict("POST", "/", &headers).expect("fine").length, length);
        }
    }

    #[test]
    fn the_server_itself_may_be_asked_for_its_options() {
        let accepted = verdict("OPTIONS", "*", &[("host", "a")]).expect("asterisk form");
        assert_eq!(accepted.target.to_string(), "*");
    }

    #[test]
    fn dot_segments_and_needless_encodings_are_resolved() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/../b", "/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/../../etc", "/etc"),
            ("/a/%2e%2E/b", "/b"),
            ("/api/movi%65/1", "/api/movie/1"),
            ("/a%2Fb", "/a%2Fb"),
            ("/.hidden/..x/x..", "/.hidden/..x/x.."),
            ("/a//b/", "/a//b/"),
        ] {
            assert_eq!(normal_path(path).as_deref(), Ok(normal), "{path}");
        }
        let accepted = verdict("GET", "/a/../b?c=/../d", &[("host", "a")]).expect("fine");
        assert_eq!(accepted.target.to_string(), "/b?c=/../d");
    }

    proptest! {
        #[test]
        fn a_normal_path_has_no_dot_segments_and_stays_as_it_is(path in "/[a-c./%2eE]{0,30}") {
            let Ok(normal) = normal_path(&path) else {
                return Ok(());
            };
            prop_assert!(normal.starts_with('/'));
            prop_assert!(!has_dot_segment(&normal));
            let again = normal_path(&normal);
            prop_assert_eq!(again.as_deref(), Ok(&*normal));
        }

        #[test]
        fn whatever_uri_hyper_takes_is_judged_without_panic(target in "[!-~\u{e9}]{1,40}") {
            if let Ok(uri) = target.parse::<Uri>() {
                let mut head = head("GET", "/", &[("host", "a")]);
                head.uri = uri;
                if let Ok(accepted) = judge(&head, MAX_BODY) {
                    prop_assert!(accepted.target.path().starts_with('/'));
                    prop_assert!(accepted.target.authority().is_none());
                }
            }
        }
    }
}
