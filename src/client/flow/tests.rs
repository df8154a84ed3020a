//! The flow against literal bytes.

use bytes::BytesMut;

use std::sync::Arc;

use super::*;
use crate::server::statements::Dictionary;
use crate::stats::Micros;

mod outdated;
mod scripts;

/// A client and the surroundings of its flow, without sockets.
struct Bench {
    flow: Flow,
    around: Plain,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench {
            flow: Flow::new(Rules {
                max_message: u32::MAX,
                simple_query: true,
            }),
            around: Plain::default(),
        }
    }
}

#[derive(Default)]
struct Plain {
    dictionary: Arc<Dictionary>,
    limit: usize,
    finished: Vec<Outcome>,
    parameters: Vec<(String, String)>,
}

impl Surroundings for Plain {
    fn observe(&mut self, text: &[u8]) -> Seen {
        Seen {
            slot: 0,
            mentions: crate::gateway::mentions_statements(text),
        }
    }
    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }
    fn now(&self) -> Micros {
        Micros::ZERO
    }
    fn statement_limit(&self) -> usize {
        self.limit
    }
    fn refuses_blocks(&self) -> bool {
        false
    }
    fn keeps_server(&self) -> bool {
        false
    }
    fn finished(&mut self, _: Meter, outcome: Outcome) {
        self.finished.push(outcome);
    }
    fn parameter(&mut self, name: &str, value: &str) {
        self.parameters.push((name.into(), value.into()));
    }
    fn count(&mut self, _: Event) {}
}

impl Bench {
    fn tracking(limit: usize) -> Bench {
        let mut bench = Bench::default();
        bench.around.limit = limit;
        bench
    }

    /// Another client of the same pooler.
    fn beside(&self) -> Bench {
        let mut other = Bench::tracking(self.around.limit);
        other.around.dictionary = self.around.dictionary.clone();
        other
    }

