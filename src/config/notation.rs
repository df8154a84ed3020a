//! Other ways to write a value, turned into PgBouncer's own.

use std::borrow::Cow;

use super::kind::Kind;
use super::value::{MAX_SECONDS, ValueError, c_integer, is_c_space};

const UNITS_OF_TIME: &[(&str, f64)] = &[
    ("us", 1e-6),
    ("ms", 1e-3),
    ("min", 60.0),
    ("s", 1.0),
    ("h", 3600.0),
    ("d", 86400.0),
];

const UNITS_OF_SIZE: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// pgweir's own notation, of `pgweir.toml` and the native sections of an ini:
/// units after times and sizes, words for booleans.
///
/// # Errors
/// A number whose unit is none, or that is too large for its kind.
pub(super) fn native(kind: Kind, text: &str) -> Result<Cow<'_, str>, ValueError> {
    match kind {
        Kind::Bool => Ok(match text {
            "true" | "yes" | "on" => "1".into(),
            "false" | "no" | "off" => "0".into(),
            _ => text.into(),
        }),
        Kind::Time => match split_unit(text, UNITS_OF_TIME) {
            Some((number, seconds)) => {
                let number: f64 = number.parse().map_err(|_| ValueError)?;
                // More digits than a microsecond has are noise of the product.
                Ok(format!("{:.6}", number * seconds).into())
            }
            None => Ok(text.into()),
        },
        Kind::Size => match split_unit(text, UNITS_OF_SIZE) {
            Some((number, bytes)) => {
                let number: u64 = number.parse().map_err(|_| ValueError)?;
                Ok(number
                    .checked_mul(bytes)
                    .ok_or(ValueError)?
                    .to_string()
                    .into())
            }
            None => Ok(text.into()),
        },
        _ => Ok(text.into()),
    }
}

/// PgBouncer's notation of numbers in connect strings: what does not begin
/// with digits is 0, what follows them is dropped, and times are whole seconds
/// of which negative ones never pass.
pub(super) fn lenient(kind: Kind, text: &str) -> Cow<'_, str> {
    match kind {
        Kind::Int { .. } => leading_number(text).to_string().into(),
        Kind::Time => match leading_number(text) {
            ..0 => MAX_SECONDS.to_string().into(),
            seconds => seconds.to_string().into(),
        },
        _ => text.into(),
    }
}

/// Whether [`lenient`] hides that the text is no number.
pub(super) fn is_sloppy(kind: Kind, text: &str) -> bool {
    matches!(kind, Kind::Int { .. } | Kind::Time) && {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit())
    }
}

/// C's `atoi`, except that numbers too large stay large.
fn leading_number(text: &str) -> i64 {
    let text = text.trim_start_matches(is_c_space);
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let digits = digits[..end].trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    sign * c_integer(digits).map_or(i64::from(i32::MAX), |n| n.min(i64::from(i32::MAX)))
}

/// The number and the factor of its unit, if it has one.
fn split_unit<'t, F: Copy>(text: &'t str, units: &[(&str, F)]) -> Option<(&'t str, F)> {
    units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?.trim_end();
        // "1s" is a number and a unit; "1ms" is not "1m" and "s".
        number
            .ends_with(|c: char| c.is_ascii_digit() || c == '.')
            .then_some((number, *factor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_carry_units() {
        let seconds = |text| native(Kind::Time, text).map(Cow::into_owned);
        assert_eq!(seconds("250ms").as_deref(), Ok("0.250000"));
        assert_eq!(seconds("1.5s").as_deref(), Ok("1.500000"));
        assert_eq!(seconds("10 min").as_deref(), Ok("600.000000"));
        assert_eq!(seconds("2h").as_deref(), Ok("7200.000000"));
        assert_eq!(seconds("1d").as_deref(), Ok("86400.000000"));
        assert_eq!(seconds("7").as_deref(), Ok("7"));
        assert_eq!(seconds("1.2.3s"), Err(ValueError));
    }

    #[test]
    fn sizes_may_carry_units() {
        let bytes = |text| native(Kind::Size, text).map(Cow::into_owned);
        assert_eq!(bytes("10MiB").as_deref(), Ok("10485760"));
        assert_eq!(bytes("1 kB").as_deref(), Ok("1000"));
        assert_eq!(bytes("99999999999GiB"), Err(ValueError));
    }

    #[test]
    fn numbers_in_connect_strings_are_read_leniently() {
        let number = |text| lenient(Kind::INT, text).into_owned();
        assert_eq!(number("20"), "20");
        assert_eq!(number("20 x"), "20");
        assert_eq!(number("010"), "10");
        assert_eq!(number("-1"), "-1");
        assert_eq!(number("many"), "0");
        assert_eq!(number("99999999999999999999"), "2147483647");
        assert_eq!(lenient(Kind::Time, "1.9"), "1");
        assert_eq!(lenient(Kind::Time, "-1"), MAX_SECONDS.to_string());
        assert!(is_sloppy(Kind::INT, "20x") && !is_sloppy(Kind::INT, "-1"));
    }
}
