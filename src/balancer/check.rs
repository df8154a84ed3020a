//! Asking the nodes how they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};

use super::node::Node;
use super::nodes::Nodes;
use super::upload::Upload;
use crate::config;

/// Largest answer to a check that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// What is asked, and what is a good answer.
#[derive(Debug, Clone)]
pub(crate) struct HealthCheck {
    path: Uri,
    body: Option<String>,
    timeout: Duration,
}

impl HealthCheck {
    /// Reads the settings.
    ///
    /// # Errors
    /// The path is none.
    pub(crate) fn new(
        settings: &config::Health,
    ) -> Result<HealthCheck, hyper::http::uri::InvalidUri> {
        Ok(HealthCheck {
            path: settings.path.parse()?,
            body: settings.body.clone(),
            timeout: settings.timeout,
        })
    }

    /// Asks a node, on a connection of its own: that it accepts one is part of
    /// the answer.
    async fn ask(&self, node: &Node) -> bool {
        let answer = tokio::time::timeout(self.timeout, self.exchange(node)).await;
        answer.ok().flatten().unwrap_or(false)
    }

    async fn exchange(&self, node: &Node) -> Option<bool> {
        let mut request = Request::new(Upload::Whole(Bytes::new()));
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, node.host.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let mut connection = node.connect().await.ok()?;
        let answer = connection.send(request, |_| None::<()>).await.ok()?;
        let status = answer.status();
        // Busy is not sick: the node's own limiter counts checks too.
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Some(true);
        }
        let Some(expected) = &self.body else {
            return Some(status.is_success());
        };
        let body = connection
            .drive_while(Limited::new(answer.into_body(), ANSWER_MAX).collect())
            .await;
        let body = body.ok()?.to_bytes();
        Some(status.is_success() && body.trim_ascii() == expected.as_bytes().trim_ascii())
    }
}

/// Checks a node whenever it is due, for ever.
pub(crate) async fn keep_checking(nodes: Arc<Nodes>, node: usize, check: HealthCheck) {
    loop {
        let due = nodes.check_due(node);
        let until_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until_due => {}
            () = nodes.check_soon(node) => continue,
        }
        let began = Instant::now();
        nodes.check_began(node);
        let good = check.ask(nodes.get(node)).await;
        nodes.check_ended(node, began, good);
        nodes.get(node).close_idle(false, Instant::now());
    }
}