    /// Sends all of `bytes`, in pieces of `piece` bytes; answers what the
    /// server gets.
    fn send(&mut self, server: &mut Exchange, bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut sent, mut carry) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            carry.extend_from_slice(piece);
            let mut scratch = BytesMut::new();
            let mut out = Splice::new(&carry, &mut scratch);
            let (taken, stop) = self
                .flow
                .client_chunk(&carry, server, &mut self.around, &mut out, &mut Vec::new())
                .expect("a valid message");
            assert_eq!(stop, Stop::End);
            sent.extend_from_slice(out.output());
            carry.drain(..taken);
        }
        assert!(carry.is_empty(), "left over: {carry:?}");
        sent
    }

    fn send_whole(&mut self, server: &mut Exchange, bytes: &[u8]) -> Vec<u8> {
        self.send(server, bytes, usize::MAX)
    }

    fn refuse(&mut self, server: &mut Exchange, bytes: &[u8]) -> ClientFault {
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(bytes, &mut scratch);
        self.flow
            .client_chunk(bytes, server, &mut self.around, &mut out, &mut Vec::new())
            .expect_err("an invalid message")
    }

    /// Receives all of `bytes` in pieces; answers what the client gets.
    fn receive(&mut self, server: &mut Exchange, bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut got, mut carry) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            carry.extend_from_slice(piece);
            let mut scratch = BytesMut::new();
            let mut out = Splice::new(&carry, &mut scratch);
            let arrived = self
                .flow
                .server_chunk(&carry, server, &mut self.around, &mut out)
                .expect("a valid answer");
            got.extend_from_slice(out.output());
            carry.drain(..arrived.taken);
        }
        assert!(carry.is_empty(), "left over: {carry:?}");
        got
    }

    fn receive_whole(&mut self, server: &mut Exchange, bytes: &[u8]) -> Vec<u8> {
        self.receive(server, bytes, usize::MAX)
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn parse(name: &str, query: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{query}\0\0\0").as_bytes())
}

fn bind(statement: &str) -> Vec<u8> {
    message(b'B', format!("\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

fn describe(statement: &str) -> Vec<u8> {
    message(b'D', format!("S{statement}\0").as_bytes())
}

fn close(statement: &str) -> Vec<u8> {
    message(b'C', format!("S{statement}\0").as_bytes())
}

fn execute() -> Vec<u8> {
    message(b'E', b"\0\0\0\0\0")
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

fn error() -> Vec<u8> {
    message(b'E', b"SERROR\0C42P01\0Mno\0\0")
}

fn complete(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

const PARSED: &[u8] = backend::PARSE_COMPLETE_MESSAGE;
const CLOSED: &[u8] = backend::CLOSE_COMPLETE_MESSAGE;
const BOUND: &[u8] = b"2\0\0\0\x04";

#[test]
fn a_query_passes_as_it_is_however_it_is_cut() {
    let bytes = [query("select 1"), query("select 2")].concat();
    for piece in 1..bytes.len() {
        let (mut bench, mut server) = (Bench::default(), Exchange::default());
        assert_eq!(
            bench.send(&mut server, &bytes, piece),
            bytes,
            "pieces of {piece}"
        );
        assert_eq!(server.outgoing, 0);
    }
}

#[test]
fn an_answer_passes_as_it_is_however_it_is_cut() {
    let row = message(b'D', &[7; 300]);
    let answer = [message(b'T', &[1; 40]), row, complete("SELECT 1"), ready()].concat();
    for piece in 1..answer.len() {
        let (mut bench, mut server) = (Bench::default(), Exchange::default());
        bench.send_whole(&mut server, &query("select 1"));
        assert_eq!(bench.receive(&mut server, &answer, piece), answer);
        assert!(server.is_settled(), "pieces of {piece}");
        assert_eq!(bench.around.finished[0].rows, 1);
    }
}

#[test]
fn what_a_server_says_behind_its_last_answer_is_not_for_the_client() {
    let answer = [complete("SELECT 1"), ready()].concat();
    let farewell = message(b'E', b"SFATAL\0C57P01\0Mgoing\0\0");
    let chunk = [answer.clone(), farewell].concat();
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    bench.send_whole(&mut server, &query("select 1"));
    let mut scratch = BytesMut::new();
    let mut out = Splice::new(&chunk, &mut scratch);
    let arrived = bench
        .flow
        .server_chunk(&chunk, &mut server, &mut bench.around, &mut out)
        .expect("a valid answer");
    assert!(arrived.farewell && arrived.ready);
    assert_eq!(out.output(), answer);
}

#[test]
fn a_server_is_not_settled_in_the_middle_of_a_clients_message() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    bench.send_whole(&mut server, &query("select 1"));
    bench.receive_whole(&mut server, &[complete("SELECT 1"), ready()].concat());
    assert!(server.is_settled());
    let half = &message(b'd', &[0; 100])[..50];
    bench.send_whole(&mut server, half);
    assert!(!server.is_settled());
}

#[test]
fn a_named_statement_gets_the_servers_name() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let sent = bench.send_whole(&mut server, &[parse("s1", "select 1"), sync()].concat());
    assert_eq!(sent, [parse("PGBOUNCER_1", "select 1"), sync()].concat());
    let got = bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    assert_eq!(got, [PARSED.to_vec(), ready()].concat());
}

#[test]
fn renaming_does_not_depend_on_how_the_bytes_are_cut() {
    let batch = [parse("s1", "select $1"), bind("s1"), execute(), sync()].concat();
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let whole = bench.send_whole(&mut server, &batch);
    for piece in 1..batch.len() {
        let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
        assert_eq!(
            bench.send(&mut server, &batch, piece),
            whole,
            "pieces of {piece}"
        );
    }
}

#[test]
fn a_statement_the_server_has_is_answered_by_the_pooler_in_its_place() {
    let (mut first, mut server) = (Bench::tracking(10), Exchange::default());
    first.send_whole(&mut server, &[parse("a", "select 1"), sync()].concat());
    first.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    let mut second = first.beside();
    let batch = [parse("b", "select 1"), bind("b"), execute(), sync()].concat();
    let sent = second.send_whole(&mut server, &batch);
    assert_eq!(sent, [bind("PGBOUNCER_1"), execute(), sync()].concat());
    let answer = [BOUND.to_vec(), complete("SELECT 0"), ready()].concat();
    let got = second.receive_whole(&mut server, &answer);
    assert_eq!(got, [PARSED.to_vec(), answer].concat());
    assert!(server.is_settled());
}

#[test]
fn a_statement_the_server_lacks_is_prepared_without_the_client_noticing() {
    let (mut bench, mut one) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut one, &[parse("s", "select 1"), sync()].concat());
    bench.receive_whole(&mut one, &[PARSED.to_vec(), ready()].concat());
    let mut other = Exchange::default();
    let sent = bench.send_whole(&mut other, &[bind("s"), execute(), sync()].concat());
    let expected = [
        parse("PGBOUNCER_1", "select 1"),
        bind("PGBOUNCER_1"),
        execute(),
        sync(),
    ];
    assert_eq!(sent, expected.concat());
    let answer = [BOUND.to_vec(), complete("SELECT 0"), ready()].concat();
    let got = bench.receive_whole(&mut other, &[PARSED.to_vec(), answer.clone()].concat());
    assert_eq!(got, answer);
    assert!(other.is_settled());
}

#[test]
fn a_parse_that_fails_leaves_no_name_behind() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    for _ in 0..2 {
        let sent = bench.send_whole(&mut server, &[parse("s", "select nope"), sync()].concat());
        assert!(sent.starts_with(b"P"), "it is tried again");
        bench.receive_whole(&mut server, &[error(), ready()].concat());
        assert!(server.is_settled());
        assert_eq!((bench.flow.prepared(), server.prepared.len()), (0, 0));
    }
    assert_eq!(bench.around.finished.len(), 0);
}

#[test]
fn a_parse_behind_an_error_did_not_happen() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batch = [parse("", "select nope"), parse("s", "select 1"), sync()].concat();
    bench.send_whole(&mut server, &batch);
    bench.receive_whole(&mut server, &[error(), ready()].concat());
    assert_eq!((bench.flow.prepared(), server.prepared.len()), (0, 0));
}

#[test]
fn a_close_behind_an_error_did_not_happen() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &[parse("s", "select 1"), sync()].concat());
    bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    bench.send_whole(
        &mut server,
        &[parse("", "nope"), close("s"), sync()].concat(),
    );
    bench.receive_whole(&mut server, &[error(), ready()].concat());
    assert_eq!(bench.flow.prepared(), 1);
}

