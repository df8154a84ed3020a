//! How a client has to prove who it is, and what comes of it.

use std::sync::Arc;

use nix::unistd::{Uid, User};

use super::login::{Login, Refusal};
use super::startup::Identity;
use crate::auth::hba::{IdentMap, Means, Origin, Visit};
use crate::auth::{Authenticated, Credential, Reason};
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
        let rules = bouncer.hba_rules();
        let refused = |reason| Err(self.refused(&identity.user, &reason));
        let Some(rule) = rules.decide(&visit) else {
            return refused(Reason::NoRule);
        };
        tracing::debug!(
            "C: {}@{} hba line {} fits",
            visit.user,
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
            Means::Ldap(_) => return Err("ldap is not supported by this build".into()),
            Means::Pam => return Err("pam is not supported by this build".into()),
        };
        match proven {
            Ok(authenticated) => Ok((authenticated, Vec::new())),
            Err(reason) => Err(self.refused(user, &reason)),
        }
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
