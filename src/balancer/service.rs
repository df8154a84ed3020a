//! One request, from its head to the head of its answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{ALT_SVC, CONTENT_LENGTH, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, Version};

use super::attempt::{Answered, NodeRequest};
use super::body::RequestBody;
use super::client::Client;
use super::core::Core;
use super::download::Download;
use super::exchange::Exchange;
use super::failure::Failure;
use super::hygiene::{self, Origin, X_REQUEST_ID};
use super::journey;
use super::policy;
use super::refusal::Refusal;
use super::site::Site;
use super::upload::Upload;

/// Serves a request of this client. The answer's body carries the request on
/// to its end.
pub(crate) async fn serve(
    core: Arc<Core>,
    client: Arc<Client>,
    request: Request<RequestBody>,
) -> Response<Download> {
    let odd_bytes = client.begin();
    let (head, body) = request.into_parts();
    let version = head.version;
    let is_head = head.method == Method::HEAD;
    let mut exchange = Exchange::begin(&core, &client, &head);
    let result = match odd_bytes {
        Some(refusal) => Err(Failure::Refused(refusal)),
        None => ask(&core, &mut exchange, &client, head, body).await,
    };
    match result {
        Ok((answered, deadline)) => pass_on(&core, client, version, exchange, answered, deadline),
        Err(failure) => {
            let mut response = failure.answer(version);
            if is_head {
                let length = response.body().len();
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
                *response.body_mut() = Bytes::new();
            }
            offer_alternative(&client, response.headers_mut());
            answer_ourselves(&core, exchange, failure, response)
        }
    }
}

/// Tells who came over TLS about HTTP/3.
fn offer_alternative(client: &Client, headers: &mut HeaderMap) {
    if let Some(alternative) = client.site().and_then(Site::alternative) {
        headers.insert(ALT_SVC, alternative);
    }
}

/// Has a node answer the request, before the deadline that comes with the
/// answer.
async fn ask(
    core: &Arc<Core>,
    exchange: &mut Exchange,
    client: &Client,
    mut head: Parts,
    body: RequestBody,
) -> Result<(Answered, Instant), Failure> {
    let accepted = policy::judge(&head, core.upload.max_body).map_err(Failure::Refused)?;
    let id = core.routes.find(&head.method, accepted.target.path());
    exchange.on_route(id);
    let route = core.routes.get(id);
    let deadline = exchange.began() + route.timeout;
    let origin = Origin {
        client: client.address().ip(),
        version: head.version,
        is_secure: client.site().is_some(),
    };
    hygiene::clean_request(&mut head.headers, &accepted, origin, exchange.id());
    let upload = Upload::take(body, accepted.length, core.upload, exchange.received());
    let upload = tokio::time::timeout_at(deadline.into(), upload)
        .await
        .map_err(|_elapsed| Failure::Refused(Refusal::BodyTimeout))?
        .map_err(Failure::Refused)?;
    let request = NodeRequest {
        method: head.method,
        target: accepted.target,
        headers: head.headers,
        replay: route.replay,
        deadline,
        received: Arc::clone(exchange.received()),
    };
    let answered = journey::answer(core, exchange, request, upload).await?;
    Ok((answered, deadline))
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
    } = answered;
    let (mut head, incoming) = response.into_parts();
    let status = head.status;
    hygiene::clean_response(&mut head.headers, status, head.version, exchange.id());
    offer_alternative(&client, &mut head.headers);
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
