//! How many servers there are, who gets one, and for how long they live.

use crate::harness::backend::Message;
use crate::harness::fault::FaultProxy;
use crate::harness::frontend::query;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::{Postgres, password_of};
use crate::harness::wire::{Login, Wire};
use crate::harness::{becomes, eventually, only_pgweir, reference_is_pgweir, together};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Clients of alice's, logged in.
fn clients(pooler: &Pooler<'_>, count: usize) -> Vec<Wire> {
    (0..count).map(|_| pooler.client()).collect()
}

/// Starts a query on each that lasts until [`let_go`].
fn occupy(pooler: &Pooler<'_>, clients: &mut [Wire]) -> Wire {
    let mut gate = pooler.database.session();
    gate.run("select pg_advisory_lock(4242)");
    for client in clients {
        client.send(query(
            "select pg_backend_pid() from (select pg_advisory_xact_lock_shared(4242)) x",
        ));
    }
    gate
}

/// Lets the queries of [`occupy`] end; the servers they ran on.
fn let_go(mut gate: Wire, clients: &mut [Wire]) -> BTreeSet<String> {
    gate.run("select pg_advisory_unlock(4242)");
    clients
        .iter_mut()
        .map(|client| client.reply().value())
        .collect()
}

#[test]
fn pool_size_bounds_the_servers_of_a_pool() {
    let pooler = Ini::transaction().set("default_pool_size", 3).start();
    let mut clients = clients(&pooler, 12);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("sv_active", 3);
    pooler.wait_pool("cl_waiting", 9);
    assert_eq!(pooler.backends().len(), 3);
    assert_eq!(
        let_go(gate, &mut clients).len(),
        3,
        "three servers have answered"
    );
    assert_eq!(pooler.backends().len(), 3);
}

#[test]
fn each_user_has_a_pool_of_its_own() {
    let pooler = Ini::transaction().one_server().start();
    let mut alice = pooler.client();
    alice.run("begin");
    assert_eq!(pooler.client_of("bob").value("select current_user"), "bob");
    assert_eq!(pooler.backends().len(), 2);
}

#[test]
fn the_databases_pool_size_goes_before_the_global_one() {
    let pooler = Ini::transaction().one_server().db("pool_size=2").start();
    let mut clients = clients(&pooler, 4);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("cl_waiting", 2);
    assert_eq!(let_go(gate, &mut clients).len(), 2);
}

#[test]
fn the_users_pool_size_goes_before_the_databases() {
    let pooler = Ini::transaction()
        .db("pool_size=1")
        .user("alice", "pool_size=2")
        .start();
    let mut clients = clients(&pooler, 4);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("cl_waiting", 2);
    assert_eq!(let_go(gate, &mut clients).len(), 2);
}

#[test]
fn pool_size_zero_is_no_bound() {
    let pooler = Ini::transaction().set("default_pool_size", 0).start();
    let mut clients = clients(&pooler, 25);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("sv_active", 25);
    assert_eq!(let_go(gate, &mut clients).len(), 25);
}

#[test]
fn waiting_clients_are_served_in_their_order() {
    let pooler = Ini::transaction().one_server().start();
    pooler.database.session().run("create table served (turn serial, who text); grant all on served, served_turn_seq to public");
    let mut holder = pooler.client();
    holder.run("begin");
    let mut waiting = clients(&pooler, 5);
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(query(&format!(
            "insert into served (who) values ('{number}')"
        )));
        pooler.wait_pool("cl_waiting", i64::try_from(number).expect("small") + 1);
    }
    holder.run("commit");
    for client in &mut waiting {
        client.reply().succeeded();
    }
    let order = holder.value("select string_agg(who, ' ' order by turn) from served");
    assert_eq!(order, "0 1 2 3 4");
}

#[test]
fn a_client_that_leaves_while_waiting_takes_no_server() {
    let pooler = Ini::transaction().one_server().start();
    let mut holder = pooler.client();
    holder.run("begin");
    let mut leaving = pooler.client();
    leaving.send(query("select 'left'"));
    pooler.wait_pool("cl_waiting", 1);
    drop(leaving);
    // PgBouncer finds out only when it has a server for it.
    let unseen = i64::from(!reference_is_pgweir());
    pooler.wait_pool("cl_waiting", unseen);
    let mut staying = pooler.client();
    staying.send(query("select 'stayed'"));
    pooler.wait_pool("cl_waiting", unseen + 1);
    holder.run("commit");
    assert_eq!(staying.reply().value(), "stayed");
}

