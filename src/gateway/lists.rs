//! Which brackets are open in a form, and where in them a list of constants
//! repeats itself and can be cut short.

use std::ops::Range;

use memchr::memchr;

use super::form::PLACEHOLDER;

/// Nested brackets whose lists are followed; deeper ones are left as they are.
pub(super) const MAX_DEPTH: usize = 64;

/// What an opening bracket opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opens {
    /// The list of an `IN` or `ARRAY`.
    List,
    /// The first row of a `VALUES`.
    FirstRow,
    /// A further one.
    NextRow,
    /// An element, if that stands in a list: a tuple in parentheses.
    Tuple,
    /// An element, if that stands in a list: an array in brackets.
    Array,
    /// Anything else.
    Other,
}

/// The open brackets. The form is handed to every call that may cut it.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The first one is the statement itself and never closes.
    frames: Vec<Frame>,
    /// Brackets open beyond [`MAX_DEPTH`].
    deeper: usize,
}

/// An open bracket.
#[derive(Debug, Default)]
struct Frame {
    content: Content,
    /// Where in the form the bracket begins, and the element being written.
    start: usize,
    element: usize,
    /// The element before it, and the last row of a `VALUES` in this bracket;
    /// empty if there is none.
    previous: Range<usize>,
    row: Range<usize>,
}

/// What is between brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Content {
    /// Nothing to cut.
    #[default]
    Any,
    /// A list: repeated elements are dropped.
    List,
    /// An element of a list.
    Tuple,
    /// A row of `VALUES`: repeated rows are dropped.
    Row,
}

impl Lists {
    /// Begins a new form.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.frames.push(Frame::default());
        self.deeper = 0;
    }

    /// Whether no bracket is open.
    pub(super) fn is_outside(&self) -> bool {
        self.frames.len() == 1
    }

    #[inline]
    fn innermost(&mut self) -> Option<&mut Frame> {
        self.frames.last_mut().filter(|_| self.deeper == 0)
    }

    /// A bracket has been written at `start`.
    pub(super) fn open(&mut self, start: usize, opens: Opens) {
        let is_full = self.frames.len() > MAX_DEPTH;
        let Some(outer) = self.innermost().filter(|_| !is_full) else {
            self.deeper += 1;
            return;
        };
        let in_list = outer.content == Content::List;
        let content = match opens {
            Opens::List => Content::List,
            Opens::FirstRow | Opens::NextRow => Content::Row,
            Opens::Tuple if in_list => Content::Tuple,
            Opens::Array if in_list => Content::List,
            Opens::Tuple | Opens::Array | Opens::Other => Content::Any,
        };
        if opens == Opens::FirstRow {
            outer.row = 0..0;
        }
        self.frames.push(Frame {
            content,
            start,
            element: start + 1,
            ..Frame::default()
        });
    }

    /// A closing bracket has been written, after
    /// [`end_element`](Lists::end_element). Says whether it ended a row.
    pub(super) fn close(&mut self, form: &mut Vec<u8>) -> bool {
        if self.deeper > 0 {
            self.deeper -= 1;
            return false;
        }
        // The statement itself stays, however many brackets are closed.
        let Some(closed) = (!self.is_outside()).then(|| self.frames.pop()).flatten() else {
            return false;
        };
        match self.frames.last_mut() {
            Some(outer) if closed.content == Content::Row => {
                drop_if_repeated(form, &mut outer.row, closed.start);
                true
            }
            _ => false,
        }
    }

    /// A comma has been written, after [`end_element`](Lists::end_element).
    pub(super) fn begin_element(&mut self, form: &[u8]) {
        if let Some(frame) = self.innermost() {
            frame.element = form.len();
        }
    }

    /// The element written last is complete.
    pub(super) fn end_element(&mut self, form: &mut Vec<u8>) {
        let Some(frame) = self
            .innermost()
            .filter(|frame| frame.content != Content::Any)
        else {
            return;
        };
        let start = frame.element + usize::from(form.get(frame.element) == Some(&b' '));
        if matches!(form.get(start..), Some(b"null" | b"true" | b"false")) {
            form.truncate(start);
            form.push(PLACEHOLDER);
        }
        if frame.content == Content::List {
            drop_if_repeated(form, &mut frame.previous, start);
        }
    }

    /// What seemed a list of values turns out to be a query.
    pub(super) fn is_query(&mut self) {
        if let Some(frame) = self
            .innermost()
            .filter(|frame| frame.content == Content::List)
        {
            frame.content = Content::Any;
        }
    }

    /// Where the part of the form ends that does not depend on how long the
    /// outermost open list is. `after_row` says that a row, or its comma, was
    /// written last.
    pub(super) fn whole(&self, after_row: bool) -> Option<usize> {
        self.frames.iter().enumerate().find_map(|(at, frame)| {
            let in_row = match self.frames.get(at + 1) {
                Some(inner) => inner.content == Content::Row,
                None => after_row,
            };
            let whole = if in_row { &frame.row } else { &frame.previous };
            (!whole.is_empty()).then_some(whole.end)
        })
    }
}

/// Cuts the form back to the end of `previous` if what stands behind `start`
/// is the same, with a constant in it; else that is the new `previous`.
fn drop_if_repeated(form: &mut Vec<u8>, previous: &mut Range<usize>, start: usize) {
    let (before, now) = (form.get(previous.clone()), form.get(start..));
    if before == now && now.is_some_and(|now| memchr(PLACEHOLDER, now).is_some()) {
        form.truncate(previous.end);
    } else {
        *previous = start..form.len();
    }
}
