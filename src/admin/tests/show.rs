//! Columns and rows of every item.

use super::*;
use crate::config::{Pgbouncer, Section};
use crate::pool::ClientState;

const CONNECTION: &str = "type t, user t, database t, replication t, state t, addr t, port i, \
    local_addr t, local_port i, connect_time t, request_time t, wait i, wait_us i, \
    close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, \
    prepared_statements i, id i";

const BUFFERS: &str = ", recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, \
    pkt_avail i, send_avail i";

/// Every item with rows, its columns, and how many rows the scene below has.
const ITEMS: &[(&str, &str, usize)] = &[
    ("ACTIVE_SOCKETS", "", 0),
    ("CLIENTS", CONNECTION, 3),
    ("SERVERS", CONNECTION, 0),
    ("SOCKETS", "", 3),
    (
        "CONFIG",
        "key t, value t, default t, changeable t",
        Pgbouncer::SETTINGS.len(),
    ),
    (
        "DATABASES",
        "name t, host t, port i, database t, force_user t, pool_size i, min_pool_size i, \
         reserve_pool_size i, server_lifetime i, pool_mode t, load_balance_hosts t, \
         max_connections i, current_connections i, max_client_connections i, \
         current_client_connections i, paused i, disabled i",
        4,
    ),
    ("DNS_HOSTS", "hostname t, ttl q, addrs t", 0),
    ("DNS_ZONES", "zonename t, serial q, count i", 0),
    ("LISTS", "list t, items i", 14),
    ("MEM", "name t, size i, used i, free i, memtotal i", 0),
    ("PEERS", "peer_id i, host t, port i, pool_size i", 2),
    (
        "PEER_POOLS",
        "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, \
         sv_login i",
        0,
    ),
    (
        "POOLS",
        "database t, user t, cl_active i, cl_waiting i, cl_active_cancel_req i, \
         cl_waiting_cancel_req i, sv_active i, sv_active_cancel i, sv_being_canceled i, \
         sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, maxwait_us i, pool_mode t, \
         load_balance_hosts t",
        3,
    ),
    ("STATE", "key t, value t", 3),
    (
        "STATS",
        "database t, total_server_assignment_count n, total_xact_count n, total_query_count n, \
         total_received n, total_sent n, total_xact_time n, total_query_time n, \
         total_wait_time n, total_client_parse_count n, total_server_parse_count n, \
         total_bind_count n, total_client_login_count n, avg_server_assignment_count n, \
         avg_xact_count n, avg_query_count n, avg_recv n, avg_sent n, avg_xact_time n, \
         avg_query_time n, avg_wait_time n, avg_client_parse_count n, avg_server_parse_count n, \
         avg_bind_count n, avg_client_login_count n",
        3,
    ),
    (
        "STATS_TOTALS",
        "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, \
         bytes_sent n, xact_time n, query_time n, wait_time n, client_parse_count n, \
         server_parse_count n, bind_count n, client_login_count n",
        3,
    ),
    (
        "STATS_AVERAGES",
        "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, \
         bytes_sent n, xact_time n, query_time n, wait_time n, avg_client_parse_count n, \
         avg_server_parse_count n, avg_bind_count n, avg_client_login_count n",
        3,
    ),
    ("TOTALS", "name t, value n", 24),
    (
        "USERS",
        "name t, pool_size t, reserve_pool_size t, pool_mode t, max_user_connections i, \
         current_connections i, max_user_client_connections i, current_client_connections i",
        5,
    ),
    ("VERSION", "version t", 1),
];

const INI: &str = "[databases]\n\
    one = host=127.0.0.1 port=1 pool_size=3\n\
    two = host=a,b port=2 user=forced pool_mode=transaction max_db_connections=7 \
    server_lifetime=60 min_pool_size=1 reserve_pool=4 max_db_client_connections=9\n\
    zwei = dbname=other auth_user=asker\n\
    * =\n\
    [users]\nbob = pool_size=12 pool_mode=statement max_user_connections=5\n\
    [peers]\n1 = host=left\n2 = host=right port=7 pool_size=3\n\
    [pgbouncer]\nlisten_port = 7777\n";

