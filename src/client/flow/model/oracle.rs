//! What a client would have heard from PostgreSQL itself, and in what the
//! pooler may differ from that.

use std::borrow::Cow;

use super::pooler::{Client, Server, Wrong};
use super::postgres::Postgres;
use super::script::{Author, Letter, Luck};

/// A client with a server of its own, and all they have said.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    pub(super) letters: Vec<(Letter, Luck)>,
    pub(super) says: Vec<u8>,
    /// What has left the server.
    pub(super) heard: Vec<u8>,
    postgres: Postgres,
    author: Author,
    unlucky: bool,
    /// Requests have been made that no ReadyForQuery has closed.
    unsynced: bool,
    /// A COPY has begun, and a Sync came while or after it.
    copy_begun: bool,
    sync_in_copy: bool,
    copy_failed: bool,
    /// After such a Sync and a failed COPY more has been asked for.
    asked_in_doubt: bool,
    /// The pooler may end the connection for a statement's name.
    may_fault: bool,
    /// It has to.
    must_fault: bool,
    /// Bytes that had been heard when a message came that ends the connection
    /// here, but which the pooler answers itself.
    answered_by_pooler: Option<usize>,
    /// Bytes that had been heard when a message came that fails because an
    /// earlier batch of the pipeline has, which its sender cannot have known:
    /// a statement is not there, or its name is not free.
    unaware: Option<usize>,
}

impl Direct {
    pub(super) fn new(postgres: Postgres, author: Author) -> Direct {
        Direct {
            letters: Vec::new(),
            says: Vec::new(),
            heard: Vec::new(),
            postgres,
            author,
            unlucky: false,
            unsynced: false,
            copy_begun: false,
            sync_in_copy: false,
            copy_failed: false,
            asked_in_doubt: false,
            may_fault: false,
            must_fault: false,
            answered_by_pooler: None,
            unaware: None,
        }
    }

    /// After one more message.
    pub(super) fn and(&self, letter: Letter, luck: Luck) -> Direct {
        let mut node = self.clone();
        node.letters.push((letter, luck));
        node.unlucky |= luck != Luck::Good;
        node.note_name(letter, luck);
        let copying = node.postgres.is_copying();
        node.copy_begun |= copying;
        node.asked_in_doubt |= node.is_in_doubt() && letter.is_request();
        node.sync_in_copy |= node.copy_begun && letter == Letter::Sync;
        node.unsynced |= !matches!(letter, Letter::Sync | Letter::Query | Letter::Flush);
        let bytes = node.author.say(letter, luck);
        node.says.extend_from_slice(&bytes);
        let before = node.heard.len();
        node.postgres.receive(&bytes);
        node.heard.append(&mut node.postgres.take_sent());
        node.copy_failed |= copying && node.heard[before..].starts_with(b"E");
        node.unsynced &= !node.heard[before..].ends_with(b"Z\0\0\0\x05I");
        if node.postgres.is_dead() && matches!(letter, Letter::Parse | Letter::Close) {
            node.answered_by_pooler = Some(before);
        }
        node
    }

    /// Whether a mishap of this message would be one.
    pub(super) fn may_fail(&self, letter: Letter) -> bool {
        !self.unlucky
            && !self.postgres.is_skipping()
            && self.postgres.is_copying() == (letter == Letter::CopyData)
    }

    /// Something of it is for a COPY.
    pub(super) fn has_copy_data(&self) -> bool {
        let copy = [Letter::CopyData, Letter::CopyDone, Letter::CopyFail];
        self.letters.iter().any(|(letter, _)| copy.contains(letter))
    }

    /// Nothing that could follow would be heard.
    pub(super) fn is_over(&self) -> bool {
        self.must_fault || self.postgres.is_dead()
    }

    /// Whether a Sync has been ignored depends on when a COPY failed.
    fn is_in_doubt(&self) -> bool {
        self.sync_in_copy && self.copy_failed
    }

