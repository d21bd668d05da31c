//! Room set aside for the next start.
//!
//! A recovery has to write: a segment that repeats the last batch, and a manifest. So that it can do so on a full disk
//! too, the store keeps a file that only takes up room, the size of the largest frame and a little more. Where there is
//! none left, the start fails and changes nothing.

use std::path::{Path, PathBuf};

use super::MAX_BATCH_BYTES;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

const SLACK_BYTES: u64 = 64 << 10;
const FULL_BYTES: u64 = MAX_BATCH_BYTES as u64 + SLACK_BYTES;

/// Where it lies in the store at `dir`.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Does `write`, which leaves no trace if it fails for want of room; then gives the reserve up and does it again.
pub fn write_with_reserve<T>(
    disk: &dyn Disk,
    dir: &Path,
    mut write: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match write() {
        Err(error) if error.is_disk_full() && disk.remove(&path(dir)).is_ok() => {
            tracing::warn!("the disk is full; going on with the room that was set aside for that");
            write()
        }
        outcome => outcome,
    }
}

/// Sets aside as much of the reserve as there is room for, so that it is there after a power cut too.
pub fn set_aside(disk: &dyn Disk, dir: &Path) {
    let path = path(dir);
    if disk.open(&path).and_then(|file| file.len()).is_ok_and(|length| length >= FULL_BYTES) {
        return;
    }
    for slack in 0..FULL_BYTES / SLACK_BYTES {
        let bytes = FULL_BYTES - slack * SLACK_BYTES;
        let Ok(file) = disk.create(&path).and_then(|file| file.allocate(bytes).map(|()| file)) else { continue };
        if bytes < FULL_BYTES {
            tracing::warn!("the disk is nearly full: only {bytes} bytes could be set aside for the next start");
        }
        if let Err(error) = file.sync().and_then(|()| disk.sync_dir(dir)) {
            tracing::warn!("what was set aside for the next start may not outlive a power cut: {error}");
        }
        return;
    }
    let _ = disk.remove(&path);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::storage::disk::{Kept, MemDisk, RealDisk};

    #[test]
    fn the_reserve_is_made_once_and_again_when_it_is_too_short() {
        let dir = tempfile::tempdir().unwrap();
        let found = || std::fs::metadata(path(dir.path())).unwrap();
        set_aside(&RealDisk, dir.path());
        let made = found();
        assert_eq!(made.len(), FULL_BYTES);
        set_aside(&RealDisk, dir.path());
        assert_eq!(found().ino(), made.ino(), "it is there already");
        std::fs::write(path(dir.path()), b"short").unwrap();
        set_aside(&RealDisk, dir.path());
        assert_eq!(found().len(), FULL_BYTES);
    }

    #[test]
    fn as_much_is_set_aside_as_there_is_room_for() {
        for room in [0, SLACK_BYTES - 1, SLACK_BYTES, FULL_BYTES / 2, FULL_BYTES - 1, FULL_BYTES] {
            let (disk, dir) = (MemDisk::default(), Path::new("/store"));
            disk.create_dir(dir).unwrap();
            disk.set_capacity(Some(disk.used_bytes() + room));
            set_aside(&disk, dir);
            let found = disk.open(&path(dir)).and_then(|file| file.len()).ok();
            let most = room / SLACK_BYTES * SLACK_BYTES;
            assert_eq!(found, (most > 0).then_some(most), "{room} bytes of room");
        }
    }

    #[test]
    fn the_reserve_outlives_a_power_cut() {
        let (disk, dir) = (MemDisk::default(), Path::new("/store"));
        disk.create_dir(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        set_aside(&disk, dir);
        let after = disk.after_cut(Kept::Nothing);
        assert_eq!(after.open(&path(dir)).unwrap().len().unwrap(), FULL_BYTES);
    }
}
