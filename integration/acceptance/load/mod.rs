//! Requests, and the load they make.

mod ask;
pub(crate) mod generator;
mod site;

pub(crate) use ask::{Ask, Endpoint, Facts, MIXED, OURS_SINCE, Scribe, fold};
pub(crate) use generator::{Outcome, Sample, call, drive};
pub(crate) use site::Site;
