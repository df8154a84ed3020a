//! Asks a directory whether a user's password is right.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};

use crate::auth::Plaintext;
use crate::auth::ldap::{self, Filter, Ldap, Lookup, Outcome, Protection, Reply, Search};
use crate::net::tls::ServerSide;
use crate::net::{self, Channel, ConnectError, Host, Names, SocketOptions};

/// How long a directory may take to accept a connection, PgBouncer's.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long everything with a directory may take for one login.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Logins that ask directories at once; more wait for their turn.
const MOST_CHECKS: usize = 20;

/// Answers to one search: entries, references and the end.
const MOST_ANSWERS: usize = 100;

/// "invalidCredentials".
const WRONG_PASSWORD: u8 = 49;

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
            let mut talk = self.begin(ldap, names).await?;
            let outcome = talk.bind(&name, password.as_bytes()).await?;
            talk.end().await;
            match outcome.code {
                0 => Ok(()),
                WRONG_PASSWORD => Err(format!("LDAP login failed for user {name}: wrong password")),
                _ => Err(format!(
                    "LDAP login failed for user {name}: {}",
                    said(&outcome)
                )),
            }
        };
        tokio::time::timeout(CHECK_LIMIT, check)
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
        let text = search
            .filter_for(user)
            .ok_or("invalid character in user name for LDAP authentication")?;
        let filter =
            Filter::parse(&text).ok_or_else(|| format!("not an LDAP filter: \"{text}\""))?;
        let mut talk = self.begin(ldap, names).await?;
        let bound = talk.bind(&search.bind_dn, search.bind_password.as_bytes());
        let outcome = bound.await?;
        if outcome.code != 0 {
            return Err(format!(
                "could not perform initial LDAP bind for ldapbinddn \"{}\": {}",
                search.bind_dn,
                said(&outcome)
            ));
        }
        let found = talk.search(search, &filter, &text, user).await?;
        talk.end().await;
        Ok(found)
    }

    /// Connects to the first server that can be reached.
    async fn begin(&self, ldap: &Ldap, names: &Arc<Names>) -> Result<Talk, String> {
        let mut failure = String::new();
        for (host, port) in &ldap.servers {
            let begun = self.begin_with(ldap.protection, host, *port, names);
            match tokio::time::timeout(CONNECT_LIMIT, begun).await {
                Ok(Ok(talk)) => return Ok(talk),
                Ok(Err(error)) => failure = format!("{host}:{port}: {error}"),
                Err(_) => failure = format!("{host}:{port}: no answer"),
            }
        }
        Err(format!("could not connect to LDAP server {failure}"))
    }

    async fn begin_with(
        &self,
        protection: Protection,
        host: &str,
        port: u16,
        names: &Arc<Names>,
    ) -> Result<Talk, String> {
        let name = Host::Name(host.to_owned());
        let stream = net::connect(&name, port, names, &SocketOptions::default())
            .await
            .map_err(|error| match error {
                ConnectError::Lookup(error) => format!("DNS lookup failed: {error}"),
                ConnectError::Socket(error) => error.to_string(),
            })?;
        let mut talk = Talk {
            channel: Channel::new(stream),
            last: 0,
        };
        if protection == Protection::None {
            return Ok(talk);
        }
        if protection == Protection::StartTls {
            let id = talk.next();
            let outcome = talk.ask(&ldap::start_tls(id), id).await?;
            if outcome.code != 0 {
                return Err(format!(
                    "could not start LDAP TLS session: {}",
                    said(&outcome)
                ));
            }
            // What comes in clear behind it is not the directory's word.
            if talk.channel.carried() > 0 {
                return Err("received unencrypted data after the answer to StartTLS".to_owned());
            }
        }
        let tls = self.tls.get_or_try_init(load_tls).await?;
        let target = tls.target(host, false).map_err(|error| error.to_string())?;
        let encrypted = talk.channel.stream.connect_tls(target).await;
        encrypted.map_err(|error| format!("TLS handshake error: {error}"))?;
        Ok(talk)
    }
}

/// Away from the workers: the system's authorities are many.
async fn load_tls() -> Result<ServerSide, String> {
    let load = || ServerSide::for_directories().map_err(|fault| fault.to_string());
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.unwrap_or_else(|error| Err(error.to_string()))
}

/// A conversation with a directory.
struct Talk {
    channel: Channel,
    /// The number of the last request.
    last: u8,
}

impl Talk {
    /// The number of the next request. A conversation has four at most.
    fn next(&mut self) -> u8 {
        self.last += 1;
        self.last
    }

    async fn bind(&mut self, name: &str, password: &[u8]) -> Result<Outcome, String> {
        let id = self.next();
        self.ask(&ldap::bind(id, name, password), id).await
    }

    /// The name of the one entry that the filter lets through.
    async fn search(
        &mut self,
        search: &Search,
        filter: &Filter,
        text: &str,
        user: &str,
    ) -> Result<String, String> {
        let id = self.next();
        self.send(&ldap::search(id, search, filter)).await?;
        let mut found = None;
        for _ in 0..MOST_ANSWERS {
            match self.reply(id).await? {
                Reply::Entry(_) if found.is_some() => {
                    return Err(format!("LDAP user \"{user}\" is not unique"));
                }
                Reply::Entry(name) => found = Some(name),
                Reply::Done(outcome) if outcome.code != 0 => {
                    let said = said(&outcome);
                    return Err(format!(
                        "could not search LDAP for filter \"{text}\": {said}"
                    ));
                }
                Reply::Done(_) => {
                    return found.ok_or_else(|| format!("LDAP user \"{user}\" does not exist"));
                }
                Reply::Other => {}
            }
        }
        Err("LDAP server answers without end".to_owned())
    }

    /// Asks what has one answer.
    async fn ask(&mut self, request: &[u8], id: u8) -> Result<Outcome, String> {
        self.send(request).await?;
        match self.reply(id).await? {
            Reply::Done(outcome) => Ok(outcome),
            Reply::Entry(_) | Reply::Other => Err(lost(&io::ErrorKind::InvalidData.into())),
        }
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), String> {
        let sent = self.channel.write_all(request).await;
        sent.map_err(|error| lost(&error))
    }

    async fn reply(&mut self, id: u8) -> Result<Reply, String> {
        self.read(id).await.map_err(|error| lost(&error))
    }

    async fn read(&mut self, id: u8) -> io::Result<Reply> {
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let head = self.channel.peek(ldap::HEAD).await?.first_chunk().copied();
        let length = head.as_ref().and_then(ldap::length).ok_or_else(bad)?;
        self.channel.peek(length).await?;
        ldap::read(&self.channel.take(length), id).ok_or_else(bad)
    }

    /// Says farewell.
    async fn end(mut self) {
        let id = self.next();
        // Whether it is heard does not matter.
        self.send(&ldap::unbind(id)).await.ok();
    }
}

/// What a directory said about a request that did not end well.
fn said(outcome: &Outcome) -> String {
    match outcome.text.as_str() {
        "" => format!("result code {}", outcome.code),
        text => format!("result code {}: {text}", outcome.code),
    }
}

fn lost(error: &io::Error) -> String {
    format!("LDAP connection lost: {error}")
}
