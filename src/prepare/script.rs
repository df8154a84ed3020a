//! A migration file as statements.
//!
//! Statements end at a `;` outside texts, comments and parentheses, and outside
//! the `BEGIN ... END` body of a `CREATE FUNCTION` or `CREATE PROCEDURE`. psql
//! cuts by the same rules.

use super::create_index::CreateIndex;
use super::lex::{Kind, Token, tokens};

/// What `-- pgweir: ` may be followed by, before the first statement.
const NO_TRANSACTION: &str = "no-transaction";

/// The parsed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Script {
    /// In the file's order; none is empty.
    pub(super) statements: Vec<Statement>,
    /// Statement by statement, each on its own.
    pub(super) no_transaction: bool,
}

/// One statement without the comments before it and the `;` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// Line of its first word, from 1.
    pub(super) line: usize,
}

/// Why a file cannot be run, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

impl Script {
    /// Cuts a file up. Touches nothing but its argument.
    pub(super) fn parse(sql: &str) -> Result<Script, Problem> {
        let no_transaction = directive(sql)?;
        let statements = statements(sql)?;
        for statement in &statements {
            statement.check(no_transaction)?;
        }
        Ok(Script {
            statements,
            no_transaction,
        })
    }
}

impl Statement {
    /// The index this statement makes, if it is a `CREATE INDEX` with a name.
    pub(super) fn index(&self) -> Option<CreateIndex> {
        CreateIndex::parse(&self.text)
    }

    /// Whether it builds or drops an index `CONCURRENTLY`.
    pub(super) fn is_concurrent(&self) -> bool {
        let opening: Vec<String> = words(&self.text).take(5).collect();
        match opening.first().map(String::as_str) {
            Some("CREATE" | "DROP") => opening.windows(2).any(|w| w == ["INDEX", "CONCURRENTLY"]),
            Some("REINDEX") => opening.iter().any(|w| w == "CONCURRENTLY"),
            _ => false,
        }
    }

    /// Whether neither its locks (SHARE UPDATE EXCLUSIVE) nor its waiting for
    /// them block a read or a write.
    pub(super) fn is_gentle(&self) -> bool {
        let mut words = words(&self.text);
        match words.next().as_deref() {
            Some("ANALYZE") => true,
            Some("VACUUM") => !words.any(|w| w == "FULL"),
            _ => self.is_concurrent(),
        }
    }

    fn check(&self, no_transaction: bool) -> Result<(), Problem> {
        let problem = |what: &str, remedy| Problem {
            line: self.line,
            what: what.to_owned(),
            remedy,
        };
        if controls_transaction(&self.text) {
            return Err(problem(
                "the file begins or ends a transaction itself",
                "remove BEGIN, COMMIT and ROLLBACK: the file runs in one transaction together with its ledger row",
            ));
        }
        if self.is_concurrent() && !no_transaction {
            return Err(problem(
                "an index cannot be built or dropped CONCURRENTLY inside a transaction",
                "put the line `-- pgweir: no-transaction` at the top of the file",
            ));
        }
        let creates = words(&self.text).next().as_deref() == Some("CREATE");
        if self.is_concurrent() && creates && self.index().is_none() {
            return Err(problem(
                "the index built CONCURRENTLY has no name, so a half-built one could not be found again",
                "name the index",
            ));
        }
        if copies_stream(&self.text) {
            return Err(problem(
                "COPY from or to the client",
                "load data with the `seed` command instead",
            ));
        }
        Ok(())
    }
}

/// The unquoted words of a statement in capitals.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    tokens(text)
        .filter(|t| t.kind == Kind::Word)
        .map(|t| text[t.start..t.end].to_ascii_uppercase())
}

fn controls_transaction(text: &str) -> bool {
    let mut words = words(text);
    match words.next().as_deref() {
        Some("BEGIN" | "COMMIT" | "END" | "ABORT") => true,
        Some("START") => words.next().as_deref() == Some("TRANSACTION"),
        Some("PREPARE") => words.next().as_deref() == Some("TRANSACTION"),
        // `ROLLBACK TO` a savepoint stays inside.
        Some("ROLLBACK") => !words.any(|w| w == "TO"),
        _ => false,
    }
}

fn copies_stream(text: &str) -> bool {
    let mut words = words(text);
    words.next().as_deref() == Some("COPY") && words.any(|w| w == "STDIN" || w == "STDOUT")
}

/// Reads the `-- pgweir: ...` lines before the first statement.
fn directive(sql: &str) -> Result<bool, Problem> {
    let mut no_transaction = false;
    for token in tokens(sql).take_while(|t| t.kind == Kind::Comment) {
        let comment = sql[token.start..token.end].trim_start_matches('-').trim();
        let Some(said) = comment.strip_prefix("pgweir:") else {
            continue;
        };
        if said.trim() != NO_TRANSACTION {
            return Err(Problem {
                line: line_of(sql, token.start),
                what: format!("`-- pgweir:{said}` is not known"),
                remedy: "write `-- pgweir: no-transaction` or remove the line",
            });
        }
        no_transaction = true;
    }
    Ok(no_transaction)
}

