//! What a StartupMessage asks for.

use std::fmt;

use crate::auth::MAX_USER_BYTES;
use crate::config::in_list;
use crate::pool::Bouncer;
use crate::server::Parameters;
use crate::wire::startup::{self, Replication};

/// Who a client says it is, and how it wants its session.
#[derive(Debug, Default)]
pub struct Identity {
    /// `user`.
    pub user: String,
    /// `database`; the user's name if it was left out.
    pub database: String,
    /// `application_name`.
    pub application_name: String,
    /// The tracked parameters it set.
    pub parameters: Parameters,
    /// `replication`.
    pub replication: Replication,
    /// `options`, unread, of a client that wants replication.
    pub options: Option<String>,
    /// The minor version of protocol 3 that is spoken.
    pub minor: u16,
    /// Protocol options (`_pq_.`) that are not supported.
    pub unsupported: Vec<String>,
}

/// A StartupMessage that cannot be served. Displays as PgBouncer's text.
#[derive(Debug, PartialEq, Eq)]
pub enum StartupFault {
    /// No `user`.
    NoUser,
    /// A name of more than [`MAX_USER_BYTES`].
    UserTooLong,
    /// A parameter that is neither tracked nor ignored.
    Parameter(String),
    /// The same inside `options`.
    InOptions(String),
    /// `options` that are not understood.
    Options,
}

impl fmt::Display for StartupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupFault::NoUser => f.write_str("no username supplied"),
            StartupFault::UserTooLong => f.write_str("username too long"),
            StartupFault::Parameter(name) => write!(f, "unsupported startup parameter: {name}"),
            StartupFault::InOptions(name) => {
                write!(f, "unsupported startup parameter in options: {name}")
            }
            StartupFault::Options => f.write_str(
                "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
            ),
        }
    }
}

impl Identity {
    /// Reads the parameters.
    ///
    /// # Errors
    /// See [`StartupFault`].
    pub fn read(
        parameters: startup::Parameters<'_>,
        bouncer: &Bouncer,
    ) -> Result<Identity, StartupFault> {
        let config = bouncer.config();
        let ignored = &config.pgbouncer.ignore_startup_parameters;
        let mut identity = Identity::default();
        // It decides what `options` may hold, wherever it stands.
        for (_, value) in parameters.iter().filter(|(name, _)| *name == "replication") {
            identity.replication = Replication::read(value).unwrap_or(identity.replication);
        }
        for (name, value) in parameters.iter() {
            match name {
                "user" => value.clone_into(&mut identity.user),
                "database" => value.clone_into(&mut identity.database),
                // Its server is its own: what it says there is told to that.
                "options" if identity.replication != Replication::No => {
                    identity.options = Some(value.to_owned());
                }
                "options" => identity.read_options(value, ignored, bouncer)?,
                "replication" => {}
                _ if name.starts_with("_pq_.") => identity.unsupported.push(name.to_owned()),
                _ if identity.set(name, value, bouncer) => {}
                _ if in_list(ignored, name) => {}
                _ => {
                    // What a driver took for a parameter may be a password.
                    tracing::warn!("unsupported startup parameter: {name}");
                    return Err(StartupFault::Parameter(name.to_owned()));
                }
            }
        }
        if identity.user.is_empty() {
            return Err(StartupFault::NoUser);
        }
        if identity.user.len() > MAX_USER_BYTES {
            return Err(StartupFault::UserTooLong);
        }
        if identity.database.is_empty() {
            identity.database.clone_from(&identity.user);
        }
        Ok(identity)
    }

    fn read_options(
        &mut self,
        text: &str,
        ignored: &str,
        bouncer: &Bouncer,
    ) -> Result<(), StartupFault> {
        let pairs = startup::options(text).map_err(|_| StartupFault::Options)?;
        for (name, value) in pairs {
            if !self.set(&name, &value, bouncer)
                && !in_list(ignored, &name)
                && !in_list(ignored, "options")
            {
                return Err(StartupFault::InOptions(name));
            }
        }
        Ok(())
    }

    /// Takes a tracked parameter; false if it is not tracked.
    fn set(&mut self, name: &str, value: &str, bouncer: &Bouncer) -> bool {
        let Some(index) = bouncer.tracked.index(name) else {
            return false;
        };
        self.parameters.set(index, value);
        if name.eq_ignore_ascii_case("application_name") {
            value.clone_into(&mut self.application_name);
        }
        true
    }
}
