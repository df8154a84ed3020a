//! Whether a server that has been idle for long is still there
//! (`server_check_query`).

use std::time::Duration;

use crate::config::Pgbouncer;
use crate::pool::Lease;
use crate::server::ServerState;

/// How long a server may take to answer `server_check_query`.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// The value of `server_check_query` that stands for the empty query.
const EMPTY_QUERY: &str = "<empty>";

/// Asks the server; none if it was of no more use and is closed.
pub(super) fn check(
    mut lease: Lease,
    settings: &Pgbouncer,
) -> impl Future<Output = Option<Lease>> + use<> {
    let query = match settings.server_check_query.as_str() {
        EMPTY_QUERY => String::new(),
        query => query.to_owned(),
    };
    lease.record.set_state(ServerState::Tested);
    async move {
        let answer = lease.run(&query, CHECK_LIMIT).await;
        if let Err(error) = answer {
            tracing::warn!("server_check_query failed: {error}");
        }
        // An error is an answer too.
        if lease.is_reusable() {
            return Some(lease);
        }
        lease.discard("test query failed");
        None
    }
}
