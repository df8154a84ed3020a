//! What leaves for the other side while a chunk is walked through.

use bytes::BytesMut;

/// Collects the output of one chunk: parts of the chunk itself, and bytes of
/// our own between them.
///
/// As long as the output is one unbroken part of the chunk nothing is copied;
/// the first gap or insertion moves it to `scratch`. Either way the result is
/// one slice, so a rewritten request leaves in one write.
#[derive(Debug)]
pub struct Splice<'a> {
    chunk: &'a [u8],
    scratch: &'a mut BytesMut,
    start: usize,
    end: usize,
    copied: bool,
}

impl<'a> Splice<'a> {
    /// Starts with nothing to send. `scratch` is cleared.
    pub fn new(chunk: &'a [u8], scratch: &'a mut BytesMut) -> Splice<'a> {
        scratch.clear();
        Splice {
            chunk,
            scratch,
            start: 0,
            end: 0,
            copied: false,
        }
    }

    /// Sends `chunk[from..to]`.
    #[inline]
    pub fn pass(&mut self, from: usize, to: usize) {
        if self.end == from && !self.copied {
            self.end = to;
        } else if from < to {
            self.pass_apart(from, to);
        }
    }

    fn pass_apart(&mut self, from: usize, to: usize) {
        if self.start == self.end && !self.copied {
            (self.start, self.end) = (from, to);
            return;
        }
        if !self.copied {
            self.spill();
        }
        self.scratch.extend_from_slice(&self.chunk[from..to]);
    }

    /// Sends bytes that are not in the chunk: whatever is appended to the
    /// returned buffer.
    pub fn insert(&mut self) -> &mut BytesMut {
        if !self.copied {
            self.spill();
        }
        self.scratch
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        if self.copied {
            self.scratch
        } else {
            &self.chunk[self.start..self.end]
        }
    }

    fn spill(&mut self) {
        self.scratch
            .extend_from_slice(&self.chunk[self.start..self.end]);
        self.copied = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjoining_parts_are_not_copied() {
        let mut scratch = BytesMut::new();
        let chunk = b"abcdef";
        let mut splice = Splice::new(chunk, &mut scratch);
        splice.pass(1, 3);
        splice.pass(3, 5);
        assert_eq!(splice.output(), b"bcde");
        assert_eq!(splice.output().as_ptr(), chunk[1..].as_ptr());
    }

    #[test]
    fn a_gap_and_an_insertion_keep_the_order() {
        let mut scratch = BytesMut::from(&b"left over"[..]);
        let mut splice = Splice::new(b"abcdef", &mut scratch);
        splice.pass(0, 2);
        splice.pass(3, 4);
        splice.insert().extend_from_slice(b"XY");
        splice.pass(5, 6);
        assert_eq!(splice.output(), b"abdXYf");
    }

    #[test]
    fn an_empty_part_first_does_not_pin_the_start() {
        let mut scratch = BytesMut::new();
        let mut splice = Splice::new(b"abcdef", &mut scratch);
        splice.pass(0, 0);
        splice.pass(4, 6);
        assert_eq!(splice.output(), b"ef");
    }
}
