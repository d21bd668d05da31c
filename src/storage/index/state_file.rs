//! `index.state`: under which boot the index was last written, for whoever must not open sled yet.
//!
//! ```text
//! "orset-ix"   8 bytes
//! crc32c       of the rest, 4 bytes, little-endian
//! IndexState   bincode, standard configuration
//! ```
//!
//! Written aside and renamed. While the index is open it is not synced: it counts only within the same boot, and the
//! kernel's page cache outlives every process. What changes whether it counts *across* boots (`closed`) is synced.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sled_files::{io_error, sync_path};
use super::{IndexError, IndexPosition};
use crate::storage::Lsn;

const MAGIC: &[u8; 8] = b"orset-ix";
const FORMAT_VERSION: u16 = 1;
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u32>();

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct IndexState {
    version: u16,
    /// Which of the directories under `index/` is the index.
    pub(super) number: u64,
    lsn: u64,
    checksum: u32,
    /// Whether it was closed and synced, and not opened since.
    pub(super) closed: bool,
    /// The boot under which it was written; none if that is not known.
    pub(super) boot_id: Option<String>,
    /// Which directory that was, as the file system numbers them: a copy has another number.
    pub(super) inode: u64,
}

impl IndexState {
    /// The state of an open index in `dir`.
    pub(super) fn open(
        dir: &Path,
        number: u64,
        position: IndexPosition,
        boot_id: Option<String>,
    ) -> Result<Self, IndexError> {
        let inode = inode_of(dir)?;
        let (lsn, checksum) = (position.lsn.0, position.checksum);
        Ok(Self { version: FORMAT_VERSION, number, lsn, checksum, closed: false, boot_id, inode })
    }

    /// About where the index stands (behind it while it is open).
    pub(super) fn position(&self) -> IndexPosition {
        IndexPosition { lsn: Lsn(self.lsn), checksum: self.checksum }
    }

    fn encode(&self) -> Vec<u8> {
        let payload =
            bincode::serde::encode_to_vec(self, bincode::config::standard()).expect("plain fields can be encoded");
        [MAGIC.as_slice(), &crc32c::crc32c(&payload).to_le_bytes(), &payload].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
        let (magic, checksum) = header.split_at(MAGIC.len());
        if magic != MAGIC || checksum != crc32c::crc32c(payload).to_le_bytes() {
            return None;
        }
        let (state, read): (Self, usize) =
            bincode::serde::decode_from_slice(payload, bincode::config::standard()).ok()?;
        (state.version == FORMAT_VERSION && read == payload.len()).then_some(state)
    }

    /// Reads the file; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, IndexError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(io_error("read", path))?,
        };
        let garbled =
            || IndexError::Corrupt { path: path.to_path_buf(), what: "garbled, or of another version".into() };
        Self::decode(&bytes).map(Some).ok_or_else(garbled)
    }

    /// Replaces the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), IndexError> {
        self.replace(path, |_| Ok(()))
    }

    /// Replaces the file, durably.
    pub(super) fn write_durably(&self, path: &Path) -> Result<(), IndexError> {
        self.replace(path, File::sync_all)?;
        path.parent().map_or(Ok(()), sync_path)
    }

    fn replace(&self, path: &Path, sync: fn(&File) -> std::io::Result<()>) -> Result<(), IndexError> {
        let aside = path.with_extension("state.tmp");
        let mut options = OpenOptions::new();
        let written = options.write(true).create(true).truncate(true).mode(0o600).open(&aside).and_then(|mut file| {
            file.write_all(&self.encode())?;
            sync(&file)
        });
        written.map_err(io_error("write", &aside))?;
        fs::rename(&aside, path).map_err(io_error("replace", path))
    }
}

/// The number of a directory in its file system.
pub(super) fn inode_of(dir: &Path) -> Result<u64, IndexError> {
    fs::metadata(dir).map(|found| found.ino()).map_err(io_error("look at", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let position = IndexPosition { lsn: Lsn(300), checksum: 0xfeed };
        let state = IndexState::open(dir.path(), 3, position, Some("boot".into())).unwrap();
        let bytes = state.encode();
        assert_eq!(IndexState::decode(&bytes).map(|state| state.position()), Some(position));
        for cut in 0..bytes.len() {
            assert_eq!(IndexState::decode(&bytes[..cut]), None, "cut at {cut}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[cut] ^= 1 << bit;
                assert_eq!(IndexState::decode(&flipped), None, "bit {bit} of byte {cut}");
            }
        }
    }

    #[test]
    fn another_version_and_bytes_after_the_end_are_refused_although_the_checksum_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let state = IndexState::open(dir.path(), 3, IndexPosition::default(), None).unwrap();
        assert!(IndexState::decode(&state.encode()).is_some());
        let later = IndexState { version: FORMAT_VERSION + 1, ..state.clone() };
        assert_eq!(IndexState::decode(&later.encode()), None);
        let payload = [&state.encode()[HEADER_BYTES..], &[0]].concat();
        let longer = [MAGIC.as_slice(), &crc32c::crc32c(&payload).to_le_bytes(), &payload].concat();
        assert_eq!(IndexState::decode(&longer), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_one_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(IndexState::read(&dir.path().join("index.state")).unwrap(), None);
        assert!(IndexState::read(dir.path()).is_err());
    }
}
