//! What all clients of the console share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use jiff::tz::TimeZone;

use super::process::Process;
use super::session::Session;
use super::statistics::{PoolTotals, Statistics};
use super::visitor::Visitor;
use crate::auth;
use crate::client::ConsoleClient;
use crate::http::FrontSeat;
use crate::pool::{Bouncer, CONSOLE, CancelKey, Totals};
use crate::process::LogQueue;
use crate::stats::Micros;

/// The number of the console's own pool in the statistics. Real pools are
/// numbered from 1.
pub const CONSOLE_POOL: u64 = 0;

/// How long a client of the console may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a message to its last.
    pub message: Duration,
    /// To take an answer.
    pub write: Duration,
}

const LIMITS: Limits = Limits {
    message: Duration::from_secs(5),
    write: Duration::from_secs(10),
};

/// The console.
pub struct Console {
    /// What it shows and changes.
    pub(super) bouncer: Arc<Bouncer>,
    /// What it ends and reloads.
    pub(super) process: Arc<dyn Process>,
    /// The balancer, if there is one.
    pub(super) front: FrontSeat,
    /// Told what a client is told, before it.
    pub(super) log: Arc<LogQueue>,
    /// Its clients, by id.
    pub(super) visitors: DashMap<u64, Arc<Visitor>>,
    pub(super) limits: Limits,
    logins: AtomicU64,
    /// Connections that have asked something. PgBouncer counts each as one
    /// query and one transaction.
    asked: AtomicU64,
    statistics: Mutex<Statistics>,
    zone: TimeZone,
}

impl Console {
    /// A console without clients.
    pub fn new(
        bouncer: Arc<Bouncer>,
        process: Arc<dyn Process>,
        log: Arc<LogQueue>,
        front: FrontSeat,
    ) -> Arc<Console> {
        Console::with_limits(bouncer, process, log, front, LIMITS)
    }

    pub(super) fn with_limits(
        bouncer: Arc<Bouncer>,
        process: Arc<dyn Process>,
        log: Arc<LogQueue>,
        front: FrontSeat,
        limits: Limits,
    ) -> Arc<Console> {
        let statistics = Statistics::new(bouncer.clock.now());
        Arc::new(Console {
            bouncer,
            process,
            front,
            log,
            visitors: DashMap::new(),
            limits,
            logins: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            statistics: Mutex::new(statistics),
            zone: TimeZone::system(),
        })
    }

    /// Serves one client until it leaves. Runs on the runtime of the caller.
    pub async fn serve(self: Arc<Self>, client: ConsoleClient) {
        let stream = &client.channel.stream;
        let (address, local, cipher) = (stream.peer(), stream.local(), stream.cipher());
        let uid = rustix::process::geteuid().as_raw();
        let own = client.user == CONSOLE && cipher.is_none() && stream.peer_uid() == Some(uid);
        let mut key = CancelKey::default();
        auth::os_random(&mut key);
        self.bouncer.make_key(&mut key);
        let visitor = Visitor::new(
            (client.id, client.connected_at),
            (client.user, client.admin, own),
            (address, local, cipher),
            key,
        );
        self.logins.fetch_add(1, Ordering::Relaxed);
        match client.channel.rehome() {
            Ok(channel) => {
                let session = Session::begin(self, visitor, channel);
                let counted = (client.socket, client.places);
                session.run(client.greeting, counted).await;
            }
            Err(error) => tracing::warn!("console client lost: {error}"),
        }
    }

    /// Ends a period of `stats_period`. Answers the text of the line that
    /// `log_stats` wants in the log.
    pub fn end_stats_period(&self) -> String {
        let averages = self.statistics().end_period(self.now(), self.totals());
        averages.line()
    }

    /// Nobody is left who could say RESUME: no client gets in during SUSPEND.
    pub(super) fn resume_if_abandoned(&self) {
        if self.visitors.is_empty() && self.bouncer.is_suspended() {
            tracing::info!("admin disappeared when suspended, doing RESUME");
            self.bouncer.resume_suspended();
        }
    }

    /// The present moment.
    pub(super) fn now(&self) -> Micros {
        self.bouncer.clock.now()
    }

    /// A moment in local time, `YYYY-MM-DD HH:MM:SS ZONE`.
    pub(super) fn local_time(&self, at: Micros) -> String {
        let wall = jiff::Timestamp::try_from(self.bouncer.clock.wall(at));
        let wall = wall.unwrap_or(jiff::Timestamp::MAX);
        let local = wall.to_zoned(self.zone.clone());
        local.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// A connection asks for the first time.
    pub(super) fn count_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// What the console's own pool has counted.
    pub(super) fn own_totals(&self) -> Totals {
        let asked = self.asked.load(Ordering::Relaxed);
        Totals {
            transactions: asked,
            queries: asked,
            client_logins: self.logins.load(Ordering::Relaxed),
            ..Totals::default()
        }
    }

    /// What all pools have counted.
    pub(super) fn totals(&self) -> PoolTotals {
        let pools = self.bouncer.pools();
        let own = (CONSOLE_POOL, self.own_totals());
        let counted = pools.iter().map(|pool| (pool.id, pool.totals()));
        counted.chain([own]).collect()
    }

    pub(super) fn statistics(&self) -> MutexGuard<'_, Statistics> {
        // Every update of it is a whole one.
        self.statistics
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
