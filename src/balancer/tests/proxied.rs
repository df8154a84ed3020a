//! Clients that come through proxies, and say or have said for them who they
//! are.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Value;

fn networks(text: &str) -> Vec<config::Network> {
    Vec::parse(text).expect("networks")
}

/// A header of version 2 for this client, an IPv4 or IPv6 address and a port.
fn told(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, octets) = match client.ip() {
        std::net::IpAddr::V4(it) => (0x11, it.octets().to_vec()),
        std::net::IpAddr::V6(it) => (0x21, it.octets().to_vec()),
    };
    let ports = [client.port().to_be_bytes(), [1, 187]].concat();
    // And something that is to be skipped.
    let rest = [&octets[..], &octets, &ports, &[4, 0, 2, 7, 7]].concat();
    let length = u16::try_from(rest.len()).expect("short");
    let head = [0x21, family];
    [
        &b"\r\n\r\n\0\r\nQUIT\n"[..],
        &head,
        &length.to_be_bytes(),
        &rest,
    ]
    .concat()
}

/// Settings that hear this network's PROXY headers.
fn settings_from(nodes: &[&Node], network: &str) -> config::Balancer {
    config::Balancer {
        proxy_protocol_from: networks(network),
        ..settings(nodes)
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn a_node_is_told_whom_the_proxy_names() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings_from(&[&node], "127.0.0.0/8")).await;
    let rows: [(&[u8], &str); 4] = [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 80\r\n",
            "192.0.2.1",
        ),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&told("192.0.2.2:9"), "192.0.2.2"),
        (&told("[2001:db8::9]:9"), "2001:db8::9"),
    ];
    for (header, expected) in rows {
        // At once, and byte by byte.
        for pieces in [1, usize::MAX] {
            let mut client = running.client().await;
            for piece in header.chunks(header.len().div_ceil(pieces).max(1)) {
                client.write(piece).await;
            }
            client.write(GET).await;
            assert_eq!(client.answer().await.text(), "a");
            let asked = node.received().pop().expect("it was asked");
            assert_eq!(asked.header("x-forwarded-for"), Some(expected));
        }
    }
}

