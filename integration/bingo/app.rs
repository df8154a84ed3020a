//! One running application: what its requests share.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::clock::Clock;
use crate::db::Cluster;
use crate::faults::Faults;
use crate::ledger::Ledger;
use crate::limiter::Limiter;
use crate::log::Log;

/// The state behind every request.
pub(crate) struct App {
    /// The answer of `/config`.
    pub(crate) config: String,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limiter: Limiter,
    pub(crate) faults: Arc<Faults>,
    pub(crate) log: Arc<Log>,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    pub(crate) hostname: String,
    /// How long a request may take.
    pub(crate) budget: Duration,
    /// How long `/long_dummy` takes.
    pub(crate) long_dummy: Duration,
    /// Nothing is ever answered.
    pub(crate) hang: bool,
}

impl App {
    /// Who answers, when, and which request: for the checks of caching,
    /// balancing and clocks.
    pub(crate) fn signature(&self, request: u64) -> Vec<u8> {
        let signature = json!({
            "hostname": self.hostname,
            "pid": std::process::id(),
            "time": self.clock.rfc3339(),
            "request_no": request,
        });
        signature.to_string().into_bytes()
    }
}
