//! A disk in memory that can be killed, cut off from power, filled up, and made to fail, all by plain numbers.
//!
//! It counts every operation that changes something. At the [`MemDisk::stop_at`]-th it stops: that operation and all
//! later ones fail. What a new process would then find is [`MemDisk::after_kill`] (everything written) or
//! [`MemDisk::after_cut`] (what was synced, and of the rest what [`Kept`] says). A [`DiskFault`] makes one operation
//! fail, and the disk goes on.
//!
//! ```
//! use orset::storage::disk::{Disk, Kept, MemDisk};
//! use std::path::Path;
//! let disk = MemDisk::default();
//! let path = Path::new("/log");
//! disk.create(path).unwrap().write_all_at(b"not synced", 0).unwrap();
//! assert!(disk.after_kill().open(path).is_ok());
//! assert!(disk.after_cut(Kept::Nothing).open(path).is_err(), "not even the name had been synced");
//! ```
//!
//! # Caveats
//!
//! Files and names are durable or not; times, permissions and the bytes behind a file's end are not simulated.

mod content;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use content::Content;
use names::{NameChange, Names};

use super::{Disk, DiskFile};

/// See the module's text. Clones share one disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<Image>>);

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All of it had got to the disk by then.
    Everything,
    /// None of it.
    Nothing,
    /// The oldest changes of bytes and names, up to one that the number draws, which may be there in part.
    Prefix(u64),
    /// Whatever subset of sectors and names the number draws.
    Subset(u64),
}

/// What can go wrong once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DiskFault {
    /// An operation that changes something fails, and has changed nothing.
    WriteError,
    /// A write fails after some of its bytes.
    ShortWrite,
    /// A sync of a file or a directory fails. The file's bytes that were to be synced may get to the disk or not, and no
    /// later sync sees to it, although it says that all is well.
    FailedSync,
}

#[derive(Clone, Default)]
struct Image {
    /// Content by file number: names come and go, a file stays while somebody has it open.
    files: Vec<Content>,
    names: Names,
    changes: u64,
    /// Orders all changes, across restarts.
    clock: u64,
    stop_at: Option<u64>,
    capacity_bytes: Option<u64>,
    failing_syncs: bool,
    /// What fails, and how many operations of its kind go well before.
    fault: Option<(DiskFault, u64)>,
    faults_met: BTreeMap<DiskFault, u64>,
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

    /// Lets one operation fail, after `after` of its kind that go well. There is one such fault at a time.
    pub fn inject(&self, fault: DiskFault, after: u64) {
        self.image().fault = Some((fault, after));
    }

    /// Nothing is wrong with the disk any more: no stop, no limit, no fault to come.
    pub fn heal(&self) {
        let mut image = self.image();
        (image.stop_at, image.capacity_bytes, image.fault, image.failing_syncs) = (None, None, None, false);
    }

    /// How often a fault that was injected has been met, since the disk was last started.
    pub fn met(&self, fault: DiskFault) -> u64 {
        self.image().faults_met.get(&fault).copied().unwrap_or(0)
    }

    /// How often any fault that was injected has been met, since the disk was last started.
    pub fn faults_met(&self) -> u64 {
        self.image().faults_met.values().sum()
    }

    /// What the files take up.
    pub fn used_bytes(&self) -> u64 {
        self.image().used()
    }

    /// Whether a file's bytes and its name would all be there after a power cut.
    pub fn is_durable(&self, path: &Path) -> bool {
        let image = self.image();
        image.names.is_durable(path) && image.names.file(path).is_some_and(|file| image.files[file].is_durable())
    }

    /// The disk as a new process finds it after this one was killed: everything that was written.
    pub fn after_kill(&self) -> MemDisk {
        self.image().restarted(|_| ())
    }

    /// The disk after a power cut.
    pub fn after_cut(&self, kept: Kept) -> MemDisk {
        let (Kept::Prefix(number) | Kept::Subset(number)) = kept else {
            let all = kept == Kept::Everything;
            return self.image().restarted(|image| image.lose(&mut || all));
        };
        let mut choices = Choices(number);
        if matches!(kept, Kept::Subset(_)) {
            return self.image().restarted(|image| image.lose(&mut || choices.next().is_multiple_of(2)));
        }
        self.image().restarted(|image| image.lose_after_prefix(&mut choices))
    }

    /// The disk after a power cut. Of what was not synced there is nothing for `choice` 0; otherwise whatever subset
    /// of sectors and names the number draws.
    pub fn after_power_cut(&self, choice: u64) -> MemDisk {
        self.after_cut(if choice == 0 { Kept::Nothing } else { Kept::Subset(choice) })
    }

    /// Changes a file's bytes behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut image = self.image();
        let file = image.names.file(path).expect("there is such a file");
        image.files[file].tamper(change);
    }

    /// Every file that has a name, with its content.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let image = self.image();
        image.names.files().map(|(path, file)| (path.clone(), image.files[file].to_vec())).collect()
    }
}

