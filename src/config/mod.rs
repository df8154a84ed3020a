//! The settings table and the files it is read from.
//!
//! A part of the program is handed the piece of [`Config`] it needs when it is
//! built, and again on reload. It never fetches it.

mod advice;
mod assembly;
mod check;
mod connect_string;
mod convert;
mod document;
mod entries;
mod error;
mod ini;
mod ini_scanner;
mod kind;
mod load;
mod model;
mod native;
mod network;
mod notation;
mod pgbouncer;
#[cfg(test)]
mod samples;
mod settings;
mod title;
mod toml;
mod value;
mod wording;

pub use check::check;
pub use convert::convert;
pub use document::document;
pub use entries::{Database, Peer, User};
pub use error::{Error, Flaw, Place, Problem, Warning, closest};
pub use kind::Kind;
pub use load::{Loaded, Reloaded, SetError};
pub use model::*;
pub use native::{Balancer, Health, Metrics, Node, Pgweir, Prepare, Queries, Route};
pub use network::Network;
pub use pgbouncer::Pgbouncer;
pub use settings::{Section, Setting, Since};
pub use value::{MAX_SECONDS, Value, ValueError, in_list};
