//! Hosts given by name: how often names are looked up, and what becomes of
//! servers when their addresses change.

use crate::harness::dns::NameServer;
use crate::harness::fault::FaultProxy;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::Postgres;
use crate::harness::wire::Wire;
use crate::harness::{becomes, eventually, together};
use std::net::SocketAddr;
use std::time::Duration;

const NAME: &str = "db.example.test";

/// A pooler that asks `dns` for the host of its entry `db`.
fn ini(dns: &NameServer) -> Ini {
    Ini::transaction()
        .file("resolv.conf", &dns.line())
        .set("resolv_conf", "resolv.conf")
        .database("db", &format!("host={NAME} port=PORT dbname=DBNAME"))
}

/// A name server that has the name at these addresses.
fn dns(addresses: &[&str]) -> NameServer {
    let dns = NameServer::start();
    dns.name(NAME, addresses);
    dns
}

/// A way to the shared PostgreSQL by another address of this machine.
fn at(address: &str) -> FaultProxy {
    let postgres = Postgres::shared().address();
    let address = address.parse().expect("an address");
    FaultProxy::start_at(SocketAddr::new(address, postgres.port()), postgres)
}

/// The addresses of the servers there are, sorted.
fn servers(pooler: &Pooler<'_>) -> Vec<String> {
    let mut found = pooler.console("SHOW SERVERS").column("addr");
    found.sort();
    found
}

/// Clients in a transaction each.
fn in_transaction(pooler: &Pooler<'_>, count: usize) -> Vec<Wire> {
    let mut clients: Vec<Wire> = (0..count).map(|_| pooler.client()).collect();
    clients.iter_mut().for_each(|client| client.run("begin"));
    clients
}

#[test]
fn clients_that_come_at_once_make_one_query() {
    let dns = dns(&["127.0.0.1"]);
    let pooler = ini(&dns).start();
    dns.silence(true);
    let served = together(9, |number| {
        if number == 8 {
            dns.wait_asked(NAME, 1);
            pooler.wait_pool("sv_login", 4);
            dns.silence(false);
            return true;
        }
        let user = if number % 2 == 0 { "alice" } else { "bob" };
        pooler.client_of(user).value("select 1") == "1"
    });
    assert_eq!(served, [true; 9]);
    assert_eq!(dns.asked(NAME), 1);
}

#[test]
fn an_answer_holds_for_dns_max_ttl() {
    let dns = dns(&["127.0.0.1"]);
    let pooler = ini(&dns).set("dns_max_ttl", 100).start();
    let _clients = in_transaction(&pooler, 2);
    assert_eq!(dns.asked(NAME), 1);
    let shown = pooler.console("SHOW DNS_HOSTS");
    let row = shown.row(&[("hostname", NAME), ("addrs", "127.0.0.1:0")]);
    assert!((90..=100).contains(&row.number("ttl")), "{row:?}");
    let lists = pooler.console("SHOW LISTS");
    assert_eq!(lists.row(&[("list", "dns_names")]).number("items"), 1);
}

#[test]
fn an_answer_that_is_over_is_asked_for_again() {
    let dns = dns(&["127.0.0.1"]);
    let pooler = ini(&dns).set("dns_max_ttl", "0.2").start();
    let _first = in_transaction(&pooler, 1);
    std::thread::sleep(Duration::from_millis(300));
    let _second = in_transaction(&pooler, 1);
    assert_eq!(dns.asked(NAME), 2);
}

#[test]
fn a_failure_holds_for_dns_nxdomain_ttl() {
    let dns = NameServer::start();
    let pooler = ini(&dns).set("dns_nxdomain_ttl", 3).start();
    let mut waiting = Wire::connect(pooler.address());
    waiting.send(pooler.login("alice").packet());
    pooler.wait_log("closing because: server DNS lookup failed");
    dns.name(NAME, &["127.0.0.1"]);
    let shown = pooler.console("SHOW DNS_HOSTS");
    assert_eq!(shown.row(&[("hostname", NAME)]).text("addrs"), "");
    let asked = dns.asked(NAME);
    assert!(waiting.try_finish_login(&pooler.login("alice")).is_ok());
    assert_eq!(dns.asked(NAME), asked + 1);
    let log = pooler.log();
    assert!(
        log.contains(&format!("DNS lookup failed: {NAME}: ")),
        "{log}"
    );
}

