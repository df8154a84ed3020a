//! Nodes that die, hang, close and fall ill.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::config::Replay;

async fn two_nodes() -> (Node, Node) {
    (Node::named("a").await, Node::named("b").await)
}

/// Requests that say this on the nodes, checks aside.
fn deliveries(nodes: &[&Node], line: &str) -> usize {
    let received = nodes.iter().flat_map(|node| node.received());
    received.filter(|it| it.line() == line).count()
}

#[tokio::test]
async fn both_nodes_get_their_share() {
    let (a, b) = two_nodes().await;
    let running = Running::ready(&settings(&[&a, &b])).await;
    let mut client = running.client().await;
    for _ in 0..100 {
        client.get("/").await;
    }
    // Turn by turn, unless the machine made one of them seem slow.
    let shares = [a.received().len(), b.received().len()];
    assert!(shares.iter().all(|it| *it >= 12), "{shares:?}");
}

#[tokio::test]
async fn a_killed_node_is_not_noticed() {
    let (a, b) = two_nodes().await;
    let running = Running::ready(&settings(&[&a, &b])).await;
    let mut client = running.client().await;
    a.kill().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "b");
        let answer = client.post("/", "x").await;
        assert_eq!(answer.text(), "b", "a refused connection is proof");
    }
    running.until(|it| it.healthy_nodes == 1).await;
    a.restart().await;
    running.until(|it| it.healthy_nodes == 2).await;
    // If the one happened to be slow, it still gets one in eight.
    let mut texts = BTreeSet::new();
    for _ in 0..16 {
        texts.insert(client.get("/").await.text());
    }
    assert_eq!(Vec::from_iter(texts), ["a", "b"]);
}

#[tokio::test]
async fn a_get_whose_node_died_on_it_is_answered_by_the_other_node() {
    let (a, b) = two_nodes().await;
    a.does(|_| Reply::Close);
    let running = Running::ready(&settings(&[&a, &b])).await;
    let mut client = running.client().await;
    for method in ["GET", "OPTIONS"] {
        for _ in 0..4 {
            client
                .write(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
                .await;
            assert_eq!(client.answer().await.text(), "b");
        }
    }
    let retried = running.metric("pgweir_http_retries_total", &[("proof", "safe_method")]);
    assert!(retried >= 1.0);
    assert_eq!(running.observer.snapshot().errors, 0);
}

#[tokio::test]
async fn a_post_whose_node_died_on_it_is_delivered_once() {
    let (a, b) = two_nodes().await;
    a.does(|_| Reply::Close);
    b.does(|_| Reply::Close);
    let running = Running::ready(&settings(&[&a, &b])).await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let mut client = running.client().await;
        client
            .write(format!(
                "{method} /operation HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
            ))
            .await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.details()),
            (502, "ambiguous"),
            "{method}"
        );
        assert_eq!(
            deliveries(&[&a, &b], &format!("{method} /operation HTTP/1.1")),
            1
        );
    }
    let refused = running.metric("pgweir_http_replay_refused_total", &[]);
    assert_eq!(refused, 4.0);
}

