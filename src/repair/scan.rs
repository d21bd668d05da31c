//! Everything of a store that can be read, whatever is wrong with the rest, and a list of the rest.
//!
//! [`Replay`](crate::storage::Replay) stops at the first byte that is not as it was written. This goes on: behind a bad
//! frame the next good one is looked for; a segment whose header is bad is read by the nonce that its successor
//! remembers; a snapshot whose ends are bad by its footer. Which of it *counts* is not judged here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::crdt::{Element, Seq};
use crate::storage::codec::{Batch, Frame};
use crate::storage::disk::{self, Disk};
use crate::storage::log::segment::{SegmentHeader, file_name, frame_at, good_frame_from, parse_file_name};
use crate::storage::log::{self, RawFrame};
use crate::storage::manifest::Manifest;
use crate::storage::replay::{log_dir, snapshot_dir};
use crate::storage::snapshot::{self, Snapshot};
use crate::storage::{Lsn, StoreError};

/// Bytes, or a file, that should be there and cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// How much; `None` for all that follows, or if that cannot be told.
    pub bytes: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// A file of the log, as far as it can be read.
pub struct FoundSegment {
    /// The file.
    pub path: PathBuf,
    /// Its head, if that is sound.
    pub header: Option<SegmentHeader>,
    nonce: u128,
    start: usize,
}

/// A snapshot, as far as it can be read.
pub struct FoundSnapshot {
    /// What is left of it.
    pub snapshot: Snapshot,
    /// The blocks that cannot be read.
    pub bad_blocks: Vec<usize>,
}

/// See the module's text.
pub struct Scan<'a> {
    disk: &'a dyn Disk,
    /// The manifest, if that is sound.
    pub manifest: Option<Manifest>,
    /// Every segment of which anything can be read, oldest first.
    pub segments: Vec<FoundSegment>,
    /// Every snapshot whose footer can be read, newest first.
    pub snapshots: Vec<FoundSnapshot>,
    /// The files of the other snapshots.
    pub without_footer: Vec<PathBuf>,
    /// What cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// The LSNs that are in no good frame, though they are after the newest sound snapshot and before the last one read.
    pub missing: Vec<(Lsn, Lsn)>,
    /// The last LSN that was seen anywhere.
    pub last: Lsn,
}

impl<'a> Scan<'a> {
    /// Reads the store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if any file is of a later version, or if the directories cannot be listed.
    pub fn read(disk: &'a dyn Disk, dir: &Path) -> Result<Self, StoreError> {
        let mut scan = Self {
            disk,
            manifest: None,
            segments: Vec::new(),
            snapshots: Vec::new(),
            without_footer: Vec::new(),
            unreadable: Vec::new(),
            missing: Vec::new(),
            last: Lsn(0),
        };
        scan.read_manifest(dir)?;
        scan.read_snapshots(&snapshot_dir(dir))?;
        scan.read_segments(&log_dir(dir))?;
        Ok(scan)
    }

    fn bad(&mut self, path: &Path, offset: u64, bytes: Option<u64>, what: impl Into<String>) {
        self.unreadable.push(Unreadable { path: path.to_path_buf(), offset, bytes, what: what.into() });
    }

    /// Takes note of an error that is damage, or a file that cannot be read; passes others on.
    fn note(&mut self, error: StoreError) -> Result<(), StoreError> {
        match error {
            StoreError::Damaged { path, offset, what } => self.bad(&path, offset, None, what),
            StoreError::Io { doing, path, source } => self.bad(&path, 0, None, format!("cannot {doing} it: {source}")),
            other => return Err(other),
        }
        Ok(())
    }

    fn read_manifest(&mut self, dir: &Path) -> Result<(), StoreError> {
        match Manifest::read(self.disk, dir) {
            Ok(Some(manifest)) => self.manifest = Some(manifest),
            Ok(None) => self.bad(&Manifest::path(dir), 0, None, "it is missing"),
            Err(error) => self.note(error)?,
        }
        Ok(())
    }

    fn read_snapshots(&mut self, dir: &Path) -> Result<(), StoreError> {
        let mut names = self.disk.list(dir).map_err(StoreError::io("list", dir))?;
        names.retain(|name| name.ends_with(".snap"));
        let named = self.manifest.as_ref().and_then(|manifest| manifest.snapshot).map(snapshot::file_name);
        if let Some(name) = named.filter(|name| !names.contains(name)) {
            self.bad(&dir.join(name), 0, None, "the manifest names this file, and it is missing");
        }
        for name in names {
            let path = dir.join(name);
            if let Err(error) = Snapshot::open(self.disk, &path) {
                self.note(error)?;
            }
            let Ok(snapshot) = Snapshot::open_remains(self.disk, &path) else {
                self.without_footer.push(path);
                continue;
            };
            let mut bad_blocks = Vec::new();
            for block in 0..snapshot.block_count() {
                if let Err(error) = snapshot.block(block) {
                    self.note(error)?;
                    bad_blocks.push(block);
                }
            }
            if let Err(error) = snapshot.answers() {
                self.note(error)?;
            }
            self.snapshots.push(FoundSnapshot { snapshot, bad_blocks });
        }
        self.snapshots.sort_by_key(|found| std::cmp::Reverse(found.snapshot.header().lsn));
        Ok(())
    }

