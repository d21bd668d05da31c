//! Which operations a peer lacks.

use super::{Active, OpCursor, Store};
use crate::crdt::{Entry, Op, VersionVector};
use crate::planted::{self, Bug};
use crate::storage::error::StoreError;
use crate::storage::log::Segment;

/// Operations that a peer lacks, in the log's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// The first of them.
    pub ops: Vec<Op>,
    /// Whether these are all.
    pub complete: bool,
}

impl Store {
    /// Whether the log still has every operation that somebody who holds `vv` lacks.
    pub fn can_serve(&self, vv: &VersionVector) -> bool {
        self.state.floor.is_within(vv) || planted::is(Bug::DeltaFromBelowTheFloor)
    }

    /// The operations that somebody who holds `vv` lacks, in an order in which they apply there, up to about
    /// `max_bytes`.
    ///
    /// # Errors
    /// If the log cannot be read.
    ///
    /// # Panics
    /// If the log does not have them all ([`Store::can_serve`]): a delta with gaps must never be sent.
    pub fn delta(&self, vv: &VersionVector, max_bytes: usize) -> Result<Delta, StoreError> {
        assert!(self.can_serve(vv), "a delta from below the floor");
        let mut delta = Delta { ops: Vec::new(), complete: true };
        let mut bytes = 0;
        let mut take = |op: &Op| {
            bytes += op.weight();
            let fits = bytes <= max_bytes || delta.ops.is_empty();
            if fits {
                delta.ops.push(op.clone());
            }
            fits
        };
        if let Some(mut ops) = self.recent.lacking(vv) {
            delta.complete = ops.all(&mut take);
            return Ok(delta);
        }
        let active = if let Active::Open(writer) = &self.active { Some(writer.segment()) } else { None };
        let segments: Vec<&Segment> = self.closed.iter().chain(active).collect();
        let start = segments.iter().rposition(|segment| segment.header.vv.is_within(vv)).unwrap_or(0);
        // A batch that a later segment repeats is met twice.
        let mut sent = vv.clone();
        for segment in &segments[start..] {
            for (batch, _) in segment.batches(self.disk.as_ref())? {
                for entry in &batch.entries {
                    let Entry::Op(op) = entry else { continue };
                    if sent.covers(op.dot) {
                        continue;
                    }
                    if !take(op) {
                        delta.complete = false;
                        return Ok(delta);
                    }
                    sent.raise(op.dot.replica, op.dot.seq);
                }
            }
        }
        Ok(delta)
    }

    /// Where the next operation that this process takes in will be.
    pub fn op_cursor(&self) -> OpCursor {
        self.recent.end()
    }

    /// The operations from a place on, also those that are not durable yet, in the log's order; `None` if they are too
    /// many to be at hand, or a state delta came in between.
    pub fn ops_since(&self, from: OpCursor) -> Option<impl DoubleEndedIterator<Item = &Op>> {
        self.recent.since(from)
    }
}
