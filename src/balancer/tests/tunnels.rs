//! Connections that leave HTTP, and those that try to.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: WebSocket\r\nSec-WebSocket-Key: x\r\n\r\n";

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

/// A node that gives the same answer to everything but checks, and then says
/// back what it hears.
struct Echo {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: String,
    /// One for each answer that may be given.
    may_answer: Semaphore,
    /// Heads, each with what came behind it at once or later.
    heard: Mutex<Vec<(String, Vec<u8>)>>,
}

impl Echo {
    async fn start(answer: &str, answers: usize) -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            answer: answer.to_owned(),
            may_answer: Semaphore::new(answers),
            heard: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream, Arc::clone(&serving)));
            }
        });
        Echo { address, shared }
    }

    fn heard(&self) -> Vec<(String, Vec<u8>)> {
        self.shared.heard.lock().expect("no panic").clone()
    }
}

async fn echo(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).expect("text");
        if head.starts_with("GET /ping ") {
            let pong = b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\npong";
            stream.write_all(pong).await.ok()?;
            continue;
        }
        let place = {
            let mut heard = shared.heard.lock().expect("no panic");
            heard.push((head, Vec::new()));
            heard.len() - 1
        };
        let mut permit = std::pin::pin!(shared.may_answer.acquire());
        let mut bytes = [0; 1024];
        loop {
            tokio::select! {
                biased;
                read = stream.read(&mut bytes) => {
                    let read = read.ok().filter(|it| *it > 0)?;
                    shared.heard.lock().expect("no panic")[place].1.extend(&bytes[..read]);
                }
                permit = &mut permit => break permit.expect("never closed").forget(),
            }
        }
        if shared.answer.is_empty() {
            return None;
        }
        stream.write_all(shared.answer.as_bytes()).await.ok()?;
        if !shared.answer.starts_with("HTTP/1.1 101") {
            continue;
        }
        loop {
            let read = stream.read(&mut bytes).await.ok().filter(|it| *it > 0)?;
            shared.heard.lock().expect("no panic")[place]
                .1
                .extend(&bytes[..read]);
            stream.write_all(&bytes[..read]).await.ok()?;
        }
    }
}

/// Settings whose route /chat allows WebSocket.
fn settings_to(nodes: &[&Echo]) -> config::Balancer {
    let node = |(place, node): (usize, &&Echo)| {
        let address = node.address.to_string();
        (format!("n{place}"), config::Node { address })
    };
    let chat = config::Route {
        upgrade: vec!["websocket".to_owned()],
        ..route("/chat", config::Replay::Always)
    };
    config::Balancer {
        nodes: nodes.iter().enumerate().map(node).collect(),
        routes: BTreeMap::from([("chat".to_owned(), chat)]),
        ..settings(&[])
    }
}

async fn read_exactly(client: &mut Client, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    let read = client.stream.read_exact(&mut bytes);
    in_time("bytes", read).await.expect("as many");
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

/// The head of the next answer, byte by byte: what follows is no HTTP.
async fn head(client: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = in_time("a head", client.stream.read_u8()).await;
        head.push(byte.expect("a whole head"));
    }
    String::from_utf8(head).expect("text").to_lowercase()
}

async fn ends(client: &mut Client) {
    let mut rest = Vec::new();
    let read = in_time("the end", client.stream.read_to_end(&mut rest)).await;
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn both_sides_say_what_they_like_once_the_node_agrees() {
    let node = Echo::start(&format!("{AGREED}hello"), 9).await;
    let log = std::env::temp_dir().join(format!("pgweir-tunnel-{}", std::process::id()));
    let mut settings = settings_to(&[&node]);
    settings.access_log = Some(log.display().to_string());
    let mut running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.write(ASK).await;
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: y\r\n",
        "via: 1.1 pgweir\r\n",
    ] {
        assert_eq!(answer.matches(line).count(), 1, "{answer}");
    }
    read_exactly(&mut client, "hello").await;
    for said in ["GET / HTTP/1.1\r\n\r\n", "\0\u{1}\n\n", "more"] {
        client.write(said).await;
        read_exactly(&mut client, said).await;
    }
    let open = |name: &str| running.metric(name, &[]);
    assert_eq!(open("pgweir_http_tunnels"), 1.0);
    assert_eq!(open("pgweir_http_upstream_in_flight"), 1.0);
    drop(client);
    eventually("it ends", || open("pgweir_http_tunnels") == 0.0).await;
    eventually("the node is free", || {
        open("pgweir_http_upstream_in_flight") == 0.0
    })
    .await;
    assert_eq!(open("pgweir_http_tunnels_opened_total"), 1.0);
    let asked = &node.heard()[0].0.to_lowercase();
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-key: x\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert_eq!(asked.matches(line).count(), 1, "{asked}");
    }
    running.begin_to_stop();
    let ended = in_time("the end", &mut running.task).await;
    ended.expect("no panic").expect("in order");
    drop(running);
    let text = std::fs::read_to_string(&log).expect("a log");
    std::fs::remove_file(&log).expect("it is ours");
    let line: serde_json::Value = serde_json::from_str(text.trim()).expect("one line");
    assert_eq!(
        (&line["status"], &line["route"]),
        (&101.into(), &"chat".into())
    );
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&26.into(), &31.into())
    );
}

