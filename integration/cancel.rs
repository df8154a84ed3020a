//! Cancel requests: they reach the query their client meant, or nothing.

use crate::harness::fault::{Fault, FaultProxy};
use crate::harness::frontend::{cancel_request, extended, query};
use crate::harness::pooler::Ini;
use crate::harness::postgres::Postgres;
use crate::harness::scripted::{ScriptedServer, Step, welcome_with_key};
use crate::harness::wire::{Wire, cancel};
use crate::harness::{Random, becomes, only_pgweir, together};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[test]
fn a_cancel_ends_the_query_it_is_for() {
    for ini in [Ini::session(), Ini::transaction(), Ini::statement()] {
        let pooler = ini.one_server().start();
        let mut client = pooler.client();
        for bytes in [
            query("select pg_sleep(60)"),
            extended("select pg_sleep(60)", &[]),
        ] {
            client.send(bytes);
            pooler.database.wait_running(1, "pg_sleep");
            cancel(pooler.address(), &client.key);
            assert_eq!(client.reply().code(), "57014");
            assert_eq!(client.value("select 'goes on'"), "goes on");
        }
    }
}

#[test]
fn a_cancel_spares_the_queries_of_others() {
    let pooler = Ini::transaction().start();
    let mut first = pooler.client();
    let mut second = pooler.client();
    second.send(query(
        "select 'spared' from pg_advisory_lock(1), pg_sleep(1)",
    ));
    pooler.database.wait_running(1, "pg_sleep");
    first.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(2, "pg_sleep");
    cancel(pooler.address(), &first.key);
    assert_eq!(first.reply().code(), "57014");
    assert_eq!(second.reply().value(), "spared");
}

#[test]
fn a_cancel_in_a_transaction_fails_the_transaction() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("begin");
    client.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &client.key);
    let reply = client.reply();
    assert_eq!((reply.code(), reply.status), ("57014", 'E'));
    assert_eq!(client.query("rollback").status, 'I');
    assert_eq!(pooler.client().value("select 'clean'"), "clean");
}

#[test]
fn a_cancel_ends_one_batch_of_a_pipeline() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.send(
        [
            extended("select pg_sleep(60)", &[]),
            extended("select 'second'", &[]),
            query("select 'third'"),
        ]
        .concat(),
    );
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &client.key);
    assert_eq!(client.reply().code(), "57014");
    assert_eq!(client.reply().value(), "second");
    assert_eq!(client.reply().value(), "third");
}

#[test]
fn a_cancel_ends_a_copy() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.send(query("copy (select pg_sleep(60)) to stdout"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &client.key);
    assert_eq!(client.reply().code(), "57014");
    assert_eq!(client.value("select 'goes on'"), "goes on");
}

#[test]
fn a_cancel_needs_no_free_place_in_the_pool() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    let mut clients = [pooler.client(), pooler.client()];
    for client in &mut clients {
        client.send(query("select pg_sleep(60)"));
    }
    pooler.database.wait_running(2, "pg_sleep");
    for client in &mut clients {
        cancel(pooler.address(), &client.key);
        assert_eq!(client.reply().code(), "57014");
    }
}

#[test]
fn a_long_key_works_whole_alone() {
    if only_pgweir("PgBouncer speaks protocol 3.0 alone") {
        return;
    }
    let pooler = Ini::transaction().start();
    let mut short = pooler.client();
    let long = pooler.login("alice").minor(2).at(pooler.address());
    let mut long = long.expect("protocol 3.2 is spoken");
    for client in [&mut short, &mut long] {
        client.send(query("select pg_sleep(60)"));
    }
    pooler.database.wait_running(2, "pg_sleep");
    let whole = long.key.clone();
    let longer = [&whole[..], &[0]].concat();
    let mut other = whole.clone();
    other[35] ^= 1;
    let lengthened = [&short.key[..], &[0; 28]].concat();
    for key in [&whole[..8], &whole[..35], &longer, &other, &lengthened] {
        cancel(pooler.address(), key);
    }
    assert_eq!(pooler.database.backends_in("active"), 2);
    cancel(pooler.address(), &whole);
    assert_eq!(long.reply().code(), "57014");
    cancel(pooler.address(), &short.key.clone());
    assert_eq!(short.reply().code(), "57014");
}

#[test]
fn a_cancel_request_is_read_only_as_far_as_one_can_go() {
    if only_pgweir("PgBouncer waits for what the length says") {
        return;
    }
    let pooler = Ini::transaction().start();
    let mut wire = Wire::connect(pooler.address());
    // The head of one with a secret of 257 bytes.
    wire.send([0, 0, 1, 13, 0x04, 0xd2, 0x16, 0x2e]);
    wire.expect_closed();
}

