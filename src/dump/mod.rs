//! Looking into a store: reading all of it and changing none of it, while its node may be running.
//!
//! This layer owns what can be said about a store from outside: a consistent [`View`] of its files, the
//! [summary](Summary), the [walk](View::each_entry) through its log, the [history](history::follow) of one element, and in
//! which tags two stores [differ](diff::compare). It knows
//! the set and the storage; how it is shown (tables, JSON) is `cli`'s business.
//!
//! ```no_run
//! use orset::dump::{View, find_stores};
//! for store in find_stores("orset-data".as_ref())? {
//!     let view = View::open(&store)?;
//!     println!("{}: {} tags as of LSN {}", store.display(), view.counts()?.tags, view.replay.lsn);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - Nothing is written. The files are read through a [`pinned::PinnedDisk`], which has no way to write.
//! - Everything that a view says is of one instant: files are opened, and their lengths noted, between two readings of
//!   the manifest that say the same.

pub mod diff;
pub mod history;
pub mod pinned;
mod summary;
mod view;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::storage::StoreError;
use crate::storage::manifest::Manifest;
use crate::storage::replay::log_dir;

pub use summary::{OpCounts, ReplicaSummary, SegmentSummary, Summary};
pub use view::{LogItem, View};

/// Why there is nothing to be looked at.
#[derive(Debug, Error)]
pub enum FindError {
    /// Neither a store nor a directory with stores in it.
    #[error("{path}: {what}; give a store (the directory with the file `manifest`) or a data directory with stores in it",
        path = path.display())]
    NoStore {
        /// What was given.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It cannot be looked at, or its manifest is gone.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The stores at `path`: itself, or those right below it, by name.
///
/// # Errors
/// If there are none, or that cannot be told.
pub fn find_stores(path: &Path) -> Result<Vec<PathBuf>, FindError> {
    let no_store = |what| FindError::NoStore { path: path.to_path_buf(), what };
    if is_store(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(no_store("there is no such directory")),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(no_store("this is a file")),
        entries => entries.map_err(StoreError::io("list", path))?,
    };
    let mut stores = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", path))?;
        // No node id begins with a dot: that is what a killed `backup` or `salvage` has left half made.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") && is_store(&entry.path()) {
            stores.push(entry.path());
        }
    }
    stores.sort();
    if stores.is_empty() { Err(no_store("there is no store here")) } else { Ok(stores) }
}

/// Whether there is a store, or what is left of one: a log whose manifest is gone is damage, and no empty directory.
fn is_store(dir: &Path) -> bool {
    let has_log = || std::fs::read_dir(log_dir(dir)).is_ok_and(|mut entries| entries.next().is_some());
    Manifest::path(dir).is_file() || has_log()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_backup_has_left_half_made_is_no_store_of_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["n1", ".new-store-4Xq0Zb"] {
            let log = log_dir(&dir.path().join(name));
            std::fs::create_dir_all(&log).unwrap();
            std::fs::write(log.join("0000000001.log"), b"").unwrap();
        }
        assert_eq!(find_stores(dir.path()).unwrap(), [dir.path().join("n1")]);
    }
}
