//! Everything the pooler has: databases, users, pools, clients, servers.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use dashmap::DashMap;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use super::client::CancelKey;
use super::state::Limits;
use super::{Client, Database, PeerPool, Pool, User};
use crate::auth::UserList;
use crate::auth::hba::Rules;
use crate::config::{self, Config, PoolMode};
use crate::net::tls::Tls;
use crate::net::{Host, Lifetimes, Names, Resolver, SocketOptions};
use crate::server::statements::Dictionary;
use crate::server::{LoginError, ParameterSets, Record, Server, Target, Tracked};
use crate::stats::{Clock, Micros};
use crate::wire::startup::NEWEST_MINOR;

/// The name of the console's database.
pub const CONSOLE: &str = "pgbouncer";

/// The longest name of a database in bytes, PostgreSQL's.
pub const MAX_DATABASE_NAME: usize = 63;

/// How often it is looked whether `dns_zone_check_period` has been set.
const OFF_PERIOD: Duration = Duration::from_secs(1);

/// What is found by its key. Each login looks into five of these: the hash is
/// a cheap one, with a seed of the process's own.
type Registry<K, V> = DashMap<K, V, RandomState>;

/// Entries made from `*` that no server has confirmed yet, kept before any of
/// them are forgotten: clients that have proven nothing can make them.
const MAX_UNPROVEN: usize = 1000;

/// A pool's key: database entry and server user.
type PoolKey = (String, String);

/// The whole pooler, shared by workers and console.
#[derive(Debug)]
pub struct Bouncer {
    /// The clock of all times in here.
    pub clock: Clock,
    /// The tracked parameters' names.
    pub tracked: Arc<Tracked>,
    /// The tracked parameters' values, of all sessions.
    pub parameter_sets: ParameterSets,
    /// Prepared statements of all clients.
    pub dictionary: Dictionary,
    /// Logged-in clients by cancel key.
    pub clients: Registry<CancelKey, Arc<Client>>,
    /// Clients of the console by cancel key, and what tells a waiting command
    /// of theirs that it is cancelled (`notify_waiters`).
    pub consoles: Registry<CancelKey, Arc<Notify>>,
    /// Server connections by id.
    pub servers: Registry<u64, Arc<Record>>,
    /// Client sockets, logging in and cancel requests included.
    pub client_sockets: super::Budget,
    /// Names of hosts.
    pub names: Arc<Names>,
    /// Cancel requests on their way to peers.
    pub(super) peer_pools: Mutex<BTreeMap<u32, Arc<PeerPool>>>,
    /// SUSPEND.
    pub suspension: super::Suspension,
    /// Processes that this one has taken over from and that still have clients.
    pub elders: super::Elders,
    /// Listening sockets once more, for the next process.
    pub(super) listening: Mutex<Vec<OwnedFd>>,

    /// The console, as a database that clients are counted in.
    pub console: Arc<Database>,
    config: ArcSwap<Config>,
    tls: ArcSwap<Tls>,
    /// Held by whoever changes the configuration.
    changing: Mutex<()>,
    user_list: ArcSwap<UserList>,
    hba_rules: ArcSwap<Rules>,
    databases: Registry<String, Arc<Database>>,
    users: Registry<String, Arc<User>>,
    /// Seldom written; sweeps and the console walk it.
    pools: RwLock<Vec<Arc<Pool>>>,
    by_key: Registry<PoolKey, Arc<Pool>>,
    ids: AtomicU64,
    pool_ids: AtomicU64,
    paused: AtomicBool,
    shutting_down: AtomicBool,
    workers: usize,
}

impl Bouncer {
    /// A pooler with the databases of `config`, and without TLS.
    pub fn new(config: Config, user_list: UserList, workers: usize) -> Arc<Bouncer> {
        let tracked = Arc::new(Tracked::new(&config.pgbouncer.track_extra_parameters));
        let clock = Clock::begin();
        let bouncer = Arc::new(Bouncer {
            names: Names::new(resolver(&config), clock),
            clock,
            tracked,
            parameter_sets: ParameterSets::default(),
            dictionary: Dictionary::default(),
            clients: Registry::default(),
            consoles: Registry::default(),
            servers: Registry::default(),
            client_sockets: super::Budget::default(),
            peer_pools: Mutex::default(),
            suspension: super::Suspension::default(),
            elders: super::Elders::default(),
            listening: Mutex::default(),

            console: Arc::new(Database::new(CONSOLE, false, config::Database::default())),
            config: ArcSwap::from_pointee(config),
            tls: ArcSwap::default(),
            changing: Mutex::default(),
            user_list: ArcSwap::from_pointee(user_list),
            hba_rules: ArcSwap::default(),
            databases: Registry::default(),
            users: Registry::default(),
            pools: RwLock::default(),
            by_key: Registry::default(),
            ids: AtomicU64::new(0),
            pool_ids: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            workers,
        });
        bouncer.apply_databases();
        bouncer.apply_users();
        bouncer.apply_lifetimes();
        bouncer
    }

