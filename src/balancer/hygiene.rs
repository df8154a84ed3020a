//! What of a message's headers is passed on (RFC 9110, 7.6).
//!
//! Fields of one hop stay on their hop, and so does every field that
//! `Connection` names. Who the client is, is said by this balancer alone:
//! what a client claims to have forwarded is dropped, unless it is a trusted
//! proxy.

use std::net::IpAddr;

use hyper::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, VIA,
};
use hyper::{StatusCode, Version};

use super::forwarded::Said;
use super::policy::{Accepted, Length};
use super::request_id;

/// The id of a request, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The trace a request belongs to, and what tracers note about it.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// It stays on its hop.
    HopByHop,
    /// Only this balancer says it to nodes, or has dealt with it.
    Own,
    /// A client may not have it removed by naming it in `Connection`: the node
    /// would judge the request without what it has to judge it by.
    NotRemovable,
    /// It is passed on.
    Other,
}

impl Field {
    /// By its name in lower case.
    fn of(name: &str) -> Field {
        match name {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer"
            | "transfer-encoding" | "upgrade" => Field::HopByHop,
            "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-real-ip"
            | "x-request-id"
            | "forwarded"
            | "expect"
            | "proxy-authorization" => Field::Own,
            "host" | "content-length" | "authorization" | "via" => Field::NotRemovable,
            _ => Field::Other,
        }
    }
}

/// The name in `Via` and `Proxy-Status`.
pub(crate) const PSEUDONYM: &str = "pgweir";

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The address of whoever sent it.
    pub(crate) client: IpAddr,
    /// What that one says of clients is believed.
    pub(crate) is_trusted: bool,
    /// Nodes are told in `Forwarded` as well.
    pub(crate) tells_forwarded: bool,
    /// The version it speaks.
    pub(crate) version: Version,
    /// Whether it came over TLS or QUIC.
    pub(crate) is_secure: bool,
}

/// Makes a client's request head fit for a node. One that has no Host gets
/// the node's, once there is a node. Gives back the trace it came with, if it
/// is one.
pub(crate) fn clean_request(
    headers: &mut HeaderMap,
    accepted: &Accepted,
    origin: Origin,
    id: HeaderValue,
) -> Option<HeaderValue> {
    let said = match origin.is_trusted {
        true => Said::of(headers),
        false => Said::default(),
    };
    strip(headers, |name, field| {
        field == Field::Own || (field == Field::Other && is_look_alike(name))
    });
    match accepted.length {
        Length::Unknown => drop(headers.remove(CONTENT_LENGTH)),
        // One, if it was said more than once.
        Length::Known(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
        Length::Empty => {}
    }
    join_cookies(headers);
    match &accepted.host {
        Some(host) => {
            headers.insert(HOST, host.clone());
        }
        None => {
            headers.remove(HOST);
        }
    }
    let scheme = if origin.is_secure { "https" } else { "http" };
    let host = accepted.host.as_ref();
    said.tell(headers, origin.client, scheme, host);
    if origin.tells_forwarded {
        said.tell_forwarded(headers, origin.client, scheme, host);
    }
    let trace = set_trace(headers, &id);
    headers.insert(X_REQUEST_ID, id);
    headers.append(VIA, via(origin.version));
    trace
}

/// A trace that is none is replaced, and its notes dropped with it. Gives back
/// one that stays.
fn set_trace(headers: &mut HeaderMap, id: &HeaderValue) -> Option<HeaderValue> {
    let given = headers.get(TRACEPARENT);
    let trace = request_id::trace(given, id);
    if given == trace.as_ref() && headers.get_all(TRACEPARENT).iter().count() <= 1 {
        return trace;
    }
    headers.remove(TRACESTATE);
    headers.remove(TRACEPARENT);
    if let Some(trace) = trace {
        headers.insert(TRACEPARENT, trace);
    }
    None
}

/// Makes a node's answer fit for a client. `version` is the node's.
pub(crate) fn clean_response(
    headers: &mut HeaderMap,
    status: StatusCode,
    version: Version,
    id: HeaderValue,
) {
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    // Other ways to this site are the balancer's to name.
    strip(headers, |name, _| name == ALT_SVC.as_str());
    // RFC 9112, 6.3: the encoding overrides a length; RFC 9110, 8.6: 204 has
    // no length.
    if chunked || status == StatusCode::NO_CONTENT {
        headers.remove(CONTENT_LENGTH);
    }
    headers.insert(X_REQUEST_ID, id);
    headers.append(VIA, via(version));
}

/// HTTP/2 and HTTP/3 may cut cookies into several fields; HTTP/1 has one
/// (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let crumbs = [first, second].into_iter().chain(cookies);
        let crumbs: Vec<&[u8]> = crumbs.map(HeaderValue::as_bytes).collect();
        let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        headers.insert(COOKIE, joined.expect("made of what was in fields"));
    }
}

/// Drops the fields of one hop, those that `Connection` names, and those that
/// are `unwanted`.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&str, Field) -> bool) {
    let mut dropped: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        let field = Field::of(name.as_str());
        if field == Field::HopByHop || unwanted(name.as_str(), field) {
            dropped.push(name.clone());
        }
    }
    // Most messages have nothing of it.
    if dropped.is_empty() {
        return;
    }
    let named = headers.get_all(CONNECTION).iter();
    let named = named.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    dropped.extend(named.filter(|name| Field::of(name.as_str()) != Field::NotRemovable));
    for name in dropped {
        headers.remove(name);
    }
}

