//! Reading the log back: which files belong to it, and how far each counts.

use std::path::Path;

use super::segment::{self, RawFrame, SegmentBytes};
use super::{Segment, decode};
use crate::planted::{self, Bug};
use crate::storage::Lsn;
use crate::storage::codec::Frame;
use crate::storage::disk::{self, Disk};
use crate::storage::error::StoreError;
use crate::storage::manifest::CleanEnd;

/// A good frame, in the order of the log.
#[derive(Clone, Copy, Debug)]
pub struct FrameVisit<'a> {
    /// The segment's file.
    pub path: &'a Path,
    /// The segment's nonce.
    pub nonce: u128,
    /// The frame.
    pub frame: RawFrame<'a>,
    /// The last LSN before this segment.
    pub after: Lsn,
    /// The last LSN in this segment, if there is a next one that says so.
    pub until: Option<Lsn>,
}

impl FrameVisit<'_> {
    /// What the frame says.
    ///
    /// # Errors
    /// If its payload means nothing although its checksum is good.
    pub fn decode(&self) -> Result<Frame, StoreError> {
        decode(self.path, &self.frame)
    }
}

/// What there is of a log.
#[derive(Clone, Debug, Default)]
pub struct LogEnd {
    /// The segments, oldest first, as far as each counts.
    pub segments: Vec<Segment>,
    /// Bytes after the last good frame: a write that was cut short.
    pub torn_tail_bytes: u64,
    /// The payload of the last batch in the last segment, which may not be durable.
    pub last_batch: Option<Vec<u8>>,
    /// Whether the store was closed in good order, and the log ends where it did then.
    pub clean: bool,
    /// Files in the log's directory that are no part of the log.
    pub strangers: Vec<String>,
}

/// Reads the log in `dir`: the segments that the manifest lists, and those unlisted that chain to them. Calls `visit`
/// for every good frame, repeated ones too.
///
/// # Errors
/// [`StoreError::Damaged`] if anything that was durable is not what was written, and whatever `visit` returns.
pub fn read_log(
    disk: &dyn Disk,
    dir: &Path,
    listed: &[u64],
    clean: Option<&CleanEnd>,
    visit: &mut dyn FnMut(FrameVisit) -> Result<(), StoreError>,
) -> Result<LogEnd, StoreError> {
    let mut pending = Pending::new(disk, dir, listed)?;
    let mut end = LogEnd::default();
    let mut current = pending.next(None)?;
    while let Some(segment) = current {
        let next = pending.next(Some(&segment))?;
        let reading = Reading { segment: &segment, next: next.as_ref(), clean };
        reading.check_clean_end()?;
        reading.visit_frames(&mut end, visit)?;
        current = next;
    }
    end.strangers = pending.strangers;
    Ok(end)
}

/// The segments still to come.
struct Pending<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    listed: std::iter::Copied<std::slice::Iter<'a, u64>>,
    unlisted: Vec<u64>,
    strangers: Vec<String>,
}

impl<'a> Pending<'a> {
    fn new(disk: &'a dyn Disk, dir: &'a Path, listed: &'a [u64]) -> Result<Self, StoreError> {
        let names = disk.list(dir).map_err(StoreError::io("list", dir))?;
        let last = listed.last().copied().unwrap_or(0);
        let (mut unlisted, mut strangers) = (Vec::new(), Vec::new());
        for name in names {
            match segment::parse_file_name(&name) {
                Some(counter) if listed.contains(&counter) => {}
                Some(counter) if counter > last => unlisted.push(counter),
                _ => strangers.push(name),
            }
        }
        Ok(Self { disk, dir, listed: listed.iter().copied(), unlisted, strangers })
    }

    fn load(&self, counter: u64) -> Result<SegmentBytes, StoreError> {
        let path = self.dir.join(segment::file_name(counter));
        match disk::read(self.disk, &path) {
            Ok(bytes) => SegmentBytes::new(path, bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::damaged(&path, 0, "the manifest names this file, and it is missing"))
            }
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// The segment after `before`.
    fn next(&mut self, before: Option<&SegmentBytes>) -> Result<Option<SegmentBytes>, StoreError> {
        if let Some(counter) = self.listed.next() {
            let segment = self.load(counter)?;
            let known = segment.header.counter == counter;
            if !known || before.is_some_and(|before| !chains(&segment, before)) {
                return Err(StoreError::damaged(&segment.path, 0, "this segment does not follow the one before it"));
            }
            return Ok(Some(segment));
        }
        // Unlisted: made by a process that died before it could list it. A segment that chains to nothing (its
        // predecessor's name was lost in a power cut) never had a frame that anybody heard of.
        while !self.unlisted.is_empty() {
            let counter = self.unlisted.remove(0);
            let segment = self.load(counter)?;
            let follows = match before {
                Some(before) => chains(&segment, before),
                None => segment.header.previous.is_none(),
            };
            if follows && segment.header.counter == counter {
                return Ok(Some(segment));
            }
            let frames = segment.frames().count();
            if frames > usize::from(segment.header.repeats) {
                let what = "a segment with operations in it that neither the manifest nor another segment knows";
                return Err(StoreError::damaged(&segment.path, 0, what));
            }
            self.strangers.push(segment::file_name(counter));
        }
        Ok(None)
    }
}

fn chains(segment: &SegmentBytes, before: &SegmentBytes) -> bool {
    let previous = segment.header.previous;
    previous.is_some_and(|p| p.counter == before.header.counter && p.nonce == before.header.nonce)
}

/// One segment between its neighbours.
struct Reading<'a> {
    segment: &'a SegmentBytes,
    next: Option<&'a SegmentBytes>,
    clean: Option<&'a CleanEnd>,
}