#[test]
fn a_close_behind_an_error_leaves_what_a_later_batch_says_about_the_name() {
    let prepared = || {
        let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
        bench.send_whole(&mut server, &[parse("s", "select 1"), sync()].concat());
        bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
        (bench, server)
    };
    let failing = [parse("", "nope"), close("s"), sync()].concat();
    let (mut bench, mut server) = prepared();
    bench.send_whole(&mut server, &[failing.clone(), close("s")].concat());
    bench.receive_whole(&mut server, &[error(), ready()].concat());
    assert_eq!(bench.flow.prepared(), 0, "closed");

    let (mut bench, mut server) = prepared();
    bench.send_whole(
        &mut server,
        &[failing.clone(), bind(""), close("s")].concat(),
    );
    bench.receive_whole(&mut server, &[error(), ready(), error()].concat());
    assert_eq!(bench.flow.prepared(), 1, "neither Close happened");

    let (mut bench, mut server) = prepared();
    bench.send_whole(&mut server, &[failing, parse("s", "select 2")].concat());
    bench.receive_whole(&mut server, &[error(), ready(), PARSED.to_vec()].concat());
    let sent = bench.send_whole(&mut server, &bind("s"));
    assert_eq!(sent, bind("PGBOUNCER_2"), "what it was told it has");
}

#[test]
fn a_close_is_answered_by_the_pooler_in_its_place() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batch = [parse("s", "select 1"), close("s"), sync()].concat();
    let sent = bench.send_whole(&mut server, &batch);
    assert_eq!(sent, [parse("PGBOUNCER_1", "select 1"), sync()].concat());
    let got = bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    assert_eq!(got, [PARSED.to_vec(), CLOSED.to_vec(), ready()].concat());
    assert_eq!(bench.flow.prepared(), 0);
}

#[test]
fn after_a_flush_the_poolers_answer_does_not_wait_for_another_of_the_server() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let flush = message(b'H', b"");
    let batch = [parse("", "select 1"), close("s"), flush.clone()].concat();
    let sent = bench.send_whole(&mut server, &batch);
    assert_eq!(sent, [parse("", "select 1"), flush].concat());
    let got = bench.receive_whole(&mut server, PARSED);
    assert_eq!(got, [PARSED, CLOSED].concat());
}

#[test]
fn a_flush_in_the_middle_of_an_answer_waits_for_its_end() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let (row, mut back) = (message(b'T', &[1; 40]), Vec::new());
    bench.send_whole(&mut server, &[describe(""), close("s")].concat());
    let mut got = bench.receive_whole(&mut server, &row[..20]);
    let flush = message(b'H', b"");
    let mut scratch = BytesMut::new();
    let mut out = Splice::new(&flush, &mut scratch);
    let around = &mut bench.around;
    let walked = bench
        .flow
        .client_chunk(&flush, &mut server, around, &mut out, &mut back);
    assert_eq!((walked, back), (Ok((flush.len(), Stop::End)), Vec::new()));
    got.extend(bench.receive_whole(&mut server, &row[20..]));
    assert_eq!(got, [row, CLOSED.to_vec()].concat());
}

