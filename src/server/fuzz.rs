//! The login at a server, for any bytes of it, over a socket.
//!
//! An input is a kind of secret, a seed for the pieces, and what the server
//! sends.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::login::{LoginError, Target, authenticate, read_greeting};
use super::{Exchange, Record};
use crate::auth::{Credential, Secret};
use crate::net::{Channel, Host, SocketOptions, Stream};
use crate::stats::Clock;
use crate::wire::fuzz::{Input, messages, pieces};
use crate::wire::{Header, backend};

/// What is known of a server after its login: process id, secret and
/// parameters, or why there was none.
type Known = Result<(i32, Vec<u8>, Vec<(String, String)>), String>;

/// However it arrives, it is understood the same, and nobody is taken for
/// logged in before the server has said so.
pub fn greeting(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    let mut input = Input::new(data);
    let (kind, seed) = (input.byte(), input.byte());
    let says = input.rest();
    let target = target(kind);
    let (at_once, in_pieces) = RUNTIME.with(|runtime| {
        let at_once = runtime.block_on(log_in(&target, &mut std::iter::once(says)));
        let in_pieces = runtime.block_on(log_in(&target, &mut pieces(says, seed)));
        (at_once, in_pieces)
    });
    assert_eq!(at_once, in_pieces);
    if let Ok(known) = at_once {
        check(says, &known);
    }
    account(says);
}

fn target(kind: u8) -> Target {
    let credential = match kind % 3 {
        0 => None,
        1 => Some(Secret::parse(b"open sesame")),
        _ => Some(Secret::parse(b"md5ab8b744ff66bee42dc47bae34ca17959")),
    };
    Target {
        own: None,
        direct_tls: false,
        minor: 2,
        host: Host::read("a"),
        port: 5432,
        dbname: "db".to_owned(),
        user: "ann".to_owned(),
        credential: credential.map(|secret| Arc::new(Credential::new(secret))),
        options: SocketOptions::default(),
        tls: Arc::default(),
        channel_binding: true,
        startup: Vec::new(),
        connect_query: None,
    }
}

async fn log_in(target: &Target, chunks: &mut dyn Iterator<Item = &[u8]>) -> Known {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    let stream = Stream::from(ours);
    let host = (Host::read("a"), 5432);
    let record = Record::new(1, 1, host, &stream, Clock::begin().now());
    let mut channel = Channel::new(stream);
    let login = async move {
        authenticate(&mut channel, target).await?;
        read_greeting(&mut channel, record).await
    };
    let server = async {
        for chunk in chunks {
            // The login may have failed already.
            if theirs.write_all(chunk).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _closed = theirs.shutdown().await;
    };
    let (known, ()) = tokio::join!(login, server);
    match known {
        Ok((record, parameters)) => Ok((record.pid, record.secret.to_vec(), parameters)),
        Err(error) => {
            assert!(!error.to_string().is_empty() && error.sqlstate().len() == 5);
            assert!(!error.client_text().is_empty() || matches!(error, LoginError::Refused(_)));
            // Whether the end is seen as one depends on when it comes.
            Err(match error {
                LoginError::Io(_) => "connection lost".to_owned(),
                other => format!("{other}, {}", other.is_refusal()),
            })
        }
    }
}

/// What is known has been said.
fn check(says: &[u8], (pid, secret, parameters): &(i32, Vec<u8>, Vec<(String, String)>)) {
    let (all, _) = messages_before_nonsense(says);
    let body = |message: &[u8]| message[5..].to_vec();
    let of = |tag: u8| all.iter().filter(move |message| message[0] == tag);
    assert!(of(backend::AUTHENTICATION).any(|message| message[5..] == [0; 4]));
    let key = [&pid.to_be_bytes()[..], secret].concat();
    let none = *pid == 0 && secret.is_empty();
    assert!(none || of(backend::BACKEND_KEY_DATA).any(|message| body(message) == key));
    let mut said = of(backend::PARAMETER_STATUS);
    for (name, value) in parameters {
        let status = format!("{name}\0{value}\0");
        assert!(said.any(|message| message[5..] == *status.as_bytes()));
    }
    assert!(of(backend::READY_FOR_QUERY).any(|message| body(message) == b"I"));
}

/// The messages at the front of a stream that makes sense so far.
fn messages_before_nonsense(says: &[u8]) -> (Vec<&[u8]>, Option<usize>) {
    let mut at = 0;
    while let Some(Ok(header)) = Header::read(&says[at..])
        && header.total() <= says.len() - at
    {
        at += header.total();
    }
    messages(&says[..at])
}

/// What comes after the login and for nobody is accounted for, or it is one
/// message too many.
fn account(says: &[u8]) {
    let mut exchange = Exchange::default();
    exchange.answers.push(super::answers::Owed::Internal);
    for message in messages_before_nonsense(says).0 {
        if exchange.account(message[0], &message[5..]).is_err() {
            return;
        }
        let ready = message[0] == backend::READY_FOR_QUERY;
        assert!(ready || !exchange.answers.is_settled() || exchange.answers.is_empty());
    }
}
