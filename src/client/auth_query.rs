//! Users whom `auth_file` does not know: asks a server for their secrets.

use std::fmt;
use std::sync::Arc;

use super::check::check;
use super::login::{Login, Refusal, obtain, unless_gone};
use super::lookups::{Answer, KnownUser, Question};
use super::startup::Identity;
use super::worker::Worker;
use crate::auth::{Credential, MAX_PASSWORD_BYTES, MAX_USER_BYTES, Secret};
use crate::config;
use crate::pool::{CONSOLE, CancelKey, Client, Database, NewClient, Pool};
use crate::server::Found;

/// Which server is asked, and what.
struct Source {
    database: Arc<Database>,
    auth_user: String,
    query: String,
}

impl Login {
    /// Looks up a user who is not in `auth_file`. None if nobody is to be
    /// asked: the user is unknown then.
    pub(super) async fn look_up(
        &mut self,
        identity: &Identity,
        database: Option<&Database>,
    ) -> Result<Option<KnownUser>, Refusal> {
        let Some(source) = self.source(identity, database)? else {
            return Ok(None);
        };
        let bouncer = self.worker.bouncer.clone();
        let auth_user = bouncer.user(&source.auth_user);
        let question = Question {
            database: source.database.name.clone(),
            auth_user: source.auth_user,
            query: source.query,
            user: identity.user.clone(),
        };
        let client = Arc::new(Client::new(NewClient {
            id: self.id(),
            key: CancelKey::default(),
            database: source.database.clone(),
            user: auth_user.clone(),
            address: self.address,
            local: self.channel.stream.local(),
            cipher: self.channel.stream.cipher(),
            connected_at: self.connected_at,
            application_name: "".into(),
            own: None,
            key_rest: None,
        }));
        let pool = bouncer.pool_as(&source.database, auth_user);
        let unknown_for = bouncer.config().pgweir.auth_query_negative_ttl;
        let worker = self.worker.clone();
        let asked = |old| ask(&worker, &pool, &client, &question, old);
        self.waiting = true;
        let lookups = &self.worker.login.lookups;
        let answer = lookups.answer(&question, || self.worker.now(), unknown_for, asked);
        let answer = unless_gone(&mut self.channel, answer).await?;
        self.waiting = false;
        match answer {
            Answer::Known(known) => Ok(Some(known)),
            Answer::Unknown => {
                tracing::info!("C: {}@{} no such user", identity.user, self.address);
                Err("no such user".into())
            }
            Answer::Useless => Err("bouncer config error".into()),
            Answer::Failing(failure) => {
                bouncer.forget_unproven();
                Err(Refusal::Server(failure))
            }
        }
    }

    /// Where the user of `database` is to be looked up, if anywhere.
    fn source(
        &self,
        identity: &Identity,
        database: Option<&Database>,
    ) -> Result<Option<Source>, Refusal> {
        let bouncer = &self.worker.bouncer;
        let config = bouncer.config();
        let global = &config.pgbouncer;
        let settings = match database {
            Some(database) => database.settings.load_full(),
            None if identity.database == CONSOLE => Arc::new(config::Database::default()),
            None => match &config.autodb {
                Some(settings) => Arc::new(settings.clone()),
                // The database does not exist, which is nobody's business yet.
                None => return Ok(None),
            },
        };
        let Some(auth_user) = settings.auth_user.as_ref().or(global.auth_user.as_ref()) else {
            return Ok(None);
        };
        let query = settings.auth_query.as_ref().unwrap_or(&global.auth_query);
        let auth_dbname = settings
            .auth_dbname
            .as_ref()
            .or(global.auth_dbname.as_ref());
        let name = auth_dbname.unwrap_or(&identity.database);
        let log = |what: &str| {
            let Identity { database, user, .. } = identity;
            tracing::error!("C: {database}/{user}@{} {what}", self.address);
        };
        if name == CONSOLE {
            log(&format!(
                "cannot use the reserved \"{CONSOLE}\" database as an auth_dbname"
            ));
            return Err("bouncer config error".into());
        }
        let Some(database) = bouncer.database(name) else {
            log(&format!(
                "authentication database \"{name}\" is not configured."
            ));
            return Err("bouncer config error".into());
        };
        if database.is_disabled() {
            return Err(Refusal::Fatal(format!(
                "authentication database \"{name}\" is disabled"
            )));
        }
        Ok(Some(Source {
            database,
            auth_user: auth_user.clone(),
            query: query.clone(),
        }))
    }
}

/// Asks a server of `pool`.
async fn ask(
    worker: &Arc<Worker>,
    pool: &Arc<Pool>,
    client: &Arc<Client>,
    question: &Question,
    old: Option<Arc<Credential>>,
) -> Answer {
    let mut lease = loop {
        let lease = match obtain(worker, pool, client).await {
            Ok(lease) => lease,
            Err(Refusal::Server(failure)) => return Answer::Failing(failure),
            Err(Refusal::Fatal(_) | Refusal::Silent) => return Answer::Useless,
        };
        let lease = match lease.home == worker.id {
            true => Some(lease),
            false => lease.rehome(worker.id),
        };
        match lease {
            Some(lease) if pool.is_check_due(&lease, worker.now()) => {
                let checked = check(lease, &worker.bouncer.config().pgbouncer);
                if let Some(lease) = checked.await {
                    break lease;
                }
            }
            Some(lease) => break lease,
            None => {}
        }
    };
    lease.record.engage(client.id, worker.now());
    let (user, asked_in) = (&question.user, &question.database);
    let found = match lease.ask(&question.query, user).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(
                "{asked_in}/{} S: error in auth_query: {error}",
                pool.user.name
            );
            lease.discard("error response from auth_query");
            return Answer::Useless;
        }
    };
    match read(&found, old.as_ref()) {
        Ok(Some(known)) => {
            lease.release(worker.now());
            Answer::Known(known)
        }
        Ok(None) => {
            lease.release(worker.now());
            Answer::Unknown
        }
        Err(fault) => {
            tracing::error!("{asked_in}/{} S: {fault}", pool.user.name);
            lease.discard("unexpected response from auth_query");
            Answer::Useless
        }
    }
}

