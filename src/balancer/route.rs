//! Which route a request is on.
//!
//! A route is what metrics and the access log are labelled with, and what
//! carries a deadline and a replay rule. Paths that differ only in an id are
//! one route; paths no route knows are all the route `other`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};

use super::cache::{Key, Rule};
use super::hedge::Hedge;
use super::rate::Rate;
use crate::config::{self, Replay};

/// The label of every path that no route knows.
pub(crate) const OTHER: &str = "other";

/// A row of [`Routes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteId(pub(crate) usize);

/// One route, ready for matching.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its name in the configuration; the metric label.
    pub(crate) name: String,
    /// Deadline of a request, from its arrival to the end of its answer.
    pub(crate) timeout: Duration,
    /// When a failed request may be sent to another node.
    pub(crate) replay: Replay,
    /// When a second node is asked; none if it never is.
    pub(crate) hedge: Option<Hedge>,
    /// How its answers are kept; none if they are not.
    pub(crate) cache: Option<Rule>,
    /// How many requests it takes; none for any number.
    pub(crate) rate: Option<Rate>,
    /// Protocols that a connection may go on in; most have none.
    pub(crate) upgrade: Vec<HeaderValue>,
    /// Its pattern in the configuration; empty for `other`.
    pub(crate) pattern: String,
    segments: Vec<Segment>,
    methods: Vec<Method>,
}

/// One piece of a path pattern. The order puts what is more specific first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Id,
}

/// All routes, the most specific first, `other` last.
#[derive(Debug)]
pub(crate) struct Routes(Vec<Route>);

/// Why a route of the configuration is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RouteError {
    route: String,
    setting: &'static str,
    problem: String,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteError {
            route,
            setting,
            problem,
        } = self;
        write!(f, "balancer.routes.{route}.{setting}: {problem}")
    }
}

impl std::error::Error for RouteError {}

impl Routes {
    /// Reads the routes of the configuration. `timeout` is for those that do
    /// not say, and for `other`.
    ///
    /// # Errors
    /// A pattern that is no path, an unknown placeholder, a word that is no
    /// method, a route named `other`.
    pub(crate) fn new(
        routes: &BTreeMap<String, config::Route>,
        timeout: Duration,
    ) -> Result<Routes, RouteError> {
        let mut rows = routes
            .iter()
            .map(|(name, route)| Route::new(name, route, timeout))
            .collect::<Result<Vec<_>, _>>()?;
        rows.sort_by(|a, b| a.rank().cmp(&b.rank()));
        rows.push(Route {
            name: OTHER.to_owned(),
            timeout,
            replay: Replay::default(),
            hedge: None,
            cache: None,
            rate: None,
            upgrade: Vec::new(),
            pattern: String::new(),
            segments: Vec::new(),
            methods: Vec::new(),
        });
        Ok(Routes(rows))
    }

    /// The route of a request; `path` is without dot segments and query.
    pub(crate) fn find(&self, method: &Method, path: &str) -> RouteId {
        let other = self.0.len() - 1;
        let found = self.0[..other]
            .iter()
            .position(|route| route.covers(method, path));
        RouteId(found.unwrap_or(other))
    }

    /// The route of requests that were refused before their path was looked
    /// at.
    pub(crate) fn other(&self) -> RouteId {
        RouteId(self.0.len() - 1)
    }

    /// A route by its id.
    pub(crate) fn get(&self, id: RouteId) -> &Route {
        &self.0[id.0]
    }

    /// How the answer to a GET of this target is kept, if it is.
    pub(crate) fn rule(&self, target: &Uri) -> Option<Rule> {
        self.get(self.find(&Method::GET, target.path())).cache
    }

    /// What is kept fresh although nobody asks for it.
    pub(crate) fn warm(&self) -> impl Iterator<Item = (Rule, Key)> {
        self.0.iter().filter_map(|route| {
            let rule = route.cache.filter(Rule::is_warm)?;
            Some((rule, rule.key(&route.path()?)))
        })
    }

