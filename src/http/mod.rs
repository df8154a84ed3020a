//! The admin port: `/metrics`, `/health`, `/ready`, `/nodes`.
//!
//! What is exported is written down as tables: one row for each family
//! ([`Family`]), with its name, help, type and value. A [`PoolerCollector`]
//! reads the pooler once for a scrape, takes its locks for moments only, and
//! hands the tables what it found; [`document`] makes `docs/metrics.md` from
//! the same tables. The port serves whatever the registry holds.

mod clients;
mod databases;
mod document;
mod family;
mod front;
mod more_of_pool;
mod pages;
mod pooler;
mod pools;
mod port;
mod process;
mod program;
mod readiness;
mod stats;
#[cfg(test)]
mod testing;
mod whole;
mod workers;

pub use document::{BALANCER, Chapter, chapters, described, document};
pub use family::{Described, Family, Label, Row};
pub use front::{Front, FrontSeat, KeptRow, NodeMode, NodeRow, RouteRow};
pub use pooler::PoolerCollector;
pub use port::{AdminPort, BindError};
pub use process::ProcessCollector;
pub use program::{DroppedLines, ProgramCollector, Reloads};
pub use readiness::Readiness;
