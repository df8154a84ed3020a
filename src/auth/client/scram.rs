//! The method `scram-sha-256`: client-first-message, server-first-message,
//! client-final-message, server-final-message. Over TLS the client may bind it
//! to our certificate, so that nobody between can have shown another.

use super::super::authenticated::Authenticated;
use super::super::credential::Credential;
use super::super::message::{self, LoginMessage, SaslInitialResponse};
use super::super::reason::{Cause, Reason};
use super::super::scram::messages::{
    ClientFinal, ClientFirst, Gs2Flag, server_final, server_first,
};
use super::super::scram::{
    self, MECHANISM, MECHANISM_PLUS, NONCE_BYTES, SALT_BYTES, ScramFault, Transcript, Verifier,
};
use super::super::secret::{Plaintext, Secret};
use super::{Claim, ClientDerivation, ClientStep, Derivation, ScramSettings, State};
use std::sync::Arc;

/// Waits for client-first-message.
#[derive(Debug)]
pub(super) struct ExpectClientFirst {
    claim: Claim,
    settings: ScramSettings,
    server_nonce: String,
    /// For a verifier that may have to be made up.
    salt: [u8; SALT_BYTES],
    /// What the client may bind to.
    end_point: Option<Box<[u8]>>,
}

impl ExpectClientFirst {
    pub(super) fn start(
        claim: Claim,
        settings: &ScramSettings,
        end_point: Option<&[u8]>,
        mut random: impl FnMut(&mut [u8]),
    ) -> ClientStep {
        let (mut nonce, mut salt) = ([0; NONCE_BYTES], [0; SALT_BYTES]);
        random(&mut nonce);
        random(&mut salt);
        let server_nonce = scram::nonce(nonce);
        let plus: &[&[u8]] = match end_point {
            Some(_) => &[MECHANISM_PLUS, b"\0"],
            None => &[],
        };
        let mechanisms = [plus.concat().as_slice(), MECHANISM, b"\0\0"].concat();
        let message = LoginMessage::request(message::SASL, &mechanisms);
        let settings = settings.clone();
        let state = ExpectClientFirst {
            claim,
            settings,
            server_nonce,
            salt,
            end_point: end_point.map(Box::from),
        };
        ClientStep::send(message, State::ClientFirst(state))
    }

    pub(super) fn on_message(self, body: &[u8]) -> Result<ClientStep, Reason> {
        let malformed = || Reason::Sasl(Cause::Malformed("malformed SASLInitialResponse message"));
        let initial = SaslInitialResponse::parse(body).ok_or_else(malformed)?;
        let is_plus = match initial.mechanism {
            MECHANISM => false,
            MECHANISM_PLUS if self.end_point.is_some() => true,
            _ => return Err(Reason::Mechanism),
        };
        let response = initial.response.ok_or_else(malformed)?;
        let first = ClientFirst::parse(response).map_err(sasl)?;
        check_flag(first.flag, is_plus, self.end_point.is_some()).map_err(sasl)?;
        let opening = Opening {
            user: self.claim.user,
            binding: first.flag.binding(self.end_point.as_deref()),
            client_first_bare: first.bare.into(),
            client_nonce: first.nonce.into(),
            server_nonce: self.server_nonce,
        };
        let credential = match self.claim.credential {
            Ok(credential) => credential,
            Err(cause) => return Ok(opening.mock(cause, &self.settings)),
        };
        let verifier = match credential.secret() {
            Secret::Scram(verifier) => verifier.clone(),
            Secret::Md5(_) => return Ok(opening.mock(Cause::Md5Secret, &self.settings)),
            Secret::Plain(password) => match credential.ad_hoc() {
                Some(verifier) => verifier.clone(),
                None => {
                    let password = password.clone();
                    let iterations = self.settings.iterations;
                    let work = MakeVerifier {
                        opening,
                        credential,
                        password,
                        iterations,
                        salt: self.salt,
                    };
                    return Ok(ClientStep::Derive(ClientDerivation(Derivation::Make(work))));
                }
            },
        };
        Ok(opening.answer(Ok(credential), verifier))
    }
}