#[test]
fn servers_at_an_address_that_is_gone_are_closed_when_they_are_free() {
    let _new = at("127.0.0.4");
    let dns = dns(&["127.0.0.1"]);
    let pooler = ini(&dns).set("dns_max_ttl", "0.1").start();
    let mut clients = in_transaction(&pooler, 2);
    clients[0].run("commit");
    dns.name(NAME, &["127.0.0.4"]);
    std::thread::sleep(Duration::from_millis(200));
    // One takes the idle server at the old address, the other opens one.
    let _more = in_transaction(&pooler, 2);
    eventually("the old ones are marked", || {
        let shown = pooler.console("SHOW SERVERS");
        let marked = |address| {
            let there = shown.rows.iter().filter(|row| row.text("addr") == address);
            there.map(|row| row.number("close_needed")).sum::<i64>()
        };
        let found = (marked("127.0.0.1"), marked("127.0.0.4"));
        (found == (2, 0)).then_some(()).ok_or(format!("{found:?}"))
    });
    clients[1].run("commit");
    becomes(
        "one has gone",
        vec!["127.0.0.1".to_owned(), "127.0.0.4".to_owned()],
        || servers(&pooler),
    );
}

#[test]
fn idle_servers_at_an_address_that_is_gone_are_closed() {
    let _new = at("127.0.0.5");
    let dns = dns(&["127.0.0.1"]);
    let pooler = ini(&dns).set("dns_max_ttl", "0.1").start();
    let mut clients = in_transaction(&pooler, 3);
    clients.iter_mut().for_each(|client| client.run("commit"));
    dns.name(NAME, &["127.0.0.5"]);
    std::thread::sleep(Duration::from_millis(200));
    // Another pool's login finds the change.
    pooler.client_of("bob").run("select 1");
    becomes(
        "those of the new address are left",
        vec!["127.0.0.5".to_owned()],
        || servers(&pooler),
    );
    pooler.wait_log("closing because: database configuration changed");
}

#[test]
fn a_grown_serial_number_looks_the_names_of_the_zone_up_anew() {
    let _new = at("127.0.0.6");
    let dns = dns(&["127.0.0.1"]);
    dns.serial("example.test", 41);
    let ini = ini(&dns).set("dns_max_ttl", 1000);
    let pooler = ini.set("dns_zone_check_period", "0.1").start();
    let mut client = pooler.client();
    let zone = |serial| {
        eventually("the zone's serial number", || {
            let shown = pooler.console("SHOW DNS_ZONES");
            let wanted = [
                ("zonename", "example.test"),
                ("serial", serial),
                ("count", "1"),
            ];
            shown.find(&wanted).map(|_| ()).ok_or(format!("{shown:?}"))
        });
    };
    zone("41");
    let pid = client.backend_pid();
    dns.name(NAME, &["127.0.0.6"]);
    dns.serial("example.test", 42);
    zone("42");
    becomes("the old server is closed", false, || {
        pooler.backends().iter().any(|backend| backend.pid == pid)
    });
    client.run("select 1");
    assert_eq!(servers(&pooler), ["127.0.0.6"]);
    pooler.wait_log("zone 'example.test' serial changed: old=41 new=42");
}

#[test]
fn the_addresses_of_a_name_are_taken_in_turn() {
    let _second = at("127.0.0.7");
    let dns = dns(&["127.0.0.1", "127.0.0.7"]);
    let pooler = ini(&dns).start();
    let _clients = in_transaction(&pooler, 4);
    let expected = ["127.0.0.1", "127.0.0.1", "127.0.0.7", "127.0.0.7"];
    assert_eq!(servers(&pooler), expected);
}

#[test]
fn an_address_where_nobody_listens_is_passed_over() {
    let dns = dns(&["127.0.0.9", "127.0.0.1"]);
    let pooler = ini(&dns).start();
    let _clients = in_transaction(&pooler, 3);
    assert_eq!(servers(&pooler), ["127.0.0.1"; 3]);
}

#[test]
fn the_table_of_hosts_goes_before_the_dns() {
    let dns = NameServer::start();
    let entry = "host=localhost port=PORT dbname=DBNAME";
    let pooler = ini(&dns).database("db", entry).start();
    pooler.client().run("select 1");
    assert_eq!(dns.asked("localhost"), 0);
}
