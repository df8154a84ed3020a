//! What the tests stand on: a private PostgreSQL, a pooler with a
//! configuration of its own, a client and a server made of bytes, and a proxy
//! that spoils connections.
//!
//! The pooler under test is this package's, or the one that `PGWEIR_BIN` names
//! (a PgBouncer 1.25, to learn how it behaves).

pub(crate) mod backend;
pub(crate) mod directory;
pub(crate) mod dns;
pub(crate) mod fault;
pub(crate) mod frontend;
mod grammar;
#[cfg(feature = "acme")]
pub(crate) mod pebble;
pub(crate) mod pooler;
pub(crate) mod postgres;
pub(crate) mod process;
#[cfg(feature = "shared-cache")]
pub(crate) mod redis;
pub(crate) mod scripted;
pub(crate) mod tls;
pub(crate) mod wire;

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a test waits for what has to happen. Long, because a busy machine
/// is not a defect.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Time between two looks at what has to happen.
const POLL: Duration = Duration::from_millis(10);

/// Looks that are taken at least: if all of the machine stood still for a
/// while, nothing could happen in that time.
const LOOKS: usize = 500;

/// Looks until `probe` has a result; its last reason is shown if time is up.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut looks = 0;
    loop {
        looks += 1;
        match probe() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > DEADLINE && looks >= LOOKS => {
                panic!("{what}: not within {DEADLINE:?}: {reason}")
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Looks until `probe` gives what is expected.
pub(crate) fn becomes<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: T,
    mut probe: impl FnMut() -> T,
) {
    eventually(what, || match probe() {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?} instead of {expected:?}")),
    });
}

/// Runs `part` on this many threads and gives their results in order; a panic
/// of one is this test's.
pub(crate) fn together<T: Send>(threads: usize, part: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let part = &part;
        let running: Vec<_> = (0..threads)
            .map(|index| scope.spawn(move || part(index)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// The pooler under test is pgweir, not a PgBouncer given for comparison.
pub(crate) fn reference_is_pgweir() -> bool {
    let name = process::program().file_name().unwrap_or_default();
    name.to_string_lossy().contains("pgweir")
}

/// Says, and prints, that this test is about pgweir alone.
pub(crate) fn only_pgweir(why: &str) -> bool {
    if reference_is_pgweir() {
        return false;
    }
    // Goes around the capture of test output: a skipped test has to be seen.
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    writeln!(std::io::stderr(), "skipped {name}: needs pgweir: {why}").ok();
    true
}

/// A generator of test choices: xorshift, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Any seed but zero will do, and near seeds should soon differ.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).expect("48 bits fit") % bound
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}
