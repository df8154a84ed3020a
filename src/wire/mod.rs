//! The PostgreSQL frontend/backend protocol, version 3, as bytes: framing,
//! and the few messages the pooler makes or reads itself.
//!
//! Nothing here knows a socket or a clock. The forwarding path uses only
//! [`frame`] and [`splice`]: it must not decode what it only forwards.

pub mod backend;
pub mod frame;
pub mod frontend;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
pub mod splice;
pub mod startup;

pub use frame::{Header, TransactionStatus};
pub use splice::Splice;
