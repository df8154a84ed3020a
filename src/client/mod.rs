//! One client, from accept to Terminate.
//!
//! [`login`] takes a connection to its greeting, [`session`] moves bytes
//! between it and the servers it is lent, [`flow`] decides what happens to
//! each message.

mod around;
mod auth_query;
mod cancel;
mod check;
mod directory;
pub mod flow;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod login;
mod lookups;
#[cfg_attr(not(feature = "pam"), path = "without_pam.rs")]
mod pam;
mod proof;
mod session;
mod startup;
mod worker;

pub use cancel::serve_younger;
pub use login::{ConsoleClient, LoginPolicy, Places, Socket};
pub use session::{TakenClient, TakenServer};
pub use worker::{OnConsole, Worker};
