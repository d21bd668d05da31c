//! Operations that came early: something before them is missing.
//!
//! They are kept, up to a bound, and judged anew whenever the version vector has changed: what is covered by now is
//! dropped, what is next is applied. What is missing is pulled, so nothing depends on what is parked here.

use std::collections::BTreeMap;

use crate::crdt::{Dot, Op, Verdict, VersionVector};

/// Most parked operations.
const MAX_OPS: usize = 16_384;
/// Most bytes of parked operations.
const MAX_BYTES: usize = 4 << 20;

/// See the module's text.
#[derive(Default)]
pub struct Parking {
    ops: BTreeMap<Dot, Op>,
    bytes: usize,
}

impl Parking {
    /// Keeps an operation, unless there is no room for it: then it comes again with a pull.
    pub fn park(&mut self, op: Op) {
        if self.ops.len() < MAX_OPS && self.bytes + op.weight() <= MAX_BYTES && !self.ops.contains_key(&op.dot) {
            self.bytes += op.weight();
            self.ops.insert(op.dot, op);
        }
    }

    /// Takes out one operation that applies now; drops those that are held by now.
    pub fn take_next(&mut self, vv: &VersionVector) -> Option<Op> {
        loop {
            let mut found = None;
            let mut from = None;
            // One look per replica: only the first parked operation of each can be next.
            while let Some(op) = self.first_after(from) {
                from = Some(Dot::new(op.dot.replica, crate::crdt::Seq(u64::MAX)));
                match op.judge(vv) {
                    Verdict::Early => {}
                    verdict => {
                        found = Some((op.dot, verdict));
                        break;
                    }
                }
            }
            let (dot, verdict) = found?;
            let op = self.ops.remove(&dot)?;
            self.bytes -= op.weight();
            if verdict == Verdict::Next {
                return Some(op);
            }
        }
    }

    fn first_after(&self, dot: Option<Dot>) -> Option<&Op> {
        match dot {
            None => self.ops.values().next(),
            Some(dot) => self.ops.range(dot..).map(|(_, op)| op).next(),
        }
    }

    /// Gives up on everything.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
    }
}