#[test]
fn a_batch_larger_than_the_servers_cache_evicts_inside_itself() {
    let (mut bench, mut server) = (Bench::tracking(1), Exchange::default());
    let batch = [
        parse("a", "select 1"),
        parse("b", "select 2"),
        bind("a"),
        sync(),
    ]
    .concat();
    let sent = bench.send_whole(&mut server, &batch);
    let expected = [
        parse("PGBOUNCER_1", "select 1"),
        close("PGBOUNCER_1"),
        parse("PGBOUNCER_2", "select 2"),
        close("PGBOUNCER_2"),
        parse("PGBOUNCER_1", "select 1"),
        bind("PGBOUNCER_1"),
        sync(),
    ];
    assert_eq!(sent, expected.concat());
    let answer = [PARSED, CLOSED, PARSED, CLOSED, PARSED, BOUND].concat();
    let got = bench.receive_whole(&mut server, &[answer, ready()].concat());
    assert_eq!(
        got,
        [PARSED.to_vec(), PARSED.to_vec(), BOUND.to_vec(), ready()].concat()
    );
    assert!(server.is_settled());
}

#[test]
fn deallocate_all_clears_both_sides() {
    for tag in ["DEALLOCATE ALL", "DISCARD ALL"] {
        let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
        bench.send_whole(&mut server, &[parse("s", "select 1"), sync()].concat());
        bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
        bench.send_whole(&mut server, &query(tag));
        bench.receive_whole(&mut server, &[complete(tag), ready()].concat());
        assert_eq!((bench.flow.prepared(), server.prepared.len()), (0, 0));
    }
}

#[test]
fn while_the_server_skips_nothing_but_sync_is_sent() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    bench.send_whole(&mut server, &bind(""));
    bench.receive_whole(&mut server, &error());
    let rest = [
        execute(),
        query("select 1"),
        message(b'd', &[1; 20]),
        sync(),
    ]
    .concat();
    assert_eq!(bench.send(&mut server, &rest, 3), sync());
    bench.receive_whole(&mut server, &ready());
    assert!(server.is_settled());
}

#[test]
fn what_needs_no_server_is_answered_without_one() {
    let (mut first, mut server) = (Bench::tracking(10), Exchange::default());
    first.send_whole(&mut server, &[parse("a", "select 1"), sync()].concat());
    first.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    let mut second = first.beside();
    let mut back = Vec::new();
    let batch = [parse("b", "select 1"), sync(), close("b"), sync()].concat();
    let walked = second.flow.unlinked(&batch, &mut second.around, &mut back);
    assert_eq!(walked, Ok((batch.len(), Stop::End)));
    assert_eq!(
        back,
        [PARSED.to_vec(), ready(), CLOSED.to_vec(), ready()].concat()
    );
}

#[test]
fn a_statement_no_server_has_accepted_needs_a_server() {
    let mut bench = Bench::tracking(10);
    let batch = [parse("b", "select 1"), sync()].concat();
    let walked = bench
        .flow
        .unlinked(&batch, &mut bench.around, &mut Vec::new());
    assert_eq!(walked, Ok((0, Stop::NeedServer)));
}

#[test]
fn stragglers_of_a_copy_are_discarded_without_a_server() {
    let mut bench = Bench::default();
    let stragglers = [message(b'd', &[1; 100]), message(b'c', b"")].concat();
    let whole = [stragglers.clone(), query("select 1")].concat();
    let walked = bench
        .flow
        .unlinked(&whole, &mut bench.around, &mut Vec::new());
    assert_eq!(walked, Ok((stragglers.len(), Stop::NeedServer)));
}

#[test]
fn terminate_is_seen_with_and_without_a_server() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    let walked = bench
        .flow
        .unlinked(b"X\0\0\0\x04", &mut bench.around, &mut Vec::new());
    assert_eq!(walked, Ok((0, Stop::Terminate)));
    let bytes = [query("select 1"), frontend::TERMINATE_MESSAGE.to_vec()].concat();
    let mut scratch = BytesMut::new();
    let mut out = Splice::new(&bytes, &mut scratch);
    let walked = bench.flow.client_chunk(
        &bytes,
        &mut server,
        &mut bench.around,
        &mut out,
        &mut Vec::new(),
    );
    assert_eq!(walked, Ok((query("select 1").len(), Stop::Terminate)));
    assert_eq!(out.output(), query("select 1"));
}

