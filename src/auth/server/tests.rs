use super::*;
use crate::auth::scram::messages::{server_final, server_first};
use crate::auth::scram::{Transcript, Verifier};
use crate::auth::{
    Cause, ClientExchange, ClientStep, Method, Reason, ScramFault, ScramKeys, ScramSettings,
};
use proptest::prelude::*;

const FOO_MD5: &str = "md5ab8b744ff66bee42dc47bae34ca17959";
const FOO_SCRAM: &str = "SCRAM-SHA-256$4096:D76gvGUVj9Z4DNiGoabOBg==$RukL0Xo3Ql/2F9FsD7mcQ3GATG2fD3PA71qY1JagGDs=:BhKUwyyivFm7Tq2jDJVXSVRbRDgTWyBilZKgg6DDuYU=";
/// The user whose password `foo` FOO_MD5 is the hash of.
const USER: &str = "muser1";
/// The nonce of a start with sevens, base64.
const NONCE: &str = "BwcHBwcHBwcHBwcHBwcHBwcH";

const OK: &[u8] = &[0, 0, 0, 0];
const CLEARTEXT: &[u8] = &[0, 0, 0, 3];
const MD5: &[u8] = &[0, 0, 0, 5, 1, 2, 3, 4];
const SASL: &[u8] = b"\0\0\0\x0aSCRAM-SHA-256\0\0";

fn credential(secret: &str) -> Arc<Credential> {
    Arc::new(Credential::new(Secret::parse(secret.as_bytes())))
}

fn start(credential: Option<&Arc<Credential>>) -> ServerExchange {
    ServerExchange::start(USER, credential, None, |bytes| bytes.fill(7))
}

fn start_with(secret: &str) -> ServerExchange {
    start(Some(&credential(secret)))
}

fn sent(step: ServerStep) -> (Vec<u8>, ServerExchange) {
    match step {
        ServerStep::Send { message, next } => (message.into_bytes(), next),
        ServerStep::Derive(work) => sent(work.run()),
        other => panic!("nothing sent: {other:?}"),
    }
}

