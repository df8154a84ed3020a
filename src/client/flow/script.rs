//! SQL's PREPARE, EXECUTE and DEALLOCATE in a client's texts.
//!
//! PostgreSQL has one namespace for statements of SQL and of the protocol, so
//! a client's names are kept in one place for both. In its texts they are
//! replaced by the servers' names; what a text has done to them is known from
//! the tags of the server's answers alone.
//!
//! A statement belongs to all clients that have prepared it, so DEALLOCATE is
//! not let at it: the server is given an empty statement to deallocate
//! instead. Another such statement is in the way of a PREPARE whose name the
//! client has already. So every error is PostgreSQL's own.

use std::sync::Arc;

use super::statements::{MAX_NAMES_LEN, Names};
use super::step::{Fate, Step, stand_in};
use super::{ClientFault, Flow, Surroundings};
use crate::gateway::{Act, Mentions, folded};
use crate::server::Answers;
use crate::server::answers::{Answer, Meter, Owed};
use crate::server::script::{Effect, Rename, Script};
use crate::server::statements::{Dictionary, Kind, PREFIX, Statement};
use crate::wire::frame::{HEADER_LEN, cstr};
use crate::wire::frontend::{self, Parse};

/// The longest text that is assembled to be changed, in bytes.
const MAX_SCRIPT: usize = 64 << 20;

/// Statements that one text may name.
const MAX_NAMES: usize = 1000;

/// A name that no statement has.
const NOBODY: &[u8] = b"PGWEIR_NONE";

/// The front of names that only the pooler gives.
const OWN_PREFIX: &[u8] = b"PGWEIR";

/// Portals of one client whose texts name prepared statements.
const MAX_PORTALS: usize = 16;

/// What the unnamed statement and portals are where their texts name prepared
/// statements.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    pub(super) unnamed: Unnamed,
    portals: Vec<(Box<[u8]>, Arc<Statement>)>,
}

/// The text of the unnamed statement.
#[derive(Debug, Default)]
pub(super) enum Unnamed {
    /// It names no statements.
    #[default]
    Plain,
    /// It names some.
    Script(Arc<Statement>),
    /// The server has discarded a Parse, so it is an earlier one, or none.
    Unknown,
}

impl Scripts {
    /// Notes what a Bind makes of a portal. A portal that fails is not
    /// executed, so it need not be undone.
    pub(super) fn bind(&mut self, portal: &[u8], statement: Option<Arc<Statement>>) -> Portals {
        self.portals.retain(|(name, _)| **name != *portal);
        if let Some(statement) = statement {
            if self.portals.len() == MAX_PORTALS {
                return Portals::TooMany;
            }
            self.portals.push((portal.into(), statement));
        }
        Portals::Known
    }

    fn portal(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        let found = self.portals.iter().find(|(portal, _)| **portal == *name);
        found.map(|(_, statement)| statement)
    }
}

/// Whether it is known what all portals do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Portals {
    /// It is.
    Known,
    /// One had no room.
    TooMany,
}

