//! A small model of a PostgreSQL backend: bytes in, bytes out.
//!
//! It knows a handful of statements, all of them true SQL, and what matters
//! to a pooler: what is answered, in what order, what an error discards, and
//! when answers leave the server's buffer. An integration test holds it to a
//! real server, so it uses nothing of the pooler and nothing but `std`.
//!
//! Source: `src/backend/tcop/postgres.c` and `src/backend/commands/copyfromparse.c`.

use std::collections::VecDeque;

/// Two rows that begin with the first parameter. The second parameter is the
/// row at which it fails; `0` is none.
pub(crate) const ROWS: &str =
    "select $1::text || (0/(x - $2::int))::text from generate_series(1, 2) x";

/// As [`ROWS`], but it fails as a whole when its table is gone.
pub(crate) const SHELF: &str = "select $1::text || (0/(x - $2::int))::text from shelf";

/// COPY of lines with one column.
pub(crate) const COPY: &str = "copy t from stdin";

/// Succeeds, but the transaction cannot be committed.
pub(crate) const TWICE: &str = "insert into twice values (1), (1)";

/// Makes statements that read [`SHELF`] fail.
pub(crate) const DROP_SHELF: &str = "drop table shelf";

const SYNTAX_ERROR: &[u8; 5] = b"42601";
const DIVISION_BY_ZERO: &[u8; 5] = b"22012";
const BAD_VALUE: &[u8; 5] = b"22P02";
const BAD_COPY_LINE: &[u8; 5] = b"22P04";
const NOT_UNIQUE: &[u8; 5] = b"23505";
const FAILED_BLOCK: &[u8; 5] = b"25P02";
const NO_STATEMENT: &[u8; 5] = b"26000";
const NO_PORTAL: &[u8; 5] = b"34000";
const NO_TABLE: &[u8; 5] = b"42P01";
const STATEMENT_EXISTS: &[u8; 5] = b"42P05";
const PORTAL_DONE: &[u8; 5] = b"55000";
const COPY_FAILED: &[u8; 5] = b"57014";
const VIOLATION: &[u8; 5] = b"08P01";

/// A statement the model understands.
#[derive(Debug, Clone, PartialEq)]
enum Sql {
    Rows {
        shelf: bool,
    },
    Literal(Vec<u8>),
    DivideByZero,
    Copy,
    Twice,
    DropShelf,
    DeallocateAll,
    Prepare(Vec<u8>, Box<Sql>),
    Execute(Vec<u8>),
    Deallocate(Vec<u8>),
    Begin,
    Commit,
    Rollback,
    /// The empty text.
    Nothing,
}

impl Sql {
    /// Reads a text of one or more statements; a comment may precede it.
    fn read(text: &[u8]) -> Option<VecDeque<Sql>> {
        let text = std::str::from_utf8(text).ok()?;
        let text = match text.starts_with("/*") {
            true => text.split_once("*/")?.1.trim_start(),
            false => text,
        };
        text.split("; ").map(Sql::read_one).collect()
    }

    fn read_one(text: &str) -> Option<Sql> {
        Some(match text {
            ROWS => Sql::Rows { shelf: false },
            SHELF => Sql::Rows { shelf: true },
            COPY => Sql::Copy,
            TWICE => Sql::Twice,
            DROP_SHELF => Sql::DropShelf,
            "select 1/0" => Sql::DivideByZero,
            "deallocate all" => Sql::DeallocateAll,
            "begin" => Sql::Begin,
            "commit" => Sql::Commit,
            "rollback" => Sql::Rollback,
            "" => Sql::Nothing,
            _ => {
                if let Some((verb, rest)) = text.split_once(' ')
                    && let Some(sql) = Sql::read_about_prepared(verb, rest)
                {
                    return Some(sql);
                }
                let literal = text.strip_prefix("select '")?.strip_suffix('\'')?;
                Sql::Literal(literal.as_bytes().to_vec())
            }
        })
    }

    /// PREPARE, EXECUTE and DEALLOCATE.
    fn read_about_prepared(verb: &str, rest: &str) -> Option<Sql> {
        let name = |text: &str| text.trim_matches('"').as_bytes().to_vec();
        Some(match &*verb.to_ascii_lowercase() {
            "prepare" => {
                let (own, text) = rest.split_once(" as ")?;
                Sql::Prepare(name(own), Box::new(Sql::read_one(text)?))
            }
            "execute" => Sql::Execute(name(rest)),
            "deallocate" => Sql::Deallocate(name(rest)),
            _ => return None,
        })
    }

