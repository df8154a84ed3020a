//! Random bytes for nonces, salts and cancel keys.

use std::cell::RefCell;

/// Bytes a thread asks the system for at once: enough for some ten logins. A
/// system call for each nonce, salt and key is a part of what a login costs.
const RESERVE: usize = 512;

thread_local! {
    static RESERVE_OF_THREAD: RefCell<Reserve> = const {
        RefCell::new(Reserve {
            bytes: [0; RESERVE],
            left: 0,
        })
    };
}

struct Reserve {
    bytes: [u8; RESERVE],
    /// How many have not been given out.
    left: usize,
}

impl Reserve {
    fn fill(&mut self, wanted: &mut [u8]) {
        if wanted.len() > RESERVE {
            return from_system(wanted);
        }
        if self.left < wanted.len() {
            from_system(&mut self.bytes);
            self.left = RESERVE;
        }
        let given = &mut self.bytes[self.left - wanted.len()..self.left];
        wanted.copy_from_slice(given);
        // What has been given out is not kept.
        given.fill(0);
        self.left -= wanted.len();
    }
}

/// Fills `bytes` from the operating system's random source.
///
/// This is what callers outside tests pass as `random`.
pub fn os_random(bytes: &mut [u8]) {
    RESERVE_OF_THREAD.with_borrow_mut(|reserve| reserve.fill(bytes));
}

fn from_system(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("Linux has had getrandom(2) since 3.17 and it does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_whole_slice_is_filled() {
        for len in [64, RESERVE, RESERVE + 64] {
            let mut bytes = vec![0; len];
            os_random(&mut bytes);
            assert_ne!(bytes[..32], [0; 32]);
            assert_ne!(bytes[len - 32..], [0; 32]);
        }
    }

    #[test]
    fn no_bytes_are_given_out_twice() {
        let mut seen = HashSet::new();
        for _ in 0..3 * RESERVE / 16 {
            let mut bytes = [0; 16];
            os_random(&mut bytes);
            assert!(seen.insert(bytes));
        }
    }

    #[test]
    fn what_has_been_given_out_is_not_kept() {
        let mut reserve = Reserve {
            bytes: [0; RESERVE],
            left: 0,
        };
        reserve.fill(&mut [0; 100]);
        assert_eq!(reserve.left, RESERVE - 100);
        assert_eq!(reserve.bytes[RESERVE - 100..], [0; 100]);
    }
}
