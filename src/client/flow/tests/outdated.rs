//! Statements that a server calls out of date.

use super::*;

fn outdated() -> Vec<u8> {
    message(b'E', b"SERROR\0C0A000\0Mno\0RRevalidateCachedQuery\0\0")
}

/// A client that has prepared `s`, and the server that has it.
fn with_statement() -> (Bench, Exchange) {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &[parse("s", "select 1"), sync()].concat());
    bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    (bench, server)
}

/// Describe of the unnamed portal.
fn describe_portal() -> Vec<u8> {
    message(b'D', b"P\0")
}

/// What makes the statement of [`with_statement`] anew.
fn anew() -> Vec<u8> {
    [close("PGBOUNCER_1"), parse("PGBOUNCER_1", "select 1")].concat()
}

#[test]
fn a_described_batch_of_an_outdated_statement_is_sent_again_however_it_is_cut() {
    let batch = [bind("s"), describe_portal(), execute(), sync()].concat();
    let row = message(b'T', &[1; 40]);
    let answers = [BOUND, &row, &complete("SELECT 0"), &ready()].concat();
    let all = [
        outdated(),
        ready(),
        CLOSED.to_vec(),
        PARSED.to_vec(),
        answers.clone(),
    ]
    .concat();
    for piece in [1, 2, 3, 7, batch.len()] {
        let (mut bench, mut server) = with_statement();
        let sent = bench.send(&mut server, &batch, piece);
        let got = bench.receive(&mut server, &outdated(), piece);
        assert_eq!(got, b"", "pieces of {piece}");
        let again = [anew(), sent].concat();
        assert_eq!(server.replay.bytes(), again);
        let got = bench.receive(&mut server, &all[outdated().len()..], piece);
        assert_eq!(got, answers);
        assert!(server.is_settled());
    }
}

#[test]
fn a_batch_without_its_sync_is_sent_again_behind_one() {
    let (mut bench, mut server) = with_statement();
    let flush = message(b'H', b"");
    let batch = [bind("s"), describe_portal(), execute(), flush].concat();
    let sent = bench.send_whole(&mut server, &batch);
    assert_eq!(bench.receive_whole(&mut server, &outdated()), b"");
    assert_eq!(server.replay.bytes(), [sync(), anew(), sent].concat());
    bench.receive_whole(
        &mut server,
        &[ready(), CLOSED.to_vec(), PARSED.to_vec()].concat(),
    );
    assert!(!server.is_settled());
    bench.receive_whole(
        &mut server,
        &[BOUND, &message(b'n', b""), &complete("X")].concat(),
    );
    assert_eq!(bench.send_whole(&mut server, &sync()), sync());
    assert_eq!(bench.receive_whole(&mut server, &ready()), ready());
    assert!(server.is_settled());
}

#[test]
fn a_statement_is_described_as_it_is_made_anew() {
    let parameters = |kind: u8| message(b't', &[0, 1, 0, 0, 0, kind]);
    let answers = [parameters(25), message(b'T', &[1; 40]), ready()].concat();
    for piece in 1..60 {
        let (mut bench, mut server) = with_statement();
        bench.send_whole(&mut server, &[describe("s"), sync()].concat());
        let got = bench.receive(&mut server, &[parameters(23), outdated()].concat(), piece);
        assert_eq!(got, b"", "pieces of {piece}");
        let all = [&ready()[..], CLOSED, PARSED, &answers].concat();
        assert_eq!(bench.receive(&mut server, &all, piece), answers);
        assert!(server.is_settled());
    }
    let (mut bench, mut server) = with_statement();
    bench.send_whole(&mut server, &[describe("s"), sync()].concat());
    assert_eq!(bench.receive(&mut server, &answers, 3), answers);
}

#[test]
fn a_batch_is_sent_again_once() {
    let (mut bench, mut server) = with_statement();
    bench.send_whole(
        &mut server,
        &[bind("s"), describe_portal(), sync()].concat(),
    );
    bench.receive_whole(
        &mut server,
        &[outdated(), ready(), CLOSED.to_vec()].concat(),
    );
    let answers = [PARSED.to_vec(), outdated(), ready()].concat();
    let got = bench.receive_whole(&mut server, &answers);
    assert_eq!(got, [outdated(), ready()].concat());
    assert!(server.is_settled());
}

#[test]
fn a_batch_that_cannot_be_sent_again_gets_the_error() {
    let flush = || message(b'H', b"");
    for batch in [
        [bind("s"), execute(), describe_portal(), sync()].concat(),
        [bind("s"), describe_portal(), sync(), sync()].concat(),
        [bind("s"), describe_portal(), sync(), query("select 1")].concat(),
        [flush(), bind(""), bind("s"), describe_portal(), sync()].concat(),
        [
            bind("s"),
            describe_portal(),
            message(b'd', b"data")[..7].to_vec(),
        ]
        .concat(),
    ] {
        let (mut bench, mut server) = with_statement();
        bench.send_whole(&mut server, &batch);
        if batch.starts_with(b"H") {
            bench.receive_whole(&mut server, BOUND);
        }
        assert_eq!(bench.receive_whole(&mut server, &outdated()), outdated());
    }
}

#[test]
fn a_batch_kept_of_a_client_that_left_is_never_sent_again() {
    let (mut bench, mut server) = with_statement();
    bench.send_whole(
        &mut server,
        &[bind("s"), describe_portal(), sync()].concat(),
    );
    let body = &outdated()[5..];
    server.account(b'E', body).expect("an answer");
    server.account(b'Z', b"I").expect("an answer");
    assert!(server.is_settled() && !server.replay.is_on());
    let mut other = bench.beside();
    other.send_whole(&mut server, &query("select 1"));
    assert_eq!(other.receive_whole(&mut server, &outdated()), outdated());
}

#[test]
fn an_outdated_statement_is_made_anew_at_its_next_use() {
    let (mut bench, mut server) = with_statement();
    bench.send_whole(&mut server, &[bind("s"), execute(), sync()].concat());
    let got = bench.receive_whole(&mut server, &[outdated(), ready()].concat());
    assert_eq!(got, [outdated(), ready()].concat());
    let sent = bench.send_whole(&mut server, &[bind("s"), execute(), sync()].concat());
    let expected = [
        close("PGBOUNCER_1"),
        parse("PGBOUNCER_1", "select 1"),
        bind("PGBOUNCER_1"),
        execute(),
        sync(),
    ];
    assert_eq!(sent, expected.concat());
}
