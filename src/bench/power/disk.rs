//! A file system in memory with a page cache and a disk beneath it. There is no FUSE in here, and no power: see
//! `cut.rs` for what is forgotten.
//!
//! What is assumed of a real one is what `storage/disk/mod.rs` assumes, no more: the sync of a file makes its bytes and
//! its length durable, that of a directory its names, and nothing else does. A rename is one change. Permissions, owners
//! and times are durable at once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::content::Content;

/// A longer file is refused (EFBIG).
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// All files together hold no more than this (ENOSPC).
pub const CAPACITY_BYTES: u64 = 16 << 30;
/// Longer names are refused.
pub const MAX_NAME_BYTES: usize = 255;

/// A file's or a directory's number. It is never used twice, and it outlives power cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// The directory above all.
pub const ROOT: Ino = Ino(1);

/// Who a new file belongs to, and what they may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permissions.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What `stat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number.
    pub ino: Ino,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes.
    pub length: u64,
    /// Bytes set aside for it.
    pub allocated: u64,
    /// How many names it has.
    pub links: u32,
    /// Who may do what.
    pub access: Access,
    /// When it was last changed.
    pub modified: SystemTime,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Goes up with each name that is made, so that a listing in steps skips none when names go meanwhile.
    pub cookie: u64,
    /// What it stands for.
    pub ino: Ino,
    /// Whether that is a directory.
    pub is_dir: bool,
    /// The name.
    pub name: OsString,
}

pub(super) type Names = BTreeMap<OsString, Ino>;

#[derive(Clone, Debug)]
pub(super) enum Kind {
    File {
        content: Content,
        allocated: u64,
    },
    Dir {
        parent: Ino,
        /// As everybody sees them, with their cookies.
        names: BTreeMap<OsString, (Ino, u64)>,
        durable: Names,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) access: Access,
    pub(super) modified: SystemTime,
    /// How many names it has, as everybody sees them.
    pub(super) links: u32,
    /// How many references the kernel holds: an open file outlives its last name.
    pub(super) lookups: u64,
}

/// A change of names that no sync has made durable yet. One that takes and gives is a rename.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    pub(super) moment: u64,
    pub(super) takes: Option<(Ino, OsString)>,
    pub(super) gives: Option<(Ino, OsString, Ino)>,
}

impl NameChange {
    pub(super) fn dirs(&self) -> impl Iterator<Item = Ino> {
        self.takes.iter().map(|(dir, _)| *dir).chain(self.gives.iter().map(|(dir, ..)| *dir))
    }
}

/// A file system in memory: what everybody sees of it, what of that is durable, and the changes in between.
#[derive(Clone, Debug)]
pub struct Disk {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    pub(super) names: Vec<NameChange>,
    /// Orders all changes.
    pub(super) moment: u64,
    next_ino: u64,
    pub(super) unsynced_bytes: usize,
}

impl Default for Disk {
    fn default() -> Self {
        let mut disk =
            Disk { inodes: BTreeMap::new(), names: Vec::new(), moment: 0, next_ino: ROOT.0, unsynced_bytes: 0 };
        let dir = Kind::Dir { parent: ROOT, names: BTreeMap::new(), durable: Names::new() };
        // Ours: whoever mounts it is the only one who may use it, and need not be root.
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        disk.new_inode(dir, Access { mode: 0o700, uid, gid });
        disk
    }
}

