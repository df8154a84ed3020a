//! A server connection as its owner holds it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::answers::Unexpected;
use super::script::Effect;
use super::seeded::{Bug, planted};
use super::statements::Prepared;
use super::{Answers, Foreign, Parameters, Record, Replay, Tracked};
use crate::net::{Channel, Message};
use crate::wire::startup::Replication;
use crate::wire::{TransactionStatus, backend, frontend};

/// The longest message taken from a server while nobody is linked to it.
pub(super) const MAX_UNLINKED_MESSAGE: usize = 1 << 20;

/// How long a server may take to close its end after Terminate.
const FAREWELL: Duration = Duration::from_secs(1);

/// A logged-in server connection. Whoever holds it is its only user.
#[derive(Debug)]
pub struct Server {
    /// Socket and unfinished bytes.
    pub channel: Channel,
    /// Where the conversation with it stands.
    pub exchange: Exchange,
    /// The tracked parameters' values.
    pub parameters: Arc<Parameters>,
    /// The tracked parameters' names.
    pub tracked: Arc<Tracked>,
    /// What others see of it.
    pub record: Arc<Record>,
    /// The worker whose reactor watches the socket.
    pub home: usize,
}

/// Where the conversation with a server stands.
#[derive(Debug, Default)]
pub struct Exchange {
    /// What it owes.
    pub answers: Answers,
    /// The statements it has.
    pub prepared: Prepared,
    /// Bytes of a server's message that are still to come and only pass
    /// through to the client.
    pub incoming: usize,
    /// Bytes of a client's message that are still to be passed to the server.
    pub outgoing: usize,
    /// The batch it is answering, if it may have to be sent again.
    pub replay: Replay,
    /// It is not known what it owes, because PgBouncer led the conversation.
    pub foreign: Option<Foreign>,
}

impl Exchange {
    /// Nothing owed, no transaction, no partial message either way.
    pub fn is_settled(&self) -> bool {
        self.answers.is_settled()
            && self.foreign.is_none()
            && self.incoming == 0
            && (self.outgoing == 0 || planted(Bug::HalfMessageIsSettled))
    }

    /// Neither side is in the middle of a message, and what is owed is what
    /// the client has asked for, in the server's own words: whoever passes on
    /// every message as it is can go on with it.
    pub fn is_between_messages(&self) -> bool {
        let asked = self.foreign.as_ref().is_some_and(Foreign::has_asked);
        self.incoming == 0 && self.outgoing == 0 && !asked && self.answers.is_verbatim()
    }

    /// Accounts for a message of the server that no client gets.
    ///
    /// # Errors
    /// [`Unexpected`] when it is not one that is owed.
    pub(crate) fn account(&mut self, tag: u8, body: &[u8]) -> Result<(), Unexpected> {
        while self.answers.next_fake().is_some() {}
        self.replay.stop();
        if tag == backend::COMMAND_COMPLETE {
            // Nobody is left who could say whether names are tracked.
            if matches!(self.note_tag(body), Effect::Unknown) {
                self.answers.condemn();
            }
        }
        let status = body.first().copied().and_then(TransactionStatus::read);
        let step = self.answers.on_message(tag, status, drop)?;
        self.prepared.note(&step, &self.answers);
        Ok(())
    }

    /// Notes what a command has done to the server's statements, by the body
    /// of its CommandComplete. To be called before the message is accounted
    /// for.
    pub(crate) fn note_tag(&mut self, body: &[u8]) -> Effect {
        match body.strip_suffix(b"\0").unwrap_or(body) {
            b"DEALLOCATE ALL" | b"DISCARD ALL" => {
                self.prepared.clear(&self.answers);
                Effect::AllDropped
            }
            tag @ (b"PREPARE" | b"DEALLOCATE") => match self.answers.next_effect() {
                Some(effect) => {
                    if let Effect::Prepared(_, statement) = &effect {
                        self.prepared.made(statement);
                    }
                    effect
                }
                None if tag == b"PREPARE" && self.answers.is_clients() => Effect::Unknown,
                None => Effect::Nothing,
            },
            _ => Effect::Nothing,
        }
    }
}

/// How the attempt ended to get a server back that its client left.
#[derive(Debug, PartialEq, Eq)]
pub enum Retired {
    /// All it owed has come; it can be reused.
    Settled,
    /// It must be closed.
    Unsettled,
}

impl Server {
    /// Whether another client may get it: the only place that says so.
    ///
    /// Nothing owed and no transaction, no partial message either way, no
    /// statements that nobody knows of, no cancel request in flight, and not
    /// opened for one client alone.
    pub fn is_reusable(&self) -> bool {
        self.is_clean()
            && !self.exchange.answers.is_condemned()
            && !self.record.is_being_canceled()
            && self.record.replication == Replication::No
    }

    /// Nothing owed and no transaction, no partial message either way.
    pub fn is_clean(&self) -> bool {
        self.exchange.is_settled() && self.channel.is_clean()
    }