impl Image {
    /// A disk with what is left after `lose`, for the next process.
    fn restarted(&self, lose: impl FnOnce(&mut Image)) -> MemDisk {
        let mut image = Image {
            files: self.files.clone(),
            names: self.names.clone(),
            clock: self.clock,
            capacity_bytes: self.capacity_bytes,
            ..Image::default()
        };
        lose(&mut image);
        image.forget_nameless();
        // A removal that was not durable had freed nothing yet.
        image.capacity_bytes = image.capacity_bytes.map(|capacity| capacity.max(image.used()));
        MemDisk(Arc::new(Mutex::new(image)))
    }

    fn lose(&mut self, keep: &mut dyn FnMut() -> bool) {
        self.names.lose(keep);
        for content in &mut self.files {
            content.lose(keep);
        }
    }

    fn lose_after_prefix(&mut self, choices: &mut Choices) {
        let writes = self.files.iter().flat_map(Content::unsynced_times);
        let mut times: Vec<u64> = writes.chain(self.names.unsynced_times()).collect();
        times.sort_unstable();
        times.dedup();
        let kept = usize::try_from(choices.next() % (times.len() as u64 + 1)).expect("an index");
        let end = times.get(kept).copied().unwrap_or(u64::MAX);
        self.names.lose_from(end);
        let part = choices.next();
        for content in &mut self.files {
            content.lose_from(end, part);
        }
    }

    /// Nobody has files of a dead process open, so what has no name is gone.
    fn forget_nameless(&mut self) {
        let named: BTreeSet<usize> = self.names.numbers();
        for (number, content) in self.files.iter_mut().enumerate() {
            if !named.contains(&number) {
                *content = Content::default();
            }
        }
        let mut places = vec![0; self.files.len()];
        for (place, number) in named.iter().enumerate() {
            places[*number] = place;
        }
        self.files = named.iter().map(|number| std::mem::take(&mut self.files[*number])).collect();
        self.names.renumber(&places);
    }

