//! The ways the application fails, and what sets them off.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::failure;
use crate::generator::mix;

/// How the process goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Ends without a word, exit code 0.
    Exit,
    /// Ends as a Go panic does, exit code 2.
    Panic,
    /// Eats memory until something kills it.
    Leak,
    /// Lives on and answers 500 to everything.
    Sick,
}

/// The size of one leaked piece.
const PIECE: usize = 1 << 20;

/// What it is filled with, at the speed of a copy in every build.
static FILL: [u8; 1 << 16] = [0xA5; 1 << 16];

/// How long the last answer has to leave before a fault by count strikes.
const AFTER_ANSWER: Duration = Duration::from_millis(50);

/// What `POST /operation` does with a number, if anything: the nibble above
/// bit 32 decides.
pub(crate) fn of_operation(operation: i64) -> Option<Outcome> {
    match (operation & 0xF_0000_0000) >> 32 {
        3 => Some(Outcome::Leak),
        4 => Some(Outcome::Panic),
        5 => Some(Outcome::Sick),
        _ => None,
    }
}

/// The outcome that a seed chooses from a list that is not empty.
pub(crate) fn of_seed(seed: u64, outcomes: &[Outcome]) -> Outcome {
    let index = mix(seed) % outcomes.len() as u64;
    outcomes[usize::try_from(index).expect("an index of a slice")]
}

/// The state of the process's health.
pub(crate) struct Faults {
    sick: AtomicBool,
    leaking: AtomicBool,
    leak_mbps: u32,
    requests: AtomicU64,
    /// After how many requests what happens.
    after: Option<(u64, Outcome)>,
}

impl Faults {
    pub(crate) fn new(leak_mbps: u32, after: Option<(u64, Outcome)>) -> Faults {
        Faults {
            sick: AtomicBool::new(false),
            leaking: AtomicBool::new(false),
            leak_mbps,
            requests: AtomicU64::new(0),
            after,
        }
    }

    /// Whether everything is answered with 500. Only a restart helps.
    pub(crate) fn is_sick(&self) -> bool {
        self.sick.load(Ordering::Relaxed)
    }

    /// Counts a request; its number, from 1.
    pub(crate) fn count_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Strikes if the request with this number was the last good one. The
    /// answer is on its way: it has a moment to leave.
    pub(crate) async fn answered(&self, request: u64) {
        if let Some((_, outcome)) = self.after.filter(|(last, _)| *last == request) {
            tokio::time::sleep(AFTER_ANSWER).await;
            self.strike(outcome, "BINGO_SIM_FAULT_AFTER");
        }
    }

    /// Whether [`Faults::answered`] has something to do for this request.
    pub(crate) fn is_last(&self, request: u64) -> bool {
        self.after.is_some_and(|(last, _)| last == request)
    }

    /// Makes it happen, saying why on stderr.
    pub(crate) fn strike(&self, outcome: Outcome, why: &str) {
        eprintln!("bingo stand-in: fault {outcome:?} by {why}");
        match outcome {
            Outcome::Exit => std::process::exit(0),
            Outcome::Panic => {
                failure::print_panic("we're all gonna die");
                std::process::exit(failure::PANIC_EXIT.into())
            }
            Outcome::Leak => self.leak(),
            Outcome::Sick => self.sick.store(true, Ordering::Relaxed),
        }
    }

    /// Starts the leak, once.
    fn leak(&self) {
        if self.leaking.swap(true, Ordering::Relaxed) {
            return;
        }
        let pause = Duration::from_secs(1) / self.leak_mbps;
        std::thread::spawn(move || eat_memory(pause));
    }
}

/// Takes one piece after the other and writes to all of it, so that the kernel
/// has to find the pages.
fn eat_memory(pause: Duration) {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(PIECE).is_err() {
            eprintln!("fatal error: runtime: out of memory");
            std::process::exit(failure::PANIC_EXIT.into());
        }
        while piece.len() < PIECE {
            piece.extend_from_slice(&FILL);
        }
        eaten.push(piece);
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibble_decides_over_operation() {
        let of_nibble = |nibble: i64| of_operation(nibble << 32);
        assert_eq!(of_nibble(3), Some(Outcome::Leak));
        assert_eq!(of_nibble(4), Some(Outcome::Panic));
        assert_eq!(of_nibble(5), Some(Outcome::Sick));
        for harmless in [0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16] {
            assert_eq!(of_nibble(harmless), None, "{harmless}");
        }
    }

    #[test]
    fn other_bits_do_not_matter() {
        assert_eq!(of_operation((5 << 32) | 0xFFFF_FFFF), Some(Outcome::Sick));
        assert_eq!(of_operation((4 << 32) | (1 << 40)), Some(Outcome::Panic));
        assert_eq!(of_operation(i64::MAX), None);
    }

    #[test]
    fn a_seed_always_chooses_the_same() {
        let all = [Outcome::Exit, Outcome::Panic, Outcome::Leak, Outcome::Sick];
        assert_eq!(of_seed(7, &all), of_seed(7, &all));
        let chosen = |outcome| (0..64).any(|seed| of_seed(seed, &all) == outcome);
        assert!(all.into_iter().all(chosen));
    }

    #[test]
    fn sickness_lasts() {
        let faults = Faults::new(50, None);
        assert!(!faults.is_sick());
        faults.strike(Outcome::Sick, "a test");
        assert!(faults.is_sick());
    }

    #[tokio::test]
    async fn a_fault_by_count_waits_for_its_request() {
        let faults = Faults::new(50, Some((2, Outcome::Sick)));
        faults.answered(faults.count_request()).await;
        assert!(!faults.is_sick());
        faults.answered(faults.count_request()).await;
        assert!(faults.is_sick());
    }
}
