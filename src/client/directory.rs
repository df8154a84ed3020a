//! Asks a directory whether a user's password is right.
//!
//! The protocol is the crate ldap3's. It talks over a socket pair, and what it
//! says is passed on to the directory here: names, connections and TLS are the
//! pooler's own, and no answer can fill the memory. The library holds a
//! message whole before it looks at it, descends into it without a bound and
//! panics on what it did not expect. [`MOST_ANSWERED`] bounds the first two; a
//! panic is a login that failed.

use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ldap3::exop::Exop;
use ldap3::{LdapConnAsync, LdapConnSettings, LdapResult, SearchEntry, SearchOptions, StdStream};
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, Semaphore};

use crate::auth::Plaintext;
use crate::auth::ldap::{Ldap, Lookup, Protection, Scope, Search};
use crate::net::tls::ServerSide;
use crate::net::{self, ConnectError, Host, Names, SocketOptions, Stream};

/// How long a directory may take to accept a connection, PgBouncer's.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long everything with a directory may take for one login.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Logins that ask directories at once; more wait for their turn.
const MOST_CHECKS: usize = 20;

/// Bytes that a directory may answer in one conversation. Two names of entries
/// and some fifty references have room. Nested as deep as they go, they take
/// half the stack of a thread.
const MOST_ANSWERED: usize = 8 * 1024;

/// Bytes passed on at once.
const CHUNK: usize = 1024;

/// Entries that a search may find: one too many tells that there are several.
const MOST_ENTRIES: i32 = 2;

/// "No attributes": only the names of entries are of interest.
const NO_ATTRIBUTES: [&str; 1] = ["1.1"];

/// The request that begins TLS.
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// "invalidCredentials".
const WRONG_PASSWORD: u32 = 49;

/// Tells the library that it is given a Unix socket.
const OVER_SOCKET: &str = "ldapi:///";

/// What all questions to directories share.
#[derive(Debug)]
pub(super) struct Directories {
    turns: Semaphore,
    /// Made when first needed.
    tls: OnceCell<ServerSide>,
}

impl Default for Directories {
    fn default() -> Directories {
        Directories {
            turns: Semaphore::new(MOST_CHECKS),
            tls: OnceCell::new(),
        }
    }
}

impl Directories {
    /// Asks whether this is the user's password.
    ///
    /// # Errors
    /// It is not, or nobody could tell: why, for the log.
    pub(super) async fn check(
        &self,
        ldap: &Ldap,
        names: &Arc<Names>,
        user: &str,
        password: &Plaintext,
    ) -> Result<(), String> {
        let check = async {
            let _turn = self.turns.acquire().await;
            let name = match &ldap.lookup {
                Lookup::Search(search) => self.find(ldap, search, names, user).await?,
                Lookup::Name { prefix, suffix } => format!("{prefix}{user}{suffix}"),
            };
            let mut stream = self.connect(ldap, names).await?;
            let outcome = bind(&mut stream, &name, password).await?;
            match outcome.rc {
                0 => Ok(()),
                WRONG_PASSWORD => Err(format!("LDAP login failed for user {name}: wrong password")),
                _ => Err(format!(
                    "LDAP login failed for user {name}: {}",
                    said(&outcome)
                )),
            }
        };
        tokio::time::timeout(CHECK_LIMIT, guarded(check))
            .await
            .unwrap_or_else(|_| Err("LDAP server did not answer in time".to_owned()))
    }

