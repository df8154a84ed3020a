//! The integration tests, one file per subject.

mod abandon;
mod auth_matrix;
mod auth_query;
mod bad_config;
mod cancel;
mod console;
mod copy;
mod drivers;
mod extended;
mod harness;
mod hba;
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
mod secrets;

mod service_manager;
mod sql_prepared;
mod startup;
mod suspend;
mod system_calls;
mod tidy;
mod tls;
mod torture;
