//! One request, from its head to the head of its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::attempt::{Answered, NodeRequest};
use super::body::RequestBody;
use super::cache::{self, Lookup, Rule, Served};
use super::client::Client;
use super::core::Core;
use super::download::Download;
use super::exchange::Exchange;
use super::failure::Failure;
use super::hygiene::{self, Origin, X_REQUEST_ID};
use super::journey;
use super::metrics::Shed;
use super::policy;
use super::queue::NodeSet;
use super::refusal::Refusal;
use super::retry;
use super::site::Site;
use super::tunnel;
use super::upload::Upload;
use crate::config::Replay;

/// Serves a request of this client. The answer's body carries the request on
/// to its end.
pub(crate) async fn serve(
    core: Arc<Core>,
    client: Arc<Client>,
    request: Request<RequestBody>,
) -> Result<Response<Download>, Infallible> {
    let core = core.latest();
    let odd_bytes = client.begin();
    let (head, body) = request.into_parts();
    let version = head.version;
    let is_head = head.method == Method::HEAD;
    let mut exchange = Exchange::begin(&core, &client, &head);
    let result = match odd_bytes {
        Some(refusal) => Err(Failure::Refused(refusal)),
        None => ask(&core, &mut exchange, &client, head, body).await,
    };
    Ok(match result {
        Ok(Reply::Node(answered, deadline)) => {
            pass_on(&core, client, version, exchange, answered, deadline)
        }
        Ok(Reply::Switched(node, protocol)) => switch(&core, &client, exchange, *node, &protocol),
        Ok(Reply::Proof(proof)) => answer_validation(exchange, proof),
        Ok(Reply::Kept(served, is_known)) => {
            answer_from_cache(&client, exchange, &served, is_known)
        }
        Err(failure) => {
            let mut response = failure.answer(version);
            if is_head {
                let length = response.body().len();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
                *response.body_mut() = Bytes::new();
            }
            speak_of_connections(&client, response.headers_mut());
            answer_ourselves(&core, exchange, failure, response)
        }
    })
}

/// Tells who came over TLS about HTTP/3, and who is to go that this is the last
/// answer.
fn speak_of_connections(client: &Client, headers: &mut HeaderMap) {
    if let Some(alternative) = client.site().and_then(Site::alternative) {
        headers.insert(ALT_SVC, alternative);
    }
    if client.is_seen_off() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// An answer for a client.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box is an allocation for each request"
)]
enum Reply {
    /// A node's; its body has to end before this moment.
    Node(Answered, Instant),
    /// Ours, for an authority that validates.
    Proof(Bytes),
    /// A kept one; whether the client has it already.
    Kept(Served, bool),
    /// A node goes on in another protocol.
    Switched(Box<tunnel::Node>, HeaderValue),
}

/// Has the request answered: from the cache, if its route keeps answers, else
/// by a node.
async fn ask(
    core: &Arc<Core>,
    exchange: &mut Exchange,
    client: &Client,
    mut head: Parts,
    body: RequestBody,
) -> Result<Reply, Failure> {
    let accepted = policy::judge(&head, core.upload.max_body).map_err(Failure::Refused)?;
    if let Some(answers) = &core.answers
        && client.site().is_none()
        && head.method == Method::GET
        && let Some(proof) = answers.at(accepted.target.path()).await
    {
        return Ok(Reply::Proof(proof.into()));
    }
    if client.is_misdirected(accepted.host.as_ref()) {
        return Err(Failure::Refused(Refusal::Misdirected));
    }
    let id = core.routes.find(&head.method, accepted.target.path());
    exchange.on_route(id);
    let route = core.routes.get(id);
    let deadline = exchange.began() + route.timeout;
    let limited = core.limiter.admit(exchange.client(), id, Instant::now);
    if let Err(limited) = limited {
        core.metrics.limited(id, limited.by);
        return Err(Failure::Limited(limited));
    }
    let upload = Upload::take(body, accepted.length, core.upload, exchange.received());
    let upload = tokio::time::timeout_at(deadline.into(), upload)
        .await
        .map_err(|_elapsed| Failure::Refused(Refusal::BodyTimeout))?
        .map_err(Failure::Refused)?;
    let upgrade = tunnel::wanted(&route.upgrade, &head, accepted.length);
    if let Some(rule) = route.cache {
        if cache::is_for(&head)
            && upgrade.is_none()
            && upload.is_empty()
            && let Some(served) =
                cache::ask(core, rule, &accepted.target, &head.headers, deadline).await?
        {
            let is_known = served.is_known(&head.headers);
            return Ok(Reply::Kept(served, is_known));
        }
        exchange.cached(Lookup::Bypass, Duration::ZERO);
    }
    if core.pressure.is_above(core.shed_above) {
        core.metrics.shed(Shed::PoolerBusy);
        return Err(Failure::Shed(Shed::PoolerBusy));
    }
    let origin = Origin {
        client: client.address().ip(),
        version: head.version,
        is_secure: client.site().is_some(),
        is_trusted: client.is_trusted(),
        tells_forwarded: core.settings.forwarded,
    };
    let trace = hygiene::clean_request(&mut head.headers, &accepted, origin, exchange.id());
    exchange.traced(trace);
    let replay = match &upgrade {
        None => route.replay,
        Some(protocol) => {
            tunnel::ask(&mut head.headers, protocol);
            // Sent again only if it never arrived, whatever the route says.
            match route.replay {
                Replay::Always => Replay::Proven,
                less => less,
            }
        }
    };
    let request = NodeRequest {
        method: head.method,
        target: accepted.target,
        headers: head.headers,
        replay,
        last_choice: NodeSet::default(),
        deadline,
        upgrade: upgrade.clone(),
        received: Arc::clone(exchange.received()),
    };
    // What is kept as it says itself is changed by other methods.
    let changed = match retry::is_safe(&request.method) {
        true => None,
        false => core
            .routes
            .rule(&request.target)
            .filter(Rule::is_as_they_say),
    };
    let changed = changed.map(|rule| (rule, request.target.clone()));
    let answered = journey::answer(core, exchange.trail(), request, upload).await?;
    if let Some((rule, target)) = changed {
        let status = answered.response.status();
        if status.is_success() || status.is_redirection() {
            cache::invalidate(core, rule, &target);
        }
    }
    match upgrade {
        Some(protocol) if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let node = Box::pin(tunnel::Node::switched(answered, deadline)).await?;
            Ok(Reply::Switched(Box::new(node), protocol))
        }
        _ => Ok(Reply::Node(answered, deadline)),
    }
}