#[test]
fn servers_get_the_long_keys_they_gave() {
    if only_pgweir("PgBouncer speaks protocol 3.0 alone") {
        return;
    }
    let key = [&[0, 0, 0, 77][..], &[9; 256]].concat();
    let server = ScriptedServer::cancelable(&key);
    let ini = Ini::transaction().pgweir("server_protocol", "3.2");
    let pooler = ini.server(server.address()).start();
    let mut client = pooler.client();
    assert_eq!(server.report()[..4], [0, 3, 0, 2]);
    client.send(query("select 1"));
    server.report();
    cancel(pooler.address(), &client.key);
    let request = server.report();
    assert_eq!(request[..4], [0x04, 0xd2, 0x16, 0x2e]);
    assert!(request[4..] == key);
    server.go_on();
    assert_eq!(client.reply().value(), "canceled");
}

#[test]
fn a_server_with_a_key_that_is_none_is_refused() {
    for key in [&[0; 3][..], &[0; 7], &[0; 4 + 257]] {
        let server = ScriptedServer::start(vec![vec![
            Step::Startup,
            Step::Send(welcome_with_key(key)),
            Step::AwaitEnd,
        ]]);
        if key.len() > 8 && only_pgweir("PgBouncer takes the first bytes of any") {
            continue;
        }
        let pooler = Ini::transaction().server(server.address()).start();
        pooler.login("alice").refused_at(pooler.address());
    }
}

#[test]
fn servers_that_speak_less_are_spoken_to_so() {
    if only_pgweir("PgBouncer speaks protocol 3.0 alone") {
        return;
    }
    let ini = Ini::transaction().pgweir("server_protocol", "3.2");
    let pooler = ini.start();
    let mut client = pooler.client();
    client.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &client.key);
    assert_eq!(client.reply().code(), "57014");
}

#[test]
fn an_unknown_key_is_closed_without_a_word() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.send(query("select 'unharmed' from pg_sleep(1)"));
    pooler.database.wait_running(1, "pg_sleep");
    let mut near = client.key.clone();
    near[7] ^= 1;
    for key in [vec![0; 8], vec![0xff; 8], near] {
        cancel(pooler.address(), &key);
    }
    assert_eq!(client.reply().value(), "unharmed");
}

#[test]
fn a_cancel_request_of_a_wrong_length_is_closed() {
    let pooler = Ini::transaction().start();
    for size in [0, 1, 4, 7, 9, 12, 256, 5000] {
        cancel(pooler.address(), &vec![1; size]);
    }
    pooler.assert_serves();
}

#[test]
fn half_a_cancel_request_does_nothing() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.send(query("select 'unharmed' from pg_sleep(1)"));
    pooler.database.wait_running(1, "pg_sleep");
    let request = cancel_request(&client.key);
    for end in 0..request.len() {
        Wire::connect(pooler.address()).send(&request[..end]);
    }
    assert_eq!(client.reply().value(), "unharmed");
}

#[test]
fn a_cancel_byte_by_byte_works() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    let mut wire = Wire::connect(pooler.address());
    wire.send_in_pieces(cancel_request(&client.key), 1);
    wire.expect_closed();
    assert_eq!(client.reply().code(), "57014");
}

#[test]
fn a_cancel_for_an_idle_client_harms_no_later_query() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let mut other = pooler.client();
    client.run("select 1");
    for _ in 0..20 {
        cancel(pooler.address(), &client.key);
        assert_eq!(other.value("select 'other'"), "other");
        assert_eq!(client.value("select 'later'"), "later");
    }
}

#[test]
fn a_cancel_for_a_waiting_client_leaves_it_waiting() {
    let pooler = Ini::transaction().one_server().start();
    let mut holder = pooler.client();
    holder.run("begin");
    let mut waiting = pooler.client();
    waiting.send(query("select 'served'"));
    pooler.wait_pool("cl_waiting", 1);
    cancel(pooler.address(), &waiting.key);
    assert_eq!(pooler.pool("cl_waiting"), 1);
    holder.run("commit");
    assert_eq!(waiting.reply().value(), "served");
}

#[test]
fn the_key_of_a_client_that_left_is_nobodys() {
    let pooler = Ini::session().one_server().start();
    let first = pooler.client();
    let key = first.key.clone();
    first.leave();
    let mut second = pooler.client();
    second.send(query("select 'unharmed' from pg_sleep(1)"));
    pooler.database.wait_running(1, "pg_sleep");
    cancel(pooler.address(), &key);
    assert_eq!(second.reply().value(), "unharmed");
}

