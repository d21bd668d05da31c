//! A disk in memory that can be killed, cut off from power, filled up, and made to fail, all by plain numbers.
//!
//! It counts every operation that changes something. At the [`MemDisk::stop_at`]-th it stops: that operation and all
//! later ones fail. What a new process would then find is [`MemDisk::after_kill`] (everything written) or
//! [`MemDisk::after_power_cut`] (what was synced, and of the rest whatever the given number says).
//!
//! ```
//! use orset::storage::disk::{Disk, MemDisk};
//! use std::path::Path;
//! let disk = MemDisk::default();
//! let path = Path::new("/log");
//! disk.create(path).unwrap().write_all_at(b"not synced", 0).unwrap();
//! assert!(disk.after_kill().open(path).is_ok());
//! assert!(disk.after_power_cut(0).open(path).is_err(), "not even the name had been synced");
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

/// See the module's text. Clones share one disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Image>>);

#[derive(Clone, Default)]
struct Image {
    /// Content by file number: names come and go, a file stays while somebody has it open.
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    /// Changes of names that no sync has made durable yet, in order.
    unsynced_names: Vec<NameChange>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: u64,
    stop_at: Option<u64>,
    capacity_bytes: Option<u64>,
    failing_syncs: bool,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    allocated: u64,
}

#[derive(Clone)]
struct NameChange {
    path: PathBuf,
    /// The file that the name now stands for; `None`: none any more.
    file: Option<usize>,
    /// The name that goes in the same step.
    renamed_from: Option<PathBuf>,
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(from) = &self.renamed_from {
            names.remove(from);
        }
        match self.file {
            Some(file) => drop(names.insert(self.path.clone(), file)),
            None => drop(names.remove(&self.path)),
        }
    }
}

/// A small generator (splitmix64): the same number gives the same disk.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl MemDisk {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().expect("nobody panics while holding the lock")
    }

    /// How many changing operations have been asked for.
    pub fn changes(&self) -> u64 {
        self.image().changes
    }

    /// From the `change`-th changing operation on, counted from 1, every one fails.
    pub fn stop_at(&self, change: u64) {
        self.image().stop_at = Some(change);
    }

    /// Writes that would bring the files to more than `bytes` in all fail with `StorageFull`; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.image().capacity_bytes = bytes;
    }

    /// From now on every file sync fails (or works again).
    pub fn set_failing_syncs(&self, fail: bool) {
        self.image().failing_syncs = fail;
    }

    /// What the files take up.
    pub fn used_bytes(&self) -> u64 {
        self.image().used()
    }

    /// The disk as a new process finds it after this one was killed: everything that was written.
    pub fn after_kill(&self) -> MemDisk {
        let mut image = self.image().clone();
        image.restart();
        MemDisk(Arc::new(Mutex::new(image)))
    }

    /// The disk after a power cut. Of what was not synced there is nothing for `choice` 0; otherwise whatever subset
    /// of sectors and names the number draws.
    pub fn after_power_cut(&self, choice: u64) -> MemDisk {
        let mut image = self.image().clone();
        let mut choices = Choices(choice);
        let mut keep = move || choice != 0 && choices.next().is_multiple_of(2);
        let mut names = image.durable_names.clone();
        for change in &image.unsynced_names {
            if keep() {
                change.apply(&mut names);
            }
        }
        image.names = names;
        for content in &mut image.files {
            content.lose_unsynced(&mut keep);
        }
        image.durable_names = image.names.clone();
        image.unsynced_names.clear();
        image.restart();
        MemDisk(Arc::new(Mutex::new(image)))
    }

    /// Changes a file's bytes behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut image = self.image();
        let file = image.names[path];
        let content = &mut image.files[file];
        change(&mut content.bytes);
        content.durable = content.bytes.clone();
    }

    /// Every file that has a name, with its content.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let image = self.image();
        image.names.iter().map(|(path, file)| (path.clone(), image.files[*file].bytes.clone())).collect()
    }
}

