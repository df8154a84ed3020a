//! Requests that parsers disagree on, byte by byte.

use super::*;

/// What comes back to some bytes, and what reached the node.
async fn exchange(running: &Running, node: &Node, bytes: &[u8]) -> (Option<Answer>, usize) {
    let before = node.received().len();
    let mut client = running.client().await;
    client.write(bytes).await;
    let answer = client.try_answer().await;
    (answer, node.received().len() - before)
}

#[tokio::test]
async fn every_doubtful_request_is_refused_before_a_node_sees_it() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    let long_head = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let many_fields = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(101)
    );
    let rows: &[(&str, u16)] = &[
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nxx",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n",
            413,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 1\r\n\r\nx",
            417,
        ),
        (&long_target, 414),
        (&long_head, 431),
        (&many_fields, 431),
    ];
    for (bytes, status) in rows {
        let (answer, reached) = exchange(&running, &node, bytes.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {bytes:.120}"));
        assert_eq!(answer.status, *status, "{bytes:.120}");
        assert_eq!(answer.header("connection"), Some("close"), "{bytes:.120}");
        assert_eq!(reached, 0, "{bytes:.120}");
    }
    assert_eq!(running.observer.snapshot().errors, 1, "501 is ours");
}

#[tokio::test]
async fn what_hides_behind_a_refused_request_is_not_served() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    client
        .write(
            "GET /first HTTP/1.1\r\nHost: a\r\n\r\n\
             POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 400);
    assert!(client.is_closed().await);
    let lines: Vec<_> = node
        .received()
        .iter()
        .map(|it| it.line().to_owned())
        .collect();
    assert_eq!(lines, ["GET /first HTTP/1.1"]);
}

#[tokio::test]
async fn what_all_parsers_read_alike_is_served() {
    let node = Node::start(|request| answer(200, &request.body.len().to_string())).await;
    let running = Running::ready(&settings(&[&node])).await;
    for (bytes, text) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nxx",
            "2",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n02;a=b\r\nxx\r\n0\r\n\r\n",
            "2",
        ),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "0"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "0"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "0"),
        ("GET /?a=%ff HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "0"),
    ] {
        let (answer, reached) = exchange(&running, &node, bytes.as_bytes()).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {bytes}"));
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, text),
            "{bytes}"
        );
        assert_eq!(reached, 1);
    }
}