#[test]
fn a_cancel_that_arrives_late_hits_no_other_query() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    let pooler = Ini::transaction()
        .one_server()
        .server(proxy.address())
        .start();
    let mut client = pooler.client();
    let mut other = pooler.client();
    client.run("select 1");
    // The connections to come, so that of the cancel, are slow.
    let slow = Fault {
        delay: Duration::from_millis(700),
        ..Fault::default()
    };
    proxy.spoil(slow, Fault::default());
    client.send(query("select 'ended by itself' from pg_sleep(0.3)"));
    pooler.database.wait_running(1, "pg_sleep");
    std::thread::scope(|scope| {
        scope.spawn(|| cancel(pooler.address(), &client.key.clone()));
        other.send(query("select 'unharmed' from pg_sleep(2)"));
        assert_eq!(other.reply().value(), "unharmed");
    });
    assert_eq!(client.reply().value(), "ended by itself");
}

#[test]
fn a_storm_of_late_cancels_hits_only_its_own_client() {
    let pooler = Ini::transaction().one_server().start();
    let over = AtomicBool::new(false);
    let victims = together(4, |who| {
        let mut random = Random::new(who as u64 + 77);
        let mut client = pooler.client();
        if who == 3 {
            // Never asks for a cancel, so never is cancelled.
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let token = format!("spared {count}");
                assert_eq!(
                    client.value(&format!("select '{token}' from pg_sleep(0.001)")),
                    token
                );
                count += 1;
            }
            return count;
        }
        let mut cancelled = 0;
        for number in 0..60 {
            let token = format!("{who}.{number}");
            client.send(query(&format!("select '{token}' from pg_sleep(0.002)")));
            let early = random.chance(50);
            if early {
                cancel(pooler.address(), &client.key);
            }
            let reply = client.reply();
            match reply.error() {
                None => assert_eq!(reply.value(), token),
                Some(error) => {
                    assert_eq!(error.code(), "57014");
                    assert!(early, "cancelled before it asked for it");
                    cancelled += 1;
                }
            }
            if !early {
                cancel(pooler.address(), &client.key);
            }
        }
        over.store(true, Ordering::Relaxed);
        cancelled
    });
    assert!(victims[3] > 0, "the innocent client has worked");
    becomes("all is over", 0, || {
        pooler.pool("cl_active_cancel_req") + pooler.pool("cl_waiting_cancel_req")
    });
    becomes("no server is held back", 0, || {
        pooler.pool("sv_being_canceled")
    });
    pooler.assert_serves();
}

#[test]
fn cancel_connections_are_not_left_open() {
    let pooler = Ini::transaction().set("default_pool_size", 3).start();
    let mut client = pooler.client();
    for _ in 0..10 {
        client.send(query("select pg_sleep(60)"));
        pooler.database.wait_running(1, "pg_sleep");
        cancel(pooler.address(), &client.key);
        assert_eq!(client.reply().code(), "57014");
    }
    becomes("one backend", 1, || pooler.backends().len());
    becomes("no cancel is left", 0, || {
        pooler.pool("cl_active_cancel_req")
    });
}

#[test]
fn a_cancel_that_was_given_up_hits_no_later_query() {
    if only_pgweir("PgBouncer waits for ever once the request is sent") {
        return;
    }
    let proxy = FaultProxy::start(Postgres::shared().address());
    let ini = Ini::transaction()
        .one_server()
        .set("cancel_wait_timeout", 1)
        .set("server_connect_timeout", 1);
    let pooler = ini.server(proxy.address()).start();
    let mut holder = pooler.database.session();
    holder.run("select pg_advisory_lock(1)");
    let mut client = pooler.client();
    client.send(query("select pg_advisory_lock(1)"));
    pooler.database.wait_running(1, "pg_advisory_lock");
    // The request arrives when nobody waits for it any more.
    let slow = Fault {
        delay: Duration::from_millis(1500),
        ..Fault::default()
    };
    proxy.spoil(slow, Fault::default());
    cancel(pooler.address(), &client.key);
    pooler.wait_log("closing because: cancel_wait_timeout");
    proxy.spoil(Fault::default(), Fault::default());
    holder.run("select pg_advisory_unlock(1)");
    assert_eq!(client.reply().value(), "");
    assert_eq!(client.value("select 'goes on' from pg_sleep(2)"), "goes on");
}
