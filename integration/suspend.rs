//! SUSPEND: everything stands still and goes on as if nothing had been.

use crate::harness::frontend::{bind, execute, parse, query, sync};
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::wire::{Lost, Wire};
use crate::harness::{becomes, only_pgweir};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Time in which an answer would come if one came at all.
const MOMENT: Duration = Duration::from_millis(300);

/// A console that has suspended the pooler. Its end resumes it.
fn suspended(pooler: &Pooler<'_>) -> Wire {
    let mut console = pooler.console_of("admin");
    assert_eq!(console.query("SUSPEND").succeeded().tags(), ["SUSPEND"]);
    console
}

fn resume(console: &mut Wire) {
    assert_eq!(console.query("RESUME").succeeded().tags(), ["RESUME"]);
}

#[track_caller]
fn assert_silent(client: &mut Wire) {
    client.patience(MOMENT);
    assert_eq!(client.recv_any(), Err(Lost::Silent));
    client.patience(crate::harness::DEADLINE);
}

#[test]
fn clients_are_not_served_until_resume() {
    let pooler = Ini::transaction().start();
    let (mut idle, mut inside) = (pooler.client(), pooler.client());
    inside.run("begin");
    let pid = inside.backend_pid();
    let mut console = suspended(&pooler);
    idle.send(query("select 'idle'"));
    inside.send(query("select 'inside'"));
    assert_silent(&mut idle);
    assert_silent(&mut inside);
    resume(&mut console);
    assert_eq!(idle.reply().value(), "idle");
    assert_eq!(inside.reply().value(), "inside");
    assert_eq!(inside.backend_pid(), pid);
    inside.run("commit");
}

#[test]
fn an_answer_that_comes_meanwhile_waits() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    client.send(query("select 'slept' from pg_sleep(0.3)"));
    pooler.wait_pool("cl_active", 1);
    let mut console = suspended(&pooler);
    std::thread::sleep(MOMENT);
    assert_silent(&mut client);
    resume(&mut console);
    assert_eq!(client.reply().value(), "slept");
}

#[test]
fn a_message_that_has_begun_is_waited_for() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let message = query("select 'whole'");
    client.send(&message[..9]);
    let mut console = pooler.console_of("admin");
    std::thread::sleep(MOMENT);
    console.send(query("SUSPEND"));
    assert_silent(&mut console);
    client.send(&message[9..]);
    assert_eq!(console.reply().succeeded().tags(), ["SUSPEND"]);
    resume(&mut console);
    assert_eq!(client.reply().value(), "whole");
}

#[test]
fn a_client_that_waits_for_a_server_is_served_first() {
    let pooler = Ini::transaction().one_server().start();
    let (mut holder, mut waiting) = (pooler.client(), pooler.client());
    holder.send(query("select pg_sleep(0.5)"));
    pooler.wait_pool("cl_active", 2);
    waiting.send(query("select 'served'"));
    pooler.wait_pool("cl_waiting", 1);
    let mut console = pooler.console_of("admin");
    assert_eq!(console.query("SUSPEND").succeeded().tags(), ["SUSPEND"]);
    resume(&mut console);
    holder.reply().succeeded();
    assert_eq!(waiting.reply().value(), "served");
}

#[test]
fn whoever_holds_what_others_wait_for_goes_on_until_they_have_it() {
    if only_pgweir("PgBouncer drops those who wait after suspend_timeout") {
        return;
    }
    let pooler = Ini::transaction().one_server().start();
    let (mut holder, mut waiting) = (pooler.client(), pooler.client());
    holder.run("begin");
    waiting.send(query("select 'served'"));
    pooler.wait_pool("cl_waiting", 1);
    let mut console = pooler.console_of("admin");
    console.send(query("SUSPEND"));
    assert_silent(&mut console);
    holder.run("select 'goes on'");
    holder.run("commit");
    assert_eq!(waiting.reply().value(), "served");
    assert_eq!(console.reply().succeeded().tags(), ["SUSPEND"]);
    holder.send(query("select 'later'"));
    assert_silent(&mut holder);
    resume(&mut console);
    assert_eq!(holder.reply().value(), "later");
}

