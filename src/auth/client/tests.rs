use super::*;
use crate::auth::scram::messages::{client_final, client_final_without_proof, server_final};
use crate::auth::scram::{ScramKeys, Transcript};
use crate::auth::{Md5Hash, Plaintext, ScramFault};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const FOO_MD5: &str = "md5ab8b744ff66bee42dc47bae34ca17959";
const FOO_SCRAM: &str = "SCRAM-SHA-256$4096:D76gvGUVj9Z4DNiGoabOBg==$RukL0Xo3Ql/2F9FsD7mcQ3GATG2fD3PA71qY1JagGDs=:BhKUwyyivFm7Tq2jDJVXSVRbRDgTWyBilZKgg6DDuYU=";
/// The user whose password `foo` FOO_MD5 is the hash of.
const USER: &str = "muser1";

/// Not random at all: every byte is 7.
fn sevens(bytes: &mut [u8]) {
    bytes.fill(7);
}

fn settings() -> ScramSettings {
    ScramSettings::new(4096, sevens)
}

fn credential(secret: &str) -> Arc<Credential> {
    Arc::new(Credential::new(Secret::parse(secret.as_bytes())))
}

fn start(method: Method, credential: Option<&Arc<Credential>>) -> ClientStep {
    ClientExchange::start(method, USER, credential, &settings(), None, sevens)
}

/// The message's code and data, and the state that takes the answer.
fn sent(step: ClientStep) -> (u32, Vec<u8>, ClientExchange) {
    match step {
        ClientStep::Send { message, next } => {
            let (code, data) = request(&message);
            (code, data, next)
        }
        ClientStep::Derive(work) => sent(work.run()),
        other => panic!("nothing sent: {other:?}"),
    }
}

fn request(message: &LoginMessage) -> (u32, Vec<u8>) {
    let bytes = message.as_bytes();
    assert_eq!(bytes[0], b'R');
    assert_eq!(bytes[1..5], (bytes.len() as u32 - 1).to_be_bytes());
    let code = u32::from_be_bytes(bytes[5..9].try_into().expect("four bytes"));
    (code, bytes[9..].to_vec())
}

/// How a login ended, and the codes of the requests on the way.
type Outcome = (Result<Authenticated, Reason>, Vec<u32>);

/// A client as libpq is one: does what it is asked, with `password`.
fn log_in(method: Method, credential: Option<&Arc<Credential>>, password: &str) -> Outcome {
    let mut requests = Vec::new();
    let mut scram = ScramClient::new(password);
    let mut step = start(method, credential);
    loop {
        step = match step {
            ClientStep::Send { message, next } => {
                let (code, data) = request(&message);
                requests.push(code);
                next.on_message(&scram.answer(code, &data))
            }
            ClientStep::Derive(work) => work.run(),
            ClientStep::Accept {
                message,
                authenticated,
            } => {
                if let Some(message) = message {
                    let (code, data) = request(&message);
                    requests.push(code);
                    assert_eq!(data, scram.expected_final, "server signature");
                }
                return (Ok(authenticated), requests);
            }
            ClientStep::Reject(reason) => return (Err(reason), requests),
        }
    }
}

struct ScramClient<'a> {
    password: &'a str,
    expected_final: Vec<u8>,
}

impl<'a> ScramClient<'a> {
    const FIRST_BARE: &'static str = "n=,r=client-nonce";

    fn new(password: &'a str) -> Self {
        ScramClient {
            password,
            expected_final: Vec::new(),
        }
    }

    fn answer(&mut self, code: u32, data: &[u8]) -> Vec<u8> {
        match code {
            3 => [self.password.as_bytes(), b"\0"].concat(),
            5 => {
                let salt = data.try_into().expect("four bytes of salt");
                let answer = Md5Hash::of(self.password.as_bytes(), USER).answer(salt);
                [&answer[..], b"\0"].concat()
            }
            10 => {
                assert_eq!(data, b"SCRAM-SHA-256\0\0");
                initial_response(&format!("n,,{}", Self::FIRST_BARE))
            }
            11 => self.last(data),
            _ => panic!("unexpected request {code}"),
        }
    }