/// Whether the flag is for the chosen mechanism, and true.
fn check_flag(flag: Gs2Flag, is_plus: bool, is_offered: bool) -> Result<(), ScramFault> {
    match flag {
        Gs2Flag::EndPoint if is_plus => Ok(()),
        Gs2Flag::EndPoint if !is_offered => Err(ScramFault::ChannelBindingRequired),
        Gs2Flag::EndPoint => Err(ScramFault::BindingOfOtherMechanism),
        Gs2Flag::No | Gs2Flag::NotOffered if is_plus => Err(ScramFault::BindingOfOtherMechanism),
        // Somebody between has taken it off our list.
        Gs2Flag::NotOffered if is_offered => Err(ScramFault::BindingNotSeen),
        Gs2Flag::No | Gs2Flag::NotOffered => Ok(()),
    }
}

/// Makes up a verifier for a plain secret.
#[derive(Debug)]
pub(super) struct MakeVerifier {
    opening: Opening,
    credential: Arc<Credential>,
    password: Plaintext,
    iterations: u32,
    salt: [u8; SALT_BYTES],
}

impl MakeVerifier {
    pub(super) fn run(self) -> ClientStep {
        let verifier = self
            .credential
            .make_ad_hoc(&self.password, &self.salt, self.iterations)
            .clone();
        self.opening.answer(Ok(self.credential), verifier)
    }
}

/// A client-first-message that has been read and is to be answered.
#[derive(Debug)]
struct Opening {
    user: Box<str>,
    binding: Vec<u8>,
    client_first_bare: Box<[u8]>,
    client_nonce: Box<[u8]>,
    server_nonce: String,
}

impl Opening {
    /// Goes on with a verifier that nothing matches.
    fn mock(self, cause: Cause, settings: &ScramSettings) -> ClientStep {
        let verifier = settings.mock_verifier(&self.user);
        self.answer(Err(cause), verifier)
    }

    fn answer(self, credential: Result<Arc<Credential>, Cause>, verifier: Verifier) -> ClientStep {
        let server_first = server_first(
            &self.client_nonce,
            &self.server_nonce,
            &verifier.salt,
            verifier.iterations,
        );
        let message = LoginMessage::request(message::SASL_CONTINUE, &server_first);
        let state = ExpectClientFinal {
            claim: Claim {
                user: self.user,
                credential,
            },
            binding: self.binding,
            nonce: [&*self.client_nonce, self.server_nonce.as_bytes()].concat(),
            client_first_bare: self.client_first_bare,
            server_first,
            verifier,
        };
        ClientStep::send(message, State::ClientFinal(state))
    }
}

/// Waits for client-final-message.
#[derive(Debug)]
pub(super) struct ExpectClientFinal {
    claim: Claim,
    binding: Vec<u8>,
    nonce: Vec<u8>,
    client_first_bare: Box<[u8]>,
    server_first: Vec<u8>,
    verifier: Verifier,
}

impl ExpectClientFinal {
    pub(super) fn on_message(self, body: &[u8]) -> Result<ClientStep, Reason> {
        let last = ClientFinal::parse(body, &self.binding, &self.nonce).map_err(sasl)?;
        let transcript = Transcript {
            client_first_bare: &self.client_first_bare,
            server_first: &self.server_first,
            client_final_without_proof: last.without_proof,
        };
        let keys = self.verifier.check(&last.proof, &transcript);
        let credential = self.claim.credential.map_err(Reason::Sasl)?;
        let keys = keys.ok_or(Reason::Sasl(Cause::WrongPassword))?;
        if matches!(credential.secret(), Secret::Scram(_)) {
            credential.pass_through(keys);
        }
        let signature = self.verifier.server_signature(&transcript);
        let message = LoginMessage::request(message::SASL_FINAL, &server_final(&signature));
        Ok(ClientStep::Accept {
            message: Some(message),
            authenticated: Authenticated::new(self.claim.user, Some(credential)),
        })
    }
}

fn sasl(fault: ScramFault) -> Reason {
    Reason::Sasl(Cause::Scram(fault))
}
