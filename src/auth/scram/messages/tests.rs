use super::*;
use proptest::prelude::*;

#[test]
fn client_first_is_read() {
    let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").expect("RFC 7677");
    assert_eq!(first.flag, Gs2Flag::No);
    assert_eq!(first.bare, b"n=user,r=rOprNGfwEbeRWgbNEkqO");
    assert_eq!(first.nonce, b"rOprNGfwEbeRWgbNEkqO");
    let first = ClientFirst::parse(b"y,,n=,r=abc,x=ext,y=").expect("flag y, extensions");
    assert_eq!(
        (first.flag, first.nonce),
        (Gs2Flag::NotOffered, &b"abc"[..])
    );
    let first = ClientFirst::parse(b"p=tls-server-end-point,,n=,r=abc").expect("flag p");
    assert_eq!(
        (first.flag, first.bare),
        (Gs2Flag::EndPoint, &b"n=,r=abc"[..])
    );
}

#[test]
fn what_is_bound_to_stands_behind_the_header() {
    for (flag, binding) in [
        (Gs2Flag::No, "biws"),
        (Gs2Flag::NotOffered, "eSws"),
        (Gs2Flag::EndPoint, "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAQID"),
    ] {
        assert_eq!(flag.binding(Some(&[1, 2, 3])), binding.as_bytes());
    }
}

#[test]
fn bad_client_first_is_refused() {
    let long = format!("n,,n=,r={}", "x".repeat(MAX_NONCE_BYTES + 1));
    let huge = format!("n,,n={},r=abc", "x".repeat(MAX_SASL_BYTES));
    let cases: &[(&[u8], ScramFault)] = &[
        (b"", ScramFault::BadFlag),
        (b"n", ScramFault::BadFlag),
        (b"x,,n=,r=abc", ScramFault::BadFlag),
        (b"p,,n=,r=abc", ScramFault::BadFlag),
        (b"p=,,n=,r=abc", ScramFault::BindingType),
        (b"p=tls-unique,,n=,r=abc", ScramFault::BindingType),
        (b"p=tls-server-end-point", ScramFault::BindingType),
        (
            b"p=tls-server-end-point,a=bob,n=,r=abc",
            ScramFault::AuthorizationIdentity,
        ),
        (b"n,a=admin,n=,r=abc", ScramFault::AuthorizationIdentity),
        (b"n,", ScramFault::AttributeExpected('a')),
        (b"n,x,n=,r=abc", ScramFault::AttributeExpected('a')),
        (b"n,,m=ext,n=,r=abc", ScramFault::MandatoryExtension),
        (b"n,,", ScramFault::AttributeExpected('n')),
        (b"n,,r=abc", ScramFault::AttributeExpected('n')),
        (b"n,,n=", ScramFault::AttributeExpected('r')),
        (b"n,,n=,", ScramFault::AttributeExpected('r')),
        (b"n,,n=,r", ScramFault::AttributeExpected('r')),
        (b"n,,n=,r=", ScramFault::BadNonce),
        (b"n,,n=,r=a b", ScramFault::BadNonce),
        (b"n,,n=,r=a\xffb", ScramFault::BadNonce),
        (b"n,,n=,r=a\x7fb", ScramFault::BadNonce),
        (b"n,,n=,r=abc,", ScramFault::BadExtension),
        (b"n,,n=,r=abc,1=x", ScramFault::BadExtension),
        (b"n,,n=,r=abc\0", ScramFault::ZeroByte),
        (long.as_bytes(), ScramFault::BadNonce),
        (huge.as_bytes(), ScramFault::TooLong),
    ];
    for (message, fault) in cases {
        let shown = String::from_utf8_lossy(message);
        assert_eq!(
            ClientFirst::parse(message),
            Err(fault.clone()),
            "{shown:.80}"
        );
    }
}

#[test]
fn client_final_is_read() {
    let message = b"c=biws,r=nonce,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let read = ClientFinal::parse(message, b"biws", b"nonce").expect("good");
    assert_eq!(read.without_proof, b"c=biws,r=nonce");
    assert_eq!(client_final(read.without_proof, &read.proof), message);
}

