//! A client that has a server of its own.

use super::Session;
use crate::pool::Lease;

impl Session {
    /// Its server is its own, from now on to the end.
    pub fn begin_with(&mut self, own: Lease) {
        let state = &mut self.state;
        state.own = true;
        let counters = &state.pool.counters[state.worker.id];
        counters.server_assignments.add(1);
        state.enter(own, false, None);
    }
}