    /// All rows, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

impl Route {
    fn new(name: &str, route: &config::Route, timeout: Duration) -> Result<Route, RouteError> {
        let wrong = |setting, problem: String| RouteError {
            route: name.to_owned(),
            setting,
            problem,
        };
        if name == OTHER {
            let problem = format!("the name {OTHER} is for paths that no route knows; rename it");
            return Err(wrong("path", problem));
        }
        let methods = route
            .methods
            .iter()
            .map(|word| Method::from_bytes(word.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| {
                wrong(
                    "methods",
                    "not a list of HTTP methods; name some such as GET and POST".to_owned(),
                )
            })?;
        let timeout = route.timeout.unwrap_or(timeout);
        let cache = Rule::of(route, timeout);
        if cache.is_some() && !methods.is_empty() && !methods.contains(&Method::GET) {
            let setting = match route.cache_control {
                true => "cache_control",
                false => "cache",
            };
            let remedy = format!("add GET to methods or leave {setting} out");
            return Err(wrong(
                setting,
                format!("only answers to GET are kept; {remedy}"),
            ));
        }
        if !route.upgrade.is_empty() && !methods.is_empty() && !methods.contains(&Method::GET) {
            let problem = "only a GET can ask for it; add GET to methods or leave upgrade out";
            return Err(wrong("upgrade", problem.to_owned()));
        }
        if route.hedge && route.replay == Replay::Never {
            let problem = "it sends a request twice, and replay is never; leave one of them out";
            return Err(wrong("hedge", problem.to_owned()));
        }
        Ok(Route {
            name: name.to_owned(),
            timeout,
            replay: route.replay,
            hedge: route.hedge.then(Hedge::new),
            cache,
            rate: Rate::new(route.rate, route.burst),
            upgrade: upgrade(&route.upgrade).map_err(|problem| wrong("upgrade", problem))?,
            pattern: route.path.clone(),
            segments: segments(&route.path).map_err(|problem| wrong("path", problem))?,
            methods,
        })
    }

    /// Its methods; empty for all.
    pub(crate) fn methods(&self) -> String {
        let words: Vec<_> = self.methods.iter().map(Method::as_str).collect();
        words.join(" ")
    }

    /// Literal segments before ids, named methods before all methods.
    fn rank(&self) -> (&[Segment], bool, &str) {
        (&self.segments, self.methods.is_empty(), &self.name)
    }

    /// Its only path; none if it has an id.
    fn path(&self) -> Option<Uri> {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(literal) => Some(format!("/{literal}")),
            Segment::Id => None,
        };
        let path: Option<String> = self.segments.iter().map(literal).collect();
        path?.parse().ok()
    }

    fn covers(&self, method: &Method, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        if !self.methods.is_empty() && !self.methods.contains(method) {
            return false;
        }
        let mut pieces = path.split('/');
        self.segments.iter().all(|segment| match pieces.next() {
            None => false,
            Some(piece) => match segment {
                Segment::Literal(literal) => literal == piece,
                Segment::Id => !piece.is_empty(),
            },
        }) && pieces.next().is_none()
    }
}

/// Protocols by their names. Not those that are HTTP or TLS once more: what is
/// said in them would be requests that nobody judges.
fn upgrade(protocols: &[String]) -> Result<Vec<HeaderValue>, String> {
    let protocol = |text: &String| {
        let name = text.to_ascii_lowercase();
        let (kind, _version) = name.split_once('/').unwrap_or((&name, ""));
        // Its form is that of a header's name, and a version.
        let is_token = name.split('/').count() <= 2
            && name
                .split('/')
                .all(|it| HeaderName::from_bytes(it.as_bytes()).is_ok());
        if !is_token {
            return Err(format!(
                "\"{text}\" is no protocol; name one such as websocket"
            ));
        }
        if matches!(kind, "h2" | "h2c" | "http" | "tls") {
            let problem = "requests in it would reach nodes unseen; leave it out";
            return Err(format!("\"{text}\" is not passed on: {problem}"));
        }
        HeaderValue::from_str(&name).map_err(|error| error.to_string())
    };
    protocols.iter().map(protocol).collect()
}

fn segments(pattern: &str) -> Result<Vec<Segment>, String> {
    let Some(path) = pattern.strip_prefix('/') else {
        return Err(format!("`{pattern}` is not a path; start it with /"));
    };
    let segment = |piece: &str| match piece {
        "{id}" => Ok(Segment::Id),
        piece if piece.contains(['{', '}', '?', '#']) => Err(format!(
            "`{piece}` is neither literal text nor {{id}}; there is no other placeholder"
        )),
        piece => Ok(Segment::Literal(piece.to_owned())),
    };
    path.split('/').map(segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMEOUT: Duration = Duration::from_secs(25);

    fn routes(rows: &[(&str, &str, &[&str])]) -> Result<Routes, RouteError> {
        let rows = rows.iter().map(|(name, path, methods)| {
            let route = config::Route {
                path: (*path).to_owned(),
                methods: methods.iter().map(|m| (*m).to_owned()).collect(),
                ..config::Route::default()
            };
            ((*name).to_owned(), route)
        });
        Routes::new(&rows.collect(), TIMEOUT)
    }

    fn name_of<'a>(routes: &'a Routes, method: Method, path: &str) -> &'a str {
        &routes.get(routes.find(&method, path)).name
    }

