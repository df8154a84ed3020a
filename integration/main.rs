//! The integration tests, one file per subject.

mod abandon;
mod bad_config;
mod cancel;
mod console;
mod copy;
mod drivers;
mod extended;
mod harness;
mod hostile;
mod login;
mod metrics;
mod model;
mod modes;
mod operations;
mod outage;
mod outdated;
mod pool;
mod prepare;
mod prepared;
mod sql_prepared;
mod startup;
mod system_calls;
mod tidy;
mod tls;
mod torture;
