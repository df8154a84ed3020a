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
    parse("PGBOUNCER_2", "select 1")
}

#[test]
fn a_described_batch_of_an_outdated_statement_is_sent_again_however_it_is_cut() {
    let batch = [bind("s"), describe_portal(), execute(), sync()].concat();
    let row = message(b'T', &[1; 40]);
    let answers = [BOUND, &row, &complete("SELECT 0"), &ready()].concat();
    let all = [outdated(), ready(), PARSED.to_vec(), answers.clone()].concat();
    for piece in [1, 2, 3, 7, batch.len()] {
        let (mut bench, mut server) = with_statement();
        bench.send(&mut server, &batch, piece);
        let got = bench.receive(&mut server, &outdated(), piece);
        assert_eq!(got, b"", "pieces of {piece}");
        let rest = [describe_portal(), execute(), sync()].concat();
        let again = [anew(), bind("PGBOUNCER_2"), rest].concat();
        assert_eq!(server.replay.bytes(), again);
        let got = bench.receive(&mut server, &all[outdated().len()..], piece);
        assert_eq!(got, answers);
        assert!(server.is_settled());
        let sent = bench.send_whole(&mut server, &bind("s"));
        assert_eq!(sent, bind("PGBOUNCER_2"), "from now on");
    }
}

#[test]
fn a_batch_without_its_sync_is_sent_again_behind_one() {
    let (mut bench, mut server) = with_statement();
    let flush = message(b'H', b"");
    let rest = [describe_portal(), execute(), flush].concat();
    bench.send_whole(&mut server, &[bind("s"), rest.clone()].concat());
    assert_eq!(bench.receive_whole(&mut server, &outdated()), b"");
    let again = [sync(), anew(), bind("PGBOUNCER_2"), rest].concat();
    assert_eq!(server.replay.bytes(), again);
    bench.receive_whole(&mut server, &[ready(), PARSED.to_vec()].concat());
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
fn an_error_too_long_to_be_read_whole_is_passed_on() {
    let (mut bench, mut server) = with_statement();
    let batch = [bind("s"), describe_portal(), execute(), sync()].concat();
    bench.send_whole(&mut server, &batch);
    let detail = "d".repeat(65 * 1024);
    let body = format!("SERROR\0C0A000\0RRevalidateCachedQuery\0D{detail}\0\0");
    let answer = [message(b'E', body.as_bytes()), ready()].concat();
    assert_eq!(bench.receive(&mut server, &answer, 60 * 1024), answer);
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
        let all = [&ready()[..], PARSED, &answers].concat();
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
    bench.receive_whole(&mut server, &[outdated(), ready()].concat());
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
fn who_may_know_the_columns_gets_the_error_until_it_prepares_anew() {
    let (mut bench, mut server) = with_statement();
    let mut other = bench.beside();
    let known = [parse("t", "select 1"), sync()].concat();
    let mut back = Vec::new();
    let walked = other.flow.unlinked(&known, &mut other.around, &mut back);
    assert_eq!(walked, Ok((known.len(), Stop::End)));
    bench.send_whole(&mut server, &[bind("s"), execute(), sync()].concat());
    let error = [outdated(), ready()].concat();
    assert_eq!(bench.receive_whole(&mut server, &error), error);

    let batch = [close("s"), parse("s", "select 1"), bind("s"), sync()].concat();
    let sent = bench.send_whole(&mut server, &batch);
    assert_eq!(sent, [anew(), bind("PGBOUNCER_2"), sync()].concat());
    bench.receive_whole(&mut server, &[PARSED, BOUND, &ready()].concat());
    let sent = other.send_whole(&mut server, &bind("t"));
    assert_eq!(sent, bind("PGBOUNCER_1"), "it has not been told");
}

#[test]
fn what_sql_prepared_is_made_anew_at_its_next_use() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &query("prepare p as select 1"));
    let answer = [CLOSED.to_vec(), complete("PREPARE"), ready()].concat();
    bench.receive_whole(&mut server, &answer);
    bench.send_whole(&mut server, &query("execute p"));
    let error = [outdated(), ready()].concat();
    assert_eq!(bench.receive_whole(&mut server, &error), error);
    let text = query("execute p");
    let mut scratch = BytesMut::new();
    let mut out = Splice::new(&text, &mut scratch);
    let around = &mut bench.around;
    let walked = bench
        .flow
        .client_chunk(&text, &mut server, around, &mut out, &mut Vec::new());
    assert_eq!(walked, Ok((0, Stop::NeedAnswers)));
    assert!(out.output().starts_with(&close("PGBOUNCER_1")));
}
