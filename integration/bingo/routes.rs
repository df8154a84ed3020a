//! The paths of the application, as one table.

use hyper::Method;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Index,
    Ping,
    Config,
    Operation,
    DbDummy,
    LongDummy,
    Movies,
    Movie,
    Customers,
    Customer,
    Sessions,
    Session,
    AddSession,
    DeleteSession,
}

/// A row of the table. `{id}` at the end of a path stands for a number.
struct Route {
    method: Method,
    path: &'static str,
    endpoint: Endpoint,
}

const fn route(method: Method, path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method,
        path,
        endpoint,
    }
}

const ROUTES: &[Route] = &[
    route(Method::GET, "/", Endpoint::Index),
    route(Method::POST, "/", Endpoint::Index),
    route(Method::GET, "/ping", Endpoint::Ping),
    route(Method::GET, "/config", Endpoint::Config),
    route(Method::POST, "/operation", Endpoint::Operation),
    route(Method::GET, "/db_dummy", Endpoint::DbDummy),
    route(Method::GET, "/long_dummy", Endpoint::LongDummy),
    route(Method::GET, "/api/movie", Endpoint::Movies),
    route(Method::GET, "/api/movie/{id}", Endpoint::Movie),
    route(Method::GET, "/api/customer", Endpoint::Customers),
    route(Method::GET, "/api/customer/{id}", Endpoint::Customer),
    route(Method::GET, "/api/session", Endpoint::Sessions),
    route(Method::GET, "/api/session/{id}", Endpoint::Session),
    route(Method::POST, "/api/session", Endpoint::AddSession),
    route(Method::DELETE, "/api/session/{id}", Endpoint::DeleteSession),
];

/// Why a request leads nowhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Astray {
    NoSuchPath,
    /// The path exists for these methods.
    OtherMethods(String),
}

/// The endpoint of a request, with the text in the place of `{id}`.
pub(crate) fn find<'p>(
    method: &Method,
    path: &'p str,
) -> Result<(Endpoint, Option<&'p str>), Astray> {
    let mut others = Vec::new();
    for route in ROUTES {
        let Some(id) = matches(route.path, path) else {
            continue;
        };
        if route.method == *method {
            return Ok((route.endpoint, id));
        }
        others.push(route.method.as_str());
    }
    if others.is_empty() {
        Err(Astray::NoSuchPath)
    } else {
        Err(Astray::OtherMethods(others.join(", ")))
    }
}

/// Whether a path fits a pattern, and what stands for `{id}`.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<Option<&'p str>> {
    match pattern.strip_suffix("{id}") {
        None => (pattern == path).then_some(None),
        Some(prefix) => {
            let id = path.strip_prefix(prefix)?;
            (!id.is_empty() && !id.contains('/')).then_some(Some(id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_rows_differ() {
        assert_eq!(
            find(&Method::GET, "/api/movie"),
            Ok((Endpoint::Movies, None))
        );
        assert_eq!(
            find(&Method::GET, "/api/movie/7"),
            Ok((Endpoint::Movie, Some("7")))
        );
        assert_eq!(find(&Method::GET, "/api/movie/"), Err(Astray::NoSuchPath));
        assert_eq!(
            find(&Method::GET, "/api/movie/7/8"),
            Err(Astray::NoSuchPath)
        );
    }

    #[test]
    fn the_method_decides() {
        assert_eq!(
            find(&Method::POST, "/api/session"),
            Ok((Endpoint::AddSession, None))
        );
        assert_eq!(
            find(&Method::DELETE, "/api/session/9"),
            Ok((Endpoint::DeleteSession, Some("9")))
        );
        assert_eq!(find(&Method::POST, "/"), Ok((Endpoint::Index, None)));
    }

    #[test]
    fn other_methods_are_named() {
        assert_eq!(
            find(&Method::PUT, "/api/session/9"),
            Err(Astray::OtherMethods("GET, DELETE".into()))
        );
    }
}
