//! Answers that are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::Replay;

/// The route `/long` keeps its answers for so long.
fn keeping(nodes: &[&Node], max_age: Duration, is_warm: bool) -> config::Balancer {
    let mut settings = settings(nodes);
    let long = config::Route {
        cache: Some(max_age),
        cache_warm: is_warm,
        ..route("/long", Replay::default())
    };
    settings.routes = BTreeMap::from([("long".to_owned(), long)]);
    settings
}

fn bytes(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Says after a while when it was asked, in milliseconds since `begin`.
async fn clock(begin: Instant, pause: Duration) -> Node {
    Node::start(move |_| Reply::Late(pause, bytes(&begin.elapsed().as_millis().to_string()))).await
}

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_default()
}

#[tokio::test]
async fn nobody_waits_and_nothing_is_too_old_while_a_node_dies() {
    let begin = Instant::now();
    let (a, b) = (clock(begin, 100 * MS).await, clock(begin, 100 * MS).await);
    let running = Running::ready(&keeping(&[&a, &b], SECOND, true)).await;
    in_time("the first answer", running.observer.warmed()).await;
    let mut client = running.client().await;
    let (mut hits, mut answers) = (0, 0);
    let mut killed = false;
    while begin.elapsed() < 4 * SECOND {
        if begin.elapsed() > 2 * SECOND && !killed {
            a.kill().await;
            killed = true;
        }
        let answer = client.get("/long").await;
        let now = begin.elapsed().as_millis();
        let born: u128 = answer.text().parse().expect("a moment");
        assert!(now - born < 1000, "{} ms old", now - born);
        let age: u128 = answer
            .header("age")
            .expect("an age")
            .parse()
            .expect("seconds");
        let is_hit = status(&answer).starts_with("pgweir; hit; ttl=");
        assert!((u128::from(is_hit)..=1).contains(&age), "{age}");
        hits += usize::from(is_hit);
        answers += 1;
        tokio::time::sleep(5 * MS).await;
    }
    // A machine that stood still lets an answer grow too old.
    assert!(hits * 10 >= answers * 9, "{hits} of {answers}");
    let asked = a.received().len() + b.received().len();
    // Each sixth of a second at most, when the machine makes the nodes slow.
    assert!(asked <= 30, "{asked} times in four seconds");
    let greatest = running.metric("pgweir_cache_served_age_max_seconds", &[]);
    assert!(greatest < 1.0, "{greatest}");
}

#[tokio::test]
async fn many_wait_for_one_answer_and_nobody_who_leaves_ends_it() {
    let begin = Instant::now();
    let node = clock(begin, 300 * MS).await;
    let running = Running::ready(&keeping(&[&node], 60 * SECOND, false)).await;
    let mut first = running.client().await;
    first.write("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is asked", || node.received().len() == 1).await;
    drop(first);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = running.client().await;
        client.write("GET /long HTTP/1.1\r\nHost: b\r\n\r\n").await;
        clients.push(client);
    }
    let mut texts = Vec::new();
    for mut client in clients {
        let answer = client.answer().await;
        assert!(
            !status(&answer).contains("fwd=bypass"),
            "{}",
            status(&answer)
        );
        texts.push(answer.text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1);
    assert_eq!(node.received().len(), 1);
    let mut client = running.client().await;
    client.write("HEAD /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head_answer().await;
    assert!(
        status(&head).starts_with("pgweir; hit"),
        "{}",
        status(&head)
    );
    let length = texts[0].len().to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
    assert_eq!(client.get("/long").await.text(), texts[0]);
    assert_eq!(running.get("/long?x").await.status, 200, "another target");
    assert_eq!(node.received().len(), 2);
}

#[tokio::test]
async fn what_is_bad_does_not_replace_what_is_good() {
    let node = Node::named("good").await;
    let running = Running::ready(&keeping(&[&node], 2 * SECOND, true)).await;
    in_time("the first answer", running.observer.warmed()).await;
    let begin = Instant::now();
    let turn = AtomicUsize::new(0);
    node.does(move |_| match turn.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => answer(500, "bad"),
        1 => Reply::BytesAndClose(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nbad".to_vec()),
        _ => Reply::BytesAndClose(b"HTTP/1.1 200 X\r\n\r\nbad".to_vec()),
    });
    let bad_one = || running.metric("pgweir_cache_fills_total", &[("result", "shared")]) >= 1.0;
    eventually("a bad answer", bad_one).await;
    while begin.elapsed() < 1500 * MS {
        let answer = running.get("/long").await;
        let now = begin.elapsed();
        assert!(answer.text() == "good" || now >= 1500 * MS, "{now:?}");
    }
    node.does(|_| answer(200, "good again"));
    eventually("it is fetched again", || {
        running.metric("pgweir_cache_fills_total", &[("result", "stored")]) >= 2.0
    })
    .await;
    assert_eq!(running.get("/long").await.text(), "good again");
}

#[tokio::test]
async fn another_node_is_asked_when_one_answers_badly() {
    let (a, b) = (
        Node::start(|_| answer(500, "bad")).await,
        Node::named("b").await,
    );
    let running = Running::ready(&keeping(&[&a, &b], 60 * SECOND, true)).await;
    in_time("the first answer", running.observer.warmed()).await;
    let answer = running.get("/long").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "b"));
}

