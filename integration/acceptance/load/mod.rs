//! Requests, and the load they make.

mod ask;
pub(crate) mod generator;
mod http1;
mod http2;
mod http3;
mod protocol;
mod shared;
mod site;

pub(crate) use ask::{Ask, Endpoint, Facts, MIXED, OURS_SINCE, Scribe, WRITING, fold};
pub(crate) use generator::{Outcome, Sample, call, drive};
pub(crate) use protocol::{Protocol, Trust};
pub(crate) use site::Site;
