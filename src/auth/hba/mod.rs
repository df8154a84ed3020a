//! Rules for logins (`auth_type = hba`): the first that fits a client says how
//! it has to prove who it is.
//!
//! ```text
//! local      DATABASE  USER           METHOD  [map=NAME]
//! host       DATABASE  USER  ADDRESS  METHOD  [map=NAME]
//! hostssl    DATABASE  USER  ADDRESS  METHOD  [map=NAME]
//! hostnossl  DATABASE  USER  ADDRESS  METHOD  [map=NAME]
//! ```
//!
//! The grammar is PgBouncer's, with the method `pam` in addition. It is narrower
//! than PostgreSQL's: no host names, no samehost and samenet, no roles, no patterns.

mod address;
mod fault;
mod ident;
mod parse;
mod token;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use self::address::Addresses;
use super::client::Method;
use super::ldap::{Ldap, LdapFault};
use crate::config::AuthType;

pub use fault::{Fault, Notice};
pub use ident::{IdentFault, IdentMap, IdentMaps};

/// How a client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// By an exchange of messages, or not at all.
    Exchange(Method),
    /// By the certificate it presented for TLS.
    Certificate,
    /// By the user its process runs as.
    Peer,
    /// Not: it is turned away.
    Reject,
    /// By a password that a directory checks; the options of the rule.
    Ldap(Box<str>),
    /// By a password that PAM checks.
    Pam,
}

impl Means {
    /// What an `auth_type` asks for; none if rules decide.
    pub fn of(auth_type: AuthType) -> Option<Means> {
        Some(match auth_type {
            AuthType::Any => Means::Exchange(Method::Any),
            AuthType::Trust => Means::Exchange(Method::Trust),
            AuthType::Plain => Means::Exchange(Method::Plain),
            AuthType::Md5 => Means::Exchange(Method::Md5),
            AuthType::ScramSha256 => Means::Exchange(Method::ScramSha256),
            AuthType::Cert => Means::Certificate,
            AuthType::Ldap => Means::Ldap("".into()),
            AuthType::Pam => Means::Pam,
            AuthType::Hba => return None,
        })
    }
}

/// The rules of an HBA file, in their order.
#[derive(Debug, Default)]
pub struct Rules(Vec<Arc<Rule>>);

/// One rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What it asks for.
    pub means: Means,
    /// The ident map for certificates and peers.
    pub map: Option<Arc<IdentMap>>,
    connection: Connection,
    databases: Names,
    users: Names,
    addresses: Addresses,
}

/// The first word of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

/// A list of databases or users.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    same_user: bool,
    replication: bool,
    names: HashSet<Box<[u8]>>,
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Unix,
    /// This address.
    Ip(IpAddr),
}

/// A client that wants to log in.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// Where it comes from; none if its socket is gone.
    pub origin: Option<Origin>,
    /// It uses TLS.
    pub is_encrypted: bool,
    /// It wants the server's log, not a database.
    pub is_physical_replication: bool,
    /// The database it asks for.
    pub database: &'a str,
    /// Its name.
    pub user: &'a str,
}

impl Rules {
    /// The first rule that fits.
    pub fn decide(&self, visit: &Visit<'_>) -> Option<&Arc<Rule>> {
        self.0.iter().find(|rule| rule.fits(visit))
    }

    /// The lines of rules that ask PAM.
    pub fn lines_of_pam(&self) -> impl Iterator<Item = usize> {
        let rules = self.0.iter().filter(|rule| rule.means == Means::Pam);
        rules.map(|rule| rule.line)
    }

    /// Rules whose options for LDAP cannot be used: their lines, and why.
    pub fn ldap_faults(&self) -> impl Iterator<Item = (usize, LdapFault)> {
        self.0.iter().filter_map(|rule| match &rule.means {
            Means::Ldap(options) => Some((rule.line, Ldap::parse(options).err()?)),
            _ => None,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none: nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule {
    fn fits(&self, visit: &Visit<'_>) -> bool {
        let from_here = match (self.connection, visit.origin) {
            (Connection::Local, origin) => origin == Some(Origin::Unix),
            (Connection::HostSsl, _) if !visit.is_encrypted => false,
            (Connection::HostNoSsl, _) if visit.is_encrypted => false,
            (_, Some(Origin::Ip(address))) => self.addresses.hold(address),
            (_, Some(Origin::Unix) | None) => false,
        };
        let to_there = match visit.is_physical_replication {
            true => self.databases.replication,
            false => self.databases.hold(visit.database, visit.user),
        };
        from_here && to_there && self.users.hold(visit.user, visit.database)
    }
}

impl Names {
    /// Whether `name` is listed; `other` is the user of a database, or the
    /// database of a user.
    fn hold(&self, name: &str, other: &str) -> bool {
        self.all || (self.same_user && name == other) || self.names.contains(name.as_bytes())
    }
}

#[cfg(test)]
mod tests;