impl Reading<'_> {
    fn damaged(&self, offset: usize, what: &str) -> StoreError {
        StoreError::damaged(&self.segment.path, offset as u64, what)
    }

    /// How many bytes of the segment there must be: `None` if it was still being written when the process stopped.
    fn recorded_length(&self) -> Option<usize> {
        let by_next = self.next.and_then(|next| next.header.previous).map(|previous| previous.length);
        let by_clean = self.clean.filter(|c| c.counter == self.segment.header.counter).map(|c| c.length);
        by_next.or(by_clean).map(|length| usize::try_from(length).expect("segments fit memory"))
    }

    /// After a clean stop nothing may be missing, however well what is left may look.
    fn check_clean_end(&self) -> Result<(), StoreError> {
        let Some(clean) = self.clean.filter(|c| c.counter == self.segment.header.counter) else { return Ok(()) };
        let length = usize::try_from(clean.length).expect("segments fit memory");
        let last = self.segment.frames().find(|frame| frame.end == clean.length);
        let whole = last.is_some_and(|frame| frame.checksum == clean.checksum);
        let ends_here = match self.next {
            Some(next) => next.header.previous.is_some_and(|previous| previous.length == clean.length),
            None => self.segment.bytes.len() == length,
        };
        if whole && ends_here {
            return Ok(());
        }
        let good = self.segment.frames().last().map_or(self.segment.frames_start as u64, |frame| frame.end);
        let offset = usize::try_from(good).expect("segments fit memory").min(length);
        Err(self.damaged(offset, "the segment is not what it was when it was closed"))
    }

    fn visit_frames(
        &self,
        end: &mut LogEnd,
        visit: &mut dyn FnMut(FrameVisit) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (segment, recorded) = (self.segment, self.recorded_length());
        let stop = recorded.unwrap_or(segment.bytes.len());
        let (mut offset, mut last) = (segment.frames_start, None);
        for frame in segment.frames().take_while(|frame| frame.end <= stop as u64) {
            let until = self.next.map(|next| next.header.lsn);
            let (nonce, after) = (segment.header.nonce, segment.header.lsn);
            visit(FrameVisit { path: &segment.path, nonce, frame, after, until })?;
            offset = usize::try_from(frame.end).expect("segments fit memory");
            last = Some(frame);
        }
        if offset < stop {
            self.check_bad_end(offset, last, recorded.is_some())?;
        }
        if self.next.is_none() {
            end.torn_tail_bytes = (segment.bytes.len() - offset) as u64;
            end.clean = self.clean.is_some_and(|clean| clean.counter == segment.header.counter);
            // A Clean that the manifest does not know of may not be durable, and nothing repeats it: it does not count.
            if let Some(frame) = last.filter(|_| !end.clean)
                && matches!(decode(&segment.path, &frame)?, Frame::Clean(_))
            {
                offset = usize::try_from(frame.offset).expect("segments fit memory");
            }
            end.last_batch = last_batch(segment, offset)?;
        }
        // What the next segment repeats counts there.
        let length = offset as u64;
        end.segments.push(Segment { path: segment.path.clone(), header: segment.header.clone(), length });
        Ok(())
    }

    /// Judges a segment whose bytes from `offset` on are no good frame.
    fn check_bad_end(&self, offset: usize, last: Option<RawFrame>, recorded: bool) -> Result<(), StoreError> {
        let segment = self.segment;
        if let Some(good) = segment.good_frame_after(offset).filter(|_| !planted::is(Bug::DamageTakenForTornTail)) {
            let what = format!("a bad frame, with a good one after it at byte {good}");
            return Err(self.damaged(offset, &what));
        }
        if segment.header.repeats && last.is_none() {
            return Err(self.damaged(offset, "the repeated batch, which was durable before this file had its name"));
        }
        if !recorded {
            return Ok(());
        }
        // There is a next segment, and it says that there was more here. Only the batch that it repeats may be missing.
        let here = match last.map(|frame| decode(&segment.path, &frame)).transpose()? {
            Some(Frame::Batch(batch)) => batch.last(),
            _ => segment.header.lsn,
        };
        let repeated = self.next.and_then(repeated_batch).transpose()?;
        match repeated {
            Some(first) if first == here.next() => Ok(()),
            _ => Err(self.damaged(offset, "bytes that were durable are bad or missing")),
        }
    }
}

/// The first LSN of the batch that a segment repeats.
fn repeated_batch(segment: &SegmentBytes) -> Option<Result<Lsn, StoreError>> {
    let frame = segment.header.repeats.then(|| segment.frame_at(segment.frames_start))??;
    match decode(&segment.path, &frame) {
        Ok(Frame::Batch(batch)) => Some(Ok(batch.first)),
        Ok(Frame::Clean(_)) => None,
        Err(error) => Some(Err(error)),
    }
}

/// The payload of the last frame before `end`, if it is a batch.
fn last_batch(segment: &SegmentBytes, end: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let last = segment.frames().take_while(|frame| frame.end <= end as u64).last();
    Ok(match last {
        Some(frame) if matches!(decode(&segment.path, &frame)?, Frame::Batch(_)) => Some(frame.payload.to_vec()),
        _ => None,
    })
}
