//! The op log: the truth of a store, together with the newest snapshot.
//!
//! The log is a chain of [segments](segment), each naming the end of the one before it. One frame is one group commit,
//! and frame k+1 is written only after the sync of frame k returned. From that everything else follows:
//!
//! - A bad frame at the very end is one whose sync never returned: nobody has heard of it, it is cut off.
//! - A bad frame with a good one anywhere after it was durable once: that is damage, and the store refuses to start.
//! - The last good frame of a process that did not stop in good order may never have been synced either. A recovery
//!   must not let anything leave before it is; so it starts a new segment that **repeats** that frame, and only then
//!   goes on. Older segments are never changed. (Found by replaying crash states: a node that served what it had read
//!   from the page cache lost published operations in a kill followed by a power cut.)
//! - So a frame that the next segment repeats may be bad or missing in the old one.
//!
//! ```text
//! 0000000001.log  [header][frame][frame][frame torn by a crash
//! 0000000002.log  [header: 1 ends after two frames][second frame once more][frame] …
//! ```

pub mod chain;
mod parts;
pub mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use chain::{FrameVisit, LogEnd, read_log};
pub use parts::{FrameSpan, leave_in_log};
pub use segment::{RawFrame, SegmentBytes, SegmentEnd, SegmentHeader};

use super::codec::{self, Batch, Frame};
use super::disk::{self, Disk, DiskFile};
use super::error::StoreError;
use crate::planted::{self, Bug};

/// A segment that has been read or written, as far as it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// Its head.
    pub header: SegmentHeader,
    /// How many of its bytes count.
    pub length: u64,
}

impl Segment {
    /// Its end, for the next one's header.
    pub fn end(&self) -> SegmentEnd {
        SegmentEnd { counter: self.header.counter, nonce: self.header.nonce, length: self.length }
    }

    /// Reads its batches, oldest first, each with the checksum of its frame.
    ///
    /// # Errors
    /// If the file cannot be read, or what counted once does not any more.
    pub fn batches(&self, disk: &dyn Disk) -> Result<Vec<(Batch, u32)>, StoreError> {
        let batches = self.batches_with_spans(disk)?;
        Ok(batches.into_iter().map(|(batch, checksum, _)| (batch, checksum)).collect())
    }

    /// The same, and where each frame lies.
    ///
    /// # Errors
    /// As [`Segment::batches`].
    pub fn batches_with_spans(&self, disk: &dyn Disk) -> Result<Vec<(Batch, u32, FrameSpan)>, StoreError> {
        let mut bytes = disk::read(disk, &self.path).map_err(StoreError::io("read", &self.path))?;
        bytes.truncate(usize::try_from(self.length).expect("segments fit memory"));
        let segment = SegmentBytes::new(self.path.clone(), bytes)?;
        if segment.header != self.header {
            return Err(StoreError::damaged(&self.path, 0, "this is another segment than before"));
        }
        let mut batches = Vec::new();
        for frame in segment.frames() {
            if let Frame::Batch(batch) = decode(&self.path, &frame)? {
                batches.push((batch, frame.checksum, (frame.offset, frame.end)));
            }
        }
        Ok(batches)
    }
}

/// Decodes a frame of the segment `path`.
///
/// # Errors
/// If its payload means nothing although its checksum is good.
pub fn decode(path: &Path, frame: &RawFrame) -> Result<Frame, StoreError> {
    codec::decode_frame(frame.payload).map_err(|error| StoreError::damaged(path, frame.offset, error.0))
}

/// The segment that is being written.
pub struct LogWriter {
    file: Arc<dyn DiskFile>,
    segment: Segment,
    buffer: Vec<u8>,
}

impl LogWriter {
    /// Puts a new segment in place, durably, with `repeated`, the payload of the last batch before it, as its first
    /// frame if the header says that there is one.
    ///
    /// # Errors
    /// If the file system says no. Nothing that counts has changed then.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        header: SegmentHeader,
        repeated: Option<&[u8]>,
    ) -> Result<Self, StoreError> {
        assert_eq!(header.repeats, repeated.is_some(), "the header says whether there is a repeated batch");
        let path = dir.join(segment::file_name(header.counter));
        let mut bytes = header.encode();
        if let Some(payload) = repeated {
            let offset = bytes.len() as u64;
            segment::encode_frame(&mut bytes, header.nonce, offset, payload);
        }
        let file = disk::replace(disk, &path, &bytes).map_err(StoreError::io("write", &path))?;
        let segment = Segment { path, header, length: bytes.len() as u64 };
        Ok(Self { file, segment, buffer: bytes })
    }

    /// Appends one frame and syncs it; returns its checksum. Whatever this returns, nothing may be acknowledged
    /// unless it is `Ok`; after an error the writer must not be used again.
    ///
    /// # Errors
    /// If the write or the sync failed.
    pub fn append(&mut self, payload: &[u8]) -> Result<u32, StoreError> {
        self.buffer.clear();
        let offset = self.segment.length;
        let checksum = segment::encode_frame(&mut self.buffer, self.segment.header.nonce, offset, payload);
        if planted::is(Bug::ReplyBeforeSync) {
            self.sync()?;
        }
        self.file.write_all_at(&self.buffer, offset).map_err(StoreError::io("write", &self.segment.path))?;
        if !planted::is(Bug::ReplyBeforeSync) {
            self.sync()?;
        }
        self.segment.length += self.buffer.len() as u64;
        Ok(checksum)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let synced = self.file.sync();
        let synced = if planted::is(Bug::FailedSyncRetried) { synced.or_else(|_| self.file.sync()) } else { synced };
        synced.map_err(StoreError::io("sync", &self.segment.path))
    }

    /// The segment as far as it is durable.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

#[cfg(test)]
mod tests;
