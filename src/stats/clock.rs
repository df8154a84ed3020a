//! Time as the data path counts it: whole microseconds since the clock began.

use std::ops::Add;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment, in microseconds since the [`Clock`] began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// The moment the clock began.
    pub const ZERO: Micros = Micros(0);

    /// Microseconds since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Micros) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether more than `limit` has passed since `earlier`. A zero limit is
    /// "off", as in PgBouncer's settings.
    pub fn exceeds(self, earlier: Micros, limit: Duration) -> bool {
        !limit.is_zero() && u128::from(self.since(earlier)) > limit.as_micros()
    }
}

impl Add<Duration> for Micros {
    type Output = Micros;

    fn add(self, span: Duration) -> Micros {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Micros(self.0.saturating_add(span))
    }
}

/// A monotonic clock and the wall-clock time it began at.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Microseconds of the system's monotonic clock.
    begun: u64,
    wall: SystemTime,
}

impl Clock {
    /// Begins now.
    pub fn begin() -> Clock {
        Clock {
            begun: monotonic(),
            wall: SystemTime::now(),
        }
    }

    /// The present moment.
    pub fn now(&self) -> Micros {
        Micros(monotonic().wrapping_sub(self.begun))
    }

    /// The wall-clock time of a moment, for people. Steps of the wall clock
    /// after the beginning are not seen.
    pub fn wall(&self, at: Micros) -> SystemTime {
        self.wall + Duration::from_micros(at.0)
    }
}

/// `Instant` would keep the time in nanoseconds of seconds and check every
/// difference; the data path asks several times for each transaction.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_exceeded_strictly_and_zero_is_off() {
        let second = Duration::from_secs(1);
        assert!(!Micros(1_000_000).exceeds(Micros::ZERO, second));
        assert!(Micros(1_000_001).exceeds(Micros::ZERO, second));
        assert!(!Micros(u64::MAX).exceeds(Micros::ZERO, Duration::ZERO));
        assert!(!Micros(1).exceeds(Micros(5_000_000), second));
    }
}
