//! Reading a store's truth: the newest snapshot, and the log after it, folded.
//!
//! Recovery, `dump` and everything else that looks at a store goes through [`Replay::read`]. It changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Lsn;
use super::codec::{Batch, Frame};
use super::disk::Disk;
use super::error::StoreError;
use super::index::{Index, IndexPosition};
use super::log::{FrameVisit, LogEnd, Segment, leave_in_log, read_log};
use super::manifest::Manifest;
use super::progress::{Progress, Segments, Silent, Stage};
use super::snapshot::{self, Snapshot};
use super::store::FeedBatch;
use crate::crdt::{ApplyError, Base, EmptyBase, Entry, JoinId, ReplicaId, State};
use crate::planted::{self, Bug};

/// The log's directory in the store `dir`.
pub fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// The snapshots' directory in the store `dir`.
pub fn snapshot_dir(dir: &Path) -> PathBuf {
    dir.join("snapshots")
}

/// A batch on its way past, for those who want to see the log itself.
pub type OnBatch<'a> = &'a mut dyn FnMut(&Path, u64, &Batch);

/// What a fold does so that a state delta of any size takes little memory: its parts stay in the log, which is not to
/// change meanwhile, and one that changes more than so many records is laid over them.
#[derive(Clone)]
pub struct Thrift {
    /// The file system that the log is on.
    pub disk: Arc<dyn Disk>,
    /// See [`State::max_join_changes`].
    pub max_join_changes: usize,
}

/// Frames with fewer changes than this are fed to the index together with those after them.
const ENOUGH_CHANGES: usize = 1024;

/// The outcome of reading a store.
pub struct Replay {
    /// What the manifest says.
    pub manifest: Manifest,
    /// The newest snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The set: changes on top of the index if one was given and fits, else of the snapshot.
    pub state: State,
    /// Whether the index that was given is exactly what the log says at its position.
    pub index_fits: bool,
    /// The last LSN.
    pub lsn: Lsn,
    /// The checksum of the frame that ends there.
    pub checksum: u32,
    /// The store's own last replica id.
    pub own: Option<ReplicaId>,
    /// What there is of the log.
    pub log: LogEnd,
    /// Where state deltas lie in it, as far as it was folded.
    pub joins: JoinSpans,
    /// What the index that was given lacks, in steps that end where frames end; of a start without one, what the snapshot
    /// lacks.
    pub feed: Vec<FeedBatch>,
}

/// Where state deltas lie in the log: from the LSN of the first part to that of the commit. No snapshot may end in
/// between, as the commit could then not be folded.
#[derive(Clone, Debug, Default)]
pub struct JoinSpans {
    committed: Vec<(Lsn, Lsn)>,
    open: Option<(JoinId, Lsn)>,
}

impl JoinSpans {
    /// Takes note of the entry at `lsn`.
    pub fn see(&mut self, lsn: Lsn, entry: &Entry) {
        match entry {
            Entry::Op(_) | Entry::Answered(_) => {}
            Entry::JoinPart(part) if self.open.is_some_and(|(join, _)| join == part.join) => {}
            Entry::JoinPart(part) => self.open = Some((part.join, lsn)),
            Entry::JoinCommit(_) => self.committed.extend(self.open.take().map(|(_, first)| (first, lsn))),
        }
    }

    /// Whether a snapshot may end with the entry at `lsn`.
    pub fn may_end_at(&self, lsn: Lsn) -> bool {
        planted::is(Bug::SnapshotEndsInJoin)
            || self.committed.iter().all(|(first, commit)| lsn < *first || *commit <= lsn)
    }

    /// Forgets what a snapshot at `lsn` covers.
    pub fn forget(&mut self, lsn: Lsn) {
        self.committed.retain(|(_, commit)| *commit > lsn);
    }
}

impl Replay {
    /// Reads the store in `dir`. Entries up to the position of `index` change only the causal context.
    ///
    /// # Errors
    /// If anything that was durable is damaged or missing.
    pub fn read(
        disk: &dyn Disk,
        dir: &Path,
        manifest: Manifest,
        index: Option<&Arc<dyn Index>>,
        on_batch: Option<OnBatch>,
    ) -> Result<Self, StoreError> {
        Self::fold(disk, dir, manifest, Fold::new(index, on_batch), &mut Silent)
    }

    /// The same for a start, in little memory, for as long as the store's log is not truncated; and telling how far it is.
    ///
    /// # Errors
    /// As [`Replay::read`].
    pub fn read_thriftily(
        thrift: &Thrift,
        dir: &Path,
        manifest: Manifest,
        index: Option<&Arc<dyn Index>>,
        progress: &mut dyn Progress,
    ) -> Result<Self, StoreError> {
        let mut fold = Fold::new(index, None);
        fold.thrift = Some(thrift.clone());
        Self::fold(thrift.disk.as_ref(), dir, manifest, fold, progress)
    }

