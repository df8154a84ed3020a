//! Deadlines and bounds.

use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn a_body_that_proves_too_large_is_refused_wherever_it_is() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.max_body = 200_000;
    let running = Running::ready(&settings).await;
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    let mut client = running.client().await;
    client
        .write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for _ in 0..4 {
        client.write(&chunk).await;
    }
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.details()), (413, "body_too_large"));
    settings.max_body = 1000;
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client
        .write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.write(&chunk).await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn a_refused_client_that_is_still_sending_gets_its_answer() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.max_body = 1000;
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client
        .write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 800000\r\n\r\n")
        .await;
    client.write("x".repeat(800_000)).await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_not_waited_for() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.body_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    for length in [10, 100_000] {
        let mut client = running.client().await;
        client
            .write(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\nx"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.details()), (408, "body_timeout"));
    }
    assert_eq!(
        running.observer.snapshot().healthy_nodes,
        1,
        "it is not the node's fault"
    );
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_cut() {
    let node = Node::start(|_| {
        Reply::Bytes(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello".to_vec())
    })
    .await;
    let mut settings = settings(&[&node]);
    settings.body_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    let answer = running.get("/").await;
    assert_eq!((answer.text().as_str(), answer.complete), ("hello", false));
}

#[tokio::test]
async fn an_answer_ends_before_the_requests_deadline_or_is_cut() {
    let node = Node::start(|_| {
        Reply::Bytes(b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello".to_vec())
    })
    .await;
    let mut settings = settings(&[&node]);
    settings.request_timeout = 100 * MS;
    let running = Running::ready(&settings).await;
    assert!(!running.get("/").await.complete);
    running.until(|it| it.errors == 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    const SIZE: usize = 32 * 1024 * 1024;
    let node = Node::start(|_| {
        let mut answer = format!("HTTP/1.1 200 X\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + SIZE, b'x');
        Reply::Bytes(answer)
    })
    .await;
    let mut settings = settings(&[&node]);
    settings.body_timeout = 100 * MS;
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    running.until(|it| it.requests == 1).await;
    assert_eq!(
        running.metric("pgweir_http_responses_cut_total", &[("by", "client")]),
        1.0
    );
    let freed = || running.metric("pgweir_http_upstream_in_flight", &[]) == 0.0;
    eventually("the node is free", freed).await;
}

/// Who gets `/large` and does not read it keeps the node's only place.
#[tokio::test]
async fn who_does_not_read_gives_way_to_who_waits_and_who_waits_for_the_node_does_not() {
    const SIZE: usize = 32 * 1024 * 1024;
    let node = Node::start(|request| {
        let mut answer = format!("HTTP/1.1 200 X\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes();
        match request.line() {
            "GET /large HTTP/1.1" => answer.resize(answer.len() + SIZE, b'x'),
            "GET /slow HTTP/1.1" => {}
            _ => return super::answer(200, "here"),
        }
        Reply::Bytes(answer)
    })
    .await;
    let mut settings = settings(&[&node]);
    settings.max_in_flight = 1;
    let running = Running::ready(&settings).await;
    let mut unread = running.client().await;
    unread.write("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let busy = || running.metric("pgweir_http_upstream_in_flight", &[]) == 1.0;
    eventually("the node is busy", busy).await;
    assert_eq!(running.get("/").await.text(), "here");
    let cut = || running.metric("pgweir_http_responses_cut_total", &[("by", "client")]);
    assert_eq!(cut(), 1.0);
    let mut patient = running.client().await;
    patient.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the node is busy", busy).await;
    assert_eq!(running.get("/").await.status, 503);
    assert_eq!(cut(), 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let node = Node::start(|_| Reply::Hang).await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    client.write("POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let there = || running.metric("pgweir_http_upstream_in_flight", &[]) == 1.0;
    eventually("the request is at the node", there).await;
    drop(client);
    running.until(|it| it.requests == 1).await;
    assert_eq!(
        running.metric("pgweir_http_requests_total", &[("code", "499")]),
        1.0
    );
    assert_eq!(running.observer.snapshot().errors, 0);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_sent_away() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.header_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.write("GET / HTTP/1.1\r\nHo").await;
    assert_eq!(client.answer().await.status, 408);
    assert!(client.is_closed().await);
    let mut silent = running.client().await;
    assert!(silent.is_closed().await);
}

#[tokio::test]
async fn an_idle_client_is_let_go_after_its_keepalive_and_not_after_its_head_time() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.header_timeout = 30 * MS;
    settings.keepalive_timeout = 300 * MS;
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    let began = Instant::now();
    assert_eq!(client.get("/").await.status, 200);
    tokio::time::sleep(100 * MS).await;
    assert_eq!(client.get("/").await.status, 200);
    assert!(client.is_closed().await);
    assert!(began.elapsed() >= 400 * MS);
}

#[tokio::test]
async fn more_requests_than_the_nodes_take_wait_their_turn() {
    let (a, b) = (Node::named("a").await, Node::named("b").await);
    for node in [&a, &b] {
        node.does(|_| Reply::Hang);
    }
    let mut settings = settings(&[&a, &b]);
    settings.max_in_flight = 2;
    settings.queue_size = 3;
    settings.queue_timeout = 10 * SECOND;
    let running = Running::ready(&settings).await;
    let mut asking = Vec::new();
    for _ in 0..7 {
        let mut client = running.client().await;
        client.write("POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        asking.push(client);
    }
    let queued = || running.metric("pgweir_http_queue_length", &[]) == 3.0;
    eventually("three wait", queued).await;
    let answer = running.post("/", "x").await;
    assert_eq!((answer.status, answer.details()), (503, "queue_full"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(a.received().len() + b.received().len(), 4);
    // Four leave, three are served; who waits and leaves is not.
    for node in [&a, &b] {
        node.does(|_| answer_of("late"));
    }
    asking.drain(..4);
    for client in &mut asking {
        assert_eq!(client.answer().await.text(), "late");
    }
    assert_eq!(running.metric("pgweir_http_shed_total", &[]), 1.0);
}

fn answer_of(text: &str) -> Reply {
    answer(200, text)
}

#[tokio::test]
async fn waiting_has_an_end() {
    let node = Node::start(|_| Reply::Hang).await;
    let mut settings = settings(&[&node]);
    settings.max_in_flight = 1;
    settings.queue_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    let mut first = running.client().await;
    first.write("POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let there = || node.received().len() == 1;
    eventually("the node is busy", there).await;
    let answer = running.get("/").await;
    assert_eq!((answer.status, answer.details()), (503, "queue_timeout"));
}

#[tokio::test]
async fn idle_node_connections_are_closed_in_time() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.keepalive_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    for _ in 0..2 {
        assert_eq!(running.get("/").await.status, 200);
        tokio::time::sleep(100 * MS).await;
    }
    assert_eq!(
        running.metric("pgweir_http_upstream_connections_total", &[]),
        2.0
    );
}

#[tokio::test]
async fn bytes_nobody_asked_for_end_a_kept_connection() {
    let node = Node::start(|_| {
        Reply::Bytes(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nevil".to_vec())
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(
        running.metric("pgweir_http_upstream_connections_total", &[]),
        5.0
    );
}

#[tokio::test]
async fn nonsense_from_a_node_is_not_passed_on() {
    for nonsense in [
        &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
        b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 X\r\nX y\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let node = Node::start(move |_| Reply::BytesAndClose(nonsense.to_vec())).await;
        let running = Running::ready(&settings(&[&node])).await;
        let mut client = running.client().await;
        client.write("POST / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{}", nonsense.escape_ascii());
        let mut rest = Vec::new();
        let _open = tokio::time::timeout(10 * MS, client.stream.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    (settings.client_rate, settings.client_burst) = (1, 3);
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.details()), (429, "client_rate"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(node.received().len(), 3);
    let limited = running.metric("pgweir_http_rate_limited_total", &[("by", "client")]);
    assert_eq!(limited, 1.0);
}

#[tokio::test]
async fn a_route_has_a_limit_of_its_own() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    let few = config::Route {
        rate: 1,
        burst: 1,
        ..route("/few", Default::default())
    };
    settings.routes = BTreeMap::from([("few".to_owned(), few)]);
    let running = Running::ready(&settings).await;
    assert_eq!(running.get("/few").await.status, 200);
    let answer = running.post("/few", "x").await;
    assert_eq!((answer.status, answer.details()), (429, "route_rate"));
    assert_eq!(running.get("/many").await.status, 200);
}

#[tokio::test]
async fn requests_are_refused_while_the_pooler_is_busy() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    settings.shed_pool_waiting = 5;
    let running = Running::ready(&settings).await;
    let pressure = running.observer.pressure();
    pressure.set(5);
    assert_eq!(running.get("/").await.status, 200);
    pressure.set(6);
    let answer = running.get("/").await;
    assert_eq!((answer.status, answer.details()), (503, "pooler_busy"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    pressure.set(0);
    assert_eq!(running.get("/").await.status, 200);
}
