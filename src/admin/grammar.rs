//! What the console understands of SQL: `WORD [WORD]`, `WORD NODE WORD`, and
//! `SET`.
//!
//! One statement a query, with at most one `;` behind it. A word is made of
//! letters, digits and `_`, or stands in double quotes; the value of a SET may
//! also be a string in single quotes. A quote inside is written twice.

/// Longest first word, in bytes (PgBouncer's).
pub const MAX_COMMAND_LEN: usize = 15;

/// Longest second word, or name of a setting, in bytes (PgBouncer's).
pub const MAX_ARGUMENT_LEN: usize = 63;

/// Longest value of a setting, in bytes (PgBouncer's).
pub const MAX_VALUE_LEN: usize = 255;

/// One statement, its words without their quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `WORD [WORD]` or `WORD NODE WORD`.
    Command {
        /// The first word, as written; with `NODE`, that too.
        name: String,
        /// The last; empty if there is none.
        argument: String,
    },
    /// `SET KEY = VALUE` or `SET KEY TO VALUE`.
    Set {
        /// Never empty.
        key: String,
        /// May be empty.
        value: String,
    },
}

/// Why a query is no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarError {
    /// It has the form of one, but a word is too long, or the name of a
    /// setting is empty.
    BadArguments,
    /// It has not the form of one.
    NoStatement,
}

/// Reads a query.
///
/// # Errors
/// See [`GrammarError`].
pub fn parse(query: &str) -> Result<Statement, GrammarError> {
    if let Some((name, argument)) = command(query) {
        let statement = Statement::Command {
            name: within(name, MAX_COMMAND_LEN)?,
            argument: within(argument, MAX_ARGUMENT_LEN)?,
        };
        return Ok(statement);
    }
    let (key, value) = assignment(query).ok_or(GrammarError::NoStatement)?;
    if key.is_empty() {
        return Err(GrammarError::BadArguments);
    }
    Ok(Statement::Set {
        key: within(key, MAX_ARGUMENT_LEN)?,
        value: within(value, MAX_VALUE_LEN)?,
    })
}

fn within(word: String, limit: usize) -> Result<String, GrammarError> {
    if word.len() > limit {
        return Err(GrammarError::BadArguments);
    }
    Ok(word)
}

fn command(query: &str) -> Option<(String, String)> {
    let (name, rest) = word(skip_blanks(query))?;
    if is_end(rest) {
        return Some((name, String::new()));
    }
    let (argument, rest) = word(blanks(rest)?)?;
    if is_end(rest) {
        return Some((name, argument));
    }
    if !argument.eq_ignore_ascii_case("node") {
        return None;
    }
    let (node, rest) = word(blanks(rest)?)?;
    is_end(rest).then(|| (format!("{name} {argument}"), node))
}

fn assignment(query: &str) -> Option<(String, String)> {
    let rest = keyword(skip_blanks(query), "set")?;
    let at = blanks(rest)?;
    let (key, rest) = word(at)?;
    if let Some(value) = operator(skip_blanks(rest)).and_then(value) {
        return Some((key, value));
    }
    // `SET keyto'value'`: the operator needs no blank before it.
    let bare = !at.starts_with('"');
    let key_len = key.len().checked_sub(2).filter(|&len| bare && len > 0)?;
    let value = keyword(at.get(key_len..)?, "to").and_then(value)?;
    Some((key[..key_len].to_owned(), value))
}

fn operator(text: &str) -> Option<&str> {
    text.strip_prefix('=').or_else(|| keyword(text, "to"))
}

fn value(text: &str) -> Option<String> {
    let text = skip_blanks(text);
    let (value, rest) = word(text).or_else(|| quoted(text, '\''))?;
    is_end(rest).then_some(value)
}

/// A word from the front of `text`, and what follows it.
fn word(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let len = text.find(|c| !is_bare(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(len);
    (!word.is_empty()).then(|| (word.to_owned(), rest))
}

fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix(quote)?;
    let mut inside = String::new();
    loop {
        let (before, after) = rest.split_once(quote)?;
        inside.push_str(before);
        match after.strip_prefix(quote) {
            Some(after) => {
                inside.push(quote);
                rest = after;
            }
            None => return Some((inside, after)),
        }
    }
}

/// What follows a keyword, in any case, at the front of `text`.
fn keyword<'t>(text: &'t str, keyword: &str) -> Option<&'t str> {
    let (word, rest) = text.split_at_checked(keyword.len())?;
    word.eq_ignore_ascii_case(keyword).then_some(rest)
}

/// What follows one blank or more.
fn blanks(text: &str) -> Option<&str> {
    let rest = skip_blanks(text);
    (rest.len() < text.len()).then_some(rest)
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r', '\n'])
}

