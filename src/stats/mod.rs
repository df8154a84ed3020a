//! Counters and histograms that a busy thread writes and another thread reads.
//!
//! Everything here has **one writer**: the worker thread that owns it. That
//! makes an update a plain load, add and store, without a locked instruction
//! and without a cache line that two cores fight for. Any thread may read at
//! any time; totals over workers are made by the reader.

mod clock;
mod counter;
mod distribution;
mod edges;
mod histogram;

pub use clock::{Clock, Micros};
pub use counter::Counter;
pub use distribution::Distribution;
pub use edges::CLASSIC_EDGES;
pub use histogram::Histogram;
