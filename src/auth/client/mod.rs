//! pgweir as the server: the exchange with a client that logs in.

mod password;
mod scram;

use self::password::{ExpectMd5Answer, ExpectPassword, MatchVerifier};
pub use self::password::{ask_password, read_password};
use self::scram::{ExpectClientFinal, ExpectClientFirst, MakeVerifier};
use super::authenticated::Authenticated;
use super::credential::Credential;
use super::message::LoginMessage;
use super::reason::{Cause, Reason};
use super::scram::{MAX_ITERATIONS, SALT_BYTES, Verifier, hmac};
use super::secret::Secret;
use std::fmt;
use std::sync::Arc;

/// How a client proves who it is, where an exchange of messages decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// No check, the name is ignored. The caller makes sure that the database
    /// forces a user (`auth_type=any requires forced user`).
    Any,
    /// No check, the user must be known.
    Trust,
    /// Clear-text password.
    Plain,
    /// MD5 challenge; SCRAM for a user whose secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// What every SCRAM exchange of the process shares.
#[derive(Clone)]
pub struct ScramSettings {
    iterations: u32,
    /// Known to this process alone: makes the salts of users that do not
    /// exist, always the same for the same name.
    mock_key: [u8; 32],
}

impl ScramSettings {
    /// Made once at start, with PgBouncer's `scram_iterations` (kept within 1
    /// and [`MAX_ITERATIONS`]) and a source of unpredictable bytes.
    pub fn new(iterations: u32, random: impl FnOnce(&mut [u8])) -> Self {
        let mut mock_key = [0; 32];
        random(&mut mock_key);
        ScramSettings {
            iterations: 0,
            mock_key,
        }
        .with_iterations(iterations)
    }

    /// After a change of `scram_iterations`. Users that do not exist keep
    /// their salts. Verifiers made up before keep their old count.
    pub fn with_iterations(&self, iterations: u32) -> Self {
        let iterations = iterations.clamp(1, MAX_ITERATIONS);
        ScramSettings {
            iterations,
            ..*self
        }
    }

    /// What a user that does not exist is checked against. No password fits:
    /// nobody knows a value whose hash is the stored key.
    fn mock_verifier(&self, user: &str) -> Verifier {
        let part = |name: &[u8]| hmac(&self.mock_key, &[name, b"\0", user.as_bytes()]);
        Verifier {
            iterations: self.iterations,
            salt: part(b"salt")[..SALT_BYTES].into(),
            stored_key: part(b"stored key"),
            server_key: part(b"server key"),
        }
    }
}

impl fmt::Debug for ScramSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramSettings {{ iterations: {} }}", self.iterations)
    }
}

/// What to do next with a client that logs in.
#[derive(Debug)]
#[must_use]
pub enum ClientStep {
    /// Send `message`, read a message of type `p`, give its body to `next`.
    Send {
        /// An authentication request.
        message: LoginMessage,
        /// Takes the answer.
        next: ClientExchange,
    },
    /// Run this where it may take milliseconds, and go on with its result.
    Derive(ClientDerivation),
    /// The client has passed. AuthenticationOk is the caller's to send, with
    /// the rest of the greeting.
    Accept {
        /// To be sent before AuthenticationOk (AuthenticationSASLFinal).
        message: Option<LoginMessage>,
        /// The proof.
        authenticated: Authenticated,
    },
    /// Send the FATAL and close.
    Reject(Reason),
}

/// PBKDF2 that a login cannot go on without: up to milliseconds with the usual
/// 4096 iterations, up to about a second with [`MAX_ITERATIONS`].
///
/// It comes up once for a plain secret that a client uses with SCRAM, and for
/// each clear-text password that does not match a SCRAM secret at once.
#[derive(Debug)]
#[must_use]
pub struct ClientDerivation(Derivation);

#[derive(Debug)]
enum Derivation {
    Match(MatchVerifier),
    Make(MakeVerifier),
}

impl ClientDerivation {
    /// Computes. Blocks the thread for as long.
    pub fn run(self) -> ClientStep {
        match self.0 {
            Derivation::Match(work) => work.run(),
            Derivation::Make(work) => work.run(),
        }
    }
}

/// A login in progress: waits for the client's next message of type `p`.
#[derive(Debug)]
pub struct ClientExchange(State);

#[derive(Debug)]
enum State {
    Password(ExpectPassword),
    Md5Answer(ExpectMd5Answer),
    ClientFirst(ExpectClientFirst),
    ClientFinal(ExpectClientFinal),
}

impl ClientExchange {
    /// Begins a login of `user`, whose `credential` is `None` if nobody knows
    /// the user. Such a user is led through the same messages and then refused
    /// like one with a wrong password.
    ///
    /// Over TLS `end_point` is the hash of our certificate (RFC 5929,
    /// `tls-server-end-point`), which the client may bind SCRAM to.
    ///
    /// `random` fills what it is given with unpredictable bytes
    /// ([`os_random`](super::os_random)).
    pub fn start(
        method: Method,
        user: &str,
        credential: Option<&Arc<Credential>>,
        settings: &ScramSettings,
        end_point: Option<&[u8]>,
        random: impl FnMut(&mut [u8]),
    ) -> ClientStep {
        let secret = credential.map(|known| known.secret());
        let has_verifier = matches!(secret, Some(Secret::Scram(_)));
        match method {
            Method::Trust if credential.is_none() => {
                ClientStep::Reject(Reason::Trust { user: user.into() })
            }
            Method::Any | Method::Trust => {
                ClientStep::accept(Authenticated::new(user.into(), credential.cloned()))
            }
            Method::Plain => ExpectPassword::start(Claim::new(user, credential)),
            Method::Md5 if !has_verifier => {
                ExpectMd5Answer::start(Claim::new(user, credential), random)
            }
            Method::Md5 | Method::ScramSha256 => {
                let claim = Claim::new(user, credential);
                ExpectClientFirst::start(claim, settings, end_point, random)
            }
        }
    }

    /// Takes the body of the client's message of type `p`.
    pub fn on_message(self, body: &[u8]) -> ClientStep {
        let step = match self.0 {
            State::Password(state) => state.on_message(body),
            State::Md5Answer(state) => state.on_message(body),
            State::ClientFirst(state) => state.on_message(body),
            State::ClientFinal(state) => state.on_message(body),
        };
        step.unwrap_or_else(ClientStep::Reject)
    }
}

impl ClientStep {
    fn accept(authenticated: Authenticated) -> Self {
        ClientStep::Accept {
            message: None,
            authenticated,
        }
    }

    fn send(message: LoginMessage, next: State) -> Self {
        ClientStep::Send {
            message,
            next: ClientExchange(next),
        }
    }
}

/// Who the client says it is, and what that can be checked against.
#[derive(Debug)]
struct Claim {
    user: Box<str>,
    /// Without a usable secret the exchange goes its way and fails at its end.
    credential: Result<Arc<Credential>, Cause>,
}

impl Claim {
    fn new(user: &str, credential: Option<&Arc<Credential>>) -> Self {
        let credential = match credential {
            None => Err(Cause::NoSuchUser(user.into())),
            Some(known) if known.secret().is_none() => Err(Cause::NoPassword(user.into())),
            Some(known) => Ok(known.clone()),
        };
        Claim {
            user: user.into(),
            credential,
        }
    }
}

#[cfg(test)]
mod tests;