/// Two pools with a client each.
fn scene() -> Scene {
    let scene = Scene::new(INI);
    for (database, user) in [("two", "ann"), ("one", "bob")] {
        let user = scene.bouncer.user(user);
        scene.bouncer.pool(&scene.database(database), &user);
    }
    scene.client("one", "bob").set_state(ClientState::Active);
    scene.client("two", "ann");
    scene
}

fn oids(columns: &str) -> Vec<String> {
    let oid = |letter: &str| match letter {
        "t" => 25,
        "i" => 23,
        "q" => 20,
        "n" => 1700,
        other => panic!("{other} is no type"),
    };
    let column = |column: &str| {
        let (name, letter) = column.trim().split_once(' ').expect("name and type");
        format!("{name} {}", oid(letter))
    };
    columns.split(',').map(column).collect()
}

#[tokio::test]
async fn columns_and_rows_are_pgbouncers() {
    let scene = scene();
    let mut psql = scene.stats_user().await;
    for (item, columns, rows) in ITEMS {
        let answer = psql.ask(&format!("SHOW {item};")).await;
        let columns = match item.ends_with("SOCKETS") {
            true => format!("{CONNECTION}{BUFFERS}"),
            false => (*columns).to_owned(),
        };
        assert_eq!(answer.columns(), oids(&columns), "{item}");
        assert_eq!(answer.tag(), "SHOW", "{item}");
        let shown = answer.rows();
        assert_eq!(shown.len(), *rows, "{item}: {shown:?}");
        for row in shown {
            assert_eq!(row.len(), answer.columns().len(), "{item}: {row:?}");
        }
    }
}

#[tokio::test]
async fn help_is_a_notice_with_pgbouncers_list() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.stats_user().await;
    let answer = psql.ask("show help").await;
    let expected = "SNOTICE\0C00000\0MConsole usage\0D\
        \n\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION\
        \n\tSHOW PEERS|PEER_POOLS\
        \n\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE\
        \n\tSHOW DNS_HOSTS|DNS_ZONES\
        \n\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS\
        \n\tSET key = arg\
        \n\tRELOAD\
        \n\tPAUSE [<db>]\
        \n\tRESUME [<db>]\
        \n\tDISABLE <db>\
        \n\tENABLE <db>\
        \n\tRECONNECT [<db>]\
        \n\tKILL [<db>]\
        \n\tKILL_CLIENT <client_id>\
        \n\tSUSPEND\
        \n\tSHUTDOWN\
        \n\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS\
        \n\tWAIT_CLOSE [<db>]\0\0";
    let notices: Vec<_> = answer.bodies(backend::NOTICE_RESPONSE).collect();
    assert_eq!(notices, [expected.as_bytes()]);
    assert_eq!(answer.tag(), "SHOW");
}

#[tokio::test]
async fn drivers_get_what_they_ask_for() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.stats_user().await;
    for (query, column, value) in [
        ("SHOW client_encoding", "client_encoding 25", "UTF-8"),
        ("select CLIENT_ENCODING", "client_encoding 25", "UTF-8"),
        (
            "show default_transaction_isolation;",
            "default_transaction_isolation 25",
            "read committed",
        ),
        (
            "show standard_conforming_strings",
            "standard_conforming_strings 25",
            "on",
        ),
        ("SHOW DateStyle", "datestyle 25", "ISO"),
        ("SHOW TimeZone", "timezone 25", "GMT"),
    ] {
        let answer = psql.ask(query).await;
        assert_eq!(answer.columns(), [column]);
        assert_eq!(answer.texts(), [[value]]);
    }
    let answer = psql.ask("SET DateStyle TO 'ISO'").await;
    let notices: Vec<_> = answer.bodies(backend::NOTICE_RESPONSE).collect();
    assert_eq!(notices, [b"SNOTICE\0C00000\0MSET ignored\0\0"]);
    assert_eq!(answer.tag(), "SET");
}

#[tokio::test]
async fn what_is_no_item_is_an_invalid_command() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    for query in ["show", "SHOW foo;", "select 1", "select", "show \"\""] {
        let expected = format!("ERROR 08P01 invalid command '{query}', use SHOW HELP;");
        assert_eq!(psql.ask(query).await.errors(), [expected]);
    }
}

