//! Bugs that tests plant, to see that they would be caught.
//!
//! Outside the library's own unit tests none is ever planted and all of this
//! is compiled away.

/// A bug that could be in the accounting of answers and statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The ReadyForQuery of the first Sync of a pipeline counts as the last.
    FirstReadyIsLast,
    /// An error costs only the request it answers.
    ErrorDiscardsOne,
    /// A Query behind an error is waited for.
    QueryOutlivesError,
    /// A Sync is not waited for when the server skips to it.
    SyncOfSkippedForgotten,
    /// The pooler's own answers overtake the server's.
    FakesOvertake,
    /// What the pooler asked for itself is answered to the client.
    SwallowedForwarded,
    /// Answered is enough: a Sync need not come.
    UnsyncedIsSettled,
    /// A COPY goes on after its error.
    CopyOutlivesError,
    /// A Sync in front of copy data is waited for.
    SyncOfCopyAwaited,
    /// A closed statement is still thought to be there.
    ClosedStaysPresent,
    /// A Parse that failed leaves the client its name.
    FailedParseKeepsName,
    /// The half of a message is as good as none.
    HalfMessageIsSettled,
    /// A Flush drops the pooler's own answers.
    FlushLosesFakes,
}

/// Whether this bug is planted.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use planting::{planted, with};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Runs this on this thread with the bug planted.
    pub(crate) fn with<T>(bug: Bug, run: impl FnOnce() -> T) -> T {
        PLANTED.set(Some(bug));
        let result = run();
        PLANTED.set(None);
        result
    }
}
