//! The allocator of the program.
//!
//! jemalloc, because what thousands of clients held goes back to the system
//! when they have gone: glibc keeps the pages that a few long-lived objects
//! are scattered over. It is also cheaper for each message and smaller for
//! each client (`benches/README.md`).

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Lets unused memory go back to the system while the program is idle too: a
/// thread of the allocator's own does it. To be called when the process is
/// the one that stays, for a fork ends that thread.
pub fn give_back_when_idle() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        // It goes back all the same, whenever memory is asked for.
        tracing::debug!("the allocator has no thread of its own: {error}");
    }
}
