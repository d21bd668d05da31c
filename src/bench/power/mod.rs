//! Power cuts for real processes: each node's files lie on a disk of its own in our memory, which forgets at the cut
//! what was not synced.
//!
//! ```text
//! node ── system calls ──► kernel ── FUSE ──► fs.rs ──► disk.rs: what everybody sees │ what is durable
//!                                    one lock ▲                 cut.rs: forgets the rest
//!              SIGKILL, while that lock is held┘
//! ```
//!
//! **The cut** takes the disk out of the mounted file system and kills the process while it holds the file system's
//! lock. So an operation is either wholly before it, or it fails and its process never gets to know: a process with
//! SIGKILL pending does not return from a system call. The old mount never sees the disk again.
//!
//! **Power on** is a new mount of what was left: an empty page cache and no file of the old processes, but the same
//! inode numbers, as on a real disk. There is a new boot id (`ORSET_BOOT_ID`). A mere kill changes neither.
//!
//! ```
//! use orset::bench::power::{Disk, Forgetting, ROOT, Access};
//! let access = Access { mode: 0o600, uid: 0, gid: 0 };
//! let mut disk = Disk::default();
//! let file = disk.make_file(ROOT, "log".as_ref(), access).unwrap();
//! disk.write(file, 0, b"synced").unwrap();
//! disk.sync_file(file).unwrap();
//! disk.sync_dir(ROOT).unwrap();
//! disk.write(file, 6, b", not synced").unwrap();
//! disk.cut(Forgetting::All, &mut fastrand::Rng::with_seed(1));
//! assert_eq!(disk.read(file, 0, 100).unwrap(), b"synced");
//! ```
//!
//! # Caveats
//! - Permissions, owners and times are never forgotten, and there are no symbolic links.
//! - Nothing is torn below a sector, no sync fails, and no disk lies.
//! - If we are SIGKILLed, the disks are gone, as they are in our memory; the mounts are removed by a shell that notices.

mod content;
mod cut;
mod disk;
mod fs;
mod mount;
mod sync;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

pub use cut::{Cut, Forgetting};
pub use disk::{Access, Attributes, CAPACITY_BYTES, Disk, Ino, Listed, MAX_FILE_BYTES, MAX_NAME_BYTES, ROOT};
pub use mount::{MountKeeper, NoPower, check};
pub use tree::Tree;

use fs::{Slot, lock};
use mount::Mounted;

/// One machine's disk and its power.
pub struct Machine {
    point: PathBuf,
    slot: Slot,
    /// Where the disk is while it is not mounted.
    unplugged: Option<Disk>,
    mounted: Option<Mounted>,
    boots: u64,
}

impl Machine {
    /// An empty disk, to be mounted at `point`, which is made.
    ///
    /// # Errors
    /// As the system has it.
    pub fn new(point: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(point)?;
        Ok(Machine {
            point: point.to_owned(),
            slot: Slot::default(),
            unplugged: Some(Disk::default()),
            mounted: None,
            boots: 1,
        })
    }

    /// Where its files are while there is power.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Counts how often the power has come on, from 1; while it is off, the next time is counted.
    #[must_use]
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// Whether it has power.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mounted.is_some()
    }

    /// Switches it on, if it is off.
    ///
    /// # Errors
    /// If the disk cannot be mounted.
    pub fn power_on(&mut self) -> io::Result<()> {
        let Some(disk) = self.unplugged.take() else { return Ok(()) };
        // A new one each time: a request that is still under way belongs to the old mount.
        self.slot = Slot::default();
        *lock(&self.slot) = Some(disk);
        match Mounted::new(Slot::clone(&self.slot), &self.point) {
            Ok(mounted) => self.mounted = Some(mounted),
            Err(error) => {
                self.unplug();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Cuts the power: `kill` is called at the very moment, and must kill all who use the disk. It must not wait for
    /// their death: a request of theirs may be waiting for the lock that is held meanwhile.
    ///
    /// # Errors
    /// If they could not be killed.
    pub fn cut(
        &mut self,
        forgetting: Forgetting,
        random: &mut fastrand::Rng,
        kill: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Cut> {
        let killed = {
            let mut slot = lock(&self.slot);
            if let Some(disk) = slot.take() {
                self.unplugged = Some(disk);
            }
            kill()
        };
        drop(self.mounted.take());
        self.boots += 1;
        let disk = self.unplugged.as_mut().expect("it is either mounted or not");
        let cut = disk.cut(forgetting, random);
        killed.map(|()| cut)
    }

    /// Takes the disk out without forgetting anything. Nobody may use it.
    fn unplug(&mut self) -> &mut Disk {
        if let Some(disk) = lock(&self.slot).take() {
            self.unplugged = Some(disk);
        }
        drop(self.mounted.take());
        self.unplugged.as_mut().expect("it is either mounted or not")
    }

    /// Whether there is something of that name on its disk.
    #[must_use]
    pub fn has(&self, name: &OsStr) -> bool {
        let slot = lock(&self.slot);
        slot.as_ref().or(self.unplugged.as_ref()).is_some_and(|disk| disk.lookup(ROOT, name).is_ok())
    }

    /// What lies under a name on its disk; `None`: nothing.
    #[must_use]
    pub fn tree(&self, name: &OsStr) -> Option<Tree> {
        let slot = lock(&self.slot);
        slot.as_ref().or(self.unplugged.as_ref()).and_then(|disk| disk.tree(name))
    }

    /// Puts a tree, or nothing, in place of what lies under a name, durably. Nobody may use the disk, which is unmounted
    /// then: what the kernel knew of it is no longer true.
    pub fn put_tree(&mut self, name: &OsStr, tree: Option<&Tree>) {
        self.unplug().put_tree(name, tree);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.mounted.take());
        // Empty, unless somebody has put something in while it was off.
        let _ = std::fs::remove_dir(&self.point);
    }
}
