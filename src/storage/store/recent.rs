//! The newest operations, in memory: most peers lack only those.

use std::collections::VecDeque;

use crate::crdt::{Op, VersionVector};
use crate::planted::{self, Bug};

/// A place in the order in which this process has taken in operations, its own and others'. It means nothing to anybody
/// else, and nothing to the next process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct OpCursor(u64);

impl OpCursor {
    /// The place after so many operations more.
    #[must_use]
    pub const fn after(self, ops: usize) -> Self {
        Self(self.0 + ops as u64)
    }
}

/// The last operations of the log, in its order, without gaps.
#[derive(Default)]
pub struct Recent {
    /// What was held before the first of them.
    start: VersionVector,
    ops: VecDeque<Op>,
    bytes: usize,
    /// Where the next operation will be.
    end: OpCursor,
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
        self.end.0 += 1;
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

    /// Forgets everything; nobody's place is before what comes now.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
        self.end.0 += 1;
    }

    /// Where the next operation will be.
    pub fn end(&self) -> OpCursor {
        self.end
    }

    /// The operations from a place on, in the log's order; `None` if they are not all here.
    pub fn since(&self, from: OpCursor) -> Option<impl DoubleEndedIterator<Item = &Op>> {
        let count = usize::try_from(self.end.0.checked_sub(from.0)?).ok()?;
        let first = self.ops.len().checked_sub(count)?;
        Some(self.ops.range(first..))
    }

    /// The operations that somebody who holds `vv` lacks, in the log's order; `None` if there may be others before.
    pub fn lacking<'a>(&'a self, vv: &'a VersionVector) -> Option<impl Iterator<Item = &'a Op>> {
        let whole = !self.ops.is_empty() && self.start.is_within(vv);
        whole.then(|| self.ops.iter().filter(|op| !vv.covers(op.dot)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Dot, Element, OpBody, ReplicaId, Seq};

    fn op(seq: u64) -> Op {
        let body = OpBody::Add(Element::from_canonical(b"1"));
        Op { dot: Dot::new(ReplicaId::from_random(1), Seq(seq)), body }
    }

    fn seqs<'a>(ops: impl Iterator<Item = &'a Op>) -> Vec<u64> {
        ops.map(|op| op.dot.seq.0).collect()
    }

    #[test]
    fn as_many_operations_are_kept_as_fit() {
        let (mut recent, begin) = (Recent::default(), OpCursor::default());
        recent.prepare(&VersionVector::new());
        let limit = 3 * op(1).weight();
        for seq in 1..=3 {
            recent.push(&op(seq), limit);
        }
        assert_eq!(seqs(recent.since(begin).unwrap()), [1, 2, 3], "just as much as there may be");
        for seq in 4..=6 {
            recent.push(&op(seq), limit);
            assert_eq!(recent.since(begin.after(3)).map(seqs), Some((4..=seq).collect()));
        }
        assert!(recent.since(begin.after(2)).is_none(), "the third is gone");
        assert!(recent.since(begin.after(7)).is_none(), "nobody can be there yet");
        let held = |seq| [(ReplicaId::from_random(1), Seq(seq))].into_iter().collect::<VersionVector>();
        assert_eq!(recent.lacking(&held(5)).map(seqs), Some(vec![6]));
        assert_eq!(recent.lacking(&held(3)).map(seqs), Some(vec![4, 5, 6]));
        assert!(recent.lacking(&held(2)).is_none(), "he lacks one that is gone");
    }

    #[test]
    fn nobodys_place_is_before_what_comes_after_a_gap() {
        let mut recent = Recent::default();
        recent.prepare(&VersionVector::new());
        recent.push(&op(1), 1000);
        let here = recent.end();
        assert_eq!(recent.since(here).map(seqs), Some(vec![]));
        recent.clear();
        assert!(recent.since(here).is_none());
        assert!(recent.lacking(&VersionVector::new()).is_none());
        let here = recent.end();
        recent.push(&op(2), 0);
        assert!(recent.since(here).is_none(), "nothing is kept");
    }
}