    fn last(&mut self, server_first: &[u8]) -> Vec<u8> {
        let first = crate::auth::scram::messages::ServerFirst::parse(server_first, b"client-nonce")
            .expect("good server-first-message");
        let keys = ScramKeys::derive(self.password.as_bytes(), &first.salt, first.iterations);
        let without_proof = client_final_without_proof(b"biws", first.nonce);
        let transcript = Transcript {
            client_first_bare: Self::FIRST_BARE.as_bytes(),
            server_first,
            client_final_without_proof: &without_proof,
        };
        self.expected_final = server_final(&keys.server_signature(&transcript));
        client_final(&without_proof, &keys.proof(&transcript))
    }
}

fn initial_response(first: &str) -> Vec<u8> {
    let length = first.len() as u32;
    [
        b"SCRAM-SHA-256\0",
        &length.to_be_bytes()[..],
        first.as_bytes(),
    ]
    .concat()
}

const TRUST: &str = "\"trust\" authentication failed";
const PASSWORD: &str = "password authentication failed";
const SASL: &str = "SASL authentication failed";

type Expected = Result<&'static [u32], &'static str>;

/// Method, stored secret, what becomes of password `foo`, and of a wrong one.
/// `Ok` holds the codes of the requests that the client saw.
#[rustfmt::skip]
const MATRIX: &[(Method, Option<&str>, Expected, Expected)] = &[
    (Method::Any,         None,            Ok(&[]),           Ok(&[])),
    (Method::Any,         Some(""),        Ok(&[]),           Ok(&[])),
    (Method::Any,         Some("foo"),     Ok(&[]),           Ok(&[])),
    (Method::Any,         Some(FOO_MD5),   Ok(&[]),           Ok(&[])),
    (Method::Any,         Some(FOO_SCRAM), Ok(&[]),           Ok(&[])),
    (Method::Trust,       None,            Err(TRUST),        Err(TRUST)),
    (Method::Trust,       Some(""),        Ok(&[]),           Ok(&[])),
    (Method::Trust,       Some("foo"),     Ok(&[]),           Ok(&[])),
    (Method::Trust,       Some(FOO_MD5),   Ok(&[]),           Ok(&[])),
    (Method::Trust,       Some(FOO_SCRAM), Ok(&[]),           Ok(&[])),
    (Method::Plain,       None,            Err(PASSWORD),     Err(PASSWORD)),
    (Method::Plain,       Some(""),        Err(PASSWORD),     Err(PASSWORD)),
    (Method::Plain,       Some("foo"),     Ok(&[3]),          Err(PASSWORD)),
    (Method::Plain,       Some(FOO_MD5),   Ok(&[3]),          Err(PASSWORD)),
    (Method::Plain,       Some(FOO_SCRAM), Ok(&[3]),          Err(PASSWORD)),
    (Method::Md5,         None,            Err(PASSWORD),     Err(PASSWORD)),
    (Method::Md5,         Some(""),        Err(PASSWORD),     Err(PASSWORD)),
    (Method::Md5,         Some("foo"),     Ok(&[5]),          Err(PASSWORD)),
    (Method::Md5,         Some(FOO_MD5),   Ok(&[5]),          Err(PASSWORD)),
    (Method::Md5,         Some(FOO_SCRAM), Ok(&[10, 11, 12]), Err(SASL)),
    (Method::ScramSha256, None,            Err(SASL),         Err(SASL)),
    (Method::ScramSha256, Some(""),        Err(SASL),         Err(SASL)),
    (Method::ScramSha256, Some("foo"),     Ok(&[10, 11, 12]), Err(SASL)),
    (Method::ScramSha256, Some(FOO_MD5),   Err(SASL),         Err(SASL)),
    (Method::ScramSha256, Some(FOO_SCRAM), Ok(&[10, 11, 12]), Err(SASL)),
];

fn check(row: usize, password: &str, expected: Expected) {
    let (method, secret, ..) = MATRIX[row];
    let known = secret.map(credential);
    let (outcome, requests) = log_in(method, known.as_ref(), password);
    let shown = format!("{method:?}, secret {secret:?}, password {password}");
    match (outcome, expected) {
        (Ok(authenticated), Ok(expected)) => {
            assert_eq!(requests, expected, "{shown}");
            assert_eq!(authenticated.user(), USER, "{shown}");
        }
        (Err(reason), Err(expected)) => assert_eq!(reason.client_text(), expected, "{shown}"),
        (outcome, _) => panic!("{shown}: {outcome:?}"),
    }
}

#[test]
fn every_method_meets_every_secret() {
    for (row, &(_, _, right, wrong)) in MATRIX.iter().enumerate() {
        check(row, "foo", right);
        check(row, "bar", wrong);
    }
}

