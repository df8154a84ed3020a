//! One logged-in connection to PostgreSQL.

pub mod answers;
mod ask;
mod cancel;
mod connection;
mod foreign;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod handover;
mod login;
mod parameters;
mod record;
mod replay;
pub mod script;
pub(crate) mod seeded;
pub mod statements;

pub use answers::Answers;
pub use ask::{AskError, Found, Row};
pub use cancel::forward_cancel;
pub use connection::{Exchange, Retired, Server};
pub use foreign::{Fate as ForeignFate, Foreign};
pub use handover::Taken;
pub use login::{LoggedIn, LoginError, OwnStartup, Target, login};
pub use parameters::{ParameterSets, Parameters, Tracked};
pub use record::{Record, ServerState};
pub use replay::Replay;