#[tokio::test]
async fn what_is_said_early_waits_for_the_nodes_word() {
    let node = Echo::start(AGREED, 0).await;
    let running = Running::ready(&settings_to(&[&node])).await;
    let mut client = running.client().await;
    client.write([ASK, "early"].concat()).await;
    eventually("it is asked", || node.heard().len() == 1).await;
    client.write(" and later").await;
    tokio::time::sleep(50 * MS).await;
    assert_eq!(node.heard()[0].1, b"", "nothing is said before its answer");
    node.shared.may_answer.add_permits(1);
    head(&mut client).await;
    read_exactly(&mut client, "early and later").await;
}

#[tokio::test]
async fn a_node_that_does_not_agree_answers_as_always() {
    let answer = "HTTP/1.1 403 X\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nno";
    let node = Echo::start(answer, 9).await;
    let running = Running::ready(&settings_to(&[&node])).await;
    let mut client = running.client().await;
    // A request that would be smuggled if the connection were raw already.
    let hidden = "GET /x/../chat HTTP/1.1\r\nHost: b\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n";
    client.write([ASK, hidden].concat()).await;
    for _ in 0..2 {
        assert_eq!(client.answer().await.status, 403);
    }
    let heard = node.heard();
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|(_, more)| more.is_empty()), "{heard:?}");
    assert!(
        heard[1].0.starts_with("GET /chat HTTP/1.1\r\n"),
        "{heard:?}"
    );
    let second = heard[1].0.to_lowercase();
    assert!(
        second.contains("x-forwarded-for: 127.0.0.1\r\n"),
        "{second}"
    );
    assert!(!second.contains("upgrade"), "{second}");
}

#[tokio::test]
async fn where_it_is_not_allowed_nobody_hears_of_it() {
    let node = Echo::start("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nno", 99).await;
    let running = Running::ready(&settings_to(&[&node])).await;
    for (from, to) in [
        ("/chat", "/other"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("GET", "POST"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ("WebSocket\r\n", "h2c\r\n"),
        ("WebSocket\r\n", "websocket, h2c\r\n"),
        ("WebSocket\r\n", "websocket\r\nUpgrade: h2c\r\n"),
        ("Host: a", "Host: a\r\nTransfer-Encoding: chunked"),
    ] {
        let mut client = running.client().await;
        let ask = ASK.replace(from, to);
        let end = if ask.contains("chunked") {
            "0\r\n\r\n"
        } else {
            ""
        };
        client.write([&ask, end].concat()).await;
        assert_eq!(client.answer().await.text(), "no", "{ask}");
        let head = node.heard().pop().expect("it is asked").0.to_lowercase();
        assert!(!head.contains("upgrade"), "{head}");
    }
    assert_eq!(running.metric("pgweir_http_tunnels_opened_total", &[]), 0.0);
}

#[tokio::test]
async fn an_agreement_that_nobody_asked_for_is_none() {
    for (answer, ask) in [
        (AGREED.to_owned(), ASK.replace("/chat", "/other")),
        (AGREED.replace("websocket", "other"), ASK.to_owned()),
        (AGREED.replace("Upgrade: websocket\r\n", ""), ASK.to_owned()),
        (
            AGREED.replace("Connection: Upgrade\r\n", ""),
            ASK.to_owned(),
        ),
    ] {
        let node = Echo::start(&answer, 9).await;
        let running = Running::ready(&settings_to(&[&node])).await;
        let mut client = running.client().await;
        client.write(&ask).await;
        let answer = client.answer().await;
        assert_eq!(
            (answer.status, answer.details()),
            (502, "nonsense"),
            "{ask}"
        );
    }
}

#[tokio::test]
async fn what_a_node_may_have_heard_is_not_said_to_another() {
    let nodes = [Echo::start("", 9).await, Echo::start("", 9).await];
    let running = Running::ready(&settings_to(&[&nodes[0], &nodes[1]])).await;
    let mut client = running.client().await;
    client.write(ASK).await;
    assert_eq!(client.answer().await.status, 502);
    let heard = nodes.iter().map(|it| it.heard().len()).sum::<usize>();
    assert_eq!(heard, 1);
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_says_anything_is_closed() {
    let node = Echo::start(AGREED, 9).await;
    let settings = config::Balancer {
        tunnel_timeout: 300 * MS,
        // It does not count here.
        request_timeout: 100 * MS,
        body_timeout: 100 * MS,
        keepalive_timeout: 100 * MS,
        ..settings_to(&[&node])
    };
    let running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.write(ASK).await;
    head(&mut client).await;
    let began = Instant::now();
    while began.elapsed() < 600 * MS {
        client.write("x").await;
        read_exactly(&mut client, "x").await;
        tokio::time::sleep(20 * MS).await;
    }
    ends(&mut client).await;
}

#[tokio::test]
async fn one_side_may_end_before_the_other() {
    let node = Echo::start(AGREED, 9).await;
    let running = Running::ready(&settings_to(&[&node])).await;
    let mut client = running.client().await;
    client.write(ASK).await;
    head(&mut client).await;
    client.write("last words").await;
    client.stream.shutdown().await.expect("it is open");
    read_exactly(&mut client, "last words").await;
    ends(&mut client).await;
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_and_not_for_ever() {
    let node = Echo::start(AGREED, 9).await;
    let mut settings = settings_to(&[&node]);
    settings.request_timeout = SECOND;
    let mut running = Running::ready(&settings).await;
    let mut client = running.client().await;
    client.write(ASK).await;
    head(&mut client).await;
    running.begin_to_stop();
    tokio::time::sleep(50 * MS).await;
    client.write("still").await;
    read_exactly(&mut client, "still").await;
    ends(&mut client).await;
    let ended = in_time("the end", &mut running.task).await;
    ended.expect("no panic").expect("in order");
}
