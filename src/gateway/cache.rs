//! Statements seen word for word before, so that they need not be formed.

use super::slots::Slot;

/// Statements that can be remembered.
const ENTRIES: usize = 4096;
/// Statements whose hashes compete for the same places.
const WAYS: usize = 2;
const SETS: usize = ENTRIES / WAYS;

/// Bytes of text that can be remembered.
const MEMORY: usize = 512 * 1024;

/// The longest statement worth remembering; so that a few long ones do not
/// drive out all others.
pub(super) const MAX_CACHED: usize = MEMORY / 64;

/// From (database, text) to slot. A hit compares the whole text, so two
/// statements are never taken for each other, however hashes fall. The texts
/// lie in one ring of fixed size whose oldest bytes are overwritten; nothing
/// is allocated after the start.
#[derive(Debug)]
pub(super) struct Cache {
    sets: Box<[[Entry; WAYS]]>,
    ring: Box<[u8]>,
    /// Bytes ever written, less by [`MEMORY`] at most than the place of any
    /// text still there.
    head: u64,
}

/// A text and its slot.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    hash: u64,
    /// What `head` was before the text was written; zero for no text.
    at: u64,
    length: u32,
    database: u32,
    slot: u32,
}

impl Cache {
    pub(super) fn new() -> Self {
        Cache {
            sets: vec![[Entry::default(); WAYS]; SETS].into(),
            ring: vec![0; MEMORY].into(),
            // So that an entry that was never written is out of date.
            head: 2 * MEMORY as u64,
        }
    }

    /// The slot of a text, if remembered. `hash` is any hash of the text.
    #[inline]
    pub(super) fn find(&self, hash: u64, database: u32, text: &[u8]) -> Option<Slot> {
        let found = |entry: &&Entry| {
            entry.hash == hash
                && entry.database == database
                && entry.length as usize == text.len()
                && self.head - entry.at <= MEMORY as u64
                && self.ring[place(entry.at)..].starts_with(text)
        };
        self.sets[set(hash)]
            .iter()
            .find(found)
            .map(|entry| Slot(entry.slot))
    }

    /// Remembers the slot of a text of at most [`MAX_CACHED`] bytes, which was
    /// not found, in the place of the oldest text that competes with it.
    pub(super) fn insert(&mut self, hash: u64, database: u32, text: &[u8], slot: Slot) {
        if text.len() > MAX_CACHED {
            return;
        }
        // A text lies in one piece; what is left at the end is skipped.
        let left = MEMORY - place(self.head);
        let skipped = if text.len() > left { left } else { 0 };
        let at = self.head + skipped as u64;
        self.head = at + text.len() as u64;
        self.ring[place(at)..][..text.len()].copy_from_slice(text);
        let entry = Entry {
            hash,
            at,
            length: text.len() as u32,
            database,
            slot: slot.0,
        };
        let oldest = self.sets[set(hash)].iter_mut().min_by_key(|entry| entry.at);
        *oldest.expect("a set has its ways") = entry;
    }
}

#[inline]
fn set(hash: u64) -> usize {
    hash as usize % SETS
}

#[inline]
fn place(at: u64) -> usize {
    at as usize % MEMORY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_again_in_its_database() {
        let mut cache = Cache::new();
        cache.insert(5, 1, b"select 1", Slot(7));
        assert_eq!(cache.find(5, 1, b"select 1"), Some(Slot(7)));
        assert_eq!(cache.find(5, 2, b"select 1"), None);
        assert_eq!(cache.find(6, 1, b"select 1"), None);
    }

    #[test]
    fn an_empty_cache_finds_nothing_not_even_nothing() {
        assert_eq!(Cache::new().find(0, 0, b""), None);
    }

    #[test]
    fn a_collision_of_hashes_mixes_nothing() {
        let mut cache = Cache::new();
        cache.insert(5, 1, b"select 1", Slot(7));
        assert_eq!(cache.find(5, 1, b"select 2"), None);
        cache.insert(5, 1, b"select 2", Slot(8));
        assert_eq!(cache.find(5, 1, b"select 1"), Some(Slot(7)));
        assert_eq!(cache.find(5, 1, b"select 2"), Some(Slot(8)));
    }

    #[test]
    fn the_oldest_of_competing_texts_goes() {
        let mut cache = Cache::new();
        for (text, slot) in [(b"a", 1), (b"b", 2), (b"c", 3)] {
            cache.insert(9, 0, text, Slot(slot));
        }
        assert_eq!(cache.find(9, 0, b"a"), None);
        assert_eq!(cache.find(9, 0, b"b"), Some(Slot(2)));
        assert_eq!(cache.find(9, 0, b"c"), Some(Slot(3)));
    }

    #[test]
    fn a_text_too_long_is_not_remembered() {
        let mut cache = Cache::new();
        let text = vec![b'x'; MAX_CACHED + 1];
        cache.insert(1, 0, &text, Slot(1));
        assert_eq!(cache.find(1, 0, &text), None);
    }

    #[test]
    fn texts_that_were_overwritten_are_not_found() {
        let mut cache = Cache::new();
        // An odd length, so that texts begin everywhere and the end is skipped.
        let text = |n: u64| n.to_string().repeat(1001).into_bytes();
        for n in 0..1000 {
            cache.insert(n, 0, &text(n), Slot(n as u32));
            assert_eq!(cache.find(n, 0, &text(n)), Some(Slot(n as u32)));
        }
        for n in 0..1000 {
            let found = cache.find(n, 0, &text(n));
            let is_recent = n >= 1000 - (MEMORY / 3003) as u64 + 2;
            assert!(found.is_none() || found == Some(Slot(n as u32)));
            assert!(!is_recent || found.is_some(), "{n} is recent");
            assert!(n >= 500 || found.is_none(), "{n} is old");
        }
    }
}