#[test]
fn an_empty_password_is_always_refused() {
    for method in [Method::Plain, Method::Md5] {
        for secret in ["", "foo", FOO_MD5] {
            let (_, _, next) = sent(start(method, Some(&credential(secret))));
            assert_eq!(rejected(next.on_message(b"\0")), Reason::EmptyPassword);
        }
    }
    let (outcome, _) = log_in(Method::ScramSha256, Some(&credential("")), "");
    assert_eq!(
        outcome.expect_err("refused"),
        Reason::Sasl(Cause::NoPassword(USER.into()))
    );
}

fn rejected(step: ClientStep) -> Reason {
    match step {
        ClientStep::Reject(reason) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_text_of_a_hash_is_no_password() {
    for secret in [FOO_MD5, FOO_SCRAM] {
        for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
            let (outcome, _) = log_in(method, Some(&credential(secret)), secret);
            assert!(outcome.is_err(), "{method:?}");
        }
    }
}

#[test]
fn unknown_users_see_the_messages_of_known_ones() {
    let (known, requests) = log_in(Method::ScramSha256, Some(&credential(FOO_SCRAM)), "bar");
    assert_eq!(
        known.expect_err("wrong"),
        Reason::Sasl(Cause::WrongPassword)
    );
    for secret in [None, Some(""), Some(FOO_MD5)] {
        let (unknown, seen) = log_in(Method::ScramSha256, secret.map(credential).as_ref(), "bar");
        assert!(unknown.is_err());
        assert_eq!(seen, requests);
    }
    for method in [Method::Plain, Method::Md5] {
        let (_, requests) = log_in(method, Some(&credential("foo")), "bar");
        assert_eq!(log_in(method, None, "bar").1, requests);
    }
}

/// server-first-message to `user`.
fn server_first_to(
    user: &str,
    credential: Option<&Arc<Credential>>,
    settings: &ScramSettings,
) -> String {
    let method = Method::ScramSha256;
    let step = ClientExchange::start(method, user, credential, settings, None, sevens);
    let (_, _, next) = sent(step);
    let (code, data, _) = sent(next.on_message(&initial_response("n,,n=,r=abc")));
    assert_eq!(code, 11);
    String::from_utf8(data).expect("ASCII")
}

#[test]
fn an_unknown_user_always_has_the_same_salt() {
    let settings = settings();
    let first = server_first_to("nobody", None, &settings);
    assert_eq!(
        first,
        server_first_to("nobody", None, &settings.with_iterations(4096))
    );
    assert_ne!(first, server_first_to("nobody2", None, &settings));
    let other_process = ScramSettings::new(4096, |bytes| bytes.fill(8));
    assert_ne!(first, server_first_to("nobody", None, &other_process));
}

#[test]
fn an_unknown_users_challenge_looks_like_a_known_ones() {
    let plain = server_first_to(USER, Some(&credential("foo")), &settings());
    let unknown = server_first_to(USER, None, &settings());
    assert_eq!(plain.len(), unknown.len());
    assert!(plain.ends_with(",i=4096") && unknown.ends_with(",i=4096"));
}

#[test]
fn scram_iterations_hold_for_made_up_verifiers() {
    let settings = settings().with_iterations(1000);
    assert!(server_first_to(USER, Some(&credential("foo")), &settings).ends_with(",i=1000"));
    assert!(server_first_to(USER, None, &settings).ends_with(",i=1000"));
    assert!(server_first_to(USER, Some(&credential(FOO_SCRAM)), &settings).ends_with(",i=4096"));
    assert!(server_first_to(USER, None, &settings.with_iterations(0)).ends_with(",i=1"));
}

/// How often a login has to compute.
fn derivations(method: Method, credential: &Arc<Credential>) -> usize {
    let mut count = 0;
    let mut scram = ScramClient::new("foo");
    let mut step = start(method, Some(credential));
    loop {
        step = match step {
            ClientStep::Send { message, next } => {
                let (code, data) = request(&message);
                next.on_message(&scram.answer(code, &data))
            }
            ClientStep::Derive(work) => {
                count += 1;
                work.run()
            }
            ClientStep::Accept { .. } => return count,
            ClientStep::Reject(reason) => panic!("{reason}"),
        }
    }
}

#[test]
fn pbkdf2_runs_once_for_a_secret() {
    let plain = credential("foo");
    assert_eq!(derivations(Method::ScramSha256, &plain), 1);
    assert_eq!(derivations(Method::ScramSha256, &plain), 0);
    let scram = credential(FOO_SCRAM);
    assert_eq!(derivations(Method::Plain, &scram), 1);
    assert_eq!(derivations(Method::Plain, &scram), 0);
    assert_eq!(derivations(Method::ScramSha256, &scram), 0);
}

#[test]
fn logins_at_the_same_time_share_one_verifier() {
    let plain = credential("foo");
    let pending = || {
        let (_, _, next) = sent(start(Method::ScramSha256, Some(&plain)));
        match next.on_message(&initial_response("n,,n=,r=abc")) {
            ClientStep::Derive(work) => work,
            other => panic!("nothing to compute: {other:?}"),
        }
    };
    let (first, second) = (pending(), pending());
    let salt_of = |work: ClientDerivation| sent(work.run()).1;
    assert_eq!(salt_of(first), salt_of(second));
}

#[test]
fn a_wrong_password_after_a_right_one_is_refused() {
    let scram = credential(FOO_SCRAM);
    assert!(log_in(Method::Plain, Some(&scram), "foo").0.is_ok());
    assert!(log_in(Method::Plain, Some(&scram), "bar").0.is_err());
}

#[test]
fn scram_against_a_stored_verifier_reveals_the_keys() {
    let stored = credential(FOO_SCRAM);
    let (outcome, _) = log_in(Method::Md5, Some(&stored), "foo");
    let Secret::Scram(verifier) = stored.secret() else {
        panic!("a verifier")
    };
    let keys = ScramKeys::derive(b"foo", &verifier.salt, verifier.iterations);
    assert_eq!(outcome.expect("accepted").scram_keys(), Some(&keys));
    assert_eq!(stored.scram_keys(), Some(&keys));
}

#[test]
fn scram_against_a_plain_secret_reveals_no_keys() {
    let (outcome, _) = log_in(Method::ScramSha256, Some(&credential("foo")), "foo");
    let authenticated = outcome.expect("accepted");
    assert_eq!(authenticated.scram_keys(), None);
    assert_eq!(authenticated.password(), Some(&Plaintext::new(*b"foo")));
}

#[test]
fn a_failed_login_reveals_no_keys() {
    let stored = credential(FOO_SCRAM);
    assert!(log_in(Method::ScramSha256, Some(&stored), "bar").0.is_err());
    assert_eq!(stored.scram_keys(), None);
}

#[test]
fn the_typed_password_is_carried_on() {
    for secret in ["foo", FOO_MD5, FOO_SCRAM] {
        let (outcome, _) = log_in(Method::Plain, Some(&credential(secret)), "foo");
        let authenticated = outcome.expect("accepted");
        assert_eq!(
            authenticated.password(),
            Some(&Plaintext::new(*b"foo")),
            "{secret}"
        );
    }
    for secret in [FOO_MD5, FOO_SCRAM] {
        let (outcome, _) = log_in(Method::Md5, Some(&credential(secret)), "foo");
        assert_eq!(outcome.expect("accepted").password(), None, "{secret}");
    }
}

#[test]
fn passwords_of_every_length_are_handled() {
    for length in [1, 1023, 1024, 2047, 65_530] {
        let password = "p".repeat(length);
        let known = credential(&password);
        assert!(
            log_in(Method::Plain, Some(&known), &password).0.is_ok(),
            "{length}"
        );
        assert!(
            log_in(Method::Plain, Some(&known), &password[1..])
                .0
                .is_err(),
            "{length}"
        );
    }
    let known = credential(&"p".repeat(65_531));
    let (outcome, _) = log_in(Method::Plain, Some(&known), &"p".repeat(65_531));
    assert_eq!(outcome.expect_err("too long").client_text(), PASSWORD);
}

/// The shortest of many runs of each: what else the machine does only adds to
/// a run, and to all of them alike as they take turns.
fn shortest<const N: usize>(cases: [(Option<&Arc<Credential>>, &[u8]); N]) -> [Duration; N] {
    let mut shortest = [Duration::MAX; N];
    for _ in 0..40 {
        for (shortest, (credential, guess)) in shortest.iter_mut().zip(cases) {
            let (_, _, next) = sent(start(Method::Plain, credential));
            let begun = Instant::now();
            let step = std::hint::black_box(next.on_message(guess));
            *shortest = begun.elapsed().min(*shortest);
            rejected(step);
        }
    }
    shortest
}

fn assert_alike(times: &[Duration]) {
    let (least, most) = (times.iter().min(), times.iter().max());
    let (least, most) = (least.expect("some"), most.expect("some"));
    assert!(*most < 2 * *least, "{times:?}");
}

#[test]
fn a_wrong_password_takes_as_long_wherever_it_is_wrong() {
    const LENGTH: usize = 60_000;
    let known = credential(&"p".repeat(LENGTH));
    let wrong_at = |place: usize| {
        let mut guess = [vec![b'p'; LENGTH], vec![0]].concat();
        guess[place] = b'q';
        guess
    };
    let guesses = [0, 1, LENGTH / 2, LENGTH - 1].map(wrong_at);
    assert_alike(&shortest(
        guesses.each_ref().map(|guess| (Some(&known), &guess[..])),
    ));
}

#[test]
fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let (known, blank) = (credential("foo"), credential(""));
    let guess = [vec![b'p'; 60_000], vec![0]].concat();
    let cases = [Some(&known), Some(&blank), None];
    assert_alike(&shortest(cases.map(|case| (case, &guess[..]))));
}

