//! The words that mean something to the normaliser, in one table.

use super::verb::Verb;

/// What follows a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Anything: a name, or a keyword that needs no care.
    Name,
    /// An expression: a `-` here is a sign, and a `(` stands apart.
    Expression,
    /// The same, and a query begins here.
    Query,
    /// A list of values in parentheses: `IN`.
    In,
    /// Rows of values: `VALUES`.
    Values,
    /// A list of values in brackets: `ARRAY`.
    Array,
}

/// Which names in a statement are made up by drivers as they go (savepoints,
/// cursors, statements, values of settings). They count as constants, as most
/// do in pg_stat_statements since PostgreSQL 17; if they did not, each would
/// make a statement of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Names {
    /// None.
    #[default]
    Kept,
    /// The word right behind this one.
    Next,
    /// All words but these.
    AllBut(&'static [&'static str]),
    /// All words behind `=` or `TO` but these.
    AssignedBut(&'static [&'static str]),
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Keyword {
    pub(super) word: &'static str,
    pub(super) role: Role,
    /// What a statement that begins with the word does.
    pub(super) verb: Verb,
    /// Its made-up names.
    pub(super) names: Names,
}

const fn word(word: &'static str, role: Role) -> Keyword {
    Keyword {
        word,
        role,
        verb: Verb::Other,
        names: Names::Kept,
    }
}

const fn statement(word: &'static str, role: Role, verb: Verb) -> Keyword {
    Keyword {
        word,
        role,
        verb,
        names: Names::Kept,
    }
}

const fn naming(word: &'static str, verb: Verb, names: Names) -> Keyword {
    Keyword {
        word,
        role: Name,
        verb,
        names,
    }
}

const FETCH_WORDS: Names = Names::AllBut(&[
    "absolute", "all", "backward", "first", "forward", "from", "in", "last", "next", "prior",
    "relative",
]);
const ROLLBACK_WORDS: Names = Names::AllBut(&[
    "and",
    "chain",
    "no",
    "prepared",
    "savepoint",
    "to",
    "transaction",
    "work",
]);

use Role::{Array, Expression, In, Name, Query, Values};

static KEYWORDS: &[Keyword] = &[
    // Words that begin a statement.
    statement("select", Query, Verb::Select),
    statement("with", Query, Verb::Other),
    statement("values", Values, Verb::Select),
    statement("table", Name, Verb::Select),
    statement("insert", Name, Verb::Insert),
    statement("update", Name, Verb::Update),
    statement("delete", Name, Verb::Delete),
    statement("merge", Name, Verb::Merge),
    statement("copy", Name, Verb::Copy),
    statement("begin", Name, Verb::Begin),
    statement("start", Name, Verb::Begin),
    statement("commit", Name, Verb::Commit),
    statement("end", Name, Verb::Commit),
    naming("rollback", Verb::Rollback, ROLLBACK_WORDS),
    statement("abort", Name, Verb::Rollback),
    naming("savepoint", Verb::Savepoint, Names::AllBut(&[])),
    naming("release", Verb::Release, Names::AllBut(&["savepoint"])),
    Keyword {
        word: "set",
        role: Expression,
        verb: Verb::Set,
        names: Names::AssignedBut(&["default"]),
    },
    statement("reset", Name, Verb::Reset),
    statement("show", Name, Verb::Show),
    statement("explain", Name, Verb::Explain),
    statement("prepare", Name, Verb::Prepare),
    statement("execute", Name, Verb::Execute),
    naming(
        "deallocate",
        Verb::Deallocate,
        Names::AllBut(&["all", "prepare"]),
    ),
    naming("declare", Verb::Declare, Names::Next),
    naming("fetch", Verb::Fetch, FETCH_WORDS),
    naming("move", Verb::Fetch, FETCH_WORDS),
    naming("close", Verb::Close, Names::AllBut(&["all"])),
    statement("create", Name, Verb::Create),
    statement("alter", Name, Verb::Alter),
    statement("drop", Name, Verb::Drop),
    statement("truncate", Name, Verb::Truncate),
    statement("vacuum", Name, Verb::Maintain),
    statement("analyze", Name, Verb::Maintain),
    statement("analyse", Name, Verb::Maintain),
    statement("reindex", Name, Verb::Maintain),
    statement("cluster", Name, Verb::Maintain),
    statement("call", Name, Verb::Call),
    statement("do", Name, Verb::Call),
    statement("listen", Name, Verb::Listen),
    statement("unlisten", Name, Verb::Listen),
    statement("notify", Name, Verb::Notify),
    statement("lock", Name, Verb::Lock),
    statement("discard", Name, Verb::Discard),
    // Words before lists of constants.
    word("in", In),
    word("array", Array),
    // Words before expressions. Those that could also be a column's name are
    // left out: behind a name, `-` is a minus.
    word("all", Expression),
    word("and", Expression),
    word("as", Expression),
    word("between", Expression),
    word("by", Expression),
    word("case", Expression),
    word("default", Expression),
    word("distinct", Expression),
    word("else", Expression),
    word("except", Expression),
    word("exists", Expression),
    word("for", Expression),
    word("from", Expression),
    word("having", Expression),
    word("ilike", Expression),
    word("intersect", Expression),
    word("is", Expression),
    word("join", Expression),
    word("lateral", Expression),
    word("like", Expression),
    word("limit", Expression),
    word("not", Expression),
    word("offset", Expression),
    word("on", Expression),
    word("or", Expression),
    word("returning", Expression),
    word("similar", Expression),
    word("then", Expression),
    word("to", Expression),
    word("union", Expression),
    word("using", Expression),
    word("when", Expression),
    word("where", Expression),
];

