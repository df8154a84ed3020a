//! Cuts a statement into tokens the way PostgreSQL's scanner does
//! (`src/backend/parser/scan.l`), as far as telling constants, names and
//! operators apart needs it. Never fails: what PostgreSQL would refuse becomes
//! some token, and what is unterminated ends with the statement.

use memchr::{memchr, memchr2, memmem};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Unquoted identifier or keyword.
    Word,
    /// `"..."` or `U&"..."`.
    Quoted,
    /// Unsigned number.
    Number,
    /// String constant of any form, dollar-quoted ones included.
    Text,
    /// `$1`.
    Param,
    Operator,
    /// `(` or `[`.
    Open,
    /// `)` or `]`.
    Close,
    Comma,
    Semicolon,
    Dot,
    /// `::`.
    Cast,
    /// `:`, `:=` and bytes that no statement has outside quotes.
    Other,
}

/// A token and where it stands in the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Reads tokens from the front of a statement. White space and comments are
/// skipped.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    /// Up to here, every byte is a `+` or `-` that is an operator of its own.
    signs_end: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(sql: &'a [u8]) -> Self {
        Lexer {
            sql,
            at: 0,
            signs_end: 0,
        }
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        // NUL is no part of any token, so it stands for the end.
        self.sql.get(at).copied().unwrap_or(0)
    }

    /// Where the run of bytes that `belongs` accepts ends.
    #[inline]
    fn run(&self, from: usize, belongs: impl Fn(u8) -> bool) -> usize {
        let rest = self.sql.get(from..).unwrap_or_default();
        from + rest.iter().position(|&b| !belongs(b)).unwrap_or(rest.len())
    }

    fn is_comment(&self, at: usize) -> bool {
        matches!(
            (self.byte(at), self.byte(at + 1)),
            (b'-', b'-') | (b'/', b'*')
        )
    }

    /// The end of the comment that starts at `at`; `/* */` nests.
    fn comment(&self, at: usize) -> usize {
        let rest = &self.sql[at + 2..];
        if self.byte(at) == b'-' {
            return memchr2(b'\n', b'\r', rest).map_or(self.sql.len(), |end| at + 2 + end);
        }
        let (mut from, mut depth) = (at + 2, 1);
        while let Some(found) = memchr2(b'*', b'/', self.sql.get(from..).unwrap_or_default()) {
            let here = from + found;
            match (self.byte(here), self.byte(here + 1)) {
                (b'*', b'/') => depth -= 1,
                (b'/', b'*') => depth += 1,
                _ => {
                    from = here + 1;
                    continue;
                }
            }
            from = here + 2;
            if depth == 0 {
                return from;
            }
        }
        self.sql.len()
    }

    fn word(&self, start: usize) -> (Kind, usize) {
        let end = self.run(start + 1, |b| IN_WORD[b as usize]);
        let prefix = (end - start == 1).then(|| self.sql[start].to_ascii_lowercase());
        match (prefix, self.byte(end)) {
            (Some(b'e'), b'\'') => (Kind::Text, self.escape_string(end)),
            (Some(b'b' | b'n' | b'x'), b'\'') => (Kind::Text, self.quoted(end)),
            (Some(b'u'), b'&') => match self.byte(end + 1) {
                b'\'' => (Kind::Text, self.quoted(end + 1)),
                b'"' => (Kind::Quoted, self.quoted(end + 1)),
                _ => (Kind::Word, end),
            },
            _ => (Kind::Word, end),
        }
    }

    /// The end of a `'...'` or `"..."` whose opening quote is at `at`; the
    /// quote is doubled inside. As `standard_conforming_strings = on` has it,
    /// a backslash means nothing.
    fn quoted(&self, at: usize) -> usize {
        let quote = self.sql[at];
        let mut from = at + 1;
        while let Some(found) = memchr(quote, self.sql.get(from..).unwrap_or_default()) {
            let after = from + found + 1;
            if self.byte(after) != quote {
                return after;
            }
            from = after + 1;
        }
        self.sql.len()
    }

    /// The same for `E'...'`, where a backslash protects the byte after it.
    fn escape_string(&self, at: usize) -> usize {
        let mut from = at + 1;
        while let Some(found) = memchr2(b'\'', b'\\', self.sql.get(from..).unwrap_or_default()) {
            let here = from + found;
            if self.sql[here] == b'\'' && self.byte(here + 1) != b'\'' {
                return here + 1;
            }
            from = here + 2;
        }
        self.sql.len()
    }

    /// `$1`, `$$...$$`, `$tag$...$tag$`, or a dollar that is none of them.
    fn dollar(&self, start: usize) -> (Kind, usize) {
        if self.byte(start + 1).is_ascii_digit() {
            return (Kind::Param, self.run(start + 1, |b| b.is_ascii_digit()));
        }
        let tag = self.run(start + 1, |b| IN_WORD[b as usize] && b != b'$');
        if self.byte(tag) != b'$' {
            return (Kind::Other, start + 1);
        }
        let delimiter = &self.sql[start..=tag];
        let body = tag + 1;
        let end = memmem::find(&self.sql[body..], delimiter)
            .map_or(self.sql.len(), |found| body + found + delimiter.len());
        (Kind::Text, end)
    }

    /// `123`, `1_000`, `1.5`, `.5`, `1e-5`, `0x1F`.
    fn number(&self, start: usize) -> usize {
        let digits = |b: u8| b.is_ascii_digit() || b == b'_';
        if self.sql[start] == b'0' && matches!(self.byte(start + 1) | 0x20, b'x' | b'o' | b'b') {
            let end = self.run(start + 2, |b| b.is_ascii_hexdigit() || b == b'_');
            if end > start + 2 {
                return end;
            }
        }
        let mut end = self.run(start, digits);
        // In `1..10` the dots are an operator of their own.
        if self.byte(end) == b'.' && self.byte(end + 1) != b'.' {
            end = self.run(end + 1, digits);
        }
        if self.byte(end) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
            if self.byte(end + 1 + sign).is_ascii_digit() {
                end = self.run(end + 1 + sign, digits);
            }
        }
        end
    }

    /// An operator ends where a comment begins, and does not end in `+` or `-`
    /// unless it has one of `~!@#^&|`?%`: `a=-1` is `a`, `=`, `-`, `1`.
    fn operator(&mut self, start: usize) -> usize {
        if start < self.signs_end {
            return start + 1;
        }
        let rest = &self.sql[start..];
        let belongs = |&(at, &b): &(usize, &u8)| {
            CLASS[b as usize] == Class::Operator && !(at > 0 && self.is_comment(start + at))
        };
        let length = rest.iter().enumerate().take_while(belongs).count();
        let special = |b: &u8| b"~!@#^&|`?%".contains(b);
        if rest[..length].iter().any(special) {
            return start + length;
        }
        let is_sign = |b: &&u8| matches!(b, b'+' | b'-');
        let signs = rest[1..length].iter().rev().take_while(is_sign).count();
        // The signs given back would each be found the same way again, which
        // for a long run of them takes too long.
        self.signs_end = start + length;
        start + length - signs
    }

    fn colon(&self, start: usize) -> (Kind, usize) {
        match self.byte(start + 1) {
            b':' => (Kind::Cast, start + 2),
            b'=' => (Kind::Other, start + 2),
            _ => (Kind::Other, start + 1),
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        let start = loop {
            let start = self.at;
            match CLASS[*self.sql.get(start)? as usize] {
                Class::Space => self.at += 1,
                Class::Operator if self.is_comment(start) => self.at = self.comment(start),
                _ => break start,
            }
        };
        let (kind, end) = match CLASS[self.sql[start] as usize] {
            Class::Letter => self.word(start),
            Class::Digit => (Kind::Number, self.number(start)),
            Class::Apostrophe => (Kind::Text, self.quoted(start)),
            Class::Quote => (Kind::Quoted, self.quoted(start)),
            Class::Dollar => self.dollar(start),
            Class::Operator => (Kind::Operator, self.operator(start)),
            Class::Dot if self.byte(start + 1).is_ascii_digit() => {
                (Kind::Number, self.number(start))
            }
            Class::Dot => (Kind::Dot, start + 1),
            Class::Colon => self.colon(start),
            Class::Open => (Kind::Open, start + 1),
            Class::Close => (Kind::Close, start + 1),
            Class::Comma => (Kind::Comma, start + 1),
            Class::Semicolon => (Kind::Semicolon, start + 1),
            Class::Space | Class::Other => (Kind::Other, start + 1),
        };
        self.at = end;
        Some(Token { kind, start, end })
    }
}

