//! Bringing the index up to what is durable.
//!
//! Every commit leaves a [`FeedBatch`]. Whoever owns the index's thread takes them ([`Store::take_feed`]) and applies
//! them in order; the store watches the index's position and frees the memtable's elder generation when the index has
//! all of it. A join with very many changes, or an index that could not be built, is dealt with by a rebuild from the
//! next snapshot instead.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Store;
use crate::crdt::{Base, Batch, MAX_INLINE_BYTES};
use crate::planted::{self, Bug};
use crate::storage::index::{Index, IndexPosition, IndexSize, is_outgrown};
use crate::storage::snapshot::Snapshot;
use crate::storage::{Counts, Lsn};

/// An index that lacks no more than so many operations counts as idle.
const IDLE_LAG: u64 = 16_384;

/// The changes of one commit; at a start, of several.
#[derive(Clone, Debug)]
pub struct FeedBatch {
    /// The memtable has them, too.
    pub changes: Batch,
    /// Where the index stands when it has them.
    pub position: IndexPosition,
}

/// What there is of an index.
#[derive(Default)]
pub(super) struct IndexState {
    index: Option<Arc<dyn Index>>,
    queue: VecDeque<FeedBatch>,
    /// The last LSN in the memtable's elder generation.
    elder_end: Lsn,
    /// The index is missing, or must not be fed: it will be rebuilt from a snapshot at this LSN or later.
    rebuild_from: Option<Lsn>,
    /// The memtable's size when that was found.
    bytes_at_rebuild: usize,
    rebuilding: bool,
    snapshot_is_new: bool,
    /// How much is in the snapshot that is read while there is no index.
    below: Counts,
    /// For each state delta that is laid over the memtable: an LSN at which its commit was in the log.
    joined: VecDeque<Lsn>,
    /// Where the index would be found, at least, if the process were killed now.
    noted: Lsn,
    /// How many changes have been taken for the index since it was built; `None` if another process built it.
    changes: Option<u64>,
    /// The present index is sound: it goes on being used if it cannot be replaced.
    sound: bool,
}

impl IndexState {
    /// An index that is there: `built` by this process, or found.
    pub(super) fn with(index: Arc<dyn Index>, built: bool) -> Self {
        let noted = index.position().lsn;
        Self { index: Some(index), noted, changes: built.then_some(0), ..Self::default() }
    }

    /// None, over a snapshot with `below` in it: it is built from the next snapshot at `from` or later.
    pub(super) fn missing(from: Lsn, below: Counts) -> Self {
        Self { rebuild_from: Some(from), below, ..Self::default() }
    }

    /// None yet: it is built from this snapshot, now; `bytes` is the memtable's size.
    pub(super) fn to_be_built(snapshot: &Snapshot, bytes: usize) -> Self {
        let missing = Self::missing(snapshot.header().lsn, snapshot.counts());
        Self { snapshot_is_new: true, bytes_at_rebuild: bytes, ..missing }
    }

    /// How much is in the snapshot that is read while there is no index.
    pub(super) fn below(&self) -> Counts {
        self.below
    }

    /// Up to where a snapshot may go. One that is ahead of the index makes the index worthless at the next start, as
    /// the log is then read from the snapshot on.
    pub(super) fn snapshot_limit(&self) -> Option<Lsn> {
        (self.index.is_some() && self.rebuild_from.is_none()).then_some(self.noted)
    }

    pub(super) fn current(&self) -> Option<&Arc<dyn Index>> {
        self.index.as_ref()
    }

    /// Takes note that `count` state deltas have been laid over the memtable by `at`. They are never fed: a new index has
    /// to be wanted, too.
    pub(super) fn laid(&mut self, count: usize, at: Lsn) {
        self.joined.resize(count, at);
    }

    /// How many of the state deltas laid over the memtable are in what is at `at`.
    fn joined_by(&mut self, at: Lsn) -> usize {
        let count = self.joined.partition_point(|joined| *joined <= at);
        self.joined.drain(..count);
        count
    }

    pub(super) fn push(&mut self, batch: FeedBatch) {
        self.queue.push_back(batch);
    }
}

impl Store {
    /// Hands what has just been made durable to the index.
    pub(super) fn feed_fresh(&mut self) {
        let changes = self.state.memtable.take_batch();
        let position = IndexPosition { lsn: self.lsn, checksum: self.checksum };
        if self.state.memtable.joined() > self.index.joined.len() {
            self.index.laid(self.state.memtable.joined(), self.lsn);
            self.want_new_index(false);
        }
        self.index.push(FeedBatch { changes, position });
        self.maintain();
    }

    /// Whether there are batches that the index can be given.
    pub fn has_feed(&self) -> bool {
        self.index.rebuild_from.is_none() && self.index.index.is_some() && !self.index.queue.is_empty()
    }

    /// The batches that the index has not been given yet, oldest first; none while it has to be rebuilt.
    pub fn take_feed(&mut self) -> Vec<FeedBatch> {
        if self.index.rebuild_from.is_some() || self.index.index.is_none() {
            return Vec::new();
        }
        let mut batches: Vec<FeedBatch> = self.index.queue.drain(..).collect();
        if let Some(changes) = &mut self.index.changes {
            *changes += batches.iter().map(|batch| batch.changes.len() as u64).sum::<u64>();
        }
        if planted::is(Bug::IndexPositionAhead)
            && let [first, .., last] = batches.as_mut_slice()
        {
            first.position = last.position;
        }
        batches
    }

