//! Requests that no node answered, as the client sees them.

use bytes::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode, Version};

use super::hygiene::PSEUDONYM;
use super::metrics::Shed;
use super::node::ConnectFailed;
use super::rate::{Limited, LimitedBy};
use super::refusal::{Notice, Refusal};
use super::retry::Progress;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Seconds after which a client may try again, when all nodes are busy or
/// none can be reached.
const RETRY_AFTER_SECONDS: &str = "1";

/// Why a request was not answered by a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is not served.
    Refused(Refusal),
    /// It could not wait for a node any longer, or at all.
    Shed(Shed),
    /// Its client, or all clients of its route, make too many.
    Limited(Limited),
    /// No node could be reached for as long as a request waits.
    NoNode,
    /// The node could not be reached, and no other may be tried.
    Connect(ConnectFailed),
    /// The connection broke before an answer came.
    Broken(Progress),
    /// The node answered, and was found sick; no other could be asked.
    Sick,
    /// What came was no HTTP answer.
    Nonsense,
    /// The deadline passed before an answer came.
    Deadline(Progress),
}

/// A failure in the words of logs, metrics and clients.
struct Words {
    status: StatusCode,
    /// Proxy error type (RFC 9209, 2.3).
    error: &'static str,
    /// What exactly happened.
    label: &'static str,
    text: &'static str,
}

impl Failure {
    /// The word for logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Failure::Deadline(_) => "deadline",
            _ => self.words().label,
        }
    }

    #[rustfmt::skip]
    fn words(self) -> Words {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let bad = StatusCode::BAD_GATEWAY;
        let (status, error, label, text) = match self {
            Failure::Refused(refusal) => {
                let Notice { status, label, text } = refusal.notice();
                let error = match refusal {
                    Refusal::Connect | Refusal::Trace => "http_request_denied",
                    _ => "http_request_error",
                };
                (status, error, label, text)
            }
            Failure::Shed(Shed::QueueFull) => (unavailable, "connection_limit_reached", "queue_full", "All nodes are busy."),
            Failure::Shed(Shed::QueueTimeout) => (unavailable, "connection_limit_reached", "queue_timeout", "All nodes are busy."),
            Failure::Shed(Shed::PoolerBusy) => (unavailable, "destination_unavailable", "pooler_busy", "The database is busy."),
            Failure::Limited(limited) => {
                let label = match limited.by {
                    LimitedBy::Client => "client_rate",
                    LimitedBy::Route => "route_rate",
                };
                (StatusCode::TOO_MANY_REQUESTS, "http_request_denied", label, "Too many requests.")
            }
            Failure::NoNode => (unavailable, "destination_unavailable", "no_node", "No node can be reached."),
            Failure::Connect(ConnectFailed::Refused) => (bad, "connection_refused", "connection_refused", "The node refuses connections."),
            Failure::Connect(ConnectFailed::Timeout) => (bad, "connection_timeout", "connection_timeout", "The node does not accept connections."),
            Failure::Connect(ConnectFailed::Unreachable) => (bad, "destination_ip_unroutable", "unreachable", "The node cannot be reached."),
            Failure::Connect(ConnectFailed::NoSocket) => (unavailable, "proxy_internal_error", "no_socket", "There is no socket left."),
            Failure::Broken(progress) => (bad, "connection_terminated", progress.label(), "The node closed the connection without an answer."),
            Failure::Sick => (bad, "destination_unavailable", Progress::AnsweredSick.label(), "The node is sick."),
            Failure::Nonsense => (bad, "http_protocol_error", "nonsense", "The node's answer is not HTTP."),
            Failure::Deadline(progress) => (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", progress.label(), "The node did not answer in time."),
        };
        Words { status, error, label, text }
    }

    /// The answer to a request of this version.
    pub(crate) fn answer(self, version: Version) -> Response<Bytes> {
        let words = self.words();
        let body = Bytes::from(format!("{} {}\n", words.status.as_u16(), words.text));
        let mut response = Response::new(body);
        *response.status_mut() = words.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        let (error, label) = (words.error, words.label);
        let proxy_status = format!("{PSEUDONYM}; error={error}; details=\"{label}\"");
        let proxy_status = HeaderValue::from_str(&proxy_status).expect("made of plain words");
        headers.insert(PROXY_STATUS, proxy_status);
        if words.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if let Failure::Limited(limited) = self {
            headers.insert(RETRY_AFTER, HeaderValue::from(limited.seconds));
        }
        if words.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        let is_framed = matches!(version, Version::HTTP_2 | Version::HTTP_3);
        if matches!(self, Failure::Refused(_)) && !is_framed {
            // Where its body ends may not be known.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_what_happened() {
        for (failure, status, proxy_status) in [
            (
                Failure::Broken(Progress::Ambiguous),
                502,
                "pgweir; error=connection_terminated; details=\"ambiguous\"",
            ),
            (
                Failure::Deadline(Progress::Ambiguous),
                504,
                "pgweir; error=http_response_timeout; details=\"ambiguous\"",
            ),
            (
                Failure::Shed(Shed::QueueFull),
                503,
                "pgweir; error=connection_limit_reached; details=\"queue_full\"",
            ),
            (
                Failure::Limited(Limited {
                    by: LimitedBy::Client,
                    seconds: 7,
                }),
                429,
                "pgweir; error=http_request_denied; details=\"client_rate\"",
            ),
            (
                Failure::Refused(Refusal::HostTwice),
                400,
                "pgweir; error=http_request_error; details=\"host_twice\"",
            ),
        ] {
            let answer = failure.answer(Version::HTTP_11);
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()["proxy-status"], proxy_status);
            assert_eq!(
                answer.headers()["content-type"],
                "text/plain; charset=utf-8"
            );
            assert!(answer.body().starts_with(status.to_string().as_bytes()));
        }
    }

    #[test]
    fn who_may_come_again_is_told_when_and_who_was_refused_is_sent_away() {
        let headers = |failure: Failure| failure.answer(Version::HTTP_11).headers().clone();
        assert_eq!(headers(Failure::NoNode)["retry-after"], "1");
        assert!(!headers(Failure::Nonsense).contains_key("retry-after"));
        assert_eq!(
            headers(Failure::Refused(Refusal::Trace))["connection"],
            "close"
        );
        assert!(headers(Failure::Refused(Refusal::Trace)).contains_key("allow"));
        assert!(!headers(Failure::NoNode).contains_key("connection"));
        let framed = Failure::Refused(Refusal::Trace).answer(Version::HTTP_2);
        assert!(!framed.headers().contains_key("connection"));
    }
}
