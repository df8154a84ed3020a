//! The program as an operating system process: who it runs as, its pid file,
//! its signals, its service manager, the process before it, the way of its lines
//! to the log.

mod descriptors;
mod identity;
mod log_queue;
mod log_targets;
mod pid_file;
mod service_manager;
mod signals;
mod takeover;

pub use descriptors::log_limit;
pub use identity::{IdentityError, daemonise, is_root, switch_user};
pub use log_queue::{LogQueue, LogWriter};
pub use log_targets::{Destination, LogTarget};
pub use pid_file::{PidFile, PidFileError};
pub use service_manager::{Notifier, Passed, are_sockets_passed, passed_sockets};
pub use signals::{Signal, Signals};
pub use takeover::{OldProcess, TakeoverError, ToldRow};
