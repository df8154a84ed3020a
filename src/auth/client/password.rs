//! The methods `plain` and `md5`: one question, one answer.

use super::super::authenticated::Authenticated;
use super::super::credential::Credential;
use super::super::md5::Md5Hash;
use super::super::message::{self, LoginMessage};
use super::super::reason::{Cause, Reason};
use super::super::same_secret;
use super::super::scram::{MAX_ITERATIONS, ScramKeys, Verifier};
use super::super::secret::{MAX_PASSWORD_BYTES, Plaintext, Secret};
use super::{Claim, ClientDerivation, ClientStep, Derivation, State};
use std::sync::Arc;

/// Waits for a clear-text password.
#[derive(Debug)]
pub(super) struct ExpectPassword(Claim);

impl ExpectPassword {
    pub(super) fn start(claim: Claim) -> ClientStep {
        ClientStep::send(ask_password(), State::Password(ExpectPassword(claim)))
    }

    pub(super) fn on_message(self, body: &[u8]) -> Result<ClientStep, Reason> {
        let password = read_password(body)?;
        let Claim { user, credential } = self.0;
        let credential = credential.map_err(|cause| {
            // As long as a comparison takes, lest the time tells who is known.
            std::hint::black_box(Plaintext::default() == password);
            Reason::Password(cause)
        })?;
        let matches = match credential.secret() {
            Secret::Plain(known) => *known == password,
            Secret::Md5(known) => *known == Md5Hash::of(password.as_bytes(), &user),
            Secret::Scram(_) if credential.has_matched(&password) => true,
            Secret::Scram(verifier) => {
                let verifier = verifier.clone();
                return MatchVerifier {
                    user,
                    credential,
                    verifier,
                    password,
                }
                .start();
            }
        };
        if !matches {
            return Err(Reason::Password(Cause::WrongPassword));
        }
        let credential = credential.matched(password);
        Ok(ClientStep::accept(Authenticated::new(
            user,
            Some(credential),
        )))
    }
}

/// Finds out whether a clear-text password is the one behind a verifier.
#[derive(Debug)]
pub(super) struct MatchVerifier {
    user: Box<str>,
    credential: Arc<Credential>,
    verifier: Verifier,
    password: Plaintext,
}

impl MatchVerifier {
    fn start(self) -> Result<ClientStep, Reason> {
        if self.verifier.iterations > MAX_ITERATIONS {
            return Err(Reason::Password(Cause::TooManyIterations));
        }
        Ok(ClientStep::Derive(ClientDerivation(Derivation::Match(
            self,
        ))))
    }

    pub(super) fn run(self) -> ClientStep {
        let Verifier {
            salt, iterations, ..
        } = &self.verifier;
        let keys = ScramKeys::derive(self.password.as_bytes(), salt, *iterations);
        if !self.verifier.matches(&keys) {
            return ClientStep::Reject(Reason::Password(Cause::WrongPassword));
        }
        let credential = self.credential.matched(self.password);
        ClientStep::accept(Authenticated::new(self.user, Some(credential)))
    }
}

/// Waits for the answer to an MD5 challenge.
#[derive(Debug)]
pub(super) struct ExpectMd5Answer {
    claim: Claim,
    /// The right answer. To a user without a usable secret there is none, and
    /// this is of the same length.
    expected: [u8; 35],
}

impl ExpectMd5Answer {
    pub(super) fn start(claim: Claim, random: impl FnOnce(&mut [u8])) -> ClientStep {
        let mut salt = [0; 4];
        random(&mut salt);
        let hash = match claim
            .credential
            .as_ref()
            .map(|credential| credential.secret())
        {
            Ok(Secret::Plain(password)) => Md5Hash::of(password.as_bytes(), &claim.user),
            Ok(Secret::Md5(hash)) => *hash,
            Ok(Secret::Scram(_)) | Err(_) => Md5Hash::of(&[], &claim.user),
        };
        let message = LoginMessage::request(message::MD5, &salt);
        let expected = hash.answer(salt);
        ClientStep::send(
            message,
            State::Md5Answer(ExpectMd5Answer { claim, expected }),
        )
    }

    pub(super) fn on_message(self, body: &[u8]) -> Result<ClientStep, Reason> {
        let answer = read_password(body)?;
        let matches = same_secret(answer.as_bytes(), &self.expected);
        let credential = self.claim.credential.map_err(Reason::Password)?;
        if !matches {
            return Err(Reason::Password(Cause::WrongPassword));
        }
        Ok(ClientStep::accept(Authenticated::new(
            self.claim.user,
            Some(credential),
        )))
    }
}

/// Asks for a password that somebody else checks.
pub fn ask_password() -> LoginMessage {
    LoginMessage::request(message::CLEARTEXT, &[])
}

/// The password in a client's answer.
///
/// # Errors
/// There is none, or it is too long.
pub fn read_password(body: &[u8]) -> Result<Plaintext, Reason> {
    let malformed = |what| Err(Reason::Password(Cause::Malformed(what)));
    match message::password(body) {
        None => malformed("malformed password message"),
        Some([]) => Err(Reason::EmptyPassword),
        Some(password) if password.len() > MAX_PASSWORD_BYTES => malformed("password too long"),
        Some(password) => Ok(Plaintext::new(password)),
    }
}
