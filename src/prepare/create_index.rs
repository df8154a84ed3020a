//! Reading a `CREATE INDEX` statement as far as its `ON table`.

use super::lex::{Kind, Token, tokens};

/// What `CREATE INDEX` says about its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CreateIndex {
    /// The index's name as the server stores it.
    pub(super) name: String,
    /// The table as written, schema and quotes included.
    pub(super) table: String,
    /// Built with `CONCURRENTLY`.
    pub(super) concurrently: bool,
}

impl CreateIndex {
    /// `None`: some other statement, or an index without a name.
    pub(super) fn parse(text: &str) -> Option<CreateIndex> {
        let mut rest = Words::new(text);
        rest.take("CREATE").then_some(())?;
        rest.take("UNIQUE");
        rest.take("INDEX").then_some(())?;
        let concurrently = rest.take("CONCURRENTLY");
        if rest.take("IF") {
            (rest.take("NOT") && rest.take("EXISTS")).then_some(())?;
        } else if rest.take("ON") {
            return None;
        }
        let name = rest.name()?;
        rest.take("ON").then_some(())?;
        rest.take("ONLY");
        let table = rest.qualified()?;
        Some(CreateIndex {
            name,
            table,
            concurrently,
        })
    }
}

/// Longest identifier PostgreSQL keeps, in bytes (`NAMEDATALEN - 1`).
const MAX_NAME: usize = 63;

/// The tokens of one statement, comments left out, taken one by one.
struct Words<'a> {
    text: &'a str,
    tokens: std::iter::Peekable<Box<dyn Iterator<Item = Token> + 'a>>,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Words<'a> {
        let tokens: Box<dyn Iterator<Item = Token>> =
            Box::new(tokens(text).filter(|t| t.kind != Kind::Comment));
        Words {
            text,
            tokens: tokens.peekable(),
        }
    }

    fn slice(&self, token: Token) -> &'a str {
        &self.text[token.start..token.end]
    }

    /// Takes the next token if it is this key word.
    fn take(&mut self, keyword: &str) -> bool {
        let text = self.text;
        self.tokens
            .next_if(|t| t.kind == Kind::Word && text[t.start..t.end].eq_ignore_ascii_case(keyword))
            .is_some()
    }

    /// A name, folded and unquoted as the server does it.
    fn name(&mut self) -> Option<String> {
        let token = self.tokens.next()?;
        let text = self.slice(token);
        let mut name = match token.kind {
            Kind::Word => text.to_ascii_lowercase(),
            Kind::Quoted => text[1..text.len() - 1].replace("\"\"", "\""),
            _ => return None,
        };
        while name.len() > MAX_NAME {
            name.pop();
        }
        Some(name)
    }

    /// `table` or `schema.table`, as written.
    fn qualified(&mut self) -> Option<String> {
        let is_name = |t: &Token| matches!(t.kind, Kind::Word | Kind::Quoted);
        let mut written = self
            .tokens
            .next_if(is_name)
            .map(|t| self.slice(t).to_owned())?;
        while self
            .tokens
            .next_if(|t| t.kind == Kind::Symbol('.'))
            .is_some()
        {
            let part = self.tokens.next_if(is_name).map(|t| self.slice(t))?;
            written.push('.');
            written.push_str(part);
        }
        Some(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_is_recognised_with_all_its_options() {
        let index = |sql: &str| CreateIndex::parse(sql);
        let made = |name: &str, table: &str, concurrently| {
            let (name, table) = (name.to_owned(), table.to_owned());
            Some(CreateIndex {
                name,
                table,
                concurrently,
            })
        };
        assert_eq!(index("create index I on T(a)"), made("i", "T", false));
        assert_eq!(
            index("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"A b\" ON ONLY s.\"T\" (a)"),
            made("A b", "s.\"T\"", true)
        );
        assert_eq!(
            index("CREATE /* x */ INDEX i -- y\n ON t USING gin (a)"),
            made("i", "t", false)
        );
        assert_eq!(index("CREATE INDEX ON t (a)"), None);
        assert_eq!(index("CREATE TABLE i (a int)"), None);
    }

    #[test]
    fn a_long_index_name_is_cut_as_the_server_cuts_it() {
        let name = "x".repeat(80);
        let index =
            CreateIndex::parse(&format!("CREATE INDEX {name} ON t (a)")).expect("it is accepted");
        assert_eq!(index.name.len(), MAX_NAME);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?i)(create|index|concurrently|if|not|on|i|\"[\";a-]*|[ .();\n/*-]){0,12}") {
            let _ = CreateIndex::parse(&text);
        }
    }
}
