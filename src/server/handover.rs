//! A server on its way from one process to the next.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::answers::{Answer, Answers, Copying, Meter, Owed, Tracked as About};
use super::statements::{Dictionary, Statement};
use super::{Exchange, Foreign, Parameters, Record, Server, Tracked};
use crate::handover;
use crate::net::{Channel, Host, Stream};
use crate::stats::Micros;
use crate::wire::TransactionStatus;

/// What is told of a server that another process has logged in.
#[derive(Debug)]
pub struct Taken {
    /// The process id and secret that cancel its queries.
    pub key: [u8; 8],
    /// The parameters that PgBouncer tells.
    pub parameters: Vec<handover::Pair>,
    /// What a pgweir tells besides.
    pub more: Option<handover::Server>,
    /// A client works with it.
    pub linked: bool,
}

impl Server {
    /// The number of its socket.
    pub fn fd(&self) -> RawFd {
        self.channel.stream.fd()
    }

    /// What the next process has to know; none while that cannot be told.
    pub fn hand_over(&self, now: Micros) -> Option<handover::Server> {
        let whole = self.channel.is_clean() && self.exchange.is_between_messages();
        if !whole || self.channel.stream.cipher().is_some() || self.record.is_being_canceled() {
            return None;
        }
        let (host, port) = &self.record.host;
        let current = self.exchange.prepared.current().into_iter();
        Some(handover::Server {
            fd: self.fd(),
            host: (host.to_string(), *port),
            age: now.since(self.record.connected_at),
            request_age: now.since(self.record.requested_at()),
            marked: self.record.is_marked(),
            parameters: self.parameters.pairs(&self.tracked),
            statements: current
                .filter(|it| it.script.is_none())
                .map(|it| it.id())
                .collect(),
            exchange: self.exchange.hand_over()?,
            key_rest: handover::some_rest(self.record.secret.get(4..).unwrap_or_default()),
        })
    }

    /// The statements that the next process has to know for it.
    pub fn statements(&self) -> Vec<Arc<Statement>> {
        let mut all = self.exchange.prepared.current();
        all.extend(self.exchange.answers.queue.iter().flat_map(statements));
        all
    }

    /// A server that another process has logged in. `host` is where its pool's
    /// servers are.
    ///
    /// # Errors
    /// What is told of it makes no sense.
    pub fn take_over(
        taken: Taken,
        stream: Stream,
        (id, pool, now): (u64, u64, Micros),
        host: (Host, u16),
        (tracked, dictionary): (&Arc<Tracked>, &Dictionary),
    ) -> Result<Server, &'static str> {
        let ago = |age: u64| Micros(now.0.saturating_sub(age));
        let more = taken.more.as_ref();
        let host = match more {
            Some(more) => (Host::read(&more.host.0), more.host.1),
            None => host,
        };
        let connected_at = more.map_or(now, |more| ago(more.age));
        let mut record = Record::new(id, pool, host, &stream, connected_at);
        let (pid, secret) = taken.key.split_at(4);
        record.pid = i32::from_be_bytes(pid.try_into().expect("four of eight bytes"));
        let rest = more.and_then(|more| more.key_rest.as_deref());
        record.secret = [secret, rest.unwrap_or_default()].concat().into();
        record.set_requested_at(more.map_or(now, |more| ago(more.request_age)));
        let mut exchange = Exchange::default();
        let mut parameters = Parameters::default();
        parameters.set_pairs(&taken.parameters, tracked);
        match more {
            Some(more) => {
                parameters.set_pairs(&more.parameters, tracked);
                exchange = Exchange::take_over(&more.exchange, dictionary)?;
                for id in &more.statements {
                    if let Some(statement) = dictionary.by_id(*id) {
                        exchange.prepared.made(&statement);
                    }
                }
                if more.marked {
                    record.mark();
                }
            }
            None if taken.linked => exchange.foreign = Some(Foreign::default()),
            None => {}
        }
        record.set_prepared(exchange.prepared.len());
        Ok(Server {
            channel: Channel::new(stream),
            exchange,
            parameters: Arc::new(parameters),
            tracked: tracked.clone(),
            record: Arc::new(record),
            home: 0,
        })
    }
}

/// Nothing is measured about what another process has begun.
const METER: Meter = Meter {
    slot: u32::MAX,
    start: Micros::ZERO,
};