#[tokio::test]
async fn databases_show_what_is_in_force_and_the_console_among_them() {
    let scene = scene();
    let mut psql = scene.admin().await;
    psql.ask("disable two").await;
    let expected = "one|127.0.0.1|1|one|NULL|3|0|0|3600|NULL|NULL|0|0|0|0|0|0\n\
        pgbouncer|NULL|7777|pgbouncer|pgbouncer|2|0|0|3600|statement|NULL|0|0|0|1|0|0\n\
        two|a,b|2|two|forced|20|1|4|60|transaction|round-robin|7|0|9|0|0|1\n\
        zwei|NULL|5432|other|NULL|20|0|0|3600|NULL|NULL|0|0|0|0|0|0";
    assert_eq!(lines(&psql.ask("show databases").await), expected);
}

#[tokio::test]
async fn an_automatic_database_is_shown_while_it_is_used() {
    let scene = scene();
    let mut psql = scene.admin().await;
    psql.ask("reconnect auto").await;
    let shown = psql.ask("show databases").await.column("name");
    assert!(shown.contains(&"auto".to_owned()));
    scene.bouncer.sweep();
    let shown = psql.ask("show databases").await.column("name");
    assert!(!shown.contains(&"auto".to_owned()));
    psql.ask("pause auto").await;
    let shown = psql.ask("show databases").await.column("name");
    assert_eq!(shown[0], "auto");
}

#[tokio::test]
async fn pools_stand_in_order_with_the_consoles_own() {
    let scene = scene();
    let mut psql = scene.admin().await;
    let expected = "one|bob|1|0|0|0|0|0|0|0|0|0|0|0|0|statement|NULL\n\
        pgbouncer|pgbouncer|1|0|0|0|0|0|0|0|0|0|0|0|0|statement|NULL\n\
        two|forced|1|0|0|0|0|0|0|0|0|0|0|0|0|transaction|round-robin";
    assert_eq!(lines(&psql.ask("show pools").await), expected);
}

#[tokio::test]
async fn the_consoles_pool_is_shown_when_there_is_no_other() {
    let scene = Scene::new("[pgbouncer]\n");
    let mut psql = scene.admin().await;
    let shown = psql.ask("show pools").await;
    assert_eq!(shown.column("database"), ["pgbouncer"]);
    assert_eq!(shown.column("cl_active"), ["1"]);
}

#[tokio::test]
async fn clients_stand_by_pool_then_state() {
    let scene = scene();
    let waiting = scene.client("one", "bob");
    waiting.set_state(ClientState::Waiting);
    let idle = scene.client("one", "bob");
    let mut psql = scene.admin().await;
    let shown = psql.ask("show clients").await;
    assert_eq!(
        shown.column("database"),
        ["one", "one", "one", "pgbouncer", "two"]
    );
    assert_eq!(
        shown.column("state"),
        ["active", "idle", "waiting", "idle", "idle"]
    );
    assert_eq!(shown.column("user"), ["bob", "bob", "bob", "ad", "ann"]);
    assert_eq!(shown.column("id")[1], idle.id.to_string());
    assert_eq!(shown.column("ptr")[1], format!("{:#x}", idle.id));
    assert_eq!(shown.column("addr")[1], "127.0.0.1");
    assert_eq!(shown.column("port")[1], "4711");
    assert_eq!(shown.column("local_port")[1], "6432");
    assert_eq!(shown.column("application_name")[1], "app");
    assert_eq!(shown.column("addr")[3], "unix");
    assert_eq!(shown.column("port")[3], "7777");
    assert_eq!(
        shown.column("remote_pid")[3],
        std::process::id().to_string()
    );
    let sockets = psql.ask("show sockets").await;
    assert_eq!(
        sockets.column("state"),
        [
            "cl_active",
            "cl_active",
            "cl_waiting",
            "cl_active",
            "cl_active"
        ]
    );
}

#[tokio::test]
async fn times_are_local_and_without_fractions() {
    let scene = scene();
    let mut psql = scene.admin().await;
    let shown = psql.ask("show clients").await;
    for time in [shown.column("connect_time"), shown.column("request_time")].concat() {
        let (digits, zone) = time.split_at(20);
        let shape: String = digits
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000-00-00 00:00:00 ");
        assert!(!zone.is_empty(), "{time}");
    }
}

