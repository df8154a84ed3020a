//! What a server still owes, in the order it owes it.
//!
//! The worst bug of a pooler is to give a server back while it owes bytes.
//! Every request that will be answered is an entry of this queue; every
//! message of the server must be one that its front entry may get. A server
//! whose answers do not fit is broken, and one that [`Answers::is_settled`]
//! does not call settled is never reused.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::stats::Micros;
use crate::wire::TransactionStatus;
use crate::wire::backend as msg;

use super::script::{Effect, Script, without_position};
use super::seeded::{Bug, planted};
use super::statements::{Presence, Statement, Undone};

/// A request and how its answer is treated.
#[derive(Debug)]
pub enum Owed {
    /// Query: answered until ReadyForQuery. With what it does with prepared
    /// statements, if it names any.
    Query(Meter, Option<Box<Script>>),
    /// FunctionCall: answered until ReadyForQuery.
    FunctionCall,
    /// Sync: answered by ReadyForQuery.
    Sync,
    /// A Sync of the pooler's own; the client gets its ReadyForQuery only for
    /// one that it is owed, see [`Answers::has_asked`].
    OwnSync {
        /// The client gets it.
        forward: bool,
    },
    /// Parse, Bind and Execute of the pooler's own that run a PREPARE: nothing
    /// but an error is passed on.
    Prepare(Box<Tracked>),
    /// A Query of the pooler's own: nothing of its answer is passed on.
    Internal,
    /// Parse: ParseComplete.
    Parse(Answer, Option<Box<Tracked>>),
    /// Bind: BindComplete. With its statement if that is tracked.
    Bind(Option<Arc<Statement>>),
    /// Describe: RowDescription or NoData, for statements after a
    /// ParameterDescription. With its statement if that is tracked.
    Describe(Option<Arc<Statement>>),
    /// Execute: CommandComplete, EmptyQueryResponse or PortalSuspended. With
    /// what it does with prepared statements, if it names any.
    Execute(Meter, Option<Box<Script>>),
    /// Close: CloseComplete.
    Close(Answer, Option<Box<Tracked>>),
    /// CopyDone or CopyFail: not answered itself, but it ends the copy in
    /// front of it.
    CopyEnd,
}

impl Owed {
    /// The request was never sent.
    fn is_fake(&self) -> bool {
        matches!(
            self,
            Owed::Parse(Answer::Fake, _) | Owed::Close(Answer::Fake, _)
        )
    }
}

/// What the client gets of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The server's answer.
    Forward,
    /// Nothing: the request was the pooler's own.
    Swallow,
    /// An answer made by the pooler: the request was never sent.
    Fake,
}

/// The tracked statement a Parse or Close is about, so that it can be undone
/// if the server discards it.
#[derive(Debug)]
pub struct Tracked {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The client's name for it; none when the pooler asked for itself.
    pub client_name: Option<Box<[u8]>>,
    /// What the client's name meant before.
    pub before: Option<Arc<Statement>>,
}

/// What is measured about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// The statement's slot in the query statistics.
    pub slot: u32,
    /// When it was sent.
    pub start: Micros,
}

/// What to do with one message of the server.
#[derive(Debug, Default)]
pub struct Step {
    /// The client gets it.
    pub forward: bool,
    /// The request that has been answered with it.
    pub finished: Option<Meter>,
    /// It is a ReadyForQuery.
    pub ready: bool,
    /// The pooler's own Query has failed.
    pub internal_failed: bool,
    /// Requests were discarded because of an error.
    pub discarded: bool,
    /// What the pooler has asked ahead of a client's request was refused: the
    /// client has its error and gets its ReadyForQuery.
    pub refused: bool,
    /// The tracked statement that the server has now.
    pub parsed: Option<Arc<Statement>>,
    /// The tracked statement that the server has no more.
    pub closed: Option<Arc<Statement>>,
}