impl Image {
    fn restart(&mut self) {
        (self.changes, self.stop_at, self.failing_syncs) = (0, None, false);
    }

    fn used(&self) -> u64 {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        let taken = |file: &usize| self.files[*file].allocated.max(self.files[*file].bytes.len() as u64);
        named.iter().map(taken).sum()
    }

    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match self.stop_at {
            Some(stop) if self.changes >= stop => Err(io::Error::other("the disk has stopped")),
            _ => Ok(()),
        }
    }

    /// Sees to it that `file` may grow to `bytes`.
    fn make_room(&self, file: usize, bytes: u64) -> io::Result<()> {
        let content = &self.files[file];
        let more = bytes.saturating_sub(content.allocated.max(content.bytes.len() as u64));
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

impl Content {
    fn lose_unsynced(&mut self, keep: &mut impl FnMut() -> bool) {
        if self.bytes == self.durable {
            return;
        }
        let mut left = self.durable.clone();
        // The length is metadata of its own: it may have got to the disk without the bytes (which then are zeros).
        if self.bytes.len() > left.len() && keep() {
            left.resize(self.bytes.len(), 0);
        }
        for start in (0..left.len().min(self.bytes.len())).step_by(SECTOR_BYTES) {
            let end = (start + SECTOR_BYTES).min(left.len()).min(self.bytes.len());
            if self.bytes[start..end] != left[start..end] && keep() {
                left[start..end].copy_from_slice(&self.bytes[start..end]);
            }
        }
        self.bytes = left.clone();
        self.durable = left;
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.image().names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut image = self.image();
        image.change()?;
        image.files.push(Content::default());
        let file = image.files.len() - 1;
        image.rename(NameChange { path: path.into(), file: Some(file), renamed_from: None });
        Ok(Arc::new(MemFile { disk: self.clone(), file }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        image.dirs.insert(path.into());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let image = self.image();
        let below = image.names.keys().chain(&image.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<_> = below.filter_map(|path| Some(path.file_name()?.to_string_lossy().into())).collect();
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        let file = image.names.get(from).copied().ok_or(io::ErrorKind::NotFound)?;
        image.rename(NameChange { path: to.into(), file: Some(file), renamed_from: Some(from.into()) });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        if !image.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        image.rename(NameChange { path: path.into(), file: None, renamed_from: None });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        let image = &mut *image;
        let (synced, left) =
            std::mem::take(&mut image.unsynced_names).into_iter().partition(|c| c.path.parent() == Some(dir));
        image.unsynced_names = left;
        let synced: Vec<NameChange> = synced;
        synced.iter().for_each(|change| change.apply(&mut image.durable_names));
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    file: usize,
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.image().files[self.file].bytes.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let image = self.disk.image();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = image.files[self.file].bytes.get(from..from + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut image = self.disk.image();
        let stopped = image.change();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        // A process that is killed in the middle of a write leaves a part of it.
        let written = match image.stop_at {
            Some(stop) if image.changes > stop => 0,
            Some(stop) if image.changes == stop => data.len() / 2,
            _ => data.len(),
        };
        let data = &data[..written];
        if let Err(full) = image.make_room(self.file, (from + data.len()) as u64) {
            return Err(stopped.err().unwrap_or(full));
        }
        let bytes = &mut image.files[self.file].bytes;
        if bytes.len() < from + data.len() {
            bytes.resize(from + data.len(), 0);
        }
        bytes[from..from + data.len()].copy_from_slice(data);
        stopped
    }

    fn sync(&self) -> io::Result<()> {
        let mut image = self.disk.image();
        image.change()?;
        if image.failing_syncs {
            return Err(io::Error::other("the disk cannot sync"));
        }
        let content = &mut image.files[self.file];
        content.durable = content.bytes.clone();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut image = self.disk.image();
        image.change()?;
        image.make_room(self.file, bytes)?;
        let content = &mut image.files[self.file];
        content.allocated = content.allocated.max(bytes);
        if (content.bytes.len() as u64) < bytes {
            content.bytes.resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
        }
        Ok(())
    }
}