#[test]
fn an_md5_answer_holds_for_its_salt_only() {
    let (_, data, next) = sent(start(Method::Md5, Some(&credential("foo"))));
    assert_eq!(data, [7; 4]);
    let answer = Md5Hash::of(b"foo", USER).answer([8; 4]);
    let reason = rejected(next.on_message(&[&answer[..], b"\0"].concat()));
    assert_eq!(reason, Reason::Password(Cause::WrongPassword));
}

#[test]
fn a_secret_with_too_many_iterations_is_not_computed() {
    let costly = FOO_SCRAM.replace("4096", "1000001");
    let (outcome, _) = log_in(Method::Plain, Some(&credential(&costly)), "foo");
    assert_eq!(
        outcome.expect_err("refused"),
        Reason::Password(Cause::TooManyIterations)
    );
}

#[test]
fn malformed_passwords_are_refused() {
    for method in [Method::Plain, Method::Md5] {
        for body in [&b""[..], b"foo", b"foo\0x", b"foo\0foo\0"] {
            let (_, _, next) = sent(start(method, Some(&credential("foo"))));
            let reason = rejected(next.on_message(body));
            assert_eq!(reason.client_text(), PASSWORD);
        }
    }
}

fn at_client_first(secret: &str) -> ClientExchange {
    sent(start(Method::ScramSha256, Some(&credential(secret)))).2
}

