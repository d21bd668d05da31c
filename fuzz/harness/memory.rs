//! A forged length must not cost more than a few times what there is.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One input at a time, else nobody could tell whose memory it is.
static ONE: Mutex<()> = Mutex::new(());

/// What any input may take: a forged length in a frame of 16 MiB at most costs that much, and a store is opened too.
const BASE_BYTES: usize = 64 << 20;
/// What each byte of the input may take on top.
const BYTES_PER_BYTE: usize = 512;

/// Does `work` on an input of that length.
///
/// # Panics
/// If it takes too much memory.
pub fn bounded(input_bytes: usize, work: impl FnOnce()) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    work();
    let taken = ALLOCATOR.peak_usage().saturating_sub(before);
    let allowed = BASE_BYTES + BYTES_PER_BYTE * input_bytes;
    assert!(taken <= allowed, "an input of {input_bytes} bytes took {taken} bytes of memory");
}
