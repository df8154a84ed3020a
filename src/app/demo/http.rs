//! One HTTP request to this machine.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer that is read, in bytes; pages of metrics are the longest.
const MAX_BODY: usize = 8 << 20;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The whole body.
    pub body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens, or the connection broke.
    Connection(String),
    /// It took too long.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connection(why) => f.write_str(why),
            Failure::TimedOut => f.write_str("no answer in time"),
        }
    }
}

/// Asks `port` of this machine over a connection of its own.
///
/// # Errors
/// See [`Failure`].
pub async fn ask(
    port: u16,
    method: Method,
    path: &str,
    body: String,
    limit: Duration,
) -> Result<Answer, Failure> {
    match timeout(limit, exchange(port, method, path, body)).await {
        Ok(answer) => answer.map_err(|error| Failure::Connection(innermost(&*error))),
        Err(_) => Err(Failure::TimedOut),
    }
}

/// GETs `path` of `port`.
///
/// # Errors
/// See [`Failure`].
pub async fn get(port: u16, path: &str, limit: Duration) -> Result<Answer, Failure> {
    ask(port, Method::GET, path, String::new(), limit).await
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(port: u16, method: Method, path: &str, body: String) -> Result<Answer, Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself when the sender is dropped.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string());
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let answer = sender
        .send_request(request.body(Full::new(Bytes::from(body)))?)
        .await?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_BODY)
        .collect()
        .await?
        .to_bytes();
    Ok(Answer { status, body })
}

/// What the system said, without hyper's words around it.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(60);

    async fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        });
        port
    }

    #[tokio::test]
    async fn status_and_body_come_back() {
        let port = server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone").await;
        let answer = get(port, "/x", LONG).await.expect("an answer");
        assert_eq!((answer.status, &answer.body[..]), (404, &b"gone"[..]));
    }

    #[tokio::test]
    async fn an_answer_cut_short_is_a_failure() {
        let port = server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngo").await;
        assert!(matches!(
            get(port, "/", LONG).await,
            Err(Failure::Connection(_))
        ));
    }

    #[tokio::test]
    async fn silence_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let asked = get(port, "/", Duration::from_millis(20)).await;
        assert_eq!(asked, Err(Failure::TimedOut));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_systems_words() {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        drop(listener);
        let refused = get(port, "/", LONG).await.expect_err("nobody listens");
        assert!(refused.to_string().contains("refused"), "{refused}");
    }
}