    fn read_segments(&mut self, dir: &Path) -> Result<(), StoreError> {
        let names = self.disk.list(dir).map_err(StoreError::io("list", dir))?;
        let counters: BTreeSet<u64> = names.iter().filter_map(|name| parse_file_name(name)).collect();
        let listed = self.manifest.as_ref().map(|manifest| manifest.segments.clone()).unwrap_or_default();
        for counter in listed.iter().filter(|counter| !counters.contains(counter)) {
            self.bad(&dir.join(file_name(*counter)), 0, None, "the manifest names this file, and it is missing");
        }
        let mut files = Vec::new();
        for counter in counters {
            let path = dir.join(file_name(counter));
            match disk::read(self.disk, &path) {
                Ok(bytes) => match SegmentHeader::decode(&bytes, &path) {
                    Ok((header, start)) => files.push((counter, path, bytes.len(), Some((header, start)))),
                    Err(error) => {
                        self.note(error)?;
                        files.push((counter, path, bytes.len(), None));
                    }
                },
                // It has been superseded between the listing and the opening.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.note(StoreError::io("read", &path)(error))?,
            }
        }
        // How each segment ended, and its nonce, as its successor remembers it.
        let headers = files.iter().filter_map(|(.., found)| found.as_ref());
        let ends: BTreeMap<u64, (u128, u64)> =
            headers.filter_map(|(header, _)| header.previous).map(|p| (p.counter, (p.nonce, p.length))).collect();
        let clean = self.manifest.as_ref().and_then(|manifest| manifest.clean);
        let mut seen = Vec::new();
        for (counter, path, length, found) in files {
            let end = ends.get(&counter);
            let (nonce, start) = match (&found, end) {
                (Some((header, start)), _) => (header.nonce, *start),
                (None, Some((nonce, _))) => (*nonce, 0),
                (None, None) => continue,
            };
            let end = end.filter(|(of, _)| *of == nonce).map(|(_, length)| *length);
            let end = end.or(clean.filter(|clean| clean.counter == counter).map(|clean| clean.length));
            let segment = FoundSegment { path, header: found.map(|(header, _)| header), nonce, start };
            self.read_frames(&segment, end.unwrap_or(length as u64), &mut seen)?;
            self.segments.push(segment);
        }
        self.find_missing(seen);
        Ok(())
    }

    /// Looks at every frame of a segment that should be good up to `end`.
    fn read_frames(&mut self, segment: &FoundSegment, end: u64, seen: &mut Vec<(Lsn, Lsn)>) -> Result<(), StoreError> {
        let bytes = disk::read(self.disk, &segment.path).map_err(StoreError::io("read", &segment.path))?;
        let mut next = segment.start as u64;
        for frame in segment.frames(&bytes) {
            if frame.offset > next && segment.header.is_some() {
                self.bad(&segment.path, next, Some(frame.offset - next), "no good frame, with a good one after it");
            }
            next = frame.end;
            match log::decode(&segment.path, &frame) {
                Ok(Frame::Batch(batch)) => seen.push((batch.first, batch.last())),
                Ok(Frame::Clean(_)) => {}
                Err(error) => self.note(error)?,
            }
        }
        if next < end {
            let length = bytes.len() as u64;
            let what = match end <= length {
                true => "no good frame to the end",
                false => "the file was longer once",
            };
            self.bad(&segment.path, next, Some(end - next), what);
        }
        Ok(())
    }

    fn find_missing(&mut self, mut seen: Vec<(Lsn, Lsn)>) {
        let sound = self.snapshots.iter().find(|found| found.bad_blocks.is_empty());
        let mut at = sound.map_or(Lsn(0), |found| found.snapshot.header().lsn);
        self.last = self.snapshots.first().map_or(Lsn(0), |found| found.snapshot.header().lsn);
        seen.sort_unstable();
        for (first, last) in seen {
            if first > at.next() {
                self.missing.push((at.next(), Lsn(first.0 - 1)));
            }
            at = at.max(last);
        }
        self.last = self.last.max(at);
    }

    /// Calls `visit` for every record of the snapshots without a footer, with its file and the offset of its block.
    ///
    /// # Errors
    /// If a file cannot be read any more, and whatever `visit` returns.
    pub fn each_orphan(
        &self,
        mut visit: impl FnMut(&Path, u64, &Element, Seq) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for path in &self.without_footer {
            for (offset, records) in Snapshot::orphans(self.disk, path)? {
                records.iter().try_for_each(|(element, seq)| visit(path, offset, element, *seq))?;
            }
        }
        Ok(())
    }

    /// Calls `visit` for every batch that can be read, in the order of the log; repeated ones too.
    ///
    /// # Errors
    /// If a file cannot be read any more, and whatever `visit` returns.
    pub fn each_batch<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(&FoundSegment, &RawFrame, &Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        for segment in &self.segments {
            let bytes = disk::read(self.disk, &segment.path).map_err(StoreError::io("read", &segment.path))?;
            for frame in segment.frames(&bytes) {
                if let Ok(Frame::Batch(batch)) = log::decode(&segment.path, &frame) {
                    visit(segment, &frame, &batch)?;
                }
            }
        }
        Ok(())
    }
}

impl FoundSegment {
    /// The good frames among the segment's bytes, also behind bad ones.
    fn frames<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = RawFrame<'b>> {
        let (nonce, mut offset) = (self.nonce, self.start);
        std::iter::from_fn(move || {
            let start = match frame_at(bytes, nonce, offset) {
                Some(_) => offset,
                None => good_frame_from(bytes, nonce, offset)?,
            };
            let frame = frame_at(bytes, nonce, start)?;
            offset = usize::try_from(frame.end).expect("within memory");
            Some(frame)
        })
    }
}