fn is_end(text: &str) -> bool {
    let text = skip_blanks(text);
    skip_blanks(text.strip_prefix(';').unwrap_or(text)).is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(name: &str, argument: &str) -> Result<Statement, GrammarError> {
        Ok(Statement::Command {
            name: name.into(),
            argument: argument.into(),
        })
    }

    fn set(key: &str, value: &str) -> Result<Statement, GrammarError> {
        Ok(Statement::Set {
            key: key.into(),
            value: value.into(),
        })
    }

    #[test]
    fn a_command_is_one_word_or_two() {
        for (query, expected) in [
            ("RELOAD", command("RELOAD", "")),
            ("show pools", command("show", "pools")),
            (" \t\r\nshow\n pools \n;\n ", command("show", "pools")),
            ("pause \"a b\";", command("pause", "a b")),
            ("\"show\" \"POOLS\"", command("show", "POOLS")),
            ("pause \"\"", command("pause", "")),
            ("pause \"a\"\"b\"", command("pause", "a\"b")),
            ("drain node a", command("drain node", "a")),
            ("pause node", command("pause", "node")),
            ("Maint Node \"a b\";", command("Maint Node", "a b")),
            ("set foo", command("set", "foo")),
            ("set verboseto0", command("set", "verboseto0")),
        ] {
            assert_eq!(parse(query), expected, "{query:?}");
        }
    }

    #[test]
    fn a_set_has_a_key_and_a_word_or_string() {
        for (query, expected) in [
            ("set verbose=0", set("verbose", "0")),
            ("SET verbose TO 1;", set("verbose", "1")),
            ("set verbose to0", set("verbose", "0")),
            ("set verboseto'0'", set("verbose", "0")),
            ("set xto to b", set("xto", "b")),
            ("set ato to", set("a", "to")),
            ("set a to to", set("a", "to")),
            ("set to = to", set("to", "to")),
            ("set k = 'it''s'", set("k", "it's")),
            ("set k = ''", set("k", "")),
            ("set \"k k\"=\"v\"\"v\"", set("k k", "v\"v")),
            ("set k = 'a\nb;' ; ", set("k", "a\nb;")),
        ] {
            assert_eq!(parse(query), expected, "{query:?}");
        }
    }

    #[test]
    fn anything_else_is_no_statement() {
        for query in [
            "",
            "  ",
            ";",
            "show pools; show pools",
            "show pools;;",
            "show 'pools'",
            "show\"pools\"",
            "\"show\"pools",
            "show\x0cpools",
            "pause x y",
            "drain node a b",
            "drain nodes a",
            "pause \"x",
            "pause \"x\" \"",
            "set a==b",
            "set a = = b",
            "set a 'b'",
            "set a = 'b'c",
            "set a = 'b",
            "set a=-1",
            "set\"a\"=b",
            "setverbose=1",
            "set to to",
            "set \"ato\" b",
            "é",
            "set aé=b",
            "show é",
            "-- show",
        ]
        .into_iter()
        {
            assert_eq!(parse(query), Err(GrammarError::NoStatement), "{query:?}");
        }
    }

    #[test]
    fn words_have_a_length_they_may_just_have() {
        let query = |command: usize, argument: usize| {
            parse(&format!("{} {}", "c".repeat(command), "a".repeat(argument)))
        };
        assert!(query(MAX_COMMAND_LEN, MAX_ARGUMENT_LEN).is_ok());
        assert_eq!(
            query(MAX_COMMAND_LEN + 1, 1),
            Err(GrammarError::BadArguments)
        );
        assert_eq!(
            query(1, MAX_ARGUMENT_LEN + 1),
            Err(GrammarError::BadArguments)
        );
        let set = |key: usize, value: usize| {
            parse(&format!("set {}='{}'", "k".repeat(key), "v".repeat(value)))
        };
        assert!(set(MAX_ARGUMENT_LEN, MAX_VALUE_LEN).is_ok());
        assert_eq!(
            set(MAX_ARGUMENT_LEN + 1, 1),
            Err(GrammarError::BadArguments)
        );
        assert_eq!(set(1, MAX_VALUE_LEN + 1), Err(GrammarError::BadArguments));
        assert_eq!(parse("set \"\"=a"), Err(GrammarError::BadArguments));
    }

    fn bare() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_]{1,15}"
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(query in any::<String>()) {
            let _ = parse(&query);
        }

        #[test]
        fn text_that_looks_like_statements_is_read_without_panic(
            query in "(set|SET|show|to|TO|=|;|'|\"|a|é| |\n){0,12}",
        ) {
            let _ = parse(&query);
        }

        #[test]
        fn what_is_quoted_is_read_back(name in bare(), argument in "[^\"]{0,10}(\"[^\"]{0,5}){0,3}") {
            let query = format!("{name} \"{}\" ;", argument.replace('"', "\"\""));
            prop_assert_eq!(parse(&query), command(&name, &argument));
        }

        #[test]
        fn any_value_can_be_set(key in bare(), value in any::<String>(), to in any::<bool>()) {
            prop_assume!(value.len() <= MAX_VALUE_LEN);
            let operator = if to { " to " } else { "=" };
            let query = format!("set {key}{operator}'{}'", value.replace('\'', "''"));
            prop_assert_eq!(parse(&query), set(&key, &value));
        }

        #[test]
        fn blanks_and_a_semicolon_change_nothing(
            name in bare(), argument in bare(), blank in "[ \t\r\n]{1,4}", end in "[ \n]{0,2};?[ \n]{0,2}",
        ) {
            let query = format!("{blank}{name}{blank}{argument}{end}");
            prop_assert_eq!(parse(&query), command(&name, &argument));
        }
    }
}
