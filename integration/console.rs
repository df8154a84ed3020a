//! The admin console: what SHOW returns, how commands are read, who may what.

use std::time::Duration;

use crate::harness::backend::{Fields, Message};
use crate::harness::frontend::{self, extended, query};
use crate::harness::pooler::{Ini, Pooler, Table};
use crate::harness::postgres::client_program;
use crate::harness::wire::{Login, Wire};
use crate::harness::{becomes, reference_is_pgweir};

/// Columns of SHOW commands: names, each with the letter of its type.
const SHOWS: &[(&str, &str)] = &[
    ("ACTIVE_SOCKETS", SOCKETS),
    ("CLIENTS", CLIENTS),
    ("CONFIG", "key t value t default t changeable t"),
    (
        "DATABASES",
        "name t host t port i database t force_user t pool_size i min_pool_size i reserve_pool_size i \
         server_lifetime i pool_mode t load_balance_hosts t max_connections i current_connections i \
         max_client_connections i current_client_connections i paused i disabled i",
    ),
    ("DNS_HOSTS", "hostname t ttl q addrs t"),
    ("DNS_ZONES", "zonename t serial q count i"),
    ("LISTS", "list t items i"),
    ("MEM", "name t size i used i free i memtotal i"),
    ("PEERS", "peer_id i host t port i pool_size i"),
    (
        "PEER_POOLS",
        "peer_id i cl_active_cancel_req i cl_waiting_cancel_req i sv_active_cancel i sv_login i",
    ),
    (
        "POOLS",
        "database t user t cl_active i cl_waiting i cl_active_cancel_req i cl_waiting_cancel_req i \
         sv_active i sv_active_cancel i sv_being_canceled i sv_idle i sv_used i sv_tested i sv_login i \
         maxwait i maxwait_us i pool_mode t load_balance_hosts t",
    ),
    ("SERVERS", CLIENTS),
    ("SOCKETS", SOCKETS),
    ("STATE", "key t value t"),
    (
        "STATS",
        "database t total_server_assignment_count n total_xact_count n total_query_count n \
         total_received n total_sent n total_xact_time n total_query_time n total_wait_time n \
         total_client_parse_count n total_server_parse_count n total_bind_count n \
         avg_server_assignment_count n avg_xact_count n avg_query_count n avg_recv n avg_sent n \
         avg_xact_time n avg_query_time n avg_wait_time n avg_client_parse_count n \
         avg_server_parse_count n avg_bind_count n",
    ),
    (
        "STATS_AVERAGES",
        "database t server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n \
         xact_time n query_time n wait_time n avg_client_parse_count n avg_server_parse_count n \
         avg_bind_count n",
    ),
    (
        "STATS_TOTALS",
        "database t server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n \
         xact_time n query_time n wait_time n client_parse_count n server_parse_count n bind_count n",
    ),
    ("TOTALS", "name t value n"),
    (
        "USERS",
        "name t pool_size t reserve_pool_size t pool_mode t max_user_connections i current_connections i \
         max_user_client_connections i current_client_connections i",
    ),
    ("VERSION", "version t"),
];

const CLIENTS: &str = "type t user t database t replication t state t addr t port i local_addr t \
     local_port i connect_time t request_time t wait i wait_us i close_needed i ptr t link t \
     remote_pid i tls t application_name t prepared_statements i id i";

const SOCKETS: &str = "type t user t database t replication t state t addr t port i local_addr t \
     local_port i connect_time t request_time t wait i wait_us i close_needed i ptr t link t \
     remote_pid i tls t application_name t prepared_statements i id i recv_pos i pkt_pos i pkt_remain i \
     send_pos i send_remain i pkt_avail i send_avail i";

