//! Durations as Go writes them: `1h2m`, `3.5s`, `250ms`, `0`.

use std::time::Duration;

/// Unit names and their length in seconds, longest name first so that `ms` is
/// not read as `m`.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// The longest duration accepted, ten years: keeps sums with clocks in range.
const MAX_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

/// Reads a duration without a sign.
///
/// # Errors
/// Says what is wrong with `text`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 20s, 250ms or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let (unit, length) = UNITS
            .iter()
            .find(|(unit, _)| rest.starts_with(unit))
            .ok_or_else(bad)?;
        rest = &rest[unit.len()..];
        seconds += number * length;
    }
    if text.is_empty() || seconds > MAX_SECONDS {
        return Err(bad());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads a duration that may begin with a sign, in nanoseconds.
///
/// # Errors
/// Says what is wrong with `text`.
pub(crate) fn parse_signed(text: &str) -> Result<i64, String> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let nanoseconds = parse(rest)?.as_nanos();
    Ok(sign * i64::try_from(nanoseconds).map_err(|_| format!("{text:?} is too long"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        assert_eq!(parse("1h2m3.5s"), Ok(Duration::from_millis(3_723_500)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "20", "s", "5x", "-5s", "1.2.3s", "20s ", "99999999h"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9.nuµmsh]{0,24}") {
            let _ = (parse(&text), parse_signed(&text));
        }
    }

    #[test]
    fn a_sign_is_kept() {
        assert_eq!(parse_signed("-1.5s"), Ok(-1_500_000_000));
        assert_eq!(parse_signed("+2ms"), Ok(2_000_000));
        assert!(parse_signed("--2ms").is_err());
    }
}
