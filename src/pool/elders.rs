//! Processes that another one has taken over from, and that still have clients
//! it could not take: their cancel requests come to the younger one.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::auth;

/// The names of abstract Unix sockets.
#[derive(Debug, Default)]
pub struct Elders {
    own: OnceLock<String>,
    known: Mutex<Vec<String>>,
}

impl Elders {
    /// Where this process gets the requests for its clients once another has
    /// taken over. Nobody can guess it.
    pub fn own(&self) -> &str {
        self.own.get_or_init(|| {
            let mut number = [0; 16];
            auth::os_random(&mut number);
            format!("pgweir-{:032x}", u128::from_be_bytes(number))
        })
    }

    /// What the next process has to know.
    pub fn tell(&self) -> Vec<String> {
        let mut all = self.known();
        all.insert(0, self.own().to_owned());
        all
    }

    /// Takes over what the process before this one tells.
    pub fn learn(&self, told: Vec<String>) {
        *self.lock() = told;
    }

    /// All that may still have clients.
    pub fn known(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// This one has ended.
    pub fn remove(&self, name: &str) {
        self.lock().retain(|known| known != name);
    }

    /// The next process asks them itself.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_hears_of_all_before_it() {
        let (first, second) = (Elders::default(), Elders::default());
        second.learn(first.tell());
        assert_eq!(second.known(), [first.own()]);
        assert_eq!(second.tell(), [second.own(), first.own()]);
        second.remove(first.own());
        assert_eq!(second.tell(), [second.own()]);
    }
}
