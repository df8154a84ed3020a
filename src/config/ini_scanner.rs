//! The grammar of an ini file: bytes to sections, settings and includes.

use super::error::Problem;

/// One thing a file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'t> {
    Include(&'t str),
    Section(&'t str),
    Setting(&'t str, &'t str),
}

/// Splits a file into its items.
pub(super) struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
    line: usize,
    /// Line of the item found last, or of the error.
    pub(super) item_line: usize,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(bytes: &'t [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            line: 1,
            item_line: 1,
        }
    }

    /// The next item; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Item<'t>>, Problem> {
        loop {
            self.skip(is_space);
            self.item_line = self.line;
            match self.peek() {
                None => return Ok(None),
                Some(b'#' | b';') => _ = self.take(|b| b != b'\n'),
                Some(b'[') => return self.section().map(Some),
                Some(b'%') if self.is_include() => return self.include().map(Some),
                Some(_) => return self.setting().map(Some),
            }
        }
    }

    fn is_include(&self) -> bool {
        let rest = self.bytes[self.at..].strip_prefix(b"%include".as_slice());
        rest.is_some_and(|rest| rest.first().copied().is_some_and(is_blank))
    }

    fn include(&mut self) -> Result<Item<'t>, Problem> {
        self.at += b"%include".len();
        self.skip(is_blank);
        self.rest_of_line().map(Item::Include)
    }

    /// What follows the bracket is read as if on a line of its own.
    fn section(&mut self) -> Result<Item<'t>, Problem> {
        self.at += 1;
        let name = self.take(|b| b != b']' && b != b'\n');
        if self.peek() != Some(b']') {
            return Err(Problem::Syntax("a section without its \"]\"".to_owned()));
        }
        self.at += 1;
        utf8(name).map(Item::Section)
    }

    fn setting(&mut self) -> Result<Item<'t>, Problem> {
        let key = if self.peek() == Some(b'\'') {
            self.at += 1;
            let key = self.take(|b| b != b'\'' && b != b'\n');
            if self.peek() != Some(b'\'') || key.is_empty() {
                return Err(Problem::Syntax(
                    "a name without its closing quote".to_owned(),
                ));
            }
            self.at += 1;
            key
        } else {
            self.take(|b| b.is_ascii_alphanumeric() || b"_.-*".contains(&b))
        };
        self.skip(is_blank);
        if self.peek() != Some(b'=') {
            let hint = match self.peek() {
                Some(b) if b.is_ascii_graphic() && b != b'\'' => {
                    "a \"=\" after the name was expected; names with other characters than \
                     letters, digits and _.-* stand in single quotes"
                }
                _ => "a \"=\" after the name was expected",
            };
            return Err(Problem::Syntax(hint.to_owned()));
        }
        self.at += 1;
        self.skip(is_blank);
        Ok(Item::Setting(utf8(key)?, self.rest_of_line()?))
    }

    fn rest_of_line(&mut self) -> Result<&'t str, Problem> {
        let mut text = self.take(|b| b != b'\n');
        while let [start @ .., last] = text
            && is_space(*last)
        {
            text = start;
        }
        if text.contains(&0) {
            return Err(Problem::Syntax("a zero byte in a value".to_owned()));
        }
        utf8(text)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self, matches: fn(u8) -> bool) {
        self.take(matches);
    }

    fn take(&mut self, matches: fn(u8) -> bool) -> &'t [u8] {
        let start = self.at;
        while let Some(byte) = self.peek()
            && matches(byte)
        {
            self.at += 1;
            self.line += usize::from(byte == b'\n');
        }
        &self.bytes[start..self.at]
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::Encoding)
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// C's `isblank`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything a text says, each with its line.
    fn items(text: &str) -> Result<Vec<(usize, Item<'_>)>, Problem> {
        let mut scanner = Scanner::new(text.as_bytes());
        let mut items = Vec::new();
        while let Some(item) = scanner.next()? {
            items.push((scanner.item_line, item));
        }
        Ok(items)
    }

    #[test]
    fn items_carry_the_line_they_begin_on() {
        let text = "\n; c\n[s]\n\n  a=1\n'b c' = x ; y \r\n%include f g \n";
        assert_eq!(
            items(text),
            Ok(vec![
                (3, Item::Section("s")),
                (5, Item::Setting("a", "1")),
                (6, Item::Setting("b c", "x ; y")),
                (7, Item::Include("f g")),
            ])
        );
    }

    #[test]
    fn a_value_may_be_empty_and_the_last_line_open() {
        assert_eq!(
            items("a =\nb="),
            Ok(vec![
                (1, Item::Setting("a", "")),
                (2, Item::Setting("b", ""))
            ])
        );
    }

    #[test]
    fn a_name_of_other_characters_is_an_error_unless_quoted() {
        for text in [
            "a/b = 1",
            "a b = 1",
            "é = 1",
            "a",
            "'a = 1",
            "'' = 1",
            "%includes = 1",
        ] {
            assert!(matches!(items(text), Err(Problem::Syntax(_))), "{text}");
        }
        assert_eq!(items("'é/b' = 1"), Ok(vec![(1, Item::Setting("é/b", "1"))]));
    }
}