fn at_client_final(secret: &str) -> ClientExchange {
    sent(at_client_first(secret).on_message(&initial_response("n,,n=,r=abc"))).2
}

#[test]
fn other_mechanisms_are_refused() {
    for mechanism in [
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-1",
        "PLAIN",
        "",
        "scram-sha-256",
    ] {
        let body = [mechanism.as_bytes(), b"\0\0\0\0\0"].concat();
        assert_eq!(
            rejected(at_client_first(FOO_SCRAM).on_message(&body)),
            Reason::Mechanism
        );
    }
}

#[test]
fn sasl_responses_of_a_wrong_length_are_refused() {
    let first = b"n,,n=,r=abc";
    for length in (0..8).chain([10, 12, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
        let body = [b"SCRAM-SHA-256\0", &u32::to_be_bytes(length)[..], first].concat();
        let reason = rejected(at_client_first(FOO_SCRAM).on_message(&body));
        assert_eq!(reason.client_text(), SASL, "{length}");
    }
}

#[test]
fn truncated_sasl_messages_are_refused() {
    let first = initial_response("n,,n=,r=abc");
    for length in 0..first.len() {
        rejected(at_client_first(FOO_SCRAM).on_message(&first[..length]));
    }
    let (_, challenge, next) =
        sent(at_client_first("foo").on_message(&initial_response("n,,n=,r=client-nonce")));
    drop(next);
    let last = ScramClient::new("foo").last(&challenge);
    for length in 0..last.len() {
        rejected(at_client_final(FOO_SCRAM).on_message(&last[..length]));
    }
}

#[test]
fn channel_binding_and_other_identities_are_refused() {
    let refuse = |first| rejected(at_client_first(FOO_SCRAM).on_message(&initial_response(first)));
    let expected = |fault| Reason::Sasl(Cause::Scram(fault));
    let binding = refuse("p=tls-server-end-point,,n=,r=abc");
    assert_eq!(binding, expected(ScramFault::ChannelBindingRequired));
    assert_eq!(
        refuse("n,a=postgres,n=,r=abc"),
        expected(ScramFault::AuthorizationIdentity)
    );
}

#[test]
fn over_tls_the_mechanism_and_the_flag_have_to_belong_together() {
    let answer = |mechanism: &str, first: &str| {
        let known = credential(FOO_SCRAM);
        let step = ClientExchange::start(
            Method::ScramSha256,
            USER,
            Some(&known),
            &settings(),
            Some(b"hash"),
            sevens,
        );
        let (_, offered, next) = sent(step);
        assert_eq!(offered, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let length = (first.len() as u32).to_be_bytes();
        let body = [mechanism.as_bytes(), b"\0", &length, first.as_bytes()].concat();
        match next.on_message(&body) {
            ClientStep::Send { .. } => Ok(()),
            ClientStep::Reject(Reason::Sasl(Cause::Scram(fault))) => Err(fault),
            other => panic!("{other:?}"),
        }
    };
    let (plain, plus) = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS");
    let bound = "p=tls-server-end-point,,n=,r=abc";
    assert_eq!(answer(plus, bound), Ok(()));
    assert_eq!(answer(plain, "n,,n=,r=abc"), Ok(()));
    let other = Err(ScramFault::BindingOfOtherMechanism);
    assert_eq!(answer(plain, bound), other);
    assert_eq!(answer(plus, "n,,n=,r=abc"), other);
    assert_eq!(answer(plus, "y,,n=,r=abc"), other);
    let removed = answer(plain, "y,,n=,r=abc");
    assert_eq!(removed, Err(ScramFault::BindingNotSeen));
    let unique = answer(plus, "p=tls-unique,,n=,r=abc");
    assert_eq!(unique, Err(ScramFault::BindingType));
}

#[test]
fn a_nonce_of_sevens_is_what_the_other_tests_say() {
    let first = server_first_to(USER, None, &settings());
    assert!(first.starts_with(&format!("r=abc{},", "BwcH".repeat(6))));
}

#[test]
fn a_proof_cannot_be_replayed_to_another_nonce() {
    let (_, challenge, next) =
        sent(at_client_first(FOO_SCRAM).on_message(&initial_response("n,,n=,r=client-nonce")));
    let last = ScramClient::new("foo").last(&challenge);
    assert!(matches!(next.on_message(&last), ClientStep::Accept { .. }));
    let step = ClientExchange::start(
        Method::ScramSha256,
        USER,
        Some(&credential(FOO_SCRAM)),
        &settings(),
        None,
        |bytes| bytes.fill(9),
    );
    let (_, _, next) = sent(step);
    let (_, _, next) = sent(next.on_message(&initial_response("n,,n=,r=client-nonce")));
    assert_eq!(
        rejected(next.on_message(&last)),
        Reason::Sasl(Cause::Scram(ScramFault::NonceMismatch))
    );
}

#[test]
fn nothing_shows_a_secret() {
    let secret = credential("hunter2");
    for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
        let step = start(method, Some(&secret));
        assert!(!format!("{step:?}").contains("hunter2"));
    }
    assert!(!format!("{:?}", settings()).contains('7'));
}

fn every_state() -> Vec<ClientExchange> {
    let mut states = vec![at_client_final(FOO_SCRAM), at_client_final("foo")];
    for secret in [None, Some("foo"), Some(FOO_MD5), Some(FOO_SCRAM)] {
        for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
            states.push(sent(start(method, secret.map(credential).as_ref())).2);
        }
    }
    states
}

/// Answers that get past the first checks more often than noise does.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        "(SCRAM-SHA-256)?\0?[\0-\x20]{0,4}[ny],,n=,r=[a-z]{0,5}".prop_map(String::into_bytes),
        "c=biws,r=abc[A-Za-z0-9+/=]{0,24},p=[A-Za-z0-9+/]{43}=".prop_map(String::into_bytes),
        "md5[0-9a-f]{32}\0".prop_map(String::into_bytes),
        // All is right but the proof: the nonce is the one made of sevens.
        any::<[u8; 32]>().prop_map(|proof| {
            let nonce = format!("abc{}", "BwcH".repeat(6));
            client_final(
                &client_final_without_proof(b"biws", nonce.as_bytes()),
                &proof,
            )
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic_or_pass(body in answer()) {
        for state in every_state() {
            let accepted = matches!(state.on_message(&body), ClientStep::Accept { .. });
            prop_assert!(!accepted);
        }
    }
}
