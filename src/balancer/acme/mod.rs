//! The certificate that an authority issues (ACME, RFC 8555).
//!
//! [`plan`] says when one is ordered, without a clock. [`Acme::keep`] follows
//! it: it has [`order`] talk to the authority over [`transport`] and puts what
//! comes of it on the [`shelf`], from where `site` takes it as it takes any
//! certificate whose files change. The authority's questions are [`answers`]'s.
//!
//! Processes that share a folder, those of an upgrade among them, share all of
//! that: one orders, any of them answers, all show what was issued.

mod answers;
mod check;
mod fault;
mod order;
mod plan;
mod shelf;
mod transport;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};

use self::fault::Fault;
use self::order::{blocking, order};
use self::plan::{Failures, Spread, Step};
use self::shelf::{Lock, Shelf, seconds};
use self::transport::Transport;
use super::metrics::Metrics;
use super::server::Phase;
use super::site::state_dir;
use crate::auth::os_random;
use crate::config;
use crate::net::tls::{Identity, IdentityFiles, ServerSide, VALIDATION};

pub(crate) use self::answers::Answers;
pub(crate) use self::check::check;

/// The challenges, by their names in the settings.
const TLS_ALPN: &str = "tls-alpn-01";
const HTTP: &str = "http-01";

/// Longest time of one order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Time between two looks whether another process still orders.
const LOCK_INTERVAL: Duration = Duration::from_secs(2);

/// What is ordered, of whom.
#[derive(Debug)]
struct Wish {
    /// In small letters.
    names: Vec<String>,
    directory: String,
    /// As URLs.
    contact: Vec<String>,
    challenge: String,
}

/// Keeps a certificate that an authority issues.
#[derive(Debug, Clone)]
pub(crate) struct Acme {
    wish: Arc<Wish>,
    shelf: Shelf,
    trust: ServerSide,
    /// When this process began, in seconds since 1970.
    began: u64,
}

impl Acme {
    /// What these settings ask for; none if they ask for nothing.
    ///
    /// # Errors
    /// The file that proves the authority to be itself cannot be used.
    pub(crate) fn new(settings: &config::Balancer, state_dir: &Path) -> io::Result<Option<Acme>> {
        if !settings.acme {
            return Ok(None);
        }
        let file = settings.acme_ca_file.as_deref().unwrap_or(Path::new(""));
        let trust = ServerSide::of_web("balancer.acme_ca_file", &file.to_string_lossy())
            .map_err(super::site::invalid)?;
        let contact = settings.acme_contact.iter();
        let wish = Wish {
            names: settings
                .domain
                .iter()
                .map(|it| it.to_ascii_lowercase())
                .collect(),
            directory: settings.acme_directory.clone(),
            contact: contact.map(|it| format!("mailto:{it}")).collect(),
            challenge: settings.acme_challenge.clone(),
        };
        Ok(Some(Acme {
            shelf: Shelf::new(state_dir, &wish.directory),
            wish: Arc::new(wish),
            trust,
            began: now(),
        }))
    }

    /// Where the certificate is once there is one.
    pub(crate) fn files(&self) -> IdentityFiles {
        self.shelf.files()
    }

