//! Looking at an index without touching it: what `index.state` notes, and a copy that is open.
//!
//! sled writes as soon as it opens, so what is looked at is a copy, in a temporary directory that goes with it. Whether
//! the index may be *trusted* is not judged here: a copy shows what is there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::sled_files::{OPEN_TIMEOUT, io_error, open_guarded, open_sled};
use super::sled_home::close_sled;
use super::state_file::IndexState;
use super::{IndexError, IndexPosition, SledIndex, Unusable};

/// What `index.state` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotedState {
    /// The name of the index's directory below `index/`.
    pub number: u64,
    /// Where the index stands; while it is open, where it stood about a second ago.
    pub position: IndexPosition,
    /// Whether it was closed and synced, and not opened since.
    pub closed: bool,
}

/// Reads the `index.state` of the store in `store`; `None` if there is none.
///
/// # Errors
/// If it cannot be read or is garbled.
pub fn noted_state(store: &Path) -> Result<Option<NotedState>, IndexError> {
    let state = IndexState::read(&super::sled_home::state_path(store))?;
    Ok(state.map(|state| NotedState { number: state.number, position: state.position(), closed: state.closed }))
}

/// The copy of an index, not open yet.
pub struct IndexCopy {
    state: NotedState,
    dir: PathBuf,
    /// Deletes the copy when dropped.
    _temporary: tempfile::TempDir,
}

impl IndexCopy {
    /// Copies the index of the store in `store`, which must be locked or closed, into the system's directory for
    /// temporary files. The lock is needed no longer once this has returned.
    ///
    /// # Errors
    /// If there is none, or it cannot be copied.
    pub fn take(store: &Path) -> Result<Self, IndexError> {
        let from = store.join("index");
        let missing = || IndexError::Unusable { path: from.clone(), source: Unusable::Missing };
        let state = noted_state(store)?.ok_or_else(missing)?;
        let live = super::sled_home::dir_of(store, state.number);
        if !super::sled_home::is_there(&live)? {
            return Err(missing());
        }
        let made = tempfile::Builder::new().prefix("orset-dump-").tempdir();
        let temporary = made.map_err(io_error("make a temporary directory for a copy of", &live))?;
        let dir = temporary.path().join(state.number.to_string());
        copy_tree(&live, &dir)?;
        Ok(Self { state, dir, _temporary: temporary })
    }

    /// What `index.state` said when the copy was taken.
    pub fn state(&self) -> NotedState {
        self.state
    }

    /// Opens the copy, shows it to `look`, and closes it again.
    ///
    /// # Errors
    /// If sled cannot open it, or what is in it is no index; and whatever `look` returns.
    pub fn look<R, E: From<IndexError>>(&self, look: impl FnOnce(&SledIndex) -> Result<R, E>) -> Result<R, E> {
        let unusable = |source| IndexError::Unusable { path: self.dir.clone(), source };
        let opened = open_guarded(&self.dir, open_sled, OPEN_TIMEOUT).map_err(unusable)?;
        let index = SledIndex::existing(opened, &self.dir)?;
        let outcome = look(&index);
        // A copy that does not close well has been looked at all the same.
        drop(close_sled(index));
        outcome
    }
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), IndexError> {
    super::sled_files::make_dir(to)?;
    for entry in fs::read_dir(from).map_err(io_error("list", from))? {
        let entry = entry.map_err(io_error("list", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &target)?;
            continue;
        }
        match fs::copy(&path, &target) {
            // sled's threads drop files of their own until they have let go.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            copied => drop(copied.map_err(io_error("copy", &path))?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_copy_lacks_what_has_vanished_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("blobs")).unwrap();
        for name in ["db", "blobs/1"] {
            fs::write(from.join(name), name).unwrap();
        }
        symlink("gone", from.join("vanished")).unwrap();
        copy_tree(&from, &to).unwrap();
        for name in ["db", "blobs/1"] {
            assert_eq!(fs::read(to.join(name)).unwrap(), name.as_bytes());
        }
        symlink("loop", from.join("loop")).unwrap();
        assert!(copy_tree(&from, &dir.path().join("other")).is_err(), "it is there, and cannot be read");
    }
}
