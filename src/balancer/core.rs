//! What all requests of a balancer share.

use std::time::Duration;

use std::sync::Arc;

use super::access_log::AccessLog;
use super::client::Patience;
use super::metrics::Metrics;
use super::nodes::Nodes;
use super::request_id::RequestIds;
use super::route::Routes;
use super::upload;

/// Built once, shared by all.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) routes: Routes,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: AccessLog,
    pub(crate) ids: RequestIds,
    /// For request bodies.
    pub(crate) upload: upload::Limits,
    /// For clients.
    pub(crate) patience: Patience,
    /// Longest pause between two pieces of an answer's body.
    pub(crate) body_timeout: Duration,
    /// Longest time a stream of HTTP/2 or HTTP/3 takes, to the last byte the
    /// client has room for.
    pub(crate) stream_timeout: Duration,
    /// Longest time a check decides about a 5xx answer.
    pub(crate) verdict_timeout: Duration,
}
