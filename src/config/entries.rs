//! The keys of one entry of `[databases]`, `[users]` and `[peers]`.
//!
//! An absent key means the global value, unless its row says otherwise.

use std::time::Duration;

use super::kind::Kind;
use super::model::{Password, PoolMode};
use super::settings::{default_text, reloadable, section, zero_inherits};

section! {
    /// One entry of `[databases]`. `None` means "the global value".
    Database {
        /// Name of the database on the server; the entry's own name when absent.
        dbname: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Host name, address, socket folder (`/...`), abstract socket (`@...`) or a comma list of these; absent: the Unix socket in `unix_socket_dir`.
        host: Option<String> = null, Kind::List, reload, Pgbouncer;
        /// Server port, and the number in the Unix socket's name.
        port: u16 = "5432", Kind::SERVER_PORT, reload, Pgbouncer;
        /// Server user forced on every client: one pool for the entry.
        user: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Password of the forced user; absent: the one in `auth_file`.
        password: Option<Password> = null, Kind::Secret, reload, Pgbouncer;
        /// As the global setting.
        auth_user: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// As the global setting.
        auth_query: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// As the global setting.
        auth_dbname: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Overrides `default_pool_size`.
        pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
        /// As the global setting.
        min_pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
        /// As the global setting; `reserve_pool` is its old name.
        reserve_pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
        /// As the global setting.
        pool_mode: Option<PoolMode> = null, Kind::Word(PoolMode::WORDS), reload, Pgbouncer;
        /// How a host list is walked; absent: `round-robin`.
        load_balance_hosts: Option<String> = null, Kind::Word(&["round-robin", "disable"]), reload, Pgbouncer;
        /// As the global setting; 0 is the global value.
        max_db_connections: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        max_db_client_connections: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        server_lifetime: Option<Duration> = null, Kind::Time, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 never.
        query_wait_timeout: Option<Duration> = null, Kind::Time, reload, Development;
        /// Query run once after a server has logged in.
        connect_query: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Parameter of the server's startup message.
        client_encoding: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Parameter of the server's startup message.
        datestyle: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Parameter of the server's startup message.
        timezone: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Parameter of the server's startup message.
        application_name: Option<String> = null, Kind::Text, reload, Pgbouncer;
    }
}

section! {
    /// One entry of `[users]`. `None` means "the global value".
    User {
        /// Overrides `default_pool_size` and the database's.
        pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
        /// As the global setting.
        reserve_pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
        /// As the global setting.
        pool_mode: Option<PoolMode> = null, Kind::Word(PoolMode::WORDS), reload, Pgbouncer;
        /// As the global setting; 0 is the global value.
        max_user_connections: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        max_user_client_connections: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        query_timeout: Option<Duration> = null, Kind::Time, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        idle_transaction_timeout: Option<Duration> = null, Kind::Time, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        transaction_timeout: Option<Duration> = null, Kind::Time, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 is the global value.
        client_idle_timeout: Option<Duration> = null, Kind::Time, reload, Pgbouncer, zero_inherits;
        /// As the global setting; 0 never.
        query_wait_timeout: Option<Duration> = null, Kind::Time, reload, Development;
    }
}

section! {
    /// One entry of `[peers]`.
    Peer {
        /// Where the peer listens; required.
        host: String = "", Kind::List, reload, Pgbouncer;
        /// Its port.
        port: u16 = "6432", Kind::SERVER_PORT, reload, Pgbouncer;
        /// Cancel connections in flight to it; absent: `default_pool_size`.
        pool_size: Option<u32> = null, Kind::OVERRIDE, reload, Pgbouncer;
    }
}

impl Database {
    /// Whether servers opened for `old` cannot serve this entry: what a reload
    /// changes in sizes, modes, limits and passwords leaves servers alone.
    pub fn needs_new_servers(&self, old: &Self) -> bool {
        self.dbname != old.dbname
            || self.host != old.host
            || self.port != old.port
            || self.user != old.user
            || self.connect_query != old.connect_query
            || self.auth_dbname != old.auth_dbname
            || self.auth_query != old.auth_query
            || self.load_balance_hosts != old.load_balance_hosts
    }
}