    /// Names are PgBouncer's business: it knows them by what has been
    /// answered, and by what is still on its way.
    fn note_name(&mut self, letter: Letter, luck: Luck) {
        let Some(name) = self.author.name(letter) else {
            return;
        };
        if letter == Letter::Close || (letter == Letter::Describe && luck != Luck::Good) {
            return;
        }
        let has = self.postgres.prepared().any(|own| own == name.as_bytes());
        let believes = self.author.believes(name);
        let wanted = letter != Letter::Parse;
        self.may_fault |= has != wanted || believes != wanted;
        let read = !self.postgres.is_skipping() && !self.postgres.is_copying();
        self.must_fault = has != wanted && believes != wanted && read;
        if has != wanted && believes == wanted && read {
            self.unaware.get_or_insert(self.heard.len());
        }
    }

    /// Whether the pooler's client has heard what it has to; `stayed` until
    /// nothing happened any more, or it has gone in the middle.
    pub(super) fn judge(&self, client: &Client, stayed: bool) -> Result<(), Wrong> {
        // Of a Sync that is sent while a COPY may be failing it cannot be told
        // whether it counts: the server must not go to anybody else, and what
        // its own client hears of requests behind it is open.
        if self.asked_in_doubt {
            return Ok(());
        }
        let all = [&self.heard, self.postgres.kept()].concat();
        let (heard, all) = (undescribed(&client.heard), undescribed(&all));
        let says = || heard.escape_ascii().to_string();
        // A Parse or Close in the middle of a COPY ends the connection, unless
        // the pooler answers it and the server never sees it. And where the
        // Parse or Close of a statement has been discarded with an earlier
        // batch, the pooler gives the server what the client means.
        let open = [self.answered_by_pooler, self.unaware];
        if let Some(common) = open.into_iter().flatten().min() {
            let common = undescribed(&self.heard[..common]);
            return match heard.starts_with(&common) || common.starts_with(&heard) {
                true => Ok(()),
                false => Err(format!("hears {}", says())),
            };
        }
        if !all.starts_with(&heard) {
            return Err(format!("hears {}", says()));
        }
        if let Some(broken) = &client.broken {
            return Err(format!("a good server is called broken: {broken}"));
        }
        match &client.fault {
            // Wrong names end the connection with PgBouncer's words.
            Some(_) if self.may_fault => return Ok(()),
            Some(fault) => return Err(format!("{fault:?} after {}", says())),
            None if !stayed => return Ok(()),
            None if self.must_fault => return Err(format!("no fault, hears {}", says())),
            None => {}
        }
        if heard.len() < undescribed(&self.heard).len() {
            let server = client.server.as_ref().map(Server::state);
            return Err(format!("waits after {} with {server:?}", says()));
        }
        if self.postgres.is_dead() {
            return Ok(());
        }
        let named = client.flow.statements.iter();
        let mut names: Vec<&[u8]> = named
            .flat_map(|all| all.keys())
            .map(|name| &**name)
            .collect();
        let mut expected: Vec<_> = self.postgres.prepared().collect();
        names.sort();
        expected.sort();
        if names != expected {
            return Err(format!("has {names:?} instead of {expected:?}"));
        }
        let free = self.postgres.is_clean() && !self.unsynced && !self.is_in_doubt();
        match &client.server {
            Some(server) if free => Err(format!("keeps {}", server.state())),
            _ => Ok(()),
        }
    }
}

/// Without ParameterDescriptions that an error follows, or may yet follow:
/// PostgreSQL describes the parameters of a statement it cannot use any more,
/// and a server that is given the statement anew cannot.
fn undescribed(messages: &[u8]) -> Cow<'_, [u8]> {
    if !messages.contains(&b't') {
        return messages.into();
    }
    let mut kept = Vec::with_capacity(messages.len());
    let mut rest = messages;
    while let Some(head) = rest.first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (message, behind) = rest.split_at((length + 1).min(rest.len()));
        if head[0] != b't' || !matches!(behind.first(), None | Some(b'E')) {
            kept.extend_from_slice(message);
        }
        rest = behind;
    }
    kept.extend_from_slice(rest);
    kept.into()
}
