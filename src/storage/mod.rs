//! One replica's store on disk.
//!
//! This layer owns durability: what is written where and in which order, and what may be believed after a crash. It
//! knows the set ([`crate::crdt`]) and files; it knows no peers, no JSON and no clock. Threads, where an index needs
//! one to be opened with a deadline, are confined to [`index`].
//!
//! ```text
//! <data-dir>/<node id>/
//!   LOCK               flocked before anything is touched          [lock]
//!   manifest           which files belong to the store             [manifest]
//!   reserve            room for a recovery on a full disk
//!   snapshots/         the live records as of one LSN              [snapshot]
//!   log/               every entry after it, and some before it    [log]
//!   index/             sled: derived, may be deleted at any time   [index]
//! ```
//!
//! # Invariants
//!
//! - **The truth is the newest snapshot plus the log after it**, folded by [`crate::crdt::State`]. [`replay`] is the one
//!   place that reads it.
//! - **Nothing leaves before it is durable**: only [`Store::commit`] makes a [`Synced`], and only with one are messages
//!   released.
//! - **Recovery never trusts unsynced bytes**, see [`log`].
//! - **The index is exactly the fold at its position**, or it is rebuilt, see [`index`].
//! - **A store is of one format**, and is brought to today's step by step when it is opened, see [`migrations`].

pub mod codec;
pub mod compaction;
pub mod disk;
pub mod envelope;
pub mod error;
pub mod index;
pub mod lock;
pub mod log;
pub mod manifest;
#[path = "../../migrations/mod.rs"]
pub mod migrations;
pub mod progress;
pub mod replay;
pub mod snapshot;
pub mod store;

pub use error::StoreError;
pub use index::{Index, IndexError, IndexPosition};
pub use index::{IndexSource, MemorySource, NoIndex, SledSource};
pub use lock::{LockedDisk, StoreLock};
pub use manifest::ReadForm;
pub use replay::Replay;
pub use snapshot::Snapshot;
pub use store::{IndexOutcome, OpCursor, Recovery, Store, StoreLimits, StoreOptions, Synced};

/// The position of an entry in *this* store's log, local and remote ones alike, in the order applied: 1, 2, 3 …
/// Zero is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The one after this.
    pub const fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How much is in a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Elements with at least one live tag.
    pub elements: u64,
    /// Live tags.
    pub tags: u64,
}
