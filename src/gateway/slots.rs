//! A table that grows without moving what is in it.

use std::sync::OnceLock;

/// The number under which a statement is counted, from
/// [`Observer::observe`](super::Observer::observe). Means something only to the
/// [`Queries`](super::Queries) it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// The slot with this number, for those who kept [`Slot::number`] where
    /// slots are not known.
    pub fn of_number(number: u32) -> Slot {
        Slot(number)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Rows that come into being at once.
const CHUNK: usize = 32;

/// One `T` for each [`Slot`] below a fixed number. Rows come into being in
/// chunks when first written and stay where they are, so that other threads
/// can read them meanwhile without a lock.
#[derive(Debug)]
pub(super) struct Slots<T> {
    chunks: Box<[OnceLock<Box<[T; CHUNK]>>]>,
}

impl<T: Default> Slots<T> {
    /// A table without rows that can have `capacity` of them, rounded up to
    /// whole chunks.
    pub(super) fn new(capacity: usize) -> Self {
        Slots {
            chunks: (0..capacity.div_ceil(CHUNK))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// The row of a slot, made now if need be; `None` beyond the capacity.
    #[inline]
    pub(super) fn row(&self, slot: Slot) -> Option<&T> {
        let index = slot.0 as usize;
        let chunk = self.chunks.get(index / CHUNK)?;
        let chunk = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| T::default())));
        Some(&chunk[index % CHUNK])
    }

    /// The row of a slot if it has been made.
    pub(super) fn peek(&self, slot: Slot) -> Option<&T> {
        let index = slot.0 as usize;
        self.chunks
            .get(index / CHUNK)?
            .get()
            .map(|chunk| &chunk[index % CHUNK])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counter;

    #[test]
    fn rows_are_made_by_the_chunk_and_stay() {
        let slots = Slots::<Counter>::new(100);
        assert!(slots.peek(Slot(40)).is_none());
        slots.row(Slot(40)).expect("within the capacity").add(7);
        assert_eq!(slots.peek(Slot(40)).map(Counter::read), Some(7));
        assert_eq!(slots.peek(Slot(41)).map(Counter::read), Some(0));
        assert!(slots.peek(Slot(0)).is_none());
    }

    #[test]
    fn a_slot_beyond_the_capacity_has_no_row() {
        let slots = Slots::<Counter>::new(64);
        assert!(slots.row(Slot(64)).is_none());
        assert!(slots.row(Slot(u32::MAX)).is_none());
    }
}
