//! Logins: what clients and servers send in them is any bytes.
//!
//! An input is a choice and then message bodies, each behind its length of two
//! bytes.

use std::sync::Arc;

use super::scram::messages::{
    ClientFirst, client_final, client_final_without_proof, client_first_bare, server_final,
    server_first,
};
use super::scram::{self, Transcript};
use super::{
    ClientExchange, ClientStep, Credential, LoginMessage, Md5Hash, Method, ScramKeys,
    ScramSettings, Secret, ServerExchange, ServerStep,
};
use crate::wire::fuzz::{Input, messages};

const USER: &str = "ann";
const PASSWORD: &[u8] = b"open sesame";
const SALT: &[u8] = b"0123456789abcdef";

/// Few, as PBKDF2 is run for many an input.
const ITERATIONS: u32 = 2;

/// Rounds of a login, more than any takes.
const ROUNDS: usize = 8;

fn sevens(bytes: &mut [u8]) {
    bytes.fill(7);
}

fn nonce() -> String {
    scram::nonce([7; scram::NONCE_BYTES])
}

/// Clients towards the pooler and the pooler towards servers: nobody gets in
/// without the password, whoever has it does, and no server is believed that
/// has not proven itself.
pub fn auth(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    match choice % 4 {
        0 => client(choice >> 2, input),
        1 => honest_client(choice >> 2, input),
        2 => server(choice >> 2, input),
        _ => honest_server(choice >> 2, input),
    }
}

fn secret(choice: u8) -> Secret {
    match choice % 4 {
        0 => Secret::parse(PASSWORD),
        1 => Secret::Md5(Md5Hash::of(PASSWORD, USER)),
        2 => {
            let keys = ScramKeys::derive(PASSWORD, SALT, ITERATIONS);
            Secret::Scram(keys.verifier(SALT, ITERATIONS))
        }
        _ => Secret::none(),
    }
}

fn start(choice: u8) -> (Method, ClientStep) {
    let method = [Method::Plain, Method::Md5, Method::ScramSha256][usize::from(choice % 3)];
    let credential = Arc::new(Credential::new(secret(choice / 3)));
    let known = (choice & 32 == 0).then_some(&credential);
    let settings = ScramSettings::new(ITERATIONS, sevens);
    let step = ClientExchange::start(method, USER, known, &settings, None, sevens);
    (method, step)
}

/// The number and data of a request to a client.
fn request(message: &LoginMessage) -> (u32, Vec<u8>) {
    let (all, lacks) = messages(message.as_bytes());
    assert!(all.len() == 1 && lacks == Some(0) && all[0][0] == b'R');
    let (code, data) = all[0][5..].split_first_chunk().expect("a number");
    (u32::from_be_bytes(*code), data.to_vec())
}

/// Any bodies, in any order.
fn client(choice: u8, mut input: Input<'_>) {
    let (method, mut step) = start(choice);
    let is_scram = matches!(secret(choice / 3), Secret::Scram(_));
    let mut last: &[u8] = b"";
    for _ in 0..ROUNDS {
        step = match step {
            ClientStep::Send { message, next } => {
                request(&message);
                last = input.block();
                next.on_message(last)
            }
            ClientStep::Derive(work) => work.run(),
            ClientStep::Accept { authenticated, .. } => {
                assert_eq!(authenticated.user(), USER);
                let hash = Md5Hash::of(PASSWORD, USER);
                let right = match method {
                    Method::Md5 => hash.answer([7; 4]).to_vec(),
                    _ => PASSWORD.to_vec(),
                };
                let last = last.strip_suffix(b"\0").expect("a terminator");
                // SASLprep makes several passwords one.
                let keys = |password: &[u8]| ScramKeys::derive(password, SALT, ITERATIONS);
                let alike = method == Method::Plain && is_scram && keys(last) == keys(PASSWORD);
                assert!(alike || last == right, "let in by {method:?}: {last:?}");
                return;
            }
            ClientStep::Reject(reason) => {
                assert!(!reason.client_text().is_empty() && !reason.to_string().is_empty());
                return;
            }
        };
    }
    panic!("a login without end");
}

