//! The index: the records as of some LSN, sorted, in something that need not fit into memory and need not be loaded at
//! a restart. Everything in it is derived from the snapshot and the log, and may be deleted at any time.
//!
//! The real one is on sled; another, in memory, serves simulated stores.

use crate::crdt::{Base, BaseError, Change, RecordKey};
use crate::storage::{Counts, Lsn};

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
#[error("index: {0}")]
pub struct IndexError(pub String);

impl From<IndexError> for BaseError {
    fn from(error: IndexError) -> Self {
        BaseError(Box::new(error))
    }
}

/// Sorted records with a position.
pub trait Index: Base + Send + Sync {
    /// Where it stands.
    fn position(&self) -> IndexPosition;

    /// How many elements and tags are in it.
    fn counts(&self) -> Counts;

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