fn statements(sql: &str) -> Result<Vec<Statement>, Problem> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for token in tokens(sql) {
        match token.kind {
            Kind::Comment => {}
            Kind::Unclosed => return Err(unclosed(sql, token.start, "a quote or comment")),
            Kind::Symbol(';') => match &open {
                Some(statement) if !statement.may_end() => {}
                Some(_) => found.extend(open.take().map(|o| o.finish(sql))),
                None => {}
            },
            _ => open
                .get_or_insert_with(|| Open::at(token.start))
                .push(sql, token),
        }
    }
    if let Some(last) = open {
        if !last.may_end() {
            return Err(unclosed(sql, last.start, "a parenthesis or BEGIN"));
        }
        found.push(last.finish(sql));
    }
    Ok(found)
}

fn unclosed(sql: &str, at: usize, what: &str) -> Problem {
    Problem {
        line: line_of(sql, at),
        what: format!("{what} opened here is not closed before the file ends"),
        remedy: "close it",
    }
}

fn line_of(sql: &str, at: usize) -> usize {
    1 + sql[..at].matches('\n').count()
}

/// A statement being collected.
struct Open {
    start: usize,
    end: usize,
    parentheses: usize,
    /// `BEGIN` and `CASE` not yet answered by `END`, in a routine's body.
    begins: usize,
    /// Leading words of a routine's definition met so far.
    opening: Opening,
}

/// Whether a statement is `CREATE [OR REPLACE] FUNCTION | PROCEDURE`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Nothing,
    Create,
    CreateOr,
    CreateOrReplace,
    Routine,
    Other,
}

impl Opening {
    fn then(self, word: &str) -> Opening {
        match (self, word.to_ascii_uppercase().as_str()) {
            (Opening::Nothing, "CREATE") => Opening::Create,
            (Opening::Create, "OR") => Opening::CreateOr,
            (Opening::CreateOr, "REPLACE") => Opening::CreateOrReplace,
            (Opening::Create | Opening::CreateOrReplace, "FUNCTION" | "PROCEDURE") => {
                Opening::Routine
            }
            (Opening::Routine, _) => Opening::Routine,
            _ => Opening::Other,
        }
    }
}

impl Open {
    fn at(start: usize) -> Open {
        Open {
            start,
            end: start,
            parentheses: 0,
            begins: 0,
            opening: Opening::Nothing,
        }
    }

    fn push(&mut self, sql: &str, token: Token) {
        self.end = token.end;
        match token.kind {
            Kind::Symbol('(') => self.parentheses += 1,
            Kind::Symbol(')') => self.parentheses = self.parentheses.saturating_sub(1),
            Kind::Word => self.word(&sql[token.start..token.end]),
            _ => {}
        }
    }

    fn word(&mut self, word: &str) {
        self.opening = self.opening.then(word);
        if self.opening != Opening::Routine || self.parentheses > 0 {
            return;
        }
        if word.eq_ignore_ascii_case("begin")
            || (self.begins > 0 && word.eq_ignore_ascii_case("case"))
        {
            self.begins += 1;
        } else if word.eq_ignore_ascii_case("end") {
            self.begins = self.begins.saturating_sub(1);
        }
    }

    fn may_end(&self) -> bool {
        self.parentheses == 0 && self.begins == 0
    }

