//! Where a text names prepared statements: PREPARE, EXECUTE, DEALLOCATE.
//!
//! Lexical, as everything here; what PostgreSQL would refuse may be read as
//! something or nothing, and the server has the last word.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

use super::lexer::{Kind, Lexer, Token};

/// What is done with a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// `PREPARE name ...`.
    Prepare,
    /// `EXECUTE name ...`, also behind EXPLAIN or `CREATE TABLE ... AS`.
    Execute,
    /// `DEALLOCATE name`.
    Deallocate,
    /// `DEALLOCATE ALL`.
    DeallocateAll,
}

/// One place of a text that names a prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// What is done with it.
    pub act: Act,
    /// Where the name is.
    pub name: Range<usize>,
    /// What follows the name up to the end of the statement, without the
    /// semicolon and white space or comments in front of it.
    pub rest: Range<usize>,
}

/// Finds the mentions in a text of one or more statements, in their order.
#[derive(Debug)]
pub struct Mentions<'a> {
    text: &'a [u8],
    lexer: Lexer<'a>,
    next: Option<Token>,
}

/// Whether anything is to be found in a text. Of an ordinary statement only
/// the first word is read.
pub fn mentions_statements(text: &[u8]) -> bool {
    Mentions::new(text).next().is_some()
}

/// The name that a token stands for, folded as PostgreSQL folds it; none for
/// what is no name, and for `U&"..."`.
pub fn folded(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    match name {
        [b'"', inside @ .., b'"'] if inside.contains(&b'"') => {
            let mut plain = inside.to_vec();
            let mut quotes = 0;
            // Of two quotes that stand for one, the second goes.
            plain.retain(|&byte| {
                quotes += usize::from(byte == b'"');
                byte != b'"' || quotes % 2 == 1
            });
            Some(Cow::Owned(plain))
        }
        [b'"', inside @ .., b'"'] if !inside.is_empty() => Some(Cow::Borrowed(inside)),
        [b'"', ..] | [b'U' | b'u', b'&', b'"', ..] | [] => None,
        word if word.iter().any(u8::is_ascii_uppercase) => {
            Some(Cow::Owned(word.to_ascii_lowercase()))
        }
        word => Some(Cow::Borrowed(word)),
    }
}

impl<'a> Mentions<'a> {
    /// Whether no statement is in the rest of a text, behind one.
    pub fn is_over(rest: &[u8]) -> bool {
        Lexer::new(rest).all(|token| token.kind == Kind::Semicolon)
    }

