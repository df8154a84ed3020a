//! Servers that die, restart, freeze: what clients see, and how soon it is over.

use crate::harness::backend::Message;
use crate::harness::fault::FaultProxy;
use crate::harness::frontend::query;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::Postgres;
use crate::harness::wire::{Lost, Wire};
use crate::harness::{becomes, eventually};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Ends a backend from outside.
fn terminate(pooler: &Pooler<'_>, pid: i32) {
    pooler
        .database
        .session()
        .run(&format!("select pg_terminate_backend({pid})"));
    becomes("the backend is gone", false, || {
        pooler.backends().iter().any(|backend| backend.pid == pid)
    });
}

/// The first error, and that the connection has ended after it.
fn last_words(client: &mut Wire) -> String {
    let code = loop {
        match client.recv() {
            Message::ErrorResponse(error) => break error.code().to_owned(),
            Message::ReadyForQuery(_) => panic!("the server is gone"),
            _ => {}
        }
    };
    while client.try_recv() != Err(Lost::Closed) {}
    code
}

#[test]
fn a_server_killed_in_a_query_is_told_in_its_own_words() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    let pid = client.backend_pid();
    client.send(query("select pg_sleep(60)"));
    pooler.database.wait_running(1, "pg_sleep");
    terminate(&pooler, pid);
    assert_eq!(last_words(&mut client), "57P01");
    pooler.assert_serves();
}

#[test]
fn a_server_killed_in_a_transaction_ends_its_client() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    client.run("begin");
    let pid = client.backend_pid();
    terminate(&pooler, pid);
    assert_eq!(last_words(&mut client), "57P01");
    pooler.assert_serves();
}

#[test]
fn an_idle_server_that_was_killed_is_replaced_unseen() {
    let pooler = Ini::transaction().one_server().start();
    let mut client = pooler.client();
    for _ in 0..5 {
        let pid = client.backend_pid();
        terminate(&pooler, pid);
        becomes("the pooler has seen it", 0, || {
            pooler.pool("sv_idle") + pooler.pool("sv_used")
        });
        assert_ne!(client.backend_pid(), pid);
    }
}

#[test]
fn idle_servers_that_were_reset_are_replaced_unseen() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    let ini = Ini::transaction()
        .set("default_pool_size", 5)
        .set("server_check_delay", 0);
    let pooler = ini.server(proxy.address()).start();
    let mut clients: Vec<Wire> = (0..5).map(|_| pooler.client()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.run("begin");
        }
        for client in &mut clients {
            client.run("commit");
        }
        proxy.reset_all();
        becomes("the pooler has seen it", 0, || {
            pooler.pool("sv_idle") + pooler.pool("sv_used")
        });
        for client in &mut clients {
            assert_eq!(client.value("select 'unharmed'"), "unharmed");
        }
    }
}

#[test]
fn an_idle_server_is_checked_before_its_use() {
    let ini = Ini::transaction()
        .one_server()
        .set("server_check_query", "select nextval('checks')")
        .set("server_check_delay", 0);
    let mut pooler = ini.start();
    let mut session = pooler.database.session();
    session.run("create sequence checks; grant all on sequence checks to public");
    let mut checks = || session.value("select last_value - 1 from checks");
    let mut client = pooler.client();
    let pid = client.backend_pid();
    let before: i64 = checks().parse().expect("a number");
    for number in 1..=3 {
        assert_eq!(client.backend_pid(), pid);
        assert_eq!(checks(), (before + number).to_string());
    }
    pooler.reload(|ini| ini.change("server_check_delay", 30));
    client.run("select 1");
    assert_eq!(checks(), (before + 3).to_string());
}

#[test]
fn a_server_that_does_not_answer_its_check_is_replaced_unseen() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    let ini = Ini::transaction().set("server_check_delay", 0);
    let pooler = ini.server(proxy.address()).start();
    let mut client = pooler.client();
    let pid = client.backend_pid();
    proxy.freeze(true);
    // What it reads already it carries still.
    std::thread::sleep(Duration::from_millis(200));
    client.send(query("select 'served'"));
    pooler.wait_log("closing because: test query failed");
    proxy.freeze(false);
    assert_eq!(client.reply().value(), "served");
    assert_ne!(client.backend_pid(), pid);
}

#[test]
fn a_check_that_gets_an_error_has_got_an_answer() {
    let ini = Ini::transaction()
        .one_server()
        .set("server_check_query", "nonsense")
        .set("server_check_delay", 0);
    let pooler = ini.start();
    let mut client = pooler.client();
    let pid = client.backend_pid();
    assert_eq!(client.backend_pid(), pid);
}

#[test]
fn a_clients_session_does_not_survive_its_server() {
    let pooler = Ini::session().start();
    let mut client = pooler.client();
    let pid = client.backend_pid();
    terminate(&pooler, pid);
    assert_eq!(last_words(&mut client), "57P01");
}

#[test]
fn clients_that_wait_during_a_restart_are_served_after_it() {
    let postgres = Postgres::dedicated();
    let pooler = Ini::transaction().one_server().start_on(&postgres);
    let address = pooler.address();
    let mut busy = pooler.client();
    let mut waiting: Vec<Wire> = (0..5).map(|_| pooler.client()).collect();
    busy.run("begin");
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(query(&format!("select 'served {number}'")));
    }
    pooler.wait_pool("cl_waiting", 5);
    postgres.stop(Signal::QUIT);
    last_words(&mut busy);
    postgres.start();
    for (number, client) in waiting.iter_mut().enumerate() {
        assert_eq!(client.reply().value(), format!("served {number}"));
    }
    let mut late = crate::harness::wire::Login::new("alice", "db")
        .at(address)
        .expect("in");
    assert_eq!(late.value("select 'late'"), "late");
}

