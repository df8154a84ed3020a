//! One number.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with **one writer thread** and any number of readers.
///
/// An update is a relaxed load and a relaxed store, which costs what a plain
/// `u64` costs. The price is the rule: only the owning thread may call
/// [`add`](Counter::add), [`raise`](Counter::raise) and [`set`](Counter::set).
/// A second writer is no undefined behaviour, but updates get lost. What several
/// threads count is a plain atomic with `fetch_add`.
///
/// A counter that is only added to never goes back for any one reader. Two
/// counters read one after the other may be of slightly different moments.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    pub const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// Adds `n`; wraps around after 2^64. Owning thread only.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.read().wrapping_add(n), Relaxed);
    }

    /// Raises the number to `n` if it is lower: a maximum. Owning thread only.
    #[inline]
    pub fn raise(&self, n: u64) {
        if n > self.read() {
            self.set(n);
        }
    }

    /// Sets the number to `n`. Owning thread only.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number now. Any thread.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_adds_and_sets() {
        let counter = Counter::default();
        counter.add(3);
        counter.add(4);
        assert_eq!(counter.read(), 7);
        counter.set(2);
        assert_eq!(counter.read(), 2);
    }

    #[test]
    fn counter_wraps_instead_of_panicking() {
        let counter = Counter::default();
        counter.set(u64::MAX);
        counter.add(2);
        assert_eq!(counter.read(), 1);
    }

    #[test]
    fn raise_keeps_the_maximum() {
        let counter = Counter::default();
        for n in [5, 3, 9, 4] {
            counter.raise(n);
        }
        assert_eq!(counter.read(), 9);
    }

    #[test]
    fn reader_on_another_thread_never_sees_a_counter_go_back() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while last < 100_000 {
                    let now = counter.read();
                    assert!(now >= last);
                    last = now;
                }
            });
            for _ in 0..100_000 {
                counter.add(1);
            }
            reader.join().expect("the reader asserts only");
        });
    }
}