/// Settings in the order of SHOW CONFIG.
const SETTINGS: &str = "admin_users application_name_add_host auth_dbname auth_file auth_hba_file \
     auth_ident_file auth_ldap_options auth_query auth_type auth_user autodb_idle_timeout \
     cancel_wait_timeout client_idle_timeout client_login_timeout client_tls13_ciphers \
     client_tls_ca_file client_tls_cert_file client_tls_ciphers client_tls_dheparams \
     client_tls_ecdhcurve client_tls_key_file client_tls_protocols client_tls_sslmode conffile \
     default_pool_size disable_pqexec dns_max_ttl dns_nxdomain_ttl dns_zone_check_period \
     idle_transaction_timeout ignore_startup_parameters job_name listen_addr listen_backlog \
     listen_port log_connections log_disconnections log_pooler_errors log_stats logfile \
     max_client_conn max_db_client_connections max_db_connections max_packet_size \
     max_prepared_statements max_user_client_connections max_user_connections min_pool_size peer_id \
     pidfile pkt_buf pool_mode query_timeout query_wait_notify query_wait_timeout reserve_pool_size \
     reserve_pool_timeout resolv_conf sbuf_loopcnt scram_iterations server_check_delay \
     server_check_query server_connect_timeout server_fast_close server_idle_timeout server_lifetime \
     server_login_retry server_reset_query server_reset_query_always server_round_robin \
     server_tls13_ciphers server_tls_ca_file server_tls_cert_file server_tls_ciphers \
     server_tls_key_file server_tls_protocols server_tls_sslmode so_reuseport stats_period \
     stats_users suspend_timeout syslog syslog_facility syslog_ident tcp_defer_accept tcp_keepalive \
     tcp_keepcnt tcp_keepidle tcp_keepintvl tcp_socket_buffer tcp_user_timeout \
     track_extra_parameters transaction_timeout unix_socket_dir unix_socket_group unix_socket_mode \
     user verbose";

fn type_letter(kind: u32) -> &'static str {
    match kind {
        25 => "t",
        23 => "i",
        20 => "q",
        1700 => "n",
        17 => "b",
        _ => "?",
    }
}

#[track_caller]
fn assert_error(error: &Fields, text: &str) {
    assert_eq!(
        (error.severity(), error.code(), error.text()),
        ("ERROR", "08P01", text)
    );
}