    /// Reads the store as it was when the entry at `last` was its last one; of the snapshot if that is later.
    ///
    /// # Errors
    /// As [`Replay::read`].
    pub fn read_until(disk: &dyn Disk, dir: &Path, manifest: Manifest, last: Lsn) -> Result<Self, StoreError> {
        let mut fold = Fold::new(None, None);
        fold.until = Some(last);
        Self::fold(disk, dir, manifest, fold, &mut Silent)
    }

    fn fold(
        disk: &dyn Disk,
        dir: &Path,
        manifest: Manifest,
        mut fold: Fold,
        progress: &mut dyn Progress,
    ) -> Result<Self, StoreError> {
        let snapshot = manifest.snapshot.map(|lsn| open_snapshot(disk, dir, lsn)).transpose()?.map(Arc::new);
        fold.start_at(snapshot.as_ref(), manifest.own)?;
        let until = fold.until;
        let mut segments = Segments::new(progress, Stage::ReadLog, manifest.segments.len());
        let mut log = read_log(disk, &log_dir(dir), &manifest.segments, manifest.clean.as_ref(), &mut |visit| {
            segments.pass(visit.path);
            fold.visit(visit)
        })?;
        if until.is_none() {
            fold.check_start(&log, dir)?;
        }
        fold.state.discard_staged();
        fold.feed_unfed();
        // What a segment says of the log before it is never more than the log gives: else the floor would be above it.
        // (A fold that was to end earlier has not come to what the later segments say.)
        let overclaims = |segment: &&Segment| until.is_none() && !segment.header.vv.is_within(&fold.state.vv);
        if let Some(segment) = log.segments.iter().find(overclaims) {
            return Err(StoreError::damaged(
                &segment.path,
                0,
                "this segment claims operations that the log does not have",
            ));
        }
        if let Some(oldest) = log.segments.first() {
            fold.state.floor.join(&oldest.header.vv);
        }
        log.clean &= log.torn_tail_bytes == 0;
        let Fold { state, at: lsn, checksum, own, index_fits, joins, feed, .. } = fold;
        Ok(Self { manifest, snapshot, state, index_fits, lsn, checksum, own, log, joins, feed })
    }

    /// Checks the store in `dir`, if there is one, in whatever format it is.
    ///
    /// # Errors
    /// As [`Replay::check`].
    pub fn check_store(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        Manifest::read(disk, dir)?.map_or(Ok(()), |manifest| Self::check(disk, dir, &manifest))
    }

    /// Checks every checksum of what [`Replay::read`] would read.
    ///
    /// # Errors
    /// If anything that was durable is damaged or missing.
    pub fn check(disk: &dyn Disk, dir: &Path, manifest: &Manifest) -> Result<(), StoreError> {
        Self::check_telling(disk, dir, manifest, &mut Silent)
    }

    /// The same, telling how far it is.
    ///
    /// # Errors
    /// As [`Replay::check`].
    pub fn check_telling(
        disk: &dyn Disk,
        dir: &Path,
        manifest: &Manifest,
        progress: &mut dyn Progress,
    ) -> Result<(), StoreError> {
        if let Some(lsn) = manifest.snapshot {
            open_snapshot(disk, dir, lsn)?.check_telling(progress)?;
        }
        let mut segments = Segments::new(progress, Stage::CheckLog, manifest.segments.len());
        let mut pass = |visit: FrameVisit| {
            segments.pass(visit.path);
            Ok(())
        };
        read_log(disk, &log_dir(dir), &manifest.segments, manifest.clean.as_ref(), &mut pass).map(drop)
    }

    /// The records that `state` is on top of, if there is no index.
    pub fn snapshot_base(&self) -> Arc<dyn Base + Send + Sync> {
        match &self.snapshot {
            Some(snapshot) => Arc::clone(snapshot) as Arc<dyn Base + Send + Sync>,
            None => Arc::new(EmptyBase),
        }
    }
}

/// The snapshot at `lsn`. Another one under its name would be taken for the newest, and the name for a leftover.
fn open_snapshot(disk: &dyn Disk, dir: &Path, lsn: Lsn) -> Result<Snapshot, StoreError> {
    let path = snapshot_dir(dir).join(snapshot::file_name(lsn));
    let snapshot = Snapshot::open(disk, &path)?;
    if snapshot.header().lsn != lsn {
        let what =
            format!("this is the snapshot at LSN {}, and not the one that the manifest names", snapshot.header().lsn);
        return Err(StoreError::damaged(&path, 0, what));
    }
    Ok(snapshot)
}