    fn finish(self, sql: &str) -> Statement {
        Statement {
            text: sql[self.start..self.end].to_owned(),
            line: line_of(sql, self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(sql: &str) -> Vec<String> {
        let script = Script::parse(sql).expect("it is accepted");
        script.statements.into_iter().map(|s| s.text).collect()
    }

    fn refused(sql: &str) -> Problem {
        Script::parse(sql).expect_err("it is refused")
    }

    #[test]
    fn semicolons_end_statements_and_empty_ones_vanish() {
        assert_eq!(
            texts(";SELECT 1;; -- x\nSELECT 2 ; "),
            ["SELECT 1", "SELECT 2"]
        );
    }

    #[test]
    fn a_statement_knows_the_line_of_its_first_word() {
        let script =
            Script::parse("-- why\n\nSELECT 1;\n/* a\n*/ SELECT\n2").expect("it is accepted");
        let lines: Vec<_> = script.statements.iter().map(|s| s.line).collect();
        assert_eq!(lines, [3, 5]);
    }

    #[test]
    fn quotes_and_dollar_quotes_hide_semicolons() {
        let body = "DO $x$ BEGIN PERFORM 1; END $x$";
        assert_eq!(texts(&format!("{body}; SELECT ';'")), [body, "SELECT ';'"]);
    }

    #[test]
    fn parentheses_hide_semicolons() {
        let rule = "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)";
        assert_eq!(texts(&format!("{rule};SELECT 1")), [rule, "SELECT 1"]);
    }

    #[test]
    fn a_routine_body_in_standard_sql_is_one_statement() {
        let body = "CREATE OR REPLACE FUNCTION f(a int) RETURNS int \
                    BEGIN ATOMIC SELECT CASE WHEN a = 1 THEN 2 END; SELECT 3; END";
        assert_eq!(texts(&format!("{body}; SELECT 1")), [body, "SELECT 1"]);
    }

    #[test]
    fn case_and_end_mean_nothing_outside_a_routine() {
        assert_eq!(texts("SELECT CASE WHEN a THEN b END; SELECT 1").len(), 2);
    }

    #[test]
    fn a_file_that_ends_in_a_quote_names_the_line_it_opened_in() {
        assert_eq!(refused("SELECT 1;\nSELECT 'a;\n").line, 2);
        assert_eq!(refused("SELECT 1;\n\nSELECT (1;\n").line, 3);
    }

    #[test]
    fn the_directive_counts_only_before_the_first_statement() {
        let says = |sql| Script::parse(sql).expect("it is accepted").no_transaction;
        assert!(says("-- index\n-- pgweir: no-transaction\nSELECT 1"));
        assert!(!says("SELECT 1; -- pgweir: no-transaction\n"));
        assert!(!says("SELECT '-- pgweir: no-transaction'"));
    }

    #[test]
    fn a_misspelt_directive_is_refused() {
        let problem = refused("-- x\n-- pgweir: no_transaction\nSELECT 1");
        assert_eq!(problem.line, 2);
        assert!(problem.what.contains("no_transaction"), "{}", problem.what);
    }

    #[test]
    fn transaction_control_is_refused_and_savepoints_are_not() {
        for sql in [
            "BEGIN",
            "commit;",
            "END",
            "ABORT",
            "start transaction",
            "ROLLBACK",
            "PREPARE TRANSACTION 'a'",
        ] {
            refused(sql);
        }
        texts("SAVEPOINT a; ROLLBACK TO a; RELEASE a; PREPARE p AS SELECT 1");
    }

    #[test]
    fn a_concurrent_build_needs_the_directive_and_a_name() {
        refused("CREATE INDEX CONCURRENTLY i ON t (a)");
        refused("DROP INDEX CONCURRENTLY i");
        refused("-- pgweir: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY ON t (a)");
        texts("-- pgweir: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY i ON t (a)");
    }

    #[test]
    fn concurrent_work_on_indexes_is_recognised() {
        let concurrent = |sql: &str| {
            Statement {
                text: sql.to_owned(),
                line: 1,
            }
            .is_concurrent()
        };
        assert!(concurrent("create unique index concurrently i on t (a)"));
        assert!(concurrent("DROP /* x */ INDEX CONCURRENTLY i"));
        assert!(concurrent("REINDEX (VERBOSE) TABLE CONCURRENTLY t"));
        assert!(!concurrent("CREATE INDEX i ON t (a)"));
        assert!(!concurrent("REFRESH MATERIALIZED VIEW CONCURRENTLY v"));
    }

    #[test]
    fn only_what_blocks_nobody_is_gentle() {
        let gentle = |sql: &str| {
            Statement {
                text: sql.to_owned(),
                line: 1,
            }
            .is_gentle()
        };
        for sql in [
            "ANALYZE t",
            "VACUUM (ANALYZE) t",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
        ] {
            assert!(gentle(sql), "{sql}");
        }
        for sql in [
            "VACUUM FULL t",
            "VACUUM (VERBOSE, FULL) t",
            "CREATE INDEX i ON t (a)",
            "DROP TABLE t",
        ] {
            assert!(!gentle(sql), "{sql}");
        }
    }

    #[test]
    fn a_copy_through_the_connection_is_refused() {
        refused("COPY t FROM STDIN");
        texts("COPY t FROM '/tmp/x'");
    }

    /// Pieces that carry a semicolon without ending the statement they are in.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "a",
            "'x;y'",
            "'it''s;'",
            r"E'\';'",
            "\"n;\"\"m\"",
            "$$ ; ' $$",
            "$t$ $$;$$ $t$",
            "( ; )",
            "/* ; /* ' */ */",
            "-- ; '\n",
            "a$b$",
            "1",
            "é",
            "/*'*/",
            "E'a'\n'\\';'",
            "+",
            "end",
            "case",
        ])
    }

    proptest! {
        #[test]
        fn joined_statements_come_apart_again(
            parts in prop::collection::vec(prop::collection::vec(piece(), 0..8), 1..6)
        ) {
            // A word first, so that no statement is empty or only comments,
            // and one last, so that none ends in a comment.
            let wanted: Vec<String> =
                parts.iter().map(|p| format!("w {} z", p.join(" "))).collect();
            prop_assert_eq!(texts(&wanted.join(" ;\n")), &wanted[..]);
            prop_assert_eq!(texts(&format!("-- c\n{};", wanted.join(";"))), wanted);
        }

        #[test]
        fn no_text_makes_it_panic(sql in "(?s).{0,80}") {
            let _ = Script::parse(&sql);
        }

        #[test]
        fn nothing_is_lost_but_comments_space_and_semicolons(
            sql in "[ \na-c'\"$;E\\\\*/()-]{0,60}"
        ) {
            if let Ok(script) = Script::parse(&sql) {
                let kept: Vec<&str> = script.statements.iter().map(|s| s.text.as_str()).collect();
                let again = texts(&kept.join(";"));
                prop_assert_eq!(&again, &kept);
            }
        }
    }
}