/// What is wrong with an answer to `auth_query`, in PgBouncer's words where it
/// has some.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    NoResult,
    Columns(u16),
    NullName,
    BadName,
    SecretTooLong,
    Conflicting,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoResult => f.write_str("unexpected response from auth_query"),
            Fault::Columns(count) => write!(f, "expected 2 columns from auth_query, not {count}"),
            Fault::NullName => f.write_str("auth_query response contained null user name"),
            Fault::BadName => f.write_str("auth_query response contained a bad user name"),
            Fault::SecretTooLong => f.write_str("auth_query response contained too long a secret"),
            Fault::Conflicting => {
                f.write_str("auth_query returned rows that contradict each other")
            }
        }
    }
}

/// The user in an answer. `old` is the credential of the answer before: an
/// unchanged secret keeps it, with the keys that were derived from it.
fn read(found: &Found, old: Option<&Arc<Credential>>) -> Result<Option<KnownUser>, Fault> {
    match found.columns {
        Some(2) => {}
        Some(count) => return Err(Fault::Columns(count)),
        None => return Err(Fault::NoResult),
    }
    if found.conflicting {
        return Err(Fault::Conflicting);
    }
    let Some(row) = &found.row else {
        return Ok(None);
    };
    let [name, secret] = &row.0[..] else {
        return Err(Fault::Columns(
            u16::try_from(row.0.len()).unwrap_or(u16::MAX),
        ));
    };
    let name = name.as_ref().ok_or(Fault::NullName)?;
    let is_good = |name: &&str| !name.is_empty() && name.len() <= MAX_USER_BYTES;
    let name = str::from_utf8(name)
        .ok()
        .filter(is_good)
        .ok_or(Fault::BadName)?;
    let secret = match secret {
        Some(secret) if secret.len() > MAX_PASSWORD_BYTES => return Err(Fault::SecretTooLong),
        Some(secret) => Secret::parse(secret),
        None => Secret::none(),
    };
    let credential = match old {
        Some(old) => Credential::renewed(old, secret),
        None => Arc::new(Credential::new(secret)),
    };
    Ok(Some(KnownUser {
        name: name.into(),
        credential,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Row;

    fn found(row: &[Option<&str>]) -> Found {
        let own = |value: &Option<&str>| value.map(|value| bytes::Bytes::from(value.to_owned()));
        Found {
            columns: u16::try_from(row.len()).ok(),
            row: Some(Row(row.iter().map(own).collect())),
            conflicting: false,
        }
    }

    fn fault(found: &Found) -> Fault {
        read(found, None).expect_err("refused")
    }

    #[test]
    fn a_row_is_a_name_and_a_secret() {
        let known = read(&found(&[Some("ann"), Some("foo")]), None);
        let known = known.expect("good").expect("a row");
        assert_eq!(&*known.name, "ann");
        assert_eq!(*known.credential.secret(), Secret::parse(b"foo"));
    }

    #[test]
    fn no_row_is_no_user() {
        let none = Found {
            columns: Some(2),
            ..Found::default()
        };
        assert!(read(&none, None).expect("good").is_none());
    }

    #[test]
    fn null_and_the_empty_secret_match_nothing() {
        for secret in [None, Some("")] {
            let known = read(&found(&[Some("ann"), secret]), None);
            let known = known.expect("good").expect("a row");
            assert!(known.credential.secret().is_none(), "{secret:?}");
        }
    }

    #[test]
    fn anything_but_two_columns_is_refused() {
        assert_eq!(fault(&found(&[Some("ann")])), Fault::Columns(1));
        let three = [Some("ann"), Some("foo"), None];
        assert_eq!(fault(&found(&three)), Fault::Columns(3));
        assert_eq!(fault(&Found::default()), Fault::NoResult);
    }

    #[test]
    fn names_that_no_client_can_have_are_refused() {
        assert_eq!(fault(&found(&[None, Some("foo")])), Fault::NullName);
        let long = "u".repeat(MAX_USER_BYTES + 1);
        for name in ["", long.as_str()] {
            assert_eq!(fault(&found(&[Some(name), Some("foo")])), Fault::BadName);
        }
        let mut binary = found(&[None, Some("foo")]);
        binary.row.as_mut().expect("a row").0[0] = Some(bytes::Bytes::from_static(b"\xff"));
        assert_eq!(fault(&binary), Fault::BadName);
    }

    #[test]
    fn rows_that_contradict_each_other_are_refused() {
        let two = Found {
            conflicting: true,
            ..found(&[Some("ann"), Some("foo")])
        };
        assert_eq!(fault(&two), Fault::Conflicting);
    }

    #[test]
    fn an_unchanged_secret_keeps_its_credential() {
        let old = Arc::new(Credential::new(Secret::parse(b"foo")));
        let keeps = |secret: &str| {
            let known = read(&found(&[Some("ann"), Some(secret)]), Some(&old));
            Arc::ptr_eq(&old, &known.expect("good").expect("a row").credential)
        };
        assert!(keeps("foo"));
        assert!(!keeps("bar"));
    }
}