    fn parameters(&self) -> &'static [u32] {
        match self {
            Sql::Rows { .. } => &[25, 23],
            _ => &[],
        }
    }

    /// Type of its one column.
    fn column(&self) -> Option<u32> {
        match self {
            Sql::Rows { .. } | Sql::Literal(_) => Some(25),
            Sql::DivideByZero => Some(23),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Portal {
    sql: Sql,
    token: Vec<u8>,
    fails_at: i32,
    /// Rows that have been sent.
    at: i32,
    done: bool,
}

/// A COPY that waits for data.
#[derive(Debug, Clone)]
struct Copying {
    lines: usize,
    /// Statements of the same Query behind it; none for Execute.
    rest: Option<VecDeque<Sql>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Block {
    #[default]
    None,
    Open,
    Failed,
}

/// A backend after its greeting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Postgres {
    input: Vec<u8>,
    /// Answers that are still in its buffer.
    kept: Vec<u8>,
    /// Where in it the last CommandComplete begins.
    tag_at: usize,
    sent: Vec<u8>,
    statements: Vec<(Vec<u8>, Sql)>,
    portals: Vec<(Vec<u8>, Portal)>,
    copying: Option<Copying>,
    block: Block,
    /// A transaction that Sync will end.
    implicit: bool,
    commit_fails: bool,
    shelf_gone: bool,
    /// After an error in the extended protocol, until Sync.
    skipping: bool,
    dead: bool,
}

/// The requests of the extended protocol: their errors are skipped from.
type Outcome = Result<(), &'static [u8; 5]>;

impl Postgres {
    /// Takes bytes of a client.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        if self.dead {
            return;
        }
        if self.input.is_empty() {
            // Mostly whole messages come: they need not be copied.
            let rest = self.read_messages(bytes);
            self.input.extend_from_slice(rest);
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        self.input = self.read_messages(&input).to_vec();
    }

    /// What has left for the client since the last call.
    pub(crate) fn take_sent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
    }

    /// Lets go of what it keeps in its buffer, as a full buffer does.
    pub(crate) fn flush(&mut self) {
        self.sent.append(&mut self.kept);
    }

    /// What it would let go of.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// It has ended the connection.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether any other client may talk to it now.
    pub(crate) fn is_clean(&self) -> bool {
        self.is_idle() && self.sent.is_empty() && self.kept.is_empty()
    }

    /// Nothing is begun: no message, transaction, COPY or skipping.
    pub(crate) fn is_idle(&self) -> bool {
        self.input.is_empty()
            && self.copying.is_none()
            && self.block == Block::None
            && !self.implicit
            && !self.skipping
            && !self.dead
    }

    /// It takes nothing but the data of a COPY.
    pub(crate) fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// It discards everything up to the next Sync.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Names of its prepared statements, without the unnamed one.
    pub(crate) fn prepared(&self) -> impl Iterator<Item = &[u8]> {
        let names = self.statements.iter().map(|(name, _)| name.as_slice());
        names.filter(|name| !name.is_empty())
    }

    fn read_messages<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some(head) = bytes.first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if self.dead || bytes.len() <= length {
                break;
            }
            let (message, rest) = bytes.split_at(length + 1);
            self.message(message[0], &message[5..]);
            bytes = rest;
        }
        bytes
    }

    fn message(&mut self, tag: u8, body: &[u8]) {
        if let Some(copying) = self.copying.take() {
            return self.copy_message(copying, tag, body);
        }
        if self.skipping && tag != b'S' {
            return;
        }
        let outcome = match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => self.execute(body),
            b'C' => self.close(body),
            b'H' if body.is_empty() => {
                self.flush();
                Ok(())
            }
            b'H' => Err(VIOLATION),
            b'S' => return self.sync(body),
            b'Q' => return self.query(body),
            b'F' => return self.fail_query(VIOLATION),
            // Stragglers of a COPY that is over.
            b'd' | b'c' | b'f' => Ok(()),
            other => panic!("the model does not know message {other}"),
        };
        if let Err(code) = outcome {
            self.fail(code);
            self.skipping = true;
        }
    }

    fn parse(&mut self, body: &[u8]) -> Outcome {
        self.implicit = true;
        let (name, rest) = cstr(body)?;
        let (text, types) = cstr(rest)?;
        let count = types.first_chunk().copied().map(u16::from_be_bytes);
        if count.map(|count| 2 + 4 * usize::from(count)) != Some(types.len()) {
            return Err(VIOLATION);
        }
        if name.is_empty() {
            self.drop_statement(b"");
        }
        let mut all = Sql::read(text).ok_or(SYNTAX_ERROR)?;
        let sql = all.pop_front().ok_or(SYNTAX_ERROR)?;
        if !all.is_empty() {
            return Err(SYNTAX_ERROR);
        }
        let allowed = matches!(sql, Sql::Commit | Sql::Rollback | Sql::Nothing);
        if self.block == Block::Failed && !allowed {
            return Err(FAILED_BLOCK);
        }
        if sql == (Sql::Rows { shelf: true }) && self.shelf_gone {
            return Err(NO_TABLE);
        }
        if self.statement(name).is_some() {
            return Err(STATEMENT_EXISTS);
        }
        self.statements.push((name.to_vec(), sql));
        self.put(b'1', b"");
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Outcome {
        self.implicit = true;
        let (portal, rest) = cstr(body)?;
        let (name, rest) = cstr(rest)?;
        let sql = self.statement(name).ok_or(NO_STATEMENT)?.clone();
        let values = values(rest).ok_or(VIOLATION)?;
        if values.len() != sql.parameters().len() {
            return Err(VIOLATION);
        }
        if self.block == Block::Failed {
            return Err(FAILED_BLOCK);
        }
        let fails_at = match values.get(1) {
            Some(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or(BAD_VALUE)?,
            None => 0,
        };
        match sql {
            Sql::Rows { shelf: true } if self.shelf_gone => return Err(NO_TABLE),
            Sql::DivideByZero => return Err(DIVISION_BY_ZERO),
            _ => {}
        }
        let token = match &sql {
            Sql::Literal(text) => text.clone(),
            _ => values.first().map_or_else(Vec::new, |value| value.to_vec()),
        };
        self.portals.retain(|(name, _)| name != portal);
        let bound = Portal {
            sql,
            token,
            fails_at,
            at: 0,
            done: false,
        };
        self.portals.push((portal.to_vec(), bound));
        self.put(b'2', b"");
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Outcome {
        self.implicit = true;
        let (kind, name) = target(body)?;
        let sql = match kind {
            b'S' => self.statement(name).ok_or(NO_STATEMENT)?.clone(),
            _ => self.portal(name)?.sql.clone(),
        };
        if self.block == Block::Failed && sql.column().is_some() {
            return Err(FAILED_BLOCK);
        }
        if kind == b'S' {
            let kinds = sql.parameters();
            let mut body = (kinds.len() as u16).to_be_bytes().to_vec();
            kinds
                .iter()
                .for_each(|kind| body.extend(kind.to_be_bytes()));
            self.put(b't', &body);
            if sql == (Sql::Rows { shelf: true }) && self.shelf_gone {
                return Err(NO_TABLE);
            }
        }
        match sql.column() {
            Some(kind) => self.put_column(kind),
            None => self.put(b'n', b""),
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Outcome {
        self.implicit = true;
        let (name, rest) = cstr(body)?;
        let limit = i32::from_be_bytes(rest.try_into().map_err(|_| VIOLATION)?);
        let mut portal = self.portal(name)?.clone();
        let outcome = self.run_portal(&mut portal, limit);
        if let Some((_, kept)) = self.portals.iter_mut().find(|(own, _)| own == name) {
            *kept = portal;
        }
        outcome
    }

    fn run_portal(&mut self, portal: &mut Portal, limit: i32) -> Outcome {
        let rows = match portal.sql {
            Sql::Rows { .. } => 2,
            Sql::Literal(_) => 1,
            _ if portal.done => return Err(PORTAL_DONE),
            _ => {
                portal.done = true;
                return self.run_command(&portal.sql, None);
            }
        };
        let mut count = 0;
        while portal.at < rows {
            portal.at += 1;
            if portal.at == portal.fails_at {
                return Err(DIVISION_BY_ZERO);
            }
            let zero: &[u8] = if rows == 2 { b"0" } else { b"" };
            self.put_row(&[&portal.token, zero].concat());
            count += 1;
            if count == limit {
                self.put(b's', b"");
                return Ok(());
            }
        }
        self.put_tag(&format!("SELECT {count}"));
        Ok(())
    }

    /// Runs what has no rows; `rest` is what follows it in a Query.
    fn run_command(&mut self, sql: &Sql, rest: Option<VecDeque<Sql>>) -> Outcome {
        let tag = match sql {
            Sql::Copy => {
                self.put(b'G', &[0, 0, 1, 0, 0]);
                self.flush();
                self.copying = Some(Copying { lines: 0, rest });
                return Ok(());
            }
            Sql::Twice => {
                self.commit_fails = true;
                "INSERT 0 2"
            }
            Sql::DropShelf => {
                self.shelf_gone = true;
                "DROP TABLE"
            }
            Sql::DeallocateAll => {
                self.statements.retain(|(name, _)| name.is_empty());
                "DEALLOCATE ALL"
            }
            Sql::Prepare(name, _) if self.statement(name).is_some() => {
                return Err(STATEMENT_EXISTS);
            }
            Sql::Prepare(name, sql) => {
                self.statements.push((name.clone(), (**sql).clone()));
                "PREPARE"
            }
            Sql::Deallocate(name) if self.statement(name).is_none() => {
                return Err(NO_STATEMENT);
            }
            Sql::Deallocate(name) => {
                self.drop_statement(name);
                "DEALLOCATE"
            }
            Sql::Begin => {
                self.block = Block::Open;
                "BEGIN"
            }
            Sql::Commit | Sql::Rollback => {
                let failed = self.block == Block::Failed || *sql == Sql::Rollback;
                self.block = Block::None;
                self.commit_fails &= !failed;
                if failed { "ROLLBACK" } else { "COMMIT" }
            }
            Sql::Rows { .. }
            | Sql::Literal(_)
            | Sql::DivideByZero
            | Sql::Execute(_)
            | Sql::Nothing => return Err(VIOLATION),
        };
        self.put_tag(tag);
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Outcome {
        let (kind, name) = target(body)?;
        match kind {
            b'S' => self.drop_statement(name),
            _ => self.portals.retain(|(own, _)| own != name),
        }
        self.put(b'3', b"");
        Ok(())
    }

    fn sync(&mut self, body: &[u8]) {
        self.skipping = false;
        match body.is_empty() {
            true => self.end_of_transaction(),
            false => self.fail_query(VIOLATION),
        }
    }

    fn query(&mut self, body: &[u8]) {
        let Ok((text, b"")) = cstr(body) else {
            return self.fail_query(VIOLATION);
        };
        self.drop_statement(b"");
        self.portals.retain(|(name, _)| !name.is_empty());
        match Sql::read(text) {
            Some(all) => self.run_query(all),
            None => self.fail_query(SYNTAX_ERROR),
        }
    }

    fn fail_query(&mut self, code: &[u8; 5]) {
        self.fail(code);
        self.ready();
    }

    fn run_query(&mut self, mut all: VecDeque<Sql>) {
        while let Some(sql) = all.pop_front() {
            let outcome = match &sql {
                _ if self.block == Block::Failed && !matches!(sql, Sql::Commit | Sql::Rollback) => {
                    Err(FAILED_BLOCK)
                }
                Sql::Literal(text) => {
                    self.put_column(25);
                    self.put_row(text);
                    self.put_tag("SELECT 1");
                    Ok(())
                }
                Sql::Execute(name) => self.execute_literal(&name.clone()),
                Sql::DivideByZero => Err(DIVISION_BY_ZERO),
                Sql::Copy => {
                    let rest = std::mem::take(&mut all);
                    let begun = self.run_command(&sql, Some(rest));
                    debug_assert!(begun.is_ok(), "COPY begins");
                    return;
                }
                _ => self.run_command(&sql, None),
            };
            if let Err(code) = outcome {
                return self.fail_query(code);
            }
        }
        if self.block == Block::None && self.commit_fails {
            // The last statement is not complete until it is committed.
            self.kept.truncate(self.tag_at);
        }
        self.end_of_transaction();
    }

    /// EXECUTE of a statement without parameters.
    fn execute_literal(&mut self, name: &[u8]) -> Outcome {
        match self.statement(name).cloned() {
            Some(Sql::Literal(text)) => {
                self.put_column(25);
                self.put_row(&text);
                self.put_tag("SELECT 1");
                Ok(())
            }
            Some(_) => Err(VIOLATION),
            None => Err(NO_STATEMENT),
        }
    }

    /// While a COPY waits for data other messages are read by the COPY.
    fn copy_message(&mut self, mut copying: Copying, tag: u8, body: &[u8]) {
        match tag {
            b'd' if body.contains(&b'\t') => self.fail_copy(&copying, BAD_COPY_LINE),
            b'd' => {
                copying.lines += body.iter().filter(|&&byte| byte == b'\n').count();
                self.copying = Some(copying);
            }
            b'c' => {
                self.put_tag(&format!("COPY {}", copying.lines));
                if let Some(rest) = copying.rest {
                    self.run_query(rest);
                }
            }
            b'f' => self.fail_copy(&copying, COPY_FAILED),
            b'H' | b'S' => self.copying = Some(copying),
            _ => {
                // The body of the message has not been read, so the server
                // has lost its place.
                self.fail(VIOLATION);
                self.put_error("FATAL", VIOLATION);
                self.flush();
                self.dead = true;
            }
        }
    }

    fn fail_copy(&mut self, copying: &Copying, code: &[u8; 5]) {
        self.fail(code);
        match copying.rest {
            Some(_) => self.ready(),
            None => self.skipping = true,
        }
    }

    /// Sends the error and gives up the transaction.
    fn fail(&mut self, code: &[u8; 5]) {
        self.put_error("ERROR", code);
        self.flush();
        self.portals.clear();
        self.implicit = false;
        self.commit_fails = false;
        if self.block == Block::Open {
            self.block = Block::Failed;
        }
    }

    fn end_of_transaction(&mut self) {
        if self.block == Block::None {
            self.portals.clear();
            self.implicit = false;
            if self.commit_fails {
                self.fail(NOT_UNIQUE);
            }
        }
        self.ready();
    }

    fn ready(&mut self) {
        self.implicit = false;
        let status = match self.block {
            Block::None => b"I",
            Block::Open => b"T",
            Block::Failed => b"E",
        };
        self.put(b'Z', status);
        self.flush();
    }

    fn statement(&self, name: &[u8]) -> Option<&Sql> {
        let found = self.statements.iter().find(|(own, _)| own == name);
        found.map(|(_, sql)| sql)
    }

    fn drop_statement(&mut self, name: &[u8]) {
        self.statements.retain(|(own, _)| own != name);
    }

    fn portal(&self, name: &[u8]) -> Result<&Portal, &'static [u8; 5]> {
        let found = self.portals.iter().find(|(own, _)| own == name);
        found.map(|(_, portal)| portal).ok_or(NO_PORTAL)
    }

    fn put(&mut self, tag: u8, body: &[u8]) {
        self.kept.push(tag);
        let length = body.len() as u32 + 4;
        self.kept.extend_from_slice(&length.to_be_bytes());
        self.kept.extend_from_slice(body);
    }

    fn put_tag(&mut self, tag: &str) {
        self.tag_at = self.kept.len();
        self.put(b'C', &[tag.as_bytes(), b"\0"].concat());
    }

    fn put_row(&mut self, value: &[u8]) {
        let length = value.len() as u32;
        self.put(b'D', &[&[0, 1][..], &length.to_be_bytes(), value].concat());
    }

    fn put_column(&mut self, kind: u32) {
        let size: i16 = if kind == 23 { 4 } else { -1 };
        let body = [
            &b"\0\x01?column?\0\0\0\0\0\0\0"[..],
            &kind.to_be_bytes(),
            &size.to_be_bytes(),
            &(-1_i32).to_be_bytes(),
            &[0, 0],
        ];
        self.put(b'T', &body.concat());
    }

    fn put_error(&mut self, severity: &str, code: &[u8; 5]) {
        let body = [b"S", severity.as_bytes(), b"\0C", code, b"\0Mno\0\0"];
        self.put(b'E', &body.concat());
    }
}

/// A string and what follows it.
fn cstr(body: &[u8]) -> Result<(&[u8], &[u8]), &'static [u8; 5]> {
    let end = body.iter().position(|&byte| byte == 0).ok_or(VIOLATION)?;
    Ok((&body[..end], &body[end + 1..]))
}

/// What a Describe or Close is about.
fn target(body: &[u8]) -> Result<(u8, &[u8]), &'static [u8; 5]> {
    let (&kind, rest) = body.split_first().ok_or(VIOLATION)?;
    match (kind, cstr(rest)?) {
        (b'S' | b'P', (name, b"")) => Ok((kind, name)),
        _ => Err(VIOLATION),
    }
}

/// The values of a Bind without format codes.
fn values(body: &[u8]) -> Option<Vec<&[u8]>> {
    let (head, mut rest) = body.split_first_chunk::<4>()?;
    let count = match head {
        [0, 0, high, low] => u16::from_be_bytes([*high, *low]),
        _ => return None,
    };
    let mut values = Vec::new();
    for _ in 0..count {
        let (length, behind) = rest.split_first_chunk()?;
        let (value, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        values.push(value);
        rest = behind;
    }
    (rest == [0, 0]).then_some(values)
}
