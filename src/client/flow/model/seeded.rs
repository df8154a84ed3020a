//! Each of some planted bugs is caught.

use super::pipelines::play_some;
use super::pooler::Wrong;
use super::script::LETTERS;
use super::walk::{Walk, settings};
use crate::server::seeded::{Bug, with};

/// Messages of the longest sequences that are tried.
const LENGTH: usize = 4;

const BUGS: [Bug; 13] = [
    Bug::FirstReadyIsLast,
    Bug::ErrorDiscardsOne,
    Bug::QueryOutlivesError,
    Bug::SyncOfSkippedForgotten,
    Bug::FakesOvertake,
    Bug::SwallowedForwarded,
    Bug::UnsyncedIsSettled,
    Bug::CopyOutlivesError,
    Bug::SyncOfCopyAwaited,
    Bug::ClosedStaysPresent,
    Bug::FailedParseKeepsName,
    Bug::HalfMessageIsSettled,
    Bug::FlushLosesFakes,
];

/// Walks through ever longer sequences with the bug until something goes
/// wrong.
fn walk(bug: Bug) -> Result<(), Wrong> {
    for length in 1..=LENGTH {
        for setting in settings() {
            for letter in LETTERS {
                let mut walk = Walk::new(setting, length, 0);
                with(bug, || walk.begin_with(letter))?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_planted_bug_is_caught() {
    for bug in BUGS {
        let caught = with(bug, || play_some(100, 12)).and_then(|()| walk(bug));
        assert!(caught.is_err(), "{bug:?} is not caught");
    }
}
