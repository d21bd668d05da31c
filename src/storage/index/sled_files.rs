//! sled and its directory, handled with the care that `sled 0.34.7` needs.
//!
//! - **Opening** happens in a thread of its own: after a power cut it can fail, panic or hang, and none of that may
//!   happen to the caller. A thread that is stuck is abandoned; should it ever finish, it closes what it opened.
//!   Before, `snap.*.generating` is deleted: a process killed inside sled's `open` leaves it, and every later `open`
//!   would fail over it.
//! - **fsync** is done here, file by file: sled's own `flush` calls `sync_file_range`, which is no durability barrier.
//! - **Permissions** too: sled creates its files by the umask. They are for their owner alone.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::{IndexError, Unusable};

/// How long sled may take to open before it counts as stuck. Ten million records take 1.2 s.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long, and how often, sled's lock is waited for.
const LET_GO_PATIENCE: Duration = Duration::from_secs(2);
const LET_GO_PAUSE: Duration = Duration::from_millis(1);

/// The name of the thread that opens sled. A panic in it is caught and reported as [`Unusable::Panicked`], so a panic
/// hook may keep quiet about it.
pub const OPENER_THREAD: &str = "index-opener";

/// The tree that holds the records and the meta value. A sled batch is atomic within one tree only.
const TREE: &str = "records";

/// Where the meta value lies: a record's key starts with a byte of at least 0x20, so it can be none.
pub(super) const META_KEY: &[u8] = b"\0meta";

/// With sled's default of 512 KiB, loading a million records takes over a gigabyte of memory.
const SEGMENT_BYTES: usize = 64 * 1024;
/// A small cache: the page cache of the kernel is behind it. sled counts bytes of disk, and needs several times as much
/// memory (measured while a million records were loaded: 69 MB resident with 4 MiB, 107 with 16, at the same cost).
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// What opens a database; another than [`open_sled`] only in tests.
pub(super) type Opener = fn(&Path) -> sled::Result<sled::Db>;

/// An open database.
pub(super) struct Opened {
    /// Kept so that the tree's files stay open and locked.
    pub(super) db: sled::Db,
    pub(super) tree: sled::Tree,
    pub(super) meta: Option<sled::IVec>,
}

/// Opens sled as this project needs it.
pub(super) fn open_sled(dir: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .mode(sled::Mode::LowSpace)
        .open()
}

/// Opens the database in `dir` without trusting it to come back.
pub(super) fn open_guarded(dir: &Path, opener: Opener, timeout: Duration) -> Result<Opened, Unusable> {
    delete_half_snapshots(dir).map_err(|error| Unusable::Failed(error.to_string()))?;
    // Room for one, so that the thread never waits for a receiver that has given up.
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = dir.to_path_buf();
    let work = move || {
        let opened = catch_unwind(AssertUnwindSafe(|| open_tree(&path, opener)));
        // If nobody waits any more, the database comes back and is closed here.
        drop(sender.send(opened));
    };
    thread::Builder::new()
        .name(OPENER_THREAD.into())
        .spawn(work)
        .map_err(|error| Unusable::Failed(format!("no thread to open it in: {error}")))?;
    match receiver.recv_timeout(timeout) {
        Ok(Ok(Ok(opened))) => Ok(opened),
        Ok(Ok(Err(error))) => Err(Unusable::Failed(error.to_string())),
        Ok(Err(panic)) => Err(Unusable::Panicked(panic_text(&*panic))),
        Err(RecvTimeoutError::Timeout) => Err(Unusable::Hung),
        Err(RecvTimeoutError::Disconnected) => Err(Unusable::Failed("its thread ended without a word".into())),
    }
}

fn open_tree(dir: &Path, opener: Opener) -> sled::Result<Opened> {
    // If somebody holds on to it, sled says so better than we could.
    let _ = is_let_go(dir);
    let db = opener(dir)?;
    let tree = db.open_tree(TREE)?;
    let meta = tree.get(META_KEY)?;
    Ok(Opened { db, tree, meta })
}