    /// Has the authority answered where it asks in a handshake; answers the
    /// protocol it asks for.
    pub(crate) fn answer_by(&self, identity: &Identity) -> Option<&'static [u8]> {
        if self.wish.challenge != TLS_ALPN {
            return None;
        }
        let answers = self.shelf.answers();
        identity.validate_by(move |name| answers.find(name));
        Some(VALIDATION)
    }

    /// Orders whenever one is due, until another process serves or this one
    /// ends. An order that has begun when another process takes over is let
    /// finish, like a client, whose place among `places` it has; if there are
    /// no more places it does without.
    pub(crate) async fn keep(
        self,
        metrics: Arc<Metrics>,
        places: Arc<Semaphore>,
        phases: watch::Receiver<Phase>,
    ) {
        let mut random = [0; 2];
        os_random(&mut random);
        let spread = Spread(u16::from_le_bytes(random));
        // In case that the folder cannot be written to.
        let mut own = None;
        while *phases.borrow() == Phase::Serving {
            let pause = match self.next(own, spread, &metrics).await {
                Step::Wait { pause, .. } => Duration::from_secs(pause),
                Step::Order => match blocking(&self.shelf, Shelf::lock).await {
                    Ok(Ok(None)) => LOCK_INTERVAL,
                    Ok(Ok(Some(lock))) => {
                        // Who had the lock may have ordered.
                        if self.next(own, spread, &metrics).await == Step::Order {
                            let _place = places.try_acquire();
                            let ordered = self.order(&lock);
                            let ordered = tokio::select! {
                                ordered = ordered => ordered,
                                () = nobody_waits(phases.clone()) => return,
                            };
                            own = self.note(ordered, own, spread, &metrics).await;
                        }
                        continue;
                    }
                    Ok(Err(error)) => {
                        let fault = Fault::unkept(&error);
                        own = self.note(Err((fault, None)), own, spread, &metrics).await;
                        continue;
                    }
                    Err(_ending) => return,
                },
            };
            let mut phases = phases.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = phases.wait_for(|it| *it != Phase::Serving) => return,
            }
        }
    }

    /// What to do now.
    async fn next(&self, own: Option<Failures>, spread: Spread, metrics: &Metrics) -> Step {
        let wish = Arc::clone(&self.wish);
        let look = move |shelf: &Shelf| {
            let failures = shelf.failures().into_iter().chain(own);
            (shelf.kept(&wish.names), failures.max_by_key(|it| it.until))
        };
        let looked = blocking(&self.shelf, look).await;
        let (kept, failures) = looked.unwrap_or((None, own));
        metrics.certificate_issued(kept.map_or(0, |it| it.since));
        let step = plan::step(now(), self.began, kept, failures, spread);
        metrics.certificate_due(match step {
            Step::Order => now(),
            Step::Wait { due, .. } => due,
        });
        step
    }

    /// Orders now. An error comes with the seconds that the authority wants to
    /// hear nothing.
    async fn order(&self, lock: &Lock) -> Result<(), (Fault, Option<u64>)> {
        let Wish {
            names, directory, ..
        } = &*self.wish;
        tracing::info!(
            "ordering a certificate for {} of {directory}",
            names.join(", ")
        );
        let transport = Transport::new(self.trust.clone());
        let ordering = order(&self.wish, &self.shelf, &transport, lock);
        let ordered = tokio::time::timeout(ORDER_TIMEOUT, Box::pin(ordering)).await;
        let ordered = ordered.unwrap_or_else(|_elapsed| {
            Err(Fault::unreached(&"the order was not finished in time"))
        });
        ordered.map_err(|fault| (fault, transport.asked()))
    }

    /// Counts and tells how an order ended, and remembers if it failed.
    async fn note(
        &self,
        ordered: Result<(), (Fault, Option<u64>)>,
        own: Option<Failures>,
        spread: Spread,
        metrics: &Metrics,
    ) -> Option<Failures> {
        metrics.certificate_ordered(ordered.is_ok());
        let failed = ordered.err();
        let cause = failed.as_ref().map(|(fault, asked)| (fault.cause, *asked));
        let write = move |shelf: &Shelf| {
            let before = shelf.failures().or(own);
            let record =
                cause.map(|(cause, asked)| plan::failed(now(), before, cause, asked, spread));
            (record, shelf.set_failures(record))
        };
        let Ok((record, written)) = blocking(&self.shelf, write).await else {
            return None;
        };
        match (failed, record) {
            (Some((fault, _)), Some(record)) => tracing::error!(
                "no certificate of {}: {fault}; the one there is stays, the next try is in {} s. {}",
                self.wish.directory,
                record.until.saturating_sub(now()),
                fault.remedy,
            ),
            _ => tracing::info!(
                "a certificate was issued for {}",
                self.wish.names.join(", ")
            ),
        }
        if let Err(error) = written {
            tracing::warn!("the certificate's folder cannot be written to: {error}");
        }
        record
    }
}

/// The answers over HTTP, if they are given there.
pub(crate) fn answers(settings: &config::Balancer) -> Option<Answers> {
    let is_asked = settings.acme && settings.acme_challenge == HTTP;
    let shelf = || Shelf::new(&state_dir(settings), &settings.acme_directory);
    is_asked.then(|| shelf().answers())
}

/// Returns when an order that is under way is not waited for any more: the
/// process ends, or its time after an upgrade is over.
async fn nobody_waits(mut phases: watch::Receiver<Phase>) {
    let next = phases.wait_for(|it| *it != Phase::Serving).await;
    if next.is_ok_and(|it| *it == Phase::Leaving) {
        let _gone = phases.wait_for(|it| *it == Phase::Closing).await;
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    seconds(SystemTime::now())
}