#[tokio::test]
async fn poison_stays_with_the_node_it_killed() {
    let (a, b) = two_nodes().await;
    let nodes = [Arc::new(a), Arc::new(b)];
    let running = Running::ready(&settings(&[&nodes[0], &nodes[1]])).await;
    let killed = Arc::new(AtomicU64::new(0));
    for node in &nodes {
        let killed = Arc::clone(&killed);
        node.does(move |request| match request.line() {
            "POST /operation HTTP/1.1" => {
                killed.fetch_add(1, Ordering::Relaxed);
                Reply::Close
            }
            _ => answer(200, "fine"),
        });
    }
    assert_eq!(running.post("/operation", "{}").await.status, 502);
    assert_eq!(killed.load(Ordering::Relaxed), 1);
    for _ in 0..10 {
        assert_eq!(running.get("/").await.text(), "fine");
    }
    assert_eq!(killed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_route_decides_about_replay() {
    let (a, b) = two_nodes().await;
    a.does(|_| Reply::Close);
    b.does(|_| Reply::Close);
    let mut settings = settings(&[&a, &b]);
    settings.routes = BTreeMap::from([
        ("never".to_owned(), route("/never", Replay::Never)),
        ("always".to_owned(), route("/always/{id}", Replay::Always)),
    ]);
    let running = Running::ready(&settings).await;
    assert_eq!(running.get("/never").await.status, 502);
    assert_eq!(deliveries(&[&a, &b], "GET /never HTTP/1.1"), 1);
    assert_eq!(running.post("/always/1", "x").await.status, 502);
    assert_eq!(deliveries(&[&a, &b], "POST /always/1 HTTP/1.1"), 2);
    let told = [("route", "always"), ("proof", "configured")];
    assert_eq!(running.metric("pgweir_http_retries_total", &told), 1.0);
}

#[tokio::test]
async fn a_large_body_is_not_sent_again_once_begun() {
    let (a, b) = two_nodes().await;
    a.does(|_| Reply::Close);
    b.does(|_| Reply::Close);
    let mut settings = settings(&[&a, &b]);
    settings.routes = BTreeMap::from([("always".to_owned(), route("/always", Replay::Always))]);
    let running = Running::ready(&settings).await;
    let large = "x".repeat(100_000);
    assert_eq!(running.post("/always", &large).await.status, 502);
    assert_eq!(deliveries(&[&a, &b], "POST /always HTTP/1.1"), 1);
}

#[tokio::test]
async fn a_large_body_goes_to_the_other_node_if_nothing_of_it_was_taken() {
    let (a, b) = two_nodes().await;
    b.does(|request| answer(200, &request.body.len().to_string()));
    let mut settings = settings(&[&a, &b]);
    settings.health.interval = 60 * SECOND;
    let running = Running::ready(&settings).await;
    a.kill().await;
    let large = "x".repeat(100_000);
    for _ in 0..2 {
        assert_eq!(running.post("/", &large).await.text(), "100000");
    }
    let proof = [("proof", "not_connected")];
    assert_eq!(running.metric("pgweir_http_retries_total", &proof), 1.0);
}

#[tokio::test]
async fn a_node_that_never_answers_is_given_up_at_the_deadline() {
    let node = Node::start(|_| Reply::Hang).await;
    let mut settings = settings(&[&node]);
    let slow = config::Route {
        timeout: Some(100 * MS),
        ..route("/slow", Replay::Proven)
    };
    settings.routes = BTreeMap::from([("slow".to_owned(), slow)]);
    let running = Running::ready(&settings).await;
    for answer in [running.get("/slow").await, running.post("/slow", "x").await] {
        assert_eq!(answer.status, 504);
        let status = "pgweir; error=http_response_timeout; details=\"ambiguous\"";
        assert_eq!(answer.header("proxy-status"), Some(status));
    }
    assert_eq!(running.observer.snapshot().errors, 2);
}

#[tokio::test]
async fn a_get_moves_from_a_node_that_goes_down_and_a_post_stays() {
    let (a, b) = two_nodes().await;
    let mut settings = settings(&[&a, &b]);
    settings.health.timeout = 100 * MS;
    let running = Running::ready(&settings).await;
    // Accepts everything, answers nothing, not even checks.
    a.set_stuck(true);
    let mut gets = Vec::new();
    for _ in 0..4 {
        let mut client = running.client().await;
        client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        gets.push(client);
    }
    for client in &mut gets {
        assert_eq!(client.answer().await.text(), "b");
    }
    running.until(|it| it.healthy_nodes == 1).await;
    assert_eq!(running.observer.snapshot().errors, 0);
    assert!(!a.received().is_empty(), "none was there to be moved");
}

#[tokio::test]
async fn a_sick_nodes_5xx_is_not_shown_to_a_get() {
    let (a, b) = two_nodes().await;
    let mut settings = settings(&[&a, &b]);
    settings.health.interval = 60 * SECOND;
    let running = Running::ready(&settings).await;
    a.set_sick(true);
    for _ in 0..10 {
        assert_eq!(running.get("/").await.text(), "b");
    }
    running.until(|it| it.healthy_nodes == 1).await;
    assert_eq!(a.received().len(), 1, "suspected at the first 5xx");
    assert_eq!(running.observer.snapshot().errors, 0);
    let sick = [("upstream", "n0"), ("code", "500")];
    assert_eq!(
        running.metric("pgweir_http_upstream_requests_total", &sick),
        1.0
    );
}

#[tokio::test]
async fn a_sick_nodes_5xx_to_a_post_is_passed_on_and_ends_its_turn() {
    let (a, b) = two_nodes().await;
    let mut settings = settings(&[&a, &b]);
    settings.health.interval = 60 * SECOND;
    let running = Running::ready(&settings).await;
    a.set_sick(true);
    let mut errors = 0;
    for _ in 0..10 {
        let answer = running.post("/operation", "{}").await;
        errors += usize::from(answer.status == 500);
    }
    assert_eq!(errors, 1);
    assert_eq!(deliveries(&[&a, &b], "POST /operation HTTP/1.1"), 10);
}

#[tokio::test]
async fn a_5xx_of_a_well_node_is_passed_on() {
    let (a, b) = two_nodes().await;
    a.does(|_| answer(500, "my own fault"));
    b.does(|_| answer(500, "my own fault"));
    let running = Running::ready(&settings(&[&a, &b])).await;
    for _ in 0..4 {
        let answer = running.get("/").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (500, "my own fault")
        );
    }
    assert_eq!(deliveries(&[&a, &b], "GET / HTTP/1.1"), 4);
    running.until(|it| it.healthy_nodes == 2).await;
}

#[tokio::test]
async fn a_nodes_own_limiter_is_passed_on_and_is_no_news() {
    let node = Node::start(|_| answer(429, "Too many requests")).await;
    let mut settings = settings(&[&node]);
    settings.health.interval = 60 * SECOND;
    let running = Running::ready(&settings).await;
    let checks = node.checks();
    for _ in 0..5 {
        assert_eq!(running.get("/").await.status, 429);
    }
    assert_eq!(running.observer.snapshot().healthy_nodes, 1);
    assert_eq!(node.checks(), checks);
    assert_eq!(running.observer.snapshot().errors, 0);
}

#[tokio::test]
async fn a_node_that_fails_its_checks_gets_no_requests() {
    let (a, b) = two_nodes().await;
    let running = Running::ready(&settings(&[&a, &b])).await;
    a.set_sick(true);
    running.until(|it| it.healthy_nodes == 1).await;
    for _ in 0..10 {
        assert_eq!(running.post("/", "x").await.text(), "b");
    }
    assert_eq!(a.received().len(), 0);
}

#[tokio::test]
async fn the_last_node_is_asked_even_if_its_checks_fail() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    node.set_sick(true);
    running.until(|it| it.healthy_nodes == 0).await;
    node.does(|_| answer(200, "still here"));
    assert_eq!(running.get("/").await.status, 500, "sick nodes answer so");
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn requests_wait_for_a_node_to_come_back() {
    let (a, b) = two_nodes().await;
    let running = Running::ready(&settings(&[&a, &b])).await;
    a.kill().await;
    b.kill().await;
    let mut waiting = Vec::new();
    for method in ["GET", "POST"] {
        let mut client = running.client().await;
        client
            .write(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        waiting.push(client);
    }
    eventually("two wait", || {
        running.metric("pgweir_http_queue_length", &[]) == 2.0
    })
    .await;
    b.restart().await;
    for client in &mut waiting {
        assert_eq!(client.answer().await.text(), "b");
    }
    assert_eq!(running.observer.snapshot().errors, 0);
    assert_eq!(deliveries(&[&a, &b], "POST / HTTP/1.1"), 1);
}

#[tokio::test]
async fn requests_do_not_wait_for_ever_for_a_node_to_come_back() {
    let (a, b) = two_nodes().await;
    let mut settings = settings(&[&a, &b]);
    settings.queue_timeout = 50 * MS;
    let running = Running::ready(&settings).await;
    a.kill().await;
    b.kill().await;
    for answer in [running.get("/").await, running.post("/", "x").await] {
        assert_eq!((answer.status, answer.details()), (503, "no_node"));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn nodes_that_close_kept_connections_at_any_moment_are_not_noticed() {
    let (a, b) = two_nodes().await;
    // Closes just when the next request comes.
    for node in [&a, &b] {
        node.does(|_| {
            Reply::BytesAndClose(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok".to_vec())
        });
    }
    let running = Running::ready(&settings(&[&a, &b])).await;
    let mut client = running.client().await;
    for round in 0..300 {
        let answer = match round % 2 {
            0 => client.get("/").await,
            _ => client.post("/", "x").await,
        };
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "ok"),
            "round {round}"
        );
    }
    assert_eq!(deliveries(&[&a, &b], "POST / HTTP/1.1"), 150);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_no_reason_to_fail_a_get_on_the_only_node() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    let close = Arc::new(AtomicBool::new(false));
    let closing = Arc::clone(&close);
    // The first request of a connection is answered, the second one is not.
    node.does(move |_| match closing.fetch_xor(true, Ordering::Relaxed) {
        true => Reply::Close,
        false => answer(200, "a"),
    });
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert!(node.received().len() >= 15, "none broke");
}

const CLIENTS: usize = 20;
const REQUESTS: usize = 500;

/// Has many clients do this again and again while the node flaps.
async fn while_flapping<F, W>(running: &Arc<Running>, node: &Node, work: F)
where
    F: Fn(Client, usize) -> W,
    W: Future<Output = ()> + Send + 'static,
{
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = running.client().await;
        clients.spawn(work(client, number));
    }
    let mut flaps = 0;
    while !clients.is_empty() {
        node.kill().await;
        tokio::time::sleep(30 * MS).await;
        node.restart().await;
        let up = async { running.until(|it| it.healthy_nodes == 2).await };
        tokio::select! {
            () = up => {}
            Some(result) = clients.join_next() => result.expect("no failure"),
        }
        tokio::time::sleep(20 * MS).await;
        while let Some(result) = clients.try_join_next() {
            result.expect("no failure");
        }
        flaps += 1;
    }
    assert!(flaps >= 3, "only {flaps} flaps");
    running
        .until(|it| it.requests == (CLIENTS * REQUESTS) as u64)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_while_a_node_flaps_show_no_failed_get() {
    let (a, b) = two_nodes().await;
    let running = Arc::new(Running::ready(&settings(&[&a, &b])).await);
    while_flapping(&running, &a, |mut client, _| async move {
        for round in 0..REQUESTS {
            let answer = client.get(&format!("/{round}")).await;
            assert_eq!(
                (answer.status, answer.complete),
                (200, true),
                "{}",
                answer.head
            );
        }
    })
    .await;
    assert_eq!(running.observer.snapshot().errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_node_flaps_no_post_is_delivered_twice_and_none_that_succeeds_is_lost() {
    let (a, b) = two_nodes().await;
    let running = Arc::new(Running::ready(&settings(&[&a, &b])).await);
    let succeeded = Arc::new(AtomicU64::new(0));
    while_flapping(&running, &a, |mut client, number| {
        let succeeded = Arc::clone(&succeeded);
        async move {
            for round in 0..REQUESTS {
                let answer = client.post(&format!("/{number}/{round}"), "x").await;
                match answer.status {
                    200 => drop(succeeded.fetch_add(1, Ordering::Relaxed)),
                    _ => assert_eq!((answer.status, answer.details()), (502, "ambiguous")),
                }
            }
        }
    })
    .await;
    let received: Vec<_> = [&a, &b].iter().flat_map(|node| node.received()).collect();
    let different: HashSet<_> = received.iter().map(|it| it.line()).collect();
    assert_eq!(different.len(), received.len(), "some were delivered twice");
    assert!(different.len() as u64 >= succeeded.load(Ordering::Relaxed));
    let failed = running.observer.snapshot().errors;
    assert_eq!(
        succeeded.load(Ordering::Relaxed) + failed,
        (CLIENTS * REQUESTS) as u64
    );
}

#[tokio::test]
async fn repeats_have_a_budget_and_what_leaves_a_dead_node_is_free() {
    let (a, b) = two_nodes().await;
    a.does(|_| Reply::Close);
    let running = Running::ready(&settings(&[&a, &b])).await;
    let mut client = running.client().await;
    let mut failed = 0;
    for _ in 0..400 {
        client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        failed += usize::from(client.answer().await.status == 502);
    }
    let denied = running.metric("pgweir_http_retry_budget_exhausted_total", &[]);
    assert_eq!(denied, failed as f64);
    let retried = running.metric("pgweir_http_retries_total", &[("proof", "safe_method")]);
    assert!(
        retried >= 100.0 || failed == 0,
        "{retried} of them, {failed} failed"
    );
}
