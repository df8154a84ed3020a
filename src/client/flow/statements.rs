//! Parse, Bind, Describe and Close, and the client's names for statements.

use std::sync::Arc;

use foldhash::HashMap;

use super::script::Unnamed;
use super::step::{Fate, Step, observe};
use super::{ClientFault, Event, Flow, NO_SLOT, Surroundings};
use crate::server::answers::{Answer, Owed, Tracked};
use crate::server::seeded::{Bug, planted};
use crate::server::statements::{Kind, Presence, Statement, Undone};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend;

/// The longest named Parse that is assembled, in bytes.
const MAX_TRACKED_PARSE: usize = 64 << 20;

/// The longest pair of names at the front of a Bind.
pub(super) const MAX_NAMES_LEN: usize = 20_000;

/// A client's statements by its own names for them.
pub(super) type Names = HashMap<Box<[u8]>, Arc<Statement>>;

impl Flow {
    /// Prepares a statement that is known to be good under a new name.
    pub(super) fn parse_unlinked(
        &mut self,
        body: Option<&[u8]>,
        around: &mut impl Surroundings,
    ) -> bool {
        if around.statement_limit() == 0 {
            return false;
        }
        let Some(parse) = body.and_then(frontend::parse) else {
            return false;
        };
        if parse.name.is_empty() || self.lookup(parse.name).is_some() {
            return false;
        }
        let Some(statement) = around.dictionary().proven(parse.definition) else {
            return false;
        };
        around.count(Event::ClientParse);
        self.remember(parse.name, statement);
        true
    }

