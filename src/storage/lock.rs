//! One process at a time: the store's `LOCK` file, flocked before anything else is touched.
//!
//! The file is never unlinked (a harness that took "locked" for "broken" once deleted a live index; and two processes
//! could hold locks on two files of one name). After locking, the inode is compared with the path's, in case somebody
//! else has replaced it. A predecessor that is just dying gets two seconds.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::StoreError;

/// How long a dying predecessor is waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// Held as long as the store is open.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "closing the file is what unlocks it")] File);

impl StoreLock {
    /// Locks the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds it for longer than `patience`.
    pub fn acquire(dir: &Path, patience: Duration) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(StoreError::io("create", dir))?;
        let path = dir.join("LOCK");
        let started = Instant::now();
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = open.map_err(StoreError::io("open", &path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self(file)),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
            if started.elapsed() >= patience {
                return Err(StoreError::InUse { path });
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Locks the store in `dir` without waiting and without making anything, for whoever only looks: `None` if it has
    /// no lock file, and so nobody has it open.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds it.
    pub fn existing(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join("LOCK");
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(StoreError::io("open", &path))?,
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => Ok(Some(Self(file))),
            Ok(()) | Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => identity(held) == identity(there),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = StoreLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let second = StoreLock::acquire(dir.path(), Duration::ZERO);
        assert!(matches!(second, Err(StoreError::InUse { .. })));
        drop(first);
        StoreLock::acquire(dir.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn whoever_only_looks_makes_no_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(StoreLock::existing(dir.path()).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let held = StoreLock::acquire(dir.path(), Duration::ZERO).unwrap();
        assert!(matches!(StoreLock::existing(dir.path()), Err(StoreError::InUse { .. })));
        drop(held);
        let looking = StoreLock::existing(dir.path()).unwrap().expect("there is a lock file now");
        assert!(matches!(StoreLock::acquire(dir.path(), Duration::ZERO), Err(StoreError::InUse { .. })));
        drop(looking);
    }
}