/// The fold on its way.
struct Fold<'a> {
    state: State,
    base: Arc<dyn Base + Send + Sync>,
    snapshot_lsn: Lsn,
    index: Option<IndexPosition>,
    index_fits: bool,
    at: Lsn,
    checksum: u32,
    own: Option<ReplicaId>,
    on_batch: Option<OnBatch<'a>>,
    joins: JoinSpans,
    feed: Vec<FeedBatch>,
    /// Up to where the next batch for the index goes so far.
    unfed: Option<IndexPosition>,
    /// What comes after this is kept for the index.
    feed_from: Option<Lsn>,
    /// Later entries are left out.
    until: Option<Lsn>,
    thrift: Option<Thrift>,
}

impl<'a> Fold<'a> {
    fn new(index: Option<&Arc<dyn Index>>, on_batch: Option<OnBatch<'a>>) -> Self {
        let base: Arc<dyn Base + Send + Sync> = match index {
            Some(index) => Arc::clone(index) as Arc<dyn Base + Send + Sync>,
            None => Arc::new(EmptyBase),
        };
        Self {
            state: State::default(),
            base,
            snapshot_lsn: Lsn(0),
            index: index.map(|index| index.position()),
            index_fits: false,
            at: Lsn(0),
            checksum: 0,
            own: None,
            on_batch,
            joins: JoinSpans::default(),
            feed: Vec::new(),
            unfed: None,
            feed_from: None,
            until: None,
            thrift: None,
        }
    }

    /// Starts with what the snapshot has, or with nothing.
    fn start_at(&mut self, snapshot: Option<&Arc<Snapshot>>, own: Option<ReplicaId>) -> Result<(), StoreError> {
        self.own = own;
        if let Some(snapshot) = snapshot {
            let header = snapshot.header();
            self.state = snapshot.state()?;
            (self.at, self.checksum, self.own) = (header.lsn, header.frame_checksum, header.own.or(own));
            if self.index.is_none() {
                self.base = Arc::clone(snapshot) as Arc<dyn Base + Send + Sync>;
            }
        }
        self.feed_from = self.index.map(|index| index.lsn).or(self.thrift.as_ref().map(|_| self.at));
        self.state.max_join_changes = self.thrift.as_ref().map(|thrift| thrift.max_join_changes);
        self.snapshot_lsn = self.at;
        self.index_fits = self.index == Some(IndexPosition { lsn: self.at, checksum: self.checksum });
        Ok(())
    }

    fn visit(&mut self, visit: FrameVisit) -> Result<(), StoreError> {
        // Segments that the snapshot covers are kept for peers; their frames have just been checked.
        let covered = visit.until.is_some_and(|until| until <= self.snapshot_lsn);
        if covered && self.on_batch.is_none() {
            return Ok(());
        }
        let Frame::Batch(batch) = visit.decode()? else { return Ok(()) };
        if let Some(on_batch) = &mut self.on_batch {
            on_batch(visit.path, visit.frame.offset, &batch);
        }
        if !covered {
            self.batch(&visit, batch)?;
        }
        Ok(())
    }

    fn batch(&mut self, visit: &FrameVisit, batch: Batch) -> Result<(), StoreError> {
        let damaged = |what: String| StoreError::damaged(visit.path, visit.frame.offset, what);
        if self.index == Some(IndexPosition { lsn: batch.last(), checksum: visit.frame.checksum }) {
            self.index_fits = true;
        }
        if batch.last() <= self.at || self.until.is_some_and(|until| until <= self.at) {
            return Ok(());
        }
        if batch.first > self.at.next() {
            return Err(damaged(format!("LSN {} is missing", self.at.next())));
        }
        for (lsn, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
            if self.until.is_some_and(|until| lsn > until) {
                // The checksum belongs to the frame's end.
                (self.at, self.checksum) = (Lsn(lsn.0 - 1), 0);
                return Ok(());
            }
            if lsn > self.at {
                self.entry(lsn, entry).map_err(|error| damaged(error.to_string()))?;
            }
        }
        (self.at, self.checksum, self.own) = (batch.last(), visit.frame.checksum, batch.own.or(self.own));
        if let Some(Thrift { disk, .. }) = &self.thrift {
            let span = (visit.frame.offset, visit.frame.end);
            leave_in_log(&mut self.state, disk, visit.path, visit.nonce, &[span]);
        }
        self.keep_for_index();
        Ok(())
    }

