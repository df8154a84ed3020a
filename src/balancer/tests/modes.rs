//! Nodes that an operator takes out.

use super::*;
use crate::http::{Front, NodeMode};

async fn scene() -> (Node, Node, Running) {
    let (a, b) = (Node::named("a").await, Node::named("b").await);
    let running = Running::ready(&settings(&[&a, &b])).await;
    (a, b, running)
}

fn set(running: &Running, node: &str, mode: NodeMode) {
    let is_set = running.observer.set_mode(node, mode);
    is_set.expect("another node serves");
}

#[tokio::test]
async fn a_drained_node_gets_nothing_new_and_finishes_what_it_has() {
    let (a, b, running) = scene().await;
    a.does(|_| {
        Reply::Late(
            300 * MS,
            b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nslow".to_vec(),
        )
    });
    set(&running, "n1", NodeMode::Drain);
    let mut slow = running.client().await;
    slow.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    eventually("a has it", || !a.received().is_empty()).await;
    set(&running, "n1", NodeMode::Ready);
    set(&running, "n0", NodeMode::Drain);
    let before = a.received().len();
    for _ in 0..10 {
        assert_eq!(running.get("/").await.text(), "b");
    }
    assert_eq!(a.received().len(), before);
    assert_eq!(slow.answer().await.text(), "slow");
    let labels = [("upstream", "n0"), ("state", "drain")];
    assert_eq!(running.metric("pgweir_http_upstream_state", &labels), 1.0);
    let checks = a.checks();
    eventually("a is checked", || a.checks() > checks).await;
    drop(b);
}

#[tokio::test]
async fn what_may_be_sent_elsewhere_leaves_a_node_in_maintenance() {
    let (a, _b, running) = scene().await;
    a.does(|_| Reply::Hang);
    set(&running, "n1", NodeMode::Drain);
    let mut client = running.client().await;
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("a has it", || !a.received().is_empty()).await;
    set(&running, "n1", NodeMode::Ready);
    set(&running, "n0", NodeMode::Maint);
    assert_eq!(client.answer().await.text(), "b");
    let rows = running.observer.nodes();
    let states: Vec<_> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, ["maint", "up"]);
    let checks = a.checks();
    tokio::time::sleep(200 * MS).await;
    assert!(a.checks() <= checks + 1, "one may have been under way");
    set(&running, "n0", NodeMode::Ready);
    running.until(|it| it.healthy_nodes == 2).await;
}

#[tokio::test]
async fn the_last_node_stays() {
    let (_a, _b, running) = scene().await;
    set(&running, "n0", NodeMode::Drain);
    for mode in [NodeMode::Drain, NodeMode::Maint] {
        let refused = running.observer.set_mode("n1", mode);
        assert_eq!(refused, Err("n1 is the last node that serves".to_owned()));
    }
    let unknown = running.observer.set_mode("n2", NodeMode::Drain);
    assert_eq!(unknown, Err("no such node: n2".to_owned()));
    assert_eq!(running.get("/").await.text(), "b");
}

#[tokio::test]
async fn routes_and_what_is_kept_are_shown() {
    let a = Node::named("a").await;
    let mut settings = settings(&[&a]);
    let long = config::Route {
        cache: Some(60 * SECOND),
        methods: vec!["GET".to_owned()],
        ..route("/long", Default::default())
    };
    settings.routes = BTreeMap::from([("long".to_owned(), long)]);
    let running = Running::ready(&settings).await;
    in_time("the first answer", running.observer.warmed()).await;
    running.get("/long").await;
    running.until(|it| it.requests == 1).await;
    let routes = running.observer.routes();
    let shown: Vec<_> = routes
        .iter()
        .map(|it| (it.name.as_str(), it.path.as_str(), it.cache, it.requests))
        .collect();
    assert_eq!(
        shown,
        [
            ("long", "/long", Some(60 * SECOND), 1),
            ("other", "", None, 0)
        ]
    );
    assert_eq!(
        (routes[0].methods.as_str(), routes[0].replay.as_str()),
        ("GET", "proven")
    );
    let kept = running.observer.kept();
    assert_eq!((kept.len(), kept[0].target.as_str()), (1, "/long"));
}
