//! What makes changes durable: the syncs, and the kernel in time.

use rustix::io::Errno;

use super::disk::{Disk, Ino, Kind, NameChange};

/// More than this does not stay unsynced: the eldest half of it gets to the disk, as a kernel writes back in time.
const MAX_UNSYNCED_BYTES: usize = 64 << 20;

impl Disk {
    /// Makes a file's bytes and length durable.
    pub fn sync_file(&mut self, ino: Ino) -> Result<(), Errno> {
        let inode = self.inodes.get_mut(&ino).ok_or(Errno::STALE)?;
        match &mut inode.kind {
            Kind::File { content, .. } => self.unsynced_bytes -= content.settle(u64::MAX),
            Kind::Dir { .. } => return self.sync_dir(ino),
        }
        Ok(())
    }

    /// Makes the names in a directory durable.
    ///
    /// What moved between it and another directory is one change of both, so the other's earlier changes go along.
    pub fn sync_dir(&mut self, dir: Ino) -> Result<(), Errno> {
        self.entries(dir)?;
        let mut synced = vec![dir];
        loop {
            let touched = self.names.iter().filter(|change| change.dirs().any(|dir| synced.contains(&dir)));
            let more = touched.flat_map(NameChange::dirs).find(|dir| !synced.contains(dir));
            match more {
                Some(dir) => synced.push(dir),
                None => break,
            }
        }
        let touches = |change: &mut NameChange| change.dirs().any(|dir| synced.contains(&dir));
        let settled: Vec<NameChange> = self.names.extract_if(.., touches).collect();
        settled.iter().for_each(|change| self.make_durable(change));
        self.sweep();
        Ok(())
    }

    pub(super) fn make_durable(&mut self, change: &NameChange) {
        if let Some((dir, name)) = &change.takes
            && let Some(names) = self.durable_entries(*dir)
        {
            names.remove(name);
        }
        let Some((dir, name, ino)) = &change.gives else { return };
        if change.takes.is_some() && self.is_dir(*ino) {
            // A directory is in one place, also if its last move was kept and the one before it was not.
            for inode in self.inodes.values_mut() {
                if let Kind::Dir { durable, .. } = &mut inode.kind {
                    durable.retain(|_, named| named != ino);
                }
            }
        }
        if let Some(names) = self.durable_entries(*dir) {
            names.insert(name.clone(), *ino);
        }
    }

    /// Brings the eldest half of what is unsynced to the disk, if it is too much.
    pub(super) fn write_back(&mut self) {
        if self.unsynced_bytes <= MAX_UNSYNCED_BYTES {
            return;
        }
        let mut left = self.unsynced_bytes / 2;
        let mut waiting: Vec<(u64, usize)> = Vec::new();
        for inode in self.inodes.values() {
            if let Kind::File { content, .. } = &inode.kind {
                waiting.extend(content.unsynced().iter().map(|(moment, change)| (*moment, change.bytes())));
            }
        }
        waiting.sort_unstable();
        let before = waiting.iter().find(|(_, bytes)| {
            left = left.saturating_sub(*bytes);
            left == 0
        });
        let before = before.map_or(self.moment, |(moment, _)| *moment);
        for inode in self.inodes.values_mut() {
            if let Kind::File { content, .. } = &mut inode.kind {
                self.unsynced_bytes -= content.settle(before);
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn settle_all(&mut self) {
        for change in std::mem::take(&mut self.names) {
            self.make_durable(&change);
        }
        for inode in self.inodes.values_mut() {
            if let Kind::File { content, .. } = &mut inode.kind {
                self.unsynced_bytes -= content.settle(u64::MAX);
            }
        }
    }
}
