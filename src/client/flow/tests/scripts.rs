//! Texts that name prepared statements.

use super::*;

impl Bench {
    /// Sends what has to stop at a message that waits for answers; what the
    /// server gets, and how many bytes were taken.
    fn hold(&mut self, server: &mut Exchange, bytes: &[u8]) -> (Vec<u8>, usize) {
        let mut scratch = BytesMut::new();
        let mut out = Splice::new(bytes, &mut scratch);
        let walked =
            self.flow
                .client_chunk(bytes, server, &mut self.around, &mut out, &mut Vec::new());
        let (taken, stop) = walked.expect("valid messages");
        assert_eq!(stop, Stop::NeedAnswers);
        (out.output().to_vec(), taken)
    }

    /// Prepares and is told so.
    fn prepared(&mut self, server: &mut Exchange, name: &str, text: &str) {
        self.send_whole(server, &query(&format!("prepare {name} as {text}")));
        let answer = [CLOSED.to_vec(), complete("PREPARE"), ready()].concat();
        self.receive_whole(server, &answer);
        assert!(server.is_settled());
    }
}

/// What runs a PREPARE on a server that lacks the statement.
fn runner(statement: &str, text: &str) -> Vec<u8> {
    [
        close(statement),
        close("PGWEIR"),
        parse("PGWEIR", &format!("PREPARE \"{statement}\" {text}")),
        message(b'B', b"PGWEIR\0PGWEIR\0\0\0\0\0\0\0"),
        message(b'E', b"PGWEIR\0\0\0\0\0"),
        message(b'C', b"PPGWEIR\0"),
        close("PGWEIR"),
    ]
    .concat()
}

fn runner_answers() -> Vec<u8> {
    let ran = [PARSED, BOUND, &complete("PREPARE")].concat();
    [CLOSED, CLOSED, &ran, CLOSED, CLOSED].concat()
}

#[test]
fn prepare_gets_the_servers_name_however_it_is_cut() {
    let bytes = query("/* x */ prepare p (int) as select $1; execute p(1)");
    let expected = [
        close("PGBOUNCER_1"),
        query("/* x */ prepare \"PGBOUNCER_1\" (int) as select $1; execute \"PGBOUNCER_1\"(1)"),
    ];
    for piece in 1..bytes.len() {
        let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
        let sent = bench.send(&mut server, &bytes, piece);
        assert_eq!(sent, expected.concat(), "pieces of {piece}");
    }
}

#[test]
fn two_names_in_a_row_stay_two() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let sent = bench.send_whole(&mut server, &query("prepare p\"q\" as select 1"));
    let text = query("prepare \"PGBOUNCER_1\" \"q\" as select 1");
    assert_eq!(sent, [close("PGBOUNCER_1"), text].concat());
    let place = message(b'E', b"SERROR\0C42601\0Mno\0P23\0\0");
    let got = bench.receive_whole(&mut server, &[CLOSED.to_vec(), place, ready()].concat());
    let place = message(b'E', b"SERROR\0C42601\0Mno\0P10\0\0");
    assert_eq!(got, [place, ready()].concat());
}

#[test]
fn a_name_is_there_once_the_tag_says_so() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let text = query("prepare p as select 1");
    bench.send_whole(&mut server, &text);
    bench.receive_whole(&mut server, CLOSED);
    assert_eq!(bench.flow.prepared(), 0);
    let answer = [complete("PREPARE"), ready()].concat();
    assert_eq!(bench.receive_whole(&mut server, &answer), answer);
    assert_eq!((bench.flow.prepared(), server.prepared.len()), (1, 1));
    bench.send_whole(&mut server, &query("prepare q as selct"));
    bench.receive_whole(&mut server, &[CLOSED.to_vec(), error(), ready()].concat());
    assert_eq!((bench.flow.prepared(), server.prepared.len()), (1, 1));
    assert!(server.is_settled());
}

#[test]
fn what_the_server_has_is_executed_at_once() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let sent = bench.send_whole(&mut server, &query("execute P"));
    assert_eq!(sent, query("execute \"PGBOUNCER_1\""));
}

