//! What is answered to a request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use prometheus::{Registry, TextEncoder};
use tokio::sync::Semaphore;

use super::{FrontSeat, NodeMode, Readiness};

/// How long a scrape may take, the ones before it included.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);

/// Scrapes at once; more wait for their turn.
const MAX_SCRAPES: usize = 1;

/// The text exposition format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The methods every page has.
const METHODS: &str = "GET, HEAD";

/// Where a node is told to go into a mode: `/nodes/NAME/MODE`.
const NODES: &str = "/nodes/";

/// What a browser says of every request that a page of another site makes.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A page's address.
struct Route {
    path: &'static str,
    about: &'static str,
    page: Page,
}

#[derive(Debug, Clone, Copy)]
enum Page {
    Index,
    Health,
    Ready,
    Metrics,
    Nodes,
}

const ROUTES: [Route; 5] = [
    Route {
        path: "/",
        about: "this list",
        page: Page::Index,
    },
    Route {
        path: "/health",
        about: "200 while the process lives",
        page: Page::Health,
    },
    Route {
        path: "/metrics",
        about: "counters and gauges for Prometheus",
        page: Page::Metrics,
    },
    Route {
        path: "/nodes",
        about: "the balancer's nodes; POST /nodes/NAME/ready, drain or maint",
        page: Page::Nodes,
    },
    Route {
        path: "/ready",
        about: "200 while clients are served, else 503 and the reason",
        page: Page::Ready,
    },
];

/// The pages of the admin port.
#[derive(Debug)]
pub(super) struct Pages {
    registry: Registry,
    readiness: Readiness,
    front: FrontSeat,
    turns: Arc<Semaphore>,
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    pub(super) fn new(registry: Registry, readiness: Readiness, front: FrontSeat) -> Pages {
        Pages {
            registry,
            readiness,
            front,
            turns: Arc::new(Semaphore::new(MAX_SCRAPES)),
        }
    }

    /// Answers a request. The body is for GET; HEAD goes without.
    pub(super) async fn answer(&self, head: &Parts) -> Answer {
        let (method, path) = (&head.method, head.uri.path());
        if let Some(command) = path.strip_prefix(NODES) {
            return self.command(method, command, &head.headers);
        }
        let Some(route) = ROUTES.iter().find(|route| route.path == path) else {
            return text(StatusCode::NOT_FOUND, "not found; / lists what there is\n");
        };
        if method != Method::GET && method != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let methods = HeaderValue::from_static(METHODS);
            answer.headers_mut().insert(ALLOW, methods);
            return answer;
        }
        match route.page {
            Page::Index => text(StatusCode::OK, index()),
            Page::Health => text(StatusCode::OK, "ok\n"),
            Page::Ready => self.ready(),
            Page::Metrics => self.metrics().await,
            Page::Nodes => text(StatusCode::OK, self.nodes()),
        }
    }

    fn ready(&self) -> Answer {
        match self.readiness.reason() {
            None => text(StatusCode::OK, "ready\n"),
            Some(reason) => {
                let line = reason.replace(char::is_control, " ");
                text(StatusCode::SERVICE_UNAVAILABLE, line + "\n")
            }
        }
    }

    /// Name, state and address of each node, a line for each.
    fn nodes(&self) -> String {
        let nodes = self.front.front().map(|front| front.nodes());
        let line =
            |node: super::NodeRow| format!("{} {} {}\n", node.name, node.state, node.address);
        nodes.into_iter().flatten().map(line).collect()
    }

    /// `NAME/MODE`: has a node go into a mode.
    fn command(&self, method: &Method, command: &str, headers: &HeaderMap) -> Answer {
        let mode = |word: &str| NodeMode::ALL.into_iter().find(|it| it.word() == word);
        let named = command.split_once('/');
        let Some((node, mode)) = named.and_then(|(node, word)| Some((node, mode(word)?))) else {
            return text(StatusCode::NOT_FOUND, "not found; / lists what there is\n");
        };
        if method != Method::POST {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        // Any page a browser on this machine shows could ask for it.
        if headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE) {
            return text(StatusCode::FORBIDDEN, "not for pages in a browser\n");
        }
        let Some(front) = self.front.front() else {
            return text(StatusCode::NOT_FOUND, "there is no balancer\n");
        };
        tracing::info!(
            node,
            mode = mode.word(),
            "the admin port was asked for a node's mode"
        );
        match front.set_mode(node, mode) {
            Ok(()) => text(StatusCode::OK, format!("{node} {}\n", mode.word())),
            Err(why) => text(StatusCode::CONFLICT, why + "\n"),
        }
    }

    async fn metrics(&self) -> Answer {
        match tokio::time::timeout(SCRAPE_LIMIT, self.scrape()).await {
            Ok(Some(page)) => answer(StatusCode::OK, METRICS_TYPE, page),
            Ok(None) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics could not be written; the log says why\n",
            ),
            Err(_) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the metrics took too long\n",
            ),
        }
    }

    /// Writes the page on a thread of its own, so that a long one holds up
    /// nobody else on this runtime.
    async fn scrape(&self) -> Option<String> {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.expect("the turns are never closed");
        let registry = self.registry.clone();
        let writing = tokio::task::spawn_blocking(move || {
            // Kept to the end, also when nobody waits for it any more.
            let _turn = turn;
            TextEncoder::new().encode_to_string(&registry.gather())
        });
        match writing.await {
            Ok(Ok(page)) => Some(page),
            Ok(Err(error)) => {
                tracing::error!("cannot write the metrics: {error}");
                None
            }
            Err(error) => {
                tracing::error!("cannot gather the metrics: {error}");
                None
            }
        }
    }
}