#[test]
fn the_newest_idle_server_is_taken_first() {
    let pooler = Ini::transaction().set("default_pool_size", 5).start();
    let mut clients = clients(&pooler, 3);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("sv_active", 3);
    let_go(gate, &mut clients);
    let pids: BTreeSet<i32> = (0..6).map(|_| clients[0].backend_pid()).collect();
    assert_eq!(pids.len(), 1);
}

#[test]
fn server_round_robin_takes_the_oldest_first() {
    let pooler = Ini::transaction()
        .set("default_pool_size", 5)
        .set("server_round_robin", 1)
        .start();
    let mut clients = clients(&pooler, 3);
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("sv_active", 3);
    let_go(gate, &mut clients);
    let pids: BTreeSet<i32> = (0..6).map(|_| clients[0].backend_pid()).collect();
    assert_eq!(pids.len(), 3);
}

#[test]
fn the_reserve_helps_those_who_waited_long() {
    let ini = Ini::transaction()
        .one_server()
        .set("reserve_pool_size", 1)
        .set("reserve_pool_timeout", 1);
    let pooler = ini.start();
    let mut clients = clients(&pooler, 3);
    let start = Instant::now();
    let gate = occupy(&pooler, &mut clients);
    pooler.wait_pool("sv_active", 2);
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "not before the time: {:?}",
        start.elapsed()
    );
    pooler.wait_log("taking connection from reserve_pool");
    pooler.wait_pool("cl_waiting", 1);
    assert_eq!(let_go(gate, &mut clients).len(), 2);
}

#[test]
fn a_client_that_waits_too_long_is_told_so() {
    let pooler = Ini::transaction()
        .one_server()
        .set("query_wait_timeout", 1)
        .start();
    let mut holder = pooler.client();
    holder.run("begin");
    let mut client = pooler.client();
    client.send(query("select 1"));
    let error = client.expect_fatal();
    assert_eq!(
        (error.code(), error.text()),
        ("08P01", "query_wait_timeout")
    );
    assert_eq!(holder.value("select 'unharmed'"), "unharmed");
}

#[test]
fn an_automatic_database_is_forgotten_when_nobody_uses_it() {
    let pooler = Ini::transaction()
        .database("*", "host=127.0.0.1 port=PORT")
        .set("autodb_idle_timeout", 1)
        .set("server_idle_timeout", 1)
        .start();
    let name = pooler.database.name.clone();
    let is_known = |list: &str| {
        let column = if list == "POOLS" { "database" } else { "name" };
        let shown = pooler.console(&format!("SHOW {list}"));
        shown.column(column).contains(&name)
    };
    let login = Login::new("alice", &name).password(&password_of("alice"));
    let mut client = login.at(pooler.address()).expect("a login");
    client.run("select 1");
    becomes("its server has gone", 0, || pooler.backends().len());
    assert!(is_known("DATABASES"), "it has a client");
    client.leave();
    becomes("its pool is forgotten", false, || is_known("POOLS"));
    pooler.wait_log(&format!("dropping database '{name}'"));
    assert!(!is_known("DATABASES"));
    let mut client = login.at(pooler.address()).expect("a login");
    assert_eq!(client.value("select current_database()"), name);
}

#[test]
fn a_pool_is_forgotten_when_it_has_been_empty_for_pool_idle_timeout() {
    let pooler = Ini::transaction()
        .set("pool_idle_timeout", 1)
        .set("server_idle_timeout", 1)
        .start();
    let has_pool = || {
        let shown = pooler.console("SHOW POOLS");
        shown.column("database").contains(&"db".to_owned())
    };
    let mut client = pooler.client();
    client.run("select 1");
    becomes("its server has gone", 0, || pooler.backends().len());
    std::thread::sleep(Duration::from_secs(2));
    assert!(has_pool(), "it has a client");
    assert_eq!(client.value("select 'served'"), "served");
    client.leave();
    pooler.wait_log("cleaning up idle pool for user alice on db db");
    assert!(!has_pool());
    assert_eq!(
        pooler.client().value("select 'served again'"),
        "served again"
    );
}

