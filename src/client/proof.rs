//! How a client has to prove who it is, and what comes of it.

use std::sync::Arc;

use nix::unistd::{Uid, User};

use super::login::{Login, Refusal, unless_gone};
use super::startup::Identity;
use crate::auth::hba::{IdentMap, Means, Origin, Rule, Visit};
use crate::auth::ldap::Ldap;
use crate::auth::{self, Authenticated, Credential, Plaintext, Reason};
use crate::config::AuthType;
use crate::net::Address;
use crate::pool::Database;
use crate::wire::startup::Replication;

/// What is asked of a client.
pub(super) struct Demand {
    pub(super) means: Means,
    map: Option<Arc<IdentMap>>,
}

impl Login {
    /// What `auth_type`, or the first rule that fits, asks of this client.
    pub(super) fn demand(&self, identity: &Identity) -> Result<Demand, Refusal> {
        let bouncer = &self.worker.bouncer;
        if let Some(means) = Means::of(bouncer.config().pgbouncer.auth_type) {
            return Ok(Demand { means, map: None });
        }
        let refused = |reason| Err(self.refused(&identity.user, &reason));
        let Some(rule) = self.rule(identity) else {
            return refused(Reason::NoRule);
        };
        tracing::debug!(
            "C: {}@{} hba line {} fits",
            identity.user,
            self.address,
            rule.line
        );
        if rule.means == Means::Reject {
            return refused(Reason::Rejected { line: rule.line });
        }
        Ok(Demand {
            means: rule.means.clone(),
            map: rule.map.clone(),
        })
    }

    /// Who else checks this client's password, so that nobody has to know its
    /// secret.
    pub(super) fn voucher(&self, identity: &Identity) -> Option<&'static str> {
        let auth_type = self.worker.bouncer.config().pgbouncer.auth_type;
        let of = |means: &Means| match means {
            Means::Ldap(_) => Some("LDAP"),
            Means::Pam => Some("PAM"),
            _ => None,
        };
        match Means::of(auth_type) {
            Some(means) => of(&means),
            None => self.rule(identity).and_then(|rule| of(&rule.means)),
        }
    }

    /// The first rule that fits.
    fn rule(&self, identity: &Identity) -> Option<Arc<Rule>> {
        let visit = Visit {
            origin: match self.address {
                Address::Tcp(address) => Some(Origin::Ip(address.ip())),
                Address::Unix { .. } => Some(Origin::Unix),
                Address::Gone => None,
            },
            is_encrypted: self.is_encrypted(),
            is_physical_replication: identity.replication == Replication::Physical,
            database: &identity.database,
            user: &identity.user,
        };
        self.worker.bouncer.hba_rules().decide(&visit).cloned()
    }

    /// `auth_type = any` is for databases that force a user.
    pub(super) fn require_forced_user(&self, database: Option<&Database>) -> Result<(), Refusal> {
        let forced = match database {
            Some(database) => database.settings.load().user.is_some(),
            None => {
                let config = self.worker.bouncer.config();
                config.autodb.as_ref().is_some_and(|any| any.user.is_some())
            }
        };
        if !forced {
            tracing::error!("auth_type=any requires forced user");
            return Err("bouncer config error".into());
        }
        Ok(())
    }

    /// Lets the client prove what it is asked for; answers the proof and what
    /// is to be sent before AuthenticationOk. Nobody knows a user without a
    /// `credential`.
    pub(super) async fn prove(
        &mut self,
        demand: Demand,
        user: &str,
        credential: Option<&Arc<Credential>>,
    ) -> Result<(Authenticated, Vec<u8>), Refusal> {
        let map = demand.map.as_deref();
        let proven = match demand.means {
            Means::Exchange(method) => return self.authenticate(method, user, credential).await,
            Means::Peer => {
                let system_user = self.system_user().await;
                Authenticated::by_peer(user, credential, system_user.as_deref(), map)
            }
            Means::Certificate => {
                let names = self.certificate();
                Authenticated::by_certificate(user, credential, names.as_ref(), map)
            }
            Means::Reject => return Err("login rejected".into()),
            // Boxed: few logins need it, and all of them would carry it.
            Means::Ldap(options) => Box::pin(self.ask_directory(options, user)).await?,
            Means::Pam => Box::pin(self.ask_pam(user)).await?,
        };
        match proven {
            Ok(authenticated) => Ok((authenticated, Vec::new())),
            Err(reason) => Err(self.refused(user, &reason)),
        }
    }

    /// Lets a directory check the client's password.
    async fn ask_directory(
        &mut self,
        of_rule: Box<str>,
        user: &str,
    ) -> Result<Result<Authenticated, Reason>, Refusal> {
        let bouncer = self.worker.bouncer.clone();
        let config = bouncer.config();
        let options = match (
            config.pgbouncer.auth_type,
            &config.pgbouncer.auth_ldap_options,
        ) {
            (AuthType::Ldap, None) => return Err("auth_ldap_options is null".into()),
            (AuthType::Ldap, Some(options)) => options.0.as_str().into(),
            _ => of_rule,
        };
        let password = match self.typed_password().await? {
            Ok(password) => password,
            Err(reason) => return Ok(Err(reason)),
        };
        let worker = self.worker.clone();
        let checked = match Ldap::parse(&options) {
            Ok(ldap) => {
                let directories = &worker.login.directories;
                let checked = directories.check(&ldap, &bouncer.names, user, &password);
                unless_gone(&mut self.channel, checked).await?
            }
            Err(fault) => Err(fault.to_string()),
        };
        Ok(match checked {
            Ok(()) => {
                bouncer.user(user);
                Ok(Authenticated::vouched(user, password))
            }
            Err(why) => Err(Reason::Ldap(why.into())),
        })
    }

    /// Lets PAM check the client's password.
    async fn ask_pam(&mut self, user: &str) -> Result<Result<Authenticated, Reason>, Refusal> {
        let password = match self.typed_password().await? {
            Ok(password) => password,
            Err(reason) => return Ok(Err(reason)),
        };
        let worker = self.worker.clone();
        let checked = worker.login.pam.check(user, self.address, password);
        Ok(match unless_gone(&mut self.channel, checked).await? {
            Ok(password) => {
                worker.bouncer.user(user);
                Ok(Authenticated::vouched(user, password))
            }
            Err(why) => Err(Reason::Pam(why.into())),
        })
    }

    /// The password, which the client is asked for in clear.
    async fn typed_password(&mut self) -> Result<Result<Plaintext, Reason>, Refusal> {
        let typed = self.answer(&auth::ask_password()).await?;
        Ok(auth::read_password(&typed))
    }

    /// Tells the log why, and the client what it may know.
    pub(super) fn refused(&self, user: &str, reason: &Reason) -> Refusal {
        tracing::warn!("C: {user}@{} login failed: {reason}", self.address);
        reason.client_text().into()
    }

    /// The name of the system user at the other end of a Unix socket.
    async fn system_user(&self) -> Option<String> {
        let uid = self.channel.stream.peer_uid()?;
        // Where users come from a directory, this asks the network.
        let find = move || User::from_uid(Uid::from_raw(uid));
        let found = tokio::task::spawn_blocking(find).await.ok()?;
        found.ok().flatten().map(|user| user.name)
    }
}
