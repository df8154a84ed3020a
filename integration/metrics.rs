//! The admin port: what a scrape says, and when the pooler is ready.

use crate::harness::frontend::query;
use crate::harness::pooler::{Ini, Pooler, Row, Table};
use crate::harness::postgres::free_port;
use crate::harness::process::{self, Folder};
use crate::harness::wire::Wire;
use crate::harness::{DEADLINE, becomes, only_pgweir};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// A pooler with an admin port, and where that is.
fn start(ini: Ini) -> (Pooler<'static>, SocketAddr) {
    let pooler = listening_on(ini, "127.0.0.1:0").start();
    let told = "metrics on http://";
    pooler.wait_log(told);
    let log = pooler.log();
    let (_, rest) = log.split_once(told).expect("it is there");
    let (address, _) = rest.split_once('/').expect("a URL");
    let address = address.parse().expect("an address");
    (pooler, address)
}

/// `[users]` is the last section of the file, and its last value may be
/// followed by another section.
fn listening_on(ini: Ini, address: &str) -> Ini {
    ini.user(
        "nobody",
        &format!("pool_size=1\n[metrics]\nlisten = {address}"),
    )
}

/// Status and body.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).expect("above zero");
    let request = format!("GET {path} HTTP/1.1\r\nhost: pgweir\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// What `/metrics` says.
struct Page(String);

impl Page {
    fn of(address: SocketAddr) -> Page {
        let (status, page) = get(address, "/metrics");
        assert_eq!(status, 200, "{page}");
        Page(page)
    }

    /// The sample with these labels, as they are written.
    fn find(&self, name: &str, labels: &str) -> Option<f64> {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        let begin = format!("{name}{labels} ");
        let value = self.0.lines().find_map(|line| line.strip_prefix(&begin))?;
        Some(value.parse().expect("a number"))
    }

    /// As [`find`](Self::find), where there has to be one.
    #[track_caller]
    fn value(&self, name: &str, labels: &str) -> f64 {
        self.find(name, labels)
            .unwrap_or_else(|| panic!("no {name}{{{labels}}} in\n{}", self.0))
    }

    /// What the console has in these columns of a row is what was scraped.
    #[track_caller]
    fn agrees(&self, prefix: &str, labels: &str, row: &Row, columns: &[(&str, &str)], factor: f64) {
        for (column, name) in columns {
            let shown = row.number(column) as f64 * factor;
            let scraped = self.value(&format!("{prefix}{name}"), labels);
            let differ = (shown - scraped).abs() > 1e-9;
            assert!(
                !differ,
                "{prefix}{name}{{{labels}}}: {scraped}, but {column} is {shown}"
            );
        }
    }
}

const POOLS: [(&str, &str); 11] = [
    ("cl_active", "client_active_connections"),
    ("cl_waiting", "client_waiting_connections"),
    ("cl_active_cancel_req", "client_active_cancel_connections"),
    ("cl_waiting_cancel_req", "client_waiting_cancel_connections"),
    ("sv_active", "server_active_connections"),
    ("sv_active_cancel", "server_active_cancel_connections"),
    ("sv_being_canceled", "server_being_canceled_connections"),
    ("sv_idle", "server_idle_connections"),
    ("sv_used", "server_used_connections"),
    ("sv_tested", "server_testing_connections"),
    ("sv_login", "server_login_connections"),
];

const COUNTS: [(&str, &str); 9] = [
    ("query_count", "queries_pooled_total"),
    ("query_count", "queries_total"),
    ("xact_count", "sql_transactions_pooled_total"),
    ("bytes_received", "received_bytes_total"),
    ("bytes_sent", "sent_bytes_total"),
    ("server_assignment_count", "server_assignments_total"),
    ("client_parse_count", "client_parses_total"),
    ("server_parse_count", "server_parses_total"),
    ("bind_count", "binds_total"),
];

const TIMES: [(&str, &str); 3] = [
    ("query_time", "queries_duration_seconds_total"),
    ("xact_time", "server_in_transaction_seconds_total"),
    ("wait_time", "client_wait_seconds_total"),
];

const DATABASES: [(&str, &str); 6] = [
    ("pool_size", "pool_size"),
    ("reserve_pool_size", "reserve_pool"),
    ("max_connections", "max_connections"),
    ("current_connections", "current_connections"),
    ("paused", "paused"),
    ("disabled", "disabled"),
];

const LISTS: [(&str, &str); 11] = [
    ("databases", "databases"),
    ("users", "users"),
    ("pools", "pools"),
    ("free_clients", "free_clients"),
    ("used_clients", "used_clients"),
    ("login_clients", "login_clients"),
    ("free_servers", "free_servers"),
    ("used_servers", "used_servers"),
    ("dns_names", "cached_dns_names"),
    ("dns_zones", "cached_dns_zones"),
    ("dns_queries", "in_flight_dns_queries"),
];

const CONFIG: [(&str, &str); 2] = [
    ("max_client_conn", "max_client_connections"),
    ("max_user_connections", "max_user_connections"),
];

fn show(console: &mut Wire, what: &str) -> Table {
    Table::from(console.query(&format!("SHOW {what}")).succeeded())
}

/// One client in a transaction on the only server, one that waits for it, one
/// that does nothing, and some history.
fn busy() -> (Pooler<'static>, SocketAddr, Vec<Wire>) {
    let ini = Ini::transaction()
        .one_server()
        .set("max_prepared_statements", 10)
        .set("max_user_connections", 30)
        .set("reserve_pool_size", 4)
        .database("forced", "host=127.0.0.1 port=PORT dbname=DBNAME user=bob pool_mode=session max_db_connections=7")
        .db("pool_size=1");
    let (pooler, address) = start(ini);
    let mut clients: Vec<Wire> = (0..3).map(|_| pooler.client()).collect();
    clients[2].run("select repeat('x', 1000)");
    clients[0].run("begin");
    clients[1].send(query("select 2"));
    pooler.wait_pool("cl_waiting", 1);
    (pooler, address, clients)
}

#[test]
fn a_scrape_says_what_an_exporter_would_read_on_the_console() {
    if only_pgweir("the admin port") {
        return;
    }
    let (pooler, address, _clients) = busy();
    let mut console = pooler.console_of("admin");
    becomes("connections", 4, || {
        let lists = show(&mut console, "LISTS");
        lists.row(&[("list", "used_clients")]).number("items")
    });
    let page = Page::of(address);

    let pools = show(&mut console, "POOLS");
    assert_eq!(pools.rows.len(), 2, "alice's and the console's");
    for row in &pools.rows {
        let labels = format!(
            "database=\"{}\",user=\"{}\"",
            row.text("database"),
            row.text("user")
        );
        page.agrees("pgbouncer_pools_", &labels, row, &POOLS, 1.0);
    }
    let labels = "database=\"db\",user=\"alice\"";
    let waited = page.value("pgbouncer_pools_client_maxwait_seconds", labels);
    assert!(waited > 0.0, "{waited}");

    for row in &show(&mut console, "STATS_TOTALS").rows {
        if row.text("database") == "pgbouncer" {
            continue;
        }
        let labels = format!("database=\"{}\"", row.text("database"));
        for prefix in ["pgbouncer_stats_totals_", "pgbouncer_stats_"] {
            page.agrees(prefix, &labels, row, &COUNTS, 1.0);
            page.agrees(prefix, &labels, row, &TIMES, 1e-6);
        }
    }
    assert!(page.value("pgbouncer_stats_queries_total", "database=\"db\"") >= 2.0);

    let databases = show(&mut console, "DATABASES");
    assert_eq!(databases.rows.len(), 3, "db, forced and the console's");
    for row in &databases.rows {
        let label = |name: &str| {
            let text = row.text(name);
            format!("{name}=\"{}\"", if text == "NULL" { "" } else { &text })
        };
        let labels = [
            "name",
            "host",
            "port",
            "database",
            "force_user",
            "pool_mode",
        ]
        .map(label);
        page.agrees(
            "pgbouncer_databases_",
            &labels.join(","),
            row,
            &DATABASES,
            1.0,
        );
    }

    let lists = show(&mut console, "LISTS");
    for (list, name) in LISTS {
        let row = lists.row(&[("list", list)]);
        page.agrees("pgbouncer_", "", row, &[("items", name)], 1.0);
    }
    let config = show(&mut console, "CONFIG");
    for (key, name) in CONFIG {
        let row = config.row(&[("key", key)]);
        page.agrees("pgbouncer_config_", "", row, &[("value", name)], 1.0);
    }
    let version = &show(&mut console, "VERSION").rows[0];
    let version = format!("version=\"{}\"", version.text("version"));
    page.value("pgbouncer_version_info", &version);
}

#[test]
fn clients_are_told_apart_by_what_they_call_themselves() {
    if only_pgweir("the admin port") {
        return;
    }
    let (pooler, address) = start(Ini::transaction());
    let login = pooler
        .login("alice")
        .parameter("application_name", "night \"shift\"\n");
    let mut client = login.at(pooler.address()).expect("alice may log in");
    client.run("begin");
    let labels = |state: &str| {
        format!(
            r#"database="db",user="alice",application_name="night \"shift\"\n",state="{state}""#
        )
    };
    let family = "pgbouncer_client_connections";
    assert_eq!(Page::of(address).value(family, &labels("active")), 1.0);
    client.run("commit");
    becomes("the state", Some(1.0), || {
        Page::of(address).find(family, &labels("idle"))
    });
}

#[test]
fn statements_and_the_process_are_in_the_same_page() {
    if only_pgweir("the admin port") {
        return;
    }
    let (pooler, address) = start(Ini::transaction());
    pooler.client().run("select 1 as one");
    let page = Page::of(address);
    assert!(page.0.contains("pgweir_query_info{"), "{}", page.0);
    assert!(page.value("process_open_fds", "") > 5.0);
    assert!(page.value("pgweir_worker_cpu_seconds_total", "worker=\"0\"") > 0.0);
    let started = page.value("process_start_time_seconds", "");
    let read = page.value("pgweir_config_last_reload_success_timestamp_seconds", "");
    assert!(
        (0.0..DEADLINE.as_secs_f64()).contains(&(read - started)),
        "{started} {read}"
    );
}

#[test]
fn it_is_ready_until_it_is_told_to_stop() {
    if only_pgweir("the admin port") {
        return;
    }
    let (mut pooler, address) = start(Ini::transaction());
    assert_eq!(get(address, "/ready"), (200, "ready\n".to_owned()));
    let mut client = pooler.client();
    client.run("begin");
    pooler.signal(Signal::TERM);
    becomes("readiness", 503, || get(address, "/ready").0);
    assert_eq!(get(address, "/ready").1, "shutting down\n");
    assert_eq!(get(address, "/health"), (200, "ok\n".to_owned()));
    let page = Page::of(address);
    assert_eq!(
        (
            page.value("pgweir_ready", ""),
            page.value("pgweir_shutting_down", "")
        ),
        (0.0, 1.0)
    );
    client.run("commit");
    client.leave();
    assert!(pooler.wait_end().success());
    TcpStream::connect(address).expect_err("nobody listens");
}

#[test]
fn an_idle_scraper_does_not_hold_up_the_end() {
    if only_pgweir("the admin port") {
        return;
    }
    let (mut pooler, address) = start(Ini::transaction());
    let mut scraper = TcpStream::connect(address).expect("the port is open");
    scraper
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it reads");
    scraper.read_exact(&mut [0; 12]).expect("it answers");
    pooler.signal(Signal::QUIT);
    assert!(pooler.wait_end().success());
}

#[test]
fn a_reload_of_a_broken_file_is_seen_until_it_is_mended() {
    if only_pgweir("the admin port") {
        return;
    }
    let (mut pooler, address) = start(Ini::transaction());
    let family = "pgweir_config_last_reload_successful";
    let time = "pgweir_config_last_reload_success_timestamp_seconds";
    let page = Page::of(address);
    assert_eq!(page.value(family, ""), 1.0);
    let before = page.value(time, "");

    let file = pooler.folder.path().join("pgbouncer.ini");
    let good = std::fs::read_to_string(&file).expect("our own file");
    pooler.folder.write(
        "pgbouncer.ini",
        &good.replace("[pgbouncer]", "[pgbouncer]\nno_such = 1"),
    );
    pooler.signal(Signal::HUP);
    becomes("the failure", 0.0, || Page::of(address).value(family, ""));
    assert_eq!(Page::of(address).value(time, ""), before);

    pooler.reload(|_| {});
    let page = Page::of(address);
    assert_eq!(page.value(family, ""), 1.0);
    assert!(page.value(time, "") > before);
}

#[test]
fn a_port_in_use_ends_the_start_with_its_address_and_setting() {
    if only_pgweir("the admin port") {
        return;
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("it is bound");
    let folder = Folder::new("taken");
    let text = format!(
        "[databases]\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n[metrics]\nlisten = {taken}\n",
        free_port()
    );
    let file = folder.write("taken.ini", &text);
    let program = process::program();
    let mut command = process::server_command(program, "KILL");
    let output = command.arg(file).output().expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    let error = format!("[metrics] listen: cannot listen on {taken}: ");
    assert!(said.contains(&error), "{said}");
}