#[test]
fn what_the_server_lacks_is_asked_for_ahead_of_the_text() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = Exchange::default();
    let text = query("execute p");
    let (sent, taken) = bench.hold(&mut other, &text);
    let asked = [runner("PGBOUNCER_1", "as select 1"), sync()].concat();
    assert_eq!((sent, taken), (asked, 0));
    let answers = [runner_answers(), ready()].concat();
    assert_eq!(bench.receive(&mut other, &answers, 3), b"");
    assert!(other.is_settled());
    let sent = bench.send_whole(&mut other, &text);
    assert_eq!(sent, query("execute \"PGBOUNCER_1\""));
}

#[test]
fn what_the_server_refuses_ahead_of_a_text_is_the_answer_to_it() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = Exchange::default();
    let batch = [query("insert; execute p"), query("select 2")].concat();
    let (_, taken) = bench.hold(&mut other, &batch);
    assert_eq!(taken, 0);
    let place = message(b'E', b"SERROR\0C42P01\0Mno\0P20\0\0");
    let answers = [[CLOSED, CLOSED, PARSED, BOUND].concat(), place, ready()].concat();
    let got = bench.receive_whole(&mut other, &answers);
    assert_eq!(got, [error(), ready()].concat(), "without the place");
    assert!(other.is_settled());
    let sent = bench.send(&mut other, &batch, 4);
    assert_eq!(sent, query("select 2"), "it has been answered");
}

#[test]
fn a_text_waits_for_the_answers_in_front_of_it() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batch = [query("prepare p as select 1"), query("execute p")].concat();
    let (_, taken) = bench.hold(&mut server, &batch);
    let rest = &batch[taken..];
    assert_eq!(rest, query("execute p"));
    bench.receive_whole(
        &mut server,
        &[CLOSED.to_vec(), complete("PREPARE"), ready()].concat(),
    );
    let sent = bench.send_whole(&mut server, rest);
    assert_eq!(sent, query("execute \"PGBOUNCER_1\""));
}

#[test]
fn a_text_behind_messages_without_a_sync_is_sent_without_waiting_or_asking() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = Exchange::default();
    let batch = [bind(""), query("execute p")].concat();
    let sent = bench.send_whole(&mut other, &batch);
    assert_eq!(sent, [bind(""), query("execute \"PGBOUNCER_1\"")].concat());
}

#[test]
fn in_an_aborted_transaction_nothing_is_asked_for() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = Exchange::default();
    bench.send_whole(&mut other, &query("begin; selct"));
    bench.receive_whole(&mut other, &[error(), message(b'Z', b"E")].concat());
    let sent = bench.send_whole(&mut other, &query("execute p"));
    assert_eq!(sent, query("execute \"PGBOUNCER_1\""));
}

#[test]
fn while_a_copy_waits_for_data_a_text_passes_as_it_is() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    bench.send_whole(&mut server, &query("copy t from stdin"));
    bench.receive_whole(&mut server, &message(b'G', &[0, 0, 0]));
    let sent = bench.send_whole(&mut server, &query("execute p"));
    assert_eq!(sent, query("execute p"));
}

#[test]
fn a_server_that_may_have_run_a_text_as_it_is_is_not_reused() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &query("copy t from stdin"));
    bench.receive_whole(&mut server, &message(b'G', &[0, 0, 0]));
    let text = query("prepare p as select 1");
    assert_eq!(bench.send_whole(&mut server, &text), text);
    // The data was wrong, and the text came behind the end of the COPY.
    let answer = [error(), ready(), complete("PREPARE"), ready()].concat();
    assert_eq!(bench.receive_whole(&mut server, &answer), answer);
    assert!(server.answers.is_empty() && server.answers.is_condemned());
}

