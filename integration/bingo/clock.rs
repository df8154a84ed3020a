//! The time the application reports, which a test may shift.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A wall clock that is off by a fixed amount.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// Added to the true time, in nanoseconds.
    pub(crate) skew_nanoseconds: i64,
}

impl Clock {
    /// Now, as this clock sees it.
    pub(crate) fn now(self) -> Timestamp {
        let now = Timestamp::now();
        now.checked_add(SignedDuration::from_nanos(self.skew_nanoseconds))
            .unwrap_or(now)
    }

    /// Now in RFC 3339, UTC, nine digits of fraction.
    pub(crate) fn rfc3339(self) -> String {
        format!("{:.9}", self.now())
    }
}

/// `at` as the log writes it: ISO 8601 with milliseconds and the local offset,
/// for example `2023-12-01T12:00:00.000+0500`.
pub(crate) fn log_format(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone())
        .strftime("%Y-%m-%dT%H:%M:%S%.3f%z")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::Offset;

    #[test]
    fn log_time_has_milliseconds_and_offset() {
        let at: Timestamp = "2023-12-01T07:00:00.0049Z".parse().expect("valid");
        let zone = TimeZone::fixed(Offset::constant(5));
        assert_eq!(log_format(at, &zone), "2023-12-01T12:00:00.004+0500");
    }

    #[test]
    fn skew_moves_the_reported_time() {
        let hour = Clock {
            skew_nanoseconds: 3_600_000_000_000,
        };
        let ahead = hour.now().duration_since(Clock::default().now());
        assert!(ahead > SignedDuration::from_mins(59), "{ahead}");
    }

    #[test]
    fn nanoseconds_are_always_written() {
        let text = Clock::default().rfc3339();
        assert_eq!(text.len(), "2023-12-01T12:00:00.123456789Z".len(), "{text}");
    }
}
