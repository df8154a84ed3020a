//! SCRAM-SHA-256 towards a server, over TLS bound to its certificate where it
//! can do that.

use super::super::credential::Credential;
use super::super::message::{self, LoginMessage};
use super::super::refusal::Refusal;
use super::super::scram::messages::{
    Gs2Flag, ServerFirst, client_final, client_final_without_proof, client_first_bare,
    parse_server_final,
};
use super::super::scram::{
    self, MAX_SASL_BYTES, MECHANISM, MECHANISM_PLUS, NONCE_BYTES, ScramKeys, Transcript,
};
use super::super::secret::{Plaintext, Secret};
use super::{ServerDerivation, ServerStep, State};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Waits for server-first-message.
#[derive(Debug)]
pub(super) struct ExpectContinue {
    source: KeySource,
    nonce: String,
    client_first_bare: Vec<u8>,
    binding: Vec<u8>,
}

/// Where the keys come from.
#[derive(Debug)]
enum KeySource {
    /// A client's proof (pass-through).
    Keys(ScramKeys),
    /// They are derived from the password, or have been.
    Password(Arc<Credential>, Plaintext),
}

impl KeySource {
    fn of(credential: Arc<Credential>) -> Result<Self, Refusal> {
        match credential.secret() {
            Secret::Plain(password) => {
                let password = password.clone();
                Ok(KeySource::Password(credential, password))
            }
            Secret::Scram(_) => {
                let keys = credential.scram_keys().ok_or(Refusal::NoScramKeys)?;
                Ok(KeySource::Keys(keys.clone()))
            }
            Secret::Md5(_) => Err(Refusal::WrongPasswordType("SCRAM")),
        }
    }
}

impl ExpectContinue {
    /// Answers AuthenticationSASL, whose `data` lists the server's mechanisms.
    pub(super) fn start(
        credential: Arc<Credential>,
        nonce: [u8; NONCE_BYTES],
        end_point: Option<&[u8]>,
        data: &[u8],
    ) -> Result<ServerStep, Refusal> {
        let offer = Offer::read(data)?;
        let (mechanism, flag) = match end_point {
            Some(_) if offer.plus => (MECHANISM_PLUS, Gs2Flag::EndPoint),
            _ if !offer.plain => return Err(Refusal::NoMechanism),
            Some(_) => (MECHANISM, Gs2Flag::NotOffered),
            None => (MECHANISM, Gs2Flag::No),
        };
        let source = KeySource::of(credential)?;
        let nonce = scram::nonce(nonce);
        let client_first_bare = client_first_bare(&nonce);
        let first = [flag.header(), &client_first_bare].concat();
        let message = LoginMessage::sasl_initial(mechanism, &first);
        let state = ExpectContinue {
            source,
            nonce,
            client_first_bare,
            binding: flag.binding(end_point),
        };
        Ok(ServerStep::send(message, State::Continue(state)))
    }

    pub(super) fn on_request(self, code: u32, data: &[u8]) -> Result<ServerStep, Refusal> {
        match code {
            message::SASL_CONTINUE => {}
            message::OK => return Err(Refusal::NoSignature),
            _ => return Err(Refusal::OutOfOrder(code)),
        }
        let ServerFirst {
            nonce,
            salt,
            iterations,
        } = ServerFirst::parse(data, self.nonce.as_bytes()).map_err(Refusal::Scram)?;
        let challenge = Challenge {
            client_first_bare: self.client_first_bare,
            server_first: data.to_vec(),
            client_final_without_proof: client_final_without_proof(&self.binding, nonce),
        };
        let (credential, password) = match self.source {
            KeySource::Keys(keys) => return Ok(challenge.answer(&keys)),
            KeySource::Password(credential, password) => (credential, password),
        };
        if let Some(keys) = credential.server_keys(&salt, iterations) {
            return Ok(challenge.answer(&keys));
        }
        let work = DeriveKeys {
            challenge,
            credential,
            password,
            salt,
            iterations,
        };
        Ok(ServerStep::Derive(ServerDerivation(work)))
    }
}

/// Derives the keys for a server's salt.
#[derive(Debug)]
pub(super) struct DeriveKeys {
    challenge: Challenge,
    credential: Arc<Credential>,
    password: Plaintext,
    salt: Vec<u8>,
    iterations: u32,
}

impl DeriveKeys {
    pub(super) fn run(self) -> ServerStep {
        // Another login may have derived them while this one was queued.
        let known = self.credential.server_keys(&self.salt, self.iterations);
        let keys = known.unwrap_or_else(|| {
            let keys = ScramKeys::derive(self.password.as_bytes(), &self.salt, self.iterations);
            self.credential
                .remember_server_keys(&self.salt, self.iterations, &keys);
            keys
        });
        self.challenge.answer(&keys)
    }
}

/// A server-first-message that has been read and is to be answered.
#[derive(Debug)]
struct Challenge {
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    client_final_without_proof: Vec<u8>,
}

impl Challenge {
    fn answer(self, keys: &ScramKeys) -> ServerStep {
        let transcript = Transcript {
            client_first_bare: &self.client_first_bare,
            server_first: &self.server_first,
            client_final_without_proof: &self.client_final_without_proof,
        };
        let last = client_final(&self.client_final_without_proof, &keys.proof(&transcript));
        let signature = keys.server_signature(&transcript);
        ServerStep::send(
            LoginMessage::sasl_response(&last),
            State::Final(ExpectFinal { signature }),
        )
    }
}

/// Waits for server-final-message.
#[derive(Debug)]
pub(super) struct ExpectFinal {
    signature: [u8; 32],
}

impl ExpectFinal {
    pub(super) fn on_request(self, code: u32, data: &[u8]) -> Result<ServerStep, Refusal> {
        match code {
            message::SASL_FINAL => {}
            message::OK => return Err(Refusal::NoSignature),
            _ => return Err(Refusal::OutOfOrder(code)),
        }
        let signature = parse_server_final(data).map_err(Refusal::Scram)?;
        if !bool::from(signature.ct_eq(&self.signature)) {
            return Err(Refusal::InvalidSignature);
        }
        Ok(ServerStep::Wait(super::ServerExchange(State::Ok(
            super::ExpectOk,
        ))))
    }
}

/// Mechanisms that a server offers.
#[derive(Debug, Default)]
struct Offer {
    plain: bool,
    plus: bool,
}

impl Offer {
    /// Reads the zero-terminated names, ended by an empty one. They end the
    /// message.
    fn read(data: &[u8]) -> Result<Offer, Refusal> {
        if data.len() > MAX_SASL_BYTES {
            return Err(Refusal::Malformed);
        }
        let names = data.strip_suffix(b"\0\0").ok_or(Refusal::Malformed)?;
        let mut offer = Offer::default();
        for name in names.split(|&byte| byte == 0) {
            if name.is_empty() {
                return Err(Refusal::Malformed);
            }
            offer.plain |= name == MECHANISM;
            offer.plus |= name == MECHANISM_PLUS;
        }
        Ok(offer)
    }
}
