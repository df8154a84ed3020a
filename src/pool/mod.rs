//! Which server for which client.
//!
//! [`state`] decides, without I/O; [`Pool`] carries out what it decides;
//! [`Bouncer`] holds all there is.

mod bouncer;
mod client;
mod counters;
mod elders;
mod eviction;
mod handover;
mod lease;
mod lending;
mod objects;
mod peers;
pub mod state;
mod suspension;
mod sweep;
mod welcome;

pub use bouncer::{Bouncer, CONSOLE, MAX_DATABASE_NAME};
pub use client::{CancelKey, Client, ClientState, Doom, Grant, KEY_REST, NewClient};
pub use counters::{Counters, Totals};
pub use elders::Elders;
pub use handover::{Question, Told, ToldServer};
pub use lease::Lease;
pub use lending::Pool;
pub use objects::{Budget, Database, HasBudget, Place, User};
pub use peers::{Owner, PeerNumbers, PeerPool, PeerRequest};
pub use suspension::{Accepting, Calm, Suspension};
pub use sweep::SWEEP_INTERVAL;
pub use welcome::Welcome;
