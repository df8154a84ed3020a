//! Clients that vanish: their servers are free soon, and never handed on dirty.

use crate::harness::frontend::{bind, execute, extended, flush, parse, query, sync};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::Wire;
use crate::harness::{Random, becomes, only_pgweir, together};
use std::time::{Duration, Instant};

/// How a client goes without a word.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Fin,
    Rst,
}

const EXITS: [Exit; 2] = [Exit::Fin, Exit::Rst];

impl Exit {
    fn take(self, client: Wire) {
        match self {
            Self::Fin => drop(client),
            Self::Rst => client.reset(),
        }
    }
}

/// No session works, waits in a transaction or holds a lock for nobody.
fn assert_nothing_left(pooler: &Pooler<'_>) {
    becomes("no abandoned backend", Vec::new(), || {
        let mut backends = pooler.backends();
        backends.retain(|backend| backend.state != "idle");
        backends
    });
}

/// The next client of the one server sees its own answers, in a clean session.
fn assert_next_is_clean(pooler: &Pooler<'_>, token: &str) {
    let mut next = pooler.client();
    let reply = next.query(&format!("select '{token}'"));
    assert_eq!((reply.value().as_str(), reply.status), (token, 'I'));
    assert_eq!(next.value("select 'and again'"), "and again");
}

#[test]
fn a_batch_may_break_off_at_any_byte() {
    let pooler = Ini::transaction().one_server().start();
    let batch = [
        query("begin; create table abandoned ()"),
        parse("a", "select 'A' || $1::text"),
        bind("", "a", &["'s secret"]),
        execute("", 0),
        sync(),
        extended("select 'more of A'", &[]),
    ];
    let batch = batch.concat();
    for end in 1..=batch.len() {
        let mut client = pooler.client();
        client.send(&batch[..end]);
        EXITS[end % 2].take(client);
        assert_next_is_clean(&pooler, &format!("after {end} bytes"));
    }
    assert_nothing_left(&pooler);
    assert_eq!(
        pooler
            .client()
            .value("select count(*) from pg_class where relname = 'abandoned'"),
        "0"
    );
}

#[test]
fn parameters_stay_with_their_clients_whatever_another_breaks_off() {
    let pooler = Ini::transaction().one_server().start();
    let mut tracked = pooler.client();
    tracked.run("set timezone = 'Asia/Tokyo'");
    let batch = [
        query("begin; select 1"),
        parse("", "select 1"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
        query("select 2"),
    ];
    let batch = batch.concat();
    for end in 0..=batch.len() {
        let login = pooler.login("alice").parameter("TimeZone", "Europe/Paris");
        let mut other = login.at(pooler.address()).expect("in");
        other.send(&batch[..end]);
        EXITS[end % 2].take(other);
        assert_eq!(
            tracked.value("show timezone"),
            "Asia/Tokyo",
            "after {end} bytes"
        );
    }
}

#[test]
fn an_answer_may_be_abandoned_at_any_byte() {
    let pooler = Ini::transaction().one_server().start();
    for received in [1, 4, 5, 6, 30, 60, 1_000, 8_191, 8_192, 100_000] {
        for exit in EXITS {
            let mut client = pooler.client();
            client.send(
                [
                    query("select repeat('A', 700) from generate_series(1, 60000)"),
                    extended("select 'A'", &[]),
                ]
                .concat(),
            );
            for _ in 0..received {
                client.recv_byte().expect("the answer is long");
            }
            exit.take(client);
            assert_next_is_clean(&pooler, &format!("after {received} bytes"));
        }
    }
    assert_nothing_left(&pooler);
}

#[test]
fn locks_of_a_vanished_client_are_free() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    pooler.client().run("create table t (x int)");
    for exit in EXITS {
        for batch in [
            query("begin; lock table t"),
            [query("begin"), extended("lock table t", &[])].concat(),
            [parse("", "lock table t"), bind("", "", &[]), flush()].concat(),
            [
                query("begin; lock table t"),
                parse("", "select 1"),
                bind("", "", &[]),
                execute("", 0),
                flush(),
            ]
            .concat(),
            [query("begin; lock table t"), query("selct")].concat(),
        ] {
            let mut client = pooler.client();
            client.send(&batch);
            client.recv();
            exit.take(client);
            assert_eq!(
                pooler
                    .client()
                    .query("lock table t in exclusive mode; insert into t values (1)")
                    .succeeded()
                    .status,
                'I'
            );
        }
    }
    assert_nothing_left(&pooler);
}

#[test]
fn a_batch_without_sync_does_not_hold_a_backend() {
    let pooler = Ini::transaction().one_server().start();
    for exit in EXITS {
        for batch in [
            parse("a", "select 1"),
            [parse("b", "select 1"), bind("", "b", &[])].concat(),
            [
                parse("", "select 1"),
                bind("", "", &[]),
                execute("", 0),
                flush(),
            ]
            .concat(),
            [parse("", "select 1"), bind("", "", &[])[..8].to_vec()].concat(),
            flush(),
        ] {
            let mut client = pooler.client();
            client.send(batch);
            exit.take(client);
            assert_next_is_clean(&pooler, "mine");
        }
    }
    becomes("nothing is linked", 0, || pooler.pool("sv_active"));
    assert_nothing_left(&pooler);
}

