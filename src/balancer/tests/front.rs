//! HTTPS and HTTP/2 in front, with a client that is well and with some that
//! are not.

use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Bytes, Frame};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A folder for the certificate, removed in the end.
pub(super) struct State(PathBuf);

impl State {
    pub(super) fn new(name: &str) -> State {
        let name = format!("pgweir-front-{name}-{}", std::process::id());
        State(std::env::temp_dir().join(name))
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("self-signed.crt")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings with HTTPS beside HTTP.
pub(super) fn secure_settings(nodes: &[&Node], state: &State) -> config::Balancer {
    config::Balancer {
        https_listen: vec!["127.0.0.1:0".parse().expect("an address")],
        state_dir: Some(state.0.clone()),
        ..settings(nodes)
    }
}

/// A connection that trusts the certificate in this folder, with the protocols
/// it asks for.
async fn connect_tls(
    address: SocketAddr,
    state: &State,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    connect_tls_on(stream, state, protocols).await
}

/// The same on a connection that there is.
pub(super) async fn connect_tls_on(
    stream: TcpStream,
    state: &State,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let own = CertificateDer::from_pem_file(state.certificate()).expect("it was made");
    let mut roots = RootCertStore::empty();
    roots.add(own).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

type Sender = http2::SendRequest<Full<Bytes>>;

async fn http_2<T>(stream: T) -> Sender
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("nothing is wrong yet");
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    sender
}

async fn http_2_in_clear(running: &Running) -> Sender {
    http_2(
        TcpStream::connect(running.address)
            .await
            .expect("it listens"),
    )
    .await
}

fn request(uri: &str, body: &str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_owned()));
    let method = if body.size_hint().exact() == Some(0) {
        "GET"
    } else {
        "POST"
    };
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .version(Version::HTTP_2);
    request.body(body).expect("a request")
}

async fn text(response: Response<hyper::body::Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("all of it");
    (
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    )
}

#[tokio::test]
async fn http_2_is_spoken_on_the_plain_port_by_who_begins_with_it() {
    let node = Node::start(|request| answer(200, &request.body.len().to_string())).await;
    let running = Running::ready(&settings(&[&node])).await;
    let sender = http_2_in_clear(&running).await;
    let asked = ["", "abc", "x"].map(|body| {
        let mut sender = sender.clone();
        async move { sender.send_request(request("http://a:80/x?y", body)).await }
    });
    let mut found = Vec::new();
    for response in in_time("answers", futures_util::future::join_all(asked)).await {
        found.push(text(response.expect("an answer")).await.1);
    }
    assert_eq!(found, ["0", "3", "1"]);
    for received in node.received() {
        assert!(received.line().ends_with(" /x?y HTTP/1.1"), "{received:?}");
        assert_eq!(received.header("host"), Some("a:80"));
        assert_eq!(received.header("via"), Some("2.0 pgweir"));
        assert_eq!(received.header("x-forwarded-proto"), Some("http"));
    }
    let count = running.metric("pgweir_http_requests_total", &[("proto", "http/2")]);
    assert_eq!(count, 3.0);
}

