//! PostgreSQL's lexical rules, as far as finding the end of a statement needs
//! them: strings, dollar quotes, comments, quoted names.
//!
//! Source: the PostgreSQL manual, "Lexical Structure". The server is told
//! `standard_conforming_strings = on`, so that both read a backslash alike.

/// What a piece of text is. White space is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `-- ...` without its line end, or `/* ... */` with those nested in it.
    Comment,
    /// A key word or an unquoted name.
    Word,
    /// A name in double quotes.
    Quoted,
    /// `'...'`, `E'...'` or `$tag$...$tag$`.
    Text,
    /// A run of digits.
    Number,
    /// One character of anything else.
    Symbol(char),
    /// A text, quoted name or comment that the file ends in. To the end.
    Unclosed,
}

/// One token and the bytes `start..end` it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Cuts `sql` into tokens.
pub(super) fn tokens(sql: &str) -> impl Iterator<Item = Token> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let token = next(sql, at)?;
        at = token.end;
        Some(token)
    })
}

/// The first token at or after byte `from`.
fn next(sql: &str, from: usize) -> Option<Token> {
    let rest = &sql[from..];
    let start = from + (rest.len() - rest.trim_start_matches(is_space).len());
    let rest = &sql[start..];
    let first = rest.chars().next()?;
    let (kind, length) = match first {
        '-' if rest.starts_with("--") => (Kind::Comment, line_comment(rest)),
        '/' if rest.starts_with("/*") => closed(Kind::Comment, block_comment(rest), rest),
        '\'' => closed(Kind::Text, string(rest, false), rest),
        '"' => closed(Kind::Quoted, quoted(rest, '"'), rest),
        '$' => match dollar_quote(rest) {
            Some(end) => closed(Kind::Text, end, rest),
            None => (Kind::Symbol('$'), 1),
        },
        _ if is_word_start(first) => {
            let word = word(rest);
            // `E'...'`: the letter belongs to the text. The other prefixes
            // (B, X, N, U&) change nothing about where the text ends.
            if rest[..word].eq_ignore_ascii_case("e") && rest[word..].starts_with('\'') {
                let end = string(&rest[word..], true).map(|n| word + n);
                closed(Kind::Text, end, rest)
            } else {
                (Kind::Word, word)
            }
        }
        _ if first.is_ascii_digit() => (Kind::Number, run(rest, |c| c.is_ascii_digit())),
        _ => (Kind::Symbol(first), first.len_utf8()),
    };
    let end = start + length;
    Some(Token { kind, start, end })
}

fn closed(kind: Kind, length: Option<usize>, rest: &str) -> (Kind, usize) {
    match length {
        Some(length) => (kind, length),
        None => (Kind::Unclosed, rest.len()),
    }
}

/// The white space of PostgreSQL's scanner: ASCII only.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

fn word(rest: &str) -> usize {
    run(rest, is_word)
}

/// Bytes of the leading characters that satisfy `belongs`.
fn run(rest: &str, belongs: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !belongs(c)).unwrap_or(rest.len())
}

fn line_comment(rest: &str) -> usize {
    run(rest, |c| c != '\n' && c != '\r')
}

