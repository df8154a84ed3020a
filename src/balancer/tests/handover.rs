//! One balancer after the other, on the same sockets.

use super::*;
use crate::config::Replay;
use crate::http::{Front, NodeMode};

/// What a balancer that runs tells another one.
fn told(running: &Running) -> Inherited {
    let rows = running.observer.hand_over().expect("descriptors");
    // As it comes through the console.
    let rows = rows.into_iter().map(|(row, socket)| {
        let row = crate::handover::read(&crate::handover::to_text(&row));
        (row.expect("a row"), socket)
    });
    Inherited::read(rows.collect()).expect("good rows")
}

/// The one after it, which waits.
fn next(running: &Running, settings: &config::Balancer) -> Running {
    Running::after(settings, told(running), Order::Wait)
}

#[tokio::test]
async fn whoever_comes_is_served_by_the_old_one_the_queue_or_the_new_one() {
    let node = Node::named("a").await;
    let settings = settings(&[&node]);
    let old = Running::ready(&settings).await;
    let new = next(&old, &settings);
    assert_eq!(new.address, old.address, "the same socket");
    assert_eq!(old.get("/").await.text(), "a");
    old.orders.send_replace(Order::Leave);
    let refused = || std::net::TcpStream::connect(old.address).is_err();
    for _ in 0..20 {
        assert!(!refused(), "the queue is never closed");
        tokio::time::sleep(MS).await;
    }
    let mut queued = new.client().await;
    queued.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    new.orders.send_replace(Order::Serve);
    assert_eq!(queued.answer().await.text(), "a");
    let end = in_time("the end", old.task).await;
    end.expect("no panic").expect("no error");
    assert_eq!(new.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_connection_that_rests_gets_one_more_answer_from_the_old_one() {
    let node = Node::named("a").await;
    let settings = settings(&[&node]);
    let old = Running::ready(&settings).await;
    let (mut rests, mut fresh) = (old.client().await, old.client().await);
    assert_eq!(rests.get("/").await.header("connection"), None);
    // It is accepted, and says nothing yet.
    eventually("both are here", || {
        old.metric("pgweir_http_client_connections", &[]) == 2.0
    })
    .await;
    let new = next(&old, &settings);
    old.orders.send_replace(Order::Leave);
    new.orders.send_replace(Order::Serve);
    tokio::time::sleep(50 * MS).await;
    for client in [&mut rests, &mut fresh] {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    }
    let end = in_time("the end", old.task).await;
    end.expect("no panic").expect("no error");
}

#[tokio::test]
async fn kept_answers_and_modes_go_over() {
    let (a, b) = (Node::named("a").await, Node::named("b").await);
    let mut settings = settings(&[&a, &b]);
    let long = config::Route {
        cache: Some(60 * SECOND),
        ..route("/long", Replay::default())
    };
    settings.routes = BTreeMap::from([("long".to_owned(), long)]);
    let old = Running::ready(&settings).await;
    in_time("the first answer", old.observer.warmed()).await;
    let drained = old.observer.set_mode("n1", NodeMode::Drain);
    drained.expect("another one serves");
    tokio::time::sleep(1100 * MS).await;
    let asked = |node: &Node| {
        let received = node.received();
        received
            .iter()
            .filter(|it| it.line().contains("/long"))
            .count()
    };
    assert_eq!(asked(&a) + asked(&b), 1);

    let new = next(&old, &settings);
    in_time("nothing is to be fetched", new.observer.warmed()).await;
    in_time("the nodes are checked", new.observer.checked()).await;
    old.orders.send_replace(Order::Leave);
    new.orders.send_replace(Order::Serve);
    let answer = new.get("/long").await;
    let status = answer.header("cache-status").expect("it says so");
    assert!(status.starts_with("pgweir; hit"), "{status}");
    let age: u64 = answer
        .header("age")
        .expect("an age")
        .parse()
        .expect("digits");
    assert!((2..60).contains(&age), "{age}");
    assert_eq!(asked(&a) + asked(&b), 1);
    let states: Vec<_> = new.observer.nodes().iter().map(|it| it.state).collect();
    assert_eq!(states, ["up", "drain"]);
}

#[tokio::test]
async fn an_address_that_is_gone_is_closed_and_a_new_one_opened() {
    let node = Node::named("a").await;
    let (mut before, mut after) = (settings(&[&node]), settings(&[&node]));
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    before.listen = vec![any, any];
    let old = Running::ready(&before).await;
    let rows = old.observer.hand_over().expect("descriptors");
    let listening = rows
        .iter()
        .filter_map(|(_, socket)| crate::net::Listener::address(socket.as_ref()?));
    let listening: Vec<_> = listening.collect();
    drop(rows);
    after.listen = vec![listening[1]];
    let new = next(&old, &after);
    assert_eq!(new.address, listening[1]);
    old.orders.send_replace(Order::Leave);
    new.orders.send_replace(Order::Serve);
    assert_eq!(new.get("/").await.text(), "a");
    let gone = || std::net::TcpStream::connect(listening[0]).is_err();
    eventually("the other one is closed", gone).await;
}