impl Disk {
    pub(super) fn new_inode(&mut self, kind: Kind, access: Access) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let links = if matches!(kind, Kind::Dir { .. }) { 2 } else { 0 };
        self.inodes.insert(ino, Inode { kind, access, modified: SystemTime::now(), links, lookups: 0 });
        ino
    }

    pub(super) fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::STALE)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::STALE)
    }

    pub(super) fn entries(&self, dir: Ino) -> Result<&BTreeMap<OsString, (Ino, u64)>, Errno> {
        match &self.inode(dir)?.kind {
            Kind::Dir { names, .. } => Ok(names),
            Kind::File { .. } => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn durable_entries(&mut self, dir: Ino) -> Option<&mut Names> {
        match &mut self.inodes.get_mut(&dir)?.kind {
            Kind::Dir { durable, .. } => Some(durable),
            Kind::File { .. } => None,
        }
    }

    fn content(&self, ino: Ino) -> Result<&Content, Errno> {
        match &self.inode(ino)?.kind {
            Kind::File { content, .. } => Ok(content),
            Kind::Dir { .. } => Err(Errno::ISDIR),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.inodes.get(&ino), Some(Inode { kind: Kind::Dir { .. }, .. }))
    }

    /// What a name stands for.
    pub fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Ino, Errno> {
        self.entries(dir)?.get(name).map(|(ino, _)| *ino).ok_or(Errno::NOENT)
    }

    /// What `stat` tells.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        let inode = self.inode(ino)?;
        let (is_dir, length, allocated) = match &inode.kind {
            Kind::File { content, allocated } => (false, content.bytes().len() as u64, *allocated),
            Kind::Dir { .. } => (true, 4096, 4096),
        };
        let allocated = allocated.max(length);
        Ok(Attributes {
            ino,
            is_dir,
            length,
            allocated,
            links: inode.links,
            access: inode.access,
            modified: inode.modified,
        })
    }

    /// The directory that a directory lies in.
    pub fn parent(&self, dir: Ino) -> Result<Ino, Errno> {
        match &self.inode(dir)?.kind {
            Kind::Dir { parent, .. } => Ok(*parent),
            Kind::File { .. } => Err(Errno::NOTDIR),
        }
    }

    /// The names in a directory that come after `cookie`, in the order of their cookies.
    pub fn list(&self, dir: Ino, after: u64) -> Result<Vec<Listed>, Errno> {
        let later = self.entries(dir)?.iter().filter(|(_, (_, cookie))| *cookie > after);
        let listed = |(name, (ino, cookie)): (&OsString, &(Ino, u64))| Listed {
            cookie: *cookie,
            ino: *ino,
            is_dir: self.is_dir(*ino),
            name: name.clone(),
        };
        let mut all: Vec<Listed> = later.map(listed).collect();
        all.sort_by_key(|listed| listed.cookie);
        Ok(all)
    }

    /// Changes names as everybody sees them, and notes the change.
    fn change_names(&mut self, takes: Option<(Ino, &OsStr)>, gives: Option<(Ino, &OsStr, Ino)>) {
        let moment = self.moment;
        self.moment += 1;
        if let Some((dir, name)) = takes {
            self.take(dir, name);
        }
        if let Some((dir, name, ino)) = gives {
            self.take(dir, name);
            self.give(dir, name, ino, moment);
        }
        let takes = takes.map(|(dir, name)| (dir, name.to_owned()));
        let gives = gives.map(|(dir, name, ino)| (dir, name.to_owned(), ino));
        self.names.push(NameChange { moment, takes, gives });
        self.sweep();
    }

    pub(super) fn take(&mut self, dir: Ino, name: &OsStr) {
        let Some(Inode { kind: Kind::Dir { names, .. }, modified, .. }) = self.inodes.get_mut(&dir) else { return };
        let Some((ino, _)) = names.remove(name) else { return };
        *modified = SystemTime::now();
        self.count_links(dir, ino, |links, by| links.saturating_sub(by));
    }

    pub(super) fn give(&mut self, dir: Ino, name: &OsStr, ino: Ino, cookie: u64) {
        let Some(Inode { kind: Kind::Dir { names, .. }, modified, .. }) = self.inodes.get_mut(&dir) else { return };
        // The first cookies are those of "." and "..".
        names.insert(name.to_owned(), (ino, cookie + 3));
        *modified = SystemTime::now();
        self.count_links(dir, ino, |links, by| links + by);
        if let Some(Inode { kind: Kind::Dir { parent, .. }, .. }) = self.inodes.get_mut(&ino) {
            *parent = dir;
        }
    }

    /// A directory counts twice, by its name and its ".", and once for the one that it lies in, by its "..".
    fn count_links(&mut self, dir: Ino, ino: Ino, count: impl Fn(u32, u32) -> u32) {
        let is_dir = self.is_dir(ino);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.links = count(inode.links, if is_dir { 2 } else { 1 });
        }
        if let Some(above) = self.inodes.get_mut(&dir).filter(|_| is_dir) {
            above.links = count(above.links, 1);
        }
    }

    /// Drops what has no name, durable or not, and what nobody holds.
    pub(super) fn sweep(&mut self) {
        let gone = |(ino, inode): (&Ino, &Inode)| (inode.links == 0 && inode.lookups == 0).then_some(*ino);
        let candidates: Vec<Ino> = self.inodes.iter().filter_map(gone).collect();
        for ino in candidates {
            let pending =
                self.names.iter().any(|change| change.gives.as_ref().is_some_and(|(.., given)| *given == ino));
            let durable = |inode: &Inode| match &inode.kind {
                Kind::Dir { durable, .. } => durable.values().any(|named| *named == ino),
                Kind::File { .. } => false,
            };
            if !pending && !self.inodes.values().any(durable) {
                self.drop_inode(ino);
            }
        }
    }

    fn drop_inode(&mut self, ino: Ino) {
        if let Some(Inode { kind: Kind::File { mut content, .. }, .. }) = self.inodes.remove(&ino) {
            self.unsynced_bytes -= content.settle(u64::MAX);
        }
    }

    fn check_new_name(&self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        let inode = self.inode(dir)?;
        if inode.links == 0 {
            return Err(Errno::NOENT);
        }
        match self.lookup(dir, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes an empty file.
    pub fn make_file(&mut self, dir: Ino, name: &OsStr, access: Access) -> Result<Ino, Errno> {
        self.check_new_name(dir, name)?;
        let ino = self.new_inode(Kind::File { content: Content::default(), allocated: 0 }, access);
        self.change_names(None, Some((dir, name, ino)));
        Ok(ino)
    }

    /// Makes an empty directory.
    pub fn make_dir(&mut self, dir: Ino, name: &OsStr, access: Access) -> Result<Ino, Errno> {
        self.check_new_name(dir, name)?;
        let kind = Kind::Dir { parent: dir, names: BTreeMap::new(), durable: Names::new() };
        let ino = self.new_inode(kind, access);
        // Its name and its "." are counted when it gets the name.
        self.inode_mut(ino)?.links = 0;
        self.change_names(None, Some((dir, name, ino)));
        Ok(ino)
    }

    /// Gives a file one more name.
    pub fn link(&mut self, ino: Ino, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        self.check_new_name(dir, name)?;
        if self.is_dir(ino) {
            return Err(Errno::PERM);
        }
        self.change_names(None, Some((dir, name, ino)));
        Ok(())
    }

    /// Removes a file's name. Who has it open goes on.
    pub fn unlink(&mut self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        if self.is_dir(self.lookup(dir, name)?) {
            return Err(Errno::ISDIR);
        }
        self.change_names(Some((dir, name)), None);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn remove_dir(&mut self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        if !self.entries(self.lookup(dir, name)?)?.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.change_names(Some((dir, name)), None);
        Ok(())
    }

    /// Gives a file or directory another name in one step, if `replace` in place of what has it.
    pub fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), replace: bool) -> Result<(), Errno> {
        let ino = self.lookup(from.0, from.1)?;
        match self.check_new_name(to.0, to.1) {
            Err(Errno::EXIST) if replace => {
                let replaced = self.lookup(to.0, to.1)?;
                match (self.is_dir(ino), self.is_dir(replaced)) {
                    _ if ino == replaced => return Ok(()),
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.entries(replaced)?.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
            }
            outcome => outcome?,
        }
        let mut above = to.0;
        while above != ROOT {
            if above == ino {
                return Err(Errno::INVAL);
            }
            above = self.parent(above)?;
        }
        self.change_names(Some(from), Some((to.0, to.1, ino)));
        Ok(())
    }

    /// Up to `size` bytes.
    pub fn read(&self, ino: Ino, offset: u64, size: usize) -> Result<&[u8], Errno> {
        let bytes = self.content(ino)?.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[start..bytes.len().min(start.saturating_add(size))])
    }

    /// Writes all of `data`.
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(data.len() as u64).ok_or(Errno::FBIG)?;
        self.change_file(ino, end, |content, moment| content.write(offset as usize, data, moment))
    }

    /// Cuts a file off, or fills it up with zeros.
    pub fn set_length(&mut self, ino: Ino, length: u64) -> Result<(), Errno> {
        self.change_file(ino, length, |content, moment| content.set_length(length as usize, moment))
    }

    fn change_file(
        &mut self,
        ino: Ino,
        length: u64,
        change: impl FnOnce(&mut Content, &mut u64) -> usize,
    ) -> Result<(), Errno> {
        if length > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        if self.content(ino)?.bytes().len() as u64 + self.free_bytes() < length {
            return Err(Errno::NOSPC);
        }
        let Some(Inode { kind: Kind::File { content, .. }, modified, .. }) = self.inodes.get_mut(&ino) else {
            return Err(Errno::ISDIR);
        };
        *modified = SystemTime::now();
        self.unsynced_bytes += change(content, &mut self.moment);
        self.write_back();
        Ok(())
    }

    /// Sets room aside for a file; unless `keep_length`, it also reaches as far.
    pub fn allocate(&mut self, ino: Ino, end: u64, keep_length: bool) -> Result<(), Errno> {
        let length = self.content(ino)?.bytes().len() as u64;
        if end > MAX_FILE_BYTES {
            return Err(Errno::FBIG);
        }
        if !keep_length && end > length {
            self.set_length(ino, end)?;
        }
        if let Kind::File { allocated, .. } = &mut self.inode_mut(ino)?.kind {
            *allocated = (*allocated).max(end);
        }
        Ok(())
    }

    /// Changes who may do what.
    pub fn set_access(&mut self, ino: Ino, access: Access) -> Result<(), Errno> {
        self.inode_mut(ino)?.access = access;
        Ok(())
    }

    /// Changes when it was last changed.
    pub fn set_modified(&mut self, ino: Ino, modified: SystemTime) -> Result<(), Errno> {
        self.inode_mut(ino)?.modified = modified;
        Ok(())
    }

    /// The kernel holds one more reference.
    pub fn hold(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
        }
    }

    /// The kernel gives `count` references up.
    pub fn let_go(&mut self, ino: Ino, count: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
            self.sweep();
        }
    }

    /// How much more fits.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let lengths = self.inodes.values().map(|inode| match &inode.kind {
            Kind::File { content, .. } => content.bytes().len() as u64,
            Kind::Dir { .. } => 0,
        });
        CAPACITY_BYTES.saturating_sub(lengths.sum())
    }
}
