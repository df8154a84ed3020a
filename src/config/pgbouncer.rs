//! The settings of `[pgbouncer]`, as PgBouncer 1.25.2 has them.

use std::time::Duration;

use super::kind::Kind;
use super::model::{AuthType, Password, PoolMode, SslMode};
use super::settings::{default_text, reloadable, section};

// The order is PgBouncer's: by name, but pool_mode before pool_idle_timeout.
section! {
    /// The `[pgbouncer]` section: PgBouncer's own settings under PgBouncer's
    /// own names. A zero duration is "off" unless the setting says otherwise;
    /// negative numbers are taken as PgBouncer takes them.
    Pgbouncer {
        /// Users with full rights on the console.
        admin_users: String = "", Kind::List, reload, Pgbouncer;
        /// Append ` - HOST:PORT` of the client to `application_name` when a connection starts.
        application_name_add_host: bool = "0", Kind::Bool, reload, Pgbouncer;
        /// Database entry in which `auth_query` runs; null: the client's own.
        auth_dbname: Option<String> = null, Kind::AuthDatabase, reload, Pgbouncer;
        /// File with user names and passwords.
        auth_file: Option<String> = null, Kind::File, reload, Pgbouncer;
        /// Rules for `auth_type = hba`.
        auth_hba_file: String = "", Kind::File, reload, Pgbouncer;
        /// Map of system users for `peer` rules of `auth_hba_file`.
        auth_ident_file: Option<String> = null, Kind::File, reload, Pgbouncer;
        /// Which directory checks passwords with `auth_type = ldap`, and how: the words that follow `ldap` in a rule of `auth_hba_file`.
        auth_ldap_options: Option<Password> = null, Kind::Secret, reload, Pgbouncer;
        /// Query that finds the password of a user who is not in `auth_file`; runs as `auth_user`.
        auth_query: String = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin", Kind::Text, reload, Pgbouncer;
        /// How clients prove who they are.
        auth_type: AuthType = "md5", Kind::Word(AuthType::WORDS), reload, Pgbouncer;
        /// User that runs `auth_query`; null: no query.
        auth_user: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Forget an automatic database (one made from `*`) after it went unused this long; 0 never.
        autodb_idle_timeout: Duration = "3600", Kind::Time, reload, Pgbouncer;
        /// Longest wait of a cancel request for a connection to the server; 0 has no limit.
        cancel_wait_timeout: Duration = "10", Kind::Time, reload, Pgbouncer;
        /// Close clients that sent nothing for this long; 0 never.
        client_idle_timeout: Duration = "0", Kind::Time, reload, Pgbouncer;
        /// Close clients whose login takes longer; 0 never.
        client_login_timeout: Duration = "60", Kind::Time, reload, Pgbouncer;
        /// TLS 1.3 cipher suites offered to clients; null: the library's.
        client_tls13_ciphers: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Certificates of the authorities that sign client certificates.
        client_tls_ca_file: String = "", Kind::File, reload, Pgbouncer;
        /// Certificate shown to clients.
        client_tls_cert_file: String = "", Kind::File, reload, Pgbouncer;
        /// Ciphers offered to clients up to TLS 1.2.
        client_tls_ciphers: String = "default", Kind::Text, reload, Pgbouncer;
        /// Finite-field key exchange with clients: `none` or `auto`.
        client_tls_dheparams: String = "auto", Kind::Text, reload, Pgbouncer;
        /// Curve of the key exchange with clients: `none`, `auto` or its name.
        client_tls_ecdhcurve: String = "auto", Kind::Text, reload, Pgbouncer;
        /// Private key of `client_tls_cert_file`.
        client_tls_key_file: String = "", Kind::File, reload, Pgbouncer;
        /// TLS versions taken from clients: `secure`, `all`, or a list such as `tlsv1.2,tlsv1.3`.
        client_tls_protocols: String = "secure", Kind::Text, reload, Pgbouncer;
        /// Whether clients may or must use TLS, and show a certificate.
        client_tls_sslmode: SslMode = "disable", Kind::Word(SslMode::WORDS), reload, Pgbouncer;
        /// File the next reload reads; null: the one of the command line.
        conffile: Option<String> = null, Kind::File, reload, Pgbouncer;
        /// Servers per pool (database and user); 0 has no limit.
        default_pool_size: i32 = "20", Kind::INT, reload, Pgbouncer;
        /// Refuse the simple query protocol.
        disable_pqexec: bool = "0", Kind::Bool, start, Pgbouncer;
        /// How long the addresses of a host's name are kept, whatever time to live the DNS gives them.
        dns_max_ttl: Duration = "15", Kind::Time, reload, Pgbouncer;
        /// How long it is kept that a host's name has no address.
        dns_nxdomain_ttl: Duration = "15", Kind::Time, reload, Pgbouncer;
        /// How often the serial numbers of DNS zones are checked for changes; 0 never.
        dns_zone_check_period: Duration = "0", Kind::Time, reload, Pgbouncer;
        /// Close clients that idle inside a transaction this long; 0 never.
        idle_transaction_timeout: Duration = "0", Kind::Time, reload, Pgbouncer;
        /// Startup parameters of clients that are dropped instead of refused; `options` drops every unknown one in `options`.
        ignore_startup_parameters: String = "", Kind::List, reload, Pgbouncer;
        /// Without effect on Unix.
        job_name: String = "pgbouncer", Kind::Text, start, Pgbouncer;
        /// Addresses to listen on; `*` is all, empty is Unix socket only.
        listen_addr: String = "", Kind::List, start, Pgbouncer;
        /// Connections the kernel may hold before they are accepted.
        listen_backlog: i32 = "128", Kind::INT, start, Pgbouncer;
        /// TCP port, and the number in the Unix socket's name.
        listen_port: i32 = "6432", Kind::PORT, start, Pgbouncer;
        /// Log logins and new server connections.
        log_connections: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// Log closed connections with the reason.
        log_disconnections: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// Log the errors sent to clients.
        log_pooler_errors: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// Log a line of statistics each `stats_period`.
        log_stats: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// File to log to; reopened by a reload.
        logfile: String = "", Kind::File, reload, Pgbouncer;
        /// Notice sent to each client after its login.
        login_notify_message: String = "", Kind::Text, reload, Development;
        /// Client connections, all databases together.
        max_client_conn: i32 = "100", Kind::INT, reload, Pgbouncer;
        /// Clients per database entry; 0 has no limit.
        max_db_client_connections: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Servers per database entry, all its pools together; 0 has no limit.
        max_db_connections: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Longest message taken, in bytes.
        max_packet_size: u32 = "2147483647", Kind::UINT, reload, Pgbouncer;
        /// Prepared statements kept per server in transaction and statement pooling; 0 turns their tracking off.
        max_prepared_statements: i32 = "200", Kind::INT, reload, Pgbouncer;
        /// Clients per user; 0 has no limit.
        max_user_client_connections: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Servers per user, all pools together; 0 has no limit.
        max_user_connections: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Servers kept open in a pool that has clients or a forced user.
        min_pool_size: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Own number among the `[peers]`; 0: no peering.
        peer_id: i32 = "0", Kind::Int { min: 0, max: 16383 }, reload, Pgbouncer;
        /// File that holds the process id; needed to run as a daemon.
        pidfile: String = "", Kind::File, start, Pgbouncer;
        /// Without effect: a buffer is as large as what is in it; long messages are streamed.
        pkt_buf: i32 = "4096", Kind::Int { min: 1, max: i32::MAX as i64 }, start, Pgbouncer;
        /// How long a server stays with a client.
        pool_mode: PoolMode = "session", Kind::Word(PoolMode::WORDS), reload, Pgbouncer;
        /// Free a pool without clients and servers after this long; 0 never.
        pool_idle_timeout: Duration = "0", Kind::Time, reload, Development;
        /// Cancel queries that run longer, by closing both sides; 0 never.
        query_timeout: Duration = "0", Kind::Time, reload, Pgbouncer;
        /// Tell a client that it waits for a server after this many seconds; 0 never.
        query_wait_notify: i32 = "5", Kind::INT, reload, Pgbouncer;
        /// Close clients that wait longer for a server; 0 never.
        query_wait_timeout: Duration = "120", Kind::Time, reload, Pgbouncer;
        /// Servers beyond the pool size, for clients that waited `reserve_pool_timeout`.
        reserve_pool_size: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Wait after which the reserve may be used; 0 disables the reserve.
        reserve_pool_timeout: Duration = "5", Kind::Time, reload, Pgbouncer;
        /// A resolv.conf whose name servers are asked for the addresses of hosts, after the system's table of hosts; empty: the system's resolver is.
        resolv_conf: String = "", Kind::File, start, Pgbouncer;
        /// Without effect: the runtime gives every connection its turn.
        sbuf_loopcnt: i32 = "5", Kind::INT, reload, Pgbouncer;
        /// Iterations of SCRAM secrets made from plain passwords.
        scram_iterations: i32 = "4096", Kind::Int { min: 1, max: i32::MAX as i64 }, reload, Pgbouncer;
        /// A server idle for longer is checked before it is used; 0 always checks.
        server_check_delay: Duration = "30", Kind::Time, reload, Pgbouncer;
        /// Query of that check; `<empty>` sends an empty one, nothing disables the check.
        server_check_query: String = "<empty>", Kind::Text, reload, Pgbouncer;
        /// Time for connecting and logging in to a server.
        server_connect_timeout: Duration = "15", Kind::Time, reload, Pgbouncer;
        /// Close marked servers of session pools at the next moment outside a transaction.
        server_fast_close: bool = "0", Kind::Bool, reload, Pgbouncer;
        /// Close servers unused for this long; 0 never.
        server_idle_timeout: Duration = "600", Kind::Time, reload, Pgbouncer;
        /// Close unlinked servers older than this; 0: after one use.
        server_lifetime: Duration = "3600", Kind::Time, reload, Pgbouncer;
        /// Pause after a failed connection to a server.
        server_login_retry: Duration = "15", Kind::Time, reload, Pgbouncer;
        /// Query sent when a server is given back in session pooling; empty for none.
        server_reset_query: String = "DISCARD ALL", Kind::Text, reload, Pgbouncer;
        /// Send `server_reset_query` in the other pool modes too.
        server_reset_query_always: bool = "0", Kind::Bool, reload, Pgbouncer;
        /// Use the idle server unused the longest instead of the one used last.
        server_round_robin: bool = "0", Kind::Bool, reload, Pgbouncer;
        /// TLS 1.3 cipher suites offered to servers; null: the library's.
        server_tls13_ciphers: Option<String> = null, Kind::Text, reload, Pgbouncer;
        /// Certificates of the authorities that sign server certificates.
        server_tls_ca_file: String = "", Kind::File, reload, Pgbouncer;
        /// Certificate shown to servers.
        server_tls_cert_file: String = "", Kind::File, reload, Pgbouncer;
        /// Ciphers offered to servers up to TLS 1.2.
        server_tls_ciphers: String = "default", Kind::Text, reload, Pgbouncer;
        /// Private key of `server_tls_cert_file`.
        server_tls_key_file: String = "", Kind::File, reload, Pgbouncer;
        /// TLS versions taken from servers, as `client_tls_protocols`.
        server_tls_protocols: String = "secure", Kind::Text, reload, Pgbouncer;
        /// Whether servers may or must use TLS, and how their certificate is checked.
        server_tls_sslmode: SslMode = "prefer", Kind::Word(SslMode::WORDS), reload, Pgbouncer;
        /// Let several processes listen on the same port.
        so_reuseport: bool = "0", Kind::Bool, start, Pgbouncer;
        /// Seconds over which averages are made and after which statistics are logged.
        stats_period: i32 = "60", Kind::INT, reload, Pgbouncer;
        /// Users who may only look on the console.
        stats_users: String = "", Kind::List, reload, Pgbouncer;
        /// Time for flushing at `SUSPEND` and online restart, after which connections are closed.
        suspend_timeout: Duration = "10", Kind::Time, reload, Pgbouncer;
        /// Log to syslog.
        syslog: bool = "0", Kind::Bool, reload, Pgbouncer;
        /// Facility: auth, authpriv, daemon, user, local0 to local7.
        syslog_facility: String = "daemon", Kind::Text, reload, Pgbouncer;
        /// Program name in syslog.
        syslog_ident: String = "pgbouncer", Kind::Text, reload, Pgbouncer;
        /// Accept a TCP client only when it has sent something.
        tcp_defer_accept: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// Turn TCP keep-alive on.
        tcp_keepalive: bool = "1", Kind::Bool, reload, Pgbouncer;
        /// Keep-alive probes until a connection counts as dead; 0 is the system's value.
        tcp_keepcnt: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Idle seconds before the first keep-alive probe; 0 is the system's value.
        tcp_keepidle: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Seconds between keep-alive probes; 0 is the system's value.
        tcp_keepintvl: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Kernel buffers of a connection in bytes; 0 is the system's value.
        tcp_socket_buffer: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Milliseconds that sent data may stay unacknowledged; 0 is the system's value.
        tcp_user_timeout: i32 = "0", Kind::INT, reload, Pgbouncer;
        /// Parameters tracked per client beyond the usual ones.
        track_extra_parameters: String = "IntervalStyle", Kind::List, start, Pgbouncer;
        /// Close clients whose transaction lasts longer; 0 never.
        transaction_timeout: Duration = "0", Kind::Time, reload, Pgbouncer;
        /// Folder of the Unix socket, and of servers without a host; empty for none, `@NAME` is abstract.
        unix_socket_dir: String = "/tmp", Kind::File, start, Pgbouncer;
        /// Group of the Unix socket, by name or number.
        unix_socket_group: String = "", Kind::Text, start, Pgbouncer;
        /// File mode of the Unix socket.
        unix_socket_mode: i32 = "0777", Kind::FileMode, start, Pgbouncer;
        /// System user to switch to after start.
        user: Option<String> = null, Kind::Text, start, Pgbouncer;
        /// Log more: 1 is DEBUG, 2 and up NOISE.
        verbose: i32 = null, Kind::INT, reload, Pgbouncer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Section, ValueError};

    #[test]
    fn every_default_is_a_value_of_its_setting() {
        for setting in Pgbouncer::SETTINGS {
            if let Some(text) = setting.default {
                assert_eq!(
                    (setting.set)(&mut Pgbouncer::default(), text),
                    Ok(()),
                    "{}",
                    setting.name
                );
            }
        }
    }

    #[test]
    fn show_config_lists_the_settings_in_order_of_name() {
        let names: Vec<&str> = Pgbouncer::SETTINGS
            .iter()
            .map(|setting| setting.name)
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let idle = sorted
            .iter()
            .position(|name| *name == "pool_idle_timeout")
            .expect("is there");
        sorted.swap(idle, idle + 1);
        assert_eq!(names, sorted);
    }

    #[test]
    fn a_shown_value_sets_the_same_value() {
        let settings = Pgbouncer::default();
        for setting in Pgbouncer::SETTINGS {
            let mut copy = settings.clone();
            if let Some(text) = (setting.get)(&settings) {
                assert_eq!((setting.set)(&mut copy, &text), Ok(()), "{}", setting.name);
            }
            assert_eq!(copy, settings, "{}", setting.name);
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        let mut settings = Pgbouncer::default();
        for (name, text) in [
            ("listen_port", "65536"),
            ("listen_port", "-1"),
            ("peer_id", "16384"),
            ("default_pool_size", "2147483648"),
            ("max_packet_size", "-1"),
            ("auth_dbname", "pgbouncer"),
        ] {
            let setting = Pgbouncer::setting(name).expect("is a setting");
            assert_eq!(
                (setting.set)(&mut settings, text),
                Err(ValueError),
                "{name} = {text}"
            );
        }
        assert_eq!(settings, Pgbouncer::default());
    }

    #[test]
    fn the_socket_mode_is_octal_in_the_file_and_decimal_when_shown() {
        let mode = Pgbouncer::setting("unix_socket_mode").expect("is a setting");
        assert_eq!(mode.default, Some("0777"));
        assert_eq!((mode.get)(&Pgbouncer::default()).as_deref(), Some("511"));
    }
}
