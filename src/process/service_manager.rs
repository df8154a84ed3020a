//! What systemd passes.

use std::os::fd::AsFd;

/// Whether standard error is a stream of the journal: then lines may carry
/// their priority.
pub fn is_journal(stderr: impl AsFd) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(stderr).is_ok_and(|it| stream == format!("{}:{}", it.st_dev, it.st_ino))
}