#[tokio::test]
async fn a_preface_in_pieces_is_one_and_half_of_one_is_a_request() {
    let node = Node::named("a").await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut stream = TcpStream::connect(running.address)
        .await
        .expect("it listens");
    stream.set_nodelay(true).expect("TCP");
    for byte in super::super::http2::PREFACE {
        stream.write_all(&[*byte]).await.expect("it reads");
        tokio::task::yield_now().await;
    }
    stream
        .write_all(b"\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("it reads");
    let mut frame = [0; 9];
    in_time("settings", stream.read_exact(&mut frame))
        .await
        .expect("a frame");
    assert_eq!(frame[3], 4, "SETTINGS");

    let mut client = running.client().await;
    client.write("PRI").await;
    client.write(" * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(node.received().len(), 0);
}

#[tokio::test]
async fn https_serves_what_http_serves_and_says_so_to_the_node() {
    let (node, state) = (Node::named("a").await, State::new("serves"));
    let running = Running::ready(&secure_settings(&[&node], &state)).await;
    let old = connect_tls(running.secure(), &state, &[])
        .await
        .expect("it is trusted");
    let (mut sender, connection) = http1::handshake(TokioIo::new(old)).await.expect("HTTP/1");
    tokio::spawn(connection);
    let plain = Request::get("/x")
        .header("host", "a")
        .body(Full::new(Bytes::new()));
    let response = sender.send_request(plain.expect("a request")).await;
    assert_eq!(
        text(response.expect("an answer")).await,
        (200, "a".to_owned())
    );
    let new = connect_tls(running.secure(), &state, &["h2", "http/1.1"]).await;
    let mut sender = http_2(new.expect("it is trusted")).await;
    let response = sender
        .send_request(request("https://a/x", ""))
        .await
        .expect("an answer");
    assert!(
        !response.headers().contains_key("alt-svc"),
        "there is no HTTP/3"
    );
    assert_eq!(text(response).await, (200, "a".to_owned()));
    for received in node.received() {
        assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    }
    assert!(running.metric("pgweir_http_certificate_expires_seconds", &[]) > 1.8e9);
}

#[tokio::test]
async fn over_tls_the_handshake_alone_says_what_is_spoken() {
    let (node, state) = (Node::named("a").await, State::new("alpn"));
    let running = Running::ready(&secure_settings(&[&node], &state)).await;
    let stream = connect_tls(running.secure(), &state, &["http/1.1"]).await;
    let mut stream = stream.expect("it is trusted");
    stream
        .write_all(super::super::http2::PREFACE)
        .await
        .expect("it reads");
    let mut found = Vec::new();
    let read = in_time("an end", stream.read_to_end(&mut found)).await;
    let refused = found.is_empty() || found.starts_with(b"HTTP/1.1 400 ");
    assert!(refused, "{read:?} {}", found.escape_ascii());
    assert!(
        connect_tls(running.secure(), &state, &["spdy/3"])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn http_3_is_offered_while_it_is_served() {
    let (node, state) = (Node::named("a").await, State::new("offer"));
    let settings = config::Balancer {
        http3: true,
        ..secure_settings(&[&node], &state)
    };
    let running = Running::ready(&settings).await;
    let stream = connect_tls(running.secure(), &state, &["h2"]).await;
    let mut sender = http_2(stream.expect("it is trusted")).await;
    let port = running.secure().port();
    for target in ["https://a/x", "https://a/a%zz"] {
        let response = sender
            .send_request(request(target, ""))
            .await
            .expect("an answer");
        let offer = &response.headers()["alt-svc"];
        assert_eq!(offer, format!("h3=\":{port}\"; ma=3600").as_str());
    }
    let plain = running.get("/x").await;
    assert_eq!(plain.header("alt-svc"), None);
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let (node, state) = (Node::named("a").await, State::new("slow"));
    let settings = config::Balancer {
        header_timeout: 100 * MS,
        ..secure_settings(&[&node], &state)
    };
    let running = Running::ready(&settings).await;
    let mut stream = TcpStream::connect(running.secure())
        .await
        .expect("it listens");
    stream.write_all(&[0x16, 3, 1]).await.expect("it reads");
    let read = in_time("the end", stream.read(&mut [0])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    eventually("it is counted", || {
        running.metric("pgweir_http_handshakes_failed_total", &[]) == 1.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_its_requests_over_and_over_loses_its_connection() {
    let node = Node::start(|_| Reply::Hang).await;
    let running = Running::ready(&settings(&[&node])).await;
    let mut sender = http_2_in_clear(&running).await;
    let mut left = 0;
    while !sender.is_closed() {
        assert!(left < 10_000, "it may go on for ever");
        if let Ok(asked) = tokio::time::timeout(5 * SECOND, sender.ready()).await
            && asked.is_err()
        {
            break;
        }
        let response = sender.send_request(request("http://a/", ""));
        let _left = tokio::time::timeout(2 * MS, response).await;
        left += 1;
    }
    assert_eq!(running.metric("pgweir_http_floods_total", &[]), 1.0);
    eventually("no request is left at the node", || {
        running.metric("pgweir_http_upstream_in_flight", &[]) == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_client_without_room_for_its_answer_does_not_hold_a_node_for_ever() {
    let node = Node::start(|_| answer(200, &"x".repeat(4_000_000))).await;
    let settings = config::Balancer {
        request_timeout: 200 * MS,
        body_timeout: 200 * MS,
        ..settings(&[&node])
    };
    let running = Running::ready(&settings).await;
    let stream = TcpStream::connect(running.address)
        .await
        .expect("it listens");
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1000)
        .handshake(TokioIo::new(stream))
        .await
        .expect("nothing is wrong yet");
    tokio::spawn(connection);
    let response = sender.send_request(request("http://a/", "")).await;
    let response: Response<hyper::body::Incoming> = response.expect("a head");
    eventually("the node is free", || {
        running.metric("pgweir_http_upstream_in_flight", &[]) == 0.0
    })
    .await;
    assert!(response.into_body().collect().await.is_err(), "it is cut");
    let cut = running.metric("pgweir_http_responses_cut_total", &[]);
    assert_eq!(cut, 1.0);
}

#[tokio::test]
async fn a_drain_lets_http_2_requests_finish() {
    let node = Node::start(|request| answer(200, &request.body.len().to_string())).await;
    let mut running = Running::ready(&settings(&[&node])).await;
    let stream = TcpStream::connect(running.address)
        .await
        .expect("it listens");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("nothing is wrong yet");
    tokio::spawn(connection);
    let (pieces, mut taken) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::poll_fn(move |cx| taken.poll_recv(cx));
    let body =
        futures_util::StreamExt::map(body, |piece| Ok::<_, std::io::Error>(Frame::data(piece)));
    let request = Request::post("http://a/").body(StreamBody::new(body));
    let asked = tokio::spawn(sender.send_request(request.expect("a request")));
    pieces
        .send(Bytes::from_static(b"abc"))
        .await
        .expect("it is read");
    eventually("it is served", || {
        running.metric("pgweir_http_requests_in_flight", &[]) == 1.0
    })
    .await;
    running.begin_to_stop();
    tokio::time::sleep(100 * MS).await;
    pieces
        .send(Bytes::from_static(b"def"))
        .await
        .expect("it is read");
    drop(pieces);
    let response = in_time("an answer", asked).await.expect("no panic");
    let found = text(response.expect("an answer")).await;
    assert_eq!(found, (200, "6".to_owned()));
    let ended = in_time("the end", &mut running.task).await;
    ended.expect("no panic").expect("in order");
}

#[tokio::test]
async fn what_is_kept_is_served_over_http_2_too() {
    let node = Node::named("a").await;
    let mut settings = settings(&[&node]);
    let long = config::Route {
        cache: Some(60 * SECOND),
        ..route("/long", Default::default())
    };
    settings.routes = BTreeMap::from([("long".to_owned(), long)]);
    let running = Running::ready(&settings).await;
    in_time("the first answer", running.observer.warmed()).await;
    let mut sender = http_2_in_clear(&running).await;
    for _ in 0..2 {
        let response = sender.send_request(request("http://a/long", ""));
        let response = in_time("an answer", response).await.expect("an answer");
        let status = response.headers()["cache-status"].to_str().expect("text");
        assert!(status.starts_with("pgweir; hit"), "{status}");
        assert_eq!(text(response).await, (200, "a".to_owned()));
    }
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn who_asked_for_a_host_of_ours_is_held_to_our_hosts() {
    let (node, state) = (Node::named("a").await, State::new("hosts"));
    for (domain, other) in [
        (vec!["localhost".to_owned(), "shop.test".to_owned()], 421),
        (vec![], 200),
    ] {
        let settings = config::Balancer {
            domain,
            ..secure_settings(&[&node], &state)
        };
        let running = Running::ready(&settings).await;
        for (host, expected) in [
            ("localhost", 200),
            ("Shop.Test:8443", 200),
            ("127.0.0.1:8443", 200),
            ("other.test", other),
        ] {
            let stream = connect_tls(running.secure(), &state, &["h2"]).await;
            let mut sender = http_2(stream.expect("it is trusted")).await;
            let asked = sender.send_request(request(&format!("https://{host}/"), ""));
            let answer = in_time("an answer", asked).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), expected, "{host}");

            let stream = connect_tls(running.secure(), &state, &["http/1.1"]).await;
            let mut stream = stream.expect("it is trusted");
            let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(get.as_bytes()).await.expect("it reads");
            let mut text = String::new();
            let _end = in_time("an answer", stream.read_to_string(&mut text)).await;
            let start = format!("HTTP/1.1 {expected} ");
            assert!(text.starts_with(&start), "{host}: {text}");
        }
        let refused = running.metric("pgweir_http_refused_total", &[("reason", "misdirected")]);
        assert_eq!(refused, if other == 421 { 2.0 } else { 0.0 });
    }
}
