use super::*;

type Pool = State<u32, u32>;

fn pool(pool_size: u32) -> Pool {
    State::new(Limits {
        pool_size,
        server_login_retry: Duration::from_secs(15),
        ..Limits::default()
    })
}

fn at(seconds: u64) -> Micros {
    Micros(seconds * 1_000_000)
}

fn open(pool: &mut Pool, server: u32) -> Returned<u32, u32> {
    pool.login_begun();
    pool.login_succeeded(server, 0, at(0))
}

fn refusal() -> LoginFailure {
    LoginFailure {
        sqlstate: "28P01".into(),
        message: "no".into(),
        refused: true,
    }
}

#[test]
fn a_flood_opens_as_many_servers_as_wait_up_to_the_size() {
    let mut pool = pool(3);
    for client in 0..2 {
        assert_eq!(pool.checkout(&client, 0, at(0)), Checkout::Queued);
    }
    assert_eq!(pool.logins_wanted(at(0)), 2);
    for client in 2..10 {
        pool.checkout(&client, 0, at(0));
    }
    assert_eq!(pool.logins_wanted(at(0)), 3);
    (0..3).for_each(|_| pool.login_begun());
    assert_eq!(pool.logins_wanted(at(0)), 0);
}

#[test]
fn servers_go_to_the_longest_waiting() {
    let mut pool = pool(1);
    pool.checkout(&7, 0, at(0));
    pool.checkout(&8, 0, at(1));
    assert_eq!(open(&mut pool, 100), Returned::Granted(7, 100));
    assert_eq!(pool.release(100, 0, at(2)), Returned::Granted(8, 100));
    assert_eq!(pool.release(100, 0, at(3)), Returned::Kept);
    assert_eq!(pool.checkout(&9, 0, at(4)), Checkout::Ready(100));
}

#[test]
fn a_server_stays_with_its_worker_while_the_queues_go_on_alike() {
    let mut pool = pool(1);
    pool.checkout(&7, 1, Micros(0));
    pool.checkout(&8, 0, Micros(2_000));
    assert_eq!(open(&mut pool, 100), Returned::Granted(8, 100));
    pool.checkout(&9, 0, Micros(2_001));
    let returned = pool.release(100, 0, Micros(2_002));
    assert_eq!(returned, Returned::Granted(7, 100));
}

#[test]
fn only_the_front_of_a_long_queue_is_looked_through() {
    let mut pool = pool(1);
    for client in 0..40 {
        pool.checkout(&client, usize::from(client < 39), at(0));
    }
    assert_eq!(open(&mut pool, 100), Returned::Granted(0, 100));
}

#[test]
fn the_newest_idle_server_of_the_own_worker_is_taken_first() {
    let mut pool = pool(3);
    for (server, home) in [(1, 0), (2, 0), (3, 1)] {
        pool.login_begun();
        pool.login_succeeded(server, home, at(0));
    }
    assert_eq!(pool.take_idle(0), Some(2));
    assert_eq!(pool.take_idle(0), Some(1));
    assert_eq!(pool.take_idle(0), Some(3));
    assert_eq!(pool.take_idle(0), None);
}

#[test]
fn a_client_that_left_gets_nothing() {
    let mut pool = pool(1);
    pool.checkout(&7, 0, at(0));
    assert!(pool.leave(&7));
    assert!(!pool.leave(&7));
    assert_eq!(open(&mut pool, 100), Returned::Kept);
}

#[test]
fn after_a_failure_one_login_at_a_time_with_growing_pauses() {
    let mut pool = pool(5);
    (0..5).for_each(|client| {
        pool.checkout(&client, 0, at(0));
    });
    pool.login_begun();
    let failure = LoginFailure {
        refused: false,
        ..refusal()
    };
    assert_eq!(pool.login_failed(failure.clone(), at(0)), [0u32; 0]);
    assert_eq!(pool.logins_wanted(at(0)), 0);
    assert_eq!(pool.logins_wanted(Micros(100_000)), 1);
    pool.login_begun();
    pool.login_failed(failure, Micros(100_000));
    assert_eq!(pool.logins_wanted(Micros(299_999)), 0);
    assert_eq!(pool.logins_wanted(Micros(300_000)), 1);
    assert_eq!(open(&mut pool, 1), Returned::Granted(0, 1));
    assert_eq!(pool.logins_wanted(at(1)), 4);
}

#[test]
fn a_refusal_is_told_to_all_who_wait_and_to_newcomers() {
    let mut pool = pool(5);
    pool.checkout(&1, 0, at(0));
    pool.checkout(&2, 0, at(0));
    pool.login_begun();
    assert_eq!(pool.login_failed(refusal(), at(0)), [1, 2]);
    assert!(matches!(pool.checkout(&3, 0, at(0)), Checkout::Failing(_)));
}

