//! What a configuration says, whichever file it was written in. The sections
//! themselves are tables: `pgbouncer.rs`, `entries.rs`, `native.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::entries::{Database, Peer, User};
use super::native::{Balancer, Metrics, Pgweir, Prepare, Queries};
use super::pgbouncer::Pgbouncer;

/// The database name of the console, which no entry may take.
pub const RESERVED_DATABASE: &str = "pgbouncer";

/// How long a server stays with a client (`pool_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolMode {
    /// Until the client leaves.
    #[default]
    Session,
    /// Until the end of the transaction.
    Transaction,
    /// Until the end of the statement; transaction blocks are refused.
    Statement,
}

/// How a client proves who it is (`auth_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthType {
    /// No check, the name is ignored.
    Any,
    /// No check, the user must be known.
    Trust,
    /// Clear-text password.
    Plain,
    /// MD5 challenge; SCRAM for users that have a SCRAM secret.
    #[default]
    Md5,
    /// TLS client certificate.
    Cert,
    /// By rule.
    Hba,
    /// LDAP bind.
    Ldap,
    /// PAM.
    Pam,
    /// SCRAM-SHA-256.
    ScramSha256,
}

/// Whether TLS is used and what is checked (`client_tls_sslmode`,
/// `server_tls_sslmode`), in libpq's words, from the weakest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// No TLS.
    #[default]
    Disable,
    /// TLS if the other side asks for it.
    Allow,
    /// TLS if the other side can.
    Prefer,
    /// TLS or nothing.
    Require,
    /// And a certificate of a known authority.
    VerifyCa,
    /// And that certificate names the other side.
    VerifyFull,
}

/// A secret as the configuration holds it. Never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// When a failed request may be sent to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replay {
    /// Never.
    Never,
    /// When it provably never reached the first node, or its method is safe.
    #[default]
    Proven,
    /// Always.
    Always,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file this was read from.
    pub path: PathBuf,
    /// `[pgbouncer]`.
    pub pgbouncer: Pgbouncer,
    /// `[databases]` without `*`.
    pub databases: BTreeMap<String, Database>,
    /// The `*` entry of `[databases]`.
    pub autodb: Option<Database>,
    /// `[users]`.
    pub users: BTreeMap<String, User>,
    /// `[peers]`.
    pub peers: BTreeMap<u32, Peer>,
    /// `[pgweir]`.
    pub pgweir: Pgweir,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[queries]`.
    pub queries: Queries,
    /// `[prepare]`, if the file has it.
    pub prepare: Option<Prepare>,
    /// `[balancer]`, if the file has it.
    pub balancer: Option<Balancer>,
}

impl Config {
    /// The entry that `*` makes for a database of this name.
    pub fn autodb_as(&self, name: &str) -> Option<Database> {
        let mut settings = self.autodb.clone()?;
        settings.dbname.get_or_insert_with(|| name.to_owned());
        Some(settings)
    }
}