/// A message that the front of the queue cannot get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unexpected(pub u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Copying {
    #[default]
    No,
    In {
        /// The client has sent CopyDone or CopyFail.
        ended: bool,
        /// Syncs that came while copying: the server ignores them, unless the
        /// copy fails before they are read.
        swallowed: u32,
    },
    Out,
    Both,
}

/// The queue of owed responses of one server connection.
#[derive(Debug, Default)]
pub struct Answers {
    pub(super) queue: VecDeque<Owed>,
    pub(super) status: TransactionStatus,
    pub(super) copying: Copying,
    pub(super) skipping: bool,
    pub(super) unsynced: bool,
    /// Syncs of which it is not known whether a failed copy has swallowed
    /// them: so many ReadyForQuery may come or not.
    pub(super) doubt: u32,
    pub(super) tainted: bool,
    pub(super) condemned: bool,
}

impl Answers {
    /// Nothing owed, nothing half done, no transaction: the client does not
    /// need this server any more.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty()
            && self.status == TransactionStatus::Idle
            && self.copying == Copying::No
            && !self.skipping
            && (!self.unsynced || planted(Bug::UnsyncedIsSettled))
            && self.doubt == 0
            && !self.tainted
    }

    /// Nothing is owed; a transaction may be open.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The client has sent requests that it has not closed with a Sync: the
    /// server may keep their answers to itself for ever.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// The status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    pub(super) fn set_status(&mut self, status: TransactionStatus) {
        self.status = status;
    }

    /// After an error in the extended protocol the server discards every
    /// message up to the next Sync, simple queries included.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The pooler's own query is being answered.
    pub fn is_internal(&self) -> bool {
        matches!(
            self.queue.front(),
            Some(Owed::Internal | Owed::Prepare(_) | Owed::OwnSync { forward: false })
        )
    }

    /// The pooler has asked something ahead of the client's next request,
    /// which waits for the answer.
    pub fn has_asked(&self) -> bool {
        matches!(self.queue.back(), Some(Owed::OwnSync { .. }))
    }

    /// What the request that is being answered does with prepared statements.
    pub fn script(&mut self) -> Option<&mut Script> {
        match self.queue.front_mut() {
            Some(Owed::Query(_, script) | Owed::Execute(_, script)) => script.as_deref_mut(),
            _ => None,
        }
    }

    /// What the statement that has just ended has done with prepared ones, by
    /// the text of its request.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.script()?.effects.pop_front()
    }

    /// A client's text is being answered, not one of the pooler's own.
    pub fn is_clients(&self) -> bool {
        matches!(
            self.queue.front(),
            Some(Owed::Query(..) | Owed::Execute(..))
        )
    }

    /// The tracked statements that the request being answered uses.
    pub fn used(&self) -> &[Arc<Statement>] {
        match self.queue.front() {
            Some(Owed::Bind(Some(statement)) | Owed::Describe(Some(statement))) => {
                std::slice::from_ref(statement)
            }
            Some(Owed::Query(_, Some(script)) | Owed::Execute(_, Some(script))) => &script.needs,
            _ => &[],
        }
    }

    /// A Bind has been sent that is not answered yet.
    pub fn owes_bind(&self) -> bool {
        self.queue.iter().any(|owed| matches!(owed, Owed::Bind(_)))
    }

    /// Nothing is owed but what the pooler answers itself.
    pub fn owes_only_fakes(&self) -> bool {
        self.queue.iter().all(|owed| {
            matches!(
                owed,
                Owed::Parse(Answer::Fake, _) | Owed::Close(Answer::Fake, _)
            )
        })
    }

    /// The statement that the request being answered uses, if the client will
    /// be told what columns it has before any row comes.
    pub fn described(&self) -> Option<&Arc<Statement>> {
        match (self.queue.front()?, self.queue.get(1)) {
            (Owed::Describe(statement), _) | (Owed::Bind(statement), Some(Owed::Describe(_))) => {
                statement.as_ref()
            }
            _ => None,
        }
    }

    /// The batch is going to be sent again, behind its own or another Sync and
    /// requests of the pooler's: so the same is owed once more.
    pub fn repeat(&mut self, own: Vec<Owed>) {
        own.into_iter()
            .rev()
            .for_each(|owed| self.queue.push_front(owed));
        self.queue.push_front(Owed::OwnSync { forward: false });
    }

    /// What the client gets instead of the ErrorResponse with this body, if
    /// its words are about something the client has not said.
    pub fn reword(&self, body: &[u8]) -> Option<Vec<u8>> {
        match self.queue.front()? {
            Owed::Query(_, Some(script)) | Owed::Execute(_, Some(script)) => {
                Some(script.reword(body))
            }
            Owed::Prepare(_) => Some(without_position(body)),
            Owed::Parse(Answer::Swallow, _) if self.has_asked() => Some(without_position(body)),
            _ => None,
        }
    }

    /// What requests on their way make of a statement; none if there are none
    /// about it. Those of an earlier batch may be discarded or not.
    pub fn pending(&self, statement: &Arc<Statement>) -> Option<Presence> {
        let mut earlier_batch = false;
        for owed in self.queue.iter().rev() {
            let (tracked, presence) = match owed {
                Owed::Sync | Owed::OwnSync { .. } => {
                    earlier_batch = true;
                    continue;
                }
                Owed::Parse(Answer::Forward | Answer::Swallow, Some(tracked))
                | Owed::Prepare(tracked) => (tracked, Presence::Present),
                Owed::Close(Answer::Swallow, Some(tracked)) => (tracked, Presence::Absent),
                _ => continue,
            };
            if Arc::ptr_eq(&tracked.statement, statement) {
                return Some(match earlier_batch {
                    true => Presence::Doubtful,
                    false => presence,
                });
            }
        }
        None
    }

    /// The statement of the last request on its way that makes or closes one
    /// under this name of the client's.
    pub fn about(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.queue.iter().rev().find_map(|owed| match owed {
            Owed::Parse(_, Some(tracked)) | Owed::Close(_, Some(tracked))
                if tracked.client_name.as_deref() == Some(name) =>
            {
                Some(&tracked.statement)
            }
            _ => None,
        })
    }

    /// The next request on its way about the same name takes over what has to
    /// be restored: it has the last word on the name, unless it is discarded
    /// too. Answers what no request takes.
    pub fn put_off(&mut self, undone: Undone) -> Option<Undone> {
        let next = self.queue.iter_mut().find_map(|owed| match owed {
            Owed::Parse(_, Some(tracked)) | Owed::Close(_, Some(tracked)) => tracked
                .client_name
                .as_ref()
                .is_some_and(|name| *name == undone.name)
                .then_some(tracked),
            _ => None,
        });
        match next {
            Some(next) => {
                next.before = undone.before;
                None
            }
            None => Some(undone),
        }
    }

    /// All that is owed goes to the client as it comes.
    pub fn is_verbatim(&self) -> bool {
        self.queue.iter().all(|owed| match owed {
            Owed::Parse(answer, _) | Owed::Close(answer, _) => *answer == Answer::Forward,
            Owed::Query(_, script) | Owed::Execute(_, script) => script.is_none(),
            Owed::OwnSync { .. } | Owed::Prepare(_) | Owed::Internal => false,
            _ => true,
        })
    }

    /// The server waits for copy data and takes no other message.
    pub fn is_copying_in(&self) -> bool {
        matches!(
            self.copying,
            Copying::In { ended: false, .. } | Copying::Both
        )
    }

    /// What the server has made of prepared statements cannot be told any
    /// more: when it is settled it is closed.
    pub fn condemn(&mut self) {
        self.condemned = true;
    }

    /// It is not for another client, though it may be settled.
    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// Adds a request other than Sync and the ends of copies.
    pub fn push(&mut self, owed: Owed) {
        self.tainted |= self.doubt > 0;
        match owed {
            // Their ReadyForQuery ends what came before without a Sync.
            Owed::Query(..) | Owed::FunctionCall | Owed::Internal | Owed::OwnSync { .. } => {
                self.unsynced = false;
            }
            _ => self.unsynced = true,
        }
        self.queue.push_back(owed);
    }

    /// Adds a Sync.
    pub fn push_sync(&mut self) {
        if let Copying::In {
            ended: false,
            swallowed,
        } = &mut self.copying
        {
            *swallowed += 1;
            self.unsynced = matches!(self.queue.front(), Some(Owed::Execute(..)));
            return;
        }
        // Whose answer comes next cannot be told any more.
        self.tainted |= self.doubt > 0;
        if std::mem::take(&mut self.skipping) && planted(Bug::SyncOfSkippedForgotten) {
            return;
        }
        self.unsynced = false;
        self.queue.push_back(Owed::Sync);
    }

    /// Notes a CopyDone or CopyFail of the client.
    pub fn push_copy_end(&mut self) {
        match &mut self.copying {
            Copying::In { ended, .. } => *ended = true,
            // The server goes on until it ends its side.
            Copying::Both => self.copying = Copying::Out,
            Copying::No | Copying::Out => {}
        }
        if !self.queue.is_empty() {
            self.queue.push_back(Owed::CopyEnd);
        }
    }

    /// Takes the next answer that the pooler makes itself, if its turn has
    /// come.
    #[inline]
    pub fn next_fake(&mut self) -> Option<&'static [u8]> {
        self.drop_copy_ends();
        if planted(Bug::FakesOvertake) {
            let at = self.queue.iter().position(Owed::is_fake)?;
            self.queue.swap(0, at);
        }
        let answer = match self.queue.front()? {
            Owed::Parse(Answer::Fake, _) => msg::PARSE_COMPLETE_MESSAGE,
            Owed::Close(Answer::Fake, _) => msg::CLOSE_COMPLETE_MESSAGE,
            _ => return None,
        };
        self.queue.pop_front();
        Some(answer)
    }

    /// Accounts for a message of the server. All fakes whose turn has come
    /// must have been taken before. `status` is the byte of a ReadyForQuery.
    /// Requests that the server discards because of an error are handed to
    /// `discarded`.
    ///
    /// # Errors
    /// [`Unexpected`] when no owed answer begins or goes on with this message.
    pub fn on_message(
        &mut self,
        tag: u8,
        status: Option<TransactionStatus>,
        discarded: impl FnMut(Owed),
    ) -> Result<Step, Unexpected> {
        self.drop_copy_ends();
        match tag {
            msg::NOTICE_RESPONSE | msg::PARAMETER_STATUS | msg::NOTIFICATION_RESPONSE => {
                Ok(self.step())
            }
            msg::ERROR_RESPONSE => Ok(self.on_error(discarded)),
            msg::READY_FOR_QUERY => self.on_ready(status.ok_or(Unexpected(tag))?),
            _ => self.on_answer(tag),
        }
    }

    /// A message that changes nothing and passes: rows and what heads them.
    /// Most of what servers send is that.
    #[inline]
    pub fn passes(&self, tag: u8) -> bool {
        self.copying == Copying::No
            && match self.queue.front() {
                Some(Owed::Query(..)) => matches!(tag, msg::DATA_ROW | msg::ROW_DESCRIPTION),
                Some(Owed::Execute(..)) => tag == msg::DATA_ROW,
                _ => false,
            }
    }

    fn step(&self) -> Step {
        Step {
            forward: !self.is_internal(),
            ..Step::default()
        }
    }

    fn on_error(&mut self, discarded: impl FnMut(Owed)) -> Step {
        let mut step = self.step();
        if let Copying::In { swallowed, .. } = self.copying {
            // Whether they are answered depends on when the copy failed; and
            // on that, which of the requests behind them are discarded.
            self.doubt += swallowed;
            let mut behind = self.queue.iter().skip(1);
            self.tainted |= swallowed > 0 && behind.any(|owed| !matches!(owed, Owed::CopyEnd));
        }
        if !planted(Bug::CopyOutlivesError) {
            self.copying = Copying::No;
        }
        match self.queue.front() {
            // An error nobody asked for announces the end of the connection.
            None => self.tainted = true,
            Some(Owed::Internal) => step.internal_failed = true,
            Some(Owed::Query(_, Some(script))) => self.condemned |= script.hides_last(),
            Some(Owed::Query(..) | Owed::FunctionCall | Owed::Sync | Owed::OwnSync { .. }) => {}
            front => {
                if let Some(Owed::Execute(meter, _)) = front {
                    step.finished = Some(*meter);
                }
                // Whoever it is that asked, the client's request ends with it.
                step.forward = true;
                step.discarded = true;
                self.discard_until_sync(discarded);
                if let Some(Owed::OwnSync { forward }) = self.queue.front_mut() {
                    *forward = true;
                    step.refused = true;
                }
            }
        }
        step
    }

    fn discard_until_sync(&mut self, discarded: impl FnMut(Owed)) {
        let ends = |owed: &Owed| match owed {
            Owed::Sync | Owed::OwnSync { .. } => true,
            Owed::Query(..) => planted(Bug::QueryOutlivesError),
            _ => false,
        };
        let sync = self.queue.iter().position(ends);
        self.skipping = sync.is_none();
        let count = match planted(Bug::ErrorDiscardsOne) {
            true => 1,
            false => sync.unwrap_or(self.queue.len()),
        };
        // Latest first: what they would have done is undone step by step.
        self.queue.drain(..count).rev().for_each(discarded);
    }

    fn on_ready(&mut self, status: TransactionStatus) -> Result<Step, Unexpected> {
        let mut step = self.step();
        step.ready = true;
        match self.queue.pop_front() {
            None if self.doubt > 0 => {
                self.doubt -= 1;
                self.skipping = false;
                self.unsynced = false;
            }
            Some(Owed::Query(meter, _)) => step.finished = Some(meter),
            Some(Owed::FunctionCall | Owed::Sync | Owed::OwnSync { .. } | Owed::Internal) => {}
            other => {
                self.queue.extend(other);
                return Err(Unexpected(msg::READY_FOR_QUERY));
            }
        }
        if planted(Bug::FirstReadyIsLast) {
            self.queue.clear();
        }
        if !planted(Bug::CopyOutlivesError) {
            self.copying = Copying::No;
        }
        self.status = status;
        self.drop_copy_ends();
        Ok(step)
    }

    fn on_answer(&mut self, tag: u8) -> Result<Step, Unexpected> {
        let mut step = self.step();
        let front = self.queue.front().ok_or(Unexpected(tag))?;
        match (front, tag) {
            (Owed::Parse(answer, tracked), msg::PARSE_COMPLETE) => {
                step.forward = *answer == Answer::Forward || planted(Bug::SwallowedForwarded);
                if let Some(tracked) = tracked {
                    tracked.statement.prove();
                    step.parsed = Some(tracked.statement.clone());
                }
                self.queue.pop_front();
            }
            (Owed::Close(answer, tracked), msg::CLOSE_COMPLETE) => {
                step.forward = *answer == Answer::Forward;
                step.closed = tracked.as_ref().map(|tracked| tracked.statement.clone());
                self.queue.pop_front();
            }
            (Owed::Bind(_), msg::BIND_COMPLETE)
            | (Owed::Describe(_), msg::ROW_DESCRIPTION | msg::NO_DATA) => {
                self.queue.pop_front();
            }
            (Owed::Describe(_), msg::PARAMETER_DESCRIPTION) => {}
            (Owed::Prepare(_), msg::PARSE_COMPLETE | msg::BIND_COMPLETE) => {}
            (Owed::Prepare(tracked), msg::COMMAND_COMPLETE) => {
                step.parsed = Some(tracked.statement.clone());
                self.queue.pop_front();
            }
            (Owed::Execute(meter, _), msg::COMMAND_COMPLETE)
            | (Owed::Execute(meter, _), msg::EMPTY_QUERY_RESPONSE | msg::PORTAL_SUSPENDED) => {
                step.finished = Some(*meter);
                self.copying = Copying::No;
                self.queue.pop_front();
            }
            (Owed::Query(..), msg::COMMAND_COMPLETE) => self.end_copy_of_query(),
            (Owed::FunctionCall, msg::FUNCTION_CALL_RESPONSE) => {}
            (Owed::Execute(..) | Owed::Query(..) | Owed::Internal, _) => self.on_result(tag)?,
            _ => return Err(Unexpected(tag)),
        }
        Ok(step)
    }

    /// Messages in the middle of what Query and Execute are answered with.
    fn on_result(&mut self, tag: u8) -> Result<(), Unexpected> {
        match (tag, self.copying) {
            // After a copy both ways the end of a timeline is told in a row.
            (msg::DATA_ROW, Copying::No | Copying::In { ended: true, .. }) => {}
            (msg::ROW_DESCRIPTION | msg::EMPTY_QUERY_RESPONSE | msg::COMMAND_COMPLETE, _)
                if !matches!(self.queue.front(), Some(Owed::Execute(..))) => {}
            (msg::COPY_IN_RESPONSE, Copying::No) => self.begin_copy_in(),
            (msg::COPY_OUT_RESPONSE, Copying::No) => self.copying = Copying::Out,
            (msg::COPY_BOTH_RESPONSE, Copying::No) => {
                self.copying = match self.queue.get(1) {
                    Some(Owed::CopyEnd) => Copying::Out,
                    _ => Copying::Both,
                };
            }
            (msg::COPY_DATA, Copying::Out | Copying::Both) => {}
            // A base backup's is followed by rows.
            (msg::COPY_DONE, Copying::Out) => self.copying = Copying::No,
            (msg::COPY_DONE, Copying::Both) => {
                self.copying = Copying::In {
                    ended: false,
                    swallowed: 0,
                };
            }
            _ => return Err(Unexpected(tag)),
        }
        Ok(())
    }

    /// Syncs sent ahead of the copy data are ignored by the server: they are
    /// not owed an answer any more. What the pooler answers itself the server
    /// does not see.
    fn begin_copy_in(&mut self) {
        let (mut next, mut swallowed) = (1, 0);
        loop {
            match self.queue.get(next) {
                Some(Owed::Sync) if !planted(Bug::SyncOfCopyAwaited) => {
                    self.queue.remove(next);
                    swallowed += 1;
                }
                Some(owed) if owed.is_fake() => next += 1,
                _ => break,
            }
        }
        if swallowed > 0 {
            let closes =
                |owed: &&Owed| matches!(owed, Owed::Sync | Owed::Query(..) | Owed::FunctionCall);
            let open = self.queue.iter().rev().take_while(|owed| !closes(owed));
            let mut requests = open.filter(|owed| !matches!(owed, Owed::CopyEnd));
            self.unsynced = requests.next().is_some();
        }
        self.copying = Copying::In {
            ended: matches!(self.queue.get(next), Some(Owed::CopyEnd)),
            swallowed,
        };
    }

    /// One Query may hold several copies, each with its own CopyDone.
    fn end_copy_of_query(&mut self) {
        if let Copying::In { .. } = self.copying
            && let Some(at) = self.queue.iter().position(|o| matches!(o, Owed::CopyEnd))
        {
            self.queue.remove(at);
        }
        self.copying = Copying::No;
    }

    #[inline]
    fn drop_copy_ends(&mut self) {
        while let Some(Owed::CopyEnd) = self.queue.front() {
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