    /// The configuration in force.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// TLS as it is in force; not always what [`Bouncer::config`] says.
    pub fn tls(&self) -> Guard<Arc<Tls>> {
        self.tls.load()
    }

    /// Takes over new TLS settings. Connections stay as they are, but servers
    /// are closed when they are next free if theirs have changed.
    pub fn set_tls(&self, tls: Tls) {
        let servers = tls.servers.clone();
        let old = self.tls.swap(Arc::new(tls));
        if old.servers != servers {
            self.mark_servers(None);
        }
    }

    /// The users of `auth_file`.
    pub fn user_list(&self) -> Guard<Arc<UserList>> {
        self.user_list.load()
    }

    /// The rules of `auth_hba_file`; none until they are set.
    pub fn hba_rules(&self) -> Guard<Arc<Rules>> {
        self.hba_rules.load()
    }

    /// Takes over rules that have been read from `auth_hba_file`.
    pub fn set_hba_rules(&self, rules: Rules) {
        self.hba_rules.store(Arc::new(rules));
    }

    /// Number of workers; their homes are counted from 0.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The home of what the control runtime does.
    pub fn control_home(&self) -> usize {
        self.workers
    }

    /// The next id of a client or server.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn next_pool_id(&self) -> u64 {
        self.pool_ids.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes over a new configuration: databases and users come, change and
    /// go; clients of removed databases are disconnected.
    pub fn reload(self: &Arc<Self>, config: Config, user_list: UserList) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.config.store(Arc::new(config));
        self.user_list.store(Arc::new(user_list));
        self.apply_users();
        self.apply_databases();
        self.apply_lifetimes();
        self.forget_peers();
        for pool in self.pools() {
            pool.apply_settings(self);
        }
    }

    /// Changes one setting, as the console's SET does; answers what `change`
    /// answers.
    pub fn update_config<T>(self: &Arc<Self>, change: impl FnOnce(&mut Config) -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = Config::clone(&self.config());
        let result = change(&mut config);
        self.config.store(Arc::new(config));
        self.apply_lifetimes();
        for pool in self.pools() {
            pool.apply_settings(self);
        }
        result
    }

    /// The entry a client asks for; made from `*` if there is no other.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        if let Some(found) = self.databases.get(name) {
            // While the entry is held: it is not forgotten meanwhile.
            found.touch();
            return Some(found.clone());
        }
        if name.len() > MAX_DATABASE_NAME {
            return None;
        }
        let settings = self.config().autodb_as(name)?;
        let made = self.databases.entry(name.to_owned()).or_insert_with(|| {
            tracing::info!("registered new auto-database: {name}");
            Arc::new(Database::new(name, true, settings))
        });
        Some(made.clone())
    }

    /// `autodb_idle_timeout`.
    pub(super) fn forget_idle_autodbs(&self, now: Micros) {
        let limit = self.config().pgbouncer.autodb_idle_timeout;
        let mut idle = Vec::new();
        for database in self.databases.iter().filter(|it| it.auto) {
            database.note_use(now);
            if database.is_forgettable(limit, now) {
                idle.push(database.name.clone());
            }
        }
        for name in idle {
            let is_idle = |_: &String, it: &Arc<Database>| it.is_forgettable(limit, now);
            if self.databases.remove_if(&name, is_idle).is_some() {
                log_dropping(&name);
                self.drop_pools(&name);
            }
        }
    }

    /// `pool_idle_timeout`: forgets the pools that have had neither clients
    /// nor servers for longer, with their statistics.
    pub(super) fn forget_idle_pools(&self, now: Micros) {
        let limit = self.config().pgbouncer.pool_idle_timeout;
        if limit.is_zero() {
            return;
        }
        let mut all = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|pool| {
            let key = (pool.database.name.clone(), pool.user.name.clone());
            // Who uses a pool holds it, and who wants it gets it from one of
            // the two tables, which both are locked here.
            let is_idle = |_: &PoolKey, it: &Arc<Pool>| {
                let is_used = Arc::strong_count(it) > 2 || it.numbers().0.total() > 0;
                !self.is_kept_full(it) && it.is_idle(is_used, limit, now)
            };
            self.by_key.remove_if(&key, is_idle).is_none()
        });
    }

    /// Whether the pool would be made again at once, for its
    /// `min_pool_size`.
    fn is_kept_full(&self, pool: &Pool) -> bool {
        let is_forced = pool.database.settings.load().user.is_some();
        is_forced && self.limits(&pool.database, &pool.user).min_pool_size > 0
    }

    /// When there are many, forgets the entries made from `*` in which no
    /// server has ever logged in and for which nobody waits.
    pub fn forget_unproven(&self) {
        if self.databases.len() <= self.config().databases.len() + MAX_UNPROVEN {
            return;
        }
        let mut all = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let needed = |pool: &Arc<Pool>| pool.welcome().is_some() || pool.numbers().1 > 0;
        let needed: HashSet<String> = all
            .iter()
            .filter(|pool| needed(pool))
            .map(|pool| pool.database.name.clone())
            .collect();
        self.databases
            .retain(|name, database| !database.auto || needed.contains(name));
        let is_gone = |pool: &Arc<Pool>| !self.databases.contains_key(&pool.database.name);
        for pool in all.extract_if(.., |pool| is_gone(pool)) {
            self.by_key
                .remove(&(pool.database.name.clone(), pool.user.name.clone()));
            pool.remove();
        }
    }

    /// An entry that exists already.
    pub fn known_database(&self, name: &str) -> Option<Arc<Database>> {
        self.databases.get(name).map(|found| found.clone())
    }

    /// All entries, by name.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        let mut all: Vec<_> = self.databases.iter().map(|entry| entry.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// A user by name, made when first seen.
    pub fn user(&self, name: &str) -> Arc<User> {
        if let Some(found) = self.users.get(name) {
            return found.clone();
        }
        let settings = self.config().users.get(name).cloned().unwrap_or_default();
        let made = self.users.entry(name.to_owned()).or_insert_with(|| {
            let user = User::new(name, settings);
            user.credential.store(self.user_list().get(name).cloned());
            Arc::new(user)
        });
        made.clone()
    }

    /// A user if it is known.
    pub fn known_user(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).map(|found| found.clone())
    }

    /// All known users, by name.
    pub fn users(&self) -> Vec<Arc<User>> {
        let mut all: Vec<_> = self.users.iter().map(|entry| entry.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The pool for clients of `database` logged in as `user`.
    pub fn pool(self: &Arc<Self>, database: &Arc<Database>, user: &Arc<User>) -> Arc<Pool> {
        let user = self.server_user(database).unwrap_or_else(|| user.clone());
        self.pool_as(database, user)
    }

    /// The pool of `database` whose servers are logged in as `user`, whomever
    /// the entry forces on its clients.
    pub fn pool_as(self: &Arc<Self>, database: &Arc<Database>, user: Arc<User>) -> Arc<Pool> {
        let key = (database.name.clone(), user.name.clone());
        if let Some(found) = self.by_key.get(&key)
            && !found.is_removed()
        {
            return found.clone();
        }
        let mut all = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let made = match self.by_key.get(&key) {
            Some(found) if !found.is_removed() => return found.clone(),
            _ => Pool::new(self, database.clone(), user, self.workers),
        };
        self.by_key.insert(key, made.clone());
        all.push(made.clone());
        all.sort_by(|a, b| (&a.database.name, &a.user.name).cmp(&(&b.database.name, &b.user.name)));
        made
    }

    /// All pools, by database and user.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// PAUSE without a database.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// PAUSE, RESUME: everything, or one database.
    pub fn set_paused(self: &Arc<Self>, database: Option<&Database>, paused: bool) {
        match database {
            Some(database) => database.set_paused(paused),
            None => self.paused.store(paused, Ordering::Release),
        }
        for pool in self.pools() {
            if database.is_none_or(|database| pool.database.name == database.name) {
                pool.set_paused(self.is_paused() || pool.database.is_paused());
            }
        }
    }

    /// A waiting shutdown has begun: no new logins.
    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    /// Begins a waiting shutdown.
    pub fn set_shutting_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
    }

    /// KILL db, or a database that the configuration has no more: clients and
    /// servers are dropped, pools and their statistics vanish.
    pub fn drop_pools(&self, database: &str) {
        let mut all = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        for pool in all.extract_if(.., |pool| pool.database.name == database) {
            self.by_key
                .remove(&(pool.database.name.clone(), pool.user.name.clone()));
            pool.remove();
        }
        drop(all);
        for client in &self.clients {
            if client.database.name == database {
                client.doom("database removed");
            }
        }
    }

    /// The pool mode in force for a database and a server user.
    pub fn pool_mode(&self, database: &Database, user: &User) -> PoolMode {
        let own = user.settings.load().pool_mode;
        own.or(database.settings.load().pool_mode)
            .unwrap_or(self.config().pgbouncer.pool_mode)
    }

    /// The sizes in force for a database and a server user.
    pub fn limits(&self, database: &Database, user: &User) -> Limits {
        let config = self.config();
        let global = &config.pgbouncer;
        let (of_user, of_database) = (user.settings.load(), database.settings.load());
        let pool_size = of_user.pool_size.or(of_database.pool_size);
        let reserve = of_user.reserve_pool_size.or(of_database.reserve_pool_size);
        let minimum = of_database.min_pool_size;
        let minimum = minimum.unwrap_or(count(global.min_pool_size));
        Limits {
            pool_size: pool_size.unwrap_or(count(global.default_pool_size)),
            min_pool_size: if self.is_lingering() { 0 } else { minimum },
            reserve_pool_size: reserve.unwrap_or(count(global.reserve_pool_size)),
            reserve_pool_timeout: global.reserve_pool_timeout,
            server_login_retry: global.server_login_retry,
            login_concurrency: config.pgweir.server_login_concurrency,
            round_robin: global.server_round_robin,
            probes: database.stays_with_host(),
        }
    }

    /// How many descriptors clients and servers may come to use: by
    /// PgBouncer's sum each database has a full pool for every known user, or
    /// one for its forced user.
    pub fn descriptors_expected(&self) -> u64 {
        const SPARE: u64 = 10;
        let config = self.config();
        let global = &config.pgbouncer;
        let users = u64::try_from(self.users.len()).unwrap_or(u64::MAX);
        let of_pools = config.databases.values().map(|it| {
            let size = it.pool_size.unwrap_or(count(global.default_pool_size));
            u64::from(size).saturating_mul(it.user.as_ref().map_or(users, |_| 1))
        });
        let of_clients = u64::from(count(global.max_client_conn)) + SPARE;
        of_pools.fold(of_clients, u64::saturating_add)
    }

    /// `max_db_connections` in force; 0 is none.
    pub fn max_db_connections(&self, database: &Database) -> u32 {
        let own = database.settings.load().max_db_connections;
        own.filter(|&own| own > 0)
            .unwrap_or(count(self.config().pgbouncer.max_db_connections))
    }

    /// `max_user_connections` in force; 0 is none.
    pub fn max_user_connections(&self, user: &User) -> u32 {
        let own = user.settings.load().max_user_connections;
        own.unwrap_or(count(self.config().pgbouncer.max_user_connections))
    }

    /// `max_db_client_connections` in force; 0 is none.
    pub fn max_db_client_connections(&self, database: &Database) -> u32 {
        let own = database.settings.load().max_db_client_connections;
        own.filter(|&own| own > 0)
            .unwrap_or(count(self.config().pgbouncer.max_db_client_connections))
    }

    /// `max_user_client_connections` in force; 0 is none.
    pub fn max_user_client_connections(&self, user: &User) -> u32 {
        let own = user.settings.load().max_user_client_connections;
        own.unwrap_or(count(self.config().pgbouncer.max_user_client_connections))
    }

    /// Where and as whom servers of a pool are logged in. Its own credential
    /// is what clients have proven themselves with, for users that have none
    /// in the configuration. `turn` says which of several hosts.
    pub fn target(&self, pool: &Pool, turn: usize) -> Target {
        let (database, user) = (&pool.database, &pool.user);
        let settings = database.settings.load();
        let is_forced = settings.user.as_ref() == Some(&user.name);
        let config = self.config();
        let hosts: Vec<&str> = match &settings.host {
            Some(list) => list.split(',').map(str::trim).collect(),
            None => vec![&config.pgbouncer.unix_socket_dir],
        };
        let mut startup = Vec::new();
        for (name, value) in [
            ("client_encoding", &settings.client_encoding),
            ("datestyle", &settings.datestyle),
            ("timezone", &settings.timezone),
            ("application_name", &settings.application_name),
        ] {
            startup.extend(value.clone().map(|value| (name, value)));
        }
        Target {
            host: Host::read(hosts[turn % hosts.len()]),
            port: settings.port,
            dbname: database.server_name(),
            user: user.name.clone(),
            credential: database
                .credential
                .load_full()
                .filter(|_| is_forced)
                .or_else(|| user.credential.load_full())
                .or_else(|| pool.credential.load_full()),
            options: self.socket_options(),
            tls: self.tls.load_full(),
            direct_tls: config.pgweir.server_tls_negotiation == "direct",
            channel_binding: config.pgweir.channel_binding,
            minor: match config.pgweir.server_protocol.as_str() {
                "3.2" => NEWEST_MINOR,
                _ => 0,
            },
            startup,
            connect_query: settings.connect_query.clone(),
            own: None,
        }
    }

    /// The options of every TCP connection.
    pub fn socket_options(&self) -> SocketOptions {
        let config = self.config();
        let settings = &config.pgbouncer;
        let seconds = |value: i32| Duration::from_secs(count(value).into());
        SocketOptions {
            keepalive: settings.tcp_keepalive,
            keepalive_idle: seconds(settings.tcp_keepidle),
            keepalive_interval: seconds(settings.tcp_keepintvl),
            keepalive_count: count(settings.tcp_keepcnt),
            user_timeout: Duration::from_millis(count(settings.tcp_user_timeout).into()),
            buffer: count(settings.tcp_socket_buffer) as usize,
        }
    }

    /// Takes a server's place in the budgets of database and user.
    pub(super) fn take_server_place(&self, database: &Database, user: &User) -> bool {
        if !database.servers.take(self.max_db_connections(database)) {
            return false;
        }
        if !user.servers.take(self.max_user_connections(user)) {
            database.servers.give();
            return false;
        }
        true
    }

    /// Takes a server's place, whatever the limits: the server is there already.
    pub(super) fn take_any_server_place(&self, database: &Database, user: &User) {
        database.servers.take(0);
        user.servers.take(0);
    }

    /// Gives a server's place back.
    pub(super) fn give_server_place(&self, database: &Database, user: &User) {
        database.servers.give();
        user.servers.give();
    }

    pub(super) fn log_server_connected(&self, pool: &Pool, server: &Server) {
        if self.config().pgbouncer.log_connections {
            let address = server.record.local;
            tracing::info!(
                "{} new connection to server (from {address})",
                log_prefix(pool, &server.record)
            );
            if let Some(cipher) = server.record.cipher {
                let prefix = log_prefix(pool, &server.record);
                tracing::info!("{prefix} SSL established: {cipher}");
            }
        }
    }

    pub(super) fn log_server_closing(&self, pool: &Pool, server: &Server, reason: &str) {
        if self.config().pgbouncer.log_disconnections {
            let age = self.clock.now().since(server.record.connected_at) / 1_000_000;
            tracing::info!(
                "{} closing because: {reason} (age={age}s)",
                log_prefix(pool, &server.record)
            );
        }
    }

    pub(super) fn log_login_failed(
        &self,
        pool: &Pool,
        error: &LoginError,
        reason: &str,
        begun: Micros,
    ) {
        let (database, user) = (&pool.database.name, &pool.user.name);
        tracing::warn!("S: {database}/{user} server login failed: {error}");
        if self.config().pgbouncer.log_disconnections {
            let age = self.clock.now().since(begun) / 1_000_000;
            tracing::info!("S: {database}/{user} closing because: {reason} (age={age}s)");
        }
    }

    /// The user a database forces on its servers.
    fn server_user(&self, database: &Database) -> Option<Arc<User>> {
        let name = database.settings.load().user.clone()?;
        Some(self.user(&name))
    }

    fn apply_lifetimes(&self) {
        let config = self.config();
        self.names.set_lifetimes(Lifetimes {
            found: config.pgbouncer.dns_max_ttl,
            failed: config.pgbouncer.dns_nxdomain_ttl,
        });
    }

    fn apply_users(&self) {
        let (config, list) = (self.config(), self.user_list());
        let listed = list
            .iter()
            .filter_map(|(name, _)| str::from_utf8(name).ok());
        for name in listed.chain(config.users.keys().map(String::as_str)) {
            self.user(name);
        }
        for user in &self.users {
            if let Some(settings) = config.users.get(&user.name) {
                user.settings.store(Arc::new(settings.clone()));
            }
            user.credential.store(list.get(&user.name).cloned());
        }
    }

    fn apply_databases(self: &Arc<Self>) {
        let config = self.config();
        for (name, settings) in &config.databases {
            match self.databases.get(name).map(|found| found.clone()) {
                Some(known) => self.change_database(&known, settings),
                None => {
                    let database = Database::new(name, false, settings.clone());
                    self.databases.insert(name.clone(), Arc::new(database));
                }
            }
        }
        for known in self.databases.iter().filter(|known| known.auto) {
            if let Some(settings) = config.autodb_as(&known.name) {
                self.change_database(&known, &settings);
            }
        }
        let gone: Vec<String> = self
            .databases
            .iter()
            .filter(|known| !config.databases.contains_key(&known.name))
            .filter(|known| !(known.auto && config.autodb.is_some()))
            .map(|known| known.name.clone())
            .collect();
        for name in gone {
            log_dropping(&name);
            self.databases.remove(&name);
            self.drop_pools(&name);
        }
    }

    fn change_database(&self, known: &Arc<Database>, settings: &config::Database) {
        let old = known.change_settings(settings.clone());
        if settings.needs_new_servers(&old) {
            self.mark_servers(Some(known));
        }
    }

    /// Follows the zones of host names, each `dns_zone_check_period`; does not
    /// end.
    pub async fn check_zones(&self) {
        loop {
            let period = self.config().pgbouncer.dns_zone_check_period;
            if period.is_zero() {
                tokio::time::sleep(OFF_PERIOD).await;
            } else {
                tokio::time::sleep(period).await;
                self.names.check_zones().await;
            }
        }
    }

    /// Servers at addresses that their names have lost are closed when they
    /// are next free.
    pub(super) fn mark_moved_servers(&self) {
        for (name, address) in self.names.take_gone() {
            tracing::info!(
                "{name} is no longer at {address}: its servers there are closed when free"
            );
            let is_there = |record: &Record| {
                record.ip() == Some(address) && record.host.0 == Host::Name(name.clone())
            };
            for record in self.servers.iter().filter(|record| is_there(record)) {
                record.mark();
            }
        }
    }

    /// RECONNECT: every server (of `database`) is closed when it is next free.
    pub fn mark_servers(&self, database: Option<&Arc<Database>>) {
        for pool in self.pools() {
            if database.is_none_or(|database| Arc::ptr_eq(&pool.database, database)) {
                pool.mark_servers();
            }
        }
    }
}

