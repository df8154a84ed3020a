//! Whether the program serves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether new clients may be sent here. Clones share the answer.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Default for Readiness {
    fn default() -> Readiness {
        Readiness::new()
    }
}

impl Readiness {
    /// Not ready: "starting".
    pub fn new() -> Readiness {
        Readiness(Arc::new(Mutex::new(Some("starting".to_owned()))))
    }

    /// From now on clients are served.
    pub fn set_ready(&self) {
        *self.reason_slot() = None;
    }

    /// From now on no new clients should come; `reason` is one line for people.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        *self.reason_slot() = Some(reason.into());
    }

    /// Why clients are not served; none if they are.
    pub fn reason(&self) -> Option<String> {
        self.reason_slot().clone()
    }

    fn reason_slot(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_answer() {
        let readiness = Readiness::new();
        let clone = readiness.clone();
        assert_eq!(clone.reason().as_deref(), Some("starting"));
        readiness.set_ready();
        assert_eq!(clone.reason(), None);
        readiness.set_not_ready("shutting down");
        assert_eq!(clone.reason().as_deref(), Some("shutting down"));
    }
}
