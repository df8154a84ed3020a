//! What per-query statistics cost: nanoseconds per call of each step, the
//! best of several rounds, and memory and scrape time with 5000 statements.
//! Run with `cargo bench --bench fingerprint`.

use std::hint::black_box;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgweir::config;
use pgweir::gateway::{Normaliser, Observer, Outcome, Queries, QueryCollector};
use prometheus::core::Collector;

const ROUNDS: usize = 15;

/// More than an observer remembers word for word, so that each is new to it.
const DISTINCT: usize = 16 * 1024;

fn queries() -> Arc<Queries> {
    Queries::new(&config::Queries {
        enabled: true,
        max_statements: 5000,
        max_exported: 100,
        max_text: 2048,
    })
}

fn report(name: &str, value: impl std::fmt::Display) {
    writeln!(std::io::stdout(), "{name:<58}{value:>12}").expect("somebody reads this");
}

/// Calls `step` with each input in turn and reports the time per call.
fn bench<T>(name: &str, inputs: &[T], mut step: impl FnMut(&T)) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        inputs.iter().for_each(&mut step);
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / inputs.len() as f64);
    }
    report(name, format!("{best:.0} ns"));
}

fn pgbench() -> Vec<String> {
    let select = |aid| format!("SELECT abalance FROM pgbench_accounts WHERE aid = {aid};");
    (0..DISTINCT).map(|n| select(100_000 + n * 7)).collect()
}

/// 100 bytes with two constants.
fn hundred_bytes() -> Vec<String> {
    let select = |id| {
        format!(
            "SELECT o.id, o.total FROM orders o WHERE o.customer = {id} AND o.state = 'paid' ORDER BY o.id DESC"
        )
    };
    (0..DISTINCT).map(|n| select(10_000 + n)).collect()
}

/// What an object mapper writes: 1 kB, names in quotes, a list of ids.
fn mapper() -> Vec<String> {
    let columns: Vec<_> = (0..22)
        .map(|n| format!("\"customers\".\"column_{n}\" AS \"c{n}\""))
        .collect();
    let ids = |n: usize| {
        (0..20)
            .map(|i| (n * 31 + i).to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let select = |n| {
        let columns = columns.join(", ");
        format!(
            "SELECT {columns} FROM \"customers\" WHERE \"customers\".\"id\" IN ({})",
            ids(n)
        )
    };
    (0..DISTINCT / 4).map(select).collect()
}

fn steps() {
    let queries = queries();
    let shop = queries.database_id("shop");
    let mut observer = queries.observer();
    let outcome = Outcome {
        server_time: Some(Duration::from_micros(70)),
        wait_time: Duration::from_micros(3),
        rows: 1,
        received: 60,
        sent: 90,
        error: None,
    };
    for (name, texts) in [
        ("pgbench", pgbench()),
        ("100 bytes", hundred_bytes()),
        ("1 kB", mapper()),
    ] {
        let of = |what: &str| format!("{what}, {name} ({} bytes)", texts[0].len());
        let hot: Vec<_> = texts.iter().take(500).cycle().take(DISTINCT).collect();
        let mut normaliser = Normaliser::default();
        bench(&of("normal form and fingerprint"), &texts, |sql| {
            black_box(normaliser.normalise(sql.as_bytes()).fingerprint());
        });
        bench(&of("observe, text new"), &texts, |sql| {
            black_box(observer.observe(shop, sql.as_bytes()));
        });
        bench(&of("observe, text known, 500 in turn"), &hot, |sql| {
            black_box(observer.observe(shop, sql.as_bytes()));
        });
    }
    let slot = observer.observe(shop, b"select 1");
    bench("record", &[(); DISTINCT], |()| {
        observer.record(black_box(slot), black_box(&outcome))
    });
    let text = pgbench().swap_remove(0);
    bench("observe, one known text", &[(); DISTINCT], |()| {
        black_box(observer.observe(shop, black_box(text.as_bytes())));
    });
    let shared = Mutex::new(observer);
    bench(
        "observe, one known text, behind a lock",
        &[(); DISTINCT],
        |()| {
            let mut observer = shared.lock().expect("nobody panics");
            black_box(observer.observe(shop, black_box(text.as_bytes())));
        },
    );
}

/// Memory of the process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("always there");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .expect("a number")
        * 1024
}

/// 5000 statements of about 200 bytes, run by two workers, with times over six
/// octaves each.
fn full() {
    let before = resident();
    let queries = queries();
    let shop = queries.database_id("shop");
    let mut workers: Vec<Observer> = (0..2).map(|_| queries.observer()).collect();
    let columns = "customers.id, customers.name, customers.surname, customers.birthday";
    for n in 0..5000 {
        let sql = format!(
            "SELECT {columns} FROM t{n} WHERE t{n}.id IN ($1) ORDER BY customers.surname ASC, customers.name ASC, customers.id DESC LIMIT 100000"
        );
        for worker in &mut workers {
            let slot = worker.observe(shop, sql.as_bytes());
            for octave in 0..6 {
                let server_time = Some(Duration::from_micros((60 + n % 50) << octave));
                worker.record(
                    slot,
                    &Outcome {
                        server_time,
                        ..Outcome::default()
                    },
                );
            }
        }
    }
    let used = (resident() - before) as f64 / (1024.0 * 1024.0);
    report(
        "memory, 5000 statements, 2 workers",
        format!("{used:.1} MiB"),
    );
    let time = |name: &str, step: &dyn Fn()| {
        let best = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            step();
            start.elapsed()
        });
        report(name, format!("{:.1?}", best.min().expect("some rounds")));
    };
    time("all rows, 5000 statements, 2 workers", &|| {
        queries.rows().for_each(|row| drop(black_box(row)))
    });
    let collector = QueryCollector::new(Arc::clone(&queries));
    time("scrape, 100 of 5000 statements, 2 workers", &|| {
        drop(black_box(collector.collect()))
    });
    let used = (resident() - before) as f64 / (1024.0 * 1024.0);
    report("memory, the same, after scrapes", format!("{used:.1} MiB"));
}

fn main() {
    full();
    steps();
}
