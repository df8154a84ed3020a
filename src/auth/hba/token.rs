//! The words of a line.

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Bare: it may be a keyword.
    Word(&'a [u8]),
    /// In double quotes, which are taken off: always a name.
    Quoted(Vec<u8>),
    /// A comma.
    Comma,
    /// The end of the line, or a comment.
    End,
    /// A quote that is not closed.
    Broken,
}

/// A line, read word by word.
#[derive(Debug)]
pub(super) struct Line<'a> {
    rest: &'a [u8],
    /// The word that is to be taken next.
    pub(super) token: Token<'a>,
}

impl<'a> Line<'a> {
    pub(super) fn new(text: &'a [u8]) -> Line<'a> {
        let mut line = Line {
            rest: text,
            token: Token::End,
        };
        line.advance();
        line
    }

    /// Goes on to the next word. Behind the end there are none.
    pub(super) fn advance(&mut self) {
        let start = self.rest.iter().position(|byte| !is_space(*byte));
        self.rest = start.map_or(&[], |start| &self.rest[start..]);
        self.token = match self.rest.first() {
            None | Some(b'#') => {
                self.rest = &[];
                Token::End
            }
            Some(b',') => {
                self.rest = &self.rest[1..];
                Token::Comma
            }
            Some(b'"') => self.quoted(),
            Some(_) => self.word(),
        };
    }

    /// Takes a keyword, if it stands here.
    pub(super) fn eat(&mut self, keyword: &str) -> bool {
        let found = self.token == Token::Word(keyword.as_bytes());
        if found {
            self.advance();
        }
        found
    }

    /// Takes a comma, if it stands here.
    pub(super) fn eat_comma(&mut self) -> bool {
        let found = self.token == Token::Comma;
        if found {
            self.advance();
        }
        found
    }

    /// Takes a bare word.
    pub(super) fn take_word(&mut self) -> Option<&'a [u8]> {
        let Token::Word(word) = self.token else {
            return None;
        };
        self.advance();
        Some(word)
    }

    /// Takes a name, bare or quoted.
    pub(super) fn take_name(&mut self) -> Option<Vec<u8>> {
        let name = match &mut self.token {
            Token::Word(word) => word.to_vec(),
            Token::Quoted(name) => std::mem::take(name),
            Token::Comma | Token::End | Token::Broken => return None,
        };
        self.advance();
        Some(name)
    }

    /// Takes all that follows this word as it is.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        let rest = std::mem::take(&mut self.rest);
        self.token = Token::End;
        rest
    }

    fn word(&mut self) -> Token<'a> {
        let ends = |byte: &u8| is_space(*byte) || matches!(byte, b',' | b'#' | b'"');
        let end = self.rest.iter().position(ends).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word)
    }

    fn quoted(&mut self) -> Token<'a> {
        let mut name = Vec::new();
        let mut at = 1;
        loop {
            match self.rest.get(at..) {
                Some([b'"', b'"', ..]) => {
                    name.push(b'"');
                    at += 2;
                }
                Some([b'"', ..]) => {
                    self.rest = &self.rest[at + 1..];
                    return Token::Quoted(name);
                }
                Some([byte, ..]) => {
                    name.push(*byte);
                    at += 1;
                }
                Some([]) | None => {
                    self.rest = &[];
                    return Token::Broken;
                }
            }
        }
    }
}

/// The C library's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Token<'_>> {
        let mut line = Line::new(text.as_bytes());
        let mut words = Vec::new();
        while line.token != Token::End {
            words.push(line.token.clone());
            if line.token == Token::Broken {
                break;
            }
            line.advance();
        }
        words
    }

    #[test]
    fn blanks_commas_quotes_and_comments_end_a_word() {
        let (a, b) = (Token::Word(b"a"), Token::Word(b"b"));
        assert_eq!(words(" \t a\x0b\x0cb\r"), [a.clone(), b.clone()]);
        assert_eq!(words("a,b"), [a.clone(), Token::Comma, b]);
        assert_eq!(words("a#b"), [Token::Word(b"a")]);
        assert_eq!(words("a\"b\""), [a, Token::Quoted(b"b".to_vec())]);
        assert_eq!(words("# a"), []);
        assert_eq!(words(""), []);
    }

    #[test]
    fn quotes_hold_anything_and_are_doubled_inside() {
        let quoted = |text: &[u8]| [Token::Quoted(text.to_vec())];
        assert_eq!(words(r##""a , b#""##), quoted(b"a , b#"));
        assert_eq!(words(r#""q1""q2""#), quoted(b"q1\"q2"));
        assert_eq!(words(r#""""#), quoted(b""));
        assert_eq!(words(r#""open"#), [Token::Broken]);
        assert_eq!(words(r#""open"""#), [Token::Broken]);
    }
}
