//! When a new snapshot is due, what it is made of, and what its installation makes superfluous.
//!
//! The snapshot itself is written elsewhere ([`CompactionPlan::run`]), from files alone. How much log is kept is a
//! size, and no peer, alive or dead, holds it up.

use std::sync::Arc;

use super::{Active, Store};
use crate::planted::{self, Bug};
use crate::storage::Lsn;
use crate::storage::compaction::CompactionPlan;
use crate::storage::error::StoreError;
use crate::storage::log::Segment;
use crate::storage::replay::snapshot_dir;
use crate::storage::snapshot::Snapshot;

impl Store {
    /// How many bytes of log this store wants to keep.
    fn retention_bytes(&self) -> u64 {
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes());
        snapshot.clamp(self.limits.min_retention_bytes, self.limits.max_retention_bytes)
    }

    /// A compaction, if one is due and none is under way. Whoever runs it reports back with [`Store::install`] or
    /// [`Store::compaction_failed`].
    ///
    /// # Errors
    /// If the segment that is written to had to be closed and could not be; the store is poisoned then.
    pub fn plan_compaction(&mut self) -> Result<Option<CompactionPlan>, StoreError> {
        // A state delta that is arriving must not be cut in two: its parts count only once its commit is there.
        self.drop_overdue()?;
        if self.compacting || self.poisoned || self.state.staged().is_some() || !self.pending.is_empty() {
            return Ok(None);
        }
        if let Some(wanted) = self.snapshot_wanted
            && let Active::Open(writer) = &self.active
            && self.lsn > writer.segment().header.lsn
            && !(0..self.closed.len()).any(|n| self.end_lsn(n) >= wanted && self.joins.may_end_at(self.end_lsn(n)))
        {
            let vv = self.state.vv.clone();
            let outcome = self.open_segment(vv);
            self.poisoned = outcome.is_err();
            outcome?;
        }
        let covered = self.snapshot.as_ref().map_or(Lsn(0), |snapshot| snapshot.header().lsn);
        // Processes that live too briefly for their index to come along must not let the log grow for ever.
        let uncovered = self.closed_bytes(self.first_uncovered(covered)..self.closed.len());
        let patient = uncovered < 2 * self.retention_bytes();
        let limit = self.index.snapshot_limit().filter(|_| patient).unwrap_or(self.lsn);
        // The segments from the first with news to the last that ends within the limit.
        let (first, mut end) = (self.first_uncovered(covered), self.first_uncovered(limit));
        while end > first && !self.joins.may_end_at(self.end_lsn(end - 1)) {
            end -= 1;
        }
        let segments = self.closed[first..end.max(first)].to_vec();
        let bytes = self.closed_bytes(first..end.max(first));
        let reaches = |wanted| end > first && self.end_lsn(end - 1) >= wanted;
        let due =
            self.snapshot_wanted.is_some_and(reaches) || bytes >= self.retention_bytes() / 2 || segments.len() >= 64;
        if !due || segments.is_empty() {
            return Ok(None);
        }
        self.compacting = true;
        Ok(Some(CompactionPlan {
            disk: Arc::clone(&self.disk),
            snapshot_dir: snapshot_dir(&self.dir),
            snapshot: self.snapshot.clone(),
            segments,
            nonce: (self.entropy)(),
            own: self.own,
            max_join_changes: self.limits.max_join_changes,
        }))
    }

    /// The first closed segment with entries after `lsn`.
    fn first_uncovered(&self, lsn: Lsn) -> usize {
        let mut segments = 0..self.closed.len();
        segments.find(|n| self.end_lsn(*n) > lsn).unwrap_or(self.closed.len())
    }

    fn closed_bytes(&self, segments: std::ops::Range<usize>) -> u64 {
        self.closed[segments].iter().map(|segment| segment.length).sum()
    }

    /// The last LSN in closed segment `n`.
    fn end_lsn(&self, n: usize) -> Lsn {
        let active = if let Active::Open(writer) = &self.active { writer.segment().header.lsn } else { self.lsn };
        self.closed.get(n + 1).map_or(active, |next| next.header.lsn)
    }

    /// Takes note that a compaction did not work out; the store is as it was.
    pub fn compaction_failed(&mut self) {
        self.compacting = false;
        self.keep_sound_index();
    }

    /// Whether the compaction that is under way should not take its time: somebody waits for the snapshot, or the log
    /// grows faster than snapshots are made.
    pub fn compaction_is_urgent(&self) -> bool {
        let covered = self.snapshot.as_ref().map_or(Lsn(0), |snapshot| snapshot.header().lsn);
        let uncovered = self.closed_bytes(self.first_uncovered(covered)..self.closed.len());
        self.compacting && (self.snapshot_wanted.is_some() || uncovered >= self.retention_bytes())
    }

    /// Asks for a snapshot of what there is now, at the next opportunity.
    pub fn want_snapshot(&mut self) {
        let now = Lsn(self.lsn.0 + self.pending.len() as u64);
        self.snapshot_wanted.get_or_insert(now);
    }

    /// Makes a compaction's outcome the store's snapshot, and deletes what is not needed any more.
    ///
    /// # Errors
    /// If the manifest cannot be written; the store is poisoned then.
    pub fn install(&mut self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.compacting = false;
        let old = self.snapshot.replace(Arc::new(snapshot));
        let new_lsn = self.snapshot.as_ref().map(|snapshot| snapshot.header().lsn).expect("just installed");
        self.joins.forget(new_lsn);
        self.snapshot_wanted.take_if(|wanted| *wanted <= new_lsn);
        let dropped = self.forget_segments(new_lsn);
        self.manifest.snapshot = Some(new_lsn);
        if planted::is(Bug::ManifestAfterDeletion) {
            dropped
                .iter()
                .try_for_each(|segment| self.disk.remove(&segment.path))
                .map_err(StoreError::io("remove", &self.dir))?;
        }
        self.write_manifest()?;
        self.remove_segments(&dropped);
        if let Some(old) = old {
            let _ = self.disk.remove(old.path());
        }
        if let Some(snapshot) = self.snapshot.clone() {
            self.base_on(&snapshot);
        }
        Ok(())
    }

    /// Drops what [`Store::install`] had to leave because a state delta laid over the records was still read from it.
    fn drop_overdue(&mut self) -> Result<(), StoreError> {
        if self.state.memtable.joined() > 0 || self.poisoned || !std::mem::take(&mut self.overdue) {
            return Ok(());
        }
        let Some(lsn) = self.snapshot.as_ref().map(|snapshot| snapshot.header().lsn) else { return Ok(()) };
        let dropped = self.forget_segments(lsn);
        self.write_manifest()?;
        self.remove_segments(&dropped);
        Ok(())
    }

    /// Takes the segments out of the log that the snapshot at `lsn` makes superfluous; the manifest is still to be written.
    fn forget_segments(&mut self, lsn: Lsn) -> Vec<Segment> {
        self.overdue = self.state.memtable.joined() > 0;
        let dropped = if self.overdue { 0 } else { self.droppable_segments(lsn) };
        let dropped: Vec<Segment> = self.closed.drain(..dropped).collect();
        self.manifest.segments.retain(|counter| dropped.iter().all(|segment| segment.header.counter != *counter));
        let oldest = match (self.closed.first(), &self.active) {
            (Some(segment), _) => segment.header.vv.clone(),
            (None, Active::Open(writer)) => writer.segment().header.vv.clone(),
            (None, Active::NotYet(vv)) => vv.clone(),
        };
        if !planted::is(Bug::TruncationKeepsFloor) {
            self.state.floor.join(&oldest);
        }
        dropped
    }

    fn remove_segments(&self, dropped: &[Segment]) {
        // What is deleted late, or not at all because the process dies here, is removed at the next start.
        for segment in dropped {
            let _ = self.disk.remove(&segment.path);
        }
    }

    /// How many of the oldest closed segments the snapshot at `lsn` makes superfluous, beyond what retention keeps.
    fn droppable_segments(&self, lsn: Lsn) -> usize {
        let uncovered = self.first_uncovered(lsn);
        if planted::is(Bug::SegmentDroppedEarly) {
            return (uncovered + 1).min(self.closed.len());
        }
        let active = if let Active::Open(writer) = &self.active { writer.segment().length } else { 0 };
        let mut kept = active + self.closed[uncovered..].iter().map(|segment| segment.length).sum::<u64>();
        let mut first = uncovered;
        while first > 0 && kept + self.closed[first - 1].length <= self.retention_bytes() {
            first -= 1;
            kept += self.closed[first].length;
        }
        // The log must not become empty: the next segment has to know its predecessor.
        if matches!(self.active, Active::NotYet(_)) { first.min(self.closed.len().saturating_sub(1)) } else { first }
    }
}