#[test]
fn extensions_of_client_final_are_signed_with_it() {
    let message = b"c=eSws,r=nonce,x=1,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let read = ClientFinal::parse(message, b"eSws", b"nonce").expect("good");
    assert_eq!(read.without_proof, b"c=eSws,r=nonce,x=1");
}

#[test]
fn bad_client_final_is_refused() {
    let proof = STANDARD.encode([7; 32]);
    let short = STANDARD.encode([7; 31]);
    let cases = [
        (String::new(), ScramFault::AttributeExpected('c')),
        (
            format!("r=nonce,p={proof}"),
            ScramFault::AttributeExpected('c'),
        ),
        (
            format!("c=eSws,r=nonce,p={proof}"),
            ScramFault::ChannelBindingMismatch,
        ),
        (
            format!("c=cD10bHM=,r=nonce,p={proof}"),
            ScramFault::ChannelBindingMismatch,
        ),
        (
            format!("c=biws,p={proof}"),
            ScramFault::AttributeExpected('r'),
        ),
        (
            format!("c=biws,r=nonc,p={proof}"),
            ScramFault::NonceMismatch,
        ),
        (
            format!("c=biws,r=nonce2,p={proof}"),
            ScramFault::NonceMismatch,
        ),
        (format!("c=biws,r=,p={proof}"), ScramFault::NonceMismatch),
        ("c=biws,r=nonce".into(), ScramFault::BadExtension),
        ("c=biws,r=nonce,".into(), ScramFault::BadExtension),
        ("c=biws,r=nonce,x=1".into(), ScramFault::BadExtension),
        ("c=biws,r=nonce,p=".into(), ScramFault::BadProof),
        (format!("c=biws,r=nonce,p={short}"), ScramFault::BadProof),
        (format!("c=biws,r=nonce,p={proof}="), ScramFault::BadProof),
        (
            format!("c=biws,r=nonce,p= {}", &proof[1..]),
            ScramFault::BadProof,
        ),
        (
            format!("c=biws,r=nonce,p={}*=", &proof[..42]),
            ScramFault::BadProof,
        ),
        (format!("c=biws,r=nonce,p={proof},"), ScramFault::Garbage),
        (format!("c=biws,r=nonce,p={proof},x=1"), ScramFault::Garbage),
    ];
    for (message, fault) in cases {
        let read = ClientFinal::parse(message.as_bytes(), b"biws", b"nonce");
        assert_eq!(read, Err(fault), "{message}");
    }
}

#[test]
fn server_first_is_read() {
    let message = server_first(b"abc", "def", &[1, 2, 3], 4096);
    assert_eq!(message, b"r=abcdef,s=AQID,i=4096");
    let read = ServerFirst::parse(&message, b"abc").expect("good");
    assert_eq!(
        read,
        ServerFirst {
            nonce: b"abcdef",
            salt: vec![1, 2, 3],
            iterations: 4096
        }
    );
}

