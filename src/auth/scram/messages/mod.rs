//! The messages of SCRAM, read strictly (RFC 5802 section 7).
//!
//! A message is `x=value` attributes in a fixed order with commas between
//! them; a value holds no comma.

use super::{MAX_ITERATIONS, MAX_NONCE_BYTES, MAX_SALT_BYTES, MAX_SASL_BYTES, ScramFault};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the client says about channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Gs2Flag {
    /// `n`: it cannot.
    No,
    /// `y`: it could, but it saw that the server does not offer it.
    NotOffered,
    /// `p=tls-server-end-point`: it binds to the server's certificate.
    EndPoint,
}

impl Gs2Flag {
    /// The header with this flag.
    pub(in crate::auth) fn header(self) -> &'static [u8] {
        match self {
            Gs2Flag::No => b"n,,",
            Gs2Flag::NotOffered => b"y,,",
            Gs2Flag::EndPoint => b"p=tls-server-end-point,,",
        }
    }

    /// The value of `c=`: base64 of the header, and behind it what is bound
    /// to.
    pub(in crate::auth) fn binding(self, end_point: Option<&[u8]>) -> Vec<u8> {
        let end_point = end_point.filter(|_| self == Gs2Flag::EndPoint);
        let bound = [self.header(), end_point.unwrap_or_default()].concat();
        STANDARD.encode(bound).into_bytes()
    }
}

/// client-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct ClientFirst<'a> {
    pub(in crate::auth) flag: Gs2Flag,
    /// All after the gs2 header.
    pub(in crate::auth) bare: &'a [u8],
    pub(in crate::auth) nonce: &'a [u8],
}

impl<'a> ClientFirst<'a> {
    pub(in crate::auth) fn parse(message: &'a [u8]) -> Result<Self, ScramFault> {
        check_whole(message)?;
        let (flag, rest) = match message {
            [b'n', b',', rest @ ..] => (Gs2Flag::No, rest),
            [b'y', b',', rest @ ..] => (Gs2Flag::NotOffered, rest),
            [b'p', b'=', bound @ ..] => {
                let rest = bound.strip_prefix(b"tls-server-end-point,");
                (Gs2Flag::EndPoint, rest.ok_or(ScramFault::BindingType)?)
            }
            _ => return Err(ScramFault::BadFlag),
        };
        let bare = match rest {
            [b',', bare @ ..] => bare,
            [b'a', ..] => return Err(ScramFault::AuthorizationIdentity),
            _ => return Err(ScramFault::AttributeExpected('a')),
        };
        if bare.first() == Some(&b'm') {
            return Err(ScramFault::MandatoryExtension);
        }
        let mut attributes = Attributes(Some(bare));
        // PostgreSQL's user is the one of the startup message.
        attributes.take(b'n')?;
        let nonce = attributes.take(b'r')?;
        check_nonce(nonce)?;
        while attributes.0.is_some() {
            attributes.take_extension()?;
        }
        Ok(ClientFirst { flag, bare, nonce })
    }
}

/// client-final-message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct ClientFinal<'a> {
    /// All before `,p=`.
    pub(in crate::auth) without_proof: &'a [u8],
    pub(in crate::auth) proof: [u8; 32],
}

impl<'a> ClientFinal<'a> {
    /// `binding` is what `c=` has to be; `nonce` is the one of
    /// server-first-message, which the client repeats.
    pub(in crate::auth) fn parse(
        message: &'a [u8],
        binding: &[u8],
        nonce: &[u8],
    ) -> Result<Self, ScramFault> {
        check_whole(message)?;
        let mut attributes = Attributes(Some(message));
        if attributes.take(b'c')? != binding {
            return Err(ScramFault::ChannelBindingMismatch);
        }
        if attributes.take(b'r')? != nonce {
            return Err(ScramFault::NonceMismatch);
        }
        loop {
            let before = attributes.left();
            let (name, value) = attributes.take_extension()?;
            if name == b'p' {
                let proof = decode_key(value).ok_or(ScramFault::BadProof)?;
                attributes.end()?;
                // The comma before the proof belongs to neither part.
                let without_proof = &message[..message.len() - before - 1];
                return Ok(ClientFinal {
                    without_proof,
                    proof,
                });
            }
        }
    }
}

/// server-first-message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct ServerFirst<'a> {
    pub(in crate::auth) nonce: &'a [u8],
    pub(in crate::auth) salt: Vec<u8>,
    pub(in crate::auth) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    /// `client_nonce` is ours, which the server's must extend.
    pub(in crate::auth) fn parse(
        message: &'a [u8],
        client_nonce: &[u8],
    ) -> Result<Self, ScramFault> {
        check_whole(message)?;
        let mut attributes = Attributes(Some(message));
        let nonce = attributes.take(b'r')?;
        check_nonce(nonce)?;
        if nonce.len() == client_nonce.len() || !nonce.starts_with(client_nonce) {
            return Err(ScramFault::NonceMismatch);
        }
        let salt = decode_salt(attributes.take(b's')?).ok_or(ScramFault::BadSalt)?;
        let iterations = decimal(attributes.take(b'i')?).ok_or(ScramFault::BadIterations)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(ScramFault::BadIterations);
        }
        attributes.end()?;
        Ok(ServerFirst {
            nonce,
            salt,
            iterations,
        })
    }
}

