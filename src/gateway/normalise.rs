//! Brings statements that differ in nothing but constants, case, comments and
//! white space to one form, and that form to one number.
//!
//! The form keeps PostgreSQL's tokens in order and changes this:
//!
//! - A constant (number, any string, `$n`) becomes a placeholder, shown as
//!   `$1`, `$2`... in order. A statement with parameters and the same one with
//!   the values written in are thus one, whatever protocol the driver speaks;
//!   pg_stat_statements tells them apart. A sign in front of a number belongs
//!   to the number where no operand stands before it.
//! - Comments are dropped (hints and tags too) and white space is regular.
//!   Unquoted words are lower case, quoted identifiers stay as they are, so
//!   `"a"` and `a` differ. Only ASCII letters are folded.
//! - In `IN (...)` and `ARRAY[...]`, elements equal to the one before them are
//!   dropped, and so are rows of `VALUES`, as PostgreSQL 18 squashes lists of
//!   constants. In these lists NULL, TRUE and FALSE are constants; elsewhere
//!   they are words, because `IS NULL` is no comparison with a value.
//! - Names that drivers invent (see [`Names`]) become placeholders.
//! - A trailing `;` is dropped. Several statements in one string are one form.
//!
//! It is lexical: `a.b` and `b` differ, and so do `select *` and the columns
//! listed. `standard_conforming_strings` is taken to be on. Nothing fails:
//! broken SQL has a form too. Forming it again changes nothing.
//!
//! The fingerprint is the XXH3 64-bit hash of the form's bytes with byte 0 for
//! each placeholder: the same in every process and release that keeps this
//! page. It names a statement in statistics; it is not keyed, so whoever can
//! choose statements can also make two that share it.

use memchr::memchr;

use super::form::{Normalised, PLACEHOLDER};
use super::keywords::{Keyword, Names, Role, keyword};
use super::lexer::{Kind, Lexer, Token};
use super::lists::{Lists, Opens};
use super::verb::Verb;

/// Bytes of a statement that are read; what follows is not told apart, and the
/// form ends in `...`. Bounds the time a worker spends on one statement.
pub const MAX_READ: usize = 16 * 1024;

/// Forms statements, one after the other, in memory it keeps: after the first
/// few, [`normalise`](Normaliser::normalise) allocates nothing.
#[derive(Debug, Default)]
pub struct Normaliser {
    form: Vec<u8>,
    lists: Lists,
    last: Last,
    /// A `+` or `-` just written that is a sign if a number follows: the form
    /// and its last token before it.
    sign: Option<(usize, Last)>,
    /// A `;` is written only once something follows it.
    semicolon: bool,
    /// The next word is the first of a statement.
    first: bool,
    verb: Option<Verb>,
    names: Names,
}

/// What was written last, as far as the next token cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Last {
    #[default]
    Start,
    Name,
    Word(Role),
    Constant,
    /// A string constant, which may go on in another one.
    Text,
    Operator,
    Open,
    Close,
    /// The end of a row of `VALUES`.
    RowClose,
    Comma,
    /// The comma behind a row of `VALUES`.
    RowComma,
    Dot,
    Cast,
    Other,
}

impl Last {
    /// Whether a value has just ended, so that an operator is a binary one.
    fn is_operand(self) -> bool {
        use Last::{Close, Constant, Name, RowClose, Text};
        matches!(self, Name | Constant | Text | Close | RowClose)
    }
}

