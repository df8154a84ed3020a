//! What is passed on, in both directions.

use super::*;

#[tokio::test]
async fn a_request_reaches_a_node_clean_and_its_answer_comes_back_clean() {
    let node = Node::start(|_| {
        let head = "HTTP/1.1 201 Created\r\nServer: bingo\r\nX-Hop: 1\r\n\
                    Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok";
        Reply::Bytes(head.as_bytes().to_vec())
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    client
        .write(
            "POST http://bingo.test/a/../api/session?x=1 HTTP/1.1\r\nHost: other\r\n\
             Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nTE: trailers\r\nUpgrade: h2c\r\n\
             X-Forwarded-For: 203.0.113.9\r\nTransfer_Encoding: chunked\r\nX-Request-Id: mine\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (201, "ok"));
    assert_eq!(answer.header("server"), Some("bingo"));
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    assert_eq!(answer.header("via"), Some("1.1 pgweir"));
    for name in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }

    let received = &node.received()[0];
    assert_eq!(received.line(), "POST /api/session?x=1 HTTP/1.1");
    assert_eq!(received.body, b"{}");
    for (name, value) in [
        ("host", Some("bingo.test")),
        ("x-forwarded-host", Some("bingo.test")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-request-id", Some("mine")),
        ("via", Some("1.1 pgweir")),
        ("content-type", Some("application/json")),
        ("content-length", Some("2")),
        ("connection", None),
        ("x-secret", None),
        ("te", None),
        ("upgrade", None),
        ("transfer_encoding", None),
    ] {
        assert_eq!(received.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn bodies_pass_in_every_framing() {
    let node = Node::start(|request| answer(200, &request.body.len().to_string())).await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    let large = "x".repeat(300_000);
    for size in [0, 1, 65_536, 65_537, 300_000] {
        assert_eq!(
            client.post("/", &large[..size]).await.text(),
            size.to_string()
        );
    }
    for method in ["POST", "GET"] {
        for size in [1, 65_536, 65_537, 300_000] {
            let head =
                format!("{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            let body = &large[..size];
            client
                .write(format!("{head}{size:x}\r\n{body}\r\n0\r\nX: y\r\n\r\n"))
                .await;
            assert_eq!(client.answer().await.text(), size.to_string(), "{method}");
        }
    }
}

#[tokio::test]
async fn answers_pass_in_every_framing_and_the_connection_goes_on() {
    let node = Node::start(|request| {
        let target = request.line().split(' ').nth(1).unwrap_or_default();
        match target {
            "/sized" => answer(200, "hello"),
            "/empty" => answer(200, ""),
            "/chunked" => Reply::Bytes(
                b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;e=1\r\nlo\r\n0\r\nT: 1\r\n\r\n".to_vec(),
            ),
            "/both" => Reply::Bytes(
                b"HTTP/1.1 200 X\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
            ),
            "/closed" => Reply::BytesAndClose(b"HTTP/1.1 200 X\r\n\r\nhello".to_vec()),
            "/1.0" => Reply::BytesAndClose(b"HTTP/1.0 200 X\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
            "/continue" => Reply::Bytes(
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
            ),
            "/204" => Reply::Bytes(b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n".to_vec()),
            "/304" => Reply::Bytes(b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n".to_vec()),
            other => answer(404, other),
        }
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    for (target, status, body) in [
        ("/sized", 200, "hello"),
        ("/empty", 200, ""),
        ("/chunked", 200, "hello"),
        ("/both", 200, "hello"),
        ("/closed", 200, "hello"),
        ("/1.0", 200, "hello"),
        ("/continue", 200, "hello"),
        ("/204", 204, ""),
        ("/304", 304, ""),
        ("/else", 404, "/else"),
    ] {
        let answer = client.get(target).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (status, body),
            "{target}"
        );
        assert!(answer.complete, "{target}");
    }
}

#[tokio::test]
async fn a_head_answer_has_the_length_and_no_body() {
    let node =
        Node::start(|_| Reply::Bytes(b"HTTP/1.1 200 X\r\nContent-Length: 12345\r\n\r\n".to_vec()))
            .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    for _ in 0..2 {
        client.write("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.head_answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-length"), Some("12345"));
    }
    assert_eq!(node.received().len(), 2);
}

#[tokio::test]
async fn connections_are_kept_on_both_sides_and_closed_when_asked() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    let made = running.metric("pgweir_http_upstream_connections_total", &[]);
    assert_eq!(made, 1.0);
    client
        .write("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    assert_eq!(node.received()[10].header("connection"), None);
}

#[tokio::test]
async fn http_1_0_is_served_with_and_without_keep_alive() {
    let node = Node::start(|_| {
        Reply::Bytes(
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        )
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    client.write("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert!(answer.head.starts_with("HTTP/1.0 200"), "{}", answer.head);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "hello");
    let received = &node.received()[0];
    assert_eq!(
        received.header("host"),
        Some(node.address().to_string().as_str())
    );
    assert_eq!(received.header("via"), Some("1.0 pgweir"));

    node.does(|_| answer_of_known_length());
    let mut client = running.client().await;
    for _ in 0..2 {
        client
            .write("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.header("connection"), Some("keep-alive"));
        assert_eq!(answer.text(), "hello");
    }
}

fn answer_of_known_length() -> Reply {
    answer(200, "hello")
}

#[tokio::test]
async fn a_client_that_expects_to_be_asked_is_asked_only_if_its_body_is_wanted() {
    let node = Node::start(|request| answer(200, &request.body.len().to_string())).await;
    let running = Running::ready(&settings(&[&node])).await;
    let expecting = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut client = running.client().await;
    for length in [5, 100_000] {
        client.write(expecting(length)).await;
        assert_eq!(client.answer().await.status, 100);
        client.write("x".repeat(length)).await;
        assert_eq!(client.answer().await.text(), length.to_string());
    }
    assert_eq!(node.received()[0].header("expect"), None);
    client.write(expecting(2 * 1024 * 1024)).await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let node = Node::start(|request| answer(200, request.line())).await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    let requests: String = (0..20)
        .map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    client.write(requests).await;
    for i in 0..20 {
        assert_eq!(client.answer().await.text(), format!("GET /{i} HTTP/1.1"));
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_cut_for_the_client_too() {
    let node = Node::start(|request| {
        Reply::BytesAndClose(match request.line() {
            "GET /sized HTTP/1.1" => b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nhello".to_vec(),
            _ => b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        })
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    for target in ["/sized", "/chunked"] {
        let mut client = running.client().await;
        let answer = client.get(target).await;
        assert_eq!((answer.status, answer.complete), (200, false), "{target}");
        assert_eq!(answer.text(), "hello", "{target}");
    }
    // The end of the connection is the end of the body in HTTP/1.0.
    let mut client = running.client().await;
    client.write("GET /chunked HTTP/1.0\r\n\r\n").await;
    let reset = loop {
        match tokio::io::AsyncReadExt::read(&mut client.stream, &mut [0; 1024]).await {
            Ok(0) => break false,
            Ok(_) => {}
            Err(_) => break true,
        }
    };
    assert!(reset, "it looks like the end of the body");
    running.until(|it| it.requests == 3 && it.errors == 3).await;
    let cut = running.metric("pgweir_http_responses_cut_total", &[("by", "node")]);
    assert_eq!(cut, 3.0);
}

#[tokio::test]
async fn a_slow_reader_slows_the_node_and_gets_everything() {
    const SIZE: usize = 32 * 1024 * 1024;
    let node = Node::start(|_| {
        let mut answer = format!("HTTP/1.1 200 X\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + SIZE, b'x');
        Reply::Bytes(answer)
    })
    .await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut client = running.client().await;
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // Long enough for all of it to be buffered, if anybody did.
    tokio::time::sleep(300 * MS).await;
    let in_flight = running.metric("pgweir_http_upstream_in_flight", &[]);
    assert_eq!(in_flight, 1.0, "the node cannot be through yet");
    let answer = client.answer().await;
    assert_eq!((answer.body.len(), answer.complete), (SIZE, true));
}