    /// Keeps the changes of the frame that ends here, if the index lacks them: its steps have to end where frames end, and
    /// one huge step would be as much memory in sled again (seen: 250 MB for 56,000 changes).
    fn keep_for_index(&mut self) {
        let position = IndexPosition { lsn: self.at, checksum: self.checksum };
        if self.feed_from.is_none_or(|from| self.at <= from) {
            return;
        }
        self.unfed = Some(position);
        if self.state.memtable.not_taken() >= ENOUGH_CHANGES {
            self.feed_unfed();
        }
    }

    fn feed_unfed(&mut self) {
        if let Some(position) = self.unfed.take() {
            self.feed.push(FeedBatch { changes: self.state.memtable.take_batch(), position });
        }
    }

    fn entry(&mut self, lsn: Lsn, entry: &Entry) -> Result<(), ApplyError> {
        self.joins.see(lsn, entry);
        if self.index.is_some_and(|index| lsn <= index.lsn) {
            self.state.apply_context(entry)
        } else {
            self.state.apply(self.base.as_ref(), entry)
        }
    }

    /// The log must begin no later than the snapshot ends.
    fn check_start(&self, log: &LogEnd, dir: &Path) -> Result<(), StoreError> {
        match (log.segments.first(), log.segments.last()) {
            (Some(first), _) if first.header.lsn > self.snapshot_lsn => {
                Err(StoreError::damaged(&first.path, 0, "the log before this segment is missing"))
            }
            (_, Some(last)) if last.header.lsn > self.at => {
                Err(StoreError::damaged(&last.path, 0, "the log ends before this segment"))
            }
            (None, _) if self.snapshot_lsn > Lsn(0) => {
                Err(StoreError::damaged(&log_dir(dir), 0, "there is a snapshot, but no log"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Dot, Incarnations, JoinCommit, JoinPart, NodeId, Op, OpBody, Seq, VersionVector};
    use crate::storage::codec;
    use crate::storage::disk::MemDisk;
    use crate::storage::log::{LogWriter, SegmentEnd, SegmentHeader};

    #[test]
    fn a_state_delta_is_remembered_until_a_snapshot_covers_it() {
        let join = JoinId(1);
        let mut spans = JoinSpans::default();
        spans.see(Lsn(5), &Entry::JoinPart(JoinPart { join, records: Vec::new(), live: Vec::new() }));
        let commit = JoinCommit { join, vv: VersionVector::new(), incarnations: Incarnations::default() };
        spans.see(Lsn(9), &Entry::JoinCommit(commit));
        for covered in [0, 8] {
            spans.forget(Lsn(covered));
            let may: Vec<u64> = (3..11).filter(|lsn| spans.may_end_at(Lsn(*lsn))).collect();
            assert_eq!(may, [3, 4, 9, 10]);
        }
        spans.forget(Lsn(9));
        assert!(spans.committed.is_empty());
    }

    fn header(counter: u64, previous: Option<SegmentEnd>, lsn: u64) -> SegmentHeader {
        let (nonce, vv) = (u128::from(counter), VersionVector::new());
        SegmentHeader { counter, nonce, previous, lsn: Lsn(lsn), vv, repeats: false }
    }

    fn can_be_read(disk: &MemDisk, segments: &[u64]) -> bool {
        let manifest = Manifest { segments: segments.to_vec(), ..Manifest::new(NodeId::new("n1").unwrap()) };
        Replay::read(disk, Path::new("/store"), manifest, None, None).is_ok()
    }

    /// Where the operations are of different replicas, these do not show that one is missing in between.
    #[test]
    fn a_log_with_a_gap_is_refused() {
        for (lsns, sound) in [([1, 2, 3], true), ([1, 3, 4], false), ([2, 3, 4], false)] {
            let disk = MemDisk::default();
            let mut log = LogWriter::create(&disk, &log_dir(Path::new("/store")), header(1, None, 0), None).unwrap();
            for lsn in lsns {
                let dot = Dot::new(ReplicaId::from_random(lsn.into()), Seq(1));
                let body = OpBody::Start { node: NodeId::new("n1").unwrap(), parent: None };
                let mut payload = Vec::new();
                codec::encode_batch(&mut payload, Lsn(lsn), None, &[Entry::Op(Op { dot, body })]);
                log.append(&payload).unwrap();
            }
            assert_eq!(can_be_read(&disk, &[1]), sound, "{lsns:?}");
        }
    }

    #[test]
    fn a_log_that_ends_before_its_last_segment_says_it_began_is_refused() {
        let (disk, log) = (MemDisk::default(), log_dir(Path::new("/store")));
        for (claimed, sound) in [(0, true), (1, false)] {
            let first = LogWriter::create(&disk, &log, header(1, None, 0), None).unwrap();
            LogWriter::create(&disk, &log, header(2, Some(first.segment().end()), claimed), None).unwrap();
            assert_eq!(can_be_read(&disk, &[1, 2]), sound);
        }
    }
}
