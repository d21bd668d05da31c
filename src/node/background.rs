//! What the node's threads tell its loop, and how they wake it.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::storage::index::Index;
use crate::storage::{Lsn, Snapshot, StoreError};

/// Something that happened beside the loop.
pub enum Event {
    /// The index has come further, or its rebuild has.
    IndexProgress,
    /// The index would be found at this LSN or later if the process were killed now.
    IndexNoted(Lsn),
    /// The index takes so many bytes of disk.
    IndexMeasured(u64),
    /// The index cannot be written any more, and why.
    IndexFailed(String),
    /// A new index is there.
    IndexRebuilt(Arc<dyn Index>),
    /// A new index could not be built, and why.
    RebuildFailed(String),
    /// A compaction has ended.
    Compacted(Box<Result<Snapshot, StoreError>>),
}

/// Sends events, and wakes the loop.
pub struct Events {
    sender: Sender<Event>,
    waker: UnixStream,
}

impl Events {
    /// `waker` is the end of a non-blocking pair whose other end the loop polls.
    pub fn new(sender: Sender<Event>, waker: UnixStream) -> Self {
        Self { sender, waker }
    }

    /// Another one for the same loop.
    ///
    /// # Errors
    /// If the system gives no further descriptor.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { sender: self.sender.clone(), waker: self.waker.try_clone()? })
    }

    /// Sends an event. A loop that has ended does not care.
    pub fn send(&self, event: Event) {
        if self.sender.send(event).is_ok() {
            // A full pipe wakes as well as one with one byte more.
            let _ = (&self.waker).write(&[1]);
        }
    }
}
