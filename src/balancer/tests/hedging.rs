//! Routes on which a second node is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Two nodes before a balancer that knows how quick they are, and what they
/// do with the first and the second request for `/slow`.
async fn hedged(first: fn() -> Reply, second: fn() -> Reply) -> ([Arc<Node>; 2], Running) {
    let nodes = [Node::named("a").await, Node::named("b").await].map(Arc::new);
    let asked = Arc::new(AtomicUsize::new(0));
    for node in &nodes {
        let asked = Arc::clone(&asked);
        node.does(move |request| {
            if !request.line().contains("/slow") {
                return answer(200, "quick");
            }
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => first(),
                _ => second(),
            }
        });
    }
    let mut settings = settings(&[&nodes[0], &nodes[1]]);
    let route = config::Route {
        path: "/{id}".to_owned(),
        hedge: true,
        timeout: Some(4 * SECOND),
        ..config::Route::default()
    };
    settings.routes.insert("hedged".to_owned(), route);
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    // As many as have to be known; none of them is hedged itself.
    for _ in 0..20 {
        client.get("/quick").await;
    }
    (nodes, running)
}

fn late() -> Reply {
    match answer(200, "first") {
        Reply::Bytes(bytes) => Reply::Late(2 * SECOND, bytes),
        other => other,
    }
}

fn asked_slow(nodes: &[Arc<Node>; 2]) -> usize {
    let received = nodes.iter().flat_map(|node| node.received());
    received.filter(|it| it.line().contains("/slow")).count()
}

fn won(running: &Running, by: &str) -> f64 {
    let labels = [("route", "hedged"), ("won", by)];
    running.metric("pgweir_http_hedges_total", &labels)
}

#[tokio::test]
async fn a_get_that_hangs_at_one_node_is_answered_by_the_other() {
    let (nodes, running) = hedged(|| Reply::Hang, || answer(200, "second")).await;
    assert_eq!(running.get("/slow").await.text(), "second");
    assert_eq!(asked_slow(&nodes), 2);
    assert_eq!(won(&running, "second"), 1.0);
    // The one that was given up does not count as at work.
    let at_work = |node| running.metric("pgweir_http_upstream_in_flight", &[("upstream", node)]);
    let is_free = || at_work("n0") + at_work("n1") == 0.0;
    eventually("both nodes are free", is_free).await;
}

#[tokio::test]
async fn a_second_node_that_fails_leaves_it_to_the_first() {
    let (nodes, running) = hedged(late, || Reply::Close).await;
    assert_eq!(running.get("/slow").await.text(), "first");
    assert_eq!(asked_slow(&nodes), 2);
    assert_eq!(won(&running, "first"), 1.0);
}

#[tokio::test]
async fn when_neither_answers_no_third_time_is_tried() {
    let (nodes, running) = hedged(|| Reply::Hang, || Reply::Close).await;
    assert_eq!(running.get("/slow").await.status, 504);
    assert_eq!(asked_slow(&nodes), 2);
}

#[tokio::test]
async fn a_post_is_asked_of_one_node_however_long_it_takes() {
    let (nodes, running) = hedged(late, || answer(200, "second")).await;
    assert_eq!(running.post("/slow", "x").await.text(), "first");
    assert_eq!(asked_slow(&nodes), 1);
    assert_eq!(won(&running, "first") + won(&running, "second"), 0.0);
}

#[tokio::test]
async fn with_one_node_nobody_is_asked_twice() {
    let (nodes, running) = hedged(late, || answer(200, "second")).await;
    nodes[1].kill().await;
    running.until(|it| it.healthy_nodes == 1).await;
    assert_eq!(running.get("/slow").await.text(), "first");
    assert_eq!(asked_slow(&nodes), 1);
}
