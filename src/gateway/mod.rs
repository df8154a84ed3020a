//! What a statement is and is counted as.
//!
//! A worker's [`Observer`] sees each statement once, in its Query or Parse
//! message, and answers with a [`Slot`]; when the statement has run, what came
//! of it is recorded under that slot. One like a statement seen before, but
//! for its constants, costs a hash and a comparison; any other is read by a lexer, brought to its
//! normal form, and found by the form's [`Fingerprint`]. Numbers are written
//! by their worker alone and added up by whoever reads: [`Queries::rows`] for
//! the console, [`QueryCollector`] for Prometheus.

mod export;
mod form;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzz;
mod keywords;
mod lexer;
mod lists;
mod mentions;
mod normalise;
mod numbers;
mod observer;
mod queries;
mod slots;
mod templates;
mod top;
mod verb;

pub use export::QueryCollector;
pub use form::{Fingerprint, Normalised};
pub use mentions::{Act, Mention, Mentions, folded, mentions_statements};
pub use normalise::{MAX_READ, Normaliser};
pub use numbers::{Outcome, Recorder, SqlState, Totals};
pub use observer::{Observer, Seen};
pub use queries::{DatabaseId, OTHER, Queries, QueryRow};
pub use slots::Slot;
pub use verb::Verb;
