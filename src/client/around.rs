//! What a client's flow gets from its worker and pool.

use std::sync::Arc;

use super::flow::{Event, Outcome, Seen, Surroundings};
use super::worker::Worker;
use crate::config::PoolMode;
use crate::gateway::DatabaseId;
use crate::pool::Pool;
use crate::server::answers::Meter;
use crate::server::statements::Dictionary;
use crate::server::{ParameterSets, Parameters};
use crate::stats::Micros;

/// Lent to the flow for one chunk.
pub struct Around<'a> {
    /// The worker.
    pub worker: &'a Worker,
    /// The pool.
    pub pool: &'a Pool,
    /// The server is the client's own.
    pub own: bool,
    /// The number of the database in the query statistics.
    pub database: Option<DatabaseId>,
    /// The moment the chunk came; zero where it was not worth a clock read.
    pub now: Micros,
    /// The linked server's tracked parameters.
    pub server: Option<&'a mut Arc<Parameters>>,
    /// The client's.
    pub client: &'a mut Arc<Parameters>,
}

impl Surroundings for Around<'_> {
    fn observe(&mut self, text: &[u8]) -> Seen {
        self.worker.observe(self.database, text)
    }

    fn dictionary(&self) -> &Dictionary {
        &self.worker.bouncer.dictionary
    }

    fn now(&self) -> Micros {
        self.now
    }

    fn statement_limit(&self) -> usize {
        match self.own {
            true => 0,
            false => self.pool.statement_limit(),
        }
    }

    fn refuses_blocks(&self) -> bool {
        !self.own && self.pool.mode() == PoolMode::Statement
    }

    fn keeps_server(&self) -> bool {
        self.own || self.pool.mode() == PoolMode::Session
    }

    fn finished(&mut self, meter: Meter, outcome: Outcome) {
        if self.now == Micros::ZERO {
            self.now = self.worker.now();
        }
        self.worker.record(meter, self.now, outcome);
    }

    fn parameter(&mut self, name: &str, value: &str) {
        let Some(index) = self.worker.bouncer.tracked.index(name) else {
            return;
        };
        let sets = &self.worker.bouncer.parameter_sets;
        note(self.client, index, value, sets);
        if let Some(server) = self.server.as_deref_mut() {
            note(server, index, value, sets);
        }
    }

    fn count(&mut self, event: Event) {
        let counters = &self.pool.counters[self.worker.id];
        match event {
            Event::ClientParse => counters.client_parses.add(1),
            Event::ServerParse => counters.server_parses.add(1),
            Event::Bind => counters.binds.add(1),
        }
    }
}

/// Notes a value unless it is known already.
fn note(parameters: &mut Arc<Parameters>, index: usize, value: &str, sets: &ParameterSets) {
    if parameters.value(index) != Some(value) {
        let mut changed = Parameters::clone(parameters);
        changed.set(index, value);
        *parameters = sets.share(changed);
    }
}
