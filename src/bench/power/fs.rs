//! A [`Disk`] as a FUSE file system: each request is one call of it, under its lock.
//!
//! The kernel's page cache above it never holds what this file system does not have: writeback caching is off, so that
//! every `write` comes here before it returns. `sync_file_range` and `sync` do not come here at all, so they make nothing
//! durable. Locks (`flock`, `fcntl`) are the kernel's own, per mount.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use super::disk::{Access, Attributes, CAPACITY_BYTES, Disk, Ino, MAX_NAME_BYTES};

/// Nobody but the kernel changes anything while it is mounted, so what it knows stays true.
const VALID: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;
/// What `st_blocks` counts in.
const STAT_BLOCK_BYTES: u64 = 512;

/// The disk, while there is power. Without: every request fails (EIO).
pub type Slot = Arc<Mutex<Option<Disk>>>;

/// The disk behind the lock; a thread that panicked in it leaves it as it is.
pub fn lock(slot: &Slot) -> MutexGuard<'_, Option<Disk>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module's text.
pub struct PowerFs(pub Slot);

impl PowerFs {
    fn with<T>(&self, work: impl FnOnce(&mut Disk) -> Result<T, Errno>) -> Result<T, fuser::Errno> {
        let outcome = lock(&self.0).as_mut().map_or(Err(Errno::IO), work);
        outcome.map_err(|error| fuser::Errno::from_i32(error.raw_os_error()))
    }

    /// Looks up what there is, or makes it, and counts that the kernel holds it.
    fn held(&self, find: impl FnOnce(&mut Disk) -> Result<Ino, Errno>) -> Result<FileAttr, fuser::Errno> {
        self.with(|disk| {
            let ino = find(disk)?;
            disk.hold(ino);
            disk.attributes(ino).map(attr)
        })
    }
}

fn attr(of: Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(of.ino.0),
        size: of.length,
        blocks: of.allocated.div_ceil(STAT_BLOCK_BYTES),
        atime: of.modified,
        mtime: of.modified,
        ctime: of.modified,
        crtime: of.modified,
        kind: kind(of.is_dir),
        perm: (of.access.mode & 0o7777) as u16,
        nlink: of.links,
        uid: of.access.uid,
        gid: of.access.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn kind(is_dir: bool) -> FileType {
    if is_dir { FileType::Directory } else { FileType::RegularFile }
}

fn access(request: &Request, mode: u32) -> Access {
    Access { mode: mode & 0o7777, uid: request.uid(), gid: request.gid() }
}

fn entry(reply: ReplyEntry, outcome: Result<FileAttr, fuser::Errno>) {
    match outcome {
        Ok(attr) => reply.entry(&VALID, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, outcome: Result<(), fuser::Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// What `setattr` asks for.
#[derive(Clone, Copy)]
struct Wanted {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    modified: Option<TimeOrNow>,
}

impl Wanted {
    fn apply(self, disk: &mut Disk, ino: Ino) -> Result<FileAttr, Errno> {
        let before = disk.attributes(ino)?.access;
        let mode = self.mode.map_or(before.mode, |mode| mode & 0o7777);
        disk.set_access(
            ino,
            Access { mode, uid: self.uid.unwrap_or(before.uid), gid: self.gid.unwrap_or(before.gid) },
        )?;
        if let Some(size) = self.size {
            disk.set_length(ino, size)?;
        }
        match self.modified {
            Some(TimeOrNow::SpecificTime(time)) => disk.set_modified(ino, time)?,
            Some(TimeOrNow::Now) => disk.set_modified(ino, SystemTime::now())?,
            None => {}
        }
        disk.attributes(ino).map(attr)
    }
}

impl Filesystem for PowerFs {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.held(|disk| disk.lookup(Ino(parent.0), name)));
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        let _ = self.with(|disk| {
            disk.let_go(Ino(ino.0), count);
            Ok(())
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|disk| disk.attributes(Ino(ino.0)).map(attr)) {
            Ok(attr) => reply.attr(&VALID, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted { mode, uid, gid, size, modified };
        match self.with(|disk| wanted.apply(disk, Ino(ino.0))) {
            Ok(attr) => reply.attr(&VALID, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        let is_file = rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile;
        let make = |disk: &mut Disk| match is_file {
            true => disk.make_file(Ino(parent.0), name, access(request, mode)),
            false => Err(Errno::PERM),
        };
        entry(reply, self.held(make));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(reply, self.held(|disk| disk.make_dir(Ino(parent.0), name, access(request, mode))));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|disk| disk.unlink(Ino(parent.0), name)));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|disk| disk.remove_dir(Ino(parent.0), name)));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(fuser::Errno::EINVAL);
        }
        let (from, to) = ((Ino(parent.0), name), (Ino(new_parent.0), new_name));
        empty(reply, self.with(|disk| disk.rename(from, to, flags.is_empty())));
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.held(|disk| disk.link(Ino(ino.0), Ino(parent.0), name).map(|()| Ino(ino.0))));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let exclusive = OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::EXCL);
        let made = self.held(|disk| match disk.make_file(Ino(parent.0), name, access(request, mode)) {
            Err(Errno::EXIST) if !exclusive => disk.lookup(Ino(parent.0), name),
            outcome => outcome,
        });
        match made {
            Ok(attr) => reply.created(&VALID, &attr, Generation(0), FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(|disk| disk.read(Ino(ino.0), offset, size as usize).map(<[u8]>::to_vec)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(|disk| disk.write(Ino(ino.0), offset, data)) {
            // The kernel sends at most 16 MiB at once.
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // Closing a file makes nothing durable; the kernel need not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, _only_data: bool, reply: ReplyEmpty) {
        empty(reply, self.with(|disk| disk.sync_file(Ino(ino.0))));
    }

    fn fsyncdir(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, _only_data: bool, reply: ReplyEmpty) {
        empty(reply, self.with(|disk| disk.sync_dir(Ino(ino.0))));
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dir = Ino(ino.0);
        let listed = self.with(|disk| Ok((disk.parent(dir)?, disk.list(dir, offset)?)));
        let (parent, names) = match listed {
            Ok(listed) => listed,
            Err(error) => return reply.error(error),
        };
        let dots = [(1, dir, "."), (2, parent, "..")];
        for (cookie, ino, name) in dots.into_iter().filter(|(cookie, ..)| *cookie > offset) {
            if reply.add(INodeNo(ino.0), cookie, FileType::Directory, name) {
                return reply.ok();
            }
        }
        for listed in names {
            if reply.add(INodeNo(listed.ino.0), listed.cookie, kind(listed.is_dir), &listed.name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.with(|disk| Ok(disk.free_bytes())) {
            Ok(free) => {
                let (all, free) = (CAPACITY_BYTES / u64::from(BLOCK_BYTES), free / u64::from(BLOCK_BYTES));
                let names = MAX_NAME_BYTES as u32;
                reply.statfs(
                    all,
                    free,
                    free,
                    u64::from(u32::MAX),
                    u64::from(u32::MAX),
                    BLOCK_BYTES,
                    names,
                    BLOCK_BYTES,
                );
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        if !FallocateFlags::KEEP_SIZE.contains(mode) {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let keep_length = mode.contains(FallocateFlags::KEEP_SIZE);
        empty(reply, self.with(|disk| disk.allocate(Ino(ino.0), offset.saturating_add(length), keep_length)));
    }
}
