//! Repairing what loses nothing: a torn tail is cut off, an index that is not the fold is built anew.
//!
//! What is replaced is kept: each repair moves it into a new directory `aside/<n>/` of the store, which nothing reads and
//! anybody may delete. A store with damage, or one whose log has lost its end, is left as it is.

use std::path::{Path, PathBuf};

use super::verify::{FindingKind, Report, verify_locked};
use super::{RepairError, lock_existing, read_as_a_start};
use crate::storage::disk::{self, Disk, RealDisk};
use crate::storage::index::{IndexPosition, IndexSource, SledSource};
use crate::storage::{StoreError, StoreLock};

/// What a repair did.
pub struct Mended {
    /// How the store was before.
    pub before: Report,
    /// How it is now; `None` if nothing was done.
    pub after: Option<Report>,
    /// What was done, for people.
    pub done: Vec<String>,
}

/// Checks the store in `store`, repairs what loses nothing if nothing else is wrong, and checks it again.
///
/// # Errors
/// [`StoreError::InUse`] if a process has it open; if it is of a later version; or what the file system says.
pub fn mend(store: &Path) -> Result<Mended, RepairError> {
    // A store that was never started has no lock file yet.
    let _lock = match lock_existing(store)? {
        Some(lock) => lock,
        None => StoreLock::acquire(store)?,
    };
    let before = verify_locked(store)?;
    let mendable = before.findings.iter().all(|finding| finding.kind.is_mendable());
    if before.is_sound() || !mendable {
        return Ok(Mended { before, after: None, done: Vec::new() });
    }
    let aside = make_aside(&RealDisk, store)?;
    let mut done = Vec::new();
    for finding in &before.findings {
        match finding.kind {
            FindingKind::TornTail => {
                cut(&RealDisk, &finding.path, finding.offset, &aside)?;
                done.push(format!(
                    "cut off the torn tail of {}; the whole file is in {}",
                    name(&finding.path),
                    rel(&aside)
                ));
            }
            FindingKind::Index => {
                rebuild(store, &aside)?;
                done.push(format!("built the index anew; the old one is in {}", rel(&aside)));
            }
            FindingKind::Damage | FindingKind::LostEnd => unreachable!("not mendable"),
        }
    }
    let after = verify_locked(store)?;
    Ok(Mended { before, after: Some(after), done })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn rel(aside: &Path) -> String {
    format!("aside/{}", name(aside))
}

/// A new directory in the store for what is replaced.
///
/// # Errors
/// What the file system says.
pub fn make_aside(disk: &dyn Disk, store: &Path) -> Result<PathBuf, StoreError> {
    let all = store.join("aside");
    let names = disk.list(&all).map_err(StoreError::io("list", &all))?;
    let last = names.iter().filter_map(|name| name.parse::<u64>().ok()).max().unwrap_or(0);
    let aside = all.join((last + 1).to_string());
    disk.create_dir(&aside).map_err(StoreError::io("create", &aside))?;
    for made in [store, &all] {
        disk.sync_dir(made).map_err(StoreError::io("sync", made))?;
    }
    Ok(aside)
}

/// Cuts the file `path` at `length`, durably and in one step; the whole of it is in `aside` before.
///
/// # Errors
/// What the file system says. The file is then as it was, or cut.
pub fn cut(disk: &dyn Disk, path: &Path, length: u64, aside: &Path) -> Result<(), StoreError> {
    let bytes = disk::read(disk, path).map_err(StoreError::io("read", path))?;
    let whole = aside.join(name(path));
    disk::replace(disk, &whole, &bytes).map_err(StoreError::io("write", &whole))?;
    let length = usize::try_from(length).expect("segments fit memory");
    disk::replace(disk, path, &bytes[..length]).map_err(StoreError::io("write", path))?;
    Ok(())
}

fn rebuild(store: &Path, aside: &Path) -> Result<(), RepairError> {
    let replay = read_as_a_start(&RealDisk, store, None)?;
    // First of all nothing must say any more that there is an index to be trusted.
    for part in ["index.state", "index"] {
        let from = store.join(part);
        if std::fs::symlink_metadata(&from).is_ok() {
            RealDisk.rename(&from, &aside.join(part)).map_err(StoreError::io("move aside", &from))?;
        }
        for dir in [aside, store] {
            RealDisk.sync_dir(dir).map_err(StoreError::io("sync", dir))?;
        }
    }
    let mut source = SledSource::new(store);
    let position = IndexPosition { lsn: replay.lsn, checksum: replay.checksum };
    let base = replay.snapshot_base();
    let index = source.rebuild(replay.state.records(base.as_ref(), &[]), position)?;
    // The source closes it only when nobody else holds it.
    drop(index);
    source.close()?;
    Ok(())
}
