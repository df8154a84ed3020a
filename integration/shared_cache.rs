//! Balancers that share what they keep by way of a Redis Cluster, and what
//! happens to their clients when Redis fails: nothing.

use crate::drivers::succeeded;
use crate::front::{Front, curl};
use crate::harness::redis::RedisCluster;
use crate::harness::{becomes, eventually};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use twox_hash::XxHash3_64;

/// A machine that is busy is not to look like a Redis that is slow.
const PATIENT: &str = "shared_cache_timeout = \"1s\"\n";

/// Routes that keep answers for a minute: by request, and as they say.
const ROUTES: &str = "\
[balancer.routes.item]\npath = \"/item/{id}\"\ncache = \"60s\"\n\
[balancer.routes.spoken]\npath = \"/spoken/{id}\"\ncache_control = true\n";

/// One that is kept fresh from the start on.
const WARM: &str = "[balancer.routes.warm]\npath = \"/warm\"\ncache = \"8s\"\n";

/// A balancer in front of an origin of its own, and another one in front of the
/// same.
fn first(cluster: &RedisCluster, routes: &str) -> Front {
    Front::start(&format!("{}{PATIENT}{routes}", cluster.setting()))
}

fn second(first: &Front, cluster: &RedisCluster, routes: &str) -> Front {
    let settings = format!("{}{PATIENT}{routes}", cluster.setting());
    Front::before(Some(first.origin.port), &settings)
}

/// Head and body that curl gets.
fn get(front: &Front, path: &str) -> String {
    let url = format!("http://127.0.0.1:{}{path}", front.plain);
    succeeded(&curl(&["-i", &url]).output().expect("curl runs"))
}

/// A field of a head; none is empty.
fn field(answer: &str, name: &str) -> String {
    let line = answer.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    line.unwrap_or_default().to_owned()
}

fn age(answer: &str) -> u64 {
    let age = field(answer, "age");
    age.parse().unwrap_or_else(|_| panic!("{age:?}: {answer}"))
}

/// Where Redis has the answer to this target.
fn key(target: &str) -> String {
    let hash = Sha256::digest(target);
    let hash: String = hash[..16].iter().map(|it| format!("{it:02x}")).collect();
    format!("front.test:{{{hash}}}")
}

/// The answer has arrived in Redis.
fn arrives(cluster: &RedisCluster, target: &str) {
    let key = key(target);
    becomes("the answer is shared", "1".to_owned(), || {
        cluster.ask(&["EXISTS", &key])
    });
}

/// As often at least: a busy machine may make Redis seem away once more.
fn log_says(front: &Front, text: &str, times: usize) {
    eventually("it is told", || {
        match front.read("log").matches(text).count() {
            found if found >= times => Ok(()),
            found => Err(format!("{found} times: {}", front.read("log"))),
        }
    });
}