#[tokio::test]
async fn only_requests_of_listed_routes_reach_what_is_kept() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let node =
        Node::start(move |_| answer(200, &counted.fetch_add(1, Ordering::Relaxed).to_string()))
            .await;
    let running = Running::ready(&keeping(&[&node], 60 * SECOND, false)).await;
    let mut client = running.client().await;
    for (number, line) in [
        "GET /other HTTP/1.1\r\n",
        "GET /other HTTP/1.1\r\n",
        "GET /long/ HTTP/1.1\r\n",
        "POST /long HTTP/1.1\r\nContent-Length: 0\r\n",
        "DELETE /long HTTP/1.1\r\n",
        "GET /long HTTP/1.1\r\nAuthorization: Basic eDp5\r\n",
        "GET /long HTTP/1.1\r\nRange: bytes=0-0\r\n",
    ]
    .iter()
    .enumerate()
    {
        client.write(format!("{line}Host: a\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.text(), number.to_string(), "{line}");
        assert_eq!(status(&answer), "pgweir; fwd=bypass", "{line}");
        assert_eq!(answer.header("age"), None);
    }
    assert_eq!(running.metric("pgweir_cache_fills_total", &[]), 0.0);
    let bypassed = [("route", "long"), ("result", "bypass")];
    assert_eq!(
        running.metric("pgweir_cache_requests_total", &bypassed),
        4.0
    );
}

#[tokio::test]
async fn an_answer_depends_on_nothing_that_who_asked_first_has_sent() {
    let node = Node::named("a").await;
    let running = Running::ready(&keeping(&[&node], 60 * SECOND, false)).await;
    let mut client = running.client().await;
    client
        .write("GET /long HTTP/1.1\r\nHost: evil\r\nX-Forwarded-Host: evil\r\nCookie: a=b\r\nX-Own: 1\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "a");
    let asked = &node.received()[0];
    assert_eq!(
        asked.header("host"),
        Some(node.address().to_string().as_str())
    );
    for name in ["cookie", "x-own", "x-forwarded-host", "x-forwarded-for"] {
        assert_eq!(asked.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn an_answer_for_one_client_is_given_to_no_other() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let node = Node::start(move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let body = number.to_string();
        let head = format!("Set-Cookie: n={number}\r\nContent-Length: {}", body.len());
        Reply::Late(
            50 * MS,
            format!("HTTP/1.1 200 X\r\n{head}\r\n\r\n{body}").into_bytes(),
        )
    })
    .await;
    let running = Running::ready(&keeping(&[&node], 60 * SECOND, false)).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = running.client().await;
        client.write("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    let mut texts = Vec::new();
    for mut client in clients {
        texts.push(client.answer().await.text());
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 5);
}

#[tokio::test]
async fn a_fetch_that_fails_is_told_and_the_next_request_tries_again() {
    let node = Node::start(|_| Reply::Close).await;
    let running = Running::ready(&keeping(&[&node], 60 * SECOND, false)).await;
    let failed = running.get("/long").await;
    assert_eq!((failed.status, failed.details()), (502, "ambiguous"));
    node.does(|_| answer(200, "a"));
    assert_eq!(running.get("/long").await.text(), "a");
}

#[tokio::test]
async fn what_is_asked_for_now_and_then_is_fetched_anew_before_its_end() {
    let begin = Instant::now();
    let node = clock(begin, Duration::ZERO).await;
    let running = Running::ready(&keeping(&[&node], 4 * SECOND, false)).await;
    let first = running.get("/long").await.text();
    assert_eq!(running.get("/long").await.text(), first);
    // Its arrival at the node is not yet the answer's here.
    let stored = [("route", "long"), ("result", "stored")];
    let fetched = || running.metric("pgweir_cache_fills_total", &stored);
    eventually("it is fetched anew", || fetched() == 2.0).await;
    assert_ne!(running.get("/long").await.text(), first);
    assert_eq!(node.received().len(), 2, "nobody waited");
}

/// The route `/said` keeps its answers as these say.
fn as_said(node: &Node) -> config::Balancer {
    let mut settings = settings(&[node]);
    let said = config::Route {
        cache_control: true,
        ..route("/said", Replay::default())
    };
    settings.routes = BTreeMap::from([("said".to_owned(), said)]);
    settings
}

/// What a node says to this: a head without its length, and a body.
fn says(status: u16, head: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\n{head}Content-Length: {length}\r\n\r\n{body}");
    Reply::Bytes(text.into_bytes())
}

/// Each answer has this head and another body.
async fn saying(head: &'static str) -> (Node, config::Balancer) {
    let count = AtomicUsize::new(0);
    let node = Node::start(move |_| {
        says(
            200,
            head,
            &count.fetch_add(1, Ordering::Relaxed).to_string(),
        )
    })
    .await;
    let settings = as_said(&node);
    (node, settings)
}

/// Sends a GET of `/said` with these lines.
async fn get_said(client: &mut Client, lines: &str) -> Answer {
    let request = format!("GET /said HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    client.write(request).await;
    client.answer().await
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_its_life_is_not_kept() {
    let (_node, settings) = saying("").await;
    let running = Running::ready(&settings).await;
    let first = running.get("/said").await;
    assert_ne!(running.get("/said").await.text(), first.text());
}

#[tokio::test]
async fn another_method_drops_what_is_kept_of_its_target() {
    let (_node, settings) = saying("Cache-Control: max-age=1000\r\n").await;
    let running = Running::ready(&settings).await;
    let first = running.get("/said").await.text();
    assert_eq!(running.get("/said").await.text(), first);
    assert_eq!(running.post("/said?other", "x").await.status, 200);
    assert_eq!(running.get("/said").await.text(), first);
    assert_eq!(running.post("/said", "x").await.status, 200);
    assert_ne!(running.get("/said").await.text(), first);
}

#[tokio::test]
async fn who_has_an_answer_by_its_tag_is_told_so() {
    let (node, settings) =
        saying("Cache-Control: max-age=1000\r\nETag: \"a\"\r\nContent-Type: text/plain\r\n").await;
    let running = Running::ready(&settings).await;
    running.get("/said").await;
    let mut client = running.client().await;
    for (tags, expected) in [
        ("\"a\"", 304),
        ("W/\"a\"", 304),
        ("\"b\", \"a\"", 304),
        ("*", 304),
        ("\"b\"", 200),
    ] {
        client
            .write(format!(
                "GET /said HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tags}\r\n\r\n"
            ))
            .await;
        let answer = match expected {
            304 => client.head_answer().await,
            _ => client.answer().await,
        };
        assert_eq!(answer.status, expected, "{tags}");
        assert_eq!(answer.header("etag"), Some("\"a\""));
        assert_eq!(answer.header("content-type").is_some(), expected == 200);
    }
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn a_stale_answer_is_served_in_need_if_it_says_so() {
    let (node, settings) = saying("Cache-Control: max-age=1, stale-if-error=1000\r\n").await;
    let running = Running::ready(&settings).await;
    let first = running.get("/said").await.text();
    node.does(|_| answer(500, "broken"));
    tokio::time::sleep(SECOND).await;
    let stale = running.get("/said").await;
    assert_eq!((stale.status, stale.text()), (200, first));
    assert!(
        status(&stale).starts_with("pgweir; hit; ttl=-"),
        "{}",
        status(&stale)
    );
}

/// Says that its answer still holds to whoever has it by its tag.
async fn holding(fresh: &'static str) -> Node {
    Node::start(move |request| match request.header("if-none-match") {
        Some("\"a\"") => {
            let text = format!("HTTP/1.1 304 X\r\n{fresh}\r\n");
            Reply::Bytes(text.into_bytes())
        }
        _ => {
            let head = "Cache-Control: max-age=1\r\nETag: \"a\"\r\nX-Of: 1\r\nX-Too: 1\r\n";
            says(200, head, "whole")
        }
    })
    .await
}

#[tokio::test]
async fn an_answer_that_still_holds_is_not_sent_again_and_gets_its_new_headers() {
    let node = holding("Cache-Control: max-age=1000\r\nETag: \"a\"\r\nX-Of: 2\r\n").await;
    let running = Running::ready(&as_said(&node)).await;
    assert_eq!(running.get("/said").await.header("x-of"), Some("1"));
    tokio::time::sleep(SECOND).await;
    for begins in ["pgweir; fwd=uri-miss; stored", "pgweir; hit; ttl=99"] {
        let answer = running.get("/said").await;
        assert!(status(&answer).starts_with(begins), "{}", status(&answer));
        assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
        assert_eq!(answer.header("x-of"), Some("2"));
        assert_eq!(answer.header("x-too"), Some("1"));
    }
    assert_eq!(node.received().len(), 2);
    let renewed = [("route", "said"), ("result", "renewed")];
    assert_eq!(running.metric("pgweir_cache_fills_total", &renewed), 1.0);
}

#[tokio::test]
async fn a_node_that_says_that_another_answer_holds_is_asked_for_all_of_it() {
    let node = holding("ETag: \"b\"\r\n").await;
    let running = Running::ready(&as_said(&node)).await;
    running.get("/said").await;
    tokio::time::sleep(SECOND).await;
    let answer = running.get("/said").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"));
    let asked: Vec<_> = node.received();
    let asked = asked.iter().map(|it| it.header("if-none-match"));
    assert_eq!(asked.collect::<Vec<_>>(), [None, Some("\"a\""), None]);
}

#[tokio::test]
async fn where_the_age_of_answers_is_bounded_they_are_fetched_whole() {
    let node = holding("").await;
    let mut settings = as_said(&node);
    let said = settings.routes.get_mut("said").expect("the route");
    said.cache = Some(60 * SECOND);
    let running = Running::ready(&settings).await;
    for asked in 1..=2 {
        assert_eq!(running.get("/said").await.text(), "whole");
        assert_eq!(node.received().len(), asked);
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(node.received()[1].header("if-none-match"), None);
}

#[tokio::test]
async fn who_has_an_answer_by_its_date_is_told_so() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let (node, settings) =
        saying("Cache-Control: max-age=1000\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n")
            .await;
    let running = Running::ready(&settings).await;
    running.get("/said").await;
    let mut client = running.client().await;
    for (lines, expected) in [
        (format!("If-Modified-Since: {date}\r\n"), 304),
        (
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".to_owned(),
            200,
        ),
        ("If-Modified-Since: yesterday\r\n".to_owned(), 200),
        (
            format!("If-Modified-Since: {date}\r\nIf-None-Match: \"x\"\r\n"),
            200,
        ),
    ] {
        client
            .write(format!("GET /said HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
            .await;
        let answer = match expected {
            304 => client.head_answer().await,
            _ => client.answer().await,
        };
        assert_eq!(answer.status, expected, "{lines}");
    }
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn answers_that_vary_are_found_by_what_they_vary_with() {
    let node = Node::start(|request| {
        let head = "Cache-Control: max-age=1000\r\nVary: X-Kind, Accept-Encoding\r\n";
        says(200, head, request.header("x-kind").unwrap_or("none"))
    })
    .await;
    let running = Running::ready(&as_said(&node)).await;
    let mut client = running.client().await;
    for (kind, asked) in [("a", 2), ("b", 3), ("a", 3), ("b", 3)] {
        let lines = format!("X-Kind: {kind}\r\nX-Own: 1\r\nCookie: c=d\r\n");
        assert_eq!(get_said(&mut client, &lines).await.text(), kind);
        assert_eq!(node.received().len(), asked, "{kind}");
    }
    assert_eq!(running.get("/said").await.text(), "none");
    for asked in node.received() {
        for name in ["cookie", "x-own", "accept-encoding", "x-forwarded-for"] {
            assert_eq!(asked.header(name), None, "{name}");
        }
    }
    assert_eq!(running.post("/said", "x").await.status, 200);
    let asked = node.received().len();
    assert_eq!(get_said(&mut client, "X-Kind: a\r\n").await.text(), "a");
    assert_eq!(node.received().len(), asked + 1, "all were dropped");
}

#[tokio::test]
async fn an_answer_that_varies_with_the_cookie_is_each_clients_own() {
    let node = Node::start(|request| {
        let head = "Cache-Control: max-age=1000\r\nVary: Cookie\r\n";
        says(200, head, request.header("cookie").unwrap_or("none"))
    })
    .await;
    let running = Running::ready(&as_said(&node)).await;
    let mut client = running.client().await;
    for cookie in ["a=b", "a=c", "a=b"] {
        let answer = get_said(&mut client, &format!("Cookie: {cookie}\r\n")).await;
        assert_eq!(answer.text(), cookie);
        assert_eq!(status(&answer), "pgweir; fwd=bypass");
    }
}

#[tokio::test]
async fn what_a_node_says_to_a_request_without_a_cookie_is_not_given_to_one_with_it() {
    let running = async |status: u16, head: &'static str| {
        let node = Node::start(move |request| match request.header("cookie") {
            Some(_) => says(200, "Cache-Control: no-store\r\n", "mine"),
            None => says(status, head, "log in"),
        })
        .await;
        (Running::ready(&as_said(&node)).await, node)
    };
    for (code, head) in [
        (302, "Location: /login\r\n"),
        (401, "Cache-Control: max-age=1000\r\n"),
        (403, ""),
        (500, ""),
    ] {
        let (running, _node) = running(code, head).await;
        let mut client = running.client().await;
        let answer = get_said(&mut client, "Cookie: a=b\r\n").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "mine"),
            "{code}"
        );
    }
}

#[tokio::test]
async fn an_answer_without_content_is_kept_without_a_length() {
    let node = Node::start(|_| {
        let head = "Cache-Control: max-age=1000\r\nProxy-Authenticate: Basic\r\n";
        Reply::Bytes(format!("HTTP/1.1 204 X\r\n{head}\r\n").into_bytes())
    })
    .await;
    let running = Running::ready(&as_said(&node)).await;
    let mut client = running.client().await;
    for _ in 0..2 {
        client.write("GET /said HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.head_answer().await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.header("proxy-authenticate"), None);
    }
    assert_eq!(node.received().len(), 1);
}