/// What psql prints, unaligned, without headers.
fn psql(pooler: &Pooler<'_>, user: &str, command: &str) -> (String, String) {
    let conninfo = format!(
        "host=127.0.0.1 port={} user={user} dbname=pgbouncer",
        pooler.address().port()
    );
    let mut psql = client_program("psql");
    psql.args(["-X", "-A", "-t", "-c", command]).arg(conninfo);
    let output = psql.output().expect("psql runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn every_show_has_the_columns_of_pgbouncer() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.run("select 1");
    let mut console = pooler.console_of("admin");
    for (command, columns) in SHOWS {
        let reply = console.query(&format!("SHOW {command}"));
        let table = Table::from(reply.succeeded());
        // Later versions count logins too.
        let found = table
            .columns
            .iter()
            .filter(|(name, _)| !name.ends_with("client_login_count"));
        let found: Vec<String> = found
            .map(|(name, kind)| format!("{name} {}", type_letter(*kind)))
            .collect();
        let expected: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(found.join(" "), expected.join(" "), "SHOW {command}");
        assert_eq!(table.tag, "SHOW");
    }
}

#[test]
fn columns_name_no_table_and_have_no_modifier() {
    let pooler = Ini::transaction().start();
    let reply = pooler.console_of("admin").query("SHOW POOLS");
    let Message::RowDescription(columns) = &reply.messages[0] else {
        panic!("{reply:?}")
    };
    assert!(
        columns
            .iter()
            .all(|column| column.table == 0 && column.modifier == -1)
    );
}

#[test]
fn show_version_is_that_of_the_version_option() {
    let pooler = Ini::transaction().start();
    let version = pooler.console("SHOW VERSION").rows[0].text("version");
    assert!(version.starts_with("PgBouncer 1."), "{version}");
}

#[test]
fn show_help_is_a_notice() {
    let pooler = Ini::transaction().start();
    let mut console = pooler.console_of("admin");
    let reply = console.query("SHOW HELP");
    assert_eq!((reply.tags(), reply.rows().len()), (vec!["SHOW"], 0));
    let [Message::NoticeResponse(notice)] = &console.asides[..] else {
        panic!("{console:?}")
    };
    assert_eq!((notice.text(), notice.code()), ("Console usage", "00000"));
    let detail = notice.field(b'D').unwrap_or_default();
    for line in [
        "SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION",
        "SHOW PEERS|PEER_POOLS",
        "SHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE",
        "SHOW DNS_HOSTS|DNS_ZONES",
        "SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS",
        "SET key = arg",
        "RELOAD",
        "PAUSE [<db>]",
        "RESUME [<db>]",
        "DISABLE <db>",
        "ENABLE <db>",
        "RECONNECT [<db>]",
        "KILL [<db>]",
        "KILL_CLIENT <client_id>",
        "SUSPEND",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS",
        "WAIT_CLOSE [<db>]",
    ] {
        assert!(
            detail.contains(&format!("\n\t{line}")),
            "{line} in {detail}"
        );
    }
}

#[test]
fn show_config_lists_every_setting_in_order() {
    let pooler = Ini::transaction().set("max_client_conn", 77).start();
    let table = pooler.console("SHOW CONFIG");
    let mut keys = table.column("key").into_iter();
    for setting in SETTINGS.split_whitespace() {
        assert!(
            keys.any(|key| key == setting),
            "{setting} stands where PgBouncer has it"
        );
    }
    let row = |key: &str| {
        let row = table.row(&[("key", key)]);
        ["value", "default", "changeable"].map(|column| row.text(column))
    };
    assert_eq!(row("max_client_conn"), ["77", "100", "yes"]);
    assert_eq!(row("listen_port")[2], "no");
    assert_eq!(row("pool_mode"), ["transaction", "session", "yes"]);
    assert_eq!(row("auth_user"), ["NULL", "NULL", "yes"]);
    assert_eq!(row("unix_socket_mode")[0], "511");
    assert_eq!(row("server_check_query"), ["<empty>", "<empty>", "yes"]);
}

#[test]
fn show_databases_tells_what_is_configured() {
    let ini = Ini::transaction()
        .db("pool_size=5 min_pool_size=1 reserve_pool_size=2 max_db_connections=9 pool_mode=session")
        .database("another", "host=127.0.0.1 port=PORT dbname=DBNAME user=bob");
    let pooler = ini.start();
    let _client = pooler.client();
    let table = pooler.console("SHOW DATABASES");
    assert_eq!(table.column("name"), ["another", "db", "pgbouncer"]);
    let row = table.row(&[("name", "db")]);
    for (column, value) in [
        ("host", "127.0.0.1"),
        ("database", &pooler.database.name),
        ("force_user", "NULL"),
        ("pool_size", "5"),
        ("min_pool_size", "1"),
        ("reserve_pool_size", "2"),
        ("server_lifetime", "3600"),
        ("pool_mode", "session"),
        ("load_balance_hosts", "NULL"),
        ("max_connections", "9"),
        ("current_connections", "1"),
        ("max_client_connections", "0"),
        ("current_client_connections", "1"),
        ("paused", "0"),
        ("disabled", "0"),
    ] {
        assert_eq!(row.text(column), value, "{column}");
    }
    assert_eq!(table.row(&[("name", "another")]).text("force_user"), "bob");
    assert_eq!(table.row(&[("name", "another")]).text("pool_mode"), "NULL");
    let own = table.row(&[("name", "pgbouncer")]);
    let found = ["host", "force_user", "pool_size", "pool_mode"].map(|column| own.text(column));
    assert_eq!(found, ["NULL", "pgbouncer", "2", "statement"]);
    assert_eq!(own.number("port"), i64::from(pooler.address().port()));
}

#[test]
fn show_pools_counts_clients_and_servers() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    let mut clients = [
        pooler.client(),
        pooler.client(),
        pooler.client(),
        pooler.client(),
    ];
    clients[0].run("begin");
    clients[1].run("begin");
    clients[2].send(query("select 1"));
    pooler.wait_pool("cl_waiting", 1);
    let table = pooler.console("SHOW POOLS");
    let row = table.row(&[("database", "db"), ("user", "alice")]);
    for (column, value) in [
        ("cl_active", 3),
        ("cl_waiting", 1),
        ("sv_active", 2),
        ("sv_idle", 0),
        ("sv_used", 0),
        ("sv_tested", 0),
        ("sv_login", 0),
    ] {
        assert_eq!(row.number(column), value, "{column}");
    }
    assert_eq!(row.text("pool_mode"), "transaction");
    assert!(
        row.number("maxwait") > 0 || row.number("maxwait_us") > 0,
        "somebody waits"
    );
    clients[0].run("commit");
    clients[1].run("commit");
    clients[2].reply().succeeded();
    pooler.wait_pool("sv_idle", 2);
    assert_eq!(
        table.row(&[("database", "pgbouncer")]).text("pool_mode"),
        "statement"
    );
}

