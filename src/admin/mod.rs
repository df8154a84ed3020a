//! The psql console: PgBouncer's database `pgbouncer`.
//!
//! [`Console`] is shared by all its clients and serves each in a task of the
//! control runtime, so it answers while the workers are busy or paused. A
//! query goes through `grammar` and the table in `command` to its place in
//! `actions`, or for SHOW through the table in `show`. These decide at once; a
//! command that takes time answers a `Wait`, which the client's `session` sits
//! out.

mod actions;
mod census;
mod command;
mod console;
mod fault;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod grammar;
mod process;
mod session;
mod show;
mod statistics;
#[cfg(test)]
mod tests;
mod visitor;
mod wait;

pub use console::Console;
pub use process::{Process, ShutdownMode};
pub use show::VERSION;
