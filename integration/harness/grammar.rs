//! What answers a client may get, given what it asked: an automaton that every
//! message of a logged-in [`Wire`](super::wire::Wire) passes through. It knows
//! nothing of a pooler, so a lost, doubled or foreign answer is an error here.

use super::backend::Message;
use std::collections::VecDeque;

/// One thing asked for that has an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Request {
    Bind,
    Close,
    CopyEnd,
    DescribePortal,
    DescribeStatement,
    Execute,
    FunctionCall,
    Parse,
    Query,
    Sync,
}

/// How far the answer to the oldest request has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Progress {
    Start,
    /// Rows of this many columns, if that is known yet.
    Rows(Option<usize>),
    CopyIn,
    CopyOut,
    CopyOutDone,
    /// ParameterDescription seen.
    Described,
    /// Nothing but ReadyForQuery, or the next result of a simple Query.
    Result,
    /// Nothing but ReadyForQuery.
    Failed,
}

/// The automaton.
#[derive(Debug)]
pub(crate) struct Grammar {
    /// Bytes of a message of which the rest has not been sent yet.
    unsent: Vec<u8>,
    asked: VecDeque<Request>,
    progress: Progress,
    /// After an error the server discards everything until Sync.
    discarding: bool,
    ended: bool,
}

impl Grammar {
    pub(crate) fn new() -> Self {
        Self {
            unsent: Vec::new(),
            asked: VecDeque::new(),
            progress: Progress::Start,
            discarding: false,
            ended: false,
        }
    }

    /// Nothing is asked for that has not been answered.
    pub(crate) fn is_settled(&self) -> bool {
        self.asked
            .iter()
            .all(|request| *request == Request::CopyEnd)
    }

