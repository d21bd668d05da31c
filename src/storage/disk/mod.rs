//! Files, as the store needs them: few operations, each of which a simulated disk can have fail or forget.
//!
//! What is assumed of a disk, and nothing more:
//!
//! - What was written to a file is there after a power cut if [`DiskFile::sync`] returned after the write. Of what was
//!   written later any subset of its sectors may be there, in any order.
//! - A new name, a rename or a removal is there after a power cut if [`Disk::sync_dir`] returned after it; of later ones
//!   any subset may be there. A rename is atomic: one sees the old file or the new.
//! - A process that is killed loses nothing that it wrote.
//! - After a failed sync nothing is known about the file, and a second sync proves nothing (fsyncgate, 2018).

pub mod mem;
mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use mem::{DiskFault, Kept, MemDisk};
pub use real::RealDisk;

use crate::planted::{self, Bug};

/// A file system. Paths are absolute, or relative to wherever the implementation says.
pub trait Disk: Send + Sync {
    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// As the file system has it; `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file for its owner alone, in place of one that may be there.
    ///
    /// # Errors
    /// As the file system has it.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a directory for its owner alone, and those above it; nothing happens if it is there.
    ///
    /// # Errors
    /// As the file system has it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted; none if there is no such directory.
    ///
    /// # Errors
    /// As the file system has it.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of a file that may have had it.
    ///
    /// # Errors
    /// As the file system has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the file system has it; `NotFound` if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the file system has it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the file system has it.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is too short.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As the file system has it; some of the data may have been written.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file's content durable (fdatasync).
    ///
    /// # Errors
    /// As the file system has it. Nothing is known about the file then.
    fn sync(&self) -> io::Result<()>;

    /// Sets blocks aside so that `bytes` bytes of the file take up room on the disk.
    ///
    /// # Errors
    /// `StorageFull` if there is not that much room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// As [`DiskFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads a whole file.
///
/// # Errors
/// As the file system has it.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Puts a file in place durably and in one step: written aside, synced, renamed, its directory synced.
///
/// # Errors
/// As the file system has it. The file that was there before may or may not have been replaced.
pub fn replace(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
    let (aside, dir) = (temporary(path), path.parent().expect("a file is in a directory"));
    let file = disk.create(&aside)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    disk.rename(&aside, path)?;
    if !planted::is(Bug::NoDirectorySync) {
        disk.sync_dir(dir)?;
    }
    Ok(file)
}

/// The name under which a file is written aside.
pub fn temporary(path: &Path) -> std::path::PathBuf {
    let mut name = path.file_name().expect("a file has a name").to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}
