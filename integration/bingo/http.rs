//! HTTP: connections, the steps every request goes through, and its answer.

use std::convert::Infallible;
use std::future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::app::App;
use crate::endpoints::{self, Asked, Problem, Reply};
use crate::log;
use crate::routes::{self, Astray};

/// The longest body that is read.
const MAX_BODY: usize = 64 << 10;

/// How long a connection may stay between two requests. Long, so that it is the
/// balancer that closes first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long requests under way have to finish when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted, out of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Listens on all addresses of both families, or of IPv4 where there is no IPv6.
///
/// # Errors
/// The port is taken or needs privileges.
pub(crate) fn listen(port: u16) -> std::io::Result<TcpListener> {
    let (socket, address) = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(_) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            (Socket::new(Domain::IPV4, Type::STREAM, None)?, address)
        }
    };
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves until `stop` is done, then lets requests under way finish.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let stopping = watch::Sender::new(());
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(app.clone(), stream, stopping.subscribe()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    app.log.info(log::SHUTDOWN, &[]);
    drop(listener);
    stopping.send_replace(());
    // Every connection holds a receiver as long as it lives.
    let _ = tokio::time::timeout(DRAIN, stopping.closed()).await;
}

/// One client's requests, one after the other; after `stopping` no further one.
async fn connection(app: Arc<App>, stream: TcpStream, mut stopping: watch::Receiver<()>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(app.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // Whatever ends a connection is the client's affair.
    tokio::select! {
        _ = &mut connection => return,
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn respond(
    app: Arc<App>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let started = Instant::now();
    let number = app.faults.count_request();
    if app.hang {
        future::pending::<()>().await;
    }
    let path = request.uri().path().to_owned();
    let response = Box::pin(pass(&app, request, number)).await;
    let fields = [
        ("url_path", Json::from(path)),
        (
            "event_duration",
            Json::from(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        ),
        ("status", Json::from(response.status().as_u16())),
    ];
    app.log.info(log::COMPLETED, &fields);
    if app.faults.is_last(number) {
        tokio::spawn(async move { app.faults.answered(number).await });
    }
    Ok(response)
}

/// The steps in their order: sickness, the limiter, the route, the budget.
async fn pass(app: &App, request: Request<Incoming>, number: u64) -> Response<Full<Bytes>> {
    if app.faults.is_sick() {
        return refuse(&Problem::Sick);
    }
    let path = request.uri().path().to_owned();
    if app.limiter.admit().await.is_err() {
        app.log
            .error(log::TOO_MANY, &[("url_path", Json::from(path))]);
        return text(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
    }
    let (endpoint, id) = match routes::find(request.method(), &path) {
        Ok(found) => found,
        Err(astray) => return lead_back(&astray),
    };
    let method = request.method().clone();
    let work = async {
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
        let body = body
            .map_err(|error| Problem::BadRequest(error.to_string()))?
            .to_bytes();
        app.ledger
            .note(&method, &path, &body)
            .map_err(Problem::Ledger)?;
        endpoints::answer(
            app,
            &Asked {
                endpoint,
                id,
                body,
                number,
            },
        )
        .await
    };
    match tokio::time::timeout(app.budget, work).await {
        Ok(Ok(Reply::Text(words))) => text(StatusCode::OK, words),
        Ok(Ok(Reply::Json(body))) => with_type(StatusCode::OK, JSON, body.into()),
        Ok(Err(problem)) => {
            if let Problem::Db(error) = &problem {
                complain(app, &path, &error.to_string());
            }
            refuse(&problem)
        }
        Err(_) => {
            complain(app, &path, "context deadline exceeded");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "context deadline exceeded",
            )
        }
    }
}

fn complain(app: &App, path: &str, error: &str) {
    let fields = [("url_path", Json::from(path)), ("error", Json::from(error))];
    app.log.error(log::REQUEST_FAILED, &fields);
}

fn refuse(problem: &Problem) -> Response<Full<Bytes>> {
    let (status, words) = problem.answer();
    with_type(status, PLAIN, words.into())
}

fn lead_back(astray: &Astray) -> Response<Full<Bytes>> {
    match astray {
        Astray::NoSuchPath => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Astray::OtherMethods(methods) => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
            if let Ok(methods) = HeaderValue::from_str(methods) {
                response.headers_mut().insert(ALLOW, methods);
            }
            response
        }
    }
}

fn text(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    with_type(status, PLAIN, Bytes::from_static(words.as_bytes()))
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
