//! What can be wrong with a SCRAM message.

use std::fmt;

/// What is wrong with a peer's SCRAM message. For the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScramFault {
    /// Over [`MAX_SASL_BYTES`](super::MAX_SASL_BYTES).
    TooLong,
    /// Holds a zero byte.
    ZeroByte,
    /// This attribute should stand here.
    AttributeExpected(char),
    /// What should be an extension is none.
    BadExtension,
    /// The message begins with none of the flags `n`, `y`, `p`.
    BadFlag,
    /// Flag `p`: the client insists on channel binding, which is not offered.
    ChannelBindingRequired,
    /// Flag `p` with something else than the server's certificate.
    BindingType,
    /// The flag is for the other mechanism.
    BindingOfOtherMechanism,
    /// Flag `y`: the client has not seen that channel binding is offered.
    BindingNotSeen,
    /// The client wants to act as somebody else.
    AuthorizationIdentity,
    /// `m=`: an extension that must be understood.
    MandatoryExtension,
    /// Empty, over [`MAX_NONCE_BYTES`](super::MAX_NONCE_BYTES), or not printable.
    BadNonce,
    /// Not the flag that was sent first, or not our certificate.
    ChannelBindingMismatch,
    /// Not the nonce of this exchange.
    NonceMismatch,
    /// Not 32 bytes in base64.
    BadProof,
    /// Empty, over [`MAX_SALT_BYTES`](super::MAX_SALT_BYTES), or not base64.
    BadSalt,
    /// Not a number from 1 to [`MAX_ITERATIONS`](super::MAX_ITERATIONS).
    BadIterations,
    /// Not 32 bytes in base64.
    BadSignature,
    /// Something follows the last attribute.
    Garbage,
    /// The server reports an error, `e=`.
    ServerError(String),
}

impl fmt::Display for ScramFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            ScramFault::TooLong => "SCRAM message too long",
            ScramFault::ZeroByte => "malformed SCRAM message (zero byte)",
            ScramFault::AttributeExpected(name) => {
                return write!(f, "malformed SCRAM message (attribute \"{name}\" expected)");
            }
            ScramFault::BadExtension => "malformed SCRAM message (attribute expected)",
            ScramFault::BadFlag => "malformed SCRAM message (unexpected channel-binding flag)",
            ScramFault::ChannelBindingRequired => {
                "client requires SCRAM channel binding, but it is not supported"
            }
            ScramFault::BindingType => "unsupported SCRAM channel-binding type",
            ScramFault::BindingOfOtherMechanism => {
                "SCRAM mechanism and channel-binding flag do not belong together"
            }
            ScramFault::BindingNotSeen => {
                "client supports SCRAM channel binding but thinks that it is not offered"
            }
            ScramFault::AuthorizationIdentity => {
                "client uses authorization identity, but it is not supported"
            }
            ScramFault::MandatoryExtension => "client requires an unsupported SCRAM extension",
            ScramFault::BadNonce => "empty, too long or non-printable SCRAM nonce",
            ScramFault::ChannelBindingMismatch => {
                "unexpected SCRAM channel-binding attribute in client-final-message"
            }
            ScramFault::NonceMismatch => "invalid SCRAM response (nonce mismatch)",
            ScramFault::BadProof => {
                "malformed SCRAM message (malformed proof in client-final-message)"
            }
            ScramFault::BadSalt => "malformed SCRAM message (invalid salt)",
            ScramFault::BadIterations => "malformed SCRAM message (invalid iteration count)",
            ScramFault::BadSignature => "malformed SCRAM message (malformed server signature)",
            ScramFault::Garbage => "malformed SCRAM message (garbage at the end)",
            ScramFault::ServerError(error) => {
                return write!(f, "error received from server in SCRAM exchange: {error}");
            }
        };
        f.write_str(text)
    }
}

impl std::error::Error for ScramFault {}
