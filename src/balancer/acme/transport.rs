//! The way to an authority: HTTPS, one connection for each request, of which
//! an order takes some fifteen.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::balancer::secure::TlsIo;
use crate::net::tls::ServerSide;

/// Longest time of one request, from the look-up of the authority's name to
/// the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest body of an answer, in bytes: a chain of certificates.
const ANSWER_MAX: usize = 256 * 1024;

/// What an authority is told of us.
const AGENT: &str = concat!("pgweir/", env!("CARGO_PKG_VERSION"));

/// The way.
#[derive(Clone)]
pub(super) struct Transport {
    trust: ServerSide,
    /// Seconds for which the authority wants to hear nothing; 0 is none.
    asked: Arc<AtomicU64>,
}

impl Transport {
    pub(super) fn new(trust: ServerSide) -> Transport {
        Transport {
            trust,
            asked: Arc::default(),
        }
    }

    /// For how many seconds the authority wants to hear nothing, as it said
    /// when it refused something (`Retry-After`; RFC 8555, section 6.6).
    pub(super) fn asked(&self) -> Option<u64> {
        Some(self.asked.load(Relaxed)).filter(|it| *it > 0)
    }

    async fn ask(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let url = request.uri().clone();
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request)).await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(_elapsed) => Err("no answer in time".into()),
        };
        let answer = answer.map_err(|why| Error::Other(format!("{url}: {why}").into()))?;
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            let seconds = answer.headers().get(RETRY_AFTER);
            let seconds = seconds.and_then(|it| it.to_str().ok()?.trim().parse().ok());
            self.asked.store(seconds.unwrap_or(0), Relaxed);
        }
        Ok(answer.into())
    }

    async fn exchange(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let io = self.connect(request.uri()).await?;
        let authority = request.uri().authority().map_or("", |it| it.as_str());
        let host = HeaderValue::from_str(authority)?;
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn connect(&self, url: &Uri) -> io::Result<TlsIo> {
        let other = |why: &dyn fmt::Display| io::Error::other(why.to_string());
        let host = url.host().filter(|_| url.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| other(&"it is no https URL"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let target = self.trust.target(host, false).map_err(|it| other(&it))?;
        let mut failure = other(&"its name has no address");
        let port = url.port_u16().unwrap_or(443);
        for address in tokio::net::lookup_host((host, port)).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let shaken = TlsIo::connect(stream, target).await;
                    return shaken.map_err(|it| other(&it));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().ask(request))
    }
}
