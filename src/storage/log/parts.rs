//! Records of a state delta that stay in the log until it is committed, instead of in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode;
use super::segment::{self, FRAME_HEAD_BYTES};
use crate::crdt::{BaseError, Element, Entry, JoinId, KeptRecords, State, Tag};
use crate::storage::codec::Frame;
use crate::storage::disk::Disk;
use crate::storage::error::StoreError;

/// Where a frame lies in its segment: its first byte, and the one after its last.
pub type FrameSpan = (u64, u64);

/// The parts of one state delta in some frames of a segment. The file is opened anew at each reading, so that a state
/// delta of any size costs no descriptors; whoever has one sees to it that the file keeps its name.
struct LoggedParts {
    /// The file system.
    disk: Arc<dyn Disk>,
    /// The segment's file.
    path: PathBuf,
    /// The segment's nonce.
    nonce: u128,
    /// The frames.
    frames: Vec<FrameSpan>,
    /// Which state delta.
    join: JoinId,
    /// How many records these are.
    records: usize,
}

/// Lets go of the staged records that have come with these frames of a segment: from now on they are read from there.
/// Without a state delta that is arriving, nothing.
pub fn leave_in_log(state: &mut State, disk: &Arc<dyn Disk>, path: &Path, nonce: u128, frames: &[FrameSpan]) {
    state.keep_staged(|join, records| {
        let (disk, path, frames) = (Arc::clone(disk), path.to_path_buf(), frames.to_vec());
        Arc::new(LoggedParts { disk, path, nonce, frames, join, records })
    });
}

impl LoggedParts {
    fn read_all(&self) -> Result<Vec<(Element, Tag)>, StoreError> {
        let file = self.disk.open(&self.path).map_err(StoreError::io("open", &self.path))?;
        let mut records = Vec::with_capacity(self.records);
        for (start, end) in &self.frames {
            let length = usize::try_from(end - start).expect("a frame fits memory");
            let mut bytes = vec![0; length.max(FRAME_HEAD_BYTES)];
            file.read_exact_at(&mut bytes, *start).map_err(StoreError::io("read", &self.path))?;
            let frame = segment::frame_in(&bytes, self.nonce, *start);
            let frame = frame.ok_or_else(|| StoreError::damaged(&self.path, *start, "a frame that was good is not"))?;
            let Frame::Batch(batch) = decode(&self.path, &frame)? else { continue };
            for entry in batch.entries {
                if let Entry::JoinPart(part) = entry
                    && part.join == self.join
                {
                    records.extend(part.records);
                }
            }
        }
        if records.len() != self.records {
            return Err(StoreError::damaged(&self.path, 0, "the parts of a state delta are not what they were"));
        }
        Ok(records)
    }
}

impl KeptRecords for LoggedParts {
    fn read(&self) -> Result<Vec<(Element, Tag)>, BaseError> {
        self.read_all().map_err(|error| BaseError(Box::new(error)))
    }
}