/// Waits until nobody has the database in `dir` open; false if that takes too long.
///
/// sled's threads close its files some time after the last handle was dropped, and a killed process's files are closed
/// one after the other: whoever has the store's lock may still find sled's taken.
pub(super) fn is_let_go(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join("db")) else {
        return true;
    };
    let mut waited = Duration::ZERO;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if waited >= LET_GO_PATIENCE {
            return false;
        }
        thread::sleep(LET_GO_PAUSE);
        waited += LET_GO_PAUSE;
    }
    true
}

fn delete_half_snapshots(dir: &Path) -> Result<(), IndexError> {
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// The text of a caught panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}

/// Turns an I/O error on `path` into an [`IndexError`].
pub(super) fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> IndexError + use<'a> {
    move |source| IndexError::Io { action, path: path.to_path_buf(), source }
}

/// Makes a directory for its owner alone, and its parents.
pub(super) fn make_dir(dir: &Path) -> Result<(), IndexError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create", dir))
}

/// Removes whatever is at `path`, if anything.
pub(super) fn remove_all(path: &Path) -> Result<(), IndexError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes one file or directory durable.
pub(super) fn sync_path(path: &Path) -> Result<(), IndexError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

/// Makes a directory with everything in it durable.
pub(super) fn sync_tree(dir: &Path) -> Result<(), IndexError> {
    walk(dir, &mut |path, _| sync_path(path))
}

/// Takes every right to a directory and what is in it from all but the owner.
pub(super) fn make_private(dir: &Path) -> Result<(), IndexError> {
    walk(dir, &mut |path, found| {
        let mode = if found.is_dir() { 0o700 } else { 0o600 };
        if found.mode() & 0o777 == mode {
            return Ok(());
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error("set the permissions of", path))
    })
}

/// How many bytes of disk a directory takes, with everything in it.
pub(super) fn bytes_on_disk(dir: &Path) -> Result<u64, IndexError> {
    const BLOCK_BYTES: u64 = 512;
    let mut blocks = 0;
    walk(dir, &mut |_, found| {
        blocks += found.blocks();
        Ok(())
    })?;
    Ok(blocks * BLOCK_BYTES)
}

type Visitor<'a> = dyn FnMut(&Path, &fs::Metadata) -> Result<(), IndexError> + 'a;

/// Visits everything under `path`, and then `path`. What vanishes meanwhile (sled drops files of its own) is left out.
fn walk(path: &Path, visit: &mut Visitor<'_>) -> Result<(), IndexError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(io_error("look at", path))?,
    };
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(io_error("list", path))? {
            walk(&entry.map_err(io_error("list", path))?.path(), visit)?;
        }
    }
    match visit(path, &found) {
        Err(IndexError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(path: &Path) {
        fs::write(path, b"1").unwrap();
    }

    #[test]
    fn what_cannot_be_looked_at_is_an_error_and_what_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut nothing = |_: &Path, _: &fs::Metadata| Ok(());
        walk(&dir.path().join("missing"), &mut nothing).unwrap();
        remove_all(&dir.path().join("missing")).unwrap();
        // A file is no directory above another.
        file(&dir.path().join("file"));
        let below = dir.path().join("file/below");
        assert!(walk(&below, &mut nothing).is_err());
        assert!(remove_all(&below).is_err());
        assert!(sync_path(&below).is_err());
    }

    #[test]
    fn what_vanishes_while_it_is_visited_is_left_out_and_other_errors_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let fails = |kind: ErrorKind| walk(dir.path(), &mut |path, _| Err(io_error("visit", path)(kind.into())));
        fails(ErrorKind::NotFound).unwrap();
        assert!(fails(ErrorKind::PermissionDenied).is_err());
        // A link that leads to itself can be seen, and not opened.
        sync_tree(dir.path()).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(sync_tree(dir.path()).is_err());
    }

    #[test]
    fn only_sleds_unfinished_snapshots_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["db", "other.generating", "snap.1", "snap.2.generating"];
        names.iter().for_each(|name| file(&dir.path().join(name)));
        delete_half_snapshots(dir.path()).unwrap();
        let left: Vec<_> = names.iter().filter(|name| dir.path().join(name).exists()).collect();
        assert_eq!(left, [&"db", &"other.generating", &"snap.1"]);
    }
}
