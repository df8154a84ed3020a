//! A server that breaks the protocol costs its own connection, never another
//! client's answer, never the pooler.

use crate::harness::backend::Message;
use crate::harness::frontend::{flush, message, parse, query, sync};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::scripted::{ScriptedServer, Step, answer, error, one_row, ready, welcome};
use crate::harness::wire::{Lost, Wire};
use crate::harness::{becomes, eventually, reference_is_pgweir, together};
use std::time::Duration;

/// A connection on which everything goes well.
fn good() -> Vec<Step> {
    vec![Step::Startup, Step::Welcome, Step::Behave]
}

/// Logs in, answers the first query with these bytes, then behaves.
fn answering(bytes: Vec<u8>) -> Vec<Step> {
    vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::Send(bytes),
        Step::Behave,
    ]
}

/// A pooler with one server in front of these scripts; the last repeats.
fn pooler(scripts: Vec<Vec<Step>>) -> (ScriptedServer, Pooler<'static>) {
    let server = ScriptedServer::start(scripts);
    let pooler = Ini::transaction()
        .one_server()
        .server(server.address())
        .start();
    (server, pooler)
}

/// All that comes until the connection ends, or an answer is complete.
fn all_of(client: &mut Wire) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match client.try_recv() {
            Ok(Message::ReadyForQuery(_)) | Err(Lost::Closed) => return messages,
            Ok(message) => messages.push(message),
            Err(lost) => panic!("{lost:?} after {messages:?}"),
        }
    }
}

/// Another client is served, with what it asked for.
#[track_caller]
fn assert_served(pooler: &Pooler<'_>, token: &str) {
    assert_eq!(pooler.client().value(token), token);
}

#[test]
fn a_scripted_server_serves() {
    let (_server, pooler) = pooler(vec![good()]);
    assert_served(&pooler, "one");
    assert_served(&pooler, "two");
}

#[test]
fn errors_without_their_fields_harm_nobody_else() {
    for fields in [
        error(&[]),
        error(&[(b'S', "ERROR")]),
        error(&[(b'S', "ERROR"), (b'M', "no code")]),
        error(&[(b'S', "ERROR"), (b'C', "XX000")]),
        error(&[
            (b'C', "XX000"),
            (b'C', "XX001"),
            (b'M', "twice"),
            (b'M', "over"),
        ]),
        message(b'E', b""),
        message(b'E', b"SERROR"),
        message(b'E', b"SERROR\0CXX000\0Mno end"),
    ] {
        let (_server, pooler) = pooler(vec![answering([fields, ready()].concat()), good()]);
        let mut client = pooler.client().lawless();
        client.send(query("select 1"));
        // It gets something, or its end; both are well.
        drop(client.recv_byte());
        drop(client);
        assert_served(&pooler, "unharmed");
    }
}

#[test]
fn errors_without_their_fields_during_login_are_survived() {
    for fields in [
        error(&[]),
        error(&[(b'S', "FATAL")]),
        message(b'E', b""),
        message(b'E', b"SFATAL"),
    ] {
        let refusing = vec![Step::Startup, Step::Send(fields)];
        let (_server, pooler) = pooler(vec![refusing, good()]);
        let mut client = Wire::connect(pooler.address()).lawless();
        client.send(pooler.login("alice").packet());
        // It is refused, or waits for the next server.
        client.patience(Duration::from_secs(2));
        while client.recv_byte().is_ok() {}
        drop(client);
        assert_served(&pooler, "unharmed");
    }
}

#[test]
fn a_second_ready_for_query_shifts_no_answers() {
    let (_server, pooler) = pooler(vec![
        answering([answer(b"first\0"), ready()].concat()),
        good(),
    ]);
    let mut client = pooler.client();
    assert_eq!(client.value("first"), "first");
    for number in 0..5 {
        let token = format!("token {number}");
        assert_eq!(pooler.client().value(&token), token);
    }
}

#[test]
fn an_answer_nobody_asked_for_goes_to_nobody() {
    let unasked = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::Send(answer(b"asked\0")),
        Step::Pause,
        Step::Send(answer(b"SECRET\0")),
        Step::Behave,
    ];
    let (server, pooler) = pooler(vec![unasked, good()]);
    let mut client = pooler.client();
    assert_eq!(client.value("asked"), "asked");
    server.go_on();
    eventually("the pooler has seen it", || {
        let log = pooler.log();
        let seen = log.contains("got dirty") || log.contains("from server when not linked");
        if seen { Ok(()) } else { Err(log) }
    });
    assert_eq!(client.value("mine"), "mine");
    assert_served(&pooler, "others too");
}

#[test]
fn a_fatal_error_on_an_idle_server_is_nobodys() {
    let leaving = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::Send(answer(b"asked\0")),
        Step::Pause,
        Step::Send(error(&[
            (b'S', "FATAL"),
            (b'C', "57P01"),
            (b'M', "going away"),
        ])),
    ];
    let (server, pooler) = pooler(vec![leaving, good()]);
    let mut client = pooler.client();
    assert_eq!(client.value("asked"), "asked");
    server.go_on();
    becomes("the server is gone", 0, || {
        pooler.pool("sv_idle") + pooler.pool("sv_used")
    });
    assert_eq!(client.value("mine"), "mine");
}