    pub(super) fn close_unlinked(
        &mut self,
        body: Option<&[u8]>,
        around: &mut impl Surroundings,
    ) -> bool {
        match body.and_then(frontend::target) {
            Some((b'S', name)) if !name.is_empty() && around.statement_limit() > 0 => {
                if let Some(all) = &mut self.statements {
                    all.remove(name);
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn parse(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        let first = step.message.get(HEADER_LEN);
        if first.is_none() && !step.is_whole() {
            return Ok(Fate::Wait);
        }
        let limit = step.around.statement_limit();
        if first.is_none_or(|&byte| byte == 0) || limit == 0 {
            return self.untracked_parse(step);
        }
        if step.header.total() > MAX_TRACKED_PARSE {
            return Err(ClientFault::TooLong);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let parse = frontend::parse(body).ok_or(ClientFault::Broken)?;
        if self.awaits_names(step) {
            return Ok(Fate::Hold);
        }
        if self.lookup(parse.name).is_some() {
            return Err(ClientFault::NameInUse(parse.name.into()));
        }
        let seen = observe(step, parse.query);
        let statement = match seen.mentions {
            true if step.has_to_hold() => return Ok(Fate::Hold),
            true => self.scripted(step, parse, seen.slot)?,
            false => {
                let dictionary = step.around.dictionary();
                dictionary.intern(Kind::Parse, parse.definition, seen.slot)
            }
        };
        step.around.count(Event::ClientParse);
        self.remember(parse.name, statement.clone());
        let tracked = Some(Box::new(Tracked {
            statement: statement.clone(),
            client_name: Some(parse.name.into()),
            before: None,
        }));
        match step.presence(&statement) {
            Presence::Present => step.push(Owed::Parse(Answer::Fake, tracked)),
            presence => {
                let mark = step.server.prepared.clock();
                if let Some(script) = &statement.script {
                    step.provide(&script.needs, limit, mark);
                }
                step.send_parse(&statement, presence, limit, mark);
                step.push(Owed::Parse(Answer::Forward, tracked));
            }
        }
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    /// A Parse that is passed on as it is: unnamed, or names are not tracked.
    fn untracked_parse(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        let body = &step.message[HEADER_LEN..];
        let Some((name, query)) = crate::wire::frame::cstr(body) else {
            if !step.is_whole() && body.len() <= MAX_NAMES_LEN {
                return Ok(Fate::Wait);
            }
            // What is wrong with it is the server's to say.
            step.push(Owed::Parse(Answer::Forward, None));
            return Ok(Fate::Pass);
        };
        if !step.is_legible() {
            return Ok(Fate::Wait);
        }
        let seen = observe(step, query);
        if name.is_empty() {
            self.unnamed_slot = seen.slot;
            if let Some(scripts) = &mut self.scripts {
                scripts.unnamed = Unnamed::Plain;
            }
            if seen.mentions && step.around.statement_limit() > 0 {
                return self.unnamed_script(step, seen.slot);
            }
        }
        step.push(Owed::Parse(Answer::Forward, None));
        Ok(Fate::Pass)
    }

    pub(super) fn bind(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        const BROKEN: ClientFault = ClientFault::Broken;
        let body = &step.message[HEADER_LEN..];
        let limit = step.around.statement_limit();
        let Some(names) = frontend::bind_names(body) else {
            if !step.is_whole() && body.len() <= MAX_NAMES_LEN {
                return Ok(Fate::Wait);
            }
            if limit > 0 {
                return Err(BROKEN);
            }
            step.push(Owed::Bind(None));
            return Ok(Fate::Pass);
        };
        if names.statement.is_empty() || limit == 0 {
            self.bound_slot = match names.statement.is_empty() {
                true => self.unnamed_slot,
                false => NO_SLOT,
            };
            if self.scripts.is_some() {
                let unnamed = names.statement.is_empty();
                self.bind_unnamed_script(step, names.portal, unnamed);
            }
            step.push(Owed::Bind(None));
            return Ok(Fate::Pass);
        }
        if self.awaits_names(step) {
            return Ok(Fate::Hold);
        }
        let statement = self.lookup(names.statement);
        let statement = statement.ok_or(ClientFault::NoSuchStatement)?.clone();
        step.around.count(Event::Bind);
        self.bound_slot = statement.slot;
        step.keep_batch();
        let mark = step.server.prepared.clock();
        step.prepare(&statement, limit);
        if let Some(script) = &statement.script {
            step.make_way(script, limit, mark);
        }
        if self.scripts.is_some() || statement.script.is_some() {
            let scripted = statement.script.is_some().then(|| statement.clone());
            self.bind_script(step, names.portal, scripted);
        }
        let front = HEADER_LEN + body.len() - names.rest.len();
        let rest = step.header.total() - front;
        frontend::put_bind_front(step.out.insert(), names.portal, &statement.name, rest);
        step.push(Owed::Bind(Some(statement)));
        Ok(Fate::Rewritten { front })
    }

    pub(super) fn describe(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        if step.around.statement_limit() == 0 {
            step.push(Owed::Describe(None));
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let broken = ClientFault::Broken;
        let (kind, name) = frontend::target(body).ok_or(broken)?;
        let limit = step.around.statement_limit();
        if kind == b'P' || name.is_empty() {
            step.push(Owed::Describe(None));
            return Ok(Fate::Pass);
        }
        if self.awaits_names(step) {
            return Ok(Fate::Hold);
        }
        let statement = self
            .lookup(name)
            .ok_or(ClientFault::NoSuchStatement)?
            .clone();
        step.keep_batch();
        step.prepare(&statement, limit);
        frontend::put_statement_target(step.out.insert(), frontend::DESCRIBE, &statement.name);
        step.push(Owed::Describe(Some(statement)));
        Ok(Fate::Rewritten {
            front: step.header.total(),
        })
    }

    pub(super) fn close(
        &mut self,
        step: &mut Step<'_, '_, impl Surroundings>,
    ) -> Result<Fate, ClientFault> {
        if step.around.statement_limit() == 0 {
            step.push(Owed::Close(Answer::Forward, None));
            return Ok(Fate::Pass);
        }
        let Some(body) = step.whole_body() else {
            return Ok(Fate::Wait);
        };
        let broken = ClientFault::Broken;
        let (kind, name) = frontend::target(body).ok_or(broken)?;
        if kind == b'P' || name.is_empty() {
            step.push(Owed::Close(Answer::Forward, None));
            return Ok(Fate::Pass);
        }
        if self.awaits_names(step) {
            return Ok(Fate::Hold);
        }
        let before = self.statements.as_mut().and_then(|all| all.remove(name));
        // A Close on its way may yet be discarded, this one not.
        let closed = before
            .clone()
            .or_else(|| step.answers().about(name).cloned());
        let tracked = closed.map(|statement| {
            Box::new(Tracked {
                statement,
                client_name: Some(name.into()),
                before,
            })
        });
        step.push(Owed::Close(Answer::Fake, tracked));
        Ok(Fate::Discard)
    }

    pub(super) fn undo(&mut self, undone: Undone) {
        match undone.before {
            Some(statement) => self.remember(&undone.name, statement),
            None if planted(Bug::FailedParseKeepsName) => {}
            None => {
                if let Some(all) = &mut self.statements {
                    all.remove(&undone.name);
                }
            }
        }
    }

    pub(super) fn forget(&mut self, name: &[u8]) {
        if let Some(all) = &mut self.statements {
            all.remove(name);
        }
    }

    pub(super) fn lookup(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.statements.as_ref()?.get(name)
    }

    pub(super) fn remember(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.statements
            .get_or_insert_default()
            .insert(name.into(), statement);
    }
}
