//! Other settings while it runs.

use super::*;
use crate::config::Replay;
use crate::http::{Front, NodeMode};

fn renew(running: &Running, settings: &config::Balancer) {
    running
        .observer
        .renew(settings)
        .expect("good settings")
        .commit();
}

#[tokio::test]
async fn other_routes_and_nodes_take_over_and_counters_go_on() {
    let (a, b) = (Node::named("a").await, Node::named("b").await);
    let mut settings = settings(&[&a]);
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    assert_eq!(client.get("/x").await.text(), "a");
    let second = config::Node {
        address: b.address().to_string(),
    };
    settings.nodes.insert("n1".to_owned(), second);
    settings.routes = BTreeMap::from([("x".to_owned(), route("/x", Replay::Never))]);
    renew(&running, &settings);
    running
        .until(|it| (it.healthy_nodes, it.nodes) == (2, 2))
        .await;
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(client.get("/x").await.text());
    }
    texts.sort();
    assert_eq!(
        texts,
        ["a", "a", "b", "b"],
        "also on the connection of before"
    );
    running.until(|it| it.requests == 5).await;
    let name = "pgweir_http_requests_total";
    assert_eq!(running.metric(name, &[("route", "x")]), 4.0);
    assert_eq!(running.metric(name, &[("route", "other")]), 1.0);
    settings.nodes.remove("n0");
    renew(&running, &settings);
    running
        .until(|it| (it.healthy_nodes, it.nodes) == (1, 1))
        .await;
    assert_eq!(client.get("/x").await.text(), "b");
    let gone = running.metric("pgweir_http_upstream_state", &[("upstream", "n0")]);
    assert_eq!(gone, 0.0, "in no state");
}

#[tokio::test]
async fn what_cannot_be_had_changes_nothing_and_names_its_setting() {
    let a = Node::named("a").await;
    let good = settings(&[&a]);
    let running = Running::ready(&good).await;
    let mut bad = good.clone();
    bad.routes
        .insert("x".to_owned(), route("no path", Replay::Never));
    let error = running.observer.renew(&bad).expect_err("no path");
    assert!(
        error.to_string().starts_with("balancer.routes.x.path: "),
        "{error}"
    );
    let mut bad = good.clone();
    bad.access_log = Some("/nowhere/at/all.log".to_owned());
    let error = running.observer.renew(&bad).expect_err("no folder");
    assert!(
        error.to_string().starts_with("balancer.access_log: "),
        "{error}"
    );
    assert_eq!(running.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_request_that_has_begun_ends_as_it_began() {
    let a = Node::start(|_| {
        Reply::Late(
            300 * MS,
            b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nslow".to_vec(),
        )
    })
    .await;
    let b = Node::named("b").await;
    let running = Running::ready(&settings(&[&a])).await;
    let mut slow = running.client().await;
    slow.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    eventually("a has it", || !a.received().is_empty()).await;
    renew(&running, &settings(&[&b]));
    assert_eq!(slow.answer().await.text(), "slow");
    assert_eq!(slow.get("/").await.text(), "b");
}

#[tokio::test]
async fn what_is_known_of_a_node_and_what_is_kept_go_on() {
    let (a, b) = (Node::named("a").await, Node::named("b").await);
    let mut settings = settings(&[&a, &b]);
    let long = config::Route {
        cache: Some(60 * SECOND),
        ..route("/long", Replay::Proven)
    };
    settings.routes.insert("long".to_owned(), long);
    let running = Running::ready(&settings).await;
    in_time("the first answer", running.observer.warmed()).await;
    running
        .observer
        .set_mode("n0", NodeMode::Drain)
        .expect("b is there");
    settings.queue_timeout = SECOND;
    renew(&running, &settings);
    let states: Vec<_> = running
        .observer
        .nodes()
        .iter()
        .map(|row| row.state)
        .collect();
    assert_eq!(states, ["drain", "up"]);
    let answer = running.get("/long").await;
    let status = answer.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("pgweir; hit"), "{status}");
    settings.routes.clear();
    renew(&running, &settings);
    let answer = running.get("/long").await;
    assert_eq!(answer.header("cache-status"), Some("pgweir; fwd=bypass"));
    assert!(running.observer.kept().is_empty());
}