impl Flow {
    /// A Query whose text names prepared statements.
    pub(super) fn script(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
        meter: Meter,
    ) -> Result<Fate, ClientFault> {
        if step.passes_as_it_is() {
            step.push(Owed::Query(meter, None));
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        if step.has_to_hold() {
            return Ok(Fate::Hold);
        }
        let names = self.statements.as_deref();
        let ends_a_batch = step.answers().is_unsynced();
        let dictionary = step.around.dictionary();
        let planned = match cstr(body) {
            Some((text, [])) => plan(text, ends_a_batch, names, dictionary, meter.slot)?,
            // What is wrong with it is the server's to say.
            _ => None,
        };
        let Some((text, script)) = planned else {
            step.push(Owed::Query(meter, None));
            return Ok(Fate::Pass);
        };
        let limit = step.around.statement_limit();
        let mark = step.server.prepared.clock();
        if step.ask_for(&script.needs, limit, mark) {
            return Ok(Fate::Hold);
        }
        step.make_way(&script, limit, mark);
        frontend::put_query(step.out.insert(), &text);
        step.push(Owed::Query(meter, Some(Box::new(script))));
        self.renaming = true;
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    /// Whether it depends on answers what a name means, and they will come.
    pub(super) fn awaits_names(&mut self, step: &Step<'_, '_, impl Surroundings>) -> bool {
        self.renaming &= !step.server.answers.is_empty();
        self.renaming && step.has_to_hold()
    }

    /// An unnamed Parse whose text names prepared statements.
    pub(super) fn unnamed_script(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
        slot: u32,
    ) -> Result<Fate, ClientFault> {
        if step.passes_as_it_is() {
            step.push(Owed::Parse(Answer::Forward, None));
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        if step.has_to_hold() {
            return Ok(Fate::Hold);
        }
        let Some(parse) = frontend::parse(body) else {
            step.push(Owed::Parse(Answer::Forward, None));
            return Ok(Fate::Pass);
        };
        let statement = self.scripted(step, parse, slot)?;
        if let Some(script) = &statement.script {
            let (limit, mark) = (step.around.statement_limit(), step.server.prepared.clock());
            step.provide(&script.needs, limit, mark);
        }
        frontend::put_parse(step.out.insert(), b"", &statement.definition);
        self.scripts.get_or_insert_default().unnamed = Unnamed::Script(statement);
        step.push(Owed::Parse(Answer::Forward, None));
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    /// A Bind of the unnamed statement, or of one whose names are not tracked,
    /// by a client whose texts have named statements.
    pub(super) fn bind_unnamed_script(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
        portal: &[u8],
        is_unnamed: bool,
    ) {
        let unnamed = self.scripts.as_ref().map(|scripts| &scripts.unnamed);
        let statement = match unnamed {
            Some(Unnamed::Script(statement)) if is_unnamed => Some(statement.clone()),
            Some(Unnamed::Unknown) if is_unnamed => {
                step.answers().condemn();
                None
            }
            _ => None,
        };
        if let Some(script) = statement.as_ref().and_then(|it| it.script.as_ref()) {
            let (limit, mark) = (step.around.statement_limit(), step.server.prepared.clock());
            step.provide(&script.needs, limit, mark);
            step.make_way(script, limit, mark);
        }
        self.bind_script(step, portal, statement);
    }

    /// Notes what a Bind makes of a portal.
    pub(super) fn bind_script(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
        portal: &[u8],
        statement: Option<Arc<Statement>>,
    ) {
        let scripts = self.scripts.get_or_insert_default();
        if scripts.bind(portal, statement) == Portals::TooMany {
            step.answers().condemn();
        }
    }

    /// What the portal of an Execute does with prepared statements; none if
    /// more of the message has to come first.
    pub(super) fn executed(
        &self,
        step: &Step<'_, '_, impl Surroundings>,
    ) -> Option<Option<Box<Script>>> {
        let Some(scripts) = self.scripts.as_deref() else {
            return Some(None);
        };
        let body = &step.message[HEADER_LEN..];
        let Some((portal, _)) = cstr(body) else {
            // No name that long has been bound.
            let is_over = step.is_whole() || body.len() > MAX_NAMES_LEN;
            return is_over.then_some(None);
        };
        let statement = scripts.portal(portal);
        Some(statement.and_then(|statement| statement.script.clone()))
    }

    /// The server has discarded what was to become the unnamed statement.
    pub(super) fn lose_unnamed(&mut self, answers: &mut Answers) {
        if let Some(scripts) = &mut self.scripts {
            scripts.unnamed = Unnamed::Unknown;
            if answers.owes_bind() {
                answers.condemn();
            }
        }
    }

    /// The statement of a Parse whose text names prepared statements. What
    /// these names mean is this client's business, so nobody shares it.
    pub(super) fn scripted(
        &self,
        step: &mut Step<'_, '_, impl Surroundings>,
        parse: Parse<'_>,
        slot: u32,
    ) -> Result<Arc<Statement>, ClientFault> {
        let dictionary = step.around.dictionary();
        let names = self.statements.as_deref();
        Ok(match plan(parse.query, false, names, dictionary, slot)? {
            Some((text, script)) => {
                let types = &parse.definition[parse.query.len()..];
                let definition = [&text, types].concat();
                dictionary.own(Kind::Parse, &definition, slot, Some(Box::new(script)))
            }
            None => dictionary.own(Kind::Parse, parse.definition, slot, None),
        })
    }
}

impl<A: Surroundings> Step<'_, '_, A> {
    /// Whether the names in a text stay what they are. In a COPY nothing can be
    /// asked ahead of it; the server does not run it, unless the COPY has just
    /// failed: then it has a statement that is not tracked. Nor is that of a
    /// text which is too long.
    fn passes_as_it_is(&mut self) -> bool {
        let passes = self.answers().is_copying_in() || self.header.total() > MAX_SCRIPT;
        if passes {
            self.answers().condemn();
        }
        passes
    }
}

/// The text with the servers' names, and what it does; none if it names no
/// statement of the client's, makes none, and its tags will tell what it has
/// done. They may not if it `ends_a_batch` of requests without a Sync, whose
/// work is committed with it.
fn plan(
    text: &[u8],
    ends_a_batch: bool,
    names: Option<&Names>,
    dictionary: &Dictionary,
    slot: u32,
) -> Result<Option<(Vec<u8>, Script)>, ClientFault> {
    let mut plan = Plan {
        text,
        names,
        changed: Vec::new(),
        out: Vec::with_capacity(text.len() + 32),
        copied: 0,
        characters: 0,
        script: Script::default(),
    };
    let mut changes_last = None;
    for (count, mention) in Mentions::new(text).enumerate() {
        if count == MAX_NAMES {
            return Err(ClientFault::TooManyNames);
        }
        let rest = &text[mention.rest.clone()];
        changes_last = (mention.act != Act::Execute).then_some(mention.rest.end);
        let name = folded(&text[mention.name.clone()]);
        let known = name.as_deref().and_then(|name| plan.lookup(name));
        let server = match (mention.act, name.as_deref(), known) {
            (Act::DeallocateAll, ..) => {
                plan.names = None;
                plan.changed.clear();
                continue;
            }
            (Act::Prepare, Some(name), None) => {
                Some(plan.prepare(name, rest, dictionary, slot).name.to_vec())
            }
            (Act::Prepare, Some(_), Some(_)) => {
                plan.script.effects.push_back(Effect::Nothing);
                Some(plan.stand_in())
            }
            (Act::Execute, _, Some(statement)) => Some(plan.execute(statement)),
            (Act::Deallocate, Some(name), Some(_)) => {
                plan.script.effects.push_back(Effect::Dropped(name.into()));
                plan.changed.push((name.into(), None));
                Some(plan.stand_in())
            }
            (act, name, _) => {
                match act {
                    Act::Prepare => plan.script.effects.push_back(Effect::Unknown),
                    Act::Execute => {}
                    _ => plan.script.effects.push_back(Effect::Nothing),
                }
                name.is_some_and(is_reserved).then(|| NOBODY.to_vec())
            }
        };
        if let (Some(server), Some(name)) = (server, name) {
            plan.rename(mention.name, &name, &server);
        }
    }
    plan.script.commits_last = changes_last.is_some_and(|end| {
        let is_last = Mentions::is_over(&text[end..]);
        is_last && (ends_a_batch || has_several(text))
    });
    if plan.script.renames.is_empty() && !plan.script.commits_last {
        return Ok(None);
    }
    plan.out.extend_from_slice(&text[plan.copied..]);
    Ok(Some((plan.out, plan.script)))
}

/// Whether a text may be several statements.
fn has_several(text: &[u8]) -> bool {
    let ends = |byte: &u8| *byte == b';' || byte.is_ascii_whitespace();
    let end = text.iter().rposition(|byte| !ends(byte)).unwrap_or(0);
    text[..end].contains(&b';')
}

/// A name, and what it means from now on.
type Change = (Box<[u8]>, Option<Arc<Statement>>);

/// A text that is being changed.
struct Plan<'a> {
    text: &'a [u8],
    names: Option<&'a Names>,
    /// What the statements so far do to names, the last word last.
    changed: Vec<Change>,
    out: Vec<u8>,
    /// Bytes of `text` that are in `out`.
    copied: usize,
    /// So many characters are these.
    characters: usize,
    script: Script,
}

impl Plan<'_> {
    fn lookup(&self, name: &[u8]) -> Option<Arc<Statement>> {
        let changed = self.changed.iter().rev().find(|(own, _)| **own == *name);
        match changed {
            Some((_, now)) => now.clone(),
            None => self.names?.get(name).cloned(),
        }
    }

    fn prepare(
        &mut self,
        name: &[u8],
        definition: &[u8],
        dictionary: &Dictionary,
        slot: u32,
    ) -> Arc<Statement> {
        let mut statement = dictionary.intern(Kind::Sql, definition, slot);
        let used = [&self.script.prepares, &self.script.needs];
        // No text prepares a statement twice, or after it has executed it.
        if used.iter().any(|all| contains(all, &statement)) {
            statement = dictionary.own(Kind::Sql, definition, slot, None);
        }
        let script = &mut self.script;
        script.prepares.push(statement.clone());
        let effect = Effect::Prepared(name.into(), statement.clone());
        script.effects.push_back(effect);
        self.changed.push((name.into(), Some(statement.clone())));
        statement
    }

    fn execute(&mut self, statement: Arc<Statement>) -> Vec<u8> {
        let name = statement.name.to_vec();
        let Script {
            prepares, needs, ..
        } = &mut self.script;
        if !contains(prepares, &statement) && !contains(needs, &statement) {
            needs.push(statement);
        }
        name
    }

    fn stand_in(&mut self) -> Vec<u8> {
        self.script.stand_ins += 1;
        stand_in(self.script.stand_ins - 1)
    }

    /// Puts the server's name in the place of the client's.
    fn rename(&mut self, place: std::ops::Range<usize>, client: &[u8], server: &[u8]) {
        let between = &self.text[self.copied..place.start];
        self.out.extend_from_slice(between);
        self.out.push(b'"');
        self.out.extend_from_slice(server);
        self.out.push(b'"');
        // One name, where the client's text has two in a row.
        let apart = self.text[place.end..].starts_with(b"\"");
        if apart {
            self.out.push(b' ');
        }
        let at = self.characters + characters(between);
        let client_length = characters(&self.text[place.clone()]);
        self.characters = at + client_length;
        self.copied = place.end;
        self.script.renames.push(Rename {
            at,
            client_length,
            server_length: server.len() + 2 + usize::from(apart),
            client: client.into(),
            server: server.into(),
        });
    }
}

fn contains(all: &[Arc<Statement>], statement: &Arc<Statement>) -> bool {
    all.iter().any(|own| Arc::ptr_eq(own, statement))
}

/// Whether a name is one that servers' statements have.
fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes()) || name.starts_with(OWN_PREFIX)
}

/// How many characters of UTF-8 these are; of another encoding, about so many.
fn characters(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}