    /// Those of this text.
    pub fn new(text: &'a [u8]) -> Mentions<'a> {
        let mut lexer = Lexer::new(text);
        let next = lexer.next();
        Mentions { text, lexer, next }
    }

    fn take(&mut self) -> Option<Token> {
        std::mem::replace(&mut self.next, self.lexer.next())
    }

    fn is(&self, token: Option<Token>, word: &str) -> bool {
        token.is_some_and(|token| {
            token.kind == Kind::Word
                && self.text[token.start..token.end].eq_ignore_ascii_case(word.as_bytes())
        })
    }

    /// Takes the next token if it is this word.
    fn takes(&mut self, word: &str) -> bool {
        let found = self.is(self.next, word);
        if found {
            self.take();
        }
        found
    }

    fn take_name(&mut self) -> Option<Token> {
        let is_name = |token: Token| matches!(token.kind, Kind::Word | Kind::Quoted);
        self.next.filter(|&token| is_name(token))?;
        self.take()
    }

    /// The mention at the front of a statement, up to its name.
    fn front(&mut self) -> Option<(Act, Token)> {
        if self.takes("prepare") {
            let name = self.take_name()?;
            // Two-phase commit.
            let phase = self.is(Some(name), "transaction")
                && self.next.is_some_and(|next| next.kind == Kind::Text);
            return (!phase).then_some((Act::Prepare, name));
        }
        if self.takes("deallocate") {
            return self.deallocate();
        }
        if self.takes("explain") {
            while ["analyze", "analyse", "verbose"]
                .iter()
                .any(|word| self.takes(word))
            {}
            if self.next.is_some_and(|next| next.kind == Kind::Open) {
                self.skip_group();
            }
        }
        if self.takes("create") {
            self.create_table_as()?;
        }
        match self.takes("execute") {
            true => Some((Act::Execute, self.take_name()?)),
            false => None,
        }
    }

    fn deallocate(&mut self) -> Option<(Act, Token)> {
        let mut name = self.take_name()?;
        if self.is(Some(name), "prepare")
            && let Some(behind) = self.take_name()
        {
            name = behind;
        }
        let act = match self.is(Some(name), "all") {
            true => Act::DeallocateAll,
            false => Act::Deallocate,
        };
        Some((act, name))
    }

    /// Goes behind the AS of `CREATE ... TABLE ... AS EXECUTE`.
    fn create_table_as(&mut self) -> Option<()> {
        let kinds = ["local", "global", "temporary", "temp", "unlogged"];
        while kinds.iter().any(|kind| self.takes(kind)) {}
        if !self.takes("table") {
            return None;
        }
        while !self.takes("as") {
            match self.next?.kind {
                Kind::Semicolon => return None,
                Kind::Open => self.skip_group(),
                _ => {
                    self.take();
                }
            }
        }
        Some(())
    }

    /// Skips what is in parentheses.
    fn skip_group(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.take() {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips to the next statement; answers where this one's last token ends.
    fn skip_statement(&mut self, mut end: usize) -> usize {
        let mut depth = 0_usize;
        while let Some(token) = self.take() {
            match token.kind {
                Kind::Semicolon if depth == 0 => break,
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            end = token.end;
        }
        end
    }
}

impl Iterator for Mentions<'_> {
    type Item = Mention;

    fn next(&mut self) -> Option<Mention> {
        loop {
            let start = self.next?.start;
            if let Some((act, name)) = self.front() {
                let end = self.skip_statement(name.end);
                return Some(Mention {
                    act,
                    name: name.start..name.end,
                    rest: name.end..end,
                });
            }
            // Nearly always there is one statement, and it is not lexed.
            memchr(b';', &self.text[start..])?;
            self.skip_statement(start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Act, &str, &str)> {
        Mentions::new(text.as_bytes())
            .map(|m| (m.act, &text[m.name], &text[m.rest]))
            .collect()
    }

    #[track_caller]
    fn one(text: &str, act: Act, name: &str) {
        let all = found(text);
        assert_eq!(all.len(), 1, "{text}");
        assert_eq!((all[0].0, all[0].1), (act, name), "{text}");
    }

    #[test]
    fn statements_about_prepared_ones_are_found() {
        one("prepare p as select 1", Act::Prepare, "p");
        one(
            "PREPARE \"My Name\"(int) AS select $1",
            Act::Prepare,
            "\"My Name\"",
        );
        one("execute p", Act::Execute, "p");
        one("/* x */ ExEcUtE p(1, ';') -- end", Act::Execute, "p");
        one("deallocate p", Act::Deallocate, "p");
        one("deallocate prepare p", Act::Deallocate, "p");
        one("deallocate prepare", Act::Deallocate, "prepare");
        one("deallocate all", Act::DeallocateAll, "all");
        one("deallocate prepare all", Act::DeallocateAll, "all");
        one("deallocate \"all\"", Act::Deallocate, "\"all\"");
        one("explain execute p", Act::Execute, "p");
        one("explain analyze verbose execute p(1)", Act::Execute, "p");
        one("explain (analyze, costs off) execute p", Act::Execute, "p");
        one(
            "create table t as execute p(1) with no data",
            Act::Execute,
            "p",
        );
        one(
            "create temp table if not exists t (a, b) with (fillfactor = 10) as execute p",
            Act::Execute,
            "p",
        );
        one("explain create table t as execute p", Act::Execute, "p");
        one(
            "prepare transaction as select 1",
            Act::Prepare,
            "transaction",
        );
    }

    #[test]
    fn other_statements_mention_none() {
        for text in [
            "",
            ";",
            "select 1",
            "select 'execute p'; select 2",
            "select 1 as execute; select execute from prepare",
            "prepare transaction 'x'",
            "create trigger t after insert on x execute function f()",
            "create table t (execute int)",
            "create table t as select 1",
            "create view v as select 1",
            "do $$ begin execute 'deallocate p'; end $$; commit",
            "execute",
            "execute 'p'",
            "explain",
            "create table t as",
        ] {
            assert_eq!(found(text), [], "{text}");
            assert!(!mentions_statements(text.as_bytes()), "{text}");
        }
        assert!(mentions_statements(b"deallocate all"));
    }

    #[test]
    fn each_statement_of_a_text_is_looked_at() {
        let text = "begin; prepare a (int) as select (1;2) /* ; */ ; ;execute a(1);deallocate a;";
        let expected = [
            (Act::Prepare, "a", " (int) as select (1;2)"),
            (Act::Execute, "a", "(1)"),
            (Act::Deallocate, "a", ""),
        ];
        assert_eq!(found(text), expected);
    }

    #[test]
    fn names_are_folded_as_postgres_folds_them() {
        let name =
            |text: &str| folded(text.as_bytes()).map(|n| String::from_utf8_lossy(&n).into_owned());
        assert_eq!(name("Plain_1").as_deref(), Some("plain_1"));
        assert_eq!(name("\"My Name\"").as_deref(), Some("My Name"));
        assert_eq!(name("\"a\"\"b\"").as_deref(), Some("a\"b"));
        assert_eq!(name("\"\"\"\"").as_deref(), Some("\""));
        assert_eq!(name("\"\""), None);
        assert_eq!(name("U&\"d\\0061t\""), None);
    }

    proptest::proptest! {
        #[test]
        fn mentions_of_any_text_are_inside_it_and_in_order(
            text in "((prepare|execute|deallocate|explain|create table|as|all|;|\\(|\\)|'|\"|p) ?){0,12}",
        ) {
            let mut last = 0;
            for mention in Mentions::new(text.as_bytes()) {
                proptest::prop_assert!(mention.name.start >= last && !mention.name.is_empty());
                proptest::prop_assert!(mention.rest.start == mention.name.end);
                proptest::prop_assert!(mention.rest.end >= mention.rest.start);
                last = mention.rest.end;
            }
            proptest::prop_assert!(last <= text.len());
        }
    }
}
