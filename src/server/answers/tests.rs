use super::*;

const METER: Meter = Meter {
    slot: 0,
    start: Micros::ZERO,
};

fn feed(answers: &mut Answers, tags: &[u8]) -> Result<Vec<bool>, Unexpected> {
    let mut forwarded = Vec::new();
    for &tag in tags {
        while answers.next_fake().is_some() {}
        let status = (tag == b'Z').then_some(TransactionStatus::Idle);
        forwarded.push(answers.on_message(tag, status, |_| {})?.forward);
    }
    Ok(forwarded)
}

fn execute_batch(answers: &mut Answers) {
    answers.push(Owed::Parse(Answer::Forward, None));
    answers.push(Owed::Bind(None));
    answers.push(Owed::Describe(None));
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
}

#[test]
fn a_query_is_settled_by_its_ready_for_query_only() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"TDDC").expect("a result");
    assert!(!answers.is_settled());
    feed(&mut answers, b"Z").expect("ready");
    assert!(answers.is_settled());
}

#[test]
fn every_sync_of_a_pipeline_is_waited_for() {
    let mut answers = Answers::default();
    for _ in 0..3 {
        execute_batch(&mut answers);
    }
    for round in 0..3 {
        assert!(!answers.is_settled(), "before round {round}");
        feed(&mut answers, b"12TDCZ").expect("answers of a batch");
    }
    assert!(answers.is_settled());
}

#[test]
fn an_error_discards_up_to_the_next_sync_and_no_further() {
    let mut answers = Answers::default();
    execute_batch(&mut answers);
    execute_batch(&mut answers);
    feed(&mut answers, b"1EZ").expect("error and ready");
    assert!(!answers.is_settled());
    feed(&mut answers, b"12TCZ").expect("second batch");
    assert!(answers.is_settled());
}

#[test]
fn a_query_behind_an_error_is_not_owed_an_answer() {
    let mut answers = Answers::default();
    answers.push(Owed::Bind(None));
    answers.push(Owed::Query(METER, None));
    answers.push_sync();
    feed(&mut answers, b"EZ").expect("error, then the Sync's answer");
    assert!(answers.is_settled());
}

#[test]
fn without_a_sync_the_server_goes_on_skipping() {
    let mut answers = Answers::default();
    answers.push(Owed::Bind(None));
    feed(&mut answers, b"E").expect("error");
    assert!(answers.is_skipping() && !answers.is_settled());
    answers.push_sync();
    feed(&mut answers, b"Z").expect("ready");
    assert!(answers.is_settled());
}

#[test]
fn a_base_backup_tells_rows_after_its_copy() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"TDCTDDCHddcTDCCZ").expect("what PostgreSQL answers");
    assert!(answers.is_settled());
}

#[test]
fn a_copy_both_ways_is_ended_by_either_side() {
    let mut server_first = Answers::default();
    server_first.push(Owed::Query(METER, None));
    feed(&mut server_first, b"Wddc").expect("a timeline that ends");
    assert!(server_first.is_copying_in());
    assert!(feed(&mut server_first, b"D").is_err());
    server_first.push_copy_end();
    feed(&mut server_first, b"TDCCZ").expect("the next timeline");
    assert!(server_first.is_settled());

    let mut client_first = Answers::default();
    client_first.push(Owed::Query(METER, None));
    feed(&mut client_first, b"Wd").expect("changes");
    client_first.push_copy_end();
    assert!(!client_first.is_copying_in());
    feed(&mut client_first, b"ddcCCZ").expect("the end");
    assert!(client_first.is_settled());
}

#[test]
fn answered_but_not_synced_is_not_settled() {
    let mut answers = Answers::default();
    answers.push(Owed::Parse(Answer::Forward, None));
    feed(&mut answers, b"1").expect("ParseComplete after a Flush");
    assert!(answers.is_empty() && !answers.is_settled());
}

#[test]
fn swallowed_and_faked_answers_keep_their_places() {
    let mut answers = Answers::default();
    answers.push(Owed::Parse(Answer::Fake, None));
    answers.push(Owed::Parse(Answer::Swallow, None));
    answers.push(Owed::Bind(None));
    answers.push(Owed::Close(Answer::Fake, None));
    answers.push_sync();
    assert_eq!(answers.next_fake(), Some(msg::PARSE_COMPLETE_MESSAGE));
    assert_eq!(answers.next_fake(), None);
    assert_eq!(feed(&mut answers, b"1"), Ok(vec![false]));
    assert_eq!(answers.next_fake(), None);
    assert_eq!(feed(&mut answers, b"2"), Ok(vec![true]));
    assert_eq!(answers.next_fake(), Some(msg::CLOSE_COMPLETE_MESSAGE));
    assert_eq!(feed(&mut answers, b"Z"), Ok(vec![true]));
    assert!(answers.is_settled());
}

