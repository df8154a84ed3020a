//! One attempt to have a request answered by one node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, Uri};

use super::connection::{NodeConnection, NotSent, SendFailed};
use super::core::Core;
use super::failure::Failure;
use super::health::Event;
use super::node::ConnectFailed;
use super::nodes::Permit;
use super::queue::NodeSet;
use super::retry::Progress;
use super::tunnel;
use super::upload::{Received, Upload};
use crate::config::Replay;

/// What is asked of a node.
#[derive(Debug)]
pub(crate) struct NodeRequest {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) replay: Replay,
    /// Nodes that are asked only when no other one serves.
    pub(crate) last_choice: NodeSet,
    /// When the request's time is over.
    pub(crate) deadline: Instant,
    /// The protocol it asks to go on in.
    pub(crate) upgrade: Option<HeaderValue>,
    /// What becomes of its body.
    pub(crate) received: Arc<Received>,
}

/// A node's answer, and what it is read with.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) connection: NodeConnection,
    pub(crate) permit: Permit,
    /// From when it was asked to the head of the answer.
    pub(crate) latency: Duration,
}

/// An attempt that brought nothing.
#[derive(Debug)]
pub(crate) struct Miss {
    /// What the client is told if there is no other attempt.
    pub(crate) failure: Failure,
    /// How far the request came.
    pub(crate) progress: Progress,
    /// It left a node that went down, and asks another one instead.
    pub(crate) moved: bool,
    /// The connection had been kept from an earlier request.
    pub(crate) reused: bool,
    /// The request's body, if nothing of it was taken.
    pub(crate) body: Option<Upload>,
    /// The word for logs.
    pub(crate) label: &'static str,
    /// What it says of the node.
    pub(crate) event: Option<Event>,
}

/// Sends a request to the node of this permit and waits for the head of the
/// answer: until the request's deadline, or until `leave` says that the request
/// has to leave the node. `fresh` asks for a new connection.
///
/// # Errors
/// No answer came.
pub(crate) async fn attempt(
    core: &Core,
    request: &NodeRequest,
    body: Upload,
    permit: Permit,
    fresh: bool,
    leave: impl Fn() -> bool,
) -> Result<Answered, Miss> {
    let mut connection = match connect(core, request.deadline, &permit, fresh).await {
        Ok(connection) => connection,
        Err(failure) => return Err(Miss::not_connected(failure, body)),
    };
    let reused = connection.is_used();
    if request.upgrade.is_some() {
        connection.may_switch();
    }
    let message = message(request, &permit, body);
    let sent = Instant::now();
    let look = |now| match now >= request.deadline {
        true => Some(Miss::at_deadline()),
        false => leave().then(Miss::left),
    };
    let result = connection.send(message, look).await;
    match result {
        // An upgrade that nobody asked for.
        Ok(response)
            if response.status().is_informational()
                && !tunnel::is_agreed(request.upgrade.as_ref(), &response) =>
        {
            Err(Miss::nonsense())
        }
        Ok(response) => {
            let metrics = core.nodes.metrics(permit.node());
            let latency = sent.elapsed();
            metrics.answer.observe(latency.as_secs_f64());
            Ok(Answered {
                latency,
                response,
                connection,
                permit,
            })
        }
        Err(NotSent::Ended(miss)) => Err(miss),
        Err(NotSent::Failed(failed)) => Err(Miss::broken(failed, reused, &request.received)),
    }
}

/// A connection to the node, before the deadline.
async fn connect(
    core: &Core,
    deadline: Instant,
    permit: &Permit,
    fresh: bool,
) -> Result<NodeConnection, Failure> {
    if !fresh && let Some(connection) = permit.get().reuse().await {
        return Ok(connection);
    }
    core.nodes.metrics(permit.node()).connections.inc();
    match tokio::time::timeout_at(deadline.into(), permit.get().connect()).await {
        Ok(result) => result.map_err(Failure::Connect),
        Err(_elapsed) => Err(Failure::Deadline(Progress::NotConnected)),
    }
}

fn message(request: &NodeRequest, permit: &Permit, body: Upload) -> Request<Upload> {
    let chunked = body.is_chunked();
    let mut message = Request::new(body);
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = request.target.clone();
    let headers = message.headers_mut();
    headers.clone_from(&request.headers);
    if !headers.contains_key(HOST) {
        headers.insert(HOST, permit.get().host.clone());
    }
    if chunked {
        // Without it hyper sends no body with a GET.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    message
}

impl Miss {
    fn not_connected(failure: Failure, body: Upload) -> Miss {
        Miss {
            failure,
            progress: Progress::NotConnected,
            moved: false,
            reused: false,
            body: Some(body),
            label: failure.label(),
            // Without a socket, or without time, nothing is known of the node.
            event: match failure {
                Failure::Connect(ConnectFailed::NoSocket) => None,
                Failure::Connect(_) => Some(Event::ConnectFailed),
                _ => None,
            },
        }
    }

    fn broken(failed: SendFailed, reused: bool, received: &Received) -> Miss {
        let SendFailed {
            error,
            sent,
            not_acknowledged,
            body,
        } = failed;
        let progress = match (sent, not_acknowledged) {
            (false, _) => Progress::NotSerialized,
            (true, true) => Progress::NotAcknowledged,
            (true, false) => Progress::Ambiguous,
        };
        let (failure, event) = match received.refusal() {
            Some(refusal) => (Failure::Refused(refusal), None),
            None if error.is_parse() => (Failure::Nonsense, Some(Event::RequestFailed)),
            // That a kept connection had ended says nothing of the node.
            None if reused && progress.is_undelivered() => (Failure::Broken(progress), None),
            None => (Failure::Broken(progress), Some(Event::RequestFailed)),
        };
        Miss {
            failure,
            progress,
            moved: false,
            reused,
            body: body.filter(Upload::untouched),
            label: failure.label(),
            event,
        }
    }

    fn at_deadline() -> Miss {
        let failure = Failure::Deadline(Progress::Ambiguous);
        Miss::given_up(failure, failure.label(), Some(Event::RequestFailed))
    }

    /// The node is known to be down.
    fn left() -> Miss {
        let failure = Failure::Broken(Progress::Ambiguous);
        Miss {
            moved: true,
            ..Miss::given_up(failure, "moved", None)
        }
    }

    fn nonsense() -> Miss {
        let failure = Failure::Nonsense;
        Miss::given_up(failure, failure.label(), Some(Event::RequestFailed))
    }

    fn given_up(failure: Failure, label: &'static str, event: Option<Event>) -> Miss {
        Miss {
            failure,
            progress: Progress::Ambiguous,
            moved: false,
            reused: false,
            body: None,
            label,
            event,
        }
    }
}
