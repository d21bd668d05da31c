//! When something is wrong with a store, or might become so: checking it, repairing what loses nothing, salvaging what
//! is left of it, and backing it up.
//!
//! | | reads | writes |
//! |---|---|---|
//! | [`verify`] | every checksum; the index against the fold | nothing |
//! | [`mend`] | what [`verify`] found | the index anew, the last segment without its torn tail; the old ones are kept aside |
//! | [`salvage`] | whatever can still be read of a store that refuses to start | a new store |
//! | [`backup`] | a store, also of a running node | a new store |
//!
//! This layer knows the set, the storage, and how a store is looked at while its node may be running ([`crate::dump`]).
//! How its findings are shown is `cli`'s business.
//!
//! # Invariants
//!
//! - Whatever refuses a start is a finding: [`verify`] reads a store by the very functions that a start does.
//! - A store that is looked at, salvaged or backed up is not changed: it is read through a disk that cannot write.
//! - A new store gets its name when all of it is durable ([`new_store`]), so half a one is none.
//! - Nothing is deleted.

pub mod backup;
pub mod mend;
pub mod new_store;
pub mod salvage;
pub mod scan;
pub mod verify;

use std::path::{Path, PathBuf};

use crate::storage::disk::Disk;
use crate::storage::index::IndexError;
use crate::storage::manifest::Manifest;
use crate::storage::migrations;
use crate::storage::replay::{OnBatch, Replay};
use crate::storage::{StoreError, StoreLock};

/// Why one of these could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index could not be built.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is something where the new store is to be.
    #[error("{path}: this is there already; name a directory that does not exist", path = .0.display())]
    Exists(PathBuf),
    /// The new store would be a part of the one that it is made of.
    #[error("{path}: this is inside the store that is only to be read; name a directory elsewhere", path = .0.display())]
    Inside(PathBuf),
    /// There is nothing to be salvaged.
    #[error("{path}: nothing is wrong with this store; start it, or copy it with `orset backup`", path = .0.display())]
    Sound(PathBuf),
    /// Nothing that can be read says whose store it is.
    #[error("{path}: nothing in it says whose store this is; name the node with --node-id", path = .0.display())]
    NoNode(PathBuf),
}

/// Reads a store as a start would, but for its node id and index.
///
/// # Errors
/// Why a start would refuse it.
pub fn read_as_a_start(disk: &dyn Disk, dir: &Path, on_batch: Option<OnBatch>) -> Result<Replay, StoreError> {
    migrations::TODAY.format_of_store(disk, dir)?;
    let manifest = Manifest::read(disk, dir)?.expect("it has just been read");
    Replay::check(disk, dir, &manifest)?;
    Replay::read(disk, dir, manifest, None, on_batch)
}

/// The lock of a store that must not be in use, if it has ever been started.
fn lock_existing(dir: &Path) -> Result<Option<StoreLock>, StoreError> {
    StoreLock::acquire_existing(dir)
}