    /// Notes bytes that were sent, whole messages or not.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        while let Some(header) = self.unsent.first_chunk::<5>() {
            let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
            if self.unsent.len() < length + 1 {
                break;
            }
            let frame: Vec<u8> = self.unsent.drain(..=length).collect();
            self.asked_for(frame[0], frame.get(5).copied());
        }
    }

    fn asked_for(&mut self, kind: u8, first: Option<u8>) {
        let request = match (kind, first) {
            (b'B', _) => Request::Bind,
            (b'C', _) => Request::Close,
            (b'D', Some(b'S')) => Request::DescribeStatement,
            (b'D', _) => Request::DescribePortal,
            (b'E', _) => Request::Execute,
            (b'F', _) => Request::FunctionCall,
            (b'P', _) => Request::Parse,
            (b'Q', _) => Request::Query,
            (b'S', _) => Request::Sync,
            (b'c' | b'f', _) => Request::CopyEnd,
            // CopyData, Flush, Terminate, password: no answer of their own.
            _ => return,
        };
        if self.discarding {
            if request != Request::Sync {
                return;
            }
            self.discarding = false;
        }
        let copying = self.progress == Progress::CopyIn && !self.asked.contains(&Request::CopyEnd);
        if copying && request == Request::Sync {
            return;
        }
        self.asked.push_back(request);
    }

    /// Checks the next message.
    pub(crate) fn received(&mut self, message: &Message) -> Result<(), String> {
        if self.ended {
            // The pooler may add a word of its own to the server's last one.
            return match message {
                Message::ErrorResponse(fields) if fields.severity() == "FATAL" => Ok(()),
                _ => Err(format!("{message:?} after a FATAL error")),
            };
        }
        if message.is_asynchronous() {
            return Ok(());
        }
        if let Message::ErrorResponse(fields) = message {
            return self.failed(fields.severity());
        }
        while self.asked.front() == Some(&Request::CopyEnd) {
            self.asked.pop_front();
        }
        let Some(request) = self.asked.front().copied() else {
            return Err(format!("{message:?} though nothing was asked"));
        };
        self.progress = self.step(request, message).ok_or_else(|| {
            format!(
                "{message:?} in answer to {request:?} at {:?}, asked {:?}",
                self.progress, self.asked
            )
        })?;
        Ok(())
    }

    fn failed(&mut self, severity: &str) -> Result<(), String> {
        if severity == "FATAL" || severity == "PANIC" {
            self.ended = true;
            return Ok(());
        }
        while self.asked.front() == Some(&Request::CopyEnd) {
            self.asked.pop_front();
        }
        match self.asked.front() {
            None => return Err("an error though nothing was asked".to_owned()),
            Some(_) if self.progress == Progress::Failed => {
                return Err("an error after an error".to_owned());
            }
            Some(Request::Query | Request::FunctionCall | Request::Sync) => {}
            Some(_) => {
                while self
                    .asked
                    .front()
                    .is_some_and(|request| *request != Request::Sync)
                {
                    self.asked.pop_front();
                }
                self.discarding = self.asked.is_empty();
                self.progress = Progress::Start;
                return Ok(());
            }
        }
        self.progress = Progress::Failed;
        Ok(())
    }

    /// The progress after `message`; none if it cannot come here.
    fn step(&mut self, request: Request, message: &Message) -> Option<Progress> {
        use Progress::{CopyIn, CopyOut, CopyOutDone, Described, Failed, Result, Rows, Start};
        let simple = request == Request::Query;
        let next = match (request, self.progress, message) {
            (Request::Parse, Start, Message::ParseComplete)
            | (Request::Bind, Start, Message::BindComplete)
            | (Request::Close, Start, Message::CloseComplete)
            | (Request::DescribePortal, Start, Message::NoData | Message::RowDescription(_))
            | (
                Request::DescribeStatement,
                Described,
                Message::NoData | Message::RowDescription(_),
            )
            | (Request::Execute, Start | Rows(_), Message::PortalSuspended)
            | (Request::Sync, Start | Failed, Message::ReadyForQuery(_))
            | (
                Request::Query | Request::FunctionCall,
                Result | Failed,
                Message::ReadyForQuery(_),
            ) => {
                self.asked.pop_front();
                Start
            }
            (Request::DescribeStatement, Start, Message::ParameterDescription(_)) => Described,
            (Request::FunctionCall, Start, Message::FunctionCallResponse(_)) => Result,
            (Request::Query, Start | Result, Message::RowDescription(columns)) => {
                Rows(Some(columns.len()))
            }
            (Request::Query, Rows(columns), Message::DataRow(row))
                if columns == Some(row.len()) =>
            {
                self.progress
            }
            (Request::Execute, Start | Rows(_), Message::DataRow(row))
                if matches!(self.progress, Start | Rows(None))
                    || self.progress == Rows(Some(row.len())) =>
            {
                Rows(Some(row.len()))
            }
            (Request::Query | Request::Execute, Start | Result, Message::CopyInResponse) => {
                self.forget_syncs_before_copy_end(simple);
                CopyIn
            }
            (Request::Query | Request::Execute, Start | Result, Message::CopyOutResponse) => {
                CopyOut
            }
            (_, CopyOut, Message::CopyData(_)) => CopyOut,
            (_, CopyOut, Message::CopyDone) => CopyOutDone,
            (
                Request::Query | Request::Execute,
                Start | Result | Rows(_) | CopyIn | CopyOutDone,
                Message::CommandComplete(_),
            )
            | (Request::Query | Request::Execute, Start | Result, Message::EmptyQueryResponse) => {
                if self.progress == CopyIn {
                    self.take_copy_end()?;
                }
                if simple {
                    Result
                } else {
                    self.asked.pop_front();
                    Start
                }
            }
            _ => return None,
        };
        Some(next)
    }

    /// During copy-in the server ignores Sync.
    fn forget_syncs_before_copy_end(&mut self, simple: bool) {
        let end = self
            .asked
            .iter()
            .position(|r| *r == Request::CopyEnd)
            .unwrap_or(self.asked.len());
        let mut index = 0;
        self.asked.retain(|request| {
            index += 1;
            simple || index > end || *request != Request::Sync
        });
    }

    fn take_copy_end(&mut self) -> Option<Request> {
        let index = self
            .asked
            .iter()
            .position(|request| *request == Request::CopyEnd)?;
        self.asked.remove(index)
    }
}
