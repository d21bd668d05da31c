//! A new store in a directory of its own, which gets its name last.
//!
//! It is made beside the place where it is to be, under a random name that no node id can be (it begins with a dot), and
//! renamed when every file and directory is durable. Whoever dies before leaves such a directory, and nothing else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use super::RepairError;
use crate::storage::StoreError;
use crate::storage::disk::{self, Disk, RealDisk};
use crate::storage::manifest::Manifest;
use crate::storage::replay::{log_dir, snapshot_dir};

/// A store that has no name yet; gone when dropped.
pub struct NewStore {
    aside: TempDir,
    parent: PathBuf,
    path: PathBuf,
}

impl NewStore {
    /// Makes the directory for what is to be the store `path`, made of `source`.
    ///
    /// # Errors
    /// [`RepairError::Exists`], [`RepairError::Inside`], or what the file system says.
    pub fn begin(path: &Path, source: &Path) -> Result<Self, RepairError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(RepairError::Exists(path.to_path_buf()));
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        // What is only read must not get a directory either, nor a backup go with its original.
        if let (Ok(real), Ok(source)) = (parent.canonicalize(), source.canonicalize())
            && real.starts_with(source)
        {
            return Err(RepairError::Inside(path.to_path_buf()));
        }
        let private = Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(".new-store-").permissions(private).tempdir_in(&parent);
        // The error names the random name, which says nothing to anybody.
        let made = made.map_err(|error| std::io::Error::from(error.kind()));
        let aside = made.map_err(StoreError::io("make a new store here", &parent))?;
        make_dirs(&RealDisk, aside.path())?;
        Ok(Self { aside, parent, path: path.to_path_buf() })
    }

    /// Where its files are put meanwhile.
    pub fn dir(&self) -> &Path {
        self.aside.path()
    }

    /// Gives it its name. Every file in it must be durable.
    ///
    /// # Errors
    /// [`RepairError::Exists`] if something has got that name meanwhile, or what the file system says.
    pub fn finish(self) -> Result<(), RepairError> {
        let dir = self.aside.path();
        for made in [dir, &log_dir(dir), &snapshot_dir(dir)] {
            RealDisk.sync_dir(made).map_err(StoreError::io("sync", made))?;
        }
        match renameat_with(CWD, dir, CWD, &self.path, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => return Err(RepairError::Exists(self.path)),
            renamed => renamed.map_err(|error| StoreError::io("rename", &self.path)(error.into()))?,
        }
        // What it was called until now is no more.
        let _ = self.aside.keep();
        Ok(RealDisk.sync_dir(&self.parent).map_err(StoreError::io("sync", &self.parent))?)
    }
}

/// Makes the directories of a store.
///
/// # Errors
/// What the file system says.
pub fn make_dirs(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    [dir, &log_dir(dir), &snapshot_dir(dir)]
        .into_iter()
        .try_for_each(|made| disk.create_dir(made).map_err(StoreError::io("create", made)))
}

/// Puts the manifest in its place, after everything that it names.
///
/// # Errors
/// What the file system says.
pub fn write_manifest(disk: &dyn Disk, dir: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let path = Manifest::path(dir);
    disk::replace(disk, &path, bytes).map(drop).map_err(StoreError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_takes_no_ones_place_and_leaves_nothing_when_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (path, source) = (dir.path().join("n1"), dir.path().join("n0"));
        let entries = || fs::read_dir(dir.path()).unwrap().count();
        drop(NewStore::begin(&path, &source).unwrap());
        assert_eq!(entries(), 0);
        let (first, second) = (NewStore::begin(&path, &source).unwrap(), NewStore::begin(&path, &source).unwrap());
        first.finish().unwrap();
        assert!(
            matches!(second.finish(), Err(RepairError::Exists(_))),
            "an empty directory would be replaced by rename"
        );
        assert!(matches!(NewStore::begin(&path, &source), Err(RepairError::Exists(_))));
        assert!(path.join("log").is_dir());
        assert_eq!(entries(), 1);
    }

    #[test]
    fn nobody_else_may_look_into_a_new_store() {
        let dir = tempfile::tempdir().unwrap();
        let (path, source) = (dir.path().join("n1"), dir.path().join("n0"));
        NewStore::begin(&path, &source).unwrap().finish().unwrap();
        for made in [path.clone(), log_dir(&path), snapshot_dir(&path)] {
            assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
        }
    }

    #[test]
    fn a_new_store_is_not_made_inside_the_one_that_is_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("n1");
        fs::create_dir_all(source.join("log")).unwrap();
        std::os::unix::fs::symlink(&source, dir.path().join("link")).unwrap();
        for path in [source.join("new"), source.join("log/new"), dir.path().join("link/new"), source.join("../n1/new")]
        {
            assert!(matches!(NewStore::begin(&path, &source), Err(RepairError::Inside(_))), "{}", path.display());
        }
        drop(NewStore::begin(&source.join("../n1-new"), &source).unwrap());
    }
}
