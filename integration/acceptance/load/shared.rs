//! Connections that carry many requests at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Mutex;

use super::site::Fault;

/// Connections to one site: a population of browsers, each of which has one.
const POPULATION: usize = 8;

/// A connection, or what requests are handed to.
pub(super) trait Carrier: Clone {
    fn is_closed(&self) -> bool;
}

/// A few connections, used in turn.
#[derive(Debug)]
pub(super) struct Shared<T> {
    places: [Mutex<Option<T>>; POPULATION],
    next: AtomicUsize,
}

impl<T: Carrier> Shared<T> {
    pub(super) fn new() -> Shared<T> {
        Shared {
            places: std::array::from_fn(|_| Mutex::new(None)),
            next: AtomicUsize::new(0),
        }
    }

    /// The next one; made by `connect` if it is not there or has ended.
    pub(super) async fn turn(
        &self,
        connect: impl AsyncFnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut place = self.places[turn % POPULATION].lock().await;
        if let Some(carrier) = place.as_ref().filter(|it| !it.is_closed()) {
            return Ok(carrier.clone());
        }
        let carrier = connect().await?;
        Ok(place.insert(carrier).clone())
    }
}