#[test]
fn after_the_pause_a_newcomer_waits_for_a_new_attempt() {
    let mut pool = pool(5);
    pool.checkout(&1, 0, at(0));
    pool.login_begun();
    pool.login_failed(refusal(), at(0));
    assert_eq!(pool.checkout(&2, 0, at(1)), Checkout::Queued);
    assert_eq!(pool.logins_wanted(at(1)), 1);
}

#[test]
fn a_forgotten_failure_neither_answers_nor_delays() {
    let mut pool = pool(1);
    pool.checkout(&1, 0, at(0));
    pool.login_begun();
    pool.login_failed(refusal(), at(0));
    assert!(matches!(pool.checkout(&2, 0, at(0)), Checkout::Failing(_)));
    pool.forget_failure();
    assert_eq!(pool.checkout(&2, 0, at(0)), Checkout::Queued);
    assert_eq!(pool.logins_wanted(at(0)), 1);
}

#[test]
fn a_failure_beside_a_working_server_lets_clients_wait() {
    let mut pool = pool(2);
    open(&mut pool, 1);
    assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Ready(1));
    pool.checkout(&2, 0, at(0));
    pool.login_begun();
    assert_eq!(pool.login_failed(refusal(), at(0)), [0u32; 0]);
    assert_eq!(pool.checkout(&3, 0, at(0)), Checkout::Queued);
}

#[test]
fn a_failure_beside_servers_that_are_to_be_closed_is_told() {
    let mut pool = pool(3);
    open(&mut pool, 1);
    assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Ready(1));
    pool.set_stale();
    pool.checkout(&2, 0, at(0));
    pool.login_begun();
    assert_eq!(pool.login_failed(refusal(), at(0)), [2]);
    open(&mut pool, 2);
    assert_eq!(pool.checkout(&3, 0, at(0)), Checkout::Ready(2));
    pool.checkout(&4, 0, at(0));
    pool.login_begun();
    assert_eq!(pool.login_failed(refusal(), at(0)), [0u32; 0]);
}

#[test]
fn the_reserve_opens_for_a_client_that_waited_too_long() {
    let mut pool = pool(1);
    pool.set_limits(Limits {
        reserve_pool_size: 1,
        reserve_pool_timeout: Duration::from_secs(5),
        ..pool.limits()
    });
    open(&mut pool, 1);
    pool.take_idle(0);
    pool.checkout(&1, 0, at(0));
    assert_eq!(pool.logins_wanted(at(5)), 0);
    assert_eq!(pool.logins_wanted(at(6)), 1);
}

#[test]
fn the_minimum_is_opened_one_at_a_time_and_never_closed_for_idleness() {
    let mut pool = pool(5);
    pool.set_limits(Limits {
        min_pool_size: 2,
        ..pool.limits()
    });
    assert_eq!(pool.logins_wanted(at(0)), 1);
    (0..3).for_each(|server| {
        open(&mut pool, server);
    });
    assert_eq!(pool.logins_wanted(at(0)), 0);
    assert_eq!(pool.close_idle(|_, _, spare| spare > 0).len(), 1);
}

#[test]
fn a_closing_server_counts_until_it_is_gone() {
    let mut pool = pool(1);
    open(&mut pool, 1);
    pool.take_idle(0);
    pool.checkout(&1, 0, at(0));
    pool.active_closing();
    assert_eq!(pool.logins_wanted(at(0)), 0);
    pool.closed();
    assert_eq!(pool.logins_wanted(at(0)), 1);
}

#[test]
fn a_login_nobody_wants_any_more_makes_room_when_it_is_gone() {
    let mut pool = pool(1);
    pool.checkout(&1, 0, at(0));
    pool.login_begun();
    pool.login_closing();
    assert_eq!(pool.logins_wanted(at(0)), 0);
    pool.closed();
    assert_eq!(pool.logins_wanted(at(0)), 1);
}

#[test]
fn one_login_probes_a_host_that_none_has_succeeded_at() {
    let mut pool = pool(5);
    pool.set_limits(Limits {
        probes: true,
        ..pool.limits()
    });
    for client in 1..=3 {
        pool.enqueue(&client, 0, at(0));
    }
    assert_eq!(pool.logins_wanted(at(0)), 1);
    pool.login_begun();
    assert_eq!(pool.logins_wanted(at(0)), 0);
    assert_eq!(pool.login_succeeded(7, 0, at(0)), Returned::Granted(1, 7));
    assert_eq!(pool.logins_wanted(at(0)), 2);
}

#[test]
fn the_login_of_a_clients_own_server_probes_a_host_for_all() {
    let mut pool = pool(5);
    pool.set_limits(Limits {
        probes: true,
        ..pool.limits()
    });
    pool.enqueue_apart(&1, at(0));
    pool.enqueue(&2, 0, at(0));
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Own));
    pool.own_login_begun();
    assert_eq!(pool.next_login(at(0)), None);
    assert!(pool.own_login_succeeded(&1));
    pool.enqueue(&3, 0, at(0));
    assert_eq!(pool.logins_wanted(at(0)), 2);
}