#[tokio::test]
async fn users_are_everybody_known_or_named() {
    let scene = scene();
    let mut psql = scene.admin().await;
    let expected = "ann||||0|0|0|0\n\
        asker||||0|0|0|0\n\
        bob|       12||statement|5|0|0|0\n\
        forced||||0|0|0|0\n\
        pgbouncer||||0|0|0|0";
    let shown = lines(&psql.ask("show users").await).replace("NULL", "");
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn config_shows_value_default_and_whether_it_can_be_changed() {
    let scene = scene();
    let mut psql = scene.admin().await;
    psql.ask("SET default_pool_size = 5").await;
    let shown = lines(&psql.ask("show config").await);
    for line in [
        "default_pool_size|5|20|yes",
        "listen_port|7777|6432|no",
        "unix_socket_mode|511|0777|no",
        "auth_user|NULL|NULL|yes",
        "verbose|0|NULL|yes",
        "server_tls_sslmode|prefer|prefer|yes",
    ] {
        assert!(shown.contains(line), "{line}");
    }
}

#[tokio::test]
async fn lists_count_what_there_is() {
    let scene = scene();
    let mut psql = scene.admin().await;
    let expected = "databases|4\nusers|5\npeers|2\npools|3\npeer_pools|0\nfree_clients|0\n\
        used_clients|3\nlogin_clients|0\nfree_servers|0\nused_servers|0\ndns_names|0\n\
        dns_zones|0\ndns_queries|0\ndns_pending|0";
    assert_eq!(lines(&psql.ask("show lists").await), expected);
}

#[tokio::test]
async fn state_says_whether_all_is_paused() {
    let scene = scene();
    let mut psql = scene.admin().await;
    let state = "active|yes\npaused|no\nsuspended|no";
    assert_eq!(lines(&psql.ask("show state").await), state);
    psql.ask("pause").await;
    let state = "active|no\npaused|yes\nsuspended|no";
    assert_eq!(lines(&psql.ask("show state").await), state);
}

#[tokio::test]
async fn statistics_are_summed_by_database() {
    let scene = scene();
    let database = scene.database("one");
    for (user, queries) in [("bob", 3), ("ann", 4)] {
        let pool = scene.bouncer.pool(&database, &scene.bouncer.user(user));
        pool.counters[0].queries.add(queries);
        pool.counters[0].query_time.add(queries * 10);
    }
    let mut psql = scene.admin().await;
    let shown = psql.ask("show stats").await;
    assert_eq!(shown.column("database"), ["one", "pgbouncer", "two"]);
    assert_eq!(shown.column("total_query_count"), ["7", "1", "0"]);
    assert_eq!(shown.column("total_xact_count"), ["0", "1", "0"]);
    assert_eq!(shown.column("avg_query_time"), ["10", "0", "0"]);
    let shown = psql.ask("show stats_totals").await;
    assert_eq!(shown.column("query_time"), ["70", "0", "0"]);
    let shown = psql.ask("show stats_averages").await;
    assert_eq!(shown.column("query_time"), ["10", "0", "0"]);
    let totals = lines(&psql.ask("show totals").await);
    assert!(totals.contains("total_query_count|8\n"), "{totals}");
    assert!(totals.contains("avg_query_time|8\n"), "{totals}");
}

#[tokio::test]
async fn the_console_counts_one_query_for_each_connection_that_asks() {
    let scene = scene();
    let mut first = scene.admin().await;
    scene.admin().await;
    first.ask("show version").await;
    let mut third = scene.admin().await;
    let shown = third.ask("show stats").await;
    assert_eq!(shown.column("total_query_count")[1], "2");
    assert_eq!(shown.column("total_client_login_count")[1], "3");
}

#[tokio::test]
async fn a_period_of_statistics_gives_the_line_for_the_log() {
    let scene = scene();
    let line = scene.console.end_stats_period();
    assert_eq!(
        line,
        "stats: 0 xacts/s, 0 queries/s, 0 client parses/s, 0 server parses/s, 0 binds/s, \
         0 client logins/s, in 0 B/s, out 0 B/s, xact 0 us, query 0 us, wait 0 us"
    );
}

fn lines(answer: &Answer) -> String {
    let rows = answer.texts().into_iter();
    let lines: Vec<String> = rows.map(|row| row.join("|")).collect();
    lines.join("\n")
}
