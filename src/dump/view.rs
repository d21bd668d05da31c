//! A store as of one instant.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pinned::{MAX_TRIES, PinnedDisk};
use super::summary::LogStatistics;
use crate::crdt::{Base, Element, Entry, NodeId, Records, ReplicaId, Tag};
use crate::storage::codec::Frame;
use crate::storage::disk::{self, RealDisk};
use crate::storage::envelope::FORMAT_VERSION;
use crate::storage::index::IndexPosition;
use crate::storage::log::{self, Segment, SegmentBytes, segment};
use crate::storage::manifest::Manifest;
use crate::storage::replay::{Replay, log_dir, snapshot_dir};
use crate::storage::snapshot;
use crate::storage::{Counts, Lsn, StoreError};

/// Something in the log.
#[derive(Clone, Copy, Debug)]
pub enum LogItem<'a> {
    /// An entry.
    Entry {
        /// Its place in the log.
        lsn: Lsn,
        /// The entry.
        entry: &'a Entry,
        /// Whether an earlier frame had it already: a recovery repeats the last batch.
        repeated: bool,
    },
    /// The store was closed in good order, its index at this place (LSN 0: without an index).
    Clean {
        /// Where the index stood.
        index: IndexPosition,
        /// Whether it counts: not if the process died before the manifest said so too.
        counts: bool,
    },
}

/// A store as of one instant. See [`super`].
pub struct View {
    /// The store's directory.
    pub dir: PathBuf,
    /// The version that its manifest is written in.
    pub format_version: u32,
    /// All that was read.
    pub replay: Replay,
    /// What there is of the log in figures.
    pub(super) statistics: LogStatistics,
    base: Arc<dyn Base + Send + Sync>,
    disk: PinnedDisk,
}

impl View {
    /// Reads the store in `dir`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Newer`], or what the file system says.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let mut tries = 1;
        loop {
            let before = manifest_bytes(dir)?;
            let outcome = Self::pin(dir, &before);
            // The manifest is replaced before any file that it named is deleted, and before a new segment counts.
            if tries == MAX_TRIES || manifest_bytes(dir)? == before {
                return outcome.and_then(|disk| Self::read(dir, &before, disk));
            }
            tries += 1;
        }
    }

    /// Opens the files that belong to a store with this manifest, and may belong to it without being named.
    fn pin(dir: &Path, manifest: &[u8]) -> Result<PinnedDisk, StoreError> {
        let manifest = Manifest::decode(manifest, &Manifest::path(dir))?;
        let snapshot = manifest.snapshot.map(snapshot::file_name);
        let oldest = manifest.segments.first().copied().unwrap_or(0);
        let wanted = |name: &str| {
            Some(name) == snapshot.as_deref() || segment::parse_file_name(name).is_some_and(|number| number >= oldest)
        };
        PinnedDisk::new(&[log_dir(dir), snapshot_dir(dir)], wanted)
    }

    fn read(dir: &Path, manifest: &[u8], disk: PinnedDisk) -> Result<Self, StoreError> {
        let path = Manifest::path(dir);
        let format_version = Manifest::format_version(manifest, &path, FORMAT_VERSION)?;
        let mut statistics = LogStatistics::default();
        let mut on_batch = |_: &Path, _: u64, batch: &_| statistics.batch(batch);
        let replay = Replay::read(&disk, dir, Manifest::decode(manifest, &path)?, None, Some(&mut on_batch))?;
        let base = replay.snapshot_base();
        Ok(Self { dir: dir.to_path_buf(), format_version, replay, statistics, base, disk })
    }

    /// The live records in key order, from the key `from` on.
    pub fn records(&self, from: &[u8]) -> Records<'_> {
        self.replay.state.records(self.base.as_ref(), from)
    }

    /// The live tags of an element.
    ///
    /// # Errors
    /// If the snapshot is damaged.
    pub fn tags(&self, element: &Element) -> Result<Vec<Tag>, StoreError> {
        Ok(self.replay.state.tags(self.base.as_ref(), element)?)
    }

    /// How many elements and tags there are, by reading them all.
    ///
    /// # Errors
    /// If the snapshot is damaged.
    pub fn counts(&self) -> Result<Counts, StoreError> {
        let (mut counts, mut last) = (Counts::default(), Vec::new());
        for record in self.records(&[]) {
            let key = record?.key;
            counts.tags += 1;
            if key.prefix() != last {
                counts.elements += 1;
                last = key.prefix().to_vec();
            }
        }
        Ok(counts)
    }

    /// The node that an incarnation ran as, if its `Start` is held.
    pub fn node_of(&self, replica: ReplicaId) -> Option<&NodeId> {
        self.replay.state.incarnations.get(replica).map(|incarnation| &incarnation.node)
    }

    /// Walks through the log, frame by frame, repeated ones too: calls `visit` with the segment, the offset of the
    /// frame, and what is in it.
    ///
    /// # Errors
    /// If the log cannot be read, and whatever `visit` returns.
    pub fn each_entry<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(&Segment, u64, LogItem) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut last = self.replay.log.segments.first().map_or(Lsn(0), |oldest| oldest.header.lsn);
        for segment in &self.replay.log.segments {
            let bytes = disk::read(&self.disk, &segment.path).map_err(StoreError::io("read", &segment.path))?;
            let bytes = SegmentBytes::new(segment.path.clone(), bytes)?;
            for frame in bytes.frames() {
                match log::decode(&segment.path, &frame)? {
                    Frame::Clean(index) => {
                        let counts = frame.end <= segment.length;
                        visit(segment, frame.offset, LogItem::Clean { index, counts })?;
                    }
                    Frame::Batch(batch) => {
                        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
                            visit(segment, frame.offset, LogItem::Entry { lsn, entry, repeated: lsn <= last })?;
                        }
                        last = last.max(batch.last());
                    }
                }
            }
        }
        Ok(())
    }
}

fn manifest_bytes(dir: &Path) -> Result<Vec<u8>, StoreError> {
    let path = Manifest::path(dir);
    match disk::read(&RealDisk, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StoreError::damaged(&path, 0, "it is missing, although there is a log"))
        }
        bytes => bytes.map_err(StoreError::io("read", &path)),
    }
}
