//! Several processes behind one address: cancel requests find their way.

use crate::harness::frontend::query;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::cancel;
use crate::harness::{becomes, only_pgweir};

/// Two poolers that know each other.
fn peers() -> [Pooler<'static>; 2] {
    let mut peers = [1, 2].map(|id| Ini::transaction().set("peer_id", id).start());
    let sections = [1, 0].map(|other| {
        let peer: &Pooler<'_> = &peers[other];
        let folder = peer.folder.path().display();
        format!(
            "\n[peers]\n{} = host={folder} port={}\n",
            other + 1,
            peer.address().port()
        )
    });
    for (peer, section) in peers.iter_mut().zip(sections) {
        let file = peer.write_config();
        let text = std::fs::read_to_string(&file).expect("our own file");
        std::fs::write(&file, text + &section).expect("our own file");
        peer.console("RELOAD");
    }
    peers
}

#[test]
fn a_request_is_passed_on_to_the_peer_that_has_the_client() {
    let [one, other] = peers();
    let mut client = one.client();
    let key = client.key.clone();
    client.send(query("select pg_sleep(30)"));
    one.wait_pool("sv_active", 1);
    cancel(other.address(), &key);
    assert_eq!(client.reply().error().expect("canceled").code(), "57014");
}

#[test]
fn a_long_key_finds_its_way_too() {
    if only_pgweir("PgBouncer speaks protocol 3.0 alone") {
        return;
    }
    let [one, other] = peers();
    let client = one.login("alice").minor(2).at(one.address());
    let mut client = client.expect("protocol 3.2 is spoken");
    let key = client.key.clone();
    assert_eq!((key.len(), key[1], key[2], key[7] & 3), (36, 1, 0, 3));
    client.send(query("select pg_sleep(30)"));
    one.wait_pool("sv_active", 1);
    cancel(other.address(), &key);
    assert_eq!(client.reply().error().expect("canceled").code(), "57014");
}

#[test]
fn a_key_names_its_peer_in_pgbouncers_layout() {
    let [_one, other] = peers();
    let key = other.client().key;
    assert_eq!((key[1], key[2], key[7] & 3), (2, 0, 3));
}

#[test]
fn a_request_that_was_passed_on_too_often_is_dropped() {
    let [one, other] = peers();
    let mut key = one.client().key;
    key[7] &= !3;
    cancel(other.address(), &key);
    other.wait_log("failed to forward cancel request because its TTL was exhausted");
}

#[test]
fn a_peer_nobody_knows_gets_nothing() {
    if only_pgweir("the words of the log are the same in PgBouncer, its level is not") {
        return;
    }
    let [one, _other] = peers();
    let mut key = one.client().key;
    key[1] = 77;
    cancel(one.address(), &key);
    one.wait_log("could not find peer to forward request to");
}

#[test]
fn pool_size_bounds_the_connections_to_a_peer() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port();
    let pooler = Ini::transaction()
        .set("peer_id", 1)
        .set("cancel_wait_timeout", 5)
        .start();
    let file = pooler.write_config();
    let text = std::fs::read_to_string(&file).expect("our own file");
    let peer = format!("\n[peers]\n2 = host=127.0.0.1 port={port} pool_size=1\n");
    std::fs::write(&file, text + &peer).expect("our own file");
    pooler.console("RELOAD");
    assert_eq!(pooler.console("SHOW PEER_POOLS").rows.len(), 0);
    let key = [1, 2, 0, 0, 0, 0, 0, 3];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| cancel(pooler.address(), &key));
        }
        let numbers = |expected: [i64; 4]| {
            becomes("SHOW PEER_POOLS", expected, || {
                let shown = pooler.console("SHOW PEER_POOLS");
                let columns = [
                    "cl_active_cancel_req",
                    "cl_waiting_cancel_req",
                    "sv_active_cancel",
                    "sv_login",
                ];
                let row = shown.find(&[("peer_id", "2")]);
                columns.map(|column| row.map_or(0, |row| row.number(column)))
            });
        };
        numbers([1, 1, 1, 0]);
        numbers([0, 0, 0, 0]);
    });
    let lists = pooler.console("SHOW LISTS");
    assert_eq!(lists.row(&[("list", "peer_pools")]).number("items"), 1);
}