    fn used(&self) -> u64 {
        self.names.current_numbers().map(|file| self.files[file].blocks()).sum()
    }

    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        self.clock += 1;
        if self.stop_at.is_some_and(|stop| self.changes >= stop) {
            return Err(io::Error::other("the disk has stopped"));
        }
        if self.meets(DiskFault::WriteError) {
            return Err(io::Error::other("the disk cannot write"));
        }
        Ok(())
    }

    /// Whether this operation, of the kind that `fault` is about, fails.
    fn meets(&mut self, fault: DiskFault) -> bool {
        match &mut self.fault {
            Some((waiting, 0)) if *waiting == fault => {
                self.fault = None;
                *self.faults_met.entry(fault).or_default() += 1;
                true
            }
            Some((waiting, after)) if *waiting == fault => {
                *after -= 1;
                false
            }
            _ => false,
        }
    }

    /// Sees to it that `file` may grow to `bytes`.
    fn make_room(&self, file: usize, bytes: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity_bytes else { return Ok(()) };
        let more = bytes.saturating_sub(self.files[file].blocks());
        if more > 0 && self.used() + more > capacity { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn rename(&mut self, path: &Path, file: Option<usize>, renamed_from: Option<&Path>) {
        let change = NameChange::of_file(self.clock, path, file, renamed_from);
        self.names.change(change);
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.image().names.file(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut image = self.image();
        image.change()?;
        image.files.push(Content::default());
        let file = image.files.len() - 1;
        image.rename(path, Some(file), None);
        Ok(Arc::new(MemFile { disk: self.clone(), file }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        if !image.names.has_dir(path) {
            let change = NameChange::of_dir(image.clock, path);
            image.names.change(change);
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.image().names.below(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        let file = image.names.file(from).ok_or(io::ErrorKind::NotFound)?;
        image.rename(to, Some(file), Some(from));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        image.names.file(path).ok_or(io::ErrorKind::NotFound)?;
        image.rename(path, None, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut image = self.image();
        image.change()?;
        if image.meets(DiskFault::FailedSync) {
            return Err(io::Error::other("the disk cannot sync a directory"));
        }
        image.names.sync(dir);
        Ok(())
    }
}

struct MemFile {
    disk: MemDisk,
    file: usize,
}

impl DiskFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.image().files[self.file].len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.image().files[self.file].read(buf, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut image = self.disk.image();
        let mut outcome = image.change();
        // A process that is killed in the middle of a write leaves a part of it.
        let killed_in_it = image.stop_at == Some(image.changes);
        let short = outcome.is_ok() && image.meets(DiskFault::ShortWrite);
        if short {
            outcome = Err(io::Error::other("the disk has written only a part"));
        }
        let written = match outcome {
            Ok(()) => data.len(),
            Err(_) if killed_in_it || short => data.len() / 2,
            Err(_) => 0,
        };
        let data = &data[..written];
        if let Err(full) = image.make_room(self.file, offset + data.len() as u64) {
            return Err(outcome.err().unwrap_or(full));
        }
        let clock = image.clock;
        image.files[self.file].write(clock, data, offset)?;
        outcome
    }

    fn sync(&self) -> io::Result<()> {
        let mut image = self.disk.image();
        image.change()?;
        if image.failing_syncs || image.meets(DiskFault::FailedSync) {
            image.files[self.file].forget_to_sync();
            return Err(io::Error::other("the disk cannot sync"));
        }
        image.files[self.file].sync();
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut image = self.disk.image();
        image.change()?;
        image.make_room(self.file, bytes)?;
        image.files[self.file].allocate(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: &str = "/d";

    fn path(name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    fn content(disk: &MemDisk, name: &str) -> Option<Vec<u8>> {
        disk.files().remove(&path(name))
    }

    /// A disk with two files: `old` is durable, and has been overwritten by three sectors that are not.
    fn written() -> MemDisk {
        let disk = MemDisk::default();
        disk.create_dir(Path::new(DIR)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let old = disk.create(&path("old")).unwrap();
        old.write_all_at(&[1; 1536], 0).unwrap();
        old.sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        for sector in 0..3 {
            old.write_all_at(&[2; 512], 512 * sector).unwrap();
        }
        disk.create(&path("new")).unwrap().write_all_at(&[3; 700], 0).unwrap();
        disk
    }

    #[test]
    fn a_cut_keeps_everything_nothing_or_the_oldest_changes() {
        let disk = written();
        assert_eq!(content(&disk.after_cut(Kept::Everything), "new"), Some(vec![3; 700]));
        let nothing = disk.after_cut(Kept::Nothing);
        assert_eq!((content(&nothing, "old"), content(&nothing, "new")), (Some(vec![1; 1536]), None));
        let mut seen = BTreeSet::new();
        for number in 0..200 {
            let cut = disk.after_cut(Kept::Prefix(number));
            let old = content(&cut, "old").unwrap();
            let kept = [old[0], old[512], old[1024]].iter().filter(|byte| **byte == 2).count();
            assert!(old[..512 * kept].iter().all(|byte| *byte == 2), "the first {kept} sectors");
            let new = content(&cut, "new").map(|new| new.len());
            assert!(kept == 3 || new.is_none(), "a later change without an earlier one");
            seen.insert((kept, new));
        }
        // The last write of all may be there as far as its first sector.
        let all = [(0, None), (1, None), (2, None), (3, None), (3, Some(0)), (3, Some(512)), (3, Some(700))];
        assert_eq!(seen, BTreeSet::from(all));
    }

    #[test]
    fn a_cut_keeps_any_subset_of_sectors_and_names() {
        let disk = written();
        let mut seen = BTreeSet::new();
        for number in 0..200 {
            let cut = disk.after_cut(Kept::Subset(number));
            let old = content(&cut, "old").unwrap();
            seen.insert(([old[0], old[512], old[1024]], content(&cut, "new").is_some()));
        }
        assert_eq!(seen.len(), 16, "{seen:?}");
    }

    #[test]
    fn a_directory_that_was_not_synced_takes_its_files_along() {
        let disk = MemDisk::default();
        disk.create_dir(Path::new(DIR)).unwrap();
        let file = disk.create(&path("a")).unwrap();
        file.write_all_at(b"a", 0).unwrap();
        file.sync().unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        assert!(!disk.is_durable(&path("a")));
        assert!(disk.after_cut(Kept::Nothing).files().is_empty());
        disk.sync_dir(Path::new("/")).unwrap();
        assert!(disk.is_durable(&path("a")));
        assert_eq!(disk.after_cut(Kept::Nothing).files().len(), 1);
    }

    #[test]
    fn after_a_failed_sync_a_second_one_proves_nothing() {
        let disk = MemDisk::default();
        let file = disk.create(Path::new("/a")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(b"lost", 0).unwrap();
        disk.inject(DiskFault::FailedSync, 0);
        assert!(file.sync().is_err());
        file.write_all_at(b" kept", 4).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.files()[Path::new("/a")], b"lost kept", "those who read it see nothing of that");
        assert!(!disk.is_durable(Path::new("/a")));
        assert_eq!(disk.after_cut(Kept::Nothing).files()[Path::new("/a")], b"\0\0\0\0 kept");
        assert_eq!(disk.met(DiskFault::FailedSync), 1);
    }

    #[test]
    fn faults_are_met_once_and_the_disk_goes_on() {
        let disk = MemDisk::default();
        let file = disk.create(Path::new("/a")).unwrap();
        disk.inject(DiskFault::ShortWrite, 1);
        file.write_all_at(b"ab", 0).unwrap();
        assert!(file.write_all_at(b"cdef", 2).is_err());
        disk.inject(DiskFault::WriteError, 0);
        assert!(file.write_all_at(b"gh", 4).is_err());
        assert_eq!(disk.files()[Path::new("/a")], b"abcd");
        file.write_all_at(b"gh", 4).unwrap();
    }
}
