//! Queries of the console.
//!
//! An input says whether an admin asks, and then come queries with zero bytes
//! between them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;

use super::command::{self, Outcome};
use super::console::Console;
use super::grammar::{
    self, GrammarError, MAX_ARGUMENT_LEN, MAX_COMMAND_LEN, MAX_VALUE_LEN, Statement,
};
use super::process::{Process, ShutdownMode};
use super::visitor::Visitor;
use crate::auth::UserList;
use crate::config::{self, Config};
use crate::http::FrontSeat;
use crate::net::Address;
use crate::pool::Bouncer;
use crate::process::{LogQueue, LogWriter};
use crate::wire::fuzz::messages;
use crate::wire::{backend, frame::HEADER_LEN};

/// Queries of an input.
const QUERIES: usize = 8;

/// Whatever is asked, the answer is made of whole messages, and who may only
/// look changes nothing.
pub fn console(data: &[u8]) {
    let Some((&who, queries)) = data.split_first() else {
        return;
    };
    let admin = who & 1 == 1;
    let console = fresh();
    let before = console.bouncer.config().clone();
    let local = Address::Unix { pid: None };
    let user = if admin { "ad" } else { "st" };
    let visitor = Visitor::new(
        (1, console.now()),
        (user.to_owned(), admin, false),
        (local, local, None),
        Default::default(),
    );
    for query in queries.split(|&byte| byte == 0).take(QUERIES) {
        let query = String::from_utf8_lossy(query);
        statement(&query);
        let mut out = BytesMut::new();
        match command::execute(&console, &visitor, &query, &mut out) {
            Ok(Outcome::Done(tag)) => backend::put_command_complete(&mut out, &tag),
            Ok(Outcome::When(tag, wait)) => {
                assert!(admin, "{tag} by a guest");
                let _done = wait.progress(&console);
                wait.cancel(&console);
                backend::put_command_complete(&mut out, tag);
            }
            Ok(Outcome::Tell(_)) => assert!(admin, "descriptors to a guest"),
            Ok(Outcome::Exit) => assert!(admin, "the end by a guest"),
            Err(fault) => {
                let text = fault.text();
                assert!(!text.is_empty() && out.is_empty());
                backend::put_error(&mut out, "ERROR", fault.sqlstate(), &text);
            }
        }
        answer(&out);
    }
    assert!(admin || *console.bouncer.config().as_ref() == *before);
}

/// Rows have the columns that were announced.
fn answer(out: &[u8]) {
    let (all, lacks) = messages(out);
    assert_eq!(lacks, Some(0));
    let count = |body: &[u8]| u16::from_be_bytes([body[0], body[1]]);
    let mut columns = None;
    for message in all {
        let body = &message[HEADER_LEN..];
        match message[0] {
            backend::ROW_DESCRIPTION => columns = Some(count(body)),
            backend::DATA_ROW => assert_eq!(Some(count(body)), columns),
            backend::COMMAND_COMPLETE | backend::ERROR_RESPONSE | backend::NOTICE_RESPONSE => {}
            tag => panic!("{tag} is no answer"),
        }
    }
}

/// What is understood is understood again when it is written with quotes.
fn statement(query: &str) {
    let quoted = |word: &str, quote: &str| word.replace(quote, &quote.repeat(2));
    let plain = match grammar::parse(query) {
        Ok(Statement::Command { name, argument }) => {
            assert!(name.len() <= MAX_COMMAND_LEN && argument.len() <= MAX_ARGUMENT_LEN);
            match argument.is_empty() {
                true => format!("\"{}\" ;", quoted(&name, "\"")),
                false => format!(
                    "\"{}\"\n\"{}\"",
                    quoted(&name, "\""),
                    quoted(&argument, "\"")
                ),
            }
        }
        Ok(Statement::Set { key, value }) => {
            assert!(!key.is_empty() && key.len() <= MAX_ARGUMENT_LEN);
            assert!(value.len() <= MAX_VALUE_LEN);
            format!(
                "set \"{}\" = '{}';",
                quoted(&key, "\""),
                quoted(&value, "'")
            )
        }
        Err(GrammarError::BadArguments | GrammarError::NoStatement) => return,
    };
    assert_eq!(grammar::parse(&plain), grammar::parse(query), "{plain}");
}

/// A process that does nothing.
struct Idle;

impl Process for Idle {
    fn reload(&self) -> Result<(), String> {
        Err("there is no file".to_owned())
    }

    fn settings_changed(&self) {}

    fn tls_changed(&self) -> bool {
        true
    }

    fn shut_down(&self, _: ShutdownMode) {}
}

/// A console of a pooler with one database.
fn fresh() -> Arc<Console> {
    thread_local! {
        static LOG: RefCell<Option<Arc<LogQueue>>> = const { RefCell::new(None) };
    }
    let log = LOG.with_borrow_mut(|log| {
        let start = || {
            let writer = LogWriter::start(Box::new(std::io::sink()));
            writer.expect("a thread").queue().clone()
        };
        log.get_or_insert_with(start).clone()
    });
    let config = Config {
        path: PathBuf::new(),
        pgbouncer: config::Pgbouncer::default(),
        databases: [("db".to_owned(), config::Database::default())].into(),
        autodb: None,
        users: BTreeMap::new(),
        peers: BTreeMap::new(),
        pgweir: config::Pgweir::default(),
        metrics: config::Metrics::default(),
        queries: config::Queries::default(),
        prepare: None,
        balancer: None,
    };
    let bouncer = Bouncer::new(config, UserList::default(), 1);
    Console::new(bouncer, Arc::new(Idle), log, FrontSeat::default())
}
