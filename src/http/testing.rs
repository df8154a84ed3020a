//! A pooler in memory and threads with names, for the tests of what is read of
//! them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Registry, TextEncoder};

use crate::auth::UserList;
use crate::config::{self, Config, PoolMode};
use crate::net::Address;
use crate::pool::{Bouncer, Client, NewClient};
use crate::stats::Micros;

/// Two workers; the databases `shop`, `blog`, and `forced` whose servers are
/// all `owner`'s.
pub(super) fn bouncer() -> Arc<Bouncer> {
    bouncer_with(None)
}

/// The same, and automatic databases.
pub(super) fn bouncer_with_autodb() -> Arc<Bouncer> {
    bouncer_with(Some(config::Database::default()))
}

fn bouncer_with(autodb: Option<config::Database>) -> Arc<Bouncer> {
    let shop = config::Database {
        host: Some("db1,db2".to_owned()),
        port: 5433,
        dbname: Some("shop_live".to_owned()),
        pool_mode: Some(PoolMode::Transaction),
        pool_size: Some(7),
        reserve_pool_size: Some(3),
        max_db_connections: Some(9),
        ..config::Database::default()
    };
    let forced = config::Database {
        user: Some("owner".to_owned()),
        ..config::Database::default()
    };
    let blog = config::Database::default();
    let config = Config {
        path: PathBuf::new(),
        pgbouncer: config::Pgbouncer {
            max_user_connections: 50,
            ..config::Pgbouncer::default()
        },
        databases: [("shop", shop), ("blog", blog), ("forced", forced)]
            .map(|(name, settings)| (name.to_owned(), settings))
            .into(),
        autodb,
        users: BTreeMap::new(),
        peers: BTreeMap::new(),
        pgweir: config::Pgweir::default(),
        metrics: config::Metrics::default(),
        queries: config::Queries::default(),
        prepare: None,
        balancer: None,
    };
    Bouncer::new(config, UserList::default(), 2)
}

/// Lets a client in.
pub(super) fn join(
    bouncer: &Bouncer,
    database: &str,
    user: &str,
    application_name: &str,
) -> Arc<Client> {
    let id = bouncer.next_id();
    let client = Arc::new(Client::new(NewClient {
        id,
        key: id.to_be_bytes(),
        database: bouncer.database(database).expect("an entry"),
        user: bouncer.user(user),
        address: Address::Unix { pid: None },
        local: Address::Unix { pid: None },
        cipher: None,
        connected_at: Micros::ZERO,
        application_name: application_name.into(),
        own: None,
        key_rest: None,
    }));
    bouncer.clients.insert(client.key, client.clone());
    client
}

/// The page with these collectors.
pub(super) fn scrape(collectors: Vec<Box<dyn Collector>>) -> String {
    let registry = Registry::new();
    for collector in collectors {
        registry.register(collector).expect("each name once");
    }
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .expect("valid families")
}

/// A thread of this name that does what it is told until it is dropped.
pub(super) struct NamedThread {
    orders: Option<Sender<Duration>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a thread of this name.
pub(super) fn thread_named(name: &str) -> NamedThread {
    let (orders, inbox) = channel::<Duration>();
    let (told, done) = channel();
    let work = move || {
        // It runs, and has its name.
        told.send(()).ok();
        for time in inbox {
            burn(time);
            told.send(()).ok();
        }
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(work).expect("a thread");
    done.recv().expect("it begins");
    NamedThread {
        orders: Some(orders),
        done,
        thread: Some(thread),
    }
}

/// Keeps a CPU busy until this much of its time is used.
fn burn(time: Duration) {
    let used = || {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(used).expect("a time that has passed")
    };
    let end = used() + time;
    while used() < end {
        std::hint::spin_loop();
    }
}

impl NamedThread {
    /// Has it use this much CPU time.
    pub(super) fn burn(&self, time: Duration) {
        let orders = self.orders.as_ref().expect("taken on drop only");
        orders.send(time).expect("it runs");
        self.done.recv().expect("it runs");
    }
}

impl Drop for NamedThread {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
