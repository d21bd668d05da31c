//! The machine's own file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile};

/// The machine's own file system; relative paths are relative to the working directory.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // A file of that name may have other permissions, or be open elsewhere: it is not written into, but replaced.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let mut names = entries.map(name).collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_created_renamed_listed_and_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        assert_eq!(RealDisk.list(&dir).unwrap(), Vec::<String>::new(), "nothing is there yet");
        RealDisk.create_dir(&dir).unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.join(name));
        let file = RealDisk.create(&one).unwrap();
        file.write_all_at(b"12345", 0).unwrap();
        assert!(!file.is_empty().unwrap() && file.len().unwrap() == 5);
        // A file of that name is replaced, not written into.
        let newer = RealDisk.create(&one).unwrap();
        assert!(newer.is_empty().unwrap() && file.len().unwrap() == 5);
        newer.allocate(8 << 10).unwrap();
        assert_eq!(newer.len().unwrap(), 8 << 10);
        RealDisk.rename(&one, &two).unwrap();
        RealDisk.create(&one).unwrap();
        assert_eq!(RealDisk.list(&dir).unwrap(), ["one", "two"]);
        RealDisk.remove(&two).unwrap();
        assert_eq!(RealDisk.list(&dir).unwrap(), ["one"]);
        // What is no directory, or no file, is not as if there were nothing.
        assert!(RealDisk.list(&one).is_err());
        let refused = RealDisk.create(&dir).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::IsADirectory, "why it could not be removed, not that it is there");
    }
}