/// A client that knows the password: whatever SCRAM lets it say first, it gets
/// in; and with one bit of the proof wrong it does not.
fn honest_client(choice: u8, mut input: Input<'_>) {
    let first = input.block();
    let wrong = choice & 16 != 0;
    let kind = if choice & 1 == 0 { 0 } else { 2 };
    let settings = ScramSettings::new(ITERATIONS, sevens);
    let credential = Arc::new(Credential::new(secret(kind)));
    let method = Method::ScramSha256;
    let step = ClientExchange::start(method, USER, Some(&credential), &settings, None, sevens);
    let ClientStep::Send { next, .. } = step else {
        panic!("nothing asked");
    };
    let body = LoginMessage::sasl_initial(scram::MECHANISM, first);
    let parsed = ClientFirst::parse(first);
    let step = match next.on_message(&body.as_bytes()[5..]) {
        ClientStep::Derive(work) => work.run(),
        step => step,
    };
    let (message, next) = match (step, &parsed) {
        (ClientStep::Send { message, next }, Ok(_)) => (message, next),
        (ClientStep::Reject(_), Err(_)) => return,
        (step, parsed) => panic!("{step:?} after {parsed:?}"),
    };
    let parsed = parsed.expect("just seen");
    let (_, challenge) = request(&message);
    let salt = if kind == 0 { &[7; 16][..] } else { SALT };
    let expected = server_first(parsed.nonce, &nonce(), salt, ITERATIONS);
    assert_eq!(challenge, expected);
    let binding: &[u8] = if first[0] == b'n' { b"biws" } else { b"eSws" };
    let own = nonce();
    let nonce = [parsed.nonce, own.as_bytes()].concat();
    let without_proof = [b"c=", binding, b",r=", &nonce].concat();
    let keys = ScramKeys::derive(PASSWORD, salt, ITERATIONS);
    let transcript = Transcript {
        client_first_bare: parsed.bare,
        server_first: &challenge,
        client_final_without_proof: &without_proof,
    };
    let mut proof = keys.proof(&transcript);
    if wrong {
        proof[usize::from(choice) % 32] ^= 1 << (choice % 8);
    }
    match next.on_message(&client_final(&without_proof, &proof)) {
        ClientStep::Accept { message, .. } if !wrong => {
            let (_, signature) = request(&message.expect("a signature"));
            let expected = server_final(&keys.server_signature(&transcript));
            assert_eq!(signature, expected);
        }
        ClientStep::Reject(_) if wrong => {}
        step => panic!("{step:?}, a wrong proof: {wrong}"),
    }
}

/// Any requests, in any order. Servers that ask for SCRAM do not come to
/// AuthenticationOk, as none of these can know the keys.
fn server(choice: u8, mut input: Input<'_>) {
    let credential = Arc::new(Credential::new(secret(choice)));
    let known = (choice & 32 == 0).then_some(&credential);
    let exchange = ServerExchange::start(USER, known, None, sevens);
    let mut step = ServerStep::Wait(exchange);
    let (mut last, mut scram): (&[u8], bool) = (b"", false);
    for _ in 0..ROUNDS {
        step = match step {
            ServerStep::Wait(next) => {
                last = input.block();
                next.on_request(last)
            }
            ServerStep::Send { message, next } => {
                let (all, lacks) = messages(message.as_bytes());
                assert!(all.len() == 1 && lacks == Some(0) && all[0][0] == b'p');
                scram |= last.starts_with(&10_u32.to_be_bytes());
                ServerStep::Wait(next)
            }
            // It may ask for a second's work: more than an input is worth.
            ServerStep::Derive(_) => return,
            ServerStep::LoggedIn(_) => {
                assert!(last == [0; 4] && !scram);
                return;
            }
            ServerStep::Refuse(refusal) => return assert!(!refusal.to_string().is_empty()),
        };
    }
}

/// A server that knows the password is believed, with whatever nonce and salt;
/// one that knows another is not.
fn honest_server(choice: u8, mut input: Input<'_>) {
    let wrong = choice & 16 != 0;
    let (extension, salt) = (input.block(), input.block());
    let printable = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
    let good = extension.iter().all(printable)
        && (1..=scram::MAX_NONCE_BYTES - nonce().len()).contains(&extension.len())
        && (1..=scram::MAX_SALT_BYTES).contains(&salt.len());
    let credential = Arc::new(Credential::new(secret(0)));
    let exchange = ServerExchange::start(USER, Some(&credential), None, sevens);
    let ask = |code: u32, data: &[u8]| [&code.to_be_bytes(), data].concat();
    let ServerStep::Send { next, .. } = exchange.on_request(&ask(10, b"SCRAM-SHA-256\0\0")) else {
        panic!("it can do SCRAM");
    };
    let own = nonce();
    let text = String::from_utf8_lossy(extension);
    let challenge = server_first(own.as_bytes(), &text, salt, ITERATIONS);
    let next = match next.on_request(&ask(11, &challenge)) {
        ServerStep::Derive(work) if good => match work.run() {
            ServerStep::Send { next, .. } => next,
            step => panic!("{step:?}"),
        },
        ServerStep::Refuse(_) if !good => return,
        step => panic!("{step:?} of a good challenge: {good}"),
    };
    let nonce = [own.as_bytes(), text.as_bytes()].concat();
    let transcript = Transcript {
        client_first_bare: &client_first_bare(&own),
        server_first: &challenge,
        client_final_without_proof: &client_final_without_proof(b"biws", &nonce),
    };
    let keys = ScramKeys::derive(PASSWORD, salt, ITERATIONS);
    let mut signature = keys.server_signature(&transcript);
    if wrong {
        signature[usize::from(choice) % 32] ^= 1 << (choice % 8);
    }
    match next.on_request(&ask(12, &server_final(&signature))) {
        ServerStep::Wait(next) if !wrong => {
            let step = next.on_request(&[0; 4]);
            assert!(matches!(step, ServerStep::LoggedIn(_)), "{step:?}");
        }
        ServerStep::Refuse(_) if wrong => {}
        step => panic!("{step:?} of a wrong signature: {wrong}"),
    }
}
