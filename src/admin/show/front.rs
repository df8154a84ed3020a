//! NODES, ROUTES and CACHE: the balancer, if there is one.

use std::time::Duration;

use super::result::{Columns, Rows, Type, columns};
use crate::admin::console::Console;

/// Columns of NODES.
pub const NODES: Columns = &[
    &columns(Type::Text, ["name", "address", "state"]),
    &columns(
        Type::BigInt,
        [
            "state_seconds",
            "in_flight",
            "idle_connections",
            "good_checks",
            "bad_checks",
        ],
    ),
];

/// Columns of ROUTES.
pub const ROUTES: Columns = &[
    &columns(Type::Text, ["name", "path", "methods", "replay"]),
    &columns(
        Type::BigInt,
        ["timeout_ms", "cache_ms", "requests", "retries"],
    ),
];

/// Columns of CACHE.
pub const CACHE: Columns = &[
    &columns(Type::Text, ["target"]),
    &columns(Type::BigInt, ["bytes", "age_ms"]),
    &columns(Type::Int, ["fetching"]),
];

/// The balancer's nodes.
pub fn nodes(console: &Console, rows: &mut Rows<'_>) {
    let nodes = console.front.front().map(|front| front.nodes());
    for node in nodes.into_iter().flatten() {
        let [good, bad] = node.checks;
        rows.put(&[
            node.name.into(),
            node.address.into(),
            node.state.into(),
            node.since.as_secs().into(),
            node.in_flight.into(),
            node.idle.into(),
            good.into(),
            bad.into(),
        ]);
    }
}

/// The balancer's routes.
pub fn routes(console: &Console, rows: &mut Rows<'_>) {
    let routes = console.front.front().map(|front| front.routes());
    for route in routes.into_iter().flatten() {
        rows.put(&[
            route.name.into(),
            route.path.into(),
            route.methods.into(),
            route.replay.into(),
            millis(route.timeout).into(),
            route.cache.map(millis).into(),
            route.requests.into(),
            route.retries.into(),
        ]);
    }
}

/// The answers the balancer keeps.
pub fn cache(console: &Console, rows: &mut Rows<'_>) {
    let kept = console.front.front().map(|front| front.kept());
    for answer in kept.into_iter().flatten() {
        rows.put(&[
            answer.target.into(),
            answer.bytes.into(),
            millis(answer.age).into(),
            answer.fetching.into(),
        ]);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