#[test]
fn another_balancer_has_what_one_has_fetched_and_its_age() {
    let cluster = RedisCluster::start();
    let first = first(&cluster, ROUTES);
    assert_eq!(
        field(&get(&first, "/item/1?a"), "cache-status"),
        "pgweir; fwd=uri-miss; stored"
    );
    arrives(&cluster, "/item/1?a");
    let second = second(&first, &cluster, ROUTES);
    std::thread::sleep(Duration::from_secs(2));
    let before = get(&first, "/item/1?a");
    let answer = get(&second, "/item/1?a");
    let after = get(&first, "/item/1?a");
    let status = field(&answer, "cache-status");
    assert!(status.starts_with("pgweir; hit; ttl="), "{answer}");
    assert!(status.ends_with("; detail=shared"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nGET 0"), "{answer}");
    // By half a second for the clocks it may be older, and rounded up.
    let ages = age(&before)..=age(&after) + 2;
    assert!(ages.contains(&age(&answer)), "{ages:?}: {answer}");
    assert!(age(&answer) >= 2, "{answer}");
    let again = get(&second, "/item/1?a");
    assert!(!field(&again, "cache-status").contains("detail"), "{again}");
    assert_eq!(first.origin.count(), 1);
    assert_eq!(
        get(&second, "/item/1?b").lines().count(),
        answer.lines().count()
    );
    assert_eq!(first.origin.count(), 2, "another query is another answer");
}

#[test]
fn what_is_kept_fresh_is_fetched_once_for_all_balancers() {
    let cluster = RedisCluster::start();
    let first = first(&cluster, WARM);
    arrives(&cluster, "/warm");
    let second = second(&first, &cluster, WARM);
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(24) {
        for front in [&first, &second] {
            let answer = get(front, "/warm");
            let status = field(&answer, "cache-status");
            assert!(status.starts_with("pgweir; hit; ttl="), "{answer}");
            assert!(age(&answer) < 8, "{answer}");
            asked += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Each is fetched at three quarters of its life, so alone every balancer
    // would have fetched five.
    let fetched = first.origin.count();
    assert!((4..=7).contains(&fetched), "{fetched} for {asked} requests");
}

#[test]
fn a_lease_that_nobody_gives_back_delays_no_client() {
    let cluster = RedisCluster::start();
    let lease = format!("{}:lease", key("/warm"));
    assert_eq!(cluster.ask(&["SET", &lease, "1", "PX", "100000"]), "OK");
    let front = first(&cluster, WARM);
    arrives(&cluster, "/warm");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        let answer = get(&front, "/warm");
        let status = field(&answer, "cache-status");
        assert!(status.starts_with("pgweir; hit; ttl="), "{answer}");
        assert!(age(&answer) < 8, "{answer}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(front.origin.count() >= 2, "it was fetched anew");
    assert_eq!(cluster.ask(&["EXISTS", &lease]), "1");
}

#[test]
fn what_another_method_has_changed_is_not_taken_from_redis() {
    let cluster = RedisCluster::start();
    let first = first(&cluster, ROUTES);
    get(&first, "/spoken/1");
    arrives(&cluster, "/spoken/1");
    // What another balancer may write once more.
    let old = cluster.value(&key("/spoken/1"));
    let url = format!("http://127.0.0.1:{}/spoken/1", first.plain);
    let posted = curl(&["-d", "x", &url]).output().expect("curl runs");
    assert_eq!(succeeded(&posted), "POST 1");
    becomes("it is gone", "0".to_owned(), || {
        cluster.ask(&["EXISTS", &key("/spoken/1")])
    });
    cluster.put(&key("/spoken/1"), &old);
    let answer = get(&first, "/spoken/1");
    let status = field(&answer, "cache-status");
    assert_eq!(status, "pgweir; fwd=uri-miss; stored", "{answer}");
    assert_eq!(first.origin.count(), 3);
}

#[test]
fn what_is_damaged_or_from_the_future_is_fetched_from_a_node() {
    let cluster = RedisCluster::start();
    let first = first(&cluster, ROUTES);
    let second = second(&first, &cluster, ROUTES);
    let mut fetched = 0;
    let mut taken = |target: &str, spoil: &dyn Fn(&str, Vec<u8>)| {
        get(&first, target);
        arrives(&cluster, target);
        spoil(&key(target), cluster.value(&key(target)));
        let answer = get(&second, target);
        assert!(answer.ends_with("\r\n\r\nGET 0"), "{answer}");
        let before = std::mem::replace(&mut fetched, first.origin.count());
        fetched - before == 1
    };
    assert!(taken("/item/1", &|_, _| ()), "nothing is wrong with it");
    let put = |key: &str, value: &[u8]| cluster.put(key, value);
    assert!(taken("/item/2", &|key, value| put(key, &value)));
    for (target, damage) in [
        ("/item/3", &b"something else"[..]),
        ("/item/4", &[1][..]),
        ("/item/5", &[0xff; 3_000_000][..]),
    ] {
        assert!(!taken(target, &|key, _| put(key, damage)), "{target}");
    }
    assert!(!taken("/item/6", &|key, mut value| {
        value[40] ^= 1;
        put(key, &value);
    }));
    assert!(!taken("/item/7", &|key, _| {
        cluster.ask(&["DEL", key]);
        assert_eq!(cluster.ask(&["RPUSH", key, "a", "b"]), "2");
    }));
    assert!(!taken("/item/8", &|key, _| {
        assert_eq!(cluster.ask(&["PERSIST", key]), "1");
    }));
    let later_by = |by: u64| {
        move |key: &str, mut value: Vec<u8>| {
            let born = u64::from_be_bytes(value[1..9].try_into().expect("eight"));
            value[1..9].copy_from_slice(&(born + by).to_be_bytes());
            let end = value.len() - 8;
            let sum = XxHash3_64::oneshot(&value[..end]);
            value[end..].copy_from_slice(&sum.to_be_bytes());
            put(key, &value);
        }
    };
    assert!(!taken("/item/9", &later_by(20_000)));
    assert!(taken("/item/10", &later_by(0)), "its checksum is right");
}

#[test]
fn a_wrong_password_is_told_and_the_right_one_is_read_by_a_reload() {
    let cluster = RedisCluster::start();
    cluster.all(&["CONFIG", "SET", "requirepass", "planted"]);
    let wrong = "shared_cache_password = \"wrong\"";
    let front = Front::start(&format!("{}{PATIENT}{wrong}\n{ROUTES}", cluster.setting()));
    get(&front, "/item/1");
    log_says(&front, "the shared cache cannot be used", 1);
    assert!(
        front.read("log").contains("authentication failed"),
        "{}",
        front.read("log")
    );
    assert!(!front.read("log").contains("planted"));
    front.write("secret", b"planted\nmore\n");
    let right = "shared_cache_password_file = \"secret\"";
    let config = front.read("pgweir.toml").replace(wrong, right);
    front.write("pgweir.toml", config.as_bytes());
    let front = front.reloaded();
    let mut number = 1;
    eventually("it is used", || {
        number += 1;
        get(&front, &format!("/item/{number}"));
        match front.read("log").contains("the shared cache is used") {
            true => Ok(()),
            false => Err(front.read("log")),
        }
    });
    assert!(!front.read("log").contains("planted"));
}

#[test]
fn a_user_who_may_only_read_takes_what_is_there() {
    let cluster = RedisCluster::start();
    let first = first(&cluster, ROUTES);
    get(&first, "/item/1");
    arrives(&cluster, "/item/1");
    let may = "+getrange +pttl +ping +cluster|slots";
    let mut user = vec!["ACL", "SETUSER", "reader", "on", ">planted", "~*"];
    user.extend(may.split(' '));
    cluster.all(&user);
    let login = "shared_cache_user = \"reader\"\nshared_cache_password = \"planted\"\n";
    let reader = second(&first, &cluster, &format!("{login}{ROUTES}"));
    let answer = get(&reader, "/item/1");
    assert!(field(&answer, "cache-status").ends_with("detail=shared"));
    for number in 2..5 {
        assert!(get(&reader, &format!("/item/{number}")).ends_with("GET 0"));
    }
    log_says(
        &reader,
        "the shared cache forbids its user what is needed",
        1,
    );
    let answer = get(&reader, "/item/1");
    assert!(answer.ends_with("GET 0"), "{answer}");
    assert_eq!(reader.read("log").matches("forbids its user").count(), 1);
    assert!(!reader.read("log").contains("planted"));
}

#[test]
fn a_full_redis_is_told_once_and_answers_are_given_all_the_same() {
    let cluster = RedisCluster::start();
    let front = first(&cluster, ROUTES);
    get(&front, "/item/1");
    arrives(&cluster, "/item/1");
    cluster.all(&["CONFIG", "SET", "maxmemory", "1"]);
    for number in 2..6 {
        assert!(get(&front, &format!("/item/{number}")).ends_with("GET 0"));
    }
    log_says(&front, "the shared cache is full", 1);
    assert_eq!(front.read("log").matches("is full").count(), 1);
    // What is there is of use.
    let other = second(&front, &cluster, ROUTES);
    let answer = get(&other, "/item/1");
    assert!(field(&answer, "cache-status").ends_with("detail=shared"));
    cluster.all(&["CONFIG", "SET", "maxmemory", "0"]);
    get(&front, "/item/6");
    arrives(&cluster, "/item/6");
    log_says(&front, "the shared cache takes answers again", 1);
    assert!(!front.read("log").contains("cannot be used"));
}

/// Asks for one answer after the other that nobody has, on one connection,
/// until it is told to end. How many were given, and the longest wait.
fn load(front: &Front, from: &str, ends: &AtomicBool) -> (usize, Duration) {
    let stream = TcpStream::connect(("127.0.0.1", front.plain)).expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let mut writer = stream.try_clone().expect("a descriptor");
    let mut reader = BufReader::new(stream);
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !ends.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = format!("GET /item/{from}{count} HTTP/1.1\r\nhost: a\r\n\r\n");
        writer.write_all(request.as_bytes()).expect("it reads");
        let mut line = String::new();
        reader.read_line(&mut line).expect("it answers");
        assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("a head");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
        }
        reader.read_exact(&mut vec![0; length]).expect("a body");
        longest = longest.max(begun.elapsed());
        count += 1;
        // The targets that are known at once are bounded.
        std::thread::sleep(Duration::from_millis(5));
    }
    (count, longest)
}

/// More than a machine that is busy makes a request wait, and less than one
/// would wait for a Redis that does not answer without a deadline.
const GENEROUS: Duration = Duration::from_secs(3);

/// What happens during `deed` to clients whose answers are nowhere: none of
/// their requests fails or takes long.
fn under_load(front: &Front, from: &str, deed: impl FnOnce()) {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let loads = ["a", "b"].map(|it| {
            let (ends, from) = (&ends, format!("{from}{it}"));
            scope.spawn(move || load(front, &from, ends))
        });
        deed();
        ends.store(true, Ordering::Relaxed);
        for load in loads {
            let (count, longest) = load.join().expect("nothing failed");
            assert!(count > 10, "{count}");
            assert!(longest < GENEROUS, "{longest:?} of {count}");
        }
    });
}

#[test]
fn clients_do_not_feel_a_redis_that_does_not_answer() {
    let cluster = RedisCluster::start();
    let front = Front::start(&format!("{}{ROUTES}", cluster.setting()));
    under_load(&front, "stopped", || {
        log_says(&front, "the shared cache is used", 1);
        cluster.stop();
        log_says(&front, "the shared cache cannot be used", 1);
        // It is left alone: nobody waits for it.
        let begun = Instant::now();
        get(&front, "/item/while");
        assert!(begun.elapsed() < GENEROUS);
        std::thread::sleep(Duration::from_secs(2));
        cluster.go_on();
        log_says(&front, "the shared cache is used", 2);
    });
}

#[test]
fn clients_do_not_feel_a_redis_that_dies() {
    let mut cluster = RedisCluster::start();
    let front = first(&cluster, ROUTES);
    under_load(&front, "dead", || {
        log_says(&front, "the shared cache is used", 1);
        cluster.kill_all();
        log_says(&front, "the shared cache cannot be used", 1);
        std::thread::sleep(Duration::from_secs(2));
    });
    assert_eq!(front.read("log").matches("the shared cache").count(), 2);
}

#[test]
fn a_balancer_starts_without_its_redis() {
    let mut cluster = RedisCluster::start();
    cluster.kill_all();
    let front = first(&cluster, ROUTES);
    assert!(get(&front, "/item/1").ends_with("GET 0"));
    log_says(&front, "the shared cache cannot be used", 1);
}

#[test]
fn a_replica_takes_the_place_of_a_dead_master() {
    let mut cluster = RedisCluster::with_replicas();
    let first = first(&cluster, ROUTES);
    let second = second(&first, &cluster, ROUTES);
    let shared = |name: &str| {
        let target = format!("/item/{name}");
        get(&first, &target);
        let answer = get(&second, &target);
        field(&answer, "cache-status").ends_with("detail=shared")
    };
    eventually("answers are shared", || match shared("before") {
        true => Ok(()),
        false => Err(first.read("log")),
    });
    under_load(&first, "failover", || {
        // Not the first, which the test asks.
        cluster.kill(1);
        std::thread::sleep(Duration::from_secs(4));
    });
    let mut round = 0;
    // The targets of a round are on all nodes.
    eventually("answers are shared again, wherever they are", || {
        round += 1;
        let all = (0..12).filter(|it| {
            let target = format!("/item/after{round}.{it}");
            get(&first, &target);
            std::thread::sleep(Duration::from_millis(100));
            let answer = get(&second, &target);
            field(&answer, "cache-status").ends_with("detail=shared")
        });
        match all.count() {
            12 => Ok(()),
            less => Err(format!("{less} of 12: {}", second.read("log"))),
        }
    });
}
