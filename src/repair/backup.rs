//! A copy of a store, also of a running node's, that is a store.
//!
//! The files are pinned as `dump` does it: opened, with their lengths, between two readings of the manifest that say the
//! same. Then all of it is read as a start would (damage is never backed up in silence), copied, synced, read back, and
//! given its name last.
//!
//! # What a running node's copy may hold
//!
//! The last frame may be one whose sync has not returned: written, in the page cache, and unheard of. If the power then
//! fails, the copy holds an operation that the original has lost. That does no harm: the operation was asked for, its dot
//! is never used again (the original goes on under another replica id), and the copy's own bytes were synced. A
//! half-written frame is a torn tail of the copy. So the copy is some state that the node's disk was in, and a start on
//! it is what a start after a power cut at that moment would have been.
//!
//! Not copied: the index (a copy of a live sled can open empty; it is built anew), `index.state`, `LOCK`, `reserve`, and
//! what does not belong to the store. No replica id has to be changed: the first write of a start draws a new one
//! anyway, so the backup, whether it takes the original's place or runs beside it, is an incarnation of its own.

use std::path::Path;

use super::new_store::{NewStore, write_manifest};
use super::{RepairError, read_as_a_start};
use crate::dump::pinned::PinnedDisk;
use crate::storage::disk::{self, Disk, RealDisk};
use crate::storage::manifest::Manifest;
use crate::storage::replay::{Replay, log_dir, snapshot_dir};
use crate::storage::{Lsn, StoreError, snapshot};

/// Files are copied in pieces of this size, each synced, so that a node beside it does not wait long for its own syncs.
const PIECE_BYTES: usize = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The last LSN in it.
    pub lsn: Lsn,
    /// How many segments of the log.
    pub segments: usize,
    /// How many bytes in all.
    pub bytes: u64,
}

/// Copies the store in `store` to `new`, which must not exist and not lie in it.
///
/// # Errors
/// If the store is damaged, of a later version or cannot be read, or the copy cannot be written.
pub fn backup(store: &Path, new: &Path) -> Result<Copied, RepairError> {
    let pinned = PinnedDisk::of_store(store)?;
    let replay = read_as_a_start(&pinned, store, None)?;
    let made = NewStore::begin(new, store)?;
    let mut bytes = 0;
    if let Some(snapshot) = &replay.snapshot {
        let name = snapshot::file_name(snapshot.header().lsn);
        bytes += copy(&pinned, snapshot.path(), &snapshot_dir(made.dir()).join(name))?;
    }
    for segment in &replay.log.segments {
        let name = segment.path.file_name().expect("a segment is a file");
        bytes += copy(&pinned, &segment.path, &log_dir(made.dir()).join(name))?;
    }
    for dir in [log_dir(made.dir()), snapshot_dir(made.dir())] {
        RealDisk.sync_dir(&dir).map_err(StoreError::io("sync", &dir))?;
    }
    let manifest = Manifest::path(store);
    let manifest = disk::read(&pinned, &manifest).map_err(StoreError::io("read", &manifest))?;
    write_manifest(&RealDisk, made.dir(), &manifest)?;
    Replay::check(&RealDisk, made.dir(), &Manifest::decode(&manifest, &Manifest::path(made.dir()))?)?;
    made.finish()?;
    let bytes = bytes + manifest.len() as u64;
    Ok(Copied { lsn: replay.lsn, segments: replay.log.segments.len(), bytes })
}

fn copy(from: &dyn Disk, path: &Path, to: &Path) -> Result<u64, StoreError> {
    let source = from.open(path).map_err(StoreError::io("open", path))?;
    let length = source.len().map_err(StoreError::io("read", path))?;
    let target = RealDisk.create(to).map_err(StoreError::io("create", to))?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < length {
        let size = usize::try_from(length - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        source.read_exact_at(&mut piece[..size], offset).map_err(StoreError::io("read", path))?;
        target.write_all_at(&piece[..size], offset).map_err(StoreError::io("write", to))?;
        target.sync().map_err(StoreError::io("sync", to))?;
        offset += size as u64;
    }
    target.sync().map_err(StoreError::io("sync", to))?;
    Ok(length)
}