#[test]
fn a_running_query_of_a_vanished_client_is_cancelled() {
    if only_pgweir("PgBouncer closes the connection and lets the query run on") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    for exit in EXITS {
        for batch in [
            query("select pg_sleep(600)"),
            extended("select pg_sleep(600)", &[]),
            query("begin; select pg_sleep(600)"),
        ] {
            let mut client = pooler.client();
            client.send(batch);
            pooler.database.wait_running(1, "pg_sleep");
            exit.take(client);
            assert_nothing_left(&pooler);
            assert_next_is_clean(&pooler, "mine");
        }
    }
}

#[test]
fn the_backend_of_a_vanished_client_is_free_within_a_second() {
    if only_pgweir("PgBouncer closes the connection and lets the query run on") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    // The best of some: a busy machine is not a defect.
    let times = (0..5).map(|_| {
        let mut client = pooler.client();
        client.send(query("select pg_sleep(20)"));
        pooler.database.wait_running(1, "pg_sleep");
        let start = Instant::now();
        drop(client);
        assert_next_is_clean(&pooler, "mine");
        becomes("the query has ended", 0, || {
            pooler.database.backends_in("active")
        });
        start.elapsed()
    });
    let best = times.min().unwrap_or_default();
    assert!(best < Duration::from_secs(1), "{best:?} at best");
}

#[test]
fn a_session_whose_client_vanished_is_reset() {
    let pooler = Ini::session().one_server().start();
    for exit in EXITS {
        let mut client = pooler.client();
        client.run("set work_mem = '7MB'; create temp table mine (x int)");
        client.run("begin");
        exit.take(client);
        let mut next = pooler.client();
        assert_ne!(next.value("show work_mem"), "7MB");
        assert_eq!(
            next.value("select count(*) from pg_class where relname = 'mine'"),
            "0"
        );
        next.leave();
    }
}

#[test]
fn a_client_that_vanishes_during_login_takes_nothing() {
    let pooler = Ini::transaction().one_server().start();
    let mut holder = pooler.client();
    holder.run("begin");
    for exit in EXITS {
        let mut client = Wire::connect(pooler.address());
        client.send([pooler.login("alice").packet(), query("select 1")].concat());
        exit.take(client);
    }
    holder.run("commit");
    assert_next_is_clean(&pooler, "mine");
}

#[test]
fn a_client_that_does_not_read_stops_only_itself() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    let mut lazy = pooler.client();
    lazy.send(query(
        "select repeat('x', 1000) from generate_series(1, 10000)",
    ));
    let mut others = [pooler.client(), pooler.client()];
    for number in 0..100 {
        for client in &mut others {
            assert_eq!(
                client.value(&format!("select {number}")),
                number.to_string()
            );
        }
    }
    assert_eq!(
        lazy.reply().rows().len(),
        10_000,
        "it gets all when it reads"
    );
}

#[test]
fn an_unread_answer_is_not_kept_in_memory() {
    let pooler = Ini::transaction().set("default_pool_size", 8).start();
    let before = pooler.memory();
    let lazy: Vec<Wire> = (0..8)
        .map(|_| {
            let mut client = pooler.client();
            client.narrow();
            client.send(query(
                "select repeat('x', 100000) from generate_series(1, 1000)",
            ));
            client
        })
        .collect();
    pooler.wait_pool("sv_active", 8);
    // Until the sockets are full and the servers wait.
    becomes("servers wait to write", true, || {
        let waiting = pooler.database.session().value(&format!(
            "select count(*) from pg_stat_activity where datname = '{}' and wait_event = 'ClientWrite'",
            pooler.database.name
        ));
        waiting == "8"
    });
    let grown = pooler.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more for 800 MB of answers");
    drop(lazy);
    pooler.assert_serves();
}

#[test]
fn a_crowd_of_vanishing_clients_never_mixes_answers() {
    let pooler = Ini::transaction().set("default_pool_size", 2).start();
    together(10, |who| {
        let mut random = Random::new(who as u64 + 5);
        for number in 0..30 {
            let token = format!("{who}.{number}");
            let mut client = pooler.client();
            let sql = format!("select repeat('{token} ', {})", 1 + random.below(3000));
            client.send(if random.chance(50) {
                query(&sql)
            } else {
                extended(&sql, &[])
            });
            if random.chance(50) {
                EXITS[random.below(2)].take(client);
                continue;
            }
            let answer = client.reply().value();
            assert!(
                answer.split_terminator(' ').all(|word| word == token),
                "{token}: {answer}"
            );
        }
    });
    assert_nothing_left(&pooler);
    becomes("nothing is linked", 0, || pooler.pool("sv_active"));
}