#[test]
fn a_paused_pool_hands_out_nothing_and_keeps_nothing() {
    let mut pool = pool(2);
    open(&mut pool, 1);
    open(&mut pool, 2);
    assert_eq!(pool.take_idle(0), Some(2));
    pool.set_paused(true);
    assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Queued);
    assert_eq!(pool.logins_wanted(at(0)), 0);
    assert_eq!(pool.release(2, 0, at(0)), Returned::Close(2));
    pool.set_paused(false);
    assert_eq!(pool.grant_idle(), [(1, 1)]);
}

#[test]
fn who_is_to_have_its_own_server_gets_none_of_the_others() {
    let mut pool = pool(2);
    open(&mut pool, 1);
    pool.enqueue_apart(&7, at(0));
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Own));
    assert_eq!(pool.own_login_begun(), Some(7));
    assert_eq!(pool.next_login(at(0)), None);
    assert_eq!(pool.checkout(&8, 0, at(0)), Checkout::Ready(1));
    assert_eq!(pool.release(1, 0, at(0)), Returned::Kept);
    assert!(pool.own_login_succeeded(&7));
    let counts = pool.counts();
    assert_eq!((counts.active, counts.idle, pool.waiting()), (1, 1, 0));
}

#[test]
fn a_login_of_its_own_does_not_stand_for_that_of_others() {
    let mut pool = pool(2);
    pool.enqueue_apart(&7, at(0));
    pool.own_login_begun();
    pool.checkout(&8, 0, at(0));
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Shared));
}

#[test]
fn an_idle_server_makes_place_for_one_of_its_own() {
    let mut pool = pool(2);
    open(&mut pool, 1);
    open(&mut pool, 2);
    assert_eq!(pool.make_place(at(0)), None);
    pool.enqueue_apart(&7, at(0));
    assert_eq!(pool.make_place(at(0)), Some(1));
    assert_eq!(pool.make_place(at(0)), None);
    assert_eq!(pool.next_login(at(0)), None);
    pool.closed();
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Own));
}

#[test]
fn a_full_pool_serves_in_turn_who_is_to_have_its_own() {
    let mut pool = pool(1);
    open(&mut pool, 1);
    assert_eq!(pool.checkout(&1, 0, at(0)), Checkout::Ready(1));
    pool.checkout(&2, 0, at(1));
    pool.enqueue_apart(&7, at(2));
    pool.checkout(&3, 0, at(3));
    assert_eq!(pool.release(1, 0, at(4)), Returned::Granted(2, 1));
    assert_eq!(pool.release(1, 0, at(5)), Returned::Close(1));
    pool.closed();
    assert_eq!(pool.next_login(at(5)), Some(Wanted::Own));
    pool.own_login_begun();
    assert!(pool.own_login_succeeded(&7));
    assert_eq!(pool.next_login(at(5)), None);
}

#[test]
fn what_its_own_server_refuses_is_nobody_elses_matter() {
    let mut pool = pool(2);
    pool.enqueue_apart(&7, at(0));
    pool.checkout(&8, 0, at(0));
    pool.own_login_begun();
    assert!(pool.own_login_refused(&7));
    assert_eq!((pool.waiting(), pool.failure()), (1, None));
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Shared));
}

#[test]
fn who_cannot_reach_its_own_server_waits_for_the_next_try() {
    let mut pool = pool(2);
    pool.enqueue_apart(&7, at(0));
    pool.own_login_begun();
    let failure = LoginFailure {
        refused: false,
        ..refusal()
    };
    assert_eq!(pool.own_login_failed(&7, failure, at(0)), [0u32; 0]);
    assert_eq!(pool.next_login(at(0)), None);
    assert_eq!(pool.next_login(at(1)), Some(Wanted::Own));
}

#[test]
fn a_server_is_closed_whose_only_client_has_gone_or_is_paused() {
    let mut pool = pool(2);
    for client in [7, 8] {
        pool.enqueue_apart(&client, at(0));
        pool.own_login_begun();
    }
    assert!(pool.leave(&7));
    assert!(!pool.own_login_succeeded(&7));
    pool.set_paused(true);
    assert!(!pool.own_login_succeeded(&8));
    pool.closed();
    pool.closed();
    assert_eq!(pool.next_login(at(0)), None);
    pool.set_paused(false);
    assert_eq!(pool.next_login(at(0)), Some(Wanted::Own));
    assert_eq!(pool.counts(), Counts::default());
}

#[test]
fn lowered_sizes_close_what_comes_back() {
    let mut pool = pool(2);
    open(&mut pool, 1);
    open(&mut pool, 2);
    pool.take_idle(0);
    pool.set_limits(Limits {
        pool_size: 1,
        ..pool.limits()
    });
    assert_eq!(pool.surplus(), 1);
    assert_eq!(pool.release(2, 0, at(0)), Returned::Close(2));
}