    #[test]
    fn paths_that_differ_in_an_id_are_one_route_and_unknown_paths_are_other() {
        let routes = routes(&[
            ("index", "/", &[]),
            ("movie", "/api/movie/{id}", &[]),
            ("movies", "/api/movie", &[]),
        ])
        .expect("good patterns");
        for (path, name) in [
            ("/", "index"),
            ("/api/movie", "movies"),
            ("/api/movie/17", "movie"),
            ("/api/movie/{id}", "movie"),
            ("/api/movie/", OTHER),
            ("/api/movie/17/cast", OTHER),
            ("/api", OTHER),
            ("/wp-login.php", OTHER),
            ("*", OTHER),
            ("", OTHER),
        ] {
            assert_eq!(name_of(&routes, Method::GET, path), name, "{path}");
        }
    }

    #[test]
    fn literal_text_beats_an_id_and_a_named_method_beats_all() {
        let routes = routes(&[
            ("a_any", "/api/movie/{id}", &[]),
            ("b_best", "/api/movie/best", &[]),
            ("c_post", "/api/movie/{id}", &["POST"]),
        ])
        .expect("good patterns");
        assert_eq!(name_of(&routes, Method::GET, "/api/movie/best"), "b_best");
        assert_eq!(name_of(&routes, Method::GET, "/api/movie/1"), "a_any");
        assert_eq!(name_of(&routes, Method::POST, "/api/movie/1"), "c_post");
    }

    #[test]
    fn only_protocols_that_hide_no_requests_are_passed_on() {
        let upgrades = |protocol: &str| upgrade(&[protocol.to_owned()]);
        assert_eq!(upgrades("WebSocket").expect("a protocol"), ["websocket"]);
        assert_eq!(upgrades("x/2").expect("a protocol"), ["x/2"]);
        for protocol in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "", "a b", "a/b/c"] {
            assert!(upgrades(protocol).is_err(), "{protocol}");
        }
    }

    #[test]
    fn a_route_that_cannot_be_is_named_with_its_setting() {
        for (name, path, methods, setting) in [
            ("a", "api", &[][..], "path"),
            ("a", "/api/{name}", &[], "path"),
            ("a", "/api?x", &[], "path"),
            ("a", "/api", &["GE T"], "methods"),
            (OTHER, "/api", &[], "path"),
        ] {
            let error = routes(&[(name, path, methods)])
                .expect_err(path)
                .to_string();
            let start = format!("balancer.routes.{name}.{setting}: ");
            assert!(error.starts_with(&start), "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_id_of_a_pattern_is_on_its_route(id in "[^/]{1,20}") {
            let routes = routes(&[("movie", "/api/movie/{id}", &[])]).expect("a pattern");
            let path = format!("/api/movie/{id}");
            prop_assert_eq!(name_of(&routes, Method::GET, &path), "movie");
        }

        #[test]
        fn any_text_is_on_some_route(path in ".{0,40}") {
            let routes = routes(&[("movie", "/api/movie/{id}", &[])]).expect("a pattern");
            name_of(&routes, Method::GET, &path);
        }
    }
}
