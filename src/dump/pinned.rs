//! Files as they were at one instant.
//!
//! A running node appends to its last segment, and deletes segments and snapshots that it needs no more. Whoever opens
//! all of them first, and never looks beyond the length that each had then, is not bothered by either.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::storage::StoreError;
use crate::storage::disk::{self, Disk, DiskFile, RealDisk};
use crate::storage::log::segment;
use crate::storage::manifest::Manifest;
use crate::storage::replay::{log_dir, snapshot_dir};

/// How often pinning is begun anew because the manifest has changed. Opening the files takes microseconds, and the
/// manifest changes a few times a second under the heaviest load, so the second try is rare and the last one never seen.
pub const MAX_TRIES: u32 = 20;

/// Some directories and files of the machine, as they were. Can only be read.
#[derive(Default)]
pub struct PinnedDisk {
    dirs: BTreeMap<PathBuf, Vec<String>>,
    files: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
}

impl PinnedDisk {
    /// Opens the manifest, every segment and every snapshot of the store in `dir`, whatever is in them, all as of one
    /// instant.
    ///
    /// # Errors
    /// As the file system has it, with the file's name.
    pub fn of_store(dir: &Path) -> Result<Self, StoreError> {
        let path = Manifest::path(dir);
        let mut tries = 1;
        loop {
            let before = manifest_of(&path)?;
            let wanted = |name: &str| segment::parse_file_name(name).is_some() || name.ends_with(".snap");
            let pinned = Self::new(&[log_dir(dir), snapshot_dir(dir)], wanted);
            // The manifest is replaced before any file that it named is deleted, and before a new segment counts.
            if manifest_of(&path)? == before || tries == MAX_TRIES {
                let mut pinned = pinned?;
                let held: Arc<dyn DiskFile> = match before {
                    Found::Bytes(bytes) => Arc::new(PinnedFile::Held(bytes)),
                    Found::Unreadable(code) => Arc::new(PinnedFile::Unreadable(code)),
                    Found::Nothing => return Ok(pinned),
                };
                pinned.files.insert(path, held);
                return Ok(pinned);
            }
            tries += 1;
        }
    }

    /// Opens the files below each of `dirs` whose names `wanted` says yes to. Those of one directory are opened in the
    /// order of their names, after they have been listed: if a listed segment has a successor, then that one was
    /// listed too or did not exist yet.
    ///
    /// # Errors
    /// As the file system has it, with the file's name; a file that vanishes meanwhile is just not there.
    pub fn new(dirs: &[PathBuf], wanted: impl Fn(&str) -> bool) -> Result<Self, StoreError> {
        allow_many_files();
        let mut pinned = Self::default();
        for dir in dirs {
            let names = RealDisk.list(dir).map_err(StoreError::io("list", dir))?;
            for name in names.iter().filter(|name| wanted(name)) {
                let path = dir.join(name);
                match PinnedFile::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    file => {
                        let file = file.map_err(StoreError::io("open", &path))?;
                        pinned.files.insert(path, Arc::new(file));
                    }
                }
            }
            pinned.dirs.insert(dir.clone(), names);
        }
        Ok(pinned)
    }
}

/// What there is of a manifest.
#[derive(PartialEq)]
enum Found {
    Bytes(Vec<u8>),
    Nothing,
    /// The system's number of the error.
    Unreadable(i32),
}

/// A manifest on a bad sector hides nothing else of the store. Not to be allowed to read it is another matter.
fn manifest_of(path: &Path) -> Result<Found, StoreError> {
    match disk::read(&RealDisk, path) {
        Ok(bytes) => Ok(Found::Bytes(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => match error.raw_os_error().filter(|_| error.kind() != io::ErrorKind::PermissionDenied) {
            Some(code) => Ok(Found::Unreadable(code)),
            None => Err(StoreError::io("read", path)(error)),
        },
    }
}

/// A log can have more segments than the usual 1,024 open files: one for every start that wrote.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it most stores can be looked at all the same.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn read_only<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "a pinned file system is only read"))
}

impl Disk for PinnedDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, _path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        read_only()
    }

    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        read_only()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.dirs.get(dir).cloned().unwrap_or_default())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        read_only()
    }
}

/// A file as it was. Can only be read.
enum PinnedFile {
    /// It is open, and read up to the length that it had when it was opened.
    Open { file: Arc<dyn DiskFile>, length: u64 },
    /// Its content has been read.
    Held(Vec<u8>),
    /// It is there and cannot be read: the system's error number.
    Unreadable(i32),
}

impl PinnedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = RealDisk.open(path)?;
        let length = file.len()?;
        Ok(Self::Open { file, length })
    }
}

impl DiskFile for PinnedFile {
    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Open { length, .. } => Ok(*length),
            Self::Held(bytes) => Ok(bytes.len() as u64),
            Self::Unreadable(code) => Err(io::Error::from_raw_os_error(*code)),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Open { file, length } => {
                let end = offset.checked_add(buf.len() as u64);
                if end.is_none_or(|end| end > *length) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.read_exact_at(buf, offset)
            }
            Self::Held(bytes) => {
                let start = usize::try_from(offset).map_err(io::Error::other)?;
                let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buf.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::Unreadable(code) => Err(io::Error::from_raw_os_error(*code)),
        }
    }

    fn write_all_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        read_only()
    }

    fn sync(&self) -> io::Result<()> {
        read_only()
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        read_only()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that leads to itself cannot be opened by anybody, not even by root.
    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let store = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(log_dir(store.path())).unwrap();
        let name = segment::file_name(7);
        std::os::unix::fs::symlink(&name, log_dir(store.path()).join(&name)).unwrap();
        let error = PinnedDisk::of_store(store.path()).err().expect("it cannot be opened").to_string();
        assert!(error.contains(&format!("log/{name}: cannot open")), "{error}");
    }

    #[test]
    fn what_happens_to_a_pinned_file_later_does_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let (path, dirs) = (dir.path().join("1.log"), [dir.path().to_path_buf()]);
        std::fs::write(&path, b"before").unwrap();
        let pinned = PinnedDisk::new(&dirs, |_| true).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).and_then(|f| f.write_all_at(b" after", 6)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("2.log"), b"new").unwrap();
        assert_eq!(crate::storage::disk::read(&pinned, &path).unwrap(), b"before");
        assert_eq!(pinned.list(dir.path()).unwrap(), ["1.log"]);
        assert!(pinned.open(&path).unwrap().read_exact_at(&mut [0; 7], 0).is_err());
        assert!(pinned.create(&path).is_err() && pinned.remove(&path).is_err());
    }
}