    /// The name of the user's entry.
    async fn find(
        &self,
        ldap: &Ldap,
        search: &Search,
        names: &Arc<Names>,
        user: &str,
    ) -> Result<String, String> {
        let filter = search
            .filter_for(user)
            .ok_or("invalid character in user name for LDAP authentication")?;
        let mut stream = self.connect(ldap, names).await?;
        let found = self::search(&mut stream, search, &filter).await?;
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(format!("LDAP user \"{user}\" does not exist")),
            (Some(_), Some(_)) => Err(format!("LDAP user \"{user}\" is not unique")),
        }
    }

    /// Connects to the first server that can be reached.
    async fn connect(&self, ldap: &Ldap, names: &Arc<Names>) -> Result<Stream, String> {
        let mut failure = String::new();
        for (host, port) in &ldap.servers {
            let connected = self.connect_to(ldap.protection, host, *port, names);
            match tokio::time::timeout(CONNECT_LIMIT, connected).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failure = format!("{host}:{port}: {error}"),
                Err(_) => failure = format!("{host}:{port}: no answer"),
            }
        }
        Err(format!("could not connect to LDAP server {failure}"))
    }

    async fn connect_to(
        &self,
        protection: Protection,
        host: &str,
        port: u16,
        names: &Arc<Names>,
    ) -> Result<Stream, String> {
        let name = Host::Name(host.to_owned());
        let mut stream = net::connect(&name, port, names, &SocketOptions::default())
            .await
            .map_err(|error| match error {
                ConnectError::Lookup(error) => format!("DNS lookup failed: {error}"),
                ConnectError::Socket(error) => error.to_string(),
            })?;
        match protection {
            Protection::None => return Ok(stream),
            Protection::StartTls => start_tls(&mut stream).await?,
            Protection::Tls => {}
        }
        let tls = self.tls.get_or_try_init(load_tls).await?;
        let target = tls.target(host, false).map_err(|error| error.to_string())?;
        let encrypted = stream.connect_tls(target).await;
        encrypted.map_err(|error| format!("TLS handshake error: {error}"))?;
        Ok(stream)
    }
}

/// Away from the workers: the system's authorities are many.
async fn load_tls() -> Result<ServerSide, String> {
    let load = || ServerSide::for_directories().map_err(|fault| fault.to_string());
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|error| Err(error.to_string()))
}

/// Asks for TLS. Whatever comes in clear behind the answer ends with this
/// conversation: it is never taken for what the directory says under TLS.
async fn start_tls(stream: &mut Stream) -> Result<(), String> {
    let request = Exop {
        name: Some(START_TLS.to_owned()),
        val: None,
    };
    let outcome = converse(stream, async |mut ldap| {
        ldap.extended(request).await.map_err(lost)
    });
    match outcome.await?.1 {
        outcome if outcome.rc != 0 => Err(format!(
            "could not start LDAP TLS session: {}",
            said(&outcome)
        )),
        _ => Ok(()),
    }
}

/// Asks to be taken for this entry, with this password.
async fn bind(stream: &mut Stream, name: &str, password: &Plaintext) -> Result<LdapResult, String> {
    let password = utf8(password)?;
    converse(stream, async |mut ldap| {
        let outcome = ldap.simple_bind(name, password).await.map_err(lost)?;
        // A farewell: whether it is heard does not matter.
        ldap.unbind().await.ok();
        Ok(outcome)
    })
    .await
}

/// The names of the entries that the filter lets through, two at most.
async fn search(stream: &mut Stream, search: &Search, filter: &str) -> Result<Vec<String>, String> {
    let password = utf8(&search.bind_password)?;
    let scope = match search.scope {
        Scope::Base => ldap3::Scope::Base,
        Scope::One => ldap3::Scope::OneLevel,
        Scope::Subtree => ldap3::Scope::Subtree,
    };
    converse(stream, async |mut ldap| {
        let bound = ldap.simple_bind(&search.bind_dn, password);
        let outcome = bound.await.map_err(lost)?;
        if outcome.rc != 0 {
            return Err(format!(
                "could not perform initial LDAP bind for ldapbinddn \"{}\": {}",
                search.bind_dn,
                said(&outcome)
            ));
        }
        ldap.with_search_options(SearchOptions::new().sizelimit(MOST_ENTRIES));
        let found = ldap.search(&search.base, scope, filter, NO_ATTRIBUTES);
        let found = match found.await {
            Err(ldap3::LdapError::FilterParsing) => {
                return Err(format!("not an LDAP filter: \"{filter}\""));
            }
            found => found.map_err(lost)?,
        };
        ldap.unbind().await.ok();
        let names: Vec<String> = found
            .0
            .into_iter()
            .map(|entry| SearchEntry::construct(entry).dn)
            .collect();
        // With several the search has ended at its limit, and says so.
        match found.1 {
            outcome if outcome.rc != 0 && names.len() < 2 => Err(format!(
                "could not search LDAP for filter \"{filter}\": {}",
                said(&outcome)
            )),
            _ => Ok(names),
        }
    })
    .await
}

