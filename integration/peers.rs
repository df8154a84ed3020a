//! Several processes behind one address: cancel requests find their way.

use crate::harness::frontend::query;
use crate::harness::only_pgweir;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::cancel;

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
