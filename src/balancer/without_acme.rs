//! In the place of `acme` where the program is built without it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::invalid;
use super::metrics::Metrics;
use super::server::Phase;
use crate::config;
use crate::net::tls::{Identity, IdentityFiles};

/// Refuses what needs it.
///
/// # Errors
/// It is asked for.
pub(crate) fn check(settings: &config::Balancer) -> io::Result<()> {
    match settings.acme {
        true => Err(invalid(
            "balancer.acme",
            "built without `acme`; build with `cargo build --features acme`, or give tls_cert_file",
        )),
        false => Ok(()),
    }
}

/// There is none.
#[derive(Debug, Clone)]
pub(crate) enum Acme {}

impl Acme {
    pub(crate) fn new(_: &config::Balancer, _: &Path) -> io::Result<Option<Acme>> {
        Ok(None)
    }

    pub(crate) fn files(&self) -> IdentityFiles {
        match *self {}
    }

    pub(crate) fn answer_by(&self, _: &Identity) -> Option<&'static [u8]> {
        match *self {}
    }

    pub(crate) async fn keep(self, _: Arc<Metrics>, _: Arc<Semaphore>, _: watch::Receiver<Phase>) {
        match self {}
    }
}

/// There are none.
#[derive(Debug)]
pub(crate) enum Answers {}

impl Answers {
    pub(crate) async fn at(&self, _: &str) -> Option<String> {
        match *self {}
    }
}

/// Nobody asks.
pub(crate) fn answers(_: &config::Balancer) -> Option<Answers> {
    None
}