/// The signature in server-final-message.
pub(in crate::auth) fn parse_server_final(message: &[u8]) -> Result<[u8; 32], ScramFault> {
    check_whole(message)?;
    let mut attributes = Attributes(Some(message));
    if message.first() == Some(&b'e') {
        return Err(ScramFault::ServerError(printable(attributes.take(b'e')?)));
    }
    let signature = decode_key(attributes.take(b'v')?).ok_or(ScramFault::BadSignature)?;
    attributes.end()?;
    Ok(signature)
}

/// server-first-message.
pub(in crate::auth) fn server_first(
    client_nonce: &[u8],
    server_nonce: &str,
    salt: &[u8],
    iterations: u32,
) -> Vec<u8> {
    let salt = STANDARD.encode(salt);
    let iterations = iterations.to_string();
    let parts: [&[u8]; 7] = [
        b"r=",
        client_nonce,
        server_nonce.as_bytes(),
        b",s=",
        salt.as_bytes(),
        b",i=",
        iterations.as_bytes(),
    ];
    parts.concat()
}

/// server-final-message.
pub(in crate::auth) fn server_final(signature: &[u8; 32]) -> Vec<u8> {
    format!("v={}", STANDARD.encode(signature)).into_bytes()
}

/// client-first-message without its gs2 header. The user stands in the
/// startup message.
pub(in crate::auth) fn client_first_bare(nonce: &str) -> Vec<u8> {
    format!("n=,r={nonce}").into_bytes()
}

/// client-final-message up to the comma before the proof.
pub(in crate::auth) fn client_final_without_proof(binding: &[u8], nonce: &[u8]) -> Vec<u8> {
    [b"c=", binding, b",r=", nonce].concat()
}

/// client-final-message.
pub(in crate::auth) fn client_final(without_proof: &[u8], proof: &[u8; 32]) -> Vec<u8> {
    [without_proof, b",p=", STANDARD.encode(proof).as_bytes()].concat()
}

/// A decimal number without sign or blanks.
pub(in crate::auth) fn decimal(text: &[u8]) -> Option<u32> {
    let all_digits = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| all_digits)?;
    text.parse().ok()
}

/// What is left to read: `None` at the end, and after a comma the rest.
struct Attributes<'a>(Option<&'a [u8]>);

impl<'a> Attributes<'a> {
    /// The value of the attribute `name`, which must come next.
    fn take(&mut self, name: u8) -> Result<&'a [u8], ScramFault> {
        match self.take_any() {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(ScramFault::AttributeExpected(name.into())),
        }
    }

    /// Any attribute whose name is a letter.
    fn take_extension(&mut self) -> Result<(u8, &'a [u8]), ScramFault> {
        let attribute = self
            .take_any()
            .filter(|(name, _)| name.is_ascii_alphabetic());
        attribute.ok_or(ScramFault::BadExtension)
    }

    fn take_any(&mut self) -> Option<(u8, &'a [u8])> {
        let text = self.0?;
        let (attribute, rest) = match memchr::memchr(b',', text) {
            Some(comma) => (&text[..comma], Some(&text[comma + 1..])),
            None => (text, None),
        };
        self.0 = rest;
        match attribute {
            [name, b'=', value @ ..] => Some((*name, value)),
            _ => None,
        }
    }

    /// How many bytes are left.
    fn left(&self) -> usize {
        self.0.map_or(0, <[u8]>::len)
    }

    fn end(&self) -> Result<(), ScramFault> {
        if self.0.is_none() {
            Ok(())
        } else {
            Err(ScramFault::Garbage)
        }
    }
}

fn check_whole(message: &[u8]) -> Result<(), ScramFault> {
    if message.len() > MAX_SASL_BYTES {
        return Err(ScramFault::TooLong);
    }
    if memchr::memchr(0, message).is_some() {
        return Err(ScramFault::ZeroByte);
    }
    Ok(())
}

/// RFC 5802 `printable`; the comma cannot occur in a value.
fn check_nonce(nonce: &[u8]) -> Result<(), ScramFault> {
    let length_is_good = (1..=MAX_NONCE_BYTES).contains(&nonce.len());
    if length_is_good && nonce.iter().all(u8::is_ascii_graphic) {
        Ok(())
    } else {
        Err(ScramFault::BadNonce)
    }
}

fn decode_key(base64: &[u8]) -> Option<[u8; 32]> {
    const ENCODED: usize = 44;
    if base64.len() != ENCODED {
        return None;
    }
    STANDARD.decode(base64).ok()?.try_into().ok()
}

fn decode_salt(base64: &[u8]) -> Option<Vec<u8>> {
    const MAX_ENCODED: usize = MAX_SALT_BYTES.div_ceil(3) * 4;
    if base64.len() > MAX_ENCODED {
        return None;
    }
    let salt = STANDARD.decode(base64).ok()?;
    (1..=MAX_SALT_BYTES).contains(&salt.len()).then_some(salt)
}

/// A server's words made fit for a log line: short, printable ASCII.
fn printable(text: &[u8]) -> String {
    const MAX_SHOWN: usize = 127;
    let show = |&byte: &u8| {
        let shown = byte.is_ascii_graphic() || byte == b' ';
        if shown { char::from(byte) } else { '?' }
    };
    text.iter().take(MAX_SHOWN).map(show).collect()
}

#[cfg(test)]
mod tests;
