//! What a transaction costs in system calls: a figure that other load on the
//! machine does not change.

use crate::drivers::pgbench_of;
use crate::harness::eventually;
use crate::harness::pooler::{Ini, Pooler};
use crate::harness::postgres::pid_of;
use crate::harness::process;
use rustix::process::{Signal, kill_process};
use std::process::{Command, Stdio};

/// Clients and servers.
const CLIENTS: u32 = 64;
const SERVERS: u32 = 20;

/// How long transactions are counted, in seconds.
const SECONDS: &str = "5";

/// Two reads and two writes, and a share of the waits for what is ready.
const BUDGET: f64 = 4.4;

/// System calls of the pooler for each transaction of a crowd of clients.
fn calls(mode: &str) -> f64 {
    let pooler = Ini::transaction()
        .set("default_pool_size", SERVERS)
        .set("log_connections", 0)
        .set("log_disconnections", 0)
        .start();
    let text = "\\set n random(1, 1000)\nselect :n;\n";
    let script = pooler.folder.write("one.sql", text);
    let script = script.to_str().expect("our own name");
    let clients = CLIENTS.to_string();
    let common = ["-c", &clients, "-j", "1", "-M", mode, "-f", script];
    let run = |more: &[&str]| pgbench_of(&pooler, &[&common, more].concat());
    // The servers are there before anything is counted.
    run(&["-t", "10"]);
    // What the logins cost is known from a run of hardly more than logins.
    let (logins, few) = traced(&pooler, || run(&["-t", "1"]));
    let (all, many) = traced(&pooler, || run(&["-T", SECONDS]));
    f64::from(all - logins) / f64::from(many - few)
}

/// System calls of the pooler while pgbench runs, and its transactions.
fn traced(pooler: &Pooler<'_>, run: impl FnOnce() -> String) -> (u32, u32) {
    let report = pooler.folder.path().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(&report).arg("-p");
    strace.arg(pooler.pid().to_string()).stderr(Stdio::piped());
    let strace = process::spawn(strace);
    wait_traced(pooler);
    let done = run();
    kill_process(pid_of(&strace), Signal::INT).expect("strace runs");
    let output = strace.wait_with_output().expect("strace ends");
    let report = std::fs::read_to_string(&report)
        .unwrap_or_else(|error| panic!("no report of strace: {error}; {output:?}"));
    eprintln!("{report}");
    let done = done.split('/').next().and_then(|done| done.parse().ok());
    (total(&report), done.expect("a number of transactions"))
}

/// Waits until every thread of the pooler is traced.
fn wait_traced(pooler: &Pooler<'_>) {
    eventually(
        "strace attaches (as root, or with kernel.yama.ptrace_scope=0)",
        || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", pooler.pid()));
            let tasks = tasks.map_err(|error| error.to_string())?;
            for task in tasks.flatten() {
                let status = std::fs::read_to_string(task.path().join("status"));
                if status.unwrap_or_default().contains("TracerPid:\t0") {
                    return Err(format!("{} is not traced", task.path().display()));
                }
            }
            Ok(())
        },
    );
}

/// The number of calls in the last line of strace's summary.
fn total(report: &str) -> u32 {
    let line = report.lines().find(|line| line.ends_with(" total"));
    let calls = line.and_then(|line| line.split_whitespace().nth(3));
    calls
        .and_then(|calls| calls.parse().ok())
        .unwrap_or_else(|| panic!("no total in\n{report}"))
}

#[test]
fn a_simple_transaction_stays_in_its_budget_of_system_calls() {
    let calls = calls("simple");
    assert!(calls <= BUDGET, "{calls:.2} system calls for a transaction");
}

#[test]
fn a_prepared_transaction_stays_in_its_budget_of_system_calls() {
    let calls = calls("prepared");
    assert!(calls <= BUDGET, "{calls:.2} system calls for a transaction");
}
