//! The index: the records as of some LSN, sorted, in something that need not fit into memory and need not be loaded at
//! a restart. Everything in it is derived from the snapshot and the log, and may be deleted at any time.
//!
//! The real one is on sled ([`SledIndex`]; where its files lie and when they are trusted is [`IndexHome`]'s business);
//! another, in memory, serves simulated stores ([`MemoryIndex`]).
//!
//! ```
//! use orset::crdt::{Base, Change, Dot, Element, RecordKey, ReplicaId, Seq};
//! use orset::storage::index::{Index, IndexPosition, MemoryIndex};
//! use orset::storage::Lsn;
//! let apple = RecordKey::new(&Element::from_canonical(b"1"), Dot::new(ReplicaId::from_random(1), Seq(2)));
//! let index = MemoryIndex::default();
//! index.apply(&[(apple.clone(), Change::Put(None))], IndexPosition { lsn: Lsn(2), checksum: 7 })?;
//! assert_eq!(index.records(&[]).next().unwrap()?.key, apple);
//! assert_eq!((index.counts().elements, index.position().lsn), (1, Lsn(2)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - An index at LSN P is exactly the fold up to P: records, position and counts change in one atomic step.
//! - Within one step a [`Change::Delete`] wins over every other change of its key, and a repeated step changes nothing.
//!
//! # Caveats
//!
//! An iterator is no snapshot: one that is open while changes are applied may show some of them and not others. Under
//! the memtable that holds these changes that makes no difference, as a merge of the two is the same either way.

use std::path::PathBuf;

use crate::crdt::{Base, BaseError, Change, RecordKey};
use crate::storage::{Counts, Lsn, StoreError};

mod count;
mod inspect;
mod memory_index;
mod outgrown;
mod sled_files;
mod sled_home;
mod sled_index;
mod source;
mod state_file;
#[cfg(test)]
mod tests;

pub use count::{CountDelta, count_changes};
pub use inspect::{IndexCopy, NotedState, noted_state};
pub use memory_index::MemoryIndex;
pub use outgrown::{IndexSize, is_outgrown};
pub use sled_files::{OPEN_TIMEOUT, OPENER_THREAD};
pub use sled_home::{IndexHome, Unusable, current_boot_id, is_of_this_boot};
pub use sled_index::SledIndex;
pub use source::{IndexSource, MemorySource, NoIndex, SledSource};

/// The place in the log that an index stands at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IndexPosition {
    /// The last LSN that is in it.
    pub lsn: Lsn,
    /// The checksum of the log frame that ends at that LSN (zero at LSN 0).
    pub checksum: u32,
}

/// What went wrong with an index. Never a reason to lose anything: it is rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file system refused something.
    #[error("index: cannot {action} {path}: {source}")]
    Io {
        /// What was to be done, as in "cannot … the path".
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// sled reported an error.
    #[error("index {path}: sled cannot {action}: {source}")]
    Sled {
        /// What was to be done.
        action: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// sled's reason.
        source: sled::Error,
    },
    /// sled panicked.
    #[error("index {path}: sled panicked while it was to {action}: {what}")]
    Panicked {
        /// What was to be done.
        action: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// The panic's text.
        what: String,
    },
    /// What it holds cannot be right.
    #[error("index {path}: {what}")]
    Corrupt {
        /// The database's directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A new one could not be opened.
    #[error("index {path}: a new one cannot be used: {source}")]
    Unusable {
        /// The database's directory.
        path: PathBuf,
        /// Why.
        source: Unusable,
    },
    /// The records that it was to be built from, or its own, could not be read.
    #[error(transparent)]
    Records(#[from] BaseError),
}

impl IndexError {
    /// Whether the system only did not let anybody look (there is no permission, no room for a copy, no place for one):
    /// that says nothing about the index.
    pub fn is_of_the_system(&self) -> bool {
        use std::io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kinds = [PermissionDenied, NotFound, StorageFull, QuotaExceeded, ReadOnlyFilesystem];
        matches!(self, Self::Io { source, .. } if kinds.contains(&source.kind()))
    }
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> Self {
        BaseError::from(error).into()
    }
}

impl From<IndexError> for BaseError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Records(error) => error,
            other => BaseError(Box::new(other)),
        }
    }
}

/// Sorted records with a position.
pub trait Index: Base + Send + Sync {
    /// Where it stands.
    fn position(&self) -> IndexPosition;

    /// How many elements and tags are in it.
    fn counts(&self) -> Counts;

    /// Where the records stand that are there at this moment, and how many they are. While changes are applied
    /// ([`Index::position`] may lag then) this changes in the same step as the records do.
    ///
    /// # Errors
    /// If that cannot be read.
    fn standing(&self) -> Result<(IndexPosition, Counts), IndexError>;

    /// How many bytes of disk it takes. It never gives any back: see [`is_outgrown`].
    fn disk_bytes(&self) -> u64;

    /// Takes in all changes up to `position`, in one atomic step.
    ///
    /// # Errors
    /// If they could not be written. The index is of no use any more then.
    fn apply(&self, changes: &[(RecordKey, Change)], position: IndexPosition) -> Result<(), IndexError>;

    /// Makes everything durable.
    ///
    /// # Errors
    /// If that failed.
    fn sync(&self) -> Result<(), IndexError>;
}
