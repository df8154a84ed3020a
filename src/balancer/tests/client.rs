//! A client that writes bytes and reads what comes back.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::in_time;
use super::node::Received;

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Status line and headers.
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Whether it came to the end its head promised.
    pub(super) complete: bool,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self
            .head
            .lines()
            .skip(1)
            .filter_map(|it| it.split_once(": "));
        lines
            .find(|it| it.0.eq_ignore_ascii_case(name))
            .map(|it| it.1)
    }

    /// The word in `Proxy-Status` that says what happened.
    pub(super) fn details(&self) -> &str {
        let status = self.header("proxy-status").unwrap_or_default();
        status.split('"').nth(1).unwrap_or_default()
    }
}

/// A connection to the balancer.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    reader: Reader,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Client {
        Client {
            stream: TcpStream::connect(address).await.expect("it listens"),
            reader: Reader::default(),
        }
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .await
            .expect("it reads");
    }

    /// The next answer to a request that is not HEAD.
    pub(super) async fn answer(&mut self) -> Answer {
        let answer = self.reader.answer(&mut self.stream, false);
        in_time("an answer", answer).await.expect("an answer")
    }

    /// The next answer, if there is one before the connection ends.
    pub(super) async fn try_answer(&mut self) -> Option<Answer> {
        let answer = self.reader.answer(&mut self.stream, false);
        in_time("an answer or the end", answer).await
    }

    /// The next answer to a HEAD request.
    pub(super) async fn head_answer(&mut self) -> Answer {
        let answer = self.reader.answer(&mut self.stream, true);
        in_time("an answer", answer).await.expect("an answer")
    }

    /// Whether the connection ends without a further byte.
    pub(super) async fn is_closed(&mut self) -> bool {
        let more = self.reader.more(&mut self.stream);
        !in_time("the end of the connection", more).await
    }

    pub(super) async fn get(&mut self, target: &str) -> Answer {
        self.write(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        self.answer().await
    }

    pub(super) async fn post(&mut self, target: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        self.write(head + body).await;
        self.answer().await
    }
}

/// Reads messages. Knows just enough HTTP for what tests send.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: BytesMut,
}

impl Reader {
    /// Reads on; false at the end of the stream.
    async fn more(&mut self, stream: &mut TcpStream) -> bool {
        matches!(stream.read_buf(&mut self.bytes).await, Ok(read) if read > 0)
    }

    async fn head(&mut self, stream: &mut TcpStream) -> Option<String> {
        loop {
            let end = self.bytes.windows(4).position(|it| it == b"\r\n\r\n");
            if let Some(end) = end {
                let head = self.bytes.split_to(end + 4);
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.more(stream).await {
                return None;
            }
        }
    }

    /// This many bytes, or fewer at the end of the stream.
    async fn exactly(&mut self, stream: &mut TcpStream, length: usize) -> (Vec<u8>, bool) {
        while self.bytes.len() < length {
            if !self.more(stream).await {
                return (self.bytes.split().to_vec(), false);
            }
        }
        (self.bytes.split_to(length).to_vec(), true)
    }

    async fn line(&mut self, stream: &mut TcpStream) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.windows(2).position(|it| it == b"\r\n") {
                let line = self.bytes.split_to(end);
                self.bytes.advance(2);
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            if !self.more(stream).await {
                return None;
            }
        }
    }

    async fn chunks(&mut self, stream: &mut TcpStream) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        while let Some(line) = self.line(stream).await {
            let size = usize::from_str_radix(&line, 16).expect("a chunk size");
            let (chunk, complete) = self.exactly(stream, size).await;
            body.extend(chunk);
            if !complete || self.line(stream).await.is_none() {
                break;
            }
            if size == 0 {
                return (body, true);
            }
        }
        (body, false)
    }

    /// The body behind a head, and whether it is complete; none if the head
    /// promises none.
    async fn body(&mut self, stream: &mut TcpStream, head: &str) -> Option<(Vec<u8>, bool)> {
        let head = head.to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            return Some(self.chunks(stream).await);
        }
        let (_, length) = head.split_once("\ncontent-length: ")?;
        let length = length.lines().next()?.parse().expect("a length");
        Some(self.exactly(stream, length).await)
    }

    pub(super) async fn request(&mut self, stream: &mut TcpStream) -> Option<Received> {
        let head = self.head(stream).await?;
        let body = self.body(stream, &head).await.unwrap_or_default().0;
        Some(Received { head, body })
    }

    async fn answer(&mut self, stream: &mut TcpStream, to_head: bool) -> Option<Answer> {
        let head = self.head(stream).await?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let bodiless = to_head || matches!(status, 100..200 | 204 | 304);
        let (body, complete) = match bodiless {
            true => (Vec::new(), true),
            false => match self.body(stream, &head).await {
                Some(body) => body,
                None => {
                    while self.more(stream).await {}
                    (self.bytes.split().to_vec(), true)
                }
            },
        };
        Some(Answer {
            status,
            head,
            body,
            complete,
        })
    }
}
