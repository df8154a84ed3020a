//! `key=value key='va''lue'`: how the ini writes an entry of `[databases]`,
//! `[users]` and `[peers]`.

use super::value::is_c_space;

/// Splits a connect string into its pairs, in order.
///
/// Pairs stand between blanks, which may also surround the `=`. An unquoted
/// value ends at a blank; in single quotes `''` is one quote. A tab belongs to
/// the word it stands in, as in PgBouncer; but what follows a closing quote
/// without a blank is an error here, where PgBouncer drops a character.
///
/// # Errors
/// What was expected, for a key without `=`, an empty value, an open quote.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = skip_blanks(text);
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let after = skip_blanks(after)
            .strip_prefix('=')
            .ok_or("a key without \"=\"")?;
        if key.is_empty() {
            return Err("an \"=\" without a key");
        }
        let (value, after) = value(skip_blanks(after))?;
        if value.is_empty() {
            return Err("a key without a value");
        }
        pairs.push((key.to_owned(), value));
        rest = skip_blanks(after);
    }
    Ok(pairs)
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(' ')
}

fn value(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let (value, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('\'').ok_or("a quote that is not closed")?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if after.starts_with(|c| !is_c_space(c)) => {
                return Err("a quote in the middle of a value");
            }
            None => return Ok((value, after.get(1..).unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn blanks_may_surround_everything() {
        assert_eq!(
            pairs("  a = 1   b=2 "),
            Ok(vec![pair("a", "1"), pair("b", "2")])
        );
        assert_eq!(pairs(""), Ok(vec![]));
    }

    #[test]
    fn a_doubled_quote_is_one() {
        assert_eq!(
            pairs("a='it''s' b='x y'"),
            Ok(vec![pair("a", "it's"), pair("b", "x y")])
        );
    }

    #[test]
    fn an_unquoted_value_may_hold_quotes_and_equal_signs() {
        assert_eq!(pairs("a=b=c'd"), Ok(vec![pair("a", "b=c'd")]));
    }

    #[test]
    fn a_tab_is_part_of_its_word() {
        assert_eq!(pairs("a=1\tb=2"), Ok(vec![pair("a", "1\tb=2")]));
        assert_eq!(
            pairs("a='1'\tb=2"),
            Ok(vec![pair("a", "1"), pair("b", "2")])
        );
    }

    #[test]
    fn what_is_no_pair_is_an_error() {
        for text in ["a", "a b=1", "=1", "a=", "a=''", "a='1", "a='1'b=2"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = pairs(&text);
        }

        #[test]
        fn quoted_values_come_back(values in proptest::collection::vec("\\PC{1,10}", 0..5)) {
            let quoted = |value: &String| format!("k='{}'", value.replace('\'', "''"));
            let text: Vec<String> = values.iter().map(quoted).collect();
            let read = pairs(&text.join(" ")).expect("good");
            let read: Vec<String> = read.into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(read, values);
        }
    }
}