#[test]
fn a_message_of_unknown_type_ends_its_client() {
    let (_server, pooler) = pooler(vec![
        answering([message(b'?', b"what"), ready()].concat()),
        good(),
    ]);
    let mut client = pooler.client();
    client.send(query("select 1"));
    let messages = all_of(&mut client);
    let Some(Message::ErrorResponse(error)) = messages.last() else {
        panic!("{messages:?}")
    };
    assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
    assert_served(&pooler, "unharmed");
}

#[test]
fn a_length_that_cannot_be_ends_its_client() {
    for length in [0_u32, 3, 0x8000_0000, u32::MAX] {
        let bad = [&[b'D'][..], &length.to_be_bytes(), b"garbage"].concat();
        let (_server, pooler) = pooler(vec![answering(bad), good()]);
        let mut client = pooler.client();
        client.send(query("select 1"));
        let messages = all_of(&mut client);
        let Some(Message::ErrorResponse(error)) = messages.last() else {
            panic!("{length:#x}: {messages:?}")
        };
        assert_eq!(error.code(), "08P01");
        assert_served(&pooler, "unharmed");
    }
}

#[test]
fn a_server_that_ends_in_the_midst_of_an_answer_is_told() {
    let whole = answer(b"never complete\0");
    for end in [0, 1, 4, 5, 20, whole.len() - 6, whole.len() - 1] {
        let dying = vec![
            Step::Startup,
            Step::Welcome,
            Step::Expect(b'Q'),
            Step::Send(whole[..end].to_vec()),
        ];
        let (_server, pooler) = pooler(vec![dying, good()]);
        let mut client = pooler.client().lawless();
        client.send(query("select 1"));
        // Half a message cannot be followed by an error, so there may be none.
        while client.recv_byte().is_ok() {}
        assert_served(&pooler, "unharmed");
    }
}

#[test]
fn a_server_lost_between_messages_is_told_properly() {
    let dying = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::Send(one_row(b"half")),
        Step::Reset,
    ];
    let (_server, pooler) = pooler(vec![dying, good()]);
    let mut client = pooler.client();
    client.send(query("select 1"));
    let messages = all_of(&mut client);
    let Some(Message::ErrorResponse(error)) = messages.last() else {
        panic!("{messages:?}")
    };
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("FATAL", "08P01", "server conn crashed?")
    );
    assert_served(&pooler, "unharmed");
}

#[test]
fn a_server_that_never_answers_sync_is_given_up() {
    let silent = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'P'),
        Step::Send(message(b'1', b"")),
        Step::AwaitEnd,
    ];
    let server = ScriptedServer::start(vec![silent, good()]);
    let pooler = Ini::transaction()
        .one_server()
        .set("query_timeout", 1)
        .server(server.address())
        .start();
    let mut client = pooler.client();
    client.send([parse("", "select 1"), flush(), sync()].concat());
    assert_eq!(client.recv(), Message::ParseComplete);
    assert_eq!(client.expect_fatal().text(), "query timeout");
    // The lost server may keep its place for a while.
    eventually("another client is served", || {
        let mut other = pooler.client();
        other.send(query("unharmed"));
        let reply = other.try_reply();
        reply
            .map(|reply| assert_eq!(reply.value(), "unharmed"))
            .map_err(|lost| format!("{lost:?}"))
    });
}

#[test]
fn a_large_row_in_small_pieces_comes_whole() {
    let value = "x".repeat(100_000);
    let bytes = [
        one_row(value.as_bytes()),
        message(b'C', b"SELECT 1\0"),
        ready(),
    ]
    .concat();
    let slow = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::SendPieces(bytes, 77),
        Step::Behave,
    ];
    let (_server, pooler) = pooler(vec![slow]);
    assert_eq!(pooler.client().value("select 1"), value);
    assert_served(&pooler, "unharmed");
}

#[test]
fn a_welcome_byte_by_byte_is_understood() {
    let slow = vec![Step::Startup, Step::SendPieces(welcome(), 1), Step::Behave];
    let (_server, pooler) = pooler(vec![slow]);
    assert_served(&pooler, "unharmed");
}

#[test]
fn unencrypted_bytes_behind_the_answer_to_an_encryption_request_are_refused() {
    let injecting = vec![Step::Send([b"S", &welcome()[..]].concat()), Step::AwaitEnd];
    let (_server, pooler) = pooler(vec![injecting, good()]);
    assert_served(&pooler, "unharmed");
}

