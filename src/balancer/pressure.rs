//! How busy the pooler is, when it runs in the same process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Clients that wait for a server in the pooler, as was last told. Clones
/// share the number.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<AtomicUsize>);

impl Pressure {
    /// So many wait.
    pub fn set(&self, waiting: usize) {
        self.0.store(waiting, Relaxed);
    }

    /// Whether more than so many wait; with 0, nobody asks.
    pub(crate) fn is_above(&self, bound: usize) -> bool {
        bound > 0 && self.0.load(Relaxed) > bound
    }
}