#[test]
fn deallocate_leaves_the_statement_to_others() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.send_whole(&mut server, &[parse("s", "select 1"), sync()].concat());
    bench.receive_whole(&mut server, &[PARSED.to_vec(), ready()].concat());
    let sent = bench.send_whole(&mut server, &query("DEALLOCATE s"));
    let expected = [
        close("PGWEIR_0"),
        parse("PGWEIR_0", ""),
        query("DEALLOCATE \"PGWEIR_0\""),
    ];
    assert_eq!(sent, expected.concat());
    let answer = [complete("DEALLOCATE"), ready()].concat();
    let got = bench.receive_whole(&mut server, &[CLOSED, PARSED, &answer].concat());
    assert_eq!(got, answer);
    assert_eq!((bench.flow.prepared(), server.prepared.len()), (0, 1));
}

#[test]
fn a_deallocate_that_fails_leaves_the_name() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    bench.send_whole(&mut server, &query("select 1/0; deallocate p"));
    bench.receive_whole(&mut server, &[CLOSED, PARSED, &error(), &ready()].concat());
    assert_eq!(bench.flow.prepared(), 1);
}

#[test]
fn names_the_client_has_not_pass_unless_they_are_the_servers() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = bench.beside();
    let text = query("execute q; deallocate \"Q\"; execute U&\"q\"");
    assert_eq!(other.send_whole(&mut server, &text), text);
    other.receive_whole(&mut server, &[error(), ready()].concat());
    let sent = other.send_whole(&mut server, &query("execute \"PGBOUNCER_1\""));
    assert_eq!(sent, query("execute \"PGWEIR_NONE\""));
    let missing = |name: &str| {
        let text = format!("SERROR\0C26000\0Mprepared statement \"{name}\" is not there\0\0");
        message(b'E', text.as_bytes())
    };
    let got = other.receive_whole(&mut server, &[missing("PGWEIR_NONE"), ready()].concat());
    assert_eq!(got, [missing("PGBOUNCER_1"), ready()].concat());
}

#[test]
fn a_prepare_of_a_name_in_use_meets_a_statement_in_its_way() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let sent = bench.send_whole(&mut server, &query("prepare p as select 2"));
    let expected = [
        close("PGWEIR_0"),
        parse("PGWEIR_0", ""),
        query("prepare \"PGWEIR_0\" as select 2"),
    ];
    assert_eq!(sent, expected.concat());
    bench.receive_whole(&mut server, &[CLOSED, PARSED, &error(), &ready()].concat());
    let sent = bench.send_whole(&mut server, &query("execute p"));
    assert_eq!(sent, query("execute \"PGBOUNCER_1\""));
}

#[test]
fn what_a_text_prepares_does_not_evict_what_it_executes() {
    let (mut bench, mut server) = (Bench::tracking(1), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let sent = bench.send_whole(&mut server, &query("prepare q as select 2; execute p"));
    let text = "prepare \"PGBOUNCER_2\" as select 2; execute \"PGBOUNCER_1\"";
    assert_eq!(sent, [close("PGBOUNCER_2"), query(text)].concat());
}

#[test]
fn a_text_that_names_too_many_statements_is_refused() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let text = query(&"execute p;".repeat(1001));
    assert_eq!(bench.refuse(&mut server, &text), ClientFault::TooManyNames);
    let text = query(&"execute p;".repeat(1000));
    assert_eq!(bench.send_whole(&mut server, &text), text);
}

#[test]
fn an_unnamed_text_is_given_what_it_executes_within_its_batch() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    bench.prepared(&mut server, "p", "select 1");
    let mut other = Exchange::default();
    let batch = [parse("", "execute p"), bind(""), execute(), sync()].concat();
    let sent = bench.send_whole(&mut other, &batch);
    let expected = [
        runner("PGBOUNCER_1", "as select 1"),
        parse("", "execute \"PGBOUNCER_1\""),
        bind(""),
        execute(),
        sync(),
    ];
    assert_eq!(sent, expected.concat());
    let answer = [PARSED, BOUND, &complete("SELECT 1"), &ready()].concat();
    let got = bench.receive_whole(&mut other, &[runner_answers(), answer.clone()].concat());
    assert_eq!(got, answer);
    assert!(other.is_settled());
}

