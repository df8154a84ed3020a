//! What is wrong with the TLS settings.

use std::fmt;

/// A setting that cannot be followed, or not as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFault {
    /// The setting, of `[pgbouncer]`.
    pub setting: String,
    /// What is wrong, without a full stop. Names the file, if one is at fault.
    pub what: String,
    /// What to do about it, as a sentence.
    pub remedy: String,
}

impl TlsFault {
    pub(super) fn new(
        setting: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> TlsFault {
        TlsFault {
            setting: setting.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for TlsFault {}