#[test]
fn a_server_that_cheats_in_scram_is_not_believed() {
    let sasl = message(
        b'R',
        &[&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat(),
    );
    let go_on = |text: &str| message(b'R', &[&11_u32.to_be_bytes()[..], text.as_bytes()].concat());
    let mut cheats: Vec<String> = [
        "r=x,s=c2FsdA==,i=4096",
        "s=c2FsdA==,i=4096",
        "r=,s=,i=",
        "nonsense",
        "",
        "m=ext,r=x,s=c2FsdA==,i=4096",
    ]
    .map(str::to_owned)
    .to_vec();
    cheats.push(format!("r={},s=c2FsdA==,i=4096", "n".repeat(60_000)));
    for iterations in ["0", "-1", "2147483648", "99999999999999999999", "4096x"] {
        cheats.push(format!("r=x,s=c2FsdA==,i={iterations}"));
    }
    together(cheats.len(), |number| {
        let cheat = go_on(&cheats[number]);
        let cheating = vec![
            Step::Startup,
            Step::Send(sasl.clone()),
            Step::Expect(b'p'),
            Step::Send(cheat),
            Step::AwaitEnd,
        ];
        let (_server, pooler) = pooler(vec![cheating, good()]);
        let refused = pooler.login("alice").at(pooler.address());
        if let Err(error) = refused {
            assert_eq!(
                (error.severity(), error.code()),
                ("FATAL", "08P01"),
                "{error:?}"
            );
        }
        assert_served(&pooler, "unharmed");
    });
}

/// What a server answers to a SCRAM proof.
fn last_word(text: &str) -> Vec<u8> {
    message(b'R', &[&12_u32.to_be_bytes()[..], text.as_bytes()].concat())
}

#[test]
fn a_server_that_repeats_the_nonce_has_to_go_on_properly() {
    let sasl = message(
        b'R',
        &[&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat(),
    );
    let challenge = |own: &str| vec![Step::Challenge(format!("{own},s=c2FsdA==,i=1"))];
    let mut cheats: Vec<Vec<Step>> = [
        "",
        ",s=c2FsdA==,i=4096",
        "x,s=,i=4096",
        "x,s=c2Fsd,i=4096",
        "x,s=!!!!,i=4096",
        "x,s=c2FsdA==,i=0",
        "x,s=c2FsdA==,i=2147483647",
        "x,s=c2FsdA==,i=4096,",
        "x,s=c2FsdA==,i=4096,m=ext",
    ]
    .map(|rest| vec![Step::Challenge(rest.to_owned())])
    .into();
    for length in [1024, 1025, 60_000, 1 << 20] {
        cheats.push(challenge(&"n".repeat(length)));
    }
    // A good challenge, and a proof that is none.
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for last in [
        last_word(&format!("v={zeros}")),
        last_word("v="),
        last_word("v=c2hvcnQ="),
        last_word("e=other-error"),
        last_word(""),
        message(b'R', &0_u32.to_be_bytes()),
        message(b'R', b""),
        message(b'Z', b"I"),
    ] {
        let going_on = vec![Step::Expect(b'p'), Step::Send(last), Step::Welcome];
        cheats.push([challenge("x"), going_on].concat());
    }
    together(cheats.len(), |number| {
        let opening = vec![Step::Startup, Step::Send(sasl.clone()), Step::Expect(b'p')];
        let cheating = [opening, cheats[number].clone(), vec![Step::Behave]].concat();
        let server = ScriptedServer::start(vec![cheating]);
        let ini = Ini::transaction().one_server().server(server.address());
        let pooler = ini.set("client_login_timeout", 3).start();
        let error = pooler.login("alice").refused_at(pooler.address());
        assert_eq!(
            (error.severity(), error.code()),
            ("FATAL", "08P01"),
            "cheat {number}: {error:?}"
        );
        pooler.assert_serves_console();
    });
}

#[test]
fn a_server_that_skips_its_own_proof_is_not_believed() {
    let sasl = message(
        b'R',
        &[&10_u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat(),
    );
    let impostor = vec![
        Step::Startup,
        Step::Send(sasl),
        Step::Expect(b'p'),
        Step::Welcome,
        Step::Behave,
    ];
    let (_server, pooler) = pooler(vec![impostor.clone(), impostor]);
    if !reference_is_pgweir() {
        // PgBouncer believes it.
        assert_served(&pooler, "believed");
        return;
    }
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_eq!((error.severity(), error.code()), ("FATAL", "08P01"));
}

#[test]
fn notices_and_parameters_of_an_idle_server_do_no_harm() {
    let notice = message(b'N', b"SNOTICE\0C00000\0Mby the way\0\0");
    let status = message(b'S', b"DateStyle\0German, DMY\0");
    let chatty = vec![
        Step::Startup,
        Step::Welcome,
        Step::Expect(b'Q'),
        Step::Send(answer(b"first\0")),
        Step::Pause,
        Step::Send([notice, status].concat()),
        Step::Behave,
    ];
    let (server, pooler) = pooler(vec![chatty, good()]);
    assert_served(&pooler, "first");
    server.go_on();
    assert_served(&pooler, "second");
    assert_served(&pooler, "third");
}