#[test]
fn an_answer_nobody_asked_for_is_unexpected() {
    let mut answers = Answers::default();
    assert_eq!(feed(&mut answers, b"Z"), Err(Unexpected(b'Z')));
    answers.push(Owed::Bind(None));
    assert_eq!(feed(&mut answers, b"1"), Err(Unexpected(b'1')));
    assert_eq!(feed(&mut answers, b"D"), Err(Unexpected(b'D')));
}

#[test]
fn a_sync_sent_ahead_of_copy_data_is_not_owed() {
    let mut answers = Answers::default();
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
    feed(&mut answers, b"G").expect("CopyInResponse");
    assert!(answers.is_copying_in());
    answers.push_copy_end();
    answers.push_sync();
    feed(&mut answers, b"CZ").expect("copied, one ready");
    assert!(answers.is_settled());
}

#[test]
fn what_the_server_never_sees_does_not_hide_the_end_of_a_copy() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    answers.push(Owed::Close(Answer::Fake, None));
    answers.push_copy_end();
    feed(&mut answers, b"G").expect("CopyInResponse");
    answers.push_sync();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"CZZ").expect("copied, and the Sync");
    assert!(!answers.is_settled(), "the second Query is owed");
}

#[test]
fn what_the_server_never_sees_does_not_hide_a_sync_ahead_of_copy_data() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    answers.push(Owed::Close(Answer::Fake, None));
    answers.push_sync();
    feed(&mut answers, b"G").expect("CopyInResponse");
    answers.push_copy_end();
    feed(&mut answers, b"CZ").expect("copied, one ready");
    assert_eq!(answers.next_fake(), Some(msg::CLOSE_COMPLETE_MESSAGE));
    assert!(answers.is_empty());
}

#[test]
fn a_query_behind_a_copy_whose_sync_is_not_owed_settles() {
    let mut answers = Answers::default();
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
    answers.push_copy_end();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"GCTDCZ").expect("copied, then a result");
    assert!(answers.is_settled());
}

#[test]
fn a_copy_that_fails_with_a_sync_in_doubt_taints_the_server() {
    let mut answers = Answers::default();
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
    feed(&mut answers, b"GE").expect("copy refused");
    answers.push_sync();
    feed(&mut answers, b"Z").expect("ready");
    assert!(answers.is_empty() && !answers.is_settled());
}

#[test]
fn requests_behind_a_sync_in_doubt_taint_the_server() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"G").expect("CopyInResponse");
    // The copy has failed, but the pooler does not know it yet: the Sync
    // counts, and Describe is not discarded with Execute.
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
    answers.push(Owed::Describe(None));
    feed(&mut answers, b"EZEZ").expect("of the copy, and of Execute");
    assert!(!answers.is_settled());
}

#[test]
fn a_sync_in_doubt_that_is_answered_is_in_doubt_no_more() {
    let mut answers = Answers::default();
    answers.push(Owed::Execute(METER, None));
    feed(&mut answers, b"G").expect("CopyInResponse");
    answers.push_sync();
    feed(&mut answers, b"E").expect("copy refused");
    assert!(!answers.is_settled());
    feed(&mut answers, b"Z").expect("the Sync was read after the failure");
    assert!(answers.is_settled());
}

#[test]
fn what_an_error_discards_is_handed_out_latest_first() {
    let mut answers = Answers::default();
    answers.push(Owed::Bind(None));
    answers.push(Owed::Describe(None));
    answers.push(Owed::Execute(METER, None));
    answers.push_sync();
    let mut order = Vec::new();
    let step = answers.on_message(b'E', None, |owed| order.push(format!("{owed:?}")));
    assert!(step.expect("an error").forward);
    assert!(order[0].starts_with("Execute") && order[2].starts_with("Bind"));
}

#[test]
fn a_query_with_two_copies_takes_two_copy_dones() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    answers.push_copy_end();
    answers.push_copy_end();
    feed(&mut answers, b"GCGC").expect("two copies");
    feed(&mut answers, b"Z").expect("ready");
    assert!(answers.is_settled());
}

#[test]
fn a_failed_copy_of_a_query_settles_at_ready_for_query() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    feed(&mut answers, b"GEZ").expect("copy failed");
    answers.push_copy_end();
    assert!(answers.is_settled());
}

#[test]
fn nothing_of_an_internal_query_is_forwarded() {
    let mut answers = Answers::default();
    answers.push(Owed::Internal);
    assert_eq!(feed(&mut answers, b"CSZ"), Ok(vec![false; 3]));
    assert!(answers.is_settled());
}

#[test]
fn an_error_nobody_asked_for_taints() {
    let mut answers = Answers::default();
    feed(&mut answers, b"E").expect("forwarded");
    assert!(!answers.is_settled());
}

#[test]
fn an_open_transaction_is_not_settled() {
    let mut answers = Answers::default();
    answers.push(Owed::Query(METER, None));
    let status = Some(TransactionStatus::Active);
    answers
        .on_message(b'Z', status, |_| {})
        .expect("ready in a transaction");
    assert!(answers.is_empty() && !answers.is_settled());
}
