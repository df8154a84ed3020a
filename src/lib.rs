//! pgweir: a PostgreSQL connection pooler and query gateway, drop-in for
//! PgBouncer, with a thin HTTP balancer in front of the application.
//!
//! # The map
//!
//! A module uses only the floors below its own; neighbours do not see each
//! other. `integration/tidy.rs` reads the `use crate::` lines and fails when
//! this picture and the code differ.
//!
//! ```text
//!   6   app                              builds all from the config, routes a finished login, drains
//!   5   admin        balancer            the psql console; the HTTP balancer
//!   4   client       http       prepare  one client from accept to Terminate; metrics pages; seeding + migrations
//!   3   pool         gateway             which server for which client; what a statement is and is counted as
//!   2   server       process             one logged-in PostgreSQL connection; signals, pid file, daemon
//!   1   net          auth                sockets, TLS, DNS; who may log in (exchanges without I/O)
//!   0   wire         config     stats    bytes <-> messages; the settings table; counters and histograms
//!       handover     system_calls        what one process tells the next; the only unsafe code
//! ```

pub mod admin;
pub mod app;
pub mod auth;
pub mod balancer;
pub mod client;
pub mod config;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod gateway;
pub mod handover;
pub mod http;
pub mod net;
pub mod pool;
pub mod prepare;
pub mod process;
pub mod server;
pub mod stats;
pub mod system_calls;
pub mod wire;