#[test]
fn a_pool_that_is_to_be_kept_full_is_not_forgotten() {
    let pooler = Ini::transaction()
        .database(
            "nowhere",
            "host=127.0.0.1 port=1 min_pool_size=1 user=alice",
        )
        .set("pool_idle_timeout", 1)
        .start();
    becomes("it is made", true, || {
        let shown = pooler.console("SHOW POOLS");
        shown.column("database").contains(&"nowhere".to_owned())
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(!pooler.log().contains("cleaning up idle pool"));
}

#[test]
fn a_client_that_waits_is_notified() {
    let pooler = Ini::transaction()
        .one_server()
        .set("query_wait_notify", 1)
        .start();
    let mut holder = pooler.client();
    holder.run("begin");
    let mut client = pooler.client();
    client.send(query("select 'served'"));
    let Ok(Message::NoticeResponse(notice)) = client.recv_any() else {
        panic!("a notice has to come")
    };
    assert_eq!((notice.severity(), notice.code()), ("NOTICE", "00000"));
    let text = "No server connection available in postgres backend, client being queued";
    assert_eq!(notice.text(), text);
    holder.run("commit");
    assert_eq!(client.reply().value(), "served");
    assert!(client.asides.is_empty(), "one notice is enough");
}

#[test]
fn a_query_that_runs_too_long_is_ended() {
    let pooler = Ini::transaction().set("query_timeout", 1).start();
    let mut client = pooler.client();
    client.send(query("select pg_sleep(60)"));
    assert_eq!(client.expect_fatal().text(), "query timeout");
    pooler.assert_serves();
}

#[test]
fn an_idle_transaction_is_ended() {
    let pooler = Ini::transaction()
        .set("idle_transaction_timeout", 1)
        .start();
    let mut client = pooler.client();
    client.run("begin");
    assert_eq!(client.expect_fatal().text(), "idle transaction timeout");
    becomes("the server is gone", 0, || pooler.backends().len());
}

#[test]
fn a_long_transaction_is_ended_though_busy() {
    let pooler = Ini::transaction().set("transaction_timeout", 1).start();
    let mut client = pooler.client();
    client.run("begin");
    let error = eventually("the transaction is ended", || {
        client.send(query("select 1"));
        match client.try_recv() {
            Ok(Message::ErrorResponse(error)) => Ok(error),
            Ok(_) => Err(format!("it goes on: {:?}", client.reply())),
            Err(lost) => panic!("{lost:?} without a word"),
        }
    });
    assert_eq!(error.text(), "transaction timeout");
}

#[test]
fn an_idle_client_is_closed() {
    let pooler = Ini::transaction().set("client_idle_timeout", 1).start();
    let mut client = pooler.client();
    client.run("select 1");
    assert_eq!(client.expect_fatal().text(), "client_idle_timeout");
}

#[test]
fn the_users_timeouts_go_before_the_global_ones() {
    let ini = Ini::transaction()
        .set("query_timeout", 100)
        .user("alice", "query_timeout=1");
    let pooler = ini.start();
    let mut bob = pooler.client_of("bob");
    bob.send(query("select 'slept' from (select pg_sleep(2)) x"));
    let mut alice = pooler.client();
    alice.send(query("select pg_sleep(60)"));
    assert_eq!(alice.expect_fatal().text(), "query timeout");
    assert_eq!(bob.reply().value(), "slept");
}

#[test]
fn min_pool_size_opens_servers_ahead() {
    let pooler = Ini::transaction().set("min_pool_size", 3).start();
    let _client = pooler.client();
    becomes("three servers", 3, || pooler.backends().len());
}

#[test]
fn min_pool_size_needs_no_client_where_a_user_is_forced() {
    let pooler = Ini::transaction().db("user=bob min_pool_size=2").start();
    becomes("two servers", 2, || {
        pooler
            .backends()
            .iter()
            .filter(|backend| backend.user == "bob")
            .count()
    });
}

#[test]
fn an_idle_server_is_closed_after_server_idle_timeout() {
    let pooler = Ini::transaction().set("server_idle_timeout", 1).start();
    let mut client = pooler.client();
    client.run("select 1");
    becomes("the server is closed", 0, || pooler.backends().len());
    pooler.wait_log("server idle timeout");
    assert_eq!(client.value("select 'with a new one'"), "with a new one");
}

#[test]
fn a_server_is_closed_after_server_lifetime() {
    let pooler = Ini::transaction()
        .one_server()
        .set("server_lifetime", 1)
        .start();
    let mut client = pooler.client();
    let first = client.backend_pid();
    becomes("another server", true, || client.backend_pid() != first);
    pooler.wait_log("server lifetime over");
}

#[test]
fn server_lifetime_spares_a_transaction() {
    let pooler = Ini::transaction()
        .one_server()
        .set("server_lifetime", 1)
        .start();
    let mut client = pooler.client();
    client.run("begin");
    let pid = client.backend_pid();
    client.run("select pg_sleep(2)");
    assert_eq!(client.backend_pid(), pid);
    client.run("commit");
    becomes("then it goes", true, || client.backend_pid() != pid);
}

#[test]
fn server_lifetime_zero_uses_a_server_once() {
    let pooler = Ini::transaction().set("server_lifetime", 0).start();
    let mut client = pooler.client();
    assert_ne!(client.backend_pid(), client.backend_pid());
}

#[test]
fn max_db_connections_bounds_all_pools_of_a_database() {
    let pooler = Ini::transaction().db("max_db_connections=2").start();
    let mut alice = clients(&pooler, 2);
    let gate = occupy(&pooler, &mut alice);
    pooler.wait_pool("sv_active", 2);
    std::thread::scope(|scope| {
        let bob = scope.spawn(|| pooler.client_of("bob").value("select current_user"));
        becomes("bob waits", true, || {
            pooler
                .console("SHOW POOLS")
                .find(&[("user", "bob")])
                .is_some()
        });
        assert_eq!(pooler.backends().len(), 2);
        let_go(gate, &mut alice);
        assert_eq!(bob.join().expect("he is served"), "bob");
    });
    assert!(pooler.backends().len() <= 2);
}

#[test]
fn no_more_servers_are_evicted_than_opened() {
    let pooler = Ini::transaction().db("max_db_connections=3").start();
    let users = ["alice", "bob", "carol", "admin"];
    for _ in 0..4 {
        std::thread::scope(|scope| {
            for user in users.iter().chain(&users) {
                scope.spawn(|| pooler.client_of(user).run("select pg_sleep(0.2)"));
            }
        });
        becomes("all servers there may be", 3, || pooler.backends().len());
    }
}

#[test]
fn an_idle_server_of_another_pool_is_evicted() {
    let pooler = Ini::transaction().db("max_db_connections=1").start();
    pooler.client().run("select 1");
    for user in ["bob", "alice", "bob"] {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
        becomes("one server", 1, || pooler.backends().len());
    }
    pooler.wait_log("evicted");
}

#[test]
fn a_client_goes_before_the_minimum_of_another_pool() {
    let keys = "max_db_connections=1 min_pool_size=1";
    let pooler = Ini::transaction().db(keys).start();
    let mut first = pooler.client();
    first.run("select 1");
    let start = Instant::now();
    for user in ["bob", "carol", "alice", "bob"] {
        assert_eq!(pooler.client_of(user).value("select current_user"), user);
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it was fought for"
    );
}

#[test]
fn minimums_do_not_take_each_others_servers() {
    let keys = "max_db_connections=1 min_pool_size=1";
    let pooler = Ini::transaction().db(keys).start();
    for user in ["alice", "bob"] {
        pooler.client_of(user).run("select 1");
    }
    let opened = || pooler.log().matches("new connection to server").count();
    let before = opened();
    // Several maintenance ticks.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(opened(), before);
}

#[test]
fn max_user_connections_bounds_all_pools_of_a_user() {
    let ini = Ini::transaction()
        .db("")
        .database("other", "host=127.0.0.1 port=PORT dbname=DBNAME")
        .user("alice", "max_user_connections=1");
    let pooler = ini.start();
    let mut holder = pooler.client();
    holder.run("begin");
    let address = pooler.address();
    std::thread::scope(|scope| {
        let login = Login::new("alice", "other");
        let other = scope.spawn(move || {
            login
                .at(address)
                .expect("in the end")
                .value("select 'served'")
        });
        eventually("alice waits", || {
            match pooler.console("SHOW POOLS").find(&[("database", "other")]) {
                Some(_) => Ok(()),
                None => Err("no pool".to_owned()),
            }
        });
        assert_eq!(pooler.backends().len(), 1);
        holder.run("commit");
        assert_eq!(other.join().expect("it is served"), "served");
    });
    becomes("one server", 1, || pooler.backends().len());
}

#[test]
fn a_pool_made_smaller_closes_what_is_too_many() {
    let mut pooler = Ini::transaction().set("default_pool_size", 4).start();
    let mut all = clients(&pooler, 4);
    let gate = occupy(&pooler, &mut all);
    pooler.wait_pool("sv_active", 4);
    let_go(gate, &mut all);
    pooler.reload(|ini| ini.change("default_pool_size", 2));
    becomes("two servers", 2, || pooler.backends().len());
    assert_eq!(all[0].value("select 'served'"), "served");
}

#[test]
fn connect_query_runs_once_on_each_new_server() {
    let pooler = Ini::transaction()
        .one_server()
        .db("connect_query='set work_mem = ''7MB'''")
        .start();
    let mut client = pooler.client();
    assert_eq!(client.value("show work_mem"), "7MB");
    client.run("set work_mem = '8MB'");
    assert_eq!(client.value("show work_mem"), "8MB");
}

#[test]
fn a_cold_pool_serves_two_hundred_clients_at_once() {
    let pooler = Ini::transaction().set("default_pool_size", 20).start();
    let answers = together(200, |number| {
        pooler.client().value(&format!("select 'client {number}'"))
    });
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, format!("client {number}"));
    }
    assert!(pooler.backends().len() <= 20);
}

