//! The call that the application makes once, before its port opens.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How the call went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Somebody spoke HTTP.
    Answered,
    /// It failed before its time was over.
    Failed(String),
    /// Nobody answered in time.
    TimedOut,
}

/// GETs `url` once, for no longer than `limit`.
pub(crate) async fn call(url: &str, limit: Duration) -> Call {
    match tokio::time::timeout(limit, get(url)).await {
        Ok(Ok(())) => Call::Answered,
        Ok(Err(error)) => Call::Failed(error),
        Err(_) => Call::TimedOut,
    }
}

async fn get(url: &str) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let host = uri.host().ok_or_else(|| format!("{url} names no host"))?;
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let request = Request::get(uri.path())
        .header(
            HOST,
            uri.authority().map_or(host, |authority| authority.as_str()),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    // Ends by itself when the sender is dropped.
    tokio::spawn(connection);
    sender
        .send_request(request)
        .await
        .map(|_| ())
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(60);

    /// A server for one connection that sends `answer` after some request.
    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("valid");
        let url = format!("http://{}/", listener.local_addr().expect("valid"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("valid");
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        });
        url
    }

    #[tokio::test]
    async fn any_http_answer_will_do() {
        let url = server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(call(&url, LONG).await, Call::Answered);
    }

    #[tokio::test]
    async fn what_is_not_http_fails() {
        let url = server(b"\0\x0c not a web server\r\n").await;
        assert!(matches!(call(&url, LONG).await, Call::Failed(_)));
    }

    #[tokio::test]
    async fn a_refused_connection_fails() {
        assert!(matches!(
            call("http://127.0.0.1:1/", LONG).await,
            Call::Failed(_)
        ));
    }

    #[tokio::test]
    async fn silence_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("valid");
        let url = format!("http://{}/", listener.local_addr().expect("valid"));
        assert_eq!(call(&url, Duration::from_millis(20)).await, Call::TimedOut);
    }
}