    /// The snapshot that a new index is to be built from, if one is due. Whoever builds it reports back with
    /// [`Store::swap_index`] or [`Store::rebuild_failed`].
    pub fn take_rebuild(&mut self) -> Option<Arc<Snapshot>> {
        let from = self.index.rebuild_from?;
        let snapshot = self.snapshot.as_ref()?;
        if self.index.rebuilding || !self.index.snapshot_is_new || snapshot.header().lsn < from {
            return None;
        }
        (self.index.rebuilding, self.index.snapshot_is_new) = (true, false);
        Some(Arc::clone(snapshot))
    }

    /// Goes on with a new index.
    pub fn swap_index(&mut self, index: Arc<dyn Index>) {
        let at = index.position().lsn;
        self.base = Arc::clone(&index) as Arc<dyn Base + Send + Sync>;
        self.index.noted = at;
        self.index.queue.retain(|batch| batch.position.lsn > at);
        self.index.index = Some(index);
        (self.index.rebuilding, self.index.changes) = (false, Some(0));
        // Another state delta may have come meanwhile.
        self.index.rebuild_from.take_if(|from| *from <= at);
        self.state.memtable.drop_joined(self.index.joined_by(at));
        self.maintain();
    }

    /// From here on the index is not fed: another is built from the next snapshot. If that cannot be done, a `sound` one
    /// stays in use.
    fn want_new_index(&mut self, sound: bool) {
        self.index.sound = sound;
        self.index.rebuild_from = Some(self.lsn);
        self.index.bytes_at_rebuild = self.state.memtable.bytes();
        self.snapshot_wanted = Some(self.lsn);
    }

    /// Takes note of how many bytes of disk the index takes. If they are much more than its records need, it is replaced:
    /// sled gives nothing back.
    pub fn index_measured(&mut self, on_disk: u64) {
        let Some(index) = &self.index.index else { return };
        // A state delta that is arriving holds up snapshots.
        if self.index.rebuild_from.is_some() || self.state.staged().is_some() {
            return;
        }
        let (records, idle) = (index.counts().tags, self.index_lag() <= IDLE_LAG);
        let record_bytes = self.snapshot.as_ref().map_or(MAX_INLINE_BYTES as u64, |snapshot| snapshot.record_bytes());
        let size = IndexSize { on_disk, records, record_bytes, changes: self.index.changes, idle };
        if is_outgrown(&size, self.limits.index_slack_bytes) {
            tracing::info!("the index takes {on_disk} bytes for {records} records, and is built anew");
            self.want_new_index(true);
        }
    }

    /// Takes note of where the index would be found if the process were killed now.
    pub fn index_noted(&mut self, lsn: Lsn) {
        self.index.noted = lsn;
    }

    /// Goes on with a new snapshot. Without an index it becomes the base, and the memtable keeps what came after it.
    pub(super) fn base_on(&mut self, snapshot: &Arc<Snapshot>) {
        self.index.snapshot_is_new = true;
        // An index that is being built from an older one needs what came after that.
        if self.index.index.is_none() && !self.index.rebuilding {
            self.read_from(snapshot);
        }
    }

    fn read_from(&mut self, snapshot: &Arc<Snapshot>) {
        let at = snapshot.header().lsn;
        self.index.below = snapshot.counts();
        self.index.queue.retain(|batch| batch.position.lsn > at);
        self.state.memtable.drop_joined(self.index.joined_by(at));
        self.state.memtable.keep_only(self.index.queue.iter().map(|batch| Arc::clone(&batch.changes)));
        self.base = Arc::clone(snapshot) as Arc<dyn Base + Send + Sync>;
    }

    /// Takes note that no new index could be built. Without a sound one it is tried again after the next snapshot.
    pub fn rebuild_failed(&mut self) {
        self.index.rebuilding = false;
        self.keep_sound_index();
        if let (None, Some(snapshot)) = (&self.index.index, self.snapshot.clone()) {
            self.read_from(&snapshot);
        }
    }

    /// Goes on with the index that was to be replaced, if there is nothing wrong with it but its size: what waits for
    /// another one must not wait for ever.
    pub(super) fn keep_sound_index(&mut self) {
        if self.index.sound && !self.index.rebuilding {
            (self.index.rebuild_from, self.index.changes) = (None, Some(0));
        }
    }

    /// Frees memory that the index's progress has made superfluous.
    pub fn maintain(&mut self) {
        let Some(index) = &self.index.index else { return };
        let memtable = &mut self.state.memtable;
        if memtable.has_elder() && index.position().lsn >= self.index.elder_end {
            memtable.drop_elder();
        }
        if !memtable.has_elder() && !memtable.is_empty() && self.pending.is_empty() {
            memtable.age();
            self.index.elder_end = self.lsn;
        }
    }

    /// Whether the index has fallen so far behind that nothing more should be added until it has caught up.
    pub fn is_saturated(&self) -> bool {
        self.memtable_room() == Some(0)
    }

    /// Whether there is not much room left until the store is saturated.
    pub fn is_nearly_saturated(&self) -> bool {
        self.memtable_room().is_some_and(|room| room <= self.limits.memtable_bytes / 8)
    }

    /// How many bytes the memtable may still grow by; `None`: as many as it takes.
    fn memtable_room(&self) -> Option<usize> {
        // While it is being rebuilt the index does not catch up step by step, so there is room for what comes meanwhile.
        let rebuilding = self.index.rebuild_from.is_some();
        let limit = if rebuilding {
            self.index.bytes_at_rebuild + 4 * self.limits.memtable_bytes
        } else {
            self.limits.memtable_bytes
        };
        // While there is none and none is being built, nothing would make the memtable smaller.
        let to_come = self.index.index.is_some() || self.index.rebuilding;
        to_come.then(|| limit.saturating_sub(self.state.memtable.bytes()))
    }

    /// By how many LSNs the index is behind.
    pub fn index_lag(&self) -> u64 {
        self.index.index.as_ref().map_or(self.lsn.0, |index| self.lsn.0.saturating_sub(index.position().lsn.0))
    }
}