/// The most servers that one sees while 40 clients come and go, each calling
/// `part` ten times.
fn most_servers(pooler: &Pooler<'_>, part: impl Fn(usize, &mut Wire) + Sync) -> usize {
    let counts = together(41, |number| {
        if number == 40 {
            return (0..60).map(|_| pooler.backends().len()).max().unwrap_or(0);
        }
        for _ in 0..10 {
            part(number, &mut pooler.client());
        }
        0
    });
    counts[40]
}

#[test]
fn a_flood_never_exceeds_the_pool_size() {
    let pooler = Ini::transaction().set("default_pool_size", 4).start();
    let most = most_servers(&pooler, |_, client| client.run("select 1"));
    assert!((1..=4).contains(&most), "{most} servers at once");
}

#[test]
fn servers_of_vanished_clients_count_until_they_are_gone() {
    if only_pgweir("PgBouncer forgets a server that it has told to close") {
        return;
    }
    let pooler = Ini::transaction().set("default_pool_size", 4).start();
    let most = most_servers(&pooler, |number, client| {
        client.run("select 1");
        if number % 4 == 0 {
            client.send(query("select pg_sleep(0.01)"));
        }
    });
    assert!((1..=4).contains(&most), "{most} servers at once");
}

#[test]
fn servers_are_opened_in_parallel_once_a_login_succeeded() {
    if only_pgweir("PgBouncer logs in one server at a time") {
        return;
    }
    let proxy = FaultProxy::start(Postgres::shared().address());
    let pooler = Ini::transaction()
        .set("default_pool_size", 10)
        .server(proxy.address())
        .start();
    let mut clients = clients(&pooler, 10);
    clients[0].run("begin");
    proxy.freeze(true);
    for client in &mut clients[1..] {
        client.send(query("select 'served'"));
    }
    pooler.wait_pool("sv_login", 9);
    proxy.freeze(false);
    for client in &mut clients[1..] {
        assert_eq!(client.reply().value(), "served");
    }
}

#[test]
fn a_cold_pool_opens_a_server_for_each_client_that_waits() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.freeze(true);
    let pooler = Ini::transaction()
        .set("default_pool_size", 10)
        .server(proxy.address())
        .start();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert_eq!(pooler.client().value("select 'served'"), "served"));
        }
        pooler.wait_pool("sv_login", 10);
        proxy.freeze(false);
    });
}
