//! Why a request is answered by the balancer itself and never reaches a node.

use hyper::StatusCode;

/// What is wrong with a request, or with what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CONNECT: this is no forward proxy.
    Connect,
    /// TRACE would show a client what only nodes are told.
    Trace,
    /// No Host in HTTP/1.1 (RFC 9112, 3.2).
    HostMissing,
    /// More than one Host.
    HostTwice,
    /// A Host that is no host and port.
    HostInvalid,
    /// A Host that is not the `:authority` beside it (RFC 9113, 8.3.1).
    HostOther,
    /// Another host than the one that TLS was begun for (RFC 9110, 15.5.20).
    Misdirected,
    /// More fields than [`super::policy::FIELDS_MAX`].
    FieldsTooMany,
    /// A field that only HTTP/1 has, in HTTP/2 or HTTP/3.
    FieldOfHttp1,
    /// A target that is neither a path nor an http URI (nor `*` for OPTIONS).
    TargetForm,
    /// Bytes in the target that belong percent-encoded.
    TargetNotAscii,
    /// A `%` in the path that encodes nothing (RFC 3986, 2.1): what is decoded
    /// around it could become an encoding for the node.
    TargetEncoding,
    /// A target longer than [`super::policy::TARGET_MAX`].
    TargetTooLong,
    /// A Transfer-Encoding that is not exactly `chunked`.
    TransferEncoding,
    /// Content-Length and Transfer-Encoding at once.
    LengthAndEncoding,
    /// Lines of the head that end without a carriage return.
    BareLineFeed,
    /// An Expect other than `100-continue`.
    Expectation,
    /// A body larger than `max_body`.
    BodyTooLarge,
    /// A body that does not keep to its framing.
    BodyMalformed,
    /// A body that stopped coming.
    BodyTimeout,
    /// The client left before its body was complete.
    BodyAborted,
}

/// A refusal as the client, the log and the metrics see it.
pub(crate) struct Notice {
    /// Status of the answer.
    pub(crate) status: StatusCode,
    /// The word for logs, metrics and `Proxy-Status`.
    pub(crate) label: &'static str,
    /// A sentence for the body of the answer.
    pub(crate) text: &'static str,
}

impl Refusal {
    /// All refusals, in the order of their metric rows.
    pub(crate) const ALL: [Refusal; 21] = [
        Refusal::Connect,
        Refusal::Trace,
        Refusal::HostMissing,
        Refusal::HostTwice,
        Refusal::HostInvalid,
        Refusal::HostOther,
        Refusal::Misdirected,
        Refusal::FieldsTooMany,
        Refusal::FieldOfHttp1,
        Refusal::TargetForm,
        Refusal::TargetNotAscii,
        Refusal::TargetEncoding,
        Refusal::TargetTooLong,
        Refusal::TransferEncoding,
        Refusal::LengthAndEncoding,
        Refusal::BareLineFeed,
        Refusal::Expectation,
        Refusal::BodyTooLarge,
        Refusal::BodyMalformed,
        Refusal::BodyTimeout,
        Refusal::BodyAborted,
    ];

    /// What to say.
    pub(crate) fn notice(self) -> Notice {
        let bad = StatusCode::BAD_REQUEST;
        #[rustfmt::skip]
        let (status, label, text) = match self {
            Refusal::Connect => (StatusCode::NOT_IMPLEMENTED, "connect", "CONNECT is not served here."),
            Refusal::Trace => (StatusCode::METHOD_NOT_ALLOWED, "trace", "TRACE is not served here."),
            Refusal::HostMissing => (bad, "host_missing", "The request has no Host."),
            Refusal::HostTwice => (bad, "host_twice", "The request has more than one Host."),
            Refusal::HostInvalid => (bad, "host_invalid", "The Host is not a host name."),
            Refusal::HostOther => (bad, "host_other", "The Host is not the authority that is asked."),
            Refusal::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected", "This host is not served on this connection."),
            Refusal::FieldsTooMany => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "fields_too_many", "The request has too many header fields."),
            Refusal::FieldOfHttp1 => (bad, "field_of_http1", "The request has a header field that only HTTP/1 knows."),
            Refusal::TargetForm => (bad, "target_form", "The request target is not a path."),
            Refusal::TargetNotAscii => (bad, "target_not_ascii", "The request target has to be percent-encoded."),
            Refusal::TargetEncoding => (bad, "target_encoding", "A percent sign in the path is not followed by two hexadecimal digits."),
            Refusal::TargetTooLong => (StatusCode::URI_TOO_LONG, "target_too_long", "The request target is too long."),
            Refusal::TransferEncoding => (bad, "transfer_encoding", "The only Transfer-Encoding served is chunked."),
            Refusal::LengthAndEncoding => (bad, "length_and_encoding", "The request has both a Content-Length and a Transfer-Encoding."),
            Refusal::BareLineFeed => (bad, "bare_line_feed", "Lines of the request have to end with CR LF."),
            Refusal::Expectation => (StatusCode::EXPECTATION_FAILED, "expectation", "The only expectation met is 100-continue."),
            Refusal::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request body is too large."),
            Refusal::BodyMalformed => (bad, "body_malformed", "The request body does not keep to its framing."),
            Refusal::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout", "The request body did not come in time."),
            Refusal::BodyAborted => (bad, "body_aborted", "The request body is incomplete."),
        };
        Notice {
            status,
            label,
            text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_refusal_is_the_clients_doing_or_not_implemented_and_has_its_own_label() {
        let mut labels = HashSet::new();
        for refusal in Refusal::ALL {
            let Notice {
                status,
                label,
                text,
            } = refusal.notice();
            assert!(
                status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED,
                "{label}"
            );
            assert!(labels.insert(label), "{label}");
            assert!(text.is_ascii() && text.ends_with('.'), "{text}");
        }
    }
}
