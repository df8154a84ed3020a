//! Recognising a process again after its parent has died.
//!
//! A process number alone is not enough, numbers are used again. With the time
//! the process started and the boot it started in, it names one process of one
//! machine for ever. Needs Linux's `/proc`; elsewhere nothing is recognised.

use std::fs;

/// `PID:START:BOOT` of a running process.
pub(super) fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = start(&stat)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{pid}:{start}:{}", boot.trim()))
}

/// The process number, if the process of this identity still runs here.
pub(super) fn alive(known: &str) -> Option<u32> {
    let pid = known.split(':').next()?.parse().ok()?;
    (identity(pid)? == known).then_some(pid)
}

/// Start time in a line of `/proc/PID/stat` (proc_pid_stat(5), field 22). The
/// name in field 2 may hold spaces and parentheses. `None`: the process has
/// ended and only waits to be reaped.
fn start(stat: &str) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    // Field 3 is taken; 22 is the nineteenth from there.
    (!matches!(state, "Z" | "X"))
        .then(|| fields.nth(18))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str) -> String {
        format!("77 (a) b) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20")
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        assert_eq!(start(&stat("S")), Some("4242"));
    }

    #[test]
    fn an_ended_process_has_no_identity() {
        assert_eq!(start(&stat("Z")), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_alive_and_another_start_of_its_number_is_not() {
        let me = std::process::id();
        let known = identity(me).expect("it runs");
        assert_eq!(alive(&known), Some(me));
        assert_eq!(alive(&format!("{known}x")), None);
        assert_eq!(alive("nonsense"), None);
    }
}
