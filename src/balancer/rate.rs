//! How many requests a client address and a route may make.
//!
//! Each has a bucket that a request takes from and time fills (GCRA: a bucket
//! is the one moment at which it will be full). Clients are told apart by
//! IPv4 address or IPv6 /64, which is what one host is given at least.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::route::{RouteId, Routes};
use crate::config;

/// Client networks whose buckets are kept. Full ones need none.
const NETWORKS_MAX: usize = 65_536;

/// Shortest time between two searches for buckets that are full again.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// From one request to the next.
    interval: Duration,
    /// How far ahead of that a burst may be.
    tolerance: Duration,
}

impl Rate {
    /// So many requests per second, `burst` of them at once; a burst of 0 is
    /// as many as come in a second. None without a limit.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Rate> {
        let interval = Duration::from_secs(1).checked_div(per_second)?;
        let burst = if burst == 0 { per_second } else { burst };
        Some(Rate {
            interval,
            tolerance: interval.saturating_mul(burst - 1),
        })
    }
}

/// When a bucket is full.
#[derive(Debug, Clone, Copy)]
struct Bucket(Instant);

impl Bucket {
    /// Takes one request from it; else how long until there is one.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let ahead = self.0.saturating_duration_since(now);
        match ahead.checked_sub(rate.tolerance) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.0 = self.0.max(now) + rate.interval;
                Ok(())
            }
        }
    }
}

/// Who makes too many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedBy {
    /// The client's address.
    Client,
    /// All clients together, on the route.
    Route,
}

/// A request too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limited {
    /// Whose limit it is.
    pub(crate) by: LimitedBy,
    /// Whole seconds after which there is room for one.
    pub(crate) seconds: u32,
}

/// All limits.
#[derive(Debug)]
pub(crate) struct Limiter {
    clients: Option<(Rate, Mutex<Clients>)>,
    routes: Vec<Option<(Rate, Mutex<Bucket>)>>,
}

impl Limiter {
    /// The limits of these settings; every bucket is full.
    pub(crate) fn new(settings: &config::Balancer, routes: &Routes, now: Instant) -> Limiter {
        let clients = Rate::new(settings.client_rate, settings.client_burst);
        Limiter {
            clients: clients.map(|rate| (rate, Mutex::new(Clients::new(now)))),
            routes: routes
                .iter()
                .map(|route| route.rate.map(|rate| (rate, Mutex::new(Bucket(now)))))
                .collect(),
        }
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// It is one too many.
    pub(crate) fn admit(
        &self,
        client: IpAddr,
        route: RouteId,
        now: impl Fn() -> Instant,
    ) -> Result<(), Limited> {
        if let Some((rate, clients)) = &self.clients {
            let taken = lock(clients).take(network(client), *rate, now());
            taken.map_err(|wait| Limited::new(LimitedBy::Client, wait))?;
        }
        if let Some((rate, bucket)) = &self.routes[route.0] {
            let taken = lock(bucket).take(*rate, now());
            taken.map_err(|wait| Limited::new(LimitedBy::Route, wait))?;
        }
        Ok(())
    }
}

impl Limited {
    fn new(by: LimitedBy, wait: Duration) -> Limited {
        let seconds = wait.as_millis().div_ceil(1000);
        Limited {
            by,
            seconds: u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
        }
    }
}

/// The buckets that are not full, and some that are.
#[derive(Debug)]
struct Clients {
    buckets: HashMap<u64, Bucket>,
    swept_at: Instant,
}

impl Clients {
    fn new(now: Instant) -> Clients {
        Clients {
            buckets: HashMap::new(),
            swept_at: now,
        }
    }

    /// Where there is no room for another bucket, whoever is new is let in:
    /// so many hosts are not held off one by one.
    fn take(&mut self, network: u64, rate: Rate, now: Instant) -> Result<(), Duration> {
        if let Some(bucket) = self.buckets.get_mut(&network) {
            return bucket.take(rate, now);
        }
        if self.buckets.len() >= NETWORKS_MAX
            && now.saturating_duration_since(self.swept_at) >= SWEEP_PAUSE
        {
            self.swept_at = now;
            self.buckets.retain(|_, bucket| bucket.0 > now);
        }
        if self.buckets.len() < NETWORKS_MAX {
            self.buckets.insert(network, Bucket(now + rate.interval));
        }
        Ok(())
    }
}

/// An IPv4 address, or the first half of an IPv6 address. The first half of
/// `::ffff:0:0/96`, where IPv4 addresses would be, is in use by nobody.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_then_one_for_each_interval() {
        let rate = Rate::new(10, 3).expect("a limit");
        let start = Instant::now();
        let mut bucket = Bucket(start);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, start), Err(SECOND / 10));
        assert_eq!(bucket.take(rate, start + SECOND / 10), Ok(()));
        assert!(bucket.take(rate, start + SECOND / 10).is_err());
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start + 10 * SECOND), Ok(()));
        }
    }

    #[test]
    fn without_a_limit_there_is_no_rate() {
        assert_eq!(Rate::new(0, 5), None);
        assert_eq!(Rate::new(7, 0), Rate::new(7, 7));
    }

    #[test]
    fn hosts_of_one_ipv6_network_share_a_bucket_and_others_do_not() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_make_room() {
        let rate = Rate::new(1, 1).expect("a limit");
        let start = Instant::now();
        let mut clients = Clients::new(start);
        for network in 0..NETWORKS_MAX as u64 + 10 {
            assert_eq!(clients.take(network, rate, start), Ok(()));
        }
        assert_eq!(clients.buckets.len(), NETWORKS_MAX);
        assert!(clients.take(0, rate, start).is_err());
        assert_eq!(clients.take(u64::MAX, rate, start + 2 * SECOND), Ok(()));
        assert_eq!(clients.buckets.len(), 1);
    }

    proptest! {
        /// In no stretch of time are there more than its share and a burst.
        #[test]
        fn the_rate_holds(
            pauses in prop::collection::vec(0..400u64, 1..200), per_second in 1..50u32, burst in 1..20u32,
        ) {
            let rate = Rate::new(per_second, burst).expect("a limit");
            let start = Instant::now();
            let (mut now, mut bucket) = (start, Bucket(start));
            let mut passed = 0u32;
            for pause in pauses {
                now += Duration::from_millis(pause);
                passed += u32::from(bucket.take(rate, now).is_ok());
                let share = (now - start).as_secs_f64() * f64::from(per_second);
                prop_assert!(f64::from(passed) <= share + f64::from(burst) + 0.01);
            }
        }
    }
}