#[test]
fn an_unnamed_text_takes_effect_when_it_is_executed() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batch = [
        parse("", "prepare p as select 1"),
        bind(""),
        execute(),
        sync(),
    ]
    .concat();
    for prepared in [0, 1] {
        bench.send_whole(&mut server, &batch);
        assert_eq!(bench.flow.prepared(), prepared);
        let way = [CLOSED, PARSED].concat();
        let (way, end) = match prepared {
            0 => (CLOSED, complete("PREPARE")),
            _ => (&way[..], error()),
        };
        let answers = [PARSED, way, BOUND, &end, &ready()].concat();
        bench.receive_whole(&mut server, &answers);
        assert!(server.is_settled());
        assert_eq!(bench.flow.prepared(), 1);
    }
    let batch = [parse("", "deallocate p"), bind(""), execute(), sync()].concat();
    bench.send_whole(&mut server, &batch);
    let end = complete("DEALLOCATE");
    let answers = [PARSED, CLOSED, PARSED, BOUND, &end, &ready()].concat();
    bench.receive_whole(&mut server, &answers);
    assert_eq!(bench.flow.prepared(), 0);
}

/// Execute of a named portal.
fn execute_portal(name: &str) -> Vec<u8> {
    message(b'E', &[name.as_bytes(), b"\0\0\0\0\0"].concat())
}

/// Bind of a portal with a name, to the unnamed statement.
fn bind_portal(name: &str) -> Vec<u8> {
    message(b'B', &[name.as_bytes(), b"\0\0\0\0\0\0\0\0"].concat())
}

#[test]
fn a_discarded_parse_leaves_the_unnamed_statement_that_was() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let first = [
        parse("", "prepare p as select 1"),
        execute_portal("none"),
        parse("", "select 2"),
        sync(),
    ];
    bench.send_whole(&mut server, &first.concat());
    bench.receive_whole(&mut server, &[PARSED.to_vec(), error(), ready()].concat());
    assert!(server.is_settled());
    // It is the PREPARE that this executes.
    bench.send_whole(&mut server, &[bind(""), execute(), sync()].concat());
    bench.receive_whole(
        &mut server,
        &[BOUND.to_vec(), complete("PREPARE"), ready()].concat(),
    );
    assert!(
        server.answers.is_condemned(),
        "it has a statement that nobody knows"
    );
}

#[test]
fn a_parse_discarded_in_front_of_a_bind_condemns() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batches = [
        parse("", "prepare p as select 1"),
        execute_portal("none"),
        parse("", "prepare q as select 2"),
        sync(),
        bind(""),
        execute(),
        sync(),
    ];
    bench.send_whole(&mut server, &batches.concat());
    bench.receive_whole(&mut server, &[PARSED.to_vec(), error(), ready()].concat());
    let way = [CLOSED, BOUND].concat();
    bench.receive_whole(&mut server, &[way, complete("PREPARE"), ready()].concat());
    assert!(server.answers.is_condemned());
}

#[test]
fn each_portal_has_its_own_effect() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let batch = [
        parse("", "prepare p as select 1"),
        bind_portal("one"),
        parse("", "prepare q as select 2"),
        bind_portal("two"),
        execute_portal("one"),
        sync(),
    ];
    bench.send_whole(&mut server, &batch.concat());
    let bound = [PARSED, CLOSED, BOUND].concat();
    let answers = [bound.clone(), bound, complete("PREPARE"), ready()].concat();
    bench.receive_whole(&mut server, &answers);
    assert!(server.is_settled());
    assert_eq!((bench.flow.prepared(), server.prepared.len()), (1, 1));
    assert_eq!(
        bench.flow.lookup(b"p").map(|it| &*it.name),
        Some(&b"PGBOUNCER_1"[..])
    );
}

#[test]
fn a_prepare_that_was_not_seen_condemns() {
    let (mut bench, mut server) = (Bench::tracking(10), Exchange::default());
    let text = [" ".repeat(17_000).as_str(), "prepare p as select 1"].concat();
    bench.send_whole(&mut server, &query(&text));
    bench.receive_whole(&mut server, &[complete("PREPARE"), ready()].concat());
    assert!(server.answers.is_condemned());
}