impl Exchange {
    fn hand_over(&self) -> Option<handover::Exchange> {
        let answers = &self.answers;
        let mut mentioned = answers.queue.iter().flat_map(statements);
        if mentioned.any(|statement| statement.script.is_some()) {
            return None;
        }
        Some(handover::Exchange {
            owed: answers.queue.iter().map(owed).collect::<Option<_>>()?,
            status: answers.status.letter(),
            copying: match answers.copying {
                Copying::No => handover::Copying::No,
                Copying::In { ended, swallowed } => handover::Copying::In { ended, swallowed },
                Copying::Out => handover::Copying::Out,
                Copying::Both => handover::Copying::Both,
            },
            skipping: answers.skipping,
            unsynced: answers.unsynced,
            doubt: answers.doubt,
            tainted: answers.tainted || answers.condemned,
            foreign: self.foreign.as_ref().map(Foreign::is_unsynced),
        })
    }

    fn take_over(
        told: &handover::Exchange,
        dictionary: &Dictionary,
    ) -> Result<Exchange, &'static str> {
        let owing = told.owed.iter().map(|owed| owing(owed, dictionary));
        let status = u8::try_from(told.status).ok();
        let answers = Answers {
            queue: owing.collect::<Result<_, _>>()?,
            status: status
                .and_then(TransactionStatus::read)
                .ok_or("no transaction status")?,
            copying: match told.copying {
                handover::Copying::No => Copying::No,
                handover::Copying::In { ended, swallowed } => Copying::In { ended, swallowed },
                handover::Copying::Out => Copying::Out,
                handover::Copying::Both => Copying::Both,
            },
            skipping: told.skipping,
            unsynced: told.unsynced,
            doubt: told.doubt,
            tainted: told.tainted,
            condemned: false,
        };
        Ok(Exchange {
            answers,
            foreign: told.foreign.map(Foreign::begun),
            ..Exchange::default()
        })
    }
}

/// The statements a request is about.
fn statements(owed: &Owed) -> Vec<Arc<Statement>> {
    match owed {
        Owed::Parse(_, Some(tracked)) | Owed::Close(_, Some(tracked)) => {
            let before = tracked.before.iter().cloned();
            before.chain([tracked.statement.clone()]).collect()
        }
        Owed::Bind(statement) | Owed::Describe(statement) => statement.iter().cloned().collect(),
        _ => Vec::new(),
    }
}

/// What is owed, for the next process; none if it is not only the client's.
fn owed(owed: &Owed) -> Option<handover::Owed> {
    let about = |tracked: &Option<Box<About>>| {
        tracked.as_ref().map(|tracked| handover::Tracked {
            statement: tracked.statement.id(),
            name: tracked.client_name.as_ref().map(|name| name.to_vec()),
            before: tracked.before.as_ref().map(|before| before.id()),
        })
    };
    let number = |statement: &Option<Arc<Statement>>| statement.as_ref().map(|it| it.id());
    Some(match owed {
        Owed::Query(_, None) => handover::Owed::Query,
        Owed::FunctionCall => handover::Owed::FunctionCall,
        Owed::Sync => handover::Owed::Sync,
        Owed::Parse(Answer::Forward, tracked) => handover::Owed::Parse(about(tracked)),
        Owed::Bind(statement) => handover::Owed::Bind(number(statement)),
        Owed::Describe(statement) => handover::Owed::Describe(number(statement)),
        Owed::Execute(_, None) => handover::Owed::Execute,
        Owed::Close(Answer::Forward, tracked) => handover::Owed::Close(about(tracked)),
        Owed::CopyEnd => handover::Owed::CopyEnd,
        _ => return None,
    })
}

/// What is owed, as another process told it.
fn owing(owed: &handover::Owed, dictionary: &Dictionary) -> Result<Owed, &'static str> {
    let find = |id: u64| dictionary.by_id(id).ok_or("a statement nobody has told of");
    let maybe = |id: &Option<u64>| id.map(find).transpose();
    let about = |tracked: &Option<handover::Tracked>| {
        let made = tracked.as_ref().map(|tracked| {
            Ok::<_, &'static str>(Box::new(About {
                statement: find(tracked.statement)?,
                client_name: tracked.name.as_ref().map(|name| name.as_slice().into()),
                before: maybe(&tracked.before)?,
            }))
        });
        made.transpose()
    };
    Ok(match owed {
        handover::Owed::Query => Owed::Query(METER, None),
        handover::Owed::FunctionCall => Owed::FunctionCall,
        handover::Owed::Sync => Owed::Sync,
        handover::Owed::Parse(tracked) => Owed::Parse(Answer::Forward, about(tracked)?),
        handover::Owed::Bind(id) => Owed::Bind(maybe(id)?),
        handover::Owed::Describe(id) => Owed::Describe(maybe(id)?),
        handover::Owed::Execute => Owed::Execute(METER, None),
        handover::Owed::Close(tracked) => Owed::Close(Answer::Forward, about(tracked)?),
        handover::Owed::CopyEnd => Owed::CopyEnd,
    })
}