/// `Transfer_Encoding` becomes `TRANSFER_ENCODING` in many a gateway, as does
/// `Transfer-Encoding`; what was dropped or set here must not come back so.
fn is_look_alike(name: &str) -> bool {
    name.contains('_') && Field::of(&name.replace('_', "-")) != Field::Other
}

/// Whether a node gets this field as the client has it.
pub(crate) fn is_passed_on(name: &HeaderName) -> bool {
    let name = name.as_str();
    Field::of(name) == Field::Other && !is_look_alike(name)
}

fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 pgweir",
        Version::HTTP_2 => "2.0 pgweir",
        Version::HTTP_3 => "3.0 pgweir",
        _ => "1.1 pgweir",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Uri;

    fn map(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn request(headers: &[(&'static str, &'static str)], host: Option<&'static str>) -> HeaderMap {
        let mut headers = map(headers);
        let accepted = Accepted {
            target: Uri::from_static("/"),
            host: host.map(HeaderValue::from_static),
            length: Length::Empty,
        };
        let origin = Origin {
            client: "::ffff:192.0.2.7".parse().expect("an address"),
            version: Version::HTTP_11,
            is_secure: false,
            is_trusted: false,
            tells_forwarded: false,
        };
        let id = HeaderValue::from_static("id-1");
        clean_request(&mut headers, &accepted, origin, id);
        headers
    }

    const ADDED: [&str; 6] = [
        "host",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];

    #[test]
    fn fields_of_one_hop_and_those_connection_names_are_dropped() {
        let headers = request(
            &[
                ("connection", "X-Secret, keep-alive"),
                ("connection", "close,,x-other"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "close"),
                ("te", "trailers"),
                ("trailer", "x"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("x-secret", "1"),
                ("x-other", "2"),
                ("expect", "100-continue"),
                ("proxy-authorization", "Basic x"),
            ],
            Some("a"),
        );
        assert_eq!(names(&headers), ADDED);
    }

    #[test]
    fn a_client_cannot_have_removed_what_the_node_judges_by() {
        let headers = request(
            &[
                (
                    "connection",
                    "Host, Content-Length, Authorization, X-Forwarded-For",
                ),
                ("authorization", "Bearer x"),
                ("content-length", "0"),
            ],
            Some("a"),
        );
        for name in ["authorization", "content-length", "host", "x-forwarded-for"] {
            assert!(headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn who_the_client_is_is_said_by_the_balancer_alone() {
        let headers = request(
            &[
                ("x-forwarded-for", "203.0.113.1"),
                ("x-forwarded-for", "203.0.113.2"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil"),
                ("x-real-ip", "203.0.113.1"),
                ("forwarded", "for=203.0.113.1"),
                ("via", "1.1 front"),
            ],
            Some("a:80"),
        );
        assert_eq!(names(&headers), ADDED);
        for (name, values) in [
            ("x-forwarded-for", &["192.0.2.7"][..]),
            ("x-forwarded-proto", &["http"]),
            ("x-forwarded-host", &["a:80"]),
            ("x-request-id", &["id-1"]),
            ("host", &["a:80"]),
            ("via", &["1.1 front", "1.1 pgweir"]),
        ] {
            let found: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(found, values, "{name}");
        }
    }

    #[test]
    fn look_alikes_of_framing_and_forwarding_fields_are_dropped_and_others_kept() {
        let headers = request(
            &[
                ("transfer_encoding", "chunked"),
                ("content_length", "5"),
                ("x_forwarded_for", "203.0.113.1"),
                ("x_request-id", "x"),
                ("authorization_", "x"),
                ("my_field", "x"),
            ],
            Some("a"),
        );
        let kept: Vec<_> = names(&headers)
            .into_iter()
            .filter(|name| name.contains('_'))
            .collect();
        assert_eq!(kept, ["authorization_", "my_field"]);
    }

    #[test]
    fn a_trace_is_passed_on_with_its_notes_and_what_is_none_is_dropped() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = request(&[("traceparent", trace), ("tracestate", "a=b")], None);
        assert_eq!(headers["traceparent"], trace);
        assert_eq!(headers["tracestate"], "a=b");
        let headers = request(&[("traceparent", "x"), ("tracestate", "a=b")], None);
        assert!(!headers.contains_key("tracestate"));
        assert!(!headers.contains_key("traceparent"), "the id is no UUID");
    }

    #[test]
    fn cookies_that_were_cut_into_fields_are_joined() {
        let rows = [("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")];
        let headers = request(&rows, Some("a"));
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn a_request_without_a_host_is_given_none() {
        let headers = request(&[("host", "")], None);
        assert!(!headers.contains_key("host"));
        assert!(!headers.contains_key("x-forwarded-host"));
    }

    #[test]
    fn an_answer_keeps_its_length_unless_its_framing_says_otherwise() {
        let clean = |rows: &[(&'static str, &'static str)], status| {
            let mut headers = map(rows);
            let id = HeaderValue::from_static("id-1");
            clean_response(&mut headers, status, Version::HTTP_11, id);
            headers
        };
        let rows = [
            ("content-length", "5"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("server", "bingo"),
        ];
        let headers = clean(&rows, StatusCode::OK);
        assert_eq!(
            names(&headers),
            ["content-length", "server", "via", "x-request-id"]
        );
        let headers = clean(&rows, StatusCode::NO_CONTENT);
        assert_eq!(names(&headers), ["server", "via", "x-request-id"]);
        let chunked = [("content-length", "5"), ("transfer-encoding", "chunked")];
        let headers = clean(&chunked, StatusCode::OK);
        assert_eq!(names(&headers), ["via", "x-request-id"]);
    }
}
