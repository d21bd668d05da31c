//! Compaction: a new snapshot from the old one and closed segments, from files alone.
//!
//! It needs nothing of the running store, so it can run beside it; the outcome is then installed by the store
//! ([`super::Store::install`]). Memory: the changes of the segments that are folded; of a state delta with very many,
//! its bitmaps.

use std::path::PathBuf;
use std::sync::Arc;

use super::Lsn;
use super::codec::Context;
use super::disk::Disk;
use super::error::StoreError;
use super::log::{Segment, leave_in_log};
use super::snapshot::{self, Snapshot, SnapshotHeader};
use crate::crdt::{Answers, Base, EmptyBase, ReplicaId, State};
use crate::planted::{self, Bug};

/// Everything that a compaction needs.
pub struct CompactionPlan {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) snapshot_dir: PathBuf,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// Closed segments that the snapshot does not cover, oldest first.
    pub(super) segments: Vec<Segment>,
    pub(super) nonce: u128,
    pub(super) own: Option<ReplicaId>,
    pub(super) max_join_changes: usize,
}

impl CompactionPlan {
    /// Writes the new snapshot.
    ///
    /// # Errors
    /// If something cannot be read or written. The store is as it was then.
    pub fn run(self) -> Result<Snapshot, StoreError> {
        self.run_in_steps(&mut || {})
    }

    /// The same, with a pause after every segment that was read and every MiB that was written and synced, for whoever
    /// wants the disk and the processor meanwhile.
    ///
    /// # Errors
    /// As [`CompactionPlan::run`].
    pub fn run_in_steps(self, pause: &mut dyn FnMut()) -> Result<Snapshot, StoreError> {
        let mut state = State::default();
        let (mut lsn, mut frame_checksum, mut own) = (Lsn(0), 0, self.own);
        let mut base: &dyn Base = &EmptyBase;
        if let Some(snapshot) = &self.snapshot {
            let header = snapshot.header();
            state = snapshot.state()?;
            (lsn, frame_checksum, own) = (header.lsn, header.frame_checksum, header.own);
            base = snapshot.as_ref();
        }
        state.max_join_changes = Some(self.max_join_changes);
        for segment in &self.segments {
            for (batch, checksum, span) in segment.batches_with_spans(self.disk.as_ref())? {
                let repeated = batch.last() <= lsn;
                for (at, entry) in (batch.first.0..).map(Lsn).zip(&batch.entries) {
                    if at <= lsn {
                        continue;
                    }
                    let damaged = |what: String| StoreError::damaged(&segment.path, 0, what);
                    if at > lsn.next() {
                        return Err(damaged(format!("LSN {} is missing", lsn.next())));
                    }
                    state.apply(base, entry).map_err(|error| damaged(error.to_string()))?;
                    lsn = at;
                }
                if !repeated {
                    (frame_checksum, own) = (checksum, batch.own.or(own));
                    leave_in_log(&mut state, &self.disk, &segment.path, segment.header.nonce, &[span]);
                }
            }
            // One list of all the changes would be copied again and again, as it grows.
            state.memtable.take_batch();
            pause();
        }
        let (vv, floor, incarnations) = (state.vv.clone(), state.floor.clone(), state.incarnations.clone());
        let header = SnapshotHeader { lsn, frame_checksum, own, context: Context { vv, floor, incarnations } };
        let records = state.records(base, &[]);
        let forgetful = Answers::default();
        let answers = if planted::is(Bug::AnswersNotInSnapshot) { &forgetful } else { &state.answers };
        snapshot::write_in_steps(self.disk.as_ref(), &self.snapshot_dir, &header, self.nonce, records, answers, pause)
    }
}
