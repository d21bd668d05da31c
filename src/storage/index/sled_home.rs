//! Where a store's index lies, and whether it may be trusted.
//!
//! # Layout
//!
//! ```text
//! <store>/index/<n>/     a sled database; numbers go up, and none is used twice while a process runs
//! <store>/index.state    which <n> is the index, its boot id, and whether it was closed
//! <store>/index.old/     the index/ that was last moved aside, for whoever wants to know what was wrong with it
//! ```
//!
//! `index/` may be deleted at any time while the store is stopped, and so may the other two: the index is rebuilt from
//! snapshot and log. The numbers are there because sled opens files by their path again and again (`snap.*`, blobs):
//! a new index is never built where an old one, in use or stuck, might still write.
//!
//! # Trust
//!
//! A killed process leaves the page cache whole, a power cut does not, and after one sled 0.34.7 can be silently
//! short. So an index that was not closed is opened only under the boot that it was written under, and only in the
//! directory that it was written in (a copy of a live sled can open empty). One that was closed (all synced, then
//! `closed` noted durably) is also opened under another boot; before sled may write to it that note is durably taken
//! back. What remains is the caller's part: the log must have the index's checksum at its LSN.
//!
//! ```no_run
//! # use orset::storage::index::*;
//! # fn log_agrees(_: IndexPosition) -> bool { true }
//! # fn start(store: &std::path::Path, clean_stop: bool) -> Result<SledIndex, IndexError> {
//! let mut home = IndexHome::new(store, current_boot_id());
//! match home.open(clean_stop) {
//!     Ok(index) if log_agrees(index.position()) => return Ok(index),
//!     Ok(_) => eprintln!("the index disagrees with the log"),
//!     Err(unusable) => eprintln!("{unusable}"),
//! }
//! home.create()
//! # }
//! ```

use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::crdt::Records;
use crate::planted::{self, Bug};

use super::sled_files::{
    OPEN_TIMEOUT, Opened, Opener, io_error, is_let_go, make_dir, make_private, open_guarded, open_sled, panic_text,
    remove_all, sync_path, sync_tree,
};
use super::state_file::{IndexState, inode_of};
use super::{Index, IndexError, IndexPosition, SledIndex};

/// Why there is no index to be used. A new one has to be built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none, or one whose building was interrupted.
    #[error("there is no index")]
    Missing,
    /// It was last written under another boot, or nobody knows under which, and it was not closed.
    #[error("the index was written under another boot of this machine and not closed")]
    OtherBoot,
    /// It was copied while it was open.
    #[error("the index is a copy of one that was not closed")]
    Copied,
    /// sled did not come back in time. A thread is stuck in it, and abandoned.
    #[error("sled hangs when it opens the index")]
    Hung,
    /// sled panicked.
    #[error("sled panicked when it opened the index: {0}")]
    Panicked(String),
    /// sled or the file system reported an error, or what is there is no index.
    #[error("the index cannot be opened: {0}")]
    Failed(String),
}

impl From<IndexError> for Unusable {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Unusable { source, .. } => source,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// The boot that this process runs under: `ORSET_BOOT_ID` if set (for tests, and where `/proc` is missing), else what
/// the kernel says; `None` if neither does, and then no index is trusted that was not closed.
pub fn current_boot_id() -> Option<String> {
    let given = std::env::var("ORSET_BOOT_ID").ok();
    let id = given.or_else(|| fs::read_to_string("/proc/sys/kernel/random/boot_id").ok())?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_string())
}

/// Whether what was written under one boot was not cut off from power since: `now` is the same. If one of them is not
/// known, nobody can tell.
pub fn is_of_this_boot(written: Option<&str>, now: Option<&str>) -> bool {
    written.is_some() && written == now || planted::is(Bug::IndexOfAnotherBoot)
}

/// See the module's text. Its owner holds the store's lock.
#[derive(Debug)]
pub struct IndexHome {
    store: PathBuf,
    boot_id: Option<String>,
    /// The number of the index that was opened or built last.
    live: Option<u64>,
    /// The highest number given out by this value.
    last_number: u64,
    opener: Opener,
    open_timeout: Duration,
}

impl IndexHome {
    /// The place for the index of the store in `store`, under the boot `boot_id` ([`current_boot_id`]). Touches nothing.
    pub fn new(store: &Path, boot_id: Option<String>) -> Self {
        let (opener, open_timeout) = (open_sled as Opener, OPEN_TIMEOUT);
        Self { store: store.to_path_buf(), boot_id, live: None, last_number: 0, opener, open_timeout }
    }

    /// The same, with another way to open sled: to see what comes of one that fails.
    #[cfg(test)]
    pub(super) fn with_opener(mut self, opener: Opener, open_timeout: Duration) -> Self {
        (self.opener, self.open_timeout) = (opener, open_timeout);
        self
    }