/// The answer after which client and node speak another protocol.
fn switch(
    core: &Core,
    client: &Client,
    exchange: Exchange,
    mut node: tunnel::Node,
    protocol: &HeaderValue,
) -> Response<Download> {
    let (status, version) = (node.head.status, node.head.version);
    let mut headers = std::mem::take(&mut node.head.headers);
    hygiene::clean_response(&mut headers, status, version, exchange.id());
    tunnel::ask(&mut headers, protocol);
    let tunnel = tunnel::Tunnel::new(node, exchange, core.tunnel_timeout);
    client.leaves_http(Box::new(tunnel));
    let mut response = Response::new(Download::Own(Bytes::new()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn pass_on(
    core: &Core,
    client: Arc<Client>,
    version: Version,
    mut exchange: Exchange,
    answered: Answered,
    deadline: Instant,
) -> Response<Download> {
    let Answered {
        response,
        connection,
        permit,
        ..
    } = answered;
    let (mut head, incoming) = response.into_parts();
    let status = head.status;
    hygiene::clean_response(&mut head.headers, status, head.version, exchange.id());
    let forwarded = HeaderValue::from_static(cache::FORWARDED);
    head.headers.append(cache::CACHE_STATUS, forwarded);
    speak_of_connections(&client, &mut head.headers);
    exchange.answered(status.as_u16(), None);
    let ends_with_the_connection =
        version == Version::HTTP_10 && !head.headers.contains_key(CONTENT_LENGTH);
    let reset = ends_with_the_connection.then_some(client);
    let times = (core.body_timeout, deadline);
    let body = Download::from_node(incoming, connection, permit, exchange, times, reset);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = head.headers;
    response
}

fn answer_from_cache(
    client: &Client,
    mut exchange: Exchange,
    served: &Served,
    is_known: bool,
) -> Response<Download> {
    let mut response = Response::new(Download::Own(match is_known || exchange.is_head() {
        true => Bytes::new(),
        false => served.stored.body.clone(),
    }));
    *response.status_mut() = served.stored.status;
    *response.headers_mut() = served.headers(exchange.id());
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        cache::strip_content(response.headers_mut());
    } else {
        exchange.sent(served.stored.body.len());
    }
    speak_of_connections(client, response.headers_mut());
    exchange.cached(served.lookup, served.age);
    exchange.answered(response.status().as_u16(), None);
    response
}

/// What an authority asked for (RFC 8555, section 8.3).
fn answer_validation(mut exchange: Exchange, proof: Bytes) -> Response<Download> {
    exchange.answered(StatusCode::OK.as_u16(), None);
    exchange.sent(proof.len());
    let mut response = Response::new(Download::Own(proof));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(X_REQUEST_ID, exchange.id());
    response
}

fn answer_ourselves(
    core: &Core,
    mut exchange: Exchange,
    failure: Failure,
    mut response: Response<Bytes>,
) -> Response<Download> {
    if let Failure::Refused(refusal) = failure {
        core.metrics.refused(refusal);
    }
    response.headers_mut().insert(X_REQUEST_ID, exchange.id());
    exchange.answered(response.status().as_u16(), Some(failure.label()));
    exchange.sent(response.body().len());
    response.map(Download::Own)
}