/// The row of a word in lower case.
#[inline]
pub(super) fn keyword(word: &[u8]) -> Option<&'static Keyword> {
    if word.len() > LONGEST {
        return None;
    }
    let mut place = place(word);
    loop {
        // Zero is "nobody"; row numbers are counted from one.
        let row = &KEYWORDS[(INDEX[place] as usize).checked_sub(1)?];
        if row.word.as_bytes() == word {
            return Some(row);
        }
        place = (place + 1) % PLACES;
    }
}

/// The longest keyword, in bytes.
const LONGEST: usize = 10;
/// Places in the hash table, several to a word so that most names end at an
/// empty one.
const PLACES: usize = 1024;

static INDEX: [u8; PLACES] = index();

const fn index() -> [u8; PLACES] {
    let mut index = [0; PLACES];
    let mut row = 0;
    while row < KEYWORDS.len() {
        let word = KEYWORDS[row].word.as_bytes();
        assert!(word.len() <= LONGEST, "LONGEST is out of date");
        let mut at = place(word);
        while index[at] != 0 {
            at = (at + 1) % PLACES;
        }
        row += 1;
        index[at] = row as u8;
    }
    index
}

/// Where the search for a word begins.
#[inline]
const fn place(word: &[u8]) -> usize {
    let first = word[0] as usize;
    let middle = word[word.len() / 2] as usize;
    let last = word[word.len() - 1] as usize;
    (first * 37 + middle * 101 + last * 11 + word.len() * 173) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_keyword_finds_its_row() {
        for row in KEYWORDS {
            let found = keyword(row.word.as_bytes()).expect("it is in the table");
            assert_eq!(found.word, row.word, "twice in the table?");
        }
    }

    #[test]
    fn other_words_are_no_keywords() {
        for word in ["i", "inn", "selects", "pgbench_accounts", "\u{438}", "a"] {
            assert!(keyword(word.as_bytes()).is_none(), "{word}");
        }
    }

    #[test]
    fn most_keywords_are_found_at_once() {
        let at_once = |row: &&Keyword| {
            let first = INDEX[place(row.word.as_bytes())] as usize;
            KEYWORDS[first - 1].word == row.word
        };
        assert!(KEYWORDS.iter().filter(at_once).count() * 10 >= KEYWORDS.len() * 9);
    }
}