#[test]
fn show_clients_and_servers_tell_who_works_for_whom() {
    let pooler = Ini::transaction().set("default_pool_size", 1).start();
    let login = pooler
        .login("alice")
        .parameter("application_name", "worker");
    let mut client = login.at(pooler.address()).expect("in");
    let mut waiting = pooler.client();
    let _idle = pooler.client();
    client.run("begin");
    let pid = client.backend_pid();
    waiting.send(query("select 1"));
    pooler.wait_pool("cl_waiting", 1);
    let clients = pooler.console("SHOW CLIENTS");
    let servers = pooler.console("SHOW SERVERS");
    let row = clients.row(&[("application_name", "worker")]);
    let server = servers.row(&[("database", "db")]);
    for (column, value) in [
        ("type", "C"),
        ("user", "alice"),
        ("database", "db"),
        ("replication", "none"),
        ("state", "active"),
        ("addr", "127.0.0.1"),
        ("local_addr", "127.0.0.1"),
        ("tls", ""),
        ("close_needed", "0"),
        ("prepared_statements", "0"),
    ] {
        assert_eq!(row.text(column), value, "{column} of the client");
    }
    assert_eq!(row.number("local_port"), i64::from(pooler.address().port()));
    assert_eq!(
        (row.text("link"), server.text("link")),
        (server.text("ptr"), row.text("ptr"))
    );
    let found = ["type", "user", "state", "application_name"].map(|column| server.text(column));
    assert_eq!(found, ["S", "alice", "active", "worker"]);
    assert_eq!(server.number("remote_pid"), i64::from(pid));
    let states = |state: &str| {
        clients
            .rows
            .iter()
            .filter(|row| row.text("database") == "db" && row.text("state") == state)
            .count()
    };
    assert_eq!(
        (states("active"), states("waiting"), states("idle")),
        (1, 1, 1)
    );
    client.run("commit");
    waiting.reply().succeeded();
    becomes("the server is idle", "idle".to_owned(), || {
        pooler
            .console("SHOW SERVERS")
            .row(&[("database", "db")])
            .text("state")
    });
}

#[test]
fn ids_count_connections_up() {
    let pooler = Ini::transaction().start();
    let id_of = |name: &str| {
        let login = pooler.login("alice").parameter("application_name", name);
        let _client = login.at(pooler.address()).expect("in");
        pooler
            .console("SHOW CLIENTS")
            .row(&[("application_name", name)])
            .number("id")
    };
    pooler.client().run("select 1");
    let first = id_of("first");
    // The console connection of the look at the first client lies between.
    assert_eq!(id_of("second"), first + 2);
}

#[test]
fn show_clients_counts_prepared_statements() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    for name in ["a", "b"] {
        client
            .ask([frontend::parse(name, "select 1"), frontend::sync()].concat())
            .succeeded();
    }
    let count = pooler
        .console("SHOW CLIENTS")
        .row(&[("user", "alice")])
        .number("prepared_statements");
    assert_eq!(count, 2);
}

#[test]
fn show_lists_has_its_rows_in_order() {
    let pooler = Ini::transaction().start();
    let _client = pooler.client();
    let table = pooler.console("SHOW LISTS");
    assert_eq!(
        table.column("list"),
        [
            "databases",
            "users",
            "peers",
            "pools",
            "peer_pools",
            "free_clients",
            "used_clients",
            "login_clients",
            "free_servers",
            "used_servers",
            "dns_names",
            "dns_zones",
            "dns_queries",
            "dns_pending",
        ]
    );
    let number = |list: &str| table.row(&[("list", list)]).number("items");
    assert_eq!(
        (number("databases"), number("pools"), number("used_clients")),
        (2, 2, 2)
    );
}