/// What there is, one line for each page.
pub(super) fn index() -> String {
    let line = |route: &Route| format!("{:<10}{}\n", route.path, route.about);
    ROUTES.iter().map(line).collect()
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, TEXT_TYPE, body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    // Labels hold what clients call themselves: no browser should guess that
    // it is a document.
    const HEADERS: [(HeaderName, &str); 2] = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prometheus::IntCounter;
    use prometheus::core::{Collector, Desc};
    use prometheus::proto::MetricFamily;

    use super::*;

    fn head(method: Method, path: &str) -> Parts {
        let mut request = hyper::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.into_parts().0
    }

    async fn got(pages: &Pages, method: Method, path: &str) -> (u16, String) {
        let answer = pages.answer(&head(method, path)).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("no I/O");
        let body = String::from_utf8(body.to_bytes().into()).expect("text");
        (status, body)
    }

    async fn get(pages: &Pages, path: &str) -> (u16, String) {
        got(pages, Method::GET, path).await
    }

    fn pages() -> Pages {
        Pages::new(Registry::new(), Readiness::new(), FrontSeat::default())
    }

    #[tokio::test]
    async fn every_page_is_listed_and_every_listed_page_answers() {
        let pages = pages();
        pages.readiness.set_ready();
        let (status, index) = get(&pages, "/").await;
        assert_eq!((status, index.lines().count()), (200, ROUTES.len()));
        for line in index.lines() {
            let (path, _) = line.split_once(' ').expect("a path and what it is");
            assert_eq!(get(&pages, path).await.0, 200, "{path}");
        }
    }

    #[tokio::test]
    async fn a_process_is_healthy_before_it_is_ready() {
        let pages = pages();
        assert_eq!(get(&pages, "/health").await, (200, "ok\n".to_owned()));
        assert_eq!(get(&pages, "/ready").await, (503, "starting\n".to_owned()));
        pages.readiness.set_ready();
        assert_eq!(get(&pages, "/ready").await, (200, "ready\n".to_owned()));
        pages.readiness.set_not_ready("one\nline");
        assert_eq!(get(&pages, "/ready").await, (503, "one line\n".to_owned()));
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        for path in [
            "/nothing",
            "/metrics/",
            "//metrics",
            "/Health",
            "*",
            "/nodes/a",
            "/nodes/a/up",
        ] {
            assert_eq!(get(&pages(), path).await.0, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn other_methods_are_told_which_are_allowed() {
        let pages = pages();
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = pages.answer(&head(method, "/metrics")).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        }
    }

    #[derive(Debug)]
    struct OneNode(std::sync::Mutex<NodeMode>);

    impl super::super::Front for OneNode {
        fn nodes(&self) -> Vec<super::super::NodeRow> {
            vec![super::super::NodeRow {
                name: "a".to_owned(),
                address: "h:1".to_owned(),
                state: self.0.lock().expect("no panic").word(),
                since: Duration::ZERO,
                in_flight: 0,
                idle: 0,
                checks: [0, 0],
            }]
        }

        fn routes(&self) -> Vec<super::super::RouteRow> {
            Vec::new()
        }

        fn kept(&self) -> Vec<super::super::KeptRow> {
            Vec::new()
        }

        fn hand_over(
            &self,
        ) -> std::io::Result<Vec<(crate::handover::front::Row, Option<std::os::fd::OwnedFd>)>>
        {
            Ok(Vec::new())
        }

        fn set_mode(&self, node: &str, mode: NodeMode) -> Result<(), String> {
            if node != "a" {
                return Err(format!("no such node: {node}"));
            }
            *self.0.lock().expect("no panic") = mode;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_node_is_told_by_post_alone_and_not_by_a_browsers_page() {
        let pages = pages();
        let drain = "/nodes/a/drain";
        let post = |path: &'static str| got(&pages, Method::POST, path);
        assert_eq!(post(drain).await.0, 404, "there is no balancer");
        let node = OneNode(NodeMode::Ready.into());
        pages.front.take(Arc::new(node));
        assert_eq!(get(&pages, drain).await.0, 405);
        let mut from_page = head(Method::POST, drain);
        let origin = HeaderValue::from_static("http://elsewhere");
        from_page.headers.insert(ORIGIN, origin);
        assert_eq!(pages.answer(&from_page).await.status(), 403);
        assert_eq!(get(&pages, "/nodes").await.1, "a ready h:1\n");
        assert_eq!(post(drain).await, (200, "a drain\n".to_owned()));
        assert_eq!(get(&pages, "/nodes").await.1, "a drain h:1\n");
        let (status, why) = post("/nodes/b/ready").await;
        assert_eq!((status, why.as_str()), (409, "no such node: b\n"));
    }

    #[tokio::test]
    async fn the_metrics_are_what_the_registry_holds() {
        let pages = pages();
        let counter = IntCounter::new("served_total", "Served.").expect("valid");
        counter.inc_by(3);
        pages.registry.register(Box::new(counter)).expect("once");
        let answer = pages.answer(&head(Method::GET, "/metrics")).await;
        assert_eq!(answer.headers()[CONTENT_TYPE], METRICS_TYPE);
        let (_, page) = get(&pages, "/metrics").await;
        assert!(page.ends_with("# TYPE served_total counter\nserved_total 3\n"));
    }

    struct Broken(Desc);

    impl Collector for Broken {
        fn desc(&self) -> Vec<&Desc> {
            vec![&self.0]
        }

        fn collect(&self) -> Vec<MetricFamily> {
            panic!("a defect in a collector")
        }
    }

    #[tokio::test]
    async fn a_broken_collector_is_an_error_each_time_and_nothing_worse() {
        let pages = pages();
        let labels = (Vec::new(), Default::default());
        let desc = Desc::new("broken".to_owned(), "Help.".to_owned(), labels.0, labels.1);
        let broken = Broken(desc.expect("valid"));
        pages.registry.register(Box::new(broken)).expect("once");
        assert_eq!(get(&pages, "/metrics").await.0, 500);
        assert_eq!(get(&pages, "/metrics").await.0, 500);
        assert_eq!(get(&pages, "/health").await.0, 200);
    }
}