fn bad_length(head: &[u8; HEADER_LEN]) -> ClientFault {
    ClientFault::BadLength(*head)
}

#[test]
fn a_bad_length_is_told_in_pgbouncers_words() {
    assert_eq!(
        bad_length(b"Q\0\0\0\x03").message(),
        "bad packet header: '5100000003'"
    );
}

#[test]
fn messages_no_client_may_send_are_refused() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let mut refuse = |bytes: &[u8]| bench.refuse(&mut server, bytes);
    assert_eq!(refuse(b"?\0\0\0\x04"), ClientFault::UnknownType(b'?'));
    assert_eq!(refuse(b"Q\0\0\0\x03"), bad_length(b"Q\0\0\0\x03"));
    assert_eq!(
        refuse(b"S\xff\xff\xff\xff"),
        bad_length(b"S\xff\xff\xff\xff")
    );
    assert_eq!(refuse(b"S\0\0\x80\0"), bad_length(b"S\0\0\x80\0"));
    assert_eq!(refuse(&bind("nobody")), ClientFault::NoSuchStatement);
    assert_eq!(refuse(&describe("nobody")), ClientFault::NoSuchStatement);
    assert!(matches!(
        refuse(&message(b'B', b"half")),
        ClientFault::Broken
    ));
    assert!(matches!(
        refuse(&message(b'D', b"Xwhat\0")),
        ClientFault::Broken
    ));
    assert!(matches!(
        refuse(&message(b'P', b"n\0q\0\0\x09")),
        ClientFault::Broken
    ));
}

#[test]
fn a_name_in_use_is_refused() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &parse("s", "select 1"));
    let fault = bench.refuse(&mut server, &parse("s", "select 2"));
    assert_eq!(fault, ClientFault::NameInUse(b"s".as_slice().into()));
}

#[test]
fn an_answer_that_does_not_fit_is_a_broken_server() {
    for answer in [
        ready(),
        PARSED.to_vec(),
        message(b'Z', b"II"),
        message(b'?', b""),
    ] {
        let (mut bench, mut server) = (Bench::default(), Exchange::default());
        bench.send_whole(&mut server, &bind(""));
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(&answer, &mut scratch);
        let walked = bench
            .flow
            .server_chunk(&answer, &mut server, &mut bench.around, &mut out);
        assert_eq!(walked, Err(ServerFault(answer[0])));
        assert_eq!(out.output(), b"", "nothing of it is passed on");
    }
}

#[test]
fn a_reported_parameter_is_noted_and_passed_on() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    let status = message(b'S', b"TimeZone\0UTC\0");
    assert_eq!(bench.receive(&mut server, &status, 3), status);
    assert_eq!(bench.around.parameters, [("TimeZone".into(), "UTC".into())]);
}

#[test]
fn a_parse_without_a_body_is_owed_its_error() {
    for limit in [0, 10] {
        let whole = [message(b'P', b""), sync()].concat();
        for piece in [1, 5, usize::MAX] {
            let (mut bench, mut server) = (Bench::tracking(limit), Exchange::default());
            assert_eq!(bench.send(&mut server, &whole, piece), whole);
            let answer = [error(), ready()].concat();
            assert_eq!(bench.receive_whole(&mut server, &answer), answer);
            assert!(server.is_settled());
        }
        let (mut bench, mut server) = (Bench::tracking(limit), Exchange::default());
        bench.send_whole(&mut server, &message(b'P', b""));
        assert!(!server.is_settled(), "its error is still to come");
    }
}

#[test]
fn a_flush_with_a_body_is_refused() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    assert_eq!(
        bench.refuse(&mut server, b"H\0\0\0\x05x"),
        bad_length(b"H\0\0\0\x05")
    );
}

#[test]
fn more_rows_than_can_be_counted_are_counted_as_many() {
    let (mut bench, mut server) = (Bench::default(), Exchange::default());
    bench.send_whole(&mut server, &query("select 1; select 1"));
    let most = complete("SELECT 18446744073709551615");
    bench.receive_whole(&mut server, &[most.clone(), most, ready()].concat());
    assert_eq!(bench.around.finished[0].rows, u64::MAX);
}
