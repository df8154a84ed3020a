//! The two message types of a login: `R`, authentication request, and `p`,
//! password or SASL response (PostgreSQL documentation, "Message Formats").

use std::fmt;

/// AuthenticationOk.
pub(super) const OK: u32 = 0;
/// AuthenticationCleartextPassword.
pub(super) const CLEARTEXT: u32 = 3;
/// AuthenticationMD5Password.
pub(super) const MD5: u32 = 5;
/// AuthenticationSASL.
pub(super) const SASL: u32 = 10;
/// AuthenticationSASLContinue.
pub(super) const SASL_CONTINUE: u32 = 11;
/// AuthenticationSASLFinal.
pub(super) const SASL_FINAL: u32 = 12;

/// A whole message ready to be sent, type byte and length included. Its bytes
/// may be a password, so `Debug` shows type and size only.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginMessage(Vec<u8>);

impl LoginMessage {
    /// AuthenticationXxx with the number `code`: the pooler to a client.
    pub(super) fn request(code: u32, data: &[u8]) -> Self {
        Self::build(b'R', &[&code.to_be_bytes(), data])
    }

    /// PasswordMessage: the pooler to a server.
    pub(super) fn password(password: &[u8]) -> Self {
        Self::build(b'p', &[password, b"\0"])
    }

    /// SASLInitialResponse.
    pub(super) fn sasl_initial(mechanism: &[u8], response: &[u8]) -> Self {
        let length = u32::try_from(response.len()).expect("a nonce and little else");
        Self::build(b'p', &[mechanism, b"\0", &length.to_be_bytes(), response])
    }

    /// SASLResponse.
    pub(super) fn sasl_response(response: &[u8]) -> Self {
        Self::build(b'p', &[response])
    }

    fn build(tag: u8, parts: &[&[u8]]) -> Self {
        let size = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(size).expect("every part has its bound, 64 KiB or less");
        let mut bytes = Vec::with_capacity(1 + size);
        bytes.push(tag);
        bytes.extend_from_slice(&length.to_be_bytes());
        for part in parts {
            bytes.extend_from_slice(part);
        }
        LoginMessage(bytes)
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes to send, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for LoginMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "LoginMessage({:?}, {} bytes)",
            char::from(self.0[0]),
            self.0.len()
        )
    }
}

/// A PasswordMessage's password: all up to the one zero byte, which ends the
/// message.
pub(super) fn password(body: &[u8]) -> Option<&[u8]> {
    let (&last, password) = body.split_last()?;
    (last == 0 && !password.contains(&0)).then_some(password)
}

/// The number and the data of an authentication request.
pub(super) fn read_request(body: &[u8]) -> Option<(u32, &[u8])> {
    let (code, data) = body.split_first_chunk()?;
    Some((u32::from_be_bytes(*code), data))
}

/// A SASLInitialResponse.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SaslInitialResponse<'a> {
    /// The mechanism chosen by the client.
    pub(super) mechanism: &'a [u8],
    /// The response; `None` if it is absent, or not of the length it declares.
    pub(super) response: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// `None` if not even the mechanism can be read.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let end = memchr::memchr(0, body)?;
        let (mechanism, rest) = (&body[..end], &body[end + 1..]);
        let response = match rest.split_first_chunk() {
            Some((length, response)) if u32::from_be_bytes(*length) as usize == response.len() => {
                Some(response)
            }
            _ => None,
        };
        Some(SaslInitialResponse {
            mechanism,
            response,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_messages() {
        let bytes = LoginMessage::request(CLEARTEXT, &[]).into_bytes();
        assert_eq!(bytes, b"R\0\0\0\x08\0\0\0\x03");
        let bytes = LoginMessage::request(MD5, &[1, 2, 3, 4]).into_bytes();
        assert_eq!(bytes, b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04");
    }

    #[test]
    fn answers_are_whole_messages() {
        let bytes = LoginMessage::password(b"foo").into_bytes();
        assert_eq!(bytes, b"p\0\0\0\x08foo\0");
        let bytes = LoginMessage::sasl_initial(b"SCRAM-SHA-256", b"n,,").into_bytes();
        assert_eq!(bytes, b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\x03n,,");
        let bytes = LoginMessage::sasl_response(b"c=biws").into_bytes();
        assert_eq!(bytes, b"p\0\0\0\x0ac=biws");
    }

    #[test]
    fn a_password_ends_with_the_message() {
        assert_eq!(password(b"foo\0"), Some(&b"foo"[..]));
        assert_eq!(password(b"\0"), Some(&b""[..]));
        for bad in [&b""[..], b"foo", b"foo\0bar", b"foo\0bar\0", b"\0\0"] {
            assert_eq!(password(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_sasl_response_has_its_declared_length() {
        fn parse(body: &[u8]) -> Option<SaslInitialResponse<'_>> {
            SaslInitialResponse::parse(body)
        }
        let read = parse(b"SCRAM-SHA-256\0\0\0\0\x03abc").expect("good");
        assert_eq!(read.mechanism, b"SCRAM-SHA-256");
        assert_eq!(read.response, Some(&b"abc"[..]));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"SCRAM-SHA-256"), None);
        for length in [
            0_u32,
            1,
            2,
            4,
            5,
            6,
            7,
            8,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ] {
            let body = [b"X\0", &length.to_be_bytes()[..], b"abc"].concat();
            assert_eq!(parse(&body).expect("mechanism").response, None, "{length}");
        }
        for cut in 2..=6 {
            let body = &b"X\0\0\0\0\0"[..cut];
            assert_eq!(
                parse(body).expect("mechanism").response.is_some(),
                cut == 6,
                "{cut}"
            );
        }
    }

    #[test]
    fn debug_hides_the_bytes() {
        let message = LoginMessage::request(MD5, b"salt");
        assert_eq!(format!("{message:?}"), "LoginMessage('R', 13 bytes)");
    }
}