/// Length of the comment `rest` begins with; comments nest.
fn block_comment(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Length of the text between `quote`s `rest` begins with; a doubled quote is
/// part of it.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut at = 1;
    loop {
        at += rest[at..].find(quote)? + 1;
        if !rest[at..].starts_with(quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// Length of the string `rest` begins with. A string goes on after a line end
/// if the next line begins with a quote, with the same rule for backslashes.
fn string(rest: &str, backslashes: bool) -> Option<usize> {
    let mut at = 0;
    loop {
        at += match backslashes {
            false => quoted(&rest[at..], '\'')?,
            true => escaped(&rest[at..])?,
        };
        match continuation(&rest[at..]) {
            Some(gap) => at += gap,
            None => return Some(at),
        }
    }
}

/// [`quoted`] where a backslash takes the next character out of the game.
fn escaped(rest: &str) -> Option<usize> {
    let bytes = rest.as_bytes();
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Bytes between a string's closing quote and the quote that continues it:
/// white space with at least one line end, line comments allowed.
fn continuation(rest: &str) -> Option<usize> {
    let (mut at, mut line_end) = (0, false);
    loop {
        let here = &rest[at..];
        let c = here.chars().next()?;
        match c {
            '\'' if line_end => return Some(at),
            '\n' | '\r' => (at, line_end) = (at + 1, true),
            _ if is_space(c) => at += 1,
            '-' if here.starts_with("--") => at += line_comment(here),
            _ => return None,
        }
    }
}

/// `None`: not a dollar quote (a parameter, or a lone `$`). `Some(None)`: one
/// that is never closed.
fn dollar_quote(rest: &str) -> Option<Option<usize>> {
    let after = &rest[1..];
    let tag = match after.chars().next()? {
        '$' => 0,
        c if is_word_start(c) => run(after, |c| is_word(c) && c != '$'),
        _ => return None,
    };
    if !after[tag..].starts_with('$') {
        return None;
    }
    let opening = &rest[..tag + 2];
    let body = &rest[opening.len()..];
    Some(
        body.find(opening)
            .map(|end| opening.len() + end + opening.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(sql: &str) -> Vec<(Kind, &str)> {
        tokens(sql)
            .map(|t| (t.kind, &sql[t.start..t.end]))
            .collect()
    }

    fn one(sql: &str, kind: Kind) {
        assert_eq!(cut(sql), [(kind, sql)]);
    }

    #[test]
    fn a_doubled_quote_stays_inside() {
        one("'it''s; here'", Kind::Text);
        one("\"a\"\"b;c\"", Kind::Quoted);
    }

    #[test]
    fn a_backslash_escapes_only_after_e() {
        one(r"E'a\';b'", Kind::Text);
        one(r"e'a\\'", Kind::Text);
        assert_eq!(cut(r"'a\'b")[0], (Kind::Text, r"'a\'"));
        assert_eq!(cut(r"te'a\'b")[1], (Kind::Text, r"'a\'"));
    }

    #[test]
    fn a_string_goes_on_in_the_next_line_under_its_first_rule() {
        one("E'a' \n '\\';'", Kind::Text);
        one("'a' -- why; '\n 'b'", Kind::Text);
        assert_eq!(cut("E'a' '\\'").len(), 2, "not without a line end");
    }

    #[test]
    fn dollar_quotes_close_with_their_own_tag() {
        one("$$a;'b$$", Kind::Text);
        one("$fn$ $$;$$ $f$ $fn$", Kind::Text);
        one("$é$;$é$", Kind::Text);
    }

    #[test]
    fn a_dollar_in_a_name_or_before_a_digit_opens_nothing() {
        assert_eq!(cut("a$b$c"), [(Kind::Word, "a$b$c")]);
        let parts = [(Kind::Symbol('$'), "$"), (Kind::Number, "1")];
        assert_eq!(cut("$1"), parts);
        assert_eq!(cut("$a ")[0], (Kind::Symbol('$'), "$"));
    }

    #[test]
    fn comments_nest_and_end_at_the_line() {
        one("/* a /* b; */ ' */", Kind::Comment);
        assert_eq!(
            cut("-- a;\nb"),
            [(Kind::Comment, "-- a;"), (Kind::Word, "b")]
        );
        assert_eq!(cut("2*/*;*/3")[2], (Kind::Comment, "/*;*/"));
    }

    #[test]
    fn what_the_file_ends_in_is_unclosed() {
        for sql in [
            "'a", "\"a", "$$a", "$x$ $$", "/* /* */", "E'a\\'", "E'\\", "/*/",
        ] {
            one(sql, Kind::Unclosed);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_covered_in_order(sql in "[ \na-z0-9'\"$;eE\\\\*/()é-]{0,60}") {
            let mut at = 0;
            for token in tokens(&sql) {
                prop_assert!(sql[at..token.start].chars().all(is_space));
                prop_assert!(token.end > token.start);
                at = token.end;
            }
            prop_assert!(sql[at..].chars().all(is_space));
        }
    }
}
