//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::crdt::{BaseError, NodeId};

/// Why a store cannot be opened, read or written. Every text names the file and says what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{path}: cannot {doing}: {source}", path = path.display())]
    Io {
        /// What was to be done, as a verb.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Bytes that were durable are not what was written. Nothing has been changed.
    #[error(
        "{path}: damaged at byte {offset}: {what}. Nothing was changed. Restore this store from a backup, or make a new \
         one of what is left (`orset salvage`), or move it away and start empty: its peers then bring back what they \
         have heard of",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The store is another node's: a wrong path, no damage.
    #[error("{path}: this is the store of {owner}, not of {node}; put it where {owner}'s store belongs, or use another \
        data directory", path = path.display())]
    OfAnother {
        /// The store.
        path: PathBuf,
        /// Whose it is.
        owner: NodeId,
        /// Who wanted it.
        node: NodeId,
    },
    /// Somebody else has the store open.
    #[error("{path}: the store is in use by another process; end that process, or use another data directory",
        path = path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The store was written by a later version of this program.
    #[error(
        "{path}: the store has format {found}, and this program knows formats up to {known}; use a newer orset",
        path = path.display()
    )]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The highest version known.
        known: u32,
    },
    /// A write or sync failed earlier. What is on the disk is not known, so nothing may be acknowledged any more.
    #[error("the store is closed for good after a failed write; start again to recover from what is on the disk")]
    Poisoned,
    /// The records below the memtable could not be read.
    #[error("{0}. Start again: the index is then rebuilt from the snapshot and the log")]
    Base(#[from] BaseError),
}

impl StoreError {
    /// For `map_err` on a file operation: what was to be done with which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_path_buf();
        move |source| StoreError::Io { doing, path, source }
    }

    /// Damage at a byte of a file.
    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: path.to_path_buf(), offset, what: what.into() }
    }

    /// Whether the disk was full.
    pub fn is_disk_full(&self) -> bool {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, StoreError::Io { source, .. } if full(source.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_full_if_the_file_system_says_so_in_either_way() {
        let failed = |kind: io::ErrorKind| StoreError::io("write", Path::new("log"))(kind.into()).is_disk_full();
        assert!(failed(io::ErrorKind::StorageFull) && failed(io::ErrorKind::QuotaExceeded));
        assert!(!failed(io::ErrorKind::PermissionDenied));
        assert!(!StoreError::damaged(Path::new("log"), 0, "torn").is_disk_full());
    }
}