#[test]
fn show_users_tells_settings_and_counts() {
    let pooler = Ini::transaction()
        .user(
            "alice",
            "pool_size=3 max_user_connections=7 pool_mode=session",
        )
        .start();
    let _client = pooler.client();
    let table = pooler.console("SHOW USERS");
    let row = table.row(&[("name", "alice")]);
    assert_eq!(row.text("pool_size").trim(), "3");
    assert_eq!(row.text("reserve_pool_size"), "");
    assert_eq!(row.text("pool_mode"), "session");
    assert_eq!(row.number("max_user_connections"), 7);
    assert_eq!(row.number("current_connections"), 1);
    assert_eq!(row.number("current_client_connections"), 1);
    let names = table.column("name");
    assert!(names.is_sorted(), "{names:?}");
    let bob = table.row(&[("name", "bob")]);
    assert_eq!(bob.text("pool_mode"), "NULL");
    // PgBouncer 1.25 repeats the size of the row before.
    if reference_is_pgweir() {
        assert_eq!(bob.text("pool_size"), "");
    }
}

#[test]
fn show_stats_counts_exactly() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let query_bytes = |count: usize| count * query("select 1").len();
    for _ in 0..5 {
        client.run("select 1");
    }
    client.run("begin");
    client.run("select 1");
    client.run("commit");
    let table = pooler.console("SHOW STATS");
    let row = table.row(&[("database", "db")]);
    assert_eq!(row.number("total_query_count"), 8);
    assert_eq!(row.number("total_xact_count"), 6);
    assert_eq!(row.number("total_server_assignment_count"), 6);
    let sent = query_bytes(6) + query("begin").len() + query("commit").len();
    assert_eq!(
        row.number("total_received"),
        i64::try_from(sent).expect("small")
    );
    assert!(row.number("total_sent") > 0 && row.number("total_query_time") > 0);
    assert!(row.number("total_xact_time") >= row.number("total_query_time"));
    let totals = pooler.console("SHOW STATS_TOTALS");
    assert_eq!(totals.row(&[("database", "db")]).number("query_count"), 8);
}

#[test]
fn show_stats_counts_what_comes_early_and_in_pieces_once() {
    let pooler = Ini::transaction().set("default_pool_size", 1).start();
    // With the startup packet.
    let login = Login::new("alice", "db");
    let mut early = Wire::connect(pooler.address());
    early.send([login.packet(), query("begin")].concat());
    early.finish_login(&login).expect("let in");
    let mut early = early.lawless();
    early.reply();
    // While it waits for the server.
    let mut waiting = pooler.client();
    let asked = query("select 1");
    waiting.send(&asked);
    becomes("the clients that wait", 1, || {
        let pools = pooler.console("SHOW POOLS");
        pools.row(&[("database", "db")]).number("cl_waiting")
    });
    early.run("commit");
    waiting.reply();
    // In pieces.
    let (head, rest) = asked.split_at(7);
    waiting.send(head);
    waiting.expect_silence(Duration::from_millis(100));
    waiting.send(rest);
    waiting.reply();
    let sent = query("begin").len() + query("commit").len() + 2 * asked.len();
    let stats = pooler.console("SHOW STATS");
    let row = stats.row(&[("database", "db")]);
    assert_eq!(
        row.number("total_received"),
        i64::try_from(sent).expect("small")
    );
}

#[test]
fn show_stats_counts_prepared_statements() {
    let pooler = Ini::transaction().set("default_pool_size", 1).start();
    for _ in 0..2 {
        let mut client = pooler.client();
        client
            .ask([frontend::parse("s", "select 1"), frontend::sync()].concat())
            .succeeded();
        for _ in 0..3 {
            client
                .ask([frontend::run_prepared("s", &[]), frontend::sync()].concat())
                .succeeded();
        }
    }
    let table = pooler.console("SHOW STATS");
    let row = table.row(&[("database", "db")]);
    assert_eq!(row.number("total_client_parse_count"), 2);
    assert_eq!(row.number("total_server_parse_count"), 1);
    assert_eq!(row.number("total_bind_count"), 6);
}

