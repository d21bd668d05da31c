//! Every operation that was ever made, and what the set is after some of them: the definition, written down once more
//! and stupidly, with nothing of how a replica works.
//!
//! A replica that holds the operations that a vector says has exactly the pairs (tag, element) that were added by one of
//! them and are not among those that one of them removed. What was made and never became durable stays in the book, and
//! no vector ever says it again.
//!
//! ```
//! use orset::crdt::{Dot, Element, Op, OpBody, ReplicaId, Seq, VersionVector};
//! use orset::sim::book::Book;
//! let (a, apple) = (ReplicaId::from_random(1), Element::from_canonical(b"1"));
//! let mut book = Book::default();
//! book.make(Op { dot: Dot::new(a, Seq(1)), body: OpBody::Start { node: orset::crdt::NodeId::new("n1").unwrap(), parent: None } });
//! book.make(Op { dot: Dot::new(a, Seq(2)), body: OpBody::Add(apple.clone()) });
//! book.make(Op { dot: Dot::new(a, Seq(3)), body: OpBody::Remove { element: apple, tags: vec![Dot::new(a, Seq(2))] } });
//! let live = |seq| book.live(&VersionVector::from_iter([(a, Seq(seq))])).len();
//! assert_eq!([live(1), live(2), live(3)], [0, 1, 0]);
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Rule;
use crate::crdt::{Dot, Element, Op, OpBody, ReplicaId, Seq, Tag, VersionVector};

/// See the module's text.
#[derive(Default)]
pub struct Book {
    /// By incarnation: its operations 1, 2, 3 …
    ops: BTreeMap<ReplicaId, Vec<Op>>,
    /// Every incarnation that has begun, whether or not it made anything.
    begun: BTreeSet<ReplicaId>,
}

impl Book {
    /// Takes note of a process start.
    ///
    /// # Panics
    /// If its incarnation is not its own (invariant 5).
    pub fn begin(&mut self, incarnation: ReplicaId) {
        let fresh = self.begun.insert(incarnation);
        Rule::Dots.must(fresh, || format!("a process runs as {incarnation}, as one before it did"));
    }

    /// Takes note of an operation.
    ///
    /// # Panics
    /// If it is not the next of its incarnation (invariant 5).
    pub fn make(&mut self, op: Op) {
        let ops = self.ops.entry(op.dot.replica).or_default();
        let next = Seq(ops.len() as u64 + 1);
        Rule::Dots.must(op.dot.seq == next, || format!("{} was made, and {next} is the next of that replica", op.dot));
        ops.push(op);
    }

    /// The operation of a dot, if it was ever made.
    pub fn get(&self, dot: Dot) -> Option<&Op> {
        let place = usize::try_from(dot.seq.0.checked_sub(1)?).ok()?;
        self.ops.get(&dot.replica)?.get(place)
    }

    /// The operations of an incarnation after `after`, up to `until`.
    ///
    /// # Panics
    /// If they were not all made (invariant 5).
    pub fn between(&self, replica: ReplicaId, after: Seq, until: Seq) -> &[Op] {
        let ops = self.ops.get(&replica).map_or(&[][..], Vec::as_slice);
        let place = |seq: Seq| usize::try_from(seq.0).unwrap_or(usize::MAX);
        ops.get(place(after)..place(until)).unwrap_or_else(|| {
            Rule::Dots.broken(&format!("somebody holds {replica} up to {until}, and only {} were made", ops.len()))
        })
    }

    /// How far an incarnation has come.
    pub fn last(&self, replica: ReplicaId) -> Seq {
        Seq(self.ops.get(&replica).map_or(0, |ops| ops.len() as u64))
    }

    /// The pairs that are in the set of whoever holds `vv`: the definition.
    pub fn live(&self, vv: &VersionVector) -> BTreeMap<Tag, &Element> {
        let mut added = BTreeMap::new();
        let mut removed: BTreeSet<Tag> = BTreeSet::new();
        for (replica, seq) in vv.iter() {
            for op in self.between(replica, Seq(0), seq) {
                match &op.body {
                    OpBody::Start { .. } => {}
                    OpBody::Add(element) => drop(added.insert(op.dot, element)),
                    OpBody::Remove { tags, .. } => removed.extend(tags),
                }
            }
        }
        added.retain(|tag, _| !removed.contains(tag));
        added
    }

    /// What somebody stands for who says `digest`: each Start in it stands for its parent.
    pub fn expand(&self, digest: &VersionVector) -> VersionVector {
        let mut vv = digest.clone();
        let mut todo: Vec<ReplicaId> = digest.iter().map(|(replica, _)| replica).collect();
        while let Some(replica) = todo.pop() {
            if let Some(OpBody::Start { parent: Some(parent), .. }) =
                self.get(Dot::new(replica, Seq(1))).map(|op| &op.body)
                && vv.raise(parent.replica, parent.seq)
            {
                todo.push(parent.replica);
            }
        }
        vv
    }
}