    /// Runs a query of the pooler's own to its end, before `limit`.
    ///
    /// # Errors
    /// The socket's; `TimedOut`; `InvalidData` when the answer is an error or
    /// makes no sense, or leaves a transaction open.
    pub async fn run(&mut self, query: &str, limit: Duration) -> io::Result<()> {
        let mut request = bytes::BytesMut::new();
        frontend::put_query(&mut request, query.as_bytes());
        self.exchange.answers.push(super::answers::Owed::Internal);
        let answer = async {
            self.channel.write_all(&request).await?;
            let mut failed = false;
            while !self.exchange.answers.is_empty() {
                failed |= self.next_answer().await? == backend::ERROR_RESPONSE;
            }
            if failed || !self.exchange.answers.is_settled() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok(())
        };
        tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads on, for `limit` at most and `bytes` at most, until nothing is
    /// owed: after its client has gone.
    pub async fn drain(&mut self, limit: Duration, mut bytes: usize) -> Retired {
        let drained = async {
            while !self.exchange.is_answered() || self.exchange.incoming > 0 {
                let read = self.skip_or_answer().await?;
                bytes = bytes.checked_sub(read).ok_or(io::ErrorKind::FileTooLarge)?;
            }
            Ok::<(), io::Error>(())
        };
        let ended = tokio::time::timeout(limit, drained).await;
        if matches!(ended, Ok(Ok(()))) && self.exchange.is_settled() && self.channel.is_clean() {
            Retired::Settled
        } else {
            Retired::Unsettled
        }
    }

    /// Says Terminate and waits a moment for the server to close its end, so
    /// that the backend is gone when its place in the pool is given away.
    pub async fn close(mut self) {
        // In the middle of a message it would be taken for a part of it.
        if self.exchange.outgoing == 0 && self.channel.is_drained() {
            self.channel.stream.write_now(frontend::TERMINATE_MESSAGE);
        }
        let gone = async {
            // The end of the stream is what it understands in any state.
            if self.channel.stream.shutdown().await.is_err() {
                return;
            }
            if let Err(error) = self.channel.stream.skip_to_end().await {
                tracing::trace!(%error, "server did not close its end in order");
            }
        };
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            tracing::debug!(server = self.record.id, "server did not close its end");
        }
    }

    /// Moves the socket to the reactor of the calling thread, worker `home`.
    ///
    /// # Errors
    /// The reactor's; the connection is closed then.
    pub fn rehome(self, home: usize) -> io::Result<Server> {
        Ok(Server {
            channel: self.channel.rehome()?,
            home,
            ..self
        })
    }

    async fn next_answer(&mut self) -> io::Result<u8> {
        let message = self.channel.read_message(MAX_UNLINKED_MESSAGE).await?;
        self.account(&message)?;
        Ok(message.tag)
    }

    /// Skips what is left of a message that was passing through, or takes
    /// the next one.
    async fn skip_or_answer(&mut self) -> io::Result<usize> {
        if self.exchange.incoming > 0 {
            self.channel.peek(1).await?;
            let count = self.channel.carried().min(self.exchange.incoming);
            self.channel.take(count);
            self.exchange.incoming -= count;
            return Ok(count);
        }
        let message = self.channel.read_message(MAX_UNLINKED_MESSAGE).await?;
        self.account(&message)?;
        Ok(message.body.len())
    }

    pub(super) fn account(&mut self, message: &Message) -> io::Result<()> {
        if message.tag == backend::PARAMETER_STATUS {
            let (name, value) =
                backend::parameter(&message.body).ok_or(io::ErrorKind::InvalidData)?;
            if let Some(index) = self.tracked.index(name) {
                Arc::make_mut(&mut self.parameters).set(index, value);
            }
        }
        let accounted = self.exchange.account(message.tag, &message.body);
        accounted.map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answer, Meter, Owed, Tracked};
    use super::super::script::Script;
    use super::super::statements::{Dictionary, Kind};
    use super::*;
    use crate::stats::Micros;

    #[test]
    fn what_is_deallocated_when_the_client_has_left_is_gone() {
        let mut exchange = Exchange::default();
        let tracked = Tracked {
            statement: Dictionary::default().intern(Kind::Parse, b"select 1\0\0\0", 0),
            client_name: None,
            before: None,
        };
        let parse = Owed::Parse(Answer::Forward, Some(Box::new(tracked)));
        exchange.answers.push(parse);
        let meter = Meter {
            slot: 0,
            start: Micros::ZERO,
        };
        exchange.answers.push(Owed::Query(meter, None));
        exchange.account(b'1', b"").expect("ParseComplete");
        assert_eq!(exchange.prepared.len(), 1);
        let tag = exchange.account(b'C', b"DEALLOCATE ALL\0");
        tag.expect("CommandComplete");
        exchange.account(b'Z', b"I").expect("ReadyForQuery");
        assert!(exchange.is_settled() && exchange.prepared.is_empty());
    }
    #[test]
    fn what_is_prepared_when_the_client_has_left_is_there() {
        let mut exchange = Exchange::default();
        let statement = Dictionary::default().intern(Kind::Sql, b"select 1\0\0\0", 0);
        let script = Script {
            effects: [Effect::Prepared(b"p"[..].into(), statement)].into(),
            ..Script::default()
        };
        let meter = Meter {
            slot: 0,
            start: Micros::ZERO,
        };
        let query = Owed::Query(meter, Some(Box::new(script)));
        exchange.answers.push(query);
        exchange
            .account(b'C', b"PREPARE\0")
            .expect("CommandComplete");
        exchange.account(b'Z', b"I").expect("ReadyForQuery");
        assert_eq!(exchange.prepared.len(), 1);
    }
}