#[tokio::test]
async fn who_is_listed_has_to_say_it_and_who_is_not_is_not_heard() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings_from(&[&node], "127.0.0.0/8")).await;
    let mut client = running.client().await;
    client.write(GET).await;
    assert!(client.is_closed().await);
    let missed = || running.metric("pgweir_http_proxy_headers_missed_total", &[]);
    eventually("it is counted", || missed() == 1.0).await;
    // A look whether somebody listens is no mistake.
    drop(running.client().await);
    let mut client = running.client().await;
    client.write("PROXY UNKNOWN\r\n").await;
    client.write(GET).await;
    assert_eq!(client.answer().await.text(), "a");
    assert_eq!(missed(), 1.0);

    let running = Running::ready(&settings_from(&[&node], "10.0.0.0/8, ::1")).await;
    let before = node.received().len();
    for header in [
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(),
        told("10.0.0.1:1"),
    ] {
        let mut client = running.client().await;
        client.write(&header).await;
        client.write(GET).await;
        let answer = client.try_answer().await;
        assert!(answer.is_none_or(|it| it.status == 400));
    }
    assert_eq!(
        node.received().len(),
        before,
        "no such bytes came to a node"
    );
    assert_eq!(running.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_not_waited_for() {
    let node = Node::named("a").await;
    let settings = config::Balancer {
        header_timeout: 100 * MS,
        ..settings_from(&[&node], "127.0.0.1")
    };
    let running = Running::ready(&settings).await;
    for start in ["", "PROXY TCP4 "] {
        let mut client = running.client().await;
        client.write(start).await;
        assert!(client.is_closed().await);
    }
    eventually("they are counted", || {
        running.metric("pgweir_http_proxy_headers_missed_total", &[]) == 2.0
    })
    .await;
}

#[tokio::test]
async fn limits_and_logs_are_about_whom_the_proxy_names() {
    let node = Node::named("a").await;
    let log = std::env::temp_dir().join(format!("pgweir-proxied-{}", std::process::id()));
    let settings = config::Balancer {
        client_rate: 1,
        client_burst: 1,
        access_log: Some(log.display().to_string()),
        ..settings_from(&[&node], "127.0.0.1")
    };
    let mut running = Running::ready(&settings).await;
    let mut statuses = Vec::new();
    for address in ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.3:3"] {
        let mut client = running.client().await;
        client
            .write([&told(address)[..], GET.as_bytes()].concat())
            .await;
        statuses.push(client.answer().await.status);
    }
    assert_eq!(statuses, [200, 429, 200]);
    running.begin_to_stop();
    let ended = in_time("the end", &mut running.task).await;
    ended.expect("no panic").expect("in order");
    drop(running);
    let text = std::fs::read_to_string(&log).expect("a log");
    std::fs::remove_file(&log).expect("it is ours");
    for address in ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.3:3"] {
        assert!(
            text.contains(&format!("\"client\":\"{address}\"")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_header_comes_before_tls() {
    use super::front::{State, connect_tls_on, secure_settings};
    let (node, state) = (Node::named("a").await, State::new("proxied"));
    let settings = config::Balancer {
        proxy_protocol_from: networks("127.0.0.0/8"),
        ..secure_settings(&[&node], &state)
    };
    let running = Running::start(&settings);
    running.until(|it| it.healthy_nodes == it.nodes).await;
    let mut stream = tokio::net::TcpStream::connect(running.secure())
        .await
        .expect("it listens");
    stream
        .write_all(&told("192.0.2.4:4"))
        .await
        .expect("it reads");
    let tls = connect_tls_on(stream, &state, &[]).await;
    let mut tls = tls.expect("it is trusted");
    let get = GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    tls.write_all(get.as_bytes()).await.expect("it reads");
    let mut text = String::new();
    let _end = tls.read_to_string(&mut text).await;
    assert!(text.ends_with("\r\n\r\na"), "{text}");
    let asked = node.received().pop().expect("it was asked");
    assert_eq!(asked.header("x-forwarded-for"), Some("192.0.2.4"));
    assert_eq!(asked.header("x-forwarded-proto"), Some("https"));
    running.begin_to_stop();
}

/// A request with more fields, and what its node was asked then.
async fn asked(running: &Running, node: &Node, fields: &str) -> (u16, node::Received) {
    let mut client = running.client().await;
    let request = format!("GET / HTTP/1.1\r\nHost: a:80\r\n{fields}\r\n");
    client.write(request).await;
    let status = client.answer().await.status;
    (status, node.received().pop().expect("it was asked"))
}

const SAID: &str = "X-Forwarded-For: 203.0.113.5, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: shop.example\r\nForwarded: for=192.0.2.1\r\n\
                    X-Real-IP: 192.0.2.1\r\nX-Request-Id: given-1\r\n";

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_nobody_else() {
    let node = Node::named("a").await;
    let settings = config::Balancer {
        trusted_proxies: networks("127.0.0.0/8"),
        ..settings(&[&node])
    };
    let running = Running::ready(&settings).await;
    let (_, told) = asked(&running, &node, SAID).await;
    let expected = "203.0.113.5, 192.0.2.1, 127.0.0.1";
    assert_eq!(told.header("x-forwarded-for"), Some(expected));
    assert_eq!(told.header("x-forwarded-proto"), Some("https"));
    assert_eq!(told.header("x-forwarded-host"), Some("shop.example"));
    assert_eq!(told.header("x-request-id"), Some("given-1"));
    assert_eq!(told.header("forwarded"), None);
    assert_eq!(told.header("x-real-ip"), None);

    let settings = config::Balancer {
        trusted_proxies: networks("10.0.0.0/8"),
        ..settings
    };
    let running = Running::ready(&settings).await;
    let (_, told) = asked(&running, &node, SAID).await;
    assert_eq!(told.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(told.header("x-forwarded-proto"), Some("http"));
    assert_eq!(told.header("x-forwarded-host"), Some("a:80"));
}

#[tokio::test]
async fn nodes_are_told_in_forwarded_if_they_are_to_be() {
    let node = Node::named("a").await;
    let ours = "for=127.0.0.1;by=_pgweir;proto=http;host=\"a:80\"";
    for (trusted, expected) in [
        ("", ours.to_owned()),
        ("127.0.0.1", format!("for=192.0.2.1, {ours}")),
    ] {
        let settings = config::Balancer {
            trusted_proxies: networks(trusted),
            forwarded: true,
            ..settings(&[&node])
        };
        let running = Running::ready(&settings).await;
        let (_, told) = asked(&running, &node, SAID).await;
        assert_eq!(told.header("forwarded"), Some(&*expected));
    }
}

#[tokio::test]
async fn the_client_that_a_trusted_proxy_names_is_limited_and_logged() {
    let node = Node::named("a").await;
    let log = std::env::temp_dir().join(format!("pgweir-trusted-{}", std::process::id()));
    let settings = config::Balancer {
        client_rate: 1,
        client_burst: 1,
        trusted_proxies: networks("127.0.0.1, 10.0.0.0/8"),
        access_log: Some(log.display().to_string()),
        ..settings(&[&node])
    };
    let mut running = Running::ready(&settings).await;
    let mut statuses = Vec::new();
    for list in ["192.0.2.1", "1.1.1.1, 192.0.2.1, 10.9.9.9", "192.0.2.2"] {
        let fields = format!("X-Forwarded-For: {list}\r\n");
        statuses.push(asked(&running, &node, &fields).await.0);
    }
    assert_eq!(statuses, [200, 429, 200]);
    running.begin_to_stop();
    let ended = in_time("the end", &mut running.task).await;
    ended.expect("no panic").expect("in order");
    drop(running);
    let text = std::fs::read_to_string(&log).expect("a log");
    std::fs::remove_file(&log).expect("it is ours");
    let client = |address: &str| text.matches(&format!("\"client\":\"{address}\"")).count();
    assert_eq!((client("192.0.2.1"), client("192.0.2.2")), (2, 1), "{text}");
}
