//! The limit on requests per second: a small quota, refilled often, for which
//! requests queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

/// How often the quota is refilled.
pub(crate) const REFILL: Duration = Duration::from_millis(50);

/// Refills in a second.
const REFILLS_PER_SECOND: u64 = 20;

/// How long a request waits for quota before it is refused.
const WAIT: Duration = Duration::from_secs(1);

/// How many requests may wait at once; more are refused without waiting.
const MAX_WAITING: usize = 10_000;

/// The limiter of one process.
pub(crate) struct Limiter {
    /// None lets everything through.
    quota: Option<Semaphore>,
    wait: Duration,
    waiting: AtomicUsize,
}

/// The request waited too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Limiter {
    /// A limiter of `rps` requests per second, 0 for none.
    pub(crate) fn new(rps: u32) -> Limiter {
        let quota = (rps > 0).then(|| Semaphore::new(0));
        Limiter {
            quota,
            wait: WAIT,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for quota, first come first served.
    ///
    /// # Errors
    /// None came within a second, or too many wait already.
    pub(crate) async fn admit(&self) -> Result<(), TooMany> {
        let Some(quota) = &self.quota else {
            return Ok(());
        };
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(TooMany);
        }
        let permit = tokio::time::timeout(self.wait, quota.acquire()).await;
        drop(place);
        permit
            .map_err(|_| TooMany)?
            .expect("the semaphore is never closed")
            .forget();
        Ok(())
    }

    /// Puts `due` into the quota; what was left over is lost.
    pub(crate) fn refill(&self, due: usize) {
        if let Some(quota) = &self.quota {
            quota.add_permits(due.saturating_sub(quota.available_permits()));
        }
    }
}

/// A place in the queue, given up on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much each refill brings, such that a second brings exactly the rate.
pub(crate) struct Refills {
    rps: u64,
    done: u64,
}

impl Refills {
    pub(crate) fn new(rps: u32) -> Refills {
        Refills {
            rps: u64::from(rps),
            done: 0,
        }
    }

    /// The next refill.
    pub(crate) fn next(&mut self) -> usize {
        let sum = |refills: u64| refills * self.rps / REFILLS_PER_SECOND;
        let due = sum(self.done + 1) - sum(self.done);
        self.done = (self.done + 1) % REFILLS_PER_SECOND;
        usize::try_from(due).expect("no more than the rate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_per_second_is_five_each_time() {
        let mut refills = Refills::new(100);
        assert!((0..40).all(|_| refills.next() == 5));
    }

    #[test]
    fn a_second_of_refills_is_the_rate() {
        for rps in [1, 19, 90, 117] {
            let mut refills = Refills::new(rps);
            let sum: usize = (0..20).map(|_| refills.next()).sum();
            assert_eq!(sum, rps as usize);
        }
    }

    fn limiter(rps: u32, wait: Duration) -> Limiter {
        Limiter {
            wait,
            ..Limiter::new(rps)
        }
    }

    #[tokio::test]
    async fn quota_left_over_is_lost() {
        let limiter = limiter(100, Duration::from_millis(1));
        limiter.refill(5);
        limiter.refill(5);
        for _ in 0..5 {
            assert_eq!(limiter.admit().await, Ok(()));
        }
        assert_eq!(limiter.admit().await, Err(TooMany));
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_refill() {
        let limiter = limiter(100, Duration::from_secs(60));
        let refill = async {
            while limiter.waiting.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            limiter.refill(5);
        };
        let (admitted, ()) = tokio::join!(limiter.admit(), refill);
        assert_eq!(admitted, Ok(()));
        assert_eq!(limiter.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let limiter = limiter(1, Duration::from_secs(60));
        limiter.waiting.store(MAX_WAITING, Ordering::Relaxed);
        let refused = tokio::time::timeout(Duration::from_secs(30), limiter.admit()).await;
        assert_eq!(refused, Ok(Err(TooMany)));
        assert_eq!(limiter.waiting.load(Ordering::Relaxed), MAX_WAITING);
    }

    #[tokio::test]
    async fn no_rate_is_no_limit() {
        assert_eq!(Limiter::new(0).admit().await, Ok(()));
    }
}