#[test]
fn bad_server_first_is_refused() {
    let nonce = |bytes: usize| format!("abc{}", "x".repeat(bytes - 3));
    let salt = |bytes: usize| STANDARD.encode(vec![7; bytes]);
    let cases = [
        (String::new(), ScramFault::AttributeExpected('r')),
        ("s=AQID,i=4096".into(), ScramFault::AttributeExpected('r')),
        (
            "m=x,r=abcdef,s=AQID,i=4096".into(),
            ScramFault::AttributeExpected('r'),
        ),
        ("r=,s=AQID,i=4096".into(), ScramFault::BadNonce),
        ("r=abc,s=AQID,i=4096".into(), ScramFault::NonceMismatch),
        ("r=xyzabc,s=AQID,i=4096".into(), ScramFault::NonceMismatch),
        ("r=ab,s=AQID,i=4096".into(), ScramFault::NonceMismatch),
        (
            format!("r={},s=AQID,i=4096", nonce(1025)),
            ScramFault::BadNonce,
        ),
        (
            format!("r={},s=AQID,i=4096", nonce(60_000)),
            ScramFault::BadNonce,
        ),
        (
            format!("r={},s=AQID,i=4096", nonce(1 << 20)),
            ScramFault::TooLong,
        ),
        ("r=abcdef,s=,i=4096".into(), ScramFault::BadSalt),
        ("r=abcdef,s=AQI,i=4096".into(), ScramFault::BadSalt),
        ("r=abcdef,s=AQ D,i=4096".into(), ScramFault::BadSalt),
        (
            format!("r=abcdef,s={},i=4096", salt(1025)),
            ScramFault::BadSalt,
        ),
        ("r=abcdef,s=AQID".into(), ScramFault::AttributeExpected('i')),
        ("r=abcdef,s=AQID,i=".into(), ScramFault::BadIterations),
        ("r=abcdef,s=AQID,i=0".into(), ScramFault::BadIterations),
        ("r=abcdef,s=AQID,i=-1".into(), ScramFault::BadIterations),
        ("r=abcdef,s=AQID,i=+1".into(), ScramFault::BadIterations),
        ("r=abcdef,s=AQID,i=4096 ".into(), ScramFault::BadIterations),
        (
            "r=abcdef,s=AQID,i=1000001".into(),
            ScramFault::BadIterations,
        ),
        (
            "r=abcdef,s=AQID,i=2147483648".into(),
            ScramFault::BadIterations,
        ),
        (
            "r=abcdef,s=AQID,i=4294967297".into(),
            ScramFault::BadIterations,
        ),
        ("r=abcdef,s=AQID,i=4096,".into(), ScramFault::Garbage),
        ("r=abcdef,s=AQID,i=4096,x=1".into(), ScramFault::Garbage),
    ];
    for (message, fault) in cases {
        let read = ServerFirst::parse(message.as_bytes(), b"abc");
        assert_eq!(read, Err(fault), "{message:.80}");
    }
}

#[test]
fn the_largest_server_first_is_read() {
    let nonce = format!("abc{}", "x".repeat(MAX_NONCE_BYTES - 3));
    let salt = STANDARD.encode([7; MAX_SALT_BYTES]);
    let message = format!("r={nonce},s={salt},i={MAX_ITERATIONS}");
    assert!(ServerFirst::parse(message.as_bytes(), b"abc").is_ok());
}

#[test]
fn server_final_is_read() {
    assert_eq!(parse_server_final(&server_final(&[9; 32])), Ok([9; 32]));
}

#[test]
fn bad_server_final_is_refused() {
    let good = String::from_utf8(server_final(&[9; 32])).expect("ASCII");
    let cases = [
        (String::new(), ScramFault::AttributeExpected('v')),
        ("v=".into(), ScramFault::BadSignature),
        ("v=AQID".into(), ScramFault::BadSignature),
        (format!("{good},"), ScramFault::Garbage),
        (
            "e=invalid-\u{1b}proof".into(),
            ScramFault::ServerError("invalid-?proof".into()),
        ),
    ];
    for (message, fault) in cases {
        assert_eq!(
            parse_server_final(message.as_bytes()),
            Err(fault),
            "{message}"
        );
    }
}

#[test]
fn a_servers_error_is_cut() {
    let message = format!("e={}", "x".repeat(1000));
    let Err(ScramFault::ServerError(text)) = parse_server_final(message.as_bytes()) else {
        panic!("an error");
    };
    assert_eq!(text.len(), 127);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(message: Vec<u8>) {
        let _ = ClientFirst::parse(&message);
        let _ = ClientFinal::parse(&message, b"biws", b"nonce");
        let _ = ServerFirst::parse(&message, b"nonce");
        let _ = parse_server_final(&message);
    }

    #[test]
    fn anything_like_a_message_is_read_without_panic(
        message in "(n,,|y,,)?([a-z]=[0-9A-Za-z+/=]{0,8},?){0,6}"
    ) {
        let message = message.as_bytes();
        let _ = ClientFirst::parse(message);
        let _ = ClientFinal::parse(message, b"biws", b"nonce");
        let _ = ServerFirst::parse(message, b"nonce");
        let _ = parse_server_final(message);
    }
}