#[test]
fn show_totals_sums_up_all_databases() {
    let pooler = Ini::transaction().start();
    let names = pooler.console("SHOW TOTALS").column("name");
    let expected = [
        "server_assignment_count",
        "xact_count",
        "query_count",
        "client_bytes",
        "server_bytes",
        "xact_time",
        "query_time",
        "wait_time",
        "ps_client_parse_count",
        "ps_server_parse_count",
        "ps_bind_count",
    ];
    let known: Vec<&String> = names
        .iter()
        .filter(|name| !name.ends_with("client_login_count"))
        .collect();
    let with = |prefix: &str| expected.map(|name| format!("{prefix}_{name}")).to_vec();
    assert_eq!(
        known,
        [with("total"), with("avg")]
            .concat()
            .iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn the_version_is_that_of_the_setting() {
    let pooler = Ini::transaction()
        .pgweir("pgbouncer_version", "1.24.1")
        .start();
    assert_eq!(
        pooler.console("SHOW VERSION").column("version"),
        ["PgBouncer 1.24.1"]
    );
}

#[test]
fn show_state_follows_pause() {
    let pooler = Ini::transaction().start();
    let state = || {
        let table = pooler.console("SHOW STATE");
        (table.column("key"), table.column("value"))
    };
    let keys = ["active", "paused", "suspended"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(
        state(),
        (
            keys.clone(),
            ["yes", "no", "no"].map(str::to_owned).to_vec()
        )
    );
    pooler.console("PAUSE");
    assert_eq!(
        state(),
        (keys, ["no", "yes", "no"].map(str::to_owned).to_vec())
    );
}

#[test]
fn set_changes_a_setting_at_once() {
    let pooler = Ini::transaction().start();
    assert_eq!(
        pooler.console("SET query_timeout = 7").tag,
        "SET query_timeout=7"
    );
    assert_eq!(
        pooler.console("sEt query_wait_timeout tO '9'").tag,
        "SET query_wait_timeout=9"
    );
    let table = pooler.console("SHOW CONFIG");
    assert_eq!(table.row(&[("key", "query_timeout")]).text("value"), "7");
    assert_eq!(
        table.row(&[("key", "query_wait_timeout")]).text("value"),
        "9"
    );
    pooler.console("SET pool_mode = session");
    let mut client = pooler.client();
    client.run("select 1");
    assert_eq!(pooler.pool("sv_active"), 1, "the session keeps its server");
}

#[test]
fn set_refuses_what_it_does_not_know() {
    let pooler = Ini::transaction().start();
    for command in [
        "SET nonsense = 1",
        "SET query_timeout = soon",
        "SET pool_mode = 'sometimes'",
    ] {
        assert_error(&pooler.console_error(command), "SET failed");
    }
}

#[test]
fn set_of_a_start_only_setting_does_nothing() {
    let pooler = Ini::transaction().start();
    pooler.console("SET listen_port = 1");
    assert_ne!(
        pooler
            .console("SHOW CONFIG")
            .row(&[("key", "listen_port")])
            .text("value"),
        "1"
    );
    pooler.assert_serves();
}

#[test]
fn commands_are_words_in_any_case() {
    let pooler = Ini::transaction().start();
    for command in [
        "show version",
        "SHOW VERSION;",
        "  ShOw   vErSiOn ; ",
        "show \"version\"",
        "SELECT version",
    ] {
        assert_eq!(pooler.console(command).rows.len(), 1, "{command}");
    }
}

#[test]
fn what_is_no_command_is_quoted_back() {
    let pooler = Ini::transaction().start();
    for command in [
        "nonsense",
        "",
        ";",
        "show nonsense",
        "show pools; show lists",
        "begin",
        "set x = -1",
    ] {
        let text = format!("invalid command '{command}', use SHOW HELP;");
        assert_error(&pooler.console_error(command), &text);
    }
}

#[test]
fn words_that_are_too_long_are_refused() {
    let pooler = Ini::transaction().start();
    for command in [
        format!("SHOW {}", "x".repeat(64)),
        "abcdefghijklmnop x".to_owned(),
        format!("SET a = '{}'", "x".repeat(256)),
    ] {
        assert_error(&pooler.console_error(&command), "bad arguments");
    }
}

#[test]
fn a_session_goes_on_after_an_error() {
    let pooler = Ini::transaction().start();
    let mut console = pooler.console_of("admin");
    console.query("nonsense").code();
    assert_eq!(console.query("SHOW VERSION").rows().len(), 1);
}

#[test]
fn questions_that_drivers_ask_are_answered() {
    let pooler = Ini::transaction().start();
    let mut console = pooler.console_of("admin");
    for (name, value) in [
        ("client_encoding", "UTF-8"),
        ("default_transaction_isolation", "read committed"),
        ("standard_conforming_strings", "on"),
        ("datestyle", "ISO"),
        ("timezone", "GMT"),
    ] {
        assert_eq!(console.value(&format!("SHOW {name}")), value);
        let reply = console.query(&format!("SET {name} = 'x'"));
        assert_eq!(reply.tags(), ["SET"]);
        let Some(Message::NoticeResponse(notice)) = console.asides.pop() else {
            panic!("a notice")
        };
        assert_eq!(notice.text(), "SET ignored");
    }
}

#[test]
fn the_consoles_welcome_is_pgbouncers() {
    let pooler = Ini::transaction().start();
    let console = pooler.console_of("admin");
    for (name, value) in [
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ] {
        assert_eq!(
            console.parameters.get(name).map(String::as_str),
            Some(value),
            "{name}"
        );
    }
    let version = console.parameters.get("server_version").map(String::as_str);
    assert!(
        version.is_some_and(|version| version.ends_with("/bouncer")),
        "{version:?}"
    );
}

#[test]
fn the_console_speaks_only_the_simple_protocol() {
    let pooler = Ini::transaction().start();
    let mut console = pooler.console_of("admin").lawless();
    console.send(extended("SHOW VERSION", &[]));
    let Message::ErrorResponse(error) = console.recv() else {
        panic!("an error has to come")
    };
    assert_error(
        &error,
        "extended query protocol not supported by admin console",
    );
    let mut last = console.recv();
    while let Message::ReadyForQuery(_) = last {
        last = console.recv();
    }
    let Message::ErrorResponse(error) = last else {
        panic!("{last:?}")
    };
    assert_eq!((error.severity(), error.text()), ("FATAL", "bad packet"));
    console.expect_closed();
    pooler.assert_serves();
}

/// Commands, each with a target that does not exist where there is one, so
/// that none has an effect.
const ADMINS_ONLY: [&str; 16] = [
    "SET query_timeout = 0",
    "RELOAD",
    "PAUSE",
    "PAUSE nowhere",
    "SUSPEND",
    "RESUME",
    "DISABLE nowhere",
    "ENABLE nowhere",
    "RECONNECT",
    "KILL",
    "KILL nowhere",
    "KILL_CLIENT 1",
    "WAIT_CLOSE",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "SHOW FDS",
];

#[test]
fn stats_users_may_only_look() {
    let pooler = Ini::transaction().start();
    let mut console = pooler.console_of("stats");
    for command in ADMINS_ONLY {
        let reply = console.query(command);
        assert_eq!(
            reply.error().map(Fields::text),
            Some("admin access needed"),
            "{command}"
        );
    }
    for (command, _) in SHOWS.iter().filter(|(command, _)| *command != "FDS") {
        console.query(&format!("SHOW {command}")).succeeded();
    }
    pooler.assert_serves();
}

#[test]
fn others_may_not_enter() {
    let pooler = Ini::transaction().start();
    let refused = Login::new("alice", "pgbouncer").refused_at(pooler.address());
    assert_eq!(
        (refused.severity(), refused.code(), refused.text()),
        ("FATAL", "08P01", "not allowed")
    );
}

#[test]
fn any_lets_everybody_look_and_only_admins_act() {
    let pooler = Ini::transaction()
        .set("auth_type", "any")
        .db("user=bob")
        .start();
    let mut visitor = pooler.console_of("whoever");
    assert_eq!(visitor.query("SHOW VERSION").rows().len(), 1);
    assert_eq!(
        visitor.query("PAUSE").error().map(Fields::text),
        Some("admin access needed")
    );
    assert_eq!(pooler.console("RELOAD").tag, "RELOAD");
}

#[test]
fn admins_need_their_password() {
    let pooler = Ini::transaction().set("auth_type", "scram-sha-256").start();
    let login = Login::new("admin", "pgbouncer").password("wrong");
    assert_eq!(
        login.refused_at(pooler.address()).text(),
        "SASL authentication failed"
    );
    assert_eq!(pooler.console("SHOW VERSION").rows.len(), 1);
}

#[test]
fn no_output_holds_a_secret() {
    let ini = Ini::transaction()
        .set("auth_type", "plain")
        .db("user=bob password=planted_forced_secret");
    let pooler = ini.secret("alice", "planted_file_secret").start();
    Login::new("alice", "db")
        .password("planted_file_secret")
        .at(pooler.address())
        .expect("in")
        .run("select 1");
    for (command, _) in SHOWS.iter().filter(|(command, _)| *command != "FDS") {
        let table = format!("{:?}", pooler.console(&format!("SHOW {command}")));
        assert!(!table.contains("planted"), "SHOW {command}: {table}");
    }
}

#[test]
fn psql_works_on_the_console() {
    let pooler = Ini::transaction().start();
    let (out, error) = psql(&pooler, "admin", "SHOW VERSION;");
    assert!(out.starts_with("PgBouncer 1."), "{out} {error}");
    let (out, _) = psql(&pooler, "admin", "SHOW STATE");
    assert_eq!(out, "active|yes\npaused|no\nsuspended|no");
    let (_, error) = psql(&pooler, "admin", "SHOW HELP");
    assert!(
        error.starts_with("NOTICE:  Console usage\nDETAIL:"),
        "{error}"
    );
    let (_, error) = psql(&pooler, "admin", "nonsense");
    assert_eq!(error, "ERROR:  invalid command 'nonsense', use SHOW HELP;");
    let (_, error) = psql(&pooler, "alice", "SHOW VERSION");
    assert!(error.ends_with("FATAL:  not allowed"), "{error}");
}

#[test]
fn the_unix_socket_serves_too() {
    let pooler = Ini::transaction().start();
    let conninfo = format!(
        "host={} port={} user=alice dbname=db",
        pooler.folder.path().display(),
        pooler.address().port()
    );
    let mut psql = client_program("psql");
    let output = psql
        .args(["-X", "-A", "-t", "-c", "select 'over a socket'"])
        .arg(conninfo)
        .output();
    assert_eq!(
        String::from_utf8_lossy(&output.expect("psql runs").stdout),
        "over a socket\n"
    );
}

#[test]
fn console_logins_are_logged_and_take_places() {
    let pooler = Ini::transaction()
        .set("max_db_client_connections", 1)
        .start();
    let look = pooler.console_of("stats");
    pooler.wait_log("login attempt: db=pgbouncer user=stats tls=no");
    let error = Login::new("stats", "pgbouncer").refused_at(pooler.address());
    assert_eq!(
        error.text(),
        "client connections exceeded (max_db_client_connections)"
    );
    // Admins are counted and get in.
    let admins = [pooler.console_of("admin"), pooler.console_of("admin")];
    let users = pooler.console("SHOW USERS");
    let clients = |user| {
        users
            .row(&[("name", user)])
            .number("current_client_connections")
    };
    assert_eq!((clients("stats"), clients("admin")), (1, 3));
    admins.into_iter().for_each(Wire::leave);
    look.leave();
    becomes("its place is free", true, || {
        let again = Login::new("stats", "pgbouncer").at(pooler.address());
        again.map(Wire::leave).is_ok()
    });
}