#[test]
fn clients_that_come_while_the_server_is_down_are_let_in_when_it_is_up() {
    let postgres = Postgres::dedicated();
    let pooler = Ini::transaction().start_on(&postgres);
    let login = pooler.login("alice");
    let address = pooler.address();
    postgres.stop(Signal::INT);
    std::thread::scope(|scope| {
        let early = scope.spawn(|| {
            login
                .at(address)
                .expect("in the end")
                .value("select 'served'")
        });
        eventually("the pooler has tried", || {
            let log = pooler.log();
            if log.contains("connect failed") || log.contains("failed to connect") {
                Ok(())
            } else {
                Err(log)
            }
        });
        postgres.start();
        assert_eq!(early.join().expect("it is served"), "served");
    });
}

#[test]
fn while_the_server_is_down_later_queries_get_the_cached_error() {
    let postgres = Postgres::dedicated();
    let pooler = Ini::transaction()
        .set("server_login_retry", 60)
        .start_on(&postgres);
    let mut first = pooler.client();
    let mut second = pooler.client();
    first.run("select 1");
    second.run("select 1");
    postgres.stop(Signal::INT);
    first.send(query("select 1"));
    eventually("the pooler has tried", || {
        let log = pooler.log();
        if log.contains("connect failed") || log.contains("failed to connect") {
            Ok(())
        } else {
            Err(log)
        }
    });
    second.send(query("select 1"));
    let error = second.expect_fatal();
    assert_eq!(error.code(), "08P01");
    assert!(
        error
            .text()
            .starts_with("server login has been failing, cached error: "),
        "{error:?}"
    );
    assert!(error.text().ends_with(" (server_login_retry)"), "{error:?}");
}

#[test]
fn a_frozen_server_holds_up_only_its_own_pool() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    let at = proxy.address();
    let ini = Ini::transaction()
        .server(at)
        .database("other", "host=127.0.0.1 port=PORT dbname=DBNAME");
    let pooler = ini.start();
    let mut held = pooler.client();
    held.run("select 1");
    proxy.freeze(true);
    held.send(query("select 'in the end'"));
    let login = crate::harness::wire::Login::new("alice", "other");
    let mut other = login.at(pooler.address()).expect("in");
    for number in 0..20 {
        assert_eq!(other.value(&format!("select {number}")), number.to_string());
    }
    assert!(
        !pooler.console("SHOW POOLS").rows.is_empty(),
        "the console answers"
    );
    proxy.freeze(false);
    assert_eq!(held.reply().value(), "in the end");
}

#[test]
fn a_server_that_never_answers_a_login_is_given_up() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.freeze(true);
    let ini = Ini::transaction()
        .set("server_connect_timeout", 1)
        .server(proxy.address());
    let pooler = ini.start();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| pooler.client().value("select 'served'"));
        pooler.wait_log("connect timeout");
        proxy.freeze(false);
        assert_eq!(client.join().expect("it is served"), "served");
    });
}

#[test]
fn a_server_that_cannot_even_be_connected_to_is_told_apart() {
    let hole = Hole::dig();
    let ini = Ini::transaction()
        .set("server_connect_timeout", 1)
        .set("query_wait_timeout", 3)
        .server(hole.address);
    let pooler = ini.start();
    pooler.login("alice").refused_at(pooler.address());
    pooler.wait_log("closing because: connect failed");
}

/// An address that answers nothing to who connects: nobody takes those who
/// wait there already, and there is no room for more.
struct Hole {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl Hole {
    fn dig() -> Hole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(0).expect("a queue");
        let address = listener.local_addr().expect("bound").as_socket();
        let address = address.expect("an IP address");
        let soon = Duration::from_millis(200);
        let connected = || TcpStream::connect_timeout(&address, soon).ok();
        let waiting = std::iter::from_fn(connected).take(100).collect();
        Hole {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

#[test]
fn a_login_waits_for_a_server_no_longer_than_a_query() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.freeze(true);
    for setting in ["query_wait_timeout", "query_timeout"] {
        let ini = Ini::transaction().set(setting, 1);
        let pooler = ini.server(proxy.address()).start();
        let error = pooler.login("alice").refused_at(pooler.address());
        assert_eq!((error.code(), error.text()), ("08P01", setting));
    }
}

#[test]
fn a_login_that_gets_no_server_in_time_is_told() {
    let proxy = FaultProxy::start(Postgres::shared().address());
    proxy.freeze(true);
    let pooler = Ini::transaction()
        .set("client_login_timeout", 1)
        .server(proxy.address())
        .start();
    let error = pooler.login("alice").refused_at(pooler.address());
    assert_eq!(
        (error.code(), error.text()),
        ("08P01", "client_login_timeout (server down)")
    );
}

#[test]
fn a_server_out_of_slots_makes_clients_wait() {
    let pooler = Ini::transaction().set("default_pool_size", 3).start();
    let mut first = pooler.client();
    first.run("begin");
    let database = &pooler.database.name;
    // One for this session, one for the server that is there.
    let mut session = pooler.database.session();
    session.run(&format!("alter database {database} connection limit 2"));
    let mut others: Vec<Wire> = (0..4).map(|_| pooler.client()).collect();
    for (number, client) in others.iter_mut().enumerate() {
        client.send(query(&format!("select 'served {number}'")));
    }
    pooler.wait_log("too many connections for database");
    first.run("commit");
    for (number, client) in others.iter_mut().enumerate() {
        assert_eq!(client.reply().value(), format!("served {number}"));
    }
}