    /// Opens the index that is there, if it can be trusted as far as that can be told without the log.
    ///
    /// `clean_stop`: the log ends with the word that the index was closed.
    ///
    /// # Errors
    /// If it cannot be used; then [`IndexHome::create`] or [`IndexHome::rebuild`] make another.
    pub fn open(&mut self, clean_stop: bool) -> Result<SledIndex, Unusable> {
        let state = IndexState::read(&self.state_path())?.ok_or(Unusable::Missing)?;
        let dir = self.dir(state.number);
        if !is_there(&dir)? {
            return Err(Unusable::Missing);
        }
        self.judge(&state, &dir, clean_stop)?;
        if state.closed {
            // From here on sled may write. A power cut in between must not leave a half-written index that counts as
            // closed.
            let reopened = IndexState::open(&dir, state.number, state.position(), self.boot_id.clone())?;
            reopened.write_durably(&self.state_path())?;
        }
        let opened = open_guarded(&dir, self.opener, self.open_timeout)?;
        make_private(&dir)?;
        let index = SledIndex::existing(opened, &dir)?;
        self.last_number = self.last_number.max(state.number);
        self.live = Some(state.number);
        self.remove_others()?;
        Ok(index)
    }

    fn judge(&self, state: &IndexState, dir: &Path, clean_stop: bool) -> Result<(), Unusable> {
        if state.closed && clean_stop {
            return Ok(());
        }
        if !is_of_this_boot(state.boot_id.as_deref(), self.boot_id.as_deref()) {
            return Err(Unusable::OtherBoot);
        }
        if state.inode != inode_of(dir)? {
            return Err(Unusable::Copied);
        }
        Ok(())
    }

    /// Makes an empty index at LSN 0. What is there is moved aside; it must not be in use.
    ///
    /// # Errors
    /// If that failed.
    pub fn create(&mut self) -> Result<SledIndex, IndexError> {
        self.set_aside()?;
        let (number, opened) = self.open_new()?;
        let index = SledIndex::empty(opened, &self.dir(number))?;
        self.install(number, &index)?;
        Ok(index)
    }

    /// Makes an index of `records` (sorted) that stands at `position`. What is there is moved aside; it must not be in
    /// use. `progress` is told now and then, and at the end, how many records are in.
    ///
    /// One that is interrupted is never trusted: until the last record is in, it has no position, and no `index.state`
    /// names it.
    ///
    /// # Errors
    /// If the records cannot be read or the index cannot be written.
    pub fn rebuild(
        &mut self,
        records: Records<'_>,
        position: IndexPosition,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SledIndex, IndexError> {
        self.set_aside()?;
        self.build(records, position, progress)
    }

    /// As [`IndexHome::rebuild`], but leaves the present index where it is, open and in use: its own records, at its
    /// own position, may be what the new one is made of, as long as nothing is applied to it meanwhile. Until the new
    /// one is done, the old one is the one to open after a crash. Thereafter: [`IndexHome::discard`] it.
    ///
    /// For an index that is [outgrown](super::is_outgrown), or that a large join has left behind.
    ///
    /// # Errors
    /// If the records cannot be read or the index cannot be written; the old one stays the index.
    pub fn rebuild_beside(
        &mut self,
        records: Records<'_>,
        position: IndexPosition,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SledIndex, IndexError> {
        self.build(records, position, progress)
    }

    /// Closes an index that another has replaced, and deletes it.
    ///
    /// # Errors
    /// If it could not be deleted; the next [`IndexHome::open`] tries again.
    ///
    /// # Panics
    /// If it has not been replaced.
    pub fn discard(&self, old: SledIndex) -> Result<(), IndexError> {
        let dir = old.dir().to_path_buf();
        assert!(self.live.is_none_or(|live| self.dir(live) != dir), "the present index is not to be discarded");
        let closed = close_sled(old);
        // Whether it closed well does not matter to anybody any more.
        remove_all(&dir).and(closed)
    }

    /// Notes where the present index stands, and under which boot. Not synced; cheap enough to be done every second.
    ///
    /// # Errors
    /// If the file could not be written.
    ///
    /// # Panics
    /// If there is no present index.
    pub fn write_state(&self, position: IndexPosition) -> Result<(), IndexError> {
        self.state_of_live(position)?.write(&self.state_path())
    }

    /// What was noted last, whether or not the index may be opened; nothing if that cannot be read.
    pub fn noted(&self) -> Option<IndexPosition> {
        IndexState::read(&self.state_path()).ok().flatten().map(|state| state.position())
    }

    /// Closes the present index so that it may be trusted after a power cut too, and says where it stands. The log's
    /// word on the clean stop comes after this.
    ///
    /// # Errors
    /// If something could not be made durable. Then there is no clean stop.
    ///
    /// # Panics
    /// If it is not the present index.
    pub fn close(&mut self, index: SledIndex) -> Result<IndexPosition, IndexError> {
        let position = index.position();
        let mut state = self.state_of_live(position)?;
        assert_eq!(self.live.take().map(|live| self.dir(live)).as_deref(), Some(index.dir()), "not the present index");
        index.flush()?;
        close_sled(index)?;
        sync_tree(&self.index_dir())?;
        state.closed = true;
        state.write_durably(&self.state_path())?;
        Ok(position)
    }

    /// Forgets where the index lies, so that the next start builds another.
    pub fn distrust(&self) {
        // If it cannot be removed, the index itself says that its last step failed.
        let _ = fs::remove_file(self.state_path());
    }

    fn index_dir(&self) -> PathBuf {
        self.store.join("index")
    }

    fn old_path(&self) -> PathBuf {
        self.store.join("index.old")
    }

    fn state_path(&self) -> PathBuf {
        state_path(&self.store)
    }

    fn dir(&self, number: u64) -> PathBuf {
        dir_of(&self.store, number)
    }

    fn state_of_live(&self, position: IndexPosition) -> Result<IndexState, IndexError> {
        let number = self.live.expect("asked for only while there is an index");
        IndexState::open(&self.dir(number), number, position, self.boot_id.clone())
    }

    /// Moves `index/`, whatever it is, to `index.old`, in place of an older one.
    fn set_aside(&mut self) -> Result<(), IndexError> {
        self.last_number = self.last_number.max(self.highest_number());
        self.live = None;
        // First of all nothing must say any more that there is an index to be trusted.
        remove_all(&self.state_path())?;
        sync_path(&self.store)?;
        let index = self.index_dir();
        match fs::symlink_metadata(&index) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found.map_err(io_error("look at", &index))?,
        };
        remove_all(&self.old_path())?;
        fs::rename(&index, self.old_path()).map_err(io_error("move aside", &index))
    }

    /// Removes the index that was moved aside, to make room on the disk.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn drop_old(&self) -> Result<(), IndexError> {
        remove_all(&self.old_path())
    }