/// Who is asked for addresses, by `resolv_conf`.
fn resolver(config: &Config) -> Resolver {
    let path = &config.pgbouncer.resolv_conf;
    if path.is_empty() {
        return Resolver::of_system();
    }
    Resolver::of_file(path.as_ref()).unwrap_or_else(|error| {
        tracing::error!("could not read resolv_conf {path}: {error}");
        Resolver::of_system()
    })
}

/// A setting that counts something: negative numbers mean none.
fn count(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn log_dropping(database: &str) {
    tracing::warn!(
        "dropping database '{database}' as it does not exist anymore or inactive auto-database"
    );
}

fn log_prefix(pool: &Pool, record: &Record) -> String {
    format!(
        "S-{:#x}: {}/{}@{}",
        record.id, pool.database.name, pool.user.name, record.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_clients_make_up_are_forgotten_when_they_are_many() {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("pgweir-unproven-{}.ini", std::process::id()));
        std::fs::write(&file, "[databases]\nlisted =\n* =\n[pgbouncer]\n").expect("writable");
        let config = Config::load(&file).expect("a good file").config;
        std::fs::remove_file(&file).expect("removable");
        let bouncer = Bouncer::new(config, UserList::default(), 1);
        let user = bouncer.user("ann");
        for number in 0..=MAX_UNPROVEN {
            let made = bouncer.database(&number.to_string()).expect("from *");
            bouncer.pool_as(&made, user.clone());
            bouncer.forget_unproven();
        }
        assert_eq!(bouncer.databases().len(), 1);
        assert_eq!(bouncer.pools().len(), 0);
        assert!(bouncer.database("again").is_some());
    }
}