/// What a byte can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Letter,
    Digit,
    Apostrophe,
    Quote,
    Dollar,
    Operator,
    Dot,
    Colon,
    Open,
    Close,
    Comma,
    Semicolon,
    Other,
}

static CLASS: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Apostrophe,
            b'"' => Class::Quote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'(' | b'[' => Class::Open,
            b')' | b']' => Class::Close,
            b',' => Class::Comma,
            b';' => Class::Semicolon,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => Class::Operator,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
}

/// Whether a byte can go on a word.
static IN_WORD: [bool; 256] = in_word();

const fn in_word() -> [bool; 256] {
    let mut in_word = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        in_word[byte] = matches!(CLASS[byte], Class::Letter | Class::Digit | Class::Dollar);
        byte += 1;
    }
    in_word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(sql: &str) -> Vec<(Kind, &str)> {
        Lexer::new(sql.as_bytes())
            .map(|t| (t.kind, &sql[t.start..t.end]))
            .collect()
    }

    fn one(sql: &str, kind: Kind) {
        assert_eq!(tokens(sql), [(kind, sql)]);
    }

    #[test]
    fn strings_of_every_form_are_one_token() {
        for sql in [
            "'it''s'",
            r"'back\'",
            r"E'it\'s'",
            r"e'a''b\\'",
            "U&'d\\0061'",
            "B'0101'",
            "x'1F'",
            "N'abc'",
            "$$it's$$",
            "$a$x$$y$b$z$a$",
            "''",
        ] {
            one(sql, Kind::Text);
        }
    }

    #[test]
    fn unterminated_tokens_end_with_the_statement() {
        for sql in [
            "'abc",
            "'abc''",
            r"E'abc\",
            r"E'abc\'",
            "$a$ abc $b$",
            "$$",
            "$$ $",
        ] {
            one(sql, Kind::Text);
        }
        for sql in ["\"abc", "\"abc\"\"", "U&\"abc"] {
            one(sql, Kind::Quoted);
        }
        assert_eq!(tokens("a /* b /* c */"), [(Kind::Word, "a")]);
        assert_eq!(tokens("a -- b"), [(Kind::Word, "a")]);
    }

    #[test]
    fn numbers_of_every_form_are_one_token() {
        for sql in [
            "0", "123", "1_000", "1.5", "1.", ".5", "1e5", "1.5E-10", "0x1F", "0o17",
        ] {
            one(sql, Kind::Number);
        }
    }

    #[test]
    fn a_range_is_no_decimal_point() {
        let dot = (Kind::Dot, ".");
        assert_eq!(
            tokens("1..x"),
            [(Kind::Number, "1"), dot, dot, (Kind::Word, "x")]
        );
    }

    #[test]
    fn a_number_ends_where_a_word_begins() {
        assert_eq!(tokens("1FROM"), [(Kind::Number, "1"), (Kind::Word, "FROM")]);
        assert_eq!(tokens("1else"), [(Kind::Number, "1"), (Kind::Word, "else")]);
        assert_eq!(tokens("0x"), [(Kind::Number, "0"), (Kind::Word, "x")]);
    }

    #[test]
    fn identifiers_may_hold_digits_dollars_and_any_high_byte() {
        for sql in ["a1", "_x", "a$b$", "имя", "E1"] {
            one(sql, Kind::Word);
        }
        for sql in ["\"a b\"", "\"a\"\"b\"", "U&\"d\\0061\""] {
            one(sql, Kind::Quoted);
        }
    }

    #[test]
    fn dollars_are_parameters_quotes_or_alone() {
        one("$12", Kind::Param);
        assert_eq!(
            tokens("$a b"),
            [(Kind::Other, "$"), (Kind::Word, "a"), (Kind::Word, "b")]
        );
    }

    #[test]
    fn an_operator_gives_back_a_trailing_sign() {
        assert_eq!(
            tokens("=-1"),
            [
                (Kind::Operator, "="),
                (Kind::Operator, "-"),
                (Kind::Number, "1")
            ]
        );
        assert_eq!(tokens("*+-+x").len(), 5);
        one("->>", Kind::Operator);
        one("@-", Kind::Operator);
        one("<->", Kind::Operator);
    }

    #[test]
    fn a_comment_ends_an_operator() {
        assert_eq!(
            tokens("+/* x */1"),
            [(Kind::Operator, "+"), (Kind::Number, "1")]
        );
        assert_eq!(
            tokens("*--x\n/"),
            [(Kind::Operator, "*"), (Kind::Operator, "/")]
        );
    }

    #[test]
    fn comments_nest_and_are_skipped() {
        assert_eq!(
            tokens("/* a /* ' */ b */x--'\ny"),
            [(Kind::Word, "x"), (Kind::Word, "y")]
        );
        assert_eq!(
            tokens("/**/x/***/y"),
            [(Kind::Word, "x"), (Kind::Word, "y")]
        );
    }

    #[test]
    fn colons_are_casts_assignments_or_alone() {
        assert_eq!(
            tokens("a::b"),
            [(Kind::Word, "a"), (Kind::Cast, "::"), (Kind::Word, "b")]
        );
        assert_eq!(tokens(":=:"), [(Kind::Other, ":="), (Kind::Other, ":")]);
    }

    proptest::proptest! {
        #[test]
        fn tokens_of_any_bytes_are_in_order_and_not_empty(sql: Vec<u8>) {
            let mut last = 0;
            for token in Lexer::new(&sql) {
                proptest::prop_assert!(token.start >= last && token.end > token.start);
                proptest::prop_assert!(token.end <= sql.len());
                last = token.end;
            }
        }

        #[test]
        fn tokens_of_any_quotes_and_comments_are_in_order(sql in "[-'\"$a1E/*&uU\\\\ .;:e+n]{0,40}") {
            let mut last = 0;
            for token in Lexer::new(sql.as_bytes()) {
                proptest::prop_assert!(token.start >= last && token.end > token.start);
                proptest::prop_assert!(token.end <= sql.len());
                last = token.end;
            }
        }
    }
}