/// Lets the library talk with the directory at the other end of `stream`.
async fn converse<T>(
    stream: &mut Stream,
    talk: impl AsyncFnOnce(ldap3::Ldap) -> Result<T, String>,
) -> Result<T, String> {
    let pair = || {
        let (ours, theirs) = UnixStream::pair()?;
        io::Result::Ok((Stream::from(ours), theirs.into_std()?))
    };
    let (ours, theirs) = pair().map_err(|error| error.to_string())?;
    let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(theirs));
    let begun = LdapConnAsync::with_settings(settings, OVER_SOCKET).await;
    let (connection, handle) = begun.map_err(|error| error.to_string())?;
    // Each of them ends when one of the others does.
    let (said, _, ()) = tokio::join!(talk(handle), connection.drive(), pass_on(stream, ours));
    said
}

/// Passes on what the two say to each other, until one of them ends.
async fn pass_on(directory: &mut Stream, mut library: Stream) {
    let (mut asked, mut answered) = ([0; CHUNK], [0; CHUNK]);
    let mut left = MOST_ANSWERED;
    loop {
        let passed = tokio::select! {
            read = library.read(&mut asked) => match read {
                Ok(read @ 1..) => directory.write_all(&asked[..read]).await,
                _ => return,
            },
            read = directory.read(&mut answered) => match read {
                Ok(read @ 1..) if read <= left => {
                    left -= read;
                    library.write_all(&answered[..read]).await
                }
                Ok(1..) => return tracing::warn!("LDAP server answers without end"),
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}

/// A panic of the library is an answer that it could not read.
async fn guarded<T>(talk: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = AssertUnwindSafe(talk).catch_unwind().await;
    done.unwrap_or_else(|_| Err("LDAP server answers what is no LDAP".to_owned()))
}

/// The library takes text alone, as LDAP asks for it.
fn utf8(password: &Plaintext) -> Result<&str, String> {
    str::from_utf8(password.as_bytes()).map_err(|_| "LDAP password is not UTF-8".to_owned())
}

/// What a directory said about a request that did not end well.
fn said(outcome: &LdapResult) -> String {
    match outcome.text.as_str() {
        "" => format!("result code {}", outcome.rc),
        text => format!("result code {}: {text}", outcome.rc),
    }
}

fn lost(error: ldap3::LdapError) -> String {
    format!("LDAP connection lost: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a bind comes to with a directory that answers this, and ends.
    async fn answered(answer: &[u8]) -> Result<u32, String> {
        let (ours, mut directory) = UnixStream::pair().expect("a pair");
        let mut stream = Stream::from(ours);
        let serve = async move {
            let mut request = [0; 100];
            let asked = directory.read(&mut request).await.expect("a request");
            assert!(asked > 0);
            // Too long an answer is not read to its end.
            directory.write_all(answer).await.ok();
        };
        let password = Plaintext::new(*b"secret");
        let bind = guarded(bind(&mut stream, "cn=x", &password));
        let both = async { tokio::join!(bind, serve).0 };
        let limit = Duration::from_secs(10);
        let done = Box::pin(tokio::time::timeout(limit, both));
        let done = done.await.expect("an end");
        done.map(|outcome| outcome.rc)
    }

    /// One element around another, as often as fits.
    fn nested(limit: usize) -> Vec<u8> {
        let mut bytes = vec![4, 0];
        loop {
            let mut around = vec![0x30];
            match u16::try_from(bytes.len()).expect("it is short") {
                length @ 0..0x80 => around.push(length as u8),
                length => around.extend([&[0x82][..], &length.to_be_bytes()].concat()),
            }
            if bytes.len() + around.len() > limit {
                return bytes;
            }
            bytes.splice(0..0, around);
        }
    }

    #[tokio::test]
    async fn the_word_of_a_directory_is_taken() {
        let answer = b"\x30\x0f\x02\x01\x01\x61\x0a\x0a\x01\x31\x04\x00\x04\x03bad";
        assert_eq!(answered(answer).await, Ok(WRONG_PASSWORD));
        let answer = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
        assert_eq!(answered(answer).await, Ok(0));
    }

    #[tokio::test]
    async fn whatever_else_a_directory_says_admits_nobody() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            // No content, no number, no outcome, another request's number.
            b"\x30\x00",
            b"\x30\x03\x02\x01\x01",
            b"\x30\x05\x02\x01\x01\x61\x00",
            b"\x30\x0c\x02\x01\x07\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
            b"\x30\x84\xff\xff\xff\xff\x02\x01\x01",
            &[0x30; 2 * MOST_ANSWERED],
            &nested(MOST_ANSWERED),
        ] {
            let found = answered(answer).await;
            assert!(found.is_err(), "{found:?}: {answer:?}");
        }
    }
}