impl Normaliser {
    /// Forms one statement: what came in a Query or Parse message, without the
    /// NUL behind it. Any bytes will do; reads up to [`MAX_READ`] of them.
    pub fn normalise(&mut self, sql: &[u8]) -> Normalised<'_> {
        self.start();
        let sql = &sql[..sql.len().min(MAX_READ + 1)];
        let sql = &sql[..memchr(PLACEHOLDER, sql).unwrap_or(sql.len())];
        let is_cut = sql.len() > MAX_READ;
        let sql = &sql[..sql.len().min(MAX_READ)];
        for token in Lexer::new(sql) {
            if is_cut && token.end == sql.len() {
                break;
            }
            self.token(token, &sql[token.start..token.end]);
        }
        if is_cut {
            self.cut();
        }
        Normalised {
            form: &self.form,
            verb: self.verb.unwrap_or_default(),
        }
    }

    fn start(&mut self) {
        let mut form = std::mem::take(&mut self.form);
        let mut lists = std::mem::take(&mut self.lists);
        form.clear();
        lists.clear();
        *self = Normaliser {
            form,
            lists,
            first: true,
            ..Normaliser::default()
        };
    }

    #[inline]
    fn token(&mut self, token: Token, bytes: &[u8]) {
        if token.kind == Kind::Semicolon {
            self.semicolon = !self.form.is_empty();
            return;
        }
        if self.semicolon {
            self.begin_next();
        }
        let sign = self.sign.take();
        let next_is_made_up = self.names == Names::Next;
        match token.kind {
            Kind::Word => self.word(bytes),
            Kind::Quoted => self.quoted(bytes),
            Kind::Number => {
                if let Some((length, last)) = sign {
                    self.form.truncate(length);
                    self.last = last;
                }
                self.constant(Last::Constant);
            }
            Kind::Text if self.last == Last::Text && bytes[0] == b'\'' => {}
            Kind::Text => self.constant(Last::Text),
            Kind::Param => self.constant(Last::Constant),
            Kind::Operator => self.operator(bytes),
            Kind::Open => self.open(bytes[0]),
            Kind::Close => self.close(bytes[0]),
            Kind::Comma => self.comma(),
            Kind::Dot => self.plain(bytes, false, Last::Dot),
            Kind::Cast => self.plain(bytes, !self.last.is_operand(), Last::Cast),
            Kind::Other | Kind::Semicolon => self.plain(bytes, true, Last::Other),
        }
        if next_is_made_up {
            self.names = Names::Kept;
        }
        self.first &= token.kind == Kind::Open;
    }

    /// Writes the `;` that is due; another statement begins.
    fn begin_next(&mut self) {
        self.semicolon = false;
        self.sign = None;
        self.plain(b";", false, Last::Other);
        self.first = true;
        self.names = Names::Kept;
        self.verb.get_or_insert_default();
    }

    /// Writes a token as it is. `gap` says whether white space goes before it
    /// where anything does.
    #[inline]
    fn plain(&mut self, bytes: &[u8], gap: bool, last: Last) {
        if gap && !matches!(self.last, Last::Start | Last::Open | Last::Dot) {
            self.form.push(b' ');
        }
        self.form.extend_from_slice(bytes);
        self.last = last;
    }

    #[inline]
    fn constant(&mut self, last: Last) {
        self.plain(&[PLACEHOLDER], self.last != Last::Cast, last);
    }

    #[inline]
    fn word(&mut self, bytes: &[u8]) {
        let is_column = self.last == Last::Dot;
        let start = self.name(bytes.iter().map(|&b| LOWER[b as usize]));
        let row = if is_column {
            None
        } else {
            keyword(&self.form[start..])
        };
        if self.first {
            self.begin(row);
        } else if self.is_made_up(start) {
            return self.replace(start);
        }
        if let Some(row) = row {
            self.keyword(row);
        }
    }

    fn quoted(&mut self, bytes: &[u8]) {
        let start = self.name(bytes.iter().copied());
        if !self.first && self.is_made_up(start) {
            return self.replace(start);
        }
        // The `U` of `U&"..."`.
        self.form[start].make_ascii_lowercase();
    }

    /// Writes a name as it is and says where it begins.
    #[inline]
    fn name(&mut self, bytes: impl Iterator<Item = u8>) -> usize {
        self.plain(&[], self.last != Last::Cast, Last::Name);
        let start = self.form.len();
        self.form.extend(bytes);
        start
    }

    /// Puts a constant in the place of the name that begins at `start`.
    fn replace(&mut self, start: usize) {
        self.form.truncate(start);
        self.form.push(PLACEHOLDER);
        self.last = Last::Constant;
    }

    /// Notes the first word of a statement.
    fn begin(&mut self, row: Option<&'static Keyword>) {
        self.names = row.map_or(Names::Kept, |row| row.names);
        // After `WITH` the verb is still to come.
        let begins_with = row.is_some_and(|row| row.role == Role::Query && row.verb == Verb::Other);
        if self.verb.is_none() && !begins_with {
            self.verb = Some(row.map_or(Verb::Other, |row| row.verb));
        }
    }

    fn keyword(&mut self, row: &'static Keyword) {
        if row.role != Role::Name {
            self.last = Last::Word(row.role);
        }
        if row.word == "to" {
            self.assign();
        }
        let is_main = matches!(
            row.verb,
            Verb::Select | Verb::Insert | Verb::Update | Verb::Delete | Verb::Merge
        );
        if is_main && self.verb.is_none() && self.lists.is_outside() {
            self.verb = Some(row.verb);
        }
        if matches!(row.role, Role::Query | Role::Values) {
            self.lists.is_query();
        }
    }

    /// What follows is a setting's value.
    fn assign(&mut self) {
        if let Names::AssignedBut(kept) = self.names {
            self.names = Names::AllBut(kept);
        }
    }

    /// Whether the name written at `start` is one that drivers invent.
    #[inline]
    fn is_made_up(&self, start: usize) -> bool {
        let is_one_of = |kept: &[&str]| kept.iter().any(|k| k.as_bytes() == &self.form[start..]);
        match self.names {
            Names::Kept | Names::AssignedBut(_) => false,
            Names::Next => true,
            Names::AllBut(kept) => !is_one_of(kept),
        }
    }

    #[inline]
    fn operator(&mut self, bytes: &[u8]) {
        let before = (self.form.len(), self.last);
        self.plain(bytes, true, Last::Operator);
        if matches!(bytes, b"-" | b"+") && !before.1.is_operand() {
            self.sign = Some(before);
        } else if bytes == b"=" {
            self.assign();
        }
    }

    fn open(&mut self, bracket: u8) {
        let last = self.last;
        let is_round = bracket == b'(';
        let gap = match is_round {
            true => last != Last::Name,
            false => !(last.is_operand() || last == Last::Word(Role::Array)),
        };
        self.plain(&[bracket], gap, Last::Open);
        let opens = match last {
            Last::Word(Role::In) if is_round => Opens::List,
            Last::Word(Role::Array) if !is_round => Opens::List,
            Last::Word(Role::Values) if is_round => Opens::FirstRow,
            Last::RowComma if is_round => Opens::NextRow,
            Last::Open | Last::Comma if is_round => Opens::Tuple,
            Last::Open | Last::Comma => Opens::Array,
            _ => Opens::Other,
        };
        self.lists.open(self.form.len() - 1, opens);
    }

    fn close(&mut self, bracket: u8) {
        self.lists.end_element(&mut self.form);
        self.plain(&[bracket], false, Last::Close);
        if self.lists.close(&mut self.form) {
            self.last = Last::RowClose;
        }
    }

    fn comma(&mut self) {
        self.lists.end_element(&mut self.form);
        let last = if self.last == Last::RowClose {
            Last::RowComma
        } else {
            Last::Comma
        };
        self.plain(b",", false, last);
        self.lists.begin_element(&self.form);
    }

    /// Ends the form of a statement that was not read to its end, so that
    /// lists of any length beyond that end alike.
    fn cut(&mut self) {
        if let Some((length, _)) = self.sign {
            self.form.truncate(length);
        }
        if let Some(whole) = self
            .lists
            .whole(matches!(self.last, Last::RowClose | Last::RowComma))
        {
            self.form.truncate(whole);
        }
        self.form.extend_from_slice(b" ...");
    }
}

/// Bytes in lower case, ASCII letters only. A table, because most words are
/// too short for anything cleverer to pay.
static LOWER: [u8; 256] = lower();

const fn lower() -> [u8; 256] {
    let mut lower = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        lower[byte] = (byte as u8).to_ascii_lowercase();
        byte += 1;
    }
    lower
}

#[cfg(test)]
mod tests;