#[test]
fn suspend_timeout_drops_whoever_does_not_come_to_rest() {
    let pooler = Ini::transaction().set("suspend_timeout", 1).start();
    let (mut half, mut calm) = (pooler.client().lawless(), pooler.client());
    half.send(&query("select 1")[..7]);
    std::thread::sleep(MOMENT);
    let mut console = suspended(&pooler);
    let fatal = half.expect_fatal();
    assert_eq!((fatal.code(), fatal.text()), ("08P01", "suspend_timeout"));
    resume(&mut console);
    assert_eq!(calm.value("select 'here'"), "here");
}

#[test]
fn newcomers_wait_at_the_door() {
    let pooler = Ini::transaction().start();
    pooler.client().run("select 1");
    let mut console = suspended(&pooler);
    let mut late = Wire::connect(pooler.address());
    let login = pooler.login("alice");
    late.send(login.packet());
    assert_silent(&mut late);
    resume(&mut console);
    late.finish_login(&login).expect("let in");
    assert_eq!(late.value("select 'in'"), "in");
}

#[test]
fn the_end_of_the_last_console_resumes() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    suspended(&pooler).leave();
    assert_eq!(client.value("select 'on'"), "on");
    pooler.wait_log("admin disappeared when suspended, doing RESUME");
}

#[test]
fn state_and_the_other_commands_know_of_it() {
    let pooler = Ini::transaction().start();
    pooler.client().run("select 1");
    let mut console = suspended(&pooler);
    let rows = console.query("SHOW STATE").rows();
    let texts: Vec<_> = rows
        .iter()
        .flatten()
        .flatten()
        .map(String::as_str)
        .collect();
    assert_eq!(texts, ["active", "no", "paused", "no", "suspended", "yes"]);
    for command in ["SUSPEND", "PAUSE", "PAUSE db", "KILL db"] {
        let reply = console.query(command);
        let error = reply.error().expect("refused");
        assert_eq!(error.text(), "already suspended/paused", "{command}");
    }
    resume(&mut console);
    let error = console.query("RESUME");
    let error = error.error().expect("refused");
    assert_eq!(error.text(), "pooler is not paused/suspended");
}

#[test]
fn sigusr2_resumes() {
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let _console = suspended(&pooler);
    pooler.signal(Signal::USR1);
    pooler.wait_log("got SIGUSR1, but already paused/suspended");
    pooler.signal(Signal::USR2);
    assert_eq!(client.value("select 'on'"), "on");
    pooler.wait_log("got SIGUSR2, continuing from SUSPEND");
}

#[test]
fn sigterm_during_it_ends_the_process_with_an_error() {
    let mut pooler = Ini::transaction().start();
    let _console = suspended(&pooler);
    pooler.signal(Signal::TERM);
    assert_eq!(pooler.wait_end().code(), Some(1));
    assert!(
        pooler
            .log()
            .contains("suspend was in progress, going down immediately")
    );
}

#[test]
fn timeouts_stand_still_too() {
    let pooler = Ini::transaction().set("client_idle_timeout", 1).start();
    let mut client = pooler.client();
    client.run("select 1");
    let mut console = suspended(&pooler);
    std::thread::sleep(Duration::from_millis(1600));
    client.send(query("select 'here'"));
    resume(&mut console);
    assert_eq!(client.reply().value(), "here");
}

#[test]
fn a_batch_goes_on_where_it_stood() {
    if only_pgweir("PgBouncer 1.18 gives the server away between the parts") {
        return;
    }
    let pooler = Ini::transaction().start();
    let mut client = pooler.client();
    let first = [parse("s", "select 'batch'"), bind("", "s", &[])].concat();
    client.send(first);
    becomes("the server has the first part", 1, || {
        pooler.backends().len()
    });
    let mut console = suspended(&pooler);
    client.send([execute("", 0), sync()].concat());
    assert_silent(&mut client);
    resume(&mut console);
    assert_eq!(client.reply().value(), "batch");
}

#[test]
fn it_can_be_done_again_and_again_under_load() {
    let pooler = Ini::transaction().set("default_pool_size", 3).start();
    let end = Instant::now() + Duration::from_secs(4);
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let pooler = &pooler;
            scope.spawn(move || {
                let mut client = pooler.client();
                while Instant::now() < end {
                    let wanted = worker.to_string();
                    assert_eq!(client.value(&format!("select {worker}")), wanted);
                }
            });
        }
        while Instant::now() < end {
            let mut console = suspended(&pooler);
            resume(&mut console);
        }
    });
}
