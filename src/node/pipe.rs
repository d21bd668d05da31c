//! The pipes that a node is spoken to through.

use std::os::fd::BorrowedFd;

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

/// How much a pipe should hold. With Linux' own 64 KiB, a burst's sender and the node wait for each other in turn, and the log
/// is synced for every 64 KiB; with this a burst takes a fifth less time. With a MiB it takes more again (measured).
pub const WANTED_BYTES: usize = 256 << 10;

/// Sees to it that a pipe holds as much as is good for bursts.
pub fn widen(fd: BorrowedFd) {
    // What is no pipe has no size, and who has many pipes may not be given more. It works all the same.
    if fcntl_getpipe_size(fd).is_ok_and(|bytes| bytes < WANTED_BYTES) {
        let _ = fcntl_setpipe_size(fd, WANTED_BYTES);
    }
}
