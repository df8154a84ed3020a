//! What keeps a check from being made.

use std::error::Error;
use std::fmt;

/// A sentence that says what went wrong and where, with the remedy if there is
/// one.
#[derive(Debug)]
pub(crate) struct Problem(String);

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Problem {
        Problem(text.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was being done when an error came.
pub(crate) trait During<T> {
    fn during(self, what: impl fmt::Display) -> Result<T, Problem>;
}

impl<T, E: Error> During<T> for Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T, Problem> {
        self.map_err(|error| Problem(format!("{what}: {}", chain(&error))))
    }
}

/// An error and all its causes. Some libraries say the cause only there.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
