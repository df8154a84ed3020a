//! The limit of open files.

use rustix::process::{Resource, getrlimit};

/// Logs the limit beside what is to be expected, and warns if it has no room
/// for `max_client_conn` clients.
pub fn log_limit(max_client_conn: i32, expected: u64) {
    let limit = getrlimit(Resource::Nofile);
    let shown = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |it| it.to_string());
    tracing::info!(
        "kernel file descriptor limit: {} (hard: {}); max_client_conn: {max_client_conn}, \
         max expected fd use: {expected}",
        shown(limit.current),
        shown(limit.maximum)
    );
    if let Some(current) = limit
        .current
        .filter(|&it| i64::try_from(it).is_ok_and(|it| it <= max_client_conn.into()))
    {
        tracing::warn!(
            "{current} open files are too few for {max_client_conn} clients; remedy: raise the \
             limit (LimitNOFILE of the unit, ulimit -n), or lower max_client_conn"
        );
    }
}
