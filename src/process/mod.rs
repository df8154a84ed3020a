//! The program as an operating system process: who it runs as, its pid file,
//! its signals, its service manager, the way of its lines to the log.

mod identity;
mod log_queue;
mod log_targets;
mod pid_file;
mod service_manager;
mod signals;

pub use identity::{IdentityError, daemonise, is_root, switch_user};
pub use log_queue::{LogQueue, LogWriter};
pub use log_targets::{Destination, LogTarget};
pub use pid_file::{PidFile, PidFileError};
pub use service_manager::{Notifier, passed_sockets};
pub use signals::{Signal, Signals};