    /// Removes all there is, to make room on the disk; it must not be in use.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn drop_all(&mut self) -> Result<(), IndexError> {
        self.set_aside()?;
        self.drop_old()
    }

    /// The highest number under `index/`; zero if it cannot be read, as then it is no directory with numbers in it.
    fn highest_number(&self) -> u64 {
        let entries = fs::read_dir(self.index_dir()).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
    }

    /// Opens a new database under a new number.
    fn open_new(&mut self) -> Result<(u64, Opened), IndexError> {
        let number = self.last_number.max(self.highest_number()) + 1;
        self.last_number = number;
        let dir = self.dir(number);
        make_dir(&dir)?;
        let opened = open_guarded(&dir, self.opener, self.open_timeout)
            .map_err(|source| IndexError::Unusable { path: dir.clone(), source })?;
        make_private(&self.index_dir())?;
        Ok((number, opened))
    }

    fn build(
        &mut self,
        records: Records<'_>,
        position: IndexPosition,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SledIndex, IndexError> {
        let (number, opened) = self.open_new()?;
        let dir = self.dir(number);
        let index = SledIndex::blank(opened, &dir)?;
        let filled = index.fill(records, position, progress).and_then(|()| index.flush());
        if let Err(error) = filled {
            // Half an index is of no use, and may take much disk; that the first error is told matters more than
            // whether this works.
            drop(close_sled(index).and_then(|()| remove_all(&dir)));
            return Err(error);
        }
        make_private(&dir)?;
        self.install(number, &index)?;
        Ok(index)
    }

    /// Makes a finished index the present one.
    fn install(&mut self, number: u64, index: &SledIndex) -> Result<(), IndexError> {
        self.live = Some(number);
        self.write_state(index.position())
    }

    /// Removes what an interrupted rebuild, or one whose old index was not discarded, has left.
    fn remove_others(&self) -> Result<(), IndexError> {
        let (index, live) = (self.index_dir(), self.live.map(|live| self.dir(live)));
        for entry in fs::read_dir(&index).map_err(io_error("list", &index))? {
            let path = entry.map_err(io_error("list", &index))?.path();
            if Some(&path) != live.as_ref() {
                remove_all(&path)?;
            }
        }
        Ok(())
    }
}

/// Where the store in `store` notes which directory is its index.
pub(super) fn state_path(store: &Path) -> PathBuf {
    store.join("index.state")
}

/// The directory of the index of that number.
pub(super) fn dir_of(store: &Path, number: u64) -> PathBuf {
    store.join("index").join(number.to_string())
}

/// Whether there is such a directory. Not to be allowed to look is another matter.
pub(super) fn is_there(dir: &Path) -> Result<bool, IndexError> {
    match fs::metadata(dir) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(io_error("look at", dir)(error)),
    }
}

/// Closes sled, which syncs and panics if it cannot, and returns when it has let go of its files.
pub(super) fn close_sled(index: SledIndex) -> Result<(), IndexError> {
    let path = index.dir().to_path_buf();
    let panicked = |what| IndexError::Panicked { action: "close", path: path.clone(), what };
    catch_unwind(AssertUnwindSafe(|| drop(index))).map_err(|panic| panicked(panic_text(&*panic)))?;
    if is_let_go(&path) {
        return Ok(());
    }
    Err(IndexError::Corrupt { path, what: "sled does not let go of its files".into() })
}
