//! One process at a time: the store's `LOCK` file, flocked before anything else is touched.
//!
//! The file is never unlinked (a harness that took "locked" for "broken" once deleted a live index; and two processes
//! could hold locks on two files of one name). After locking, the inode is compared with the path's, in case somebody
//! else has replaced it. How long a dying predecessor is waited for is the caller's business: there is no clock here.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, RealDisk};
use super::error::StoreError;

/// Held as long as the store is open.
#[derive(Debug)]
pub struct StoreLock {
    /// Closing it is what unlocks it.
    file: File,
    path: PathBuf,
}

impl StoreLock {
    /// Locks the store in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds it.
    pub fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("LOCK");
        if !path.exists() {
            make_durably(dir, |above| File::open(above)?.sync_all())?;
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(StoreError::io("open", &path))?;
        Self::lock(file, &path)
    }

    /// Locks the store in `dir` without making anything; `None` if it has no lock file.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds it.
    pub fn acquire_existing(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join("LOCK");
        match File::open(&path) {
            Ok(file) => Self::lock(file, &path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    fn lock(file: File, path: &Path) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) if is_at(&file, path) => Ok(Self { file, path: path.to_path_buf() }),
            // Somebody has replaced the file meanwhile, and may hold the other one.
            Ok(()) | Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
        }
    }
}

/// The disk under a locked store. It changes no names once the store's directory is no longer where it was: what is there
/// by then is another store, which may be in use.
pub struct LockedDisk(Arc<StoreLock>);

impl LockedDisk {
    /// Of the store that is locked with this.
    pub fn new(lock: Arc<StoreLock>) -> Self {
        Self(lock)
    }

    fn check(&self) -> io::Result<()> {
        if is_at(&self.0.file, &self.0.path) {
            return Ok(());
        }
        Err(io::Error::other("the store is not there any more; its directory was moved or removed while it was in use"))
    }
}

impl Disk for LockedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.check()?;
        RealDisk.create(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        RealDisk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

/// Makes a directory and those above it, and sees to it that their names outlive a power cut: what is synced in a
/// directory whose own name is lost cannot be found again.
///
/// It may have been made by somebody who was killed before he could sync it, so those that are there are synced as well.
/// That is no duty of ours, and does not always work (a directory above may not be readable).
fn make_durably(dir: &Path, sync: impl Fn(&Path) -> io::Result<()>) -> Result<(), StoreError> {
    let dir = std::path::absolute(dir).map_err(StoreError::io("find", dir))?;
    let missing = dir.ancestors().take_while(|above| !above.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(StoreError::io("create", &dir))?;
    for (place, above) in dir.ancestors().skip(1).enumerate() {
        let synced = sync(above);
        if place < missing {
            synced.map_err(StoreError::io("sync", above))?;
        }
    }
    Ok(())
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
        assert!(StoreLock::acquire_existing(dir.path()).unwrap().is_none(), "and nothing was made");
        let first = StoreLock::acquire(dir.path()).unwrap();
        assert!(matches!(StoreLock::acquire(dir.path()), Err(StoreError::InUse { .. })));
        assert!(matches!(StoreLock::acquire_existing(dir.path()), Err(StoreError::InUse { .. })));
        drop(first);
        StoreLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_on_a_file_that_was_replaced_is_none() {
        let dir = tempfile::tempdir().unwrap();
        drop(StoreLock::acquire(dir.path()).unwrap());
        let path = dir.path().join("LOCK");
        let old = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap();
        assert!(matches!(StoreLock::lock(old, &path), Err(StoreError::InUse { .. })));
    }

    /// Found by a stranger: a node that was still stopping wrote its manifest into the store that had taken its place.
    #[test]
    fn where_the_store_was_moved_away_nothing_is_changed_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("n1");
        let disk = LockedDisk::new(Arc::new(StoreLock::acquire(&store).unwrap()));
        let [one, two] = ["one", "two"].map(|name| store.join(name));
        disk.create(&one).unwrap();
        disk.rename(&one, &two).unwrap();
        std::fs::rename(&store, dir.path().join("away")).unwrap();
        let _other = StoreLock::acquire(&store).unwrap();
        File::create(&two).unwrap();
        assert!(disk.create(&one).is_err() && disk.create_dir(&one).is_err());
        assert!(disk.rename(&two, &one).is_err() && disk.remove(&two).is_err());
        assert_eq!(disk.list(&store).unwrap(), ["LOCK", "two"]);
    }

    #[test]
    fn a_store_is_made_with_the_directories_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("above/store");
        drop(StoreLock::acquire(&store).unwrap());
        assert_eq!(std::fs::metadata(&store).unwrap().mode() & 0o777, 0o700);
        assert!(StoreLock::acquire_existing(&store).unwrap().is_some());
    }

    #[test]
    fn the_names_of_new_directories_must_outlive_a_power_cut_and_those_of_older_ones_need_not() {
        let above = tempfile::tempdir().unwrap();
        let place = |name: &str| std::path::absolute(above.path().join(name)).unwrap();
        // The name of `made` is in the directory that was there, and that of `made/store` in `made`.
        for (unsyncable, made) in [("", false), ("made", false), ("..", true)] {
            let refused = |path: &Path| match path.canonicalize().unwrap()
                == place(unsyncable).canonicalize().unwrap_or_default()
            {
                true => Err(io::Error::other("no")),
                false => Ok(()),
            };
            assert_eq!(make_durably(&place("made/store"), refused).is_ok(), made, "{unsyncable:?}");
            std::fs::remove_dir_all(place("made")).unwrap();
        }
        std::fs::create_dir_all(place("there/store")).unwrap();
        let nothing = |_: &Path| Err(io::Error::other("no"));
        assert!(make_durably(&place("there/store"), nothing).is_ok(), "it is no duty of ours");
    }

    #[test]
    fn a_store_that_cannot_be_looked_at_is_not_taken_for_one_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap();
        assert!(matches!(StoreLock::acquire_existing(&file), Err(StoreError::Io { .. })));
    }
}
