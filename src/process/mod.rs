//! The program as an operating system process: who it runs as, its pid file,
//! its signals.

mod identity;
mod pid_file;
mod signals;

pub use identity::{IdentityError, daemonise, is_root, switch_user};
pub use pid_file::{PidFile, PidFileError};
pub use signals::{Signal, Signals};