fn refused(step: ServerStep) -> Refusal {
    match step {
        ServerStep::Refuse(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn is_logged_in(step: ServerStep) -> bool {
    matches!(step, ServerStep::LoggedIn(_))
}

#[test]
fn a_trusting_server_logs_us_in() {
    assert!(is_logged_in(start(None).on_request(OK)));
    assert!(is_logged_in(start_with(FOO_SCRAM).on_request(OK)));
}

#[test]
fn clear_text_gives_the_password() {
    let (bytes, next) = sent(start_with("foo").on_request(CLEARTEXT));
    assert_eq!(bytes, b"p\0\0\0\x08foo\0");
    assert!(is_logged_in(next.on_request(OK)));
}

#[test]
fn md5_gives_the_same_answer_for_password_and_hash() {
    for secret in ["foo", FOO_MD5] {
        let (bytes, next) = sent(start_with(secret).on_request(MD5));
        assert_eq!(
            bytes, b"p\0\0\0\x28md5cbed5d7df5ce72a10b51fdf89c0cdc6b\0",
            "{secret}"
        );
        assert!(is_logged_in(next.on_request(OK)));
    }
}

#[test]
fn without_a_password_an_empty_one_is_sent() {
    let (bytes, _) = sent(start(None).on_request(CLEARTEXT));
    assert_eq!(bytes, b"p\0\0\0\x05\0");
}

#[test]
fn a_secret_of_the_wrong_kind_is_refused() {
    let cases: &[(&str, &[u8], Refusal)] = &[
        (FOO_MD5, CLEARTEXT, Refusal::WrongPasswordType("clear text")),
        (
            FOO_SCRAM,
            CLEARTEXT,
            Refusal::WrongPasswordType("clear text"),
        ),
        (FOO_SCRAM, MD5, Refusal::WrongPasswordType("MD5")),
        (FOO_MD5, SASL, Refusal::WrongPasswordType("SCRAM")),
        (FOO_SCRAM, SASL, Refusal::NoScramKeys),
    ];
    for (secret, request, expected) in cases {
        let refusal = refused(start_with(secret).on_request(request));
        assert_eq!(&refusal, expected);
        assert_eq!(
            refusal.client_text(),
            Some("server login failed: wrong password type")
        );
    }
}

#[test]
fn methods_nobody_can_answer_are_refused() {
    for code in [1_u32, 2, 4, 6, 7, 8, 9, 13, u32::MAX] {
        let refusal = refused(start_with("foo").on_request(&code.to_be_bytes()));
        assert_eq!(refusal, Refusal::UnsupportedMethod(code));
    }
}

#[test]
fn malformed_requests_are_refused() {
    let bodies: [&[u8]; 11] = [
        b"",
        b"\0\0\0",
        b"\0\0\0\0x",
        b"\0\0\0\x03x",
        b"\0\0\0\x05",
        b"\0\0\0\x05abc",
        b"\0\0\0\x05abcde",
        b"\0\0\0\x0a",
        b"\0\0\0\x0aSCRAM-SHA-256",
        b"\0\0\0\x0aSCRAM-SHA-256\0",
        b"\0\0\0\x0aSCRAM-SHA-256\0\0x\0\0",
    ];
    for body in bodies {
        assert_eq!(
            refused(start_with("foo").on_request(body)),
            Refusal::Malformed,
            "{body:?}"
        );
    }
}

#[test]
fn scram_is_found_among_other_mechanisms() {
    let offers = |list: &[u8]| start_with("foo").on_request(&[&[0, 0, 0, 10], list].concat());
    let (bytes, _) = sent(offers(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
    assert_eq!(bytes[5..19], *b"SCRAM-SHA-256\0");
    assert_eq!(bytes[23..], *format!("n,,n=,r={NONCE}").as_bytes());
    for list in [
        &b"SCRAM-SHA-256-PLUS\0\0"[..],
        b"scram-sha-256\0\0",
        b"OAUTHBEARER\0\0",
    ] {
        assert_eq!(refused(offers(list)), Refusal::NoMechanism);
    }
}

/// A server that stores `verifier`, as PostgreSQL is one.
struct ScramServer {
    verifier: Verifier,
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    keys: Option<ScramKeys>,
}

impl ScramServer {
    fn new(verifier: &str) -> Self {
        let verifier = Verifier::parse(verifier.as_bytes()).expect("a verifier");
        ScramServer {
            verifier,
            client_first_bare: vec![],
            server_first: vec![],
            keys: None,
        }
    }

    /// AuthenticationSASLContinue.
    fn first(&mut self, initial_response: &[u8]) -> Vec<u8> {
        self.client_first_bare = initial_response[26..].to_vec();
        let Verifier {
            salt, iterations, ..
        } = &self.verifier;
        self.server_first = server_first(NONCE.as_bytes(), "server", salt, *iterations);
        [&[0, 0, 0, 11], &*self.server_first].concat()
    }

    /// AuthenticationSASLFinal. Remembers whether the proof was right.
    fn last(&mut self, response: &[u8]) -> Vec<u8> {
        const PROOF: usize = ",p=".len() + 44;
        let (without_proof, proof) = response[5..].split_at(response.len() - 5 - PROOF);
        let proof = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &proof[3..]);
        let transcript = Transcript {
            client_first_bare: &self.client_first_bare,
            server_first: &self.server_first,
            client_final_without_proof: without_proof,
        };
        let proof = proof.expect("base64").try_into().expect("32 bytes");
        self.keys = self.verifier.check(&proof, &transcript);
        let signature = self.verifier.server_signature(&transcript);
        [&[0, 0, 0, 12], &*server_final(&signature)].concat()
    }

    /// Leads an exchange up to the wait for AuthenticationOk.
    fn serve(&mut self, exchange: ServerExchange) -> Result<ServerExchange, Refusal> {
        let (initial, next) = sent(exchange.on_request(SASL));
        let (response, next) = sent(next.on_request(&self.first(&initial)));
        match next.on_request(&self.last(&response)) {
            ServerStep::Wait(next) => Ok(next),
            ServerStep::Refuse(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn scram_with_a_password_logs_in() {
    let mut server = ScramServer::new(FOO_SCRAM);
    let next = server.serve(start_with("foo")).expect("signature is right");
    assert!(server.keys.is_some(), "proof is right");
    assert!(is_logged_in(next.on_request(OK)));
}

#[test]
fn a_server_that_does_not_know_the_password_is_refused() {
    let mut server = ScramServer::new(FOO_SCRAM);
    assert_eq!(
        server.serve(start_with("bar")).expect_err("refused"),
        Refusal::InvalidSignature
    );
    assert!(server.keys.is_none());
}

/// Logs a client in to the pooler by SCRAM, with password `foo`.
fn client_logs_in(stored: &Arc<Credential>) {
    let (step, _) = meet(stored, None, None, |offer| offer);
    assert!(matches!(step, ClientStep::Accept { .. }), "{step:?}");
}

/// The exchange towards servers is the client, with password `foo`, of the one
/// towards clients. Each sees a certificate, and somebody between may change
/// what is offered. Answers also what the client says first.
fn meet(
    stored: &Arc<Credential>,
    servers: Option<&[u8]>,
    clients: Option<&[u8]>,
    between: impl Fn(Vec<u8>) -> Vec<u8>,
) -> (ClientStep, String) {
    let settings = ScramSettings::new(4096, |_| {});
    let method = Method::ScramSha256;
    let step = ClientExchange::start(method, USER, Some(stored), &settings, servers, |_| {});
    let ClientStep::Send { message, next } = step else {
        panic!("{step:?}")
    };
    let offer = between(message.as_bytes()[5..].to_vec());
    let password = credential("foo");
    let client = ServerExchange::start(USER, Some(&password), clients, |bytes| bytes.fill(7));
    let (initial, client) = sent(client.on_request(&offer));
    let said = String::from_utf8_lossy(&initial[5..]).into_owned();
    let (message, next) = match next.on_message(&initial[5..]) {
        ClientStep::Send { message, next } => (message, next),
        step => return (step, said),
    };
    let (last, _) = sent(client.on_request(&message.as_bytes()[5..]));
    (next.on_message(&last[5..]), said)
}

#[test]
fn over_tls_both_sides_bind_to_the_certificate() {
    let stored = credential(FOO_SCRAM);
    let (step, said) = meet(&stored, Some(b"hash"), Some(b"hash"), |offer| offer);
    assert!(matches!(step, ClientStep::Accept { .. }), "{step:?}");
    assert!(said.starts_with("SCRAM-SHA-256-PLUS\0"), "{said}");
    assert!(said.contains("p=tls-server-end-point,,n="), "{said}");
}

#[test]
fn somebody_between_with_another_certificate_is_found_out() {
    let stored = credential(FOO_SCRAM);
    let (step, _) = meet(&stored, Some(b"hash"), Some(b"another"), |offer| offer);
    let found = Reason::Sasl(Cause::Scram(ScramFault::ChannelBindingMismatch));
    assert!(matches!(step, ClientStep::Reject(reason) if reason == found));
    // So is one that hides that there is a binding.
    let hide = |_| SASL.to_vec();
    let (step, said) = meet(&stored, Some(b"hash"), Some(b"another"), hide);
    assert!(said.contains("y,,n="), "{said}");
    let found = Reason::Sasl(Cause::Scram(ScramFault::BindingNotSeen));
    assert!(matches!(step, ClientStep::Reject(reason) if reason == found));
}

#[test]
fn a_side_that_cannot_bind_goes_without() {
    let stored = credential(FOO_SCRAM);
    for (servers, clients, flag) in [
        (None, Some(&b"hash"[..]), "y,,n="),
        (Some(&b"hash"[..]), None, "n,,n="),
    ] {
        let (step, said) = meet(&stored, servers, clients, |offer| offer);
        assert!(matches!(step, ClientStep::Accept { .. }), "{step:?}");
        assert!(said.starts_with("SCRAM-SHA-256\0") && said.contains(flag));
    }
}

#[test]
fn keys_of_a_clients_login_are_passed_through() {
    let stored = credential(FOO_SCRAM);
    client_logs_in(&stored);
    for _ in 0..2 {
        let mut server = ScramServer::new(FOO_SCRAM);
        let next = server
            .serve(start(Some(&stored)))
            .expect("signature is right");
        assert!(server.keys.is_some(), "proof is right");
        assert!(is_logged_in(next.on_request(OK)));
    }
}

#[test]
fn pbkdf2_runs_once_for_a_servers_salt() {
    let stored = credential("foo");
    let derives = |verifier: &str| {
        let mut server = ScramServer::new(verifier);
        let (initial, next) = sent(start(Some(&stored)).on_request(SASL));
        match next.on_request(&server.first(&initial)) {
            ServerStep::Derive(work) => {
                let (response, next) = sent(work.run());
                let step = next.on_request(&server.last(&response));
                assert!(matches!(step, ServerStep::Wait(_)));
                true
            }
            ServerStep::Send { .. } => false,
            other => panic!("{other:?}"),
        }
    };
    let other_salt = ScramKeys::derive(b"foo", b"pepper", 4096)
        .verifier(b"pepper", 4096)
        .to_stored();
    assert!(derives(FOO_SCRAM));
    assert!(!derives(FOO_SCRAM));
    assert!(derives(&other_salt));
    assert!(!derives(&other_salt));
    assert!(!derives(FOO_SCRAM));
}

fn at_continue() -> ServerExchange {
    sent(start_with("foo").on_request(SASL)).1
}

fn at_final() -> ServerExchange {
    // One iteration: the fuzzing comes by here often.
    let quick = ScramKeys::derive(b"foo", b"salt", 1).verifier(b"salt", 1);
    let mut server = ScramServer::new(&quick.to_stored());
    let (initial, next) = sent(start_with("foo").on_request(SASL));
    sent(next.on_request(&server.first(&initial))).1
}

fn at_ok() -> ServerExchange {
    sent(start_with("foo").on_request(CLEARTEXT)).1
}

#[test]
fn a_server_cannot_skip_its_signature() {
    for state in [at_continue(), at_final()] {
        assert_eq!(refused(state.on_request(OK)), Refusal::NoSignature);
    }
}

#[test]
fn requests_out_of_order_are_refused() {
    for code in [11, 12] {
        let refusal = refused(start_with("foo").on_request(&[0, 0, 0, code]));
        assert_eq!(refusal, Refusal::OutOfOrder(code.into()));
    }
    for code in [1, 3, 5, 10, 12] {
        let refusal = refused(at_continue().on_request(&[0, 0, 0, code]));
        assert_eq!(refusal, Refusal::OutOfOrder(code.into()));
    }
    for code in [1, 3, 5, 10, 11] {
        let refusal = refused(at_final().on_request(&[0, 0, 0, code]));
        assert_eq!(refusal, Refusal::OutOfOrder(code.into()));
    }
    for code in [1, 3, 5, 10, 11, 12] {
        let refusal = refused(at_ok().on_request(&[0, 0, 0, code]));
        assert_eq!(refusal, Refusal::OutOfOrder(code.into()));
    }
}

#[test]
fn a_hostile_challenge_is_refused_before_anything_is_computed() {
    let challenge = |rest: String| {
        let body = [&[0, 0, 0, 11], rest.as_bytes()].concat();
        refused(at_continue().on_request(&body))
    };
    let long = |bytes: usize| "x".repeat(bytes);
    let cases = [
        (
            format!("r={NONCE},s=c2FsdA==,i=1"),
            ScramFault::NonceMismatch,
        ),
        ("r=x,s=c2FsdA==,i=1".into(), ScramFault::NonceMismatch),
        (
            format!("r={NONCE}{},s=c2FsdA==,i=1", long(1001)),
            ScramFault::BadNonce,
        ),
        (
            format!("r={NONCE}{},s=c2FsdA==,i=1", long(1 << 20)),
            ScramFault::TooLong,
        ),
        (
            format!("r={NONCE}x,s={},i=1", long(60_000)),
            ScramFault::BadSalt,
        ),
        (format!("r={NONCE}x,s=???,i=1"), ScramFault::BadSalt),
        (
            format!("r={NONCE}x,s=c2FsdA==,i=0"),
            ScramFault::BadIterations,
        ),
        (
            format!("r={NONCE}x,s=c2FsdA==,i=-1"),
            ScramFault::BadIterations,
        ),
        (
            format!("r={NONCE}x,s=c2FsdA==,i=1000001"),
            ScramFault::BadIterations,
        ),
        (
            format!("r={NONCE}x,s=c2FsdA==,i=2147483648"),
            ScramFault::BadIterations,
        ),
    ];
    for (rest, fault) in cases {
        let shown = format!("{rest:.60}");
        assert_eq!(challenge(rest), Refusal::Scram(fault), "{shown}");
    }
}

#[test]
fn truncated_challenges_are_refused() {
    let mut server = ScramServer::new(FOO_SCRAM);
    let (initial, _) = sent(start_with("foo").on_request(SASL));
    let whole = server.first(&initial);
    // Cut inside the number it is a smaller number, hence the 4.
    for length in 0..whole.len() - 4 {
        refused(at_continue().on_request(&whole[..length]));
    }
}

#[test]
fn a_servers_error_is_refused() {
    let refusal = refused(at_final().on_request(b"\0\0\0\x0ce=invalid-proof"));
    assert_eq!(
        refusal.to_string(),
        "error received from server in SCRAM exchange: invalid-proof"
    );
}

#[test]
fn nothing_shows_a_secret() {
    let exchange = start_with("hunter2");
    assert!(!format!("{exchange:?}").contains("hunter2"));
    let step = exchange.on_request(CLEARTEXT);
    assert!(!format!("{step:?}").contains("hunter2"));
}

/// Requests that get past the first checks more often than noise does.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let data = prop_oneof![
        any::<Vec<u8>>(),
        "(r=(BwcH){6}[a-z]{0,3})?(,s=[A-Za-z0-9+/]{0,8})?(,i=[0-9]{0,3})?"
            .prop_map(String::into_bytes),
        "v=[A-Za-z0-9+/]{43}=".prop_map(String::into_bytes),
        "(SCRAM-SHA-256\0){0,2}\0?".prop_map(String::into_bytes),
    ];
    (any::<u8>(), data).prop_map(|(code, data)| [&[0, 0, 0, code % 16], &*data].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_panic_or_skip_the_proof(body in request()) {
        for state in [at_continue(), at_final()] {
            prop_assert!(!is_logged_in(state.on_request(&body)));
        }
        for state in [start_with("foo"), at_ok()] {
            prop_assert_eq!(is_logged_in(state.on_request(&body)), body == OK);
        }
    }
}
