//! The life of the process: config, build, spawn, wait, drain.

mod cli;
mod demo;
mod hba;
mod http;
mod life;
mod log;
mod memory;
mod monitoring;
mod pooler;
mod process;
mod takeover;

pub use cli::main;
