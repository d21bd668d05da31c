//! The newest operations, in memory: most peers lack only those.

use std::collections::VecDeque;

use crate::crdt::{Op, ReplicaId, Seq, VersionVector};
use crate::planted::{self, Bug};

/// The last operations of the log, in its order, without gaps.
#[derive(Default)]
pub struct Recent {
    /// What was held before the first of them.
    start: VersionVector,
    ops: VecDeque<Op>,
    bytes: usize,
}

impl Recent {
    /// To be called before something is applied, with what is held then.
    pub fn prepare(&mut self, vv: &VersionVector) {
        if self.ops.is_empty() {
            self.start = vv.clone();
        }
    }

    /// Takes in an operation that has just been applied, and forgets the oldest ones beyond `limit_bytes`.
    pub fn push(&mut self, op: &Op, limit_bytes: usize) {
        if limit_bytes == 0 {
            // What is here must be without gaps.
            return self.clear();
        }
        self.bytes += op.weight();
        self.ops.push_back(op.clone());
        while self.bytes > limit_bytes {
            let Some(oldest) = self.ops.pop_front() else { break };
            self.bytes -= oldest.weight();
            if !planted::is(Bug::GapInMemory) {
                self.start.advance(oldest.dot);
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
    }

    /// The operations that somebody who holds `vv` lacks, in the log's order; `None` if there may be others before.
    pub fn lacking<'a>(&'a self, vv: &'a VersionVector) -> Option<impl Iterator<Item = &'a Op>> {
        let whole = !self.ops.is_empty() && self.start.is_within(vv);
        whole.then(|| self.ops.iter().filter(|op| !vv.covers(op.dot)))
    }

    /// The operations of `replica` after `seq`, oldest first, as far as they are here.
    pub fn of_replica_after(&self, replica: ReplicaId, seq: Seq) -> Vec<&Op> {
        let newer = self.ops.iter().rev().take_while(|op| op.dot.replica != replica || op.dot.seq > seq);
        let mut ops: Vec<&Op> = newer.filter(|op| op.dot.replica == replica).collect();
        ops.reverse();
        ops
    }
}
