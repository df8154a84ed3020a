//! Databases with several hosts: which of them a login goes to.

use crate::harness::fault::FaultProxy;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::Postgres;
use crate::harness::wire::Wire;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A way to the shared PostgreSQL by another address of this machine.
fn at(address: &str) -> FaultProxy {
    let postgres = Postgres::shared().address();
    let address = address.parse().expect("an address");
    FaultProxy::start_at(SocketAddr::new(address, postgres.port()), postgres)
}

/// A pooler whose entry `db` has these hosts.
fn with_hosts(hosts: &str, keys: &str) -> Pooler<'static> {
    let entry = format!("host={hosts} port=PORT dbname=DBNAME {keys}");
    Ini::transaction().database("db", &entry).start()
}

/// How many servers of alice's pool there are at each address, once these many
/// clients of hers are in a transaction at once.
fn servers(pooler: &Pooler<'_>, clients: usize) -> BTreeMap<String, usize> {
    let mut clients: Vec<Wire> = (0..clients).map(|_| pooler.client()).collect();
    clients.iter_mut().for_each(|client| client.run("begin"));
    let mut found = BTreeMap::new();
    for row in &pooler.console("SHOW SERVERS").rows {
        *found.entry(row.text("addr")).or_default() += 1;
    }
    found
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let own = |&(address, count): &(&str, usize)| (address.to_owned(), count);
    expected.iter().map(own).collect()
}

#[test]
fn hosts_are_taken_in_turn() {
    let _second = at("127.0.0.2");
    let pooler = with_hosts("127.0.0.1,127.0.0.2", "");
    let expected = counts(&[("127.0.0.1", 2), ("127.0.0.2", 2)]);
    assert_eq!(servers(&pooler, 4), expected);
}

#[test]
fn without_balancing_every_login_goes_to_the_first_host() {
    let _second = at("127.0.0.3");
    let pooler = with_hosts("127.0.0.1,127.0.0.3", "load_balance_hosts=disable");
    assert_eq!(servers(&pooler, 4), counts(&[("127.0.0.1", 4)]));
}

#[test]
fn without_balancing_logins_stay_with_the_host_that_works() {
    let keys = "load_balance_hosts=disable";
    let pooler = with_hosts("name.invalid,127.0.0.9,127.0.0.1", keys);
    assert_eq!(servers(&pooler, 3), counts(&[("127.0.0.1", 3)]));
    let log = pooler.log();
    let times = |what: &str| log.matches(what).count();
    assert_eq!(
        times("closing because: server DNS lookup failed"),
        1,
        "{log}"
    );
    assert_eq!(times("closing because: connect failed"), 1, "{log}");
}

#[test]
fn another_way_of_balancing_takes_new_servers() {
    let mut pooler = with_hosts("127.0.0.1,127.0.0.9", "load_balance_hosts=disable");
    let pid = pooler.client().backend_pid();
    pooler.reload(|ini| {
        let entry =
            "host=127.0.0.1,127.0.0.9 port=PORT dbname=DBNAME load_balance_hosts=round-robin";
        *ini = ini.clone().database("db", entry);
    });
    assert_ne!(pooler.client().backend_pid(), pid);
    let shown = pooler.console("SHOW DATABASES");
    let row = shown.find(&[("name", "db")]).expect("the entry");
    assert_eq!(row.text("load_balance_hosts"), "round-robin");
}
