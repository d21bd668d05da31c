//! Operations, and the rule by which one applies.

use thiserror::Error;

use super::element::Element;
use super::id::{Dot, NodeId, Seq, Tag};
use super::version_vector::VersionVector;
use crate::planted::{self, Bug};

/// Most tags that one [`OpBody::Remove`] names; a larger removal is several operations.
pub const MAX_REMOVE_TAGS: usize = 1024;

/// One operation: the unit that is logged, sent and applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// Its name.
    pub dot: Dot,
    /// What it does.
    pub body: OpBody,
}

/// What an operation does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpBody {
    /// The first operation of every incarnation, and of no number but 1.
    Start {
        /// The node that the incarnation ran as.
        node: NodeId,
        /// The last operation that its store held of the incarnation before it.
        parent: Option<Dot>,
    },
    /// Adds the element under the operation's own dot as its tag.
    Add(Element),
    /// Removes exactly these tags of the element: 1 to [`MAX_REMOVE_TAGS`].
    Remove {
        /// The element.
        element: Element,
        /// The tags that the remover saw.
        tags: Vec<Tag>,
    },
}

/// Why an operation can be no operation of anybody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OpError {
    /// Outside 1 to 2^48 - 1.
    #[error("sequence number out of range")]
    Seq,
    /// An incarnation's operation 1 is its Start, and only that.
    #[error("operation 1 and Start are the same thing")]
    StartSeq,
    /// A parent of its own replica id, or with no operation.
    #[error("impossible parent")]
    Parent,
    /// None, too many, or a tag that no add before it can have.
    #[error("impossible tags in a remove")]
    Tags,
}

/// Where an operation stands relative to a version vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Already held: skip it.
    Known,
    /// Applies now.
    Next,
    /// Something before it is missing: park it.
    Early,
}

impl Op {
    /// Checks what can be checked without knowing anything else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), OpError> {
        let in_range = |dot: &Dot| (1..=Seq::MAX.0).contains(&dot.seq.0);
        if !in_range(&self.dot) {
            return Err(OpError::Seq);
        }
        if (self.dot.seq == Seq(1)) != matches!(self.body, OpBody::Start { .. }) {
            return Err(OpError::StartSeq);
        }
        match &self.body {
            OpBody::Start { parent: Some(parent), .. } => {
                let possible = in_range(parent) && parent.replica != self.dot.replica;
                possible.then_some(()).ok_or(OpError::Parent)
            }
            OpBody::Start { parent: None, .. } | OpBody::Add(_) => Ok(()),
            OpBody::Remove { tags, .. } => {
                let possible = |tag: &Tag| {
                    in_range(tag) && tag.seq > Seq(1) && (tag.replica != self.dot.replica || tag.seq < self.dot.seq)
                };
                let fits = (1..=MAX_REMOVE_TAGS).contains(&tags.len()) && tags.iter().all(possible);
                fits.then_some(()).ok_or(OpError::Tags)
            }
        }
    }

    /// The rule by which operations apply (invariant 4): the dot is the next of its replica, and everything that the
    /// operation refers to is held. So a remove never applies before the add that it saw, and tombstones are not
    /// needed: a removed tag is absent and covered.
    pub fn judge(&self, vv: &VersionVector) -> Verdict {
        if vv.covers(self.dot) {
            return Verdict::Known;
        }
        let context_held = match &self.body {
            OpBody::Start { .. } if planted::is(Bug::StartBeforeParent) => true,
            OpBody::Start { parent, .. } => parent.is_none_or(|parent| vv.covers(parent)),
            OpBody::Add(_) => true,
            OpBody::Remove { .. } if planted::is(Bug::RemoveBeforeAdd) => true,
            OpBody::Remove { tags, .. } => tags.iter().all(|tag| vv.covers(*tag)),
        };
        if context_held && self.dot.seq == vv.get(self.dot.replica).next() { Verdict::Next } else { Verdict::Early }
    }

    /// About how many bytes it takes in a log or message.
    pub fn weight(&self) -> usize {
        match &self.body {
            OpBody::Start { node, .. } => 40 + node.as_str().len(),
            OpBody::Add(element) => 8 + element.as_bytes().len(),
            OpBody::Remove { element, tags } => 8 + element.as_bytes().len() + 20 * tags.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::id::ReplicaId;
    use super::*;

    const A: ReplicaId = ReplicaId::from_random(1);
    const B: ReplicaId = ReplicaId::from_random(2);

    fn remove(dot: Dot, tags: Vec<Tag>) -> Op {
        Op { dot, body: OpBody::Remove { element: Element::from_canonical(b"1"), tags } }
    }

    #[test]
    fn an_operation_weighs_what_is_in_it() {
        let weight = |body| Op { dot: Dot::new(A, Seq(2)), body }.weight();
        let element = Element::from_canonical(b"123");
        assert_eq!(weight(OpBody::Start { node: NodeId::new("n12").unwrap(), parent: None }), 40 + 3);
        assert_eq!(weight(OpBody::Add(element.clone())), 8 + 3);
        assert_eq!(weight(OpBody::Remove { element, tags: vec![Dot::new(B, Seq(2)); 4] }), 8 + 3 + 4 * 20);
    }

    #[test]
    fn a_remove_waits_for_the_add_that_it_saw() {
        let op = remove(Dot::new(B, Seq(2)), vec![Dot::new(A, Seq(2))]);
        let mut vv = VersionVector::from_iter([(B, Seq(1)), (A, Seq(1))]);
        assert_eq!(op.judge(&vv), Verdict::Early);
        vv.advance(Dot::new(A, Seq(2)));
        assert_eq!(op.judge(&vv), Verdict::Next);
        vv.advance(op.dot);
        assert_eq!(op.judge(&vv), Verdict::Known);
    }

    #[test]
    fn impossible_operations_are_told() {
        let add = |seq| Op { dot: Dot::new(A, Seq(seq)), body: OpBody::Add(Element::from_canonical(b"1")) };
        assert_eq!(add(0).check(), Err(OpError::Seq));
        assert_eq!(add(1).check(), Err(OpError::StartSeq));
        assert_eq!(add(2).check(), Ok(()));
        assert_eq!(add(1 << 48).check(), Err(OpError::Seq));
        let at = Dot::new(A, Seq(5));
        assert_eq!(remove(at, vec![]).check(), Err(OpError::Tags));
        assert_eq!(remove(at, vec![at]).check(), Err(OpError::Tags), "its own dot");
        assert_eq!(remove(at, vec![Dot::new(B, Seq(1))]).check(), Err(OpError::Tags), "a Start is no tag");
        assert_eq!(remove(at, vec![Dot::new(B, Seq(2)); MAX_REMOVE_TAGS + 1]).check(), Err(OpError::Tags));
        let start =
            |parent| Op { dot: Dot::new(A, Seq(1)), body: OpBody::Start { node: NodeId::new("n1").unwrap(), parent } };
        assert_eq!(start(Some(Dot::new(A, Seq(1)))).check(), Err(OpError::Parent));
        assert_eq!(start(Some(Dot::new(B, Seq(1)))).check(), Ok(()));
    }
}
