//! pgweir as the client of PostgreSQL: the answers to its authentication
//! requests. The server is not trusted: what it sends is bounded, and with
//! SCRAM it has to prove that it knows the password's keys.

mod scram;

use self::scram::{DeriveKeys, ExpectContinue, ExpectFinal};
use super::credential::Credential;
use super::md5::Md5Hash;
use super::message::{self, LoginMessage};
use super::refusal::Refusal;
use super::scram::NONCE_BYTES;
use super::secret::Secret;
use std::sync::Arc;

/// What to do next with a server that logs us in.
#[derive(Debug)]
#[must_use]
pub enum ServerStep {
    /// Send `message`, then go on as with `Wait`.
    Send {
        /// A password message.
        message: LoginMessage,
        /// Takes the next request.
        next: ServerExchange,
    },
    /// Read a message of type `R`, give its body to the exchange.
    Wait(ServerExchange),
    /// Run this where it may take milliseconds, and go on with its result.
    Derive(ServerDerivation),
    /// AuthenticationOk: ParameterStatus and so on follow.
    LoggedIn(LoggedIn),
    /// Close the server.
    Refuse(Refusal),
}

/// The proof that a server has accepted us, and has proven itself if it asked
/// for SCRAM.
#[derive(Debug)]
pub struct LoggedIn(());

/// PBKDF2 that a login cannot go on without. It comes up once for a password
/// and a server's salt; the count of iterations is the server's, up to
/// [`MAX_ITERATIONS`](super::MAX_ITERATIONS), which take about a second.
#[derive(Debug)]
#[must_use]
pub struct ServerDerivation(DeriveKeys);

impl ServerDerivation {
    /// Computes. Blocks the thread for as long.
    pub fn run(self) -> ServerStep {
        self.0.run()
    }
}

/// A login to a server in progress: waits for a message of type `R`.
#[derive(Debug)]
pub struct ServerExchange(State);

#[derive(Debug)]
enum State {
    Request(ExpectRequest),
    Continue(ExpectContinue),
    Final(ExpectFinal),
    Ok(ExpectOk),
}

impl ServerExchange {
    /// Begins after the startup message for `user` has been sent.
    ///
    /// Without a `credential` an empty password is sent where one is asked
    /// for, so that the server's own words come back. Over TLS `end_point` is
    /// the hash of the server's certificate (RFC 5929,
    /// `tls-server-end-point`), which SCRAM is bound to where the server
    /// offers that. `random` fills what it is given with unpredictable bytes
    /// ([`os_random`](super::os_random)).
    pub fn start(
        user: &str,
        credential: Option<&Arc<Credential>>,
        end_point: Option<&[u8]>,
        random: impl FnOnce(&mut [u8]),
    ) -> Self {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce);
        let none = || Arc::new(Credential::new(Secret::none()));
        let credential = credential.cloned().unwrap_or_else(none);
        ServerExchange(State::Request(ExpectRequest {
            user: user.into(),
            credential,
            nonce,
            end_point: end_point.map(Box::from),
        }))
    }

    /// Takes the body of the server's message of type `R`.
    pub fn on_request(self, body: &[u8]) -> ServerStep {
        let Some((code, data)) = message::read_request(body) else {
            return ServerStep::Refuse(Refusal::Malformed);
        };
        let step = match self.0 {
            State::Request(state) => state.on_request(code, data),
            State::Continue(state) => state.on_request(code, data),
            State::Final(state) => state.on_request(code, data),
            State::Ok(state) => state.on_request(code, data),
        };
        step.unwrap_or_else(ServerStep::Refuse)
    }
}

impl ServerStep {
    fn send(message: LoginMessage, next: State) -> Self {
        ServerStep::Send {
            message,
            next: ServerExchange(next),
        }
    }

    /// The answer is given; the server has to say whether it is the right one.
    fn send_last(message: LoginMessage) -> Self {
        ServerStep::send(message, State::Ok(ExpectOk))
    }
}

/// Waits for the server to say how it wants to be convinced.
#[derive(Debug)]
struct ExpectRequest {
    user: Box<str>,
    credential: Arc<Credential>,
    nonce: [u8; NONCE_BYTES],
    end_point: Option<Box<[u8]>>,
}

impl ExpectRequest {
    fn on_request(self, code: u32, data: &[u8]) -> Result<ServerStep, Refusal> {
        match code {
            message::OK => ExpectOk.on_request(code, data),
            message::CLEARTEXT if data.is_empty() => self.clear_text(),
            message::MD5 => self.md5(data.try_into().map_err(|_| Refusal::Malformed)?),
            message::SASL => {
                let end_point = self.end_point.as_deref();
                ExpectContinue::start(self.credential, self.nonce, end_point, data)
            }
            message::CLEARTEXT => Err(Refusal::Malformed),
            message::SASL_CONTINUE | message::SASL_FINAL => Err(Refusal::OutOfOrder(code)),
            _ => Err(Refusal::UnsupportedMethod(code)),
        }
    }

    fn clear_text(self) -> Result<ServerStep, Refusal> {
        match self.credential.secret() {
            Secret::Plain(password) => Ok(ServerStep::send_last(LoginMessage::password(
                password.as_bytes(),
            ))),
            Secret::Md5(_) | Secret::Scram(_) => Err(Refusal::WrongPasswordType("clear text")),
        }
    }

    fn md5(self, salt: [u8; 4]) -> Result<ServerStep, Refusal> {
        let hash = match self.credential.secret() {
            Secret::Plain(password) => Md5Hash::of(password.as_bytes(), &self.user),
            Secret::Md5(hash) => *hash,
            Secret::Scram(_) => return Err(Refusal::WrongPasswordType("MD5")),
        };
        Ok(ServerStep::send_last(LoginMessage::password(
            &hash.answer(salt),
        )))
    }
}

/// Waits for AuthenticationOk. Nothing else may be asked any more.
#[derive(Debug)]
struct ExpectOk;

impl ExpectOk {
    fn on_request(self, code: u32, data: &[u8]) -> Result<ServerStep, Refusal> {
        match code {
            message::OK if data.is_empty() => Ok(ServerStep::LoggedIn(LoggedIn(()))),
            message::OK => Err(Refusal::Malformed),
            _ => Err(Refusal::OutOfOrder(code)),
        }
    }
}

#[cfg(test)]
mod tests;
